"""What the commands that look back read inside a transaction: series, runs of up and down, alerts and observations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ops_worker.core.past import gathered
from ops_worker.core.status import Facts
from ops_worker.edges.store.people import maintenance
from ops_worker.edges.store.statements import SQL

if TYPE_CHECKING:
    from collections.abc import Collection

    from ops_worker.core.past import Series
    from ops_worker.edges.store.statements import Transaction

Row = dict[str, Any]


def facts(transaction: Transaction, since_s: float, buckets: int, gauges: Collection[tuple[str, str]]) -> Facts:
    """Read what a status is made of: what is so now, and the last so many seconds of every series in that many buckets."""
    given = {"now": transaction.now}
    execute = transaction.connection.execute
    with transaction.connection.pipeline():
        statements = (SQL["services_now"], SQL["alerts_now"], SQL["passes_now"])
        services, alerts, passes = [execute(statement, given) for statement in statements]
    found = series(transaction, since_s, buckets, gauges)
    lasting = maintenance(transaction)
    return Facts(transaction.now, since_s, services.fetchall(), alerts.fetchall(), passes.fetchall(), found, lasting)


def series(transaction: Transaction, since_s: float, buckets: int, gauges: Collection[tuple[str, str]]) -> list[Series]:
    """Read the last so many seconds of every series; of those that are no ``gauges``, by series and metric, also the growth."""
    given = {"now": transaction.now, "since_s": since_s, "buckets": buckets}
    execute = transaction.connection.execute
    found = gathered(execute(SQL["history"], given), gauges)
    wanted = [
        {
            "place": place,
            "service": one.service,
            "metric": one.metric,
            "tags": one.tags,
            "last": one.last.isoformat(),
            "counts": one.counts,
        }
        for place, one in enumerate(found)
    ]
    for row in execute(SQL["ends"], given | {"series": json.dumps(wanted)}):
        found[row["place"]] = found[row["place"]]._replace(latest=row["latest"], increase=row["increase"] or 0.0)
    return found
