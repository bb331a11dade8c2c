from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.conditions import (
    ABSENT,
    RELATIONS,
    Answer,
    broken_conditions,
    value_at,
    wanted,
    wanted_value,
)
from ops_worker.core.model import Condition

pytestmark = pytest.mark.unit

DOCUMENT = {
    "a": {"b": [10, 20]},
    "": 1,
    "x/y": 2,
    "m~n": 3,
    "0": 4,
    "t": True,
    "n": None,
    "s": "ok",
    "big": 10**400,
}


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("", DOCUMENT),
        ("/a/b/1", 20),
        ("/", 1),
        ("/x~1y", 2),
        ("/m~0n", 3),
        ("/0", 4),
        ("/a/b/2", ABSENT),
        ("/a/b/-", ABSENT),
        ("/a/b/01", ABSENT),
        ("/a/b/\u0661", ABSENT),
        ("/a/b/" + "9" * 400, ABSENT),
        ("/s/0", ABSENT),
        ("/none", ABSENT),
        ("/n/x", ABSENT),
    ],
)
def test_value_at(pointer: str, expected: object) -> None:
    """A pointer is followed as RFC 6901 says. A value that does not exist is absent."""
    assert value_at(DOCUMENT, pointer) == expected


@pytest.mark.parametrize(
    ("pointer", "relation", "value", "reason"),
    [
        ("/s", "equals", "ok", ""),
        ("/s", "equals", "up", '/s is "ok", wants "up"'),
        ("/t", "equals", 1, "/t is true, wants 1"),
        ("/0", "equals", 4.0, ""),
        ("/n", "equals", "x", '/n is null, wants "x"'),
        ("/none", "equals", "ok", '/none is absent, wants "ok"'),
        ("/s", "differs", "ok", '/s is "ok", wants anything but "ok"'),
        ("/s", "differs", "bad", ""),
        ("/none", "differs", "bad", '/none is absent, wants anything but "bad"'),
        ("/s", "one_of", ("ok", "fine"), ""),
        ("/s", "one_of", ("a", "b"), '/s is "ok", wants one of ["a", "b"]'),
        ("/a/b/0", "at_most", 10, ""),
        ("/a/b/0", "at_most", 9.5, "/a/b/0 is 10, wants at most 9.5"),
        ("/a/b/0", "at_least", 10, ""),
        ("/a/b/0", "at_least", 11, "/a/b/0 is 10, wants at least 11"),
        ("/t", "at_most", 5, "/t is true, wants at most 5"),
        ("/s", "at_least", 5, '/s is "ok", wants at least 5'),
        ("/big", "at_most", 5, "/big is a very large number, wants at most 5"),
        ("/a", "equals", "x" * 80, '/a is {"b": [10, 20]}, wants "' + "x" * 58 + "…"),
    ],
)
def test_broken(pointer: str, relation: str, value: object, reason: str) -> None:
    """A broken condition names the value and the expected value. An absent value breaks it."""
    conditions = [Condition(pointer, relation, value)]
    reasons = [text for _, text in broken_conditions(Answer(DOCUMENT), conditions)]
    assert reasons == [reason] * bool(reason)


def test_every_broken_condition() -> None:
    """Each broken condition is returned, also after a condition that holds."""
    wants = [Condition("/s", "equals", text) for text in ("up", "ok", "fine")]
    broken = broken_conditions(Answer(DOCUMENT), wants)
    assert [condition for condition, _ in broken] == [wants[0], wants[2]]


MORE = {
    "list": [1, 2, 3],
    "none": [],
    "object": {"a": 1},
    "blank": "",
    "text": "version 1.24.3\nready",
    "null": None,
    "number": 0,
    "lone": "a\ud800",
}
HEADERS = {"content-type": "application/json", "set-cookie": "session=hush", "x-empty": ""}


@pytest.mark.parametrize(
    ("pointer", "relation", "value", "reason"),
    [
        ("/text", "contains", "1.24", ""),
        ("/text", "contains", "1.25",
         '/text is "version 1.24.3\\nready", wants a text that contains "1.25"'),
        ("/list", "contains", "1", '/list is [1, 2, 3], wants a text that contains "1"'),
        ("/text", "not_contains", "error", ""),
        ("/text", "not_contains", "ready",
         '/text is "version 1.24.3\\nready", wants a text that does not contain "ready"'),
        ("/gone", "not_contains", "x", '/gone is absent, wants a text that does not contain "x"'),
        ("/text", "matches", r"\b1\.2\d\.", ""),
        ("/text", "matches", "^ready",
         '/text is "version 1.24.3\\nready", wants a text that matches "^ready"'),
        ("/text", "matches", "(?m)^ready$", ""),
        ("/number", "matches", "0", '/number is 0, wants a text that matches "0"'),
        ("/lone", "matches", "^a", ""),
        ("/text", "not_matches", "(?i)ERROR", ""),
        ("/text", "not_matches", "(?i)READY",
         '/text is "version 1.24.3\\nready", wants a text that does not match "(?i)READY"'),
        ("/gone", "not_matches", "x", '/gone is absent, wants a text that does not match "x"'),
        ("/gone", "absent", True, ""),
        ("/null", "absent", True, "/null is null, wants absent"),
        ("/null", "absent", False, ""),
        ("/gone", "absent", False, "/gone is absent, wants present"),
        ("/null", "null", True, ""),
        ("/number", "null", True, "/number is 0, wants null"),
        ("/gone", "null", True, "/gone is absent, wants null"),
        ("/number", "null", False, ""),
        ("/null", "null", False, "/null is null, wants anything but null"),
        ("/gone", "null", False, "/gone is absent, wants anything but null"),
        ("/none", "empty", True, ""),
        ("/blank", "empty", True, ""),
        ("/list", "empty", True, "/list is [1, 2, 3], wants empty"),
        ("/null", "empty", True, "/null is null, wants empty"),
        ("/number", "empty", True, "/number is 0, wants empty"),
        ("/object", "empty", False, ""),
        ("/blank", "empty", False, '/blank is "", wants not empty'),
        ("/gone", "empty", False, "/gone is absent, wants not empty"),
        ("/list", "length_equals", 3, ""),
        ("/list", "length_equals", 2, "/list is [1, 2, 3] of length 3, wants a length of 2"),
        ("/text", "length_at_most", 20, ""),
        ("/object", "length_at_most", 0,
         '/object is {"a": 1} of length 1, wants a length of at most 0'),
        ("/list", "length_at_least", 3, ""),
        ("/none", "length_at_least", 1, "/none is [] of length 0, wants a length of at least 1"),
        ("/number", "length_at_least", 0, "/number is 0, wants a length of at least 0"),
        ("/gone", "length_at_most", 9, "/gone is absent, wants a length of at most 9"),
    ],
)  # fmt: skip
def test_more_relations(pointer: str, relation: str, value: object, reason: str) -> None:
    """Conditions check text, absence, null, emptiness and length. A wrong type breaks them."""
    broken = broken_conditions(Answer(MORE), [Condition(pointer, relation, value)])
    assert [text for _, text in broken] == [reason] * bool(reason)


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (Condition(None, "equals", "OK"), ""),
        (Condition(None, "equals", "ok"), 'body is "OK", wants "ok"'),
        (Condition(None, "empty", value=True), 'body is "OK", wants empty'),
        (Condition(None, "length_at_least", 3),
         'body is "OK" of length 2, wants a length of at least 3'),
        (Condition(None, "contains", "json", "content-type"), ""),
        (Condition(None, "equals", "x", "content-type"),
         'header content-type is "application/json", wants "x"'),
        (Condition(None, "equals", "x", "server"), 'header server is absent, wants "x"'),
        (Condition(None, "absent", value=True, header="server"), ""),
        (Condition(None, "empty", value=True, header="x-empty"), ""),
        (Condition(None, "equals", "x", "set-cookie"),
         'header set-cookie is another value (not shown), wants "x"'),
        (Condition("/a", "equals", 1), "/a is not JSON, wants 1"),
        (Condition("/a", "absent", value=True), "/a is not JSON, wants absent"),
        (Condition("", "null", value=False), "body is not JSON, wants anything but null"),
    ],
)  # fmt: skip
def test_other_parts(condition: Condition, reason: str) -> None:
    """A condition may check the text of the body or a header.

    If the body is not JSON, every condition with a pointer is broken.
    """
    broken = broken_conditions(Answer(text="OK", headers=HEADERS), [condition])
    assert [text for _, text in broken] == [reason] * bool(reason)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (Condition(None, "contains", "OK"), 'body is a text that contains "OK"'),
        (Condition(None, "absent", value=False, header="etag"), "header etag is present"),
        (Condition("/items", "length_at_least", 1), "/items has a length of at least 1"),
    ],
)
def test_wanted(condition: Condition, words: str) -> None:
    """Each condition has a text for the rule of a service."""
    assert wanted([condition]) == [words]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)
VALUES: tuple[Any, ...] = (1, "x", True, 0, ["x"], "(a")


@given(JSON, st.text(alphabet="/~01a"), st.sampled_from(sorted(RELATIONS)), st.integers(0, 2))
def test_broken_is_total(document: Any, pointer: str, relation: str, part: int) -> None:
    """No comparison of any answer with any valid value raises an exception."""
    answer = Answer(json.loads(json.dumps(document)), str(document), {"x": str(document)})
    for value in VALUES:
        if not RELATIONS[relation].accepts(value) or value == "(a":
            continue
        condition = (
            Condition(pointer, relation, value),
            Condition(None, relation, value),
            Condition(None, relation, value, "x"),
        )[part]
        for _, reason in broken_conditions(answer, [condition]):
            assert ", wants " in reason


@pytest.mark.parametrize(
    ("relation", "accepted", "refused"),
    [
        ("equals", ["", "x", 1, 1.5, True], [None, [], {}]),
        ("one_of", [["a", 1, True]], ["a", [], [[]], None]),
        ("at_most", [1, -1.5, 10**400], [True, "1", float("nan"), float("inf")]),
        ("contains", ["a"], ["", 1, None]),
        ("matches", ["a", "(", "x" * 1000], ["", 1, "x" * 1001]),
        ("absent", [True, False], [1, "true", None]),
        ("length_at_least", [0, 10**400], [-1, True, 1.0, "1"]),
    ],
)
def test_operands(relation: str, accepted: list[Any], refused: list[Any]) -> None:
    """Each relation accepts only values that it can compare with."""
    accepts = RELATIONS[relation].accepts
    assert [accepts(value) for value in accepted] == [True] * len(accepted)
    assert [accepts(value) for value in refused] == [False] * len(refused)


LONG = "é" * 58
"""Has 60 characters as JSON, with its quotes."""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (LONG, f'"{LONG}"'),
        (LONG + "é", f'"{LONG}…'),
        (2**256 - 1, f"{str(2**256 - 1)[:59]}…"),
        (2**256, "a very large number"),
        (-(2**256), "a very large number"),
        (True, "true"),
        (None, "null"),
    ],
)
def test_shown(value: Any, text: str) -> None:
    """A value is shown as JSON in at most 60 characters, non-ASCII ones included.

    The longest integers are not shown.
    """
    assert wanted([Condition("/a", "equals", value)]) == [f"/a is {text}"]


@pytest.mark.parametrize("relation", ["matches", "not_matches"])
def test_too_long_to_match(relation: str) -> None:
    """A text that is too long for an expression breaks the condition, even if it matches."""
    condition = Condition(None, relation, ".{0,900}b")
    text = "a" * 100_000
    assert bool(broken_conditions(Answer(text=text[:100]), [condition])) is (relation == "matches")
    ((_, reason),) = broken_conditions(Answer(text=text), [condition])
    assert reason.startswith("body is longer than 6")
    assert " bytes, which is too long for the expression, wants a text that " in reason


def test_deeply_nested() -> None:
    """A value that Python cannot write as JSON has a text, too."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    ((_, reason),) = broken_conditions(Answer(value), [Condition("", "equals", "x")])
    assert reason == 'body is a deeply nested value, wants "x"'


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/0", 10),
        ("/2", 12),
        ("/3", ABSENT),
        ("/00", ABSENT),
        ("/01", ABSENT),
        ("/-", ABSENT),
        ("/-1", ABSENT),
        ("/²", ABSENT),
        ("/٣", ABSENT),
        ("/1e0", ABSENT),
        ("/" + "9" * 5000, ABSENT),
    ],
)
def test_index(pointer: str, value: Any) -> None:
    """An index has ASCII digits without leading zeros (RFC 6901), and is within the array."""
    assert value_at([10, 11, 12], pointer) == value


@pytest.mark.parametrize("relation", RELATIONS)
def test_wanted_value(relation: str) -> None:
    """Every relation has a text that says which values it accepts."""
    text = wanted_value(relation)
    numbers = {"a number": 1, "true or false": True, "a whole number of at least 0": 0}
    value: object = numbers.get(text, "x")
    if text.startswith("a list"):
        value = ["x"]
    assert RELATIONS[relation].accepts(value)
