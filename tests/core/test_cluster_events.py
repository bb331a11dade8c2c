"""Events of Kubernetes, as version 1.31 writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ops_worker.core.cluster_events import (
    ClusterEvent,
    creation_failure,
    of_job_pods,
    pull_cause,
    read,
    read_all,
    start_failure,
    unfinished_pull,
)
from tests.kubernetes_api import event

pytestmark = pytest.mark.unit

PULL = 'Failed to pull image "x:1": failed to resolve reference "x:1": x:1: not found'


def events(*pairs: tuple[str, str]) -> list[ClusterEvent]:
    """Return Events of a pod with these reasons and messages, oldest first."""
    return [read(event("Pod/p", reason, message)) for reason, message in pairs]


def test_read() -> None:
    """The kubelet's Events have a last time and a count."""
    assert read(event("Job/j", "FailedCreate", "no") | {"count": 6}) == ClusterEvent(
        kind="Job",
        name="j",
        reason="FailedCreate",
        message="no",
        times=6,
        time=datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC),
    )


def test_read_of_the_scheduler() -> None:
    """The scheduler's Events have an event time, and a series if they repeat."""
    content: dict[str, Any] = {
        "eventTime": "2026-03-01T12:00:00.370511Z",
        "lastTimestamp": None,
        "count": None,
    }
    assert read(content).time.microsecond == 370511
    assert read(content).times == 1
    series = {"count": 3, "lastObservedTime": "2026-03-01T12:05:00.000000Z"}
    assert (read(content | {"series": series}).times, read(content | {"series": series}).time) == (
        3,
        datetime(2026, 3, 1, 12, 5, tzinfo=UTC),
    )
    assert read({}).time.year == 1


def test_order() -> None:
    """Events are sorted by their last time, whatever the order of the list."""
    late, early = (
        event("Pod/p", "B", "", at="2026-03-01T12:00:02Z"),
        event("Pod/p", "A", "", at="2026-03-01T12:00:01Z"),
    )
    assert [cluster_event.reason for cluster_event in read_all([late, early])] == ["A", "B"]


@pytest.mark.parametrize(
    ("about", "is_own"),
    [
        ("Pod/job-1-x7k2p", True),
        ("Pod/job-1-0-x7k2p", True),
        ("Pod/job-1", False),
        ("Pod/job-10-x7k2p", False),
        ("Pod/job-1-command-m1-x7k2p", False),
        ("Job/job-1-x7k2p", False),
    ],
)
def test_pods_of_a_job(about: str, is_own: bool) -> None:
    """A pod that no longer exists is found by its name: the name of its Job and a suffix."""
    cluster_event = read(event(about, "Failed", ""))
    assert of_job_pods([cluster_event], "job-1") == ([cluster_event] if is_own else [])


def test_cause_of_a_pull_error() -> None:
    """The newest cause counts. Events that only repeat a reason have no cause."""
    pull_events = events(
        ("Failed", "Failed to pull image old"), ("Failed", PULL), ("Failed", "Error: x")
    )
    assert pull_cause(pull_events) == PULL
    assert pull_cause(events(("Failed", "Error: ErrImagePull"))) == ""


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("Failed", PULL), ("Failed", "Error: ImagePullBackOff")],
         f"ErrImagePull: {PULL}; no such image or tag"),
        ([("InspectFailed", "bad name"), ("Failed", "Error: InvalidImageName")],
         "InvalidImageName: bad name; correct the image's name"),
        ([("FailedMount", 'secret "a" not found')],
         'FailedMount: secret "a" not found; create the Secret'),
        ([("FailedScheduling", "1 Insufficient cpu."),
          ("FailedScheduling", "skip schedule deleting pod: a/b")],
         "FailedScheduling: 1 Insufficient cpu.; no node has enough free cpu"),
        ([("Failed", 'Error: configmap "a" not found')],
         'CreateContainerConfigError: configmap "a" not found; create the ConfigMap'),
        ([("FailedCreatePodSandBox", "cni plugin not initialized")],
         "FailedCreatePodSandBox: cni plugin not initialized; the network plugin"),
        ([("MissingClusterDNS", "no DNS"), ("BackOff", "Back-off pulling image")], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_start_failure(pairs: list[tuple[str, str]], expected: str) -> None:
    """The newest Event with a cause is the problem, and has a remedy."""
    failure = start_failure(events(*pairs))
    assert failure.startswith(expected) and bool(failure) == bool(expected)


def test_unfinished_pull() -> None:
    """A pull is unfinished if its beginning is the last Event about it."""
    begun, pulled = ("Pulling", 'Pulling image "x"'), ("Pulled", "Successfully pulled")
    assert unfinished_pull(events(begun)) is not None
    assert unfinished_pull(events(begun, pulled)) is None
    assert unfinished_pull(events(begun, ("Failed", PULL))) is None
    assert unfinished_pull(events(("Scheduled", ""))) is None


def test_creation_failure() -> None:
    """The problem does not contain the name of the pod, because every attempt has another name."""
    job = {"metadata": {"name": "j", "namespace": "ops"}}
    failures = [
        read(
            event("Job/j", "FailedCreate", f'Error creating: pods "j-{suffix}" is forbidden: {why}')
        )
        for suffix, why in (("a", "old"), ("b", "exceeded quota: none, requested: pods=1"))
    ]
    assert creation_failure(job, failures) == (
        "no pod can be created: FailedCreate: exceeded quota: none, requested: pods=1; "
        "raise ResourceQuota none, or delete what uses it up: "
        "`kubectl -n ops describe resourcequota none`"
    )
    unknown = creation_failure(job, [read(event("Job/j", "FailedCreate", "what"))])
    assert unknown.endswith("FailedCreate: what; see `kubectl -n ops describe job j`")
    assert creation_failure(job, [read(event("Job/j", "Completed", ""))]) == ""
    assert creation_failure(job, [read(event("Job/other", "FailedCreate", ""))]) == ""
