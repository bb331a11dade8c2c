"""`ops-worker cluster` against an API server with objects as Kubernetes 1.31 returns them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.cli import main
from tests.kubernetes_api import (
    APPS,
    BATCH,
    CORE,
    ApiServer,
    cronjob,
    event,
    last_error_line,
    pod,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

UID = "uid-ops-worker-health"
FORBIDDEN = (
    403,
    {"message": 'events is forbidden: User "u" cannot list resource "events" in API group ""'},
)
LABELS = {"app.kubernetes.io/name": "ops-worker", "app.kubernetes.io/component": "sidecar"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """Return an API server with one CronJob; KUBECONFIG names it."""
    with serving(tmp_path) as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig))
        monkeypatch.delenv("COLUMNS", raising=False)
        yield running


def job(reason: str = "", message: str = "") -> dict[str, Any]:
    """Return the Job of the CronJob; if a reason is given, the Job failed."""
    condition = {"type": "Failed", "status": "True", "reason": reason, "message": message}
    return {
        "metadata": {
            "name": "a-job",
            "namespace": "ops",
            "creationTimestamp": "2026-03-01T12:00:00Z",
            "ownerReferences": [{"uid": UID}],
        },
        "spec": {"activeDeadlineSeconds": 50},
        "status": {"conditions": [condition]} if reason else {"active": 1},
    }


def deployment() -> dict[str, Any]:
    """Return the Deployment of the variant sidecar, without a ready pod."""
    container = {"name": "ops-worker", "image": "ops-worker:0.1.0", "args": ["sidecar", "metrics"]}
    return {
        "metadata": {"name": "ops-worker-sidecar", "namespace": "ops", "labels": LABELS},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [container]}},
        },
        "status": {"replicas": 1, "unavailableReplicas": 1},
    }


def answer(server: ApiServer, **lists: list[dict[str, Any]]) -> None:
    """Set the Jobs, pods, Events and Deployments with which the API server answers."""
    roots = {"jobs": BATCH, "pods": CORE, "events": CORE, "deployments": APPS, "cronjobs": BATCH}
    for name, objects in lists.items():
        server.answers[f"GET {roots[name]}/{name}"] = (200, {"items": objects})


def document(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    """Run the command and return its JSON document."""
    assert main(["cluster", "--output", "json", "--fail-on-warnings"]) == code
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return parsed


def test_deadline(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A Job that exceeded its deadline has no pod and no exit code; Events have the cause."""
    message = 'MountVolume.SetUp failed for volume "catalogue" : configmap "gone" not found'
    answer(
        server,
        jobs=[job("DeadlineExceeded", "Job was active longer than specified deadline")],
        events=[event("Pod/a-job-x7k2p", "FailedMount", message)],
    )
    (row,) = document(capsys, code=4)["cronjobs"]
    assert (row["exit_code"], row["last_job"]) == (None, "a-job")
    assert row["job_end"].startswith("Failed: DeadlineExceeded")
    assert row["warnings"] == [
        "ops-worker-health: Job a-job exceeded activeDeadlineSeconds (50 s): its pod, which is "
        f"gone, could not start: FailedMount: {message}; create the ConfigMap: "
        "`kubectl -n ops create configmap gone --from-literal=KEY=VALUE`, "
        "or correct its name in the pod's template"
    ]


def test_events_are_selected(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Only Events of problems, kills and image pulls are read."""
    begun = (datetime.now(UTC) - timedelta(seconds=40)).strftime("%Y-%m-%dT%H:%M:%SZ")
    stuck = pod()
    stuck["metadata"] = stuck["metadata"] | {"name": "a-job-x7k2p"}
    answer(
        server,
        jobs=[job()],
        pods=[stuck],
        events=[
            event("Pod/a-job-x7k2p", "Scheduled", "assigned", warning=False),
            event("Pod/a-job-x7k2p", "Pulling", 'Pulling image "x:1"', at=begun, warning=False),
            event("CronJob/ops-worker-health", "JobAlreadyActive", "running", warning=False),
        ],
    )
    (row,) = document(capsys, code=4)["cronjobs"]
    (warning,) = row["warnings"]
    assert "pod a-job-x7k2p has waited for " in warning and 'Pulling image "x:1"' in warning
    selectors = [path for _, path, _ in server.requests if "/events?" in path]
    assert [path.rpartition("fieldSelector=")[2] for path in selectors] == [
        "type%3DWarning",
        "reason%3DJobAlreadyActive",
        "reason%3DKilling",
        "reason%3DPulling",
        "reason%3DPulled",
    ]


def test_deployment_and_leftover(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The Deployment has a row, and a CronJob of the same pass causes a warning."""
    metrics = cronjob("ops-worker-metrics")
    metrics["spec"]["suspend"] = False
    template = {"spec": {"containers": [{"name": "ops-worker", "args": ["metrics"]}]}}
    metrics["spec"]["jobTemplate"]["spec"] = {"template": template}
    metrics["status"] = {
        "lastSuccessfulTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    crashed = pod()
    crashed["metadata"] = {
        "name": "sidecar-x",
        "namespace": "ops",
        "labels": LABELS | {"pod-template-hash": "5d"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "ops-worker-sidecar-5d"}],
    }
    crashed["status"]["containerStatuses"] = [
        {
            "name": "ops-worker",
            "ready": False,
            "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        }
    ]
    answer(server, cronjobs=[metrics], deployments=[deployment()], pods=[crashed])
    assert main(["cluster"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:5] == [
        "DEPLOYMENT          PASSES   READY  RESTARTS  STATE",
        "ops-worker-sidecar  metrics  0/1    4         not ready",
    ]
    assert lines[6].startswith(
        "warning: ops-worker-sidecar: pod sidecar-x is crash-looping: 4 restarts, the last one "
        "after exit code 137: OOMKilled: raise resources.limits.memory"
    )
    assert lines[7].startswith(
        "warning: CronJob ops-worker-metrics and Deployment ops-worker-sidecar both run the metrics"
    )
    output = document(capsys, code=4)
    assert output["deployments"][0]["passes"] == ["metrics"]
    assert "`kubectl -n ops delete cronjob ops-worker-metrics`" in output["warnings"][0]
    assert "`kubectl -n ops delete deployment ops-worker-sidecar`" in output["warnings"][0]


def test_only_a_deployment(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """An installation without a CronJob is valid. A Deployment without labels is recognised."""
    own = deployment()
    own["metadata"]["labels"] = {}
    other = {"metadata": {"name": "shop"}, "spec": {"template": {"spec": {}}}}
    answer(server, cronjobs=[], deployments=[other, own, deployment() | {"spec": {}}])
    output = document(capsys, code=4)
    assert output["cronjobs"] == []
    assert [row["name"] for row in output["deployments"]] == ["ops-worker-sidecar"] * 2
    assert not any("/jobs" in path for _, path, _ in server.requests)


@pytest.mark.parametrize("kind", ["events", "deployments"])
def test_not_permitted(server: ApiServer, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Objects that may not be read are named, without a failure or a warning."""
    root = {"events": CORE, "deployments": APPS}[kind]
    server.answers[f"GET {root}/{kind}"] = FORBIDDEN
    reason = (
        f"{kind.capitalize()}: not permitted to list {kind} in namespace ops: "
        "grant it in a Role of that namespace, bound to this account"
    )
    assert document(capsys)["not_looked_at"] == [reason]
    assert main(["cluster", "--fail-on-warnings"]) == 0
    assert capsys.readouterr().out.endswith(f"\n\nnot looked at: {reason}\n")


def test_nothing_is_known(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """If Deployments may not be read, a missing CronJob does not prove that nothing runs."""
    answer(server, cronjobs=[])
    server.answers[f"GET {APPS}/deployments"] = FORBIDDEN
    assert main(["cluster"]) == 2
    line = last_error_line(capsys)
    assert "no CronJob of ops-worker in namespace ops" in line
    assert "; Deployments: not permitted to list deployments" in line


def test_shards(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """In JSON, the shards of an Indexed Job are objects with names."""
    failed = job("PodFailurePolicy", "index 0")
    failed["spec"] |= {"completionMode": "Indexed", "completions": 2}
    failed["status"]["completedIndexes"] = "1"
    ended = pod(3, "no table")
    ended["metadata"] |= {"annotations": {"batch.kubernetes.io/job-completion-index": "0"}}
    answer(server, jobs=[failed], pods=[ended])
    (row,) = document(capsys, code=4)["cronjobs"]
    assert row["shards"] == [
        {"shard": 0, "exit_code": 3, "summary": "no table"},
        {"shard": 1, "exit_code": 0, "summary": "Complete; no pod and no log are left"},
    ]


def test_in_a_pipe(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, rows have at most 100 columns."""
    answer(server, cronjobs=[cronjob("ops-worker-" + "x" * 41)])
    assert main(["cluster"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100
