"""Many services: all are recorded, those not probed are reported, a terminal shows progress."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.bench.tools import catalogue, fast_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database, Worker

pytestmark = pytest.mark.acceptance


def test_all_recorded(worker: Worker, database: Database, tmp_path: Path) -> None:
    """One pass of each kind records 2,000 services, with their latency and without queueing time.

    128 probes run at once. So the sum of the latencies is at most 128 times the duration of the
    pass, on any machine. With queueing time, it would be about 1,000 times the duration.
    ``make bench`` measures how exact the latencies are.
    """
    with fast_server(wait_ms=50) as port:
        path = catalogue(tmp_path, 2000, port)
        begun = time.monotonic()
        assert worker("health", OPS_WORKER_CATALOGUE=path).stdout.startswith(
            "health: 2000 services, 2000 healthy ("
        )
        took_ms = 1000 * (time.monotonic() - begun)
        assert worker("metrics", OPS_WORKER_CATALOGUE=path).returncode == 0
    assert database.value("SELECT count(*) FROM service_health WHERE status = 'healthy'") == 2000
    assert len(database.samples()) == 3 * 2000 + 1
    (row,) = database.rows(
        "SELECT min(latency_ms) AS least, sum(latency_ms - 1) AS total FROM service_health"
    )
    assert row["least"] >= 50 and row["total"] <= 128 * took_ms


def test_all_hang(worker: Worker, database: Database, tmp_path: Path) -> None:
    """A pass over 1,000 services that hang ends in time and reports those it did not probe."""
    with fast_server(wait_ms=3_600_000) as port:
        path = catalogue(tmp_path, 1000, port)
        text = (tmp_path / path).read_text().replace('counters = ["a", "b"]', "deadline = 1")
        (tmp_path / path).write_text(text)
        env = {"PASS_DEADLINE": "9", "PROBE_CONCURRENCY": "32", "CONFIRM_FAILURES": "1"}
        done = worker("health", "--output", "json", OPS_WORKER_CATALOGUE=path, **env)
    assert done.returncode == 0, (
        "the budget is kept: a pass that takes more than PASS_DEADLINE ends with 1"
    )
    document = json.loads(done.stdout)
    probed = {row["service"] for row in document["services"]}
    assert 32 <= len(probed) <= 32 * 9
    assert {(row["state"], row["reason"]) for row in document["services"]} == {
        ("unknown", "timeout after 1 s")
    }
    assert len(document["not_probed"]) == 1000 - len(probed) and probed.isdisjoint(
        document["not_probed"]
    )
    recorded = database.rows("SELECT service, details ->> 'status' AS state FROM service_health")
    assert {row["service"] for row in recorded} == probed
    assert {row["state"] for row in recorded} == {"unknown"}
    assert len(database.alerts()) == len(probed)
    line = json.loads(next(line for line in done.stderr.splitlines() if "not probed" in line))
    assert line["count"] == 1000 - len(probed) and "PROBE_CONCURRENCY" in line["remedy"]


@pytest.mark.parametrize("concurrency", ["", "500"])
def test_few_files(worker: Worker, database: Database, tmp_path: Path, concurrency: str) -> None:
    """A process limited to 40 files records 100 services. It warns if it lowers a set number."""
    with fast_server(wait_ms=5) as port:
        env = worker.env | {
            "OPS_WORKER_CATALOGUE": catalogue(tmp_path, 100, port),
            "PROBE_CONCURRENCY": concurrency,
        }
        command = [
            "sh",
            "-c",
            'ulimit -n 40; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "ops_worker",
            "health",
        ]
        done = subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stdout.partition(" (")[0]) == (
        0,
        "health: 100 services, 100 healthy",
    )
    assert database.value("SELECT count(*) FROM service_health WHERE status = 'healthy'") == 100
    warnings = [
        line for line in map(json.loads, done.stderr.splitlines()) if line["level"] == "WARNING"
    ]
    assert [line["message"] for line in warnings] == (
        ["fewer probes at once"] if concurrency else []
    )
    assert all(
        "PROBE_CONCURRENCY is 500" in line["what"] and "ulimit -n" in line["remedy"]
        for line in warnings
    )


def test_progress(worker: Worker, tmp_path: Path) -> None:
    """A round of more than 2 s shows its progress on a terminal and erases it at the end."""
    primary, secondary = pty.openpty()
    with fast_server(wait_ms=100) as port:
        env = worker.env | {
            "OPS_WORKER_CATALOGUE": catalogue(tmp_path, 200, port),
            "PROBE_CONCURRENCY": "7",
        }
        command = [sys.executable, "-m", "ops_worker", "health"]
        done = subprocess.run(
            command,
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=secondary,
            text=True,
            check=True,
        )
    os.close(secondary)
    terminal = os.read(primary, 65536).decode()
    os.close(primary)
    assert "\r\x1b[Kprobed 1" in terminal
    assert " of 200" in terminal
    assert terminal.endswith("\r\x1b[K")
    assert done.stdout.startswith("health: 200 services, 200 healthy")


def test_indexes(worker: Worker) -> None:
    """``init-db --indexes`` prints SQL and creates nothing. A small table needs no index."""
    done = worker("init-db", "--indexes")
    assert done.returncode == 0
    assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == [
        "-- platform.devices_stale",
        "-- platform.alerts_open",
        "-- platform.deliveries_pending",
    ]
