"""Sums over the timelines of many services, computed without most of their pieces.

The passes of a shard look at all of its services. So two services in the same state have the same
timeline: they have the same holes, and before each hole the state counts equally long. ``Totals``
computes this common timeline once for each state, with running sums. For each service, it looks
only at the changes of state, and takes the time between them from the running sums.

``core.timeline`` has the rules, and computes what is not simple: the pieces around a change in a
hole of the finer pass, where both passes matter, those around a time at which a clock was set back,
and all pieces of a service with rows that no pass of this release writes.

All times are integers: microseconds since 1970. So are all lengths of time, unless the name of the
value ends with ``_s``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core import timeline
from ops_worker.core.ledger import HEALTHY, STATES, UNKNOWN, UNSEEN, Span
from ops_worker.core.staleness import stale_after_s
from ops_worker.core.timeline import WORST_FIRST, Availability

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ops_worker.core.timeline import Coverage, Epoch, Piece

UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
"""Microseconds of a second."""
NEVER = 1 << 62
"""Later than every time. ``-NEVER`` is earlier than every time."""
RANKED = (HEALTHY, *reversed(WORST_FIRST))
"""The seen states. The worst one is last."""
RANKS = {state: rank for rank, state in enumerate(RANKED)}
"""The place of each state in ``RANKED``. Healthy has the rank 0."""
MAX_EPOCHS = 2
"""The most epochs in which a service has spans, if its sums are computed without its pieces."""

_begun = attrgetter("begun")
_ended = attrgetter("ended")


class Summary(NamedTuple):
    """The sums of a service over a period.

    ``states`` has the state of each bucket (``timeline.bucket_states``). ``outages`` is the number
    of outages. ``longest_s`` is the number of seconds in which the service was seen unhealthy in
    the longest outage. Unseen time neither ends an outage nor counts towards its length.
    """

    availability: Availability
    states: Sequence[str]
    outages: int
    longest_s: float


class _Part(NamedTuple):
    """A piece of a timeline in integers, with its doubts (``timeline.doubts``)."""

    begun: int
    ended: int
    state: str
    doubt_at_begin: int
    doubt_at_end: int


class _Stay(NamedTuple):
    """A span in integers, with its epoch and the run of its last sight.

    While the state lasts, ``last`` is NEVER, and ``last_run`` is the run of the first sight.
    """

    epoch: Epoch
    state: str
    first: int
    last: int
    last_run: int
    span: Span


class _Change(NamedTuple):
    """The time from the last sight of a stay to the first sight of the next stay.

    Before the first stay, ``before`` is None and ``begun`` is -NEVER. After the last stay,
    ``after`` is None and ``ended`` is NEVER. ``is_continuous`` is True if the state of ``before``
    counts up to ``after``. ``is_set_back`` is True if a clock was set back between them.
    """

    begun: int
    ended: int
    before: _Stay | None
    after: _Stay | None
    is_continuous: bool = False
    is_set_back: bool = False


class _Step(NamedTuple):
    """A part of the period that is not taken from a common timeline.

    ``parts`` are its parts. They are None if ``core.timeline`` has to compute them.
    """

    begun: int
    ended: int
    parts: Sequence[_Part] | None


class _OddRowsError(Exception):
    """The rows of a service are too unusual for the computation without its pieces."""


class Totals:
    """Sums over one period, of services that the same passes looked at."""

    def __init__(
        self, coverages: Sequence[Coverage], since: datetime, until: datetime, *, buckets: int = 0
    ) -> None:
        """Take the coverage of one pass, or of two, the finer pass first (``timeline.merged``).

        The period is divided into ``buckets`` parts of equal length.
        """
        self._since, self._until = since, until
        self._begun, self._ended = _microseconds(since), _microseconds(until)
        self._streams = [_Stream(coverage) for coverage in coverages]
        self._is_merged = len(coverages) > 1
        self._margin = max(stream.margin for stream in self._streams)
        self._is_regular = all(
            stream.is_regular and until <= stream.coverage.now for stream in self._streams
        )
        self._edges = [self._begun]
        if buckets:
            length = (until - since) / buckets
            inner = [_microseconds(since + index * length) for index in range(1, buckets)]
            self._edges = [self._begun, *inner, self._ended]
        self._commons: dict[tuple[object, ...], _Common] = {}

    def summary(self, spans: Sequence[Sequence[Span]]) -> Summary:
        """Return the sums of a service. ``spans`` are its spans by each pass, the oldest first."""
        tracks = self._tracks(spans)
        tally = _Tally(self._edges)
        if tracks is None:
            parts = _parts(self._pieces(spans, self._since, self._until))
            tally.add(parts, self._begun, self._ended)
        else:
            self._count(tracks, tally)
        return tally.summary(self._ended - self._begun)

    def _tracks(self, spans: Sequence[Sequence[Span]]) -> list[_Track] | None:
        """Return the track of a service in each stream; None if its rows are odd."""
        if not self._is_regular:
            return None
        try:
            return [
                _Track(stream, stream_spans)
                for stream, stream_spans in zip(self._streams, spans, strict=True)
            ]
        except _OddRowsError:
            return None

    def _pieces(
        self, spans: Sequence[Sequence[Span]], since: datetime, until: datetime
    ) -> Sequence[Piece]:
        """Return the timeline of a service between two times."""
        finest, *coarser = [
            stream.coverage.timeline(stream_spans, since, until)
            for stream, stream_spans in zip(self._streams, spans, strict=True)
        ]
        for other in coarser:
            finest = timeline.merged(finest, other)
        return finest

    def _count(self, tracks: Sequence[_Track], tally: _Tally) -> None:
        """Add a service to a tally: its steps, and the common timelines around them."""
        at = self._begun
        for step in self._steps(tracks):
            self._count_common(tracks, tally, at, step.begun)
            parts = step.parts
            if parts is None:
                parts = self._parts_around(tracks, step.begun, step.ended)
            tally.add(parts, step.begun, step.ended)
            at = step.ended
        self._count_common(tracks, tally, at, self._ended)

    def _count_common(
        self, tracks: Sequence[_Track], tally: _Tally, begun: int, ended: int
    ) -> None:
        """Add the common timelines between two times that have no step between them."""
        while begun < ended:
            stays = [track.stay_at(begun) for track in tracks]
            # Where the finer pass looked, a change that only the coarser pass saw has no step.
            switches = [track.next_switch(begun) for track in tracks[1:]]
            end = min([ended, *switches])
            common = self._common(stays)
            if common.is_healthy:
                tally.add_common(common, begun, end)
            else:
                tally.add(common.parts, begun, end)
            begun = end

    def _common(self, stays: Sequence[_Stay | None]) -> _Common:
        """Return the common timeline of services in the states of these stays, one per stream."""
        # Pieces of two passes are joined only if they have the same reason class.
        classes = {stay.span.reason_class for stay in stays if stay is not None}
        is_same_class = len(classes) <= 1
        states = ((stay.epoch, stay.state) if stay else None for stay in stays)
        key = (is_same_class, *states)
        if key not in self._commons:
            spans = [
                stream.whole_span(stay) for stream, stay in zip(self._streams, stays, strict=True)
            ]
            parts = _parts(self._pieces(spans, self._since, self._until))
            self._commons[key] = _Common(parts, self._edges)
        return self._commons[key]

    def _parts_around(self, tracks: Sequence[_Track], begun: int, ended: int) -> list[_Part]:
        """Return the parts of a step, from the pieces of the time around it."""
        low = max(self._begun, begun - self._margin)
        high = min(self._ended, ended + self._margin)
        spans = [track.spans_between(low, high) for track in tracks]
        return _parts(self._pieces(spans, _datetime(low), _datetime(high)))

    def _steps(self, tracks: Sequence[_Track]) -> list[_Step]:
        """Return the steps of a service in order. They do not overlap."""
        steps = []
        for number, track in enumerate(tracks):
            for change in track.changes:
                if change.begun >= self._ended or change.ended <= self._begun:
                    continue
                step = self._step(change, tracks, number)
                if step is not None and step.begun < step.ended:
                    steps.append(step)
        return _joined(sorted(steps, key=_begun))

    def _step(self, change: _Change, tracks: Sequence[_Track], number: int) -> _Step | None:
        """Return the step of a change in the stream ``number``; None if it needs no step."""
        if number:
            return self._step_of_coarser(change, tracks)
        if self._is_merged:
            return self._step_of_finer(change, tracks)
        if change.is_set_back:
            return self._step_from_pieces(change.begun, change.ended)
        return self._simple_step(change, number=0)

    def _step_of_finer(self, change: _Change, tracks: Sequence[_Track]) -> _Step:
        """Return the step of a change that the finer of two passes saw."""
        # The coarser pass matters in a hole of the finer pass, and at the end of the period.
        if change.is_continuous and change.ended < self._ended:
            return self._simple_step(change, number=0)
        begun, ended = change.begun, change.ended
        if change.before is None:
            begun = self._sure_before(tracks, ended - self._margin - 1)
        if change.after is None:
            ended = self._sure_after(tracks, begun + self._margin + 1)
        return self._step_from_pieces(begun, ended)

    def _step_of_coarser(self, change: _Change, tracks: Sequence[_Track]) -> _Step | None:
        """Return the step of a change that the coarser of two passes saw."""
        first = change.ended if change.before is None else change.begun
        last = change.begun if change.after is None else change.ended
        low, high = first - self._margin, last + self._margin
        finer = tracks[0]
        if finer.looked_through(low, high):
            return None
        is_inside = self._begun <= first and last < self._ended
        if is_inside and not change.is_set_back and not finer.looked_in(low, high):
            if change.before is None:
                return None
            return self._simple_step(change, number=1)
        return self._step_from_pieces(
            self._sure_before(tracks, low), self._sure_after(tracks, high)
        )

    def _step_from_pieces(self, begun: int, ended: int) -> _Step:
        """Return a step that ``core.timeline`` computes, cut to the period."""
        return _Step(max(begun, self._begun), min(ended, self._ended), parts=None)

    def _simple_step(self, change: _Change, number: int) -> _Step:
        """Return the step of a change for which only the stream ``number`` matters."""
        stay = change.before
        begun, ended = max(change.begun, self._begun), min(change.ended, self._ended)
        if stay is None:
            return _Step(begun, ended, parts=())
        counts_until = ended
        if not change.is_continuous:
            period = self._streams[number].periods[stay.last_run]
            counts_until = min(stay.last + period, self._ended)
        doubt = counts_until - begun
        if change.after is None:
            ended = counts_until
            # At the end of the period, there is no next piece that the doubt could be about.
            doubt = doubt if counts_until < self._ended else 0
        elif change.is_continuous and _have_same_health(stay, change.after):
            doubt = 0
        if counts_until <= begun:
            return _Step(begun, ended, parts=())
        part = _Part(
            begun=begun,
            ended=counts_until,
            state=stay.state,
            doubt_at_begin=0,
            doubt_at_end=doubt,
        )
        return _Step(begun, ended, parts=(part,))

    def _sure_before(self, tracks: Sequence[_Track], time: int) -> int:
        """Return the last sight up to a time that leaves no doubt about the state.

        If there is none in the period, return the begin of the period.
        """
        return max(self._begun, *self._sure(tracks, lambda track: track.sight_before(time)))

    def _sure_after(self, tracks: Sequence[_Track], time: int) -> int:
        """Return the first sight from a time on that leaves no doubt about the state.

        If there is none in the period, return the end of the period.
        """
        return min(self._ended, *self._sure(tracks, lambda track: track.sight_after(time)))

    def _sure(self, tracks: Sequence[_Track], sight_of: Callable[[_Track], int]) -> list[int]:
        """Return the sights of two tracks that leave no doubt.

        The sight of the coarser pass does not count if the finer pass looked around that time.
        """
        finer, coarser = tracks
        coarser_sight = sight_of(coarser)
        if self._looked_around(finer, coarser_sight):
            return [sight_of(finer)]
        return [sight_of(finer), coarser_sight]

    def _looked_around(self, track: _Track, time: int) -> bool:
        return track.looked_in(time - self._margin, time + self._margin)


def _joined(steps: Iterable[_Step]) -> list[_Step]:
    """Join the steps that overlap. ``steps`` are in the order of their begins."""
    joined: list[_Step] = []
    for step in steps:
        if joined and step.begun < joined[-1].ended:
            ended = max(joined[-1].ended, step.ended)
            joined[-1] = _Step(joined[-1].begun, ended, parts=None)
        else:
            joined.append(step)
    return joined


def _have_same_health(stay: _Stay, other: _Stay) -> bool:
    return (stay.state == HEALTHY) == (other.state == HEALTHY)


class _Stream:
    """What one pass recorded, in integers.

    - ``is_regular``: whether all its periods are positive.
    - ``is_set_back``: whether the clock of a shard was set back.
    - ``begins``, ``lasts``: the first and the last sight of each cover, by epoch.
    - ``periods``, ``patience``: the period and the patience of each run, by its ``id``.
    - ``margin``: a sight that is farther away from a time does not matter for its state.
    """

    def __init__(self, coverage: Coverage) -> None:
        self.coverage = coverage
        self.now = _microseconds(coverage.now)
        self.is_regular = all(period_s > 0 for period_s in coverage.periods.values())
        self.is_set_back = any(epoch.number for epoch in coverage.covers)
        self.begins: dict[Epoch, list[int]] = {}
        self.lasts: dict[Epoch, list[int]] = {}
        self._cuts: dict[Epoch, list[int]] = {}
        for epoch, covers in coverage.covers.items():
            self.begins[epoch] = [_microseconds(cover.begun) for cover in covers]
            self.lasts[epoch] = [_microseconds(cover.last_at) for cover in covers]
            self._cuts[epoch] = [_microseconds(cover.last_at) for cover in covers if cover.is_cut]
        self.periods = {
            run: timedelta(seconds=period_s) // MICROSECOND
            for run, period_s in coverage.periods.items()
        }
        self.patience = {
            run: int(stale_after_s(period_s) * SECOND) for run, period_s in coverage.periods.items()
        }
        longest_s = max(coverage.periods.values(), default=0.0)
        self.margin = int((longest_s + stale_after_s(longest_s)) * SECOND)
        self._first_runs: dict[Epoch, int] = {}
        for run, epoch in coverage.epochs.items():
            self._first_runs.setdefault(epoch, run)

    def cover_at(self, epoch: Epoch, time: int) -> int:
        """Return the index of the cover that contains a time; -1 if there is none."""
        index = bisect_right(self.begins[epoch], time) - 1
        if index >= 0 and time <= self.lasts[epoch][index]:
            return index
        return -1

    def is_cut(self, epoch: Epoch, begun: int, ended: int) -> bool:
        """Return whether a blind pass was between two sights."""
        cuts = self._cuts[epoch]
        index = bisect_left(cuts, begun)
        return index < len(cuts) and cuts[index] < ended

    def sight_before(self, epoch: Epoch, time: int) -> int:
        """Return the last time up to this time that is in a cover; -NEVER if there is none."""
        index = bisect_right(self.begins[epoch], time) - 1
        return min(time, self.lasts[epoch][index]) if index >= 0 else -NEVER

    def sight_after(self, epoch: Epoch, time: int) -> int:
        """Return the first time from this time on that is in a cover; NEVER if there is none."""
        index = bisect_left(self.lasts[epoch], time)
        if index == len(self.lasts[epoch]):
            return NEVER
        return max(time, self.begins[epoch][index])

    def whole_span(self, stay: _Stay | None) -> list[Span]:
        """Return the span of a service that is in the state of a stay in all its epoch.

        Without a stay, return no span.
        """
        if stay is None:
            return []
        first_at = self.coverage.covers[stay.epoch][0].begun
        run = self._first_runs[stay.epoch]
        return [stay.span._replace(first_at=first_at, run=run, last_at=None, last_run=None)]


class _Track:
    """The stays of one service in one stream, in order, and the changes between them.

    - ``_firsts``: the first sight of each stay.
    - ``_holes``: the number of holes between stays, from the first stay to each stay.
    - ``_switches``: the time from which the common timeline of each stay counts, which is the last
      sight of the stay before it. After the last stay, it is the last sight of this stay.
    """

    def __init__(self, stream: _Stream, spans: Sequence[Span]) -> None:
        """Raise _OddRowsError for rows that no pass writes."""
        self._stream = stream
        self._spans = spans
        stays = [_stay(stream, span) for span in spans if span.run in stream.coverage.epochs]
        if stream.is_set_back:
            stays = _visible(stream, stays)
        self._stays = stays
        self._firsts = [stay.first for stay in stays]
        if self._firsts and self._firsts[-1] > stream.now:
            # A clock was set back. A timeline ignores what was recorded for a time after now.
            raise _OddRowsError
        self._holes: list[int] = []
        self._switches: list[int] = []
        self.changes: list[_Change] = []
        if stays:
            self._begin(stays[0])
        for before, stay in pairwise(stays):
            self._switch(before, stay)
        if stays and stays[-1].last < NEVER:
            self._end(stays[-1])

    def _begin(self, stay: _Stay) -> None:
        """Add the first stay."""
        self._holes.append(0)
        if stay.first == self._stream.begins[stay.epoch][0]:
            # The common timeline begins at the same time, so there is no change.
            self._switches.append(-NEVER)
            return
        self._switches.append(stay.first)
        self.changes.append(_Change(-NEVER, stay.first, before=None, after=stay))

    def _switch(self, before: _Stay, stay: _Stay) -> None:
        """Add a stay that follows another one."""
        if before.last >= stay.first:
            raise _OddRowsError
        is_set_back = before.epoch.number != stay.epoch.number
        is_continuous = not is_set_back and self._counts_up_to(before, stay)
        holes = self._holes[-1] if is_continuous else self._holes[-1] + 1
        self._holes.append(holes)
        self._switches.append(before.last)
        change = _Change(
            begun=before.last,
            ended=stay.first,
            before=before,
            after=stay,
            is_continuous=is_continuous,
            is_set_back=is_set_back,
        )
        self.changes.append(change)

    def _end(self, stay: _Stay) -> None:
        """Add the end of the last stay."""
        self._switches.append(stay.last)
        self.changes.append(_Change(stay.last, NEVER, before=stay, after=None))

    def _counts_up_to(self, before: _Stay, stay: _Stay) -> bool:
        """Return whether the state of a stay counts up to the next stay."""
        stream = self._stream
        gap = stay.first - before.last
        if stream.is_cut(before.epoch, before.last, stay.first):
            return gap <= stream.periods[before.last_run]
        return gap <= max(stream.patience[before.last_run], stream.patience[stay.span.run])

    def stay_at(self, time: int) -> _Stay | None:
        """Return the stay whose common timeline counts at a time; None if there is none."""
        index = bisect_right(self._switches, time) - 1
        return self._stays[index] if 0 <= index < len(self._stays) else None

    def next_switch(self, time: int) -> int:
        """Return the first time after this time at which another stay, or no stay, counts.

        If there is none, return NEVER.
        """
        index = bisect_right(self._switches, time)
        return self._switches[index] if index < len(self._switches) else NEVER

    def sight_before(self, time: int) -> int:
        """Return the last sight up to a time; -NEVER if there is none."""
        index = bisect_right(self._firsts, time) - 1
        if index < 0:
            return -NEVER
        stay = self._stays[index]
        return self._stream.sight_before(stay.epoch, min(time, stay.last))

    def sight_after(self, time: int) -> int:
        """Return the first sight from a time on; NEVER if there is none."""
        index = bisect_right(self._firsts, time)
        if index:
            stay = self._stays[index - 1]
            sight = self._stream.sight_after(stay.epoch, time)
            if sight <= stay.last and sight < NEVER:
                return sight
        return self._firsts[index] if index < len(self._firsts) else NEVER

    def looked_in(self, begun: int, ended: int) -> bool:
        """Return whether there was a sight between two times."""
        return self.sight_after(begun) <= ended

    def looked_through(self, begun: int, ended: int) -> bool:
        """Return whether the service was seen all the time between two times."""
        first = bisect_right(self._firsts, begun) - 1
        last = bisect_right(self._firsts, ended) - 1
        if first < 0 or self._holes[first] != self._holes[last]:
            return False
        epoch = self._stays[first].epoch
        if epoch != self._stays[last].epoch or not self._is_seen_up_to(last, ended):
            return False
        cover = self._stream.cover_at(epoch, begun)
        return cover >= 0 and cover == self._stream.cover_at(epoch, ended)

    def _is_seen_up_to(self, index: int, time: int) -> bool:
        """Return whether a stay lasts up to a time, or the next stay follows without a hole."""
        if time <= self._stays[index].last:
            return True
        return index + 1 < len(self._stays) and self._holes[index + 1] == self._holes[index]

    def spans_between(self, begun: int, ended: int) -> Sequence[Span]:
        """Return the spans between two times, and those next to them."""
        if self._stream.is_set_back:
            # A span that a later epoch hides still ends the span before it.
            return self._spans
        start = max(0, bisect_right(self._firsts, begun) - 2)
        stop = bisect_right(self._firsts, ended) + 1
        return [stay.span for stay in self._stays[start:stop]]


def _stay(stream: _Stream, span: Span) -> _Stay:
    """Return the stay of a span. Raises _OddRowsError if its sights are not in covers."""
    epoch = stream.coverage.epochs[span.run]
    first, last, last_run = _microseconds(span.first_at), NEVER, span.run
    if stream.cover_at(epoch, first) < 0:
        raise _OddRowsError
    if span.last_at is not None:
        last = _microseconds(span.last_at)
        if last < first or span.last_run not in stream.periods or stream.cover_at(epoch, last) < 0:
            raise _OddRowsError
        last_run = span.last_run
    return _Stay(
        epoch=epoch,
        # Another program may have written any word.
        state=span.state if span.state in STATES else UNKNOWN,
        first=first,
        last=last,
        last_run=last_run,
        span=span,
    )


def _visible(stream: _Stream, stays: Sequence[_Stay]) -> list[_Stay]:
    """Return the stays in order, without the sights that a later epoch hides.

    Raises _OddRowsError unless there are at most two epochs, the last state in the later one lasts,
    and the later one hides the end of the older one.
    """
    stays = sorted(stays, key=lambda stay: (stay.epoch.number, stay.first))
    numbers = sorted({stay.epoch.number for stay in stays})
    if len(numbers) <= 1:
        return stays
    older = [stay for stay in stays if stay.epoch.number == numbers[0]]
    newer = stays[len(older) :]
    newest = newer[-1]
    if len(numbers) > MAX_EPOCHS or newest.last < NEVER:
        raise _OddRowsError
    newest_sight = stream.lasts[newest.epoch][-1]
    for stay in older:
        last_sight = min(stay.last, stream.lasts[stay.epoch][-1])
        if last_sight + stream.periods[stay.last_run] >= newest_sight:
            raise _OddRowsError
    begun = newer[0].first
    older = [stay for stay in older if stay.first < begun]
    if older:
        stay = older[-1]
        last = min(stay.last, stream.sight_before(stay.epoch, begun - 1))
        older[-1] = stay._replace(last=last)
    return older + newer


class _Common:
    """A common timeline, with running sums that count if it is always healthy or unseen."""

    def __init__(self, parts: Sequence[_Part], edges: Sequence[int]) -> None:
        """Compute the sums. ``edges`` are the edges of the buckets."""
        self.parts = parts
        self.is_healthy = all(part.state in {HEALTHY, UNSEEN} for part in parts)
        self._begins = [part.begun for part in parts]
        self._lengths = [part.ended - part.begun if part.state == HEALTHY else 0 for part in parts]
        self._healthy = list(accumulate(self._lengths, initial=0))
        self._doubts = list(accumulate((_doubt(part) for part in parts), initial=0))
        self.at_edges = [self.healthy_at(edge)[0] for edge in edges]
        self.in_buckets = [after - before for before, after in pairwise(self.at_edges)]

    def healthy_at(self, time: int) -> tuple[int, int]:
        """Return the healthy time up to a time, and the doubts of the complete parts up to it."""
        index = bisect_right(self._begins, time) - 1
        within = min(time - self._begins[index], self._lengths[index])
        complete = len(self.parts) if time >= self.parts[-1].ended else index
        return self._healthy[index] + within, self._doubts[complete]


def _doubt(part: _Part) -> int:
    return min(part.doubt_at_begin + part.doubt_at_end, part.ended - part.begun)


class _Tally:
    """The sums of one service. Parts must be added in the order of time."""

    def __init__(self, edges: Sequence[int]) -> None:
        """Begin with 0. ``edges`` are the edges of the buckets, or one edge without buckets."""
        self._edges = edges
        self._lengths = dict.fromkeys(STATES, 0)
        self._healthy_doubt = self._unhealthy_doubt = 0
        # Of each bucket, the healthy time and the rank of the worst state.
        self._healthy = [0] * (len(edges) - 1)
        self._worst = [0] * (len(edges) - 1)
        self._outages = self._longest = 0
        # The length of the outage that no healthy time has ended yet; 0 if there is none.
        self._outage = 0

    def add(self, parts: Sequence[_Part], begun: int, ended: int) -> None:
        """Add the parts between two times."""
        # Most steps have one part, and need no search.
        start = bisect_right(parts, begun, key=_ended) if len(parts) > 1 else 0
        for part in parts[start:]:
            if part.begun >= ended:
                break
            if part.state != UNSEEN:
                self._add_part(part, begun, ended)

    def _add_part(self, part: _Part, begun: int, ended: int) -> None:
        """Add a seen part, cut to the time between ``begun`` and ``ended``."""
        first, last = max(part.begun, begun), min(part.ended, ended)
        doubt = 0
        if part.begun >= begun:
            doubt += part.doubt_at_begin
        if part.ended <= ended:
            doubt += part.doubt_at_end
        doubt = min(doubt, part.ended - part.begun)
        self._lengths[part.state] += last - first
        if part.state == HEALTHY:
            self._healthy_doubt += doubt
        else:
            self._unhealthy_doubt += doubt
        if last > first:
            self._add_outage(part.state, last - first)
        self._add_to_buckets(part.state, first, last)

    def _add_outage(self, state: str, length: int) -> None:
        """Begin an outage, make the current one longer, or end it with healthy time."""
        if state == HEALTHY:
            self._outage = 0
            return
        if not self._outage:
            self._outages += 1
        self._outage += length
        self._longest = max(self._longest, self._outage)

    def _add_to_buckets(self, state: str, begun: int, ended: int) -> None:
        edges = self._edges
        index = bisect_right(edges, begun) - 1
        rank = RANKS[state]
        while index < len(self._healthy) and edges[index] < ended:
            if rank:
                self._worst[index] = max(self._worst[index], rank)
            else:
                length = min(ended, edges[index + 1]) - max(begun, edges[index])
                self._healthy[index] += length
            index += 1

    def add_common(self, common: _Common, begun: int, ended: int) -> None:
        """Add the common timeline of healthy services between two times."""
        healthy_before, doubts_before = common.healthy_at(begun)
        healthy_after, doubts_after = common.healthy_at(ended)
        healthy = healthy_after - healthy_before
        self._lengths[HEALTHY] += healthy
        if healthy > 0:
            self._outage = 0
        self._healthy_doubt += doubts_after - doubts_before
        if not self._healthy:
            return
        first = bisect_right(self._edges, begun) - 1
        last = min(bisect_right(self._edges, ended) - 1, len(self._healthy) - 1)
        if first == last:
            self._healthy[first] += healthy
            return
        self._healthy[first] += common.at_edges[first + 1] - healthy_before
        # The buckets between the first and the last one have no other parts.
        self._healthy[first + 1 : last] = common.in_buckets[first + 1 : last]
        self._healthy[last] += healthy_after - common.at_edges[last]

    def summary(self, total: int) -> Summary:
        """Return the sums. ``total`` is the length of the period."""
        return Summary(
            availability=self._availability(total),
            states=[self._bucket_state(index) for index in range(len(self._healthy))],
            outages=self._outages,
            longest_s=self._longest / SECOND,
        )

    def _bucket_state(self, index: int) -> str:
        """Return the state of a bucket, by the rule of ``timeline.bucket_state``."""
        length = self._edges[index + 1] - self._edges[index]
        healthy = self._healthy[index]
        if self._worst[index] or (healthy and 2 * healthy >= length):
            return RANKED[self._worst[index]]
        return UNSEEN

    def _availability(self, total: int) -> Availability:
        seen = sum(self._lengths.values())
        seconds = {state: length / SECOND for state, length in self._lengths.items()}
        seconds[UNSEEN] = (total - seen) / SECOND
        if not seen:
            return Availability(seconds, value=None, least=None, most=None, coverage=0.0)
        healthy = self._lengths[HEALTHY]
        return Availability(
            seconds=seconds,
            value=healthy / seen,
            least=(healthy - self._healthy_doubt) / seen,
            most=(healthy + self._unhealthy_doubt) / seen,
            coverage=seen / total,
        )


def _parts(pieces: Iterable[Piece]) -> list[_Part]:
    """Return the pieces as parts."""
    parts = []
    previous_state = None
    for piece in pieces:
        at_begin, at_end = timeline.doubts(piece, previous_state)
        part = _Part(
            begun=_microseconds(piece.begun),
            ended=_microseconds(piece.ended),
            state=piece.state,
            doubt_at_begin=at_begin // MICROSECOND,
            doubt_at_end=at_end // MICROSECOND,
        )
        parts.append(part)
        previous_state = piece.state
    return parts


def _microseconds(time: datetime) -> int:
    """Return a time as microseconds since 1970."""
    since = time - UNIX_EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def _datetime(microseconds: int) -> datetime:
    return UNIX_EPOCH + timedelta(microseconds=microseconds)
