"""Draw charts as SVG for an HTML page: lines over time, in the page's colours."""

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
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.history.report import Chart, Report

COLOURS = {
    "text": "#010101",
    "grid": "#020202",
    "mean": "#030303",
    "peak": "#040404",
}
"""A placeholder for each colour. Only the page knows whether its theme is light or dark."""
CHART_IN = (4.6, 1.9)
"""Width and height of a chart in inches. It is as wide as a phone, so that the text is readable."""
LINES: dict[str, Any] = {"mean": "solid", "peak": (0, (4, 1.5))}
"""The pattern of each line, for readers who cannot distinguish colours."""
HEADROOM = 0.08
"""The share of an axis that stays free beyond the values, so that no line is on the edge."""
MEAN_WIDTH, PEAK_WIDTH = 1.6, 0.9
"""Widths of the lines in points."""
STYLE: dict[Any, Any] = {
    # Keep text as text: it can be searched and read aloud, and has the font of the page.
    "svg.fonttype": "none",
    "svg.hashsalt": "ops-worker",
    # Draw every point.
    "path.simplify": False,
    # Do not read a dollar sign in a name as mathematics.
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
        # The browser has the glyphs. matplotlib only estimates their width.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        return self

    def __exit__(self, *error: object) -> None:
        self._style.close()

    def chart(self, report: Report, chart: Chart, place: int) -> str:
        """Draw a series: the mean of each bucket, and its maximum as a thin dashed line.

        The axis includes zero, so that heights are proportional to values. A bucket without rows is
        a gap. ``place`` makes the IDs in the SVG unique.
        """
        figure, axes = _figure(*CHART_IN)
        name = "per second"
        if chart.peaks is not None:
            name = "mean"
            _line(axes, chart.times, chart.peaks, "peak", PEAK_WIDTH)
        _line(axes, chart.times, chart.means, "mean", MEAN_WIDTH)
        values = [value for value in (*chart.means, *(chart.peaks or ())) if value is not None]
        _value_axis(axes, values)
        _legend(axes, name, has_peaks=chart.peaks is not None)
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylabel(chart.unit or "number")
        _time_axis(axes, report)
        figure.subplots_adjust(left=0.16, right=0.97, top=0.88, bottom=0.22)
        return _svg(figure, f"chart{place}")


def _figure(width_in: float, height_in: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width_in, height_in))
    return figure, figure.add_subplot()


def _line(
    axes: Any, times: Sequence[Any], values: Sequence[float | None], name: str, width: float
) -> None:
    """Draw a line with gaps, and a dot for each value between two gaps."""
    heights = [float("nan") if value is None else value for value in values]
    axes.plot(
        times,
        heights,
        color=COLOURS[name],
        linewidth=width,
        linestyle=LINES[name],
        solid_joinstyle="round",
        gid=name,
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


def _legend(axes: Any, name: str, *, has_peaks: bool) -> None:
    """Name the lines above the chart, each name beside a piece of its line."""
    lines = [("mean", name, MEAN_WIDTH)]
    if has_peaks:
        lines.append(("peak", "maximum", PEAK_WIDTH))
    handles = [
        Line2D([], [], color=COLOURS[line], linestyle=LINES[line], linewidth=width, label=text)
        for line, text, width in lines
    ]
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=2,
        frameon=False,
        borderaxespad=0.0,
        labelcolor=COLOURS["text"],
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


def _value_axis(axes: Any, values: Sequence[float]) -> None:
    """Extend the axis to zero, and leave some room beyond the values."""
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = (high - low) * HEADROOM
    if low < 0:
        low -= margin
    if high > 0 or low == 0:
        high += margin or 1.0
    axes.set_ylim(low, high)


def _time_axis(axes: Any, report: Report) -> None:
    axes.set_xlim(report.samples_begun, report.ended)
    untyped: Any = dates  # matplotlib has no types for this module.
    locator = untyped.AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator, tz=UTC))


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an element of a page.

    The IDs of the element begin with ``name``, and its colours are those of the page. It is hidden
    from screen readers, which read the table beside it.
    """
    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=metadata)
    svg = file.getvalue()
    # Remove the XML declaration, the doctype and the metadata.
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
