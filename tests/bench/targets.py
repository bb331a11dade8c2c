"""The cost of many targets, on the same fast server.

The worker, a hand-written floor with asyncio, and blackbox_exporter probe them in turn.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from tests.bench.tools import Cost, catalogue, cpu_ms, fast_server, measure, urls

if TYPE_CHECKING:
    from collections.abc import Iterator

CONCURRENCY = 128
"""The most requests of the floor at the same time."""
FLOOR = """
import asyncio, json, sys
class Ask(asyncio.Protocol):
    def __init__(self, host, port, path):
        self.host, self.port, self.path, self.data = host, port, path, b""
        self.done = asyncio.get_running_loop().create_future()
    def connection_made(self, transport):
        host = f"{self.host}:{self.port}"
        head = f"GET {self.path} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n"
        transport.write(head.encode())
    def data_received(self, data):
        self.data += data
    def connection_lost(self, error):
        self.done.set_result(self.data.partition(b"\\r\\n\\r\\n")[2])
async def main():
    loop, gate, well = asyncio.get_running_loop(), asyncio.Semaphore(int(sys.argv[2])), 0
    async def one(line):
        nonlocal well
        host, port, path = line.split()
        async with gate:
            _, ask = await loop.create_connection(lambda: Ask(host, port, path), host, int(port))
            answer = await ask.done
        well += PARSE(answer)
    lines = open(sys.argv[1]).read().splitlines()
    await asyncio.gather(*(one(line) for line in lines))
    print(well)
    sys.exit(well < 0.99 * len(lines))
"""
"""A program that requests the targets of a file. PARSE decides whether an answer is right."""
AS_JSON = "bool(json.loads({}))"
"""The expression for PARSE: an answer is right if it is JSON and not empty."""


def run(python: str, worker: str, url: str, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Probe each number of targets with each program in turn.

    The CPU time per probe is that of the whole process, from its start to its end.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name, fast_server() as port:
        folder = Path(name)
        for size in sizes:
            env = {
                "PATH": os.environ["PATH"],
                "DATABASE_URL": url,
                "OPS_WORKER_CATALOGUE": catalogue(folder, size, port),
            }
            lines = [
                f"{target.removeprefix('http://').replace(':', ' ')} /health"
                for target in urls(size, port)
            ]
            floor = _floor(python, AS_JSON, folder, lines)
            rows.append(_row(f"asyncio floor, {size}", measure(floor, env), size))
            rows.append(_row(f"health, {size}", measure([worker, "health"], env), size))
            rows.append(_row(f"metrics, {size}", measure([worker, "metrics"], env), size))
            with contextlib.suppress(FileNotFoundError):
                rows.append(_row(f"blackbox_exporter, {size}", _exporter(folder, size, port), size))
    return rows


def latencies(worker: str, url: str, size: int) -> list[dict[str, Any]]:
    """Record the latencies of a server that waits for a known time.

    The difference between the recorded latency and this time is the error of the worker.
    """
    rows = []
    for wait_ms in (0, 20, 200):
        with tempfile.TemporaryDirectory() as name, fast_server(wait_ms) as port:
            env = {
                "PATH": os.environ["PATH"],
                "DATABASE_URL": url,
                "OPS_WORKER_CATALOGUE": catalogue(Path(name), size, port),
            }
            measure([worker, "health"], env)
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT percentile_disc(ARRAY[0.5, 0.99, 1.0]) WITHIN GROUP (ORDER BY latency_ms)"
                " FROM service_health WHERE service LIKE 's0%'"
            ).fetchone()
        assert row is not None
        p50, p99, most = (value - wait_ms for value in row[0])
        rows.append(
            {
                "latency of": f"a server that waits {wait_ms} ms, {size} targets",
                "error p50 ms": p50,
                "p99 ms": p99,
                "max ms": most,
            }
        )
    return rows


def shards(worker: str, url: str, size: int) -> list[dict[str, Any]]:
    """Measure 1, 2 and 4 processes at the same time, each with its shard of the targets."""
    rows = []
    with tempfile.TemporaryDirectory() as name, fast_server() as port:
        env = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": url,
            "OPS_WORKER_CATALOGUE": catalogue(Path(name), size, port),
        }
        for count in (1, 2, 4):
            before, begun = os.times(), time.monotonic()
            processes = [
                subprocess.Popen(
                    [worker, "health", "--shard", f"{n}/{count}"],
                    env=env,
                    stdout=subprocess.DEVNULL,
                )
                for n in range(count)
            ]
            assert not any(process.wait() for process in processes)
            after = os.times()
            user_s = after.children_user - before.children_user
            system_s = after.children_system - before.children_system
            rows.append(
                {
                    "shards": f"{count}, of {size} targets",
                    "wall s": time.monotonic() - begun,
                    "CPU s, all": user_s + system_s,
                }
            )
    return rows


def _row(name: str, cost: Cost, size: int) -> dict[str, Any]:
    """Return the row of a program that probed so many targets."""
    return {
        "targets": name,
        "CPU ms/probe": cost.cpu_ms / size,
        "wall s": cost.wall_ms / 1000,
        "peak MB": cost.peak_mb,
    }


def _floor(python: str, parse: str, folder: Path, lines: list[str]) -> list[str]:
    """Write the file of the targets, and return the command of the floor.

    A line has the host, port and path of a target.
    """
    path = folder / "targets"
    path.write_text("\n".join(lines), encoding="utf-8")
    program = FLOOR.replace("PARSE(answer)", parse.format("answer")) + "\nasyncio.run(main())"
    return [python, "-c", program, str(path), str(CONCURRENCY)]


def _exporter(folder: Path, size: int, port: int) -> Cost:
    """Let the exporter probe the targets. The floor sends the requests to the exporter.

    The CPU time of the floor does not count.
    """
    with _running_exporter() as (process, exporter_port):
        lines = [
            f"127.0.0.1 {exporter_port} /probe?module=http_2xx&target={target}/health"
            for target in urls(size, port)
        ]
        client = _floor(sys.executable, "b'probe_success 1' in {}", folder, lines)
        cpu_before_ms, begun = cpu_ms(process.pid), time.monotonic()
        subprocess.run(client, check=True, stdout=subprocess.DEVNULL)
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        peak_kb = next(
            int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")
        )
        return Cost(
            cpu_ms=cpu_ms(process.pid) - cpu_before_ms,
            wall_ms=(time.monotonic() - begun) * 1000,
            peak_mb=peak_kb / 1024,
        )


@contextlib.contextmanager
def _running_exporter() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run blackbox_exporter; yield its process and its port.

    Raises FileNotFoundError if it is not installed.
    """
    program = shutil.which("blackbox_exporter") or shutil.which("prometheus-blackbox-exporter")
    if program is None:
        raise FileNotFoundError("blackbox_exporter")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write(
            "modules: {http_2xx: {prober: http, timeout: 5s, http: {preferred_ip_protocol: ip4}}}\n"
        )
        file.flush()
        command = [
            program,
            f"--config.file={file.name}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield process, port
            process.terminate()
