"""The last run of a CronJob: its last Job, even without a pod, and its Events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ops_worker.core.cluster_events import ClusterEvent, read_all
from ops_worker.core.cronjobs import CronJobState, Objects, row
from tests.kubernetes_api import event

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, 10, 0, tzinfo=UTC)
NAME = "ops-worker-health"
DEADLINE = ("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")


def cronjob(**status: Any) -> dict[str, Any]:
    """Return a CronJob whose last success is recent."""
    return {
        "metadata": {"name": NAME, "namespace": "ops", "uid": "u"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {}}},
        "status": {"lastSuccessfulTime": "2026-03-01T12:09:55Z"} | status,
    }


def job(number: int, *end: str, shards: int = 0, spec: Any = None, **status: Any) -> dict[str, Any]:
    """Return the Job of minute ``number``. ``end`` is type, reason and message of a condition."""
    condition = dict(zip(("type", "reason", "message"), end, strict=False)) | {"status": "True"}
    indexed = {"completionMode": "Indexed", "completions": shards} if shards else {}
    return {
        "metadata": {
            "name": f"job-{number}",
            "namespace": "ops",
            "creationTimestamp": f"2026-03-01T12:0{number}:00Z",
            "ownerReferences": [{"uid": "u"}],
        },
        "spec": {"activeDeadlineSeconds": 50} | indexed | (spec or {}),
        "status": ({"conditions": [condition]} if end else {}) | status,
    }


def pod(number: int, code: int | None, message: str = "", index: int | None = None) -> Any:
    """Return the pod of a Job. Without an exit code, the pod is running."""
    state: dict[str, Any] = {"running": {}}
    if code is not None:
        ended = f"2026-03-01T12:0{number}:05Z"
        state = {"terminated": {"exitCode": code, "message": message, "finishedAt": ended}}
    metadata: dict[str, Any] = {
        "name": f"job-{number}-{'' if index is None else f'{index}-'}abcde",
        "namespace": "ops",
        "labels": {"batch.kubernetes.io/job-name": f"job-{number}"},
    }
    if index is not None:
        metadata["annotations"] = {"batch.kubernetes.io/job-completion-index": f"{index}"}
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "ops-worker"}]},
        "status": {
            "phase": "Running" if code is None else "Succeeded",
            "containerStatuses": [{"name": "ops-worker", "state": state}],
        },
    }


def look(
    jobs: list[Any], pods: list[Any], events: list[Any] | None = None, **status: Any
) -> CronJobState:
    """Return the row of the CronJob with these objects."""
    parsed: list[ClusterEvent] = read_all(events or [])
    return row(cronjob(**status), Objects(jobs, pods, parsed), NOW, lambda _: 0)


SUCCESS = [job(8, "Complete"), pod(8, 0, '{"summary": "health: 4 services"}')]


def test_deadline_after_a_success() -> None:
    """An older success is not shown as the last run. The deadline is named."""
    state = look([SUCCESS[0], job(9, *DEADLINE)], [SUCCESS[1]])
    assert (state.exit_code, state.last_job) == (None, "job-9")
    assert state.summary == (
        "DeadlineExceeded: killed by activeDeadlineSeconds (50 s); no pod and no log are left"
    )
    assert state.job_end.startswith("Failed: DeadlineExceeded: Job was active")
    (warning,) = state.warnings
    assert "Job job-9 exceeded activeDeadlineSeconds (50 s), and Kubernetes deleted" in warning


@pytest.mark.parametrize("reason", ["BackoffLimitExceeded", "PodFailurePolicy"])
def test_other_failures_without_a_pod(reason: str) -> None:
    """A Job without a pod has no exit code, whatever ended it."""
    state = look([SUCCESS[0], job(9, "Failed", reason, "why")], [SUCCESS[1]])
    assert (state.exit_code, state.summary) == (
        None,
        f"{reason}: why; no pod and no log are left",
    )
    assert f"Job job-9 failed, and none of its pods shows the reason: {reason}" in state.warnings[0]


@pytest.mark.parametrize(
    ("minutes", "scheduled", "age_s"),
    [
        ([7], None, 180.0),  # a CronJob that is suspended, such as that of init-db
        ([6, 8], "2026-03-01T12:05:00Z", 120.0),
        ([6], "2026-03-01T12:09:00Z", 60.0),
        ([], "2026-03-01T12:09:00Z", 60.0),
        ([], None, 5.0),  # the Job is gone; the time of its success is known
    ],
)
def test_run_by_hand(minutes: list[int], scheduled: str | None, age_s: float) -> None:
    """A Job that somebody made from the CronJob is a run, also without a scheduled one."""
    jobs = [job(minute, "Complete") for minute in minutes]
    for content in jobs:
        content["metadata"]["annotations"] = {"cronjob.kubernetes.io/instantiate": "manual"}
    assert look(jobs, [], lastScheduleTime=scheduled).last_run_s == age_s


def test_no_run() -> None:
    """A CronJob without a run has no age of a run. A Job of its schedule has the scheduled time."""
    assert look([], [], lastSuccessfulTime=None).last_run_s is None
    scheduled = "2026-03-01T12:07:50Z"
    assert look([job(8, "Complete")], [], lastScheduleTime=scheduled).last_run_s == 130.0


def test_failure_target() -> None:
    """A Job whose pods are still being stopped counts as failed."""
    ending = ("FailureTarget", *DEADLINE[1:])
    assert look([SUCCESS[0], job(9, *ending)], [SUCCESS[1]]).last_job == "job-9"


def test_running() -> None:
    """While a Job runs, the Job before it is the last run."""
    state = look([SUCCESS[0], job(9)], [SUCCESS[1], pod(9, None)])
    assert (state.exit_code, state.summary, state.last_job) == (0, "health: 4 services", "job-8")
    assert (state.job_end, state.warnings) == ("Complete", ())


def test_retry() -> None:
    """A Job whose first pod failed counts, although another attempt follows."""
    state = look([SUCCESS[0], job(9)], [SUCCESS[1], pod(9, 1, "no database")])
    assert (state.exit_code, state.summary, state.job_end) == (1, "no database", "")


def test_complete_without_a_pod() -> None:
    """The pods of a complete Job ended with 0."""
    state = look([job(9, "Complete")], [])
    assert (state.exit_code, state.summary) == (0, "Complete; no pod and no log are left")


@pytest.mark.parametrize(
    ("scheduled", "is_gone"),
    [("2026-03-01T12:09:00Z", True), ("2026-03-01T12:08:10Z", False), (None, False)],
)
def test_job_is_gone(scheduled: str | None, is_gone: bool) -> None:
    """With failedJobsHistoryLimit 0, the Job of a failed run is deleted at once."""
    state = look([SUCCESS[0]], [SUCCESS[1]], lastScheduleTime=scheduled)
    assert (state.exit_code is None) == is_gone
    assert (state.summary == "the Job of the last run no longer exists") == is_gone
    assert state.warnings == ()


def test_job_is_gone_without_a_success() -> None:
    """If no success follows, the run has probably failed. Its reason is not known."""
    (warning,) = look(
        [SUCCESS[0]],
        [SUCCESS[1]],
        lastScheduleTime="2026-03-01T12:09:00Z",
        lastSuccessfulTime="2026-03-01T12:08:05Z",
    ).warnings
    assert "no run has succeeded since: set failedJobsHistoryLimit to 1 or more" in warning


def test_evicted() -> None:
    """A pod that was evicted has no exit code, but a reason."""
    evicted = pod(9, None)
    evicted["status"] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low."}
    state = look([job(9, "Failed", "BackoffLimitExceeded", "limit")], [evicted])
    assert state.exit_code is None
    assert "pod job-9-abcde failed: Evicted: The node was low." in state.warnings[0]


def test_failed_after_its_pass() -> None:
    """A pass that ended with 0 is no success if its Job failed."""
    spec = {"template": {"spec": {"containers": [{"name": "mesh"}, {"name": "ops-worker"}]}}}
    state = look([job(9, *DEADLINE, spec=spec)], [pod(9, 0, "health: ok")])
    assert state.summary.startswith("Job failed: DeadlineExceeded: killed by activeDeadline")
    assert state.summary.endswith("; health: ok")
    (warning,) = state.warnings
    assert "Job job-9 failed, although its pass ended with exit code 0" in warning
    assert "if container mesh is a sidecar" in warning


def test_shards() -> None:
    """The failed shard is named. The row has the worst exit code."""
    failed = job(9, "Failed", "PodFailurePolicy", "index 1", shards=3, completedIndexes="0,2")
    pods = [pod(9, code, f"end {index}", index) for index, code in enumerate((0, 3, 0))]
    state = look([failed], pods)
    assert (state.exit_code, state.summary) == (3, "shard 1/3: end 1")
    assert state.shards == ((0, 0, "end 0"), (1, 3, "end 1"), (2, 0, "end 2"))
    assert state.warnings == (f"{NAME}: shard 1 of 3 failed with exit code 3: end 1",)


def test_shards_that_are_gone() -> None:
    """A shard whose pod was killed has no exit code. The success of others does not hide it."""
    late = job(9, *DEADLINE, shards=3, completedIndexes="0,1")
    state = look([late], [pod(9, 0, "end 0", 0)])
    assert state.exit_code is None
    assert state.summary == (
        "Job failed: DeadlineExceeded: killed by activeDeadlineSeconds (50 s); "
        "shard 2/3: did not complete"
    )
    assert state.shards[1:] == (
        (1, 0, "Complete; no pod and no log are left"),
        (2, None, "did not complete"),
    )
    (warning,) = state.warnings
    assert "Job job-9 ended before shard 2 of 3 completed: DeadlineExceeded" in warning


def test_shards_that_run() -> None:
    """A shard that runs while the others have ended has not completed."""
    going = [pod(9, 0, "end", 0), pod(9, None, index=1)]
    state = look([job(9, shards=2, completedIndexes="0")], going)
    assert (state.exit_code, state.summary) == (None, "shard 1/2: did not complete")
    assert state.warnings == ()


def test_complete_shards() -> None:
    """If a Job is complete, all its shards ended with exit code 0."""
    state = look([job(9, "Complete", shards=2)], [pod(9, 0, "end", 0), pod(9, 0, "end", 1)])
    assert (state.exit_code, state.summary) == (0, "2 shards succeeded; shard 0/2: end")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event("Pod/job-9-abcde", "FailedMount", 'secret "a" not found')],
         ('its pod, which is gone, could not start: FailedMount: secret "a" not found; '
          "create the Secret")),
        ([event("Pod/job-9-abcde", "Pulling", "Pulling image", warning=False)],
         "the pull of its image took too long: Pulling image; load the image"),
        ([event("Pod/job-9-abcde", "Killing", "Stopping container", warning=False)],
         "it ran until then, and no pod and no log are left; raise activeDeadlineSeconds"),
        ([event("Job/job-9", "FailedCreate",
                'Error creating: pods "x" is forbidden: exceeded quota: q')],
         "no pod can be created: FailedCreate: exceeded quota: q; raise ResourceQuota q"),
    ],
)  # fmt: skip
def test_lost_pod(events: list[Any], expected: str) -> None:
    """Events stay after the deadline deleted the pod. They have the reason."""
    (warning,) = look([job(9, *DEADLINE)], [], events).warnings
    assert f"exceeded activeDeadlineSeconds (50 s): {expected}" in warning


def test_quota() -> None:
    """A Job that cannot create a pod is reported while it tries."""
    refused = event("Job/job-9", "FailedCreate", 'pods "x" is forbidden: exceeded quota: none')
    (warning,) = look([job(9)], [], [refused]).warnings
    assert warning.startswith(f"{NAME}: Job job-9: no pod can be created: FailedCreate: ")
    assert look([job(9)], []).warnings == ()


def test_pod_without_a_sandbox() -> None:
    """The Events of a pod that waits have the reason."""
    waits = pod(9, None)
    waits["status"] = {"phase": "Pending"}
    sandbox = event("Pod/job-9-abcde", "FailedCreatePodSandBox", "cni plugin not initialized")
    (warning,) = look([job(9)], [waits], [sandbox]).warnings
    assert "pod job-9-abcde cannot start: FailedCreatePodSandBox: cni plugin" in warning


@pytest.mark.parametrize(
    ("reason", "message", "hint"),
    [
        ("MissSchedule", "Missed scheduled time to start a job: 12:08",
         "set startingDeadlineSeconds to 25 or more"),
        ("JobAlreadyActive", "Not starting job because prior execution is running",
         "a run takes longer than the period"),
        ("TooManyMissedTimes", "too many missed start times",
         "set startingDeadlineSeconds (the manifests set 25)"),
        ("UnexpectedJob", "Saw a job that the controller did not create or forgot: job-9",
         "`kubectl -n ops get jobs`"),
        ("InvalidSchedule", "invalid schedule", "correct spec.schedule"),
        ("UnknownTimeZone", "unknown time zone Mars", "correct spec.timeZone"),
        ("FailedCreate", 'Error creating job: jobs "x" is forbidden: exceeded quota: q',
         "raise ResourceQuota q"),
    ],
)  # fmt: skip
def test_events_of_the_cronjob(reason: str, message: str, hint: str) -> None:
    """An Event of the controller about a run that did not start is a warning."""
    recent = event(f"CronJob/{NAME}", reason, message, at="2026-03-01T12:09:30Z")
    (warning,) = look([job(9)], [pod(9, None)], [recent]).warnings
    assert reason in warning and hint in warning
    assert "30 s ago" in warning


def test_repeated_event() -> None:
    """Of Events with the same reason, the newest one is shown, with their number."""
    old = event(f"CronJob/{NAME}", "MissSchedule", "old", at="2026-03-01T12:08:00Z")
    new = event(f"CronJob/{NAME}", "MissSchedule", "new", at="2026-03-01T12:09:00Z")
    (warning,) = look([], [], [new | {"count": 4}, old]).warnings
    assert "MissSchedule, 4 times, last 1 min ago: new; " in warning


@pytest.mark.parametrize(
    ("at", "last_success", "is_shown"),
    [
        ("2026-03-01T11:00:00Z", "2026-03-01T12:00:00Z", False),
        ("2026-03-01T11:00:00Z", "2026-03-01T10:00:00Z", True),
        ("2026-03-01T11:00:00Z", None, True),
        ("2026-03-01T12:00:00Z", "2026-03-01T12:05:00Z", True),
    ],
)
def test_age_of_an_event(at: str, last_success: str | None, is_shown: bool) -> None:
    """An Event counts for a quarter of an hour, and until a run has succeeded."""
    old = event(f"CronJob/{NAME}", "MissSchedule", "missed", at=at)
    assert bool(look([], [], [old], lastSuccessfulTime=last_success).warnings) == is_shown


def test_events_of_no_interest() -> None:
    """Events of the worker itself and about Jobs that a person created are no problem."""
    manual = job(9, "Complete")
    manual["metadata"]["annotations"] = {"cronjob.kubernetes.io/instantiate": "manual"}
    unexpected = "Saw a job that the controller did not create or forgot: "
    quiet = [
        event(f"CronJob/{NAME}", "ServiceUnhealthy", "ingest is unhealthy"),
        event(f"CronJob/{NAME}", "UnexpectedJob", f"{unexpected}job-9"),
        event("CronJob/another", "MissSchedule", "missed"),
    ]
    assert look([manual], [], quiet).warnings == ()
    assert look([], [], [event(f"CronJob/{NAME}", "UnexpectedJob", "?")]).warnings == ()


def test_suspended() -> None:
    """Events of a suspended CronJob are not shown, because they are older than the suspension."""
    suspended = cronjob()
    suspended["spec"]["suspend"] = True
    missed = read_all([event(f"CronJob/{NAME}", "MissSchedule", "missed")])
    assert row(suspended, Objects([], [], missed), NOW, lambda _: 9).warnings == ()
