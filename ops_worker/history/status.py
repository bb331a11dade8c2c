"""The current state, from rows to one document and to tables. Stale is never shown as healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.decoding import parse_time
from ops_worker.core.health import maintenance_end
from ops_worker.core.passes import HEALTH, METRICS, expected
from ops_worker.core.samples import HEALTHY, OPS_WORKER, PROBE_LATENCY_MS
from ops_worker.core.staleness import PassRecord, label, longest_period_s, period_of, stale_after_s
from ops_worker.history.screen import ScreenTable, format_ago, sparkline
from ops_worker.text import format_age, format_labels, format_si, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.history.rows import (
        JsonValue,
        OpenAlertRow,
        PassCountRow,
        RunningMaintenance,
        ServiceRow,
    )
    from ops_worker.history.series import Series

BUCKETS = 24
"""Points of a sparkline."""
HEALTHY_SCALE = (0.0, 1.0)
"""The scale of the sparkline of ``healthy``, which is 0 or 1."""


class StatusRows(NamedTuple):
    """The rows that a status is made of, read at one moment of the database's clock.

    ``counts`` and ``series`` cover the last ``since_s`` seconds.
    """

    now: datetime
    since_s: float
    services: Sequence[ServiceRow]
    alerts: Sequence[OpenAlertRow]
    passes: Sequence[PassRecord]
    counts: Sequence[PassCountRow]
    series: Sequence[Series]
    maintenance: RunningMaintenance | None


class ServiceStatus(NamedTuple):
    """The state of a service; ``last_state`` is the recorded one, also where that is stale."""

    service: str
    state: str
    stale: bool
    last_state: str
    since: datetime | None
    since_s: float | None
    latency_ms: int | None
    latency_history: Sequence[float | None]
    checked_at: datetime
    age_s: float
    reason: str


class OpenAlert(NamedTuple):
    """An alert that is open or acknowledged."""

    id: int
    service: str
    status: str
    summary: str
    created_at: datetime
    age_s: float
    acknowledged_by: str | None
    acknowledged_at: datetime | None


class MaintenanceStatus(NamedTuple):
    """The maintenance that is running, and the seconds until its end."""

    until: datetime
    left_s: float
    started_by: str
    reason: str


class PassStatus(NamedTuple):
    """The last record of a pass or shard, its period, and how many passes were missed."""

    pass_: str
    shard: str | None
    last_success: datetime
    age_s: float
    period_s: float
    missed: int
    stale: bool


class SeriesStatus(NamedTuple):
    """The newest value of a series, its rate, and the mean of each bucket; None without rows."""

    service: str
    metric: str
    tags: JsonValue
    value: float | None
    time: datetime
    age_s: float
    stale: bool
    rate_per_s: float | None
    history: Sequence[float | None]


class Status(NamedTuple):
    """The document of ``ops-worker status``. The fields of these types are its keys."""

    at: datetime
    since_s: float
    services: Sequence[ServiceStatus]
    alerts: Sequence[OpenAlert]
    maintenance: MaintenanceStatus | None
    passes: Sequence[PassStatus]
    series: Sequence[SeriesStatus]


def build(
    rows: StatusRows, series_of: Mapping[str, str], maintenance_until: datetime | None = None
) -> Status:
    """Build the document.

    ``series_of`` is the name in ``system_metrics`` by service. ``maintenance_until`` is the end of
    the maintenance in the settings, if they have one.
    """
    metrics_s = period_of(rows.passes, METRICS.name)
    health_s = period_of(rows.passes, HEALTH.name)
    series = [_series(series, rows.now, metrics_s) for series in rows.series]
    latencies = {item.service: item.history for item in series if item.metric == PROBE_LATENCY_MS}
    services = []
    for row in rows.services:
        history = latencies.get(series_of.get(row.service, row.service), ())
        services.append(_service(row, rows.now, health_s, history))
    return Status(
        at=rows.now,
        since_s=rows.since_s,
        services=services,
        alerts=[_alert(row, rows.now) for row in rows.alerts],
        maintenance=_maintenance(rows, maintenance_until),
        passes=[_pass(record, rows) for record in rows.passes],
        series=[item for item in series if _is_listed(item)],
    )


def _service(
    row: ServiceRow, now: datetime, period_s: float, history: Sequence[float | None]
) -> ServiceStatus:
    age_s = (now - row.checked_at).total_seconds()
    since = parse_time(row.since)
    # A time in the future is stale, too: the clock that wrote it was set back.
    stale = not -period_s <= age_s <= stale_after_s(period_s)
    last_state = one_line(row.state or row.status)
    state = last_state
    reason = one_line(row.reason or "")
    if stale:
        state = "stale"
        reason = f"no pass has looked since; it was {last_state}"
    return ServiceStatus(
        service=one_line(row.service),
        state=state,
        stale=stale,
        last_state=last_state,
        since=since,
        since_s=(now - since).total_seconds() if since else None,
        latency_ms=row.latency_ms,
        latency_history=history,
        checked_at=row.checked_at,
        age_s=age_s,
        reason=reason,
    )


def _alert(row: OpenAlertRow, now: datetime) -> OpenAlert:
    return OpenAlert(
        id=row.id,
        service=one_line(row.service),
        status=row.status,
        summary=one_line(row.summary),
        created_at=row.created_at,
        age_s=(now - row.created_at).total_seconds(),
        acknowledged_by=one_line(row.acknowledged_by or "") or None,
        acknowledged_at=row.acknowledged_at,
    )


def _maintenance(rows: StatusRows, setting: datetime | None) -> MaintenanceStatus | None:
    """Return the running maintenance that ends last: that of the database or of the setting."""
    running = rows.maintenance
    until = maintenance_end(running.until if running else None, setting, rows.now)
    if until is None:
        return None
    if running is None or until > running.until:
        return MaintenanceStatus(
            until=until,
            left_s=(until - rows.now).total_seconds(),
            started_by="MAINTENANCE_UNTIL",
            reason="",
        )
    return MaintenanceStatus(
        until=until,
        left_s=running.left_s,
        started_by=one_line(running.started_by),
        reason=one_line(running.reason),
    )


def _pass(record: PassRecord, rows: StatusRows) -> PassStatus:
    missed = [
        count.missed
        for count in rows.counts
        if (count.name, count.shard) == (record.name, record.shard)
    ]
    return PassStatus(
        pass_=record.name,
        shard=record.shard,
        last_success=record.time,
        age_s=record.age_s(rows.now),
        period_s=longest_period_s([record]),
        missed=sum(missed),
        stale=record.is_stale(rows.now),
    )


def _series(series: Series, now: datetime, period_s: float) -> SeriesStatus:
    age_s = (now - series.last).total_seconds()
    buckets = [series.buckets.get(number) for number in range(1, BUCKETS + 1)]
    return SeriesStatus(
        service=one_line(series.service or ""),
        metric=one_line(series.metric),
        tags=series.tags or {},
        value=series.latest,
        time=series.last,
        age_s=age_s,
        stale=age_s > stale_after_s(period_s),
        rate_per_s=series.rate_per_s,
        history=[bucket.mean if bucket else None for bucket in buckets],
    )


def _is_listed(series: SeriesStatus) -> bool:
    """Return whether a series is in the list: latencies and self-metrics are shown elsewhere."""
    return series.metric != PROBE_LATENCY_MS and series.service != OPS_WORKER


def tables(status: Status) -> list[ScreenTable]:
    """Lay the document out as tables."""
    return [
        _maintenance_table(status.maintenance),
        _services_table(status.services),
        _alerts_table(status.alerts),
        _passes_table(status.passes),
        _series_table(status),
    ]


def _maintenance_table(maintenance: MaintenanceStatus | None) -> ScreenTable:
    rows: tuple[tuple[str, ...], ...] = ()
    if maintenance:
        left = format_age(maintenance.left_s)
        rows = ((left, maintenance.started_by, maintenance.reason or "-"),)
    return ScreenTable("Maintenance: no alert opens", ("ENDS IN", "STARTED BY", "REASON"), rows)


def _services_table(services: Sequence[ServiceStatus]) -> ScreenTable:
    return ScreenTable(
        title="Services",
        head=("SERVICE", "STATE", "DURATION", "LATENCY", "HISTORY", "CHECKED", "REASON"),
        rows=tuple(
            (
                service.service,
                service.state,
                _duration(service.since_s),
                "-" if service.latency_ms is None else f"{service.latency_ms} ms",
                sparkline(service.latency_history),
                format_ago(service.age_s),
                service.reason or "-",
            )
            for service in services
        ),
        state_column=1,
        none="none was recorded",
    )


def _alerts_table(alerts: Sequence[OpenAlert]) -> ScreenTable:
    return ScreenTable(
        title="Open alerts",
        head=("ID", "SERVICE", "STATUS", "OPENED", "ACKNOWLEDGED BY", "SUMMARY"),
        rows=tuple(
            (
                str(alert.id),
                alert.service,
                alert.status,
                format_ago(alert.age_s),
                alert.acknowledged_by or "-",
                alert.summary,
            )
            for alert in alerts
        ),
        state_column=2,
        none="none",
    )


def _passes_table(passes: Sequence[PassStatus]) -> ScreenTable:
    rows = [
        (
            one_line(label(status.pass_, status.shard)),
            "stale" if status.stale else "on time",
            format_ago(status.age_s),
            format_age(status.period_s),
            str(status.missed),
        )
        for status in passes
    ]
    if passes:
        never = expected() - {status.pass_ for status in passes}
        rows += [(name, "never", "-", "-", "-") for name in sorted(never)]
    return ScreenTable(
        title="Passes",
        head=("PASS", "STATE", "LAST SUCCESS", "PERIOD", "MISSED"),
        rows=tuple(rows),
        state_column=1,
        none="none was recorded, or RECORD_OWN_METRICS is off",
    )


def _series_table(status: Status) -> ScreenTable:
    return ScreenTable(
        title=f"Last {format_age(status.since_s)}",
        head=("SERIES", "METRIC", "NOW", "RATE", "HISTORY"),
        rows=tuple(
            (
                series.service,
                series.metric + format_labels(series.tags),
                _current_value(series),
                _rate(series.rate_per_s),
                sparkline(series.history, HEALTHY_SCALE if series.metric == HEALTHY else None),
            )
            for series in status.series
        ),
    )


def _duration(seconds: float | None) -> str:
    """Return how long a state has lasted. A start in the future was written by a wrong clock."""
    if seconds is None:
        return "-"
    if seconds <= -1:
        return "in the future"
    return format_age(max(seconds, 0.0))


def _current_value(series: SeriesStatus) -> str:
    """Return the newest value, with its age if it is stale."""
    value = "-" if series.value is None else format_si(series.value)
    if series.stale:
        return f"{value} ({format_age(series.age_s)} ago)"
    return value


def _rate(per_s: float | None) -> str:
    """Return a rate with three significant digits; nothing for a gauge."""
    if per_s is None:
        return ""
    rounded = float(f"{per_s:.3g}")
    return f"{format_si(rounded)}/s"
