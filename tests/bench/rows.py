"""The cost of the database work for many services: rows, opened and closed alerts, samples."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ops_worker.adapters.postgres import Store, pass_writes
from ops_worker.core.backlog import Pending
from ops_worker.core.health import plan
from ops_worker.core.model import Sample, State, Target, Thresholds, Verdict
from ops_worker.core.passes import HEALTH, METRICS

if TYPE_CHECKING:
    from ops_worker.adapters.postgres import Transaction
    from ops_worker.core.model import Recorded

STEPS = (
    # The name of a step, and whether the services are down.
    ("all new", False),
    ("all as before", False),
    ("all alerts open", True),
    ("all alerts close", False),
)


def run(url: str, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Measure transactions from the beginning to the commit, in milliseconds.

    The time of the planning is subtracted, because it is CPU time of the worker.
    """
    rows = []
    store = Store({"conninfo": url})
    for size in sizes:
        for step, down in STEPS:
            rows.append(
                {
                    "database": f"health, {size} services, {step}",
                    "wall ms": _health(store, size, down=down),
                }
            )
        samples = tuple(Sample(f"w{size}-{n}", "a", float(n)) for n in range(size))
        begun = time.monotonic()
        pending = [Pending(begun, samples)]
        store.write(
            METRICS.transaction,
            lambda transaction: pass_writes.record_samples(transaction, pending),
        )
        rows.append(
            {"database": f"metrics, {size} samples", "wall ms": (time.monotonic() - begun) * 1000}
        )
    store.close()
    return rows


def _health(store: Store, size: int, *, down: bool) -> float:
    """Return the milliseconds of the transaction of a health pass."""
    moment = time.monotonic()
    targets = [Target(f"w{size}-{n}", "", "", ()) for n in range(size)]
    counters = {"messages_received": 123456, "messages_written": 123450, "queue_depth": 17}
    verdicts = [
        Verdict(target, moment, State.DOWN, "Connection refused")
        if down
        else Verdict(target, moment, State.HEALTHY, "", 12, 200, counters)
        for target in targets
    ]
    planning_s = 0.0

    def record(transaction: Transaction) -> Recorded:
        """Write the rows as a health pass does."""
        nonlocal planning_s
        names = [target.name for target in targets]
        before = pass_writes.known_states(transaction, names)
        begun = time.monotonic()
        updates = plan(verdicts, before, Thresholds(), transaction.time_of, transaction.now)
        planning_s = time.monotonic() - begun
        return pass_writes.record_health(transaction, updates)

    begun = time.monotonic()
    assert store.write(HEALTH.transaction, record) is not None
    return (time.monotonic() - begun - planning_s) * 1000
