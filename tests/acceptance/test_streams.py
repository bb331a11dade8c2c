"""Where the output goes: a full disk, a stream that is closed, a terminal that knows ASCII only. It costs no pass its exit code."""

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
    """Run the worker by a shell, which redirects its streams."""
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
    """What a person asked for and could not be written is no success, and no bug; it is told in one line."""
    worker("health")
    done = shell(worker, arguments, f">{FULL}")
    told = f"ops-worker {arguments.split(maxsplit=1)[0]}: the output could not be written: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (1, told)


@full
def test_full_file(worker: Worker) -> None:
    """A page that has no room is as good as an output that has none; a place that is none is a fault of the command line."""
    assert (
        worker("report", "-o", FULL).stderr
        == "ops-worker report: the output could not be written: No space left on device\n"
    )
    assert worker("report", "-o", FULL).returncode == 1
    assert worker("report", "-o", "/nowhere/r.html").returncode == 2


@full
def test_full_errors(worker: Worker) -> None:
    """The exit code of a failure tells what it is, also where nothing else can."""
    assert shell(worker, "health", f">{FULL} 2>&1", DATABASE_URL="").returncode == 2
    assert shell(worker, "health --output json", f">{FULL} 2>&1", PG_ROLE="nobody").returncode == 3


@pytest.mark.parametrize(
    "redirection", [pytest.param(f">{FULL} 2>&1", marks=full), ">&-", ">&- 2>&-", "<&- >&- 2>&-"]
)
def test_pass(worker: Worker, database: Database, redirection: str) -> None:
    """A pass whose closing line nobody can have is recorded, and so ends with 0."""
    for command in ("health", "metrics --output json"):
        assert (shell(worker, command, redirection).returncode, database.samples() != {}) == (
            0,
            command != "health",
        )
    assert set(database.health()) == {"ingest", "evaluator", "dispatcher", "delivery_worker"}


def test_ascii(worker: Worker, database: Database, stubs: Stubs) -> None:
    """A terminal that knows ASCII only is shown a ? for each character that it has not; the page is UTF-8, as it says of itself."""
    stubs["ingest"].mode = "down"
    for command in ("health", "metrics"):
        worker(command)
    database.rows("UPDATE fleet_alert SET summary = 'Störung' WHERE tenant_id = '__system__'")
    plain = shell(worker, "status", "", PYTHONIOENCODING="ascii")
    assert plain.returncode == 0, plain.stderr
    assert "St?rung" in plain.stdout.decode("ascii")
    page = shell(worker, "report -o -", "", PYTHONIOENCODING="ascii")
    assert "Störung" in page.stdout.decode("utf-8"), page.stderr
