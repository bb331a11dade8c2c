"""Draw charts as SVG for an HTML page: lines over time and timelines, in the page's colours."""

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

    from ops_worker.history.report import Availability, Chart, Report

COLOURS = {
    "text": "#010101",
    "grid": "#020202",
    "mean": "#030303",
    "peak": "#040404",
    "up": "#050505",
    "down": "#060606",
    "unknown": "#070707",
}
"""A placeholder for each colour of the page, which alone knows whether it is light or dark."""
MAX_NAME = 28
"""Characters of a service's name beside its timeline."""
HEIGHTS = {"up": 0.5, "down": 0.9, "unknown": 0.12}
"""The height of a part of a timeline: readers who do not see colours can tell them apart."""
CHART_IN = (7.0, 2.1)
"""Width and height of a chart in inches."""
TIMELINE_IN, ROW_IN, AXIS_IN = 14.0, 0.3, 0.55
"""Width of the timelines, height of each one, and height of their time axis, in inches."""
MEAN_WIDTH, PEAK_WIDTH = 1.6, 0.8
"""Widths of the lines in points."""
STYLE: dict[Any, Any] = {
    # Text stays text: it can be searched and read aloud, and has the page's font.
    "svg.fonttype": "none",
    "svg.hashsalt": "ops-worker",
    # Every point is drawn.
    "path.simplify": False,
    # A dollar sign in a name is not mathematics.
    "text.parse_math": False,
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
    """Draws one SVG after the other in one style. Use it as a context manager."""

    def __enter__(self) -> Self:
        self._style = contextlib.ExitStack()
        self._style.enter_context(mpl.rc_context(STYLE))
        self._style.enter_context(warnings.catch_warnings())
        # The browser has the glyphs; only their width is estimated here.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        return self

    def __exit__(self, *error: object) -> None:
        self._style.close()

    def chart(self, report: Report, chart: Chart, place: int) -> str:
        """Draw a series: the mean of each bucket, and its maximum as a thin line.

        A bucket without rows is a gap. ``place`` makes the element's names unique.
        """
        figure, axes = _figure(*CHART_IN)
        peaks = chart.peaks or ()
        if peaks:
            _line(axes, chart.times, peaks, "peak", PEAK_WIDTH)
        _line(axes, chart.times, chart.means, "mean", MEAN_WIDTH)
        known = [value for value in (*chart.means, *peaks) if value is not None]
        if known and 0 <= min(known) <= max(known) / 2:
            # The values vary much: the axis begins at zero.
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylabel(chart.unit or "number")
        _time_axis(axes, report)
        figure.subplots_adjust(left=0.11, right=0.98, top=0.95, bottom=0.2)
        return _svg(figure, f"chart{place}")

    def timelines(self, report: Report, services: Sequence[Availability]) -> str:
        """Draw the timeline of each service, and a bar for maintenance below them."""
        rows = len(services) + bool(report.maintenance)
        height_in = AXIS_IN + ROW_IN * rows
        figure, axes = _figure(TIMELINE_IN, height_in)
        axes.grid(visible=False)
        for row, service in enumerate(services):
            _timeline(axes, report, service, row)
        for run in report.maintenance:
            axes.broken_barh(
                [(run.begun, run.ended - run.begun)],
                (rows - 1.25, 0.5),
                facecolors="none",
                edgecolors=COLOURS["text"],
                hatch="////",
            )
        names = [_shorten(service.service) for service in services]
        axes.set_yticks(range(rows), [*names, "maintenance"][:rows])
        axes.set_ylim(rows - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        _time_axis(axes, report)
        figure.subplots_adjust(
            left=0.13, right=0.99, top=1 - 0.05 / height_in, bottom=0.42 / height_in
        )
        return _svg(figure, "timelines")


def _figure(width_in: float, height_in: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width_in, height_in))
    return figure, figure.add_subplot()


def _timeline(axes: Any, report: Report, service: Availability, row: int) -> None:
    """Draw the parts of a timeline, one group for each state."""
    cell = (report.ended - report.begun) / CELLS
    for state, height in HEIGHTS.items():
        parts = [
            (report.begun + cell * span.first, cell * span.number)
            for span in service.spans
            if span.state == state
        ]
        group = axes.broken_barh(
            parts, (row - height / 2, height), facecolors=COLOURS[state], linewidth=0
        )
        group.set_gid(f"{state}-{row}")


def _line(
    axes: Any, times: Sequence[Any], values: Sequence[float | None], name: str, width: float
) -> None:
    """Draw a line with gaps, and a dot for each value without a neighbour to connect to."""
    heights = [float("nan") if value is None else value for value in values]
    axes.plot(
        times, heights, color=COLOURS[name], linewidth=width, solid_joinstyle="round", gid=name
    )
    lone = _without_neighbours(values)
    if lone:
        axes.plot(
            [times[place] for place in lone],
            [heights[place] for place in lone],
            linestyle="",
            marker=".",
            color=COLOURS[name],
        )


def _without_neighbours(values: Sequence[float | None]) -> list[int]:
    """Return the places of the values that have a gap on both sides."""
    places = []
    padded = [None, *values, None]
    for place, value in enumerate(values):
        before, after = padded[place], padded[place + 2]
        if value is not None and before is None and after is None:
            places.append(place)
    return places


def _time_axis(axes: Any, report: Report) -> None:
    axes.set_xlim(report.begun, report.ended)
    untyped: Any = dates  # matplotlib has no types for this module.
    locator = untyped.AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator, tz=UTC))


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an element of a page.

    Its IDs begin with ``name``, its colours are those of the page, and it is hidden from screen
    readers, which read the table beside it.
    """
    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=metadata)
    svg = file.getvalue()
    # Without the XML declaration, the doctype and the metadata.
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(
        r'^<svg\b[^>]*?(viewBox="[^"]*")[^>]*>',
        r'<svg \1 aria-hidden="true" focusable="false">',
        svg,
        count=1,
    )
    svg = svg.replace("xlink:href", "href")
    for colour, placeholder in COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{colour})")
    return svg


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
