"""Numbers of long periods from hours and days, compared with a computation from the samples."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from ops_worker.adapters.postgres import HISTORY_OPTIONAL_TABLES, HISTORY_TABLES, Store, history
from ops_worker.adapters.postgres.rollup_reads import Coverage, cover
from ops_worker.core.rollup import DAY, HOUR, LEVELS, floor
from ops_worker.history.buckets import MAX_SAMPLES_S
from tests.passes.test_rollup import COUNTERS, PERIOD_S, Rollup, Row, last_hour
from tests.passes.test_rollup import history as random_samples
from tests.passes.test_rollup import rollup as rollup  # noqa: PLC0414 - a fixture

if TYPE_CHECKING:
    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.history.series import Series

pytestmark = pytest.mark.integration

DAY_S = 86_400.0
LIMIT = 1e150
Sample = tuple[datetime, float]


class Read(NamedTuple):
    """The result of a read: the parts, the series by identity, and the time."""

    coverage: Coverage
    series: dict[tuple[str, str, str], Series]
    now: datetime

    @property
    def levels(self) -> list[str | None]:
        """Return the levels of the parts, the oldest first."""
        return [part.level for part in self.coverage.parts]


def read(url: str, since_s: float, number: int = 24) -> Read:
    """Read all series of a period."""

    def work(transaction: Transaction) -> Read:
        transaction.execute("look_back")  # as all readers of a long period do
        coverage = cover(transaction, since_s, number)
        series = history.read_series(
            transaction, coverage, lambda *names: names in COUNTERS, PERIOD_S
        )
        return Read(coverage, {identity(item): item for item in series}, transaction.now)

    with contextlib.closing(Store({"conninfo": url})) as store:
        return store.read(
            work, required_tables=HISTORY_TABLES, optional_tables=HISTORY_OPTIONAL_TABLES
        )


def identity(series: Series) -> tuple[str, str, str]:
    """Return the service, metric and tags that identify a series."""
    tags = {} if series.tags is None else series.tags
    return series.service or "", series.metric, json.dumps(tags, sort_keys=True)


def grouped(rows: list[Row], now: datetime) -> dict[tuple[str, str, str], list[Sample]]:
    """Return the valid samples up to now by series, in order of time."""
    series: dict[tuple[str, str, str], list[Sample]] = {}
    for row in rows:
        if -LIMIT <= row.value <= LIMIT and row.time <= now:
            key = (row.service or "", row.metric, json.dumps(row.tags or {}, sort_keys=True))
            series.setdefault(key, []).append((row.time, row.value))
    return {key: sorted(samples) for key, samples in series.items()}


def edges(now: datetime, since_s: float, number: int) -> list[datetime]:
    """Return the beginnings of buckets: whole hours, or whole days for more than 31 days."""
    level = DAY if since_s > 31 * DAY_S else HOUR
    begun = now - timedelta(seconds=since_s)
    length = timedelta(seconds=since_s)
    return [begun, *(floor(begun + length * n / number, level) for n in range(1, number))]


def slices(coverage: Coverage) -> list[tuple[datetime, datetime]]:
    """Return the times with their own increase: an hour, a day, or a part."""
    result = []
    for part in coverage.parts:
        step = LEVELS[part.level] if part.level else part.until - part.since
        begun = part.since
        while begun < part.until:
            result.append((begun, begun + step))
            begun += step
    return result


def steps(
    samples: list[Sample], begun: datetime, ended: datetime
) -> list[tuple[datetime, float, float]]:
    """Return the steps of a counter in a slice: the time, the increase, and the seconds."""
    before = [s for s in samples if begun - timedelta(days=1) <= s[0] < begun][-2:]
    after = [s for s in samples if s[0] >= ended][:1]
    window = [*before, *(s for s in samples if begun <= s[0] < ended), *after]
    plausible = [
        sample
        for index, sample in enumerate(window)
        if not 0 < index < len(window) - 1
        or not is_wrong(window[index - 1], sample, window[index + 1])
    ]
    return [
        (new[0], new[1] - (old[1] if new[1] >= old[1] else 0), (new[0] - old[0]).total_seconds())
        for old, new in pairwise(plausible)
        if begun <= new[0] < ended
    ]


def is_wrong(before: Sample, sample: Sample, after: Sample) -> bool:
    """Return whether a wrong clock put a sample between two others."""
    apart_s = (after[0] - before[0]).total_seconds()
    is_outside = not before[1] <= sample[1] <= after[1]
    return before[1] <= after[1] and is_outside and apart_s < 1.5 * PERIOD_S


def assert_exact(result: Read, rows: list[Row], since_s: float, number: int = 24) -> None:
    """Compare every number with the number that Python computes from the samples."""
    begins = edges(result.now, since_s, number)
    assert list(result.coverage.grid.begins) == begins
    parts = result.coverage.parts
    assert all(before.until <= after.since for before, after in pairwise(parts))
    expected = grouped(rows, result.now)
    in_period = {key: [s for s in samples if s[0] > begins[0]] for key, samples in expected.items()}
    in_period = {key: samples for key, samples in in_period.items() if samples}
    read_series = {key: s for key, s in result.series.items() if key[0] != "ops_worker"}
    assert read_series.keys() == {key for key in in_period if key[0] != "ops_worker"}
    for key, item in read_series.items():
        samples = in_period[key]
        by_bucket: dict[int, list[float]] = {}
        for at, value in samples:
            by_bucket.setdefault(bucket_of(at, begins), []).append(value)
        assert item.buckets.keys() == by_bucket.keys(), key
        for index, values in by_bucket.items():
            bucket = item.buckets[index]
            assert bucket.samples == len(values)
            assert bucket.peak == max(values)
            assert near(bucket.mean, math.fsum(values) / len(values)), (key, index)
        assert (item.last, item.latest) == samples[-1]
        assert item.counts is (key[:2] in COUNTERS)
        if item.counts:
            assert_growth(item, expected[key], result.coverage, begins)


def assert_growth(
    item: Series, samples: list[Sample], coverage: Coverage, begins: list[datetime]
) -> None:
    """Compare the increase and the seconds of each bucket, and the rate."""
    by_bucket: dict[int, list[tuple[float, float]]] = {}
    for begun, ended in slices(coverage):
        for at, increase, seconds in steps(samples, begun, ended):
            by_bucket.setdefault(bucket_of(at, begins), []).append((increase, seconds))
    total = [0.0, 0.0]
    for index, values in by_bucket.items():
        increase, seconds = (math.fsum(column) for column in zip(*values, strict=True))
        assert near(item.growth[index].increase, increase), (item.key, index)
        assert near(item.growth[index].seconds, seconds), (item.key, index)
        total = [total[0] + increase, total[1] + seconds]
    assert item.growth.keys() == by_bucket.keys()
    assert item.rate_per_s is not None
    assert near(item.rate_per_s, total[0] / total[1])


def bucket_of(at: datetime, begins: list[datetime]) -> int:
    """Return the number of the bucket that a time belongs to."""
    return sum(1 for begin in begins if begin <= at)


def near(value: float, other: float) -> bool:
    """Return whether two numbers differ by rounding only."""
    return math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("since_s", "number", "level"),
    [
        (2.5 * DAY_S, 24, HOUR),
        (2.5 * DAY_S + 1234.5, 60, HOUR),
        (40 * DAY_S, 24, DAY),
    ],
)
def test_exact(rollup: Rollup, seed: int, since_s: float, number: int, level: str) -> None:
    """Numbers are exact with resets, gaps, NaN, infinities, NULLs, and series that end."""
    rows = random_samples(seed, hours=70)
    boundary = last_hour() - timedelta(hours=20)
    rows = [row for row in rows if row.metric != "g" or row.time < boundary]
    rows = [row for row in rows if row.service != "b" or row.time > boundary]
    rollup.insert(rows)
    rollup()
    result = read(rollup.database.url, since_s, number)
    assert level in result.levels
    assert result.levels[-1] is None, "the newest samples are not rolled up yet"
    assert_exact(result, rows, since_s, number)


def test_behind_and_stopped(rollup: Rollup) -> None:
    """Times without a rollup, at the begin or the end of the period, are read from samples."""
    rows = random_samples(11, hours=70)
    rollup.insert(rows)
    rollup()
    full = read(rollup.database.url, 2.5 * DAY_S)
    without_newest = "DELETE FROM ops_worker_{} WHERE begun > now() - interval '30 hours'"
    without_oldest = "DELETE FROM ops_worker_{} WHERE begun < now() - interval '50 hours'"
    for statement in (without_newest, without_oldest):
        for level in LEVELS:
            rollup.database.rows(statement.format(level))
        result = read(rollup.database.url, 2.5 * DAY_S)
        assert rolled_s(result) < rolled_s(full) - 3600
        assert_exact(result, rows, 2.5 * DAY_S)


def rolled_s(result: Read) -> float:
    """Return the seconds that were read from the rollup."""
    return sum(part.seconds for part in result.coverage.parts if part.level)


@pytest.mark.parametrize("state", ["empty", "no tables", "no privilege", "short"])
def test_without_rollup(rollup: Rollup, state: str) -> None:
    """Without a readable rollup, all numbers are read from samples."""
    rows = random_samples(12, hours=70)
    rollup.insert(rows)
    url = rollup.database.url
    if state != "no tables":
        rollup()
    if state == "empty":
        rollup.database.rows("TRUNCATE ops_worker_hour, ops_worker_day")
    if state == "no privilege":
        rollup.database.rows("DROP ROLE IF EXISTS reads_samples")
        rollup.database.rows("CREATE ROLE reads_samples LOGIN BYPASSRLS PASSWORD 'x'")
        rollup.database.rows("GRANT SELECT ON system_metrics, fleet_alert TO reads_samples")
        url = rollup.database.as_user("reads_samples")
    since_s = DAY_S if state == "short" else 2.5 * DAY_S
    result = read(url, since_s)
    assert result.levels == [None]
    assert not result.coverage.is_rolled
    begins = result.coverage.grid.begins
    if state != "short":
        assert list(begins) == edges(result.now, since_s, 24)
    for key, samples in grouped(rows, result.now).items():
        own = [s for s in samples if s[0] > begins[0]]
        if own and key[0] and key[1] not in {"c", "n"}:  # without the names that are two series
            item = result.series[key]
            assert sum(bucket.samples for bucket in item.buckets.values()) == len(own)
            assert (item.first, item.last, item.latest) == (own[0][0], *own[-1])
    if state == "no privilege":
        rollup.database.rows("DROP OWNED BY reads_samples; DROP ROLE reads_samples")


def test_samples_removed(rollup: Rollup) -> None:
    """Without the samples all numbers are the same, except in the first hour of the period."""
    rows = random_samples(13, hours=100)
    rollup.insert(rows)
    rollup()
    before = read(rollup.database.url, 3 * DAY_S)
    assert_exact(before, rows, 3 * DAY_S)
    rollup.database.rows("DELETE FROM system_metrics WHERE time < now() - interval '1 day'")
    after = read(rollup.database.url, 3 * DAY_S)
    assert after.levels == [HOUR, None]
    assert after.series.keys() <= before.series.keys()
    for key, item in after.series.items():
        for index, bucket in item.buckets.items():
            if index > 1:
                assert bucket == before.series[key].buckets[index]
                assert item.growth.get(index) == before.series[key].growth.get(index)
        assert item.latest == before.series[key].latest
        last = before.series[key].last
        is_kept = last > after.now - timedelta(days=1)
        assert item.last == (last if is_kept else floor(last, HOUR))


def test_late_samples(rollup: Rollup) -> None:
    """Late samples count once the rollup has repeated their hour."""
    rows = random_samples(14, hours=70)
    late = last_hour() - timedelta(hours=3)
    on_time = [row for row in rows if not late <= row.time < late + timedelta(minutes=50)]
    rollup.insert(on_time)
    rollup()
    assert_exact(read(rollup.database.url, 2.5 * DAY_S), on_time, 2.5 * DAY_S)
    rollup.insert([row for row in rows if late <= row.time < late + timedelta(minutes=50)])
    rollup()
    assert_exact(read(rollup.database.url, 2.5 * DAY_S), rows, 2.5 * DAY_S)


def test_clock_set_back(rollup: Rollup) -> None:
    """Hours, days and samples in the future do not count. The current hour does not count."""
    rows = random_samples(15, hours=70)
    rollup.insert(rows)
    rollup()
    for level in LEVELS:
        for ahead in range(72):
            rollup.database.rows(
                f"INSERT INTO ops_worker_{level} (service, metric_name, begun, samples, mean,"
                " least, most, latest) SELECT 'a', 'future', date_trunc(%s, now())"
                " + make_interval(hours => %s), 9, 9, 9, 9, 9 ON CONFLICT DO NOTHING",
                level,
                ahead,
            )  # fmt: skip
    future = [row._replace(time=row.time + timedelta(days=4)) for row in rows[:500]]
    rollup.insert(future)
    for since_s in (2.5 * DAY_S, 40 * DAY_S):
        assert_exact(read(rollup.database.url, since_s), rows + future, since_s)


def test_odd_rows(rollup: Rollup) -> None:
    """Rows that the rollup never writes are left out and affect no other row."""
    rows = random_samples(16, hours=70)
    rollup.insert(rows)
    rollup()
    odd = ("0, 9, 9, 9, 9", "9, 'NaN', 9, 9, 9", "9, 9, 9, 'inf', 9", "9, -1e200, 9, 9, 9")
    for index, values in enumerate(odd):
        rollup.database.rows(
            "INSERT INTO ops_worker_hour (service, metric_name, tags, begun, samples, mean, least,"
            f" most, latest) SELECT 'odd', 'x', '[{index}]', begun, {values}"
            " FROM (SELECT max(begun) AS begun FROM ops_worker_hour) AS h"
        )
    assert_exact(read(rollup.database.url, 2.5 * DAY_S), rows, 2.5 * DAY_S)


def test_not_all_samples(rollup: Rollup) -> None:
    """Without a rollup, only the end of a very long period is read, so that it ends in time."""
    rollup.insert(
        [
            Row(datetime.now(UTC) - timedelta(days=days), "a", "g", {}, 1.0)
            for days in (1, 29, 35, 50)
        ]
    )
    result = read(rollup.database.url, 365 * DAY_S)
    assert result.coverage.grid.seconds == MAX_SAMPLES_S
    (item,) = result.series.values()
    assert sum(bucket.samples for bucket in item.buckets.values()) == 2
    rollup()
    result = read(rollup.database.url, 365 * DAY_S)
    assert result.coverage.grid.seconds == 365 * DAY_S
    assert sum(bucket.samples for bucket in result.series["a", "g", "{}"].buckets.values()) == 4


def test_a_lock_is_not_waited_for(rollup: Rollup) -> None:
    """A reader does not wait for a running rollup pass."""
    rollup.insert(random_samples(17, hours=60))
    rollup()
    with psycopg.connect(rollup.database.url) as connection:
        connection.execute("UPDATE ops_worker_hour SET samples = samples")
        assert read(rollup.database.url, 2.5 * DAY_S).coverage.is_rolled
