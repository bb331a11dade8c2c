"""The demo behind ``make run``: both passes, twice, with one service going down and coming back between them.

By default on a PostgreSQL and services of its own, which are gone when it ends; what stays is report.html. With DATABASE_URL
set, on yours: then it only runs both passes, against the services that the environment names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psycopg

from tests.history import seed
from tests.postgres import Postgres, load_platform
from tests.stubs import Stubs

HEALTH = "SELECT service, status, latency_ms, details ->> 'status' AS state, details ->> 'streak' AS streak FROM service_health ORDER BY 1"
ALERTS = """SELECT id, status, summary, to_char(closed_at - created_at, 'SS.MS') AS open_for_s FROM fleet_alert
            WHERE tenant_id = '__system__' ORDER BY id"""
SAMPLES = """SELECT service, metric_name, array_agg(value ORDER BY time) AS values FROM system_metrics
             WHERE time > now() - interval '4 seconds' AND service <> 'ops_worker' GROUP BY 1, 2 ORDER BY 1, 2"""


def main() -> int:
    """Run it; the exit code is that of the first pass that did not end with 0."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if os.environ.get("DATABASE_URL"):
        return worker("health", "--output", "table") or worker("metrics", "--output", "table")
    print("Starting a PostgreSQL and four services, all on 127.0.0.1, all gone afterwards ...")
    with Postgres() as server, Stubs() as stubs:
        url = server.url()
        load_platform(url)
        seed(url)
        os.environ.update(stubs.env, DATABASE_URL=url)
        print(f"(to look at it meanwhile: psql {url})")
        for title, mode in (("all is well", "ok"), ("the dispatcher goes down", "down"), ("the dispatcher is back", "ok")):
            stubs["dispatcher"].mode = mode
            print(f"\n=== {title} ===")  # the history that is there already has a sample each 5 s
            if code := worker("health", "--output", "table") or worker("metrics", PASS_PERIOD="5"):
                return code
            show(url, "fleet_alert, tenant __system__", ALERTS)
        show(url, "service_health", HEALTH)
        show(url, "system_metrics, every value of these passes", SAMPLES)
        print("\n=== at a glance, with the two hours of history that were there before ===")
        return worker("init-db") or worker("report", "-o", "report.html", "--since", "2h") or worker("status", "--since", "2h")
    return 0


def worker(*arguments: str, **env: str) -> int:
    """Run one command as a process of its own, as a CronJob does."""
    print(f"\n$ ops-worker {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "ops_worker", *arguments], check=False, env=os.environ | env).returncode


def show(url: str, title: str, query: str) -> None:
    """Print the rows of a query."""
    with psycopg.connect(url) as connection:
        cursor = connection.execute(query)
        head = [column.name for column in cursor.description or ()]
        rows = [["-" if value is None else str(value) for value in row] for row in cursor]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    print(f"\n{title}:")
    for line in (head, *rows):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if not rows:
        print("  (no rows)")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; nothing was left behind")
