"""``make soak``: run the sidecar at its shortest intervals, and measure growth and lateness.

A metrics pass runs every second and a health pass every 5 s, on the embedded PostgreSQL. In these
cases the program prints the fault, and its exit code is 1:

- memory grows by more than 2 MB after the warm-up,
- file descriptors, threads or connections grow, or there is not one connection for each loop,
- the 99th percentile of the lateness of ticks is more than 50 ms,
- the exit code of the sidecar is not 0.

The lateness of a tick is the time from its slot, a whole second, to the time of its samples. A
thread that only waits for each whole second measures the lateness of this machine. It is added to
the 50 ms.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psycopg

from ops_worker.core.passes import PASSES
from tests.postgres import Postgres, load_platform
from tests.stubs import Stubs

LATE = """
SELECT percentile_cont(ARRAY[0.5, 0.99, 1.0]) WITHIN GROUP (
    ORDER BY abs(1000 * (((extract(epoch FROM time) + 0.5) % 1)::float8 - 0.5))
)
FROM (
    SELECT DISTINCT time FROM system_metrics WHERE metric_name = 'healthy' ORDER BY time OFFSET 1
) AS t
"""
"""The 50th, 99th and 100th percentile of the lateness of ticks in ms, without the first tick."""
MAX_GROWTH_KB, MAX_LATE_MS = 2048, 50.0
CONNECTIONS = len(PASSES)
"""The number of connections: each loop has its own."""


class Reading(NamedTuple):
    """The resources of the process at a moment."""

    memory_kb: int
    descriptors: int
    threads: int
    connections: int


def read(pid: int, connection: psycopg.Connection) -> Reading:
    """Read the resources of the process from the kernel and the database."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    count = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'ops-worker %'"
    ).fetchone()
    assert count is not None
    return Reading(
        int(status["VmRSS"].split()[0]),
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        int(status["Threads"]),
        count[0],
    )


class Bystander(threading.Thread):
    """Waits for each whole second, as the worker does, and records its lateness in ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.late: list[float] = []

    def run(self) -> None:
        """Wait for whole seconds until the program ends."""
        while True:
            time.sleep(1 - time.time() % 1)
            self.late.append(1000 * (time.time() % 1))

    def p99(self) -> float:
        """Return the 99th percentile of the lateness in ms; 0 before the first second."""
        if not self.late:
            return 0.0
        return sorted(self.late)[int(0.99 * len(self.late))]


def main() -> int:
    """Run the soak, print the measurements, and return the exit code."""
    parser = argparse.ArgumentParser(description="Run the sidecar for long and watch it.")
    parser.add_argument("--seconds", type=int, default=600, help="how long (600)")
    seconds = parser.parse_args().seconds
    with Postgres() as server, Stubs() as stubs:
        load_platform(server.url())
        fast = {
            "DATABASE_URL": server.url(),
            "METRICS_COLLECTION_INTERVAL": "1",
            "HEALTH_CHECK_INTERVAL": "5",
            "SIDECAR_PORT": "0",
        }
        command = [sys.executable, "-m", "ops_worker", "sidecar"]
        with (
            subprocess.Popen(
                command, env=os.environ | stubs.env | fast, stdout=subprocess.DEVNULL
            ) as worker,
            psycopg.connect(server.url(), autocommit=True) as connection,
        ):
            bystander = Bystander()
            bystander.start()
            time.sleep(max(6, min(60, seconds / 4)))  # the warm-up
            readings = [read(worker.pid, connection)]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.73)  # so that the readings are at different moments of a tick
                readings.append(read(worker.pid, connection))
            row = connection.execute(LATE)
            (late,) = row.fetchone() or ([0.0, 0.0, 0.0],)
            samples = connection.execute(
                "SELECT count(DISTINCT time) FROM system_metrics WHERE metric_name = 'healthy'"
            ).fetchone()
            worker.send_signal(signal.SIGTERM)
            code = worker.wait(20)
    quarter = max(1, len(readings) // 4)
    first, last = readings[:quarter], readings[-quarter:]
    # Compare the least readings: a tick may use more while it runs, but must release it.
    growth = {
        field: min(getattr(reading, field) for reading in last)
        - min(getattr(reading, field) for reading in first)
        for field in Reading._fields
    }
    print(
        f"{seconds} s, {samples and samples[0]} samples; "
        f"late by p50 {late[0]:.1f}, p99 {late[1]:.1f}, at most {late[2]:.1f} ms"
        f" (a bystander: p99 {bystander.p99():.1f} ms); exit code {code}"
    )
    print(f"at the end {last[-1]}; growth {growth}")
    limits = dict.fromkeys(Reading._fields, 0) | {"memory_kb": MAX_GROWTH_KB}
    faults = [f"{field} grew by {by}" for field, by in growth.items() if by > limits[field]]
    if late[1] > MAX_LATE_MS + bystander.p99():
        faults.append(f"p99 of lateness is {late[1]:.1f} ms")
    most = max(reading.connections for reading in readings)
    if most != CONNECTIONS:
        faults.append(f"{most} connections")
    if code != 0:
        faults.append(f"exit code {code}")
    for fault in faults:
        print(f"FAULT: {fault}")
    if not faults:
        print("no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
