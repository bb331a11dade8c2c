"""Output that cannot be written: a full disk, a closed stream, an ASCII terminal.

The exit code of a pass does not depend on its output.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Database, Worker
    from tests.stubs import Stubs

pytestmark = pytest.mark.acceptance

FULL = "/dev/full"
full = pytest.mark.skipif(not Path(FULL).exists(), reason="this system has no /dev/full")


def shell(
    worker: Worker, arguments: str, redirection: str, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the worker in a shell that redirects its streams."""
    command = f"exec {sys.executable} -m ops_worker {arguments} {redirection}"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=worker.folder,
        env=worker.env | env,
        capture_output=True,
        timeout=60,
        check=False,
    )


@full
@pytest.mark.parametrize(
    "arguments",
    [
        "status",
        "explain ingest",
        "report -o -",
        "alerts list",
        "catalogue show",
        "status --output json",
    ],
)
def test_full(worker: Worker, arguments: str) -> None:
    """A command whose output cannot be written ends with 1 and one line on standard error."""
    worker("health")
    done = shell(worker, arguments, f">{FULL}")
    name = arguments.split(maxsplit=1)[0]
    line = f"ops-worker {name}: the output could not be written: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (1, line)


@full
def test_full_file(worker: Worker) -> None:
    """A full disk is the same error for a report file. A missing folder is a wrong option."""
    assert (
        worker("report", "-o", FULL).stderr
        == "ops-worker report: the output could not be written: No space left on device\n"
    )
    assert worker("report", "-o", FULL).returncode == 1
    assert worker("report", "-o", "/nowhere/r.html").returncode == 2


@full
def test_full_errors(worker: Worker) -> None:
    """A failure keeps its exit code when its message cannot be written."""
    assert shell(worker, "health", f">{FULL} 2>&1", DATABASE_URL="").returncode == 2
    assert shell(worker, "health --output json", f">{FULL} 2>&1", PG_ROLE="nobody").returncode == 3


@pytest.mark.parametrize(
    "redirection", [pytest.param(f">{FULL} 2>&1", marks=full), ">&-", ">&- 2>&-", "<&- >&- 2>&-"]
)
def test_pass(worker: Worker, database: Database, redirection: str) -> None:
    """A pass whose closing line cannot be written is recorded and ends with 0."""
    for command in ("health", "metrics --output json"):
        assert (shell(worker, command, redirection).returncode, database.samples() != {}) == (
            0,
            command != "health",
        )
    assert set(database.health()) == {"ingest", "evaluator", "dispatcher", "delivery_worker"}


def test_ascii(worker: Worker, database: Database, stubs: Stubs) -> None:
    """An ASCII terminal shows ? for other characters. A page is UTF-8, as its header says."""
    stubs["ingest"].mode = "down"
    for command in ("health", "metrics"):
        worker(command)
    database.rows("UPDATE fleet_alert SET summary = 'Störung' WHERE tenant_id = '__system__'")
    plain = shell(worker, "status", "", PYTHONIOENCODING="ascii")
    assert plain.returncode == 0, plain.stderr
    assert "St?rung" in plain.stdout.decode("ascii")
    page = shell(worker, "report -o -", "", PYTHONIOENCODING="ascii")
    assert "Störung" in page.stdout.decode("utf-8"), page.stderr
