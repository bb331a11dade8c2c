"""Command-line arguments that several commands have."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

DAY_S = 86_400.0
MAX_SINCE_S = 31 * DAY_S
"""Longest time, in seconds, that --since accepts in commands that read every sample: 31 days."""
MAX_AGE_S = 10 * 365 * DAY_S
"""Longest age, in seconds, that an argument for a time accepts: ten years."""
UNITS = {"y": 365 * DAY_S, "d": DAY_S, "h": 3_600.0, "m": 60.0, "s": 1.0}
"""Seconds in each unit, in the order in which a duration names them."""
MAX_ID = 2**63 - 1
"""The highest value of ``bigint``, the type of the columns ``id``."""
MAX_ID_DIGITS = 20
"""Maximum number of digits that are read: one more than ``MAX_ID`` has."""
_DURATION = re.compile("".join(rf"(?:(\d{{1,9}}(?:\.\d{{1,3}})?){unit})?" for unit in UNITS))
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,3})?")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


def env_file(parser: argparse.ArgumentParser) -> None:
    """Add --env-file."""
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="read settings from FILE instead of .env; the environment wins",
    )


def add_action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """Add an action to a command. The help of the action also shows the summary."""
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    return parser


def by_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--by``, the name of the person who runs the command."""
    parser.add_argument(
        "--by",
        type=words,
        default="",
        metavar="NAME",
        help="who does it; default: the user who runs this command",
    )


def output_option(
    parser: argparse.ArgumentParser, description: str, *, plain: str = "text"
) -> None:
    """Add --output: JSON, or by default text for people."""
    parser.add_argument("--output", choices=["json", plain], default=plain, help=description)


def duration(text: str) -> float:
    """Return a duration such as 30m or 1h30m in seconds. A number without a unit is in seconds.

    Raises ArgumentTypeError if the text is not a duration from 1 s to 31 d.
    """
    seconds = _seconds(text)
    if seconds is None or not 1 <= seconds <= MAX_SINCE_S:
        raise argparse.ArgumentTypeError(
            f"{text} is not a duration from 1s to 31d, for example 30m, 1h30m or 7d"
        )
    return seconds


def time_or_age(text: str) -> datetime | float:
    """Return a time in UTC, or an age in seconds of up to ten years.

    Raises ArgumentTypeError for anything else.
    """
    value = _time_or_age(text)
    if isinstance(value, datetime) or (value is not None and value <= MAX_AGE_S):
        return value
    raise argparse.ArgumentTypeError(
        f"{text} is not a time; write 2026-03-01, 2026-03-01T03:10 (UTC unless it has a zone), "
        "05:08 for the last time that it was 05:08, or 90m, 1h30m, 30d, 1y for that long ago"
    )


def _time_or_age(text: str) -> datetime | float | None:
    """Parse a time or an age; return None for anything else.

    Hours and minutes without a date mean today, or yesterday if that time is still to come today. A
    time without a zone is in UTC.
    """
    seconds = _seconds(text)
    if seconds is not None:
        return seconds
    now = datetime.now(UTC)
    if clock := _CLOCK.fullmatch(text):
        hour, minute, second = (int(part or 0) for part in clock.groups())
        time = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
        return time if time <= now else time - timedelta(days=1)
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _seconds(text: str) -> float | None:
    """Parse a duration; return None for anything else."""
    if _SECONDS.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        return None
    numbers = zip(match.groups(default="0"), UNITS.values(), strict=True)
    return sum(float(number) * unit_s for number, unit_s in numbers)


def row_number(text: str, noun: str, listed_by: str) -> int:
    """Return the number of a row. Raises ArgumentTypeError if the text is not one.

    The message has the ``noun`` of the row, such as an alert, and the command that lists the rows.
    """
    is_number = text.isascii() and text.isdigit()
    if not is_number or int(text[:MAX_ID_DIGITS]) > MAX_ID:
        raise argparse.ArgumentTypeError(
            f"{text} is not the number of {noun}; `ops-worker {listed_by}` lists them"
        )
    return int(text)


def words(text: str) -> str:
    """Return a text that the database can store. Raises ArgumentTypeError if it is not UTF-8.

    Python decodes bytes that are not UTF-8 to surrogates, which PostgreSQL does not accept.
    """
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise argparse.ArgumentTypeError("it is not UTF-8")
    return text
