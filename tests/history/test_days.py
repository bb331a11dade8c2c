"""Days of a timeline, and the time under maintenance."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops_worker.core.timeline import availability, bucket_states
from ops_worker.history.days import Interval, days, seconds_within, united
from ops_worker.history.outages import is_unhealthy, outages
from tests.recorder import Recorder, at, recorded, sight

pytestmark = pytest.mark.unit

EXAMPLES = 1000 if os.environ.get("OPS_TEST_FULL") else 100
DAY_S = 86_400


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
@settings(max_examples=EXAMPLES)
def test_days_add_up(drawn: tuple[Recorder, int], since: int, more: int) -> None:
    """Days have no gaps, begin at midnight in UTC, and add up to the sums of the period."""
    ledger, end = drawn
    until = end + more
    since = min(since, until - 1)
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
@settings(max_examples=EXAMPLES)
def test_outages_add_up(drawn: tuple[Recorder, int]) -> None:
    """Outages add up to the unhealthy time. The length of each is within its bounds."""
    ledger, until = drawn
    pieces = ledger.pieces("a", 0, until, until)
    total = availability(pieces)
    all_outages = outages(pieces)
    unhealthy_s = sum(total.seconds[state] for state in ("degraded", "down", "unknown"))
    assert sum(outage.seconds for outage in all_outages) == pytest.approx(unhealthy_s)
    for outage in all_outages:
        assert 0 <= outage.least_s <= outage.seconds <= outage.most_s


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
    """Overlapping times count once."""
    intervals = united(
        [Interval(at(300), at(400)), Interval(at(0), at(60)), Interval(at(350), at(500))]
    )
    assert intervals == [Interval(at(0), at(60)), Interval(at(300), at(500))]
    (piece,) = filter(is_unhealthy, recorded((0, "down")).pieces("a", 0, 310, 310))
    piece = piece._replace(begun=at(30), ended=at(310))
    assert seconds_within(piece, intervals) == 40
    assert seconds_within(piece._replace(begun=at(100), ended=at(200)), intervals) == 0
