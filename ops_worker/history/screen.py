"""The parts that screens are made of: tables that fit, sparklines, state bars, ages and times."""

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
"""How a state bar shows each state. The marks differ in shape, so that nobody needs colours."""
LEGEND = "BAR: █ healthy  ▒ degraded  x down  ? unknown  · unseen"
"""What the marks of a state bar mean, in at most 60 columns."""
NO_LEDGER_TO_READ = "no ledger to read (`ops-worker init-db`)"
"""What a screen says where the ledger is missing, or may not be read."""
WIDTH = 80
"""Columns of a screen if nobody says how wide it is."""
MIN_WIDTH = 40
"""A narrower screen gets lines of so many columns."""
GUTTER = "  "
"""Between two columns of a table."""
INDENT = "  "
"""Before a note below a row."""
MIN_NOTE_WIDTH = 45
"""A longer text gets a line below its row if its column would be narrower than this."""
_INSIDE_OF_VALUE = re.compile(
    r"(?<=\d) (?=(?:%|ms|s|min|h|d)(?!\w))"
    r"|(?<=\d-\d\d) (?=\d\d:)"
    r"|(?<= [hd]) (?=\d+ (?:s|min|h)\b)"
)
"""The blanks between a number and its unit, a date and its time, and the units of a duration."""
_JOINT = "\x00"
"""Stands for such a blank while a text is wrapped. No text has it (``one_line``)."""
EMPTY = ("", "-")
"""Cells that say nothing."""
TABLE_LINES = 3
"""Lines of a table besides its rows: the title, the heading and an empty line."""
EMPTY_TABLE_LINES = 3
"""Lines of a table without rows: the title, the text instead of rows, and an empty line."""
SPARE_LINES = 5
"""Lines that a screen keeps free: those of the last table, and the prompt."""


class Column(NamedTuple):
    """How a column behaves if the table is wider than the screen.

    - ``least``: the cells may be cut to this width. 0: they are never cut.
    - ``drop``: columns are left out in this order. 0: never.
    - ``is_note``: if there is too little room, its texts go to lines below their rows.
    - ``is_bar``: it has state bars.
    """

    head: str
    least: int = 0
    drop: int = 0
    is_note: bool = False
    is_bar: bool = False


class ScreenTable(NamedTuple):
    """A table on the screen.

    ``state_column`` is the column whose word decides the colour. ``none`` is printed if there are
    no rows; if it is empty, such a table is left out. A table with ``columns`` is made to fit the
    screen. ``notes`` has the text below each row, empty for none; ``below`` has the last lines.
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
    """A line of a table that fits: its padded cells. A note has one cell."""

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


def cut(text: str, width: int) -> str:
    """Return a text of at most ``width`` columns. A text that was cut ends with an ellipsis."""
    if text_width(text) <= width:
        return text
    shown, used = "", 1
    for character in text:
        used += _character_width(character)
        if used > width:
            break
        shown += character
    return shown.rstrip() + "…"


def fitted(table: ScreenTable, width: int) -> ScreenTable:
    """Return a table of which no line is wider than the screen. No line is folded.

    If it does not fit, columns without content are left out first. Then texts go to lines below
    their rows, then cells are cut, and then columns are left out in their order.
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
    """Return the lines of a text, which is wrapped between words.

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
    """Return the column to leave out; None if it is enough to shorten cells."""
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
    """Return a table without a column; the texts of a column of notes go below the rows."""

    def rest(cells: tuple[str, ...]) -> tuple[str, ...]:
        """Return the cells of the other columns."""
        return cells[:place] + cells[place + 1 :]

    notes = table.notes
    if table.columns[place].is_note:
        notes = tuple("" if row[place] in EMPTY else row[place] for row in table.rows)
    state_column = table.state_column
    if state_column is not None and state_column > place:
        state_column -= 1
    return table._replace(
        head=rest(table.head),
        rows=tuple(rest(row) for row in table.rows),
        columns=table.columns[:place] + table.columns[place + 1 :],
        state_column=state_column,
        notes=notes,
    )


def _shortened(table: ScreenTable, excess: int) -> ScreenTable:
    """Return a table whose cells are cut where that is allowed, those on the right first."""
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
        return tuple(
            cell + " " * (width - text_width(cell))
            for cell, width in zip(cells, widths, strict=True)
        )

    yield TableLine(padded(table.head), is_head=True)
    notes = table.notes or ("",) * len(table.rows)
    for row, note in zip(table.rows, notes, strict=True):
        yield TableLine(padded(row))
        if note:
            yield TableLine((f"{INDENT}{note}",), is_note=True)


def plain(table: ScreenTable, width: int) -> str:
    """Return a table that fits as plain text."""
    if not table.rows:
        return f"{table.title}\n{table.none}"
    lines = [table.title, *(line.text for line in table_lines(table))]
    lines += table.below.splitlines()
    if table.columns:
        lines = [cut(line, width) for line in lines]
    return "\n".join(lines)


def outdated(age_s: float, error: str) -> ScreenTable:
    """Return a table that says how old the tables below it are, and why there are no newer ones."""
    title = f"No new data for {format_age(age_s)}"
    return ScreenTable(title, (), (), none=f"{error}; trying again")


def fit(tables: Sequence[ScreenTable], lines: int) -> list[ScreenTable]:
    """Shorten the last table so that all tables fit on a screen with this number of lines.

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
    return [*others, last._replace(title=title, rows=last.rows[:room], notes=last.notes[:room])]


def _lines_of(table: ScreenTable) -> int:
    if not table.rows:
        return EMPTY_TABLE_LINES + f"{table.title}{table.none}".count("\n")
    notes = sum(1 for note in table.notes if note)
    return len(table.rows) + notes + len(table.below.splitlines()) + TABLE_LINES


def state_bar(states: Sequence[str]) -> str:
    """Draw a mark for each state."""
    return "".join(STATE_MARKS[state] for state in states)


def sparkline(values: Sequence[float | None], scale: tuple[float, float] | None = None) -> str:
    """Draw a bar for each value, and a gap for None.

    ``scale`` is the lowest and the highest value. By default, ``values`` have them.
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


def halved(values: Sequence[float | None]) -> list[float | None]:
    """Return the mean of each two values; a value beside None counts alone."""
    means: list[float | None] = []
    for place in range(0, len(values), 2):
        known = [value for value in values[place : place + 2] if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def format_ago(age_s: float) -> str:
    """Return how long ago a time was. A time in the future was written by a wrong clock."""
    if age_s <= -1:
        return "in the future"
    return f"{format_age(max(age_s, 0.0))} ago"


def others_here(names: Sequence[str]) -> str:
    """Return that other installations use the same database, and that their passes are left out."""
    noun = "installation" if len(names) == 1 else "installations"
    return f"the passes of {noun} {', '.join(names)} in this database are not shown"


def stale_reason(last_state: str, blind: DoubtRow | None = None) -> str:
    """Return the reason of a stale state. ``last_state`` is the state that was recorded last.

    ``blind`` is the pass that should know the service, if it does not believe what it sees.
    """
    if blind is not None:
        since = f"blind since {format_time(blind.since)}"
        return one_line(f"{since}, {blind.suspects}; it was {last_state}")
    return f"no pass has looked since; it was {last_state}"


def format_time(time: datetime | None) -> str:
    """Return a time to the second, and a dash if there is none."""
    return time.isoformat(sep=" ")[:19] if time else "-"
