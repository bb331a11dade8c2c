"""The rollup pass on a real database, compared with a computation in Python."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ops_worker import settings
from ops_worker.adapters.postgres import Store, rollup_writes
from ops_worker.cli import main
from ops_worker.core.model import Result
from ops_worker.core.passes import PASSES, ROLLUP
from ops_worker.core.rollup import DAY, HOUR, LEVELS, Slice, floor
from ops_worker.errors import (
    DatabaseError,
    SchemaError,
    StatementTimeoutError,
    StillRecordingError,
)
from ops_worker.passes import Context, function_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ops_worker.core.model import Outcome
    from tests.conftest import Database, Worker

pytestmark = pytest.mark.integration

CATALOGUE = """builtin = false
[services.a]
url = "http://127.0.0.1:1"
counters = ["c", { name = "g", gauge = true }]
[services.b]
url = "http://127.0.0.1:1"
counters = "*"
"""
PERIOD_S = 30.0
COUNTERS = {("a", "c"), ("b", "c"), ("b", "x")}
SERIES = [
    ("a", "c", None),
    ("a", "c", {}),
    ("a", "c", {"k": "v", "n": [1, None]}),
    ("a", "g", None),
    ("a", "healthy", {}),
    ("a", "probe_latency_ms", {}),
    ("b", "probe_latency_ms", {"k": 1}),
    ("b", "x", {}),
    ("b", "c", {"k": 1}),
    ("b", "healthy", {}),
    (None, "n", None),
    ("", "n", {}),
]
"""Services, metrics and tags of series. Some are the same because NULL counts as empty."""
ODD = [math.nan, math.inf, -math.inf, 1e200, -1e300]


class Row(NamedTuple):
    """A row of ``system_metrics``."""

    time: datetime
    service: str | None
    metric: str
    tags: Any
    value: float


class Rollup:
    """Runs rollup passes in this process."""

    def __init__(self, env: pytest.MonkeyPatch, database: Database) -> None:
        self.env = env
        self.database = database

    def __call__(
        self,
        *,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
        recording: Any = contextlib.nullcontext,
        **env: str,
    ) -> Outcome:
        """Run one pass."""
        with self.env.context() as extra:
            for name, value in env.items():
                extra.setenv(name, value)
            loaded = settings.load()
        with contextlib.closing(Store(loaded.connection)) as store:
            context = Context(
                settings=loaded,
                observe=lambda _: pytest.fail("it probes nothing"),
                store=store,
                clock=clock,
                dry_run=dry_run,
                period_s=3600.0,
                recording=recording,
            )
            return function_of("rollup")(context)

    def insert(self, rows: list[Row], *, compress: bool = True) -> None:
        """Insert samples. Compress the older chunks of a hypertable."""
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            connection.cursor().executemany(
                "INSERT INTO system_metrics (time, service, metric_name, tags, value)"
                " VALUES (%s, %s, %s, %s, %s)",
                [row._replace(tags=None if row.tags is None else Jsonb(row.tags)) for row in rows],
            )
        if compress:
            self.database.compress()

    def rows(self, level: str) -> dict[Any, dict[str, Any]]:
        """Return the rows of a level by slice and series, without those of the worker itself."""
        rows = self.database.rows(f"SELECT * FROM ops_worker_{level} WHERE service <> 'ops_worker'")
        return {
            (
                row["begun"].astimezone(UTC),
                row["service"],
                row["metric_name"],
                json.dumps(row["tags"], sort_keys=True),
            ): row
            for row in rows
        }


@pytest.fixture
def rollup(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rollup:
    """Return a rollup on a database without samples, and two services."""
    return prepared(database, monkeypatch, tmp_path)


def prepared(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rollup:
    """Return a rollup of two services. Remove all samples of the database."""
    (tmp_path / "catalogue.toml").write_text(CATALOGUE)
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(tmp_path / "catalogue.toml"))
    database.rows("DELETE FROM system_metrics")
    return Rollup(monkeypatch, database)


def slow_clock(per_second: int) -> Callable[[], float]:
    """Return a clock that advances by one second in so many readings."""
    moments = itertools.count()
    return lambda: next(moments) / per_second


def last_hour() -> datetime:
    """Return the end of the newest complete hour."""
    return floor(datetime.now(UTC) - timedelta(minutes=10), HOUR)


def history(seed: int, hours: int = 50) -> list[Row]:
    """Return random samples up to the end of the newest complete hour, and some after it."""
    chance = random.Random(seed)
    end = last_hour() + timedelta(minutes=5)
    rows = []
    for service, metric, tags in SERIES:
        at = end - timedelta(hours=hours)
        value = 0.0
        while at < end:
            value += chance.choice([0, 1, 7.5, 100])
            if chance.random() < 0.03:
                value = chance.choice([0.0, 3.0])  # a restart
            recorded = value
            if metric not in {"c", "x"}:
                recorded = chance.uniform(-50, 50)
            elif chance.random() < 0.03:
                recorded = value + chance.choice([-40, 900])  # a row of a wrong clock
            if chance.random() < 0.03:
                recorded = chance.choice(ODD)
            rows.append(Row(at, service, metric, tags, recorded))
            if chance.random() < 0.02:
                rows.append(Row(at, service, metric, tags, recorded))  # written twice
            at += timedelta(seconds=chance.choice([20, 30, 31.5, 600, 1800]))
            if chance.random() < 0.01:
                at += timedelta(hours=chance.choice([3, 30]))
    at = end - timedelta(hours=hours)
    own = {"pass": "metrics", "period_s": f"{PERIOD_S:g}"}
    while at < end:
        rows.append(Row(at, "ops_worker", "pass_success", own, 1.0))
        at += timedelta(minutes=20)
    chance.shuffle(rows)
    return rows


def expected(rows: list[Row], level: str) -> dict[Any, dict[str, Any]]:
    """Return the expected rows of a level, computed from each sample."""
    end = floor(datetime.now(UTC) - timedelta(minutes=10), level)
    series: dict[Any, list[tuple[datetime, float]]] = {}
    for row in rows:
        if -1e150 <= row.value <= 1e150 and row.service != "ops_worker":
            key = (row.service or "", row.metric, json.dumps(row.tags or {}, sort_keys=True))
            series.setdefault(key, []).append((row.time, row.value))
    result = {}
    for key, samples in series.items():
        samples.sort()
        for begun in sorted({floor(at, level) for at, _ in samples}):
            if begun + LEVELS[level] <= end:
                result[begun, *key] = _summary(samples, begun, level, key)
    return result


def _summary(
    samples: list[tuple[datetime, float]], begun: datetime, level: str, key: Any
) -> dict[str, Any]:
    end = begun + LEVELS[level]
    values = sorted(value for at, value in samples if begun <= at < end)
    row = {
        "samples": len(values),
        "mean": math.fsum(values) / len(values),
        "least": values[0],
        "most": values[-1],
        "latest": max(sample for sample in samples if sample[0] < end)[1],
        "p50": None,
        "p95": None,
        "p99": None,
        "increase": None,
        "seconds": None,
    }
    if key[1] == "probe_latency_ms":
        row |= {f"p{share}": _percentile(values, share / 100) for share in (50, 95, 99)}
    if key[:2] in COUNTERS:
        before = [s for s in samples if begun - timedelta(days=1) <= s[0] < begun][-2:]
        after = [s for s in samples if end <= s[0] < end + timedelta(hours=1)][:1]
        window = before + [s for s in samples if begun <= s[0] < end] + after
        steps = [
            (new[1] if new[1] < old[1] else new[1] - old[1], (new[0] - old[0]).total_seconds())
            for old, new in pairwise(_without_wrong_rows(window))
            if begun <= new[0] < end
        ]
        if steps:
            row["increase"] = math.fsum(step for step, _ in steps)
            row["seconds"] = math.fsum(seconds for _, seconds in steps)
    return row


def _without_wrong_rows(window: list[tuple[datetime, float]]) -> list[tuple[datetime, float]]:
    plausible = []
    for place, (at, value) in enumerate(window):
        if 0 < place < len(window) - 1:
            (earlier, low), (later, high) = window[place - 1], window[place + 1]
            apart_s = (later - earlier).total_seconds()
            if low <= high and not low <= value <= high and apart_s < 1.5 * PERIOD_S:
                continue
        plausible.append((at, value))
    return plausible


def _percentile(values: list[float], share: float) -> float:
    place = share * (len(values) - 1)
    low = values[math.floor(place)]
    return low + (values[math.ceil(place)] - low) * (place - math.floor(place))


def _near(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-6)


def assert_exact(rollup: Rollup, rows: list[Row], levels: Iterable[str] = LEVELS) -> None:
    """Compare the tables of these levels with the samples."""
    for level in levels:
        actual, expected_rows = rollup.rows(level), expected(rows, level)
        assert actual.keys() == expected_rows.keys()
        for key, row in expected_rows.items():
            for name, value in row.items():
                computed = actual[key][name]
                same = (
                    computed == value
                    if value is None or computed is None
                    else _near(computed, value)
                )
                assert same, (level, key, name, computed, value)


@pytest.mark.parametrize("seed", range(5))
def test_exact(rollup: Rollup, seed: int) -> None:
    """The rows of hours and days equal those that Python computes from the samples."""
    rows = history(seed)
    rollup.insert(rows)
    outcome = rollup()
    assert outcome.result is Result.RECORDED
    assert outcome.rolled is not None
    assert outcome.rolled.behind_s == 0
    assert outcome.rolled.until == last_hour()
    assert outcome.rolled.hours >= 40
    assert outcome.rolled.days >= 1
    assert_exact(rollup, rows)


def test_again(rollup: Rollup) -> None:
    """A second run writes nothing. A run after lost hours writes them again."""
    rows = history(7, hours=30)
    rollup.insert(rows)
    rollup()
    outcome = rollup()
    assert outcome.rolled is not None
    assert (outcome.rolled.hours, outcome.rolled.days, outcome.rolled.rows) == (0, 0, 0)
    rollup.database.rows("DELETE FROM ops_worker_hour WHERE begun > now() - interval '9 hours'")
    rollup()
    assert_exact(rollup, rows)


def test_killed_and_eight_at_once(rollup: Rollup, worker: Worker) -> None:
    """After kills at any moment and eight runs at once, the rows are the same."""
    rows = history(8, hours=60)
    rollup.insert(rows)
    catalogue = {"OPS_WORKER_CATALOGUE": str(worker.folder / "catalogue.toml")}
    for seconds in (0.5, 0.8, 1.1):
        with worker.start("rollup", **catalogue) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            process.communicate()
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: worker("rollup", **catalogue), range(8)))
    assert [run.returncode for run in runs] == [0] * 8, [run.stderr for run in runs]
    rollup()
    assert_exact(rollup, rows)


def test_bounded(rollup: Rollup) -> None:
    """A run stops in time, the next runs continue, and each one records how far it is behind."""
    rows = history(9, hours=40)
    rollup.insert(rows)
    until = None
    runs = 0
    while runs < 30:
        runs += 1
        outcome = rollup(clock=slow_clock(4), PASS_DEADLINE="6")
        assert outcome.rolled is not None
        assert outcome.rolled.hours + outcome.rolled.days <= 12
        assert until is None or outcome.rolled.until is None or outcome.rolled.until >= until
        until = outcome.rolled.until
        recorded = "SELECT value FROM system_metrics WHERE metric_name = 'rollup_behind_s'"
        values = [row["value"] for row in rollup.database.rows(recorded)]
        assert outcome.rolled.behind_s in values
        if not outcome.rolled.behind_s:
            break
    assert runs > 3
    assert_exact(rollup, rows)


def test_late_samples(rollup: Rollup) -> None:
    """Samples that arrive hours late are in the next run."""
    rows = history(10, hours=30)
    late = [row for row in rows if last_hour() - timedelta(hours=3) <= row.time < last_hour()]
    rollup.insert([row for row in rows if row not in late])
    rollup()
    rollup.insert(late)
    rollup()
    for key, row in expected(rows, HOUR).items():
        assert rollup.rows(HOUR)[key]["samples"] == row["samples"]


def test_removed_samples(rollup: Rollup) -> None:
    """An hour keeps its row if some of its samples are removed later."""
    rows = history(11, hours=5)
    rollup.insert(rows)
    rollup()
    before = rollup.rows(HOUR)
    rollup.database.rows("DELETE FROM system_metrics WHERE extract(minute FROM time) > 9")
    rollup()
    assert rollup.rows(HOUR) == before


def test_odd_rows(rollup: Rollup) -> None:
    """No odd row makes a run fail. A row that does not fit into the key is left out."""
    hour = last_hour() - timedelta(hours=1)
    rollup.insert(
        [
            Row(hour, "a", "c", ["no", "object"], 1.0),
            Row(hour, "a", "c", "text", 1.0),
            Row(hour, "a", "long", {"k": random.Random(1).randbytes(4000).hex()}, 1.0),
            Row(hour, "x" * 3000, "long", {}, 1.0),
            Row(hour, "a", "edge", {"k": random.Random(1).randbytes(1190).hex()}, 1.0),
            Row(hour, "a", "nan", {}, math.nan),
            Row(hour + timedelta(hours=99), "a", "future", {}, 1.0),
            Row(datetime(2001, 2, 3, 4, 5, tzinfo=UTC), "a", "past", {}, 1.0),
        ]
    )
    if not rollup.database.is_hypertable:
        rollup.database.rows(
            "INSERT INTO system_metrics (time, metric_name, value) VALUES"
            " ('infinity', 'm', 1), ('-infinity', 'm', 1), ('4713-01-01 BC', 'm', 1)"
        )
    outcome = rollup(HISTORY_DAYS="0")
    assert outcome.result is Result.RECORDED
    metrics = {key[2] for key in rollup.rows(HOUR)}
    assert metrics == {"c", "edge", "past"}
    assert {key[2] for key in rollup.rows(DAY)} >= {"past"}


def test_clock_set_back(rollup: Rollup) -> None:
    """Rows in the future do not stop the rollup."""
    rollup.insert(history(12, hours=3))
    rollup()
    rows = rollup.rows(HOUR)
    rollup.database.rows("UPDATE ops_worker_hour SET begun = begun + interval '2 days'")
    rollup()
    assert rows.keys() <= rollup.rows(HOUR).keys()


def test_dry_run(rollup: Rollup) -> None:
    """A dry run shows what would be written, and writes nothing."""
    rollup.insert(history(13, hours=5))
    rollup.database.rows(
        "DELETE FROM system_metrics WHERE service IS NULL OR service = 'ops_worker'"
    )
    assert rollup().rolled is not None
    rollup.database.rows("DELETE FROM ops_worker_hour")
    before = rollup.database.value("SELECT count(*) FROM system_metrics")
    outcome = rollup(dry_run=True, SAMPLES_DAYS="1")
    assert outcome.result is Result.DRY_RUN
    assert outcome.rolled is not None
    assert outcome.rolled.hours >= 4
    assert outcome.rolled.rows == 0
    assert rollup.rows(HOUR) == {}
    assert rollup.database.value("SELECT count(*) FROM system_metrics") == before


def test_empty(rollup: Rollup) -> None:
    """Without samples, a run does nothing and is not behind."""
    outcome = rollup(RECORD_OWN_METRICS="false")
    assert outcome.rolled is not None
    assert (outcome.rolled.hours, outcome.rolled.behind_s) == (0, 0)
    assert rollup.database.value("SELECT count(*) FROM system_metrics") == 0


OLD_ROWS = """
INSERT INTO ops_worker_hour (service, metric_name, begun, samples, mean, least, most, latest)
SELECT 'a', 'g', at, 1, 1, 1, 1, 1
FROM generate_series(now() - interval '40 days', now(), '10 hours') AS at;
INSERT INTO ops_worker_day (service, metric_name, begun, samples, mean, least, most, latest)
SELECT 'a', 'g', at, 1, 1, 1, 1, 1
FROM generate_series(now() - interval '40 days', now(), '1 day') AS at;
INSERT INTO ops_worker_config (config, first_at) VALUES
    ('unused', now() - interval '99 days'), ('used', now() - interval '99 days'), ('new', now());
INSERT INTO ops_worker_run (id, pass, period_s, config, first_at, last_at)
OVERRIDING SYSTEM VALUE VALUES
    (1, 'health', 60, 'unused', now() - interval '60 days', now() - interval '50 days'),
    (2, 'health', 60, 'used', now() - interval '50 days', now() - interval '40 days'),
    (3, 'health', 60, 'used', now() - interval '39 days', now() - interval '38 days'),
    (4, 'metrics', 60, 'used', now() - interval '39 days', now() - interval '38 days');
INSERT INTO ops_worker_span
    (pass, service, state, first_at, first_no, run, last_at, last_no, last_run)
SELECT 'health', 'a', 'down', at, 1, 1, at + interval '1 hour', 2, 1
FROM generate_series(now() - interval '60 days', now() - interval '50 days', '5 hours') AS at;
INSERT INTO ops_worker_span (pass, service, state, first_at, first_no, run)
VALUES ('health', 'a', 'healthy', now() - interval '45 days', 1, 2);
INSERT INTO ops_worker_action (at, action)
SELECT now() - make_interval(days => 5 + 10 * n), 'pruned'
FROM generate_series(0, 9) AS n;
"""


def test_history_days(rollup: Rollup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows older than HISTORY_DAYS are removed in small steps. Rows in use are kept."""
    assert main(["init-db"]) == 0
    rollup.database.rows(OLD_ROWS)
    unlimited = rollup(HISTORY_DAYS="0").rolled
    assert unlimited is not None
    assert unlimited.removed == {}
    monkeypatch.setattr(rollup_writes, "REMOVED_ROWS", 10)
    rolled = rollup(HISTORY_DAYS="30").rolled
    assert rolled is not None
    assert rolled.removed == {
        "ops_worker_hour": 25,
        "ops_worker_day": 11,
        "ops_worker_span": 49,
        "ops_worker_run": 1,
        "ops_worker_config": 1,
        "ops_worker_action": 7,
    }
    for table in ("ops_worker_hour", "ops_worker_day"):
        assert rollup.database.value(f"SELECT min(begun) > now() - interval '30 days' FROM {table}")
    # Run 2 has a span that lasts. Runs 3 and 4 are the newest of their passes.
    numbers = rollup.database.rows("SELECT id FROM ops_worker_run ORDER BY id")
    assert [row["id"] for row in numbers] == [2, 3, 4]
    configs = rollup.database.rows("SELECT config FROM ops_worker_config ORDER BY config")
    assert [row["config"] for row in configs] == ["new", "used"]


def test_may_not_remove(rollup: Rollup) -> None:
    """A role that may not remove rows still rolls up. A warning names the table."""
    assert main(["init-db"]) == 0
    rollup.insert(history(19, hours=3))
    rollup.database.rows("CREATE ROLE ops_keeper LOGIN PASSWORD 'x' BYPASSRLS")
    rollup.database.rows(
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO ops_keeper"
    )
    outcome = rollup(DATABASE_URL=rollup.database.as_user("ops_keeper"))
    rollup.database.rows("DROP OWNED BY ops_keeper; DROP ROLE ops_keeper")
    assert outcome.result is Result.RECORDED
    assert any(
        "old rows of ops_worker_hour are not removed" in warning for warning in outcome.warnings
    )
    assert rollup.rows(HOUR) != {}


def test_fills_the_ledger(rollup: Rollup) -> None:
    """The rollup fills the ledger once, from samples before its first pass. A failure warns."""
    assert main(["init-db"]) == 0
    rollup.database.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value)"
        " SELECT now() - interval '2 days' + make_interval(secs => n * 60), 'healthy', 'a', 1"
        " FROM generate_series(0, 600) AS n"
    )
    rollup.database.rows(
        "INSERT INTO ops_worker_run (pass, period_s, first_at, last_at)"
        " VALUES ('metrics', 5, now() - interval '1 day', now())"
    )
    rollup(dry_run=True)
    spans = "SELECT service, state, last_no FROM ops_worker_span"
    assert rollup.database.rows(spans) == []
    for _ in range(2):
        assert rollup().warnings == ()
        assert rollup.database.rows(spans) == [{"service": "a", "state": "healthy", "last_no": 601}]
    rollup.database.rows("ALTER TABLE ops_worker_run RENAME COLUMN digest TO other")
    (warning,) = rollup().warnings
    assert warning.startswith("the ledger is not filled from older samples: ")


def test_without_ledger(rollup: Rollup) -> None:
    """Without the tables of the ledger, old rows of the other tables are still removed."""
    rollup()
    rollup.database.rows(
        "DROP TABLE IF EXISTS ops_worker_run, ops_worker_span, ops_worker_config CASCADE"
    )
    assert rollup(HISTORY_DAYS="30").result is Result.RECORDED


@pytest.mark.plain_table
def test_samples_days(rollup: Rollup, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SAMPLES_DAYS, old samples of a plain table are removed after they are rolled up."""
    rows = history(14, hours=99)
    rollup.insert(rows)
    monkeypatch.setattr(rollup_writes, "REMOVED_ROWS", 100)
    assert rollup().rolled.removed.get("system_metrics") is None  # type: ignore[union-attr]
    rolled = rollup(SAMPLES_DAYS="2").rolled
    assert rolled is not None
    assert rolled.removed["system_metrics"] > 100
    oldest = rollup.database.value("SELECT min(time) FROM system_metrics")
    assert timedelta(days=1.9) < datetime.now(UTC) - oldest < timedelta(days=3.1)
    assert_exact(rollup, rows)


def test_samples_days_of_a_hypertable(rollup: Rollup) -> None:
    """Samples of a hypertable, which is a table with children, are never removed."""
    if not rollup.database.is_hypertable:
        rollup.database.rows("CREATE TABLE chunk () INHERITS (system_metrics)")
    rows = history(15, hours=99)
    rollup.insert(rows)
    rolled = rollup(SAMPLES_DAYS="2").rolled
    assert rolled is not None
    assert "system_metrics" not in rolled.removed
    assert_exact(rollup, rows)


def test_samples_of_what_is_behind_stay(rollup: Rollup) -> None:
    """Samples that are not rolled up yet are never removed."""
    rows = history(16, hours=99)
    rollup.insert(rows)
    outcome = rollup(clock=slow_clock(3), PASS_DEADLINE="6", SAMPLES_DAYS="1")
    assert outcome.rolled is not None
    assert outcome.rolled.behind_s > 0
    while rollup(SAMPLES_DAYS="1").rolled.behind_s:  # type: ignore[union-attr]
        pass
    assert_exact(rollup, rows)


def test_too_long(rollup: Rollup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day that takes too long is an error with a remedy. Hours are rolled up all the same."""
    rows = history(17, hours=50)
    rollup.insert(rows)
    roll_up = rollup_writes.roll_up

    def slow(transaction: Any, part: Slice, parameters: Any) -> int:
        if part.level == DAY:
            raise StatementTimeoutError("canceling statement due to statement timeout")
        return roll_up(transaction, part, parameters)

    with monkeypatch.context() as patched:
        patched.setattr(rollup_writes, "roll_up", slow)
        with pytest.raises(DatabaseError, match="raise PASS_DEADLINE"):
            rollup()
    assert rollup.rows(HOUR).keys() == expected(rows, HOUR).keys()
    assert rollup.rows(DAY) == {}
    assert (
        rollup.database.value(
            "SELECT count(*) FROM system_metrics WHERE metric_name = 'rollup_behind_s'"
        )
        == 0
    )
    rollup()
    assert_exact(rollup, rows)


def test_another_process_takes_over(rollup: Rollup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends if another process takes the lock, and is skipped if it never gets the lock."""
    rollup.insert(history(18, hours=10))
    rollup(dry_run=False, HISTORY_DAYS="0")
    rollup.database.rows("DELETE FROM ops_worker_hour")
    write = Store.write
    calls = iter(range(100))

    def third_is_locked(self: Store, *args: Any, **kwargs: Any) -> Any:
        return write(self, *args, **kwargs) if next(calls) < 2 else None

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", third_is_locked)
        outcome = rollup()
    assert outcome.rolled is not None
    assert (outcome.result, outcome.rolled.hours) == (Result.RECORDED, 1)
    with psycopg.connect(rollup.database.url) as session:
        session.execute("SELECT pg_advisory_xact_lock(%s, 3)", [0x6F707377])
        assert rollup().result is Result.SKIPPED


def test_waiting(rollup: Rollup) -> None:
    """In a loop, the rollup waits while an earlier pass is being recorded."""

    @contextlib.contextmanager
    def recording() -> Iterator[None]:
        raise StillRecordingError("an earlier pass")
        yield

    assert rollup(recording=recording).result is Result.WAITING


def test_shards(rollup: Rollup) -> None:
    """Only shard 0 rolls up. Its self-metrics have no shard, because it has no other shards."""
    assert rollup(SHARD_COUNT="3", JOB_COMPLETION_INDEX="1").result is Result.OFF
    assert rollup(SHARD_COUNT="3").result is Result.RECORDED
    tags = rollup.database.rows("SELECT DISTINCT tags FROM system_metrics")
    assert [row["tags"] for row in tags] == [{"pass": "rollup", "period_s": "3600"}]


def test_standalone(
    empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``init-db --standalone`` suggests how to remove old samples until SAMPLES_DAYS is set."""
    monkeypatch.setenv("DATABASE_URL", empty.url)
    hint = "set SAMPLES_DAYS=7 and run `ops-worker rollup` every hour"
    assert main(["init-db", "--standalone"]) == 0
    assert hint in capsys.readouterr().out
    assert main(["init-db"]) == 0
    monkeypatch.setenv("SAMPLES_DAYS", "7")
    assert main(["init-db", "--standalone"]) == 0
    monkeypatch.delenv("SAMPLES_DAYS")
    empty.rows("CREATE TABLE chunk () INHERITS (system_metrics)")
    assert main(["init-db", "--standalone"]) == 0
    assert hint not in capsys.readouterr().out


def test_single_pass_period(rollup: Rollup) -> None:
    """A rollup without PASS_PERIOD has a period of one hour, and is stopped after three."""
    assert main(["rollup"]) == 0
    period = (
        "SELECT DISTINCT tags ->> 'period_s' FROM system_metrics WHERE tags ->> 'pass' = 'rollup'"
    )
    assert rollup.database.value(period) == "3600"


def test_missing_tables(rollup: Rollup) -> None:
    """If the role may not create the tables, the error names the command to run."""
    rollup.database.rows("CREATE ROLE ops_small LOGIN PASSWORD 'x'")
    rollup.database.rows("GRANT ALL ON ALL TABLES IN SCHEMA public TO ops_small")
    rollup.database.rows("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with pytest.raises(SchemaError, match=r"no table ops_worker_hour, ops_worker_day.*init-db"):
        rollup(DATABASE_URL=rollup.database.as_user("ops_small"))
    rollup.database.rows("DROP OWNED BY ops_small; DROP ROLE ops_small")


def test_never_waited_for(rollup: Rollup) -> None:
    """While a slice is written, the other passes do not wait."""
    rollup()
    with psycopg.connect(rollup.database.url) as session:
        session.execute("SELECT pg_advisory_xact_lock(%s, 3)", [0x6F707377])
        session.execute("LOCK TABLE ops_worker_hour, ops_worker_day IN EXCLUSIVE MODE")
        assert main(["health", "--output", "json"]) == main(["metrics"]) == 0


def test_never_installed(rollup: Rollup, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing rollup opens no alert and is not mentioned. A stopped one opens an alert."""
    for _ in range(2):
        assert main(["health"]) == main(["metrics"]) == 0
    alerts = "SELECT count(*) FROM fleet_alert WHERE fingerprint = 'system-health:ops_worker'"
    assert rollup.database.value(alerts) == 0
    capsys.readouterr()
    main(["status"])
    main(["explain", "ops_worker"])
    assert "rollup" not in capsys.readouterr().out
    rollup()
    main(["status"])
    assert "rollup" in capsys.readouterr().out
    rollup.database.move_samples("time - interval '2 hours'", "tags ->> 'pass' = 'rollup'")
    main(["health"])
    assert rollup.database.value(alerts) == 0
    rollup.database.move_samples("time - interval '2 hours'", "tags ->> 'pass' = 'rollup'")
    main(["health"])
    assert rollup.database.value(alerts) == 1
    assert list(PASSES) == ["health", "metrics", ROLLUP.name]
