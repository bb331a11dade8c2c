"""Timelines: the state of a service at any time, computed from the runs and spans of the ledger.

The state is known at a time if the time is in a run and in a span. All other time is unseen. Each
change of state has bounds: it came after the last sight of the old state, and before or at the
first sight of the new state. docs/contract.md, "Ledger", has the rules.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import pairwise, zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.ledger import HEALTHY, STATES, UNKNOWN, UNSEEN, is_cut, is_hole
from ops_worker.core.staleness import stale_after_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ops_worker.core.ledger import Run, Span

WORST_FIRST = ("down", UNKNOWN, "degraded")
"""The unhealthy states. A service without a usable answer is worse than a degraded one."""

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)

_begun = attrgetter("begun")
_ended = attrgetter("ended")
_first = attrgetter("first")
_last_at = attrgetter("last_at")


class Epoch(NamedTuple):
    """The time in which the clock of a shard was never set back.

    ``number`` is how often the clock was set back before: 0 in the first epoch of the shard.
    """

    shard: str
    number: int


class Cover(NamedTuple):
    """A time without a hole in which passes of one shard ran.

    ``begun`` is its first sight, ``last_at`` its last sight. The periods are in seconds: that of
    its first run, that of its last run, and the longest of all its runs. ``is_cut`` is True if a
    blind pass ended it. Then the time up to the next cover is unseen, however short it is.
    ``cut_at`` is the last sight before the next blind pass that ended this cover or a later cover
    of the epoch; None if there was no such pass.
    """

    begun: datetime
    last_at: datetime
    first_period_s: float
    last_period_s: float
    longest_period_s: float
    is_cut: bool = False
    cut_at: datetime | None = None


class Piece(NamedTuple):
    """A part of a timeline in which nothing changed.

    ``state`` is UNSEEN if nobody looked. A seen state really began between ``from_earliest`` and
    ``first_seen``. It was last seen at ``last_seen``, and really ended between ``last_seen`` and
    ``to_latest``. These two sights are within the piece, unless the piece was cut out of a longer
    one (``_part``). ``patience_s`` is the most seconds between two consecutive sights in it.
    ``next_state`` is the state of the next piece; None if there is none.
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
    patience_s: float = 0.0
    next_state: str | None = None

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return (self.ended - self.begun).total_seconds()


class Availability(NamedTuple):
    """How long a service was in each state, and the shares that follow from it.

    ``seconds`` has an entry for each state and for UNSEEN. ``value`` is the healthy share of the
    seen time; None if the service was never seen. Its bounds ``least`` and ``most`` assume that
    every change came as early or as late as possible. ``coverage`` is the seen share of the time.
    """

    seconds: Mapping[str, float]
    value: float | None
    least: float | None
    most: float | None
    coverage: float


class _Segment(NamedTuple):
    """A state of a service in one cover, with its first and its last sight.

    ``lasts`` is True if no later pass of the shard saw another state. ``cut_at`` is that of the
    cover. The periods are in seconds: that of the first sight, that of the last sight, and the
    longest of the cover.
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


class Coverage:
    """The times at which a pass looked, by shard. It turns spans of a service into a timeline.

    ``periods`` has the period of each run in seconds, and ``epochs`` its epoch, both by the ``id``
    of the run. ``covers`` has the covers of each epoch, the oldest first.
    """

    def __init__(self, runs: Iterable[Run], now: datetime) -> None:
        """Take all runs of a pass that may cover the period.

        ``now`` is the time of the database's clock.
        """
        runs_of_shard: dict[str, list[Run]] = {}
        for run in runs:
            runs_of_shard.setdefault(run.shard, []).append(run)
        self.now = now
        self.periods: dict[int, float] = {}
        self.epochs: dict[int, Epoch] = {}
        self.covers: dict[Epoch, list[Cover]] = {}
        for shard, shard_runs in runs_of_shard.items():
            for number, epoch_runs in enumerate(_divided_into_epochs(shard_runs)):
                epoch = Epoch(shard, number)
                self.covers[epoch] = _covers(epoch_runs)
                self.epochs |= {run.id: epoch for run in epoch_runs}
                self.periods |= {run.id: run.period_s for run in epoch_runs}

    def timeline(self, spans: Iterable[Span], since: datetime, until: datetime) -> list[Piece]:
        """Return the timeline of a service from ``since`` to ``until``, without gaps.

        ``spans`` are all spans of the service by this pass. A span whose run is not known is
        ignored. A state counts from its first sight to the first sight of the next state. Before
        unseen time, it counts for one period after its last sight. After the last pass, it counts
        up to now, if now is within the patience.
        """
        segments_of_epoch: dict[int, list[_Segment]] = {}
        for span in spans:
            epoch = self.epochs.get(span.run)
            if epoch is not None:
                segments = _segments(span, self.covers[epoch], self.periods, since, until)
                segments_of_epoch.setdefault(epoch.number, []).extend(segments)
        pieces: list[Piece] = []
        for _, segments_in_order in sorted(segments_of_epoch.items()):
            pieces = _overlaid(pieces, _pieces(segments_in_order, self.now))
        # A piece after now was recorded before a clock was set back.
        pieces = [
            piece if piece.ended <= self.now else piece._replace(ended=self.now)
            for piece in pieces
            if piece.begun <= self.now
        ]
        return _clipped(_filled(pieces, since, until), since, until)


def _divided_into_epochs(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each epoch of a shard. Usually there is one epoch.

    The ``id`` of a run shows the order in which the runs were written. If two epochs have passes of
    the same time, the later epoch counts.
    """
    epochs: list[list[Run]] = []
    for run in sorted(runs, key=attrgetter("id")):
        if not epochs or run.first_at <= epochs[-1][-1].last_at:
            epochs.append([])
        epochs[-1].append(run)
    return epochs


def _covers(runs: Iterable[Run]) -> list[Cover]:
    """Return the covers of an epoch: consecutive runs without a hole or a blind pass between them.

    ``runs`` are the runs of the epoch, the oldest first.
    """
    covers: list[Cover] = []
    earlier: Run | None = None
    for run in runs:
        if earlier is None or _is_hole_between(earlier, run):
            covers.append(_cover(run))
        elif is_cut(earlier, run):
            covers[-1] = covers[-1]._replace(is_cut=True)
            covers.append(_cover(run))
        else:
            covers[-1] = _extended(covers[-1], run)
        earlier = run
    _set_cuts(covers)
    return covers


def _is_hole_between(earlier: Run, later: Run) -> bool:
    return is_hole(earlier.last_at, earlier.period_s, later.first_at, later.period_s)


def _cover(run: Run) -> Cover:
    return Cover(
        begun=run.first_at,
        last_at=run.last_at,
        first_period_s=run.period_s,
        last_period_s=run.period_s,
        longest_period_s=run.period_s,
    )


def _extended(cover: Cover, run: Run) -> Cover:
    return cover._replace(
        last_at=run.last_at,
        last_period_s=run.period_s,
        longest_period_s=max(cover.longest_period_s, run.period_s),
    )


def _set_cuts(covers: list[Cover]) -> None:
    """Set ``cut_at`` of each cover that a blind pass follows, at once or later."""
    cut_at = None
    for index in reversed(range(len(covers))):
        cover = covers[index]
        if cover.is_cut:
            cut_at = cover.last_at
        if cut_at is not None:
            covers[index] = cover._replace(cut_at=cut_at)


def _pieces(segments: Iterable[_Segment], now: datetime) -> list[Piece]:
    """Return the pieces of an epoch, in order. Unseen time has no piece."""
    ordered = _resumed(sorted(segments, key=_first))
    pieces = []
    last_sight = None
    for segment, following in zip_longest(ordered, ordered[1:]):
        piece = _piece(segment, last_sight, following, now)
        pieces.append(piece)
        last_sight = piece.last_seen
    return _joined(pieces)


def _resumed(segments: list[_Segment]) -> list[_Segment]:
    """Divide each segment that contains another segment, so that it goes on after the inner one.

    ``segments`` are in the order of their first sights, and so is the result. Only segments of
    different shards overlap: the number of shards was changed, and changed back within the
    patience. The inner segment counts for one period after its last sight. Then the outer one goes
    on, unless another segment begins at this moment.
    """
    if all(earlier.last <= later.last for earlier, later in pairwise(segments)):
        return segments
    resumed: list[_Segment] = []
    waiting = deque(segments)
    while waiting:
        segment = waiting.popleft()
        resumed.append(segment)
        _insert_rest(segment, waiting)
    return resumed


def _insert_rest(outer: _Segment, waiting: deque[_Segment]) -> None:
    """Insert the rest of a segment after its inner segments, if it has any.

    ``waiting`` are the segments after ``outer``, in the order of their first sights.
    """
    index = 0
    inner = waiting[0] if waiting else None
    while inner is not None and inner.last < outer.last:
        resumes = min(inner.last + timedelta(seconds=inner.last_period_s), outer.last)
        # A damaged row may have the period 0. So the search must not find the same segment again.
        index = bisect_left(waiting, resumes, lo=index + 1, key=_first)
        inner = waiting[index] if index < len(waiting) else None
        if inner is None or inner.first > resumes:
            waiting.insert(index, outer._replace(first=resumes))
            return
        # Another segment begins at this moment, and counts first.


def _overlaid(pieces: list[Piece], newer: list[Piece]) -> list[Piece]:
    """Return the pieces of two epochs. Those of the later epoch replace what they overlap."""
    if not pieces or not newer:
        return pieces or newer
    before = _clipped(pieces, _EARLIEST, newer[0].begun)
    after = _clipped(pieces, newer[-1].ended, _LATEST)
    return [*before, *newer, *after]


def merged(finer: Sequence[Piece], coarser: Sequence[Piece]) -> list[Piece]:
    """Return the merged timeline of two: the finer one where it is seen, else the coarser one.

    Both are timelines of the same period, without gaps. So is the result.
    """
    pieces: list[Piece] = []
    for piece in finer:
        if piece.state == UNSEEN:
            pieces += _cut_out(coarser, piece.begun, piece.ended)
        else:
            pieces.append(piece)
    return _with_next_states(_bounded(_joined(pieces)))


def _cut_out(pieces: Sequence[Piece], since: datetime, until: datetime) -> Iterator[Piece]:
    """Yield the parts of the pieces that are between two times."""
    start = bisect_right(pieces, since, key=_ended)
    for piece in pieces[start:]:
        if piece.begun >= until:
            break
        yield _part(piece, max(piece.begun, since), min(piece.ended, until))


def _part(piece: Piece, begun: datetime, ended: datetime) -> Piece:
    """Return the part of a piece between two times.

    The ledger has only the first and the last sight of the piece, but two consecutive sights are at
    most the patience apart. So ``last_seen`` is the earliest time that the last sight before the
    end may have, perhaps before the part. ``first_seen`` is the latest time that the first sight
    after the begin may have, perhaps after the part.
    """
    if piece.state == UNSEEN:
        return _unseen(begun, ended)
    patience = timedelta(seconds=piece.patience_s)
    first_seen, last_seen = piece.first_seen, piece.last_seen
    if begun > piece.last_seen:
        first_seen = piece.to_latest
    elif begun > piece.first_seen:
        first_seen = min(begun + patience, piece.last_seen)
    if ended < piece.last_seen:
        last_seen = max(piece.first_seen, ended - patience)
    return piece._replace(begun=begun, ended=ended, first_seen=first_seen, last_seen=last_seen)


def _bounded(pieces: Sequence[Piece]) -> list[Piece]:
    """Set the bounds of each seen piece by the sights of the seen pieces before and after it."""
    bounded = [*pieces]
    indexes = [index for index, piece in enumerate(bounded) if piece.state != UNSEEN]
    for before, index in pairwise(indexes):
        earlier = bounded[before]
        last_sight = max(earlier.from_earliest, earlier.last_seen)
        bounded[index] = bounded[index]._replace(from_earliest=last_sight)
    for after, index in pairwise(reversed(indexes)):
        later = bounded[after]
        first_sight = min(later.first_seen, later.to_latest)
        bounded[index] = bounded[index]._replace(to_latest=first_sight)
    return bounded


def availability(pieces: Sequence[Piece]) -> Availability:
    """Return the availability over a timeline."""
    seconds = dict.fromkeys((*STATES, UNSEEN), 0.0)
    least = most = 0.0
    previous_state = None
    for piece in pieces:
        seconds[piece.state] += piece.seconds
        if piece.state == HEALTHY:
            least += piece.seconds - _doubtful_s(piece, previous_state)
            most += piece.seconds
        elif piece.state != UNSEEN:
            most += _doubtful_s(piece, previous_state)
        previous_state = piece.state
    # The total minus the unseen time would be rounded, and give shares of more than 1.
    seen_s = sum(seconds[state] for state in STATES)
    total_s = seen_s + seconds[UNSEEN]
    if seen_s <= 0:
        return Availability(seconds, value=None, least=None, most=None, coverage=0.0)
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

    ``pieces`` are a timeline from ``since`` to ``until``. ``bucket_state`` has the rule.
    """
    length = (until - since) / number
    edges = [*(since + index * length for index in range(number)), until]
    return [bucket_state(_seconds(pieces, begun, ended)) for begun, ended in pairwise(edges)]


def _seconds(pieces: Sequence[Piece], since: datetime, until: datetime) -> dict[str, float]:
    """Return the seconds of each state between two times. Other states have no entry."""
    seconds: dict[str, float] = {}
    index = bisect_right(pieces, since, key=_ended)
    while index < len(pieces) and pieces[index].begun < until:
        piece = pieces[index]
        length = min(piece.ended, until) - max(piece.begun, since)
        seconds[piece.state] = seconds.get(piece.state, 0.0) + length.total_seconds()
        index += 1
    return seconds


def bucket_state(seconds: Mapping[str, float]) -> str:
    """Return the state of a bucket from the seconds of each state in it.

    It is the worst unhealthy state that was seen in the bucket, however short (``WORST_FIRST``). If
    none was seen, the bucket is healthy if the service was seen healthy for at least half of it.
    Otherwise it is UNSEEN.
    """
    for state in WORST_FIRST:
        if state in seconds:
            return state
    if seconds.get(HEALTHY, 0.0) > 0 and seconds[HEALTHY] >= seconds.get(UNSEEN, 0.0):
        return HEALTHY
    return UNSEEN


def doubts(piece: Piece, previous_state: str | None) -> tuple[timedelta, timedelta]:
    """Return how much time at the begin and at the end of a piece may have the neighbour's state.

    Time counts only if either the piece or the neighbour is healthy, but not both. Before unseen
    time, the state may have ended with its last sight. ``previous_state`` is the state of the piece
    before; None if there is none. The two times together may be longer than the piece.
    """
    is_healthy = piece.state == HEALTHY
    at_begin = at_end = timedelta()
    if previous_state not in {None, UNSEEN} and (previous_state == HEALTHY) != is_healthy:
        at_begin = piece.first_seen - piece.begun
    next_state = piece.next_state
    if next_state is not None and (next_state == UNSEEN or (next_state == HEALTHY) != is_healthy):
        at_end = piece.ended - piece.last_seen
    return at_begin, at_end


def _doubtful_s(piece: Piece, previous_state: str | None) -> float:
    """Return the seconds of a piece in which the service may have had a neighbour's state."""
    at_begin, at_end = doubts(piece, previous_state)
    return min((at_begin + at_end).total_seconds(), piece.seconds)


def _covers_of(
    span: Span, covers: Sequence[Cover], since: datetime, until: datetime
) -> Sequence[Cover]:
    """Return the covers in which a span was seen, in the period and next to it.

    On each side of the period, at most one cover is returned: the closest one. ``covers`` are those
    of the epoch of the span, and may be many.
    """
    start = bisect_left(covers, span.first_at, key=_last_at)
    stop = len(covers)
    if span.last_at is not None:
        stop = bisect_right(covers, span.last_at, key=_begun)
    last_before = bisect_left(covers, since, key=_last_at) - 1
    start = max(start, min(last_before, stop - 1))
    first_after = bisect_right(covers, until, key=_begun)
    return covers[start : min(stop, max(first_after, start) + 1)]


def _segments(
    span: Span,
    covers: Sequence[Cover],
    periods: Mapping[int, float],
    since: datetime,
    until: datetime,
) -> Iterator[_Segment]:
    """Yield the segments of a span: one for each cover that ``_covers_of`` returns.

    ``covers`` are those of the epoch of the span. ``periods`` has the period of each run in
    seconds.
    """
    for cover in _covers_of(span, covers, since, until):
        first = max(span.first_at, cover.begun)
        last = cover.last_at
        if span.last_at is not None:
            # In a damaged row, the last sight may be before the first one.
            last = max(first, min(span.last_at, cover.last_at))
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
            lasts=span.last_at is None and cover == covers[-1],
            cut_at=cover.cut_at,
        )


def _piece(
    segment: _Segment,
    earlier_sight: datetime | None,
    following: _Segment | None,
    now: datetime,
) -> Piece:
    """Return the piece of a segment: the time for which its state counts.

    ``earlier_sight`` is the last sight of the piece before. It is None if there is none, and so is
    ``following``, the segment after it.
    """
    last_seen, period_s = segment.last, segment.last_period_s
    ended = last_seen + timedelta(seconds=period_s)
    if following is None:
        to_latest = now
        if segment.lasts and not is_hole(last_seen, period_s, now, period_s):
            ended = now
        ended = max(segment.first, min(ended, now))
    else:
        to_latest = following.first
        if _counts_up_to(segment, following):
            ended = following.first
        ended = min(ended, following.first)
        last_seen = min(last_seen, following.first)
    return Piece(
        state=segment.state,
        reason_class=segment.reason_class,
        reason=segment.reason,
        begun=segment.first,
        ended=ended,
        from_earliest=segment.first if earlier_sight is None else earlier_sight,
        first_seen=segment.first,
        last_seen=last_seen,
        to_latest=max(ended, to_latest),
        patience_s=stale_after_s(segment.longest_period_s),
    )


def _counts_up_to(segment: _Segment, following: _Segment) -> bool:
    """Return whether the time between two segments has no hole and no blind pass."""
    if segment.cut_at is not None and segment.cut_at < following.first:
        return False
    return not is_hole(
        segment.last, segment.last_period_s, following.first, following.first_period_s
    )


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Join pieces of the same state and reason class that follow each other without a gap."""
    joined: list[Piece] = []
    for piece in pieces:
        before = joined[-1] if joined else None
        if before is not None and _is_continued(before, piece):
            joined[-1] = before._replace(
                ended=piece.ended,
                first_seen=min(before.first_seen, piece.first_seen),
                last_seen=max(before.last_seen, piece.last_seen),
                to_latest=piece.to_latest,
                patience_s=max(before.patience_s, piece.patience_s),
            )
        else:
            joined.append(piece)
    return joined


def _is_continued(before: Piece, piece: Piece) -> bool:
    return (before.state, before.reason_class, before.ended) == (
        piece.state,
        piece.reason_class,
        piece.begun,
    )


def _filled(pieces: Sequence[Piece], since: datetime, until: datetime) -> list[Piece]:
    """Fill the gaps of a period with unseen pieces, and set the next state of each piece."""
    filled: list[Piece] = []
    at = min(since, pieces[0].begun) if pieces else since
    for piece in pieces:
        if piece.begun > at:
            filled.append(_unseen(at, piece.begun))
        filled.append(piece)
        at = piece.ended
    if at < until:
        filled.append(_unseen(at, until))
    return _with_next_states(filled)


def _with_next_states(pieces: Sequence[Piece]) -> list[Piece]:
    """Set the next state of each piece."""
    next_states = [piece.state for piece in pieces[1:]]
    return [
        piece._replace(next_state=next_state)
        for piece, next_state in zip_longest(pieces, next_states)
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

    def clip(moment: datetime) -> datetime:
        """Return the moment, or the edge of the period that is nearest to it."""
        return max(since, min(moment, until))

    clipped = []
    for piece in pieces:
        if piece.begun >= until or piece.ended <= since:
            continue
        # In a long period, most pieces are complete and need no copy.
        if piece.from_earliest < since or piece.to_latest > until:
            piece = piece._replace(  # noqa: PLW2901
                begun=clip(piece.begun),
                ended=clip(piece.ended),
                from_earliest=clip(piece.from_earliest),
                first_seen=clip(piece.first_seen),
                last_seen=clip(piece.last_seen),
                to_latest=clip(piece.to_latest),
            )
        clipped.append(piece)
    return clipped
