"""Draw tables on a terminal, in colour and as wide as it is.

The only importer of rich, which comes with the extra ``view``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from ops_worker.history.screen import ScreenTable

STYLES = {
    "healthy": "green",
    "on time": "green",
    "degraded": "yellow",
    "ACKNOWLEDGED": "yellow",
    "stale": "bold magenta",
    "never": "bold magenta",
    "unknown": "bold yellow",
    "unhealthy": "bold red",
    "down": "bold red",
    "OPEN": "bold red",
}
"""The style of a word in the state column. Any other word has none."""


def draw(tables: Sequence[ScreenTable], *, clear: bool = False) -> None:
    """Draw the tables one below the other. A text that is too wide is folded, never cut off."""
    console = Console(highlight=False)
    if clear:
        console.clear()
    for table in tables:
        console.print(_drawn(table))
        console.print()


def _drawn(table: ScreenTable) -> RenderableType:
    if not table.rows:
        return Text.assemble((table.title, "bold"), f": {table.none}")
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
