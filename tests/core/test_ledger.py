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
    Ended,
    Run,
    Sight,
    Span,
    availability,
    change_run,
    change_spans,
    covers,
    digest_of,
    newer,
    timeline,
)

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

    def record(self, sights: list[Sight], period_s: float, config: str = "c") -> None:
        """Record a pass, in the way in which the adapter does it."""
        newest = self.runs[-1] if self.runs else None
        fresh = newer(sights, newest)
        if sights and not fresh:
            return
        change = change_run(newest, sights=fresh, begun=at(0), period_s=period_s, config=config)
        number = change.id if change.id is not None else len(self.runs) + 1
        run = Run(
            id=number,
            period_s=period_s,
            config=config,
            first_at=change.first_at,
            last_at=change.last_at,
            passes=change.passes,
            digest=change.digest,
        )
        if newest is None or newest.digest != change.digest:
            self._change_spans(fresh, newest, run)
        if change.id is None:
            self.runs.append(run)
        else:
            self.runs[-1] = run

    def _change_spans(self, sights: tuple[Sight, ...], newest: Run | None, run: Run) -> None:
        lasting = [span for span in self.spans if span.last_at is None]
        ended, begun = change_spans(lasting, sights, newest)
        for end in ended:
            self.spans[end.span] = self.spans[end.span]._replace(
                last_at=end.last_at, last_no=end.last_no, last_run=end.last_run
            )
        for sight in begun:
            self.spans.append(
                Span(
                    id=len(self.spans),
                    service=sight.service,
                    state=sight.state,
                    reason_class=sight.reason_class,
                    reason=sight.reason,
                    first_at=sight.at,
                    first_no=run.passes,
                    run=run.id,
                )
            )
        self.written += len(ended) + len(begun)

    def timeline(
        self, service: str, since: float, until: float, now: float
    ) -> list[tuple[str, float, float]]:
        """Return a service's timeline as state, begin and end in seconds."""
        known = covers(self.runs)
        spans = [(span, known) for span in self.spans if span.service == service]
        periods = {run.id: run.period_s for run in self.runs}
        pieces = timeline(spans, periods, since=at(since), until=at(until), now=at(now))
        return [
            (
                piece.state,
                (piece.begun - BEGUN).total_seconds(),
                (piece.ended - BEGUN).total_seconds(),
            )
            for piece in pieces
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
    spans = [(span, covers(ledger.runs)) for span in ledger.spans]
    periods = {run.id: run.period_s for run in ledger.runs}
    pieces = timeline(spans, periods, since=at(since), until=at(until), now=at(now))
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
    spans = [(span, covers(ledger.runs)) for span in ledger.spans]
    pieces = timeline(spans, {1: 60.0}, since=at(0), until=at(200), now=at(200))
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
    newest = Run(7, 60, "c", at(-60), at(0), 2)
    change = change_run(
        newest,
        sights=[sight("a", second, "down")],
        begun=at(second),
        period_s=period_s,
        config=config,
    )
    assert (change.id, change.passes) == ((7, 3) if extends else (None, 1))
    assert change.last_at == at(second)
    assert change.first_at == (at(-60) if extends else at(second))


def test_run_without_services() -> None:
    """A pass without targets counts with its beginning."""
    change = change_run(None, sights=[], begun=at(5), period_s=60, config="c")
    assert (change.id, change.first_at, change.last_at, change.passes) == (None, at(5), at(5), 1)


def test_spans_end_with_the_last_sight() -> None:
    """Of another state, and of a service that was left out, the previous pass saw the last."""
    previous = Run(3, 60, "c", at(0), at(120), 3)
    lasting = [
        Span(1, "same", "down", "refused", "", at(0), 1, 3),
        Span(2, "other", "down", "refused", "", at(60), 2, 3),
        Span(3, "class", "down", "refused", "", at(60), 2, 3),
        Span(4, "gone", "healthy", "", "", at(60), 2, 3),
    ]
    sights = [
        Sight("same", at(180), "down", "refused", "connection refused"),
        Sight("other", at(180), "healthy"),
        Sight("class", at(180), "down", "name"),
        Sight("new", at(180), "healthy"),
    ]
    changes = change_spans(lasting, sights, previous)
    assert changes.ended == tuple(Ended(span, at(120), 3, 3) for span in (2, 3, 4))
    assert [one.service for one in changes.begun] == ["other", "class", "new"]


def test_an_older_pass_changes_nothing() -> None:
    """Sights that are not newer than the newest run are left out."""
    newest = Run(1, 60, "c", at(0), at(60), 2)
    sights = [sight("a", 60, "down"), sight("b", 61, "down")]
    assert newer(sights, newest) == (sights[1],)
    assert newer(sights, None) == tuple(sights)


def test_digest() -> None:
    """The same states have the same digest, in any order; another state or class has another."""
    one, two = sight("a", 0, "healthy"), sight("b", 5, "down")
    same = digest_of([two._replace(at=at(9), reason="x"), one])
    assert digest_of([one, two]) == same
    assert digest_of([one, two._replace(reason_class="refused")]) != same
    assert digest_of([one]) != digest_of([])
