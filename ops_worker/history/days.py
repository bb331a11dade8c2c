"""The days of a timeline, and the part of it in maintenance, as a report shows them."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.ledger import HEALTHY, UNSEEN
from ops_worker.core.timeline import WORST_FIRST, bucket_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ops_worker.core.timeline import Piece

DAY = timedelta(days=1)


class Day(NamedTuple):
    """A day in UTC, or the part of it that is in the period.

    ``state`` is the worst state that was seen on this day (``core.timeline.bucket_state``).
    """

    begun: datetime
    ended: datetime
    state: str
    healthy_s: float
    unhealthy_s: float
    unseen_s: float

    @property
    def seen_s(self) -> float:
        """The seconds in which the service was seen."""
        return self.healthy_s + self.unhealthy_s

    @property
    def availability(self) -> float | None:
        """The healthy share of the seen time; None if nothing was seen."""
        return self.healthy_s / self.seen_s if self.seen_s else None

    @property
    def coverage(self) -> float:
        """The seen share of the day."""
        return self.seen_s / (self.seen_s + self.unseen_s)


class Interval(NamedTuple):
    """A time from a begin to an end."""

    begun: datetime
    ended: datetime


def days(pieces: Sequence[Piece], since: datetime, until: datetime) -> list[Day]:
    """Return the days from ``since`` to ``until``, the oldest first.

    ``pieces`` are the timeline of this period or of a longer period.
    """
    result = []
    place = 0
    for begun, ended in _day_edges(since, until):
        while place < len(pieces) and pieces[place].ended <= begun:
            place += 1
        stop = place
        while stop < len(pieces) and pieces[stop].begun < ended:
            stop += 1
        result.append(_day(pieces[place:stop], begun, ended))
    return result


def _day_edges(since: datetime, until: datetime) -> list[tuple[datetime, datetime]]:
    """Return when each day of a period begins and ends. The first and the last day may be parts."""
    edges = []
    begun = since.astimezone(UTC)
    while begun < until:
        midnight = datetime.combine(begun.date(), time(), tzinfo=UTC)
        ended = min(midnight + DAY, until)
        edges.append((begun, ended))
        begun = ended
    return edges


def _day(pieces: Sequence[Piece], begun: datetime, ended: datetime) -> Day:
    seconds: dict[str, float] = {}
    for piece in pieces:
        length = min(piece.ended, ended) - max(piece.begun, begun)
        seconds[piece.state] = seconds.get(piece.state, 0.0) + length.total_seconds()
    return Day(
        begun=begun,
        ended=ended,
        state=bucket_state(seconds),
        healthy_s=seconds.get(HEALTHY, 0.0),
        unhealthy_s=sum(seconds[state] for state in WORST_FIRST if state in seconds),
        unseen_s=seconds.get(UNSEEN, 0.0),
    )


def united(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the intervals with overlapping ones united, the oldest first."""
    result: list[Interval] = []
    for interval in sorted(intervals):
        last = result[-1] if result else None
        if last is not None and interval.begun <= last.ended:
            result[-1] = Interval(last.begun, max(last.ended, interval.ended))
        else:
            result.append(interval)
    return result


def seconds_within(piece: Piece, intervals: Iterable[Interval]) -> float:
    """Return how many seconds of a piece are within the intervals, which must not overlap."""
    total_s = 0.0
    for interval in intervals:
        begun = max(piece.begun, interval.begun)
        ended = min(piece.ended, interval.ended)
        total_s += max(0.0, (ended - begun).total_seconds())
    return total_s
