"""The parts that screens are made of: tables, sparklines, ages and times."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ops_worker.text import format_age

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

BARS = "▁▂▃▄▅▆▇█"
GAP = "·"
"""Drawn in a sparkline where no pass ran."""
TABLE_LINES = 3
"""Lines of a table besides its rows: the title, the heading and an empty line."""
EMPTY_TABLE_LINES = 2
"""Lines of a table without rows: the title and an empty line."""
SPARE_LINES = 5
"""Lines that a screen keeps free: those of the last table, and the prompt."""


class ScreenTable(NamedTuple):
    """A table on the screen.

    ``state_column`` is the column whose word decides the colour. ``none`` is printed if there are
    no rows; if it is empty, such a table is left out.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    state_column: int | None = None
    none: str = ""


def outdated(age_s: float, error: str) -> ScreenTable:
    """Return a table that says how old the tables below it are, and why there are no newer ones."""
    title = f"No new data for {format_age(age_s)}"
    return ScreenTable(title, (), (), none=f"{error}; trying again")


def fit(tables: Sequence[ScreenTable], lines: int) -> list[ScreenTable]:
    """Shorten the last table so that all tables fit on a screen of so many lines.

    Its title then says how many rows are shown.
    """
    if not tables:
        return []
    *others, last = tables
    used = sum(_lines_of(table) for table in others)
    room = max(1, lines - used - SPARE_LINES)
    if len(last.rows) <= room:
        return list(tables)
    title = f"{last.title}, {room} of {len(last.rows)} rows: enlarge the terminal to see all"
    return [*others, last._replace(title=title, rows=last.rows[:room])]


def _lines_of(table: ScreenTable) -> int:
    if not table.rows:
        return EMPTY_TABLE_LINES
    return len(table.rows) + TABLE_LINES


def sparkline(values: Sequence[float | None], scale: tuple[float, float] | None = None) -> str:
    """Draw a bar for each value, and a gap for None.

    ``scale`` is the lowest and the highest value; without it, they are those of ``values``.
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = scale or (min(known), max(known))
    if low == high:
        # A constant is drawn half way up, and zero at the bottom.
        low, high = low - abs(low), high + abs(high)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(_bar(value, low, step) for value in values)


def _bar(value: float | None, low: float, step: float) -> str:
    if value is None:
        return GAP
    height = round((value - low) / step)
    return BARS[min(len(BARS) - 1, max(0, height))]


def format_ago(age_s: float) -> str:
    """Return how long ago a time was. A time in the future was written by a wrong clock."""
    if age_s <= -1:
        return "in the future"
    return f"{format_age(max(age_s, 0.0))} ago"


def format_time(time: datetime | None) -> str:
    """Return a time to the second, and a dash if there is none."""
    return time.isoformat(sep=" ")[:19] if time else "-"
