"""The page of ``ops-worker report``: one HTML file that asks nothing of the network, with charts drawn into it.

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
    from ops_worker.history.report import Page

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from ops_worker.adapters.html.charts import Drawing
except ImportError as error:
    raise SettingsError(
        [f"report wants the extra: pip install 'ops-worker[report]' ({error.name} is missing)"]
    ) from None


def render(page: Page) -> str:
    """Write the page as HTML. Whatever a service or a person named is escaped."""
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
    with Drawing() as drawing:
        timelines = ""
        if page.services:
            timelines = _drawn(drawing.timelines(page, page.services[:MAX_TIMELINES]))
        charts = [
            (chart, _drawn(drawing.chart(page, chart, place)))
            for place, chart in enumerate(page.charts)
        ]
    return environment.get_template("page.html").render(
        page=page,
        timelines=timelines,
        max_timelines=MAX_TIMELINES,
        charts=charts,
        bucket_s=(page.ended - page.begun).total_seconds() / page.buckets,
        version=__version__,
        health_pass=HEALTH.name,
    )


def percent(share: float | None) -> str:
    """Write a share in percent, rounded down: 100 % is all of it and nothing less."""
    return "unknown" if share is None else f"{int(share * 100_000 + 1e-6) / 1000:g} %"


def clock(moment: datetime) -> str:
    """Write a time as the page's reader sees it, in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _drawn(svg: str) -> Markup:
    """Mark an SVG as safe: matplotlib escapes the texts in it."""
    return Markup(svg)  # noqa: S704
