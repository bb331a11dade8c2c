"""Build the report on a period from rows: states, outages, incidents and charts."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core import slo, timeline
from ops_worker.core.needs import needs_of
from ops_worker.core.passes import PASSES, expected
from ops_worker.core.samples import CERTIFICATE_DAYS_LEFT, HEALTHY, OPS_WORKER, PROBE_LATENCY_MS
from ops_worker.core.staleness import label, longest_period_s, stale_after_s
from ops_worker.core.timeline import WORST_FIRST
from ops_worker.history import status
from ops_worker.history.actions import action_document
from ops_worker.history.buckets import grid, whole_buckets
from ops_worker.history.days import Interval, days, seconds_within, united
from ops_worker.history.ledger import summaries, timelines
from ops_worker.history.outages import is_unhealthy, outages
from ops_worker.text import format_labels, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ops_worker.core.model import Target
    from ops_worker.core.slo import Budget
    from ops_worker.core.staleness import PassRecord
    from ops_worker.core.timeline import Availability, Piece
    from ops_worker.core.totals import Summary
    from ops_worker.history.actions import Action
    from ops_worker.history.days import Day
    from ops_worker.history.ledger import LedgerRows
    from ops_worker.history.outages import Outage
    from ops_worker.history.rows import (
        ActionRow,
        AlertRow,
        MaintenanceRow,
        PassCountRow,
    )
    from ops_worker.history.series import Series
    from ops_worker.history.status import ServiceStatus, Status, StatusLedger, StatusRows

MAX_BUCKETS = 144
"""Maximum number of points in a chart: one for every ten minutes of a day."""
BUCKET_PERIODS = 2
"""A point covers at least this many periods of the slowest pass.

With fewer, some points would have no row although no pass was missed.
"""
STATE_BUCKETS = 180
"""Parts of a state bar. On a phone, each part is 2 pixels wide; narrower parts are not visible."""
CALENDAR_AFTER = timedelta(days=4)
"""A longer period has a calendar, with a bar for each day, instead of one state bar."""
MAX_DAYS = 400
"""Longest calendar in days: the default of ``HISTORY_DAYS``, for which the ledger keeps states."""
MAX_DRAWN = 100
"""Maximum number of services with a bar and a list of outages: the worst ones get them."""
MAX_CHARTS = 60
"""Maximum number of charts in a report."""
MAX_MAINTENANCES = 500
"""Maximum number of maintenances in the list: the newest ones.

A window that repeats every day has many occurrences.
"""
MAX_ACTIONS = 500
"""Maximum number of people's actions in the list: the newest ones.

A script may have done thousands.
"""
UNITS = {"ms": "ms", "bytes": "bytes", "seconds": "s", "s": "s", "percent": "%"}
"""The unit of a metric by the last word of its name."""


class ReportRows(NamedTuple):
    """The rows from which a report is built, read at one moment, ``now`` of the database's clock.

    The period is from ``begun`` to ``ended``. ``status`` has the rows up to ``ended``; its series
    may begin later than the period. ``ledger`` is None if there is no ledger or it may not be read.
    """

    now: datetime
    begun: datetime
    ended: datetime
    status: StatusRows
    ledger: StatusLedger | None
    incidents: Sequence[AlertRow]
    maintenances: Sequence[MaintenanceRow]
    actions: Sequence[ActionRow]


class ServiceReport(NamedTuple):
    """The report on one service in the period.

    ``budget`` is for the objective's window, which ends with the period. Only a service with
    ``is_drawn`` has ``outages``, the oldest first. It also has ``states``, one for each bucket of
    the period, or ``days`` if the period is long. ``planned_s`` is how many seconds of its outages
    were in maintenance.
    """

    service: str
    summary: Summary
    budget: Budget | None
    is_drawn: bool = False
    outages: Sequence[Outage] = ()
    planned_s: float = 0.0
    states: Sequence[str] = ()
    days: Sequence[Day] = ()

    @property
    def total(self) -> Availability:
        """The seconds in each state, and the availability that follows from them."""
        return self.summary.availability

    @property
    def unhealthy_s(self) -> float:
        """The seconds in which the service was seen and was not healthy."""
        return sum(self.total.seconds[state] for state in WORST_FIRST)

    @property
    def longest(self) -> Outage | None:
        """The longest single outage; of equally long outages, the first one."""
        return max(self.outages, key=lambda outage: outage.seconds, default=None)


class Now(NamedTuple):
    """What is wrong at the end of a period that ends now.

    ``wrong`` has the services that are unhealthy or stale. ``missing`` has the monitored services
    that no pass has recorded.
    """

    verdict: str
    status: Status
    wrong: Sequence[ServiceStatus]
    missing: Sequence[str]


class Chart(NamedTuple):
    """One series as the points of a chart: the middle of each bucket, its mean and its maximum.

    The points of a counter are its growth per second, and ``peaks`` is then None. A point is None
    if its bucket has no rows.
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

    ``stopped_s`` is the time in seconds since the last record if the pass has stopped, else 0. With
    ``missed_is_least``, more passes than ``missed`` may have been missed.
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

    ``opened_before`` is whether it opened before the period. ``seconds`` is the time from its
    opening to its closing, or to the end of the period.
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
    """A maintenance as people started and ended it; ``ended`` may be in the future.

    ``services`` is empty for all services.
    """

    begun: datetime
    ended: datetime
    started_by: str
    ended_by: str
    reason: str
    services: Sequence[str] = ()


class Report(NamedTuple):
    """The content of a report, read at one moment, ``read_at`` of the database's clock.

    ``present`` is None if the period ends in the past. ``services`` has the worst services first;
    drawn services come before the others. Their calendars begin at ``calendar_begun``, which is
    None if the period is short. Passes and charts begin at ``samples_begun``. ``left_out`` is the
    number of series without a chart. ``passes`` belong to ``installation``.
    ``other_installations`` use the same database.
    """

    begun: datetime
    ended: datetime
    read_at: datetime
    present: Now | None
    has_ledger: bool
    services: Sequence[ServiceReport]
    calendar_begun: datetime | None
    incidents: Sequence[Incident]
    maintenances: Sequence[Maintenance]
    actions: Sequence[Action]
    samples_begun: datetime
    passes: Sequence[PassSummary]
    charts: Sequence[Chart]
    buckets: int
    left_out: int
    installation: str
    other_installations: Sequence[str]


def probing(records: Iterable[PassRecord]) -> list[PassRecord]:
    """Return the records of the passes that probe. These write a sample of each series."""
    return [record for record in records if record.name not in PASSES or PASSES[record.name].probes]


def buckets(since_s: float, longest_s: float) -> int:
    """Return the number of points in a chart of ``since_s`` seconds.

    ``longest_s`` is the longest period of the passes that probe, in seconds.
    """
    number = int(since_s / (BUCKET_PERIODS * longest_s))
    return whole_buckets(since_s, max(1, min(MAX_BUCKETS, number)))


def build(
    rows: ReportRows,
    points: int,
    targets: Sequence[Target],
    maintenance_until: datetime | None = None,
) -> Report:
    """Build the report.

    ``points`` is the number of buckets of each series. ``maintenance_until`` is the end of the
    maintenance in the settings, or None.
    """
    maintained = maintenances(rows.maintenances)
    calendar_begun = None
    services: list[ServiceReport] = []
    if rows.ledger is not None:
        calendar_begun = _calendar_begun(rows, rows.ledger)
        services = _services(rows.ledger, calendar_begun, maintained)
    present = None
    if rows.ended >= rows.now:
        present = _now(rows, targets, maintenance_until)
    samples_begun = rows.ended - timedelta(seconds=rows.status.since_s)
    charts, left_out = _charts(rows.status.series, points, samples_begun, rows.ended, targets)
    return Report(
        begun=rows.begun,
        ended=rows.ended,
        read_at=rows.now,
        present=present,
        has_ledger=rows.ledger is not None,
        services=services,
        calendar_begun=calendar_begun,
        incidents=_incidents(rows),
        maintenances=maintained[::-1],
        actions=[action_document(row) for row in reversed(rows.actions)],
        samples_begun=samples_begun,
        passes=_passes(rows.status),
        charts=charts,
        buckets=points,
        left_out=left_out,
        installation=one_line(rows.status.installation),
        other_installations=[one_line(row.name) for row in rows.status.other_installations],
    )


# What is wrong now.


def _now(rows: ReportRows, targets: Sequence[Target], maintenance_until: datetime | None) -> Now:
    series_of = {target.name: target.series for target in targets}
    # The report shows the series as charts, not in the status.
    document = status.build(
        rows.status._replace(series=()),
        series_of,
        maintenance_until,
        needs=needs_of(targets),
    )
    wrong = [service for service in document.services if service.state != HEALTHY]
    wrong.sort(key=status.urgency)
    return Now(document.verdict, document, wrong, document.missing)


# Services.


def _calendar_begun(rows: ReportRows, ledger: StatusLedger) -> datetime | None:
    """Return when the calendars begin; None if the period is too short for a calendar.

    Days before the first recorded pass are left out.
    """
    if rows.ended - rows.begun <= CALENDAR_AFTER:
        return None
    begun = max(rows.begun, rows.ended - timedelta(days=MAX_DAYS))
    firsts = [run.first_at for runs in ledger.period.runs.values() for run in runs]
    first = min(firsts, default=begun).astimezone(UTC)
    if begun < first < rows.ended:
        begun = max(begun, datetime.combine(first.date(), time(), tzinfo=UTC))
    return begun


def _services(
    ledger: StatusLedger, calendar_begun: datetime | None, maintained: Sequence[Maintenance]
) -> list[ServiceReport]:
    """Return the services, sorted by unhealthy time, the longest first; draw the worst ones."""
    budgets = {
        service: slo.budget(ledger.objectives[service], summary.availability)
        for window in ledger.windows
        for service, summary in summaries(window)
    }
    services = []
    for name, summary in summaries(ledger.period):
        services.append((name, ServiceReport(one_line(name), summary, budgets.get(name))))
    services.sort(key=lambda item: _urgency(item[1]))
    rows = ledger.period._replace(services=[name for name, _ in services[:MAX_DRAWN]])
    drawn = [
        _drawn(service, pieces, calendar_begun, rows, planned_times(maintained, name))
        for (name, service), (_, pieces) in zip(services, timelines(rows), strict=False)
    ]
    return [*drawn, *(service for _, service in services[MAX_DRAWN:])]


def planned_times(maintained: Iterable[Maintenance], service: str) -> list[Interval]:
    """Return the times in which a service was under maintenance, without overlaps."""
    return united(
        Interval(item.begun, item.ended)
        for item in maintained
        if not item.services or service in item.services
    )


def _urgency(service: ServiceReport) -> tuple[float, float, str]:
    return (-service.unhealthy_s, service.total.coverage, service.service)


def _drawn(
    service: ServiceReport,
    pieces: Sequence[Piece],
    calendar_begun: datetime | None,
    rows: LedgerRows,
    planned: Sequence[Interval],
) -> ServiceReport:
    """Return a service with its outages, and with a state bar or a calendar."""
    unhealthy = filter(is_unhealthy, pieces)
    service = service._replace(
        is_drawn=True,
        outages=[outage._replace(reason=one_line(outage.reason)) for outage in outages(pieces)],
        planned_s=sum(seconds_within(piece, planned) for piece in unhealthy),
    )
    if calendar_begun is None:
        states = timeline.bucket_states(pieces, rows.since, rows.until, STATE_BUCKETS)
        return service._replace(states=states)
    return service._replace(days=days(pieces, calendar_begun, rows.until))


# People, incidents and passes.


def maintenances(rows: Iterable[MaintenanceRow]) -> list[Maintenance]:
    """Return the maintenances that people started, the oldest first.

    A person may start a maintenance again before it ends, for the same reason and services. Then
    both are merged, even if another maintenance was started between them.
    """
    merged: list[Maintenance] = []
    places: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for row in rows:
        maintenance = Maintenance(
            begun=row.begun,
            ended=row.ended,
            started_by=one_line(row.started_by),
            ended_by=one_line(row.ended_by or ""),
            reason=one_line(row.reason),
            services=tuple(row.services),
        )
        key = (maintenance.started_by, maintenance.reason, tuple(row.services))
        place = places.get(key)
        if place is not None and merged[place].ended >= maintenance.begun:
            merged[place] = maintenance._replace(begun=merged[place].begun)
        else:
            places[key] = len(merged)
            merged.append(maintenance)
    return merged


def _incidents(rows: ReportRows) -> list[Incident]:
    """Return the incidents, the newest first."""
    incidents = [
        _incident(row, rows.begun, rows.ended)
        for row in rows.incidents
        # The opening time of an open alert may be in the future, written by a wrong clock.
        if row.created_at <= rows.ended or rows.ended >= rows.now
    ]
    return incidents[::-1]


def _incident(row: AlertRow, begun: datetime, ended: datetime) -> Incident:
    # An open alert may have a closing time, which an earlier release wrote.
    closed_at = row.closed_at if row.status == "CLOSED" else None
    open_s = ((closed_at or ended) - row.created_at).total_seconds()
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

    ``period_s`` is None if the shard of the pass no longer exists. Such a shard does not count as
    stopped.
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


def _charts(
    all_series: Sequence[Series],
    points: int,
    begun: datetime,
    ended: datetime,
    targets: Iterable[Target],
) -> tuple[list[Chart], int]:
    """Return the charts, and the number of series that have none."""
    candidates = [series for series in all_series if _has_chart(series)]
    drawn = [series for series in candidates if _points(series) > 1]
    drawn.sort(key=lambda series: (_chart_group(series), series.service or "", series.metric))
    drawn = drawn[:MAX_CHARTS]
    names = {target.series: target.name for target in targets}
    times = grid(ended, (ended - begun).total_seconds(), points).middles
    charts = [_chart(series, names, times) for series in drawn]
    return charts, len(candidates) - len(drawn)


def _has_chart(series: Series) -> bool:
    """Return whether a series gets a chart.

    Health is shown as a timeline instead. Of the self-metrics, only the duration of passes is
    useful as a chart.
    """
    if series.metric == HEALTHY:
        return False
    return series.service != OPS_WORKER or series.metric == "pass_duration_ms"


def _points(series: Series) -> int:
    return len(series.growth) if series.counts else len(series.buckets)


def _chart_group(series: Series) -> int:
    """Return the rank of a chart: latencies, then counters and figures, then self-metrics."""
    if series.metric == PROBE_LATENCY_MS:
        return 0
    return 2 if series.service == OPS_WORKER else 1


def _chart(series: Series, names: Mapping[str, str], times: Sequence[datetime]) -> Chart:
    unit = UNITS.get(series.metric.rpartition("_")[2], "")
    if series.metric == CERTIFICATE_DAYS_LEFT:
        unit = "d"
    chart = Chart(
        service=one_line(names.get(series.service or "", series.service or "(none)")),
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
    """Return the growth per second in a bucket; None if no growth is known."""
    growth = series.growth.get(number)
    if growth is None or not growth.seconds:
        return None
    return growth.increase / growth.seconds
