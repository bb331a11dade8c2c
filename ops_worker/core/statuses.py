"""HTTP statuses in the notation of the catalogue: single statuses, classes and ranges."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST, LAST = 200, 599
"""First and last status of a final answer. Lower ones are informational (RFC 9110, section 15)."""
CLASS_SIZE = 100
"""The number of statuses in a class, for example in 2xx."""
SHORTEST_RANGE = 3
"""The lowest number of consecutive statuses that are shown as a range."""

_CLASS = re.compile(r"([2-5])[xX]{2}")
_RANGE = re.compile(r"([2-5][0-9]{2})(?:-([2-5][0-9]{2}))?")


def expand(item: Any) -> range:
    """Return the statuses of an item of the catalogue: 200, "304", "2xx" or "200-299".

    Raises ValueError for anything else, and for an empty range.
    """
    # True is an instance of int, but not a status.
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
    lowest, highest = match.group(1), match.group(2) or match.group(1)
    statuses = range(int(lowest), int(highest) + 1)
    if not statuses:
        raise ValueError("an empty range")
    return statuses


def format_statuses(statuses: Iterable[int]) -> str:
    """Return the statuses as a text for people, in ascending order: ``2xx, 304, 400-404``."""
    # Within a sequence of consecutive statuses, status minus position is constant.
    sequences = groupby(enumerate(sorted({*statuses})), key=lambda pair: pair[1] - pair[0])
    parts: list[str] = []
    for _, sequence in sequences:
        parts += _format_sequence([status for _, status in sequence])
    return ", ".join(parts)


def _format_sequence(statuses: list[int]) -> list[str]:
    """Return consecutive statuses as classes, ranges and single statuses."""
    parts = []
    while statuses:
        first = statuses[0]
        if first % CLASS_SIZE == 0 and len(statuses) >= CLASS_SIZE:
            size = CLASS_SIZE
            parts.append(f"{first // CLASS_SIZE}xx")
        else:
            # If a complete class follows, the range ends before it.
            size = min(len(statuses), CLASS_SIZE - first % CLASS_SIZE)
            if len(statuses) - size < CLASS_SIZE:
                size = len(statuses)
            parts += _format_range(statuses[:size])
        statuses = statuses[size:]
    return parts


def _format_range(statuses: list[int]) -> list[str]:
    if len(statuses) < SHORTEST_RANGE:
        return [str(status) for status in statuses]
    return [f"{statuses[0]}-{statuses[-1]}"]
