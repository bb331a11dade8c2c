"""Sums of the timelines of many services: the same as over their pieces, with much less work.

The passes of a shard look at all of its services. So the timelines of two services in the same
state are equal: the holes are in the same places, and the state counts for equally long before
each. ``Totals`` makes this common timeline once, with running sums. Of each service it looks only
at its changes of state, and takes everything between them from the running sums.

``core.timeline`` has the rules, and is the reference. It is asked for the pieces around a change
in a hole of the finer pass, where both passes matter, and of services with rows that no pass of
this release writes. All times here are integers: microseconds since 1970.
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
    from collections.abc import Iterable, Sequence

    from ops_worker.core.timeline import Coverage, Epoch, Piece

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
"""Microseconds of a second."""
NEVER = 1 << 62
"""Later than every time."""
BADNESS = {state: rank for rank, state in enumerate(reversed(WORST_FIRST), start=1)}
"""The rank of each unhealthy state, the worst one the highest."""
NAMES = (HEALTHY, *reversed(WORST_FIRST))
"""The state of each rank; healthy has the rank 0."""


class Summary(NamedTuple):
    """What a service was in a period.

    ``states`` has the state of each bucket, as ``timeline.bucket_states`` returns it. ``outages``
    is the number of times in which the service was never seen healthy. ``longest_s`` is for how
    many seconds it was seen unhealthy in the longest one: unseen time neither ends an outage nor
    counts.
    """

    availability: Availability
    states: Sequence[str]
    outages: int
    longest_s: float


class _Part(NamedTuple):
    """A piece of a timeline, with the doubts at its two ends, in microseconds."""

    begun: int
    ended: int
    state: str
    left: int
    right: int


class _Stay(NamedTuple):
    """A span with its shard, its times, and the run of its last sight.

    While it lasts, ``last`` is NEVER, and ``last_run`` is the run in which it began.
    """

    epoch: Epoch
    state: str
    first: int
    last: int
    last_run: int
    span: Span


class _Change(NamedTuple):
    """From the last sight of a stay to the first sight of the next one.

    The first stay has no ``before``, and ``begun`` is before all times. The last one has no
    ``after``, and ``ended`` is NEVER. ``is_short`` is whether passes looked all the time;
    ``is_set_back`` is whether a clock was set back.
    """

    begun: int
    ended: int
    before: _Stay | None
    after: _Stay | None
    is_short: bool = False
    is_set_back: bool = False


class _Step(NamedTuple):
    """A part of the period with its own pieces. None: ``core.timeline`` has them."""

    begun: int
    ended: int
    parts: Sequence[_Part] | None


class _OddRowsError(Exception):
    """A service has rows that no pass of this release writes."""


class Totals:
    """Sums over one period, of services that the same passes looked at."""

    def __init__(
        self, streams: Sequence[Coverage], since: datetime, until: datetime, *, buckets: int = 0
    ) -> None:
        """Take one coverage, or two, with the finer pass first, as in ``timeline.merged``.

        The period is divided into ``buckets`` parts of equal length.
        """
        self._since, self._until = since, until
        self._begun, self._ended = _us(since), _us(until)
        self._streams = [_Stream(coverage) for coverage in streams]
        self._is_merged = len(streams) > 1
        self._margin = max(stream.margin for stream in self._streams)
        self._is_regular = all(
            stream.is_regular and until <= stream.coverage.now for stream in self._streams
        )
        self._edges = [self._begun]
        if buckets:
            length = (until - since) / buckets
            self._edges += [_us(since + index * length) for index in range(1, buckets)]
            self._edges.append(self._ended)
        self._commons: dict[tuple[object, ...], _Common] = {}

    def summary(self, spans: Sequence[Sequence[Span]]) -> Summary:
        """Return the sums of a service. ``spans`` has the spans of each stream, oldest first."""
        tracks = self._tracks(spans)
        tally = _Tally(self._edges)
        if tracks is None:
            parts = _parts(self._pieces(spans, self._since, self._until))
            tally.add(parts, self._begun, self._ended)
        else:
            self._count(tracks, tally)
        return tally.summary(self._ended - self._begun)

    def _tracks(self, spans: Sequence[Sequence[Span]]) -> list[_Track] | None:
        """Return the stays of a service in each stream; None if its rows are odd."""
        if not self._is_regular:
            return None
        try:
            return [
                _Track(stream, of_stream)
                for stream, of_stream in zip(self._streams, spans, strict=True)
            ]
        except _OddRowsError:
            return None

    def _pieces(
        self, spans: Sequence[Sequence[Span]], since: datetime, until: datetime
    ) -> Sequence[Piece]:
        """Return the pieces of a service between two times."""
        finest, *coarser = [
            stream.coverage.timeline(of_stream, since, until)
            for stream, of_stream in zip(self._streams, spans, strict=True)
        ]
        for other in coarser:
            finest = timeline.merged(finest, other)
        return finest

    def _count(self, tracks: Sequence[_Track], tally: _Tally) -> None:
        """Add up a service: its steps, and the common timeline before, between and after them."""
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
        """Add what the common timelines say between two times at which the finest pass is sure."""
        while begun < ended:
            stays = [track.stay_at(begun) for track in tracks]
            # Where the finest pass looks, no step is needed when the other one sees a change.
            switches = [track.next_switch(begun) for track in tracks[1:]]
            end = min([ended, *switches])
            common = self._common(stays)
            if common.is_healthy:
                tally.add_common(common, begun, end)
            else:
                tally.add(common.parts, begun, end)
            begun = end

    def _common(self, stays: Sequence[_Stay | None]) -> _Common:
        """Return the timeline of a service that was always in these states."""
        classes = {stay.span.reason_class for stay in stays if stay is not None}
        is_same = len(classes) <= 1
        key = (is_same, *((stay.epoch, stay.state) if stay else None for stay in stays))
        if key not in self._commons:
            spans = [
                stream.whole_span(stay) for stream, stay in zip(self._streams, stays, strict=True)
            ]
            parts = _parts(self._pieces(spans, self._since, self._until))
            self._commons[key] = _Common(parts, self._edges)
        return self._commons[key]

    def _parts_around(self, tracks: Sequence[_Track], begun: int, ended: int) -> list[_Part]:
        """Return the pieces around a step; the rows are those that matter there."""
        low = max(self._begun, begun - self._margin)
        high = min(self._ended, ended + self._margin)
        spans = [track.spans_between(low, high) for track in tracks]
        return _parts(self._pieces(spans, _time(low), _time(high)))

    def _steps(self, tracks: Sequence[_Track]) -> list[_Step]:
        """Return the steps of a service in order; those that overlap are made one."""
        steps = []
        for number, track in enumerate(tracks):
            for change in track.changes:
                if change.begun < self._ended and change.ended > self._begun:
                    step = self._step(change, tracks, number)
                    if step is not None and step.begun < step.ended:
                        steps.append(step)
        steps.sort(key=_step_begun)
        joined: list[_Step] = []
        for step in steps:
            if joined and step.begun < joined[-1].ended:
                ended = max(joined[-1].ended, step.ended)
                joined[-1] = _Step(joined[-1].begun, ended, None)
            else:
                joined.append(step)
        return joined

    def _step(self, change: _Change, tracks: Sequence[_Track], number: int) -> _Step | None:
        """Return what has to be added for a change that is seen by a pass; None for nothing."""
        if number:
            return self._step_of_coarser(change, tracks)
        begun, ended = change.begun, change.ended
        is_hard = change.is_set_back
        if self._is_merged:
            # The other pass matters where this one did not look, and the end of the period.
            is_hard = not change.is_short or ended >= self._ended
            if change.before is None:
                begun = self._sure_before(tracks, ended - self._margin - 1)
            if change.after is None:
                ended = self._sure_after(tracks, begun + self._margin + 1)
        if not is_hard:
            return self._simple_step(change, number=0)
        return _Step(max(begun, self._begun), min(ended, self._ended), None)

    def _step_of_coarser(self, change: _Change, tracks: Sequence[_Track]) -> _Step | None:
        """Return what has to be added for a change that only the coarser pass saw."""
        first = change.ended if change.before is None else change.begun
        last = change.begun if change.after is None else change.ended
        low, high = first - self._margin, last + self._margin
        if tracks[0].looked_through(low, high):
            return None
        is_inside = self._begun <= first and last < self._ended
        if not tracks[0].looked_in(low, high) and is_inside and not change.is_set_back:
            return None if change.before is None else self._simple_step(change, number=1)
        begun, ended = self._sure_before(tracks, low), self._sure_after(tracks, high)
        return _Step(max(begun, self._begun), min(ended, self._ended), None)

    def _simple_step(self, change: _Change, number: int) -> _Step:
        """Return the step of a change that depends on one pass alone."""
        stay = change.before
        begun, ended = max(change.begun, self._begun), min(change.ended, self._ended)
        if stay is None:
            return _Step(begun, ended, ())
        over = ended
        if not change.is_short:
            period = self._streams[number].periods[stay.last_run]
            over = min(stay.last + period, self._ended)
        doubt = over - begun
        if change.after is None:
            ended = over
            # What lasts up to the end of the period has nothing after it.
            doubt = doubt if over < self._ended else 0
        elif change.is_short and (stay.state == HEALTHY) == (change.after.state == HEALTHY):
            doubt = 0
        if over <= begun:
            return _Step(begun, ended, ())
        return _Step(begun, ended, (_Part(begun, over, stay.state, 0, doubt),))

    def _sure_before(self, tracks: Sequence[_Track], time: int) -> int:
        """Return the last time before this one at which the state is beyond doubt."""
        finest, coarser = tracks
        sights = [finest.sight_before(time), coarser.sight_before(time)]
        if finest.looked_in(sights[1] - self._margin, sights[1] + self._margin):
            del sights[1]
        return max(self._begun, *sights)

    def _sure_after(self, tracks: Sequence[_Track], time: int) -> int:
        """Return the first time after this one at which the state is beyond doubt."""
        finest, coarser = tracks
        sights = [finest.sight_after(time), coarser.sight_after(time)]
        if finest.looked_in(sights[1] - self._margin, sights[1] + self._margin):
            del sights[1]
        return min(self._ended, *sights)


class _Stream:
    """What one pass recorded, in integers."""

    def __init__(self, coverage: Coverage) -> None:
        self.coverage = coverage
        self.now = _us(coverage.now)
        self.is_regular = all(period_s > 0 for period_s in coverage.periods.values())
        self.is_set_back = any(epoch.number for epoch in coverage.covers)
        self.begins: dict[Epoch, list[int]] = {}
        self.lasts: dict[Epoch, list[int]] = {}
        self._cuts: dict[Epoch, list[int]] = {}
        for epoch, covers in coverage.covers.items():
            self.begins[epoch] = [_us(cover.begun) for cover in covers]
            self.lasts[epoch] = [_us(cover.last_at) for cover in covers]
            self._cuts[epoch] = [_us(cover.last_at) for cover in covers if cover.is_cut]
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
        """Return the number of the cover at a time; -1 if passes did not look then."""
        number = bisect_right(self.begins[epoch], time) - 1
        if number >= 0 and time <= self.lasts[epoch][number]:
            return number
        return -1

    def is_cut(self, epoch: Epoch, begun: int, ended: int) -> bool:
        """Return whether a blind pass was between two sights."""
        cuts = self._cuts[epoch]
        number = bisect_left(cuts, begun)
        return number < len(cuts) and cuts[number] < ended

    def sight_before(self, epoch: Epoch, time: int) -> int:
        """Return the last time at which passes looked, at the latest the given one."""
        number = bisect_right(self.begins[epoch], time) - 1
        return min(time, self.lasts[epoch][number]) if number >= 0 else -NEVER

    def sight_after(self, epoch: Epoch, time: int) -> int:
        """Return the first time at which passes looked, at the earliest the given one."""
        number = bisect_left(self.lasts[epoch], time)
        if number == len(self.lasts[epoch]):
            return NEVER
        return max(time, self.begins[epoch][number])

    def whole_span(self, stay: _Stay | None) -> list[Span]:
        """Return the span of a service that always was in the state of a stay."""
        if stay is None:
            return []
        first_at = self.coverage.covers[stay.epoch][0].begun
        run = self._first_runs[stay.epoch]
        return [stay.span._replace(first_at=first_at, run=run, last_at=None, last_run=None)]


class _Track:
    """The stays of one service in one stream, in order, and the changes between them.

    Raises _OddRowsError for rows that no pass writes.
    """

    def __init__(self, stream: _Stream, spans: Sequence[Span]) -> None:
        self._stream = stream
        self._spans = spans
        stays = [_stay(stream, span) for span in spans if span.run in stream.coverage.epochs]
        if stream.is_set_back:
            stays = _visible(stream, stays)
        self._stays = stays
        self._firsts = [stay.first for stay in stays]
        if self._firsts and self._firsts[-1] > stream.now:
            # A clock was set back. The timeline leaves out what was recorded for a time after now.
            raise _OddRowsError
        self._stretches: list[int] = []
        self._switches: list[int] = []
        self.changes: list[_Change] = []
        before = None
        for stay in stays:
            self._enter(before, stay)
            before = stay
        if before is not None and before.last < NEVER:
            self._switches.append(before.last)
            self.changes.append(_Change(before.last, NEVER, before, None))

    def _enter(self, before: _Stay | None, stay: _Stay) -> None:
        """Add the change to a stay."""
        if before is None:
            self._stretches.append(0)
            if stay.first == self._stream.begins[stay.epoch][0]:
                # The common timeline begins at the same time.
                self._switches.append(-NEVER)
                return
            self._switches.append(stay.first)
            self.changes.append(_Change(-NEVER, stay.first, None, stay))
            return
        if before.last >= stay.first:
            raise _OddRowsError
        is_set_back = before.epoch.number != stay.epoch.number
        is_short = not is_set_back and self._is_short(before, stay)
        self._stretches.append(self._stretches[-1] + (not is_short))
        self._switches.append(before.last)
        change = _Change(
            begun=before.last,
            ended=stay.first,
            before=before,
            after=stay,
            is_short=is_short,
            is_set_back=is_set_back,
        )
        self.changes.append(change)

    def _is_short(self, before: _Stay, stay: _Stay) -> bool:
        """Return whether the state of a stay counts up to the next stay."""
        stream = self._stream
        gap = stay.first - before.last
        if stream.is_cut(before.epoch, before.last, stay.first):
            return gap <= stream.periods[before.last_run]
        return gap <= max(stream.patience[before.last_run], stream.patience[stay.span.run])

    def stay_at(self, time: int) -> _Stay | None:
        """Return the stay from whose timeline a time is taken; None if there is none."""
        number = bisect_right(self._switches, time) - 1
        return self._stays[number] if 0 <= number < len(self._stays) else None

    def next_switch(self, time: int) -> int:
        """Return when the next stay counts."""
        number = bisect_right(self._switches, time)
        return self._switches[number] if number < len(self._switches) else NEVER

    def sight_before(self, time: int) -> int:
        """Return the last sight up to a time; -NEVER if there is none."""
        number = bisect_right(self._firsts, time) - 1
        if number < 0:
            return -NEVER
        stay = self._stays[number]
        return self._stream.sight_before(stay.epoch, min(time, stay.last))

    def sight_after(self, time: int) -> int:
        """Return the first sight from a time on; NEVER if there is none."""
        number = bisect_right(self._firsts, time)
        if number:
            stay = self._stays[number - 1]
            sight = self._stream.sight_after(stay.epoch, time)
            if sight <= stay.last and sight < NEVER:
                return sight
        return self._firsts[number] if number < len(self._firsts) else NEVER

    def looked_in(self, begun: int, ended: int) -> bool:
        """Return whether there was a sight between two times."""
        return self.sight_after(begun) <= ended

    def looked_through(self, begun: int, ended: int) -> bool:
        """Return whether passes saw the service all the time between two times."""
        first = bisect_right(self._firsts, begun) - 1
        last = bisect_right(self._firsts, ended) - 1
        if first < 0 or self._stretches[first] != self._stretches[last]:
            return False
        epoch = self._stays[first].epoch
        if epoch != self._stays[last].epoch or not self._is_followed(last, ended):
            return False
        number = self._stream.cover_at(epoch, begun)
        return number >= 0 and number == self._stream.cover_at(epoch, ended)

    def _is_followed(self, number: int, time: int) -> bool:
        """Return whether a stay lasts up to a time, or the next one follows without a hole."""
        if time <= self._stays[number].last:
            return True
        following = self._stretches[number + 1 : number + 2]
        return following == [self._stretches[number]]

    def spans_between(self, begun: int, ended: int) -> Sequence[Span]:
        """Return the spans between two times, and those next to them."""
        if self._stream.is_set_back:
            # What a later epoch hides still ends what was before it.
            return self._spans
        start = max(0, bisect_right(self._firsts, begun) - 2)
        stop = bisect_right(self._firsts, ended) + 1
        return [stay.span for stay in self._stays[start:stop]]


def _stay(stream: _Stream, span: Span) -> _Stay:
    """Return the stay of a span. Its sights have to be in passes of its shard."""
    epoch = stream.coverage.epochs[span.run]
    first, last, last_run = _us(span.first_at), NEVER, span.run
    if stream.cover_at(epoch, first) < 0:
        raise _OddRowsError
    if span.last_at is not None:
        last = _us(span.last_at)
        if last < first or span.last_run not in stream.periods or stream.cover_at(epoch, last) < 0:
            raise _OddRowsError
        last_run = span.last_run
    # Another program may have written any word.
    state = span.state if span.state in STATES else UNKNOWN
    return _Stay(
        epoch=epoch,
        state=state,
        first=first,
        last=last,
        last_run=last_run,
        span=span,
    )


def _visible(stream: _Stream, stays: Sequence[_Stay]) -> list[_Stay]:
    """Return the stays without what was recorded before a clock was set back, for later times."""
    stays = sorted(stays, key=lambda stay: (stay.epoch.number, stay.first))
    epochs = {stay.epoch.number for stay in stays}
    if len(epochs) < 2:  # noqa: PLR2004
        return stays
    older = [stay for stay in stays if stay.epoch.number == min(epochs)]
    newer = stays[len(older) :]
    end = stream.lasts[newer[-1].epoch][-1]
    for stay in older:
        last = min(stay.last, stream.lasts[stay.epoch][-1])
        if last + stream.periods[stay.last_run] >= end:
            raise _OddRowsError
    if len(epochs) > 2 or newer[-1].last < NEVER:  # noqa: PLR2004
        raise _OddRowsError
    first = newer[0].first
    older = [stay for stay in older if stay.first < first]
    if older:
        last = min(older[-1].last, stream.sight_before(older[-1].epoch, first - 1))
        older[-1] = older[-1]._replace(last=last)
    return older + newer


class _Common:
    """The common timeline of services in one state, with running sums if the state is healthy."""

    def __init__(self, parts: Sequence[_Part], edges: Sequence[int]) -> None:
        """``edges`` are those of the buckets."""
        self.parts = parts
        self.is_healthy = all(part.state in {HEALTHY, UNSEEN} for part in parts)
        self._begins = [part.begun for part in parts]
        self._lengths = [part.ended - part.begun if part.state == HEALTHY else 0 for part in parts]
        doubts = [min(part.left + part.right, part.ended - part.begun) for part in parts]
        self._healthy = list(accumulate(self._lengths, initial=0))
        self._doubts = list(accumulate(doubts, initial=0))
        self.at_edges = [self.healthy_at(edge)[0] for edge in edges]
        self.in_buckets = [after - before for before, after in pairwise(self.at_edges)]

    def healthy_at(self, time: int) -> tuple[int, int]:
        """Return the healthy time up to a time, and the doubts in it."""
        number = bisect_right(self._begins, time) - 1
        within = min(time - self._begins[number], self._lengths[number])
        doubts = self._doubts[number + (time >= self.parts[-1].ended)]
        return self._healthy[number] + within, doubts


class _Tally:
    """The sums of one service. What is added has to be in the order of time."""

    def __init__(self, edges: Sequence[int]) -> None:
        """``edges`` are those of the buckets; one edge if there are none."""
        self._edges = edges
        self._seconds = dict.fromkeys(STATES, 0)
        self._doubts_up = self._doubts_down = 0
        self._healthy = [0] * (len(edges) - 1)
        self._worst = [0] * (len(edges) - 1)
        self._outages = self._longest = 0
        # The length of the outage that no healthy time has ended yet; 0 if there is none.
        self._outage = 0

    def add(self, parts: Sequence[_Part], begun: int, ended: int) -> None:
        """Add the parts between two times."""
        # Most steps have one part.
        start = bisect_right(parts, begun, key=_ended) if len(parts) > 1 else 0
        for part in parts[start:]:
            if part.begun >= ended:
                break
            if part.state != UNSEEN:
                self._add_part(part, begun, ended)

    def _add_part(self, part: _Part, begun: int, ended: int) -> None:
        first, last = max(part.begun, begun), min(part.ended, ended)
        doubt = 0
        if part.begun >= begun:
            doubt += part.left
        if part.ended <= ended:
            doubt += part.right
        doubt = min(doubt, part.ended - part.begun)
        self._seconds[part.state] += last - first
        if part.state == HEALTHY:
            self._doubts_up += doubt
        else:
            self._doubts_down += doubt
        if last > first:
            self._add_outage(part.state, last - first)
        self._add_to_buckets(part.state, first, last)

    def _add_outage(self, state: str, length: int) -> None:
        """Count an outage, or make the last one longer: unseen time does not end it."""
        if state == HEALTHY:
            self._outage = 0
            return
        if not self._outage:
            self._outages += 1
        self._outage += length
        self._longest = max(self._longest, self._outage)

    def _add_to_buckets(self, state: str, begun: int, ended: int) -> None:
        edges = self._edges
        number = bisect_right(edges, begun) - 1
        rank = BADNESS.get(state, 0)
        while number < len(self._healthy) and edges[number] < ended:
            if rank:
                self._worst[number] = max(self._worst[number], rank)
            else:
                length = min(ended, edges[number + 1]) - max(begun, edges[number])
                self._healthy[number] += length
            number += 1

    def add_common(self, common: _Common, begun: int, ended: int) -> None:
        """Add a common timeline of healthy services between two times."""
        healthy, doubts = common.healthy_at(begun)
        healthy_then, doubts_then = common.healthy_at(ended)
        self._seconds[HEALTHY] += healthy_then - healthy
        if healthy_then > healthy:
            self._outage = 0
        self._doubts_up += doubts_then - doubts
        if not self._healthy:
            return
        first = bisect_right(self._edges, begun) - 1
        last = min(bisect_right(self._edges, ended) - 1, len(self._healthy) - 1)
        if first == last:
            self._healthy[first] += healthy_then - healthy
            return
        self._healthy[first] += common.at_edges[first + 1] - healthy
        self._healthy[first + 1 : last] = common.in_buckets[first + 1 : last]
        self._healthy[last] += healthy_then - common.at_edges[last]

    def summary(self, total: int) -> Summary:
        """Return the sums of a period that is so long."""
        return Summary(
            availability=self._availability(total),
            states=[self._state(number) for number in range(len(self._healthy))],
            outages=self._outages,
            longest_s=self._longest / SECOND,
        )

    def _state(self, number: int) -> str:
        """Return the state of a bucket."""
        length = self._edges[number + 1] - self._edges[number]
        healthy = self._healthy[number]
        if self._worst[number] or (healthy and 2 * healthy >= length):
            return NAMES[self._worst[number]]
        return UNSEEN

    def _availability(self, total: int) -> Availability:
        seen = sum(self._seconds.values())
        seconds = {state: length / SECOND for state, length in self._seconds.items()}
        seconds[UNSEEN] = (total - seen) / SECOND
        if not seen:
            return Availability(seconds, None, None, None, 0.0)
        healthy = self._seconds[HEALTHY]
        return Availability(
            seconds=seconds,
            value=healthy / seen,
            least=(healthy - self._doubts_up) / seen,
            most=(healthy + self._doubts_down) / seen,
            coverage=seen / total,
        )


def _parts(pieces: Iterable[Piece]) -> list[_Part]:
    """Return pieces in integers."""
    parts = []
    before = None
    for piece in pieces:
        left, right = timeline.doubts(piece, before)
        parts.append(
            _Part(
                begun=_us(piece.begun),
                ended=_us(piece.ended),
                state=piece.state,
                left=left // MICROSECOND,
                right=right // MICROSECOND,
            )
        )
        before = piece.state
    return parts


_ended = attrgetter("ended")
_step_begun = attrgetter("begun")


def _us(time: datetime) -> int:
    """Return a time as microseconds since 1970."""
    since = time - EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def _time(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)
