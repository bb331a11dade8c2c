"""Parts of screens: tables that fit the terminal, sparklines, state bars, ages and times."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.ledger import HEALTHY, UNKNOWN, UNSEEN
from ops_worker.text import format_age, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from ops_worker.core.doubt import DoubtRow

BARS = "▁▂▃▄▅▆▇█"
GAP = "·"
"""Drawn in a sparkline where no pass ran."""
STATE_MARKS = {HEALTHY: "█", "degraded": "▒", "down": "x", UNKNOWN: "?", UNSEEN: GAP}
"""The mark of each state in a state bar. The marks differ in shape, so colours are not needed."""
LEGEND = "BAR: █ healthy  ▒ degraded  x down  ? unknown  · unseen"
"""The meaning of the marks in a state bar, in at most 60 columns."""
NO_LEDGER_TO_READ = "no ledger to read (`ops-worker init-db`)"
"""What a screen shows if the ledger is missing or may not be read."""
WIDTH = 80
"""Default width of a screen, in columns."""
MIN_WIDTH = 40
"""The least width of lines, in columns. Lines are not made narrower for a narrower screen."""
GUTTER = "  "
"""The space between two columns of a table."""
INDENT = "  "
"""The space before a note below a row."""
MIN_NOTE_WIDTH = 45
"""The least width of a column of notes. If there is less room, long notes go below their rows."""
_INSIDE_OF_VALUE = re.compile(
    r"(?<=\d) (?=(?:%|ms|s|min|h|d)(?!\w))"
    r"|(?<=\d-\d\d) (?=\d\d:)"
    r"|(?<= [hd]) (?=\d+ (?:s|min|h)\b)"
)
"""The blanks between a number and its unit, a date and its time, and the units of a duration."""
_JOINT = "\x00"
"""Replaces such a blank while a text is wrapped. No text contains it (see ``one_line``)."""
EMPTY = ("", "-")
"""Cells without content."""
TABLE_LINES = 3
"""Lines of a table besides its rows: the title, the heading and an empty line."""
EMPTY_TABLE_LINES = 3
"""Lines of a table without rows: the title, the text instead of rows, and an empty line."""
SPARE_LINES = 5
"""Lines that a screen keeps free: the other lines of the last table, and the prompt."""


class Column(NamedTuple):
    """How a column behaves if the table is wider than the screen.

    - ``least``: cells may be cut to this width. 0: cells are never cut.
    - ``drop``: the lowest number is left out first. 0: the column is never left out.
    - ``is_note``: if there is too little room, the texts go to lines below their rows.
    - ``is_bar``: the column has state bars.
    """

    head: str
    least: int = 0
    drop: int = 0
    is_note: bool = False
    is_bar: bool = False


class ScreenTable(NamedTuple):
    """A table on the screen.

    ``state_column`` is the column whose word decides the colour. ``none`` is printed if there are
    no rows; if ``none`` is empty, a table without rows is left out. A table with ``columns`` is
    made to fit the screen. ``notes`` has the text below each row, empty for no text. ``below`` has
    the lines at the end of the table.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    state_column: int | None = None
    none: str = ""
    columns: tuple[Column, ...] = ()
    notes: tuple[str, ...] = ()
    below: str = ""


class TableLine(NamedTuple):
    """A line of a table that fits the screen: its padded cells. A note has one cell."""

    cells: tuple[str, ...]
    is_head: bool = False
    is_note: bool = False

    @property
    def text(self) -> str:
        """The line as plain text."""
        return GUTTER.join(self.cells).rstrip()


def flexible(
    title: str,
    columns: tuple[Column, ...],
    rows: tuple[tuple[str, ...], ...],
    *,
    state_column: int | None = None,
    none: str = "",
) -> ScreenTable:
    """Return a table that is made to fit the screen."""
    return ScreenTable(
        title=title,
        head=tuple(column.head for column in columns),
        rows=rows,
        state_column=state_column,
        none=none,
        columns=columns,
    )


def text_width(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def pad(text: str, width: int) -> str:
    """Return a text with blanks after it, so that it takes this number of columns."""
    return text + " " * (width - text_width(text))


def cut(text: str, width: int) -> str:
    """Return a text of at most ``width`` columns. A text that was cut ends with an ellipsis."""
    if text_width(text) <= width:
        return text
    start, used = "", 1
    for character in text:
        used += _character_width(character)
        if used > width:
            break
        start += character
    return start.rstrip() + "…"


def fitted(table: ScreenTable, width: int) -> ScreenTable:
    """Return a table without lines that are wider than the screen. No line is folded.

    If the table does not fit, columns without content are left out first. Then notes go to lines
    below their rows. Then cells are cut. Then columns are left out in the order of ``drop``.
    """
    if not table.rows:
        lines = [*wrapped(table.title, width), *wrapped(table.none, width)]
        titles = len(wrapped(table.title, width))
        return table._replace(title="\n".join(lines[:titles]), none="\n".join(lines[titles:]))
    table = table._replace(title=cut(table.title, width))
    while table.columns:
        excess = _excess(table, width)
        if excess <= 0:
            break
        place = _place_to_leave_out(table, excess)
        if place is None:
            table = _shortened(table, excess)
            break
        table = _without(table, place)
    return table


def wrapped(text: str, width: int) -> list[str]:
    """Wrap a text between words; return its lines.

    No line ends between a number and its unit, or between a date and its time.
    """
    joined = _INSIDE_OF_VALUE.sub(_JOINT, text)
    lines = textwrap.wrap(joined, width, break_on_hyphens=False)
    return [line.replace(_JOINT, " ") for line in lines] or [""]


def _widths(table: ScreenTable) -> list[int]:
    return [max(map(text_width, cells)) for cells in zip(table.head, *table.rows, strict=True)]


def _excess(table: ScreenTable, width: int) -> int:
    """Return by how many columns a table is wider than the screen."""
    widths = _widths(table)
    return sum(widths) + len(GUTTER) * (len(widths) - 1) - width


def _place_to_leave_out(table: ScreenTable, excess: int) -> int | None:
    """Return the place of the column to leave out; None if it is enough to cut cells."""
    columns, widths = table.columns, _widths(table)
    droppable = [place for place, column in enumerate(columns) if column.drop or column.is_note]
    for place in droppable:
        if all(row[place] in EMPTY for row in table.rows):
            return place
    for place in droppable:
        room = widths[place] - excess
        if columns[place].is_note and room < min(widths[place], MIN_NOTE_WIDTH):
            return place
    spare = [
        max(0, width - column.least)
        for column, width in zip(columns, widths, strict=True)
        if column.least
    ]
    by_order = [place for place in droppable if columns[place].drop]
    if sum(spare) >= excess or not by_order:
        return None
    return min(by_order, key=lambda place: columns[place].drop)


def _without(table: ScreenTable, place: int) -> ScreenTable:
    """Return a table without a column. The texts of a column of notes go below the rows."""

    def other_cells(cells: tuple[str, ...]) -> tuple[str, ...]:
        """Return the cells of the other columns."""
        return cells[:place] + cells[place + 1 :]

    notes = table.notes
    if table.columns[place].is_note:
        notes = tuple("" if row[place] in EMPTY else row[place] for row in table.rows)
    state_column = table.state_column
    if state_column is not None and state_column > place:
        state_column -= 1
    return table._replace(
        head=other_cells(table.head),
        rows=tuple(other_cells(row) for row in table.rows),
        columns=table.columns[:place] + table.columns[place + 1 :],
        state_column=state_column,
        notes=notes,
    )


def _shortened(table: ScreenTable, excess: int) -> ScreenTable:
    """Return a table whose cells are cut where ``least`` allows it, from right to left."""
    widths = _widths(table)
    for place in reversed(range(len(widths))):
        least = table.columns[place].least
        if least:
            less = min(excess, max(0, widths[place] - least))
            widths[place] -= less
            excess -= less

    def shortened(cells: tuple[str, ...]) -> tuple[str, ...]:
        """Return the cells, each cut to the width of its column."""
        return tuple(cut(cell, width) for cell, width in zip(cells, widths, strict=True))

    return table._replace(
        head=shortened(table.head), rows=tuple(shortened(row) for row in table.rows)
    )


def table_lines(table: ScreenTable) -> Iterator[TableLine]:
    """Yield the lines of a table: the heading, and each row with the note below it."""
    widths = _widths(table)

    def padded(cells: tuple[str, ...]) -> tuple[str, ...]:
        """Return the cells, each as wide as its column."""
        return tuple(pad(cell, width) for cell, width in zip(cells, widths, strict=True))

    yield TableLine(padded(table.head), is_head=True)
    notes = table.notes or ("",) * len(table.rows)
    for row, note in zip(table.rows, notes, strict=True):
        yield TableLine(padded(row))
        if note:
            yield TableLine((f"{INDENT}{note}",), is_note=True)


def plain(table: ScreenTable, width: int) -> str:
    """Return a table as plain text that fits the width."""
    if not table.rows:
        return f"{table.title}\n{table.none}"
    lines = [table.title, *(line.text for line in table_lines(table))]
    lines += table.below.splitlines()
    if table.columns:
        lines = [cut(line, width) for line in lines]
    return "\n".join(lines)


def outdated(age_s: float, error: str) -> ScreenTable:
    """Return a table that shows the age of the tables below it and why no newer data was read.

    ``age_s`` is the age in seconds.
    """
    title = f"No new data for {format_age(age_s)}"
    return ScreenTable(title, (), (), none=f"{error}; trying again")


def fit(tables: Sequence[ScreenTable], lines: int) -> list[ScreenTable]:
    """Shorten the last table so that all tables fit on a screen with this number of lines.

    The title of a shortened table states how many rows are shown.
    """
    if not tables:
        return []
    *others, last = tables
    used = sum(_lines_of(table) for table in others)
    room = max(1, lines - used - SPARE_LINES)
    if len(last.rows) <= room:
        return list(tables)
    title = f"{last.title}, {room} of {len(last.rows)} rows: enlarge the terminal to see all"
    return [*others, last._replace(title=title, rows=last.rows[:room], notes=last.notes[:room])]


def _lines_of(table: ScreenTable) -> int:
    if not table.rows:
        return EMPTY_TABLE_LINES + f"{table.title}{table.none}".count("\n")
    notes = sum(1 for note in table.notes if note)
    return len(table.rows) + notes + len(table.below.splitlines()) + TABLE_LINES


def state_bar(states: Sequence[str]) -> str:
    """Return a bar with one mark for each state."""
    return "".join(STATE_MARKS[state] for state in states)


def sparkline(values: Sequence[float | None], scale: tuple[float, float] | None = None) -> str:
    """Return a sparkline: a bar for each value, and a gap for None.

    ``scale`` is the lowest and the highest value of the scale. By default, both come from
    ``values``.
    """
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    low, high = scale or (min(numbers), max(numbers))
    if low == high:
        # Draw a constant at half of the height, and zero at the bottom.
        low, high = low - abs(low), high + abs(high)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(_bar(value, low, step) for value in values)


def _bar(value: float | None, low: float, step: float) -> str:
    if value is None:
        return GAP
    height = round((value - low) / step)
    return BARS[min(len(BARS) - 1, max(0, height))]


def halved(values: Sequence[float | None]) -> list[float | None]:
    """Return the mean of every two values. If one of them is None, the other one is the mean."""
    means: list[float | None] = []
    for place in range(0, len(values), 2):
        numbers = [value for value in values[place : place + 2] if value is not None]
        means.append(sum(numbers) / len(numbers) if numbers else None)
    return means


def format_ago(age_s: float) -> str:
    """Return how long ago a time was. A wrong clock may have written a time in the future."""
    if age_s <= -1:
        return "in the future"
    return f"{format_age(max(age_s, 0.0))} ago"


def others_here(names: Sequence[str]) -> str:
    """Return the sentence that passes of other installations in this database are not shown."""
    noun = "installation" if len(names) == 1 else "installations"
    return f"the passes of {noun} {', '.join(names)} in this database are not shown"


def stale_reason(last_state: str, blind: DoubtRow | None = None) -> str:
    """Return the reason of a stale state. ``last_state`` is the state that was recorded last.

    ``blind`` is the row of the health pass of the service if this pass is blind, else None.
    """
    if blind is not None:
        since = f"blind since {format_time(blind.since)}"
        return one_line(f"{since}, {blind.suspects}; it was {last_state}")
    return f"no pass has looked since; it was {last_state}"


def format_time(time: datetime | None) -> str:
    """Return a time to the second, or a dash for None."""
    return time.isoformat(sep=" ")[:19] if time else "-"
