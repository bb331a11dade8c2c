"""Events of Kubernetes: those about the worker's objects, and those that the worker writes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.pods import at, kubectl, text
from ops_worker.core.start_problems import MAX_MESSAGE, is_start_problem, problem_text
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PULL_FAILED = "Failed to pull image"
"""The beginning of the kubelet's ``Failed`` messages that have the cause of a pull error.

The state of the container has the cause only at the first try. Later it has ``ImagePullBackOff``.
"""
_PULL_PREFIX = re.compile(rf'^(?:{_PULL_FAILED} "[^"]*": )?(?:rpc error: code = \w+ desc = )?')
"""The text that may precede the registry's or the runtime's message about a pull error."""
_CONTAINER_ERROR = "Error: "
"""The beginning of the kubelet's other ``Failed`` messages."""
_POD_NAME = re.compile(r'^Error creating: (?:pods "[^"]*" is forbidden: )?')
"""The beginning of the message about a pod that cannot be created. It may have the pod's name."""
_DELETED = "skip schedule deleting pod"
"""The beginning of the scheduler's message about a deleted pod, which is not a problem."""


class ClusterEvent(NamedTuple):
    """An Event of Kubernetes: its object, what happened, how often, and when it happened last."""

    kind: str
    name: str
    reason: str
    message: str
    times: int
    time: datetime


def read(content: Mapping[str, Any]) -> ClusterEvent:
    """Return an Event from its JSON. A missing part is empty.

    The scheduler writes ``eventTime`` and ``series`` instead of ``lastTimestamp`` and ``count``.
    """
    about, series = at(content, "involvedObject"), at(content, "series")
    stamps = (
        series.get("lastObservedTime"),
        content.get("lastTimestamp"),
        content.get("eventTime"),
        content.get("firstTimestamp"),
        at(content, "metadata").get("creationTimestamp"),
    )
    stamp = next(filter(None, stamps), "")
    return ClusterEvent(
        kind=text(about.get("kind")),
        name=text(about.get("name")),
        reason=text(content.get("reason")),
        message=text(content.get("message")),
        times=int(series.get("count") or content.get("count") or 1),
        time=datetime.fromisoformat(stamp) if stamp else datetime.min.replace(tzinfo=UTC),
    )


def read_all(contents: Iterable[Mapping[str, Any]]) -> list[ClusterEvent]:
    """Return Events, oldest first."""
    return sorted(map(read, contents), key=lambda event: event.time)


def of_object(events: Iterable[ClusterEvent], kind: str, name: str) -> list[ClusterEvent]:
    """Return the Events of an object, in their order."""
    return [event for event in events if (event.kind, event.name) == (kind, name)]


def of_job_pods(events: Iterable[ClusterEvent], job: str) -> list[ClusterEvent]:
    """Return the Events of the pods of a Job, also of pods that no longer exist.

    Kubernetes names a pod JOB-SUFFIX, and in an Indexed Job JOB-INDEX-SUFFIX. The suffix is random
    and has no dash.
    """
    matching = []
    for event in events:
        rest = event.name.removeprefix(f"{job}-")
        is_own = rest != event.name and rest.count("-") <= 1
        if event.kind == "Pod" and is_own:
            matching.append(event)
    return matching


def pull_cause(events: Sequence[ClusterEvent]) -> str:
    """Return the newest cause of a pull error among the Events of a pod; empty without one."""
    causes = [event.message for event in events if event.message.startswith(_PULL_FAILED)]
    return causes[-1] if causes else ""


def with_pull_cause(message: str, events: Sequence[ClusterEvent]) -> str:
    """Return the message of a container that waits for its image, with the cause of the pull error.

    The cause is added only if the message does not have it. The message may have the cause without
    the first words of the Event.
    """
    pull = pull_cause(events)
    if _PULL_PREFIX.sub("", pull) in message:
        return message
    return f"{message}: {pull}" if message else pull


def start_failure(events: Sequence[ClusterEvent], prefix: str = "kubectl") -> str:
    """Return the newest problem in the Events of a pod that has not started, and what to do.

    Empty if no Event reports a problem. ``prefix`` begins commands for the pod's namespace.
    """
    for event in reversed(events):
        message = event.message
        if message.startswith(_PULL_FAILED):
            return problem_text("ErrImagePull", message, prefix)
        if event.reason == "InspectFailed":
            return problem_text("InvalidImageName", message, prefix)
        is_problem = is_start_problem(event.reason) and not message.startswith(_DELETED)
        if is_problem:
            return problem_text(event.reason, message, prefix)
        error = message.removeprefix(_CONTAINER_ERROR)
        # Some messages only repeat a reason, such as ImagePullBackOff. An earlier Event has the
        # cause.
        if event.reason == "Failed" and not is_start_problem(error):
            return problem_text("CreateContainerConfigError", error, prefix)
    return ""


def unfinished_pull(events: Sequence[ClusterEvent]) -> ClusterEvent | None:
    """Return the Event of a pull that has begun and not ended; None if there is none."""
    pulls = [event for event in events if event.reason in {"Pulling", "Pulled", "Failed"}]
    if pulls and pulls[-1].reason == "Pulling":
        return pulls[-1]
    return None


def creation_failure(job: Mapping[str, Any], events: Iterable[ClusterEvent]) -> str:
    """Return why a Job could create no pod, and what to do; empty if no Event reports this."""
    name = text(at(job, "metadata").get("name"))
    failures = [event for event in of_object(events, "Job", name) if event.reason == "FailedCreate"]
    if not failures:
        return ""
    # Each try creates a pod with another name. Without the name, the same problem has the same
    # text.
    message = _POD_NAME.sub("", failures[-1].message)
    problem = problem_text("FailedCreate", message, kubectl(job), f"job {name}")
    return f"no pod can be created: {problem}"


def event_of(
    cronjob: Mapping[str, Any], namespace: str, service: str, reason: str, now: datetime
) -> dict[str, Any]:
    """Build the Event of an alert. ``cronjob`` has the name and the uid of the CronJob.

    With a reason, the service is unhealthy. Without one, it is healthy again.
    """
    kind, event_reason, message = "Normal", "ServiceRecovered", f"{service} is healthy again"
    if reason:
        kind, event_reason = "Warning", "ServiceUnhealthy"
        message = f"{service} is unhealthy: {reason}"
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    reference = {"apiVersion": "batch/v1", "kind": "CronJob", "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{cronjob['name']}.", "namespace": namespace},
        "involvedObject": reference | dict(cronjob),
        "type": kind,
        "reason": event_reason,
        "message": one_line(" ".join(message.split()), MAX_MESSAGE),
        "source": {"component": "ops-worker"},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
