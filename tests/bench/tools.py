"""Tools of the benchmarks: processes and their cost, environment, servers, catalogues, tables."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
MEASURE = """
import json, os, sys, time
begun = time.monotonic()
no_output = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[no_output])
_, status, usage = os.wait4(pid, 0)
cpu_s = usage.ru_utime + usage.ru_stime
wall_s = time.monotonic() - begun
print(json.dumps([cpu_s * 1000, wall_s * 1000, usage.ru_maxrss / 1024]))
sys.exit(os.waitstatus_to_exitcode(status))
"""


"""A program that runs a command and prints its cost as JSON, in the order of ``Cost``."""


class Cost(NamedTuple):
    """The cost of one process: CPU time and elapsed time in ms, and peak memory in MB."""

    cpu_ms: float
    wall_ms: float
    peak_mb: float


def measure(command: list[str], env: dict[str, str]) -> Cost:
    """Run a command and return its cost, as the kernel reports it.

    The peak memory of a process begins with the memory of its parent. So a small process starts the
    command.
    """
    starter = [sys.executable, "-I", "-S", "-c", MEASURE, *command]
    process = subprocess.run(
        starter, env=env, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=True
    )
    return Cost(*json.loads(process.stdout))


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Return the median of each part of the cost."""
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def environment() -> Path:
    """Create a virtual environment with the worker and its dependencies; return its Python.

    All modules are compiled.
    """
    folder = ROOT / ".venv-bench"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--force-reinstall", "--no-deps", str(ROOT)], check=True)
    subprocess.run([*pip, str(ROOT)], check=True)
    subprocess.run([str(python), "-m", "compileall", "-q", str(folder / "lib")], check=True)
    return python


def cpu_ms(pid: int) -> float:
    """Return the CPU time of a process so far, in user and system mode, in milliseconds.

    The kernel counts in ticks of 10 ms (proc_pid_stat(5), utime and stime).
    """
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 10.0


@contextlib.contextmanager
def fast_server(wait_ms: float = 0) -> Iterator[int]:
    """Run the fast server (``tests.bench.server``) in its own process; yield its port."""
    command = [sys.executable, str(Path(__file__).with_name("server.py")), str(wait_ms)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


def urls(number: int, port: int) -> list[str]:
    """Return so many base URLs, each with its own loopback address."""
    return [
        f"http://127.{1 + n // 62_500}.{n // 250 % 250}.{1 + n % 250}:{port}" for n in range(number)
    ]


def catalogue(folder: Path, number: int, port: int) -> str:
    """Write a catalogue of so many services; return its path."""
    path = folder / f"{number}-{port}.toml"
    services = (
        f'[services.s{n:05}]\nurl = "{url}"\ncounters = ["a", "b"]\n'
        for n, url in enumerate(urls(number, port))
    )
    path.write_text("builtin = false\n" + "".join(services), encoding="utf-8")
    return str(path)


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table. The first column is aligned left, the others right."""
    head = list(rows[0])
    lines = [head, *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}")
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join(cells).rstrip(), flush=True)


def _cell(value: Any) -> str:
    """Return a value as text. A smaller number has more decimals."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if abs(value) < 1:
        return f"{value:.3f}"
    if abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:.1f}"
