"""Every printed command works as it is pasted: it names the namespace and, if needed, the cluster.

Without ``-n``, the namespace of the current context counts, which may be another one.
"""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import ops_worker
from ops_worker.core.cronjobs import Objects, row
from ops_worker.core.jobs import unexplained_failure
from ops_worker.core.pod_states import end_text, other_failure
from ops_worker.core.pods import trigger, with_flags

pytestmark = pytest.mark.unit

PACKAGE = Path(ops_worker.__file__).parent
MODULES = [
    *(
        PACKAGE / "core" / f"{name}.py"
        for name in (
            "cluster_events",
            "cronjobs",
            "deployments",
            "jobs",
            "pod_states",
            "pods",
            "start_problems",
        )
    ),
    *PACKAGE.glob("commands/cluster*.py"),
    PACKAGE / "commands" / "trigger.py",
    PACKAGE / "adapters" / "kubernetes.py",
]
"""The modules that print commands about objects of a cluster."""
WITHOUT_NAMESPACE = re.compile(
    r"`(?:kubectl|ops-worker (?:trigger|cluster)) "
    r"(?!-n |apply -k|describe nodes|create priorityclass)"
)
"""A command without a namespace, except those about objects that have none.

An overlay names its namespace itself.
"""
NOW = datetime(2026, 3, 1, 12, 10, 0, tzinfo=UTC)
ABOUT = {"name": "x", "namespace": "shop", "uid": "u", "creationTimestamp": "2026-03-01T12:00:00Z"}


def _texts(source: str) -> list[str]:
    """Return the strings of a module, without docstrings and other strings that nothing uses."""
    tree = ast.parse(source)
    unused = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in unused
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_commands_in_the_code(module: Path) -> None:
    """No text of these modules has a command without a namespace."""
    texts = _texts(module.read_text(encoding="utf-8"))
    assert [text for text in texts if WITHOUT_NAMESPACE.search(text)] == []


def _pod(**states: dict[str, Any]) -> dict[str, Any]:
    """Return a pod that failed, with a container for each state."""
    return {
        "metadata": ABOUT,
        "spec": {"containers": [{"name": name} for name in states]},
        "status": {
            "phase": "Failed",
            "containerStatuses": [
                {"name": name, "state": {"terminated": state}} for name, state in states.items()
            ],
        },
    }


def test_overdue() -> None:
    """The warning about a missing success names the namespace in both commands."""
    cronjob = {"metadata": ABOUT, "spec": {"schedule": "* * * * *"}}
    (warning,) = row(cronjob, Objects([], []), NOW, lambda _: 10).warnings
    assert "`kubectl -n shop describe cronjob x`" in warning
    assert "`ops-worker trigger x -n shop --wait`" in warning
    assert trigger({"metadata": {"name": "x"}}) == "ops-worker trigger x --wait"


def test_ends() -> None:
    """The hints about containers and Jobs that failed name the namespace."""
    assert "`kubectl -n shop get events`" in end_text(_pod(worker={"exitCode": 137}))
    config_map = {"exitCode": 128, "reason": "StartError", "message": 'configmap "c" not found'}
    assert "`kubectl -n shop create configmap c " in end_text(_pod(worker=config_map))
    mesh = _pod(worker={"exitCode": 0}, mesh={"exitCode": 137})
    assert "`kubectl -n shop get events`" in other_failure(mesh)
    assert other_failure(mesh).endswith("see `kubectl -n shop logs x -c mesh`")
    condition = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    job = {"metadata": ABOUT, "status": {"conditions": [condition]}}
    assert "look in `kubectl -n shop get events`" in unexplained_failure(job, [])


def test_flags() -> None:
    """Flags of a cluster go into each command of kubectl and of this program, and nowhere else."""
    message = "use kubectl: `kubectl -n a get jobs` or `ops-worker trigger x -n a --wait` or `ls`"
    assert with_flags(message, "--context c") == (
        "use kubectl: `kubectl --context c -n a get jobs` "
        "or `ops-worker trigger --context c x -n a --wait` or `ls`"
    )
    assert with_flags(message, "") == message
    assert with_flags("`kubectl get x`", r"--context '\1'") == r"`kubectl --context '\1' get x`"
