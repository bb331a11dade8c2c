"""Build the document and tables of the current state. A stale state is never shown as healthy."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core import slo
from ops_worker.core.certificates import recorded_days
from ops_worker.core.decoding import parse_time
from ops_worker.core.doubt import blind_to
from ops_worker.core.installations import DEFAULT
from ops_worker.core.ledger import UNSEEN
from ops_worker.core.needs import because_of, causes_of, with_causes
from ops_worker.core.passes import HEALTH, METRICS, expected
from ops_worker.core.samples import HEALTHY, OPS_WORKER, PROBE_LATENCY_MS
from ops_worker.core.shards import UNDIVIDED
from ops_worker.core.staleness import (
    PassRecord,
    is_current,
    label,
    longest_period_s,
    period_of,
    stale_after_s,
)
from ops_worker.history.actions import named_services
from ops_worker.history.budgets import BudgetDocument, budget_document, budgets_table
from ops_worker.history.ledger import AvailabilityDocument, availability_document, summaries
from ops_worker.history.screen import (
    LEGEND,
    NO_LEDGER_TO_READ,
    WIDTH,
    Column,
    ScreenTable,
    flexible,
    format_ago,
    halved,
    others_here,
    sparkline,
    stale_reason,
    state_bar,
)
from ops_worker.text import format_age, format_labels, format_si, one_line, percent_rounded_down

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.doubt import DoubtRow
    from ops_worker.core.installations import InstallationRecord
    from ops_worker.core.maintenance import Occurrence
    from ops_worker.core.slo import Objective
    from ops_worker.history.ledger import LedgerRows
    from ops_worker.history.rows import (
        JsonValue,
        OpenAlertRow,
        PassCountRow,
        RunningMaintenance,
        ServiceRow,
    )
    from ops_worker.history.series import Series

BUCKETS = 24
"""Number of points in a sparkline, and of states of a service in the document."""
MIN_BAR, MAX_BAR = 12, 60
"""The shortest and the longest state bar on a screen, in columns."""
BAR_LESS = 64
"""Width of a table of services without its state bar, in columns, as it usually is."""
BAR_SHARE = 4
"""On a wide screen, the state bar gets every fourth further column; the reasons get the others."""
WELL_SEEN = 0.5
"""The least share of the period that must be seen for an availability to represent the period."""
PARTLY_SEEN = "AVAIL in (): seen for less than half of the period"
"""The line below the services if the coverage of one of them is below ``WELL_SEEN``."""
CHANGED, UNCHANGED = "* ", "  "
"""The mark before a name that changed since the previous screen, and before one that did not."""
NO_LEDGER = f"no BAR, no AVAIL: {NO_LEDGER_TO_READ}"
"""The line below the services if there is no ledger, so that earlier states are unknown."""
AT_LEAST = "≥ "
"""The mark before a number of missed passes that may be larger."""
HEALTHY_SCALE = (0.0, 1.0)
"""The scale of the sparkline of ``healthy``, which is 0 or 1."""


class StatusRows(NamedTuple):
    """The rows from which a status is built, read at one moment of the database's clock.

    ``counts`` and ``series`` cover the last ``since_s`` seconds. ``maintenance`` is the
    maintenance of all services, and ``windows`` are the running windows. ``blind`` has the passes
    of all installations that are blind now. ``passes`` and ``counts`` belong to ``installation``.
    ``others`` has the passes of other installations that keep rows of services.
    ``other_installations`` has all other installations that were recorded lately.
    """

    now: datetime
    since_s: float
    services: Sequence[ServiceRow]
    alerts: Sequence[OpenAlertRow]
    passes: Sequence[PassRecord]
    counts: Sequence[PassCountRow]
    series: Sequence[Series]
    maintenance: RunningMaintenance | None
    blind: Sequence[DoubtRow] = ()
    database: str = ""
    windows: Sequence[Occurrence] = ()
    installation: str = DEFAULT
    others: Mapping[str, Sequence[PassRecord]] = {}
    other_installations: Sequence[InstallationRecord] = ()


class StatusLedger(NamedTuple):
    """The ledger's rows about the services.

    ``period`` has the rows of the status's period. Each item of ``windows`` ends now, and is as
    long as the window of its services' objectives. ``objectives`` has the objective of each service
    that has one.
    """

    period: LedgerRows
    windows: Sequence[LedgerRows]
    objectives: Mapping[str, Objective]


class ServiceStatus(NamedTuple):
    """The state of a service. ``last_state`` is the recorded state, even if it is stale.

    ``because_of`` has the causes if the service is unhealthy because of others (``core.needs``).
    ``series`` is its name in ``system_metrics``. ``states`` has the state of each bucket of the
    period, the oldest first (``core.timeline.bucket_states``). Without a ledger, ``states`` is
    empty, and ``availability`` and ``budget`` are None. Without an objective, ``budget`` is None.
    """

    service: str
    state: str
    stale: bool
    last_state: str
    since: datetime | None
    since_s: float | None
    latency_ms: int | None
    latency_history: Sequence[float | None]
    certificate_days_left: int | None
    checked_at: datetime
    age_s: float
    reason: str
    because_of: Sequence[str]
    series: str
    states: Sequence[str]
    availability: AvailabilityDocument | None
    budget: BudgetDocument | None


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
    """A running maintenance, and the seconds until its end.

    ``services`` is empty for all services. ``id`` is the number of a window; None for a maintenance
    that is not a window.
    """

    until: datetime
    left_s: float
    started_by: str
    reason: str
    services: Sequence[str] = ()
    id: int | None = None


class PassStatus(NamedTuple):
    """The last record of a pass or shard, its period, and how many passes were missed.

    With ``missed_is_least``, more passes than ``missed`` may have been missed. ``blind_since`` is
    None if the pass is not blind.
    """

    pass_: str
    shard: str | None
    last_success: datetime
    age_s: float
    period_s: float
    missed: int
    stale: bool
    missed_is_least: bool = False
    blind_since: datetime | None = None
    blind_because: str = ""


class SeriesStatus(NamedTuple):
    """The newest value of a series, and the mean of each bucket; None for a bucket without rows.

    Only a ``counter`` has rates: one over the whole period, and one in each bucket.
    """

    service: str
    metric: str
    tags: JsonValue
    value: float | None
    time: datetime
    age_s: float
    stale: bool
    rate_per_s: float | None
    history: Sequence[float | None]
    counter: bool
    rate_history: Sequence[float | None]


class Status(NamedTuple):
    """The document of ``ops-worker status``. The fields of these types are its keys.

    States and availability cover the last ``since_s`` seconds. Passes and series cover the last
    ``samples_since_s`` seconds. ``missing`` has the monitored services that no pass has recorded.
    ``maintenances`` has all running maintenances. ``maintenance`` is the one for all services that
    ends last. ``passes`` belong to ``installation``. ``other_installations`` were recorded in the
    same database lately.
    """

    verdict: str
    database: str
    at: datetime
    since_s: float
    samples_since_s: float
    services: Sequence[ServiceStatus]
    alerts: Sequence[OpenAlert]
    maintenance: MaintenanceStatus | None
    passes: Sequence[PassStatus]
    series: Sequence[SeriesStatus]
    missing: Sequence[str] = ()
    maintenances: Sequence[MaintenanceStatus] = ()
    installation: str = DEFAULT
    other_installations: Sequence[str] = ()


class _Past(NamedTuple):
    """The past of each service from the ledger, and the latencies of each series."""

    latencies: Mapping[str, Sequence[float | None]]
    states: Mapping[str, Sequence[str]] = {}
    availability: Mapping[str, AvailabilityDocument] = {}
    budgets: Mapping[str, BudgetDocument] = {}


def build(  # noqa: PLR0913 - what is known, and how much of it to show
    rows: StatusRows,
    series_of: Mapping[str, str],
    maintenance_until: datetime | None = None,
    *,
    needs: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ledger: StatusLedger | None = None,
    states: int = BUCKETS,
) -> Status:
    """Build the document.

    ``series_of`` has the name in ``system_metrics`` of each monitored service.
    ``maintenance_until`` is the end of the maintenance in the settings, or None. ``needs`` has the
    services that each monitored service needs. ``states`` is the number of states of each service.
    """
    records = {**rows.others, rows.installation: rows.passes}
    series = _all_series(rows, series_of, records)
    latencies = {item.service: item.history for item in series if item.metric == PROBE_LATENCY_MS}
    past = _Past(latencies)
    since_s = rows.since_s
    if ledger is not None:
        past = _past(ledger, latencies, states)
        since_s = (ledger.period.until - ledger.period.since).total_seconds()
    services = []
    for row in rows.services:
        name = series_of.get(row.service, row.service)
        health_s = period_of(records.get(row.installation, ()), HEALTH.name)
        blind = blind_to(row.service, rows.blind, row.installation)
        services.append(_service(row, rows.now, health_s, name, past, blind=blind))
    services = _with_causes(services, rows.services, needs)
    alerts = [_alert(row, rows.now) for row in rows.alerts]
    passes = [_pass(record, rows) for record in rows.passes]
    missing = _missing(rows.services, series_of)
    maintenances = _maintenances(rows, maintenance_until)
    of_all = [item for item in maintenances if not item.services]
    verdict = _verdict(services, alerts, passes)
    if services and missing:
        verdict += f"; {_verdict_on_missing(missing)}"
    return Status(
        verdict=verdict,
        database=one_line(rows.database),
        at=rows.now,
        since_s=since_s,
        samples_since_s=rows.since_s,
        services=services,
        alerts=alerts,
        maintenance=max(of_all, key=lambda item: item.until, default=None),
        passes=passes,
        series=[item for item in series if _is_listed(item)],
        missing=missing,
        maintenances=maintenances,
        installation=one_line(rows.installation),
        other_installations=[one_line(row.name) for row in rows.other_installations],
    )


def _all_series(
    rows: StatusRows,
    series_of: Mapping[str, str],
    records: Mapping[str, Sequence[PassRecord]],
) -> list[SeriesStatus]:
    """Return the series, each judged by the metrics pass of the installation that keeps it."""
    keepers = {series_of.get(row.service, row.service): row.installation for row in rows.services}
    series = []
    for item in rows.series:
        keeper = keepers.get(item.service or "", rows.installation)
        metrics_s = period_of(records.get(keeper, ()), METRICS.name)
        series.append(_series(item, rows.now, metrics_s))
    return series


def _with_causes(
    services: Sequence[ServiceStatus],
    rows: Sequence[ServiceRow],
    needs: Mapping[str, Sequence[str]],
) -> list[ServiceStatus]:
    """Return the services, with causes where a service is unhealthy because of others."""
    health = {
        row.service: row.status == HEALTHY
        for service, row in zip(services, rows, strict=True)
        if not service.stale
    }
    causes = causes_of(needs, health)
    return [
        service._replace(because_of=causes.get(row.service, ()))
        for service, row in zip(services, rows, strict=True)
    ]


def _missing(recorded: Sequence[ServiceRow], monitored: Iterable[str]) -> list[str]:
    """Return the monitored services without a row."""
    missing = {*monitored} - {row.service for row in recorded}
    return [one_line(name) for name in sorted(missing)]


def _verdict_on_missing(missing: Sequence[str]) -> str:
    """Return the clause about services that no pass has recorded."""
    verb = "service was" if len(missing) == 1 else "services were"
    return f"{len(missing)} monitored {verb} never recorded"


def _past(
    ledger: StatusLedger, latencies: Mapping[str, Sequence[float | None]], states: int
) -> _Past:
    """Sum up the ledger's rows."""
    period = ledger.period
    of_services: dict[str, Sequence[str]] = {}
    availability: dict[str, AvailabilityDocument] = {}
    budgets: dict[str, BudgetDocument] = {}
    for service, summary in summaries(period, buckets=states):
        of_services[service] = summary.states
        availability[service] = availability_document(summary.availability)
    for window in ledger.windows:
        for service, summary in summaries(window):
            budget = slo.budget(ledger.objectives[service], summary.availability)
            budgets[service] = budget_document(budget)
    return _Past(latencies, of_services, availability, budgets)


def _service(  # noqa: PLR0913 - a row, and what is known besides
    row: ServiceRow,
    now: datetime,
    period_s: float,
    series: str,
    past: _Past,
    *,
    blind: DoubtRow | None,
) -> ServiceStatus:
    """Return the state of a service. It is stale while the health pass is blind."""
    age_s = (now - row.checked_at).total_seconds()
    since = parse_time(row.since)
    stale = blind is not None or not is_current(age_s, period_s)
    last_state = one_line(row.state or row.status)
    state = last_state
    reason = one_line(row.reason or "")
    if stale:
        state = "stale"
        reason = stale_reason(last_state, blind)
    return ServiceStatus(
        service=one_line(row.service),
        state=state,
        stale=stale,
        last_state=last_state,
        since=since,
        since_s=(now - since).total_seconds() if since else None,
        latency_ms=row.latency_ms,
        latency_history=past.latencies.get(series, ()),
        certificate_days_left=recorded_days(row.certificate_days_left),
        checked_at=row.checked_at,
        age_s=age_s,
        reason=reason,
        because_of=(),
        series=one_line(series),
        states=past.states.get(row.service, ()),
        availability=past.availability.get(row.service),
        budget=past.budgets.get(row.service),
    )


def _verdict(
    services: Sequence[ServiceStatus], alerts: Sequence[OpenAlert], passes: Sequence[PassStatus]
) -> str:
    """Return the overall verdict: one sentence with what a person must know first."""
    parts = [_verdict_on_services(services)]
    dependents = [service for service in services if service.because_of]
    if dependents:
        causes = {cause for service in dependents for cause in service.because_of}
        parts.append(f"{len(dependents)} {because_of(causes)}")
    unacknowledged = sum(1 for alert in alerts if alert.status == "OPEN")
    if unacknowledged:
        parts.append(f"{_counted(unacknowledged, 'alert')} not acknowledged")
    elif alerts:
        parts.append(f"{_counted(len(alerts), 'alert')} open and acknowledged")
    late = {status.pass_: None for status in passes if status.stale}
    parts += [f"the {one_line(name)} pass is stale" for name in late]
    blind = {status.pass_: None for status in passes if status.blind_since is not None}
    parts += [f"the {one_line(name)} pass is blind" for name in blind]
    return "; ".join(parts)


def _verdict_on_services(services: Sequence[ServiceStatus]) -> str:
    """Return how many services are unhealthy or stale. Neither is ever counted as healthy."""
    total = len(services)
    stale = sum(1 for service in services if service.stale)
    unhealthy = sum(1 for service in services if not service.stale and service.state != HEALTHY)
    if not total:
        return "No service was recorded"
    counts = ((unhealthy, "unhealthy"), (stale, "stale"))
    parts = [(number, word) for number, word in counts if number]
    if total == 1:
        return f"The only service is {parts[0][1] if parts else HEALTHY}"
    if not parts:
        return f"All {total} services are healthy"
    (number, word), *others = parts
    verb = "is" if number == 1 else "are"
    first = f"{number} of {total} services {verb} {word}"
    if number == total:
        first = f"All {total} services are {word}"
    return ", ".join([first, *(f"{number} {word}" for number, word in others)])


def _counted(number: int, noun: str) -> str:
    return f"1 {noun} is" if number == 1 else f"{number} {noun}s are"


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


def _maintenances(rows: StatusRows, setting: datetime | None) -> list[MaintenanceStatus]:
    """Return every running maintenance. Maintenances of all services come first."""
    maintenances = []
    running = rows.maintenance
    if running is not None:
        maintenance = MaintenanceStatus(
            until=running.until,
            left_s=running.left_s,
            started_by=one_line(running.started_by),
            reason=one_line(running.reason),
        )
        maintenances.append(maintenance)
    if setting is not None and setting > rows.now:
        maintenance = MaintenanceStatus(
            until=setting,
            left_s=(setting - rows.now).total_seconds(),
            started_by="MAINTENANCE_UNTIL",
            reason="",
        )
        maintenances.append(maintenance)
    windows = [_window(occurrence, rows.now) for occurrence in rows.windows]
    windows.sort(key=lambda item: bool(item.services))
    return [*maintenances, *windows]


def _window(occurrence: Occurrence, now: datetime) -> MaintenanceStatus:
    window = occurrence.window
    return MaintenanceStatus(
        until=occurrence.ended,
        left_s=(occurrence.ended - now).total_seconds(),
        started_by=one_line(window.started_by),
        reason=one_line(window.reason),
        services=[one_line(service) for service in window.services],
        id=window.id,
    )


def _pass(record: PassRecord, rows: StatusRows) -> PassStatus:
    counts = [
        count for count in rows.counts if (count.name, count.shard) == (record.name, record.shard)
    ]
    key = (record.name, record.shard or UNDIVIDED)
    blind_here = [row for row in rows.blind if row.installation == rows.installation]
    blind = {(row.name, row.shard): row for row in blind_here}.get(key)
    return PassStatus(
        pass_=record.name,
        shard=record.shard,
        last_success=record.time,
        age_s=record.age_s(rows.now),
        period_s=longest_period_s([record]),
        missed=sum(count.missed for count in counts),
        stale=record.is_stale(rows.now),
        missed_is_least=any(count.missed_is_least for count in counts),
        blind_since=None if blind is None else blind.since,
        blind_because="" if blind is None else one_line(blind.suspects),
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
        counter=series.counts,
        rate_history=[_rate_in(series, number) for number in range(1, BUCKETS + 1)],
    )


def _rate_in(series: Series, number: int) -> float | None:
    """Return the growth per second in a bucket; None for a gauge, or if no growth is known."""
    growth = series.growth.get(number)
    if growth is None or growth.seconds <= 0:
        return None
    return growth.increase / growth.seconds


def _is_listed(series: SeriesStatus) -> bool:
    """Return whether a series is in the list. Latencies and self-metrics are shown elsewhere."""
    return series.metric != PROBE_LATENCY_MS and series.service != OPS_WORKER


def bar_length(width: int) -> int:
    """Return the length of a state bar on a screen of ``width`` columns."""
    length = min(width - BAR_LESS, BUCKETS)
    extra = (width - BAR_LESS - BUCKETS) // BAR_SHARE
    return min(MAX_BAR, max(MIN_BAR, length + max(0, extra)))


class _Changes(NamedTuple):
    """Marks the differences from the previous screen, if there was one."""

    before: Status | None

    def mark(self, name: str, facts: object, facts_before: Mapping[str, object]) -> str:
        """Return a name with a mark if its facts are new or changed."""
        if self.before is None:
            return name
        is_same = name in facts_before and facts_before[name] == facts
        return f"{UNCHANGED if is_same else CHANGED}{name}"


def tables(
    status: Status, *, before: Status | None = None, width: int = WIDTH
) -> list[ScreenTable]:
    """Return the tables of the document.

    ``before`` is the previous status if the screen is drawn again and again. Names whose status
    changed since then have a mark.
    """
    changes = _Changes(before)
    return [
        _maintenances_table(status.maintenances),
        _services_table(status, changes),
        budgets_table((service.service, service.budget) for service in status.services),
        _alerts_table(status.alerts, changes),
        _passes_table(status, changes),
        _series_table(status, width),
    ]


def heading(status: Status, *, before: Status | None = None) -> ScreenTable:
    """Return the first lines of the screen: the verdict, the database and the time."""
    parts = [f"database {status.database}"] if status.database else []
    if status.installation != DEFAULT or status.other_installations:
        parts.append(f"installation {status.installation}")
    line = ", ".join([*parts, f"{status.at:%F %T} UTC"])
    if status.other_installations:
        line += f"; {others_here(status.other_installations)}"
    if before is not None:
        line += f"; * changed since {before.at:%T}"
    return ScreenTable(status.verdict, (), (), none=line)


def _maintenances_table(maintenances: Iterable[MaintenanceStatus]) -> ScreenTable:
    rows = tuple(
        (
            format_age(maintenance.left_s),
            named_services(maintenance.services),
            maintenance.started_by,
            maintenance.reason or "-",
        )
        for maintenance in maintenances
    )
    columns = (
        Column("ENDS IN"),
        Column("SERVICES", least=8),
        Column("STARTED BY", least=10),
        Column("REASON", least=8, is_note=True),
    )
    return flexible("Maintenance: no alert opens for these services", columns, rows)


AVAILABILITY = 4
"""The place of the column AVAIL."""
CERTIFICATE = 6
"""The place of the column CERT, which is left out if no service has a certificate."""


def _services_table(status: Status, changes: _Changes) -> ScreenTable:
    """Return the table of services: first unhealthy, then stale, then healthy; each group by name.

    A service that is unhealthy because of another service is below that service.
    """
    has_ledger = any(service.states for service in status.services)
    rows = _service_rows(status, changes)
    columns: tuple[Column, ...] = (
        # A name of up to 16 columns is never cut; other columns are left out instead.
        Column("SERVICE", least=16),
        Column("STATE", least=8),
        Column("FOR", drop=6),
        Column("BAR", drop=5, is_bar=True),
        Column("AVAIL", drop=4),
        Column("LATENCY", drop=1),
        Column("CERT", drop=3),
        Column("CHECKED", drop=2),
        Column("REASON", least=6, is_note=True),
    )
    title = f"Services; BAR and AVAIL: last {format_age(status.since_s)}"
    below = LEGEND
    if any(row[AVAILABILITY].startswith("(") for row in rows):
        below = f"{LEGEND}\n{PARTLY_SEEN}"
    if not any(service.certificate_days_left is not None for service in status.services):
        rows = [row[:CERTIFICATE] + row[CERTIFICATE + 1 :] for row in rows]
        columns = columns[:CERTIFICATE] + columns[CERTIFICATE + 1 :]
    if not has_ledger:
        title, below = "Services", NO_LEDGER
        rows = [row[:3] + row[5:] for row in rows]
        columns = columns[:3] + columns[5:]
    table = flexible(title, columns, tuple(rows), state_column=1, none="none was recorded")
    return table._replace(below=below)


def _service_rows(status: Status, changes: _Changes) -> list[tuple[str, ...]]:
    """Return the rows of the services. Services without a record come before healthy ones."""
    before: dict[str, object] = {}
    if changes.before:
        before = {service.service: service.state for service in changes.before.services}
        before |= dict.fromkeys(changes.before.missing, UNSEEN)
    services = sorted(status.services, key=urgency)
    if not services:
        return []
    rows = [
        _service_row(service, changes.mark(service.service, service.state, before))
        for service in services
    ]
    place = sum(1 for service in services if service.state != HEALTHY)
    length = max(len(service.states) for service in services)
    rows[place:place] = [
        _missing_row(changes.mark(name, UNSEEN, before), length) for name in status.missing
    ]
    return rows


def _service_row(service: ServiceStatus, name: str) -> tuple[str, ...]:
    return (
        name,
        service.state,
        # It is unknown whether the state still lasts.
        "-" if service.stale else _duration(service.since_s),
        state_bar(service.states),
        _availability(service.availability),
        "-" if service.latency_ms is None else f"{service.latency_ms} ms",
        "-" if service.certificate_days_left is None else f"{service.certificate_days_left} d",
        format_ago(service.age_s),
        with_causes(service.reason, service.because_of) or "-",
    )


def _missing_row(name: str, length: int) -> tuple[str, ...]:
    """Return the row of a service that no pass has recorded, with a bar of ``length`` columns."""
    bar = state_bar([UNSEEN] * length)
    return (name, UNSEEN, "-", bar, "-", "-", "-", "never", "no pass has recorded it")


def urgency(service: ServiceStatus) -> tuple[int, str, bool, str]:
    """Return the sort key of a service: unhealthy, stale, healthy; each group by name.

    A service that is unhealthy because of others comes after the first one of its causes.
    """
    group = 1 if service.stale else 0
    if service.state == HEALTHY:
        group = 2
    if service.because_of:
        return (group, service.because_of[0], True, service.service)
    return (group, service.service, False, service.service)


def _availability(availability: AvailabilityDocument | None) -> str:
    """Return the healthy share of the time that was seen, rounded down to two decimals.

    The share is in parentheses if too little of the period was seen to represent the period.
    """
    if availability is None or availability.value is None:
        return "-"
    percent = percent_rounded_down(availability.value, 2)
    share = "100 %" if percent == 100 else f"{percent:.2f} %"  # noqa: PLR2004
    return f"({share})" if availability.coverage < WELL_SEEN else share


def _alerts_table(alerts: Sequence[OpenAlert], changes: _Changes) -> ScreenTable:
    before: dict[str, object] = {}
    if changes.before:
        before = {str(alert.id): alert.status for alert in changes.before.alerts}
    columns = (
        Column("ID"),
        Column("SERVICE", least=12),
        Column("STATUS"),
        Column("OPENED", drop=2),
        Column("ACKNOWLEDGED BY", least=15, drop=1),
        Column("SUMMARY", least=8, is_note=True),
    )
    rows = tuple(
        (
            changes.mark(str(alert.id), alert.status, before),
            alert.service,
            alert.status,
            format_ago(alert.age_s),
            alert.acknowledged_by or "-",
            alert.summary,
        )
        for alert in alerts
    )
    return flexible("Open alerts", columns, rows, state_column=2, none="none")


def _passes_table(status: Status, changes: _Changes) -> ScreenTable:
    passes = status.passes
    before: dict[str, object] = {}
    if changes.before:
        before = {_pass_label(record): record.stale for record in changes.before.passes}
    rows = [
        (
            changes.mark(_pass_label(record), record.stale, before),
            "stale" if record.stale else "on time",
            format_ago(record.age_s),
            format_age(record.period_s),
            _missed(record),
        )
        for record in passes
    ]
    title = "Passes"
    if passes:
        title = f"Passes; MISSED: last {format_age(status.samples_since_s)}"
        never = expected() - {record.pass_ for record in passes}
        unchanged = dict.fromkeys(never)
        rows += [
            (changes.mark(name, None, unchanged), "never", "-", "-", "-") for name in sorted(never)
        ]
    columns = (
        Column("PASS", least=8),
        Column("STATE"),
        Column("LAST SUCCESS", drop=3),
        Column("PERIOD", drop=1),
        Column("MISSED", drop=2),
    )
    return flexible(
        title,
        columns,
        tuple(rows),
        state_column=1,
        none="none was recorded, or RECORD_OWN_METRICS is off",
    )


def _missed(status: PassStatus) -> str:
    """Return how many passes were missed, with a mark if it may be more.

    "At least 0" is shown as unknown.
    """
    if not status.missed_is_least:
        return str(status.missed)
    return f"{AT_LEAST}{status.missed}" if status.missed else "unknown"


def _pass_label(status: PassStatus) -> str:
    return one_line(label(status.pass_, status.shard))


def _series_table(status: Status, width: int) -> ScreenTable:
    """Return the table of the series, and of the latencies of the services."""

    def drawn(values: Sequence[float | None], scale: tuple[float, float] | None = None) -> str:
        """Return a sparkline. It has half the length on a narrow screen."""
        return sparkline(halved(values) if width < WIDTH else values, scale)

    rows = [
        (
            series.service,
            series.metric + format_labels(series.tags),
            _current_value(series),
            drawn(
                series.rate_history if series.counter else series.history,
                HEALTHY_SCALE if series.metric == HEALTHY else None,
            ),
        )
        for series in status.series
    ]
    rows += [
        (service.series, PROBE_LATENCY_MS, _latency(service), drawn(service.latency_history))
        for service in status.services
        if any(value is not None for value in service.latency_history)
    ]
    columns = (
        Column("SERIES", least=8),
        Column("METRIC", least=10),
        Column("VALUE/RATE"),
        Column("HISTORY", drop=1),
    )
    title = f"Series, last {format_age(status.samples_since_s)}"
    return flexible(title, columns, tuple(sorted(rows, key=lambda row: row[:2])))


def _duration(seconds: float | None) -> str:
    """Return how long a state has lasted. A wrong clock may have written a start in the future."""
    if seconds is None:
        return "-"
    if seconds <= -1:
        return "in the future"
    return format_age(max(seconds, 0.0))


def _current_value(series: SeriesStatus) -> str:
    """Return the rate of a counter or the newest value of a gauge, with its age if it is stale."""
    if series.counter:
        value = _rate(series.rate_per_s)
    else:
        value = "-" if series.value is None else format_si(series.value)
    if series.stale:
        return f"{value} ({format_age(series.age_s)} ago)"
    return value


def _rate(per_s: float | None) -> str:
    """Return a rate per second with three significant digits, or a dash for None.

    A series with only one value has no rate.
    """
    if per_s is None:
        return "-"
    rounded = float(f"{per_s:.3g}")
    return f"{format_si(rounded)}/s"


def _latency(service: ServiceStatus) -> str:
    value = "-" if service.latency_ms is None else f"{service.latency_ms} ms"
    return f"{value} ({format_ago(service.age_s)})" if service.stale else value
