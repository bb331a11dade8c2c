from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ops_worker.core.cronjobs import event_of, finished, job_of, row, stuck, table, told

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, 10, 0, tzinfo=UTC)
POD_LABELS = {"batch.kubernetes.io/job-name": "job-1"}
JOB = {"metadata": {"name": "job-1", "ownerReferences": [{"uid": "u"}]}}
FOREIGN = {"metadata": {"name": "job-2"}}


def minutely(since: datetime) -> int:
    """Count the full minutes since a time."""
    return int(NOW.timestamp() // 60 - since.timestamp() // 60)


def cronjob(status: dict[str, Any] | None = None, *, suspended: bool = False) -> dict[str, Any]:
    """Give a CronJob as the API server does."""
    metadata = {"name": "ops-worker-health", "uid": "u", "creationTimestamp": "2026-03-01T12:00:00Z"}
    return {
        "metadata": metadata,
        "spec": {"schedule": "* * * * *", "suspend": suspended, "jobTemplate": {"spec": {}}},
        "status": status or {},
    }


def ended(code: int, message: str, at: str) -> dict[str, Any]:
    """Give a pod that has ended."""
    state = {"terminated": {"exitCode": code, "message": message, "finishedAt": at, "reason": "Error"}}
    return {"metadata": {"name": "p", "labels": POD_LABELS}, "status": {"phase": "Failed", "containerStatuses": [{"state": state}]}}


def test_all_is_well() -> None:
    """The newest pod that ended gives exit code and summary."""
    pods = [ended(1, "old", "2026-03-01T12:08:00Z"), ended(0, '{"summary": "health: 4 services"}', "2026-03-01T12:09:05Z")]
    status = {"lastScheduleTime": "2026-03-01T12:09:00Z", "lastSuccessfulTime": "2026-03-01T12:09:05Z", "active": [{}]}
    found = row(cronjob(status), [JOB, FOREIGN], pods, NOW, minutely)
    assert found._replace(warnings=()) == found
    assert (found.exit_code, found.summary, found.running, found.missed) == (0, "health: 4 services", 1, 1)
    assert table([found]).splitlines() == [
        "CRONJOB            SCHEDULE   SUSPENDED  LAST RUN  LAST SUCCESS  RUNNING  MISSED  EXIT  SUMMARY",
        "ops-worker-health  * * * * *  no         60 s ago  55 s ago      1        1       0     health: 4 services",
    ]


@pytest.mark.parametrize(
    ("status", "since"),
    [
        ({}, "ever, in 10 min"),
        ({"lastSuccessfulTime": "2026-03-01T12:06:59Z"}, "since 3 min"),
        ({"lastSuccessfulTime": "2026-03-01T02:06:59Z"}, "since 10 h"),
        ({"lastSuccessfulTime": "2026-02-01T02:06:59Z"}, "since 28 d"),
    ],
)
def test_no_success_for_three_periods(status: dict[str, str], since: str) -> None:
    """It is told, with what to do; a suspended CronJob, or one whose period is not known, is not late."""
    (warning,) = row(cronjob(status), [], [], NOW, minutely).warnings
    remedy = "see the warnings here, `kubectl describe cronjob ops-worker-health`, or run `ops-worker trigger --wait`"
    assert warning == f"ops-worker-health: no success {since}: {remedy}"
    assert row(cronjob(status, suspended=True), [], [], NOW, minutely).warnings == ()
    assert row(cronjob(status), [], [], NOW, lambda _: None).warnings == ()
    assert row(cronjob({"lastSuccessfulTime": "2026-03-01T12:07:00Z"}), [], [], NOW, minutely).warnings == ()


def test_failed() -> None:
    """The exit code and the reason of the last pass that failed; and below the table, a line."""
    found = row(cronjob(suspended=True), [JOB], [ended(3, '{"error": "no table tenants"}', "2026-03-01T12:09:00Z")], NOW, minutely)
    assert found.warnings == ("ops-worker-health: the last pass failed with exit code 3: no table tenants",)
    assert table([found]).endswith(
        "no table tenants\n\nwarning: ops-worker-health: the last pass failed with exit code 3: no table tenants"
    )


def test_missing_status() -> None:
    """What has just been created has neither status nor pods with labels."""
    new = cronjob(suspended=True)
    del new["status"]
    found = row(new, [JOB], [{"metadata": {"name": "p"}}, {"metadata": {"name": "q", "labels": POD_LABELS}}], NOW, minutely)
    assert (found.exit_code, found.missed, found.warnings) == (None, None, ())


@pytest.mark.parametrize(
    ("message", "reason", "expected"),
    [
        ('{"summary": "a\\nb"}', "", "a b"),
        ('{"error": "no"}', "", "no"),
        ("[1]", "", "[1]"),
        ("first\nlast line\n", "", "last line"),
        ("", "OOMKilled", "OOMKilled"),
        ("x" * 999, "", "x" * 300),
    ],
)
def test_told(message: str, reason: str, expected: str) -> None:
    """The message of a pass, or of whatever else ended there."""
    assert told({"message": message, "reason": reason}) == expected


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ({"reason": "ContainerCreating"}, ""),
        (None, ""),
        ({"reason": "ImagePullBackOff"}, "pod p cannot start: ImagePullBackOff; check the image's name, and that the cluster may pull it"),
        (
            {"reason": "CreateContainerConfigError", "message": 'secret "ops-worker" not found'},
            'pod p cannot start: CreateContainerConfigError: secret "ops-worker" not found; '
            "create it: kubectl create secret generic ops-worker --from-literal=PG_PASS=...",
        ),
    ],
)
def test_stuck(waiting: dict[str, str] | None, expected: str) -> None:
    """What keeps a pod from starting, and what to do."""
    assert stuck({"metadata": {"name": "p"}, "status": {"containerStatuses": [{"state": {"waiting": waiting}}]}}) == expected


def test_unschedulable() -> None:
    """A pod for which no node has room; one that has found it since."""
    conditions = [{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/1 nodes"}]
    pending = {"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": conditions}}
    assert stuck(pending) == "pod p cannot start: Unschedulable: 0/1 nodes; see the nodes' room and taints: `kubectl describe pod`"
    assert stuck(pending | {"status": {"phase": "Running", "conditions": conditions}}) == ""


def test_finished() -> None:
    """Complete, failed with its reason, or neither."""
    assert finished({}) is None
    assert finished({"status": {"conditions": [{"type": "Suspended", "status": "True"}, {"type": "Failed", "status": "False"}]}}) is None
    why = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
    assert finished({"status": {"conditions": [why]}}) == ("Failed", "DeadlineExceeded: too long")


def test_job_name() -> None:
    """The longest name of a CronJob leaves room for the suffix."""
    long = cronjob()
    long["metadata"]["name"] = "x" * 60
    assert len(job_of(long, "m12345678")["metadata"]["name"]) <= 63


def test_event() -> None:
    """A service with a reason is unhealthy, one without is healthy again; the time is to the second, in UTC."""
    found = event_of({"name": "ops-worker-health", "uid": "u"}, "ops", "ingest", "http 503", NOW)
    assert (found["type"], found["message"], found["lastTimestamp"]) == ("Warning", "ingest is unhealthy: http 503", "2026-03-01T12:10:00Z")
    assert event_of({"name": "ops-worker-health"}, "ops", "ingest", "", NOW)["reason"] == "ServiceRecovered"
