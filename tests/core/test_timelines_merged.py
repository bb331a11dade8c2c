"""Timelines of two passes merged into one, and the sums and bounds of a timeline."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops_worker.core.ledger import Run, Span
from ops_worker.core.timeline import Coverage, Piece, availability, merged

pytestmark = pytest.mark.unit

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)
EXAMPLES = 1000 if os.environ.get("OPS_TEST_FULL") else 100
STATES = ("healthy", "degraded", "down", "unknown")
END = 3000
"""The last second of the period. It is also the time now."""


def at(seconds: float) -> datetime:
    """Return a time after the beginning."""
    return BEGUN + timedelta(seconds=seconds)


def second(time: datetime) -> float:
    """Return the seconds from the beginning to a time."""
    return (time - BEGUN).total_seconds()


def timeline(period_s: float, *sights: tuple[int, str], until: float = END) -> list[Piece]:
    """Return the timeline of a service with these states, seen by passes at these seconds."""
    runs, spans = ledger(period_s, *sights)
    return Coverage(runs, at(until)).timeline(spans, at(0), at(until))


def ledger(period_s: float, *sights: tuple[int, str]) -> tuple[list[Run], list[Span]]:
    """Return the rows of a service with these states, seen by passes at these seconds."""
    runs: list[Run] = []
    spans: list[Span] = []
    for number, (moment, state) in enumerate(sights, start=1):
        if runs and moment - second(runs[-1].last_at) <= max(3 * period_s, 90):
            runs[-1] = runs[-1]._replace(last_at=at(moment))
        else:
            runs.append(Run(len(runs) + 1, period_s, "c", at(moment), at(moment), 1))
        before = spans[-1] if spans else None
        if before is not None and before.state == state:
            spans[-1] = before._replace(last_at=at(moment), last_run=runs[-1].id)
            continue
        spans.append(
            Span(
                id=number,
                service="a",
                state=state,
                reason_class="" if state == "healthy" else state,
                reason="",
                first_at=at(moment),
                first_no=1,
                run=runs[-1].id,
                last_at=at(moment),
                last_no=1,
                last_run=runs[-1].id,
            )
        )
    if spans:
        spans[-1] = spans[-1]._replace(last_at=None, last_no=None, last_run=None)
    return runs, spans


def every(period_s: int, since: int, until: int, state: str = "healthy") -> list[tuple[int, str]]:
    """Return sights of one state."""
    return [(moment, state) for moment in range(since, until, period_s)]


NOTHING = timeline(60, until=600)
WELL_5 = timeline(5, *every(5, 0, 600), until=600)
WELL_60 = timeline(60, *every(60, 0, 600), until=600)
DOWN_60 = timeline(60, *every(60, 0, 600, "down"), until=600)
HOLE_5 = timeline(5, *every(5, 0, 105), *every(5, 400, 600), until=600)
"""The last sight before the hole is at 100 s."""
OUTAGE_60 = timeline(60, *every(60, 0, 180), (180, "down"), *every(60, 240, 600), until=600)
Bounds = tuple[str, float, float, float, float]


@pytest.mark.parametrize(
    ("finer", "coarser", "expected"),
    [
        (NOTHING, NOTHING, [("unseen", 0, 600, 0, 600)]),
        (NOTHING, WELL_60, [("healthy", 0, 600, 0, 600)]),
        (WELL_5, NOTHING, [("healthy", 0, 600, 0, 600)]),
        (WELL_5, DOWN_60, [("healthy", 0, 600, 0, 600)]),
        (  # neither pass has a sight: the time is unseen
            HOLE_5,
            NOTHING,
            [
                ("healthy", 0, 105, 0, 400),
                ("unseen", 105, 400, 105, 400),
                ("healthy", 400, 600, 100, 600),
            ],
        ),
        (HOLE_5, WELL_60, [("healthy", 0, 600, 0, 600)]),
        (  # an outage in the hole has the bounds of the pass that saw it
            HOLE_5,
            OUTAGE_60,
            [
                ("healthy", 0, 180, 0, 180),
                ("down", 180, 240, 120, 240),
                ("healthy", 240, 600, 180, 600),
            ],
        ),
        (  # the streams contradict each other, so the first sight after a cut is not known:
            # it is within three periods, and before the end of the part
            HOLE_5,
            DOWN_60,
            [
                ("healthy", 0, 105, 0, 285),
                ("down", 105, 400, 100, 400),
                ("healthy", 400, 600, 220, 600),
            ],
        ),
        (  # an outage that ended before the hole is not in it
            timeline(5, *every(5, 0, 100), *every(5, 200, 600), until=600),
            timeline(60, (0, "down"), until=600),
            [
                ("healthy", 0, 100, 0, 200),
                ("unseen", 100, 200, 100, 200),
                ("healthy", 200, 600, 95, 600),
            ],
        ),
        (  # a part without its own sight gives no bounds
            timeline(5, *every(5, 0, 30), *every(5, 200, 600), until=600),
            timeline(60, (0, "down"), until=600),
            [
                ("healthy", 0, 30, 0, 200),
                ("down", 30, 60, 25, 200),
                ("unseen", 60, 200, 60, 200),
                ("healthy", 200, 600, 25, 600),
            ],
        ),
        (  # the part that begins before the last sight, but within three periods of it
            timeline(5, *every(5, 0, 30), *every(5, 200, 600), until=600),
            timeline(60, (0, "down"), (60, "down"), until=600),
            [
                ("healthy", 0, 30, 0, 60),
                ("down", 30, 120, 25, 200),
                ("unseen", 120, 200, 120, 200),
                ("healthy", 200, 600, 60, 600),
            ],
        ),
        ([], WELL_60, []),
    ],
)
def test_merged(finer: list[Piece], coarser: list[Piece], expected: list[Bounds]) -> None:
    """Each piece has a state, begin, end, earliest begin and latest end."""
    assert [
        (
            piece.state,
            second(piece.begun),
            second(piece.ended),
            second(piece.from_earliest),
            second(piece.to_latest),
        )
        for piece in merged(finer, coarser)
    ] == expected


def test_availability_where_streams_contradict_each_other() -> None:
    """Between a cut and the first certain sight, the service may have had either state."""
    total = availability(merged(HOLE_5, DOWN_60))
    assert total.seconds["healthy"] == 305
    assert total.seconds["down"] == 295
    assert total.value == pytest.approx(305 / 600)
    assert total.least == pytest.approx(300 / 600), "the last sight before the hole is at 100 s"
    assert total.most == pytest.approx((305 + 295) / 600), "180 s at both ends: all of it"
    assert total.coverage == 1


def test_odd_state() -> None:
    """A state that no pass writes counts as unknown."""
    span = Span(1, "a", "sleepy", "", "", at(0), 1, 1)
    run = Run(1, 60, "c", at(0), at(60), 2)
    (piece,) = Coverage([run], at(60)).timeline([span], at(0), at(60))
    assert piece.state == "unknown"


@st.composite
def sights(draw: st.DrawFn, period_s: int) -> list[tuple[int, str]]:
    """Draw what a pass saw: states that change, and holes."""
    drawn: list[tuple[int, str]] = []
    moment = draw(st.integers(0, 200))
    while moment < END:
        state = draw(st.sampled_from(STATES))
        count = draw(st.integers(1, 20))
        for _ in range(count):
            if moment < END:
                drawn.append((moment, state))
            moment += period_s
        moment += draw(st.sampled_from([0, 0, 0, 97, 600]))
    return drawn


def state_at(pieces: list[Piece], time: datetime) -> str:
    """Return the state at a time."""
    (state,) = {piece.state for piece in pieces if piece.begun <= time < piece.ended}
    return state


@given(sights(20), sights(60))
@settings(max_examples=EXAMPLES)
def test_merged_is_the_choice_at_each_moment(
    fine: list[tuple[int, str]], coarse: list[tuple[int, str]]
) -> None:
    """The merged timeline has no gaps, adds up, and always has the state that the rule chooses."""
    finer, coarser = timeline(20, *fine), timeline(60, *coarse)
    pieces = merged(finer, coarser)
    assert (pieces[0].begun, pieces[-1].ended) == (at(0), at(END))
    for earlier, later in pairwise(pieces):
        assert earlier.ended == later.begun
        assert earlier.next_state == later.state
        assert (earlier.state, earlier.reason_class) != (later.state, later.reason_class)
    for piece in pieces:
        assert piece.from_earliest <= piece.begun <= piece.first_seen
        assert piece.last_seen <= piece.ended <= piece.to_latest
    # Between two edges of any of the three timelines, no state changes.
    for moment in {piece.begun for piece in (*finer, *coarser, *pieces)}:
        chosen = state_at(finer, moment)
        if chosen == "unseen":
            chosen = state_at(coarser, moment)
        assert state_at(pieces, moment) == chosen, moment
    total = availability(pieces)
    assert sum(total.seconds.values()) == END
    if total.value is not None:
        assert total.least is not None
        assert total.most is not None
        assert 0 <= total.least <= total.value <= total.most <= 1


@given(sights(20), st.integers(0, END - 1), st.integers(1, END))
@settings(max_examples=EXAMPLES)
def test_a_part_of_the_period(drawn: list[tuple[int, str]], since: int, length: int) -> None:
    """Rows that are left out for a shorter period do not change the timeline of that period."""
    coverage = Coverage(ledger(20, *drawn)[0], at(END))
    spans = ledger(20, *drawn)[1]
    until = min(since + length, END)

    def cut(time: datetime) -> float:
        """Cut a time at the edges of the period."""
        return max(since, min(second(time), until))

    def known(piece: Piece) -> tuple[object, ...]:
        """Return a piece, cut to the period."""
        times = (piece.begun, piece.ended, piece.from_earliest, piece.last_seen, piece.to_latest)
        return (piece.state, *map(cut, times))

    whole = coverage.timeline(spans, at(0), at(END))
    part = coverage.timeline(spans, at(since), at(until))
    inside = [piece for piece in whole if cut(piece.begun) < cut(piece.ended)]
    assert [known(piece) for piece in part] == [known(piece) for piece in inside]


@st.composite
def outages(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Draw true outages of a service, long enough and far enough apart for every pass to see."""
    drawn = []
    moment = draw(st.integers(200, 600))
    while moment < END - 500:
        length = draw(st.integers(200, 500))
        drawn.append((moment, moment + length))
        moment += length + draw(st.integers(200, 800))
    return drawn


@given(outages(), st.lists(st.tuples(st.integers(0, END), st.integers(0, 900)), max_size=3))
@settings(max_examples=EXAMPLES)
def test_the_truth_lies_within_the_bounds(
    truth: list[tuple[int, int]], holes: list[tuple[int, int]]
) -> None:
    """Every outage is found. Its first and last sight, and the bounds of the share, are true.

    The finer stream has holes. At the end of a hole, the coarser stream may be behind.
    """

    def sights_of(period_s: int, first: int) -> list[tuple[int, str]]:
        """Return the sights that passes have of the true outages."""
        return [
            (moment, "down" if any(b <= moment < e for b, e in truth) else "healthy")
            for moment in range(first, END, period_s)
        ]

    finer = [
        (moment, state)
        for moment, state in sights_of(20, 3)
        if not any(begun <= moment < begun + length for begun, length in holes)
    ]
    pieces = merged(timeline(20, *finer), timeline(60, *sights_of(60, 31)))
    down_pieces = [piece for piece in pieces if piece.state == "down"]
    for begun, ended in truth:
        around = [
            piece for piece in down_pieces if piece.begun < at(ended) and piece.ended > at(begun)
        ]
        assert second(around[0].from_earliest) <= begun
        assert second(around[-1].to_latest) >= ended
    for piece in down_pieces:
        if piece.first_seen <= piece.last_seen:
            first, last = second(piece.first_seen), second(piece.last_seen)
            assert any(begun <= first <= last < ended for begun, ended in truth)
    total = availability(pieces)
    assert total.least is not None
    assert total.most is not None
    seen_s = END - total.seconds["unseen"]
    true_s = seen_s - sum(ended - begun for begun, ended in truth)
    assert total.least * seen_s - 1e-6 <= true_s <= total.most * seen_s + 1e-6
