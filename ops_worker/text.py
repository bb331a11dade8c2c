"""Text for people: one line, ages, durations, numbers, labels, URLs without passwords, tables."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_REASON = 300
"""Characters of a line: enough for any error, few enough for a log line and a termination message."""

_UNPRINTABLE = re.compile(r"[^\S ]+|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def one_line(text: str) -> str:
    """Make a text fit for a log line, a terminal and a ``text`` column: no line ends, no control characters, bounded."""
    line = _UNPRINTABLE.sub(" ", text).strip()
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"


def format_labels(tags: Mapping[str, Any] | Any) -> str:
    """Write tags as Prometheus does its labels; nothing where there are none."""
    if tags and not isinstance(tags, dict):  # jsonb holds anything
        return one_line("{" + json.dumps(tags) + "}")
    return (
        "{"
        + ",".join(
            f"{one_line(str(name))}={one_line(str(value))}" for name, value in sorted(tags.items())
        )
        + "}"
        if tags
        else ""
    )


def format_si(value: float) -> str:
    """Write a number as a person reads it: 1234567890 is 1.23 G."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if abs(value) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.6g}" if abs(value) >= 1 or value == 0 else f"{value:.3f}"


def format_age(seconds: float) -> str:
    """Tell a time in its largest unit: 45 s, 12 min, 3 h, 5 d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * size or (unit == "min" and abs(seconds) >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def format_duration(seconds: float) -> str:
    """Tell a time in its two largest units: 7 min, 1 h 12 min, 2 d 3 h. Less than one of the smaller unit is left out."""
    left = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or parts:
            parts.append((number, unit))
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number) or "0 s"


def without_password(url: str) -> str:
    """Give a URL as it may be shown: a user and password in it are stars."""
    return re.sub(r"^([a-zA-Z+]*:)?(//)?.*@", r"\1\2***@", url, flags=re.DOTALL)


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)
