"""What the commands that look back read inside a transaction: series, runs of up and down, alerts and observations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ops_worker.core.past import Growth, Run, gathered
from ops_worker.core.status import Facts
from ops_worker.edges.store.people import maintenance
from ops_worker.edges.store.statements import SQL

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ops_worker.core.past import Series
    from ops_worker.edges.store.statements import Transaction

Row = dict[str, Any]


def facts(transaction: Transaction, since_s: float, buckets: int, gauges: Collection[tuple[str, str]]) -> Facts:
    """Read what a status is made of: what is so now, and the last so many seconds of every series in that many buckets."""
    given = {"now": transaction.now}
    execute = transaction.connection.execute
    with transaction.connection.pipeline():
        services, alerts = execute(SQL["services_now"], given), execute(SQL["alerts_now"])
    found = series(transaction, since_s, buckets, gauges)
    lasting = maintenance(transaction)
    return Facts(transaction.now, since_s, services.fetchall(), alerts.fetchall(), passes(transaction), found, lasting)


def passes(transaction: Transaction) -> list[Row]:
    """Read when each pass was last recorded, and how long it said that it is to the next one."""
    return transaction.connection.execute(SQL["passes_now"], {"now": transaction.now}).fetchall()


def series(transaction: Transaction, since_s: float, buckets: int, gauges: Collection[tuple[str, str]]) -> list[Series]:
    """Read the last so many seconds of every series; of those that are no ``gauges``, by series and metric, also the growth."""
    given = {"now": transaction.now, "since_s": since_s, "buckets": buckets}
    execute = transaction.connection.execute
    found = gathered(execute(SQL["history"], given), gauges)
    named = [_named(place, one) | {"last": one.last.isoformat()} for place, one in enumerate(found)]
    counters = [name for name, one in zip(named, found, strict=True) if one.counts]
    with transaction.connection.pipeline():
        ends = execute(SQL["ends"], {"series": json.dumps(named)})
        growth = execute(SQL["growth"], given | {"series": json.dumps(counters)})
    latest = {row["place"]: row["latest"] for row in ends}
    grown: dict[int, dict[int, Growth]] = {}
    for row in growth:
        grown.setdefault(row["place"], {})[row["bucket"]] = Growth(row["increase"], row["seconds"])
    return [one._replace(latest=latest.get(place, 0.0), growth=grown.get(place, {})) for place, one in enumerate(found)]


def runs(transaction: Transaction, since_s: float, wanted: Sequence[tuple[Series, float]]) -> list[list[Run]]:
    """Read from when to when each of these series was up and down, in the order of time; with each comes its period in seconds."""
    named = [_named(place, one) | {"period_s": period_s} for place, (one, period_s) in enumerate(wanted)]
    given = {"now": transaction.now, "since_s": since_s, "series": json.dumps(named)}
    found: list[list[Run]] = [[] for _ in wanted]
    for row in transaction.connection.execute(SQL["runs"], given):
        found[row["place"]].append(Run(row["up"], row["begun"], row["ended"]))
    return found


def incidents(transaction: Transaction, since_s: float) -> list[Row]:
    """Read the system alerts that were open at some time of the last so many seconds, the oldest first."""
    return transaction.connection.execute(SQL["incidents"], {"now": transaction.now, "since_s": since_s}).fetchall()


def _named(place: int, one: Series) -> Row:
    return {"place": place, "service": one.service, "metric": one.metric, "tags": one.tags}
