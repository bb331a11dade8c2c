"""The command line: what is misspelled is told with what may be meant."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ops_worker.cli import main

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("helth", "; did you mean health?"),
        ("init_db", "; did you mean init-db?"),
        ("help", "; did you mean --help?"),
        ("--verison", "; did you mean --version instead of --verison?"),
        ("maintenance strat", "; did you mean start?"),
        ("alerts lst", "; did you mean list?"),
        ("status --output jsn", "; did you mean json?"),
        ("init-db --indexes=creat", "; did you mean create?"),
        (
            "health --dry-rnu",
            "ops-worker health: error: unrecognized arguments: --dry-rnu; did you mean --dry-run instead of --dry-rnu?",
        ),
        ("health --dry_run", "; did you mean --dry-run instead of --dry_run?"),
        ("explain ingest --ta=5m", "; did you mean --at instead of --ta?"),
        (
            "maintenance start --resaon=x --fro 5m",
            "; did you mean --reason instead of --resaon?; did you mean --for instead of --fro?",
        ),
        ("alerts ack --bye kim 3", "; did you mean --by instead of --bye?"),
        ("sidecar metrcs", "; did you mean metrics?"),
    ],
)
def test_did_you_mean(capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    """Commands, actions, options, choices and passes: the nearest one is suggested, by the command that was given."""
    assert main(line.split()) == 2
    assert capsys.readouterr().err.rstrip("\n").endswith(said)


@pytest.mark.parametrize(
    "line",
    ["nonsense", "maintenance stop", "health --xyzzy", "status --output 7", "health --every x", ""],
)
def test_no_idea(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Where nothing is near, nothing is suggested."""
    assert main(line.split()) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_right_options_are_not_questioned(capsys: pytest.CaptureFixture[str]) -> None:
    """An error about a value does not doubt the options beside it, also where one is abbreviated."""
    assert main(["health", "--dry", "--output=text", "--every", "never"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_costs_nothing_where_nothing_is_wrong() -> None:
    """What compares words is not imported by a command line that is right."""
    code = "import sys; from ops_worker.cli import main; main(['--version']); sys.exit('difflib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
