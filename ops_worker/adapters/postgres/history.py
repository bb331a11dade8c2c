"""What the commands that look back read in a transaction: series, runs, alerts, observations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ops_worker.adapters.postgres.action_reads import read_actions
from ops_worker.adapters.postgres.ledger_reads import service_ledger
from ops_worker.adapters.postgres.operations import running_maintenance
from ops_worker.adapters.postgres.pass_writes import last_seen_parameters
from ops_worker.core.passes import HEALTH, MAINTENANCE_LOG, MAINTENANCE_TABLE, METRICS
from ops_worker.core.peer import LastSeen, records
from ops_worker.core.staleness import PARAMETERS, period_of, stale_after_s
from ops_worker.errors import SettingsError
from ops_worker.history.explain import ServiceHistory, before, look_back
from ops_worker.history.rows import (
    AlertRow,
    BucketRow,
    FlagRow,
    GrowthRow,
    HealthRow,
    LatestRow,
    MaintenanceRow,
    ObservationRow,
    OpenAlertRow,
    PassCountRow,
    RunRow,
    ServiceAlertRow,
    ServiceRow,
)
from ops_worker.history.series import Growth, Key, Run, group_series
from ops_worker.history.status import StatusRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.model import Target
    from ops_worker.core.staleness import PassRecord
    from ops_worker.history.series import Series

COMMAND_ROWS = 1_000_000
"""Rows that a person's command reads to find a pass: two months of a pass every 5 s."""


def status_rows(
    transaction: Transaction,
    since_s: float,
    buckets: int,
    is_counter: Callable[[str, str], bool],
) -> StatusRows:
    """Read what a status is made of: the current state, and the series of the last ``since_s``.

    Each series is divided into ``buckets`` of equal length. ``is_counter`` decides by service and
    metric whether its growth is read.
    """
    now = transaction.now
    services = None
    with transaction.connection.pipeline():
        transaction.execute("look_back")
        if "service_health" in transaction.present:
            services = transaction.query(ServiceRow, "services_now")
        alerts = transaction.query(OpenAlertRow, "alerts_now")
    counts = transaction.query(PassCountRow, "ran", PARAMETERS | {"now": now, "since_s": since_s})
    records = pass_records(transaction)
    metrics_s = period_of(records, METRICS.name)
    return StatusRows(
        now=now,
        since_s=since_s,
        services=services.fetchall() if services else [],
        alerts=alerts.fetchall(),
        passes=records,
        counts=counts.fetchall(),
        series=read_series(transaction, since_s, buckets, is_counter, metrics_s),
        maintenance=running_maintenance(transaction),
        database=transaction.connection.info.dbname,
    )


def pass_records(transaction: Transaction, at: datetime | None = None) -> list[PassRecord]:
    """Read the last record of each pass, or of each of its shards, now or at a time."""
    parameters = last_seen_parameters(at or transaction.now, COMMAND_ROWS)
    return records(transaction.query(LastSeen, "passes_now", parameters).fetchall())


def read_series(
    transaction: Transaction,
    since_s: float,
    buckets: int,
    is_counter: Callable[[str, str], bool],
    period_s: float,
) -> list[Series]:
    """Read the last ``since_s`` seconds of every series; for counters, also the growth.

    ``period_s`` is the time from one sample to the next, in seconds.
    """
    parameters = {
        "now": transaction.now,
        "since_s": since_s,
        "buckets": buckets,
        "period_s": period_s,
    }
    series = group_series(transaction.query(BucketRow, "history", parameters), is_counter)
    named = [
        _named(place, item.key) | {"last": item.last.isoformat()}
        for place, item in enumerate(series)
    ]
    counters = [named[place] for place, item in enumerate(series) if item.counts]
    with transaction.connection.pipeline():
        ends = transaction.query(LatestRow, "ends", {"series": json.dumps(named)})
        # Only counters grow; reading the rows of a gauge again would cost time for nothing.
        parameters["series"] = json.dumps(counters)
        growth = transaction.query(GrowthRow, "growth", parameters)
    latest = {row.place: row.latest for row in ends}
    growth_of = _growth_by_place(growth)
    return [
        item._replace(latest=latest.get(place), growth=growth_of.get(place, {}))
        for place, item in enumerate(series)
    ]


def _growth_by_place(rows: Iterable[GrowthRow]) -> dict[int, dict[int, Growth]]:
    """Return the growth by the place of the series and the number of the bucket."""
    growth: dict[int, dict[int, Growth]] = {}
    for row in rows:
        growth.setdefault(row.place, {})[row.bucket] = Growth(row.increase, row.seconds)
    return growth


def read_runs(
    transaction: Transaction,
    until: datetime,
    since_s: float,
    chosen: Sequence[tuple[Key, str]],
    longest_s: float,
) -> list[list[Run]]:
    """Read the periods in which each series was up and down, in the ``since_s`` before ``until``.

    Each series comes with the name of the pass that writes it. ``longest_s`` is the longest period
    of any pass, in seconds. The runs are in the order of time.
    """
    named = [_named(place, key) | {"pass": name} for place, (key, name) in enumerate(chosen)]
    parameters = PARAMETERS | {
        "now": until,
        "since_s": since_s,
        "patience_s": stale_after_s(longest_s),
        "series": json.dumps(named),
    }
    runs: list[list[Run]] = [[] for _ in chosen]
    for row in transaction.query(RunRow, "runs", parameters):
        runs[row.place].append(Run(row.up, row.begun, row.ended))
    return runs


def incidents(transaction: Transaction, since_s: float) -> list[AlertRow]:
    """Read the system alerts that were open in the last ``since_s`` seconds, the oldest first."""
    parameters = {"now": transaction.now, "since_s": since_s}
    return transaction.query(AlertRow, "incidents", parameters).fetchall()


def maintenances(
    transaction: Transaction, since: datetime, until: datetime
) -> list[MaintenanceRow]:
    """Read the maintenances between two times, the oldest first."""
    parameters = {"since": since, "until": until}
    rows: list[MaintenanceRow] = []
    if MAINTENANCE_LOG in transaction.present:
        rows += transaction.query(MaintenanceRow, "maintenances_logged", parameters)
    if MAINTENANCE_TABLE in transaction.present:
        # An older release started it and did not log it.
        logged = {row.begun for row in rows}
        kept = transaction.query(MaintenanceRow, "maintenances_kept", parameters)
        rows += [row for row in kept if row.begun not in logged]
    return rows


def service_history(
    transaction: Transaction, service: str, target: Target | None, at: datetime | None
) -> ServiceHistory:
    """Read what is known about a service at a time, or now.

    ``target`` is None if the service is not monitored. Raises SettingsError if the time is in the
    future by the database's clock.
    """
    now = transaction.now
    at = at or now
    if at > now:
        clock = f"the database's clock says {now:%Y-%m-%dT%H:%M:%S}Z"
        raise SettingsError([f"--at {at.isoformat()}: this time is in the future; {clock}"])
    passes = pass_records(transaction, at)
    parameters = {
        "service": service,
        "series": target.series if target else service,
        "at": at,
        "now": at == now,
        "patience_s": stale_after_s(period_of(passes, HEALTH.name)),
    }
    row = None
    with transaction.connection.pipeline():
        if "service_health" in transaction.present:
            row = transaction.query(HealthRow, "service_row", parameters)
        observations = transaction.query(ObservationRow, "observations", parameters)
        alerts = transaction.query(ServiceAlertRow, "alerts_of", parameters)
        flags = transaction.query(FlagRow, "maintained", parameters)
    flag = flags.fetchone()
    running = running_maintenance(transaction) if at == now else None
    length = look_back(target)
    return ServiceHistory(
        service=service,
        now=now,
        at=at,
        row=row.fetchone() if row else None,
        ledger=service_ledger(transaction, service, at, length),
        observations=observations.fetchall(),
        alerts=alerts.fetchall(),
        passes=passes,
        in_maintenance=flag is not None and flag.value == 1,
        maintenance_until=running.until if running else None,
        maintenances=maintenances(transaction, at, at),
        actions=read_actions(transaction, before(at, length), at, [service]),
    )


def _named(place: int, key: Key) -> dict[str, object]:
    """Return a series as the statements take it, numbered by its place in the list."""
    return {"place": place, **key._asdict()}
