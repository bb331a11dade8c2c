"""Conditions on a service's answer: a part of it, a relation and a value.

A part is the value at a JSON pointer (RFC 6901), a response header, or the text of the body.
"""

from __future__ import annotations

import json
import math
import operator
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.expressions import MAX_EXPRESSION, TooLongError, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ops_worker.core.model import Condition

ABSENT: Any = type("Absent", (), {"__repr__": lambda _: "absent"})()
"""The value of a pointer that matches nothing, and of a header that the answer does not have."""
NOT_JSON: Any = type("NotJson", (), {"__repr__": lambda _: "not JSON"})()
"""The document of a body that is not JSON. It breaks every condition on a pointer."""
SECRET_HEADERS = frozenset(
    {"authentication-info", "proxy-authentication-info", "set-cookie", "set-cookie2"}
)
"""Response headers whose values are never shown: they hold sessions and credentials."""

_MAX_SHOWN = 60
"""The most characters of a value in a reason."""
_MAX_SHOWN_BITS = 256
"""The most bits of an integer in a reason: Python refuses to print very long integers."""
_MAX_INDEX_DIGITS = 9
"""The most digits of an array index: no answer has more than 1 MiB, so no array is longer."""


class Answer(NamedTuple):
    """The parts of an answer that conditions check: the JSON of the body, its text, and headers.

    The names of headers are in lower case.
    """

    document: Any = NOT_JSON
    text: str = ""
    headers: Mapping[str, str] = MappingProxyType({})


class Relation(NamedTuple):
    """How an actual value is compared with the value of a condition.

    - ``words`` precede the value of the condition. For a flag, they are the phrases for true
      and false, instead of the value.
    - ``holds`` takes the actual value and the value of the condition. It returns whether the
      relation holds.
    - ``accepts`` returns whether the catalogue may have this value in a condition.
    - ``applies`` returns whether the actual value can be compared. If not, the condition is broken.
    - ``verb`` precedes the words in a text that has no actual value.
    """

    words: str | tuple[str, str]
    holds: Callable[[Any, Any], bool]
    accepts: Callable[[Any], bool]
    applies: Callable[[Any], bool]
    verb: str = "is"


def _is_number(value: Any) -> bool:
    """Return whether a value is a number. JSON's true and false are not numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    # An integer may be too large for a float.
    return _is_number(value) and (isinstance(value, int) or math.isfinite(value))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _are_scalars(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_scalar, value))


def _is_part(value: Any) -> bool:
    """Return whether a value is a text to search for. Every text contains the empty text."""
    return isinstance(value, str) and bool(value)


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_EXPRESSION


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_there(value: Any) -> bool:
    return value is not ABSENT


def _is_any(_: Any) -> bool:
    """Accept every value, also an absent one."""
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _has_length(value: Any) -> bool:
    return isinstance(value, (str, list, dict))


def _equal(actual: Any, expected: Any) -> bool:
    """Compare as JSON does: true differs from 1, and 1 equals 1.0."""
    same_kind = isinstance(actual, bool) is isinstance(expected, bool)
    return bool(same_kind and actual == expected)


def _differs(actual: Any, expected: Any) -> bool:
    return not _equal(actual, expected)


def _one_of(actual: Any, choices: Any) -> bool:
    return any(_equal(actual, choice) for choice in choices)


def _lacks(actual: str, part: str) -> bool:
    return part not in actual


def _matches_not(actual: str, expression: str) -> bool:
    return not matches(actual, expression)


def _absent(actual: Any, flag: bool) -> bool:  # noqa: FBT001 - the value of a condition
    return (actual is ABSENT) is flag


def _null(actual: Any, flag: bool) -> bool:  # noqa: FBT001 - the value of a condition
    return (actual is None) is flag


def _empty(actual: Any, flag: bool) -> bool:  # noqa: FBT001 - the value of a condition
    return (not actual) is flag


def _length_equals(actual: Any, length: int) -> bool:
    return len(actual) == length


def _length_at_most(actual: Any, length: int) -> bool:
    return len(actual) <= length


def _length_at_least(actual: Any, length: int) -> bool:
    return len(actual) >= length


RELATIONS = {
    "equals": Relation("", _equal, _is_scalar, _is_there),
    "differs": Relation("anything but ", _differs, _is_scalar, _is_there),
    "one_of": Relation("one of ", _one_of, _are_scalars, _is_there),
    "at_most": Relation("at most ", operator.le, _is_finite, _is_number),
    "at_least": Relation("at least ", operator.ge, _is_finite, _is_number),
    "contains": Relation("a text that contains ", operator.contains, _is_part, _is_text),
    "not_contains": Relation("a text that does not contain ", _lacks, _is_part, _is_text),
    "matches": Relation("a text that matches ", matches, _is_expression, _is_text),
    "not_matches": Relation("a text that does not match ", _matches_not, _is_expression, _is_text),
    "absent": Relation(("absent", "present"), _absent, _is_flag, _is_any),
    "null": Relation(("null", "anything but null"), _null, _is_flag, _is_there),
    "empty": Relation(("empty", "not empty"), _empty, _is_flag, _has_length),
    "length_equals": Relation("a length of ", _length_equals, _is_length, _has_length, "has"),
    "length_at_most": Relation(
        "a length of at most ", _length_at_most, _is_length, _has_length, "has"
    ),
    "length_at_least": Relation(
        "a length of at least ", _length_at_least, _is_length, _has_length, "has"
    ),
}
"""The relations, by their key in a catalogue."""
_WANTS: Mapping[Callable[[Any], bool], str] = {
    _is_scalar: "a string, a number, true or false",
    _are_scalars: "a list of strings, numbers, true and false",
    _is_finite: "a number",
    _is_part: "a string that is not empty",
    _is_expression: f"a string of 1 to {MAX_EXPRESSION} characters",
    _is_flag: "true or false",
    _is_length: "a whole number of at least 0",
}
"""The accepted values in words, by ``Relation.accepts``."""


def wanted_value(relation: str) -> str:
    """Return which values a relation accepts in the catalogue, for error messages."""
    return _WANTS[RELATIONS[relation].accepts]


EXPRESSIONS = frozenset(key for key in RELATIONS if RELATIONS[key].accepts is _is_expression)
"""The relations that need the extra ``re2``."""


def value_at(document: Any, pointer: str) -> Any:
    """Return the value that a JSON pointer names, or ABSENT."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and key in document:
            document = document[key]
        elif isinstance(document, list) and _is_index(key) and int(key) < len(document):
            document = document[int(key)]
        else:
            return ABSENT
    return document


def broken_conditions(
    answer: Answer, conditions: Iterable[Condition]
) -> list[tuple[Condition, str]]:
    """Return every broken condition, and why: the actual value and what the condition wants.

    An absent value breaks every condition except ``absent``. A text that is too long for the
    expression of a condition breaks this condition.
    """
    broken = []
    for condition in conditions:
        actual = _part(answer, condition)
        relation = RELATIONS[condition.relation]
        is_comparable = actual is not NOT_JSON and relation.applies(actual)
        try:
            if is_comparable and relation.holds(actual, condition.value):
                continue
            shown = _shown_part(actual, condition)
        except TooLongError as error:
            shown = str(error)
        is_now = f"{_named(condition)} is {shown}"
        broken.append((condition, f"{is_now}, wants {_expected(condition)}"))
    return broken


def wanted(conditions: Iterable[Condition]) -> list[str]:
    """Return every condition in words."""
    return [
        f"{_named(condition)} {RELATIONS[condition.relation].verb} {_expected(condition)}"
        for condition in conditions
    ]


def _named(condition: Condition) -> str:
    """Return the part that a condition is about. The empty pointer is the whole body."""
    return condition.subject or "body"


def _part(answer: Answer, condition: Condition) -> Any:
    """Return the part of an answer that a condition is about."""
    if condition.header:
        return answer.headers.get(condition.header, ABSENT)
    if condition.pointer is None:
        return answer.text
    if answer.document is NOT_JSON:
        return NOT_JSON
    return value_at(answer.document, condition.pointer)


def _expected(condition: Condition) -> str:
    words = RELATIONS[condition.relation].words
    if isinstance(words, tuple):
        return words[0] if condition.value else words[1]
    return f"{words}{_shown(condition.value)}"


def _is_index(key: str) -> bool:
    """Return whether a key is an array index: digits without a leading zero (RFC 6901)."""
    if not (key.isascii() and key.isdigit() and len(key) <= _MAX_INDEX_DIGITS):
        return False
    return key == "0" or key[0] != "0"


def _shown_part(actual: Any, condition: Condition) -> str:
    """Return the actual value for a reason, with its length if the condition is about lengths."""
    if condition.header in SECRET_HEADERS and actual is not ABSENT:
        return "another value (not shown)"
    text = _shown(actual)
    is_about_length = RELATIONS[condition.relation].accepts is _is_length
    return f"{text} of length {len(actual)}" if is_about_length and _has_length(actual) else text


def _shown(value: Any) -> str:
    if value is ABSENT or value is NOT_JSON:
        return repr(value)
    # A bool is an int of one bit.
    if isinstance(value, int) and value.bit_length() > _MAX_SHOWN_BITS:
        return "a very large number"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "a deeply nested value"
    if len(text) > _MAX_SHOWN:
        text = f"{text[: _MAX_SHOWN - 1]}…"
    return text
