from __future__ import annotations

from collections import Counter

import pytest

from ops_worker.core.shards import shard_of

pytestmark = pytest.mark.unit

NAMES = [f"service-{number}" for number in range(10_000)]


def test_written_down() -> None:
    """The assignment is part of what is promised: a new release moves nothing."""
    assert [
        shard_of(name, 4) for name in ("ingest", "evaluator", "dispatcher", "delivery_worker")
    ] == [3, 2, 3, 1]
    assert {shard_of(name, 1) for name in NAMES} == {0}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 64])
def test_adding_a_shard(count: int) -> None:
    """It takes its share from all the others, and moves nothing else."""
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
