"""Samples that wait for the database: the metrics pass with a backlog, on a real server."""

from __future__ import annotations

import contextlib
import math
import re
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest

from ops_worker import settings
from ops_worker.adapters import http
from ops_worker.adapters.postgres import Store
from ops_worker.adapters.postgres.specs import LOCK_SPACE
from ops_worker.core.backlog import Backlog, Pending
from ops_worker.core.model import Outcome, Result, Sample, Tick
from ops_worker.core.output import text
from ops_worker.core.passes import METRICS, PASSES
from ops_worker.errors import CommitUnknownError, DatabaseError, SchemaError, StillRecordingError
from ops_worker.passes import Context, function_of, metrics
from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.conftest import Database

pytestmark = pytest.mark.integration

AWAY = "postgresql://a:b@127.0.0.1:9/d"
ONE = Pending(0.0, (Sample("a", "b", 1.0),))


@pytest.fixture(autouse=True)
def _nothing_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let these passes take only the database's own sample."""
    monkeypatch.setenv("PG_PASS", "x")
    for name in ("INGEST_URL", "EVALUATOR_URL", "DISPATCHER_URL", "DELIVERY_URL"):
        monkeypatch.setenv(name, "")


def sample(url: str, backlog: Backlog | None) -> Outcome:
    """Run one pass on this database with this backlog."""
    with contextlib.closing(Store({"conninfo": url})) as store:
        return metrics.run(
            Context(settings.load(), http.observe, store, time.monotonic, backlog=backlog)
        )


def flush(url: str, backlog: Backlog | None) -> int:
    """Write the samples that wait. Return their number."""
    with contextlib.closing(Store({"conninfo": url})) as store:
        context = Context(settings.load(), http.observe, store, time.monotonic, backlog=backlog)
        return metrics.flush(context, time.monotonic() + 60)


def test_away_and_back(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Failed samples wait, the oldest is dropped on overflow, and one pass writes the others."""
    backlog = Backlog(2)
    for _ in range(3):
        with pytest.raises(DatabaseError):
            sample(AWAY, backlog)
        time.sleep(0.01)
    assert (len(backlog), backlog.dropped) == (2, 1)
    assert [record.action for record in caplog.records if hasattr(record, "action")] == [
        "samples dropped"
    ]
    assert sample(database.url, backlog).result is Result.RECORDED
    assert len(backlog) == 0
    rows = database.rows(
        "SELECT time, value FROM system_metrics WHERE metric_name = 'healthy' ORDER BY time"
    )
    assert [row["value"] for row in rows] == [0.0, 0.0, 1.0]
    assert len({row["time"] for row in rows}) == 3
    periods = database.rows(
        "SELECT time, tags ->> 'period_s' AS period_s FROM system_metrics "
        "WHERE metric_name = 'pass_success' ORDER BY time"
    )
    assert [(row["time"], row["period_s"]) for row in periods] == [
        (row["time"], "60") for row in rows
    ], "each with its period"


def test_the_end_of_an_outage(database: Database) -> None:
    """The first pass that is recorded after a long gap marks the end of the outage."""
    backlog = Backlog(10)
    now = time.monotonic()
    backlog.add(Pending(now - 170.0, ONE.samples))
    sample(database.url, backlog)
    assert backlog.resumed_at is None
    backlog = Backlog(10)
    backlog.add(Pending(now - 190.0, ONE.samples))
    sample(database.url, backlog)
    assert backlog.resumed_at is not None and backlog.resumed_at >= now


@pytest.mark.parametrize(
    ("own_ages_s", "resumed_s", "expected"),
    [
        # Rows of the outage, written later: only the loop knows when recording resumed.
        (range(5, 700, 5), 10.0, ()),
        (range(5, 700, 5), 149.0, ()),
        (range(5, 700, 5), 151.0, ("ops_worker",)),
        (range(5, 700, 5), None, ("ops_worker",)),
        # A gap in the rows.
        ((5, 10, 600), None, ()),
        ((*range(5, 155, 5), 600), None, ("ops_worker",)),
    ],
)
def test_a_slower_pass_gets_its_turn(
    database: Database, own_ages_s: Sequence[int], resumed_s: float | None, expected: tuple[str]
) -> None:
    """After an outage of the database, a fast loop gives a pass of 60 s a turn before it alerts."""
    row = (
        "INSERT INTO system_metrics (time, metric_name, service, value, tags) "
        "SELECT now() - make_interval(secs => s), %s, 'ops_worker', 1, "
        "jsonb_build_object('pass', %s::text, 'period_s', %s::text) FROM unnest(%s::int[]) AS s"
    )
    database.rows(row, "pass_success", "metrics", "5", [*own_ages_s])
    database.rows(row, "maintenance", "health", "60", [600])
    backlog = Backlog(10)
    if resumed_s is not None:
        backlog.resumed_at = time.monotonic() - resumed_s
    assert sample(database.url, backlog).opened == expected


def test_permanent(database: Database) -> None:
    """A sample that no retry helps is set apart. Without a backlog, the pass fails."""
    database.rows("DROP TABLE system_metrics CASCADE")
    backlog = Backlog(10)
    with pytest.raises(SchemaError):
        sample(database.url, backlog)
    assert (len(backlog), backlog.apart) == (0, 1)
    with pytest.raises(DatabaseError):
        sample(AWAY, None)


@pytest.mark.parametrize("verdict_word", ["deaf", "drop"])
def test_in_doubt(database: Database, monkeypatch: pytest.MonkeyPatch, verdict_word: str) -> None:
    """The next pass checks a COMMIT without an answer. Each sample is written once."""
    monkeypatch.setattr("ops_worker.adapters.postgres.connection.SETTLE_S", 0.0)
    database.create_ledger()
    backlog = Backlog(10)
    backlog.add(ONE)
    cut: list[str] = []

    def watch(_: int, data: bytes) -> str:
        if b"COMMIT\x00" in data or cut:
            cut.append(verdict_word if not cut else "drop")
            return cut[-1]
        return ""

    with (
        Proxy(urlsplit(database.url).port or 5432, watch) as proxy,
        pytest.raises(CommitUnknownError),
    ):
        sample(re.sub(r":\d+/", f":{proxy.port}/", database.url), backlog)
    assert backlog.in_doubt is not None
    assert (len(backlog.in_doubt[1]), len(backlog)) == (1, 1)
    while database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"):
        time.sleep(0.01)
    sample(database.url, backlog)
    assert len(backlog) == 0
    assert not backlog.in_doubt
    assert database.value("SELECT count(*) FROM system_metrics WHERE service = 'a'") == 1
    assert database.value("SELECT count(*) FROM system_metrics WHERE metric_name = 'healthy'") == 2


PARTITIONED = """
    ALTER TABLE system_metrics RENAME TO former;
    CREATE TABLE system_metrics (LIKE former INCLUDING DEFAULTS) PARTITION BY RANGE (time);
    CREATE TABLE now PARTITION OF system_metrics
        FOR VALUES FROM (now() - interval '1 minute') TO ('infinity')
"""
FORMER = "CREATE TABLE before PARTITION OF system_metrics FOR VALUES FROM (MINVALUE) TO (%s)"
SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON system_metrics FOR EACH ROW EXECUTE FUNCTION slow()
"""


def waiting(ages_s: Sequence[float]) -> Backlog:
    """Return a backlog with one sample of one row for each age in seconds."""
    backlog = Backlog(100)
    for number, age_s in enumerate(ages_s):
        row = Sample("old", f"m{number}", float(number))
        backlog.add(Pending(time.monotonic() - age_s, (row,)))
    return backlog


def old_rows(database: Database) -> list[str]:
    """Return the names of the old samples in the database, with repetitions."""
    rows = database.rows("SELECT metric_name FROM system_metrics WHERE service = 'old' ORDER BY 1")
    return [row["metric_name"] for row in rows]


def test_a_refused_sample_holds_up_no_other(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A sample without a partition is set apart. The others and the new one are written once."""
    database.rows(PARTITIONED)
    backlog = waiting([30, 7200, 20, 10])
    assert sample(database.url, backlog).result is Result.RECORDED
    assert (len(backlog), backlog.apart, backlog.dropped) == (0, 1, 0)
    assert old_rows(database) == ["m0", "m2", "m3"]
    apart = [
        record for record in caplog.records if getattr(record, "action", "") == "samples set apart"
    ]
    assert len(apart) == 1
    assert "partition" in vars(apart[0])["error"]
    assert sample(database.url, backlog).result is Result.RECORDED, "new samples flow"
    assert database.value("SELECT count(*) FROM system_metrics WHERE metric_name = 'healthy'") == 2


def test_a_refused_sample_is_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that was set apart is tried again, and written once it has a partition."""
    monkeypatch.setattr("ops_worker.passes.metrics.APART_RETRY_S", 0.0)
    database.rows(PARTITIONED)
    backlog = waiting([7300, 7200])
    for _ in range(3):
        sample(database.url, backlog)
        assert backlog.apart == 2
    start = database.value("SELECT date_trunc('second', now() - interval '1 hour')")
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(FORMER.replace("%s", f"'{start}'"))
    sample(database.url, backlog)
    assert (len(backlog), backlog.apart) == (0, 0)
    assert old_rows(database) == ["m0", "m1"]


def test_slices_that_are_too_slow(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice that exceeds the statement timeout is halved until it fits. No sample is lost."""
    monkeypatch.setattr("ops_worker.adapters.postgres.specs.STATEMENT_TIMEOUT_MS", 1_000)
    database.rows(SLOW)
    backlog = waiting([60.0 - number for number in range(40)])
    assert flush(database.url, backlog) == 40
    assert (len(backlog), backlog.apart) == (0, 0)
    assert len(old_rows(database)) == len({*old_rows(database)}) == 40


def test_a_sample_that_is_always_too_slow(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that exceeds the statement timeout alone is set apart."""
    monkeypatch.setattr("ops_worker.adapters.postgres.specs.STATEMENT_TIMEOUT_MS", 10)
    database.rows(SLOW)
    backlog = waiting([1])
    assert flush(database.url, backlog) == 0
    assert (len(backlog), backlog.apart) == (0, 1)


def scripted(backlog: Backlog | None, *results: object) -> Context:
    """Return a context whose database fails or runs the work, as the results say in turn."""
    remaining = iter(results)

    def write(_: object, work: Callable[[Any], object], **__: object) -> object:
        result = next(remaining)
        if isinstance(result, Exception):
            raise result
        return work(result)

    store: Any = SimpleNamespace(write=write, lock_holder=None)
    return Context(settings.load(), lambda _: [], store, time.monotonic, backlog=backlog)


def accepting(**attributes: object) -> SimpleNamespace:
    """Return a transaction that accepts every sample and has these other attributes."""
    return SimpleNamespace(
        time_of=lambda _: datetime(2026, 3, 1, tzinfo=UTC), execute=lambda *_: None, **attributes
    )


def test_a_slice_in_doubt() -> None:
    """A slice whose COMMIT had no answer is kept for a later check."""
    backlog = waiting([3, 2, 1])
    assert metrics.flush(scripted(backlog, CommitUnknownError("7")), math.inf) == 0
    assert backlog.in_doubt is not None
    assert (backlog.in_doubt[0], len(backlog.in_doubt[1]), len(backlog)) == ("7", 3, 0)


def test_a_slice_that_fails_waits() -> None:
    """A slice that fails because the database is away waits for the next pass."""
    backlog = waiting([3, 2, 1])
    assert metrics.flush(scripted(backlog, DatabaseError("away")), math.inf) == 0
    assert (len(backlog), backlog.apart) == (3, 0)


@pytest.mark.parametrize("committed", [True, False])
def test_flush_settles(committed: bool) -> None:
    """A flush checks a transaction in doubt, and writes its samples if they were lost."""
    backlog = waiting([1])
    backlog.doubt("7", backlog.next_slice())
    transaction = accepting(was_committed=lambda _: committed)
    context = scripted(backlog, transaction, transaction)
    assert metrics.flush(context, math.inf) == (0 if committed else 1)
    assert backlog.unwritten == 0


def test_flush_ends_in_time() -> None:
    """The first slice is always written. No other slice begins after the time is up."""
    backlog = waiting([1] * 70)
    assert metrics.flush(scripted(backlog, accepting(), accepting()), -math.inf) == 64
    assert len(backlog) == 6


def test_refused_without_a_backlog() -> None:
    """For a single pass, which has no backlog, a refused sample is an error."""
    with pytest.raises(SchemaError):
        metrics.run(scripted(None, SchemaError("no partition")))


def test_in_doubt_without_a_backlog() -> None:
    """For a single pass, which has no backlog, a COMMIT without an answer is an error."""
    with pytest.raises(CommitUnknownError):
        metrics.run(scripted(None, CommitUnknownError("7")))


@contextlib.contextmanager
def holding(database: Database, lock: int) -> Iterator[None]:
    """Hold the lock of a pass in a transaction that is older than 0.1 s."""
    with psycopg.connect(database.url) as connection:
        connection.execute(
            "SELECT pg_advisory_xact_lock(%s, %s), pg_sleep(0.1)", [LOCK_SPACE, lock]
        )
        yield


def test_skipped(database: Database) -> None:
    """A pass is skipped if another one holds the lock. Its sample does not wait."""
    backlog = Backlog(10)
    with holding(database, METRICS.transaction.lock):
        assert sample(database.url, backlog).result is Result.SKIPPED
    assert len(backlog) == 0


@pytest.mark.parametrize("name", ["health", "metrics"])
def test_skipped_for_too_long(
    database: Database, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A lock that is held too long is a failure that names its holder."""
    monkeypatch.setattr("ops_worker.core.staleness.MIN_STALE_S", 0.0)
    backlog = Backlog(10)
    with contextlib.closing(Store({"conninfo": database.url})) as store:
        context = Context(
            settings.load(), http.observe, store, time.monotonic, backlog=backlog, period_s=0.01
        )
        with holding(database, PASSES[name].transaction.lock):
            holder = database.value("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
            with pytest.raises(
                DatabaseError, match=rf"{name} pass is skipped.*terminate.*\({holder}\)"
            ):
                function_of(name)(context)
    assert len(backlog) == (1 if name == "metrics" else 0), "the sample waits"


def test_skipped_by_an_old_transaction(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a transaction holds the lock for too long, it takes no samples: those of passes wait."""
    monkeypatch.setattr("ops_worker.passes.metrics.SLOW_HOLDER_S", 0.0)
    backlog = Backlog(10)
    with holding(database, METRICS.transaction.lock):
        assert sample(database.url, backlog).result is Result.SKIPPED
    assert len(backlog) == 1


def test_still_recording(database: Database) -> None:
    """While an earlier pass of the loop is being recorded, the sample of the next pass waits."""

    def busy() -> contextlib.AbstractContextManager[None]:
        raise StillRecordingError

    backlog = Backlog(10)
    with contextlib.closing(Store({"conninfo": database.url})) as store:
        context = Context(
            settings.load(), http.observe, store, time.monotonic, backlog=backlog, recording=busy
        )
        outcomes = [function_of(name)(context) for name in ("metrics", "health")]
    assert [outcome.result for outcome in outcomes] == [Result.WAITING, Result.WAITING]
    assert text(outcomes[0]).startswith(
        "metrics: waiting: an earlier metrics pass is still being recorded"
    )
    assert len(backlog) == 1, "health has no backlog"


def test_flush(database: Database) -> None:
    """A flush writes what waits without a new sample, but not while another pass has the lock."""
    backlog = Backlog(10)
    assert flush(AWAY, None) == flush(AWAY, backlog) == 0
    backlog.add(ONE)
    with contextlib.closing(Store({"conninfo": database.url})) as other_store:
        assert other_store.write(METRICS.transaction, lambda _: flush(database.url, backlog)) == 0
    assert len(backlog) == 1
    assert flush(database.url, backlog) == 1
    assert len(backlog) == 0
    assert database.samples() == {("a", "b"): 1.0}


@pytest.mark.parametrize(
    ("tick", "result", "code"),
    [
        (Tick("metrics", 0.1, outcome=Outcome("metrics", Result.SKIPPED)), "skipped", 0),
        (Tick("metrics", 0.1, error=SchemaError("x")), "failed", 3),
        (Tick("metrics", 0.1, error=DatabaseError("x")), "failed", 1),
        (Tick("metrics", 0.1, error=RuntimeError("x")), "crashed", 1),
    ],
)
def test_tick(tick: Tick, result: str, code: int) -> None:
    """A tick has a result in one word, and the exit code that a single pass would have."""
    assert (result, code) == (tick.result, tick.exit_code)
