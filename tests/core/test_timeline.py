"""Timelines: the state of a service at any time, and its bounds."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ops_worker.core.ledger import Run, Span
from ops_worker.core.timeline import Coverage, availability, bucket_states
from tests.recorder import Recorder, at, recorded, sight

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
pytestmark = pytest.mark.unit

EXAMPLES = 1000 if os.environ.get("OPS_TEST_FULL") else 100
STATES = ("healthy", "degraded", "down", "unknown")


class Pass(NamedTuple):
    """A pass of the full record: its time, its period, and the state of each service.

    ``is_blind`` is whether a blind pass followed it.
    """

    second: int
    period_s: int
    states: dict[str, str]
    is_blind: bool = False


def patience_s(period_s: int, other_period_s: int) -> int:
    """Return the patience between two passes: three periods, at least 90 s."""
    return max(3 * period_s, 3 * other_period_s, 90)


def looked_up(record: list[Pass], service: str, second: int, now: int) -> str:
    """Return the state of a service at a second, by the record of every pass."""
    last = max((p for p in record if service in p.states and p.second <= second), default=None)
    if last is None or second >= now:
        return "unseen"
    after = min((p for p in record if service in p.states and p.second > second), default=None)
    if after is not None:
        # A change of the period or a hole also begins a run. Then it makes no difference that a
        # blind pass ended the run before.
        between = [p for p in record if last.second <= p.second <= after.second]
        is_cut = any(
            p.is_blind
            and p.period_s == q.period_s
            and q.second - p.second <= patience_s(p.period_s, q.period_s)
            for p, q in pairwise(between)
        )
        near = not is_cut and after.second - last.second <= patience_s(
            last.period_s, after.period_s
        )
        return last.states[service] if near or second < last.second + last.period_s else "unseen"
    is_newest = last == max(record)
    near = is_newest and now - last.second <= patience_s(last.period_s, last.period_s)
    return last.states[service] if near or second < last.second + last.period_s else "unseen"


def edges(record: list[Pass], now: int) -> set[int]:
    """Return the seconds at which a state may change. Between two of them, no state changes."""
    return {now, *(p.second for p in record), *(p.second + p.period_s for p in record)}


GROUPS = ("", "a", "b", "c", "ab", "ac", "bc")
"""The services that change or are left out: at most two."""
CHOICES = 7
"""A pass takes at most this number of choices, of one byte each."""


@st.composite
def histories(draw: st.DrawFn) -> list[Pass]:
    """Draw a history: passes with holes, other periods, services left out, states that change.

    All choices are drawn at once, because separate draws take longer than the test.
    """
    number = draw(st.integers(1, 25))
    choices = iter(draw(st.binary(min_size=CHOICES * number, max_size=CHOICES * number)))

    def choose(options: Sequence[T]) -> T:
        return options[next(choices) % len(options)]

    record = []
    second = 0
    period_s = 60
    states = dict.fromkeys("abc", "healthy")
    for _ in range(number):
        second += choose([period_s, period_s, period_s, period_s + 7, 95, 181, 600])
        period_s = choose([60, 60, 60, 60, 20])
        for service in choose(GROUPS):
            states[service] = choose(STATES)
        left_out = choose(["", "", "", "", *GROUPS])
        seen_states = {name: state for name, state in states.items() if name not in left_out}
        is_blind = choose([False, False, False, True])
        record.append(Pass(second, period_s, seen_states, is_blind))
    return record


BLIND_LATER = [
    Pass(60, 20, {"a": "healthy", "b": "healthy"}),
    Pass(155, 20, {"b": "healthy"}),
    Pass(175, 60, {"b": "healthy"}, is_blind=True),
    Pass(235, 60, {"a": "healthy", "b": "healthy"}),
]
"""A service is left out after a hole, and a blind pass follows before it is seen again."""


@given(histories(), st.integers(0, 700))
@example(BLIND_LATER, 0)
@settings(max_examples=EXAMPLES)
def test_equals_the_record_of_every_pass(record: list[Pass], later: int) -> None:
    """For each second, the ledger and a record of every pass give the same state."""
    ledger = Recorder()
    for recorded_pass in record:
        sights = [
            sight(name, recorded_pass.second, state) for name, state in recorded_pass.states.items()
        ]
        ledger.record(sights, recorded_pass.period_s)
        if recorded_pass.is_blind:
            ledger.end_run()
    now = record[-1].second + later
    moments = sorted(second for second in {0, *edges(record, now)} if second < now + 100)
    for service in sorted({name for recorded_pass in record for name in recorded_pass.states}):
        pieces = ledger.timeline(service, 0, now + 100, now)
        assert pieces[0][1] == 0
        assert pieces[-1][2] == now + 100
        for (_, _, ended), (_, begun, _) in pairwise(pieces):
            assert ended == begun
        for second in moments:
            (state,) = {s for s, begun, ended in pieces if begun <= second < ended}
            assert state == looked_up(record, service, second, now), second


def summed(ledger: Recorder, since: float, until: float, now: float) -> tuple[object, ...]:
    """Return the seconds of each state, and the availability with bounds, as healthy seconds."""
    pieces = ledger.pieces("a", since, until, now)
    total = availability(pieces)
    seconds = {state: length for state, length in total.seconds.items() if length}
    seen_s = sum(length for state, length in seconds.items() if state != "unseen")
    bounds = (total.least, total.value, total.most)
    return (
        seconds,
        *(None if share is None else round(share * seen_s, 6) for share in bounds),
        round(total.coverage, 6),
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
        (  # an outage of one pass lasts one period: at least almost 0, at most two periods
            [(0, "healthy"), (60, "down"), (120, "healthy")],
            (0, 120, 120),
            ({"healthy": 60, "down": 60}, 0, 60, 120, 1.0),
        ),
        (  # a change between two kinds of down does not change the availability
            [(0, "down"), (60, "unknown"), (120, "unknown")],
            (0, 120, 120),
            ({"down": 60, "unknown": 60}, 0, 0, 0, 1.0),
        ),
        (  # a change may be before the end of the period, although its sight is after it
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
    """An availability has the seconds of each state, the healthy seconds and the coverage.

    The healthy seconds have bounds.
    """
    assert summed(recorded(*states), *period) == expected


def test_bounds_of_a_piece() -> None:
    """An outage began after the last sight of health, and ended before the next one."""
    ledger = recorded((0, "healthy"), (60, "down"), (120, "down"), (180, "healthy"))
    pieces = ledger.pieces("a", 0, 200, 200)
    outage = pieces[1]
    assert (outage.begun, outage.ended) == (at(60), at(180))
    assert (outage.from_earliest, outage.last_seen, outage.to_latest) == (at(0), at(120), at(180))


def test_clock_set_back() -> None:
    """Runs from the future do not change. The row that was written last counts."""
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


def test_span_without_its_run() -> None:
    """A span whose run was removed ends at its first sight, and is in no timeline."""
    ledger = Recorder()
    ledger.spans = [Span(0, "a", "down", "down", "", at(0), 1, 77)]
    ledger.record([sight("a", 60, "healthy")])
    assert (ledger.spans[0].last_at, ledger.spans[0].last_run) == (at(0), 77)
    assert ledger.timeline("a", 0, 70, 70) == [("unseen", 0, 60), ("healthy", 60, 70)]


SECONDS = st.integers(0, 600)
DAMAGED_RUN = st.tuples(
    SECONDS, st.sampled_from([0, 60, 300]), st.sampled_from([0, 20, 60]), st.sampled_from("abc")
)
"""The first sight, the length, the period (0 is damaged) and the shard of a run."""
DAMAGED_SPAN = st.tuples(
    SECONDS, st.none() | SECONDS, st.integers(1, 6), st.sampled_from(["healthy", "down", "odd"])
)
"""The first and the last sight, the run and the state of a span."""


@settings(max_examples=EXAMPLES)
@given(
    st.lists(DAMAGED_RUN, min_size=1, max_size=5),
    st.lists(DAMAGED_SPAN, min_size=1, max_size=6),
    st.sampled_from([300, 900]),
)
@example(runs=[(0, 300, 60, "a")], spans=[(0, 120, 1, "healthy"), (180, 10, 1, "down")], now=900)
@example(
    runs=[(0, 300, 0, "a"), (60, 0, 0, "b")],
    spans=[(0, 300, 1, "healthy"), (60, 60, 2, "down")],
    now=900,
)
def test_damaged_rows(
    runs: list[tuple[int, int, int, str]],
    spans: list[tuple[int, int | None, int, str]],
    now: int,
) -> None:
    """Whatever rows the ledger has, a timeline is found, and it has no gap."""
    coverage = Coverage(
        [
            Run(
                id=number,
                period_s=period_s,
                config="",
                first_at=at(second),
                last_at=at(second + length),
                passes=1,
                shard=shard,
            )
            for number, (second, length, period_s, shard) in enumerate(runs, 1)
        ],
        at(now),
    )
    pieces = coverage.timeline(
        [
            Span(
                id=number,
                service="a",
                state=state,
                reason_class="",
                reason="",
                first_at=at(first),
                first_no=1,
                run=run,
                last_at=None if last is None else at(last),
            )
            for number, (first, last, run, state) in enumerate(spans, 1)
        ],
        at(0),
        at(now),
    )
    assert [piece.begun for piece in pieces] == [at(0), *(piece.ended for piece in pieces[:-1])]
    assert pieces[-1].ended == at(now)
    assert all(piece.begun <= piece.ended for piece in pieces)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], ["unseen"] * 3),
        (  # an outage of one pass is seen, however long the bucket is
            [*((second, "healthy") for second in range(0, 900, 60)), (900, "down")],
            ["healthy", "healthy", "healthy"],
        ),
        (
            [(0, "healthy"), (60, "down"), (120, "healthy"), (180, "healthy"), (240, "healthy")],
            ["down", "unseen", "unseen"],
        ),
        (  # down is worse than unknown, which is worse than degraded
            [(0, "degraded"), (60, "down"), (120, "unknown"), (180, "unknown"), (240, "unknown"),
             (300, "unknown"), (360, "degraded"), (420, "degraded"), (480, "degraded"),
             (540, "degraded"), (600, "degraded"), (660, "healthy")],
            ["down", "unknown", "degraded"],
        ),
        ([(0, "healthy"), (60, "healthy"), (90, "healthy")], ["healthy", "unseen", "unseen"]),
        ([(0, "healthy"), (60, "healthy"), (89, "healthy")], ["unseen", "unseen", "unseen"]),
        ([(0, "healthy"), (899, "degraded")], ["unseen", "unseen", "degraded"]),
    ],
)  # fmt: skip
def test_bucket_states(states: list[tuple[int, str]], expected: list[str]) -> None:
    """The worst state counts. Health has to be seen for half of a bucket, here 150 of 300 s."""
    pieces = recorded(*states).pieces("a", 0, 900, 900)
    assert bucket_states(pieces, at(0), at(900), 3) == expected


WORSE = {"unseen": -1, "healthy": 0, "degraded": 1, "unknown": 2, "down": 3}


@given(histories(), st.integers(0, 700), st.integers(1, 60), st.integers(1, 7))
@settings(max_examples=EXAMPLES)
def test_bucket_states_equal_the_seconds(
    record: list[Pass], begun: int, length: int, number: int
) -> None:
    """Each bucket has the state that follows from its seconds, one by one."""
    ledger = Recorder()
    for recorded_pass in record:
        sights = [
            sight(name, recorded_pass.second, state) for name, state in recorded_pass.states.items()
        ]
        ledger.record(sights, recorded_pass.period_s)
        if recorded_pass.is_blind:
            ledger.end_run()
    now, ended = record[-1].second + 30, begun + length * number
    changes = edges(record, now)
    for service in "abc":
        pieces = ledger.pieces(service, begun, ended, now)
        state_of = {}
        state = ""
        for second in range(begun, ended):
            if second == begun or second in changes:
                state = looked_up(record, service, second, now)
            state_of[second] = state
        states = bucket_states(pieces, at(begun), at(ended), number)
        assert len(states) == number
        for place, state in enumerate(states):
            first = begun + place * length
            seconds = [state_of[second] for second in range(first, first + length)]
            expected = max(seconds, key=lambda state: WORSE[state])
            if expected == "healthy" and seconds.count("healthy") * 2 < length:
                expected = "unseen"
            assert state == expected


def test_shares_of_a_long_period() -> None:
    """Long unseen time does not reduce the precision: an always healthy service has exactly 1."""
    ledger = recorded(*((second + 0.123457, "healthy") for second in range(0, 600, 60)))
    total = availability(ledger.pieces("a", -315_360_000, 601, 601))
    assert (total.least, total.value, total.most) == (1, 1, 1)
