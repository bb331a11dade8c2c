"""CronJobs, Jobs and pods, as Kubernetes reports them: one row per CronJob, with warnings."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.pods import at, containers, items, mapping, text, workers
from ops_worker.errors import severity
from ops_worker.text import format_age, format_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

HEAD = (
    "CRONJOB",
    "SCHEDULE",
    "SUSPENDED",
    "LAST RUN",
    "LAST SUCCESS",
    "RUNNING",
    "MISSED",
    "EXIT",
    "SUMMARY",
)
"""Column headings of the table."""
MAX_DUE = 3
"""Runs that may be due without a success. One more is a warning."""
BLOCKED_S = 60.0
"""Seconds after the end of a pass in which the other containers of its pod may end."""
MAX_TERMINATION_TEXT = 300
"""Characters of a termination message that are shown."""
MAX_WAITING_TEXT = 200
"""Characters that are shown of Kubernetes' message about a pod that cannot start."""
MAX_EVENT_TEXT = 1024
"""The most characters of an Event's message that the API server accepts.

Source: kubernetes.io, API reference, "Event" of events.k8s.io/v1, field ``note``.
"""
MAX_JOB_PREFIX = 52
"""Characters of a CronJob's name that a Job's name, of at most 63 characters, has room for."""
USE_NATIVE_SIDECAR = (
    "make it a native sidecar (an init container with restartPolicy: Always), "
    "because a Job does not wait for those"
)
"""The hint for a container that keeps a Job from completing."""
INDEX = "batch.kubernetes.io/job-completion-index"
"""The annotation with a pod's index in an Indexed Job (kubernetes.io, "Jobs")."""
WAIT_S = 120.0
"""Seconds in which a Job without a deadline, or with a short one, should end."""
WAIT_MARGIN_S = 30.0
"""Seconds that Kubernetes takes to end a Job after its deadline: the pod's grace is 10 s."""
OUT_OF_MEMORY = "OOMKilled"
"""The reason with which Kubernetes ends a container that exceeds its memory limit."""
_PULL_HINT = "check the image's name, and that the cluster can pull it"
HINTS = {
    "ErrImagePull": _PULL_HINT,
    "ImagePullBackOff": _PULL_HINT,
    "ErrImageNeverPull": "load the image onto the node",
    "InvalidImageName": "check the image's name",
    "CreateContainerConfigError": (
        "if the Secret is missing, create it: "
        "kubectl create secret generic ops-worker --from-literal=PG_PASS=..."
    ),
    "CreateContainerError": "see `kubectl describe pod`",
    "CrashLoopBackOff": "see `kubectl logs`",
    "Unschedulable": (
        "check the free resources and the taints of the nodes: `kubectl describe pod`"
    ),
}
"""What to do about a pod that cannot start, by the reason that Kubernetes reports."""


class CronJobState(NamedTuple):
    """The state of a CronJob. Ages are in seconds.

    - ``missed``: runs that were due since the last one. None if the CronJob is suspended or has
      never run, or if its schedule is invalid.
    - ``exit_code``: of the last pass that ended. None if no pod has ended yet.
    - ``summary``: the termination message of that pass.
    """

    name: str
    schedule: str
    suspended: bool
    last_run_s: float | None
    last_success_s: float | None
    running: int
    missed: int | None
    exit_code: int | None
    summary: str
    warnings: tuple[str, ...]


class JobEnd(NamedTuple):
    """How a Job ended: ``Complete`` or ``Failed``, and the reason."""

    kind: str
    reason: str


class _Run(NamedTuple):
    """The Jobs of a CronJob, their pods oldest first, and the last pass among them that ended."""

    jobs: Sequence[Mapping[str, Any]]
    pods: Sequence[Mapping[str, Any]]
    last_exit: Mapping[str, Any] | None


def row(
    cronjob: Mapping[str, Any],
    jobs: Sequence[Mapping[str, Any]],
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    due: Callable[[datetime], int | None],
) -> CronJobState:
    """Return the row of a CronJob. ``jobs`` and ``pods`` may contain those of other CronJobs.

    ``due`` counts the runs that were due since a time; None if that is unknown.
    """
    spec = cronjob["spec"]
    status = cronjob.get("status", {})
    name = cronjob["metadata"]["name"]
    run = _run(cronjob, jobs, pods)
    exit_code, summary = None, ""
    if run.last_exit is not None:
        exit_code, summary = run.last_exit["exitCode"], termination_text(run.last_exit)
    last_run = _time(status.get("lastScheduleTime"))
    last_success = _time(status.get("lastSuccessfulTime"))
    suspended = bool(spec.get("suspend"))
    missed = None
    warnings = list(_warnings(run, now))
    if not suspended:
        missed = None if last_run is None else due(last_run)
        warnings += _overdue(cronjob, last_success, now, due)
    return CronJobState(
        name=name,
        schedule=spec["schedule"],
        suspended=suspended,
        last_run_s=_age(last_run, now),
        last_success_s=_age(last_success, now),
        running=len(status.get("active") or ()),
        missed=missed,
        exit_code=exit_code,
        summary=summary,
        warnings=tuple(dict.fromkeys(f"{name}: {warning}" for warning in warnings)),
    )


def _run(
    cronjob: Mapping[str, Any],
    jobs: Sequence[Mapping[str, Any]],
    pods: Sequence[Mapping[str, Any]],
) -> _Run:
    """Select the Jobs of a CronJob and their pods."""
    uid = cronjob["metadata"]["uid"]
    own_jobs = [job for job in jobs if any(owner.get("uid") == uid for owner in _owners(job))]
    names = {job["metadata"]["name"] for job in own_jobs}
    own_pods = sorted((pod for pod in pods if _job_name(pod) in names), key=_created)
    exits = [state for state in map(terminated, own_pods) if state is not None]
    # The sort is stable: of several pods that ended in the same second, the newest one is last.
    exits.sort(key=lambda state: str(state.get("finishedAt")))
    return _Run(own_jobs, own_pods, exits[-1] if exits else None)


def _warnings(run: _Run, now: datetime) -> Iterator[str]:
    """Return what is wrong with the Jobs and pods of a CronJob."""
    yield from _nonempty(start_problem(pod) or blocked_job(pod, now) for pod in run.pods)
    if run.last_exit is not None and run.last_exit["exitCode"]:
        exit_code, summary = run.last_exit["exitCode"], termination_text(run.last_exit)
        yield f"the last pass failed with exit code {exit_code}: {summary}"
    yield from _nonempty(map(other_failure, run.pods[-1:]))
    ended = sorted(filter(finished, run.jobs), key=_created)
    for job in ended[-1:]:
        job_name = job["metadata"]["name"]
        attempts = [pod for pod in run.pods if _job_name(pod) == job_name]
        yield from _nonempty([unexplained_failure(job, attempts)])


def _overdue(
    cronjob: Mapping[str, Any],
    last_success: datetime | None,
    now: datetime,
    due: Callable[[datetime], int | None],
) -> list[str]:
    """Return a warning if more runs were due since the last success than are normal."""
    since = last_success or _time(cronjob["metadata"].get("creationTimestamp"))
    if since is None or (due(since) or 0) <= MAX_DUE:
        return []
    age = format_age((now - since).total_seconds())
    problem = f"no successful run for {age}"
    if last_success is None:
        problem = f"no successful run since the CronJob was created {age} ago"
    name = cronjob["metadata"]["name"]
    hint = (
        f"see the other warnings and `kubectl describe cronjob {name}`, "
        f"or run `ops-worker trigger {name} --wait`"
    )
    return [f"{problem}: {hint}"]


def table(rows: Sequence[CronJobState]) -> str:
    """Render the rows as a table, followed by their warnings."""
    lines = [format_table(HEAD, list(map(_cells, rows)))]
    warnings = [f"warning: {warning}" for cronjob in rows for warning in cronjob.warnings]
    if warnings:
        lines += ["", *warnings]
    return "\n".join(lines)


def worker_names(pod: Mapping[str, Any]) -> list[str]:
    """Return the names of the worker's containers; if none is recognised, that of the first."""
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

    Of several containers, the one with the worst exit code counts.
    """
    states = _states(pod)
    ends = [at(states.get(name), "terminated") for name in worker_names(pod)]
    if not ends or not all(ends):
        return None
    return dict(max(ends, key=lambda state: severity(state["exitCode"])))


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
            pod_name = pod["metadata"]["name"]
            return (
                f"{_described(pod, name)} of pod {pod_name} ended with exit code "
                f"{end['exitCode']}: {termination_text(end)}; "
                f"see `kubectl logs {pod_name} -c {name}`"
            )
    return ""


def blocked_job(pod: Mapping[str, Any], now: datetime | None = None) -> str:
    """Return which container keeps a Job from completing after its pass ended; empty if none does.

    With ``now``, only passes count that ended at least a minute before.
    """
    end = terminated(pod)
    if end is None or at(pod, "status").get("phase") != "Running":
        return ""
    ended_at = _time(end.get("finishedAt"))
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


def out_of_memory(pod: Mapping[str, Any]) -> str:
    """Return that the worker's container exceeded its memory limit; empty if it did not."""
    end = terminated(pod)
    if end is None or end.get("reason") != OUT_OF_MEMORY:
        return ""
    name = pod["metadata"]["name"]
    return f"pod {name} ended with exit code {end['exitCode']}: {termination_text(end)}"


def unexplained_failure(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> str:
    """Return why a Job failed, if none of its pods shows the reason; empty for any other Job."""
    end = finished(job)
    if end is None or end.kind != "Failed":
        return ""
    if any(terminated(pod) or other_failure(pod) for pod in pods):
        return ""
    name = at(job, "metadata").get("name", "?")
    if not end.reason.startswith("DeadlineExceeded"):
        return f"Job {name} failed, and none of its pods shows the reason: {end.reason}"
    limit = at(job, "spec").get("activeDeadlineSeconds", "?")
    return (
        f"Job {name} exceeded activeDeadlineSeconds ({limit} s), and Kubernetes deleted its pod "
        "and log: look in `kubectl get events` for a pod that could not start; "
        f"otherwise raise activeDeadlineSeconds or lower PASS_DEADLINE{_sidecar_hint(job)}"
    )


def _sidecar_hint(job: Mapping[str, Any]) -> str:
    """Return a hint if a Job's pod has a main container beside the worker's."""
    template = at(job, "spec", "template")
    ours = worker_names(template)
    for container in containers(at(template, "spec")):
        if container.is_main and container.name not in ours:
            return f"; if container {container.name} is a sidecar, {USE_NATIVE_SIDECAR}"
    return ""


def with_deleted(
    earlier: Sequence[Mapping[str, Any]], current: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the current pods of a Job, after those that no longer exist, as they were before."""
    names = {pod["metadata"]["name"] for pod in current}
    return [*(pod for pod in earlier if pod["metadata"]["name"] not in names), *current]


def last_attempts(pods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the newest pod of every index of a Job. ``pods`` are sorted, oldest first."""
    return list({at(pod, "metadata", "annotations").get(INDEX): pod for pod in pods}.values())


def termination_text(end: Mapping[str, Any]) -> str:
    """Return the result of a pass from its termination message, on one line.

    Of a message that is not the worker's, return the last line; without a message, the reason.
    After OOMKilled the message is the end of the log, which says nothing about the memory.
    """
    if end.get("reason") == OUT_OF_MEMORY:
        return f"{OUT_OF_MEMORY}: raise resources.limits.memory of the container"
    message = str(end.get("message") or "")
    try:
        document = json.loads(message)
        result = str(document.get("error") or document.get("summary") or "")
    except (ValueError, AttributeError):
        lines = message.strip().splitlines()
        result = lines[-1] if lines else str(end.get("reason") or "")
    return " ".join(result.split())[:MAX_TERMINATION_TEXT]


def start_problem(pod: Mapping[str, Any]) -> str:
    """Return why a pod cannot start, and what to do; empty if it starts or has started."""
    for name, waiting in _waiting(pod):
        reason = waiting.get("reason", "")
        hint = HINTS.get(reason)
        if hint is None:
            continue
        problem = f"pod {pod['metadata']['name']} cannot start: "
        if name and name not in worker_names(pod):
            problem += f"{_described(pod, name)}: "
        problem += reason
        message = " ".join(str(waiting.get("message") or "").split())[:MAX_WAITING_TEXT]
        if message:
            problem += f": {message}"
        return f"{problem}; {hint}"
    return ""


def _waiting(pod: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return what a pod waits for: the name of a container, with its reason and message.

    Where the pod itself waits for a node, the name is empty.
    """
    for name, state in _states(pod).items():
        yield name, at(state, "waiting")
    status = pod.get("status", {})
    if status.get("phase") != "Pending":
        return
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "Unschedulable":
            yield "", condition


def finished(job: Mapping[str, Any]) -> JobEnd | None:
    """Return how a Job ended, or None if it has not ended."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition.get("type") in {"Complete", "Failed"} and condition.get("status") == "True":
            reason = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            return JobEnd(condition["type"], reason.strip(": "))
    return None


def job_of(cronjob: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """Build a Job from a CronJob's template, as `kubectl create job --from` does."""
    template = cronjob["spec"]["jobTemplate"]
    name = cronjob["metadata"]["name"]
    template_metadata = template.get("metadata", {})
    owner = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "name": name,
        "uid": cronjob["metadata"]["uid"],
        "controller": True,
    }
    manual = {"cronjob.kubernetes.io/instantiate": "manual"}
    metadata = {
        "name": f"{name[:MAX_JOB_PREFIX]}-{suffix}",
        "labels": template_metadata.get("labels", {}),
        "annotations": manual | template_metadata.get("annotations", {}),
        "ownerReferences": [owner],
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}


def longest_wait_s(job: Mapping[str, Any]) -> float:
    """Return the seconds after which a Job should have ended, with all its attempts."""
    deadline_s = at(job, "spec").get("activeDeadlineSeconds")
    if deadline_s is None:
        return WAIT_S
    return max(WAIT_S, float(deadline_s) + WAIT_MARGIN_S)


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
        "message": " ".join(message.split())[:MAX_EVENT_TEXT],
        "source": {"component": "ops-worker"},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def _nonempty(texts: Iterable[str]) -> Iterator[str]:
    return filter(None, texts)


def _owners(job: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    owners: Sequence[Mapping[str, Any]] = job["metadata"].get("ownerReferences") or ()
    return owners


def _states(pod: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the state of every container by its name, in the order in which they start."""
    status = at(pod, "status")
    fields = ("initContainerStatuses", "containerStatuses")
    entries = [mapping(entry) for field in fields for entry in items(status.get(field))]
    return {text(entry.get("name")): at(entry, "state") for entry in entries}


def _described(pod: Mapping[str, Any], name: str) -> str:
    """Return a container's kind and name."""
    for container in containers(at(pod, "spec")):
        if container.name == name and container.is_main:
            return f"container {name}"
    return f"init container {name}"


def _job_name(pod: Mapping[str, Any]) -> Any:
    return at(pod, "metadata", "labels").get("batch.kubernetes.io/job-name")


def _created(content: Mapping[str, Any]) -> str:
    return str(at(content, "metadata").get("creationTimestamp"))


def _time(stamp: str | None) -> datetime | None:
    return datetime.fromisoformat(stamp) if stamp else None


def _age(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else (now - since).total_seconds()


def _ago(age_s: float | None) -> str:
    return "-" if age_s is None else f"{format_age(max(0.0, age_s))} ago"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _cells(cronjob: CronJobState) -> tuple[str, ...]:
    return (
        cronjob.name,
        cronjob.schedule,
        "yes" if cronjob.suspended else "no",
        _ago(cronjob.last_run_s),
        _ago(cronjob.last_success_s),
        str(cronjob.running),
        _or_dash(cronjob.missed),
        _or_dash(cronjob.exit_code),
        cronjob.summary or "-",
    )
