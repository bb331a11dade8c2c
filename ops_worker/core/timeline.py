"""What a service was at any time: runs and spans of the ledger turned into a timeline.

A service's state is known where a run covers the time and a span names the state. Everywhere else
nobody looked. Every change has bounds: it happened after the last sight of the old state, and
before the first sight of the new one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.ledger import HEALTHY, STATES, UNSEEN, is_hole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ops_worker.core.ledger import Run, Span

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


class Cover(NamedTuple):
    """A time without a hole in which passes of one shard ran.

    ``begun`` is the first sight in it, ``last_at`` the last one; the periods in seconds are those
    of its first and its last run.
    """

    begun: datetime
    last_at: datetime
    first_period_s: float
    last_period_s: float


class Piece(NamedTuple):
    """A part of a timeline in which all was the same.

    ``state`` is UNSEEN while nobody looked. A seen state really began between ``from_earliest`` and
    ``begun``; it was last seen at ``last_seen``, and really ended between then and ``to_latest``.
    ``then`` is the state of the next piece; None if there is none.
    """

    state: str
    reason_class: str
    reason: str
    begun: datetime
    ended: datetime
    from_earliest: datetime
    last_seen: datetime
    to_latest: datetime
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

    ``lasts`` is whether no later pass of its shard saw another state.
    """

    state: str
    reason_class: str
    reason: str
    first: datetime
    last: datetime
    first_period_s: float
    last_period_s: float
    lasts: bool


class Coverage:
    """When the passes of one kind looked, by shard: what turns spans into timelines."""

    def __init__(self, runs: Iterable[Run], now: datetime) -> None:
        """Take all runs of a pass that may cover the period, and the time now."""
        shards: dict[str, list[Run]] = {}
        for run in runs:
            shards.setdefault(run.shard, []).append(run)
        self._now = now
        self._periods: dict[int, float] = {}
        self._places: dict[int, tuple[str, int]] = {}
        self._covers: dict[tuple[str, int], list[Cover]] = {}
        for shard, shard_runs in shards.items():
            for number, epoch in enumerate(_epochs(shard_runs)):
                self._covers[shard, number] = _covers(epoch)
                self._places |= {run.id: (shard, number) for run in epoch}
                self._periods |= {run.id: run.period_s for run in epoch}

    def timeline(self, spans: Iterable[Span], since: datetime, until: datetime) -> list[Piece]:
        """Return what a service was from ``since`` to ``until``, without gaps.

        ``spans`` are all spans of the service by this pass; one whose run is not known is ignored.
        A state counts from its first sight to the first sight of the next one. Before a time in
        which nobody looked it counts for one period after its last sight. After the last pass it
        counts up to now while that is within the patience.
        """
        epochs: dict[int, list[_Segment]] = {}
        for span in spans:
            place = self._places.get(span.run)
            if place is not None:
                segments = _segments(span, self._covers[place], self._periods)
                epochs.setdefault(place[1], []).extend(segments)
        pieces: list[Piece] = []
        for _, segments_of_epoch in sorted(epochs.items()):
            pieces = _overlaid(pieces, _pieces(segments_of_epoch, self._now))
        # What was recorded for a time after now comes from a clock that was set back.
        pieces = [
            piece._replace(ended=min(piece.ended, self._now))
            for piece in pieces
            if piece.begun <= self._now
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


def _covers(runs: Iterable[Run]) -> list[Cover]:
    """Join the runs of an epoch that follow each other within the patience."""
    covers: list[Cover] = []
    for run in runs:
        before = covers[-1] if covers else None
        if before is not None and not is_hole(
            before.last_at, before.last_period_s, run.first_at, run.period_s
        ):
            covers[-1] = before._replace(last_at=run.last_at, last_period_s=run.period_s)
        else:
            covers.append(Cover(run.first_at, run.last_at, run.period_s, run.period_s))
    return covers


def _pieces(segments: list[_Segment], now: datetime) -> list[Piece]:
    """Return the pieces of an epoch; where nobody looked, there is none."""
    segments = sorted(segments, key=lambda segment: segment.first)
    pieces = []
    earlier = None
    for number, segment in enumerate(segments, start=1):
        after = segments[number] if number < len(segments) else None
        piece = _piece(segment, earlier, after, now)
        pieces.append(piece)
        earlier = piece.last_seen
    return _joined(pieces)


def _overlaid(pieces: list[Piece], newer: list[Piece]) -> list[Piece]:
    """Return the pieces with those of a later epoch laid over them."""
    if not pieces or not newer:
        return pieces or newer
    before = _clipped(pieces, _EARLIEST, newer[0].begun)
    after = _clipped(pieces, newer[-1].ended, _LATEST)
    return [*before, *newer, *after]


def availability(pieces: Sequence[Piece]) -> Availability:
    """Sum up a timeline."""
    seconds = dict.fromkeys((*STATES, UNSEEN), 0.0)
    least = most = 0.0
    for piece in pieces:
        seconds[piece.state] = seconds.get(piece.state, 0.0) + piece.seconds
        if piece.state == UNSEEN:
            continue
        up = piece.state == HEALTHY
        doubtful_s = 0.0
        if piece.then is not None and (piece.then == HEALTHY) != up:
            doubtful_s = (piece.ended - piece.last_seen).total_seconds()
        if piece.then == UNSEEN:
            doubtful_s = (piece.ended - piece.last_seen).total_seconds()
        least += piece.seconds - doubtful_s if up else 0.0
        most += piece.seconds if up else doubtful_s
    total_s = sum(seconds.values())
    seen_s = total_s - seconds[UNSEEN]
    if seen_s <= 0:
        return Availability(seconds, None, None, None, 0.0)
    return Availability(
        seconds=seconds,
        value=seconds[HEALTHY] / seen_s,
        least=least / seen_s,
        most=most / seen_s,
        coverage=seen_s / total_s,
    )


def _segments(
    span: Span, shard_covers: Sequence[Cover], periods: Mapping[int, float]
) -> Iterator[_Segment]:
    """Yield a span's parts, one for each cover in which it was seen."""
    for cover in shard_covers:
        first = max(span.first_at, cover.begun)
        last = cover.last_at if span.last_at is None else min(span.last_at, cover.last_at)
        if first > last:
            continue
        first_period_s, last_period_s = cover.first_period_s, cover.last_period_s
        if first == span.first_at:
            first_period_s = periods.get(span.run, first_period_s)
        if span.last_run is not None and last == span.last_at:
            last_period_s = periods.get(span.last_run, last_period_s)
        yield _Segment(
            state=span.state,
            reason_class=span.reason_class,
            reason=span.reason,
            first=first,
            last=last,
            first_period_s=first_period_s,
            last_period_s=last_period_s,
            lasts=span.last_at is None and cover == shard_covers[-1],
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
        if not is_hole(last, period_s, after.first, after.first_period_s):
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
        last_seen=last,
        to_latest=max(ended, to_latest),
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
                ended=piece.ended, last_seen=piece.last_seen, to_latest=piece.to_latest
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
    following = [piece.state for piece in found[1:]]
    return [
        piece._replace(then=then) for piece, then in zip(found, [*following, None], strict=True)
    ]


def _unseen(begun: datetime, ended: datetime) -> Piece:
    return Piece(
        state=UNSEEN,
        reason_class="",
        reason="",
        begun=begun,
        ended=ended,
        from_earliest=begun,
        last_seen=ended,
        to_latest=ended,
    )


def _clipped(pieces: Iterable[Piece], since: datetime, until: datetime) -> list[Piece]:
    """Cut the pieces and their bounds at the edges of the period."""

    def cut(moment: datetime) -> datetime:
        return max(since, min(moment, until))

    return [
        piece._replace(
            begun=cut(piece.begun),
            ended=cut(piece.ended),
            from_earliest=cut(piece.from_earliest),
            last_seen=cut(piece.last_seen),
            to_latest=cut(piece.to_latest),
        )
        for piece in pieces
        if piece.begun < until and piece.ended > since
    ]
