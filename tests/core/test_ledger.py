"""The ledger: what a pass records, and what a service was at any time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops_worker.core.ledger import (
    Run,
    Sight,
    Span,
    change_run,
    change_spans,
    covers,
    newer,
    timeline,
)

pytestmark = pytest.mark.unit

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)
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
@settings(max_examples=1000, deadline=None)
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
        for (_, _, ended), (_, begun, _) in zip(pieces, pieces[1:], strict=False):
            assert ended == begun
        for second in sorted(changes):
            if second >= now + 100:
                continue
            (state,) = {s for s, begun, ended in pieces if begun <= second < ended}
            assert state == looked_up(record, service, second, now), second
