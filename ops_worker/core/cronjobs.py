"""From what Kubernetes tells of CronJobs, Jobs and pods to the rows that a person reads, and to what is wrong."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.pods import at, containers, items, mapping, text, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
TOLERATED = 3
"""Runs that may be due without a success; with one more something is wrong."""
HELD_S = 60.0
"""Seconds after the end of a pass in which the other containers of its pod may end."""
NATIVE = "make it an init container with restartPolicy: Always, which a Job does not wait for"
INDEX = "batch.kubernetes.io/job-completion-index"
REMEDIES = {
    "ErrImagePull": "check the image's name, and that the cluster may pull it",
    "ImagePullBackOff": "check the image's name, and that the cluster may pull it",
    "ErrImageNeverPull": "load the image onto the node",
    "InvalidImageName": "check the image's name",
    "CreateContainerConfigError": "create it: kubectl create secret generic ops-worker --from-literal=PG_PASS=...",
    "CreateContainerError": "see `kubectl describe pod`",
    "CrashLoopBackOff": "see `kubectl logs`",
    "Unschedulable": "see the nodes' room and taints: `kubectl describe pod`",
}
"""What keeps a pod from starting, in Kubernetes' word for it, and what to do."""


class Row(NamedTuple):
    """A CronJob as it stands: ages in seconds, missed runs, exit code of the last pass that ended.

    ``missed`` is None when it is suspended, has never run, or its schedule is unreadable.
    ``exit_code`` is None when no pod has ended yet.
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


def row(
    cronjob: Mapping[str, Any],
    jobs: Sequence[Mapping[str, Any]],
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    due: Callable[[datetime], int | None],
) -> Row:
    """Bring together what is known of a CronJob; ``jobs`` and ``pods`` may be of others as well.

    ``due`` counts the runs that were due since a time; None if that is not known.
    """
    spec, status, name = cronjob["spec"], cronjob.get("status", {}), cronjob["metadata"]["name"]
    uid = cronjob["metadata"]["uid"]
    own = [job for job in jobs if any(owner.get("uid") == uid for owner in _owners(job))]
    named = {job["metadata"]["name"] for job in own}
    mine = sorted((pod for pod in pods if _job_name(pod) in named), key=_created)
    ended = sorted(
        (found for pod in mine if (found := terminated(pod))),
        key=lambda found: str(found.get("finishedAt")),
    )
    exit_code, summary = (ended[-1]["exitCode"], told(ended[-1])) if ended else (None, "")
    last_run = _time(status.get("lastScheduleTime"))
    success = _time(status.get("lastSuccessfulTime"))
    suspended = bool(spec.get("suspend"))
    warnings = [problem for pod in mine if (problem := stuck(pod) or held(pod, now))]
    if ended and exit_code:
        warnings.append(f"the last pass failed with exit code {exit_code}: {summary}")
    warnings += [problem for pod in mine[-1:] if (problem := other_failure(pod))]
    if over := sorted((job for job in own if finished(job)), key=_created)[-1:]:
        tries = [pod for pod in mine if _job_name(pod) == over[0]["metadata"]["name"]]
        warnings += [problem for problem in [lost(over[0], tries)] if problem]
    since = success or _time(cronjob["metadata"].get("creationTimestamp"))
    late = None if suspended or since is None else due(since)
    if since is not None and late is not None and late > TOLERATED:
        age = _short((now - since).total_seconds())
        told_since = f"since {age}" if success else f"ever, in {age}"
        described = f"`kubectl describe cronjob {name}`"
        remedy = f"see the warnings here, {described}, or run `ops-worker trigger --wait`"
        warnings.append(f"no success {told_since}: {remedy}")
    return Row(
        name=name,
        schedule=spec["schedule"],
        suspended=suspended,
        last_run_s=_age(last_run, now),
        last_success_s=_age(success, now),
        running=len(status.get("active") or ()),
        missed=None if suspended or last_run is None else due(last_run),
        exit_code=exit_code,
        summary=summary,
        warnings=tuple(dict.fromkeys(f"{name}: {warning}" for warning in warnings)),
    )


def table(rows: Sequence[Row]) -> str:
    """Render the rows in columns, and below them what is wrong."""
    cells = [HEAD, *(_cells(one) for one in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    warnings = [f"warning: {warning}" for one in rows for warning in one.warnings]
    return "\n".join([*lines, *([""] if warnings else []), *warnings])


def worker_names(pod: Mapping[str, Any]) -> list[str]:
    """Give the names of the worker's containers; if none is recognised, that of the first one."""
    spec = at(pod, "spec")
    found = workers(spec, at(pod, "metadata", "labels"))
    mains = [one.name for one in found if one.main] or [one.name for one in found]
    first = [one.name for one in containers(spec) if one.main] or list(_states(pod))
    return mains or first[:1]


def terminated(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the state in which the worker's container ended, or None while it has not.

    Of several containers the one with the worst exit code counts.
    """
    states = _states(pod)
    ended = [at(states.get(name), "terminated") for name in worker_names(pod)]
    if not ended or not all(ended):
        return None
    return dict(max(ended, key=lambda state: severity(state["exitCode"])))


def severity(code: int) -> tuple[bool, bool, int]:
    """Order exit codes by how bad they are: 0, 4 (done, and a service is unhealthy), all others."""
    return code != 0, code != 4, code  # noqa: PLR2004 - docs/operations.md, "Exit codes"


def other_failure(pod: Mapping[str, Any]) -> str:
    """Say which container that is not the worker's has failed; nothing when none has."""
    names = worker_names(pod)
    if text(at(pod, "status").get("phase")) == "Running":
        return ""
    # the exit code of a native sidecar means nothing
    native = {one.name for one in containers(at(pod, "spec")) if one.native}
    for name, state in _states(pod).items():
        ended = at(state, "terminated")
        if ended.get("exitCode") and name not in names and name not in native:
            pod_name = pod["metadata"]["name"]
            return (
                f"{_called(pod, name)} of pod {pod_name} ended with exit code {ended['exitCode']}: "
                f"{told(ended)}; see `kubectl logs {pod_name} -c {name}`"
            )
    return ""


def held(pod: Mapping[str, Any], now: datetime | None = None) -> str:
    """Say which container keeps a Job from completing after the pass has ended.

    With ``now``, only if the pass ended at least a minute ago.
    """
    ended = terminated(pod)
    if ended is None or at(pod, "status").get("phase") != "Running":
        return ""
    finished_at = _time(ended.get("finishedAt"))
    if now is not None and (finished_at is None or (now - finished_at).total_seconds() < HELD_S):
        return ""
    states = _states(pod)
    mains = [one.name for one in containers(at(pod, "spec")) if one.main]
    going = [one for one in mains if "running" in mapping(states.get(one))]
    if not going:
        return ""
    name = pod["metadata"]["name"]
    ended_with = f"the pass in pod {name} has ended with exit code {ended['exitCode']}"
    goes_on = f"container {going[0]} goes on, and the Job with it"
    return f"{ended_with}, but {goes_on}; if it is a sidecar, {NATIVE}"


def lost(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> str:
    """Say why a Job failed if none of its pods tells; nothing for any other Job."""
    kind, reason = finished(job) or ("", "")
    if kind != "Failed" or any(terminated(pod) or other_failure(pod) for pod in pods):
        return ""
    name = at(job, "metadata").get("name", "?")
    if not reason.startswith("DeadlineExceeded"):
        return f"Job {name} failed, and no pod tells why: {reason}"
    limit = at(job, "spec").get("activeDeadlineSeconds", "?")
    template = at(job, "spec", "template")
    ours = worker_names(template)
    mains = [one.name for one in containers(at(template, "spec")) if one.main]
    beside = next((name for name in mains if name not in ours), "")
    sidecar = f"; if container {beside} is a sidecar, {NATIVE}" if beside else ""
    return (
        f"Job {name} was ended by activeDeadlineSeconds ({limit} s), and its pod and log are gone "
        "with it: see `kubectl get events` for a pod that could not start; "
        f"else raise activeDeadlineSeconds, or lower PASS_DEADLINE{sidecar}"
    )


def with_gone(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Give the pods of a Job, and before them those that have gone, as they were last seen."""
    there = {pod["metadata"]["name"] for pod in now}
    return [*(pod for pod in before if pod["metadata"]["name"] not in there), *now]


def last_tries(pods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Give the newest pod of each index of a Job; ``pods`` come oldest first."""
    return list({at(pod, "metadata", "annotations").get(INDEX): pod for pod in pods}.values())


def told(ended: Mapping[str, Any]) -> str:
    """Give what a pass left in its termination message, on one line; a message that is not the worker's as it stands."""
    message = str(ended.get("message") or "")
    try:
        found = json.loads(message)
        text = str(found.get("error") or found.get("summary") or "")
    except (ValueError, AttributeError):
        text = next(iter(reversed(message.strip().splitlines())), "") or str(
            ended.get("reason") or ""
        )
    return " ".join(text.split())[:300]


def stuck(pod: Mapping[str, Any]) -> str:
    """Say what keeps a pod from starting, and what to do; nothing when it is on its way."""
    status = pod.get("status", {})
    waiting = [(name, at(state, "waiting")) for name, state in _states(pod).items()]
    unschedulable = [
        ("", one)
        for one in status.get("conditions") or ()
        if one.get("reason") == "Unschedulable" and status.get("phase") == "Pending"
    ]
    for name, one in (*waiting, *unschedulable):
        if remedy := REMEDIES.get(one.get("reason", "")):
            what = "" if not name or name in worker_names(pod) else f"{_called(pod, name)}: "
            said = " ".join(str(one.get("message") or "").split())[:200]
            return f"pod {pod['metadata']['name']} cannot start: {what}{one['reason']}{': ' + said if said else ''}; {remedy}"
    return ""


def finished(job: Mapping[str, Any]) -> tuple[str, str] | None:
    """Give ``Complete`` or ``Failed`` and the reason, or None while the Job goes on."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition.get("type") in {"Complete", "Failed"} and condition.get("status") == "True":
            return condition[
                "type"
            ], f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return None


def job_of(cronjob: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """Build a Job from a CronJob's template, as `kubectl create job --from` does."""
    template, name = cronjob["spec"]["jobTemplate"], cronjob["metadata"]["name"]
    about = template.get("metadata", {})
    owner = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "name": name,
        "uid": cronjob["metadata"]["uid"],
        "controller": True,
    }
    metadata = {
        "name": f"{name[:52]}-{suffix}",
        "labels": about.get("labels", {}),
        "annotations": {"cronjob.kubernetes.io/instantiate": "manual"}
        | about.get("annotations", {}),
        "ownerReferences": [owner],
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}


def event_of(
    cronjob: Mapping[str, Any], namespace: str, service: str, reason: str, now: datetime
) -> dict[str, Any]:
    """Build the Event of a transition: a service with a reason is unhealthy, without one it is healthy again."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    message = f"{service} is unhealthy: {reason}" if reason else f"{service} is healthy again"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{cronjob['name']}.", "namespace": namespace},
        "involvedObject": {"apiVersion": "batch/v1", "kind": "CronJob", "namespace": namespace}
        | dict(cronjob),
        "type": "Warning" if reason else "Normal",
        "reason": "ServiceUnhealthy" if reason else "ServiceRecovered",
        "message": " ".join(message.split())[:1024],
        "source": {"component": "ops-worker"},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def _owners(job: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = job["metadata"].get("ownerReferences") or ()
    return found


def _states(pod: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Give the state of each container by its name, in the order in which they start."""
    status = at(pod, "status")
    found = [*items(status.get("initContainerStatuses")), *items(status.get("containerStatuses"))]
    return {text(mapping(one).get("name")): at(one, "state") for one in found}


def _called(pod: Mapping[str, Any], name: str) -> str:
    main = any(one.name == name and one.main for one in containers(at(pod, "spec")))
    return f"container {name}" if main else f"init container {name}"


def _job_name(pod: Mapping[str, Any]) -> Any:
    return at(pod, "metadata", "labels").get("batch.kubernetes.io/job-name")


def _created(one: Mapping[str, Any]) -> str:
    return str(at(one, "metadata").get("creationTimestamp"))


def _time(stamp: str | None) -> datetime | None:
    return datetime.fromisoformat(stamp) if stamp else None


def _age(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else (now - since).total_seconds()


def _short(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _cells(one: Row) -> tuple[str, ...]:
    run, success = (
        "-" if age is None else f"{_short(age)} ago" for age in (one.last_run_s, one.last_success_s)
    )
    missed, code = ("-" if value is None else str(value) for value in (one.missed, one.exit_code))
    return (
        one.name,
        one.schedule,
        "yes" if one.suspended else "no",
        run,
        success,
        str(one.running),
        missed,
        code,
        one.summary or "-",
    )
