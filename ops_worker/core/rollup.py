"""The rules of the rollup: which slices are due, and which rows are too old."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.samples import PROBE_LATENCY_MS, counter_series
from ops_worker.core.staleness import DEFAULT_PERIOD_S, PERIOD_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ops_worker.core.model import Target

HOUR, DAY = "hour", "day"
LEVELS = {HOUR: timedelta(hours=1), DAY: timedelta(days=1)}
"""The levels, with the length of their slices. A slice is an hour, or a day in UTC."""
SETTLING_TIME = timedelta(minutes=10)
"""The time from the end of a slice until it is complete.

In this time, running passes write their samples.
"""
REPEAT_TIME = timedelta(hours=6)
"""The time after its completion in which every run rolls a slice up again. New slices come first.

A loop that cannot reach the database keeps its samples, by default for an hour
(METRICS_BUFFER_SAMPLES). It writes them later, with the time at which they were taken.
"""
OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
"""The oldest time of a sample. A row with an older time was written while a clock was wrong."""
LATENCIES = (PROBE_LATENCY_MS,)
"""The metrics of which percentiles are computed. Percentiles of all series take a fifth longer."""
BEGIN_SHARE = 0.75
"""The share of PASS_DEADLINE in which slices may begin. The rest is for the retention."""
RESERVE_S = 3.0
"""The seconds before PASS_DEADLINE at which the last statement is cancelled."""


class Slice(NamedTuple):
    """An hour or a day. ``begun`` is its first moment, in UTC."""

    level: str
    begun: datetime

    @property
    def end(self) -> datetime:
        """The first moment after the slice."""
        return self.begun + LEVELS[self.level]


class RollupState(NamedTuple):
    """The state of the database before a run.

    - ``hour``, ``day``: the start of the newest slice that was rolled up; None if there is none.
    - ``plain``: whether samples are in a plain table, not in a hypertable of TimescaleDB.
    """

    hour: datetime | None
    day: datetime | None
    plain: bool


class Positions(NamedTuple):
    """How far the rollup is. Both mappings have a time for each level.

    - ``done``: all slices before this time are rolled up.
    - ``complete``: the end of the newest complete slice.
    """

    done: Mapping[str, datetime]
    complete: Mapping[str, datetime]

    @classmethod
    def initial(cls, state: RollupState, now: datetime, history_days: int) -> Positions:
        """Return the positions at the start of a run: after the newest slice of each level.

        Without a slice, this is the time before which history is removed (``retained_since``).
        """
        complete = {level: floor(now - SETTLING_TIME, level) for level in LEVELS}
        done = {}
        for level, newest in ((HOUR, state.hour), (DAY, state.day)):
            done[level] = retained_since(now, history_days)
            if newest is not None:
                # After a clock was set back, the newest slice may be in the future.
                newest_end = min(newest + LEVELS[level], complete[level])
                done[level] = max(newest_end, done[level])
        return cls(done, complete)

    def repeated(self, now: datetime) -> Positions:
        """Return the positions from which slices are rolled up again, up to these positions."""
        starts = {level: floor(now - SETTLING_TIME - REPEAT_TIME, level) for level in LEVELS}
        return Positions(done=starts, complete=self.done)

    def due(self, excluded: Iterable[str] = ()) -> str | None:
        """Return the level whose next complete slice ends first; None if no slice is due.

        Levels in ``excluded`` do not count.
        """
        ends = {
            level: floor(done, level) + LEVELS[level]
            for level, done in self.done.items()
            if level not in excluded
        }
        ready = [level for level, end in ends.items() if end <= self.complete[level]]
        return min(ready, key=lambda level: ends[level], default=None)

    def moved(self, level: str, done: datetime) -> Positions:
        """Return the positions with another ``done`` time of a level."""
        return self._replace(done={**self.done, level: done})

    @property
    def behind_s(self) -> float:
        """The seconds of complete slices that are not rolled up, of the level with more of them."""
        behind = [(end - self.done[level]).total_seconds() for level, end in self.complete.items()]
        return max(0.0, *behind)


def floor(moment: datetime, level: str) -> datetime:
    """Return the first moment of the slice that contains ``moment``, in UTC."""
    moment = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return moment.replace(hour=0) if level == DAY else moment


def retained_since(now: datetime, days: int) -> datetime:
    """Return the time before which history is removed. With 0 ``days``, everything is kept."""
    return now - timedelta(days=days) if days else OLDEST


def removable_samples(now: datetime, days: int, positions: Positions) -> datetime:
    """Return the time before which samples may be removed. ``days`` is SAMPLES_DAYS.

    A slice that is not rolled up yet needs its samples and the samples of the day before it.
    """
    oldest_needed = min(positions.done.values()) - LEVELS[DAY]
    return min(now - timedelta(days=days), oldest_needed)


def parameters(targets: Iterable[Target]) -> dict[str, Any]:
    """Return the parameters of the statement ``roll_up`` that do not depend on the slice."""
    series = counter_series(targets)
    counters = [{"service": service, "metric": metric} for service, metric in sorted(series.listed)]
    return {
        "latencies": list(LATENCIES),
        "counters": json.dumps(counters),
        "all_counters": sorted(series.unrestricted),
        "gauges": sorted(series.gauges),
        "period_pattern": PERIOD_PATTERN,
        "default_period_s": DEFAULT_PERIOD_S,
    }


class Pace:
    """Measure how long slices take, and decide whether there is time for another slice."""

    def __init__(self) -> None:
        """Begin without a measurement, so that the first slice always fits."""
        self._longest_s = dict.fromkeys(LEVELS, 0.0)

    def add(self, level: str, seconds: float) -> None:
        """Record how many seconds a slice took."""
        self._longest_s[level] = max(self._longest_s[level], seconds)

    def fits(self, level: str, left_s: float) -> bool:
        """Return whether a slice of a level probably takes at most ``left_s`` seconds.

        The estimate is 1.5 times the longest slice of this level. If no day was measured yet, it is
        based on 24 times the longest hour.
        """
        expected_s = self._longest_s[level]
        if not expected_s:
            expected_s = self._longest_s[HOUR] * (LEVELS[level] / LEVELS[HOUR])
        return 1.5 * expected_s <= left_s
