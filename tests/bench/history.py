"""The cost of `status`, `explain` and `report`, compared with reading the rows once.

The database has a sample every 5 s for seven days. The rollup pass has run, as it does every hour.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from ops_worker.adapters.postgres import (
    HISTORY_OPTIONAL_TABLES,
    HISTORY_TABLES,
    Store,
    Transaction,
    history,
    ledger_reads,
)
from ops_worker.catalogue import Surroundings, load
from ops_worker.history.series import counter_rule
from ops_worker.sql import queries
from tests.bench.tools import measure
from tests.seed_history import seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAYS = 7
FLOOR = """
import os, psycopg, sys
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute(
        "SELECT service, metric_name, tags, avg(value) FROM system_metrics"
        " WHERE time > now() - %s::interval GROUP BY 1, 2, 3",
        sys.argv[1:],
    )
"""
WITHOUT_DRAWING = """
import sys, types
sys.modules["ops_worker.adapters.html"] = types.SimpleNamespace(render=lambda report: "")
sys.argv = ["ops-worker", "report", "-o", "-", "--since", sys.argv[1]]
from ops_worker.__main__ import run
run()
"""
"""A process that makes a report without its page and charts. It only reads and computes."""
"""A process that reads the samples of a span once: its argument."""
SPANS = ("1h", "24h", "7d")
"""The values of ``--since``."""
PLANNED_S = 604_800.0
"""The period of which the plans are shown, in seconds."""


def run(url: str, rounds: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Run each command and the floor of its span in turn.

    Return the medians with their ratios, and the plans for seven days.
    """
    seed(url, DAYS * 24, moved_clock=True)
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": url, "PASS_DEADLINE": "600"}
    # The commands for people need the extras, which only this Python has.
    worker = [sys.executable, "-m", "ops_worker"]
    subprocess.run([*worker, "init-db"], env=env, check=True, stdout=subprocess.DEVNULL)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE system_metrics")
        subprocess.run([*worker, "rollup"], env=env, check=True, stdout=subprocess.DEVNULL)
        connection.execute("VACUUM ANALYZE ops_worker_hour, ops_worker_day")
        number = next(iter(connection.execute("SELECT count(*) FROM system_metrics")))[0]
    column = f"of {number} rows"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        page = str(Path(folder) / "report.html")
        for span in SPANS:
            commands = {
                "reading the rows": [sys.executable, "-c", FLOOR, span],
                "status": [*worker, "status", "--since", span],
                "report, not drawn": [sys.executable, "-c", WITHOUT_DRAWING, span],
                "report": [*worker, "report", "-o", page, "--since", span],
            }
            costs: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(rounds):
                for name, command in commands.items():
                    costs[name].append(measure(command, env).wall_ms / 1000)
            walls = {name: statistics.median(seconds) for name, seconds in costs.items()}
            rows += [
                {
                    column: f"{name}, {span}",
                    "wall s": wall,
                    "of reading": wall / walls["reading the rows"],
                }
                for name, wall in walls.items()
            ]
    explain = statistics.median(
        measure([*worker, "explain", "ingest"], env).wall_ms / 1000 for _ in range(rounds)
    )
    floor = next(row["wall s"] for row in rows if row[column] == "reading the rows, 24h")
    rows.append({column: "explain, 24h", "wall s": explain, "of reading": explain / floor})
    return rows, _plans(url)


def _plans(url: str) -> list[str]:
    """Return the plan of every statement of a status of seven days."""
    plans = []
    with psycopg.connect(url) as connection:
        connection.execute("SET work_mem = '64MB'")
        for name, parameters in _statements(url):
            statement = f"EXPLAIN (ANALYZE, BUFFERS) {queries()[name]}"
            plan = connection.execute(statement.encode(), parameters)
            plans.append(f"{name}, 7d:\n" + "\n".join(f"    {row[0]}" for row in plan))
    return plans


def _statements(url: str) -> list[tuple[str, Any]]:
    """Return the statements that a status of seven days executes, with their parameters."""
    executed: list[tuple[str, Any]] = []
    builtin_catalogue, _ = load(None, Surroundings({}))
    is_counter = counter_rule(builtin_catalogue.targets)

    def read(transaction: Transaction) -> None:
        """Execute the statements of `status`."""
        with _recorded(executed):
            rows = history.status_rows(transaction, PLANNED_S, 24, is_counter)
            services = [row.service for row in rows.services]
            ledger_reads.status_ledger(transaction, services, PLANNED_S, {})
            history.incidents(transaction, PLANNED_S)

    with contextlib.closing(Store({"conninfo": url})) as store:
        store.read(read, required_tables=HISTORY_TABLES, optional_tables=HISTORY_OPTIONAL_TABLES)
    return [(name, parameters) for name, parameters in executed if name != "look_back"]


@contextlib.contextmanager
def _recorded(executed: list[tuple[str, Any]]) -> Iterator[None]:
    """Record the name and the parameters of each statement that a transaction executes."""
    query, execute = Transaction.query, Transaction.execute

    def recording(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method that records each statement and then executes it."""

        def run(transaction: Transaction, *arguments: Any) -> Any:
            """Execute a statement. Before its name, there may be the type of its rows."""
            name = next(argument for argument in arguments if isinstance(argument, str))
            parameters = None if arguments[-1] == name else arguments[-1]
            executed.append((name, parameters))
            return method(transaction, *arguments)

        return run

    Transaction.query = recording(query)  # type: ignore[method-assign]
    Transaction.execute = recording(execute)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Transaction.query, Transaction.execute = query, execute  # type: ignore[method-assign]
