"""The components of docs/kubernetes.md in an overlay: what each one does, with real pods.

Some things need more than a cluster and are not tested here: a network plugin that enforces the
NetworkPolicy, a Prometheus that fires the alerts, a CSI driver, Vault, and OpenShift's admission.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from ops_worker.cli import main
from tests.cluster.conftest import (
    EXAMPLE_NAMESPACE,
    cluster_rows,
    create_secret,
    example_overlay,
    fetch,
    kubectl,
    page_commands,
    pods_of,
    until,
)
from tests.postgres import PASSWORD
from tests.stubs import Stub, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import Overlay
    from tests.cluster.registry import Registry

pytestmark = pytest.mark.cluster
NAMESPACE = "try-components"
SIDECAR = "deployment/ops-worker-sidecar"
OPENSHIFT_USER = 1000680000
"""A user as OpenShift chooses one for a namespace."""


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory,
    operator: None,  # noqa: ARG001 - its kinds are there
) -> Iterator[Overlay]:
    """Install the example, with its tables."""
    with example_overlay(NAMESPACE, tmp_path_factory.mktemp("components")) as copied:
        copied.write()
        copied.apply()
        create_secret(NAMESPACE)
        assert main(["trigger", "init-db", "--wait", "-n", NAMESPACE]) == 0
        yield copied


@pytest.fixture
def overlay(installed: Overlay) -> Iterator[Overlay]:
    """Yield the installation. Delete its Deployments at the end."""
    yield installed
    kubectl("-n", NAMESPACE, "delete", "deployments", "--all", "--wait=true")
    pods = ("pods", "-l", "app.kubernetes.io/component=sidecar")
    kubectl("-n", NAMESPACE, "wait", "--for=delete", "--timeout=60s", *pods)


def rollout(deployment: str = SIDECAR) -> None:
    """Wait until a Deployment is ready."""
    kubectl("-n", NAMESPACE, "rollout", "status", deployment, "--timeout=110s")


def run_pass(name: str, cronjob: str = "ops-worker-health") -> dict[str, Any]:
    """Run a Job of a CronJob until it is complete. Return its pod."""
    kubectl("-n", NAMESPACE, "create", "job", name, f"--from=cronjob/{cronjob}")
    wait = ("wait", "--for=condition=complete", "--timeout=110s", f"job/{name}")
    kubectl("-n", NAMESPACE, *wait)
    (pod,) = pods_of(NAMESPACE, name)
    return pod


def installations(overlay: Overlay) -> set[str]:
    """Return the installations that have recorded passes."""
    rows = overlay.database.rows("SELECT DISTINCT installation FROM ops_worker_run")
    return {str(row["installation"]) for row in rows}


def test_restart(overlay: Overlay) -> None:
    """A CronJob's pod reads changed settings. A Deployment reads them after its restart."""
    overlay.write(["sidecar"])
    overlay.apply()
    rollout()
    until(lambda: "ops-worker" in installations(overlay))
    patch = json.dumps({"data": {"INSTALLATION": "changed"}})
    kubectl("-n", NAMESPACE, "patch", "configmap", "ops-worker", "-p", patch)
    run_pass("after-change")
    passes = "SELECT pass FROM ops_worker_run WHERE installation = 'changed' ORDER BY pass"
    assert [row["pass"] for row in overlay.database.rows(passes)] == ["health"]
    overlay.run(restart_command())
    until(lambda: len(overlay.database.rows(passes)) == 2)
    # The installation "changed" ends here: the next tests watch the same services. Apply would keep
    # the key, which is not in the overlay.
    patch = json.dumps({"data": {"INSTALLATION": None}})
    kubectl("-n", NAMESPACE, "patch", "configmap", "ops-worker", "-p", patch)
    overlay.run(restart_command())
    rollout()
    overlay.database.rows("DELETE FROM system_metrics; DELETE FROM service_health")


def restart_command() -> str:
    """Return the command of the page that restarts the sidecar."""
    return page_commands("kubernetes.md", "A Deployment keeps the old ones", "## Components")[0]


def test_second_attempt(overlay: Overlay) -> None:
    """Jobs of a first attempt can be removed, also if Kubernetes has removed some of them."""
    overlay.write()
    overlay.apply()
    run_pass("first")
    events = ("get", "events", "--field-selector", "reason=UnexpectedJob", "-o", "name")
    until(lambda: kubectl("-n", NAMESPACE, *events))
    remove = page_commands("kubernetes.md", "Before a second attempt", "To change the Secret")[0]
    assert "first" in overlay.run(remove)
    assert overlay.run(remove) == ""


def test_runbook(
    overlay: Overlay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first commands of the runbook describe the cluster. A command copies the catalogue.

    Without -n, the namespace is that of the kubeconfig's context.
    """
    overlay.write()
    overlay.apply()
    for command in ("status", "check"):
        assert main(["trigger", "--args", command, "--wait", "-n", NAMESPACE]) == 0
    take = page_commands("operations.md", "To run them on", "A message may say")[0]
    overlay.run(take.replace("-n ops-worker", f"-n {NAMESPACE}"))
    assert "[services.shop]" in (overlay.root / "catalogue.toml").read_text(encoding="utf-8")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(kubectl("config", "view", "--raw"), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    kubectl("config", "set-context", "--current", f"--namespace={NAMESPACE}")
    capsys.readouterr()
    assert main(["cluster"]) == 0
    assert f"namespace {NAMESPACE}" in capsys.readouterr().err


def test_changed_secret(overlay: Overlay) -> None:
    """A CronJob's pod reads a changed Secret. A Deployment reads it after its restart."""
    overlay.write(["sidecar"])
    overlay.apply()
    rollout()
    change = page_commands("kubernetes.md", "To change the Secret", "The commands of")[0]
    overlay.database.rows("ALTER ROLE ops_worker PASSWORD 'rotated'")
    try:
        output = overlay.run(f"({change.replace('PG_PASS=...', 'PG_PASS=rotated')}) 2>&1")
        assert "missing the" in output and "annotation" in output
        run_pass("after-rotation")
        overlay.database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ops_worker'"
        )
        refused = "password authentication failed"
        until(lambda: refused in kubectl("-n", NAMESPACE, "logs", SIDECAR))
        overlay.run(restart_command())
        rollout()
        assert refused not in kubectl("-n", NAMESPACE, "logs", SIDECAR)
    finally:
        overlay.database.rows(f"ALTER ROLE ops_worker PASSWORD '{PASSWORD}'")
        kubectl("-n", NAMESPACE, "delete", "secret", "ops-worker")
        create_secret(NAMESPACE)


def test_scrape(overlay: Overlay) -> None:
    """The PodMonitor selects the pod of the sidecar, and its port serves the metrics."""
    overlay.write(["sidecar", "scrape"])
    overlay.apply()
    rollout()
    spec = fetch("podmonitor", "ops-worker", "-n", NAMESPACE)["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    labels = ",".join(f"{k}={v}" for k, v in spec["selector"]["matchLabels"].items())
    (pod,) = fetch("pods", "-n", NAMESPACE, "-l", labels)["items"]
    (port,) = pod["spec"]["containers"][0]["ports"]
    assert port["name"] == endpoint["port"]
    name, number = pod["metadata"]["name"], port["containerPort"]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}:{number}/proxy{endpoint['path']}"
    assert "ops_worker_" in kubectl("get", "--raw", path)
    service = fetch("endpoints", "ops-worker-sidecar", "-n", NAMESPACE)["subsets"][0]
    assert [address["ip"] for address in service["addresses"]] == [pod["status"]["podIP"]]


def test_secret_files(overlay: Overlay) -> None:
    """A loop goes on with a changed password, and records the samples from in between."""
    overlay.write(["sidecar", "secret-files"])
    overlay.apply()
    rollout()
    database = overlay.database
    until(lambda: database.value("SELECT count(*) FROM system_metrics"))
    (before,) = fetch("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=sidecar")["items"]
    database.rows("ALTER ROLE ops_worker PASSWORD 'rotated'")
    changed = database.value("SELECT clock_timestamp()")
    database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ops_worker'"
    )
    try:
        until(lambda: '"buffered": ' in kubectl("-n", NAMESPACE, "logs", SIDECAR))
        stored = database.value("SELECT clock_timestamp()")
        create = ("create", "secret", "generic", "ops-worker", "--from-literal=PG_PASS=rotated")
        secret = kubectl("-n", NAMESPACE, *create, "--dry-run=client", "-o", "json")
        kubectl("replace", "-f", "-", stdin=secret)
        later = "SELECT count(*) FROM system_metrics WHERE time > %s"
        until(lambda: database.value(later, stored), 2 * 180)
        between = "SELECT count(*) FROM system_metrics WHERE time BETWEEN %s AND %s"
        until(lambda: database.value(between, changed, stored))
        rollout()
    finally:
        database.rows(f"ALTER ROLE ops_worker PASSWORD '{PASSWORD}'")
        kubectl("-n", NAMESPACE, "delete", "secret", "ops-worker")
        create_secret(NAMESPACE)
    (after,) = fetch("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=sidecar")["items"]
    assert before["metadata"]["uid"] == after["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0


def test_priority(overlay: Overlay) -> None:
    """On a full node, a pass starts only with the component, which evicts another pod."""
    if kubectl("get", "priorityclass", "ops-worker", "--ignore-not-found"):
        pytest.skip("the cluster has a PriorityClass ops-worker: it is not the test's to change")
    node = fetch("nodes")["items"][0]["metadata"]["name"]
    patch = {"target": {"kind": "CronJob"}, "patch": json.dumps([_on_node(node)])}
    overlay.write(patches=[patch])
    overlay.apply()
    filler = _filler(node)
    kubectl("create", "-f", "-", stdin=json.dumps(filler))
    ready = ("wait", "--for=condition=ready", "--timeout=110s", "pod/filler")
    kubectl("-n", NAMESPACE, *ready)
    try:
        assert main(["trigger", "health", "-n", NAMESPACE]) == 0
        until(lambda: "Insufficient memory" in json.dumps(_conditions()))
        overlay.write(["priority"], patches=[patch])
        overlay.apply()
        run_pass("on-a-full-node")
        deleted = ("wait", "--for=delete", "--timeout=60s", "pod/filler")
        kubectl("-n", NAMESPACE, *deleted)
    finally:
        kubectl("-n", NAMESPACE, "delete", "pod", "filler", "--ignore-not-found")
        kubectl("delete", "priorityclass", "ops-worker", "--ignore-not-found")
        overlay.write()
        overlay.apply()


def _on_node(node: str) -> dict[str, Any]:
    """Return a patch that lets the pods of a CronJob run on one node only."""
    path = "/spec/jobTemplate/spec/template/spec/nodeSelector"
    return {"op": "add", "path": path, "value": {"kubernetes.io/hostname": node}}


def _conditions() -> list[Any]:
    """Return the conditions of all pods."""
    return [pod["status"].get("conditions") for pod in fetch("pods", "-n", NAMESPACE)["items"]]


def _filler(node: str) -> dict[str, Any]:
    """Return a pod that requests the free memory of a node, except 32 Mi. It uses little of it."""
    free = _bytes(fetch("node", node)["status"]["allocatable"]["memory"])
    for pod in fetch("pods", "-A", f"--field-selector=spec.nodeName={node}")["items"]:
        if pod["status"]["phase"] in {"Pending", "Running"}:
            requests = [
                c.get("resources", {}).get("requests", {}) for c in pod["spec"]["containers"]
            ]
            free -= sum(_bytes(request.get("memory", "0")) for request in requests)
    template = fetch("cronjob", "ops-worker-health", "-n", NAMESPACE)["spec"]["jobTemplate"]
    spec = template["spec"]["template"]["spec"]
    (only,) = spec["containers"]
    only["command"] = ["python", "-c", "import time; time.sleep(600)"]
    only["resources"] = {"requests": {"memory": str(free - (32 << 20))}}
    spec["terminationGracePeriodSeconds"] = 1
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "filler", "namespace": NAMESPACE},
        "spec": spec,
    }


def _bytes(quantity: str) -> int:
    """Return a quantity of memory in bytes."""
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    if quantity[-2:] in units:
        return int(quantity[:-2]) * units[quantity[-2:]]
    return int(quantity)


def test_pull_secret_and_digest(overlay: Overlay, registry: Registry) -> None:
    """The node logs in to the registry with the Secret, and pulls the image by its digest."""
    registry.login = "pull:secret"
    _, digest = registry.add(User="65532")
    image = {"name": "ops-worker", "newName": f"{registry.host}/ops-worker", "digest": digest}
    overlay.write(["pull-secret"], images=[image])
    overlay.apply()
    login = page_commands("kubernetes.md", "4. Apply it", "5. Create")[2]
    login = login.replace("registry.example.com", registry.host)
    login = login.replace("username=...", "username=pull").replace(
        "password=...", "password=secret"
    )
    overlay.run(login)
    try:
        assert main(["trigger", "health", "-n", NAMESPACE]) == 0
        by_digest = f"/v2/ops-worker/manifests/{digest}"
        until(lambda: any(r.login and r.path == by_digest for r in registry.requests))
        until(lambda: "StartError" in json.dumps(_statuses()))
    finally:
        overlay.write()
        overlay.apply()
        kubectl("-n", NAMESPACE, "delete", "jobs", "--all")
    assert not any("/manifests/0.1.0" in request.path for request in registry.requests)


def _statuses() -> list[Any]:
    """Return the states of the containers of all pods."""
    pods = fetch("pods", "-n", NAMESPACE)["items"]
    return [pod["status"].get("containerStatuses") for pod in pods]


def test_openshift(overlay: Overlay) -> None:
    """A pod without its own user runs as the image's user, or as any user that a cluster sets."""
    overlay.write(["openshift"])
    overlay.apply()
    pod = run_pass("image-user")
    assert set(pod["spec"]["securityContext"]) == {"runAsNonRoot", "seccompProfile"}
    path = "/spec/jobTemplate/spec/template/spec/securityContext/runAsUser"
    patch = json.dumps([{"op": "add", "path": path, "value": OPENSHIFT_USER}])
    cronjob = ("cronjob", "ops-worker-health", "--type=json", "-p", patch)
    kubectl("-n", NAMESPACE, "patch", *cronjob)
    pod = run_pass("any-user")
    assert pod["spec"]["securityContext"]["runAsUser"] == OPENSHIFT_USER


def test_scheduling(overlay: Overlay) -> None:
    """A pass runs with the node selection and the tolerations of the example."""
    overlay.write(["scheduling"])
    overlay.apply()
    spec = run_pass("scheduled")["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    keys = [toleration["key"] for toleration in spec["tolerations"]]
    assert "node-role.kubernetes.io/infra" in keys


def test_renamed(overlay: Overlay, capsys: pytest.CaptureFixture[str]) -> None:
    """A prefix and a suffix change every name except the Secret's. The Role has the new names."""
    overlay.write(["monitoring", "events", "sidecar"], namePrefix="a-", nameSuffix="-b")
    overlay.apply()
    rollout("deployment/a-ops-worker-sidecar-b")
    records = fetch("prometheusrule", "a-ops-worker-b", "-n", NAMESPACE)["spec"]["groups"][0]
    labels = [rule["labels"] for rule in records["rules"] if "record" in rule]
    assert {label["namespace"] for label in labels} == {NAMESPACE}
    present = fetch("cronjobs", "-n", NAMESPACE)["items"]
    names = {cronjob["metadata"]["name"] for cronjob in present}
    assert {label["cronjob"] for label in labels} <= names
    overlay.stubs["ingest"].mode = "503"
    try:
        assert main(["trigger", "a-ops-worker-health-b", "--wait", "-n", NAMESPACE]) == 0
    finally:
        overlay.stubs["ingest"].mode = "ok"
    described = ("describe", "cronjob", "a-ops-worker-health-b")
    assert "ServiceUnhealthy" in kubectl("-n", NAMESPACE, *described)
    rows = cluster_rows(capsys, NAMESPACE)["deployments"]
    assert [row["name"] for row in rows] == ["a-ops-worker-sidecar-b"]
    kinds = "cronjobs,configmaps,networkpolicies,roles,rolebindings,serviceaccounts"
    renamed = [
        f"{content['kind']}/{content['metadata']['name']}"
        for content in fetch(kinds, "-n", NAMESPACE)["items"]
        if content["metadata"]["name"].startswith("a-")
    ]
    kubectl("-n", NAMESPACE, "delete", *renamed)


def test_alertmanager(overlay: Overlay) -> None:
    """A health pass posts the open alert to Alertmanager."""
    host = urlsplit(overlay.stubs["ingest"].url).hostname or ""
    receiver = Stub("alertmanager", host=host)
    receiver.mode = reply("{}")
    data = json.dumps([{"op": "replace", "path": "/data/ALERTMANAGER_URL", "value": receiver.url}])
    target = {"kind": "ConfigMap", "name": "ops-worker"}
    component = overlay.root / "k8s" / "components" / "receiver"
    component.mkdir(exist_ok=True)
    (component / "kustomization.yaml").write_text(
        json.dumps(
            {
                "apiVersion": "kustomize.config.k8s.io/v1alpha1",
                "kind": "Component",
                "patches": [{"target": target, "patch": data}],
            }
        ),
        encoding="utf-8",
    )
    overlay.write(["alertmanager", "receiver"])
    overlay.apply()
    overlay.stubs["ingest"].mode = "503"
    try:
        run_pass("posted")
        run_pass("posted-again")
    finally:
        overlay.stubs["ingest"].mode = "ok"
        receiver.close()
        overlay.write()
        overlay.apply()
    assert any(b"POST /api/v2/alerts" in request for request in receiver.requests)
    assert any(b"shop" in request for request in receiver.requests)


def test_inject(overlay: Overlay) -> None:
    """The example of a native sidecar: all loops run beside your own container."""
    example = overlay.root / "k8s" / "examples" / "inject"
    app = example / "app.yaml"
    text = app.read_text(encoding="utf-8").replace("registry.example.com/my-app:1.0.0", IMAGE)
    sleep = (
        "          command: [python, -c, import time; time.sleep(600)]\n          securityContext:"
    )
    app.write_text(text.replace("          securityContext:", sleep), encoding="utf-8")
    rendered = kubectl("kustomize", str(example))
    (deployment,) = [part for part in rendered.split("---\n") if "kind: Deployment" in part]
    overlay.write()
    overlay.apply()
    database = overlay.database
    database.rows("DELETE FROM system_metrics")
    database.rows("DELETE FROM service_health")
    text = deployment.replace("namespace: ops-worker\n", f"namespace: {NAMESPACE}\n")
    kubectl("apply", "-f", "-", stdin=text)
    rollout("deployment/my-app")
    until(lambda: database.health() and database.value("SELECT count(*) FROM system_metrics"))
    (pod,) = fetch("pods", "-n", NAMESPACE, "-l", "ops-worker.io/inject=true")["items"]
    assert pod["status"]["initContainerStatuses"][0]["started"] is True


IMAGE = "ops-worker:0.1.0"


def test_every_5s_and_sidecar(overlay: Overlay) -> None:
    """If both are listed, the result is `sidecar` alone."""
    overlay.write(["every-5s", "sidecar"])
    kinds = [(new["kind"], new["metadata"]["name"]) for new in overlay.rendered()]
    assert ("Deployment", "ops-worker-sidecar") in kinds
    assert ("CronJob", "ops-worker-metrics") not in kinds


def test_monitoring_alone(overlay: Overlay) -> None:
    """`kubectl apply -k k8s/variants/monitoring` adds the rule and the dashboard."""
    assert NAMESPACE != EXAMPLE_NAMESPACE
    path = overlay.root / "k8s" / "variants" / "monitoring" / "kustomization.yaml"
    text = path.read_text(encoding="utf-8").replace("ops-worker\n", f"{NAMESPACE}\n", 1)
    path.write_text(text, encoding="utf-8")
    lines = overlay.run("kubectl apply -k k8s/variants/monitoring").splitlines()
    applied = {line.split()[0] for line in lines}
    assert applied == {
        "configmap/ops-worker-dashboard",
        "prometheusrule.monitoring.coreos.com/ops-worker",
    }
    labels = fetch("configmap", "ops-worker-dashboard", "-n", NAMESPACE)["metadata"]["labels"]
    assert labels["grafana_dashboard"] == "1"
    overlay.run("kubectl delete -k k8s/variants/monitoring")
