"""Tests of arguments that several commands share: accepted forms and limits."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from ops_worker import arguments
from ops_worker.arguments import duration, env_file, time_or_age, words

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
        ("1h30m", 5400.0),
        ("1d2h3m4s", 93_784.0),
        ("1.5h30m", 7200.0),
    ],
)
def test_seconds(text: str, seconds: float) -> None:
    """A duration has seconds, minutes, hours or days. A number without a unit is seconds."""
    assert duration(text) == time_or_age(text) == seconds


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
        "30m1h",
        "1h30",
        "1y",
        "24:00",
        "5:60",
        "2026-02-30",
        "2999-01-01",
        "2001-01-01",
        "0001-01-01T00:00+14:00",
    ],
)
def test_seconds_refused(text: str) -> None:
    """A duration must be 1 s to 31 days. The message shows valid forms."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"1s.*31d.*30m"):
        duration(text)


NOW = datetime(2026, 3, 1, 4, 30, tzinfo=UTC)


class Noon(datetime):
    """A clock that always has the same time."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Noon:
        """Return the time in UTC."""
        assert tz is UTC
        return cls.fromtimestamp(NOW.timestamp(), tz)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("04:30", NOW),
        ("4:29", NOW - timedelta(minutes=1)),
        ("00:00", datetime(2026, 3, 1, tzinfo=UTC)),
        ("04:30:01", NOW + timedelta(seconds=1) - timedelta(days=1)),
        ("05:08", datetime(2026, 2, 28, 5, 8, tzinfo=UTC)),  # later than now, so yesterday
        ("23:59:59", datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-02-28T23:30", datetime(2026, 2, 28, 23, 30, tzinfo=UTC)),
        ("2026-02-28 23:30:15", datetime(2026, 2, 28, 23, 30, 15, tzinfo=UTC)),
        ("2026-03-01T00:30+02:00", datetime(2026, 2, 28, 22, 30, tzinfo=UTC)),
        ("2026-03-01T00:30Z", datetime(2026, 3, 1, 0, 30, tzinfo=UTC)),
    ],
)
def test_times(monkeypatch: pytest.MonkeyPatch, text: str, expected: datetime) -> None:
    """A time without a date is in the last 24 hours. A time without a zone is in UTC."""
    monkeypatch.setattr(arguments, "datetime", Noon)
    assert time_or_age(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30d", 2_592_000.0),
        ("1y", 31_536_000.0),
        ("10y", 315_360_000.0),
        ("1y30d", 34_128_000.0),
        ("0", 0.0),
        ("0001-01-01", datetime.min.replace(tzinfo=UTC)),
        ("9999-12-31", datetime(9999, 12, 31, tzinfo=UTC)),
    ],
)
def test_time_or_age(text: str, expected: object) -> None:
    """A time may have any date. An age may be up to ten years."""
    assert time_or_age(text) == expected


@pytest.mark.parametrize("text", ["", "10.001y", "99y", "tomorrow", "1w", "25:00", "-1h", "inf"])
def test_time_or_age_refused(text: str) -> None:
    """The message shows all accepted forms."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"2026-03-01T03:10.*05:08.*1h30m.*1y"):
        time_or_age(text)


@pytest.mark.parametrize("text", ["05:08", "2026-03-01", "1y", "0", "32d", "x"])
def test_duration_refused(text: str) -> None:
    """A time of day, a date or a year is not a duration."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"1s.*31d.*1h30m"):
        duration(text)


@pytest.mark.parametrize("text", ["", "racks", "Ärger", "✓", "a\U0001f600"])
def test_words(text: str) -> None:
    """A valid text stays unchanged."""
    assert words(text) == text


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "x\udfff"])
def test_words_refused(text: str) -> None:
    """Lone surrogates are refused. Python makes them of bytes that are not UTF-8."""
    with pytest.raises(argparse.ArgumentTypeError, match="UTF-8"):
        words(text)


def test_env_file() -> None:
    """The value is a path; the default is None."""
    parser = argparse.ArgumentParser()
    env_file(parser)
    assert parser.parse_args(["--env-file", "a/b"]).env_file == Path("a/b")
    assert parser.parse_args([]).env_file is None
