"""The metrics pass: the services' counters and the database's figures, appended as one sample."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ops_worker.core.backlog import Pending
from ops_worker.core.health import judge, not_among
from ops_worker.core.model import Outcome, Recorded, Result
from ops_worker.core.series import figure_samples, service_samples
from ops_worker.edges.store import MAINTENANCE_TABLE, METRICS, RESERVE_S
from ops_worker.errors import CommitUnknownError, DatabaseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.core.model import Sample, Verdict
    from ops_worker.edges.store import Transaction
    from ops_worker.passes.context import Context

_log = logging.getLogger(__name__)


def run(context: Context) -> Outcome:
    """Run one pass. Every row carries the time at which its pass began, by the database's clock.

    With a backlog, samples that could not be written for a passing reason wait there and are written, oldest first,
    by the next pass that can. Raises DatabaseError or SchemaError when what was seen could not be recorded.
    """
    begun = context.clock()
    end = begun + context.settings.pass_deadline - RESERVE_S
    first = context.settings.job_completion_index == 0  # the database's own figures are recorded once, by the first shard
    figures = context.settings.catalogue.figures if first else ()
    verdicts = tuple(judge(seen) for seen in context.observe(context.settings.targets))
    unprobed = not_among(verdicts, context.settings.targets)
    taken = [service_samples(verdict) for verdict in verdicts]

    sample = _pending(begun, [*taken, *([figure_samples(None)] if first else [])])  # should the database not be there to be asked
    other = Recorded((), (), ())

    def keep(transaction: Transaction) -> list[str]:
        nonlocal sample, other
        readings = transaction.figures(figures, begun, end) if first else None
        parts = [*taken, *([figure_samples(readings, context.period_s)] if first else [])]
        sample = _pending(begun, parts)
        if not context.dry_run:
            transaction.record_samples([*_waiting(context, transaction), _with_own(context, sample, verdicts)])
        until = transaction.maintenance_until(context.settings.maintenance_until)
        other = context.watch(transaction, "metrics", "health", begun, until)
        return [*(warning for _, warned in parts for warning in warned), *transaction.warnings]

    try:
        tables = [MAINTENANCE_TABLE, *(table for figure in figures for table in figure.tables)]
        kept = context.store.transact(METRICS, keep, reads=tables, dry_run=context.dry_run)
    except DatabaseError as error:
        _wait(context, _with_own(context, sample, verdicts), error)
        raise
    if kept is None:
        return Outcome("metrics", Result.SKIPPED, verdicts, unprobed=unprobed)
    if context.backlog is not None:
        context.backlog.replace(())
    result = Result.DRY_RUN if context.dry_run else Result.RECORDED
    return Outcome(
        "metrics",
        result,
        verdicts,
        unprobed=unprobed,
        opened=other.opened,
        closed=other.closed,
        samples=sample.samples,
        warnings=tuple(kept),
    )


def flush(context: Context) -> int:
    """Write what still waits, without taking a new sample; give how many passes' samples were written."""
    if context.backlog is None or not (len(context.backlog) or context.backlog.in_doubt):
        return 0

    def keep(transaction: Transaction) -> int:
        waiting = _waiting(context, transaction)
        transaction.record_samples(waiting)
        return len(waiting)

    written = context.store.transact(METRICS, keep)
    if written is not None:
        context.backlog.replace(())
    return written or 0


def _pending(moment: float, parts: Sequence[tuple[list[Sample], list[str]]]) -> Pending:
    return Pending(moment, tuple(sample for found, _ in parts for sample in found))


def _with_own(context: Context, sample: Pending, verdicts: Sequence[Verdict]) -> Pending:
    """Give a sample with what the pass says of itself; also one that has to wait, of which readers want to know the period."""
    return sample._replace(samples=(*sample.samples, *context.own("metrics", verdicts, sample.moment)))


def _waiting(context: Context, transaction: Transaction) -> tuple[Pending, ...]:
    """Give what waits for the database, after asking what became of a transaction in doubt."""
    if context.backlog is None:
        return ()
    if context.backlog.in_doubt is not None:
        context.backlog.settle(committed=transaction.was_committed(context.backlog.in_doubt[0]))
    return context.backlog.waiting()


def _wait(context: Context, sample: Pending, error: DatabaseError) -> None:
    """Let a sample wait; where it may have been written after all, it and what went with it are in doubt."""
    if context.backlog is None:
        return
    waiting = [*context.backlog.waiting(), sample]
    if isinstance(error, CommitUnknownError):
        context.backlog.in_doubt = (error.xid, tuple(waiting))
        waiting = []
    if lost := context.backlog.replace(waiting):
        _log.warning("samples dropped: the backlog is full", extra={"action": "samples dropped", "count": lost})
