"""The ledger of a year: its size, the cost of reading it, and its cost in a pass."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psycopg

from ops_worker.adapters.postgres import Store, ledger_writes
from ops_worker.core.passes import HEALTH
from ops_worker.core.sightings import PendingSighting
from tests.bench.ledger_rows import copy_year
from tests.bench.tools import Cost, measure

if TYPE_CHECKING:
    from ops_worker.adapters.postgres import Transaction

PERIOD_S = 60.0
SIZES = (100, 10_000)
PLAIN = """
import gc; gc.disable()
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    cursor = connection.cursor(binary=True)
    rows = cursor.execute("SELECT * FROM ops_worker_span ORDER BY service, first_at").fetchall()
"""
"""A process that reads the rows of all spans once, and does nothing with them."""
SERVICES = """
INSERT INTO service_health (service, status, latency_ms, details)
SELECT name, 'healthy', 12, '{"status": "healthy"}' FROM unnest(%s::text[]) AS name
"""
MEASURED = "a year, 500 holes, 10 incidents each"


def run(url: str, rounds: int) -> list[dict[str, Any]]:
    """Measure each number of services; the ratios are to a process that reads the rows once."""
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": url}
    worker = [sys.executable, "-m", "ops_worker"]
    subprocess.run([*worker, "init-db"], env=env, check=True, stdout=subprocess.DEVNULL)
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        services = [f"s{number:05}" for number in range(size)]
        number, size_bytes = _fill(url, services)
        about = f"{size} services, {number} rows, {size_bytes / 1e6:.1f} MB"
        times = _passes(url, services, rounds)
        rows += _commands(about, env, worker, rounds if size < 1000 else 1)
        rows += [
            {MEASURED: f"{name}, {size} services", "wall s": cost[0], "CPU s": cost[1]}
            | {"peak MB": None, "of reading": None}
            for name, cost in times.items()
        ]
    return rows


def _fill(url: str, services: list[str]) -> tuple[int, int]:
    """Write the ledger of these services; return its rows and bytes, with indexes."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE ops_worker_run, ops_worker_span, service_health")
        connection.execute(SERVICES, [services])
        copy_year(connection, HEALTH.name, services, PERIOD_S)
        connection.execute("VACUUM ANALYZE ops_worker_run")
        connection.execute("VACUUM ANALYZE ops_worker_span")
        counted = connection.execute(
            "SELECT (SELECT count(*) FROM ops_worker_run) + (SELECT count(*) FROM ops_worker_span),"
            " pg_total_relation_size('ops_worker_run') + pg_total_relation_size('ops_worker_span')"
        ).fetchone()
    assert counted is not None
    return counted


def _commands(
    about: str, env: dict[str, str], worker: list[str], rounds: int
) -> list[dict[str, Any]]:
    """Run the plain read and the commands in turn; return medians and ratios of CPU time."""
    commands = {
        "reading the rows": [sys.executable, "-c", PLAIN],
        "status, 1h": [*worker, "status", "--since", "1h", "--output", "json"],
        "status, 1y": [*worker, "status", "--since", "1y", "--output", "json"],
        "history, 7d": [*worker, "history", "--since", "7d", "--output", "json"],
    }
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            costs[name].append(measure(command, env))
    medians = {
        name: Cost(*(statistics.median(column) for column in zip(*of_command, strict=True)))
        for name, of_command in costs.items()
    }
    floor = medians["reading the rows"].cpu_ms
    return [
        {
            MEASURED: f"{name}, {about}",
            "wall s": cost.wall_ms / 1000,
            "CPU s": cost.cpu_ms / 1000,
            "peak MB": cost.peak_mb,
            "of reading": cost.cpu_ms / floor,
        }
        for name, cost in medians.items()
    ]


def _passes(url: str, services: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Return what the ledger adds to the transaction of a pass in which nothing changed.

    The values are seconds of time and of the worker's CPU, each the least of some passes.
    "its statements" is the same pass without services: its time is mostly that of the database.
    """
    store = Store({"conninfo": url})
    times: dict[str, tuple[float, float]] = {}
    for name, shard, names in (
        ("ledger of an unchanged pass", "0/1", services),
        ("its statements", "0/2", []),
    ):
        measured = [_pass(store, shard, names) for _ in range(3 * rounds)]
        # The first passes begin a run, and read the spans that last.
        wall, cpu = zip(*measured[2:], strict=True)
        times[name] = (min(wall), min(cpu))
    store.close()
    return times


def _pass(store: Store, shard: str, services: list[str]) -> tuple[float, float]:
    """Enter a pass that saw all of these services healthy; return its seconds and CPU seconds."""
    sights = tuple((service, 0.0, "healthy", "", "") for service in services)
    sighting = PendingSighting(time.monotonic(), sights, PERIOD_S, "bench")

    def enter(transaction: Transaction) -> tuple[float, float]:
        """Enter the pass and wait for the answers of the database."""
        wall, cpu = time.monotonic(), time.process_time()
        assert ledger_writes.enter(transaction, HEALTH.name, shard, [(1, sighting)], ("bench", {}))
        return time.monotonic() - wall, time.process_time() - cpu

    cost = store.write(HEALTH.transaction, enter)
    assert cost is not None
    return cost
