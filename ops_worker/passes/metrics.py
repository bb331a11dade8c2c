"""The metrics pass: append the counters of the services and the database's figures as a sample."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.adapters.postgres import (
    WRITE_RESERVE_S,
    pass_writes,
    sql_metrics,
)
from ops_worker.core.backlog import Pending, pack
from ops_worker.core.model import Result
from ops_worker.core.passes import DOUBT_TABLE, MAINTENANCE_TABLES, METRICS
from ops_worker.core.samples import OPS_WORKER, distinct, figure_samples, service_samples
from ops_worker.core.staleness import stale_after_s
from ops_worker.errors import (
    CommitUnknownError,
    DatabaseError,
    SchemaError,
    StatementTimeoutError,
    StillRecordingError,
)
from ops_worker.passes.ledger import PassLedger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.core.backlog import Backlog, Packed
    from ops_worker.core.doubt import Assessment
    from ops_worker.core.model import Figure, Outcome, Reading, Recorded, Sample, Verdict
    from ops_worker.core.samples import Part
    from ops_worker.errors import OpsWorkerError
    from ops_worker.passes.context import Context

_log = logging.getLogger(__name__)

SLOW_HOLDER_S = 15.0
"""If another process has held the lock for longer than this, in seconds, the sample waits.

Otherwise the sample is dropped, because that process takes a sample itself.
"""
APART_RETRY_S = 60.0
"""Seconds between two attempts to write samples that the database refused."""
CATCH_UP_S = 4.0
"""The least time, in seconds, for which a pass writes waiting samples after its own sample.

During this time, samples of later passes are added to the backlog and written in large slices. So a
loop with an interval of 1 s catches up as fast as the database can write. The value is below
``loop.STALLED_S``, after which a loop warns.
"""


class Observed(NamedTuple):
    """What a pass observed before it uses the database.

    ``begun`` is the moment at which the pass began, ``end`` the moment until which it may read
    figures (seconds, monotonic clock). ``figures`` is None except in shard 0. A blind pass has
    neither ``verdicts`` nor ``parts``: it knows nothing about the services.
    """

    verdicts: tuple[Verdict, ...]
    assessment: Assessment
    ledger: PassLedger
    parts: tuple[Part, ...]
    figures: tuple[Figure, ...] | None
    begun: float
    end: float
    is_blind: bool = False

    def blinded(self) -> Observed:
        """Return the same without verdicts and parts, for a pass that is blind."""
        return self._replace(verdicts=(), parts=(), is_blind=True)


class Written(NamedTuple):
    """What the transaction recorded: the sample and the worker's own alert.

    ``observed`` is blinded if the pass was blind.
    """

    observed: Observed
    samples: tuple[Sample, ...]
    peer: Recorded
    warnings: tuple[str, ...]


def run(context: Context) -> Outcome:
    """Run the metrics pass: observe, write, report. Every row has the time at which the pass began.

    In a loop, a sample that could not be written waits in the backlog. A later pass that wrote its
    own sample then writes the waiting samples, oldest first. Raises DatabaseError or SchemaError if
    the sample could not be recorded now.
    """
    begun = context.clock()
    settings = context.settings
    probed = context.observed(METRICS)
    outcome = probed.outcome
    observed = Observed(
        verdicts=probed.verdicts,
        assessment=probed.assessment,
        ledger=PassLedger(
            context, METRICS, probed.verdicts, begun, may_be_blind=probed.may_be_blind
        ),
        parts=tuple(service_samples(verdict) for verdict in probed.verdicts),
        # The figures are about the whole platform, so only one shard records them.
        figures=settings.catalogue.figures if settings.job_completion_index == 0 else None,
        begun=begun,
        end=begun + settings.pass_deadline - WRITE_RESERVE_S,
    )
    try:
        written = _record(context, observed)
    except StillRecordingError:
        return outcome._replace(result=Result.WAITING)
    if written is None:
        return outcome
    return outcome._replace(
        result=Result.DRY_RUN if context.dry_run else Result.RECORDED,
        verdicts=written.observed.verdicts,
        blind_because=probed.assessment.suspects if written.observed.is_blind else (),
        own_reason=written.peer.own_reason,
        opened=written.peer.opened,
        closed=written.peer.closed,
        samples=written.samples,
        warnings=written.warnings,
    )


def flush(context: Context, end: float) -> int:
    """Write the waiting samples without taking a new one; return how many were written.

    No transaction begins after ``end`` (seconds, monotonic clock).
    """
    backlog = context.backlog
    if backlog is None or not (len(backlog) or backlog.in_doubt):
        return 0
    if backlog.in_doubt:
        context.store.write(METRICS.transaction, partial(_settle, context))
    return _write_waiting(context, backlog, end)


def _write(context: Context, observed: Observed, transaction: Transaction) -> Written:
    """Read the figures and write the sample. A dry run writes nothing."""
    readings = None
    if observed.figures is not None:
        readings = sql_metrics.read_figures(
            transaction, observed.figures, observed.begun, observed.end
        )
    doubt = context.settle_doubt(transaction, METRICS, observed.assessment)
    if doubt is not None and doubt.is_blind:
        observed = observed.blinded()
    parts = _with_figures(context, observed, readings)
    sample = _sample(observed.begun, parts)
    if not context.dry_run:
        _settle(context, transaction)
        pass_writes.record_samples(transaction, [_with_self_metrics(context, sample, observed)])
        if not observed.is_blind:
            observed.ledger.enqueue()
        observed.ledger.enter(transaction, is_blind=observed.is_blind)
    maintenance = pass_writes.maintenance_of(transaction, context.settings.maintenance_until)
    peer = context.watch_peers(
        transaction,
        METRICS,
        observed.begun,
        may_open=OPS_WORKER not in maintenance,
        doubt=doubt,
    )
    warnings = [warning for _, problems in parts for warning in problems]
    return Written(observed, sample.samples, peer, (*warnings, *transaction.warnings))


def _record(context: Context, observed: Observed) -> Written | None:
    """Write the sample of a pass, then the waiting samples; return None if the pass was skipped.

    On failure, the sample waits in the backlog, without the database's figures.
    """
    tables = [table for figure in observed.figures or () for table in figure.tables]
    # Build the sample for the backlog before the transaction: if the database does not answer, it
    # has no figures. The database then does not count blind passes either, so a pass that may be
    # blind counts as blind.
    certain = observed.blinded() if observed.assessment.suspects else observed
    without_figures = _sample(observed.begun, _with_figures(context, certain, None))
    fallback = _with_self_metrics(context, without_figures, certain)
    try:
        with context.recording():
            write = partial(_write, context, observed)
            optional = [*MAINTENANCE_TABLES, DOUBT_TABLE, *tables]
            written = context.transact(METRICS, write, optional)
            if written is not None:
                observed.ledger.confirm()
                _catch_up(context, observed.begun)
        if written is None:
            # If the process with the lock seems to hang, this raises, and the sample waits.
            context.require_live_holder(METRICS.name)
            _leave_to_holder(context, fallback, observed.ledger)
    except CommitUnknownError as error:
        # A subclass of DatabaseError, so it comes first. The samples may already be written.
        if context.backlog is not None:
            context.backlog.doubt(error.xid, [pack(fallback)])
        raise
    except (DatabaseError, StillRecordingError):
        # A later pass may succeed.
        _let_wait(context, fallback)
        raise
    except SchemaError as error:
        # No retry helps. The sample must not delay other samples.
        if context.backlog is not None:
            _set_apart(context, context.backlog, [pack(fallback)], error)
        raise
    return written


def _catch_up(context: Context, begun: float) -> None:
    """Write waiting samples after the pass that began at ``begun`` (seconds, monotonic clock).

    Stop after half a period, but not before CATCH_UP_S.
    """
    if context.backlog is not None:
        context.backlog.mark_recorded(begun, stale_after_s(context.period_s))
        catch_up_s = max(CATCH_UP_S, context.period_s / 2)
        _write_waiting(context, context.backlog, context.clock() + catch_up_s)


def _with_figures(
    context: Context, observed: Observed, readings: list[Reading] | None
) -> list[Part]:
    """Return the samples of a pass without duplicates. Only shard 0 has figures."""
    parts = list(observed.parts)
    if observed.figures is not None:
        parts.append(figure_samples(readings, context.period_s))
    return distinct(parts)


def _sample(moment: float, parts: Sequence[Part]) -> Pending:
    return Pending(moment, tuple(sample for samples, _ in parts for sample in samples))


def _with_self_metrics(context: Context, sample: Pending, observed: Observed) -> Pending:
    """Add the self-metrics. A waiting sample also needs them, because they have the period."""
    metrics = context.self_metrics(
        METRICS, observed.verdicts, observed.begun, blind=observed.is_blind
    )
    return sample._replace(samples=(*sample.samples, *metrics))


def _let_wait(context: Context, sample: Pending) -> None:
    """Put a sample into the backlog, if there is a backlog."""
    if context.backlog is None:
        return
    before = context.backlog.dropped
    context.backlog.add(sample)
    lost = context.backlog.dropped - before
    if lost:
        _log.warning(
            "samples dropped: the backlog is full",
            extra={"action": "samples dropped", "count": lost},
        )


def _leave_to_holder(context: Context, sample: Pending, ledger: PassLedger) -> None:
    """Drop the sample of a skipped pass, because the process that holds the lock takes a sample.

    The sample waits instead if that process has held the lock for longer than SLOW_HOLDER_S, or if
    the lock may belong to a lost transaction of this process.
    """
    holder = context.store.lock_holder
    hangs = holder is not None and holder.held_s is not None and holder.held_s > SLOW_HOLDER_S
    if hangs or (context.backlog is not None and context.backlog.in_doubt):
        _let_wait(context, sample)
    else:
        ledger.withdraw()


def _settle(context: Context, transaction: Transaction) -> None:
    """Find out whether an earlier transaction was committed, if its COMMIT got no answer."""
    backlog = context.backlog
    if backlog is not None and backlog.in_doubt is not None:
        xid, _ = backlog.in_doubt
        backlog.settle(committed=transaction.was_committed(xid))


def _set_apart(
    context: Context, backlog: Backlog, entries: Sequence[Packed], error: OpsWorkerError
) -> None:
    """Set entries apart that the database refuses, so that other entries can be written."""
    backlog.set_apart(entries, context.clock() + APART_RETRY_S)
    _log.warning(
        "samples set apart: the database refuses them",
        extra={"action": "samples set apart", "count": len(entries), "error": str(error)},
    )


def _write_waiting(context: Context, backlog: Backlog, end: float) -> int:
    """Write waiting samples in slices, oldest first, until the moment ``end``.

    If a sample that is set apart is due, try it first. If the database accepts it, put all samples
    that are set apart back into the queue. Return how many samples were written.
    """
    written = 0
    retried = backlog.take_due_apart(context.clock())
    entries = retried or backlog.next_slice()
    while entries:
        count = _write_entries(context, backlog, entries)
        if count is None:
            break
        written += count
        if count and retried:
            backlog.readmit_apart()
        retried = ()
        if context.clock() > end:
            break
        entries = backlog.next_slice()
    return written


def _write_entries(context: Context, backlog: Backlog, entries: Sequence[Packed]) -> int | None:
    """Write one slice in its own transaction; return how many samples were written.

    The database may refuse a slice or take too long. Then the next slice is half as long. A sample
    that is refused alone is set apart. Return None if the other samples must wait for another pass,
    because the database is not available or another process holds the lock.
    """
    try:
        is_written = context.store.write(
            METRICS.transaction, partial(_write_slice, context, entries)
        )
    except CommitUnknownError as error:
        backlog.doubt(error.xid, entries)
        return None
    except (SchemaError, StatementTimeoutError) as error:
        # A smaller slice takes less time, and in the end a slice has only the refused sample.
        if len(entries) > 1:
            backlog.shrink_slice(len(entries))
        else:
            _set_apart(context, backlog, entries, error)
        return 0
    except DatabaseError:
        return None
    if is_written is None:
        return None
    backlog.discard(entries)
    backlog.grow_slice()
    return len(entries)


def _write_slice(context: Context, entries: Sequence[Packed], transaction: Transaction) -> bool:
    _settle(context, transaction)
    pass_writes.record_samples(transaction, entries)
    # Not None, which the store returns if another process holds the lock.
    return True
