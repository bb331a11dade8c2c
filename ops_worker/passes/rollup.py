"""The rollup pass: turn samples into one row per series and hour, and per day; remove old rows.

It probes nothing. It takes its own lock in every transaction, and writes tables that no other pass
writes. So no other pass waits for it. It may be killed at any moment: each transaction writes one
slice, which is an hour or a day, and the next run continues with the next slice.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.adapters.postgres import ledger_fill, pass_writes, rollup_writes
from ops_worker.core.model import Outcome, Recorded, Result, Rolled, Sample
from ops_worker.core.passes import (
    DOUBT_TABLE,
    LEDGER_TABLES,
    MAINTENANCE_TABLES,
    ROLLUP,
    ROLLUP_TABLES,
)
from ops_worker.core.rollup import (
    BEGIN_SHARE,
    DAY,
    HOUR,
    RESERVE_S,
    Pace,
    Positions,
    parameters,
    removable_samples,
    retained_since,
)
from ops_worker.core.samples import OPS_WORKER, ROLLUP_BEHIND_S
from ops_worker.errors import (
    DatabaseError,
    SchemaError,
    StatementTimeoutError,
    StillRecordingError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.adapters.postgres.rollup_writes import Step
    from ops_worker.core.rollup import Slice
    from ops_worker.passes.context import Context

TABLES = (*ROLLUP_TABLES, *LEDGER_TABLES, *MAINTENANCE_TABLES, DOUBT_TABLE)
"""Tables that may be missing."""


class Start(NamedTuple):
    """The state at the start of a run: its positions, and whether samples are in a plain table."""

    positions: Positions
    now: datetime
    plain: bool


class Done(NamedTuple):
    """A slice that was rolled up, and the number of its new or changed rows.

    ``part`` is None if no slice has samples.
    """

    part: Slice | None
    rows: int = 0


class Written(NamedTuple):
    """What the last transaction recorded: the worker's own alert, and warnings."""

    peer: Recorded
    warnings: tuple[str, ...]


def run(context: Context) -> Outcome:
    """Run the rollup pass: roll up due slices, oldest first, remove old rows, record self-metrics.

    The run stops before PASS_DEADLINE, and the next run continues. Raises DatabaseError or
    SchemaError if nothing could be written or if a slice takes too long.
    """
    begun = context.clock()
    outcome = Outcome(ROLLUP.name, Result.SKIPPED, rolled=Rolled())
    if context.settings.job_completion_index:
        return outcome._replace(result=Result.OFF)
    try:
        with context.recording():
            start = context.transact(ROLLUP, partial(_start, context), TABLES)
            if start is None:
                context.require_live_holder(ROLLUP.name)
                return outcome
            work = _Rollup(context, start, begun)
            work.run()
            record = partial(_record, context, begun, work.rolled.behind_s)
            written = context.transact(ROLLUP, record, TABLES)
    except StillRecordingError:
        return outcome._replace(result=Result.WAITING)
    # If another process has begun to roll up meanwhile, it records its own self-metrics.
    peer, warnings = written or Written(pass_writes.NOTHING, ())
    return outcome._replace(
        result=Result.DRY_RUN if context.dry_run else Result.RECORDED,
        own_reason=peer.own_reason,
        opened=peer.opened,
        closed=peer.closed,
        warnings=(*work.warnings, *warnings),
        rolled=work.rolled,
    )


def _start(context: Context, transaction: Transaction) -> Start:
    state = rollup_writes.read_state(transaction)
    now = transaction.now
    positions = Positions.initial(state, now, context.settings.history_days)
    return Start(positions, now, state.plain)


class _Rollup:
    """One run of the rollup: its results so far, and its limits in time."""

    def __init__(self, context: Context, start: Start, begun: float) -> None:
        self._context = context
        self._start = start
        self._positions = start.positions
        deadline_s = context.settings.pass_deadline
        self._last_begin = begun + BEGIN_SHARE * deadline_s
        self._end = begun + deadline_s - RESERVE_S
        self._parameters = parameters(context.settings.catalogue.targets)
        self._pace = Pace()
        self._written = {HOUR: 0, DAY: 0}
        self._rows = 0
        self._removed: dict[str, int] = {}
        self._failure: DatabaseError | None = None
        self.warnings: list[str] = []

    @property
    def rolled(self) -> Rolled:
        """The results of this run, for the outcome."""
        return Rolled(
            hours=self._written[HOUR],
            days=self._written[DAY],
            rows=self._rows,
            removed=self._removed,
            until=self._positions.done[HOUR],
            behind_s=self._positions.behind_s,
        )

    def run(self) -> None:
        """Roll up slices, then remove old rows. Raises DatabaseError if a slice took too long.

        New slices come before slices that are repeated for late samples. So every run makes
        progress.
        """
        before = self._positions
        self._positions = self._roll_up(before)
        if not self._positions.behind_s:
            self._roll_up(before.repeated(self._start.now))
        self._fill_ledger()
        self._remove()
        if self._failure is not None:
            raise self._failure

    def _roll_up(self, positions: Positions) -> Positions:
        """Roll up slices, oldest first, while there is time; return the new positions."""
        too_long: set[str] = set()
        while level := positions.due(too_long):
            begun = self._context.clock()
            if not self._pace.fits(level, self._last_begin - begun):
                break
            work = partial(self._roll_up_next, positions, level)
            try:
                done = self._context.transact(ROLLUP, work, TABLES)
            except StatementTimeoutError as error:
                # Continue with the slices of the other level and the retention; raise at the end.
                too_long.add(level)
                self._failure = DatabaseError(
                    f"a {level} of samples could not be rolled up in time: {error}",
                    "raise PASS_DEADLINE, and activeDeadlineSeconds of the Job with it",
                )
                continue
            if done is None:
                break  # another process has begun to roll up
            positions = self._advanced(positions, level, done)
            self._pace.add(level, self._context.clock() - begun)
        return positions

    def _roll_up_next(self, positions: Positions, level: str, transaction: Transaction) -> Done:
        """Roll up the next slice of a level that has samples. A dry run only looks for it."""
        since, until = positions.done[level], positions.complete[level]
        rollup_writes.set_limits(transaction, self._end - self._context.clock())
        part = rollup_writes.next_slice(transaction, level, since, until)
        if part is None or self._context.dry_run:
            return Done(part)
        return Done(part, rollup_writes.roll_up(transaction, part, self._parameters))

    def _advanced(self, positions: Positions, level: str, done: Done) -> Positions:
        """Return the positions after the COMMIT of a slice.

        If no slice has samples, the level is complete.
        """
        if done.part is None:
            return positions.moved(level, positions.complete[level])
        self._written[level] += self._context.dry_run or done.rows > 0
        self._rows += done.rows
        return positions.moved(level, done.part.end)

    def _fill_ledger(self) -> None:
        """Fill the ledger once from samples older than the ledger, while there is time."""
        if self._context.dry_run:
            return
        series = {target.series: target.name for target in self._context.settings.catalogue.targets}
        work = partial(_fill_some, series)
        try:
            has_more = True
            while has_more and self._context.clock() < self._last_begin:
                has_more = bool(self._context.transact(ROLLUP, work, TABLES))
        except (SchemaError, StatementTimeoutError) as error:
            self.warnings.append(f"the ledger is not filled from older samples: {error}")

    def _remove(self) -> None:
        """Remove rows older than the settings allow, in small steps, while there is time."""
        if self._context.dry_run:
            return
        for step, before in self._retention():
            try:
                self._remove_all(step, before)
            except (SchemaError, StatementTimeoutError) as error:
                # Only a warning: the new hours and days matter more than the old rows.
                self.warnings.append(f"old rows of {step.table} are not removed: {error}")

    def _remove_all(self, step: Step, before: datetime) -> None:
        removed = rollup_writes.REMOVED_ROWS
        while removed == rollup_writes.REMOVED_ROWS and self._context.clock() < self._end:
            work = partial(self._remove_some, step, before)
            removed = self._context.transact(ROLLUP, work, TABLES) or 0
            self._removed[step.table] = self._removed.get(step.table, 0) + removed

    def _retention(self) -> Iterator[tuple[Step, datetime]]:
        """Yield each step of the retention, and the time before which its rows are too old."""
        settings, now = self._context.settings, self._start.now
        if settings.samples_days and self._start.plain:
            before = removable_samples(now, settings.samples_days, self._positions)
            yield rollup_writes.SAMPLES_STEP, before
        if settings.history_days:
            before = retained_since(now, settings.history_days)
            for step in rollup_writes.HISTORY_STEPS:
                yield step, before

    def _remove_some(self, step: Step, before: datetime, transaction: Transaction) -> int:
        rollup_writes.set_limits(transaction, self._end - self._context.clock())
        return rollup_writes.remove(transaction, step, before)


def _fill_some(series: Mapping[str, str], transaction: Transaction) -> bool:
    if not set(LEDGER_TABLES) <= transaction.present:
        return False
    return ledger_fill.fill(transaction, series)


def _record(context: Context, begun: float, behind_s: float, transaction: Transaction) -> Written:
    """Record the self-metrics, by which other passes see that the rollup pass runs."""
    if not context.dry_run:
        samples = context.self_metrics(ROLLUP, (), begun)
        if samples:
            samples.append(Sample(OPS_WORKER, ROLLUP_BEHIND_S, behind_s, samples[0].tags))
        pass_writes.record_self_metrics(transaction, begun, samples)
    maintenance = pass_writes.maintenance_of(transaction, context.settings.maintenance_until)
    may_open = OPS_WORKER not in maintenance
    peer = context.watch_peers(transaction, ROLLUP, begun, may_open=may_open)
    return Written(peer, tuple(transaction.warnings))
