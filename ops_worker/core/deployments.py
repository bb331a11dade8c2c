"""Deployments that run passes in a loop: one row per Deployment, with warnings, and leftovers.

A leftover is a CronJob or Deployment of an earlier `kubectl apply` that runs the same pass.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.cluster_events import of_object
from ops_worker.core.passes import PASSES
from ops_worker.core.pod_states import (
    exit_code,
    is_waiting,
    memory_limit,
    start_problem,
    statuses,
    termination_text,
    time_of,
    worker_names,
)
from ops_worker.core.pods import (
    at,
    containers,
    invocation,
    items,
    kubectl,
    mapping,
    text,
    workers,
)
from ops_worker.core.start_problems import problem_text, safe_message
from ops_worker.text import format_age

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.cluster_events import ClusterEvent

RECENT = timedelta(hours=24)
"""The time for which a restart is reported."""
NOT_READY = re.compile(r"Readiness probe failed: .*statuscode: 503")
"""How the kubelet reports that /ready answered 503. Its Event does not have the body."""
CRASH_LOOP = "CrashLoopBackOff"
"""The reason of a container that ended again and again, and waits before its next start."""

HASH_LABEL = "pod-template-hash"
"""The label of a Deployment's pods with the hash in the name of their ReplicaSet."""


class DeploymentState(NamedTuple):
    """The state of a Deployment.

    - ``passes``: the passes that its loop runs.
    - ``ready``: the number of pods that are ready.
    - ``replicas``: the number of pods that the Deployment asks for.
    - ``restarts``: the restarts of the worker's containers in the pods that exist.
    - ``state``: ``ready``, ``not ready`` or ``scaled to 0``.
    """

    name: str
    passes: tuple[str, ...]
    ready: int
    replicas: int
    restarts: int
    state: str
    warnings: tuple[str, ...]


def row(
    deployment: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    events: Sequence[ClusterEvent] = (),
) -> DeploymentState:
    """Return the row of a Deployment. Pods and Events of other objects are ignored."""
    name = deployment["metadata"]["name"]
    own_pods = [pod for pod in pods if owns(deployment, pod)]
    replicas = at(deployment, "spec").get("replicas")
    if replicas is None:
        replicas = 1  # the default of Kubernetes
    ready = int(at(deployment, "status").get("readyReplicas") or 0)
    state = "ready" if ready >= replicas else "not ready"
    if replicas == 0:
        state = "scaled to 0"
    warnings = [problem for pod in own_pods for problem in _pod_problems(pod, now, events)]
    if state == "not ready":
        warnings += _conditions(deployment)
        if not warnings:
            warnings.append(_unready(deployment, ready, replicas))
    return DeploymentState(
        name=name,
        passes=passes_of(at(deployment, "spec", "template")),
        ready=ready,
        replicas=replicas,
        restarts=sum(status.get("restartCount") or 0 for status in _own_statuses(own_pods)),
        state=state,
        warnings=tuple(dict.fromkeys(f"{name}: {warning}" for warning in warnings)),
    )


def passes_of(template: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the passes that the worker's containers in a pod's template run."""
    names: list[str] = []
    for container in workers(at(template, "spec"), at(template, "metadata", "labels")):
        run = invocation(container.content)
        arguments = run.arguments if run else ()
        named = [word for word in arguments if word in PASSES]
        if arguments[:1] == ("sidecar",):
            names += named or PASSES
        elif arguments[:1] == tuple(named[:1]):
            names += named[:1]
    return tuple(dict.fromkeys(names))


def leftovers(
    cronjobs: Sequence[Mapping[str, Any]], deployments: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield a warning for each pass that both a CronJob and a Deployment run.

    `kubectl apply -k` of one variant does not delete the objects of another variant.
    """
    for deployment in deployments:
        loops = passes_of(at(deployment, "spec", "template"))
        if at(deployment, "spec").get("replicas") == 0:
            continue
        for cronjob in cronjobs:
            template = at(cronjob, "spec", "jobTemplate", "spec", "template")
            both = [name for name in passes_of(template) if name in loops]
            if both and not at(cronjob, "spec").get("suspend"):
                yield _leftover(both[0], cronjob["metadata"]["name"], deployment)


def suspended(
    cronjob: Mapping[str, Any], deployments: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield a warning if a CronJob is suspended and nothing else runs its pass.

    There is no warning about a CronJob that runs no pass, such as the CronJob of init-db, or whose
    passes a Deployment runs.
    """
    if not at(cronjob, "spec").get("suspend"):
        return
    loops = {
        name
        for deployment in deployments
        if at(deployment, "spec").get("replicas") != 0
        for name in passes_of(at(deployment, "spec", "template"))
    }
    own = passes_of(at(cronjob, "spec", "jobTemplate", "spec", "template"))
    idle = [name for name in own if name not in loops]
    if not idle:
        return
    name = cronjob["metadata"]["name"]
    yield (
        f"{name}: suspended, so that the {' and '.join(idle)} pass does not run; to resume it, run "
        f'`{kubectl(cronjob)} patch cronjob {name} -p \'{{"spec":{{"suspend":false}}}}\'`'
    )


def _leftover(name: str, cronjob: str, deployment: Mapping[str, Any]) -> str:
    other = deployment["metadata"]["name"]
    prefix = kubectl(deployment)
    template = at(deployment, "spec", "template")
    ours = workers(at(template, "spec"), at(template, "metadata", "labels"))
    removal = f"run `{prefix} delete deployment {other}`"
    if len(containers(at(template, "spec"))) > len(ours):
        # The Deployment is an application with the worker beside it.
        removal = f"remove container {ours[0].name} from the Deployment"
    return (
        f"CronJob {cronjob} and Deployment {other} both run the {name} pass: one of them may be "
        "left from an earlier `kubectl apply -k`, which deletes nothing; "
        f"to keep the Deployment, run `{prefix} delete cronjob {cronjob}`; "
        f"to keep the CronJob, {removal}"
    )


def owns(deployment: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Return whether a pod belongs to a ReplicaSet of a Deployment.

    The other labels do not show this, because pods of another release may have the same labels. A
    ReplicaSet is named DEPLOYMENT-HASH, and its pods have the hash as a label (kubernetes.io,
    "Deployments").
    """
    about = at(pod, "metadata")
    template_hash = text(at(about, "labels").get(HASH_LABEL))
    replica_set = f"{deployment['metadata']['name']}-{template_hash}"
    return any(
        owner.get("kind") == "ReplicaSet" and owner.get("name") == replica_set
        for owner in map(mapping, items(about.get("ownerReferences")))
    )


def _pod_problems(
    pod: Mapping[str, Any], now: datetime, events: Sequence[ClusterEvent]
) -> Iterator[str]:
    """Yield what is wrong with a pod: it cannot start, it was restarted, or it is not ready."""
    name = pod["metadata"]["name"]
    own_events = of_object(events, "Pod", name)
    for status in _own_statuses([pod]):
        crash = _crash(pod, status, now)
        if crash:
            yield crash
            return
    problem = start_problem(pod, own_events, now)
    if problem:
        yield problem
        return
    unready = [status for status in _own_statuses([pod]) if not status.get("ready")]
    if unready and not is_waiting(pod):
        probes = [event.message for event in own_events if event.reason == "Unhealthy"]
        yield _not_ready(pod, text(unready[0].get("name")), probes[-1] if probes else "")


def _not_ready(pod: Mapping[str, Any], container: str, probe: str) -> str:
    """Return the warning that a container runs but is not ready.

    ``probe`` is the last failure of a probe; empty if there is none.
    """
    if NOT_READY.match(probe):
        hint = (
            "/ready answers 503 until the database has answered a pass of each loop: the last "
            f"error in `{_logs(pod, container)}` says what keeps it from that"
        )
    else:
        hint = (
            "it becomes ready when its loop has reached the database: "
            f"see `{_logs(pod, container)}`"
        )
    detail = f": {safe_message(probe)}" if probe else ""
    return f"pod {pod['metadata']['name']} runs but is not ready{detail}; {hint}"


def _logs(pod: Mapping[str, Any], container: str) -> str:
    """Return the command that shows the log of a container. It names the container if needed."""
    command = f"{kubectl(pod)} logs {pod['metadata']['name']}"
    if len(containers(at(pod, "spec"))) > 1:
        return f"{command} -c {container}"
    return command


def _crash(pod: Mapping[str, Any], status: Mapping[str, Any], now: datetime) -> str:
    """Return how a container ended before its last restart.

    Empty if it ended longer than RECENT ago and is not crash-looping.
    """
    is_looping = at(status, "state", "waiting").get("reason") == CRASH_LOOP
    end = at(status, "lastState", "terminated")
    ended_at = time_of(end.get("finishedAt"))
    is_recent = ended_at is not None and now - ended_at < RECENT
    if not end or not (is_looping or is_recent):
        return ""
    name, container = pod["metadata"]["name"], text(status.get("name"))
    age = f" {format_age((now - ended_at).total_seconds())} ago" if ended_at else ""
    problem = "is crash-looping" if is_looping else "was restarted"
    return (
        f"pod {name} {problem}: {status.get('restartCount') or 0} restarts, the last one after "
        f"exit code {exit_code(end)}{age}: "
        f"{termination_text(end, memory_limit(pod, container), kubectl(pod))}; "
        f"see `{_logs(pod, container)} --previous`"
    )


def _conditions(deployment: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems that the conditions of a Deployment report."""
    prefix, owner = kubectl(deployment), f"deployment {deployment['metadata']['name']}"
    for condition in map(mapping, items(at(deployment, "status").get("conditions"))):
        kind, is_true = condition.get("type"), condition.get("status") == "True"
        reason, message = text(condition.get("reason")), text(condition.get("message"))
        if kind == "ReplicaFailure" and is_true:
            yield f"cannot create its pods: {problem_text(reason, message, prefix, owner)}"
        elif kind == "Progressing" and reason == "ProgressDeadlineExceeded":
            yield (
                f"{reason}: {safe_message(message)}; see the other warnings and "
                f"`{prefix} describe {owner}`"
            )


def _unready(deployment: Mapping[str, Any], ready: int, replicas: int) -> str:
    name = deployment["metadata"]["name"]
    return (
        f"{ready} of {replicas} pods are ready: wait for a pod that starts, or see "
        f"`{kubectl(deployment)} describe deployment {name}`"
    )


def _own_statuses(pods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the statuses of the worker's containers in pods."""
    return [
        status
        for pod in pods
        for status in statuses(pod)
        if status.get("name") in worker_names(pod)
    ]
