"""Virtual time for threads. It advances only while every thread waits."""

from __future__ import annotations

import threading
from typing import Self

from ops_worker.loop import Clock

POLL_S = 0.0002
"""Real seconds between two checks of the event that a thread waits for."""
PATIENCE_POLLS = 150_000
"""The most checks of one wait: they take at least 30 s. Then the test fails.

Such a thread waits for another thread that neither waits nor ends.
"""
LIMIT_S = 10_000.0
"""The most virtual seconds. A test that needs more fails."""


class VirtualTime:
    """A monotonic and a wall clock that jump to the next timeout when all threads wait.

    Its threads are the thread that creates this object, and all threads that start later. They must
    only wait by ``wait``. Then the result does not depend on the speed or load of the machine. Use
    it as a context manager: its end also ends the threads that still wait.
    """

    def __init__(self, now: float = 1000.25, wall_offset: float = 1_700_000_000.0) -> None:
        self.now = now
        self.stalls: dict[float, float] = {}
        """By time of the monotonic clock, the seconds for which the process is stopped then."""
        self.interrupts: dict[str, BaseException] = {}
        """By thread name, the exception that the thread's next wait with a timeout raises."""
        self.clock = Clock(self.monotonic, self.wall, self.wait)
        self._wall_offset = wall_offset
        self._lock = threading.Lock()
        self._others = {*threading.enumerate()} - {threading.current_thread()}
        self._waiting: dict[threading.Thread, tuple[threading.Event, float]] = {}
        self._closed = False
        self._deadlock = False
        self._limit = now + LIMIT_S

    def monotonic(self) -> float:
        """Return the seconds of the monotonic clock."""
        return self.now

    def wall(self) -> float:
        """Return the seconds since the epoch."""
        return self._wall_offset + self.now

    def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        self.wait(threading.Event(), seconds)

    def wait(self, event: threading.Event, timeout: float | None = None) -> bool:
        """Wait for an event, at most ``timeout`` seconds; return whether the event is set."""
        thread = threading.current_thread()
        if timeout is not None and thread.name in self.interrupts:
            raise self.interrupts.pop(thread.name)
        deadline = float("inf") if timeout is None else self.now + timeout
        with self._lock:
            self._waiting[thread] = (event, deadline)
        try:
            for _ in range(PATIENCE_POLLS):
                if event.is_set() or self.now >= deadline:
                    return event.is_set()
                if self._closed:
                    raise SystemExit
                assert not self._deadlock, "every thread waits, and nothing ends the test"
                self._advance()
                event.wait(POLL_S)
            raise AssertionError(f"a thread neither waits nor ends: {self._busy()}")
        finally:
            with self._lock:
                del self._waiting[thread]

    def __enter__(self) -> Self:
        self._excepthook = threading.excepthook
        threading.excepthook = self._report
        return self

    def __exit__(self, *_: object) -> None:
        threading.excepthook = self._report  # pytest sets another hook for each phase of a test
        self._closed = True
        for thread in {*threading.enumerate()} - self._others - {threading.current_thread()}:
            thread.join(30)
        threading.excepthook = self._excepthook

    def _report(self, error: threading.ExceptHookArgs) -> None:
        """Report the exception of a thread, except for SystemExit, which pytest would report."""
        if error.exc_type is not SystemExit:
            self._excepthook(error)

    def _busy(self) -> list[threading.Thread]:
        """Return the threads that do not wait, or whose wait is over."""
        busy = []
        for thread in {*threading.enumerate()} - self._others:
            event, deadline = self._waiting.get(thread, (None, 0.0))
            if event is None or event.is_set() or deadline <= self.now:
                busy.append(thread)
        return busy

    def _advance(self) -> None:
        """If every thread waits, advance the time to the first timeout, and by a stall."""
        with self._lock:
            if self._busy():
                return
            timeout_at = min(deadline for _, deadline in self._waiting.values())
            if timeout_at > self._limit:
                self._deadlock = True
                return
            self.now = timeout_at
            for moment in [moment for moment in self.stalls if moment <= timeout_at]:
                self.now += self.stalls.pop(moment)
