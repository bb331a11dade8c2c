"""Draw tables on a terminal, in colour and in the width of the terminal.

The only importer of rich, which comes with the extra ``view``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops_worker.history.screen import GUTTER, table_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from ops_worker.history.screen import ScreenTable

STYLES = {
    "healthy": "green",
    "on time": "green",
    "degraded": "yellow",
    "ACKNOWLEDGED": "yellow",
    "stale": "bold magenta",
    "never": "bold magenta",
    "unseen": "dim",
    "unknown": "bold yellow",
    "unhealthy": "bold red",
    "down": "bold red",
    "OPEN": "bold red",
}
"""The style of a word in the state column. Any other word has none."""


BAR_STYLES = {"█": "green", "▒": "yellow", "x": "bold red", "?": "bold yellow", "·": "dim"}
"""The style of a mark in a state bar."""
CHANGED = "* "
"""The mark before a name that changed since the previous screen."""


def draw(tables: Sequence[ScreenTable], *, clear: bool = False, width: int | None = None) -> None:
    """Draw the tables one below the other.

    ``width`` is the width of the screen for which the tables were made; they are drawn unchanged.
    Without ``width``, a text that is too wide is folded, never cut off.
    """
    console = Console(highlight=False, width=width)
    if clear:
        console.clear()
    for table in tables:
        if table.columns or not table.rows:
            for line in _lines(table):
                console.print(line, no_wrap=True, overflow="ellipsis")
        else:
            console.print(_drawn(table))
        console.print()


def _lines(table: ScreenTable) -> Iterator[Text]:
    """Yield the lines of a table that fits the screen or has no rows."""
    for title in table.title.splitlines():
        yield Text(title, "bold")
    if not table.rows:
        yield Text(table.none)
        return
    for line in table_lines(table):
        if line.is_note:
            yield Text(line.text)
        elif line.is_head:
            yield Text(line.text, "dim")
        else:
            yield _row(table, line.cells)
    for text in table.below.splitlines():
        below = Text(text, "dim")
        for mark, style in BAR_STYLES.items():
            # The marks in the legend are as bright as the marks in the bars.
            bright = style if style == "dim" else f"not dim {style}"
            below.highlight_regex(f"{re.escape(mark)}(?= )", bright)
        yield below


def _row(table: ScreenTable, cells: Sequence[str]) -> Text:
    """Return a row with the colours of its state, its bar and its mark."""
    drawn = [Text(cell) for cell in cells]
    if table.state_column is not None:
        state = drawn[table.state_column]
        state.stylize(STYLES.get(state.plain.strip(), ""), 0, len(state.plain.rstrip()))
    for column, cell in zip(table.columns, drawn, strict=True):
        if column.is_bar:
            for place, mark in enumerate(cell.plain):
                cell.stylize(BAR_STYLES.get(mark, ""), place, place + 1)
    if drawn[0].plain.startswith(CHANGED):
        drawn[0].stylize("bold")
    line = Text(GUTTER).join(drawn)
    line.rstrip()
    return line


def _drawn(table: ScreenTable) -> RenderableType:
    drawn = Table(
        title=table.title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for heading in table.head:
        drawn.add_column(heading, overflow="fold")
    for row in table.rows:
        cells = [Text(cell) for cell in row]
        if table.state_column is not None:
            state = cells[table.state_column]
            state.stylize(STYLES.get(state.plain, ""))
        drawn.add_row(*cells)
    return drawn
