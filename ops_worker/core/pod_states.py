"""How the worker's container of a pod starts, runs and ends, as Kubernetes reports it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ops_worker.core.cluster_events import start_failure, unfinished_pull, with_pull_cause
from ops_worker.core.pods import at, containers, items, kubectl, mapping, text, workers
from ops_worker.core.start_problems import (
    PULL_REASONS,
    START_ERRORS,
    is_start_problem,
    problem_text,
    remedy,
    safe_message,
)
from ops_worker.errors import OpsWorkerError, severity
from ops_worker.text import format_age, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ops_worker.core.cluster_events import ClusterEvent

BLOCKED_S = 60.0
"""Seconds that the other containers of a pod have to end after its pass."""
PULL_S = 20.0
"""Seconds after which an unfinished pull is reported. Most pulls take less."""
MAX_TERMINATION_TEXT = 300
"""The most characters of a termination message that are shown."""
USE_NATIVE_SIDECAR = (
    "make it a native sidecar (an init container with restartPolicy: Always), "
    "because a Job does not wait for those"
)
"""The hint for a container that keeps a Job from completing."""
OUT_OF_MEMORY = "OOMKilled"
"""The reason that Kubernetes reports for a container that exceeded its memory limit."""
KILLED = 137
"""The exit code of a process that SIGKILL ended: 128 plus the number of the signal, 9."""
KILLED_HINT = (
    "SIGKILL ended it: it did not end within terminationGracePeriodSeconds, or the node ran out of "
    "memory; see `{kubectl} get events`, and compare resources.limits.memory with what it uses"
)
"""The hint for exit code 137 if Kubernetes does not report OOMKilled."""


def worker_names(pod: Mapping[str, Any]) -> list[str]:
    """Return the names of the worker's main containers.

    If there is none, return the names of its init containers. If no container is recognised, return
    the name of the first container.
    """
    spec = at(pod, "spec")
    recognised = workers(spec, at(pod, "metadata", "labels"))
    main_names = [container.name for container in recognised if container.is_main]
    names = main_names or [container.name for container in recognised]
    if names:
        return names
    candidates = [container.name for container in containers(spec) if container.is_main]
    return (candidates or list(_states(pod)))[:1]


def terminated(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state in which the worker's container ended, or None if it has not ended.

    Of several containers, the container with the worst exit code counts. The state always has an
    exit code.
    """
    end = _worst_end(pod)
    if end is None:
        return None
    _, state = end
    return {**state, "exitCode": exit_code(state)}


def exit_code(end: Mapping[str, Any]) -> int:
    """Return the exit code of a container that ended.

    If it is unknown, return the code of a failure: an unknown result is never shown as a success.
    """
    code = end.get("exitCode")
    return code if isinstance(code, int) else OpsWorkerError.exit_code


def end_text(pod: Mapping[str, Any]) -> str:
    """Return the result of the pass in a pod, on one line; empty if it has not ended."""
    end = _worst_end(pod)
    if end is None:
        return ""
    name, state = end
    return termination_text(state, memory_limit(pod, name), kubectl(pod))


def _worst_end(pod: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name and state of the worker's container with the worst exit code.

    None if one of the worker's containers has not ended.
    """
    states = _states(pod)
    ends = [(name, at(states.get(name), "terminated")) for name in worker_names(pod)]
    if not ends or not all(state for _, state in ends):
        return None
    return max(ends, key=lambda end: severity(exit_code(end[1])))


def memory_limit(pod: Mapping[str, Any], name: str) -> str:
    """Return the memory limit of a container as it is in the manifest; empty without a limit."""
    for container in containers(at(pod, "spec")):
        if container.name == name:
            return text(at(container.content, "resources", "limits").get("memory"))
    return ""


def other_failure(pod: Mapping[str, Any]) -> str:
    """Return a message about a failed container that is not the worker's; empty if none failed."""
    if text(at(pod, "status").get("phase")) == "Running":
        return ""
    spec = at(pod, "spec")
    # Ignore the exit code of a native sidecar: Kubernetes stops it at the end of the pod.
    native_names = [container.name for container in containers(spec) if container.is_native_sidecar]
    ignored = {*worker_names(pod), *native_names}
    for name, state in _states(pod).items():
        end = at(state, "terminated")
        if end.get("exitCode") and name not in ignored:
            pod_name, prefix = pod["metadata"]["name"], kubectl(pod)
            result = termination_text(end, memory_limit(pod, name), prefix)
            return (
                f"{_kind_and_name(pod, name)} of pod {pod_name} ended with exit code "
                f"{end['exitCode']}: {result}; "
                f"see `{prefix} logs {pod_name} -c {name}`"
            )
    return ""


def pod_failure(pod: Mapping[str, Any]) -> str:
    """Return why a pod failed as a whole, for example because it was evicted; empty otherwise."""
    status = at(pod, "status")
    if text(status.get("phase")) != "Failed" or not text(status.get("reason")):
        return ""
    message = safe_message(text(status.get("message")))
    problem = ": ".join(filter(None, (one_line(text(status.get("reason"))), message)))
    return f"pod {pod['metadata']['name']} failed: {problem}; see `kubectl describe nodes`"


def blocked_job(pod: Mapping[str, Any], now: datetime | None = None) -> str:
    """Return a message if a container still runs after the pass of its pod ended; empty otherwise.

    Such a container prevents the Job from completing. With ``now``, return a message only if the
    pass ended at least BLOCKED_S seconds ago.
    """
    end = terminated(pod)
    if end is None or at(pod, "status").get("phase") != "Running":
        return ""
    ended_at = time_of(end.get("finishedAt"))
    if now is not None and (ended_at is None or (now - ended_at).total_seconds() < BLOCKED_S):
        return ""
    states = _states(pod)
    for container in containers(at(pod, "spec")):
        if container.is_main and "running" in mapping(states.get(container.name)):
            return (
                f"the pass in pod {pod['metadata']['name']} ended with exit code "
                f"{end['exitCode']}, but container {container.name} keeps running, "
                "so the Job does not complete; "
                f"if it is a sidecar, {USE_NATIVE_SIDECAR}"
            )
    return ""


def kill_text(pod: Mapping[str, Any]) -> str:
    """Return a message if the worker's container was killed, for example for its memory.

    Empty if it was not. The log of such a container does not show the reason.
    """
    end = terminated(pod)
    if end is None:
        return ""
    if end.get("reason") != OUT_OF_MEMORY and end["exitCode"] != KILLED:
        return ""
    name = pod["metadata"]["name"]
    return f"pod {name} ended with exit code {end['exitCode']}: {end_text(pod)}"


def termination_text(end: Mapping[str, Any], limit: str = "", prefix: str = "kubectl") -> str:
    """Return the result of a pass from its termination message, on one line.

    If the message is not the worker's JSON, return its last line. Without a message, return the
    reason of ``end``. After OOMKilled the message is the end of the log, which does not show the
    use of memory.

    ``limit`` is the memory limit of the container. ``prefix`` is the beginning of commands for its
    namespace.
    """
    reason, message = text(end.get("reason")), str(end.get("message") or "")
    if reason == OUT_OF_MEMORY:
        current_limit = f", now {limit}" if limit else ""
        return (
            f"{OUT_OF_MEMORY}: raise resources.limits.memory of the container{current_limit} "
            "(the manifests set 128Mi)"
        )
    if reason in START_ERRORS:
        return f"{reason}: {safe_message(message)}; {remedy(reason, message, prefix)}"
    try:
        document = json.loads(message)
        result = str(document.get("error") or document.get("summary") or "")
    except (ValueError, AttributeError):
        lines = message.strip().splitlines()
        result = lines[-1] if lines else reason
    result = one_line(" ".join(result.split()), MAX_TERMINATION_TEXT)
    if end.get("exitCode") == KILLED:
        return f"{result or 'Error'}: {KILLED_HINT.format(kubectl=prefix)}"
    return result


def start_problem(
    pod: Mapping[str, Any],
    events: Sequence[ClusterEvent] = (),
    now: datetime | None = None,
) -> str:
    """Return why a pod cannot start, and what to do; empty if it starts or has started.

    ``events`` are the pod's Events, oldest first. With ``now``, a pull that has lasted for PULL_S
    seconds is a problem, too.
    """
    name = pod["metadata"]["name"]
    for container, waiting in _waiting(pod):
        reason = text(waiting.get("reason"))
        if not is_start_problem(reason):
            continue
        problem = f"pod {name} cannot start: "
        if container and container not in worker_names(pod):
            problem += f"{_kind_and_name(pod, container)}: "
        message = text(waiting.get("message"))
        if reason in PULL_REASONS:
            message = with_pull_cause(message, events)
        return problem + problem_text(reason, message, kubectl(pod))
    if text(at(pod, "status").get("phase")) != "Pending":
        return ""
    failure = start_failure(events, kubectl(pod))
    if failure:
        return f"pod {name} cannot start: {failure}"
    return _slow_pull(pod, events, now)


def _slow_pull(pod: Mapping[str, Any], events: Sequence[ClusterEvent], now: datetime | None) -> str:
    """Return a message if a pod has waited PULL_S seconds for the pull of its image, else empty."""
    pull = unfinished_pull(events)
    if pull is None or now is None:
        return ""
    age_s = (now - pull.time).total_seconds()
    if age_s < PULL_S:
        return ""
    return (
        f"pod {pod['metadata']['name']} has waited for {format_age(age_s)}: "
        f"{safe_message(pull.message)}; {pull_remedy()}"
    )


def pull_remedy() -> str:
    """Return what to do about a pull that takes long."""
    return (
        "load the image onto the nodes beforehand, use a registry that is nearer, "
        "or raise activeDeadlineSeconds, which counts while the image is pulled"
    )


def is_waiting(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod has not started: it waits for a node, an image or a volume."""
    return text(at(pod, "status").get("phase")) in {"", "Pending"}


def _waiting(pod: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each container that waits, with its reason and message.

    If the pod itself waits for a node, the name is empty.
    """
    for name, state in _states(pod).items():
        yield name, at(state, "waiting")
    status = at(pod, "status")
    if status.get("phase") != "Pending":
        return
    for condition in items(status.get("conditions")):
        if mapping(condition).get("reason") == "Unschedulable":
            yield "", condition


def _states(pod: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the state of every container by its name, in the order in which they start."""
    return {text(entry.get("name")): at(entry, "state") for entry in statuses(pod)}


def statuses(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the status of every container of a pod, in the order in which they start."""
    status = at(pod, "status")
    fields = ("initContainerStatuses", "containerStatuses")
    return [mapping(entry) for field in fields for entry in items(status.get(field))]


def _kind_and_name(pod: Mapping[str, Any], name: str) -> str:
    """Return a container's kind and name, for messages."""
    for container in containers(at(pod, "spec")):
        if container.name == name and container.is_main:
            return f"container {name}"
    return f"init container {name}"


def time_of(stamp: Any) -> datetime | None:
    """Return the time of a timestamp that Kubernetes wrote; None without a timestamp."""
    return datetime.fromisoformat(stamp) if stamp else None
