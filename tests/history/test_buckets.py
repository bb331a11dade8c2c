"""Buckets of a period have no gaps. In a long period, they begin at whole hours or days."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from ops_worker.core.rollup import DAY, HOUR, LEVELS, floor
from ops_worker.history.buckets import LONG_S, VERY_LONG_S, grid, whole_buckets

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 10, 20, 30, 400_500, tzinfo=UTC)
HOUR_S, DAY_S = 3600.0, 86_400.0


@pytest.mark.parametrize(
    ("since_s", "number", "level"),
    [
        (1.0, 24, None),
        (LONG_S, 24, None),
        (LONG_S + 1, 24, HOUR),
        (LONG_S + 1, 48, HOUR),
        (LONG_S + 1, 49, None),
        (VERY_LONG_S, 24, HOUR),
        (VERY_LONG_S + 1, 24, DAY),
        (VERY_LONG_S + 1, 31, DAY),
        (VERY_LONG_S + 1, 32, HOUR),
        (365 * DAY_S, 144, DAY),
    ],
)
def test_level(since_s: float, number: int, level: str | None) -> None:
    """A bucket that begins with an hour or a day is at least that long."""
    result = grid(NOW, since_s, number)
    assert result.level == level
    assert result.seconds == since_s
    assert len(result.begins) == len(result.middles) == number


def test_without_gaps() -> None:
    """Buckets have no gaps, and none is empty. Only the first one may begin at any time."""
    chance = random.Random(1)
    for _ in range(300):
        number = chance.randint(1, 144)
        since_s = chance.choice([600, 86_400, 200_000, 3_000_000, 30_000_000]) * chance.random() + 1
        now = NOW + timedelta(seconds=chance.uniform(0, 1e6))
        result = grid(now, since_s, number)
        assert result.begins[0] == result.since == now - timedelta(seconds=since_s)
        edges = [*result.begins, result.until]
        for (begin, end), middle in zip(pairwise(edges), result.middles, strict=True):
            assert begin < middle < end
            assert abs(middle - begin - (end - middle)) < timedelta(microseconds=2)
        if result.level is None:
            lengths = [(end - begin).total_seconds() for begin, end in pairwise(edges)]
            assert lengths == pytest.approx([since_s / number] * number, abs=1e-5)
        else:
            assert all(begin == floor(begin, result.level) for begin in result.begins[1:])
            for place, begin in enumerate(result.begins):
                moved = result.since + timedelta(seconds=since_s) * place / number - begin
                assert timedelta(0) <= moved < LEVELS[result.level]


def test_whole_buckets() -> None:
    """In a chart of a long period, all buckets have the same number of whole hours or days."""
    assert whole_buckets(LONG_S, 144) == 144
    assert whole_buckets(7 * DAY_S, 144) == 84, "of two hours"
    assert whole_buckets(LONG_S + HOUR_S, 144) == 49
    assert whole_buckets(VERY_LONG_S, 144) == 124, "of six hours"
    assert whole_buckets(90 * DAY_S, 144) == 90
    assert whole_buckets(365 * DAY_S, 144) == 121, "of three days"
    assert whole_buckets(365 * DAY_S, 1) == 1
    for hours in (49, 168, 744):
        number = whole_buckets(hours * HOUR_S, 144)
        begins = grid(NOW, hours * HOUR_S, number).begins
        lengths = {(after - before).total_seconds() for before, after in pairwise(begins[1:])}
        assert len(lengths) == 1
