"""Read long periods from the rollup: hours and days instead of samples.

A period is divided into parts. Each part is read from days, from hours or from samples. Hours are
used where no complete day is rolled up, and samples where no hour is. So the numbers are complete
even if the rollup pass is behind, has stopped or never ran.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.adapters.postgres.transaction import one
from ops_worker.core.passes import ROLLUP_TABLES
from ops_worker.core.rollup import DAY, HOUR, LEVELS, SETTLING_TIME, floor
from ops_worker.history.buckets import MAX_SAMPLES_S, grid
from ops_worker.history.rows import RolledEndRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from psycopg import Cursor

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.history.buckets import Grid
    from ops_worker.history.series import Series

TICK = timedelta(microseconds=1)
"""The resolution of times in the database."""
STEP_BACK_S = 86_400.0
"""How much earlier than a part the last sample before it may be, in seconds.

It is a day, as in the statement ``roll_up``.
"""
FINER = {DAY: (DAY, HOUR), HOUR: (HOUR,), None: ()}
"""The levels whose rows may fill buckets of each level, the longest level first."""


class Part(NamedTuple):
    """A part of a period, and its source: a level of the rollup, or None for the samples.

    ``since`` belongs to the part, ``until`` does not.
    """

    level: str | None
    since: datetime
    until: datetime

    @property
    def seconds(self) -> float:
        """The length of this part in seconds."""
        return (self.until - self.since).total_seconds()


class Coverage(NamedTuple):
    """The buckets of a period, and the parts from which they are read, the oldest first."""

    grid: Grid
    parts: Sequence[Part]

    @property
    def is_rolled(self) -> bool:
        """Whether a part is read from the rollup."""
        return any(part.level for part in self.parts)

    def level_at(self, time: datetime) -> str | None:
        """Return the level of the rollup from which a time is read; None for samples."""
        levels = [part.level for part in self.parts if part.since <= time < part.until]
        return levels[0] if levels else None


def cover(transaction: Transaction, since_s: float, number: int) -> Coverage:
    """Divide the last ``since_s`` seconds into buckets; return them with the parts that fill them.

    The period is cut to MAX_SAMPLES_S if samples of a longer time would have to be read.
    """
    now = transaction.now
    coverage = _cover(transaction, grid(now, since_s, number))
    samples_s = sum(part.seconds for part in coverage.parts if part.level is None)
    if samples_s > MAX_SAMPLES_S and since_s > MAX_SAMPLES_S:
        return _cover(transaction, grid(now, MAX_SAMPLES_S, number))
    return coverage


def _cover(transaction: Transaction, buckets: Grid) -> Coverage:
    # The period excludes its begin and includes its end, so move both by the resolution of times.
    since, until = buckets.since + TICK, buckets.until + TICK
    if buckets.level is None or not transaction.may_read(ROLLUP_TABLES):
        return Coverage(buckets, [Part(None, since, until)])
    levels = FINER[buckets.level]
    return Coverage(buckets, list(_parts(transaction, levels, since, until)))


def _parts(
    transaction: Transaction, levels: Sequence[str], since: datetime, until: datetime
) -> Iterator[Part]:
    """Yield the parts of the time from ``since`` to ``until``, in order of time."""
    if not levels:
        yield from _samples(transaction, since, until)
        return
    level, *finer = levels
    step = LEVELS[level]
    # Use only complete slices. A wrong clock may have left a slice of the future.
    complete = floor(min(until, transaction.now - SETTLING_TIME), level)
    first = floor(since - TICK, level) + step
    bounds = None
    if first < complete:
        parameters = {"level": level, "since": first, "until": complete}
        bounds = one(transaction.execute("rolled_bounds", parameters))
    if bounds is None or bounds["oldest"] is None:
        yield from _parts(transaction, finer, since, until)
        return
    oldest, end = floor(bounds["oldest"], level), floor(bounds["newest"], level) + step
    yield from _parts(transaction, finer, since, oldest)
    yield Part(level, oldest, end)
    yield from _parts(transaction, finer, end, until)


def _samples(transaction: Transaction, since: datetime, until: datetime) -> Iterator[Part]:
    """Yield the part from the first sample between two times; nothing if there is no sample."""
    if since >= until:
        return
    first_sample = transaction.execute("first_sample", {"since": since, "until": until})
    if (first := one(first_sample)["first"]) is not None:
        yield Part(None, first, until)


def rolled_ends(
    transaction: Transaction, coverage: Coverage, series: Iterable[tuple[int, Series]]
) -> Cursor[RolledEndRow]:
    """Query the first and last sample of series of which only the hour or day is known.

    This is the case for at least one end of each series. Each series has its place in a list.
    """
    rows = [_ends_of(place, item, coverage) for place, item in series]
    parameters = {"series": json.dumps(rows)}
    return transaction.query(RolledEndRow, "rolled_ends", parameters)


def _ends_of(place: int, series: Series, coverage: Coverage) -> dict[str, object]:
    """Return a series in the form of a parameter of ``rolled_ends``."""
    return {
        "place": place,
        **series.key._asdict(),
        "first": series.first.isoformat(),
        "first_s": _length_s(coverage.level_at(series.first)),
        "last": series.last.isoformat(),
        "last_s": _length_s(coverage.level_at(series.last)),
    }


def _length_s(level: str | None) -> float:
    return LEVELS[level].total_seconds() if level else 0.0
