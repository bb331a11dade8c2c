"""Arguments that several commands share: accepted forms, and limits."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from ops_worker.arguments import env_file, since, words

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1.0),
        ("1s", 1.0),
        ("90", 90.0),
        ("1.5m", 90.0),
        ("30m", 1800.0),
        ("2h", 7200.0),
        ("1d", 86_400.0),
        ("31d", 2_678_400.0),
        ("2678400", 2_678_400.0),
        ("0.001h", 3.6),
    ],
)
def test_since(text: str, seconds: float) -> None:
    """Seconds, minutes, hours and days; a number alone is seconds."""
    assert since(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.9s",
        "31.001d",
        "2678401",
        "-1h",
        "+1h",
        "1w",
        "1 h",
        "h",
        "1e3",
        "inf",
        "1.2345m",
    ],
)
def test_since_refused(text: str) -> None:
    """Anything but 1 s to 31 days is refused, and the message shows valid forms."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"1s.*31d.*30m"):
        since(text)


@pytest.mark.parametrize("text", ["", "racks", "Ärger", "✓", "a\U0001f600"])
def test_words(text: str) -> None:
    """Text is taken as it is."""
    assert words(text) == text


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "x\udfff"])
def test_words_refused(text: str) -> None:
    """Bytes that are not UTF-8 reach Python as lone surrogates, which no database stores."""
    with pytest.raises(argparse.ArgumentTypeError, match="UTF-8"):
        words(text)


def test_env_file() -> None:
    """The file is a path; by default there is none."""
    parser = argparse.ArgumentParser()
    env_file(parser)
    assert parser.parse_args(["--env-file", "a/b"]).env_file == Path("a/b")
    assert parser.parse_args([]).env_file is None
