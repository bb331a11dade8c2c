"""Read and write the rows of the rollup pass, inside its transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.adapters.postgres.specs import CONFIG_TABLE, RUN_TABLE, SPAN_TABLE
from ops_worker.adapters.postgres.transaction import one
from ops_worker.core.passes import ACTION_TABLE, ROLLUP_TABLES
from ops_worker.core.rollup import RollupState, Slice, floor
from ops_worker.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction

REMOVED_ROWS = 10_000
"""Maximum number of rows that one transaction removes: they take about 50 ms."""
SAMPLES = "system_metrics"


class Step(NamedTuple):
    """A table whose old rows are removed, and the statement that removes some of them."""

    table: str
    statement: str


HISTORY_STEPS = (
    Step(ROLLUP_TABLES[0], "remove_hours"),
    Step(ROLLUP_TABLES[1], "remove_days"),
    Step(SPAN_TABLE, "remove_spans"),
    Step(RUN_TABLE, "remove_runs"),
    Step(CONFIG_TABLE, "remove_configs"),
    Step(ACTION_TABLE, "remove_actions"),
)
"""The retention of the history, in this order: a span refers to its run, a run to its config."""
SAMPLES_STEP = Step(SAMPLES, "remove_samples")


def read_state(transaction: Transaction) -> RollupState:
    """Return how far the rollup is. Raises SchemaError if a table of the rollup is missing."""
    if missing := [table for table in ROLLUP_TABLES if table not in transaction.present]:
        raise SchemaError(
            f"no table {', '.join(missing)}",
            "run `ops-worker init-db` as a role that may create tables; a pass whose role may "
            "create tables, and that is no dry run, creates it as well",
        )
    newest = one(transaction.execute("rollup_state"))
    return RollupState(**newest, plain=has_plain_samples(transaction))


def has_plain_samples(transaction: Transaction) -> bool:
    """Return whether samples are in a plain table, from which no policy removes old samples."""
    return bool(one(transaction.execute("plain_samples"))["plain"])


def set_limits(transaction: Transaction, left_s: float) -> None:
    """Limit each statement of this transaction to ``left_s`` seconds, but at least 1 s."""
    limit_ms = round(1000 * max(1.0, left_s))
    transaction.execute("rollup_limits", {"statement_ms": str(limit_ms)})


def next_slice(
    transaction: Transaction, level: str, since: datetime, until: datetime
) -> Slice | None:
    """Return the first hour or day with samples; None if there is no sample between both times."""
    first = one(transaction.execute("first_sample", {"since": since, "until": until}))["first"]
    return None if first is None else Slice(level, floor(first, level))


def roll_up(transaction: Transaction, part: Slice, parameters: Mapping[str, Any]) -> int:
    """Write the rows of a slice; return how many are new or changed."""
    bounds = {"level": part.level, "begun": part.begun, "until": part.end}
    return int(one(transaction.execute("roll_up", {**parameters, **bounds}))["written"])


def remove(transaction: Transaction, step: Step, before: datetime) -> int:
    """Remove at most REMOVED_ROWS rows that are older than a time; return how many."""
    if step.table not in transaction.present:
        return 0
    limits = {"before": before, "rows": REMOVED_ROWS}
    return int(one(transaction.execute(step.statement, limits))["removed"])
