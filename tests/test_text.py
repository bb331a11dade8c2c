"""Tests of text for people, with the limits of every form."""

from __future__ import annotations

from typing import Any

import pytest

from ops_worker.text import (
    format_age,
    format_duration,
    format_labels,
    format_si,
    format_table,
    one_line,
    percent_rounded_down,
    without_password,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  a  ", "a"),
        ("a  b", "a  b"),
        ("a\r\n\tb", "a b"),
        ("a\x00\x1b[31mb", "a [31mb"),
        ("a\u2028b\u2029c", "a b c"),
        ("a\ud800b", "a b"),
        ("x" * 300, "x" * 300),
        ("x" * 301, "x" * 299 + "…"),
    ],
)
def test_one_line(text: str, expected: str) -> None:
    """One line has no control characters and lone surrogates, and at most 300 characters."""
    assert one_line(text) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, ""),
        (None, ""),
        ({"b": 1, "a": "x"}, "{a=x,b=1}"),
        ({"a\nb": "c\nd"}, "{a b=c d}"),
        ([1, "x"], '{[1, "x"]}'),
        ("text", '{"text"}'),
    ],
)
def test_format_labels(tags: Any, expected: str) -> None:
    """Labels are sorted by name. A jsonb value that is no object is shown as JSON."""
    assert format_labels(tags) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (0.5, "0.500"),
        (-0.0625, "-0.062"),
        (1, "1"),
        (12.3456789, "12.3457"),
        (999_999, "999999"),
        (1e6, "1.00 M"),
        (-2.5e6, "-2.50 M"),
        (1e9, "1.00 G"),
        (1_234_567_890, "1.23 G"),
        (1e12, "1.00 T"),
    ],
)
def test_format_si(value: float, expected: str) -> None:
    """Units begin exactly at 10⁶, 10⁹ and 10¹²."""
    assert format_si(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172_799, "48 h"),
        (172_800, "2 d"),
        (-7200, "-2 h"),
    ],
)
def test_format_age(seconds: float, expected: str) -> None:
    """Minutes begin at 1 min, hours and days at 2, so that 100 minutes are not "2 h"."""
    assert format_age(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (4320, "1 h 12 min"),
        (3601, "1 h"),
        (183_600, "2 d 3 h"),
    ],
)
def test_format_duration(seconds: float, expected: str) -> None:
    """A duration has its two largest units. The second is omitted if it is 0."""
    assert format_duration(seconds) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host/path", "http://host/path"),
        ("http://user:secret@host/path", "http://***@host/path"),
        ("HTTPS://user:a@b@host", "HTTPS://***@host"),
        ("postgresql+x://u:p@h", "postgresql+x://***@h"),
        ("//u:p@h", "//***@h"),
        ("u:p@h", "u:***@h"),
        ("http://u:line\nend@h", "http://***@h"),
    ],
)
def test_without_password(url: str, expected: str) -> None:
    """Everything before the last @ is hidden, except the scheme."""
    assert without_password(url) == expected


def test_format_table() -> None:
    """A column is as wide as its widest cell. A line has no spaces at its end."""
    text = format_table(("A", "LONG"), [("abc", "x"), ("d", "")])
    assert text == "A    LONG\nabc  x\nd"


@pytest.mark.parametrize(
    ("share", "decimals", "expected"),
    [
        (1.0, 2, 100.0),
        (0.999_999_9, 2, 99.99),
        (0.9993, 2, 99.93),
        (0.29, 0, 29.0),
        (0.07, 2, 7.0),
        (0.0, 3, 0.0),
        (-0.001, 0, -1.0),
    ],
)
def test_percent_rounded_down(share: float, decimals: int, expected: float) -> None:
    """Only the whole is 100 %. A share that needs no rounding stays unchanged."""
    assert percent_rounded_down(share, decimals) == expected
