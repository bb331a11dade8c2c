from __future__ import annotations

from typing import Any

import pytest

from ops_worker.core.pods import Container, Invocation, containers, invocation, is_worker, workers

pytestmark = pytest.mark.unit

OURS = {"app.kubernetes.io/name": "ops-worker"}
CATALOGUE = [{"name": "OPS_WORKER_CATALOGUE", "value": "/x"}]


@pytest.mark.parametrize(
    ("container", "arguments", "shell"),
    [
        (
            {"image": "ops-worker:1", "args": ["health", "--every", 5]},
            ("health", "--every", "5"),
            "",
        ),
        ({"image": "ops-worker"}, (), ""),
        (
            {"image": "reg:5000/team/ops-worker@sha256:0", "args": ["ops-worker", "health"]},
            ("ops-worker", "health"),
            "",
        ),
        ({"image": "watcher", "args": ["ops-worker", "health"]}, ("health",), ""),
        ({"command": ["ops-worker", "health"]}, ("health",), ""),
        ({"command": ["ops-worker"], "args": ["health"]}, ("health",), ""),
        ({"command": ["/usr/local/bin/ops-worker", "metrics"]}, ("metrics",), ""),
        ({"command": ["python", "-m", "ops_worker", "health"]}, ("health",), ""),
        (
            {
                "command": ["/usr/bin/python3.11", "-X", "dev", "-m", "ops_worker"],
                "args": ["health"],
            },
            ("health",),
            "",
        ),
        ({"command": ["/tini", "--", "ops-worker", "health"]}, ("health",), ""),
        ({"command": ["dumb-init", "ops-worker", "health"]}, ("health",), ""),
        ({"command": ["tini", "--", "python", "-m", "ops_worker", "health"]}, ("health",), ""),
        ({"command": ["sh", "-c", "ops-worker health"]}, ("health",), "sh"),
        (
            {
                "command": ["/bin/bash", "-ec"],
                "args": ["sleep 3; exec ops-worker health --every 5 && echo"],
            },
            ("health", "--every", "5"),
            "bash",
        ),
        (
            {"command": ["sh", "-c", "set -e\n  python3 -u -m ops_worker metrics >/dev/null"]},
            ("metrics",),
            "sh",
        ),
        ({"command": [], "args": ["health"]}, ("health",), ""),
    ],
)
def test_invocation(container: dict[str, Any], arguments: tuple[str, ...], shell: str) -> None:
    """The arguments after the program are found, whatever starts the program."""
    assert invocation(container) == Invocation(arguments, shell)


@pytest.mark.parametrize(
    "command",
    [
        ["kubectl", "-n", "ops-worker", "get", "jobs"],
        ["sh", "-c", "kubectl -n ops-worker get jobs"],
        ["sh", "-c", "echo ops-worker-exporter; cat /ops-worker"],
        ["python", "ops_worker"],
        ["python", "-m", "other"],
        ["true"],
    ],
)
def test_something_else(command: list[str]) -> None:
    """A command that only names the worker does not run it."""
    assert invocation({"command": command}) is None
    assert not is_worker({"name": "a", "image": "b", "command": command})


@pytest.mark.parametrize(
    ("container", "yes"),
    [
        ({"name": "ops-worker", "image": "watcher"}, True),
        ({"name": "ops-worker-health"}, True),
        ({"name": "ops-worker-proxy"}, False),
        ({"name": "a", "image": "x/ops-worker:1", "command": ["sleep", "1"]}, True),
        ({"name": "a", "image": "x/ops-worker-tools:1"}, False),
        ({"name": "a", "image": "b", "args": ["ops-worker", "health"]}, True),
        ({"name": "a", "image": "b", "args": ["health"]}, False),
        ({"name": "a", "image": "b", "args": ["health"], "env": CATALOGUE}, True),
        ({"name": "a", "image": "b", "args": ["serve"], "env": CATALOGUE}, False),
        ({"name": None, "image": 5, "args": "health", "command": {}, "env": [None]}, False),
    ],
)
def test_recognised(container: dict[str, Any], yes: bool) -> None:
    """A container is recognised by name, image, command, or by its pass and a setting."""
    assert is_worker(container) == yes


def test_places() -> None:
    """Containers are in the order of their start, and know their role."""
    spec = {
        "containers": [{"name": "c"}, None],
        "initContainers": [{"name": "a"}, {"name": "b", "restartPolicy": "Always"}],
    }
    parsed = containers(spec)
    assert [
        (container.name, container.is_init, container.is_native_sidecar, container.is_main)
        for container in parsed
    ] == [
        ("a", True, False, False),
        ("b", False, True, False),
        ("c", False, False, True),
        ("", False, False, True),
    ]


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["a"], {}, []),
        (["a"], OURS, []),
        (["health"], OURS, ["health"]),
        (["a", "ops-worker"], OURS, ["ops-worker"]),
        (["a", "b"], OURS, []),
        (["a", "health"], OURS, ["health"]),
        (["a", "health"], {}, []),
    ],
)
def test_workers(names: list[str], labels: dict[str, str], expected: list[str]) -> None:
    """The pod's label counts only if no container is recognised by itself."""
    spec = {
        "initContainers": [{"name": "first"}],
        "containers": [{"name": name, "args": [name]} for name in names],
    }
    worker_containers = workers(spec, labels)
    assert [container.name for container in worker_containers] == expected
    assert all(
        isinstance(container, Container) and container.is_main for container in worker_containers
    )
