"""How the worker's container of a pod starts and ends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ops_worker.core.cluster_events import ClusterEvent, read
from ops_worker.core.pod_states import (
    end_text,
    is_waiting,
    kill_text,
    memory_limit,
    pod_failure,
    start_problem,
    termination_text,
)
from tests.kubernetes_api import event

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, 1, 0, tzinfo=UTC)
PULL = 'Failed to pull image "x:1": failed to resolve reference "x:1": x:1: not found'


def pod(state: dict[str, Any] | None = None, phase: str = "Pending") -> dict[str, Any]:
    """Return a pod of the worker with a state of its container."""
    limits = {"resources": {"limits": {"memory": "32Mi"}}}
    return {
        "metadata": {"name": "p", "namespace": "ops"},
        "spec": {"containers": [{"name": "ops-worker", **limits}]},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": "ops-worker", "state": state or {}}],
        },
    }


def events(*pairs: tuple[str, str]) -> list[ClusterEvent]:
    """Return Events of the pod with these reasons and messages, from 12:00:10."""
    return [read(event("Pod/p", reason, message)) for reason, message in pairs]


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """Return the state of a container that waits."""
    return {"waiting": {"reason": reason, "message": message}}


def test_whole_cause_of_a_pull_error() -> None:
    """Kubernetes 1.31 has the cause only in an Event. Later versions repeat it in the state."""
    back_off = 'Back-off pulling image "x:1"'
    stuck = pod(waiting("ImagePullBackOff", back_off))
    expected = (
        f"pod p cannot start: ImagePullBackOff: {back_off}: {PULL}; no such image or tag in the "
        "registry: check the image's name and tag, and push the image"
    )
    assert start_problem(stuck, events(("Failed", PULL))) == expected
    repeated = pod(waiting("ImagePullBackOff", f"{back_off}: {PULL}"))
    assert start_problem(repeated, events(("Failed", PULL))) == expected
    assert start_problem(pod(waiting("ErrImagePull")), events(("Failed", PULL))).startswith(
        f"pod p cannot start: ErrImagePull: {PULL}; "
    )
    long = f"Failed to pull image {'x' * 900}: not found"
    assert long in start_problem(stuck, events(("Failed", long)))


def test_from_events() -> None:
    """While a container is being created, only Events have the reason."""
    creating = pod(waiting("ContainerCreating"))
    mount = events(("FailedMount", 'secret "absent" not found'))
    assert start_problem(creating, mount).startswith(
        'pod p cannot start: FailedMount: secret "absent" not found; create the Secret: '
        "`kubectl -n ops create secret"
    )
    assert start_problem(pod({"running": {}}, "Running"), mount) == ""
    assert start_problem(creating) == ""


@pytest.mark.parametrize(("second", "is_long"), [(29, False), (30, True), (59, True)])
def test_slow_pull(second: int, is_long: bool) -> None:
    """A pull without an end is reported after twenty seconds."""
    creating = pod(waiting("ContainerCreating"))
    pulling = events(("Pulling", 'Pulling image "x:1"'))
    problem = start_problem(creating, pulling, NOW.replace(minute=0, second=second))
    assert problem.startswith("pod p has waited for ") == is_long
    assert ('Pulling image "x:1"; load the image onto the nodes beforehand' in problem) == is_long
    assert start_problem(creating, pulling) == ""
    ended = events(("Pulling", ""), ("Pulled", ""))
    assert start_problem(creating, ended, NOW) == ""


def test_is_waiting() -> None:
    """A pod without a phase has not started."""
    assert is_waiting({}) and is_waiting(pod()) and not is_waiting(pod(phase="Running"))


def test_memory_limit() -> None:
    """The limit is that of the container, as its manifest has it."""
    assert memory_limit(pod(), "ops-worker") == "32Mi"
    assert memory_limit(pod(), "other") == ""
    state = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    assert end_text(pod(state)) == (
        "OOMKilled: raise resources.limits.memory of the container, now 32Mi "
        "(the manifests set 128Mi)"
    )
    assert end_text(pod()) == ""


def test_killed_otherwise() -> None:
    """Exit code 137 without OOMKilled is explained, too."""
    state = {"terminated": {"exitCode": 137, "reason": "Error"}}
    assert kill_text(pod(state)).startswith(
        "pod p ended with exit code 137: Error: SIGKILL ended it: it did not end within "
    )
    assert termination_text({"exitCode": 137}).startswith("Error: SIGKILL ended it")


def test_program_missing() -> None:
    """A container that could not be started shows the whole message and what to do."""
    message = 'failed to create task: exec: "nope": executable file not found in $PATH: unknown'
    text = termination_text({"exitCode": 128, "reason": "StartError", "message": message})
    assert text.startswith(f"StartError: {message}; the image has no program nope: ")


def test_control_characters() -> None:
    """A termination message cannot move the cursor of a terminal."""
    assert termination_text({"message": "a\x1b[2Jb\x07"}) == "a [2Jb"


def test_pod_failure() -> None:
    """A pod that failed as a whole has a reason of its own."""
    evicted = pod(phase="Failed")
    evicted["status"] |= {"reason": "Evicted", "message": "The node was low on memory."}
    assert pod_failure(evicted) == (
        "pod p failed: Evicted: The node was low on memory.; see `kubectl describe nodes`"
    )
    assert pod_failure(pod(phase="Failed")) == ""
    assert pod_failure(pod()) == ""


CORE = 'failed to pull and unpack image "x:1": failed to resolve reference "x:1": x:1: not found'
RPC = f"rpc error: code = NotFound desc = {CORE}"
EVENT = f'Failed to pull image "x:1": {CORE}'
RPC_EVENT = f'Failed to pull image "x:1": {RPC}'


@pytest.mark.parametrize(
    ("message", "about", "cause"),
    [
        (RPC, RPC_EVENT, None),
        (RPC, EVENT, None),
        (CORE, RPC_EVENT, None),
        (f'Back-off pulling image "x:1": ErrImagePull: {RPC}', RPC_EVENT, None),
        (f'Back-off pulling image "x:1": ErrImagePull: {CORE}', RPC_EVENT, None),
        ('Back-off pulling image "x:1"', EVENT, f'Back-off pulling image "x:1": {EVENT}'),
        ("", EVENT, EVENT),
        ("one cause", "Failed to pull image: another", "one cause: Failed to pull image: another"),
    ],
)
def test_a_pull_error_is_shown_once(message: str, about: str, cause: str | None) -> None:
    """The state and the Event have the same cause behind other words."""
    stuck = pod(waiting("ImagePullBackOff", message))
    problem = start_problem(stuck, events(("Failed", about)))
    assert problem.startswith(f"pod p cannot start: ImagePullBackOff: {cause or message}; ")
    assert problem.count("x:1: not found") <= 1
