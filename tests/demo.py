"""``make run``: the demo. It runs two passes three times. A service goes down and comes back.

By default, the demo starts its own PostgreSQL and services, and removes them at its end. Only
report.html remains. It uses no settings from the environment or from .env, and prints the names of
those that it ignores.

With DATABASE_URL in the environment or in .env, the demo only runs the two passes, on that database
and with those settings.

SIGINT, SIGTERM and SIGHUP end the demo between two steps, so that it can clean up. A running
command of the worker gets SIGTERM. The exit code is 128 plus the number of the signal.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

HEALTH = """SELECT service, status, latency_ms, details ->> 'status' AS state,
                   details ->> 'streak' AS streak
            FROM service_health ORDER BY 1"""
ALERTS = """SELECT id, status, summary,
                   round(extract(epoch FROM closed_at - created_at), 3) AS open_for_s
            FROM fleet_alert WHERE tenant_id = '__system__' ORDER BY id"""
SAMPLES = """SELECT service, metric_name, array_agg(value ORDER BY time) AS values
             FROM system_metrics WHERE service <> 'ops_worker' GROUP BY 1, 2 ORDER BY 1, 2"""
FIRST = """SELECT min(time) FROM system_metrics
           WHERE service = 'ops_worker' AND tags ->> 'pass' = 'metrics'"""
"""The time of the first metrics pass."""
PAGE = "report.html"


class Interrupted(Exception):  # noqa: N818 - it is not an error
    """A signal asked the demo to end."""


class Steps:
    """Runs commands of the worker one after the other, until a signal arrives.

    ``signal`` is the number of the first signal; 0 before.
    """

    def __init__(self) -> None:
        """Handle the signals."""
        self.signal = 0
        self._running: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def worker(
        self, *arguments: str, folder: Path | None = None, env: Mapping[str, str] | None = None
    ) -> int:
        """Run a command in its own process, as a CronJob does; return its exit code.

        Raises Interrupted if a signal arrived.
        """
        self.check()
        print(f"\n$ ops-worker {' '.join(arguments)}", flush=True)
        command = [sys.executable, "-m", "ops_worker", *arguments]
        # It has its own process group, so that Ctrl-C signals only the demo.
        with subprocess.Popen(command, cwd=folder, env=env, process_group=0) as self._running:
            if self.signal:  # the signal arrived while the command started
                self._running.terminate()
            code = self._running.wait()
        self._running = None
        self.check()
        return code

    def check(self) -> None:
        """Raise Interrupted if a signal arrived."""
        if self.signal:
            raise Interrupted

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Record a signal, and end the running command."""
        self.signal = self.signal or number
        if self._running is not None:
            self._running.terminate()


def main() -> int:
    """Run the demo; return the exit code of the first command that failed, or of the signal."""
    steps = Steps()
    try:
        code = demo(steps)
        steps.check()
        sys.stdout.flush()
    except Interrupted:
        print("\ninterrupted; nothing was left behind", file=sys.stderr)
        return 128 + steps.signal
    except BrokenPipeError:
        # The reader of the output has ended. Python must not write to it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + (steps.signal or signal.SIGPIPE)
    return code


def demo(steps: Steps) -> int:
    """Run two passes on the user's database, or the tour on a database of the demo.

    Return the exit code of the first command that failed. Raises Interrupted if a signal arrived.
    """
    from ops_worker.errors import SettingsError
    from ops_worker.settings import read_variables
    from ops_worker.variables import variables

    try:
        given_variables = read_variables()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if given_variables.get("DATABASE_URL"):
        return steps.worker("health", "--output", "table") or steps.worker(
            "metrics", "--output", "table"
        )
    names = {name for variable in variables() for name in variable.names}
    names.discard("HOSTNAME")  # every container has it
    ignored = sorted(name for name in os.environ if name in names or name.startswith("PG"))
    for name in ignored:
        os.environ.pop(name)
    if Path(".env").exists():
        ignored.insert(0, ".env")
    if ignored:
        print(
            f"Not used by the demo, which has settings of its own: {', '.join(ignored)}. "
            "With DATABASE_URL it runs on yours."
        )
    with tempfile.TemporaryDirectory(prefix="ops-worker-demo-") as folder:
        return tour(steps, Path(folder))


def tour(steps: Steps, folder: Path) -> int:
    """Run the whole demo; return the exit code of the first command that failed.

    The worker runs in ``folder``, and writes its files there.
    """
    from tests.postgres import Postgres, load_platform
    from tests.seed_history import seed
    from tests.stubs import Stubs

    steps.check()
    print(
        "Starting a PostgreSQL and four services, all on 127.0.0.1, all gone afterwards ...",
        flush=True,
    )
    with Postgres() as server, Stubs() as stubs:
        url = server.url()
        print(f"(to look at it meanwhile: psql {url})", flush=True)
        env = os.environ | stubs.env | {"DATABASE_URL": url, "TMPDIR": str(folder)}

        def worker(*arguments: str) -> int:
            return steps.worker(*arguments, folder=folder, env=env)

        steps.check()
        load_platform(url)
        for title, mode in (
            ("all is well", "ok"),
            ("the dispatcher goes down", "down"),
            ("the dispatcher is back", "ok"),
        ):
            stubs["dispatcher"].mode = mode
            print(f"\n=== {title} ===")
            if code := worker("health", "--output", "table") or worker("metrics"):
                return code
            show(url, "fleet_alert, tenant __system__", ALERTS)
        show(url, "service_health", HEALTH)
        show(url, "system_metrics, every value of these passes", SAMPLES)
        print("\n=== at a glance, with two hours of history put before it ===", flush=True)
        _, ((first_at,),) = rows(url, FIRST)
        seed(url, until=first_at)
        # The rollup pass fills the ledger from that history.
        if code := worker("init-db") or worker("rollup"):
            return code
        if code := worker("report", "-o", PAGE, "--since", "2h"):
            return code
        shutil.move(folder / PAGE, PAGE)
        return worker("status", "--since", "2h")


def rows(url: str, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the names of the columns of a query, and its rows."""
    import psycopg

    with psycopg.connect(url) as connection:
        cursor = connection.execute(query.encode())
        return [column.name for column in cursor.description or ()], cursor.fetchall()


def show(url: str, title: str, query: str) -> None:
    """Print the rows of a query as a table."""
    head, values = rows(url, query)
    lines = [head]
    lines += [["-" if value is None else str(value) for value in row] for row in values]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}:")
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  " + "  ".join(cells).rstrip())
    if not values:
        print("  (no rows)")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
