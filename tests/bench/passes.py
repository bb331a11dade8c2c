"""The cost of a pass as a process, compared with a hand-written floor.

The floor is the smallest program that does the work: psycopg and raw sockets, one connection, one
statement, no framework, no settings, no alerts. Compare the ratios of the worker to the floor. The
milliseconds depend on the machine.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

from tests.bench.tools import Cost, measure, median_cost
from tests.stubs import Stubs

FLOOR = """
import json, os, socket, threading, time
import psycopg
names = ("INGEST", "EVALUATOR", "DISPATCHER", "DELIVERY")
urls = [os.environ[f"{name}_HEALTH_URL"] for name in names]
rows = []
def ask(url):
    host, port = url.removeprefix("http://").split(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port)), 5) as sock:
        request = f"GET /health HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n"
        sock.sendall(request.encode())
        data = b""
        while part := sock.recv(65536):
            data += part
    counters = json.loads(data.partition(b"\\r\\n\\r\\n")[2])["counters"]
    rows.append({"service": url, "status": "healthy",
                 "latency_ms": round((time.monotonic() - begun) * 1000),
                 "details": {"status": "healthy", "counters": counters}})
threads = [threading.Thread(target=ask, args=(url,)) for url in urls if url]
for thread in threads: thread.start()
for thread in threads: thread.join()
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute('''INSERT INTO service_health AS h (service, status, latency_ms, details)
        SELECT service, status, latency_ms, details
        FROM jsonb_to_recordset(%s::jsonb)
             AS r (service text, status text, latency_ms integer, details jsonb)
        ON CONFLICT (service) DO UPDATE
        SET status = excluded.status, latency_ms = excluded.latency_ms,
            details = excluded.details, checked_at = now()''', [json.dumps(rows)])
"""

LIBRARIES = "import gc; gc.disable(); import psycopg, httpx, h11, pydantic_settings"
"""A program that imports the libraries of a pass and does nothing else."""


def run(python: str, worker: str, url: str, rounds: int) -> list[dict[str, Any]]:
    """Run the floors and the passes in turn.

    Return the medians. The ratio of a pass is to the floor before it in the table.
    """
    with Stubs() as stubs:
        four = {"PATH": os.environ["PATH"], "DATABASE_URL": url} | stubs.env
        two = four | {"DISPATCHER_HEALTH_URL": "", "DELIVERY_HEALTH_URL": ""}
        subprocess.run([worker, "init-db"], env=four, check=True, stdout=subprocess.DEVNULL)
        runs: dict[str, tuple[list[str], dict[str, str]]] = {
            "floor, 2 services": ([python, "-c", FLOOR], two),
            "health, 2 services": ([worker, "health"], two),
            "floor, 4 services": ([python, "-c", FLOOR], four),
            "health, 4 services": ([worker, "health"], four),
            "metrics, 4 services": ([worker, "metrics"], four),
            "its libraries' imports": ([python, "-c", LIBRARIES], four),
            "import argparse, logging": ([python, "-c", "import argparse, logging"], four),
            "--help": ([worker, "--help"], four),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in runs}
        for number in range(rounds + 2):
            for name, (command, env) in runs.items():
                cost = measure(command, env)
                if number >= 2:  # the first two rounds are a warm-up
                    costs[name].append(cost)
    rows: list[dict[str, Any]] = []
    base = 0.0
    for name, program_costs in costs.items():
        cost = median_cost(program_costs)
        if name.startswith(("floor", "import")):
            base = cost.cpu_ms
        rows.append(
            {
                "one pass": name,
                "CPU ms": cost.cpu_ms,
                "wall ms": cost.wall_ms,
                "peak MB": cost.peak_mb,
                "of the floor": cost.cpu_ms / base,
            }
        )
    return rows
