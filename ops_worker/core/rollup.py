"""The rules of the rollup: which hours and days are due, what is a counter, what is too old."""

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
"""The length of a slice of each level. A slice is an hour, or a day in UTC."""
SETTLES = timedelta(minutes=10)
"""A slice is complete so long after its end: by then, running passes have written their samples."""
REPEATED = timedelta(hours=6)
"""A slice is rolled up again in every run until so long after it was complete. New ones go first.

A loop keeps samples while it cannot reach the database, by default for an hour
(METRICS_BUFFER_SAMPLES), and writes them later with the time at which they were taken.
"""
OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
"""No sample is older. Rows with such times were written while a clock was wrong."""
LATENCIES = (PROBE_LATENCY_MS,)
"""The metrics of which percentiles are computed. Those of all series cost a fifth more time."""
SHARE = 0.75
"""Share of PASS_DEADLINE after which no slice begins: the rest is for the retention."""
RESERVE_S = 3.0
"""Seconds before PASS_DEADLINE at which the last statement is cancelled."""


class Slice(NamedTuple):
    """An hour or a day: ``begun`` is its first moment, ``end`` the first one after it."""

    level: str
    begun: datetime

    @property
    def end(self) -> datetime:
        """The first moment after this slice."""
        return self.begun + LEVELS[self.level]


class RollupState(NamedTuple):
    """What the database has: the newest hour and day, and whether samples are in a plain table.

    ``hour`` and ``day`` are None if nothing was rolled up yet.
    """

    hour: datetime | None
    day: datetime | None
    plain: bool


class Positions(NamedTuple):
    """Where the rollup is: the slices that begin before these times are done.

    ``complete`` are the times at which the newest complete slices end, by level.
    """

    done: Mapping[str, datetime]
    complete: Mapping[str, datetime]

    @classmethod
    def initial(cls, state: RollupState, now: datetime, history_days: int) -> Positions:
        """Return where a run begins: after the newest slice of each level.

        Without any slice, it begins at the oldest sample that is not older than ``history_days``.
        """
        complete = {level: floor(now - SETTLES, level) for level in LEVELS}
        done = {}
        for level, newest in ((HOUR, state.hour), (DAY, state.day)):
            done[level] = oldest_kept(now, history_days)
            if newest is not None:
                # The newest slice may be from the future, after a clock was set back.
                after = min(newest + LEVELS[level], complete[level])
                done[level] = max(after, done[level])
        return cls(done, complete)

    def repeated(self, now: datetime) -> Positions:
        """Return the slices before these positions that are rolled up once more."""
        begin = {level: floor(now - SETTLES - REPEATED, level) for level in LEVELS}
        return Positions(done=begin, complete=self.done)

    def due(self, excluded: Iterable[str] = ()) -> str | None:
        """Return the level whose next slice ends first; None if no slice is complete."""
        ends = {
            level: floor(done, level) + LEVELS[level]
            for level, done in self.done.items()
            if level not in excluded
        }
        ready = [level for level, end in ends.items() if end <= self.complete[level]]
        return min(ready, key=lambda level: ends[level], default=None)

    def moved(self, level: str, done: datetime) -> Positions:
        """Return the positions with all slices of a level done before a time."""
        return self._replace(done={**self.done, level: done})

    @property
    def behind_s(self) -> float:
        """Seconds of complete slices that are not done; of both levels, the longer time."""
        behind = [(end - self.done[level]).total_seconds() for level, end in self.complete.items()]
        return max(0.0, *behind)


def floor(moment: datetime, level: str) -> datetime:
    """Return the first moment of the slice that contains a time."""
    moment = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return moment.replace(hour=0) if level == DAY else moment


def oldest_kept(now: datetime, days: int) -> datetime:
    """Return the time before which history is removed, this number of days ago. 0 keeps all."""
    return now - timedelta(days=days) if days else OLDEST


def removable_samples(now: datetime, days: int, positions: Positions) -> datetime:
    """Return the time before which samples may be removed.

    A slice that is not done yet needs its samples and the samples of the day before it.
    """
    needed = min(positions.done.values()) - LEVELS[DAY]
    return min(now - timedelta(days=days), needed)


def parameters(targets: Iterable[Target]) -> dict[str, Any]:
    """Return the parameters of ``roll_up`` that do not depend on the slice."""
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
    """How long slices take: decides whether the next one fits into the time that is left."""

    def __init__(self) -> None:
        """Know nothing yet: the first slice always fits."""
        self._longest_s = dict.fromkeys(LEVELS, 0.0)

    def add(self, level: str, seconds: float) -> None:
        """Remember how long a slice took."""
        self._longest_s[level] = max(self._longest_s[level], seconds)

    def fits(self, level: str, left_s: float) -> bool:
        """Return whether a slice of a level is probably done within this number of seconds.

        A slice may take half as much again as the longest one before it.
        """
        expected_s = self._longest_s[level]
        if not expected_s:
            expected_s = self._longest_s[HOUR] * (LEVELS[level] / LEVELS[HOUR])
        return 1.5 * expected_s <= left_s
