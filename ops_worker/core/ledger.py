"""The ledger: what each service was, in few rows, for years.

Two kinds of rows. A **run** is an unbroken sequence of passes of one pass and shard. A **span** is
a service in one state, as one pass saw it. A pass in which nothing changed extends its run and
writes no span. A time in which no pass looked ends a run and no span.

``record`` decides what a pass writes. ``timeline`` turns runs and spans back into what a service
was at any time. A service's state is known where a run covers the time and a span names the state;
everywhere else nobody looked.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.staleness import stale_after_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HEALTHY = "healthy"
STATES = (HEALTHY, "degraded", "down", "unknown")
"""The states that a pass records (``service_health.details.status``)."""
UNSEEN = "unseen"
"""The state of a service while nobody looked."""


class Sight(NamedTuple):
    """A service as one pass saw it. ``reason_class`` is empty when it is healthy."""

    service: str
    at: datetime
    state: str
    reason_class: str = ""
    reason: str = ""


class Run(NamedTuple):
    """An unbroken sequence of passes of one pass and shard.

    ``first_at`` is the earliest sight of its first pass, ``last_at`` the latest sight of its last
    one. ``digest`` stands for the states of all services in its last pass: if the next pass has the
    same, no span changes, and none has to be read. It is empty if spans were ended since.
    """

    id: int
    period_s: float
    config: str
    first_at: datetime
    last_at: datetime
    passes: int
    digest: str = ""


class Span(NamedTuple):
    """A service in one state. ``last_at`` is None while it lasts.

    ``first_no`` and ``last_no`` are the numbers of the passes of its first and last sight in the
    runs ``run`` and ``last_run``; they begin at 1 in each run.
    """

    id: int
    service: str
    state: str
    reason_class: str
    reason: str
    first_at: datetime
    first_no: int
    run: int
    last_at: datetime | None = None
    last_no: int | None = None
    last_run: int | None = None


class Ended(NamedTuple):
    """The end of a span: the time and the number of its last sight, and that sight's run."""

    span: int
    last_at: datetime
    last_no: int
    last_run: int


class RunChange(NamedTuple):
    """What a pass does to its run: extend the one with this ``id``, or begin one (None)."""

    id: int | None
    first_at: datetime
    last_at: datetime
    passes: int
    digest: str


class SpanChanges(NamedTuple):
    """The spans that a pass ends, and the sights with which it begins one."""

    ended: tuple[Ended, ...] = ()
    begun: tuple[Sight, ...] = ()


def digest_of(sights: Iterable[Sight]) -> str:
    """Return a digest of the states of all services; the order of the sights does not matter."""
    lines = sorted(f"{sight.service}\0{sight.state}\0{sight.reason_class}" for sight in sights)
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def newer(sights: Sequence[Sight], newest: Run | None) -> tuple[Sight, ...]:
    """Return the sights that are newer than everything that the run has.

    A pass that is late, was paused or is repeated changes nothing.
    """
    if newest is None:
        return tuple(sights)
    return tuple(sight for sight in sights if sight.at > newest.last_at)


def change_run(
    newest: Run | None,
    *,
    sights: Sequence[Sight],
    begun: datetime,
    period_s: float,
    config: str,
) -> RunChange:
    """Return what a pass does to its run.

    It extends the newest run if the time since that one is within the patience, and period and
    config are the same. Without sights (no service is monitored) its beginning counts.
    """
    times = [sight.at for sight in sights] or [begun]
    first_at, last_at, digest = min(times), max(times), digest_of(sights)
    if newest is None or _begins_run(newest, first_at, period_s, config):
        return RunChange(None, first_at, last_at, 1, digest)
    return RunChange(newest.id, newest.first_at, last_at, newest.passes + 1, digest)


def _begins_run(newest: Run, first_at: datetime, period_s: float, config: str) -> bool:
    if (newest.period_s, newest.config) != (period_s, config):
        return True
    return _is_hole(newest.last_at, newest.period_s, first_at, period_s)


def change_spans(
    open_spans: Iterable[Span], sights: Sequence[Sight], previous: Run | None
) -> SpanChanges:
    """Return the spans that end and begin with a pass, whose previous pass was the last of a run.

    A span ends with the last sight of its state: in the previous pass. That is also so for a
    service that this pass left out.
    """
    seen = {sight.service: sight for sight in sights}
    kept: set[str] = set()
    ended: list[Ended] = []
    for span in open_spans:
        sight = seen.get(span.service)
        same = sight is not None and (sight.state, sight.reason_class) == (
            span.state,
            span.reason_class,
        )
        if same:
            kept.add(span.service)
        else:
            assert previous is not None, "a span begins in a run"
            ended.append(Ended(span.id, previous.last_at, previous.passes, previous.id))
    begun = tuple(sight for sight in sights if sight.service not in kept)
    return SpanChanges(tuple(ended), begun)


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


def covers(runs: Iterable[Run]) -> list[Cover]:
    """Join the runs of one pass and shard that follow each other within the patience."""
    found: list[Cover] = []
    for run in sorted(runs, key=lambda run: run.first_at):
        before = found[-1] if found else None
        if before is not None and not _is_hole(
            before.last_at, before.last_period_s, run.first_at, run.period_s
        ):
            found[-1] = before._replace(last_at=run.last_at, last_period_s=run.period_s)
        else:
            found.append(Cover(run.first_at, run.last_at, run.period_s, run.period_s))
    return found


def timeline(
    spans: Iterable[tuple[Span, Sequence[Cover]]],
    periods: Mapping[int, float],
    *,
    since: datetime,
    until: datetime,
    now: datetime,
) -> list[Piece]:
    """Return what a service was from ``since`` to ``until``, without gaps.

    ``spans`` has the spans of the service by one pass, each with the covers of its shard;
    ``periods`` has the period of each run in seconds. A state counts from its first sight to the
    first sight of the next one. Before a time in which nobody looked it counts for one period after
    its last sight. After the last pass it counts up to ``now`` while that is within the patience.
    """
    segments = [
        segment
        for span, shard_covers in spans
        for segment in _segments(span, shard_covers, periods)
    ]
    segments.sort(key=lambda segment: segment.first)
    pieces = []
    earlier = None
    for number, segment in enumerate(segments, start=1):
        after = segments[number] if number < len(segments) else None
        piece = _piece(segment, earlier, after, now)
        pieces.append(piece)
        earlier = piece.last_seen
    return _clipped(_filled(_joined(pieces), since, until), since, until)


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
        if segment.lasts and not _is_hole(last, period_s, now, period_s):
            ended = now
        ended = max(segment.first, min(ended, now))
        to_latest = now
    else:
        if not _is_hole(last, period_s, after.first, after.first_period_s):
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


def _is_hole(last: datetime, period_s: float, then: datetime, then_period_s: float) -> bool:
    """Return whether nobody looked between a sight and the next one, each of a pass of a period."""
    patience_s = max(stale_after_s(period_s), stale_after_s(then_period_s))
    return (then - last).total_seconds() > patience_s
