"""A loop's ticks on a clock of the test's own: to the moment, however busy the machine is."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import loop
from ops_worker.core.model import Outcome, Result
from ops_worker.errors import DatabaseError, StillRecordingError
from ops_worker.passes import Context

if TYPE_CHECKING:
    from ops_worker.core.model import Tick

pytestmark = pytest.mark.unit
STALL_S = 7.5


class Clock(threading.Event):
    """Time that passes only where it is waited, or where a pass takes its time; and the loop's order to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.25
        self.stalls_at: float | None = None  # the process is stopped in the wait that leads there

    def monotonic(self) -> float:
        """Give the time since nobody knows when."""
        return self.now

    def time(self) -> float:
        """Give the calendar's time, in which the seconds begin elsewhere."""
        return 1_700_000_000.0 + self.now - 0.125

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass."""
        assert timeout is not None
        self.now += timeout
        if self.stalls_at is not None and self.now >= self.stalls_at:
            self.now, self.stalls_at = self.now + STALL_S, None
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the loop reads."""
    clock = Clock()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=clock.monotonic, time=clock.time))
    return clock


@pytest.mark.parametrize(
    ("codes", "worst"),
    [([0, 0], 0), ([0, 4, 0], 4), ([4, 1, 0], 1), ([1, 3, 1, 4], 3), ([3, 2, 0], 2)],
)
def test_worst_code(clock: Clock, codes: list[int], worst: int) -> None:
    """The worst pass names the exit code; one that is unhealthy is better than one that was not done."""
    left = iter(codes)
    nothing: Any = None
    context = Context(nothing, nothing, nothing, clock.monotonic)
    one = loop.Loop(
        "health",
        1.0,
        nothing,
        context,
        told=lambda _: next(left),
        stop=clock,
        until=clock.now + len(codes) - 1,
    )
    one.run()
    assert (one.exit_code, list(left)) == (worst, [])


def ticking(
    clock: Clock, took: dict[int, float], seconds: float, dies_at: int = -1
) -> tuple[list[float], list[Tick]]:
    """Run a loop at 1 s whose passes take 0.3 s, or what is given by number; give when each began, and what it told."""
    begun: list[float] = []
    ticks: list[Tick] = []

    def work(_: Any) -> Any:
        begun.append(clock.now)
        clock.now += took.get(len(begun) - 1, 0.3)
        raise DatabaseError

    def told(tick: Tick) -> int:
        ticks.append(tick)
        if len(ticks) - 1 == dies_at:
            raise SystemExit
        return 1

    nothing: Any = None
    context = Context(nothing, nothing, nothing, clock.monotonic)
    one = loop.Loop("metrics", 1.0, work, context, told=told, stop=clock, until=clock.now + seconds)
    one.run()
    assert one.finished and (one.take_fault() is not None) == (dies_at >= 0)
    return begun, ticks


def test_cadence(clock: Clock) -> None:
    """The first tick is at once, each other one when its second begins by the calendar: not late, and with no drift."""
    begun, ticks = ticking(clock, {}, 100)
    assert begun == [1000.25, *(1001.125 + n for n in range(100))]
    assert [tick.late_s for tick in ticks] == [0.125] + [0.0] * 100
    assert {tick.skipped for tick in ticks} == {0}


def test_long_pass(clock: Clock) -> None:
    """A pass of 2.5 s costs the two seconds that began meanwhile; they are counted, and not made up for."""
    begun, ticks = ticking(clock, {3: 2.5}, 10)
    assert begun == [
        1000.25,
        1001.125,
        1002.125,
        1003.125,
        1006.125,
        1007.125,
        1008.125,
        1009.125,
        1010.125,
    ]
    assert [tick.skipped for tick in ticks] == [0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert {tick.late_s for tick in ticks[1:]} == {0.0}


def test_database_hangs(clock: Clock) -> None:
    """While one pass is being recorded for ever, each second has its probes, and its tick waits."""
    mended = threading.Event()
    begun: list[float] = []
    results: list[str] = []

    def work(context: Context) -> Outcome:
        begun.append(clock.now)
        first = len(begun) == 1
        try:
            with context.recording():
                if first:
                    assert mended.wait(60)
        except StillRecordingError:
            return Outcome("metrics", Result.WAITING)
        return Outcome("metrics", Result.RECORDED)

    def told(tick: Tick) -> int:
        results.append(tick.result)
        if results == ["waiting"] * 10:
            mended.set()
        return 0

    nothing: Any = None
    context = Context(nothing, nothing, nothing, clock.monotonic)
    loop.Loop("metrics", 1.0, work, context, told=told, stop=clock, until=clock.now + 10).run()
    assert begun == [1000.25, *(1001.125 + n for n in range(10))]
    assert results == ["waiting"] * 10 + ["recorded"]


def test_stopped_process(clock: Clock) -> None:
    """A process that stood still for 7.5 s in a wait goes on with one tick, in time, and says how many it skipped."""
    clock.stalls_at = 1003.0
    begun, ticks = ticking(clock, {}, 14)
    assert begun == [1000.25, 1001.125, 1002.125, 1011.125, 1012.125, 1013.125, 1014.125]
    assert [tick.skipped for tick in ticks] == [0, 0, 0, 8, 0, 0, 0]
    assert {tick.late_s for tick in ticks[1:]} == {0.0}


def test_thread_dies(clock: Clock) -> None:
    """A tick whose thread dies costs itself only: the next one is in time, and no second is run twice."""
    begun, _ = ticking(clock, {}, 5, dies_at=2)
    assert begun == [1000.25, 1001.125, 1002.125, 1003.125, 1004.125, 1005.125]
