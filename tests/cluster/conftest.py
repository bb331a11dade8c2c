"""Helpers and fixtures: an installation on a real cluster.

The database and the services run on this machine, at an address that pods reach.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from ops_worker.cli import main
from tests.cluster.registry import Registry
from tests.conftest import Database
from tests.postgres import PASSWORD, Postgres, load_platform
from tests.stubs import Stubs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Result = TypeVar("Result")
K8S = Path(__file__).parents[2] / "k8s"
DOCS = K8S.parent / "docs"
NAMESPACE = "ops-worker"
PATIENCE_S = 180.0
"""Seconds in which Kubernetes has done or reported something, also on a busy machine."""
EXAMPLE_NAMESPACE = "shop-monitoring"
"""The namespace of the example overlay, which the commands of the pages name."""
CRDS = {"PrometheusRule": "prometheusrules", "PodMonitor": "podmonitors"}
"""The kinds of the Prometheus Operator that the manifests use, with their plural names."""


def kubectl(*arguments: str, stdin: str = "", warned: bool = False) -> str:
    """Run kubectl, which must succeed, and return its output.

    A warning of the API server is an error, unless ``warned`` is set.
    """
    done = subprocess.run(
        ["kubectl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    assert warned or "Warning" not in done.stderr, done.stderr
    return done.stdout


def fetch(*arguments: str) -> dict[str, Any]:
    """Return the JSON document that `kubectl get` prints."""
    document: dict[str, Any] = json.loads(kubectl("get", *arguments, "-o", "json"))
    return document


def until(
    read: Callable[[], Result | None],
    patience_s: float = PATIENCE_S,
    explain: Callable[[], object] = lambda: "",
) -> Result:
    """Return the first result of ``read`` that is true. Fail after ``patience_s`` seconds."""
    end = time.monotonic() + patience_s
    while True:
        result = read()
        if result:
            return result
        assert time.monotonic() < end, f"not after {patience_s:g} s: {result!r} {explain()}"
        time.sleep(0.5)


def page_commands(page: str, start: str, end: str) -> list[str]:
    """Return the kubectl commands between two texts of a page, without comments, in order.

    They are in code blocks or in a table, and name the namespace of the example.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    section = text.partition(start)[2].partition(end)[0]
    assert section, f"{page} has no text between {start!r} and {end!r}"
    commands = re.findall(r"^ *(kubectl [^#\n]*)|`(kubectl [^`]*)`", section, re.MULTILINE)
    return [(in_block or in_text).strip() for in_block, in_text in commands]


def shell(command: str, *, folder: Path, namespace: str) -> str:
    """Run a command of a page in a folder, with this namespace instead of the example's."""
    command = command.replace(EXAMPLE_NAMESPACE, namespace)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Ended(NamedTuple):
    """A Job at its end: the type of its last condition, its reason, and its pods."""

    name: str
    condition: str
    reason: str
    pods: list[dict[str, Any]]

    @property
    def message(self) -> dict[str, Any]:
        """Return the termination message of the last pod."""
        content: dict[str, Any] = json.loads(
            self.pods[-1]["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
        )
        return content


def pods_of(namespace: str, job: str) -> list[dict[str, Any]]:
    """Return the pods of a Job, oldest first."""
    pods = fetch("pods", "-n", namespace, "-l", f"job-name={job}")["items"]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


class Installation(NamedTuple):
    """The database and the services of an installation, and the output of a second apply."""

    database: Database
    stubs: Stubs
    again: list[str]

    def job(
        self, name: str, cronjob: str, env: dict[str, str] | None = None, *, owned: bool = True
    ) -> Ended:
        """Run a Job from a CronJob with these variables, and wait for its end.

        Of the successful Jobs that a CronJob owns, the controller keeps only the newest.
        """
        self.start(name, cronjob, env, owned=owned)
        return self.end(name)

    def start(
        self, name: str, cronjob: str, env: dict[str, str] | None = None, *, owned: bool = True
    ) -> None:
        """Create a Job from a CronJob with these variables."""
        source = f"--from=cronjob/ops-worker-{cronjob}"
        dry_run = ("--dry-run=client", "-o", "json")
        job = json.loads(kubectl("-n", NAMESPACE, "create", "job", name, source, *dry_run))
        if not owned:
            del job["metadata"]["ownerReferences"]
        container(job["spec"]["template"]["spec"]).setdefault("env", []).extend(
            {"name": k, "value": v} for k, v in (env or {}).items()
        )
        kubectl("create", "-f", "-", stdin=json.dumps(job))

    def end(self, name: str) -> Ended:
        """Wait for the end of a Job."""

        def ended() -> Ended | None:
            """Return the Job, if it has ended."""
            status = fetch("job", name, "-n", NAMESPACE)["status"]
            for condition in status.get("conditions", ()):
                if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
                    pods = pods_of(NAMESPACE, name)
                    return Ended(name, condition["type"], condition.get("reason", ""), pods)
            return None

        describe = ("-n", NAMESPACE, "describe", "pods", "-l", f"job-name={name}")
        return until(ended, explain=lambda: kubectl(*describe))


def require_cluster(*namespaces: str) -> str:
    """Return the address of this machine that pods reach. Skip the test without a cluster.

    Also skip it if one of the namespaces exists, because it belongs to somebody else.
    """
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    if not shutil.which("kubectl"):
        pytest.skip("there is no kubectl")
    existing = kubectl("get", "namespaces", "-o", "name").split()
    for namespace in namespaces:
        if f"namespace/{namespace}" in existing:
            pytest.skip(f"the cluster has a namespace {namespace}: it is not the test's to change")
    return os.environ.get("OPS_TEST_HOST") or node_address()


def node_address() -> str:
    """Return the address of a node. If the cluster runs on this machine, it is this machine's."""
    node = fetch("nodes")["items"][0]
    return str(node["status"]["addresses"][0]["address"])


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """Apply ``k8s/`` without changes. Then set the database, the services and the password."""
    host = require_cluster(NAMESPACE)
    with Postgres(also=host) as server, Stubs(host) as stubs:
        load_platform(server.url())
        try:
            kubectl("apply", "-f", str(K8S))
            again = kubectl("apply", "-f", str(K8S)).splitlines()
            _point_at(host, urlsplit(server.url()).port or 0, stubs)
            yield Installation(Database(server.url()), stubs, again)
        finally:
            kubectl("delete", "namespace", NAMESPACE, "--wait=true")


def _point_at(host: str, port: int, stubs: Stubs) -> None:
    """Let the installation use the database and the services of the host. Suspend its schedules."""
    data = stubs.env | {
        "PG_HOST": host,
        "PG_PORT": str(port),
        "PG_DB": "postgres",
        "PG_USER": "postgres",
        "PG_ROLE": "",
    }
    kubectl("-n", NAMESPACE, "patch", "configmap", "ops-worker", "-p", json.dumps({"data": data}))
    to_host = {"to": [{"ipBlock": {"cidr": f"{host}/32"}}]}
    patch = json.dumps([{"op": "add", "path": "/spec/egress/-", "value": to_host}])
    policy = ("networkpolicy", "ops-worker", "--type=json", "-p", patch)
    kubectl("-n", NAMESPACE, "patch", *policy)
    for name in ("health", "metrics", "rollup"):
        suspend(f"ops-worker-{name}", suspended=True)
    create_secret(NAMESPACE)


def create_secret(namespace: str, *, name: str = "ops-worker") -> None:
    """Create the Secret of the worker."""
    literal = f"--from-literal=PG_PASS={PASSWORD}"
    kubectl("-n", namespace, "create", "secret", "generic", name, literal)


def suspend(name: str, *, suspended: bool) -> None:
    """Suspend a CronJob, or let it run."""
    patch = json.dumps({"spec": {"suspend": suspended}})
    kubectl("-n", NAMESPACE, "patch", "cronjob", name, "-p", patch)


@pytest.fixture
def plain(installation: Installation) -> Installation:
    """Apply the CronJobs of ``k8s/`` again, suspended, in case other tests changed them."""
    for path in sorted(K8S.glob("40-cronjob-*.yaml")):
        cronjob = yaml.safe_load(path.read_text(encoding="utf-8"))
        cronjob["spec"]["suspend"] = True
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cronjob))
    return installation


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> None:
    """Remove the samples and the alerts before each test."""
    if "installation" in request.fixturenames:
        url = request.getfixturevalue("installation").database.url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DELETE FROM system_metrics")
            connection.execute("DELETE FROM fleet_alert WHERE tenant_id = '__system__'")


@pytest.fixture(scope="session")
def operator() -> Iterator[None]:
    """Add the kinds of the Prometheus Operator that are missing, and remove them afterwards."""
    require_cluster()
    created = []
    try:
        for kind, plural in CRDS.items():
            name = f"{plural}.monitoring.coreos.com"
            if kubectl("get", "crd", name, "--ignore-not-found", "-o", "name"):
                continue
            kubectl("create", "-f", "-", stdin=json.dumps(_definition(kind, plural)))
            created.append(name)
            kubectl("wait", "--for=condition=established", "--timeout=60s", f"crd/{name}")
        yield
    finally:
        for name in created:
            kubectl("delete", "crd", name, "--wait=true")


def _definition(kind: str, plural: str) -> dict[str, Any]:
    """Return a CustomResourceDefinition that takes any ``spec``."""
    group = "monitoring.coreos.com"
    spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "required": ["spec"], "properties": {"spec": spec}}
    version = {"name": "v1", "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version | {"schema": {"openAPIV3Schema": schema}}],
        },
    }


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Yield a registry on the node. Skip the test if the node is not on this machine."""
    require_cluster()
    try:
        socket.create_server((node_address(), 0)).close()
    except OSError:
        pytest.skip("the node is on another machine, which cannot pull from 127.0.0.1 of this one")
    with Registry() as running:
        yield running


def container(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the only container of a pod's spec."""
    (only,) = spec["containers"]
    assert isinstance(only, dict)
    return only


@contextmanager
def faulty(
    name: str, change: Callable[[dict[str, Any]], object], *, warned: bool = False, **job: Any
) -> Iterator[str]:
    """Add a CronJob with a changed spec of its pod, and start a run. Yield its name.

    ``job`` are fields of the Job. ``warned`` allows a warning of the API server.
    """
    source = fetch("cronjob", "ops-worker-health", "-n", NAMESPACE)
    content = {key: source[key] for key in ("apiVersion", "kind")}
    content["metadata"] = {
        "name": f"ops-worker-{name}",
        "namespace": NAMESPACE,
        "labels": source["metadata"]["labels"],
    }
    content["spec"] = copy.deepcopy(source["spec"]) | {"suspend": True}
    content["spec"]["jobTemplate"]["spec"] |= job
    change(content["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    kubectl("create", "-f", "-", stdin=json.dumps(content), warned=warned)
    try:
        assert main(["trigger", f"ops-worker-{name}", "-n", NAMESPACE]) == 0
        yield f"ops-worker-{name}"
    finally:
        kubectl("-n", NAMESPACE, "delete", "cronjob", f"ops-worker-{name}", "--wait=true")


def cluster_rows(capsys: pytest.CaptureFixture[str], namespace: str) -> dict[str, Any]:
    """Return the document of `ops-worker cluster`."""
    capsys.readouterr()
    assert main(["cluster", "-n", namespace, "--output", "json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def row_with(
    capsys: pytest.CaptureFixture[str], name: str, text: str, patience_s: float = PATIENCE_S
) -> dict[str, Any]:
    """Return the row of a CronJob as soon as one of its warnings has a text."""
    row: dict[str, Any] = {}

    def read() -> dict[str, Any] | None:
        """Return the row, if it has the warning."""
        rows = cluster_rows(capsys, NAMESPACE)["cronjobs"]
        (current,) = [row for row in rows if row["name"] == name]
        row.update(current)
        return row if any(text in warning for warning in row["warnings"]) else None

    return until(read, patience_s, lambda: f"{text}: {row}")


class Overlay(NamedTuple):
    """A copy of the example overlay, its server and its services.

    ``root`` is the folder above ``k8s``.
    """

    root: Path
    namespace: str
    server: Postgres
    stubs: Stubs

    @property
    def folder(self) -> Path:
        """Return the folder of the overlay."""
        return self.root / "k8s" / "overlays" / "mine"

    @property
    def database(self) -> Database:
        """Return the database of the page, as a superuser."""
        return Database(self.server.url("shop"))

    def edit(self, name: str, replacements: dict[str, str]) -> None:
        """Replace texts of a file. The file must contain each of them."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        for old, new in replacements.items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")

    def write(
        self,
        components: Iterable[str] = (),
        patches: Iterable[dict[str, Any]] = (),
        **fields: Any,
    ) -> None:
        """List components, and add patches and other fields to the example's kustomization.

        The schedules are suspended.
        """
        text = (K8S / "examples" / "overlay" / "kustomization.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text) | fields
        suspended = {
            "target": {"kind": "CronJob"},
            "patch": '[{"op": "replace", "path": "/spec/suspend", "value": true}]',
        }
        content["namespace"] = self.namespace
        content["images"] = fields.get("images", [{"name": "ops-worker", "newTag": "0.1.0"}])
        content["components"] = [f"../../components/{name}" for name in components]
        content["patches"] += [suspended, *patches]
        path = self.folder / "kustomization.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")

    def apply(self) -> list[str]:
        """Apply the overlay. Return the lines that kubectl prints."""
        return kubectl("apply", "-k", str(self.folder)).splitlines()

    def run(self, command: str) -> str:
        """Run a command of a page in the folder above ``k8s``. Return its output."""
        return shell(command, folder=self.root, namespace=self.namespace)

    def rendered(self) -> list[dict[str, Any]]:
        """Return the objects of the overlay."""
        return list(yaml.safe_load_all(kubectl("kustomize", str(self.folder))))


@contextmanager
def example_overlay(namespace: str, root: Path) -> Iterator[Overlay]:
    """Copy the example below ``root`` and edit it as the page says. At the end, remove it."""
    host = require_cluster(namespace)
    for name in ("base", "components", "examples", "variants"):
        shutil.copytree(K8S / name, root / "k8s" / name)
    folder = root / "k8s" / "overlays" / "mine"
    shutil.copytree(K8S / "examples" / "overlay", folder)
    (folder / "rendered.yaml").unlink()
    with Postgres(also=host) as server, Stubs(host) as stubs:
        overlay = Overlay(root, namespace, server, stubs)
        _create_database(server)
        names = {"shop-monitoring": namespace, "registry.example.com/ops-worker": "ops-worker"}
        overlay.edit("kustomization.yaml", names)
        port = str(urlsplit(server.url()).port)
        overlay.edit("settings.yaml", {"postgres.shop": host, '"5433"': f'"{port}"'})
        service = {"http://shop.shop:8080": stubs["ingest"].url}
        overlay.edit("catalogue.yaml", service)
        overlay.edit("networkpolicy.yaml", {"5433": port})
        rule = {"to": [{"ipBlock": {"cidr": f"{host}/32"}}]}
        addition = [{"op": "add", "path": "/spec/egress/-", "value": rule}]
        with (folder / "networkpolicy.yaml").open("a", encoding="utf-8") as policy:
            policy.write(yaml.safe_dump(addition))
        try:
            yield overlay
        finally:
            kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=true")


def _create_database(server: Postgres) -> None:
    """Run the SQL of the page, as an administrator."""
    text = (DOCS / "kubernetes.md").read_text(encoding="utf-8")
    statements = re.findall(r"^CREATE (?:ROLE|DATABASE) .*;$", text, re.MULTILINE)
    assert len(statements) == 2
    for statement in statements:
        Database(server.url()).rows(statement.replace("'...'", f"'{PASSWORD}'"))
