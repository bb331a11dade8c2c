"""The benchmark behind ``make bench``: what a pass costs as a process, against a hand-written floor, in turn in one run.

The floor is what one would write by hand to do the least: psycopg and raw sockets, one connection, one statement, no
framework, no settings, no alerts. Its ratio to the worker is what counts; the milliseconds are this machine's.
Both run in a virtual environment that holds only what the worker depends on, compiled, as the image does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.postgres import Postgres, load_platform
from tests.stubs import Stubs

ROOT = Path(__file__).parents[2]
FLOOR = """
import json, os, socket, threading, time
import psycopg
urls = [os.environ[name] for name in ("INGEST_HEALTH_URL", "EVALUATOR_HEALTH_URL", "DISPATCHER_HEALTH_URL", "DELIVERY_HEALTH_URL")]
rows = []
def ask(url):
    host, port = url.removeprefix("http://").split(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port)), 5) as sock:
        sock.sendall(f"GET /health HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        data = b""
        while part := sock.recv(65536):
            data += part
    counters = json.loads(data.partition(b"\\r\\n\\r\\n")[2])["counters"]
    rows.append({"service": url, "status": "healthy", "latency_ms": round((time.monotonic() - begun) * 1000),
                 "details": {"status": "healthy", "counters": counters}})
threads = [threading.Thread(target=ask, args=(url,)) for url in urls if url]
for thread in threads: thread.start()
for thread in threads: thread.join()
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute('''INSERT INTO service_health AS h (service, status, latency_ms, details)
        SELECT service, status, latency_ms, details
        FROM jsonb_to_recordset(%s::jsonb) AS r (service text, status text, latency_ms integer, details jsonb)
        ON CONFLICT (service) DO UPDATE SET status = excluded.status, latency_ms = excluded.latency_ms,
                                            details = excluded.details, checked_at = now()''', [json.dumps(rows)])
"""


MEASURE = """
import json, os, sys, time
begun = time.monotonic()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(json.dumps([(usage.ru_utime + usage.ru_stime) * 1000, (time.monotonic() - begun) * 1000, usage.ru_maxrss / 1024]))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Cost(NamedTuple):
    """What one process cost."""

    cpu_ms: float
    wall_ms: float
    peak_mb: float


def measure(command: list[str], env: dict[str, str]) -> Cost:
    """Run a command and read its cost from the kernel.

    A process's peak memory begins with that of the one that started it, so a small one does.
    """
    starter = [sys.executable, "-I", "-S", "-c", MEASURE, *command]
    done = subprocess.run(starter, env=env, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=True)
    return Cost(*json.loads(done.stdout))


def environment() -> Path:
    """Make a virtual environment with the worker and what it depends on, all compiled; give its python."""
    folder = ROOT / ".venv-bench"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--force-reinstall", "--no-deps", str(ROOT)], check=True)
    subprocess.run([*pip, str(ROOT)], check=True)
    subprocess.run([str(python), "-m", "compileall", "-q", str(folder / "lib")], check=True)
    return python


def main() -> None:
    """Measure everything in turn, print one table, write bench.json."""
    parser = argparse.ArgumentParser(description="Measure a pass against a hand-written floor.")
    parser.add_argument("--rounds", type=int, default=25, help="how often each is run, in turn (25)")
    rounds = parser.parse_args().rounds
    python = str(environment())
    worker = str(Path(python).with_name("ops-worker"))
    with Postgres() as server, Stubs() as stubs:
        url = server.url()
        load_platform(url)
        four = {"PATH": os.environ["PATH"], "DATABASE_URL": url} | stubs.env
        two = four | {"DISPATCHER_HEALTH_URL": "", "DELIVERY_HEALTH_URL": ""}
        subprocess.run([worker, "init-db"], env=four, check=True, stdout=subprocess.DEVNULL)
        runs: dict[str, tuple[list[str], dict[str, str]]] = {
            "floor, 2 services": ([python, "-c", FLOOR], two),
            "health, 2 services": ([worker, "health"], two),
            "floor, 4 services": ([python, "-c", FLOOR], four),
            "health, 4 services": ([worker, "health"], four),
            "metrics, 4 services": ([worker, "metrics"], four),
            "import argparse, logging": ([python, "-c", "import argparse, logging"], four),
            "--help": ([worker, "--help"], four),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in runs}
        for number in range(rounds + 2):
            for name, (command, env) in runs.items():
                cost = measure(command, env)
                if number >= 2:
                    costs[name].append(cost)
    medians = {name: Cost(*(statistics.median(column) for column in zip(*found, strict=True))) for name, found in costs.items()}
    bases = {name: next(base for base in (*list(medians)[i::-1], name) if base.startswith(("floor", "import")))
             for i, name in enumerate(medians)}  # fmt: skip
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; medians of {rounds} runs in turn")
    print(f"{'':26}{'CPU ms':>8}{'wall ms':>9}{'peak MB':>9}  CPU ratio")
    for name, cost in medians.items():
        ratio = cost.cpu_ms / medians[bases[name]].cpu_ms
        print(f"{name:26}{cost.cpu_ms:8.1f}{cost.wall_ms:9.1f}{cost.peak_mb:9.1f}  {ratio:.2f} of {bases[name]}")
    found = {name: cost._asdict() | {"ratio": cost.cpu_ms / medians[bases[name]].cpu_ms} for name, cost in medians.items()}
    Path("bench.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
