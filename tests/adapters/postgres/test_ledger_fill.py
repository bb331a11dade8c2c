"""The ledger is filled from samples that are older than the ledger."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.adapters.postgres import Store, ledger_fill
from ops_worker.adapters.postgres.ledger_fill import SHARD, fill
from ops_worker.core.ledger import Run, Span
from ops_worker.core.passes import LEDGER_TABLES, METRICS
from ops_worker.core.timeline import Coverage

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = pytest.mark.integration

SERVICES = {"ingest": "ingest", "delivery": "delivery_worker"}
SAMPLES = """
INSERT INTO system_metrics (time, metric_name, service, value)
SELECT now() - interval '1 day' + make_interval(secs => n * 5), 'healthy', s.name,
    CASE WHEN s.name = 'delivery' AND n BETWEEN 600 AND 719 THEN 0 ELSE 1 END
FROM generate_series(0, 2999) AS n, (VALUES ('ingest'), ('delivery'), ('postgres')) AS s (name)
WHERE n NOT BETWEEN 1000 AND 1499
"""
"""Four hours of samples every 5 s, with a gap of 2,500 s and ten unhealthy minutes of delivery."""
LIVE = """
INSERT INTO ops_worker_run (pass, period_s, first_at, last_at)
VALUES ('metrics', 5, now() - interval '1 day' + interval '15000 seconds', now())
"""


@pytest.fixture
def store(database: Database) -> Any:
    """Yield a store of a database with the tables of the ledger."""
    database.create_ledger()
    with contextlib.closing(Store({"conninfo": database.url})) as opened:
        yield opened


def fill_all(store: Store) -> int:
    """Fill the ledger to the end. Return the number of steps."""
    for step in range(1000):
        if not store.write(
            METRICS.transaction,
            lambda transaction: fill(transaction, SERVICES),
            optional_tables=LEDGER_TABLES,
        ):
            return step
    raise AssertionError("it never ends")


def rows(database: Database) -> tuple[list[Run], list[Span]]:
    """Return the runs and spans of the ledger."""
    runs, spans = (
        database.rows(f"SELECT {', '.join(kind._fields)} FROM {table} ORDER BY id")
        for kind, table in ((Run, "ops_worker_run"), (Span, "ops_worker_span"))
    )
    return [Run(**row) for row in runs], [Span(**row) for row in spans]


def test_fill(store: Store, database: Database) -> None:
    """The states of samples become spans in steps of an hour, with gaps, and only once."""
    database.rows(SAMPLES)
    database.rows(LIVE)
    assert fill_all(store) == 5
    runs, spans = rows(database)
    filled = [run for run in runs if run.shard == SHARD]
    assert [(run.period_s, run.config) for run in filled] == [(5.0, "")] * 2
    assert all(span.last_at is not None for span in spans)
    assert {span.service for span in spans} == set(SERVICES.values())
    begun = filled[0].first_at
    pieces = Coverage(filled, begun + timedelta(days=1)).timeline(
        [span for span in spans if span.service == "delivery_worker"],
        begun,
        begun + timedelta(seconds=15000),
    )
    assert [(piece.state, round(piece.seconds)) for piece in pieces] == [
        ("healthy", 3000),
        ("unknown", 600),
        ("healthy", 1400),
        ("unseen", 2500),
        ("healthy", 7500),
    ]
    assert pieces[1].reason == "recorded as unhealthy before the ledger began"
    before = rows(database)
    assert fill_all(store) == 0
    assert rows(database) == before


def test_nothing_to_fill(store: Store, database: Database) -> None:
    """Without a pass in the ledger, or without older samples, nothing is filled."""
    database.rows(SAMPLES)
    assert fill_all(store) == 0
    database.rows("DELETE FROM system_metrics")
    database.rows(LIVE)
    assert fill_all(store) == 0
    assert [run.shard for run in rows(database)[0]] == ["0/1"]


def test_one_sample(store: Store, database: Database) -> None:
    """A single sample gets the period of a CronJob."""
    database.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value)"
        " VALUES (now() - interval '1 day', 'healthy', 'ingest', 'NaN')"
    )
    database.rows(LIVE)
    assert fill_all(store) == 1
    runs, (span,) = rows(database)
    assert [run.period_s for run in runs if run.shard == SHARD] == [60.0]
    assert (span.service, span.state) == ("ingest", "unknown")


def test_own_sample(store: Store, database: Database) -> None:
    """The sample of the first pass in the ledger is not filled, because the ledger has it."""
    database.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value)"
        " VALUES (now() - interval '62 s', 'healthy', 'ingest', 1),"
        " (now() - interval '2 s', 'healthy', 'ingest', 1)"
    )
    run = (
        "INSERT INTO ops_worker_run (pass, period_s, first_at, last_at)"
        " VALUES ('metrics', 60, now(), now())"
    )
    database.rows(run)
    assert fill_all(store) == 1
    _, (span,) = rows(database)
    assert span.last_at == span.first_at
    assert database.value("SELECT now() - first_at > interval '60 s' FROM ops_worker_span")


@pytest.mark.parametrize("period_s", ["NaN", "Infinity", "-1"])
def test_odd_period(store: Store, database: Database, period_s: str) -> None:
    """An invalid period does not make the fill fail."""
    database.rows(SAMPLES)
    database.rows(LIVE)
    database.rows("UPDATE ops_worker_run SET period_s = %s::float8", period_s)
    assert fill_all(store) > 0


def test_many_services(store: Store, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step reads a limited number of samples, in whole passes. The result is the same."""
    database.rows(SAMPLES)
    database.rows(LIVE)
    assert fill_all(store) == 5
    runs, spans = rows(database)
    database.rows("DELETE FROM ops_worker_span")
    database.rows(f"DELETE FROM ops_worker_run WHERE shard = '{SHARD}'")
    monkeypatch.setattr(ledger_fill, "ROWS", 101)
    assert fill_all(store) == 50
    assert stripped(*rows(database)) == stripped(runs, spans)


def stripped(runs: list[Run], spans: list[Span]) -> Any:
    """Return runs and spans without the numbers of the database."""
    numbers = {run.id: index for index, run in enumerate(runs)}
    return [run._replace(id=0) for run in runs], [
        span._replace(id=0, run=numbers[span.run], last_run=numbers[span.last_run or 0])
        for span in sorted(spans, key=lambda span: (span.first_at, span.service))
    ]


def test_more_samples_than_rows(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one time has more samples than a step reads, some are left out, and the fill goes on."""
    database.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value)"
        " SELECT now() - make_interval(hours => h), 'healthy', 'ingest', 1"
        " FROM generate_series(3, 4) AS h, generate_series(1, 20)"
    )
    database.rows(
        "INSERT INTO ops_worker_run (pass, period_s, first_at, last_at)"
        " VALUES ('metrics', 5, now(), now())"
    )
    monkeypatch.setattr(ledger_fill, "ROWS", 1)
    assert fill_all(store) == 2
    runs, _ = rows(database)
    assert len([run for run in runs if run.shard == SHARD]) == 2


@pytest.mark.parametrize(("gap_s", "runs"), [(62, 1), (90, 2)])
def test_period_changes(store: Store, database: Database, gap_s: int, runs: int) -> None:
    """A small change of the period begins no new run."""
    for hour, period_s in ((3, 60), (2, gap_s)):
        database.rows(
            "INSERT INTO system_metrics (time, metric_name, service, value)"
            " SELECT now() - make_interval(hours => %s) + make_interval(secs => n * %s),"
            " 'healthy', 'ingest', 1 FROM generate_series(0, 30) AS n",
            hour,
            period_s,
        )
    database.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value)"
        " SELECT now() - interval '3 hours' + make_interval(secs => n * 60), 'healthy', 'ingest', 1"
        " FROM generate_series(31, 58) AS n"
    )
    database.rows(
        "INSERT INTO ops_worker_run (pass, period_s, first_at, last_at)"
        " VALUES ('metrics', 60, now(), now())"
    )
    fill_all(store)
    assert len([run for run in rows(database)[0] if run.shard == SHARD]) == runs


def test_samples_of_any_time(store: Store, database: Database) -> None:
    """Samples with an infinite time do not make the fill fail."""
    database.rows(SAMPLES)
    database.move_samples(f"timestamptz '{database.earliest}'", "value = 0")
    database.rows(LIVE)
    assert fill_all(store) > 0
    assert all(isinstance(run.first_at, datetime) for run in rows(database)[0])
