"""Tools of the benchmarks: processes and their cost, environment, servers, catalogues, tables."""

from __future__ import annotations

import contextlib
import json
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


class Cost(NamedTuple):
    """The cost of one process."""

    cpu_ms: float
    wall_ms: float
    peak_mb: float


def measure(command: list[str], env: dict[str, str]) -> Cost:
    """Run a command and read its cost from the kernel.

    The peak memory of a process begins with that of its parent, so a small process starts it.
    """
    starter = [sys.executable, "-I", "-S", "-c", MEASURE, *command]
    done = subprocess.run(
        starter, env=env, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=True
    )
    return Cost(*json.loads(done.stdout))


def environment() -> Path:
    """Make a virtual environment with the worker and its dependencies; return its Python.

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
    """Return the CPU time of a process so far, in user and system mode, in milliseconds."""
    ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) * 10.0


@contextlib.contextmanager
def fast_server(wait_ms: float = 0) -> Iterator[int]:
    """Run the fast server (``tests.bench.server``) as a process of its own; yield its port."""
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
    """Return so many base URLs, each with a loopback address of its own."""
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
    """Print rows as a table; a number has as many digits as it needs."""
    texts = [[_shown(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(list(rows[0]), *texts, strict=True)]
    print(f"\n{title}")
    for line in (list(rows[0]), *texts):
        print(
            "  ".join(
                cell.ljust(width) if n == 0 else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip(),
            flush=True,
        )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        digits = 3 if abs(value) < 1 else 2
        return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.1f}"
    return "-" if value is None else str(value)
