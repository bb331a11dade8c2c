"""The messages of `ops-worker cluster` and `trigger` about faults of a real cluster."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ops_worker.cli import main
from ops_worker.commands.alerts import user
from tests.cluster.conftest import (
    K8S,
    NAMESPACE,
    cluster_rows,
    container,
    faulty,
    fetch,
    kubectl,
    row_with,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.conftest import Installation

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("installation")]

NO_IMAGE = "registry.invalid/ops-worker:none"


def without_secret(spec: dict[str, Any]) -> None:
    """Name a Secret that does not exist."""
    container(spec)["envFrom"].append({"secretRef": {"name": "absent"}})


def without_key(spec: dict[str, Any]) -> None:
    """Name a key that the Secret does not have."""
    key = {"secretKeyRef": {"name": "ops-worker", "key": "ABSENT"}}
    container(spec)["env"].append({"name": "A", "valueFrom": key})


def without_configmap(spec: dict[str, Any]) -> None:
    """Name a ConfigMap that does not exist."""
    container(spec)["envFrom"].append({"configMapRef": {"name": "absent"}})


def without_image(spec: dict[str, Any]) -> None:
    """Name an image that does not exist."""
    container(spec)["image"] = NO_IMAGE


def too_large(spec: dict[str, Any]) -> None:
    """Request more memory than any node has."""
    container(spec)["resources"] = {"requests": {"memory": "9000Gi"}}


def without_program(spec: dict[str, Any]) -> None:
    """Name a program that the image does not have."""
    container(spec)["command"] = ["absent-program"]


def without_volume(spec: dict[str, Any]) -> None:
    """Mount a Secret that does not exist."""
    spec["volumes"].append({"name": "absent", "secret": {"secretName": "absent"}})
    container(spec)["volumeMounts"].append({"name": "absent", "mountPath": "/absent"})


def on_no_node(spec: dict[str, Any]) -> None:
    """Select a node that does not exist."""
    spec["nodeSelector"] = {"kubernetes.io/hostname": "absent"}


FAULTS = [
    (
        "secret",
        without_secret,
        'secret "absent" not found; create the Secret: '
        "`kubectl -n ops-worker create secret generic absent",
    ),
    (
        "key",
        without_key,
        "couldn't find key ABSENT in Secret ops-worker/ops-worker; "
        "add key ABSENT to Secret ops-worker",
    ),
    (
        "configmap",
        without_configmap,
        'configmap "absent" not found; create the ConfigMap: '
        "`kubectl -n ops-worker create configmap absent",
    ),
    (
        "volume",
        without_volume,
        'secret "absent" not found; create the Secret: '
        "`kubectl -n ops-worker create secret generic absent",
    ),
    ("image", without_image, f'Failed to pull image "{NO_IMAGE}": '),
    ("large", too_large, "Insufficient memory"),
    (
        "node",
        on_no_node,
        "no node matches the nodeSelector or affinity of the pod's template",
    ),
    ("program", without_program, "the image has no program absent-program"),
]


@pytest.mark.parametrize(("name", "change", "text"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_pod_cannot_start(
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[dict[str, Any]], object],
    text: str,
) -> None:
    """The warning has the whole cause and its remedy."""
    with faulty(f"t-{name}", change) as cronjob:
        row = row_with(capsys, cronjob, text)
    assert not any("create secret generic ops-worker" in warning for warning in row["warnings"])


def test_quota(capsys: pytest.CaptureFixture[str]) -> None:
    """Without room in the quota no pod is created, and trigger ends with the reason."""
    kubectl("-n", NAMESPACE, "create", "quota", "t-none", "--hard=pods=0")
    text = "no pod can be created: FailedCreate: exceeded quota: t-none"
    try:
        with faulty("t-quota", lambda _: None) as cronjob:
            row_with(capsys, cronjob, text)
        arguments = ["trigger", "--args", "check", "--wait", "--timeout", "12", "-n", NAMESPACE]
        assert main(arguments) == 1
    finally:
        kubectl("-n", NAMESPACE, "delete", "quota", "t-none")
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert f"exceeded activeDeadlineSeconds (12 s): {text}" in last_line
    assert "describe resourcequota t-none" in last_line


def test_out_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """The summary has the exceeded limit and the limit of the manifests."""

    def small(spec: dict[str, Any]) -> None:
        """Take more memory than the limit."""
        only = container(spec)
        only["command"] = ["python", "-c", "x = [bytearray(1 << 20) for _ in range(500)]"]
        only["resources"] = {"requests": {"memory": "16Mi"}, "limits": {"memory": "32Mi"}}

    with faulty("t-memory", small, backoffLimit=0) as cronjob:
        row = row_with(capsys, cronjob, "OOMKilled: raise resources.limits.memory")
    assert row["exit_code"] == 137
    assert "now 32Mi (the manifests set 128Mi)" in row["summary"]


def test_sidecar(capsys: pytest.CaptureFixture[str]) -> None:
    """A Deployment that exceeds its memory limit is shown with its limit and its restarts."""
    path = K8S / "variants" / "sidecar" / "rendered.yaml"
    documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    (sidecar,) = (document for document in documents if document["kind"] == "Deployment")
    resources = {"requests": {"memory": "8Mi"}, "limits": {"memory": "12Mi"}}
    container(sidecar["spec"]["template"]["spec"])["resources"] = resources
    kubectl("apply", "-f", "-", stdin=json.dumps(sidecar))

    def killed() -> dict[str, Any] | None:
        """Return the row of the Deployment, if a warning says that it was killed."""
        (row,) = cluster_rows(capsys, NAMESPACE)["deployments"]
        assert isinstance(row, dict)
        return row if "OOMKilled" in "".join(row["warnings"]) else None

    try:
        row = until(killed)
    finally:
        kubectl("-n", NAMESPACE, "delete", "deployment", "ops-worker-sidecar", "--wait=true")
    assert (row["name"], row["state"], row["passes"]) == (
        "ops-worker-sidecar",
        "not ready",
        ["metrics"],
    )
    (warning,) = row["warnings"]
    assert "OOMKilled: raise resources.limits.memory of the container, now 12Mi" in warning


def test_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    """After a success, a Job that its deadline ended is the last run. Its exit code is unknown."""

    def quick(spec: dict[str, Any]) -> None:
        """Succeed at once."""
        container(spec)["command"] = ["python", "-c", ""]

    sleep = {"name": "ops-worker", "command": ["python", "-c", "import time; time.sleep(600)"]}
    slow = {"activeDeadlineSeconds": 5, "template": {"spec": {"containers": [sleep]}}}
    patch = json.dumps({"spec": {"jobTemplate": {"spec": slow}}})
    with faulty("t-deadline", quick) as cronjob:
        assert main(["trigger", cronjob, "--wait", "-n", NAMESPACE]) == 0
        kubectl("-n", NAMESPACE, "patch", "cronjob", cronjob, "-p", patch)
        assert main(["trigger", cronjob, "-n", NAMESPACE]) == 0
        capsys.readouterr()
        row = row_with(capsys, cronjob, "exceeded activeDeadlineSeconds (5 s): it ran until then")
    assert row["exit_code"] is None
    assert row["summary"].startswith("DeadlineExceeded: killed by activeDeadlineSeconds (5 s)")


def test_command_job(plain: Installation) -> None:
    """The Job of a command makes one attempt and belongs to no CronJob.

    It is killed after 300 s. PASS_DEADLINE is a minute shorter.
    """
    assert main(["trigger", "metrics", "--args=--version", "--wait", "-n", NAMESPACE]) == 0
    label = "ops-worker.io/run=command"
    jobs = fetch("jobs", "-n", NAMESPACE, "-l", label)["items"]
    jobs.sort(key=lambda job: str(job["metadata"]["creationTimestamp"]))
    job = jobs[-1]
    assert job["metadata"]["name"].startswith("ops-worker-metrics-command-")
    assert "ownerReferences" not in job["metadata"]
    spec = job["spec"]
    limits = ("activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimit")
    assert [spec[field] for field in limits] == [300, 3600, 0]
    only = container(spec["template"]["spec"])
    env = {variable["name"]: variable.get("value") for variable in only["env"]}
    assert (env["PASS_DEADLINE"], env["LOGNAME"]) == ("240", user())
    assert plain.database.value("SELECT count(*) FROM system_metrics") == 0


def in_cluster(command: str) -> int:
    """Run a command in the cluster. Return its exit code."""
    return main(["trigger", "--wait", "-n", NAMESPACE, "--args", command])


@pytest.fixture
def prepared(installation: Installation, capfd: pytest.CaptureFixture[str]) -> Installation:
    """Return an installation with its tables and one recorded pass."""
    assert in_cluster("init-db") == 0
    assert in_cluster("health") == 0
    capfd.readouterr()
    return installation


def test_command(installation: Installation, capfd: pytest.CaptureFixture[str]) -> None:
    """A command in the cluster is no run of a pass."""
    assert installation.job("t-command", "init-db").condition == "Complete"
    assert in_cluster("init-db") == 0
    assert in_cluster("health") == 0
    capfd.readouterr()
    assert main(["cluster", "-n", NAMESPACE, "--output", "json"]) == 0
    rows = json.loads(capfd.readouterr().out)["cronjobs"]
    assert not any("-command-" in row["last_job"] for row in rows)


@pytest.mark.usefixtures("prepared")
def test_output_of_a_command(capfd: pytest.CaptureFixture[str]) -> None:
    """The output of a command in the cluster is printed."""
    assert in_cluster("status --output json") == 0
    document = json.loads(capfd.readouterr().out)
    assert len(document["services"]) == 4
    assert in_cluster("alerts list --output json") == 0
    assert json.loads(capfd.readouterr().out) == []


@pytest.mark.usefixtures("prepared")
def test_maintenance_by_command(capfd: pytest.CaptureFixture[str]) -> None:
    """A maintenance that a command starts has its reason and the user."""
    assert in_cluster("maintenance start --for 1h --reason 'new switch'") == 0
    assert in_cluster("maintenance status") == 0
    screen = capfd.readouterr().out
    assert "new switch" in screen and user() in screen
    assert in_cluster("maintenance end") == 0


@pytest.mark.usefixtures("prepared")
def test_exit_code_of_a_command(capfd: pytest.CaptureFixture[str]) -> None:
    """A command that fails in the cluster has its own exit code and message."""
    assert in_cluster("alerts ack 0") != 0
    assert in_cluster("absent") == 2
    assert "invalid choice: 'absent'" in capfd.readouterr().out


@contextmanager
def created(content: dict[str, Any]) -> Iterator[None]:
    """Create an object of the whole cluster, and delete it at the end."""
    kubectl("create", "-f", "-", stdin=json.dumps(content))
    try:
        yield
    finally:
        kubectl("delete", "-f", "-", stdin=json.dumps(content))


def test_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    """A pod whose runtime the node does not have gets no sandbox."""
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "ops-worker-absent"},
        "handler": "absent",
    }

    def change(spec: dict[str, Any]) -> None:
        """Name the runtime."""
        spec["runtimeClassName"] = "ops-worker-absent"

    with created(runtime), faulty("t-sandbox", change) as cronjob:
        row = row_with(capsys, cronjob, "cannot start: FailedCreatePodSandBox: ")
    text = " ".join(row["warnings"])
    assert 'no runtime for "absent" is configured' in text
    assert "the node's container runtime has no handler absent: correct runtimeClassName" in text


def test_taint(capsys: pytest.CaptureFixture[str]) -> None:
    """A node with a taint takes no pod without a toleration."""
    key = "ops-worker.io/test"
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "ops-worker-test", "labels": {key: "tainted"}},
        "spec": {"taints": [{"key": key, "value": "full", "effect": "NoSchedule"}]},
    }

    def change(spec: dict[str, Any]) -> None:
        """Select the node."""
        spec["nodeSelector"] = {key: "tainted"}

    with created(node), faulty("t-taint", change) as cronjob:
        row = row_with(capsys, cronjob, "no node without a taint has room: remove the taint")
    assert "untolerated taint" in " ".join(row["warnings"])


def as_root(spec: dict[str, Any]) -> None:
    """Run as root."""
    spec["securityContext"]["runAsUser"] = 0


def set_pod_security(level: str) -> None:
    """Set the level of Pod Security of the namespace."""
    modes = ("enforce", "warn", "audit")
    levels = [f"pod-security.kubernetes.io/{mode}={level}" for mode in modes]
    kubectl("label", "--overwrite", "namespace", NAMESPACE, *levels, warned=True)


def test_pod_security(capsys: pytest.CaptureFixture[str]) -> None:
    """Pod Security `restricted` refuses a pod that runs as root."""
    text = "no pod can be created: FailedCreate: violates PodSecurity"
    with faulty("t-root-refused", as_root, warned=True) as cronjob:
        row = row_with(capsys, cronjob, text)
    remedy = "set the securityContext that the message names, as the manifests do"
    assert remedy in " ".join(row["warnings"])


def test_root(capsys: pytest.CaptureFixture[str]) -> None:
    """If Pod Security accepts a pod of root, the kubelet refuses it because of runAsNonRoot."""
    set_pod_security("privileged")
    try:
        with faulty("t-root", as_root) as cronjob:
            row = row_with(capsys, cronjob, "runAsUser is 0 and runAsNonRoot is true")
    finally:
        set_pod_security("restricted")
    assert "cannot start: CreateContainerConfigError: " in " ".join(row["warnings"])


def test_service_account(capsys: pytest.CaptureFixture[str]) -> None:
    """Without its ServiceAccount no pod can be created."""

    def change(spec: dict[str, Any]) -> None:
        """Name a ServiceAccount that does not exist."""
        spec["serviceAccountName"] = "absent"

    with faulty("t-account", change) as cronjob:
        row = row_with(capsys, cronjob, "no pod can be created: FailedCreate: ")
    remedy = "create the ServiceAccount: `kubectl -n ops-worker create serviceaccount absent`"
    assert remedy in " ".join(row["warnings"])


def test_webhook(capsys: pytest.CaptureFixture[str]) -> None:
    """A webhook that fails keeps pods from being created."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    webhook = {
        "name": "refuses.ops-worker.example",
        "clientConfig": {"url": "https://127.0.0.1:9/"},
        "rules": [rule | {"resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
    }
    content = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "ops-worker-test"},
        "webhooks": [webhook],
    }
    with created(content), faulty("t-webhook", lambda _: None) as cronjob:
        row = row_with(capsys, cronjob, "no pod can be created: FailedCreate: ")
    text = " ".join(row["warnings"])
    assert "webhook refuses.ops-worker.example of the cluster refuses or fails" in text


def test_shards(capsys: pytest.CaptureFixture[str]) -> None:
    """The worst shard of an Indexed Job counts. A warning names each shard that failed."""
    code = "import os, sys; sys.exit(2 * int(os.environ['JOB_COMPLETION_INDEX']))"

    def change(spec: dict[str, Any]) -> None:
        """End with twice the index as exit code."""
        container(spec)["command"] = ["python", "-c", code]

    shards: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": 2,
        "parallelism": 2,
        "backoffLimit": 0,
    }
    with faulty("t-shards", change, **shards) as cronjob:
        row = row_with(capsys, cronjob, "shard 1 of 2 failed with exit code 2")
    assert row["exit_code"] == 2
    assert [shard["shard"] for shard in row["shards"]] == [0, 1]


def test_plain_sidecar(capsys: pytest.CaptureFixture[str]) -> None:
    """A plain sidecar keeps the Job from completing. A native sidecar does not."""
    images = fetch("nodes")["items"][0]["status"]["images"]
    names = [name for image in images for name in image.get("names") or ()]
    pause = [name for name in names if "pause" in name]
    if not pause:
        pytest.skip("the node lists no image of the pause container, which does not end")

    def beside(spec: dict[str, Any]) -> dict[str, Any]:
        """Return a container that does not end."""
        context = container(spec)["securityContext"]
        return {"name": "beside", "image": pause[-1], "securityContext": context}

    def plain(spec: dict[str, Any]) -> None:
        """Add it as a plain sidecar."""
        spec["containers"].append(beside(spec))

    def native(spec: dict[str, Any]) -> None:
        """Add it as a native sidecar."""
        spec["initContainers"] = [beside(spec) | {"restartPolicy": "Always"}]

    with faulty("t-native", native, activeDeadlineSeconds=600) as with_native:
        with faulty("t-plain", plain, activeDeadlineSeconds=600) as cronjob:
            row_with(capsys, cronjob, "but container beside keeps running")
        rows = cluster_rows(capsys, NAMESPACE)["cronjobs"]
        (row,) = [row for row in rows if row["name"] == with_native]
    assert row["exit_code"] == 0
    assert row["job_end"].startswith("Complete"), row
    assert row["summary"].startswith("health: ")


def schedule(name: str, **spec: Any) -> None:
    """Change the spec of a CronJob."""
    kubectl("-n", NAMESPACE, "patch", "cronjob", name, "-p", json.dumps({"spec": spec}))


def test_job_already_active(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that takes longer than the period keeps the next ones from being started."""

    def change(spec: dict[str, Any]) -> None:
        """Take long."""
        container(spec)["command"] = ["python", "-c", "import time; time.sleep(300)"]

    with faulty("t-active", change, activeDeadlineSeconds=600) as cronjob:
        schedule(cronjob, schedule="@every 10s", suspend=False)
        row = row_with(capsys, cronjob, "JobAlreadyActive, ")
    assert "a run takes longer than the period" in " ".join(row["warnings"])


def test_too_many_missed(capsys: pytest.CaptureFixture[str]) -> None:
    """After more than 100 missed runs, and without startingDeadlineSeconds, Kubernetes says so."""
    last = datetime.now(UTC) - timedelta(hours=3)
    status = json.dumps({"status": {"lastScheduleTime": f"{last:%Y-%m-%dT%H:%M:%SZ}"}})
    with faulty("t-missed", lambda _: None) as cronjob:
        change = ("patch", "cronjob", cronjob, "--subresource=status", "-p", status)
        kubectl("-n", NAMESPACE, *change)
        schedule(cronjob, startingDeadlineSeconds=None, suspend=False)
        row = row_with(capsys, cronjob, "TooManyMissedTimes, ")
    remedy = "set startingDeadlineSeconds (the manifests set 25), and check the clocks"
    assert remedy in " ".join(row["warnings"])


def test_missed(capsys: pytest.CaptureFixture[str]) -> None:
    """An Event MissSchedule is a warning.

    The test writes the Event: the controller of Kubernetes 1.31 looks only for times that are not
    too late, so that it writes none.
    """
    with faulty("t-late", lambda _: None) as cronjob:
        schedule(cronjob, schedule="0 0 31 2 *", suspend=False)
        stamp = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        about = {"apiVersion": "batch/v1", "kind": "CronJob", "namespace": NAMESPACE}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{cronjob}.", "namespace": NAMESPACE},
            "involvedObject": about | {"name": cronjob},
            "type": "Warning",
            "reason": "MissSchedule",
            "message": "Missed scheduled time to start a job: Sat, 28 Nov 2026 05:00:00 +0000",
            "source": {"component": "cronjob-controller"},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        kubectl("create", "-f", "-", stdin=json.dumps(event))
        row = row_with(capsys, cronjob, "MissSchedule, ")
    remedy = "was late by more than startingDeadlineSeconds: look at it"
    assert remedy in " ".join(row["warnings"])


def test_starved(capsys: pytest.CaptureFixture[str]) -> None:
    """With `@every` and a startingDeadlineSeconds below the period, no run ever starts."""

    def quick(spec: dict[str, Any]) -> None:
        """Succeed at once."""
        container(spec)["command"] = ["python", "-c", ""]

    def runs(name: str) -> int:
        """Return how many Jobs the schedule has started."""
        jobs = fetch("jobs", "-n", NAMESPACE)["items"]
        scheduled = "batch.kubernetes.io/cronjob-scheduled-timestamp"
        return sum(
            scheduled in job["metadata"].get("annotations", {})
            for job in jobs
            for owner in job["metadata"].get("ownerReferences", ())
            if owner["name"] == name
        )

    with faulty("t-starved", quick) as starved, faulty("t-started", quick) as started:
        period = {"schedule": "@every 61s", "suspend": False}
        schedule(starved, startingDeadlineSeconds=40, **period)
        schedule(started, startingDeadlineSeconds=70, **period)
        row_with(capsys, starved, "startingDeadlineSeconds")
        until(lambda: runs(started))
        assert runs(starved) == 0
