"""Loop mode: run the same pass repeatedly on a fixed cadence, until a signal.

Every loop has its own thread, context and connection, so that no loop affects another loop. An
error in a pass affects only its own tick. A thread that dies is started again.

Every tick runs its pass in its own thread. The loop waits until the probes of the pass are done. It
does not wait for the database. So the next probes begin on time, however slow the database is. Only
one pass of a loop is recorded at a time.

Time is injected (``Clock``): tests run loops in virtual time.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ops_worker import process
from ops_worker.core.cadence import Cadence
from ops_worker.core.model import Tick
from ops_worker.errors import DONE, OpsWorkerError, StillRecordingError, severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ops_worker.core.model import Outcome
    from ops_worker.passes import Context

_log = logging.getLogger(__name__)

REVIVE_S = 0.5
"""Seconds between two checks of whether the thread of a loop has died."""
STALLED_S = 5.0
"""Seconds after which every tick warns that an earlier pass is still being recorded."""
MIN_CLOSING_S = 1.0
"""The least time, in seconds, for writing the waiting samples after the loops have ended."""


class Clock(NamedTuple):
    """The clock of a loop.

    - ``monotonic``: seconds since an arbitrary moment. Setting the system clock does not change it.
    - ``wall``: seconds since the epoch.
    - ``wait``: wait until an event is set, at most for a number of seconds (None: without a limit);
      return whether the event is set.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    wait: Callable[[threading.Event, float | None], bool] = threading.Event.wait


SYSTEM_CLOCK = Clock()
"""The clock of this machine."""


class _Due(NamedTuple):
    """A slot that is due: its start (seconds, monotonic clock), and the slots skipped before it."""

    start: float
    skipped: int


class _Progress(NamedTuple):
    """The progress of a tick: ``observed`` is set after its probes, ``ended`` at its end."""

    observed: threading.Event
    ended: threading.Event


class Loop:
    """One pass on its cadence.

    Only one thread may call ``run``; any thread may read the attributes.

    - ``report`` receives every tick and returns its exit code.
    - ``stop``: no tick begins once it is set.
    - ``until``: no tick begins at or after this moment (seconds, monotonic clock).
    - ``is_complete`` is set when all ticks before ``until`` have begun; ``finished`` is also set
      when a signal stopped the loop.
    """

    def __init__(  # noqa: PLR0913 - four say what it runs, four when
        self,
        name: str,
        interval_s: float,
        work: Callable[[Context], Outcome],
        context: Context,
        *,
        report: Callable[[Tick], int],
        stop: threading.Event,
        until: float = math.inf,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.work = work
        self.context = context
        self.cadence = Cadence.aligned(
            interval_s, monotonic=clock.monotonic(), calendar=clock.wall()
        )
        self.exit_code = DONE
        self.finished = False
        self.is_complete = False
        self._report = report
        self._stop = stop
        self._until = until
        self._clock = clock
        self._slot: int | None = None
        self._recorder: _Progress | None = None
        self._recording_since = 0.0
        self._record_lock = threading.Lock()
        self._report_lock = threading.Lock()
        self._dropped_reported = 0
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run ticks until ``stop`` or ``until``. The first tick starts at once."""
        while (due := self._await_slot()) is not None:
            self._start_tick(due)
        if self._recorder is not None:  # a tick that is not recorded has already ended
            self._clock.wait(self._recorder.ended, None)
        self.finished = True

    @property
    def is_endless(self) -> bool:
        """True if only a signal ends the loop."""
        return self._until == math.inf

    def take_error(self) -> BaseException | None:
        """Return the error that ended the thread of a tick since the last call, or None."""
        error, self._error = self._error, None
        return error

    def _await_slot(self) -> _Due | None:
        """Wait for the next slot; return None when no further tick may begin."""
        clock, last = self._clock, self._slot
        if last is None:
            self._slot = self.cadence.slot_at(clock.monotonic())
            if self._stop.is_set():
                return None
            return _Due(self.cadence.start_of(self._slot), skipped=0)
        slot = last
        while True:
            slot = self.cadence.after(slot, clock.monotonic())
            # Set the slot before the tick: even if this thread dies, no slot runs twice.
            self._slot = slot
            start = self.cadence.start_of(slot)
            wait_s = max(0.0, start - clock.monotonic())
            if start >= self._until:
                self.is_complete = True
                return None
            if clock.wait(self._stop, wait_s):
                return None
            if clock.monotonic() < self.cadence.start_of(slot + 1):
                return _Due(start, skipped=slot - last - 1)
            # The process was stopped during the wait, so this slot is over as well.

    def _start_tick(self, due: _Due) -> None:
        """Run a tick in its own thread; return when its probes are done."""
        progress = _Progress(observed=threading.Event(), ended=threading.Event())
        # A daemon thread, because a pass that hangs must not keep the process from ending.
        thread = threading.Thread(
            target=self._run_tick, args=(due, progress), name=f"{self.name} pass", daemon=True
        )
        thread.start()
        self._clock.wait(progress.observed, None)

    def _run_tick(self, due: _Due, progress: _Progress) -> None:
        try:
            self._tick(due, progress)
        except BaseException as error:  # noqa: BLE001 - the main thread reports it
            self._error = error
        finally:
            # Set both also after an error. Otherwise the loop would wait for ever.
            progress.ended.set()
            progress.observed.set()

    def _tick(self, due: _Due, progress: _Progress) -> None:
        """Run the pass once and report how it ended."""
        begun = self._clock.monotonic()
        outcome, error = None, None
        try:
            context = self.context._replace(recording=partial(self._recording, progress))
            outcome = self.work(context)
        except Exception as raised:  # noqa: BLE001 - any error is reported, and the loop goes on
            error = raised
        duration_s = self._clock.monotonic() - begun
        if outcome is not None:
            outcome = outcome._replace(duration_s=duration_s)
        tick = Tick(
            loop=self.name,
            duration_s=duration_s,
            late_s=begun - due.start,
            skipped=due.skipped,
            outcome=outcome,
            error=error,
        )
        code = self._report(self._with_backlog(tick))
        with self._report_lock:
            self.exit_code = worst(self.exit_code, code)

    def _with_backlog(self, tick: Tick) -> Tick:
        """Add how many samples wait, and how many were lost since the last tick."""
        backlog = self.context.backlog
        if backlog is None:
            return tick
        with self._report_lock:
            # Two ticks may end at the same time, but each lost sample is reported only once.
            dropped = backlog.dropped - self._dropped_reported
            self._dropped_reported += dropped
        return tick._replace(buffered=len(backlog), dropped=dropped, set_apart=backlog.apart)

    @contextlib.contextmanager
    def _recording(self, progress: _Progress) -> Iterator[None]:
        """Record one pass at a time. Raises StillRecordingError while another one is recorded."""
        # Do not wait for the lock: this would delay the probes of the next tick.
        if not self._record_lock.acquire(blocking=False):
            self._warn_if_stalled()
            raise StillRecordingError
        try:
            self._recording_since = self._clock.monotonic()
            self._recorder = progress
            progress.observed.set()
            yield
        finally:
            self._record_lock.release()

    def _warn_if_stalled(self) -> None:
        waited_s = self._clock.monotonic() - self._recording_since
        if waited_s > STALLED_S:
            _log.warning(
                "the database does not answer an earlier pass",
                extra={
                    "action": "still recording",
                    "loop": self.name,
                    "seconds": round(waited_s, 1),
                },
            )


def run(  # noqa: PLR0913 - what to run and how to end it; the rest is for tests
    loops: Sequence[Loop],
    stop: threading.Event,
    *,
    grace_s: float,
    close: Callable[[float], None],
    clock: Clock = SYSTEM_CLOCK,
    await_signal: Callable[[], object] = process.await_signal,
) -> int:
    """Run the loops until all have finished, or until SIGTERM or SIGINT; return the exit code.

    After the first signal, no tick begins. Running passes and ``close`` together have ``grace_s``
    seconds; ``close`` receives the moment at which this time is over. A second signal ends the
    process at once, with exit code 1. ``process.hold_signals`` must have been called before.

    If the loops are endless, the exit code after a signal is 0. Otherwise the exit code is that of
    the worst pass. It is also not 0 if a loop did not reach its end.
    """
    gc.enable()  # a long-lived process makes garbage that is worth collecting
    # Objects that exist now live as long as the process, so the collector need not check them.
    gc.freeze()
    signalled = threading.Event()
    signals = partial(_stop_on_signal, stop, signalled, await_signal)
    threading.Thread(target=signals, name="signals", daemon=True).start()
    ends = _supervise(loops, stop, clock)
    deadline = clock.monotonic() + grace_s
    for ended in ends:
        clock.wait(ended, max(0.0, deadline - clock.monotonic()))
    if not all(ended.is_set() for ended in ends):
        _log.warning(
            "a pass did not end in time and is abandoned", extra={"action": "pass given up"}
        )
    # Close in a thread, because the database may never answer.
    closed = _start("close", partial(close, deadline))
    clock.wait(closed, max(MIN_CLOSING_S, deadline - clock.monotonic()))
    code = worst(*(loop.exit_code for loop in loops))
    if not signalled.is_set():
        return code
    if all(loop.is_endless for loop in loops):
        # A Deployment stops a pod with SIGTERM. This is not a failure, even if passes failed.
        return DONE
    if all(loop.is_complete for loop in loops):
        return code
    # Not 0: a Job would count 0 as a success and would not repeat the missing ticks.
    return worst(code, OpsWorkerError.exit_code)


def worst(*codes: int) -> int:
    """Return the worst of these exit codes, with which a process of several passes ends."""
    return max(codes, key=severity)


def log_tick(tick: Tick) -> None:
    """Log what went wrong in a tick, and the slots that were skipped before it."""
    if tick.skipped:
        _log.warning(
            "ticks skipped",
            extra={"action": "ticks skipped", "loop": tick.loop, "count": tick.skipped},
        )
    if isinstance(tick.error, OpsWorkerError):
        extra = {
            "action": "pass failed",
            "loop": tick.loop,
            "error": str(tick.error),
            "exit_code": tick.exit_code,
            "buffered": tick.buffered,
        }
        debug = _log.isEnabledFor(logging.DEBUG)
        _log.warning("the pass failed", extra=extra, exc_info=tick.error if debug else None)
    elif tick.error is not None:
        _log.error(
            "the pass crashed: this is a bug in ops-worker",
            extra={"action": "pass crashed", "loop": tick.loop},
            exc_info=tick.error,
        )


def _supervise(loops: Sequence[Loop], stop: threading.Event, clock: Clock) -> list[threading.Event]:
    """Start the loops. Until ``stop`` or their end, start a loop again if its thread died.

    Return the events that the threads of the loops set at their end.
    """
    ends = {loop.name: _start(loop.name, loop.run) for loop in loops}
    while not clock.wait(stop, REVIVE_S) and not all(loop.finished for loop in loops):
        for loop in loops:
            error = loop.take_error()
            died = ends[loop.name].is_set() and not loop.finished
            if error is not None or died:
                _log.error(
                    "a thread of a loop died; the loop goes on",
                    extra={"action": "loop revived", "loop": loop.name},
                    exc_info=error,
                )
            if died:
                ends[loop.name] = _start(loop.name, loop.run)
    return [*ends.values()]


def _start(name: str, work: Callable[[], None]) -> threading.Event:
    """Run a function in a new thread; return an event that is set when the thread ends."""
    ended = threading.Event()

    def run_and_end() -> None:
        """Run the work and set the event, even after an error."""
        try:
            work()
        finally:
            ended.set()

    threading.Thread(target=run_and_end, name=name, daemon=True).start()
    return ended


def _stop_on_signal(
    stop: threading.Event, signalled: threading.Event, await_signal: Callable[[], object]
) -> None:
    """Stop the loops on the first signal; end the process on the second one."""
    await_signal()
    signalled.set()
    stop.set()
    await_signal()
    # End without cleanup: the first signal already asked for an orderly end.
    os._exit(1)
