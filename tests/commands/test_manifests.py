"""`ops-worker manifests check`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from ops_worker.cli import _parser, main
from ops_worker.commands.manifests import program_facts
from tests.manifest_rules.installation import (
    CATALOGUE,
    HEALTH,
    INSTALLED,
    K8S,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The command counts objects and faults, and exits with 4 if there are faults."""
    assert main(["manifests", "check", str(K8S)]) == 0
    assert capsys.readouterr().out == "manifests: 9 objects checked, 0 faults\n"
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        (K8S / HEALTH).read_text(encoding="utf-8").replace("timeZone: Etc/UTC", "timeZone: Moon"),
        encoding="utf-8",
    )
    assert (
        main(["manifests", "check", str(K8S / "20-configmap.yaml"), str(K8S / CATALOGUE), str(bad)])
        == 4
    )
    assert capsys.readouterr().out == (
        f"{bad}: CronJob/ops-worker-health: spec.timeZone: 'Moon' is not a time zone; set Etc/UTC\n"
        "manifests: 3 objects checked, 1 fault\n"
    )


def test_standard_input_and_lists() -> None:
    """`-` reads standard input, and every object of a List is checked."""
    listed = yaml.safe_dump({"kind": "List", "items": [content for _, content in INSTALLED]})
    result = subprocess.run(
        [sys.executable, "-m", "ops_worker", "manifests", "check", "-"],
        input=listed,
        capture_output=True,
        text=True,
        check=False,
        cwd=K8S.parent,
    )
    assert (result.returncode, result.stdout) == (0, "manifests: 9 objects checked, 0 faults\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["health"], ""),
        (["health", "--every", "5", "--for", "55"], ""),
        (["sidecar"], ""),
        (["health", "--for", "55"], "--for requires --every"),
        (["health", "--help"], "only prints help and does nothing"),
        (["health", "--token=hunter2"], "unrecognized arguments: --token=..."),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_argument_error(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program's own parser checks the arguments, and prints nothing."""
    assert program_facts(_parser()).argument_error(arguments) == error
    assert capsys.readouterr() == ("", "")
