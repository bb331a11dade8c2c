"""Tests of loops in virtual time: cadence, isolation, signals. No test here sleeps.

``tests/acceptance/test_loop.py`` repeats the main cases with real processes.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import loop as loops
from ops_worker.core.backlog import MEBIBYTE, Backlog, Pending
from ops_worker.core.model import Outcome, Result, Sample
from ops_worker.errors import (
    DatabaseError,
    OpsWorkerError,
    SchemaError,
    SettingsError,
    StillRecordingError,
)
from ops_worker.loop import Loop
from ops_worker.passes import Context
from tests.clock import VirtualTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ops_worker.core.model import Tick

pytestmark = pytest.mark.unit

START = 1000.25
FIRST_SLOT = 1001.125
"""The monotonic time at which the second slot of 1 s begins.

Slots begin at whole seconds of the wall clock.
"""
TOOK_S = 0.3
GRACE_S = 25.0


class Simulation:
    """Loops in virtual time. It records every tick, and when every pass began."""

    def __init__(self) -> None:
        self.time = VirtualTime(START, wall_offset=1_700_000_000.0 - 0.125)
        self.stop = threading.Event()
        self.begun: dict[str, list[float]] = {}
        self.ticks: dict[str, list[Tick]] = {}
        self.closed: list[float] = []
        """The arguments that ``close`` received."""
        self.signal_at = math.inf
        self.close: Callable[[float], None] = self.closed.append

    def loop(
        self,
        name: str = "metrics",
        *,
        interval_s: float = 1.0,
        seconds: float = math.inf,
        work: Callable[[Context], Outcome] | None = None,
        report: Callable[[Tick], int] | None = None,
        backlog: Backlog | None = None,
    ) -> Loop:
        """Return a loop. By default, each pass takes 0.3 s and is recorded."""
        begun = self.begun.setdefault(name, [])
        ticks = self.ticks.setdefault(name, [])
        work_of_pass = work or self.taking({})

        def begin(context: Context) -> Outcome:
            begun.append(self.time.now)
            return work_of_pass(context)

        def keep(tick: Tick) -> int:
            ticks.append(tick)
            loops.log_tick(tick)
            return tick.exit_code if report is None else report(tick)

        return Loop(
            name,
            interval_s,
            begin,
            context(self.time, backlog),
            report=keep,
            stop=self.stop,
            until=self.time.now + seconds,
            clock=self.time.clock,
        )

    def taking(self, seconds: Mapping[int, float]) -> Callable[[Context], Outcome]:
        """Return a pass that takes 0.3 s. ``seconds`` has other durations, by the tick's number."""
        numbers = iter(range(1_000_000))

        def work(_: Context) -> Outcome:
            self.time.sleep(seconds.get(next(numbers), TOOK_S))
            return Outcome("metrics", Result.RECORDED)

        return work

    def run(self, *to_run: Loop) -> int:
        """Run the loops as a process does; return the exit code."""
        return loops.run(
            to_run,
            self.stop,
            grace_s=GRACE_S,
            close=self.close,
            clock=self.time.clock,
            await_signal=self._await_signal,
        )

    def _await_signal(self) -> None:
        self.time.sleep(self.signal_at - self.time.now)
        self.signal_at = math.inf

    def skipped(self, name: str = "metrics") -> list[int]:
        """Return how many slots were skipped before every tick."""
        return [tick.skipped for tick in self.ticks[name]]


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    """Yield a process with its own time. Threads that still wait end with the test."""
    simulation = Simulation()
    with simulation.time:
        yield simulation


def context(time: VirtualTime, backlog: Backlog | None = None) -> Context:
    """Return a context with a clock and without a database."""
    unused: Any = None
    return Context(unused, unused, unused, time.monotonic, backlog=backlog)


def every(seconds: float, count: int, start: float = FIRST_SLOT) -> list[float]:
    """Return ``count`` times at equal distances."""
    return [start + seconds * number for number in range(count)]


def actions(caplog: pytest.LogCaptureFixture, action: str) -> list[logging.LogRecord]:
    """Return the log records with an action."""
    return [record for record in caplog.records if vars(record).get("action") == action]


def fail(error: Exception) -> Callable[[Context], Outcome]:
    """Return a pass that raises."""

    def work(_: Context) -> Outcome:
        raise error

    return work


class TestCadence:
    """The begin of each tick, and the skipped slots."""

    def test_on_time(self, simulation: Simulation) -> None:
        """The first tick begins at once, the others at every second of the wall clock."""
        simulation.loop(seconds=100).run()
        assert simulation.begun["metrics"] == [START, *every(1, 100)]
        assert [tick.late_s for tick in simulation.ticks["metrics"]] == [0.125] + [0.0] * 100
        assert set(simulation.skipped()) == {0}

    def test_duration(self, simulation: Simulation) -> None:
        """A tick and its outcome have the duration of the pass."""
        simulation.loop(seconds=1, work=simulation.taking({0: 0.5})).run()
        tick = simulation.ticks["metrics"][0]
        assert tick.outcome is not None
        assert (tick.duration_s, tick.outcome.duration_s) == (0.5, 0.5)

    def test_long_pass(self, simulation: Simulation) -> None:
        """A pass of 2.5 s skips the two slots that begin during it. No later tick replaces them."""
        simulation.loop(seconds=10, work=simulation.taking({3: 2.5})).run()
        assert simulation.begun["metrics"] == [START, *every(1, 3), *every(1, 5, FIRST_SLOT + 5)]
        assert simulation.skipped() == [0, 0, 0, 0, 2, 0, 0, 0, 0]
        assert {tick.late_s for tick in simulation.ticks["metrics"][1:]} == {0.0}

    @pytest.mark.parametrize("stopped_s", [7.5, 20.5, 3600.5])
    def test_stopped_process(self, simulation: Simulation, stopped_s: float) -> None:
        """A stopped process resumes with one tick on time, and counts the skipped slots."""
        simulation.time.stalls[1003.0] = stopped_s
        simulation.loop(seconds=stopped_s + 6.5).run()
        resumed = FIRST_SLOT + 2 + math.ceil(stopped_s)
        expected = [START, *every(1, 2), *every(1, 4, resumed)]
        assert simulation.begun["metrics"] == expected
        assert simulation.skipped() == [0, 0, 0, math.ceil(stopped_s), 0, 0, 0]
        assert {tick.late_s for tick in simulation.ticks["metrics"][1:]} == {0.0}

    def test_stopped_for_a_part_of_a_slot(self, simulation: Simulation) -> None:
        """A stop of less than a slot makes a tick late, but skips no slot."""
        simulation.time.stalls[1003.0] = 0.25
        simulation.loop(seconds=5).run()
        assert simulation.skipped() == [0] * 6
        assert [tick.late_s for tick in simulation.ticks["metrics"]] == [0.125, 0, 0, 0.25, 0, 0]

    def test_skipped_slots_are_logged(
        self, simulation: Simulation, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A tick logs the slots that were skipped before it."""
        simulation.loop(seconds=6, work=simulation.taking({1: 2.5})).run()
        skips = [(vars(record)["loop"], vars(record)["count"]) for record in
                 actions(caplog, "ticks skipped")]  # fmt: skip
        assert skips == [("metrics", 2)]

    @pytest.mark.parametrize(("seconds", "count"), [(0, 1), (0.875, 1), (0.876, 2)])
    def test_until(self, simulation: Simulation, seconds: float, count: int) -> None:
        """No tick begins at or after ``until``, except the first one, which always runs."""
        simulation.loop(seconds=seconds).run()
        assert len(simulation.begun["metrics"]) == count

    def test_stop_before_the_first_tick(self, simulation: Simulation) -> None:
        """A loop that is stopped before its start runs nothing."""
        simulation.stop.set()
        simulation.loop().run()
        assert simulation.begun["metrics"] == []


class TestRecording:
    """The probes begin on time, even if the database is slow or hangs."""

    def test_database_hangs(self, simulation: Simulation, caplog: pytest.LogCaptureFixture) -> None:
        """While one pass is being recorded, later passes probe every second and wait."""
        mended = threading.Event()
        results: list[str] = []

        def work(context: Context) -> Outcome:
            first = len(simulation.begun["metrics"]) == 1
            try:
                with context.recording():
                    if first:
                        simulation.time.wait(mended)
            except StillRecordingError:
                return Outcome("metrics", Result.WAITING)
            return Outcome("metrics", Result.RECORDED)

        def report(tick: Tick) -> int:
            results.append(tick.result)
            if results == ["waiting"] * 10:
                mended.set()
            return 0

        simulation.loop(seconds=10, work=work, report=report).run()
        assert simulation.begun["metrics"] == [START, *every(1, 10)]
        assert results == ["waiting"] * 10 + ["recorded"]
        waited = [vars(record)["seconds"] for record in actions(caplog, "still recording")]
        assert waited == [5.9, 6.9, 7.9, 8.9, 9.9], "after STALLED_S, at every tick"

    def test_one_at_a_time(self, simulation: Simulation) -> None:
        """If a record takes 2.5 s, only one pass is recorded at a time; the others wait."""
        recording: list[int] = []

        def work(context: Context) -> Outcome:
            try:
                with context.recording():
                    recording.append(1)
                    assert sum(recording) == 1
                    simulation.time.sleep(2.5)
                    recording.append(-1)
            except StillRecordingError:
                return Outcome("metrics", Result.WAITING)
            return Outcome("metrics", Result.RECORDED)

        simulation.loop(seconds=9, work=work).run()
        assert simulation.begun["metrics"] == [START, *every(1, 9)]
        results = [tick.result for tick in simulation.ticks["metrics"]]
        assert (results.count("recorded"), results.count("waiting")) == (4, 6)

    def test_end_waits_for_the_record(self, simulation: Simulation) -> None:
        """A loop ends after its last record is written, even if later passes have ended before."""

        def work(context: Context) -> Outcome:
            try:
                with context.recording():
                    simulation.time.sleep(20)
            except StillRecordingError:
                return Outcome("metrics", Result.WAITING)
            return Outcome("metrics", Result.RECORDED)

        simulation.loop(seconds=5, work=work).run()
        results = [tick.result for tick in simulation.ticks["metrics"]]
        assert results == ["waiting"] * 5 + ["recorded"]
        assert simulation.time.now == START + 20

    def test_lock_is_released_by_an_error(self, simulation: Simulation) -> None:
        """After a pass that fails while it is being recorded, the next pass can be recorded."""

        def work(context: Context) -> Outcome:
            with context.recording():
                raise DatabaseError

        simulation.loop(seconds=3, work=work).run()
        assert [tick.result for tick in simulation.ticks["metrics"]] == ["failed"] * 4


class TestTick:
    """The outcome or the error of a tick, and the log of it."""

    @pytest.mark.parametrize(
        ("error", "code", "action", "level"),
        [
            (DatabaseError("away"), 1, "pass failed", logging.WARNING),
            (SchemaError("no table"), 3, "pass failed", logging.WARNING),
            (SettingsError(["no"]), 2, "pass failed", logging.WARNING),
            (ZeroDivisionError("secret"), 1, "pass crashed", logging.ERROR),
        ],
    )
    def test_error(
        self,
        simulation: Simulation,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
        code: int,
        action: str,
        level: int,
    ) -> None:
        """An error ends only its own tick. It is logged; only a bug has a traceback."""
        caplog.set_level(logging.INFO)
        loop = simulation.loop(seconds=2, work=fail(error))
        loop.run()
        assert loop.exit_code == code
        assert len(simulation.ticks["metrics"]) == 3
        records = actions(caplog, action)
        assert [record.levelno for record in records] == [level] * 3
        is_bug = not isinstance(error, OpsWorkerError)
        assert {bool(record.exc_info) for record in records} == {is_bug}
        if not is_bug:
            assert {vars(record)["exit_code"] for record in records} == {code}

    def test_traceback_at_debug(
        self, simulation: Simulation, caplog: pytest.LogCaptureFixture
    ) -> None:
        """LOG_LEVEL=DEBUG shows the traceback of an expected error, too."""
        caplog.set_level(logging.DEBUG, "ops_worker")
        simulation.loop(seconds=0, work=fail(DatabaseError("away"))).run()
        assert actions(caplog, "pass failed")[0].exc_info

    def test_dropped(self, simulation: Simulation) -> None:
        """A tick counts the samples that it lost and the samples that wait."""
        backlog = Backlog(2, MEBIBYTE)

        def work(_: Context) -> Outcome:
            sample = Sample("ingest", "jobs", 1.0)
            backlog.add(Pending(simulation.time.now, (sample,)))
            raise DatabaseError("away")

        simulation.loop(seconds=4, work=work, backlog=backlog).run()
        ticks = simulation.ticks["metrics"]
        assert [tick.buffered for tick in ticks] == [1, 2, 2, 2, 2]
        assert [tick.dropped for tick in ticks] == [0, 0, 1, 1, 1]
        assert {tick.set_apart for tick in ticks} == {0}

    def test_set_apart(self, simulation: Simulation) -> None:
        """A tick counts the samples that the database refuses."""
        backlog = Backlog(2, MEBIBYTE)
        backlog.add(Pending(1.0, (Sample("ingest", "jobs", 1.0),)))
        backlog.set_apart(backlog.next_slice(), math.inf)
        simulation.loop(seconds=0, backlog=backlog).run()
        assert [tick.set_apart for tick in simulation.ticks["metrics"]] == [1]


@pytest.mark.parametrize(
    ("codes", "worst"),
    [([0, 0], 0), ([0, 4, 0], 4), ([4, 1, 0], 1), ([1, 3, 1, 4], 3), ([3, 2, 0], 2)],
)
def test_worst_code(simulation: Simulation, codes: list[int], worst: int) -> None:
    """The exit code is that of the worst pass. An unhealthy service is better than a failure."""
    remaining = iter(codes)
    seconds = len(codes) - 1
    loop = simulation.loop(seconds=seconds, report=lambda _: next(remaining))
    assert simulation.run(loop) == loop.exit_code == worst
    assert [*remaining] == []


class TestProcess:
    """Several loops in one process, until a signal or their end."""

    def test_for(self, simulation: Simulation) -> None:
        """Loops end at ``until``. The exit code is the worst one, and ``close`` is called."""
        health = simulation.loop("health", interval_s=5, seconds=60, report=lambda _: 4)
        metrics = simulation.loop("metrics", seconds=60)
        assert simulation.run(health, metrics) == 4
        assert health.finished and metrics.finished
        assert simulation.begun["metrics"] == [START, *every(1, 60)]
        assert simulation.begun["health"] == [START, *every(5, 12, 1005.125)]
        assert len(simulation.closed) == 1
        assert (
            simulation.closed[0] - GRACE_S - simulation.begun["metrics"][-1] <= 1 + loops.REVIVE_S
        )

    def test_crash_isolation(
        self, simulation: Simulation, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A pass that raises at every tick does not delay a tick of the other loop."""
        health = simulation.loop("health", interval_s=5, seconds=60, work=lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
        metrics = simulation.loop("metrics", seconds=60)
        assert simulation.run(health, metrics) == 1
        assert simulation.begun["metrics"] == [START, *every(1, 60)]
        assert {tick.late_s for tick in simulation.ticks["metrics"][1:]} == {0.0}
        assert {tick.result for tick in simulation.ticks["metrics"]} == {"recorded"}
        assert [tick.result for tick in simulation.ticks["health"]] == ["crashed"] * 13
        assert len(actions(caplog, "pass crashed")) == 13
        assert not actions(caplog, "loop revived")

    def test_hang_isolation(self, simulation: Simulation) -> None:
        """A pass that hangs does not delay a tick of the other loop."""
        forever = threading.Event()

        def hang(_: Context) -> Outcome:
            simulation.time.wait(forever)
            raise AssertionError

        simulation.signal_at = START + 60
        health = simulation.loop("health", interval_s=5, work=hang)
        metrics = simulation.loop("metrics")
        assert simulation.run(health, metrics) == 0
        assert simulation.begun["health"] == [START]
        assert simulation.begun["metrics"] == [START, *every(1, 60)]
        assert (health.finished, metrics.finished) == (False, True)

    def test_tick_thread_dies(
        self, simulation: Simulation, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the thread of a tick ends, only this tick is lost: the next one is on time."""

        def report(_: Tick) -> int:
            if len(simulation.ticks["metrics"]) == 3:
                raise SystemExit
            return 0

        assert simulation.run(simulation.loop(seconds=5, report=report)) == 0
        assert simulation.begun["metrics"] == [START, *every(1, 5)]
        (record,) = actions(caplog, "loop revived")
        assert record.exc_info and record.exc_info[0] is SystemExit

    def test_loop_thread_dies(
        self, simulation: Simulation, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the thread of a loop ends, the loop starts again. No slot runs twice."""

        def kill(_: Context) -> Outcome:
            if len(simulation.begun["metrics"]) == 3:
                simulation.time.interrupts["metrics"] = SystemExit()
            return Outcome("metrics", Result.RECORDED)

        metrics = simulation.loop("metrics", seconds=8, work=kill)
        health = simulation.loop("health", seconds=8)
        assert simulation.run(metrics, health) == 0
        assert metrics.finished and health.finished
        assert simulation.begun["health"] == [START, *every(1, 8)]
        # The thread ended in the wait for the fourth slot. That slot is lost; the fifth is on time.
        assert simulation.begun["metrics"] == [START, *every(1, 2), *every(1, 5, FIRST_SLOT + 3)]
        assert len(actions(caplog, "loop revived")) == 1

    @pytest.mark.parametrize("lost", [0, 2, 4])
    def test_no_thread_for_a_tick(
        self,
        simulation: Simulation,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        lost: int,
    ) -> None:
        """If the system cannot start a thread, one tick is lost, and the loop continues."""
        start = threading.Thread.start
        numbers = itertools.count()

        def refuse(thread: threading.Thread) -> None:
            if thread.name == "metrics pass" and next(numbers) == lost:
                raise RuntimeError("can't start new thread")
            start(thread)

        def ignore(error: threading.ExceptHookArgs) -> None:
            assert error.exc_type is RuntimeError

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            patch.setattr(threading, "excepthook", ignore)
            assert simulation.run(simulation.loop(seconds=4)) == 0
        slots = [START, *every(1, 4)]
        assert simulation.begun["metrics"] == slots[:lost] + slots[lost + 1 :]
        assert len(actions(caplog, "loop revived")) == 1


class TestSignals:
    """SIGTERM and SIGINT: a running pass may finish, and no tick begins."""

    def test_between_ticks(self, simulation: Simulation) -> None:
        """A signal between two ticks ends the process at once with 0."""
        simulation.signal_at = START + 10
        both = [simulation.loop(name, interval_s=86_400, report=lambda _: 1) for name in ("a", "b")]
        assert simulation.run(*both) == 0, "the signal ended it, not its worst pass"
        assert simulation.time.now == START + 10
        assert simulation.closed == [START + 10 + GRACE_S]

    @pytest.mark.parametrize(
        ("signal_s", "pass_code", "code"),
        [(0.1, 0, 1), (2.0, 0, 1), (2.0, 4, 1), (2.0, 3, 3), (9.4, 0, 0), (9.4, 4, 4)],
    )
    def test_before_the_end(
        self, simulation: Simulation, signal_s: float, pass_code: int, code: int
    ) -> None:
        """A signal before the end of ``--for`` is a failure, so that the Job is run again.

        The last tick begins after 8.875 s and takes 1 s. A signal during it changes nothing.
        """
        simulation.signal_at = START + signal_s
        work = simulation.taking({9: 1.0})
        loop = simulation.loop(seconds=9, work=work, report=lambda _: pass_code)
        assert simulation.run(loop) == code
        assert loop.finished
        assert loop.is_complete == (signal_s > 9)

    def test_pass_that_hangs_before_the_end(self, simulation: Simulation) -> None:
        """A pass that is abandoned after a signal is missing, so the exit code is not 0."""
        simulation.signal_at = START + 2
        loop = simulation.loop(seconds=1, work=simulation.taking({0: 1000.0}))
        assert simulation.run(loop) == 1
        assert not loop.finished

    def test_during_a_pass(self, simulation: Simulation, caplog: pytest.LogCaptureFixture) -> None:
        """A running pass finishes within the grace period. No tick begins after the signal."""
        simulation.signal_at = START + 2
        loop = simulation.loop(work=simulation.taking({0: 8.0}))
        assert simulation.run(loop) == 0
        assert loop.finished
        assert simulation.begun["metrics"] == [START]
        assert [tick.result for tick in simulation.ticks["metrics"]] == ["recorded"]
        assert simulation.time.now == START + 8
        assert not actions(caplog, "pass given up")

    def test_pass_that_is_being_recorded(self, simulation: Simulation) -> None:
        """The grace period is also for a pass that is still being recorded."""

        def work(context: Context) -> Outcome:
            with context.recording():
                simulation.time.sleep(8)
            return Outcome("metrics", Result.RECORDED)

        simulation.signal_at = START + 0.5
        assert simulation.run(simulation.loop(work=work)) == 0
        assert [tick.result for tick in simulation.ticks["metrics"]] == ["recorded"]
        assert simulation.time.now == START + 8

    def test_grace_is_over(self, simulation: Simulation, caplog: pytest.LogCaptureFixture) -> None:
        """A pass that takes longer than the grace period is abandoned, with a warning."""
        simulation.signal_at = START + 2
        loop = simulation.loop(work=simulation.taking({0: 1000.0}))
        assert simulation.run(loop) == 0
        assert not loop.finished
        assert simulation.time.now == START + 2 + GRACE_S
        assert len(actions(caplog, "pass given up")) == 1
        assert len(simulation.closed) == 1, "another loop's samples may still be written"

    def test_one_grace_for_all(self, simulation: Simulation) -> None:
        """Several passes that hang share one grace period."""
        simulation.signal_at = START + 2
        hanging = [
            simulation.loop(name, work=simulation.taking({0: 1000.0})) for name in ("a", "b", "c")
        ]
        assert simulation.run(*hanging) == 0
        assert simulation.time.now == START + 2 + GRACE_S

    @pytest.mark.parametrize(
        ("pass_s", "closing_s", "end"),
        [
            (0.3, 3.0, 2 + 3.0),
            (0.3, 1000.0, 2 + GRACE_S),
            (20.0, 1000.0, 2 + GRACE_S),
            (1000.0, 0.5, 2 + GRACE_S + 0.5),
            (1000.0, 1000.0, 2 + GRACE_S + loops.MIN_CLOSING_S),
        ],
    )
    def test_closing(
        self, simulation: Simulation, pass_s: float, closing_s: float, end: float
    ) -> None:
        """``close`` may take until the end of the grace period, and at least 1 s."""
        simulation.signal_at = START + 2
        simulation.close = lambda _: simulation.time.sleep(closing_s)
        work = simulation.taking({0: pass_s})
        assert simulation.run(simulation.loop(interval_s=3600, work=work)) == 0
        assert simulation.time.now == START + end

    def test_second_signal(self, simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
        """A second signal ends the process with 1, without waiting for the pass."""
        ended: list[tuple[int, float]] = []

        def end(code: int) -> None:
            ended.append((code, simulation.time.now))

        signals = iter([2.0, 1.5])
        with monkeypatch.context() as patch:
            patch.setattr("os._exit", end)
            loops.run(
                [simulation.loop(work=simulation.taking({0: 1000.0}))],
                simulation.stop,
                grace_s=GRACE_S,
                close=simulation.closed.append,
                clock=simulation.time.clock,
                await_signal=lambda: simulation.time.sleep(next(signals)),
            )
        assert ended == [(1, START + 3.5)]
