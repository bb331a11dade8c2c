"""The health pass: probe every service, record its state, open and close its alert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.adapters.postgres import HEALTH, MAINTENANCE_TABLE
from ops_worker.core.health import (
    alerted,
    judge_all,
    not_among,
    plan,
    preview,
    suppress_alerts,
    why_not_among,
)
from ops_worker.core.model import Outcome, Recorded, Result
from ops_worker.core.samples import OPS_WORKER
from ops_worker.errors import StillRecordingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.core.model import KnownState
    from ops_worker.passes.context import Context


def run(context: Context) -> Outcome:
    """Run one pass. The network is done before the transaction begins; the lock is held from the reading to the commit.

    Raises DatabaseError or SchemaError when what was seen could not be recorded.
    """
    if not context.settings.system_alert_enabled:
        return Outcome("health", Result.OFF)
    begun = context.clock()
    targets = context.settings.targets
    seen = context.observe(targets)
    verdicts = judge_all(seen)
    before: Mapping[str, KnownState] = {}
    warnings: list[str] = []
    until: datetime | None = None

    def keep(transaction: Transaction) -> Recorded:
        nonlocal before, warnings, until
        warnings = transaction.warnings
        until = transaction.maintenance_until(context.settings.maintenance_until)
        before = transaction.remembered(
            [*(verdict.target.name for verdict in verdicts), OPS_WORKER]
        )
        updates = plan(
            verdicts, before, context.settings.thresholds, transaction.time_of, transaction.now
        )
        if until is not None:
            updates = suppress_alerts(updates)
        if context.dry_run:
            recorded = preview(updates)
        else:
            recorded = transaction.record_health(updates, context.origin)
            own = context.own("health", verdicts, begun, maintenance=until is not None)
            transaction.record_own(begun, [*own, *context.latencies(verdicts)])
        other = context.watch(transaction, "health", "metrics", begun, until)
        return recorded._replace(
            opened=recorded.opened + other.opened, closed=recorded.closed + other.closed
        )

    skipped = Outcome(
        "health",
        Result.SKIPPED,
        verdicts,
        unprobed=not_among(verdicts, targets),
        unprobed_because=why_not_among(seen, targets),
    )
    try:
        with context.recording():
            kept = context.store.transact(
                HEALTH, keep, reads=["system_metrics", MAINTENANCE_TABLE], dry_run=context.dry_run
            )
    except StillRecordingError:
        return skipped._replace(result=Result.WAITING)
    if kept is None:
        context.require_live_holder("health")
        return skipped
    fresh = {update.verdict.target.name for update in kept.updates}
    stale = tuple(verdict.target.name for verdict in verdicts if verdict.target.name not in fresh)
    result = Result.DRY_RUN if context.dry_run else Result.RECORDED
    return skipped._replace(
        result=result,
        updates=kept.updates,
        stale=stale,
        opened=kept.opened,
        closed=kept.closed,
        alerted=alerted(before, kept),
        warnings=tuple(warnings),
        maintenance_until=until,
    )
