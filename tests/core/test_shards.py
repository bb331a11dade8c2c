from __future__ import annotations

from collections import Counter

import pytest

from ops_worker.core.shards import shard_of

pytestmark = pytest.mark.unit

NAMES = [f"service-{number}" for number in range(10_000)]


def test_written_down() -> None:
    """The assignment is promised: a new release moves no service."""
    assert [
        shard_of(name, 4) for name in ("ingest", "evaluator", "dispatcher", "delivery_worker")
    ] == [3, 2, 3, 1]
    assert {shard_of(name, 1) for name in NAMES} == {0}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 64])
def test_adding_a_shard(count: int) -> None:
    """A new shard takes its share from all other shards. No other service moves."""
    before, after = (
        [shard_of(name, count) for name in NAMES],
        [shard_of(name, count + 1) for name in NAMES],
    )
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) <= {count}
    assert len(moved) == pytest.approx(len(NAMES) / (count + 1), rel=0.2)
    shares = Counter(after)
    assert set(shares) == set(range(count + 1))
    assert max(shares.values()) < 1.5 * len(NAMES) / (count + 1)


def test_many_written_down() -> None:
    """The assignment equals the released one: 48 names to 16 shards, one name to 1 to 24 shards."""
    assert [shard_of(f"service-{number}", 16) for number in range(48)] == [
        *(6, 13, 2, 13, 13, 2, 8, 6, 2, 2, 7, 7, 9, 10, 0, 1),
        *(15, 8, 0, 14, 13, 7, 9, 5, 7, 10, 12, 15, 13, 9, 12, 7),
        *(3, 11, 6, 12, 14, 7, 1, 15, 8, 6, 1, 1, 0, 1, 9, 7),
    ]
    assert [shard_of("ingest", count) for count in range(1, 25)] == [
        *(0, 0, 2, 3, 3, 3, 3, 3, 3, 9, 9, 9, 9),
        *(13, 13, 13, 13, 13, 13, 13, 13, 13, 22, 22),
    ]
    assert [shard_of(name, 1000) for name in ("Ä", "", "a" * 1000)] == [761, 472, 950]
