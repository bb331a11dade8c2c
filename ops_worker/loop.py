"""Loop mode: the same pass again and again, on a fixed cadence, until told to stop.

Each loop has a thread, a context and a connection of its own. Nothing that one of them does or suffers reaches
another: a pass that raises costs its tick, a thread that dies is started again, a wait is waited by its own thread.

Each tick runs its pass in a thread of its own. The loop waits for it until the probes are done, not until the database has
answered: so the next probes begin on time whatever the database does. Only one pass of a loop is being recorded at a time.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from ops_worker.core.cadence import Cadence
from ops_worker.core.model import Tick
from ops_worker.errors import DONE, OpsWorkerError, StillRecordingError
from ops_worker.process import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ops_worker.core.model import Outcome
    from ops_worker.passes import Context

_log = logging.getLogger(__name__)

REVIVE_S = 0.5
"""How often it is looked whether a loop's thread died, and how long a new one waits."""
STALLED_S = 5.0
"""Seconds that recording a pass may take before it is worth a warning at each tick."""
LEAST_CLOSING_S = 1.0
"""The least time to write the samples that wait, when the loops have ended."""
SEVERITY = (DONE, 4, 1, 3, 2)
"""Exit codes from best to worst: a CronJob that samples for a minute ends with the worst of its passes."""


class Loop:
    """One pass on its cadence. ``run`` is the thread's; everything else may be read from any thread."""

    def __init__(  # noqa: PLR0913 - two of them are what it runs, three how
        self,
        name: str,
        interval_s: float,
        work: Callable[[Context], Outcome],
        context: Context,
        *,
        told: Callable[[Tick], int],
        stop: threading.Event,
        until: float = float("inf"),
    ) -> None:
        """Take the pass and its context; ``told`` is given each tick and gives its exit code; after the moment ``until`` no tick begins."""
        self.name = name
        self.work = work
        self.context = context
        self.cadence = Cadence.aligned(interval_s, monotonic=time.monotonic(), calendar=time.time())
        self.exit_code = DONE
        self.finished = False
        self._told = told
        self._stop = stop
        self._until = until
        self._slot: int | None = None
        self._latest: threading.Thread | None = None
        self._recorder: threading.Thread | None = None
        self._recording_since = 0.0
        self._record_lock = threading.Lock()
        self._told_lock = threading.Lock()
        self._dropped_told = 0
        self._fault: BaseException | None = None

    def run(self) -> None:
        """Tick until told to stop. The first tick is at once; it takes the slot that is under way."""
        while (skipped := self._await_slot()) is not None:
            self._start_tick(skipped)
        for thread in (self._recorder, self._latest):
            if thread is not None:
                thread.join()
        self.finished = True

    def take_fault(self) -> BaseException | None:
        """Return what ended a tick's thread since the last call, if anything did."""
        fault, self._fault = self._fault, None
        return fault

    def _start_tick(self, skipped: int) -> None:
        """Run a tick in a thread of its own; return when its probes are done."""
        observed = threading.Event()
        self._latest = threading.Thread(
            target=self._run_tick, args=(skipped, observed), name=f"{self.name} pass", daemon=True
        )
        self._latest.start()
        observed.wait()

    def _run_tick(self, skipped: int, observed: threading.Event) -> None:
        try:
            self._tick(skipped, observed)
        except BaseException as fault:  # noqa: BLE001 - the main thread reports it
            self._fault = fault
        finally:
            observed.set()

    @contextlib.contextmanager
    def _recording(self, observed: threading.Event) -> Iterator[None]:
        """Let one pass at a time be recorded. Raises StillRecordingError while another one is."""
        if not self._record_lock.acquire(blocking=False):
            waited_s = time.monotonic() - self._recording_since
            if waited_s > STALLED_S:
                _log.warning(
                    "the database does not answer an earlier pass",
                    extra={
                        "action": "still recording",
                        "loop": self.name,
                        "seconds": round(waited_s, 1),
                    },
                )
            raise StillRecordingError
        try:
            self._recording_since = time.monotonic()
            self._recorder = threading.current_thread()
            observed.set()
            yield
        finally:
            self._record_lock.release()

    def _await_slot(self) -> int | None:
        """Wait for the slot that is due and give how many were passed over for it, or None when there is none any more."""
        last = self._slot
        if last is None:
            self._slot = self.cadence.slot_at(time.monotonic())
            return None if self._stop.is_set() else 0
        while True:
            slot = self.cadence.after(self._slot or last, time.monotonic())
            start = self.cadence.start_of(slot)
            self._slot = slot  # this loop's from now on: whatever happens to the thread, no slot is run twice
            if start >= self._until or self._stop.wait(max(0.0, start - time.monotonic())):
                return None
            if time.monotonic() < self.cadence.start_of(slot + 1):
                return slot - last - 1
            # The process was stopped meanwhile, and for long: this slot is over as well.

    def _tick(self, skipped: int, observed: threading.Event) -> None:
        begun = time.monotonic()
        late_s = begun - self.cadence.start_of(self._slot or 0)
        outcome, error = None, None
        try:
            context = self.context._replace(recording=partial(self._recording, observed))
            outcome = self.work(context)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is told, counted, and tried again
            error = raised
        took = time.monotonic() - begun
        if outcome is not None:
            outcome = outcome._replace(duration_s=took)
        tick = Tick(
            loop=self.name,
            duration_s=took,
            late_s=late_s,
            skipped=skipped,
            outcome=outcome,
            error=error,
        )
        code = self._told(self._with_backlog(tick))
        with self._told_lock:
            self.exit_code = max(self.exit_code, code, key=SEVERITY.index)

    def _with_backlog(self, tick: Tick) -> Tick:
        """Add what waits for the database, and what was lost since the last tick."""
        backlog = self.context.backlog
        if backlog is None:
            return tick
        with self._told_lock:
            dropped = backlog.dropped - self._dropped_told
            self._dropped_told += dropped
        return tick._replace(buffered=len(backlog), dropped=dropped, set_apart=backlog.apart)


def run(
    loops: Sequence[Loop], stop: threading.Event, *, grace_s: float, last: Callable[[float], None]
) -> int:
    """Run the loops until all have finished, or until SIGTERM or SIGINT; give the exit code.

    On the first signal no new tick begins. Passes that are under way and ``last`` get ``grace_s``
    seconds; ``last`` is given the moment at which these are over. The code is then 0. A second
    signal ends the process at once. ``process.hold_signals`` must have been called.
    """
    gc.enable()  # a process that stays may make garbage worth collecting
    gc.freeze()
    signalled = threading.Event()
    threading.Thread(
        target=_await_signals, args=(stop, signalled), name="signals", daemon=True
    ).start()
    threads = {loop.name: _start(loop) for loop in loops}
    while not stop.wait(REVIVE_S) and not all(loop.finished for loop in loops):
        for loop in loops:
            fault = loop.take_fault()
            died = not threads[loop.name].is_alive() and not loop.finished
            if fault is not None or died:
                _log.error(
                    "a loop's thread died and is started again",
                    extra={"action": "loop revived", "loop": loop.name},
                    exc_info=fault,
                )
            if died:
                threads[loop.name] = _start(loop)
    end = time.monotonic() + grace_s
    for thread in threads.values():
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in threads.values()):
        _log.warning(
            "a pass did not end in time and is given up", extra={"action": "pass given up"}
        )
    closing = threading.Thread(target=last, args=(end,), name="last", daemon=True)
    closing.start()
    closing.join(max(LEAST_CLOSING_S, end - time.monotonic()))
    return (
        DONE if signalled.is_set() else max((loop.exit_code for loop in loops), key=SEVERITY.index)
    )


def log_tick(tick: Tick) -> None:
    """Tell of what went wrong in a tick, and of the slots that were passed over."""
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
        _log.warning(
            "the pass was not done",
            extra=extra,
            exc_info=tick.error if _log.isEnabledFor(logging.DEBUG) else None,
        )
    elif tick.error is not None:
        _log.error(
            "the pass crashed: a bug",
            extra={"action": "pass crashed", "loop": tick.loop},
            exc_info=tick.error,
        )


def _start(loop: Loop) -> threading.Thread:
    thread = threading.Thread(target=loop.run, name=loop.name, daemon=True)
    thread.start()
    return thread


def _await_signals(stop: threading.Event, signalled: threading.Event) -> None:
    signal.sigwait(SIGNALS)
    signalled.set()
    stop.set()
    signal.sigwait(SIGNALS)
    os._exit(1)
