"""From what Kubernetes tells of CronJobs, Jobs and pods to the rows that a person reads, and to what is wrong."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEAD = ("CRONJOB", "SCHEDULE", "SUSPENDED", "LAST RUN", "LAST SUCCESS", "RUNNING", "MISSED", "EXIT", "SUMMARY")
TOLERATED = 3
"""Periods without a success after which something is wrong."""
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
    """A CronJob as it stands: ages in seconds, ``missed`` None where its period is not known, ``exit_code`` where no pod ended yet."""

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
    cronjob: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]], now: datetime, period_s: int | None
) -> Row:
    """Bring together what is known of a CronJob; ``jobs`` and ``pods`` may be of others as well."""
    spec, status, name = cronjob["spec"], cronjob.get("status", {}), cronjob["metadata"]["name"]
    own = {job["metadata"]["name"] for job in jobs if any(owner.get("uid") == cronjob["metadata"]["uid"] for owner in _owners(job))}
    mine = [pod for pod in pods if pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name") in own]
    ended = sorted((found for pod in mine if (found := terminated(pod))), key=lambda found: str(found.get("finishedAt")))
    exit_code, summary = (ended[-1]["exitCode"], told(ended[-1])) if ended else (None, "")
    last_run, success = _age(status.get("lastScheduleTime"), now), _age(status.get("lastSuccessfulTime"), now)
    suspended = bool(spec.get("suspend"))
    missed = None if suspended or period_s is None or last_run is None else max(0, math.floor(last_run / period_s))
    warnings = [problem for pod in mine if (problem := stuck(pod))]
    if ended and exit_code:
        warnings.append(f"the last pass failed with exit code {exit_code}: {summary}")
    age = success if success is not None else _age(cronjob["metadata"].get("creationTimestamp"), now)
    if not suspended and period_s is not None and age is not None and age > TOLERATED * period_s:
        since = f"since {_short(age)}" if success is not None else f"ever, in {_short(age)}"
        warnings.append(f"no success {since}: see the warnings here, `kubectl describe cronjob {name}`, or run `ops-worker trigger --wait`")
    running = len(status.get("active") or ())
    told_of = tuple(dict.fromkeys(f"{name}: {warning}" for warning in warnings))
    return Row(name, spec["schedule"], suspended, last_run, success, running, missed, exit_code, summary, told_of)


def table(rows: Sequence[Row]) -> str:
    """Render the rows in columns, and below them what is wrong."""
    cells = [HEAD, *(_cells(one) for one in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    warnings = [f"warning: {warning}" for one in rows for warning in one.warnings]
    return "\n".join([*lines, *([""] if warnings else []), *warnings])


def terminated(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the state in which the pod's first container ended, or None while it has not."""
    containers = pod.get("status", {}).get("containerStatuses") or [{}]
    found: dict[str, Any] | None = containers[0].get("state", {}).get("terminated")
    return found


def told(ended: Mapping[str, Any]) -> str:
    """Give what a pass left in its termination message, on one line; a message that is not the worker's as it stands."""
    message = str(ended.get("message") or "")
    try:
        found = json.loads(message)
        text = str(found.get("error") or found.get("summary") or "")
    except (ValueError, AttributeError):
        text = next(iter(reversed(message.strip().splitlines())), "") or str(ended.get("reason") or "")
    return " ".join(text.split())[:300]


def stuck(pod: Mapping[str, Any]) -> str:
    """Say what keeps a pod from starting, and what to do; nothing when it is on its way."""
    status = pod.get("status", {})
    waiting = [one.get("state", {}).get("waiting") or {} for one in status.get("containerStatuses") or ()]
    unschedulable = [
        one for one in status.get("conditions") or () if one.get("reason") == "Unschedulable" and status.get("phase") == "Pending"
    ]
    for one in (*waiting, *unschedulable):
        if remedy := REMEDIES.get(one.get("reason", "")):
            said = " ".join(str(one.get("message") or "").split())[:200]
            return f"pod {pod['metadata']['name']} cannot start: {one['reason']}{': ' + said if said else ''}; {remedy}"
    return ""


def finished(job: Mapping[str, Any]) -> tuple[str, str] | None:
    """Give ``Complete`` or ``Failed`` and the reason, or None while the Job goes on."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition.get("type") in {"Complete", "Failed"} and condition.get("status") == "True":
            return condition["type"], f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return None


def job_of(cronjob: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """Build a Job from a CronJob's template, as `kubectl create job --from` does."""
    template, name = cronjob["spec"]["jobTemplate"], cronjob["metadata"]["name"]
    about = template.get("metadata", {})
    owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": cronjob["metadata"]["uid"], "controller": True}
    metadata = {
        "name": f"{name[:52]}-{suffix}",
        "labels": about.get("labels", {}),
        "annotations": {"cronjob.kubernetes.io/instantiate": "manual"} | about.get("annotations", {}),
        "ownerReferences": [owner],
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}


def event_of(cronjob: Mapping[str, Any], namespace: str, service: str, reason: str, now: datetime) -> dict[str, Any]:
    """Build the Event of a transition: a service with a reason is unhealthy, without one it is healthy again."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    message = f"{service} is unhealthy: {reason}" if reason else f"{service} is healthy again"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{cronjob['name']}.", "namespace": namespace},
        "involvedObject": {"apiVersion": "batch/v1", "kind": "CronJob", "namespace": namespace} | dict(cronjob),
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


def _age(stamp: str | None, now: datetime) -> float | None:
    return None if not stamp else (now - datetime.fromisoformat(stamp)).total_seconds()


def _short(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _cells(one: Row) -> tuple[str, ...]:
    run, success = ("-" if age is None else f"{_short(age)} ago" for age in (one.last_run_s, one.last_success_s))
    missed, code = ("-" if value is None else str(value) for value in (one.missed, one.exit_code))
    return one.name, one.schedule, "yes" if one.suspended else "no", run, success, str(one.running), missed, code, one.summary or "-"
