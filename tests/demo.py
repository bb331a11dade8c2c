"""The demo behind ``make run``: both passes, three times, with one service going down and coming back between them.

By default on a PostgreSQL and services of its own, which are gone when it ends; what stays is report.html. With DATABASE_URL
in the environment or in .env, on yours: then it only runs both passes, with the settings that it finds there. Without, no
setting from outside counts, and a line names those that are left aside.

SIGINT, SIGTERM and SIGHUP end it between two steps: what a step began, it finishes, so that its end can be undone. The
step that is a command of the worker is told to end at once. The exit code is 128 and the signal's number.
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

HEALTH = "SELECT service, status, latency_ms, details ->> 'status' AS state, details ->> 'streak' AS streak FROM service_health ORDER BY 1"
ALERTS = """SELECT id, status, summary, round(extract(epoch FROM closed_at - created_at), 3) AS open_for_s FROM fleet_alert
            WHERE tenant_id = '__system__' ORDER BY id"""
SAMPLES = """SELECT service, metric_name, array_agg(value ORDER BY time) AS values FROM system_metrics
             WHERE service <> 'ops_worker' GROUP BY 1, 2 ORDER BY 1, 2"""
FIRST = "SELECT min(time) FROM system_metrics WHERE service = 'ops_worker' AND tags ->> 'pass' = 'metrics'"
PAGE = "report.html"


class Interrupted(Exception):  # noqa: N818 - it is no error
    """A signal asked for the end."""


class Steps:
    """Runs the worker's commands one after the other, until a signal comes."""

    def __init__(self) -> None:
        """Handle the signals."""
        self.signal = 0
        self._running: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._heed)

    def worker(
        self, *arguments: str, folder: Path | None = None, env: Mapping[str, str] | None = None
    ) -> int:
        """Run one command as a process of its own, as a CronJob does. Raises Interrupted when a signal came."""
        self.check()
        print(f"\n$ ops-worker {' '.join(arguments)}", flush=True)
        command = [sys.executable, "-m", "ops_worker", *arguments]
        # In a group of its own: Ctrl-C reaches this process only, and the command is told once.
        with subprocess.Popen(command, cwd=folder, env=env, process_group=0) as self._running:
            if self.signal:  # it came while the command was started
                self._running.terminate()
            code = self._running.wait()
        self._running = None
        self.check()
        return code

    def check(self) -> None:
        """Raise Interrupted when a signal came."""
        if self.signal:
            raise Interrupted

    def _heed(self, number: int, _: FrameType | None) -> None:
        self.signal = self.signal or number
        if self._running is not None:
            self._running.terminate()


def main() -> int:
    """Run it; the exit code is that of the first command that did not end with 0, or the signal's."""
    steps = Steps()
    try:
        code = demo(steps)
        steps.check()
        sys.stdout.flush()
    except Interrupted:
        print("\ninterrupted; nothing was left behind", file=sys.stderr)
        return 128 + steps.signal
    except (
        BrokenPipeError
    ):  # whoever read this has gone; the interpreter need not try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + (steps.signal or signal.SIGPIPE)
    return code


def demo(steps: Steps) -> int:
    """Run both passes on the user's database, or all of it on one of its own. Raises Interrupted when a signal came."""
    from ops_worker.errors import SettingsError
    from ops_worker.settings import read_variables
    from ops_worker.variables import variables

    try:
        given = read_variables()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if given.get("DATABASE_URL"):
        return steps.worker("health", "--output", "table") or steps.worker(
            "metrics", "--output", "table"
        )
    names = {name for variable in variables() for name in variable.names}
    outside = {name for name in os.environ if name in names - {"HOSTNAME"} or name.startswith("PG")}
    for name in outside:
        os.environ.pop(name)
    left = [*([".env"] if Path(".env").exists() else []), *sorted(outside)]
    if left:
        print(
            f"Not used by the demo, which has settings of its own: {', '.join(left)}. With DATABASE_URL it runs on yours."
        )
    with tempfile.TemporaryDirectory(prefix="ops-worker-demo-") as folder:
        return tour(steps, Path(folder))


def tour(steps: Steps, folder: Path) -> int:
    """Run all of it, with ``folder`` for the worker to run in and to leave its files."""
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
        ((first,),) = rows(url, FIRST)[1]
        seed(url, until=first)
        # The rollup pass fills the ledger from that history.
        if code := worker("init-db") or worker("rollup"):
            return code
        if code := worker("report", "-o", PAGE, "--since", "2h"):
            return code
        shutil.move(folder / PAGE, PAGE)
        return worker("status", "--since", "2h")


def rows(url: str, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the names of a query's columns, and its rows."""
    import psycopg

    with psycopg.connect(url) as connection:
        cursor = connection.execute(query.encode())
        return [column.name for column in cursor.description or ()], cursor.fetchall()


def show(url: str, title: str, query: str) -> None:
    """Print the rows of a query."""
    head, found = rows(url, query)
    lines = [head, *(["-" if value is None else str(value) for value in row] for row in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}:")
    for line in lines:
        print(
            "  "
            + "  ".join(
                cell.ljust(width) for cell, width in zip(line, widths, strict=True)
            ).rstrip()
        )
    if not found:
        print("  (no rows)")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
