from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.core.cluster_events import event_of
from ops_worker.core.cronjobs import CronJobState, Objects, row, runs
from ops_worker.core.jobs import (
    job_end,
    job_of,
    last_attempts,
    longest_wait_s,
    unexplained_failure,
    with_deleted,
)
from ops_worker.core.pod_states import (
    blocked_job,
    kill_text,
    other_failure,
    start_problem,
    terminated,
    termination_text,
    worker_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, 10, 0, tzinfo=UTC)
POD_LABELS = {"batch.kubernetes.io/job-name": "job-1"}
JOB = {"metadata": {"name": "job-1", "ownerReferences": [{"uid": "u"}]}}
FOREIGN = {"metadata": {"name": "job-2"}}


def minutely(since: datetime) -> int:
    """Count the full minutes since a time."""
    return int(NOW.timestamp() // 60 - since.timestamp() // 60)


def row_of(
    cronjob: dict[str, Any],
    jobs: list[dict[str, Any]],
    pods: list[dict[str, Any]],
    now: datetime,
    due: Callable[[datetime], int | None],
) -> CronJobState:
    """Return the row of a CronJob among these objects, without Events."""
    return row(cronjob, Objects(jobs, pods), now, due)


def cronjob(status: dict[str, Any] | None = None, *, suspended: bool = False) -> dict[str, Any]:
    """Return a CronJob as the API server does."""
    metadata = {
        "name": "ops-worker-health",
        "uid": "u",
        "creationTimestamp": "2026-03-01T12:00:00Z",
    }
    return {
        "metadata": metadata,
        "spec": {"schedule": "* * * * *", "suspend": suspended, "jobTemplate": {"spec": {}}},
        "status": status or {},
    }


def ended(code: int, message: str, at: str) -> dict[str, Any]:
    """Return a pod that has ended."""
    state = {
        "terminated": {"exitCode": code, "message": message, "finishedAt": at, "reason": "Error"}
    }
    return {
        "metadata": {"name": "p", "labels": POD_LABELS},
        "status": {"phase": "Failed", "containerStatuses": [{"state": state}]},
    }


def test_all_is_well() -> None:
    """Exit code and summary are those of the newest pod that ended."""
    pods = [
        ended(1, "old", "2026-03-01T12:08:00Z"),
        ended(0, '{"summary": "health: 4 services"}', "2026-03-01T12:09:05Z"),
    ]
    status = {
        "lastScheduleTime": "2026-03-01T12:09:00Z",
        "lastSuccessfulTime": "2026-03-01T12:09:05Z",
        "active": [{}],
    }
    row = row_of(cronjob(status), [JOB, FOREIGN], pods, NOW, minutely)
    assert row._replace(warnings=()) == row
    assert (row.exit_code, row.summary, row.running, row.missed) == (
        0,
        "health: 4 services",
        1,
        1,
    )


@pytest.mark.parametrize(
    ("status", "since"),
    [
        ({}, "since the CronJob was created 10 min ago"),
        ({"lastSuccessfulTime": "2026-03-01T12:06:59Z"}, "for 3 min"),
        ({"lastSuccessfulTime": "2026-03-01T02:06:59Z"}, "for 10 h"),
        ({"lastSuccessfulTime": "2026-02-01T02:06:59Z"}, "for 28 d"),
    ],
)
def test_no_success_for_three_periods(status: dict[str, str], since: str) -> None:
    """A missing success is a warning, unless the CronJob is suspended or its period unknown."""
    (warning,) = row_of(cronjob(status), [], [], NOW, minutely).warnings
    remedy = (
        "see the other warnings and `kubectl describe cronjob ops-worker-health`, "
        "or run `ops-worker trigger ops-worker-health --wait`"
    )
    assert warning == f"ops-worker-health: no successful run {since}: {remedy}"
    assert row_of(cronjob(status, suspended=True), [], [], NOW, minutely).warnings == ()
    assert row_of(cronjob(status), [], [], NOW, lambda _: None).warnings == ()
    assert (
        row_of(
            cronjob({"lastSuccessfulTime": "2026-03-01T12:07:00Z"}), [], [], NOW, minutely
        ).warnings
        == ()
    )


def test_failed() -> None:
    """A failed pass is a warning."""
    row = row_of(
        cronjob(suspended=True),
        [JOB],
        [ended(3, '{"error": "no table tenants"}', "2026-03-01T12:09:00Z")],
        NOW,
        minutely,
    )
    assert row.warnings == (
        "ops-worker-health: the last pass failed with exit code 3: no table tenants",
    )


def test_missing_status() -> None:
    """A new CronJob may have no status, and pods without labels."""
    new = cronjob(suspended=True)
    del new["status"]
    row = row_of(
        new,
        [JOB],
        [{"metadata": {"name": "p"}}, {"metadata": {"name": "q", "labels": POD_LABELS}}],
        NOW,
        minutely,
    )
    assert (row.exit_code, row.missed, row.warnings) == (None, None, ())
    new["status"] = None
    job = JOB | {"status": None}
    pod = {"metadata": {"name": "p", "labels": POD_LABELS}, "status": None}
    assert row_of(new, [job], [pod], NOW, minutely).warnings == ()


@pytest.mark.parametrize("code", [{}, {"exitCode": None}])
def test_no_exit_code(code: dict[str, None]) -> None:
    """An end without an exit code is no success."""
    pod = ended(0, "gone", "2026-03-01T12:09:00Z")
    pod["status"]["containerStatuses"][0]["state"] = {"terminated": code | {"message": "gone"}}
    row = row_of(cronjob(suspended=True), [JOB], [pod], NOW, minutely)
    assert row.warnings == ("ops-worker-health: the last pass failed with exit code 1: gone",)


OOM = "OOMKilled: raise resources.limits.memory of the container (the manifests set 128Mi)"


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [({}, 120), ({"activeDeadlineSeconds": 50}, 120), ({"activeDeadlineSeconds": 330}, 360)],
)
def test_longest_wait(spec: dict[str, int], seconds: float) -> None:
    """A Job has ended a little after its deadline."""
    assert longest_wait_s({"spec": spec}) == seconds


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ({"exitCode": 137, "reason": "OOMKilled"}, f"pod p ended with exit code 137: {OOM}"),
        ({"exitCode": 1, "reason": "Error"}, ""),
        (None, ""),
    ],
)
def test_killed(end: dict[str, Any] | None, expected: str) -> None:
    """Only a container that exceeded its memory limit is reported as such."""
    status = {"containerStatuses": [{"name": "ops-worker", "state": {"terminated": end}}]}
    assert kill_text({"metadata": {"name": "p"}, "status": status}) == expected


@pytest.mark.parametrize(
    ("message", "reason", "expected"),
    [
        ('{"summary": "a\\nb"}', "", "a b"),
        ('{"error": "no"}', "", "no"),
        ("[1]", "", "[1]"),
        ("first\nlast line\n", "", "last line"),
        ("", "Error", "Error"),
        ("the last line of the log", "OOMKilled", OOM),
        ("", "OOMKilled", OOM),
        ("x" * 999, "", "x" * 299 + "…"),
    ],
)
def test_termination_text(message: str, reason: str, expected: str) -> None:
    """The text is that of the pass, else the last line of the message, else the reason."""
    assert termination_text({"message": message, "reason": reason}) == expected


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ({"reason": "ContainerCreating"}, ""),
        (None, ""),
        (
            {"reason": "ImagePullBackOff"},
            (
                "pod p cannot start: ImagePullBackOff; "
                "check the image's name, and that the cluster can pull it"
            ),
        ),
        (
            {"reason": "CreateContainerConfigError", "message": 'secret "ops-worker" not found'},
            (
                'pod p cannot start: CreateContainerConfigError: secret "ops-worker" not found; '
                "create the Secret: "
                "`kubectl create secret generic ops-worker --from-literal=PG_PASS=...`"
            ),
        ),
    ],
)
def test_stuck(waiting: dict[str, str] | None, expected: str) -> None:
    """A pod that cannot start is reported with the reason and a hint."""
    assert (
        start_problem(
            {
                "metadata": {"name": "p"},
                "status": {"containerStatuses": [{"state": {"waiting": waiting}}]},
            }
        )
        == expected
    )


def test_unschedulable() -> None:
    """An unschedulable pod is reported while it is pending."""
    conditions = [{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/1 nodes"}]
    pending = {"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": conditions}}
    assert start_problem(pending) == (
        "pod p cannot start: Unschedulable: 0/1 nodes; "
        "check the free resources and the taints of the nodes: `kubectl describe pod`"
    )
    assert start_problem(pending | {"status": {"phase": "Running", "conditions": conditions}}) == ""


def test_pending_for_another_reason() -> None:
    """A pending pod that has a node is no problem, whatever its conditions."""
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "reason": "Wait"}]
    pending = {"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": conditions}}
    assert start_problem(pending) == ""


def test_newest_of_the_same_second() -> None:
    """If two pods ended in the same second, the pod that was created later counts."""
    pods = []
    for code, created in ((0, "2026-03-01T12:08:30Z"), (1, "2026-03-01T12:08:00Z")):
        pod = ended(code, f'{{"summary": "exit {code}"}}', "2026-03-01T12:09:00Z")
        pod["metadata"] = pod["metadata"] | {"creationTimestamp": created}
        pods.append(pod)
    row = row_of(cronjob(suspended=True), [JOB], pods, NOW, minutely)
    assert (row.exit_code, row.summary) == (0, "exit 0")


@pytest.mark.parametrize(
    ("arguments", "component", "command", "expected"),
    [
        (["health"], "", "health", True),
        (["health"], "", "metrics", False),
        (["health"], "metrics", "metrics", False),
        (["init-db"], "init-db", "init-db", True),
        (["init-db"], "", "init-db", False),
        (None, "health", "health", False),
    ],
)
def test_runs(arguments: list[str] | None, component: str, command: str, *, expected: bool) -> None:
    """The containers show which pass a CronJob runs. A label names another command."""
    source = cronjob()
    source["metadata"]["labels"] = {"app.kubernetes.io/component": component}
    container = {"name": "shop"} if arguments is None else {"name": "ops-worker", "args": arguments}
    source["spec"]["jobTemplate"] = {"spec": {"template": {"spec": {"containers": [container]}}}}
    assert runs(source, command) is expected


def test_warnings_are_not_repeated() -> None:
    """The same warning of two pods is shown once."""
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    pod = {
        "metadata": {"name": "p", "labels": POD_LABELS},
        "status": {"containerStatuses": [{"state": waiting}]},
    }
    row = row_of(cronjob(suspended=True), [JOB], [pod, pod], NOW, minutely)
    assert row.warnings == (
        "ops-worker-health: pod p cannot start: CrashLoopBackOff; see `kubectl logs`",
    )


def test_finished() -> None:
    """A Job is complete, failed with a reason, or running."""
    assert job_end({}) is None
    assert (
        job_end(
            {
                "status": {
                    "conditions": [
                        {"type": "Suspended", "status": "True"},
                        {"type": "Failed", "status": "False"},
                    ]
                }
            }
        )
        is None
    )
    why = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
    assert job_end({"status": {"conditions": [why]}}) == ("Failed", "DeadlineExceeded: too long")


def test_job_name() -> None:
    """A long name is cut, so that the suffix fits."""
    long = cronjob()
    long["metadata"]["name"] = "x" * 60
    assert len(job_of(long, "m12345678")["metadata"]["name"]) <= 63


def test_event() -> None:
    """With a reason the service is unhealthy, without one it is healthy again."""
    event = event_of({"name": "ops-worker-health", "uid": "u"}, "ops", "ingest", "http 503", NOW)
    assert (event["type"], event["message"], event["lastTimestamp"]) == (
        "Warning",
        "ingest is unhealthy: http 503",
        "2026-03-01T12:10:00Z",
    )
    noisy = event_of({"name": "ops-worker-health"}, "ops", "ingest", "a\x1b[2J\nb", NOW)
    assert noisy["message"] == "ingest is unhealthy: a [2J b"
    assert (
        event_of({"name": "ops-worker-health"}, "ops", "ingest", "", NOW)["reason"]
        == "ServiceRecovered"
    )


DONE = {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": "2026-03-01T12:08:00Z"}}
RUNNING: dict[str, Any] = {"running": {}}
MESH = [{"name": "a-mesh", "image": "envoy"}, {"name": "worker", "image": "reg/ops-worker:1"}]
NATIVE = [
    {"name": "proxy", "image": "proxy", "restartPolicy": "Always"},
    {"name": "wait", "image": "busybox"},
]
NATIVE_SIDECAR = (
    "make it a native sidecar (an init container with restartPolicy: Always), "
    "because a Job does not wait for those"
)


def failed(code: int, message: str = "") -> dict[str, Any]:
    """Return the state of a container that failed."""
    return {
        "terminated": {
            "exitCode": code,
            "reason": "Error",
            "message": message,
            "finishedAt": "2026-03-01T12:08:00Z",
        }
    }


def shared(
    phase: str, mains: dict[str, Any], first: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a pod with other containers. Kubernetes sorts their states by name."""
    return {
        "metadata": {"name": "p", "labels": POD_LABELS},
        "spec": {"containers": MESH, "initContainers": NATIVE},
        "status": {
            "phase": phase,
            "initContainerStatuses": [
                {"name": name, "state": state} for name, state in (first or {}).items()
            ],
            "containerStatuses": [
                {"name": name, "state": state} for name, state in sorted(mains.items())
            ],
        },
    }


def test_the_workers_own_end() -> None:
    """Exit code and summary are those of the worker's container."""
    pod = shared(
        "Failed",
        {"a-mesh": failed(137), "worker": failed(3, '{"error": "no table"}')},
        {"proxy": failed(143), "wait": DONE},
    )
    assert worker_names(pod) == ["worker"]
    row = row_of(cronjob(suspended=True), [JOB], [pod], NOW, minutely)
    assert (row.exit_code, row.summary) == (3, "no table")
    assert terminated(shared("Running", {"a-mesh": failed(137), "worker": RUNNING})) is None
    two = {
        "metadata": {},
        "spec": {"containers": [{"name": "ops-worker-health"}, {"name": "ops-worker-metrics"}]},
    }
    states = {"ops-worker-health": failed(1), "ops-worker-metrics": DONE}
    ended_pod = two | {
        "status": {
            "containerStatuses": [{"name": name, "state": state} for name, state in states.items()]
        }
    }
    assert (terminated(ended_pod) or {})["exitCode"] == 1
    assert worker_names(
        {"spec": {"initContainers": [{"name": "ops-worker"}], "containers": [{"name": "a"}]}}
    ) == ["ops-worker"]
    assert worker_names({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}}) == ["b"]
    assert worker_names({"status": {}}) == [] and terminated({"status": {}}) is None


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (shared("Failed", {}, {"proxy": failed(143), "wait": failed(1, "no such host\n")}),
         ("init container wait of pod p ended with exit code 1: no such host; "
          "see `kubectl logs p -c wait`")),
        (shared("Failed", {"a-mesh": failed(2), "worker": DONE}),
         "container a-mesh of pod p ended with exit code 2: Error; see `kubectl logs p -c a-mesh`"),
        (shared("Failed", {"a-mesh": DONE, "worker": failed(2)}), ""),
        (shared("Succeeded", {"worker": DONE}, {"proxy": failed(143), "wait": DONE}), ""),
        (shared("Running", {"a-mesh": failed(2), "worker": RUNNING}), ""),
    ],
)  # fmt: skip
def test_other_failure(pod: dict[str, Any], expected: str) -> None:
    """Another container that failed is named, unless it is a native sidecar."""
    assert other_failure(pod) == expected
    row = row_of(cronjob(suspended=True), [JOB], [pod], NOW, minutely)
    assert (f"ops-worker-health: {expected}" in row.warnings) == bool(expected)


def test_held() -> None:
    """A plain sidecar that still runs a minute after the pass blocks the Job."""
    pod = shared("Running", {"a-mesh": RUNNING, "worker": DONE}, {"proxy": RUNNING, "wait": DONE})
    message = (
        "the pass in pod p ended with exit code 0, but container a-mesh keeps running, "
        f"so the Job does not complete; if it is a sidecar, {NATIVE_SIDECAR}"
    )
    assert blocked_job(pod) == blocked_job(pod, NOW) == message
    assert row_of(cronjob(suspended=True), [JOB], [pod], NOW, minutely).warnings == (
        f"ops-worker-health: {message}",
    )
    assert blocked_job(pod, datetime(2026, 3, 1, 12, 8, 59, tzinfo=UTC)) == ""
    assert (
        blocked_job(shared("Running", {"a-mesh": DONE, "worker": DONE}, {"proxy": RUNNING})) == ""
    )
    assert blocked_job(shared("Running", {"a-mesh": RUNNING, "worker": RUNNING})) == ""
    assert blocked_job(shared("Succeeded", {"a-mesh": DONE, "worker": DONE})) == ""
    unknown = shared("Running", {"a-mesh": RUNNING, "worker": {"terminated": {"exitCode": 0}}})
    assert blocked_job(unknown) and blocked_job(unknown, NOW) == ""


def test_stuck_before() -> None:
    """A container that cannot start is named, unless it is the worker's."""
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}
    remedy = "check the image's name, and that the cluster can pull it"
    pod = shared(
        "Pending",
        {"worker": {"waiting": {"reason": "PodInitializing"}}},
        {"proxy": RUNNING, "wait": waiting},
    )
    assert (
        start_problem(pod)
        == f"pod p cannot start: init container wait: ImagePullBackOff: Back-off; {remedy}"
    )
    assert (
        start_problem(shared("Pending", {"a-mesh": waiting, "worker": RUNNING}))
        == f"pod p cannot start: container a-mesh: ImagePullBackOff: Back-off; {remedy}"
    )
    assert (
        start_problem(shared("Pending", {"a-mesh": RUNNING, "worker": waiting}))
        == f"pod p cannot start: ImagePullBackOff: Back-off; {remedy}"
    )


def over(reason: str, created: str = "2026-03-01T12:09:00Z", **spec: Any) -> dict[str, Any]:
    """Return a failed Job of the CronJob."""
    condition = {"type": "Failed", "status": "True", "reason": reason, "message": "no more"}
    about = JOB["metadata"] | {"creationTimestamp": created}
    return {"metadata": about, "spec": spec, "status": {"conditions": [condition]}}


def test_lost() -> None:
    """A failed Job without a pod is reported with a hint. With a pod, the pod has the reason."""
    lost_job = over("DeadlineExceeded", activeDeadlineSeconds=50)
    message = (
        "Job job-1 exceeded activeDeadlineSeconds (50 s), and Kubernetes deleted its pod and log: "
        "look in `kubectl get events` for a pod that could not start; "
        "otherwise raise activeDeadlineSeconds or lower PASS_DEADLINE"
    )
    assert unexplained_failure(lost_job, []) == message
    assert row_of(
        cronjob(suspended=True), [lost_job, JOB, FOREIGN], [], NOW, minutely
    ).warnings == (f"ops-worker-health: {message}",)
    assert (
        unexplained_failure(over("BackoffLimitExceeded"), [])
        == "Job job-1 failed, and none of its pods shows the reason: BackoffLimitExceeded: no more"
    )
    assert unexplained_failure(lost_job, [ended(1, "", "2026-03-01T12:08:00Z")]) == ""
    assert unexplained_failure(lost_job, [shared("Running", {"worker": RUNNING})]) == message
    assert (
        unexplained_failure(JOB, [])
        == unexplained_failure(
            {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}, []
        )
        == ""
    )
    newer = {
        "metadata": {
            "name": "job-2",
            "creationTimestamp": "2026-03-01T12:09:30Z",
            "ownerReferences": [{"uid": "u"}],
        }
    }
    done = newer | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    assert row_of(cronjob(suspended=True), [done, lost_job], [], NOW, minutely).warnings == ()


def test_lost_beside_others() -> None:
    """If the pod has another main container, the hint names it."""
    boxes = {"containers": [{"name": "a-mesh"}, {"name": "ops-worker"}]}
    lost_job = over("DeadlineExceeded", template={"spec": boxes})
    assert unexplained_failure(lost_job, []).endswith(
        "raise activeDeadlineSeconds or lower PASS_DEADLINE; "
        f"if container a-mesh is a sidecar, {NATIVE_SIDECAR}"
    )
    boxes["initContainers"] = [boxes["containers"].pop(0)]
    assert unexplained_failure(lost_job, []).endswith(
        "raise activeDeadlineSeconds or lower PASS_DEADLINE"
    )


def test_with_gone() -> None:
    """A deleted pod stays in the list as it was. An existing pod has its current state."""
    pods = [
        {"metadata": {"name": name}, "version": version}
        for name, version in ("a1", "b1", "b2", "c2")
    ]
    assert with_deleted(pods[:2], pods[2:]) == [pods[0], *pods[2:]]
    assert with_deleted(pods[:2], []) == pods[:2]
    assert with_deleted([], pods[:2]) == pods[:2]


def test_last_tries() -> None:
    """The newest pod of every index counts."""
    pods = [
        {
            "metadata": {
                "name": name,
                "annotations": {"batch.kubernetes.io/job-completion-index": index},
            }
        }
        for name, index in ("a0", "b1", "c0")
    ]
    assert [pod["metadata"]["name"] for pod in last_attempts(pods)] == ["c", "b"]
    assert last_attempts([{"metadata": {"name": "x"}}, {"metadata": {"name": "y"}}]) == [
        {"metadata": {"name": "y"}}
    ]
