"""Trial writes for ``check``: execute the statements of a pass, then roll back."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import psycopg

from ops_worker.adapters.postgres.pass_writes import (
    known_states,
    open_alerts,
    record_health,
    record_samples,
)
from ops_worker.adapters.postgres.sqlstate import SCHEMA, meaning, words
from ops_worker.adapters.postgres.transaction import SQL
from ops_worker.core.backlog import Pending
from ops_worker.core.health import new_alert
from ops_worker.core.model import Sample, State, StateChange, Target, Verdict
from ops_worker.core.passes import PASSES
from ops_worker.core.samples import HEALTHY, OPS_WORKER, PASS_SUCCESS
from ops_worker.core.self_check import HIDDEN, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ops_worker.adapters.postgres.transaction import Transaction

NAME = "ops-worker check"
"""The service name in the trial rows. No catalogue can contain this name."""


def tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tables in the rows of ``operations.inspect`` to which a row can be written."""
    return [row["name"] for row in rows if row["present"] and not row["hidden"]]


def refusals(transaction: Transaction, rows: Sequence[Mapping[str, Any]]) -> list[Refusal]:
    """Write the rows of a pass, table by table; return what the database refuses.

    Everything is rolled back, except that one number of the alerts' sequence stays used.
    """
    refused = []
    needed = {table for spec in PASSES.values() for table in spec.transaction.required_tables}
    for row in rows:
        if row["name"] not in needed:
            continue
        if not row["present"]:
            refused.append(Refusal(row["name"], "not there"))
        elif row["hidden"]:
            refused.append(Refusal(row["name"], HIDDEN))
    for table, write in _WRITES.items():
        if table in transaction.present:
            refused += _try(transaction, table, write)
    return refused


def _try(
    transaction: Transaction, table: str, write: Callable[[Transaction], bool]
) -> list[Refusal]:
    """Write in a savepoint and roll back; return the refusal, if there is one."""
    execute = transaction.connection.execute
    execute("SAVEPOINT rehearsal")
    # Wait only briefly for a lock that another session holds.
    execute(SQL["best_effort_limits"])
    try:
        arrived = write(transaction)
        execute("SET CONSTRAINTS ALL IMMEDIATE")  # check deferred constraints now
    except psycopg.Error as error:
        if transaction.connection.closed:
            raise
        return [Refusal(table, words(error), _remedy(error))]
    finally:
        if not transaction.connection.closed:
            execute("ROLLBACK TO SAVEPOINT rehearsal")
    # A trigger can suppress a row without an error.
    if arrived:
        return []
    remedy = "a trigger or rule keeps it away: change that"
    return [Refusal(table, "a row did not arrive", remedy)]


def _remedy(error: psycopg.Error) -> str:
    """Return the remedy; empty if the lines about the tables already have it."""
    row = meaning(error)
    if row is None or row.remedy == SCHEMA:
        return ""
    return row.remedy_for(error)


def _samples(transaction: Transaction) -> bool:
    samples = (
        Sample(OPS_WORKER, PASS_SUCCESS, 1.0, {"pass": NAME}),
        Sample(NAME, HEALTHY, 1.0),
        Sample(NAME, "db_size_bytes", 1e12),
    )
    record_samples(transaction, [Pending(time.monotonic(), samples)])
    return True


def _health(transaction: Transaction) -> bool:
    moment = time.monotonic()
    verdict = Verdict(Target(NAME, "", NAME, ()), moment, State.DOWN, "tried")
    update = StateChange(verdict, 1, transaction.now, transaction.now)
    record_health(transaction, [update])
    record_health(transaction, [update])  # again, to update the row
    state = known_states(transaction, [NAME])[NAME]
    return state.healthy is False


def _alert(transaction: Transaction) -> bool:
    opened = open_alerts(transaction, [new_alert(NAME, "tried", {})]).fetchall()
    closed = transaction.execute("close_alerts", {"services": json.dumps([NAME])}).fetchall()
    return bool(opened and closed)


_WRITES: dict[str, Callable[[Transaction], bool]] = {
    "system_metrics": _samples,
    "service_health": _health,
    # This also writes the tenant, because the platform has a foreign key from alerts to tenants.
    "fleet_alert": _alert,
}
"""The function that writes to each table. The one for alerts also writes to ``tenants``."""
