"""Render a report as one HTML file that loads nothing from the network, with its charts as SVG.

The only importer of jinja2 and matplotlib, which come with the extra ``report``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ops_worker import __version__
from ops_worker.core.passes import HEALTH
from ops_worker.errors import SettingsError
from ops_worker.history.report import MAX_TIMELINES
from ops_worker.text import format_duration, format_si

if TYPE_CHECKING:
    from ops_worker.history.report import Report

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from ops_worker.adapters.html.charts import Drawing
except ImportError as error:
    raise SettingsError(
        [f"report needs an extra: pip install 'ops-worker[report]' ({error.name} is missing)"]
    ) from None

PERCENT_STEPS = 100_000
"""Steps from 0 to 100 %: a percentage has three decimals."""
ROUNDING = 1e-6
"""Added before rounding down, so that 0.98 is not 97.999 % because of its binary fraction."""


def render(report: Report) -> str:
    """Return a report as HTML. Every name and text in it is escaped."""
    environment = Environment(
        loader=PackageLoader("ops_worker.adapters.html", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": format_duration,
        "si": format_si,
        "percent": percent,
        "clock": clock,
        "stamp": datetime.isoformat,
    }
    timelines = Markup()
    with Drawing() as drawing:
        if report.services:
            drawn = report.services[:MAX_TIMELINES]
            timelines = _markup(drawing.timelines(report, drawn))
        charts = [
            (chart, _markup(drawing.chart(report, chart, place)))
            for place, chart in enumerate(report.charts)
        ]
    return environment.get_template("page.html").render(
        report=report,
        timelines=timelines,
        max_timelines=MAX_TIMELINES,
        charts=charts,
        bucket_s=(report.ended - report.begun).total_seconds() / report.buckets,
        version=__version__,
        health_pass=HEALTH.name,
    )


def percent(share: float | None) -> str:
    """Return a share as a percentage, rounded down: only the whole is 100 %."""
    if share is None:
        return "unknown"
    return f"{int(share * PERCENT_STEPS + ROUNDING) / (PERCENT_STEPS / 100):g} %"


def clock(moment: datetime) -> str:
    """Return a time in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _markup(svg: str) -> Markup:
    """Mark an SVG as safe: matplotlib escapes the texts in it."""
    return Markup(svg)  # noqa: S704
