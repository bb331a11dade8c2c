"""Tests of the component scrape: its objects, and a real Prometheus that scrapes the sidecar."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Annotated, Any, Self

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ops_worker.cli import main
from tests.alertmanager import START_S, eventually
from tests.conftest import Process
from tests.manifest_rules.prometheusrule import Duration  # noqa: TC001 - pydantic reads it
from tests.render import K8S, SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Worker

COMPONENT = K8S / "components" / "scrape"
GUIDE = (K8S.parent / "docs" / "dashboard.md").read_text(encoding="utf-8")
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
MISSING = "there is no prometheus on this machine (apt-get install it)"
Manifest = dict[str, Any]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Selector(_Closed):
    labels: Annotated[dict[str, str], Field(alias="matchLabels", min_length=1)]


class _Endpoint(_Closed):
    port: str
    path: Annotated[str, Field(pattern="^/")]
    interval: Duration
    timeout: Annotated[Duration, Field(alias="scrapeTimeout")]


class _PodMonitorSpec(_Closed):
    """The fields that the component uses, from the reference of the Prometheus Operator's API."""

    selector: _Selector
    endpoints: Annotated[list[_Endpoint], Field(alias="podMetricsEndpoints", min_length=1)]


def rendered(folder: Path, kustomization: Manifest) -> dict[tuple[str, str], Manifest]:
    """Return the objects of an overlay on the sidecar with the component, by kind and name."""
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl on this machine")
    overlay = folder / "overlay"
    overlay.mkdir()
    bases = {
        "resources": [os.path.relpath(K8S / "variants" / "sidecar", overlay)],
        "components": [os.path.relpath(COMPONENT, overlay)],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(bases | kustomization))
    result = subprocess.run(
        ["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    (folder / "rendered.yaml").write_text(result.stdout)
    return {
        (item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(result.stdout)
    }


@pytest.fixture
def objects(tmp_path: Path) -> dict[tuple[str, str], Manifest]:
    """Return the objects of an overlay with another namespace."""
    return rendered(tmp_path, {"namespace": "other"})


@pytest.mark.unit
def test_schemas(objects: dict[tuple[str, str], Manifest], tmp_path: Path) -> None:
    """Every object fits its schema, also the PodMonitor."""
    monitor = objects.pop(("PodMonitor", "ops-worker"))
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    TypeAdapter(_PodMonitorSpec).validate_python(monitor["spec"])
    for item in objects.values():
        for version in SCHEMAS:
            kubernetes_validate.validate(item, version, strict=True)
    assert main(["manifests", "check", str(tmp_path / "rendered.yaml")]) == 0


@pytest.mark.unit
def test_objects_fit(objects: dict[tuple[str, str], Manifest]) -> None:
    """Service, PodMonitor and NetworkPolicy select the sidecar, and name its port."""
    template = objects["Deployment", "ops-worker-sidecar"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = {item["name"]: item.get("value") for item in container["env"]}
    service = objects["Service", "ops-worker-sidecar"]
    monitor = objects["PodMonitor", "ops-worker"]
    policy = objects["NetworkPolicy", "ops-worker-scrape"]
    selectors = [
        service["spec"]["selector"],
        monitor["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/component"] == "sidecar"  # no pod of a CronJob
    (port,) = service["spec"]["ports"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (rule,) = policy["spec"]["ingress"]
    assert port["name"] == "metrics"
    assert str(ports[port["targetPort"]]) == environment["SIDECAR_PORT"]
    assert ports[endpoint["port"]] == ports[port["targetPort"]] == port["port"]
    # The port in a NetworkPolicy is that of the pod, not that of the Service.
    assert rule["ports"] == [{"protocol": "TCP", "port": ports["http"]}]
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    namespaces = {item["metadata"].get("namespace") for item in (service, monitor, policy)}
    assert namespaces == {"other"}


def patches() -> list[Any]:
    """Return the patches that the comments of the component show."""
    text = (COMPONENT / "kustomization.yaml").read_text(encoding="utf-8")
    comment = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    blocks = re.findall(r"^  patches: \[.*?\]$", comment, flags=re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block.replace("NAME", "elsewhere"))["patches"] for block in blocks]


@pytest.mark.unit
def test_patches(tmp_path: Path) -> None:
    """The patches of the comments set a label and a namespace, and remove the PodMonitor."""
    label, removal, namespace = patches()
    (tmp_path / "label").mkdir()
    objects = rendered(tmp_path / "label", {"patches": [*label, *namespace]})
    assert objects["PodMonitor", "ops-worker"]["metadata"]["labels"]["release"] == "elsewhere"
    (rule,) = objects["NetworkPolicy", "ops-worker-scrape"]["spec"]["ingress"]
    selector = {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}
    assert rule["from"] == [{"namespaceSelector": selector}]
    (tmp_path / "removal").mkdir()
    kinds = {kind for kind, _ in rendered(tmp_path / "removal", {"patches": removal})}
    assert "PodMonitor" not in kinds
    assert "Service" in kinds


# A real Prometheus.


def free_port() -> str:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def documented() -> set[str]:
    """Return the series that the page lists."""
    return set(re.findall(r"^\| `(ops_worker_\w+)` \|", GUIDE, flags=re.MULTILINE))


class Prometheus:
    """A real Prometheus that scrapes one target every second. Use it as a context manager."""

    def __init__(self, folder: Path, path: str, target: str) -> None:
        """Write its configuration; nothing runs yet."""
        self._folder, self._port = folder, free_port()
        job = {
            "job_name": "sidecar",
            "metrics_path": path,
            "static_configs": [{"targets": [target]}],
        }
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [job],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    def __enter__(self) -> Self:
        assert PROMETHEUS is not None
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = Process(
                [
                    PROMETHEUS,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(START_S)

    def values(self, query: str) -> list[dict[str, Any]]:
        """Return the series of a query; an empty list if Prometheus does not answer."""
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        address = f"http://127.0.0.1:{self._port}/api/v1/query?"
        try:
            with urllib.request.urlopen(
                address + urllib.parse.urlencode({"query": query}), timeout=START_S
            ) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return result
        except OSError:
            time.sleep(0.1)
            return []


@pytest.fixture
def sidecar(worker: Worker) -> Iterator[str]:
    """Yield the address of a sidecar that has recorded a pass of each kind."""
    port = free_port()
    env = {"METRICS_COLLECTION_INTERVAL": "1", "HEALTH_CHECK_INTERVAL": "5", "SIDECAR_PORT": port}
    address = f"127.0.0.1:{port}"
    with worker.start("sidecar", "health", "metrics", **env) as process:
        recorded = re.compile(
            r'^ops_worker_passes_total\{loop="(\w+)",result="recorded"\}', re.MULTILINE
        )

        def is_ready() -> bool:
            """Return whether each loop has recorded a pass."""
            try:
                return set(recorded.findall(scraped(address))) == {"health", "metrics"}
            except OSError:
                time.sleep(0.05)
                return False

        assert eventually(is_ready)
        yield address
        process.terminate()
        process.communicate(timeout=START_S)


def scraped(address: str) -> str:
    """Return the metrics page of the sidecar."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=START_S) as answer:
        return str(answer.read().decode())


@pytest.mark.integration
def test_prometheus(sidecar: str, tmp_path: Path) -> None:
    """Prometheus scrapes the sidecar, and gets every series that the page lists."""
    if PROMETHEUS is None:
        pytest.skip(MISSING)
    monitor = yaml.safe_load((COMPONENT / "podmonitor.yaml").read_text(encoding="utf-8"))
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    with Prometheus(tmp_path, endpoint["path"], sidecar) as prometheus:
        assert eventually(lambda: [item["value"][1] for item in prometheus.values("up")] == ["1"])
        query = 'count by (__name__) ({__name__=~"ops_worker_.+"})'
        names = {item["metric"]["__name__"] for item in prometheus.values(query)}
        series = {re.sub("_(bucket|sum|count)$", "", name) for name in names}
        assert {name for name in series if not name.endswith("_created")} == documented()
        states = prometheus.values("sum by (service) (ops_worker_service_state)")
        assert len(states) > 1 and {item["value"][1] for item in states} == {"1"}


@pytest.mark.integration
def test_promtool(sidecar: str) -> None:
    """`promtool check metrics` finds no fault in format, names and help."""
    if PROMTOOL is None:
        pytest.skip(MISSING)
    text = scraped(sidecar)
    command = [PROMTOOL, "check", "metrics"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    wrong = text.replace("ops_worker_passes_total", "ops_worker_passesTotal")
    result = subprocess.run(command, input=wrong, capture_output=True, text=True, check=False)
    assert result.returncode != 0
