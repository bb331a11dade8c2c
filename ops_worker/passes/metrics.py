"""The metrics pass: the services' counters and the database's figures, appended as one sample."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from ops_worker.adapters.postgres import MAINTENANCE_TABLE, METRICS, RESERVE_S
from ops_worker.core.backlog import Pending, pack
from ops_worker.core.health import judge_all, not_among, why_not_among
from ops_worker.core.model import Outcome, Recorded, Result
from ops_worker.core.samples import distinct, figure_samples, service_samples
from ops_worker.errors import (
    CommitUnknownError,
    DatabaseError,
    SchemaError,
    StatementTimeoutError,
    StillRecordingError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.core.backlog import Backlog, Packed
    from ops_worker.core.model import Sample, Verdict
    from ops_worker.errors import OpsWorkerError
    from ops_worker.passes.context import Context

_log = logging.getLogger(__name__)

LIVE_HOLDER_S = 15.0
"""Seconds after which a transaction that holds the lock is not taking this sample as well."""
APART_RETRY_S = 60.0
"""Seconds between two attempts to write a sample that the database refused."""
CATCH_UP_S = 4.0
"""The least time, in seconds, for which a pass writes samples that wait, after its own.

The passes that come meanwhile let theirs wait as well. So a loop at 1 s catches up at the speed of
the database, although it takes longer than a period. It is less than ``loop.STALLED_S``.
"""


def run(context: Context) -> Outcome:
    """Run one pass. Every row carries the time at which its pass began, by the database's clock.

    With a backlog, the sample waits there until the database has it. A pass that could write its
    own sample then writes earlier ones, oldest first. Raises DatabaseError or SchemaError when
    the sample could not be recorded now.
    """
    begun = context.clock()
    end = begun + context.settings.pass_deadline - RESERVE_S
    first = (
        context.settings.job_completion_index == 0
    )  # the database's own figures are recorded once, by the first shard
    figures = context.settings.catalogue.figures if first else ()
    targets = context.settings.targets
    seen = context.observe(targets)
    verdicts = judge_all(seen)
    skipped = Outcome(
        "metrics",
        Result.SKIPPED,
        verdicts,
        unprobed=not_among(verdicts, targets),
        unprobed_because=why_not_among(seen, targets),
    )
    taken = [service_samples(verdict) for verdict in verdicts]
    sample = Pending(begun, ())
    other = Recorded((), (), ())

    def keep(transaction: Transaction) -> list[str]:
        nonlocal sample, other
        readings = transaction.figures(figures, begun, end) if first else None
        parts = distinct([*taken, *([figure_samples(readings, context.period_s)] if first else [])])
        sample = _pending(begun, parts)
        if not context.dry_run:
            _settle(context, transaction)
            transaction.record_samples([_with_own(context, sample, verdicts)])
        until = transaction.maintenance_until(context.settings.maintenance_until)
        other = context.watch(transaction, "metrics", "health", begun, until)
        return [*(warning for _, warned in parts for warning in warned), *transaction.warnings]

    without_figures = _pending(
        begun, distinct([*taken, *([figure_samples(None)] if first else [])])
    )
    waiting = _with_own(context, without_figures, verdicts)
    tables = [MAINTENANCE_TABLE, *(table for figure in figures for table in figure.tables)]
    try:
        kept = _record(context, keep, tables, waiting)
    except StillRecordingError:
        _let_wait(context, waiting)
        return skipped._replace(result=Result.WAITING)
    if kept is None:
        return skipped
    result = Result.DRY_RUN if context.dry_run else Result.RECORDED
    return skipped._replace(
        result=result,
        opened=other.opened,
        closed=other.closed,
        samples=sample.samples,
        warnings=tuple(kept),
    )


def _record(
    context: Context,
    keep: Callable[[Transaction], list[str]],
    tables: Sequence[str],
    sample: Pending,
) -> list[str] | None:
    """Write a sample, then earlier ones that wait; return the warnings, or None when skipped.

    ``sample`` is what waits in the backlog, without the database's figures, if this fails.
    """
    try:
        with context.recording():
            kept = context.store.transact(METRICS, keep, reads=tables, dry_run=context.dry_run)
            if kept is not None and context.backlog is not None:
                catch_up_s = max(CATCH_UP_S, context.period_s / 2)
                _write_waiting(context, context.backlog, context.clock() + catch_up_s)
        if kept is None:
            context.require_live_holder("metrics")
            _leave_to_holder(context, sample)
    except CommitUnknownError as error:
        if context.backlog is not None:
            context.backlog.doubt(error.xid, [pack(sample)])
        raise
    except DatabaseError:
        _let_wait(context, sample)
        raise
    except SchemaError as error:
        if context.backlog is not None:
            _set_apart(context, context.backlog, [pack(sample)], error)
        raise
    return kept


def flush(context: Context, until: float) -> int:
    """Write the samples that wait, without taking a new one; return how many were written.

    No transaction begins after ``until`` (seconds, monotonic clock).
    """
    backlog = context.backlog
    if backlog is None or not (len(backlog) or backlog.in_doubt):
        return 0
    if backlog.in_doubt:
        context.store.transact(METRICS, partial(_settle, context))
    return _write_waiting(context, backlog, until)


def _pending(moment: float, parts: Sequence[tuple[list[Sample], list[str]]]) -> Pending:
    return Pending(moment, tuple(sample for found, _ in parts for sample in found))


def _with_own(context: Context, sample: Pending, verdicts: Sequence[Verdict]) -> Pending:
    """Give a sample with what the pass says of itself; also one that has to wait, of which readers want to know the period."""
    return sample._replace(
        samples=(*sample.samples, *context.own("metrics", verdicts, sample.moment))
    )


def _let_wait(context: Context, sample: Pending) -> None:
    """Put a sample into the backlog, where there is one."""
    if context.backlog is None:
        return
    before = context.backlog.dropped
    context.backlog.add(sample)
    if lost := context.backlog.dropped - before:
        _log.warning(
            "samples dropped: the backlog is full",
            extra={"action": "samples dropped", "count": lost},
        )


def _leave_to_holder(context: Context, sample: Pending) -> None:
    """Drop the sample of a skipped pass, because the process that holds the lock takes one.

    It does not where its transaction is old, or where it may be a lost one of our own: then the
    sample waits.
    """
    holder = context.store.lock_holder
    hangs = holder is not None and holder.held_s is not None and holder.held_s > LIVE_HOLDER_S
    if hangs or (context.backlog is not None and context.backlog.in_doubt):
        _let_wait(context, sample)


def _settle(context: Context, transaction: Transaction) -> None:
    """Ask what became of an earlier transaction whose COMMIT got no answer."""
    backlog = context.backlog
    if backlog is not None and backlog.in_doubt is not None:
        backlog.settle(committed=transaction.was_committed(backlog.in_doubt[0]))


def _set_apart(
    context: Context, backlog: Backlog, entries: Sequence[Packed], error: OpsWorkerError
) -> None:
    """Keep entries that the database refuses where they hold up no others."""
    backlog.set_apart(entries, context.clock() + APART_RETRY_S)
    _log.warning(
        "samples set apart: the database refuses them",
        extra={"action": "samples set apart", "count": len(entries), "error": str(error)},
    )


def _write_waiting(context: Context, backlog: Backlog, until: float) -> int:
    """Write waiting samples in slices, oldest first, until the moment ``until``.

    A slice has a transaction of its own. One that the database refuses, or that takes too long,
    is halved; a sample that is refused alone is set apart. What fails for another reason waits
    for the next pass. Return how many samples were written.
    """
    written = 0
    refused_before = backlog.take_due_apart(context.clock())
    while entries := refused_before or backlog.next_slice():
        try:
            done = context.store.transact(METRICS, partial(_write_slice, context, entries))
        except CommitUnknownError as error:
            backlog.doubt(error.xid, entries)
            break
        except (SchemaError, StatementTimeoutError) as error:
            if len(entries) > 1:
                backlog.shrink_slice(len(entries))
            else:
                _set_apart(context, backlog, entries, error)
        except DatabaseError:
            break
        else:
            if done is None:
                break
            backlog.discard(entries)
            backlog.grow_slice()
            written += len(entries)
            if refused_before:
                backlog.readmit_apart()
        refused_before = ()
        if context.clock() > until:
            break
    return written


def _write_slice(context: Context, entries: Sequence[Packed], transaction: Transaction) -> bool:
    _settle(context, transaction)
    transaction.record_samples(entries)
    return True
