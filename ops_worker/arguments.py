"""Command-line arguments that several commands have."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

MAX_SINCE_S = 31 * 86_400.0
"""Longest time, in seconds, that --since accepts: 31 days."""
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
"""Seconds in each unit."""


def env_file(parser: argparse.ArgumentParser) -> None:
    """Add --env-file."""
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="read settings from FILE instead of .env; the environment wins",
    )


def output_option(
    parser: argparse.ArgumentParser, description: str, *, plain: str = "text"
) -> None:
    """Add --output: JSON, or by default the form for people."""
    parser.add_argument("--output", choices=["json", plain], default=plain, help=description)


def since(text: str) -> float:
    """Return a duration such as 30m in seconds. Without a unit it is in seconds.

    Raises ArgumentTypeError if it is not a duration from 1 s to 31 d.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", text)
    seconds = float(match.group(1)) * UNITS[match.group(2) or "s"] if match else 0.0
    if not 1 <= seconds <= MAX_SINCE_S:
        raise argparse.ArgumentTypeError(
            f"{text} is not a duration from 1s to 31d, for example 30m, 1h or 7d"
        )
    return seconds


def words(text: str) -> str:
    """Return a text that the database can store. Raises ArgumentTypeError if it is not UTF-8.

    Python decodes bytes that are not UTF-8 to surrogates, which PostgreSQL does not accept.
    """
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise argparse.ArgumentTypeError("it is not UTF-8")
    return text
