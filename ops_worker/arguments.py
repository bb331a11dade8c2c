"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

MAX_SINCE_S = 31 * 86_400.0
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def env_file(parser: argparse.ArgumentParser) -> None:
    """Add --env-file."""
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="read settings from FILE instead of .env; the environment wins",
    )


def since(text: str) -> float:
    """Read a time, 30m say, as seconds."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", text)
    seconds = float(found.group(1)) * UNITS[found.group(2) or "s"] if found else 0.0
    if not 1 <= seconds <= MAX_SINCE_S:
        raise argparse.ArgumentTypeError(f"{text} is no time from 1s to 31d: 30m, 1h, 7d")
    return seconds


def words(text: str) -> str:
    """Take a text that the database can hold: one of which not every byte is UTF-8 has no such."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise argparse.ArgumentTypeError("it is not UTF-8")
    return text
