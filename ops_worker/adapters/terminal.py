"""The terminal: tables with colours, as wide as it is. The only importer of rich, which only people's commands need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table as Drawn
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.history.status import Table

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
"""How a word is shown; one that is not here is shown plainly."""


def draw(tables: Sequence[Table], *, clear: bool = False) -> None:
    """Draw tables one below the other; what does not fit is folded, never cut off."""
    console = Console(highlight=False)
    if clear:
        console.clear()
    for table in tables:
        drawn = Drawn(
            title=table.title,
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            header_style="dim",
        )
        for name in table.head:
            drawn.add_column(name, overflow="fold")
        for row in table.rows:
            drawn.add_row(
                *(
                    Text(cell, style=STYLES.get(cell, "") if index == table.marks else "")
                    for index, cell in enumerate(row)
                )
            )
        console.print(
            drawn if table.rows else Text.assemble((table.title, "bold"), f": {table.none}")
        )
        console.print()
