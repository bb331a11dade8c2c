"""Tests of loops that watch each other during an outage of the database, in virtual time.

The database is a list of rows. The rule, the backlog and the loops are those of the worker.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ops_worker import loop as loops
from ops_worker.core.backlog import MEBIBYTE, Backlog, Pending
from ops_worker.core.model import Outcome, Result, Sample
from ops_worker.core.peer import LastSeen, had_turn, judge_peers, last_turn, stale_peers
from ops_worker.core.staleness import stale_after_s
from ops_worker.errors import DatabaseError
from ops_worker.loop import Loop
from ops_worker.passes import Context
from tests.clock import VirtualTime

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops_worker.core.model import Tick

pytestmark = pytest.mark.unit

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)
START = 1000.0
SAMPLES = (Sample("a", "b", 1.0),)


class Row(NamedTuple):
    """The record of a pass: when it began, and its period."""

    name: str
    moment: float
    period_s: float


class Passes:
    """A fast loop with a backlog, and a slow loop. For some time they have no database."""

    def __init__(self, time: VirtualTime, away: tuple[float, float], slow_ends: float) -> None:
        self.time = time
        self.away = away
        self.slow_ends = slow_ends
        self.rows: list[Row] = []
        self.reported: list[tuple[str, float]] = []
        """The passes that were reported as stopped, and when."""
        self.backlog = Backlog(10_000, MEBIBYTE)

    def run(self, fast_s: float, slow_s: float, seconds: float) -> None:
        """Run both loops for this number of seconds."""
        running = [
            self._loop("metrics", fast_s, self._buffering(fast_s), seconds),
            self._loop("health", slow_s, self._plain(slow_s), seconds),
        ]
        loops.run(
            running,
            threading.Event(),
            grace_s=5.0,
            close=lambda _: None,
            clock=self.time.clock,
            await_signal=lambda: self.time.sleep(seconds + 60.0),
        )
        assert len(self.backlog) == 0

    def _loop(
        self, name: str, period_s: float, work: Callable[[Context], Outcome], seconds: float
    ) -> Loop:
        unused: Any = None
        return Loop(
            name,
            period_s,
            work,
            Context(unused, unused, unused, self.time.monotonic),
            report=_exit_code,
            stop=threading.Event(),
            until=self.time.now + seconds,
            clock=self.time.clock,
        )

    def _buffering(self, period_s: float) -> Callable[[Context], Outcome]:
        """Return a pass like the metrics pass. Its samples wait during the outage."""

        def work(_: Context) -> Outcome:
            begun = self.time.now
            self.time.sleep(0.2)
            if self._is_away():
                self.backlog.add(Pending(begun, SAMPLES))
                raise DatabaseError("away")
            self._watch("metrics", begun)
            self.rows.append(Row("metrics", begun, period_s))
            self.backlog.mark_recorded(begun, stale_after_s(period_s))
            while entries := self.backlog.next_slice():
                self.rows += [Row("metrics", entry.moment, period_s) for entry in entries]
                self.backlog.discard(entries)
            return Outcome("metrics", Result.RECORDED)

        return work

    def _plain(self, period_s: float) -> Callable[[Context], Outcome]:
        """Return a pass like the health pass, without a backlog. It fails from ``slow_ends`` on."""

        def work(_: Context) -> Outcome:
            begun = self.time.now
            self.time.sleep(0.3)
            if self._is_away() or begun >= self.slow_ends:
                raise DatabaseError("away")
            self._watch("health", begun)
            self.rows.append(Row("health", begun, period_s))
            return Outcome("health", Result.RECORDED)

        return work

    def _is_away(self) -> bool:
        return self.away[0] <= self.time.now < self.away[1]

    def _watch(self, name: str, begun: float) -> None:
        """Judge the peer as ``own_alert`` does."""
        names = {"metrics": ("health",), "health": ("metrics",)}[name]
        now = _at(self.time.now)
        rows = self._last_seen(_at(begun))
        resumed = self.backlog.resumed_at if name == "metrics" else None
        stopped = [
            record
            for record in stale_peers(name, names, rows, now)
            if had_turn(
                name,
                record,
                self._last_seen(last_turn(record, now)),
                now,
                None if resumed is None else _at(resumed),
            )
        ]
        state = judge_peers(names, rows, now, stopped)
        if state.stopped is not None:
            self.reported.append((state.stopped.name, self.time.now))

    def _last_seen(self, at: datetime) -> list[LastSeen]:
        """Return the last record of each pass before a time, as ``passes_now`` does."""
        newest: dict[str, Row] = {}
        for row in sorted(self.rows, key=lambda row: row.moment):
            if _at(row.moment) < at:
                newest[row.name] = row
        return [LastSeen(row.name, None, _at(row.moment), row.period_s) for row in newest.values()]


def _at(moment: float) -> datetime:
    return EPOCH + timedelta(seconds=moment)


def _exit_code(tick: Tick) -> int:
    return tick.exit_code


@pytest.mark.parametrize("fast_s", [5.0, 60.0])
@pytest.mark.parametrize("outage_s", [30.0, 179.0, 241.0, 500.0])
@pytest.mark.parametrize("phase_s", [1.0, 40.0])
def test_an_outage_reports_no_pass(fast_s: float, outage_s: float, phase_s: float) -> None:
    """After an outage of any length, no loop reports the other one before its turn."""
    begun = START + 300.0 + phase_s
    with VirtualTime(START) as time:
        passes = Passes(time, (begun, begun + outage_s), slow_ends=float("inf"))
        passes.run(fast_s, 60.0, 300.0 + outage_s + 400.0)
    assert passes.reported == []
    assert len([row for row in passes.rows if row.name == "health"]) >= 10


@pytest.mark.parametrize("fast_s", [5.0, 60.0])
@pytest.mark.parametrize("outage_s", [0.0, 500.0])
def test_a_pass_that_does_not_come_back_is_reported(fast_s: float, outage_s: float) -> None:
    """A loop without passes is reported after three periods, or one turn after the outage."""
    begun = START + 300.0
    with VirtualTime(START) as time:
        passes = Passes(time, (begun, begun + outage_s), slow_ends=begun)
        passes.run(fast_s, 60.0, 300.0 + outage_s + 700.0)
    assert {name for name, _ in passes.reported} == {"health"}
    first = passes.reported[0][1] - begun
    assert 180.0 - 60.0 < first <= max(180.0, outage_s + 150.0) + 2 * fast_s
