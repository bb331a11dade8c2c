"""`ops-worker manifests check`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from ops_worker.cli import main
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
    """The command counts what it checked, and ends with 4 for faults."""
    assert main(["manifests", "check", str(K8S)]) == 0
    assert capsys.readouterr().out == "manifests: 8 objects checked, 0 faults\n"
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
        f"{bad}: CronJob/ops-worker-health: spec.timeZone: 'Moon' is not a time zone; set Etc/UTC\nmanifests: 3 objects checked, 1 fault\n"
    )


def test_standard_input_and_lists() -> None:
    """`-` reads standard input, and a List is taken apart."""
    listed = yaml.safe_dump({"kind": "List", "items": [content for _, content in INSTALLED]})
    done = subprocess.run(
        [sys.executable, "-m", "ops_worker", "manifests", "check", "-"],
        input=listed,
        capture_output=True,
        text=True,
        check=False,
        cwd=K8S.parent,
    )
    assert (done.returncode, done.stdout) == (0, "manifests: 8 objects checked, 0 faults\n")
