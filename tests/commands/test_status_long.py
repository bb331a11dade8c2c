"""`ops-worker status` over a long period: the rollup has the same numbers as the samples."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ops_worker.cli import main
from ops_worker.core.ledger import Sight, Sighting
from ops_worker.core.rollup import HOUR, floor
from tests.recorder import Recorder

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = pytest.mark.integration

Document = dict[str, Any]
DAY_S = 86_400.0
PERIOD_S = 120
COUNTER = ("ingest", "messages_received")
GAUGE = ("platform", "devices_online")
LATENCY = ("ingest", "probe_latency_ms")


class History(NamedTuple):
    """A database with a history, and its samples: the time of each pass, and its values."""

    database: Database
    ticks: list[datetime]
    values: dict[tuple[str, str], dict[datetime, float]]


@pytest.fixture
def history(configured: Database) -> History:
    """Return six days of passes every 120 s, up to now, with holes, missed passes and resets."""
    configured.rows("DELETE FROM system_metrics")
    assert main(["init-db"]) == 0
    configured.rows("INSERT INTO service_health (service, status) VALUES ('ingest', 'healthy')")
    end = datetime.now(UTC).replace(microsecond=0)
    count = int(6 * DAY_S / PERIOD_S)
    ticks = [
        end - timedelta(seconds=PERIOD_S * (count - n) - 7 * (n % 3))
        for n in range(count)
        if n % 97 and not 2000 < n < 2100
    ]
    values = {
        COUNTER: {at: float((n * 50) % 40_000) for n, at in enumerate(ticks)},
        GAUGE: {at: 100 + 90 * math.sin(n / 60) for n, at in enumerate(ticks)},
        LATENCY: {at: float(5 + n % 17) for n, at in enumerate(ticks) if n % 5},
    }
    rows = [
        (at, metric, service, Jsonb({}), value)
        for (service, metric), samples in values.items()
        for at, value in samples.items()
    ]
    tags = Jsonb({"pass": "health", "period_s": str(PERIOD_S)})
    for name in ("pass_success", "maintenance"):
        rows += [(at, name, "ops_worker", tags, 1.0) for at in ticks]
    with psycopg.connect(configured.url, autocommit=True) as connection:
        with connection.cursor().copy(
            "COPY system_metrics (time, metric_name, service, tags, value) FROM STDIN"
        ) as copy:
            copy.set_types(["timestamptz", "text", "text", "jsonb", "float8"])
            for row in rows:
                copy.write_row(row)
        connection.execute("ANALYZE system_metrics")
    configured.compress()
    assert main(["rollup"]) == 0
    return History(configured, ticks, values)


def enter_in_ledger(history: History) -> None:
    """Write the ledger of the passes. Each pass saw a service one second after its begin."""
    recorder = Recorder()
    for at in history.ticks:
        sight = Sight("ingest", at + timedelta(seconds=1), "healthy")
        recorder.record_all([Sighting(at, (sight,), PERIOD_S, "c")])
    for run in recorder.runs:
        history.database.rows(
            "INSERT INTO ops_worker_run (pass, period_s, first_at, last_at, passes)"
            " VALUES ('health', %s, %s, %s, %s)",
            run.period_s, run.first_at, run.last_at, run.passes,
        )  # fmt: skip


def status(capsys: pytest.CaptureFixture[str], since: str) -> Document:
    """Return the document of `status`."""
    capsys.readouterr()
    assert main(["status", "--output", "json", "--since", since]) == 0
    document: Document = json.loads(capsys.readouterr().out)
    return document


def begins(document: Document) -> list[datetime]:
    """Return the begins of the 24 buckets of a document, which covers at most 31 days."""
    length = timedelta(seconds=document["samples_since_s"])
    begun = datetime.fromisoformat(document["at"]) - length
    return [begun, *(floor(begun + length * n / 24, HOUR) for n in range(1, 24))]


def means(samples: dict[datetime, float], edges: list[datetime]) -> list[float | None]:
    """Return the mean of the samples in each bucket."""
    result: list[float | None] = []
    for begin, end in pairwise([*edges, datetime.max.replace(tzinfo=UTC)]):
        own = [value for at, value in samples.items() if begin <= at < end]
        result.append(math.fsum(own) / len(own) if own else None)
    return result


def near(value: float | None) -> Any:
    """Return a value that equals this number except for rounding."""
    return None if value is None else pytest.approx(value, rel=1e-9)


def missed(ticks: list[datetime], document: Document) -> int:
    """Return the number of passes that were due between two others."""
    begun = begins(document)[0]
    own = [at for at in ticks if at > begun]
    gaps = [round((b - a).total_seconds() / PERIOD_S) - 1 for a, b in pairwise(own)]
    return sum(max(0, gap) for gap in gaps)


def of_series(document: Document, key: tuple[str, str]) -> Document:
    """Return a series of a document."""
    (item,) = [item for item in document["series"] if (item["service"], item["metric"]) == key]
    return dict(item)


def health(document: Document) -> Document:
    """Return the health pass of a document."""
    (item,) = [item for item in document["passes"] if item["pass"] == "health"]
    return dict(item)


def test_numbers(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """Means, newest values, rates and missed passes equal those of the single samples."""
    enter_in_ledger(history)
    for since, days in (("3d", 3), ("5d", 5), ("30d", 30)):
        document = status(capsys, since)
        assert document["since_s"] == document["samples_since_s"] == days * DAY_S
        edges = begins(document)
        item = of_series(document, GAUGE)
        expected = means(history.values[GAUGE], edges)
        assert item["history"] == [near(value) for value in expected]
        latencies = [row for row in document["services"] if row["service"] == LATENCY[0]]
        expected = means(history.values[LATENCY], edges)
        assert [row["latency_history"] for row in latencies] == [[near(v) for v in expected]]
        assert item["value"] == history.values[GAUGE][history.ticks[-1]]
        assert datetime.fromisoformat(item["time"]) == history.ticks[-1]
        counter = of_series(document, COUNTER)
        samples = history.values[COUNTER]
        # The first step begins at the last sample before the period.
        before = [at for at in history.ticks if at <= edges[0]][-1:]
        own = before + [at for at in history.ticks if at > edges[0]]
        grown = sum(
            samples[b] if samples[b] < samples[a] else samples[b] - samples[a]
            for a, b in pairwise(own)
        )
        rate = grown / (own[-1] - own[0]).total_seconds()
        assert counter["rate_per_s"] == pytest.approx(rate, rel=1e-9)
        assert health(document)["missed"] == missed(history.ticks, document) > 10
        assert health(document)["missed_is_least"] is False


def test_without_samples(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples that the retention removed still count, also in a series that has ended."""
    enter_in_ledger(history)
    history.database.rows(
        "DELETE FROM system_metrics WHERE metric_name = 'devices_online' AND time > %s",
        history.ticks[-1] - timedelta(hours=40),
    )
    history.database.rows("TRUNCATE ops_worker_hour, ops_worker_day")
    assert main(["rollup"]) == 0
    before = status(capsys, "30d")
    history.database.rows("DELETE FROM system_metrics WHERE time < now() - interval '30 hours'")
    after = status(capsys, "30d")
    assert health(after)["missed"] == health(before)["missed"] == missed(history.ticks, before)
    for key in (COUNTER, GAUGE):
        first, second = of_series(before, key), of_series(after, key)
        # The period of the second document begins later, but in the same hour.
        assert [value for value in second["history"] if value is not None] == pytest.approx(
            [value for value in first["history"] if value is not None]
        )
        assert second["value"] == first["value"]
        assert second["rate_per_s"] == first["rate_per_s"]
    ended = datetime.fromisoformat(of_series(before, GAUGE)["time"])
    assert datetime.fromisoformat(of_series(after, GAUGE)["time"]) == floor(ended, HOUR)
    assert of_series(after, GAUGE)["stale"]


def test_marked_where_the_ledger_does_not_know(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the runs, the number of missed passes is a lower bound.

    A pass that was not due may hide a missed pass.
    """
    document = status(capsys, "3d")
    expected = missed(history.ticks, document)
    assert health(document)["missed"] == expected
    assert health(document)["missed_is_least"] is True
    assert main(["status", "--since", "3d"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("health ")]
    assert line.split()[-2:] == ["≥", str(expected)]
    assert main(["report", "-o", "-", "--since", "3d"]) == 0
    assert f">≥ {expected}</data>" in capsys.readouterr().out
    short = status(capsys, "2d")
    assert health(short)["missed"] == missed(history.ticks, short)
    assert health(short)["missed_is_least"] is False


def test_very_long(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """A year is covered with the rollup, and 31 days without it.

    The document has the covered period.
    """
    document = status(capsys, "1y")
    assert document["samples_since_s"] == document["since_s"] == 365 * DAY_S
    buckets = [value for value in of_series(document, GAUGE)["history"] if value is not None]
    (mean,) = buckets
    values = list(history.values[GAUGE].values())
    assert mean == pytest.approx(math.fsum(values) / len(values))
    history.database.rows("DROP TABLE ops_worker_hour, ops_worker_day")
    document = status(capsys, "1y")
    assert (document["samples_since_s"], document["since_s"]) == (31 * DAY_S, 365 * DAY_S)
    assert of_series(document, GAUGE)["value"] == values[-1]
