"""What happened in a period: from rows to availabilities, incidents and charts of a report."""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.passes import HEALTH, METRICS, expected
from ops_worker.core.samples import HEALTHY, MAINTENANCE, OPS_WORKER, PROBE_LATENCY_MS
from ops_worker.core.staleness import label, longest_period_s, stale_after_s
from ops_worker.history.buckets import grid, whole_buckets
from ops_worker.history.series import Key, Run
from ops_worker.text import format_labels, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.model import Target
    from ops_worker.history.rows import AlertRow, MaintenanceRow, PassCountRow
    from ops_worker.history.series import Series
    from ops_worker.history.status import StatusRows

MAX_BUCKETS = 144
"""Highest number of points in a chart: one every ten minutes of a day."""
BUCKET_PERIODS = 2
"""A point covers at least this many periods of the slowest pass.

With fewer, some points would have no row although no pass was missed.
"""
CELLS = 600
"""Parts of a timeline. Each one is as wide as the narrowest mark that can be seen."""
FULL_COVERAGE = 1 - 1e-6
"""A cell is up only if at least this share of it is known; the gap to 1 allows for rounding."""
MAX_CHARTS = 60
MAX_TIMELINES = 100
UNITS = {"ms": "ms", "bytes": "bytes", "seconds": "s", "s": "s", "percent": "%"}
"""The unit of a metric by the last word of its name."""


class HealthRuns(NamedTuple):
    """The runs of every service, by its name, and the periods of maintenance."""

    services: Sequence[tuple[str, Sequence[Run]]]
    maintenance: Sequence[Run]


class Span(NamedTuple):
    """A part of a timeline with one state, in cells: ``down``, ``unknown`` or ``up``."""

    state: str
    first: int
    number: int


class Availability(NamedTuple):
    """How long a service was up, down and unknown, in seconds.

    ``planned_s`` is the part of ``down_s`` in which there was maintenance.
    """

    service: str
    up_s: float
    down_s: float
    unknown_s: float
    planned_s: float
    outages: int
    spans: Sequence[Span]

    @property
    def known_s(self) -> float:
        """The seconds in which it was up or down."""
        return self.up_s + self.down_s

    @property
    def available(self) -> float | None:
        """The share of the known time in which it was up; None if nothing is known."""
        return self.up_s / self.known_s if self.known_s else None

    @property
    def coverage(self) -> float:
        """The share of the whole time that is known."""
        return self.known_s / (self.known_s + self.unknown_s)


class Chart(NamedTuple):
    """One series as the points of a chart: the middle of each bucket, its mean and its maximum.

    The points of a counter are its growth per second, and ``peaks`` is None. A point without rows
    is None.
    """

    service: str
    metric: str
    unit: str
    latest: float | None
    times: Sequence[datetime]
    means: Sequence[float | None]
    peaks: Sequence[float | None] | None


class PassSummary(NamedTuple):
    """How often a pass was recorded, and how often it was missed between the first and last time.

    ``stopped_s`` is for how many seconds it has not been recorded, if it has stopped, else 0.
    ``missed_is_least`` is whether more may have been missed.
    """

    name: str
    period_s: float | None
    first: datetime | None
    last: datetime | None
    recorded: int
    missed: int
    stopped_s: float
    missed_is_least: bool = False


class Incident(NamedTuple):
    """A system alert that was open in the period.

    ``opened_before`` is whether it opened before the period, ``seconds`` is how long it was open.
    """

    id: int
    service: str
    status: str
    summary: str
    created_at: datetime
    closed_at: datetime | None
    acknowledged_by: str
    acknowledged_at: datetime | None
    opened_before: bool
    seconds: float


class Maintenance(NamedTuple):
    """A maintenance as people started and ended it; ``ended`` may be in the future."""

    begun: datetime
    ended: datetime
    started_by: str
    ended_by: str
    reason: str


class Report(NamedTuple):
    """The content of a report, read at one moment of the database's clock, ``ended``.

    ``maintenance`` has the periods in which the health pass recorded one; ``maintenances`` has
    those that people started. ``left_out`` is how many series have no chart.
    """

    begun: datetime
    ended: datetime
    services: Sequence[Availability]
    maintenance: Sequence[Run]
    incidents: Sequence[Incident]
    passes: Sequence[PassSummary]
    charts: Sequence[Chart]
    buckets: int
    left_out: int
    maintenances: Sequence[Maintenance] = ()


# What to read.


def buckets(since_s: float, longest_s: float) -> int:
    """Return the number of points in a chart over ``since_s`` seconds.

    ``longest_s`` is the longest period of any pass, in seconds.
    """
    number = int(since_s / (BUCKET_PERIODS * longest_s))
    return whole_buckets(since_s, max(1, min(MAX_BUCKETS, number)))


def health_series(series: Iterable[Series], targets: Iterable[Target]) -> list[tuple[Key, str]]:
    """Return the series of health and of maintenance, each with the pass that writes it.

    Every monitored service is among them, also without a row.
    """
    series = tuple(series)
    health = [item.key for item in series if item.metric == HEALTHY]
    monitored = [Key(target.series, HEALTHY, dict(target.tags)) for target in targets]
    health += [key for key in monitored if key not in health]
    own = [item for item in series if item.service == OPS_WORKER]
    maintenance = [item.key for item in own if item.metric == MAINTENANCE]
    return [
        *((key, METRICS.name) for key in health),
        *((key, HEALTH.name) for key in maintenance),
    ]


def health_runs(
    chosen: Sequence[tuple[Key, str]], runs: Sequence[Sequence[Run]], targets: Iterable[Target]
) -> HealthRuns:
    """Return the runs by service, and the periods of maintenance.

    ``chosen`` is the result of ``health_series``; ``runs`` has the runs of each of them.
    """
    names = _service_names(targets)
    services: list[tuple[str, Sequence[Run]]] = []
    maintenance: list[Run] = []
    for (key, _), runs_of_key in zip(chosen, runs, strict=True):
        if key.metric == HEALTHY:
            name = _service_name(key.service, names) + format_labels(key.tags)
            services.append((name, runs_of_key))
        else:
            maintenance += [run for run in runs_of_key if run.up]
    return HealthRuns(services, _merge(maintenance))


def _merge(runs: Iterable[Run]) -> list[Run]:
    """Merge the runs that overlap: every shard of a health pass records the same maintenance."""
    merged: list[Run] = []
    for run in sorted(runs, key=lambda run: run.begun):
        last = merged[-1] if merged else None
        if last is not None and run.begun <= last.ended:
            merged[-1] = last._replace(ended=max(last.ended, run.ended))
        else:
            merged.append(run)
    return merged


# What to show.


def build(
    rows: StatusRows,
    points: int,
    health: HealthRuns,
    incidents: Sequence[AlertRow],
    targets: Iterable[Target],
) -> Report:
    """Build the report: the services with the longest outages first, then by name.

    ``points`` is the number of buckets in the series of ``rows``.
    """
    begun = rows.now - timedelta(seconds=rows.since_s)
    services = [
        _availability(name, runs, health.maintenance, begun, rows.now)
        for name, runs in health.services
    ]
    services.sort(key=lambda service: (-service.down_s, -service.unknown_s, service.service))
    candidates = [series for series in rows.series if _has_chart(series)]
    drawn = [series for series in candidates if _points(series) > 1]
    drawn.sort(key=lambda series: (_chart_group(series), series.service or "", series.metric))
    drawn = drawn[:MAX_CHARTS]
    names = _service_names(targets)
    times = grid(rows.now, rows.since_s, points).middles
    return Report(
        begun=begun,
        ended=rows.now,
        services=services,
        maintenance=health.maintenance,
        incidents=[_incident(row, begun, rows.now) for row in incidents],
        passes=_passes(rows),
        charts=[_chart(series, names, times) for series in drawn],
        buckets=points,
        left_out=len(candidates) - len(drawn),
    )


def maintenances(rows: Iterable[MaintenanceRow]) -> list[Maintenance]:
    """Return the maintenances that people started, the oldest first.

    A maintenance that the same person started again for the same reason, before it ended, is one.
    """
    merged: list[Maintenance] = []
    for row in rows:
        maintenance = Maintenance(
            begun=row.begun,
            ended=row.ended,
            started_by=one_line(row.started_by),
            ended_by=one_line(row.ended_by or ""),
            reason=one_line(row.reason),
        )
        if merged and _is_repeat(maintenance, merged[-1]):
            merged[-1] = maintenance._replace(begun=merged[-1].begun)
        else:
            merged.append(maintenance)
    return merged


def _is_repeat(maintenance: Maintenance, before: Maintenance) -> bool:
    same_person = maintenance.started_by == before.started_by
    same_reason = maintenance.reason == before.reason
    return same_person and same_reason and before.ended >= maintenance.begun


# Availability.


def _availability(
    service: str, runs: Sequence[Run], maintenance: Sequence[Run], begun: datetime, ended: datetime
) -> Availability:
    outages = [run for run in runs if not run.up]
    up_s = sum(run.seconds for run in runs if run.up)
    down_s = sum(run.seconds for run in outages)
    whole_s = (ended - begun).total_seconds()
    return Availability(
        service=service,
        up_s=up_s,
        down_s=down_s,
        unknown_s=max(0.0, whole_s - up_s - down_s),
        planned_s=sum(_overlap_s(outage, run) for outage in outages for run in maintenance),
        outages=len(outages),
        spans=spans(runs, begun, ended),
    )


def _overlap_s(first: Run, second: Run) -> float:
    begun, ended = max(first.begun, second.begun), min(first.ended, second.ended)
    return max(0.0, (ended - begun).total_seconds())


def spans(runs: Sequence[Run], begun: datetime, ended: datetime, cells: int = CELLS) -> list[Span]:
    """Lay runs out on a timeline of so many cells.

    A cell is down if the service was down at any time of it, so that a short outage is seen. It is
    up only if all of it is known.
    """
    cell_s = (ended - begun).total_seconds() / cells
    known = [0.0] * cells
    down = [False] * cells
    for run in runs:
        low = (run.begun - begun).total_seconds() / cell_s
        high = (run.ended - begun).total_seconds() / cell_s
        for cell in range(_cell(low, cells), _cell(high, cells) + 1):
            part = max(0.0, min(high, cell + 1) - max(low, cell))
            known[cell] += part
            if part > 0 and not run.up:
                down[cell] = True
    states = ["up" if share > FULL_COVERAGE else "unknown" for share in known]
    for cell in range(cells):
        if down[cell]:
            states[cell] = "down"
    result: list[Span] = []
    first = 0
    for state, group in groupby(states):
        number = len(list(group))
        result.append(Span(state, first, number))
        first += number
    return result


def _cell(position: float, cells: int) -> int:
    return min(cells - 1, max(0, int(position)))


def _service_names(targets: Iterable[Target]) -> dict[str, str]:
    """Return the name of each monitored service by its name in ``system_metrics``."""
    return {target.series: target.name for target in targets}


def _service_name(series: str | None, names: Mapping[str, str]) -> str:
    return one_line(names.get(series or "", series or "(none)"))


# Incidents and passes.


def _incident(row: AlertRow, begun: datetime, now: datetime) -> Incident:
    # An open alert may have the time at which an earlier release closed it.
    closed_at = row.closed_at if row.status == "CLOSED" else None
    open_s = ((closed_at or now) - row.created_at).total_seconds()
    return Incident(
        id=row.id,
        service=one_line(row.service),
        status=row.status,
        summary=one_line(row.summary),
        created_at=row.created_at,
        closed_at=closed_at,
        acknowledged_by=one_line(row.acknowledged_by or ""),
        acknowledged_at=row.acknowledged_at,
        opened_before=row.created_at < begun,
        seconds=max(0.0, open_s),
    )


def _passes(rows: StatusRows) -> list[PassSummary]:
    """Return each pass or shard that was recorded in the period, or should have been."""
    if not rows.counts and not rows.passes:
        return []  # No pass runs, or RECORD_OWN_METRICS is off.
    periods = {(record.name, record.shard): longest_period_s([record]) for record in rows.passes}
    summaries = [
        _pass_summary(count, rows.now, periods.pop((count.name, count.shard), None))
        for count in rows.counts
    ]
    silent = {label(name, shard) for name, shard in periods}
    silent |= expected() - {count.name for count in rows.counts}
    return summaries + [_silent_pass(name, rows.since_s) for name in sorted(silent)]


def _pass_summary(count: PassCountRow, now: datetime, period_s: float | None) -> PassSummary:
    """Return the summary of a recorded pass.

    Without a period, it belongs to a shard that no longer exists; such a shard has not stopped.
    """
    age_s = (now - count.last).total_seconds()
    stopped = period_s is not None and age_s > stale_after_s(period_s)
    return PassSummary(
        name=one_line(label(count.name, count.shard)),
        period_s=period_s,
        first=count.first,
        last=count.last,
        recorded=count.recorded,
        missed=count.missed,
        stopped_s=age_s if stopped else 0.0,
        missed_is_least=count.missed_is_least,
    )


def _silent_pass(name: str, since_s: float) -> PassSummary:
    return PassSummary(
        name=name,
        period_s=None,
        first=None,
        last=None,
        recorded=0,
        missed=0,
        stopped_s=since_s,
    )


# Charts.


def _has_chart(series: Series) -> bool:
    """Return whether a series is worth a chart: health is a timeline, most self-metrics are not."""
    if series.metric == HEALTHY:
        return False
    return series.service != OPS_WORKER or series.metric == "pass_duration_ms"


def _points(series: Series) -> int:
    return len(series.growth) if series.counts else len(series.buckets)


def _chart_group(series: Series) -> int:
    """Return the place of a chart: latencies, then counters and figures, then self-metrics."""
    if series.metric == PROBE_LATENCY_MS:
        return 0
    return 2 if series.service == OPS_WORKER else 1


def _chart(series: Series, names: Mapping[str, str], times: Sequence[datetime]) -> Chart:
    unit = UNITS.get(series.metric.rpartition("_")[2], "")
    chart = Chart(
        service=_service_name(series.service, names),
        metric=one_line(series.metric) + format_labels(series.tags),
        unit=unit,
        latest=series.latest,
        times=times,
        means=(),
        peaks=None,
    )
    numbers = range(1, len(times) + 1)
    if series.counts:
        rates = [_rate(series, number) for number in numbers]
        return chart._replace(unit=f"{unit} per s".strip(), means=rates)
    buckets = [series.buckets.get(number) for number in numbers]
    return chart._replace(
        means=[bucket.mean if bucket else None for bucket in buckets],
        peaks=[bucket.peak if bucket else None for bucket in buckets],
    )


def _rate(series: Series, number: int) -> float | None:
    """Return the growth per second in a bucket; None if nothing is known about it."""
    growth = series.growth.get(number)
    if growth is None or not growth.seconds:
        return None
    return growth.increase / growth.seconds
