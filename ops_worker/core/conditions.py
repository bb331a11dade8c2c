"""Conditions on a service's answer: a JSON pointer (RFC 6901), a relation and a value."""

from __future__ import annotations

import json
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ops_worker.core.model import Condition

ABSENT: Any = type("Absent", (), {"__repr__": lambda _: "absent"})()
"""The value of a pointer that matches nothing."""

_MAX_SHOWN = 60
"""Characters of a value in a reason."""
_MAX_SHOWN_BITS = 256
"""Bits of an integer in a reason: Python refuses to print very long ones."""
_MAX_INDEX_DIGITS = 9
"""Digits of an array index: no answer of 1 MiB has a longer array."""


class Relation(NamedTuple):
    """How a value is compared: in words, by which function, and whether only numbers fit."""

    words: str
    holds: Callable[[Any, Any], bool]
    numeric: bool = False


def _equal(actual: Any, expected: Any) -> bool:
    """Compare as JSON does: true differs from 1, and 1 equals 1.0."""
    same_kind = isinstance(actual, bool) is isinstance(expected, bool)
    return bool(same_kind and actual == expected)


def _differs(actual: Any, expected: Any) -> bool:
    return not _equal(actual, expected)


def _one_of(actual: Any, choices: Any) -> bool:
    return any(_equal(actual, choice) for choice in choices)


RELATIONS = {
    "equals": Relation("", _equal),
    "differs": Relation("anything but ", _differs),
    "one_of": Relation("one of ", _one_of),
    "at_most": Relation("at most ", operator.le, numeric=True),
    "at_least": Relation("at least ", operator.ge, numeric=True),
}
"""The relations, by their key in a catalogue."""


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
    document: Any, conditions: Iterable[Condition]
) -> list[tuple[Condition, str]]:
    """Return every broken condition, and why: the actual value and what the condition wants.

    An absent value breaks every condition.
    """
    broken = []
    for condition in conditions:
        actual = value_at(document, condition.pointer)
        if not _holds(actual, condition):
            wants = f"wants {_expected(condition)}"
            broken.append((condition, f"{condition.pointer} is {_shown(actual)}, {wants}"))
    return broken


def wanted(conditions: Iterable[Condition]) -> list[str]:
    """Return every condition in words."""
    return [f"{condition.pointer} is {_expected(condition)}" for condition in conditions]


def _expected(condition: Condition) -> str:
    return f"{RELATIONS[condition.relation].words}{_shown(condition.value)}"


def _holds(actual: Any, condition: Condition) -> bool:
    relation = RELATIONS[condition.relation]
    if relation.numeric:
        comparable = isinstance(actual, (int, float)) and not isinstance(actual, bool)
    else:
        comparable = actual is not ABSENT
    return comparable and relation.holds(actual, condition.value)


def _is_index(key: str) -> bool:
    """Return whether a key is an array index: digits without a leading zero (RFC 6901)."""
    if not (key.isascii() and key.isdigit() and len(key) <= _MAX_INDEX_DIGITS):
        return False
    return key == "0" or key[0] != "0"


def _shown(value: Any) -> str:
    if value is ABSENT:
        return repr(value)
    # A bool is an int of one bit.
    if isinstance(value, int) and value.bit_length() > _MAX_SHOWN_BITS:
        return "a very large number"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > _MAX_SHOWN:
        text = f"{text[: _MAX_SHOWN - 1]}…"
    return text
