"""Samples that wait for the database: the metrics pass with a backlog, in this process, against a real server."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from ops_worker import settings
from ops_worker.core.backlog import Backlog, Pending
from ops_worker.core.model import Outcome, Result, Sample, Tick
from ops_worker.edges import probes
from ops_worker.edges.store import METRICS, Store
from ops_worker.errors import CommitUnknownError, DatabaseError, SchemaError
from ops_worker.passes import Context, metrics
from tests.proxy import Proxy

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = pytest.mark.integration

AWAY = "postgresql://a:b@127.0.0.1:9/d"
ONE = Pending(0.0, (Sample("a", "b", 1.0),))


@pytest.fixture(autouse=True)
def _nothing_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """These passes take the database's own sample only."""
    monkeypatch.setenv("PG_PASS", "x")
    for name in ("INGEST_URL", "EVALUATOR_URL", "DISPATCHER_URL", "DELIVERY_URL"):
        monkeypatch.setenv(name, "")


def sample(url: str, backlog: Backlog | None) -> Outcome:
    """Run one pass on this database with this backlog."""
    with contextlib.closing(Store({"conninfo": url})) as store:
        return metrics.run(Context(settings.load(), probes.observe, store, time.monotonic, backlog=backlog))


def flush(url: str, backlog: Backlog | None) -> int:
    """Write what waits."""
    with contextlib.closing(Store({"conninfo": url})) as store:
        context = Context(settings.load(), probes.observe, store, time.monotonic, backlog=backlog)
        return metrics.flush(context, time.monotonic() + 60)


def test_away_and_back(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """What could not be written waits, the oldest goes on overflow, and all is written in one pass with its own time."""
    backlog = Backlog(2)
    for _ in range(3):
        with pytest.raises(DatabaseError):
            sample(AWAY, backlog)
        time.sleep(0.01)
    assert (len(backlog), backlog.dropped) == (2, 1)
    assert [record.action for record in caplog.records if hasattr(record, "action")] == ["samples dropped"]
    assert sample(database.url, backlog).result is Result.RECORDED
    assert len(backlog) == 0
    rows = database.rows("SELECT time, value FROM system_metrics WHERE metric_name = 'healthy' ORDER BY time")
    assert [row["value"] for row in rows] == [0.0, 0.0, 1.0]
    assert len({row["time"] for row in rows}) == 3
    told = database.rows(
        "SELECT time, tags ->> 'period_s' AS period_s FROM system_metrics WHERE metric_name = 'pass_success' ORDER BY time"
    )
    assert [(row["time"], row["period_s"]) for row in told] == [(row["time"], "60") for row in rows], "each with its period"


def test_permanent(database: Database) -> None:
    """What no retry helps is set apart and does not wait; without a backlog nothing does."""
    database.rows("DROP TABLE system_metrics CASCADE")
    backlog = Backlog(10)
    with pytest.raises(SchemaError):
        sample(database.url, backlog)
    assert (len(backlog), backlog.apart) == (0, 1)
    with pytest.raises(DatabaseError):
        sample(AWAY, None)


@pytest.mark.parametrize("verdict_word", ["deaf", "drop"])
def test_in_doubt(database: Database, monkeypatch: pytest.MonkeyPatch, verdict_word: str) -> None:
    """Samples of which nobody knows whether they were written are asked about by the next pass, and written once."""
    monkeypatch.setattr("ops_worker.edges.store.connection.SETTLE_S", 0.0)
    backlog = Backlog(10)
    backlog.add(ONE)
    cut: list[str] = []

    def watch(_: int, data: bytes) -> str:
        if b"COMMIT\x00" in data or cut:
            cut.append(verdict_word if not cut else "drop")
            return cut[-1]
        return ""

    with Proxy(urlsplit(database.url).port or 5432, watch) as proxy, pytest.raises(CommitUnknownError):
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


def test_flush(database: Database) -> None:
    """What waits can be written without a new sample; not while another pass holds the lock."""
    backlog = Backlog(10)
    assert flush(AWAY, None) == flush(AWAY, backlog) == 0
    backlog.add(ONE)
    with contextlib.closing(Store({"conninfo": database.url})) as other:
        assert other.transact(METRICS, lambda _: flush(database.url, backlog)) == 0
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
    """A tick says in a word how it ended, and what a process of that one pass would have ended with."""
    assert (result, code) == (tick.result, tick.exit_code)
