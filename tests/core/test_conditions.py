from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.conditions import ABSENT, RELATIONS, broken_conditions, value_at, wanted
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
    """A pointer is followed as RFC 6901 says, and what is not there is absent."""
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
    """A condition that does not hold says what was found, and what was wanted; what is absent fits none."""
    conditions = [Condition(pointer, relation, value)]
    reasons = [text for _, text in broken_conditions(DOCUMENT, conditions)]
    assert reasons == [reason] * bool(reason)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)


@given(JSON, st.text(alphabet="/~01a"), st.sampled_from(sorted(RELATIONS)))
def test_broken_is_total(document: Any, pointer: str, relation: str) -> None:
    """Any document can be asked for anything."""
    wanted: Any = (1,) if relation == "one_of" else "x"
    if RELATIONS[relation].numeric:
        wanted = 1
    condition = Condition(pointer, relation, wanted)
    for _, reason in broken_conditions(json.loads(json.dumps(document)), [condition]):
        assert ", wants " in reason


LONG = "é" * 58
"""With its quotes, 60 characters as JSON."""


@pytest.mark.parametrize(
    ("value", "shown"),
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
def test_shown(value: Any, shown: str) -> None:
    """A value is shown as JSON with its own characters, at most 60 of them; not the longest integers."""
    assert wanted([Condition("/a", "equals", value)]) == [f"/a is {shown}"]


@pytest.mark.parametrize(
    ("pointer", "found"),
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
def test_index(pointer: str, found: Any) -> None:
    """An index is what RFC 6901 calls one: ASCII digits, without leading zeros, within the array."""
    assert value_at([10, 11, 12], pointer) == found
