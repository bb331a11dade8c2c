"""Charts as SVG for an HTML page: lines over time and timelines, in the page's own colours and letters."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from datetime import UTC
from typing import TYPE_CHECKING, Any, Self

import matplotlib as mpl
from matplotlib import dates
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from ops_worker.history.report import CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.history.report import Availability, Chart, Page

COLOURS = {
    "text": "#010101",
    "grid": "#020202",
    "mean": "#030303",
    "peak": "#040404",
    "up": "#050505",
    "down": "#060606",
    "unknown": "#070707",
}
"""What stands in a drawing for each colour of the page, which alone knows whether it is light or dark."""
MAX_NAME = 28
"""Characters of a service name beside its timeline."""
HEIGHTS = {"up": 0.5, "down": 0.9, "unknown": 0.12}
"""A part of a timeline is told from another one by its height as well, for who does not see the colours."""
CHART_IN, TIMELINE_IN, ROW_IN = (7.0, 2.1), 14.0, 0.3
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: to be searched, read aloud and set in the page's font
    "svg.hashsalt": "ops-worker",
    "path.simplify": False,  # every point that is there is drawn
    "text.parse_math": False,  # a dollar in a name is a dollar
    "timezone": "UTC",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), COLOURS["text"]
    ),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), COLOURS["grid"]),
}


class Drawing(contextlib.AbstractContextManager["Drawing"]):
    """Draws one SVG after the other, in one style. Use it as a context manager."""

    def __enter__(self) -> Self:
        self._style = contextlib.ExitStack()
        self._style.enter_context(mpl.rc_context(STYLE))
        self._style.enter_context(warnings.catch_warnings())
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # the letters are the browser's; only their width is guessed here
        return self

    def __exit__(self, *error: object) -> None:
        self._style.close()

    def chart(self, page: Page, chart: Chart, place: int) -> str:
        """Draw a series: the mean of each bucket as a line, the highest above it; where nobody looked there is a gap."""
        figure, axes = _figure(*CHART_IN)
        if chart.peaks is not None:
            _line(axes, chart.times, chart.peaks, "peak", 0.8)
        _line(axes, chart.times, chart.means, "mean", 1.6)
        known = [value for value in (*chart.means, *(chart.peaks or ())) if value is not None]
        if known and 0 <= min(known) <= max(known) / 2:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylabel(chart.unit or "number")
        _time(axes, page)
        figure.subplots_adjust(left=0.11, right=0.98, top=0.95, bottom=0.2)
        return _svg(figure, f"chart{place}")

    def timelines(self, page: Page, services: Sequence[Availability]) -> str:
        """Draw for each service when it was up, down, and nobody knows; a bar above them for maintenance."""
        rows = len(services) + bool(page.maintenance)
        height_in = 0.55 + ROW_IN * rows
        figure, axes = _figure(TIMELINE_IN, height_in)
        axes.grid(visible=False)
        cell = (page.ended - page.begun) / CELLS
        for row, one in enumerate(services):
            for state, height in HEIGHTS.items():
                parts = [
                    (page.begun + cell * span.first, cell * span.number)
                    for span in one.spans
                    if span.state == state
                ]
                drawn = axes.broken_barh(
                    parts, (row - height / 2, height), facecolors=COLOURS[state], linewidth=0
                )
                drawn.set_gid(f"{state}-{row}")
        for run in page.maintenance:
            axes.broken_barh(
                [(run.begun, run.ended - run.begun)],
                (rows - 1.25, 0.5),
                facecolors="none",
                edgecolors=COLOURS["text"],
                hatch="////",
            )
        names = [_cut(one.service) for one in services]
        axes.set_yticks(range(rows), [*names, "maintenance"][:rows])
        axes.set_ylim(rows - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        _time(axes, page)
        figure.subplots_adjust(
            left=0.13, right=0.99, top=1 - 0.05 / height_in, bottom=0.42 / height_in
        )
        return _svg(figure, "timelines")


def _figure(width_in: float, height_in: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width_in, height_in))
    return figure, figure.add_subplot()


def _line(
    axes: Any, times: Sequence[Any], values: Sequence[float | None], name: str, width: float
) -> None:
    """Draw a line, and a point for each value that has no neighbour to be joined with."""
    heights = [float("nan") if value is None else value for value in values]
    axes.plot(
        times, heights, color=COLOURS[name], linewidth=width, solid_joinstyle="round", gid=name
    )
    around = [None, *values, None]
    lone = [
        place
        for place, value in enumerate(values)
        if value is not None and around[place] is None and around[place + 2] is None
    ]
    if lone:
        axes.plot(
            [times[place] for place in lone],
            [heights[place] for place in lone],
            linestyle="",
            marker=".",
            color=COLOURS[name],
        )


def _time(axes: Any, page: Page) -> None:
    axes.set_xlim(page.begun, page.ended)
    known: Any = dates  # which has no types
    locator = known.AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(known.ConciseDateFormatter(locator, tz=UTC))


def _svg(figure: Figure, name: str) -> str:
    """Give a figure as an element of a page: with names of its own, in the page's colours, and hidden from who hears it.

    Who hears it is told by the table beside it.
    """
    written = io.StringIO()
    figure.savefig(
        written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    drawn = written.getvalue()
    drawn = re.sub(
        r"<metadata>.*?</metadata>\s*", "", drawn[drawn.index("<svg") :], flags=re.DOTALL
    )
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawn)
    drawn = re.sub(
        r'^<svg\b[^>]*?(viewBox="[^"]*")[^>]*>',
        r'<svg \1 aria-hidden="true" focusable="false">',
        drawn,
        count=1,
    )
    drawn = drawn.replace("xlink:href", "href")
    for colour, stands in COLOURS.items():
        drawn = drawn.replace(stands, f"var(--{colour})")
    return drawn


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
