"""The number of missed passes, from numbers and runs, equals a count of every pass."""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ops_worker.core.ledger import Sight
from ops_worker.history.pass_counts import Records, missed_in_runs, pass_counts
from ops_worker.history.rows import PassCountRow
from ops_worker.history.series import Bucket, Series
from tests.recorder import Recorder, at

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

pytestmark = pytest.mark.unit


class Pass(NamedTuple):
    """A pass in the past: its begin and its period."""

    time: datetime
    period_s: float


def passes(chance: random.Random) -> list[Pass]:
    """Return passes that are late by less than half a period. Some passes are missed.

    Some are missed one by one, some for hours. The period and the share of missed passes change.
    """
    result = []
    second = 0.0
    for _ in range(chance.randint(1, 6)):
        period_s = chance.choice([5.0, 60.0, 300.0])
        misses = chance.choice([0.0, 0.0, 0.02, 0.3])
        for _ in range(chance.randint(1, 200)):
            second += period_s
            if chance.random() >= misses:
                late_s = chance.uniform(0, 0.2) * period_s
                result.append(Pass(at(round(second + late_s, 3)), period_s))
        if chance.random() < 0.5:
            second += chance.choice([100, 1000, 50_000])
        second += 300
    return result


def counted(history: Sequence[Pass]) -> int:
    """Return the number of missed passes, as the statement ``ran`` counts them."""
    gaps = [
        round((b.time - a.time).total_seconds() / max(a.period_s, b.period_s)) - 1
        for a, b in pairwise(history)
    ]
    return sum(max(0, gap) for gap in gaps)


def ledger(history: Sequence[Pass]) -> Recorder:
    """Return the ledger of these passes, each of which sees a service 10 ms after its begin."""
    recorder = Recorder()
    for item in history:
        sight = Sight("a", item.time + timedelta(milliseconds=10), "healthy")
        recorder.record([sight], item.period_s)
    return recorder


def records(history: Sequence[Pass]) -> Records:
    """Return the records of these passes."""
    return Records(
        first=history[0].time,
        last=history[-1].time,
        number=len(history),
        periods=frozenset(item.period_s for item in history),
    )


@pytest.mark.parametrize("seed", range(10))
def test_equals_a_count_of_every_pass(seed: int) -> None:
    """Runs and a count of passes give the same number, for any misses and any period."""
    chance = random.Random(seed)
    total = 0
    for _ in range(10):
        history = passes(chance)
        runs = ledger(history).runs
        for begin in {0, *(chance.randrange(len(history)) for _ in range(5))}:
            part = history[begin:]
            assert missed_in_runs(runs, records(part)) == counted(part)
            total += counted(part)
    assert total > 100


def test_within_the_first_run() -> None:
    """If a run began before the period, only its part within the period counts.

    The number never exceeds that of the whole run.
    """
    history = [Pass(at(60 * n), 60.0) for n in range(1000) if n not in {10, 500, 501}]
    runs = ledger(history).runs
    assert len(runs) == 1
    whole, end = records(history), records(history[200:])
    assert (missed_in_runs(runs, whole), missed_in_runs(runs, end)) == (3, 2)
    # If recording was switched off for a time, the missing records are not missed passes.
    assert missed_in_runs(runs, end._replace(number=100)) == 3
    assert missed_in_runs(runs, end._replace(number=5000)) == 0


def test_unknown() -> None:
    """If the runs do not reach from the first to the last record, the number is unknown."""
    history = [Pass(at(60 * n), 60.0) for n in range(100)]
    runs = ledger(history).runs
    (run,) = runs
    early = records(history)._replace(first=at(-1000))
    late = records(history)._replace(last=at(7000))
    assert missed_in_runs(runs, early) is missed_in_runs(runs, late) is None
    assert missed_in_runs([], records(history)) is None
    assert missed_in_runs([run._replace(period_s=0.0)], records(history)) is None
    before = run._replace(first_at=at(-900), last_at=at(-500))
    assert missed_in_runs([before], records(history)) is None


def test_only_the_hour_is_known() -> None:
    """If the first and last record were removed, the runs give the number, or a minimum of it."""
    history = [Pass(at(60 * n), 60.0) for n in range(40, 1000) if n != 500 and not 990 < n < 995]
    runs = ledger(history).runs
    assert len(runs) == 2
    hours = Records(at(0), at(57_600), len(history), frozenset([60.0]), 3600.0, 3600.0)
    assert missed_in_runs(runs, hours) == 5
    assert missed_in_runs(runs, hours._replace(first_s=0.0)) is None
    tags = {"pass": "health", "period_s": "60"}
    rows = [
        series(tags, len(history), 0, 57_600, first_s=3600.0, last_s=3600.0),
        series(tags | {"pod": "b"}, 2, 30_000, 30_060),
    ]
    (count,) = pass_counts(rows, {})
    assert count.missed <= 5
    assert count.missed_is_least


def series(tags: Any, number: int, first: float, last: float, **fields: Any) -> Series:
    """Return a series of records, in two buckets."""
    buckets = {1: Bucket(1.0, 1.0, 1), 24: Bucket(1.0, 1.0, number - 1)}
    result = Series(
        service="ops_worker",
        metric="pass_success",
        tags=tags,
        buckets=buckets,
        first=at(first),
        last=at(last),
        counts=False,
    )
    return result._replace(**fields)


def test_series() -> None:
    """Each pass and shard is counted, whatever its other tags. Other series are left out."""
    rows = [
        series({"pass": "metrics", "period_s": "5", "pod": "a"}, 100, 0, 500),
        series({"pass": "metrics", "period_s": "5", "pod": "b"}, 99, 505, 1000),
        series({"pass": "health", "period_s": "60", "shard": "1/2"}, 10, 0, 600),
        series({"pass": "health", "period_s": "nothing", "shard": "0/2"}, 10, 0, 540),
        series({"pass": "rollup", "period_s": "3600"}, 2, 0, 3600),
        series({"pass": "rollup", "period_s": "0"}, 2, 5000, 7200),
        series({"pass": "health"}, 2, 0, 60, metric="maintenance"),
        series({"pass": "health"}, 2, 0, 60, service="ingest"),
        series(["pass"], 2, 0, 60),
        series({}, 2, 0, 60),
    ]
    assert pass_counts(rows, {}) == [
        PassCountRow("health", "0/2", at(0), at(540), 10, 0, missed_is_least=True),
        PassCountRow("health", "1/2", at(0), at(600), 10, 1, missed_is_least=True),
        PassCountRow("metrics", None, at(0), at(1000), 199, 2, missed_is_least=True),
        PassCountRow("rollup", None, at(0), at(7200), 4, 0, missed_is_least=True),
    ]


def test_series_with_runs() -> None:
    """Each shard is counted by its own runs. A pass without shards is shard 0/1."""
    history = [Pass(at(60 * n), 60.0) for n in range(10)] + [Pass(at(700), 30.0)]
    runs = ledger(history).runs
    rows = [
        series({"pass": "health", "period_s": "60"}, 10, 0, 540),
        series({"pass": "health", "period_s": "30"}, 2, 700, 700),
    ]
    (count,) = pass_counts(rows, {"health": runs})
    assert (count.missed, count.missed_is_least) == (2, False)
    others = [run._replace(shard="0/2") for run in runs]
    (count,) = pass_counts(rows, {"health": others, "metrics": runs})
    assert (count.missed, count.missed_is_least) == (1, True)


def test_series_of_another_installation() -> None:
    """Each installation counts its own passes. The default installation has no tag."""
    rows = [
        series({"pass": "health", "period_s": "60"}, 10, 0, 540),
        series({"pass": "health", "period_s": "60", "installation": "b"}, 5, 0, 540),
    ]
    for arguments, number, missed in (((), 10, 0), (("b",), 5, 5), (("c",), None, None)):
        counts = [(row.recorded, row.missed) for row in pass_counts(rows, {}, *arguments)]
        assert counts == ([] if number is None else [(number, missed)])
