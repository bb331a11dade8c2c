"""The buckets of a period: where they begin, and whether rows of the rollup may fill them.

In a long period, buckets begin at whole hours. In a very long period, they begin at whole days in
UTC. So each hour or day belongs to exactly one bucket, whether its values come from the rollup or
from samples.
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
"""Buckets of a period longer than this begin at whole hours: two days, in seconds.

A chart of a shorter period has more points than hours, and its samples are read within 1 s.
"""
VERY_LONG_S = 31 * 86_400.0
"""Buckets of a period longer than this begin at whole days: 31 days, in seconds.

In 31 days, each series has 744 rows of hours.
"""
MAX_SAMPLES_S = 31 * 86_400.0
"""The longest period, in seconds, whose samples are all read: 31 days.

To read more may exceed the time limit of a statement.
"""


class Grid(NamedTuple):
    """A period and its buckets.

    ``begins`` has the time at which each bucket begins; the first one is ``since``. A bucket ends
    where the next one begins; the last bucket ends at ``until``. A bucket contains the time at
    which it begins, except that the first bucket does not contain ``since``. The last bucket
    contains ``until``. ``level`` is ``HOUR`` or ``DAY`` if buckets begin at whole hours or days,
    else None.
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

    The buckets have the same length. In a long period, however, the begin of each bucket is
    rounded down to a whole hour or day, unless there are more buckets than hours.
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
    """Return how many buckets of equal length to use, at most ``most``.

    In a long period, the length is a whole number of hours or days.
    """
    level = DAY if since_s > VERY_LONG_S else HOUR
    units = since_s / LEVELS[level].total_seconds()
    if since_s <= LONG_S:
        return most
    return max(1, int(units / math.ceil(units / most)))
