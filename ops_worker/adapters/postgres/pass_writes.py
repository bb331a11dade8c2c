"""Read and write the rows of a pass, inside its transaction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.adapters.postgres.maintenance_reads import services_under_maintenance
from ops_worker.adapters.postgres.transaction import column
from ops_worker.core.backlog import Pending
from ops_worker.core.decoding import parse_time
from ops_worker.core.health import details, evidence, maintenance_end, new_alert
from ops_worker.core.installations import DEFAULT, tags_of
from ops_worker.core.maintenance import UnderMaintenance
from ops_worker.core.model import NO_TAGS, KnownState, Recorded
from ops_worker.core.passes import MAINTENANCE_TABLE, PASSES, WINDOW_TABLE
from ops_worker.core.staleness import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Cursor, Transaction
    from ops_worker.core.backlog import Packed
    from ops_worker.core.model import Sample, StateChange

STATEMENT_CHARACTERS = 4_000_000
"""Maximum number of characters of JSON that one statement inserts: about 40,000 rows."""
WATCH_ROWS = 10_000
"""How many rows of its own installation a pass reads to find another pass or a shard of it.

They cover a week of a pass every 60 s. Reading them takes a few milliseconds.
"""
ALL_ROWS = 100_000
"""How many rows of all installations a pass reads, at least, to find another pass.

With ten installations and a pass every 5 s, they cover the last 13 hours. Reading them takes about
0.1 s. This happens only if the other pass was never recorded. A pass that stopped earlier than
these rows counts as never recorded.
"""
NOTHING = Recorded((), (), ())


class StateRow(NamedTuple):
    """The row of a service in ``service_health``. ``streak`` and ``since`` may be any JSON."""

    service: str
    status: str
    streak: Any
    since: Any
    checked_at: datetime
    installation: str


def known_states(transaction: Transaction, services: Sequence[str]) -> dict[str, KnownState]:
    """Read what earlier passes recorded about these services; return one entry for each."""
    # A dry run creates no table, so the table may be missing.
    rows = None
    with transaction.connection.pipeline():
        if "service_health" in transaction.present:
            parameters = {"services": json.dumps(services)}
            rows = transaction.query(StateRow, "remembered", parameters)
        alerts = transaction.execute("alerted")
    row_of = {row.service: row for row in rows.fetchall()} if rows else {}
    alerted = set(column(alerts, "service"))
    return {
        service: _known_state(
            row_of.get(service),
            transaction.now,
            alerted=service in alerted,
        )
        for service in services
    }


def maintenance_of(transaction: Transaction, setting: datetime | None) -> UnderMaintenance:
    """Return which services are under maintenance, by the database and by the setting.

    ``setting`` is MAINTENANCE_UNTIL. A failure is a warning. It counts as no maintenance.
    """
    recorded: Sequence[datetime] = ()
    if MAINTENANCE_TABLE in transaction.present:
        with transaction.best_effort("no maintenance could be looked for, so that alerts open"):
            recorded = column(transaction.execute("maintenance"), "until")
    all_until = maintenance_end(next(iter(recorded), None), setting, transaction.now)
    maintenance = UnderMaintenance(all_until)
    if WINDOW_TABLE in transaction.present:
        with transaction.best_effort("no maintenance window could be read, so that alerts open"):
            maintenance = services_under_maintenance(transaction, all_until)
    return maintenance


def record_health(
    transaction: Transaction,
    changes: Sequence[StateChange],
    origin: Mapping[str, str] = NO_TAGS,
) -> Recorded:
    """Write the rows of the services, open and close alerts; return the real changes.

    ``origin`` identifies the pass by its job, pod and version. An alert stores it as evidence.
    """
    opening = [
        new_alert(change.verdict.target.name, change.verdict.reason, evidence(change, origin))
        for change in changes
        if change.opens
    ]
    closing = [change.verdict.target.name for change in changes if change.closes]
    # jsonb cannot hold NaN, but json.dumps writes NaN by default.
    rows = json.dumps(
        [_row(change, transaction.installation) for change in changes], allow_nan=False
    )
    opened = closed = None
    with transaction.connection.pipeline():
        transaction.execute("upsert_health", {"rows": rows})
        # Most passes open and close no alert, and need no statement for it.
        if opening:
            opened = open_alerts(transaction, opening)
        if closing:
            closed = transaction.execute("close_alerts", {"services": json.dumps(closing)})
    return Recorded(
        tuple(changes), tuple(column(opened, "service")), tuple(column(closed, "service"))
    )


def open_alerts(transaction: Transaction, alerts: Sequence[Mapping[str, Any]]) -> Cursor:
    """Open these alerts of ``new_alert``; return a cursor with a row for each opened alert.

    An alert that was already open has no row.
    """
    # The platform has a foreign key from alerts to tenants.
    transaction.execute("ensure_system_tenant")
    return transaction.execute("open_alerts", {"alerts": json.dumps(alerts)})


def record_samples(transaction: Transaction, entries: Sequence[Pending | Packed]) -> None:
    """Append the samples of these passes. All rows of a pass have the time at which it began.

    Usually this is one statement. A statement gets at most STATEMENT_CHARACTERS of JSON, or one
    larger document, because PostgreSQL limits the size of a value and the time of a statement.
    """
    batch: list[str] = []
    size = 0
    for entry in entries:
        time = transaction.time_of(entry.moment).isoformat()
        for document in entry.documents:
            if batch and size + len(document) > STATEMENT_CHARACTERS:
                _insert_samples(transaction, batch)
                batch, size = [], 0
            # The documents are already JSON, so only add the frame around them.
            batch.append(f'{{"time": "{time}", "samples": {document}}}')
            size += len(document)
    if batch:
        _insert_samples(transaction, batch)


def record_self_metrics(transaction: Transaction, moment: float, samples: Sequence[Sample]) -> None:
    """Append the self-metrics of a pass that began at ``moment``; a failure is a warning."""
    if "system_metrics" not in transaction.present or not samples:
        return
    problem = "the worker's own figures not recorded"
    with transaction.best_effort(problem, "; RECORD_OWN_METRICS=false leaves them out"):
        record_samples(transaction, [Pending(moment, tuple(samples))])


def last_seen_parameters(
    at: datetime, rows: int, installation: str = DEFAULT, judge: str = ""
) -> dict[str, Any]:
    """Return the parameters of ``passes_now``, which finds each pass before a time.

    ``rows`` limits how many rows are searched. If one pass is enough for all installations, the
    records of all installations count. The pass ``judge``, which judges its peers, is an exception:
    only its records in its own installation count, because they show whether it ran itself.
    """
    of_all = [
        not spec.transaction.per_installation and spec.name != judge for spec in PASSES.values()
    ]
    markers = [spec.marker for spec in PASSES.values()]
    names = list(PASSES)
    return PARAMETERS | {
        "passes": names,
        "metrics": markers,
        "of_all": of_all,
        "at": at,
        "rows": rows,
        "all_rows": max(rows, ALL_ROWS),
        "installation": installation,
    }


def _insert_samples(transaction: Transaction, batch: Sequence[str]) -> None:
    transaction.execute("insert_samples", {"passes": f"[{', '.join(batch)}]"})


def _known_state(row: StateRow | None, now: datetime, *, alerted: bool) -> KnownState:
    if row is None:
        return KnownState(alerted=alerted)
    streak = row.streak if isinstance(row.streak, int) else 0  # the in-process loops wrote none
    since = parse_time(row.since)
    if since is not None and since > now:  # a clock was set back, or another program wrote it
        since = None
    return KnownState(
        healthy=row.status == "healthy",
        streak=max(0, streak),
        since=since,
        checked_at=row.checked_at,
        alerted=alerted,
        installation=row.installation,
    )


def _row(change: StateChange, installation: str) -> dict[str, Any]:
    """Return the row of a service. A row of the default installation does not name it."""
    return {
        "service": change.verdict.target.name,
        "status": "healthy" if change.verdict.healthy else "unhealthy",
        "latency_ms": change.verdict.latency_ms,
        "details": details(change) | tags_of(installation),
        "checked_at": change.checked_at.isoformat(),
    }
