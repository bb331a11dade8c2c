"""How long a pass may be silent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ops_worker.core.staleness import (
    PassRecord,
    is_current,
    is_fresh,
    oldest_record,
    oldest_stale_record,
    period_of,
    stale_after_s,
    stopped_reason,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def record(
    name: str, age_s: float, period_s: float | None = 60, shard: str | None = None
) -> PassRecord:
    """Return the record of a pass of this age."""
    return PassRecord(name, shard, NOW - timedelta(seconds=age_s), period_s)


@pytest.mark.parametrize(
    ("period_s", "patience"), [(1, 90), (5, 90), (30, 90), (60, 180), (300, 900)]
)
def test_patience(period_s: float, patience: float) -> None:
    """A record is fresh for three periods, and for at least 90 s.

    The minimum is there because a pass may take longer than a short period.
    """
    assert stale_after_s(period_s) == patience


@pytest.mark.parametrize(
    ("age_s", "period_s", "current"),
    [
        (0, 5, True),
        (90, 5, True),
        (91, 5, False),
        (180, 60, True),
        (181, 60, False),
        (-60, 60, True),
        (-61, 60, False),
        (-6, 5, False),
    ],
)
def test_current(age_s: float, period_s: float, current: bool) -> None:
    """A row is current for three periods, at least 90 s. It may be a period ahead of the clock."""
    assert is_current(age_s, period_s) is current


def test_period() -> None:
    """The longest period of several shards counts. Without a record, it is 60 s."""
    rows = [
        record("health", 1, 300, "0/2"),
        record("health", 1, 60, "1/2"),
        record("metrics", 1, None),
    ]
    assert (period_of(rows, "health"), period_of(rows, "metrics"), period_of([], "health")) == (
        300,
        60,
        60,
    )


def test_oldest_records() -> None:
    """Of several shards, the oldest record counts, and the oldest record that is stale.

    A record is not stale exactly at the limit.
    """
    rows = [
        record("metrics", 10, shard="0/3"),
        record("metrics", 181, shard="1/3"),
        record("metrics", 700, 300, "2/3"),
        record("health", 180),
    ]
    assert oldest_stale_record(rows, "metrics", NOW) == rows[1]
    assert oldest_record(rows, "metrics") == rows[2]
    assert oldest_stale_record(rows, "health", NOW) is None
    assert oldest_stale_record([], "health", NOW) is oldest_record([], "health") is None


def test_is_fresh() -> None:
    """A pass is fresh if at least one of its shards is."""
    assert is_fresh(
        [record("health", 600, shard="0/2"), record("health", 20, shard="1/2")], "health", NOW
    )
    assert not is_fresh([record("health", 600), record("metrics", 1)], "health", NOW)


def test_label() -> None:
    """A shard is named with its pass."""
    assert record("health", 1).label == "health"
    assert record("health", 1, shard="0/2").label == "health 0/2"


@pytest.mark.parametrize(
    ("period_s", "text"),
    [
        (60, "no health pass was recorded for 5 min; one is due every 1 min"),
        (5, "no health pass was recorded for 5 min; one is due every 5 s"),
        (None, "no health pass was recorded for 5 min; one is due every 1 min"),
    ],
)
def test_stopped_reason(period_s: float | None, text: str) -> None:
    """The alert says how long nothing was recorded, and how often a record is due."""
    assert stopped_reason(record("health", 300, period_s), NOW) == text


def test_age() -> None:
    """An age is in seconds. The age of a record from the future is negative."""
    assert [record("health", age_s).age_s(NOW) for age_s in (0, 12.5, -30)] == [0, 12.5, -30]
    assert record("health", 0, 300).stale_after_s == 900
    assert record("health", 0, None).stale_after_s == 180
