"""The ledger: what a pass records, and what a service was at any time."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops_worker.core.ledger import (
    Book,
    Run,
    Sight,
    Sighting,
    Span,
    digest_of,
)
from ops_worker.core.timeline import Coverage, Piece, availability

pytestmark = pytest.mark.unit

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)
EXAMPLES = 1000 if os.environ.get("OPS_TEST_FULL") else 100
STATES = ("healthy", "degraded", "down", "unknown")


def at(seconds: float) -> datetime:
    """Return a time after the beginning."""
    return BEGUN + timedelta(seconds=seconds)


class Recorder:
    """A ledger in memory, written by the rules alone, as the database would be."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.spans: list[Span] = []
        self.written = 0
        self.read = 0

    def record(
        self,
        sights: list[Sight],
        period_s: float = 60,
        config: str = "c",
        now: datetime | None = None,
    ) -> None:
        """Record a pass, in the way in which the adapter does it."""
        self.record_all([Sighting(at(0), tuple(sights), period_s, config)], now)

    def record_all(self, sightings: list[Sighting], now: datetime | None = None) -> None:
        """Record passes in one transaction."""
        newest = self.runs[-1] if self.runs else None
        latest = max((sight.at for seen in sightings for sight in seen.sights), default=at(0))
        book = Book(newest, self._open_spans, now or latest)
        for sighting in sightings:
            book.enter(sighting)
        numbers = {}
        for run in book.runs:
            if run.id > 0:
                self.runs[run.id - 1] = run
            else:
                self.runs.append(run._replace(id=len(self.runs) + 1))
                numbers[run.id] = len(self.runs)
        for span in book.ended:
            self.spans[span.id] = self._numbered(span, numbers)
        for span in book.begun:
            self.spans.append(self._numbered(span, numbers)._replace(id=len(self.spans)))
        self.written += len(book.ended) + len(book.begun)

    def _open_spans(self) -> list[Span]:
        self.read += 1
        return [span for span in self.spans if span.last_at is None]

    def _numbered(self, span: Span, numbers: dict[int, int]) -> Span:
        last = span.last_run
        return span._replace(
            run=numbers.get(span.run, span.run),
            last_run=None if last is None else numbers.get(last, last),
        )

    def pieces(self, service: str, since: float, until: float, now: float) -> list[Piece]:
        """Return a service's timeline."""
        spans = [span for span in self.spans if span.service == service]
        return Coverage(self.runs, at(now)).timeline(spans, at(since), at(until))

    def timeline(
        self, service: str, since: float, until: float, now: float
    ) -> list[tuple[str, float, float]]:
        """Return a service's timeline as state, begin and end in seconds."""
        return [
            (
                piece.state,
                (piece.begun - BEGUN).total_seconds(),
                (piece.ended - BEGUN).total_seconds(),
            )
            for piece in self.pieces(service, since, until, now)
        ]


def sight(service: str, seconds: float, state: str) -> Sight:
    """Return a sight; a state that is not healthy has a class of its name."""
    return Sight(service, at(seconds), state, "" if state == "healthy" else state)


class Pass(NamedTuple):
    """A pass of the full record: when, its period, and what it saw of each service."""

    second: int
    period_s: int
    states: dict[str, str]


def patience_s(one: int, other: int) -> int:
    """Return the seconds that may lie between two passes: three periods, at least 90 s."""
    return max(3 * one, 3 * other, 90)


def looked_up(record: list[Pass], service: str, second: int, now: int) -> str:
    """Return what a service was at a second, by the record of every pass."""
    last = max((p for p in record if service in p.states and p.second <= second), default=None)
    if last is None or second >= now:
        return "unseen"
    after = min((p for p in record if service in p.states and p.second > second), default=None)
    if after is not None:
        near = after.second - last.second <= patience_s(last.period_s, after.period_s)
        return last.states[service] if near or second < last.second + last.period_s else "unseen"
    is_newest = last == max(record)
    near = is_newest and now - last.second <= patience_s(last.period_s, last.period_s)
    return last.states[service] if near or second < last.second + last.period_s else "unseen"


@st.composite
def histories(draw: st.DrawFn) -> list[Pass]:
    """Draw a history: passes with holes, other periods, services left out, states that change."""
    record = []
    second = 0
    period_s = 60
    states = dict.fromkeys("abc", "healthy")
    for _ in range(draw(st.integers(1, 25))):
        second += draw(st.sampled_from([period_s, period_s, period_s, period_s + 7, 95, 181, 600]))
        period_s = draw(st.sampled_from([60, 60, 60, 60, 20]))
        for service in draw(st.sets(st.sampled_from("abc"), max_size=2)):
            states[service] = draw(st.sampled_from(STATES))
        left_out = draw(st.one_of(st.just(set()), st.sets(st.sampled_from("abc"), max_size=2)))
        seen = {name: state for name, state in states.items() if name not in left_out}
        record.append(Pass(second, period_s, seen))
    return record


@given(histories(), st.integers(0, 700))
@settings(max_examples=EXAMPLES, deadline=None)
def test_equals_the_record_of_every_pass(record: list[Pass], later: int) -> None:
    """The ledger knows of each second what a record of every pass knows of it."""
    ledger = Recorder()
    for one in record:
        sights = [sight(name, one.second, state) for name, state in one.states.items()]
        ledger.record(sights, one.period_s)
    now = record[-1].second + later
    changes = {0, now + 100}
    for one in record:
        changes |= {one.second, one.second + one.period_s}
    changes |= {now}
    for service in "abc":
        pieces = ledger.timeline(service, 0, now + 100, now)
        assert pieces[0][1] == 0
        assert pieces[-1][2] == now + 100
        for (_, _, ended), (_, begun, _) in pairwise(pieces):
            assert ended == begun
        for second in sorted(changes):
            if second >= now + 100:
                continue
            (state,) = {s for s, begun, ended in pieces if begun <= second < ended}
            assert state == looked_up(record, service, second, now), second


def recorded(*states: tuple[int, str]) -> Recorder:
    """Return a ledger of a service that was seen so, at these seconds, every 60 s."""
    ledger = Recorder()
    for second, state in states:
        ledger.record([sight("a", second, state)], 60)
    return ledger


def summed(ledger: Recorder, since: float, until: float, now: float) -> tuple[object, ...]:
    """Return seconds by state, and the value with its bounds in seconds of healthy time."""
    pieces = ledger.pieces("a", since, until, now)
    found = availability(pieces)
    seconds = {state: length for state, length in found.seconds.items() if length}
    seen_s = sum(length for state, length in seconds.items() if state != "unseen")
    bounds = (found.least, found.value, found.most)
    return (
        seconds,
        *(None if share is None else round(share * seen_s, 6) for share in bounds),
        round(found.coverage, 6),
    )


@pytest.mark.parametrize(
    ("states", "period", "expected"),
    [
        ([], (0, 100, 100), ({"unseen": 100}, None, None, None, 0.0)),
        ([(0, "healthy")], (0, 30, 30), ({"healthy": 30}, 30, 30, 30, 1.0)),
        (  # a single sight counts for a period; the end may have come right after it
            [(0, "healthy")],
            (0, 1000, 1000),
            ({"healthy": 60, "unseen": 940}, 0, 60, 60, 0.06),
        ),
        (  # an outage of one pass is one period, at least next to nothing and at most two
            [(0, "healthy"), (60, "down"), (120, "healthy")],
            (0, 120, 120),
            ({"healthy": 60, "down": 60}, 0, 60, 120, 1.0),
        ),
        (  # a change between two kinds of down is none of the availability
            [(0, "down"), (60, "unknown"), (120, "unknown")],
            (0, 120, 120),
            ({"down": 60, "unknown": 60}, 0, 0, 0, 1.0),
        ),
        (  # the true moment of a change may lie before the end of the period, its sight after it
            [(0, "healthy"), (60, "healthy"), (120, "down")],
            (0, 90, 120),
            ({"healthy": 90}, 60, 90, 90, 1.0),
        ),
        (  # down before a hole: it may have recovered right after its last sight
            [(0, "down"), (600, "healthy")],
            (0, 600, 600),
            ({"down": 60, "unseen": 540}, 0, 0, 60, 0.1),
        ),
    ],
)
def test_availability(
    states: list[tuple[int, str]], period: tuple[int, int, int], expected: tuple[object, ...]
) -> None:
    """Seconds of each state; healthy seconds at least, as seen, and at most; coverage."""
    assert summed(recorded(*states), *period) == expected


def test_bounds_of_a_piece() -> None:
    """An outage began after the last sight of health, and ended before the next one."""
    ledger = recorded((0, "healthy"), (60, "down"), (120, "down"), (180, "healthy"))
    pieces = ledger.pieces("a", 0, 200, 200)
    outage = pieces[1]
    assert (outage.begun, outage.ended) == (at(60), at(180))
    assert (outage.from_earliest, outage.last_seen, outage.to_latest) == (at(0), at(120), at(180))


def test_a_pass_without_change_writes_no_span() -> None:
    """Only a change of state or class writes spans, whatever the number of passes."""
    ledger = recorded(*((second, "healthy") for second in range(0, 6000, 60)))
    assert (len(ledger.runs), len(ledger.spans), ledger.written) == (1, 1, 1)
    assert ledger.runs[0].passes == 100


def test_a_hole_ends_a_run_and_no_span() -> None:
    """After a time in which nobody looked, one row is written for all services."""
    ledger = Recorder()
    for second in (0, 60, 5000):
        ledger.record([sight(name, second, "healthy") for name in ("a", "b", "c")], 60)
    assert [run.passes for run in ledger.runs] == [2, 1]
    assert ledger.written == 3


@pytest.mark.parametrize(
    ("period_s", "config", "second", "extends"),
    [
        (60, "c", 180, True),  # three periods
        (60, "c", 181, False),
        (20, "c", 60, False),  # another period
        (60, "d", 60, False),  # another configuration
    ],
)
def test_run(period_s: float, config: str, second: int, extends: bool) -> None:
    """A pass extends the newest run, or begins one with the number 1."""
    ledger = recorded((-60, "down"), (0, "down"))
    ledger.record([sight("a", second, "down")], period_s, config)
    run = ledger.runs[-1]
    assert (run.id, run.passes) == ((1, 3) if extends else (2, 1))
    assert run.last_at == at(second)
    assert run.first_at == (at(-60) if extends else at(second))
    assert len(ledger.spans) == 1


def test_run_without_services() -> None:
    """A pass without services counts with the time at which it began."""
    ledger = Recorder()
    ledger.record_all([Sighting(at(5), (), 60, "c"), Sighting(at(65), (), 60, "c")], at(70))
    (run,) = ledger.runs
    assert (run.first_at, run.last_at, run.passes) == (at(5), at(65), 2)


def test_spans_end_with_the_last_sight() -> None:
    """Of another state, and of a service that was left out, the previous pass saw the last."""
    ledger = Recorder()
    ledger.record([sight("early", second, "down") for second in (0,)])
    before = {"same": "down", "other": "down", "class": "down", "gone": "healthy"}
    for second in (60, 120):
        ledger.record([sight(name, second, state) for name, state in before.items()])
    ledger.record(
        [
            Sight("same", at(180), "down", "down", "another text"),
            Sight("other", at(180), "healthy"),
            Sight("class", at(180), "down", "name"),
            Sight("new", at(180), "healthy"),
        ]
    )
    ended = [span for span in ledger.spans if span.last_at == at(120)]
    assert [(span.service, span.last_no, span.last_run) for span in ended] == [
        ("other", 3, 1),
        ("class", 3, 1),
        ("gone", 3, 1),
    ]
    begun = [span.service for span in ledger.spans if span.first_no == 4]
    assert begun == ["other", "class", "new"]


def test_an_older_pass_changes_nothing() -> None:
    """Sights that are not newer than the newest run are left out, and their spans go on."""
    ledger = Recorder()
    ledger.record([sight("a", 60, "healthy"), sight("b", 60, "healthy")])
    ledger.record([sight("a", 59, "down"), sight("b", 60, "down")], now=at(70))
    assert (ledger.written, ledger.runs[0].passes) == (2, 1)
    ledger.record([sight("a", 59, "down"), sight("b", 61, "down")], now=at(70))
    open_spans = {span.service: span.state for span in ledger.spans if span.last_at is None}
    assert open_spans == {"a": "healthy", "b": "down"}
    assert ledger.runs[0].digest == "", "the next pass reads the spans"


def test_clock_set_back() -> None:
    """Runs from the future are left as they are; what was written last counts."""
    ledger = Recorder()
    for second in (0, 60, 7200, 7260):
        ledger.record([sight("a", second, "down")], now=at(second))
    for second in (3600, 3660, 3720):
        ledger.record([sight("a", second, "healthy")], now=at(second))
    assert [run.passes for run in ledger.runs] == [2, 2, 3]
    assert ledger.timeline("a", 0, 8000, 3730) == [
        ("down", 0, 120),
        ("unseen", 120, 3600),
        ("healthy", 3600, 3730),
        ("unseen", 3730, 8000),
    ]
    assert ledger.timeline("a", 3500, 8000, 9000) == [
        ("unseen", 3500, 3600),
        ("healthy", 3600, 3780),
        ("unseen", 3780, 7200),
        ("down", 7200, 7320),
        ("unseen", 7320, 8000),
    ]


def test_passes_of_one_transaction() -> None:
    """Passes that waited give the rows that they would have given one by one."""
    states = ["healthy", "down", "down", "healthy", "healthy"]
    seen = [[sight("a", 60 * n, state)] for n, state in enumerate(states)]
    seen.insert(3, [sight("a", 125, "down"), sight("b", 126, "down")])
    seen.append([sight("a", 5000, "down")])
    one_by_one, at_once = Recorder(), Recorder()
    for sights in seen:
        one_by_one.record(sights)
    at_once.record_all([Sighting(at(0), tuple(sights), 60, "c") for sights in seen])
    assert one_by_one.runs == at_once.runs

    def rows(ledger: Recorder) -> list[Span]:
        return sorted(span._replace(id=0) for span in ledger.spans)

    assert rows(one_by_one) == rows(at_once)


def test_nothing_is_read_when_nothing_changed() -> None:
    """A pass with the states of the pass before reads no spans, also after a hole."""
    ledger = recorded((0, "healthy"), (60, "healthy"), (6000, "healthy"))
    assert (ledger.read, len(ledger.runs)) == (1, 2)


def test_span_without_its_run() -> None:
    """A span whose run was removed ends at its first sight, and is in no timeline."""
    ledger = Recorder()
    ledger.spans = [Span(0, "a", "down", "down", "", at(0), 1, 77)]
    ledger.record([sight("a", 60, "healthy")])
    assert (ledger.spans[0].last_at, ledger.spans[0].last_run) == (at(0), 77)
    assert ledger.timeline("a", 0, 70, 70) == [("unseen", 0, 60), ("healthy", 60, 70)]


def test_digest() -> None:
    """The same states have the same digest, in any order; another state or class has another."""
    one, two = sight("a", 0, "healthy"), sight("b", 5, "down")
    same = digest_of([two._replace(at=at(9), reason="x"), one])
    assert digest_of([one, two]) == same
    assert digest_of([one, two._replace(reason_class="refused")]) != same
    assert digest_of([one]) != digest_of([])
