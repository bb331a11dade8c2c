"""Format text for people: lines, ages, durations, numbers, labels, tables, safe URLs."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_REASON = 300
"""Maximum length of a line, in characters.

It is enough for any error, and fits into a log line and a termination message.
"""

_UNPRINTABLE = re.compile(r"[^\S ]+|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_ROUNDING = 1e-6
"""How much a rounding error may have made a whole step of a percentage smaller."""
_AGE_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))
_DURATION_UNITS = (*_AGE_UNITS, ("s", 1))


def one_line(text: str, limit: int = MAX_REASON) -> str:
    """Return one line that is safe in a log line, on a terminal and in a ``text`` column.

    Line ends and control characters become blanks. At most ``limit`` characters remain.
    """
    line = _UNPRINTABLE.sub(" ", text).strip()
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return line


def format_labels(tags: Mapping[str, Any] | Any) -> str:
    """Return tags in the style of Prometheus labels: ``{a=1,b=2}``; empty without tags."""
    if not tags:
        return ""
    if not isinstance(tags, dict):  # a jsonb column may hold any value
        return one_line("{" + json.dumps(tags) + "}")
    labels = [
        f"{one_line(str(name))}={one_line(str(value))}" for name, value in sorted(tags.items())
    ]
    return "{" + ",".join(labels) + "}"


def format_si(value: float) -> str:
    """Return a number with a unit prefix: 1234567890 is ``1.23 G``."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if abs(value) >= size:
            return f"{value / size:.2f} {prefix}"
    if abs(value) >= 1 or value == 0:
        return f"{value:.6g}"
    return f"{value:.3f}"


def format_age(seconds: float) -> str:
    """Return an age in one unit: ``45 s``, ``12 min``, ``3 h``, ``5 d``.

    Hours are used from 2 h, days from 2 d, because ``1 d`` would hide up to 23 hours.
    """
    for unit, size in _AGE_UNITS:
        units = 1 if unit == "min" else 2
        if abs(seconds) >= units * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``7 min``, ``1 h 12 min``, ``2 d 3 h``."""
    remaining_s = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, size in _DURATION_UNITS:
        number, remaining_s = divmod(remaining_s, size)
        if number or parts:
            parts.append((number, unit))
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number) or "0 s"


def percent_rounded_down(share: float, decimals: int) -> float:
    """Return a share as a percentage, rounded down. So only a share of exactly 1 is 100."""
    steps = int(10**decimals)
    whole: int = math.floor(share * 100 * steps + _ROUNDING)
    return whole / steps


def without_password(url: str) -> str:
    """Return a URL that is safe to show: stars replace its user and password."""
    return re.sub(r"^([a-zA-Z+]*:)?(//)?.*@", r"\1\2***@", url, flags=re.DOTALL)


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for cells in (head, *rows):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
