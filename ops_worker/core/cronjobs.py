"""CronJobs with their Jobs, pods and Events: one row per CronJob, with warnings.

The last run is the last Job that ended, also if its pod and log are gone. An older success is never
shown in its place.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.cluster_events import (
    creation_failure,
    of_job_pods,
    of_object,
    start_failure,
    unfinished_pull,
)
from ops_worker.core.deployments import passes_of
from ops_worker.core.jobs import (
    completed_indexes,
    exceeded_deadline,
    index_of,
    is_manual,
    job_end,
    job_name,
    last_attempts,
    shard_count,
    sidecar_hint,
    unexplained_failure,
)
from ops_worker.core.pod_states import (
    blocked_job,
    end_text,
    other_failure,
    pod_failure,
    pull_remedy,
    start_problem,
    terminated,
    time_of,
)
from ops_worker.core.pods import at, items, kubectl, text, trigger, workers
from ops_worker.core.start_problems import problem_text, safe_message
from ops_worker.errors import DONE, severity
from ops_worker.text import format_age

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.cluster_events import ClusterEvent
    from ops_worker.core.jobs import JobEnd

MAX_DUE = 3
"""The most runs that may be due without a success. One more run is a warning."""
RECENT = timedelta(minutes=15)
"""The time for which an Event of a CronJob is reported.

An older Event is reported, too, if no run has succeeded since the Event.
"""
CLOCK_SKEW = timedelta(seconds=10)
"""The time by which the clocks of the API server and of kube-controller-manager may differ."""
COMPONENT_LABEL = "app.kubernetes.io/component"
"""The label that names the command of a CronJob (kubernetes.io, "Recommended Labels")."""
GONE = "no pod and no log are left"
_GONE_JOB = "the Job of the last run no longer exists"
_SCHEDULE_HINT = "correct spec.schedule; until then no run starts"
CRONJOB_HINTS = {
    "MissSchedule": (
        "kube-controller-manager was not running, or was late by more than "
        "startingDeadlineSeconds: look at it, and set startingDeadlineSeconds to 25 or more"
    ),
    "JobAlreadyActive": (
        "a run takes longer than the period: keep PASS_DEADLINE and activeDeadlineSeconds below "
        "the period, and look for a pod that does not end"
    ),
    "TooManyMissedTimes": (
        "set startingDeadlineSeconds (the manifests set 25), and check the clocks of the control "
        "plane"
    ),
    "UnexpectedJob": "a Job of this CronJob was made by something else: see `{kubectl} get jobs`",
    "MissingJob": "somebody deleted a Job while it ran: find out who",
    "InvalidSchedule": _SCHEDULE_HINT,
    "UnparseableSchedule": _SCHEDULE_HINT,
    "UnsupportedSchedule": f"use spec.timeZone instead of TZ in the schedule; {_SCHEDULE_HINT}",
    "UnknownTimeZone": "correct spec.timeZone; until then no run starts",
}
"""What to do about an Event of a CronJob, by its reason.

Source: kubernetes, pkg/controller/cronjob/cronjob_controllerv2.go. Other reasons are no problem,
or another warning reports them.
"""


class ShardEnd(NamedTuple):
    """How the last pod of a shard ended. ``exit_code`` is None if no pod of the shard ended.

    It is 0 if the pod is gone and Kubernetes reports that the shard is complete.
    """

    shard: int
    exit_code: int | None
    summary: str


class CronJobState(NamedTuple):
    """The state of a CronJob. Ages are in seconds.

    - ``last_run_s``: the seconds since the last run was scheduled, or since somebody made its Job.
    - ``missed``: the number of runs that were due since the last run. None if the CronJob is
      suspended or has never run, or if its schedule is invalid.
    - ``exit_code``: the exit code of the last run that ended; of several shards, the worst one.
      None if no run has ended yet, or if the pod is gone, because then the code is gone, too.
    - ``summary``: the termination message of that run, or why there is none.
    - ``last_job``: the Job of that run; empty if there is none.
    - ``job_end``: how this Job ended; empty if it has not ended.
    - ``shards``: how each shard of an Indexed Job ended; empty for other Jobs.
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
    last_job: str = ""
    job_end: str = ""
    shards: tuple[ShardEnd, ...] = ()


class Objects(NamedTuple):
    """Jobs, pods and Events of a namespace. The Events are sorted, oldest first."""

    jobs: Sequence[Mapping[str, Any]]
    pods: Sequence[Mapping[str, Any]]
    events: Sequence[ClusterEvent] = ()

    def pods_of(self, job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the pods of a Job."""
        name = job["metadata"]["name"]
        return [pod for pod in self.pods if job_name(pod) == name]


class _LastRun(NamedTuple):
    """The last run that ended. ``job`` is None if there is none, or if its Job is gone."""

    job: Mapping[str, Any] | None = None
    end: JobEnd | None = None
    pods: Sequence[Mapping[str, Any]] = ()
    exit_code: int | None = None
    summary: str = ""
    shards: tuple[ShardEnd, ...] = ()


def runs(cronjob: Mapping[str, Any], command: str) -> bool:
    """Return whether a CronJob of the worker runs a command: a pass, or init-db.

    The passes that its containers run count. If they run no pass, the label of the CronJob names
    the command.
    """
    template = at(cronjob, "spec", "jobTemplate", "spec", "template")
    if not workers(at(template, "spec"), at(template, "metadata", "labels")):
        return False
    passes = passes_of(template)
    if passes:
        return command in passes
    return at(cronjob, "metadata", "labels").get(COMPONENT_LABEL) == command


def row(
    cronjob: Mapping[str, Any],
    objects: Objects,
    now: datetime,
    due: Callable[[datetime], int | None],
) -> CronJobState:
    """Return the row of a CronJob. Objects of other CronJobs are ignored.

    ``due`` returns the number of runs that were due since a time; None if it is unknown.
    """
    spec = cronjob["spec"]
    status = at(cronjob, "status")
    name = cronjob["metadata"]["name"]
    owned = _owned(cronjob, objects)
    last_run = time_of(status.get("lastScheduleTime"))
    last_success = time_of(status.get("lastSuccessfulTime"))
    suspended = bool(spec.get("suspend"))
    missed = None
    warnings = list(_job_warnings(owned, now))
    if _is_gone(owned.jobs, last_run):
        last = _LastRun(summary=_GONE_JOB)
        warnings += _gone_warning(last_run, last_success)
    else:
        last = _last_run(owned)
        warnings += _last_run_warnings(owned, last)
    if not suspended:
        missed = None if last_run is None else due(last_run)
        warnings += _event_warnings(cronjob, owned, last_success, now)
        warnings += _overdue(cronjob, last_success, now, due)
    return CronJobState(
        name=name,
        schedule=spec["schedule"],
        suspended=suspended,
        last_run_s=_age(_last_start(owned.jobs, last_run, last_success), now),
        last_success_s=_age(last_success, now),
        running=len(status.get("active") or ()),
        missed=missed,
        exit_code=last.exit_code,
        summary=last.summary,
        warnings=tuple(dict.fromkeys(f"{name}: {warning}" for warning in warnings if warning)),
        last_job="" if last.job is None else last.job["metadata"]["name"],
        job_end="" if last.end is None else ": ".join(filter(None, last.end)),
        shards=last.shards,
    )


def _owned(cronjob: Mapping[str, Any], objects: Objects) -> Objects:
    """Return the Jobs of a CronJob, their pods, and all Events: each reader selects its Events."""
    uid = cronjob["metadata"]["uid"]
    jobs = [job for job in objects.jobs if any(owner.get("uid") == uid for owner in _owners(job))]
    names = {job["metadata"]["name"] for job in jobs}
    pods = [pod for pod in objects.pods if job_name(pod) in names]
    return Objects(
        jobs=sorted(jobs, key=_created), pods=sorted(pods, key=_created), events=objects.events
    )


def _last_run(owned: Objects) -> _LastRun:
    """Return the last run that ended: the newest Job that has ended, or whose pod has."""
    for job in reversed(owned.jobs):
        pods = owned.pods_of(job)
        end = job_end(job, early=True)
        if end is None and not any(map(terminated, pods)):
            continue
        shards = _shard_ends(job, pods)
        exit_code, summary = _result(shards) if shards else _last_exit(pods)
        if end is not None:
            exit_code, summary = _with_end(job, end, exit_code, summary)
        return _LastRun(
            job=job, end=end, pods=pods, exit_code=exit_code, summary=summary, shards=shards
        )
    return _LastRun()


def _last_start(
    jobs: Sequence[Mapping[str, Any]], scheduled: datetime | None, last_success: datetime | None
) -> datetime | None:
    """Return when the last run began: a scheduled run, or a Job that somebody made.

    Kubernetes does not record when such a Job began, and deletes it after a while. Without any
    other run, its success is then all that is known of it.
    """
    stamps = [at(job, "metadata").get("creationTimestamp") for job in jobs if is_manual(job)]
    begins = [begin for begin in (scheduled, *map(time_of, stamps)) if begin is not None]
    return max(begins, default=last_success)


def _is_gone(jobs: Sequence[Mapping[str, Any]], scheduled: datetime | None) -> bool:
    """Return whether the Job of the last run was deleted while older Jobs still exist.

    A Job is created at its scheduled time or later.
    """
    if not jobs or scheduled is None:
        return False
    created = time_of(at(jobs[-1], "metadata").get("creationTimestamp"))
    return created is not None and scheduled > created + CLOCK_SKEW


def _gone_warning(scheduled: datetime | None, last_success: datetime | None) -> list[str]:
    """Return a warning about a last run whose Job is gone, unless this run succeeded."""
    if last_success is not None and scheduled is not None and last_success >= scheduled:
        return []
    return [
        (
            f"{_GONE_JOB}, and no run has succeeded since: set failedJobsHistoryLimit to 1 or more "
            "(the manifests set 3), so that the reason is kept"
        )
    ]


def _last_exit(pods: Sequence[Mapping[str, Any]]) -> tuple[int | None, str]:
    """Return the exit code and the text of the pod that ended last."""
    ended = [pod for pod in pods if terminated(pod)]
    if not ended:
        return None, ""
    # The sort is stable: of several pods that ended in the same second, the newest one is last.
    ended.sort(key=lambda pod: str((terminated(pod) or {}).get("finishedAt")))
    return (terminated(ended[-1]) or {})["exitCode"], end_text(ended[-1])


def _shard_ends(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> tuple[ShardEnd, ...]:
    """Return how each shard of an Indexed Job ended; empty for any other Job."""
    by_index = {index_of(pod): pod for pod in last_attempts(pods)}
    complete = completed_indexes(job)
    ends = []
    for index in range(shard_count(job)):
        pod = by_index.get(str(index))
        state = None if pod is None else terminated(pod)
        if pod is not None and state is not None:
            ends.append(ShardEnd(index, state["exitCode"], end_text(pod)))
        elif index in complete:
            ends.append(ShardEnd(index, DONE, f"Complete; {GONE}"))
        else:
            ends.append(ShardEnd(index, None, "did not complete"))
    return tuple(ends)


def _result(shards: Sequence[ShardEnd]) -> tuple[int | None, str]:
    """Return the worst exit code of shards, and its text, which names the shard.

    A shard that did not complete has no exit code. It is worse than a success of the other shards.
    """

    def rank(shard: ShardEnd) -> tuple[bool, tuple[int, int]]:
        """Return the rank: a failure is worst, then a shard without exit code, then a success."""
        code = 1 if shard.exit_code is None else shard.exit_code
        return shard.exit_code is not None and code != DONE, severity(code)

    worst = max(shards, key=rank)
    if worst.exit_code:
        return worst.exit_code, f"shard {worst.shard}/{len(shards)}: {worst.summary}"
    missing = [shard for shard in shards if shard.exit_code is None]
    if missing:
        return None, f"shard {missing[0].shard}/{len(shards)}: {missing[0].summary}"
    count = len(shards)
    return DONE, f"{count} shards succeeded; shard {worst.shard}/{count}: {worst.summary}"


def _with_end(
    job: Mapping[str, Any], end: JobEnd, exit_code: int | None, summary: str
) -> tuple[int | None, str]:
    """Return the exit code and the text of a Job that has ended.

    A failed Job is never shown as a success, even if its pod ended with 0 or is gone. The pods of a
    complete Job ended with 0.
    """
    if end.kind == "Complete":
        if exit_code is None:
            return DONE, f"Complete; {GONE}"
        return exit_code, summary
    if exit_code:
        return exit_code, summary
    reason = end.reason
    if exceeded_deadline(end):
        limit = at(job, "spec").get("activeDeadlineSeconds", "?")
        reason = f"DeadlineExceeded: killed by activeDeadlineSeconds ({limit} s)"
    if exit_code is None and not summary:
        return None, f"{reason}; {GONE}"
    return exit_code, f"Job failed: {reason}; {summary}"


def _job_warnings(owned: Objects, now: datetime) -> Iterator[str]:
    """Yield what is wrong with Jobs that have not ended, and with pods that cannot start."""
    for pod in owned.pods:
        events = of_object(owned.events, "Pod", pod["metadata"]["name"])
        yield start_problem(pod, events, now) or blocked_job(pod, now)
    yield from map(other_failure, owned.pods[-1:])
    for job in owned.jobs:
        if job_end(job, early=True) is None and not owned.pods_of(job):
            failure = creation_failure(job, owned.events)
            yield f"Job {job['metadata']['name']}: {failure}" if failure else ""


def _last_run_warnings(owned: Objects, last: _LastRun) -> Iterator[str]:
    """Yield what is wrong with the last run."""
    failed_shards = [shard for shard in last.shards if shard.exit_code]
    for shard in failed_shards:
        yield (
            f"shard {shard.shard} of {len(last.shards)} failed with exit code "
            f"{shard.exit_code}: {shard.summary}"
        )
    if last.exit_code and not failed_shards:
        yield f"the last pass failed with exit code {last.exit_code}: {last.summary}"
    if last.job is None or last.end is None or last.end.kind != "Failed":
        return
    yield from map(pod_failure, last.pods[-1:])
    yield unexplained_failure(last.job, last.pods, _lost_cause(last.job, owned.events))
    missing = [f"{shard.shard}" for shard in last.shards if shard.exit_code is None]
    if missing:
        yield (
            f"Job {last.job['metadata']['name']} ended before shard {', '.join(missing)} "
            f"of {len(last.shards)} completed: {last.end.reason}"
        )
    elif last.exit_code == DONE:
        yield (
            f"Job {last.job['metadata']['name']} failed, although its pass ended with exit code 0: "
            f"{last.end.reason}{sidecar_hint(last.job)}"
        )


def _lost_cause(job: Mapping[str, Any], events: Sequence[ClusterEvent]) -> str:
    """Return why the pods of a failed Job could not start or end; empty if no Event shows it.

    Kubernetes keeps the Events of a pod after it has deleted the pod.
    """
    failure = creation_failure(job, events)
    if failure:
        return failure
    pod_events = of_job_pods(events, job["metadata"]["name"])
    # Kubernetes writes Killing only for a container that runs.
    if any(event.reason == "Killing" for event in pod_events):
        hint = f"raise activeDeadlineSeconds or lower PASS_DEADLINE{sidecar_hint(job)}"
        return f"it ran until then, and {GONE}; {hint}"
    failure = start_failure(pod_events, kubectl(job))
    if failure:
        return f"its pod, which is gone, could not start: {failure}"
    pull = unfinished_pull(pod_events)
    if pull is not None:
        return f"the pull of its image took too long: {safe_message(pull.message)}; {pull_remedy()}"
    return ""


def _event_warnings(
    cronjob: Mapping[str, Any], owned: Objects, last_success: datetime | None, now: datetime
) -> Iterator[str]:
    """Yield what the Events of a CronJob report: runs that were not started."""
    prefix, owner = kubectl(cronjob), f"cronjob {cronjob['metadata']['name']}"
    newest: dict[str, ClusterEvent] = {}
    for event in of_object(owned.events, "CronJob", cronjob["metadata"]["name"]):
        is_recent = now - event.time < RECENT
        is_since_success = last_success is None or event.time > last_success
        if (is_recent or is_since_success) and not _is_made_by_hand(event, owned.jobs):
            newest[event.reason] = event
    for reason, event in newest.items():
        age = format_age(max(0.0, (now - event.time).total_seconds()))
        times = f"{event.times} times, last " if event.times > 1 else ""
        if reason in CRONJOB_HINTS:
            hint = CRONJOB_HINTS[reason].format(kubectl=prefix)
            yield f"{reason}, {times}{age} ago: {safe_message(event.message)}; {hint}"
        elif reason == "FailedCreate":
            yield f"{times}{age} ago: {problem_text(reason, event.message, prefix, owner)}"


def _is_made_by_hand(event: ClusterEvent, jobs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether an Event is about a Job that somebody made, or that no longer exists.

    The controller reports every Job from `ops-worker trigger` and `kubectl create job --from` as
    an UnexpectedJob.
    """
    if event.reason != "UnexpectedJob":
        return False
    match = re.search(r"forgot: (\S+)", event.message)
    name = match[1] if match else ""
    known = [job for job in jobs if job["metadata"]["name"] == name]
    return not known or is_manual(known[0])


def _overdue(
    cronjob: Mapping[str, Any],
    last_success: datetime | None,
    now: datetime,
    due: Callable[[datetime], int | None],
) -> list[str]:
    """Return a warning if more than MAX_DUE runs were due since the last success."""
    since = last_success or time_of(cronjob["metadata"].get("creationTimestamp"))
    if since is None or (due(since) or 0) <= MAX_DUE:
        return []
    age = format_age((now - since).total_seconds())
    problem = f"no successful run for {age}"
    if last_success is None:
        problem = f"no successful run since the CronJob was created {age} ago"
    name = cronjob["metadata"]["name"]
    hint = (
        f"see the other warnings and `{kubectl(cronjob)} describe cronjob {name}`, "
        f"or run `{trigger(cronjob)}`"
    )
    return [f"{problem}: {hint}"]


def _owners(job: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return items(job["metadata"].get("ownerReferences"))


def _created(content: Mapping[str, Any]) -> str:
    return text(at(content, "metadata").get("creationTimestamp"))


def _age(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else (now - since).total_seconds()
