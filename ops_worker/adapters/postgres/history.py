"""What the commands that look back read inside a transaction: series, runs of up and down, alerts and observations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ops_worker.adapters.postgres.operations import maintenance
from ops_worker.adapters.postgres.pass_writes import last_seen_of
from ops_worker.adapters.postgres.specs import MAINTENANCE_LOG, MAINTENANCE_TABLE
from ops_worker.adapters.postgres.transaction import SQL
from ops_worker.core.passes import HEALTH, METRICS
from ops_worker.core.peer import LastSeen, records
from ops_worker.core.samples import HEALTHY
from ops_worker.core.staleness import MIN_STALE_S, period_of, stale_after_s
from ops_worker.errors import SettingsError
from ops_worker.history.explain import LOOKS_BACK_S, Findings
from ops_worker.history.series import Growth, Key, Run, gathered
from ops_worker.history.status import Facts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.model import Target
    from ops_worker.core.staleness import PassRecord
    from ops_worker.history.series import Series

Row = dict[str, Any]
LOOKS_AT_ROWS = 1_000_000
"""How many rows a person's command looks at to find a pass, or a shard of it: two months of a pass each 5 s."""


def facts(
    transaction: Transaction, since_s: float, buckets: int, counts: Callable[[str, str], bool]
) -> Facts:
    """Read what a status is made of: what is so now, and the last so many seconds of every series in that many buckets."""
    given = {"now": transaction.now}
    execute = transaction.connection.execute
    with transaction.connection.pipeline():
        execute(SQL["look_back"])
        services = (
            execute(SQL["services_now"], given) if "service_health" in transaction.present else None
        )
        alerts = execute(SQL["alerts_now"])
    ran, told = execute(SQL["ran"], given | {"since_s": since_s}).fetchall(), passes(transaction)
    found = series(transaction, since_s, buckets, counts, period_of(told, METRICS.name))
    lasting = maintenance(transaction)
    rows = services.fetchall() if services else []
    return Facts(transaction.now, since_s, rows, alerts.fetchall(), told, ran, found, lasting)


def passes(transaction: Transaction, at: datetime | None = None) -> list[PassRecord]:
    """Read the last record of each pass, or of each of its shards, now or at a time."""
    parameters = last_seen_of(at or transaction.now, LOOKS_AT_ROWS)
    return records(transaction.query(LastSeen, "passes_now", parameters).fetchall())


def series(
    transaction: Transaction,
    since_s: float,
    buckets: int,
    counts: Callable[[str, str], bool],
    period_s: float,
) -> list[Series]:
    """Read the last so many seconds of every series; of what ``counts``, by series and metric, also the growth.

    ``period_s`` is the time from one sample to the next, in seconds.
    """
    given = {"now": transaction.now, "since_s": since_s, "buckets": buckets, "period_s": period_s}
    execute = transaction.connection.execute
    found = gathered(execute(SQL["history"], given), counts)
    named = [
        _named(place, one.key) | {"last": one.last.isoformat()} for place, one in enumerate(found)
    ]
    counters = [name for name, one in zip(named, found, strict=True) if one.counts]
    with transaction.connection.pipeline():
        ends = execute(SQL["ends"], {"series": json.dumps(named)})
        growth = execute(SQL["growth"], given | {"series": json.dumps(counters)})
    latest = {row["place"]: row["latest"] for row in ends}
    grown: dict[int, dict[int, Growth]] = {}
    for row in growth:
        grown.setdefault(row["place"], {})[row["bucket"]] = Growth(row["increase"], row["seconds"])
    return [
        one._replace(latest=latest.get(place), growth=grown.get(place, {}))
        for place, one in enumerate(found)
    ]


def runs(
    transaction: Transaction,
    until: datetime,
    since_s: float,
    wanted: Sequence[tuple[Key, str]],
    longest_s: float,
) -> list[list[Run]]:
    """Read from when to when each of these series was up and down, in the order of time, in so many seconds before a moment.

    With each of them comes the pass that writes it; ``longest_s`` is the longest time from one pass to the next, in seconds.
    """
    named = [_named(place, key) | {"pass": name} for place, (key, name) in enumerate(wanted)]
    given = {
        "now": until,
        "since_s": since_s,
        "patience_s": stale_after_s(longest_s),
        "least_s": MIN_STALE_S,
        "series": json.dumps(named),
    }
    found: list[list[Run]] = [[] for _ in wanted]
    for row in transaction.connection.execute(SQL["runs"], given):
        found[row["place"]].append(Run(row["up"], row["begun"], row["ended"]))
    return found


def incidents(transaction: Transaction, since_s: float) -> list[Row]:
    """Read the system alerts that were open at some time of the last so many seconds, the oldest first."""
    return transaction.connection.execute(
        SQL["incidents"], {"now": transaction.now, "since_s": since_s}
    ).fetchall()


def maintenances(transaction: Transaction, since: datetime, until: datetime) -> list[Row]:
    """Read the maintenances that lasted at some time between two moments, the oldest first."""
    given, execute = {"since": since, "until": until}, transaction.connection.execute
    found: list[Row] = []
    if MAINTENANCE_LOG in transaction.present:
        found += execute(SQL["maintenances_logged"], given).fetchall()
    if MAINTENANCE_TABLE in transaction.present:
        logged = {row["begun"] for row in found}
        kept = execute(SQL["maintenances_kept"], given).fetchall()
        found += [row for row in kept if row["begun"] not in logged]
    return found


def findings(
    transaction: Transaction, service: str, target: Target | None, at: datetime | None
) -> Findings:
    """Read what is known of a service at a time, or now. Raises SettingsError for a time that is not yet, by the database's clock."""
    now, at = transaction.now, at or transaction.now
    if at > now:
        raise SettingsError(
            [
                f"--at {at.isoformat()}: that is not yet; the database's clock says {now:%Y-%m-%dT%H:%M:%S}Z"
            ]
        )
    key = Key(target.series if target else service, HEALTHY, dict(target.tags) if target else {})
    told = passes(transaction, at)
    given = {
        "service": service,
        "series": key.service,
        "at": at,
        "now": at == now,
        "patience_s": stale_after_s(period_of(told, HEALTH.name)),
    }
    execute = transaction.connection.execute
    with transaction.connection.pipeline():
        row = (
            execute(SQL["service_row"], given) if "service_health" in transaction.present else None
        )
        seen, alerts, maintained = [
            execute(one, given)
            for one in (SQL["observations"], SQL["alerts_of"], SQL["maintained"])
        ]
    (found,) = runs(
        transaction, at, LOOKS_BACK_S, [(key, METRICS.name)], period_of(told, METRICS.name)
    )
    told_of = maintained.fetchone()
    lasting = maintenance(transaction) if at == now else {}
    told_by_people = maintenances(transaction, at, at)
    return Findings(
        service,
        now,
        at,
        row.fetchone() if row else None,
        found,
        seen.fetchall(),
        alerts.fetchall(),
        told,
        bool(told_of and told_of["value"] == 1),
        lasting.get("until"),
        told_by_people,
    )


def _named(place: int, key: Key) -> Row:
    return {"place": place, **key._asdict()}
