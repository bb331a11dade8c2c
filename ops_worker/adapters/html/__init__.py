"""Render a report as one HTML file that loads nothing from the network, with its charts as SVG.

The only importer of jinja2 and matplotlib, which come with the extra ``report``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING

from ops_worker import __version__
from ops_worker.core.certificates import end_in_words
from ops_worker.core.needs import with_causes
from ops_worker.core.passes import HEALTH
from ops_worker.core.slo import DAY_S
from ops_worker.errors import SettingsError
from ops_worker.history import report as reports
from ops_worker.history.actions import in_words, named_services
from ops_worker.history.budgets import bounds_of_left, share_left
from ops_worker.history.status import WELL_SEEN
from ops_worker.text import format_duration, format_si, one_line, percent_rounded_down

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops_worker.core.slo import Budget
    from ops_worker.history.days import Day
    from ops_worker.history.report import Report

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    from ops_worker.adapters.html.charts import Drawing
except ImportError as error:
    raise SettingsError(
        [
            (
                "report needs an extra: pip install 'ops-worker[report]', "
                f"or an image built with EXTRAS=report ({error.name} is missing)"
            )
        ]
    ) from None

DECIMALS = 3
"""Number of decimals in a percentage."""
COVERAGE_DECIMALS = 1
"""Number of decimals in the share of time in which the state is known."""
MAX_ROWS = 100
"""Maximum number of services and alerts in the list of current problems."""
MAX_OUTAGES = 50
"""Maximum number of outages that are listed for a service: the newest ones."""
MAX_NAMES = 20
"""Maximum number of services that are named for a maintenance or an action of a person."""
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=%|(?:ms|s|min|h|d)\b)|(?<= [hd]) (?=\d+ (?:s|min|h)\b)")
LEAST_PART = 25.0
"""The least percentage of a day's bar with the pattern of its worst state, however short it was."""


def render(report: Report) -> str:
    """Return a report as HTML. Every name and text in it is escaped."""
    with Drawing() as drawing:
        charts = [
            (chart, _markup(drawing.chart(report, chart, place)))
            for place, chart in enumerate(report.charts)
        ]
    states_now = {}
    certificates = {}
    if report.present:
        services = report.present.status.services
        states_now = {item.service: item.state for item in services}
        days = {item.service: item.certificate_days_left for item in services}
        certificates = {
            name: end_in_words(days_left)
            for name, days_left in days.items()
            if days_left is not None
        }
    samples_s = (report.ended - report.samples_begun).total_seconds()
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            states_now=states_now,
            certificates=certificates,
            planned=list(_planned(report)),
            ticks=_ticks(report),
            charts=charts,
            bucket_s=samples_s / report.buckets,
            last_word="now" if report.present else "at the end",
            state_buckets=reports.STATE_BUCKETS,
            max_days=reports.MAX_DAYS,
            max_drawn=reports.MAX_DRAWN,
            max_actions=reports.MAX_ACTIONS,
            max_rows=MAX_ROWS,
            max_outages=MAX_OUTAGES,
            max_maintenances=reports.MAX_MAINTENANCES,
            coverage_decimals=COVERAGE_DECIMALS,
            well_seen=WELL_SEEN,
            version=__version__,
            health_pass=HEALTH.name,
        )
    )


def _environment() -> Environment:
    """Return the templates with their filters."""
    environment = Environment(
        loader=PackageLoader("ops_worker.adapters.html", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": breakable,
        "budget_left": lambda budget: unbroken(budget_left(budget)),
        "chosen_day": chosen_day,
        "clock": clock,
        "day_numbers": lambda day: unbroken(day_numbers(day)),
        "duration": duration,
        "in_words": in_words,
        "length_of": length_of,
        "listed": listed,
        "month": month,
        "part": part,
        "percent": lambda share, decimals=DECIMALS: unbroken(percent(share, decimals)),
        "segments": segments,
        "si": format_si,
        "stamp": datetime.isoformat,
        "with_causes": with_causes,
    }
    return environment


def percent(share: float | None, decimals: int = DECIMALS) -> str:
    """Return a share as a percentage, rounded down: only a share of exactly 1 is 100 %."""
    if share is None:
        return "unknown"
    return f"{percent_rounded_down(share, decimals):g} %"


def unbroken(text: str) -> str:
    """Return a text without line breaks between a number and its unit, or inside a duration."""
    return _BEFORE_UNIT.sub("\u00a0", text)


def duration(seconds: float) -> str:
    """Return a duration without line breaks."""
    return unbroken(format_duration(seconds))


def length_of(seconds: float) -> str:
    """Return the length of a period. One day is written as 24 h."""
    return "24 h" if round(seconds) == DAY_S else format_duration(seconds)


def listed(services: Sequence[str]) -> str:
    """Return the first services and the number of the others. No names mean all services."""
    names = named_services([one_line(service) for service in services[:MAX_NAMES]])
    others = len(services) - MAX_NAMES
    return f"{names} and {others} more" if others > 0 else names


def breakable(name: str) -> Markup:
    """Return a name with labels. A line may break between two labels, never inside a label."""
    text = str(escape(name))
    return Markup(text.replace("{", "<wbr>{").replace(",", ",<wbr>"))  # noqa: S704


def clock(moment: datetime) -> str:
    """Return a time in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def month(moment: datetime) -> str:
    """Return the name of a month. January has the year, too."""
    return f"{moment:%b %Y}" if moment.month == 1 else f"{moment:%b}"


def segments(states: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each state of a bar and the number of parts for which it lasts."""
    for state, group in groupby(states):
        yield state, len(list(group))


def part(day: Day) -> float:
    """Return the percentage of a day's bar that has the pattern of its worst state.

    It is the unhealthy share of the seen time, but at least LEAST_PART, so that it is visible.
    """
    return round(max(LEAST_PART, 100 * day.unhealthy_s / day.seen_s), 1)


def chosen_day(days: Sequence[Day]) -> Day:
    """Return the day that is selected first: the worst day, or the newest of equally bad days."""
    return max(days, key=lambda day: (day.unhealthy_s, day.begun))


def day_numbers(day: Day) -> str:
    """Return the numbers of a day as one sentence, also for screen readers."""
    date = f"{day.begun:%Y-%m-%d}"
    if day.availability is None:
        return f"{date}: nobody looked"
    text = f"{date}: {percent(day.availability)} healthy"
    if day.unhealthy_s:
        text += f", {format_duration(day.unhealthy_s)} unhealthy (worst: {day.state})"
    return f"{text}, seen {percent(day.coverage, COVERAGE_DECIMALS)}"


def budget_left(budget: Budget) -> str:
    """Return the remaining error budget with its bounds."""
    whole_s = budget.objective.budget_s
    if not budget.coverage:
        return f"unknown: nobody looked (of {format_duration(whole_s)})"
    if budget.left_s < 0:
        used_s = whole_s - budget.left_s
        return f"none left: {format_duration(used_s)} used of {format_duration(whole_s)}"
    bounds = bounds_of_left(budget.least_s, budget.most_s, whole_s)
    share = share_left(budget.left_s, whole_s) + " left" + (f" ({bounds})" if bounds else "")
    return f"{share}: {format_duration(budget.left_s)} of {format_duration(whole_s)}"


def _planned(report: Report) -> Iterator[tuple[float, float]]:
    """Yield the begin and the length of each maintenance of all services, in % of the period."""
    length = report.ended - report.begun
    for item in report.maintenances:
        if item.services:
            continue
        begun = max(item.begun, report.begun)
        ended = min(item.ended, report.ended)
        yield (
            round(100 * (begun - report.begun) / length, 3),
            round(100 * (ended - begun) / length, 3),
        )


def _ticks(report: Report) -> list[str]:
    """Return the three times below a state bar: of its begin, its middle and its end."""
    middle = report.begun + (report.ended - report.begun) / 2
    return [f"{moment:%m-%d %H:%M}" for moment in (report.begun, middle, report.ended)]


def _markup(svg: str) -> Markup:
    """Mark an SVG as safe. matplotlib escapes the texts in it."""
    return Markup(svg)  # noqa: S704
