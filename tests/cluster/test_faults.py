"""What `ops-worker cluster` and `trigger` say of faults that a real cluster has."""

from __future__ import annotations

import json
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
    kubectl,
    row_with,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """The warning has the whole cause, and what to do about this one."""
    with faulty(f"t-{name}", change) as cronjob:
        row = row_with(capsys, cronjob, text)
    assert not any("create secret generic ops-worker" in warning for warning in row["warnings"])


def test_quota(capsys: pytest.CaptureFixture[str]) -> None:
    """Without room in the quota no pod ever exists; trigger ends with the reason."""
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
    """The limit that was exceeded is shown, with what the manifests set."""

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
    """After a success, a Job that its deadline ended is the last run; its exit code is unknown."""

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


def test_command(installation: Installation, capfd: pytest.CaptureFixture[str]) -> None:
    """Commands run in the cluster with their output and exit code, and are no runs of a pass."""
    trigger = ["trigger", "--wait", "-n", NAMESPACE, "--args"]
    assert installation.job("t-command", "init-db").condition == "Complete"
    assert main([*trigger, "init-db"]) == 0
    assert main([*trigger, "health"]) == 0
    capfd.readouterr()
    assert main([*trigger, "status --output json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert len(document["services"]) == 4
    assert main([*trigger, "alerts list --output json"]) == 0
    assert json.loads(capfd.readouterr().out) == []
    assert main([*trigger, "maintenance start --for 1h --reason 'new switch'"]) == 0
    assert main([*trigger, "maintenance status"]) == 0
    shown = capfd.readouterr().out
    assert "new switch" in shown and user() in shown
    assert main([*trigger, "maintenance end"]) == 0
    assert main([*trigger, "alerts ack 0"]) != 0
    assert main([*trigger, "absent"]) == 2
    assert "invalid choice: 'absent'" in capfd.readouterr().out
    assert main(["cluster", "-n", NAMESPACE, "--output", "json"]) == 0
    rows = json.loads(capfd.readouterr().out)["cronjobs"]
    assert not any("-command-" in row["last_job"] for row in rows)


def test_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    """A pod whose runtime the node does not have gets no sandbox."""
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "ops-worker-absent"},
        "handler": "absent",
    }
    kubectl("create", "-f", "-", stdin=json.dumps(runtime))

    def change(spec: dict[str, Any]) -> None:
        """Name the runtime."""
        spec["runtimeClassName"] = "ops-worker-absent"

    try:
        with faulty("t-sandbox", change) as cronjob:
            row = row_with(capsys, cronjob, "cannot start: FailedCreatePodSandBox: ")
    finally:
        kubectl("delete", "runtimeclass", "ops-worker-absent")
    print(row)


def test_root(capsys: pytest.CaptureFixture[str]) -> None:
    """A pod that would run as root, although runAsNonRoot is true, does not start.

    Pod Security `restricted` refuses such a pod; without it, the kubelet does.
    """

    def change(spec: dict[str, Any]) -> None:
        """Run as root."""
        spec["securityContext"]["runAsUser"] = 0

    with faulty("t-root-refused", change, warned=True) as cronjob:
        text = "no pod can be created: FailedCreate: violates PodSecurity"
        row = row_with(capsys, cronjob, text)
        print(row)
    labels = [f"pod-security.kubernetes.io/{mode}" for mode in ("enforce", "warn", "audit")]

    def set_level(level: str) -> None:
        """Set the level of Pod Security of the namespace."""
        levels = [f"{label}={level}" for label in labels]
        kubectl("label", "--overwrite", "namespace", NAMESPACE, *levels, warned=True)

    set_level("privileged")
    try:
        with faulty("t-root", change) as cronjob:
            row = row_with(capsys, cronjob, "runAsUser is 0 and runAsNonRoot is true")
    finally:
        set_level("restricted")
    print(row)


def without_account(spec: dict[str, Any]) -> None:
    """Name a ServiceAccount that does not exist."""
    spec["serviceAccountName"] = "absent"


def test_webhook(capsys: pytest.CaptureFixture[str]) -> None:
    """A webhook that fails keeps pods from being created; so does an absent ServiceAccount."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
    webhook = {
        "name": "refuses.ops-worker.example",
        "clientConfig": {"url": "https://127.0.0.1:9/"},
        "rules": [rule | {"resources": ["pods"]}],
        "namespaceSelector": selector,
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
    kubectl("create", "-f", "-", stdin=json.dumps(content))
    try:
        with faulty("t-webhook", lambda _: None) as cronjob:
            row = row_with(capsys, cronjob, "no pod can be created: FailedCreate: ")
    finally:
        kubectl("delete", "validatingwebhookconfiguration", "ops-worker-test")
    print(row)
    with faulty("t-account", without_account) as cronjob:
        row = row_with(capsys, cronjob, "no pod can be created: FailedCreate: ")
    print(row)
