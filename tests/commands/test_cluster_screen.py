"""The tables of `ops-worker cluster`, at any width."""

from __future__ import annotations

import pytest

from ops_worker.commands.cluster import View
from ops_worker.commands.cluster_screen import screen
from ops_worker.core.cronjobs import CronJobState
from ops_worker.core.deployments import DeploymentState

pytestmark = pytest.mark.unit

ROW = CronJobState(
    name="ops-worker-health",
    schedule="*/5 9-17 * * 1-5",
    suspended=False,
    last_run_s=600.0,
    last_success_s=60.0,
    running=1,
    missed=12,
    exit_code=0,
    summary="health: 4 services, 4 healthy (ingest 3 ms, evaluator 4 ms, dispatcher 2 ms)",
    warnings=("ops-worker-health: " + "x" * 900,),
)
LOOP = DeploymentState(
    name="ops-worker-sidecar",
    passes=("health", "metrics", "rollup"),
    ready=1,
    replicas=1,
    restarts=0,
    state="ready",
    warnings=(),
)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("name", ["ops-worker-health", "a" * 52, "\x1b[2J服务"])
def test_rows_fit(width: int, name: str) -> None:
    """No line of a table is wider than the screen; a warning is never cut."""
    view = View([ROW._replace(name=name)], [LOOP], [], [])
    lines = screen(view, width).splitlines()
    tables = [line for line in lines if not line.startswith("warning: ")]
    assert max(map(len, tables)) <= width
    assert "\x1b" not in "".join(tables)
    assert f"warning: {ROW.warnings[0]}" in lines
    assert tables[0].split()[-1] in {"EXIT", "SUMMARY"}
    assert [line.split()[-1] for line in tables if line.endswith("ready")] == ["ready"]


def test_columns_are_left_out() -> None:
    """On a narrow screen the least important columns are left out first."""
    text = screen(View([ROW], [], [], []), 80)
    head, row, note = text.splitlines()[:3]
    assert head.split() == [
        "CRONJOB",
        "SCHEDULE",
        "SUSPENDED",
        "LAST",
        "RUN",
        "LAST",
        "SUCCESS",
        "EXIT",
    ]
    assert row.split()[-1] == "0"
    assert note.startswith("  health: 4 services, 4 healthy")
