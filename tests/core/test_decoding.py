from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.decoding import decode, storable, yaml_problem
from ops_worker.text import one_line

pytestmark = pytest.mark.unit

WHOLE = [
    (b"{}", {}),
    (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    ('{"a": 1}'.encode("utf-16"), {"a": 1}),
    (
        b'{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1e999}',
        {"a": None, "b": None, "c": None, "d": None},
    ),
    (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    (b'{"a": 1' + b"0" * 400 + b"}", {"a": 10**400}),
    (b'{"a": 1' + b"0" * 4_000 + b"}", {"a": None}),
    (b'{"a": {"b": [true, false, null, 1.5, "x"]}}', {"a": {"b": [True, False, None, 1.5, "x"]}}),
]

BAD = [
    (b"", r"^the body is empty, not JSON \(set json = false\)$"),
    (b"\xef\xbb\xbf \n", r"^the body is empty, not JSON \(set json = false\)$"),
    (b"{", "^bad JSON: unexpected end at line 1 column 2$"),
    (b'{\n"a": "x', "^bad JSON: unexpected end at line 2 column 6$"),
    (b'{"a": 1,]}', "^bad JSON: syntax error at line 1 column 9$"),
    (b'{"a": 1} {}', "^bad JSON: syntax error at line 1 column 10$"),
    (b"OK", r"^the body is text, not JSON \(set json = false\)$"),
    (b"1 ok", r"^the body is text, not JSON \(set json = false\)$"),
    (b"# TYPE up gauge\nup 1\n", r"^the body is text, not JSON \(set json = false\)$"),
    (b"<html>", r"^the body is HTML, not JSON \(set json = false\)$"),
    (b"\n<!DOCTYPE HTML>\n<title>x", r"^the body is HTML, not JSON \(set json = false\)$"),
    (b"<!doctype html><html>", r"^the body is HTML, not JSON \(set json = false\)$"),
    (b"<?xml version='1.0'?>", r"^the body is XML or HTML, not JSON \(set json = false\)$"),
    (b"\x1f\x8b\x08\x00", r"^the body is binary, not JSON \(set json = false\)$"),
    (b'{"a": "\xff"}', "^bad JSON: not utf-8 at byte 7$"),
    (b'\xef\xbb\xbf{"a": "\xff"}', "^bad JSON: not utf-8 at byte 7$"),
    (b"[1]", "not a JSON object but an array"),
    (b'"healthy"', "not a JSON object but a string"),
    (b"1", "not a JSON object but a number"),
    (b"1.5", "not a JSON object but a number"),
    (b"true", "not a JSON object but a boolean"),
    (b"null", "not a JSON object but null"),
    (b"[" * 200_000, "bad JSON: nested too deeply"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "bad JSON: nested too deeply"),
]


@pytest.mark.parametrize(("body", "expected"), WHOLE)
def test_decode(body: bytes, expected: dict[str, Any]) -> None:
    """A JSON object keeps its values, except those that jsonb cannot store."""
    assert expected == decode(body)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a\x00b": "c\x00"}, {"a\ufffdb": "c\ufffd"}),
        ({"\ud800": ["\udfff", {"x": "\x00"}]}, {"\ufffd": ["\ufffd", {"x": "\ufffd"}]}),
        ([1, 1.5, True, None, "\U0001f600"], [1, 1.5, True, None, "\U0001f600"]),
        (None, None),
    ],
)
def test_storable(value: Any, expected: Any) -> None:
    """A value that jsonb cannot store is replaced, wherever it is."""
    assert expected == storable(value)


def test_storable_is_bounded() -> None:
    """A value that is nested too deeply becomes null. The other values stay."""
    deep = decode(b'{"a":' * 500 + b"1" + b"}" * 500)
    text = json.dumps(storable(deep))
    assert text.count("{") == 200
    assert "null" in text


@pytest.mark.parametrize(("body", "message"), BAD)
def test_decode_bad(body: bytes, message: str) -> None:
    """A body that is not a JSON object is refused with a sentence that says what it is."""
    with pytest.raises(ValueError, match=message):
        decode(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_decode_is_total(body: bytes) -> None:
    """Any bytes give an object that jsonb can store, or a ValueError."""
    try:
        document = decode(body)
    except ValueError:
        return
    text = json.dumps(storable(document), allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text
    text.encode("utf-8")  # raises an error for a lone surrogate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Connection refused", "Connection refused"),
        ("a\r\nSet-Cookie: x\x1b[31m\x00b\u2028c\ud800", "a Set-Cookie: x [31m b c"),
        ("  tabs\tand  spaces ", "tabs and  spaces"),
        ("x" * 1000, "x" * 299 + "…"),
    ],
)
def test_one_line(text: str, expected: str) -> None:
    """No text can break a line, move a cursor, or grow without bound."""
    assert expected == one_line(text)


class Mark:
    """The position at which a YAML parser stopped."""

    line, column = 4, 0


class ParserError(Exception):
    """An error with the attributes of PyYAML's errors."""

    problem_mark = Mark()

    def __init__(self, problem: str | None) -> None:
        super().__init__(f"{problem}: token: hush")
        self.problem = problem


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ParserError("expected ',' or ']'"), "expected ',' or ']' at line 5, column 1"),
        (ParserError("could not determine a constructor for the tag '!hush'"),
         "could not determine a constructor for the tag at line 5, column 1"),
        (ParserError("found undefined alias 'hush'"), "found undefined alias at line 5, column 1"),
        (ParserError(None), "it holds a value that cannot be read (ParserError)"),
        (ValueError("invalid literal for int(): 'hush'"),
         "it holds a value that cannot be read (ValueError)"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    ],
)  # fmt: skip
def test_yaml_problem(error: Exception, problem: str) -> None:
    """An error of YAML names its place, and never quotes the text."""
    assert yaml_problem(error) == problem
