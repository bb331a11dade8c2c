"""The rules of the rollup: which slices are due, and what is too old."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from ops_worker.core.model import Counter, Target
from ops_worker.core.rollup import (
    DAY,
    HOUR,
    OLDEST,
    Pace,
    Positions,
    RollupState,
    Slice,
    floor,
    parameters,
    removable_samples,
    retained_since,
)
from ops_worker.core.staleness import PERIOD_PATTERN

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 10, 15, 20, tzinfo=UTC)
TODAY = datetime(2026, 3, 10, tzinfo=UTC)


def hour(number: int) -> datetime:
    """Return the beginning of an hour of today."""
    return TODAY + timedelta(hours=number)


def test_floor() -> None:
    """Days begin at midnight in UTC, whatever the zone of a time."""
    local_now = NOW.astimezone(tz=None)
    assert floor(local_now, HOUR) == hour(15)
    assert floor(local_now, DAY) == TODAY
    assert floor(NOW.replace(second=59, microsecond=999_999), HOUR) == hour(15)
    assert Slice(HOUR, hour(3)).end == hour(4)
    assert Slice(DAY, TODAY).end == TODAY + timedelta(days=1)


def test_floor_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zone of the machine does not matter, not even one of half an hour."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        floors = [floor(NOW, level) for level in (HOUR, DAY)]
    time.tzset()
    assert floors == [hour(15), TODAY]


@pytest.mark.parametrize(("minute", "end"), [(9, 14), (10, 15), (20, 15)])
def test_settles(minute: int, end: int) -> None:
    """An hour is complete ten minutes after its end."""
    state = RollupState(hour(13), TODAY - timedelta(days=1), plain=True)
    positions = Positions.initial(state, NOW.replace(minute=minute), 400)
    assert positions.done[HOUR] == hour(14)
    assert positions.complete == {HOUR: hour(end), DAY: TODAY}
    assert positions.due() == (HOUR if end == 15 else None)
    assert positions.behind_s == (end - 14) * 3600


def test_from_the_beginning() -> None:
    """In a new database, the rollup begins at the oldest kept sample. A day follows its hours."""
    positions = Positions.initial(RollupState(None, None, plain=True), NOW, 2)
    assert positions.done == dict.fromkeys((HOUR, DAY), NOW - timedelta(days=2))
    assert Positions.initial(RollupState(None, None, plain=True), NOW, 0).done[DAY] == OLDEST
    order = []
    while level := positions.due():
        part = Slice(level, floor(positions.done[level], level))
        order.append(part)
        positions = positions.moved(level, part.end)
    assert [part.end for part in order] == sorted(part.end for part in order)
    assert len([part for part in order if part.level == HOUR]) == 48
    assert len([part for part in order if part.level == DAY]) == 2
    assert positions.behind_s == 0


def test_excluded() -> None:
    """A level that takes too long is left out."""
    positions = Positions.initial(RollupState(None, None, plain=True), NOW, 2)
    assert positions.due([HOUR]) == DAY
    assert positions.due([HOUR, DAY]) is None


def test_repeated() -> None:
    """Slices that were completed in the last six hours are repeated, up to the begin of the run."""
    state = RollupState(hour(13), TODAY - timedelta(days=1), plain=True)
    repeated = Positions.initial(state, NOW, 400).repeated(NOW)
    assert (repeated.done[HOUR], repeated.complete[HOUR]) == (hour(9), hour(14))
    assert repeated.due() == HOUR
    assert repeated == Positions.initial(state, NOW, 400).repeated(NOW.replace(minute=10))
    settling = Positions.initial(state, NOW, 400).repeated(NOW.replace(minute=9))
    assert settling.done[HOUR] == hour(8), "the hour before is not complete yet"
    early = Positions.initial(state, hour(3), 400).repeated(hour(3))
    assert Slice(DAY, early.done[DAY]).end == early.complete[DAY] == TODAY


def test_future() -> None:
    """After a clock was set back, rows from the future do not count as behind."""
    state = RollupState(hour(99), TODAY + timedelta(days=9), plain=True)
    positions = Positions.initial(state, NOW, 400)
    assert positions.due() is None
    assert positions.behind_s == 0
    assert positions.repeated(NOW).due() == HOUR


def test_retention() -> None:
    """Samples are kept while a slice needs them. A slice also needs the day before it."""
    assert retained_since(NOW, 0) == OLDEST
    done = Positions.initial(RollupState(hour(14), TODAY - timedelta(days=1), plain=True), NOW, 0)
    assert removable_samples(NOW, 7, done) == NOW - timedelta(days=7)
    assert removable_samples(NOW, 1, done) == TODAY - timedelta(days=1)
    late = done.moved(DAY, TODAY - timedelta(days=20))
    assert removable_samples(NOW, 7, late) == TODAY - timedelta(days=21)


def test_parameters() -> None:
    """Counters are those of the catalogue. Gauges and self-metrics are not counters."""
    listed = Target("a", "", "a", (Counter("c", ()), Counter("g", (), gauge=True)))
    every = Target("b", "", "b", None)
    values = parameters([listed, every])
    assert json.loads(values.pop("counters")) == [{"service": "a", "metric": "c"}]
    assert values == {
        "all_counters": ["b"],
        "gauges": ["certificate_days_left", "healthy", "probe_latency_ms"],
        "latencies": ["probe_latency_ms"],
        "period_pattern": PERIOD_PATTERN,
        "default_period_s": 60.0,
    }


def test_pace() -> None:
    """A slice begins only if it fits. The first day is expected to take as long as its hours."""
    pace = Pace()
    assert pace.fits(DAY, 0.0)
    pace.add(HOUR, 1.0)
    assert pace.fits(HOUR, 1.5)
    assert not pace.fits(HOUR, 1.4)
    assert not pace.fits(DAY, 35.0)
    assert pace.fits(DAY, 36.0)
    pace.add(DAY, 2.0)
    assert pace.fits(DAY, 3.0)
