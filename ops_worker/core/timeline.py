"""What a service was at any time: runs and spans of the ledger turned into a timeline.

A service's state is known where a run covers the time and a span names the state. Everywhere else
nobody looked. Every change has bounds: it happened after the last sight of the old state, and
before the first sight of the new one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.ledger import HEALTHY, STATES, UNKNOWN, UNSEEN, is_cut, is_hole
from ops_worker.core.staleness import stale_after_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ops_worker.core.ledger import Run, Span

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
WORST_FIRST = ("down", UNKNOWN, "degraded")
"""The unhealthy states. A service that gives no usable answer is worse than a degraded one."""


class Cover(NamedTuple):
    """A time without a hole in which passes of one shard ran.

    ``begun`` is the first sight in it, ``last_at`` the last one. The periods, in seconds, are the
    period of its first run, of its last run, and the longest of all. ``is_cut`` is whether a blind
    pass ended it: then nobody looked until the next cover begins, however soon that is. ``cut_at``
    is the last sight before the next blind pass, which ended this cover or a later one.
    """

    begun: datetime
    last_at: datetime
    first_period_s: float
    last_period_s: float
    longest_period_s: float
    is_cut: bool = False
    cut_at: datetime | None = None


class Piece(NamedTuple):
    """A part of a timeline in which all was the same.

    ``state`` is UNSEEN while nobody looked. A seen state really began between ``from_earliest`` and
    ``first_seen``; it was last seen at ``last_seen``, and really ended between then and
    ``to_latest``. The two sights are within the piece except where it was cut out of a longer one
    (``_part``). Two sights of it are at most ``apart_s`` seconds apart. ``then`` is the state of
    the next piece; None if there is none.
    """

    state: str
    reason_class: str
    reason: str
    begun: datetime
    ended: datetime
    from_earliest: datetime
    first_seen: datetime
    last_seen: datetime
    to_latest: datetime
    apart_s: float = 0.0
    then: str | None = None

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.ended - self.begun).total_seconds()


class Availability(NamedTuple):
    """How long a service was in which state, and what follows from it.

    ``seconds`` has an entry for each state, UNSEEN among them. ``value`` is the share of the seen
    time in which the service was healthy; None if it was never seen. ``least`` and ``most`` let
    each change happen as early or as late as it may have happened. ``coverage`` is the seen share.
    """

    seconds: Mapping[str, float]
    value: float | None
    least: float | None
    most: float | None
    coverage: float


class _Segment(NamedTuple):
    """A state of a service in one cover: its first and its last sight.

    ``lasts`` is whether no later pass of its shard saw another state, ``cut_at`` the last sight
    of its shard before the next blind pass.
    """

    state: str
    reason_class: str
    reason: str
    first: datetime
    last: datetime
    first_period_s: float
    last_period_s: float
    longest_period_s: float
    lasts: bool
    cut_at: datetime | None


Place = tuple[str, int]
"""A shard, and how often its clock was set back before."""


class Coverage:
    """When the passes of one kind looked, by shard: what turns spans into timelines.

    ``periods`` has the period of each run in seconds, by its number. ``places`` has its place, and
    ``covers`` the covers of each place, the oldest first.
    """

    def __init__(self, runs: Iterable[Run], now: datetime) -> None:
        """Take all runs of a pass that may cover the period, and the time now."""
        shards: dict[str, list[Run]] = {}
        for run in runs:
            shards.setdefault(run.shard, []).append(run)
        self.now = now
        self.periods: dict[int, float] = {}
        self.places: dict[int, Place] = {}
        self.covers: dict[Place, list[Cover]] = {}
        for shard, shard_runs in shards.items():
            for number, epoch in enumerate(_epochs(shard_runs)):
                self.covers[shard, number] = _covers(epoch)
                self.places |= {run.id: (shard, number) for run in epoch}
                self.periods |= {run.id: run.period_s for run in epoch}

    def timeline(self, spans: Iterable[Span], since: datetime, until: datetime) -> list[Piece]:
        """Return what a service was from ``since`` to ``until``, without gaps.

        ``spans`` are all spans of the service by this pass; one whose run is not known is ignored.
        A state counts from its first sight to the first sight of the next one. Before a time in
        which nobody looked it counts for one period after its last sight. After the last pass it
        counts up to now while that is within the patience.
        """
        epochs: dict[int, list[_Segment]] = {}
        for span in spans:
            place = self.places.get(span.run)
            if place is not None:
                segments = _segments(span, self.covers[place], self.periods, since, until)
                epochs.setdefault(place[1], []).extend(segments)
        pieces: list[Piece] = []
        for _, segments_of_epoch in sorted(epochs.items()):
            pieces = _overlaid(pieces, _pieces(segments_of_epoch, self.now))
        # What was recorded for a time after now comes from a clock that was set back.
        pieces = [
            piece if piece.ended <= self.now else piece._replace(ended=self.now)
            for piece in pieces
            if piece.begun <= self.now
        ]
        return _clipped(_filled(pieces, since, until), since, until)


def _epochs(runs: Sequence[Run]) -> list[list[Run]]:
    """Divide the runs of a shard where a clock was set back; usually it never was.

    Runs are numbered in the order in which they are written. Of two epochs that have passes of the
    same time, the later one counts.
    """
    epochs: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run.id):
        if not epochs or run.first_at <= epochs[-1][-1].last_at:
            epochs.append([])
        epochs[-1].append(run)
    return epochs


_last_at = attrgetter("last_at")
_begun = attrgetter("begun")
_ended = attrgetter("ended")


def _covers(runs: Iterable[Run]) -> list[Cover]:
    """Join the runs of an epoch that follow each other within the patience.

    Two runs with a blind pass between them are not joined.
    """
    covers: list[Cover] = []
    earlier: Run | None = None
    for run in runs:
        is_near = earlier is not None and not is_hole(
            earlier.last_at, earlier.period_s, run.first_at, run.period_s
        )
        if earlier is not None and is_near and is_cut(earlier, run):
            covers[-1] = covers[-1]._replace(is_cut=True)
            is_near = False
        if is_near:
            before = covers[-1]
            covers[-1] = before._replace(
                last_at=run.last_at,
                last_period_s=run.period_s,
                longest_period_s=max(before.longest_period_s, run.period_s),
            )
        else:
            cover = Cover(
                begun=run.first_at,
                last_at=run.last_at,
                first_period_s=run.period_s,
                last_period_s=run.period_s,
                longest_period_s=run.period_s,
            )
            covers.append(cover)
        earlier = run
    cut_at = None
    for number in reversed(range(len(covers))):
        if covers[number].is_cut:
            cut_at = covers[number].last_at
        covers[number] = covers[number]._replace(cut_at=cut_at)
    return covers


def _pieces(segments: list[_Segment], now: datetime) -> list[Piece]:
    """Return the pieces of an epoch. There is no piece for a time in which nobody looked."""
    segments = _resumed(sorted(segments, key=attrgetter("first")))
    pieces = []
    earlier = None
    for number, segment in enumerate(segments, start=1):
        after = segments[number] if number < len(segments) else None
        piece = _piece(segment, earlier, after, now)
        pieces.append(piece)
        earlier = piece.last_seen
    return _joined(pieces)


def _resumed(segments: list[_Segment]) -> list[_Segment]:
    """Return the segments in the same order; one in which another one lies is there once more.

    ``segments`` are sorted by their first sights. Only segments of different shards overlap: the
    number of shards was changed, and changed back within the patience. The inner segment counts for
    one period after its last sight, and then the outer one goes on, unless another one begins at
    that moment.
    """
    if all(earlier.last <= later.last for earlier, later in pairwise(segments)):
        return segments
    resumed: list[_Segment] = []
    waiting = deque(segments)
    while waiting:
        segment = waiting.popleft()
        resumed.append(segment)
        inner = waiting[0] if waiting else None
        while inner is not None and inner.last < segment.last:
            ended = min(inner.last + timedelta(seconds=inner.last_period_s), segment.last)
            place = bisect_left(waiting, ended, key=attrgetter("first"))
            inner = waiting[place] if place < len(waiting) else None
            if inner is None or inner.first > ended:
                waiting.insert(place, segment._replace(first=ended))
                break
            # Another sight of that moment counts. The segment goes on after it, too.
    return resumed


def _overlaid(pieces: list[Piece], newer: list[Piece]) -> list[Piece]:
    """Return the pieces. Pieces of a later epoch replace what they overlap."""
    if not pieces or not newer:
        return pieces or newer
    before = _clipped(pieces, _EARLIEST, newer[0].begun)
    after = _clipped(pieces, newer[-1].ended, _LATEST)
    return [*before, *newer, *after]


def merged(finer: Sequence[Piece], coarser: Sequence[Piece]) -> list[Piece]:
    """Return one timeline of two: the finer one where it knows the state, else the coarser one.

    Both are timelines of the same period, without gaps; so is the result.
    """
    pieces: list[Piece] = []
    for piece in finer:
        if piece.state == UNSEEN:
            pieces += _cut_out(coarser, piece.begun, piece.ended)
        else:
            pieces.append(piece)
    return _followed(_bounded(_joined(pieces)))


def _cut_out(pieces: Sequence[Piece], since: datetime, until: datetime) -> Iterator[Piece]:
    """Yield the parts of the pieces between two times."""
    start = bisect_right(pieces, since, key=lambda piece: piece.ended)
    for piece in pieces[start:]:
        if piece.begun >= until:
            break
        yield _part(piece, max(piece.begun, since), min(piece.ended, until))


def _part(piece: Piece, begun: datetime, ended: datetime) -> Piece:
    """Return a part of a piece.

    Its last sight is the latest that is certain, perhaps before the part. Its first sight is as
    late as it may be, perhaps after the part.
    """
    if piece.state == UNSEEN:
        return _unseen(begun, ended)
    apart = timedelta(seconds=piece.apart_s)
    first_seen, last_seen = piece.first_seen, piece.last_seen
    if begun > piece.last_seen:
        first_seen = piece.to_latest
    elif begun > piece.first_seen:
        first_seen = min(begun + apart, piece.last_seen)
    if ended < piece.last_seen:
        last_seen = max(piece.first_seen, ended - apart)
    return piece._replace(begun=begun, ended=ended, first_seen=first_seen, last_seen=last_seen)


def _bounded(pieces: Sequence[Piece]) -> list[Piece]:
    """Set the bounds of each seen piece by the sights before and after it."""
    bounded = [*pieces]
    seen = [number for number, piece in enumerate(bounded) if piece.state != UNSEEN]
    for before, number in pairwise(seen):
        earlier = bounded[before]
        last_seen = max(earlier.from_earliest, earlier.last_seen)
        bounded[number] = bounded[number]._replace(from_earliest=last_seen)
    for number, after in pairwise(reversed(seen)):
        bounded[after] = bounded[after]._replace(to_latest=_first_seen(bounded[number]))
    return bounded


def _first_seen(piece: Piece) -> datetime:
    """Return the first sight of a piece, or of the one after it if that is earlier."""
    return min(piece.first_seen, piece.to_latest)


def availability(pieces: Sequence[Piece]) -> Availability:
    """Sum up a timeline."""
    seconds = dict.fromkeys((*STATES, UNSEEN), 0.0)
    least = most = 0.0
    before = None
    for piece in pieces:
        seconds[piece.state] += piece.seconds
        if piece.state == HEALTHY:
            least += piece.seconds - _doubtful_s(piece, before)
            most += piece.seconds
        elif piece.state != UNSEEN:
            most += _doubtful_s(piece, before)
        before = piece.state
    # Not the total less the unseen time: its rounding would make shares of more than 1.
    seen_s = sum(seconds[state] for state in STATES)
    total_s = seen_s + seconds[UNSEEN]
    if seen_s <= 0:
        return Availability(seconds, None, None, None, 0.0)
    return Availability(
        seconds=seconds,
        value=seconds[HEALTHY] / seen_s,
        least=least / seen_s,
        most=min(1.0, most / seen_s),
        coverage=seen_s / total_s,
    )


def bucket_states(
    pieces: Sequence[Piece], since: datetime, until: datetime, number: int
) -> list[str]:
    """Return the state of each of ``number`` buckets of equal length, the oldest first.

    ``pieces`` are a timeline from ``since`` to ``until``. A bucket has the worst state that was
    seen in it, however short: ``down``, ``unknown``, ``degraded``, ``healthy``. If only part of it
    was seen, and that part was healthy, it is healthy if the part is at least half of it. Otherwise
    it is UNSEEN.
    """
    length = (until - since) / number
    edges = [*(since + place * length for place in range(number)), until]
    return [bucket_state(_seconds(pieces, *edge)) for edge in pairwise(edges)]


def _seconds(pieces: Sequence[Piece], since: datetime, until: datetime) -> dict[str, float]:
    """Return the seconds of each state between two times; a state that was not seen has none."""
    seconds: dict[str, float] = {}
    place = bisect_right(pieces, since, key=_ended)
    while place < len(pieces) and pieces[place].begun < until:
        piece = pieces[place]
        length = min(piece.ended, until) - max(piece.begun, since)
        seconds[piece.state] = seconds.get(piece.state, 0.0) + length.total_seconds()
        place += 1
    return seconds


def bucket_state(seconds: Mapping[str, float]) -> str:
    """Return the state of a bucket from the seconds of each state that is in it."""
    for state in WORST_FIRST:
        if state in seconds:
            return state
    if seconds.get(HEALTHY, 0.0) > 0 and seconds[HEALTHY] >= seconds.get(UNSEEN, 0.0):
        return HEALTHY
    return UNSEEN


def doubts(piece: Piece, before: str | None) -> tuple[timedelta, timedelta]:
    """Return the times at both ends of a piece in which its neighbours may have been the state.

    They matter only if the neighbour is up and the piece is not, or the reverse. Before a time in
    which nobody looked, the state may have ended with its last sight. ``before`` is the state of
    the piece before, None if there is none. Both may be longer than the piece.
    """
    is_up = piece.state == HEALTHY
    left = right = timedelta()
    if before not in {None, UNSEEN} and (before == HEALTHY) != is_up:
        left = piece.first_seen - piece.begun
    if piece.then is not None and (piece.then == UNSEEN or (piece.then == HEALTHY) != is_up):
        right = piece.ended - piece.last_seen
    return left, right


def _doubtful_s(piece: Piece, before: str | None) -> float:
    """Return the seconds of a piece in which its neighbours may have been the state."""
    left, right = doubts(piece, before)
    return min((left + right).total_seconds(), piece.seconds)


def _covers_of(
    span: Span, shard_covers: Sequence[Cover], since: datetime, until: datetime
) -> Sequence[Cover]:
    """Return the covers in which a span was seen, in the period and next to it.

    They are in the order of time, and there may be many: those that tell nothing about the period
    are left out. Of a span outside of the period, the cover that is closest to it remains.
    """
    start = bisect_left(shard_covers, span.first_at, key=_last_at)
    stop = len(shard_covers)
    if span.last_at is not None:
        stop = bisect_right(shard_covers, span.last_at, key=_begun)
    nearest = bisect_left(shard_covers, since, key=_last_at) - 1
    start = max(start, min(nearest, stop - 1))
    furthest = bisect_right(shard_covers, until, key=_begun) + 1
    return shard_covers[start : min(stop, max(furthest, start + 1))]


def _segments(
    span: Span,
    shard_covers: Sequence[Cover],
    periods: Mapping[int, float],
    since: datetime,
    until: datetime,
) -> Iterator[_Segment]:
    """Yield a span's parts, one for each cover in which it was seen, in the period and next to it.

    ``periods`` has the seconds from one pass to the next in each run.
    """
    for cover in _covers_of(span, shard_covers, since, until):
        first = max(span.first_at, cover.begun)
        last = cover.last_at if span.last_at is None else min(span.last_at, cover.last_at)
        first_period_s, last_period_s = cover.first_period_s, cover.last_period_s
        if first == span.first_at:
            first_period_s = periods.get(span.run, first_period_s)
        if span.last_run is not None and last == span.last_at:
            last_period_s = periods.get(span.last_run, last_period_s)
        yield _Segment(
            # Another program may have written any word.
            state=span.state if span.state in STATES else UNKNOWN,
            reason_class=span.reason_class,
            reason=span.reason,
            first=first,
            last=last,
            first_period_s=first_period_s,
            last_period_s=last_period_s,
            longest_period_s=cover.longest_period_s,
            lasts=span.last_at is None and cover == shard_covers[-1],
            cut_at=cover.cut_at,
        )


def _piece(
    segment: _Segment, earlier: datetime | None, after: _Segment | None, now: datetime
) -> Piece:
    """Return the time for which a segment counts."""
    last, period_s = segment.last, segment.last_period_s
    ended = last + timedelta(seconds=period_s)
    if after is None:
        if segment.lasts and not is_hole(last, period_s, now, period_s):
            ended = now
        ended = max(segment.first, min(ended, now))
        to_latest = now
    else:
        is_near = not is_hole(last, period_s, after.first, after.first_period_s)
        if is_near and not (segment.cut_at is not None and segment.cut_at < after.first):
            ended = after.first
        ended = min(ended, after.first)
        last = min(last, after.first)
        to_latest = after.first
    return Piece(
        state=segment.state,
        reason_class=segment.reason_class,
        reason=segment.reason,
        begun=segment.first,
        ended=ended,
        from_earliest=segment.first if earlier is None else earlier,
        first_seen=segment.first,
        last_seen=last,
        to_latest=max(ended, to_latest),
        apart_s=stale_after_s(segment.longest_period_s),
    )


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Join pieces of the same state and class that follow each other without a gap."""
    found: list[Piece] = []
    for piece in pieces:
        before = found[-1] if found else None
        same = before is not None and (before.state, before.reason_class, before.ended) == (
            piece.state,
            piece.reason_class,
            piece.begun,
        )
        if before is not None and same:
            found[-1] = before._replace(
                ended=piece.ended,
                first_seen=min(before.first_seen, piece.first_seen),
                last_seen=max(before.last_seen, piece.last_seen),
                to_latest=piece.to_latest,
                apart_s=max(before.apart_s, piece.apart_s),
            )
        else:
            found.append(piece)
    return found


def _filled(pieces: Sequence[Piece], since: datetime, until: datetime) -> list[Piece]:
    """Add the pieces in which nobody looked, and name the state after each piece."""
    found: list[Piece] = []
    at = min([since, *(piece.begun for piece in pieces[:1])])
    for piece in pieces:
        if piece.begun > at:
            found.append(_unseen(at, piece.begun))
        found.append(piece)
        at = piece.ended
    if at < until:
        found.append(_unseen(at, until))
    return _followed(found)


def _followed(pieces: Sequence[Piece]) -> list[Piece]:
    """Name the state after each piece."""
    following = [piece.state for piece in pieces[1:]]
    return [
        piece._replace(then=then) for piece, then in zip(pieces, [*following, None], strict=False)
    ]


def _unseen(begun: datetime, ended: datetime) -> Piece:
    return Piece(
        state=UNSEEN,
        reason_class="",
        reason="",
        begun=begun,
        ended=ended,
        from_earliest=begun,
        first_seen=begun,
        last_seen=ended,
        to_latest=ended,
    )


def _clipped(pieces: Iterable[Piece], since: datetime, until: datetime) -> list[Piece]:
    """Cut the pieces and their bounds at the edges of the period."""

    def cut(moment: datetime) -> datetime:
        """Return the time, moved to the nearest edge if it is outside of the period."""
        return max(since, min(moment, until))

    clipped = []
    for piece in pieces:
        if piece.begun >= until or piece.ended <= since:
            continue
        # Most pieces are inside of a long period, and need no copy.
        if piece.from_earliest < since or piece.to_latest > until:
            piece = piece._replace(  # noqa: PLW2901
                begun=cut(piece.begun),
                ended=cut(piece.ended),
                from_earliest=cut(piece.from_earliest),
                first_seen=cut(piece.first_seen),
                last_seen=cut(piece.last_seen),
                to_latest=cut(piece.to_latest),
            )
        clipped.append(piece)
    return clipped
