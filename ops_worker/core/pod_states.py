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
    cause,
    described,
    is_start_problem,
    remedy,
)
from ops_worker.errors import OpsWorkerError, severity
from ops_worker.text import format_age, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ops_worker.core.cluster_events import ClusterEvent

BLOCKED_S = 60.0
"""Seconds after the end of a pass in which the other containers of its pod may end."""
PULL_S = 20.0
"""Seconds that a pull may take without a word. Most take less."""
MAX_TERMINATION_TEXT = 300
"""Characters of a termination message that are shown."""
USE_NATIVE_SIDECAR = (
    "make it a native sidecar (an init container with restartPolicy: Always), "
    "because a Job does not wait for those"
)
"""The hint for a container that keeps a Job from completing."""
OUT_OF_MEMORY = "OOMKilled"
"""The reason with which Kubernetes ends a container that exceeds its memory limit."""
KILLED = 137
"""The exit code of a process that SIGKILL ended: 128 and the number of the signal."""
KILLED_HINT = (
    "SIGKILL ended it: it did not end within terminationGracePeriodSeconds, or the node ran out of "
    "memory; see `{kubectl} get events`, and compare resources.limits.memory with what it uses"
)
"""The hint for exit code 137 if Kubernetes does not report OOMKilled."""


def worker_names(pod: Mapping[str, Any]) -> list[str]:
    """Return the names of the worker's containers; if none is recognised, the first container's."""
    spec = at(pod, "spec")
    ours = workers(spec, at(pod, "metadata", "labels"))
    main_names = [container.name for container in ours if container.is_main]
    names = main_names or [container.name for container in ours]
    if names:
        return names
    candidates = [container.name for container in containers(spec) if container.is_main]
    return (candidates or list(_states(pod)))[:1]


def terminated(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state in which the worker's container ended, or None if it has not ended.

    Of several containers, the one with the worst exit code counts. The state has an exit code.
    """
    end = _worst_end(pod)
    return None if end is None else {**end[1], "exitCode": exit_code(end[1])}


def exit_code(end: Mapping[str, Any]) -> int:
    """Return the exit code of a container that ended.

    Without one, it is the code of a failure: an unknown result is never shown as a success.
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
    """Return the worker's container that ended worst, and its state; None if one still runs."""
    states = _states(pod)
    ends = [(name, at(states.get(name), "terminated")) for name in worker_names(pod)]
    if not ends or not all(state for _, state in ends):
        return None
    return max(ends, key=lambda end: severity(exit_code(end[1])))


def memory_limit(pod: Mapping[str, Any], name: str) -> str:
    """Return the memory limit of a container as its manifest has it; empty without one."""
    for container in containers(at(pod, "spec")):
        if container.name == name:
            return text(at(container.content, "resources", "limits").get("memory"))
    return ""


def other_failure(pod: Mapping[str, Any]) -> str:
    """Return which container that is not the worker's failed; empty if none did."""
    if text(at(pod, "status").get("phase")) == "Running":
        return ""
    spec = at(pod, "spec")
    # The exit code of a native sidecar means nothing: Kubernetes stops it at the pod's end.
    native_names = [container.name for container in containers(spec) if container.is_native_sidecar]
    ignored = {*worker_names(pod), *native_names}
    for name, state in _states(pod).items():
        end = at(state, "terminated")
        if end.get("exitCode") and name not in ignored:
            pod_name, prefix = pod["metadata"]["name"], kubectl(pod)
            result = termination_text(end, memory_limit(pod, name), prefix)
            return (
                f"{_described(pod, name)} of pod {pod_name} ended with exit code "
                f"{end['exitCode']}: {result}; "
                f"see `{prefix} logs {pod_name} -c {name}`"
            )
    return ""


def removed(pod: Mapping[str, Any]) -> str:
    """Return why a pod failed as a whole, for example because it was evicted; empty otherwise."""
    status = at(pod, "status")
    if text(status.get("phase")) != "Failed" or not text(status.get("reason")):
        return ""
    message = cause(text(status.get("message")))
    problem = ": ".join(filter(None, (one_line(text(status.get("reason"))), message)))
    return f"pod {pod['metadata']['name']} failed: {problem}; see `kubectl describe nodes`"


def blocked_job(pod: Mapping[str, Any], now: datetime | None = None) -> str:
    """Return which container keeps a Job from completing after its pass ended; empty if none does.

    With ``now``, only passes count that ended at least a minute before.
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


def killed(pod: Mapping[str, Any]) -> str:
    """Return that the worker's container was killed, for example for its memory.

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

    Of a message that is not the worker's, return the last line; without a message, the reason.
    After OOMKilled the message is the end of the log, which says nothing about the memory.
    ``limit`` is the memory limit of the container. ``prefix`` begins commands for its namespace.
    """
    reason, message = text(end.get("reason")), str(end.get("message") or "")
    if reason == OUT_OF_MEMORY:
        now = f", now {limit}" if limit else ""
        return (
            f"{OUT_OF_MEMORY}: raise resources.limits.memory of the container{now} "
            "(the manifests set 128Mi)"
        )
    if reason in START_ERRORS:
        return f"{reason}: {cause(message)}; {remedy(reason, message, prefix)}"
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

    ``events`` are the pod's Events, oldest first. With ``now``, a pull that takes long counts.
    """
    name = pod["metadata"]["name"]
    for container, waiting in _waiting(pod):
        reason = text(waiting.get("reason"))
        if not is_start_problem(reason):
            continue
        problem = f"pod {name} cannot start: "
        if container and container not in worker_names(pod):
            problem += f"{_described(pod, container)}: "
        message = text(waiting.get("message"))
        if reason in PULL_REASONS:
            message = with_pull_cause(message, events)
        return problem + described(reason, message, kubectl(pod))
    if text(at(pod, "status").get("phase")) != "Pending":
        return ""
    failure = start_failure(events, kubectl(pod))
    if failure:
        return f"pod {name} cannot start: {failure}"
    return _slow_pull(pod, events, now)


def _slow_pull(pod: Mapping[str, Any], events: Sequence[ClusterEvent], now: datetime | None) -> str:
    """Return that a pod waits for the pull of its image; empty if it does not, or not for long."""
    pull = unfinished_pull(events)
    if pull is None or now is None:
        return ""
    age_s = (now - pull.time).total_seconds()
    if age_s < PULL_S:
        return ""
    return (
        f"pod {pod['metadata']['name']} has waited for {format_age(age_s)}: "
        f"{cause(pull.message)}; {pull_remedy()}"
    )


def pull_remedy() -> str:
    """Return what to do about a pull that takes long."""
    return (
        "load the image onto the nodes beforehand, use a registry that is nearer, "
        "or raise activeDeadlineSeconds, which counts while the image is pulled"
    )


def waits(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod has not started: it waits for a node, an image or a volume."""
    return text(at(pod, "status").get("phase")) in {"", "Pending"}


def _waiting(pod: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return what a pod waits for: the name of a container, with its reason and message.

    Where the pod itself waits for a node, the name is empty.
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


def _described(pod: Mapping[str, Any], name: str) -> str:
    """Return a container's kind and name."""
    for container in containers(at(pod, "spec")):
        if container.name == name and container.is_main:
            return f"container {name}"
    return f"init container {name}"


def time_of(stamp: Any) -> datetime | None:
    """Return a time that Kubernetes wrote; None if there is none."""
    return datetime.fromisoformat(stamp) if stamp else None
