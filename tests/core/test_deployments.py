"""Deployments that run passes in a loop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ops_worker.core.cluster_events import read
from ops_worker.core.deployments import leftovers, owns, passes_of, row, suspended
from tests.kubernetes_api import event

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, 10, 0, tzinfo=UTC)
LABELS = {"app.kubernetes.io/name": "ops-worker", "app.kubernetes.io/component": "sidecar"}


def template(*arguments: str, limit: str = "128Mi") -> dict[str, Any]:
    """Return a pod's template that runs the worker with these arguments."""
    container = {
        "name": "ops-worker",
        "image": "ops-worker:0.1.0",
        "args": list(arguments),
        "resources": {"limits": {"memory": limit}},
    }
    return {"metadata": {"labels": LABELS}, "spec": {"containers": [container]}}


def deployment(*, replicas: int = 1, ready: int = 0, **status: Any) -> dict[str, Any]:
    """Return the Deployment of the variant, as the API server does."""
    return {
        "metadata": {"name": "ops-worker-sidecar", "namespace": "ops"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": LABELS},
            "template": template("sidecar", "metrics"),
        },
        "status": ({"readyReplicas": ready} if ready else {}) | status,
    }


def pod(
    *, ready: bool = False, restarts: int = 0, phase: str = "Running", **states: Any
) -> dict[str, Any]:
    """Return a pod of the Deployment. ``states`` are ``state`` and ``lastState``."""
    status = {"name": "ops-worker", "ready": ready, "restartCount": restarts} | states
    return {
        "metadata": {
            "name": "ops-worker-sidecar-5d-x",
            "namespace": "ops",
            "labels": LABELS | {"pod-template-hash": "5d"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "ops-worker-sidecar-5d"}],
        },
        "spec": template("sidecar", "metrics", limit="12Mi")["spec"],
        "status": {"phase": phase, "containerStatuses": [status]},
    }


def end(code: int, reason: str = "Error", at: str = "2026-03-01T12:09:00Z") -> dict[str, Any]:
    """Return the state of a container that ended."""
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": at, "message": "gone"}}


def test_ready() -> None:
    """A Deployment whose pods are ready has no warnings."""
    state = row(deployment(ready=1), [pod(ready=True, state={"running": {}})], NOW)
    assert (state.state, state.ready, state.replicas, state.restarts) == ("ready", 1, 1, 0)
    assert (state.passes, state.warnings) == (("metrics",), ())


def test_scaled_to_zero() -> None:
    """A Deployment with 0 replicas has no warnings."""
    state = row(deployment(replicas=0), [], NOW)
    assert (state.state, state.warnings) == ("scaled to 0", ())


def test_out_of_memory() -> None:
    """A crash loop shows how the container ended, its memory limit and a remedy."""
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}
    looping = pod(restarts=2, state=waiting, lastState=end(137, "OOMKilled"))
    assert row(deployment(), [looping], NOW).warnings == (
        "ops-worker-sidecar: pod ops-worker-sidecar-5d-x is crash-looping: 2 restarts, the last "
        "one after exit code 137 1 min ago: OOMKilled: raise resources.limits.memory of the "
        "container, now 12Mi (the manifests set 128Mi); "
        "see `kubectl -n ops logs ops-worker-sidecar-5d-x --previous`",
    )


def test_restarted() -> None:
    """A restart is a warning for a day, also if the pod is ready again."""
    recent = pod(ready=True, restarts=1, state={"running": {}}, lastState=end(1))
    (warning,) = row(deployment(ready=1), [recent], NOW).warnings
    assert "was restarted: 1 restarts, the last one after exit code 1 1 min ago: gone" in warning
    old = end(1, at="2026-02-27T12:09:00Z")
    ready = pod(ready=True, restarts=1, state={"running": {}}, lastState=old)
    state = row(deployment(ready=1), [ready], NOW)
    assert (state.warnings, state.restarts) == ((), 1)
    unknown = {"terminated": {"exitCode": 1}}
    looping = {"waiting": {"reason": "CrashLoopBackOff"}}
    (warning,) = row(deployment(), [pod(state=looping, lastState=unknown)], NOW).warnings
    assert "after exit code 1: ;" in warning


def test_nulls() -> None:
    """A field may be null. Without a number of replicas, the number is 1."""
    empty = deployment(ready=1)
    empty["spec"]["replicas"] = None
    running = pod(ready=True, state={"running": {}}, restartCount=None)
    state = row(empty, [running], NOW)
    assert (state.replicas, state.restarts, state.warnings) == (1, 0, ())
    looping = {"waiting": {"reason": "CrashLoopBackOff"}}
    unknown = {"terminated": {"exitCode": None, "message": "gone"}}
    broken = pod(restartCount=None, state=looping, lastState=unknown)
    (warning,) = row(empty, [broken], NOW).warnings
    assert "0 restarts, the last one after exit code 1: gone" in warning
    empty["status"] = None
    assert row(empty, [], NOW).ready == 0


def test_not_ready() -> None:
    """If a pod runs but is not ready, the answer of its probe is shown."""
    running = pod(state={"running": {}})
    probe = read(event("Pod/ops-worker-sidecar-5d-x", "Unhealthy", "Readiness probe failed: 503"))
    (warning,) = row(deployment(), [running], NOW, [probe]).warnings
    assert "runs but is not ready: Readiness probe failed: 503; it becomes ready when" in warning
    (warning,) = row(deployment(), [running], NOW).warnings
    assert "runs but is not ready; it becomes ready when its loop has reached" in warning


def test_cannot_start() -> None:
    """A pod that cannot start has the reason and remedy of any other pod."""
    waiting = {"waiting": {"reason": "ImagePullBackOff"}}
    (warning,) = row(deployment(), [pod(phase="Pending", state=waiting)], NOW).warnings
    assert "cannot start: ImagePullBackOff; check the image's name" in warning


def test_pending() -> None:
    """A pod that has just been created is no problem of its own."""
    (warning,) = row(deployment(), [pod(phase="Pending", state={})], NOW).warnings
    assert warning.startswith("ops-worker-sidecar: 0 of 1 pods are ready: wait for a pod")


def test_no_pod() -> None:
    """Without a pod, the conditions of the Deployment have the reason."""
    quota = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": 'pods "a" is forbidden: exceeded quota: none, requested: pods=1',
    }
    late = {
        "type": "Progressing",
        "status": "False",
        "reason": "ProgressDeadlineExceeded",
        "message": 'ReplicaSet "a" has timed out progressing.',
    }
    unknown = quota | {"message": "what"}
    (warning,) = row(deployment(conditions=[unknown]), [], NOW).warnings
    assert warning.endswith("see `kubectl -n ops describe deployment ops-worker-sidecar`")
    fine = {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable"}
    first, second = row(deployment(conditions=[quota, fine, late]), [], NOW).warnings
    assert "cannot create its pods: FailedCreate: " in first and "ResourceQuota none" in first
    assert "ProgressDeadlineExceeded: ReplicaSet" in second


def test_pods_of_others() -> None:
    """Only pods of the Deployment's ReplicaSets count, and only the worker's containers."""
    foreign = pod(restarts=5, state={"running": {}})
    foreign["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "acme-sidecar-5d"}]
    assert owns(deployment(), pod())
    for owners in (foreign["metadata"]["ownerReferences"], None, [None], [{"kind": "Job"}]):
        other = pod()
        other["metadata"]["ownerReferences"] = owners
        assert not owns(deployment(), other)
    # The name of a Deployment may begin with the name of another Deployment.
    longer = pod()
    longer["metadata"]["ownerReferences"][0]["name"] = "ops-worker-sidecar-b-5d"
    assert not owns(deployment(), longer)
    mesh = pod(ready=True, state={"running": {}})
    mesh["status"]["containerStatuses"].append(
        {"name": "mesh", "ready": False, "restartCount": 7, "lastState": end(1)}
    )
    state = row(deployment(ready=1), [foreign, mesh], NOW)
    assert (state.restarts, state.warnings) == (0, ())


@pytest.mark.parametrize(
    ("arguments", "passes"),
    [
        (("sidecar", "metrics"), ("metrics",)),
        (("sidecar", "--port", "80"), ("health", "metrics", "rollup")),
        (("metrics", "--every", "5"), ("metrics",)),
        (("init-db",), ()),
        ((), ()),
    ],
)
def test_passes(arguments: tuple[str, ...], passes: tuple[str, ...]) -> None:
    """A loop runs the passes that its arguments name, else all passes."""
    assert passes_of(template(*arguments)) == passes


def test_another_program() -> None:
    """A container with the worker's name that runs something else runs no pass."""
    spec = {"containers": [{"name": "ops-worker", "command": ["sleep", "9"]}]}
    assert passes_of({"spec": spec}) == ()


def cronjob(pass_name: str, *, suspended: bool = False) -> dict[str, Any]:
    """Return the CronJob of a pass."""
    job = {"spec": {"template": template(pass_name)}}
    metadata = {"name": f"ops-worker-{pass_name}"}
    return {"metadata": metadata, "spec": {"suspend": suspended, "jobTemplate": job}}


def test_leftovers() -> None:
    """If a CronJob and a Deployment run the same pass, a warning says how to remove either."""
    cronjobs = [cronjob("health"), cronjob("metrics")]
    assert list(leftovers(cronjobs, [deployment()])) == [
        "CronJob ops-worker-metrics and Deployment ops-worker-sidecar both run the metrics pass: "
        "one of them may be left from an earlier `kubectl apply -k`, which deletes nothing; "
        "to keep the Deployment, run `kubectl -n ops delete cronjob ops-worker-metrics`; "
        "to keep the CronJob, run `kubectl -n ops delete deployment ops-worker-sidecar`"
    ]
    assert list(leftovers([cronjob("metrics", suspended=True)], [deployment()])) == []
    assert list(leftovers(cronjobs, [deployment(replicas=0)])) == []
    assert list(leftovers([cronjob("health")], [deployment()])) == []


def test_suspended() -> None:
    """A suspended CronJob of a pass is a warning with the command that resumes it."""
    health = cronjob("health", suspended=True)
    health["metadata"]["namespace"] = "ops"
    assert list(suspended(health, [deployment()])) == [
        "ops-worker-health: suspended, so that the health pass does not run; to resume it, run "
        '`kubectl -n ops patch cronjob ops-worker-health -p \'{"spec":{"suspend":false}}\'`'
    ]
    assert list(suspended(cronjob("health"), [])) == []
    assert list(suspended(cronjob("init-db", suspended=True), [])) == []


def test_suspended_beside_a_deployment() -> None:
    """A suspended CronJob is no problem while a Deployment runs its pass."""
    metrics = cronjob("metrics", suspended=True)
    assert list(suspended(metrics, [deployment()])) == []
    (warning,) = suspended(metrics, [deployment(replicas=0)])
    assert "the metrics pass does not run" in warning


def test_leftover_beside_an_application() -> None:
    """The warning does not suggest deleting an application that has the worker as a sidecar."""
    shop = deployment()
    spec = shop["spec"]["template"]["spec"]
    spec["initContainers"] = [spec["containers"][0] | {"restartPolicy": "Always"}]
    spec["containers"] = [{"name": "shop", "image": "shop:1"}]
    (warning,) = leftovers([cronjob("metrics")], [shop])
    assert warning.endswith("to keep the CronJob, remove container ops-worker from the Deployment")
    assert "delete deployment" not in warning


def test_answer_of_the_probe() -> None:
    """The kubelet shows only the status 503: the warning says what it means and where to look."""
    running = pod(state={"running": {}})
    about = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    probe = read(event("Pod/ops-worker-sidecar-5d-x", "Unhealthy", about))
    (warning,) = row(deployment(), [running], NOW, [probe]).warnings
    assert warning == (
        f"ops-worker-sidecar: pod ops-worker-sidecar-5d-x runs but is not ready: {about}; "
        "/ready answers 503 until the database has answered a pass of each loop: the last error "
        "in `kubectl -n ops logs ops-worker-sidecar-5d-x` says what keeps it from that"
    )


def test_answer_of_another_probe() -> None:
    """The status 503 of /health is not explained by the database."""
    running = pod(state={"running": {}})
    about = "Liveness probe failed: HTTP probe failed with statuscode: 503"
    probe = read(event("Pod/ops-worker-sidecar-5d-x", "Unhealthy", about))
    (warning,) = row(deployment(), [running], NOW, [probe]).warnings
    assert about in warning and "/ready" not in warning


def test_log_of_one_of_several_containers() -> None:
    """Beside an application, the command names the worker's container."""
    running = pod(state={"running": {}})
    running["spec"]["containers"].insert(0, {"name": "shop", "image": "shop:1"})
    (warning,) = row(deployment(), [running], NOW).warnings
    assert "`kubectl -n ops logs ops-worker-sidecar-5d-x -c ops-worker`" in warning
    crashed = pod(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=end(1))
    crashed["spec"]["containers"].insert(0, {"name": "shop", "image": "shop:1"})
    (warning,) = row(deployment(), [crashed], NOW).warnings
    assert "logs ops-worker-sidecar-5d-x -c ops-worker --previous`" in warning
