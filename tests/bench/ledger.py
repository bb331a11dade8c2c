"""The ledger of a year: its size, the cost of reading it, and its cost in a pass."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psycopg

from ops_worker.adapters.postgres import Store, ledger_writes
from ops_worker.core.passes import HEALTH
from ops_worker.core.sightings import PendingSighting
from tests.bench.ledger_rows import copy_year
from tests.bench.tools import Cost, measure, median_cost

if TYPE_CHECKING:
    from ops_worker.adapters.postgres import Transaction

PERIOD_S = 60.0
SIZES = (100, 10_000)
"""The numbers of services."""
PLAIN = """
import gc; gc.disable()
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    cursor = connection.cursor(binary=True)
    rows = cursor.execute("SELECT * FROM ops_worker_span ORDER BY service, first_at").fetchall()
"""
"""A process that reads all spans once, and does nothing else."""
SERVICES = """
INSERT INTO service_health (service, status, latency_ms, details)
SELECT name, 'healthy', 12, '{"status": "healthy"}' FROM unnest(%s::text[]) AS name
"""
MEASURED = "a year, 500 holes, 10 incidents each"
"""The first column of the table."""


def run(url: str, rounds: int) -> list[dict[str, Any]]:
    """Measure each number of services. The ratios are to a process that reads the spans once."""
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": url}
    worker = [sys.executable, "-m", "ops_worker"]
    subprocess.run([*worker, "init-db"], env=env, check=True, stdout=subprocess.DEVNULL)
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        services = [f"s{number:05}" for number in range(size)]
        number, size_bytes = _fill(url, services)
        description = f"{size} services, {number} rows, {size_bytes / 1e6:.1f} MB"
        times = _passes(url, services, rounds)
        rows += _commands(description, env, worker, rounds if size < 1000 else 1)
        rows += [
            {
                MEASURED: f"{name}, {size} services",
                "wall s": wall_s,
                "CPU s": cpu_s,
                "peak MB": None,
                "of reading": None,
            }
            for name, (wall_s, cpu_s) in times.items()
        ]
    return rows


def _fill(url: str, services: list[str]) -> tuple[int, int]:
    """Write the ledger of these services.

    Return the number of its rows, and its bytes with indexes.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE ops_worker_run, ops_worker_span, service_health")
        connection.execute(SERVICES, [services])
        copy_year(connection, HEALTH.name, services, PERIOD_S)
        connection.execute("VACUUM ANALYZE ops_worker_run")
        connection.execute("VACUUM ANALYZE ops_worker_span")
        size = connection.execute(
            "SELECT (SELECT count(*) FROM ops_worker_run) + (SELECT count(*) FROM ops_worker_span),"
            " pg_total_relation_size('ops_worker_run') + pg_total_relation_size('ops_worker_span')"
        ).fetchone()
    assert size is not None
    return size


def _commands(
    description: str, env: dict[str, str], worker: list[str], rounds: int
) -> list[dict[str, Any]]:
    """Run the process that reads the spans and the commands in turn.

    Return medians, and ratios of CPU time.
    """
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
    medians = {name: median_cost(command_costs) for name, command_costs in costs.items()}
    floor = medians["reading the rows"].cpu_ms
    return [
        {
            MEASURED: f"{name}, {description}",
            "wall s": cost.wall_ms / 1000,
            "CPU s": cost.cpu_ms / 1000,
            "peak MB": cost.peak_mb,
            "of reading": cost.cpu_ms / floor,
        }
        for name, cost in medians.items()
    ]


def _passes(url: str, services: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the cost of the ledger in the transaction of a pass in which nothing changed.

    The values are seconds of time and of the worker's CPU, each the least of several passes. For
    "its statements" the pass has no services, so its time is mostly time of the database.
    """
    store = Store({"conninfo": url})
    times: dict[str, tuple[float, float]] = {}
    for name, shard, names in (
        ("ledger of an unchanged pass", "0/1", services),
        ("its statements", "0/2", []),
    ):
        measured = [_pass(store, shard, names) for _ in range(3 * rounds)]
        # The first two passes begin a run, and read the open spans.
        wall, cpu = zip(*measured[2:], strict=True)
        times[name] = (min(wall), min(cpu))
    store.close()
    return times


def _pass(store: Store, shard: str, services: list[str]) -> tuple[float, float]:
    """Enter a pass in which these services are healthy; return its seconds and CPU seconds."""
    sights = tuple((service, 0.0, "healthy", "", "") for service in services)
    sighting = PendingSighting(time.monotonic(), sights, PERIOD_S, "bench")

    def enter(transaction: Transaction) -> tuple[float, float]:
        """Enter the pass, and measure until the answers of the database."""
        wall, cpu = time.monotonic(), time.process_time()
        assert ledger_writes.enter(transaction, HEALTH.name, shard, [(1, sighting)], ("bench", {}))
        return time.monotonic() - wall, time.process_time() - cpu

    cost = store.write(HEALTH.transaction, enter)
    assert cost is not None
    return cost
