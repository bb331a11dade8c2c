"""HTTP statuses as the catalogue writes them: single ones, classes and ranges."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST, LAST = 200, 599
"""The statuses of final answers (RFC 9110, section 15). Statuses below 200 are informational."""
CLASS_SIZE = 100
"""Statuses of a class, for example those of 2xx."""
SHORTEST_RUN = 3
"""Consecutive statuses that are shown as a range."""

_CLASS = re.compile(r"([2-5])[xX]{2}")
_RANGE = re.compile(r"([2-5][0-9]{2})(?:-([2-5][0-9]{2}))?")


def expand(item: Any) -> range:
    """Return the statuses of an item: 200, "304", "2xx" or "200-299".

    Raises ValueError for anything else, and for an empty range.
    """
    if type(item) is int:
        item = str(item)
    if not isinstance(item, str):
        raise ValueError("not a status")  # noqa: TRY004 - the catalogue expects ValueError
    if match := _CLASS.fullmatch(item):
        first = int(match.group(1)) * CLASS_SIZE
        return range(first, first + CLASS_SIZE)
    match = _RANGE.fullmatch(item)
    if match is None:
        raise ValueError("not a status")
    statuses = range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1)
    if not statuses:
        raise ValueError("an empty range")
    return statuses


def format_statuses(statuses: Iterable[int]) -> str:
    """Return statuses for people, in ascending order: ``2xx, 304, 400-404``."""
    runs = groupby(enumerate(sorted({*statuses})), key=lambda pair: pair[1] - pair[0])
    parts: list[str] = []
    for _, run in runs:
        parts += _format_run([status for _, status in run])
    return ", ".join(parts)


def _format_run(run: list[int]) -> list[str]:
    """Return consecutive statuses as classes, ranges and single ones."""
    parts = []
    while run:
        first = run[0]
        if first % CLASS_SIZE == 0 and len(run) >= CLASS_SIZE:
            size = CLASS_SIZE
            parts.append(f"{first // CLASS_SIZE}xx")
        else:
            # A range ends where a class begins that is a part of the run as a whole.
            size = min(len(run), CLASS_SIZE - first % CLASS_SIZE)
            if len(run) - size < CLASS_SIZE:
                size = len(run)
            parts += _format_range(run[:size])
        run = run[size:]
    return parts


def _format_range(run: list[int]) -> list[str]:
    if len(run) < SHORTEST_RUN:
        return [str(status) for status in run]
    return [f"{run[0]}-{run[-1]}"]
