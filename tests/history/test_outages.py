"""Outages and days of a timeline."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops_worker.core.timeline import Piece, availability, bucket_states
from ops_worker.history.outages import Interval, Outage, days, outages, seconds_within, united
from tests.recorder import BEGUN, Recorder, at, recorded, sight

pytestmark = pytest.mark.unit

EXAMPLES = 1000 if os.environ.get("OPS_TEST_FULL") else 100
DAY_S = 86_400


def found(ledger: Recorder, until: float) -> list[tuple[str, float, float, float, float]]:
    """Return the outages of a service: worst state, begin, end, least and most length."""
    return [
        (
            one.state,
            (one.begun - BEGUN).total_seconds(),
            (one.ended - BEGUN).total_seconds(),
            one.least_s,
            one.most_s,
        )
        for one in outages(ledger.pieces("a", 0, until, until))
    ]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([(0, "healthy"), (60, "healthy")], []),
        (
            [(0, "healthy"), (60, "down"), (120, "healthy"), (180, "down"), (240, "healthy")],
            [("down", 60, 120, 0, 120), ("down", 180, 240, 0, 120)],
        ),
        (  # states that follow each other are one outage, and the worst one names it
            [(0, "healthy"), (60, "degraded"), (120, "down"), (180, "unknown"), (240, "healthy")],
            [("down", 60, 240, 120, 240)],
        ),
        (  # a time in which nobody looked ends it
            [(0, "down"), (60, "down"), (600, "down"), (660, "healthy")],
            [("down", 0, 120, 60, 600), ("down", 600, 660, 0, 600)],
        ),
        ([(0, "unknown")], [("unknown", 0, 70, 0, 70)]),
    ],
)
def test_outages(
    states: list[tuple[float, str]], expected: list[tuple[str, float, float, float, float]]
) -> None:
    """An outage is an unbroken time that is seen and not healthy; its length has bounds."""
    last = states[-1][0]
    assert found(recorded(*states), last + 70) == expected


def test_reason() -> None:
    """The reason is that of the longest part in the worst state."""

    def piece(state: str, reason: str, first: float, last: float) -> Piece:
        return Piece(state, reason, reason, at(first), at(last), at(first), at(first), at(last), at(last))  # fmt: skip

    pieces = [
        piece("down", "short", 0, 60),
        piece("degraded", "no", 60, 600),
        piece("down", "long", 600, 720),
    ]
    assert [one.reason for one in outages(pieces)] == ["long"]


@st.composite
def ledgers(draw: st.DrawFn) -> tuple[Recorder, int]:
    """Draw a ledger of several days, and the second of its end."""
    ledger = Recorder()
    second = draw(st.integers(0, DAY_S))
    for _ in range(draw(st.integers(1, 25))):
        state = draw(st.sampled_from(["healthy", "healthy", "degraded", "down", "unknown"]))
        ledger.record([sight("a", second, state)], 7200)
        second += draw(st.sampled_from([7200, 7200, 14_400, 30_000, 100_000]))
    return ledger, second


@given(ledgers(), st.integers(-2 * DAY_S, DAY_S), st.integers(1, 2 * DAY_S))
@settings(max_examples=EXAMPLES, deadline=None)
def test_days_add_up(drawn: tuple[Recorder, int], since: int, more: int) -> None:
    """Days have no gaps, begin at midnight in UTC, and add up to the sums of the period."""
    ledger, end = drawn
    until = end + more
    pieces = ledger.pieces("a", since, until, until)
    total = availability(pieces)
    all_days = days(pieces, at(since), at(until))
    assert (all_days[0].begun, all_days[-1].ended) == (at(since), at(until))
    for before, day in pairwise(all_days):
        assert before.ended == day.begun
        assert day.begun.time() == datetime.min.time()
    unhealthy_s = sum(total.seconds[state] for state in ("degraded", "down", "unknown"))
    assert sum(day.healthy_s for day in all_days) == pytest.approx(total.seconds["healthy"])
    assert sum(day.unhealthy_s for day in all_days) == pytest.approx(unhealthy_s)
    assert sum(day.unseen_s for day in all_days) == pytest.approx(total.seconds["unseen"])
    for day in all_days:
        length_s = (day.ended - day.begun).total_seconds()
        assert day.seen_s + day.unseen_s == pytest.approx(length_s)
        assert day.coverage == pytest.approx(day.seen_s / length_s)
        assert day.state == bucket_states(pieces, day.begun, day.ended, 1)[0]
        assert (day.availability is None) == (day.seen_s == 0)
        if day.availability is not None:
            assert day.availability == pytest.approx(day.healthy_s / day.seen_s)


@given(ledgers())
@settings(max_examples=EXAMPLES, deadline=None)
def test_outages_add_up(drawn: tuple[Recorder, int]) -> None:
    """Outages are the unhealthy time, each within its bounds."""
    ledger, until = drawn
    pieces = ledger.pieces("a", 0, until, until)
    total = availability(pieces)
    all_outages = outages(pieces)
    unhealthy_s = sum(total.seconds[state] for state in ("degraded", "down", "unknown"))
    assert sum(one.seconds for one in all_outages) == pytest.approx(unhealthy_s)
    for one in all_outages:
        assert 0 <= one.least_s <= one.seconds <= one.most_s


def test_days_of_another_zone() -> None:
    """Days are those of UTC, whatever the zone of the times."""
    zone = datetime(2026, 3, 1, tzinfo=UTC).astimezone().tzinfo
    pieces = recorded((0, "healthy")).pieces("a", 0, 2 * DAY_S, 60)
    since, until = (moment.astimezone(zone) for moment in (at(0), at(2 * DAY_S)))
    assert [f"{day.begun:%m-%d %H:%M %Z}" for day in days(pieces, since, until)] == [
        "03-01 00:00 UTC",
        "03-02 00:00 UTC",
    ]


def test_planned() -> None:
    """Times that overlap count once."""
    intervals = united(
        [Interval(at(300), at(400)), Interval(at(0), at(60)), Interval(at(350), at(500))]
    )
    assert intervals == [Interval(at(0), at(60)), Interval(at(300), at(500))]
    outage = Outage("down", "", at(30), at(310), 0.0, 280.0)
    assert seconds_within(outage, intervals) == 40
    assert seconds_within(outage._replace(begun=at(100), ended=at(200)), intervals) == 0
    assert outage.seconds == timedelta(seconds=280).total_seconds()
