"""Fast sums equal the sums over the pieces of a timeline, whatever passes recorded."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ops_worker.core.ledger import UNSEEN, Run, Span
from ops_worker.core.timeline import Coverage, availability, bucket_states, merged
from ops_worker.core.totals import Totals
from tests.recorder import Recorder, at, sight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.core.timeline import Piece

pytestmark = pytest.mark.unit

EXAMPLES = 3000 if os.environ.get("OPS_TEST_FULL") else 100
UNHEALTHY = ("degraded", "down", "unknown")
Rows = tuple[list[Run], list[Span]]
NOTHING: Rows = ([], [])


class Block(NamedTuple):
    """Passes in a row: their number, their state, and the seconds after them.

    ``state`` is None if the passes leave the service out. Before the passes, the clock is set back
    by ``back_s``. ``is_blind`` says whether a blind pass followed.
    """

    passes: int
    state: str | None
    gap_s: int
    back_s: int
    is_blind: bool = False


def blocks(period_s: int) -> st.SearchStrategy[list[Block]]:
    """Draw the passes of a stream."""
    return st.lists(
        st.builds(
            Block,
            passes=st.sampled_from([1, 2, 3, 20, 40]),
            state=st.sampled_from(["healthy"] * 6 + [*UNHEALTHY, "down", None]),
            gap_s=st.sampled_from([0, 0, 0, 0, 7, period_s, 200, 700, 3000]),
            back_s=st.sampled_from([0] * 30 + [50, 1000, 4000]),
            is_blind=st.sampled_from([False, False, False, True]),
        ),
        min_size=1,
        max_size=9,
    )


def rows(
    drawn: Sequence[Block], period_s: int, begun: float = 0
) -> tuple[list[Run], list[Span], float]:
    """Return the rows that these passes record, and the second after the last pass."""
    ledger = Recorder()
    second = begun
    for block in drawn:
        second = max(0, second - block.back_s)
        for _ in range(block.passes):
            sights = [sight("b", second, "healthy")]
            if block.state is not None:
                sights.append(sight("a", second, block.state))
            ledger.record(sights, period_s, now=at(second))
            second += period_s
        if block.is_blind:
            ledger.end_run()
        second += block.gap_s
    return ledger.runs, [span for span in ledger.spans if span.service == "a"], second


def moved(first: Rows, second: Rows) -> Rows:
    """Return the rows of a service that moved to another shard."""
    runs = [run._replace(id=run.id + 1000, shard="0/2") for run in second[0]]
    spans = []
    for span in second[1]:
        last_run = None if span.last_run is None else span.last_run + 1000
        spans.append(span._replace(run=span.run + 1000, last_run=last_run))
    return [*first[0], *runs], [*first[1], *spans]


def outages(pieces: Sequence[Piece]) -> tuple[int, float]:
    """Return the number of outages, and the seconds of the longest one."""
    lengths: list[timedelta] = []
    is_open = False
    for piece in pieces:
        if piece.begun == piece.ended:
            continue  # where a clock was set back
        if piece.state in UNHEALTHY:
            if not is_open:
                lengths.append(timedelta())
            lengths[-1] += piece.ended - piece.begun
        if piece.state != UNSEEN:
            is_open = piece.state in UNHEALTHY
    return len(lengths), max(lengths, default=timedelta()).total_seconds()


def check(streams: Sequence[Rows], since: float, until: float, now: float, buckets: int) -> None:
    """The fast sums equal those over the pieces."""
    coverages = [Coverage(runs, at(now)) for runs, _ in streams]
    spans = [of_stream for _, of_stream in streams]
    fast = Totals(coverages, at(since), at(until), buckets=buckets).summary(spans)
    pieces, *others = [
        coverage.timeline(of_stream, at(since), at(until))
        for coverage, of_stream in zip(coverages, spans, strict=True)
    ]
    for other in others:
        pieces = merged(pieces, other)
    expected = availability(pieces)
    assert fast.availability.seconds == pytest.approx(expected.seconds, abs=1e-6)
    assert fast.availability[1:] == pytest.approx(expected[1:], abs=1e-9)
    if buckets:
        assert fast.states == bucket_states(pieces, at(since), at(until), buckets)
    assert (fast.outages, fast.longest_s) == outages(pieces)


periods = st.tuples(st.integers(0, 6000), st.integers(1, 6000), st.integers(0, 4))


RECORDED_FOR_LATER = [
    Block(passes=41, state="healthy", gap_s=0, back_s=0),
    Block(passes=1, state="degraded", gap_s=0, back_s=0),
    Block(passes=4, state="healthy", gap_s=0, back_s=0),
    Block(passes=40, state=None, gap_s=0, back_s=4000),
]
"""The clock was set back, so that a change of the state was recorded for a time after now."""


@given(blocks(60), periods, st.integers(0, 300))
@example(RECORDED_FOR_LATER, (0, 1, 0), 61)
@settings(max_examples=EXAMPLES)
def test_one_pass(drawn: list[Block], period: tuple[int, int, int], later: int) -> None:
    """The sums are right for the health pass alone, in a part of the time and in all of it."""
    runs, spans, second = rows(drawn, 60)
    now = max(1, second - 60 + later)
    since, length, buckets = period
    check([(runs, spans)], min(since, now - 1), min(since + length, now), now, buckets)
    check([(runs, spans)], -100, now, now, buckets + 3)


@given(blocks(20), blocks(60), periods, st.integers(0, 600))
@settings(max_examples=EXAMPLES)
def test_two_passes(
    finer: list[Block], coarser: list[Block], period: tuple[int, int, int], later: int
) -> None:
    """With both passes, the coarser one counts where the finer one saw nothing."""
    fine, coarse = rows(finer, 20), rows(coarser, 60)
    now = max(1, fine[2], coarse[2] - 60) + later
    since, length, buckets = period
    streams = [fine[:2], coarse[:2]]
    check(streams, min(since, now - 1), min(since + length, now), now, buckets)
    check(streams, -100, now, now, buckets + 3)


@given(blocks(20), blocks(20), blocks(60), st.integers(0, 600))
@settings(max_examples=EXAMPLES)
def test_two_shards(
    first: list[Block], second: list[Block], coarser: list[Block], later: int
) -> None:
    """The sums are right if the service moved to another shard, with or without a hole."""
    before = rows(first, 20)
    after = rows(second, 20, before[2])
    coarse = rows(coarser, 60)
    now = max(after[2], coarse[2]) + later
    fine = moved(before[:2], after[:2])
    check([fine], 0, now, now, 5)
    check([fine, coarse[:2]], 0, now, now, 5)


WELL = Block(20, "healthy", 0, 0)
DOWN = Block(3, "down", 0, 0)
HOLE = Block(20, "healthy", 3000, 0)
ABSENT = Block(5, None, 0, 0)
BACK = Block(20, "healthy", 0, 1000)


@pytest.mark.parametrize(
    "drawn",
    [
        [WELL, DOWN, WELL],
        [HOLE, DOWN, HOLE],
        [ABSENT, WELL, ABSENT],
        [WELL, ABSENT, DOWN],
        [WELL, Block(3, "degraded", 0, 0), DOWN, WELL],
        [WELL, Block(5, None, 0, 1000)],
        [WELL, ABSENT],
        [WELL, BACK, DOWN],
        [
            Block(1, "healthy", 0, 0),
            Block(1, None, 0, 0),
            Block(2, "healthy", 700, 0),
            Block(3, None, 0, 0),
            Block(4, "healthy", 0, 1000),
        ],
        [WELL, BACK, ABSENT],
        [WELL, BACK, BACK],
        [WELL, Block(5, "down", 0, 1190)],
        [ABSENT, WELL, Block(40, "down", 0, 1000), WELL],
        [Block(1, "down", 3000, 0)] * 4,
    ],
)
def test_histories(drawn: list[Block]) -> None:
    """The sums are right with holes, times without the service, and clocks that were set back."""
    fine, coarse = rows(drawn, 20), rows(drawn, 60)
    for now in (fine[2], coarse[2], coarse[2] + 500):
        check([coarse[:2]], 0, now, now, 4)
        check([coarse[:2]], min(now - 1, 2500), now, now, 4)
        check([fine[:2]], -30, now - 30, now, 4)
        for streams in ([fine[:2], coarse[:2]], [NOTHING, coarse[:2]], [fine[:2], NOTHING]):
            check(streams, -2000, now, now, 4)
            check(streams, min(100, now - 130), now - 100, now, 4)


@pytest.mark.parametrize("begun", [-20_000, -1000, -100, 0, 100, 1000])
def test_one_pass_is_late(begun: int) -> None:
    """The sums are right if the finer pass covers another time than the coarser one."""
    coarse = rows([WELL, DOWN, HOLE, DOWN, WELL, WELL], 60)
    fine = rows([WELL, ABSENT, HOLE, DOWN, WELL], 20, max(0, begun))
    streams = [fine[:2], coarse[:2]]
    now = max(fine[2], coarse[2]) + 100
    check(streams, begun, now, now, 6)
    later = rows([WELL, DOWN, HOLE, WELL], 60, max(0, -begun))
    now = max(fine[2], later[2]) + 100
    check([fine[:2], later[:2]], -100, now, now, 6)


@pytest.mark.parametrize("state", ["healthy", "down"])
def test_change_at_the_end(state: str) -> None:
    """The sums are right if the period ends at the first sight of the next state, in each pass."""
    fine = rows([Block(1, "healthy", 0, 0)], 20)
    coarse = rows([Block(1, state, 200, 0), Block(1, state, 0, 0), Block(1, "degraded", 0, 0)], 60)
    check([fine[:2], coarse[:2]], -100, 320, 320, 3)
    check([coarse[:2], NOTHING], -100, 320, 320, 3)
    check([coarse[:2]], -100, 320, 320, 3)


def odd(spans: list[Span], **fields: object) -> list[Span]:
    """Return the spans, the first one with other values."""
    return [spans[0]._replace(**fields), *spans[1:]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "sleepy"},
        {"run": 77},
        {"last_run": 77},
        {"last_run": None},
        {"first_at": at(-500)},
        {"last_at": at(-10)},
        {"last_at": at(2500)},
        {"last_at": at(90_000)},
        {"last_at": at(4000)},
        {"last_at": None},
    ],
)
def test_odd_rows(fields: dict[str, object]) -> None:
    """Rows of another program have the sums of their pieces."""
    runs, spans, second = rows([HOLE, DOWN, WELL], 60)
    for streams in ([(runs, odd(spans, **fields))], [NOTHING, (runs, odd(spans, **fields))]):
        check(streams, 0, second, second, 4)


def test_periods_that_are_odd() -> None:
    """The sums are right for a period that ends after now, and for passes without a period."""
    runs, spans, second = rows([WELL, DOWN, WELL], 60)
    check([(runs, spans)], 0, second + 500, second, 4)
    check([([run._replace(period_s=0) for run in runs], spans)], 0, second, second, 4)


def test_most_services_need_no_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces of a state are made once. The pieces of a service are made only around a hole."""
    calls = []
    timeline = Coverage.timeline

    def counted(self: Coverage, *period: Any) -> list[Piece]:
        """Count the timelines."""
        calls.append(period)
        return timeline(self, *period)

    runs, spans, second = rows([HOLE, WELL, DOWN, HOLE, DOWN, WELL], 60)
    totals = Totals([Coverage(runs, at(second))], at(0), at(second))
    monkeypatch.setattr(Coverage, "timeline", counted)
    for _ in range(3):
        totals.summary([spans])
    assert len(calls) == 2, "one timeline for healthy services, one for services that are down"
