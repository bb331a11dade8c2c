"""What it costs to look back: `status`, `explain` and `report` on seven days of samples each 5 s, against reading the rows once."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from ops_worker.core.staleness import PARAMETERS, stale_after_s
from ops_worker.sql import queries
from tests.bench.tools import measure
from tests.seed_history import seed

DAYS = 7
FLOOR = """
import os, psycopg, sys
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute("SELECT service, metric_name, tags, avg(value) FROM system_metrics WHERE time > now() - %s::interval GROUP BY 1, 2, 3", sys.argv[1:])
"""
SPANS = {"1h": 3_600, "24h": 86_400, "7d": 604_800}


def run(url: str, rounds: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Run each command and the floor of its span in turn; give medians with their ratio, and the plans of seven days."""
    seed(url, DAYS * 24, moved_clock=True)
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": url}
    worker = [
        sys.executable,
        "-m",
        "ops_worker",
    ]  # with its extras, which only the commands for people want
    subprocess.run([*worker, "init-db"], env=env, check=True, stdout=subprocess.DEVNULL)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE system_metrics")
        number = next(iter(connection.execute("SELECT count(*) FROM system_metrics")))[0]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        page = str(Path(folder) / "report.html")
        for span in SPANS:
            commands = {
                "reading the rows": [sys.executable, "-c", FLOOR, span],
                "status": [*worker, "status", "--since", span],
                "report": [*worker, "report", "-o", page, "--since", span],
            }
            costs: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(rounds):
                for name, command in commands.items():
                    costs[name].append(measure(command, env).wall_ms / 1000)
            walls = {name: statistics.median(found) for name, found in costs.items()}
            rows += [
                {
                    f"of {number} rows": f"{name}, {span}",
                    "wall s": wall,
                    "of reading": wall / walls["reading the rows"],
                }
                for name, wall in walls.items()
            ]
        explain = statistics.median(
            measure([*worker, "explain", "ingest"], env).wall_ms / 1000 for _ in range(rounds)
        )
    return [
        *rows,
        {
            f"of {number} rows": "explain, 24h",
            "wall s": explain,
            "of reading": explain / rows[3]["wall s"],
        },
    ], _plans(url)


def _plans(url: str) -> list[str]:
    named = queries()
    counters = [
        ("ingest", "messages_received"),
        ("ingest", "messages_written"),
        ("evaluator", "rules_evaluated"),
    ]
    healthy = [
        (service, "healthy")
        for service in ("ingest", "evaluator", "dispatcher", "delivery", "postgres")
    ]
    asked: dict[str, list[tuple[str, str]]] = {"history": [], "growth": counters, "runs": healthy}
    plans = []
    with psycopg.connect(url) as connection:
        connection.execute("SET work_mem = '64MB'")
        for name, series in asked.items():
            listed = [
                {
                    "place": place,
                    "service": service,
                    "metric": metric,
                    "tags": {},
                    "pass": "metrics",
                }
                for place, (service, metric) in enumerate(series)
            ]
            given: dict[str, Any] = {
                "since_s": SPANS["7d"],
                "buckets": 144,
                "series": json.dumps(listed),
            }
            given |= PARAMETERS | {"period_s": 5, "patience_s": stale_after_s(60)}
            statement = named[name].replace("%(now)s", "now()")
            plan = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}".encode(), given)
            plans.append(f"{name}, 7d:\n" + "\n".join(f"    {row[0]}" for row in plan))
    return plans
