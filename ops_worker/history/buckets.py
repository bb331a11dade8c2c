"""The buckets of a period: where they begin, and whether rows of the rollup may fill them.

Over a long period, buckets begin at whole hours, over a very long one at whole days in UTC. So each
hour or day belongs to one bucket, whether it is read from the rollup or from its samples.
"""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.rollup import DAY, HOUR, LEVELS, floor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

LONG_S = 2 * 86_400.0
"""Seconds above which buckets begin at whole hours: two days.

A chart of a shorter period has more points than hours, and its samples are read within a second.
"""
VERY_LONG_S = 31 * 86_400.0
"""Seconds above which buckets begin at whole days: 31 days, which have 744 hours of each series."""
MAX_SAMPLES_S = 31 * 86_400.0
"""The longest time, in seconds, of which all samples are read: more may exceed the time limit."""


class Grid(NamedTuple):
    """A period and its buckets.

    ``begins`` has the begin of each bucket, the first of which is ``since``. A bucket ends where
    the next one begins, the last one at ``until``. Its begin belongs to it, except for ``since``;
    so does ``until``. ``level`` is what begins with the buckets: an hour, a day, or None.
    """

    since: datetime
    until: datetime
    begins: Sequence[datetime]
    level: str | None

    @property
    def seconds(self) -> float:
        """The length of the period in seconds."""
        return (self.until - self.since).total_seconds()

    @property
    def middles(self) -> list[datetime]:
        """The middle of each bucket."""
        return [begin + (end - begin) / 2 for begin, end in pairwise([*self.begins, self.until])]


def grid(until: datetime, since_s: float, number: int) -> Grid:
    """Divide the last ``since_s`` seconds before a time into a number of buckets.

    They have the same length, except that over a long period each begins at the whole hour or day
    before. Of more buckets than hours, none does.
    """
    since = until - timedelta(seconds=since_s)
    level = _level(since_s, number)
    begins = [since]
    for place in range(1, number):
        begin = since + (until - since) * place / number
        begins.append(begin if level is None else floor(begin, level))
    return Grid(since=since, until=until, begins=begins, level=level)


def _level(since_s: float, number: int) -> str | None:
    width_s = since_s / number
    if since_s > VERY_LONG_S and width_s >= LEVELS[DAY].total_seconds():
        return DAY
    if since_s > LONG_S and width_s >= LEVELS[HOUR].total_seconds():
        return HOUR
    return None


def whole_buckets(since_s: float, most: int) -> int:
    """Return a number of buckets, at most ``most``, that all last the same whole hours or days."""
    level = DAY if since_s > VERY_LONG_S else HOUR
    units = since_s / LEVELS[level].total_seconds()
    if since_s <= LONG_S:
        return most
    return max(1, int(units / math.ceil(units / most)))
