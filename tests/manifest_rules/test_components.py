"""Tests that each component of the manifests has its effect, alone and with others."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests import render
from tests.manifest_rules.installation import K8S, documents, faults_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the components"),
]

WHAT = ("monitoring", "events", "alertmanager", "sharded", "every-5s", "sidecar")
"""Components that define what runs, in the order in which an overlay lists them."""
HOW = ("pull-secret", "priority", "scheduling", "secret-files", "openshift", "digest")
"""Components that define how pods run. They come after those that add pods."""
CONTRADICTION = {"every-5s", "sidecar"}
Objects = dict[str, dict[str, Any]]


def kustomize(folder: Path, content: dict[str, Any]) -> Objects:
    """Return the objects of a kustomization in a folder, by kind and name."""
    text = yaml.safe_dump(content, sort_keys=False)
    (folder / "kustomization.yaml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {
        f"{content['kind']}/{content['metadata']['name']}": content
        for content in documents(done.stdout)
    }


def combined(folder: Path, components: Sequence[str], **settings: Any) -> Objects:
    """Return the installation with components, in this order."""
    home = os.path.relpath(K8S, folder.resolve())
    content = {
        "resources": [f"{home}/base"],
        "components": [f"{home}/components/{name}" for name in components],
    }
    return kustomize(folder, {"namespace": "ops-worker"} | content | settings)


def assert_right(objects: Objects) -> None:
    """Assert that the rules and the schemas find no fault in the objects."""
    assert faults_of([*objects.items()]) == []
    for name, content in objects.items():
        assert _misfits(yaml.safe_dump(content)) == (), name


@cache
def _misfits(text: str) -> tuple[str, ...]:
    return tuple(render.misfits_of(yaml.safe_load(text)))


def pods(objects: Objects) -> list[dict[str, Any]]:
    """Return the specs of the worker's pods."""
    templates = []
    for content in objects.values():
        spec = content.get("spec", {})
        if content["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if content["kind"] in {"CronJob", "Deployment"}:
            templates.append(spec["template"]["spec"])
    return templates


def env(objects: Objects, name: str) -> dict[str, Any]:
    """Return the variables of a CronJob's container."""
    pod = objects[f"CronJob/ops-worker-{name}"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}


def ports(objects: Objects) -> set[int]:
    """Return the ports that the NetworkPolicy lets the worker reach."""
    rules = objects["NetworkPolicy/ops-worker"]["spec"]["egress"]
    return {port["port"] for rule in rules for port in rule["ports"]}


def every_5s(objects: Objects) -> bool:
    """Return whether the metrics CronJob repeats its pass, with time for a pod that is late."""
    job = objects["CronJob/ops-worker-metrics"]["spec"]["jobTemplate"]["spec"]
    args = job["template"]["spec"]["containers"][0]["args"]
    return bool(args[:3] == ["metrics", "--every", "5"] and job["activeDeadlineSeconds"] == 59)


def has_files(objects: Objects) -> bool:
    """Return whether every pod has the password in a file, and no variables from a Secret."""
    boxes = [pod["containers"][0] for pod in pods(objects)]
    sources = {key for box in boxes for source in box["envFrom"] for key in source}
    mounts = [{mount["mountPath"] for mount in box["volumeMounts"]} for box in boxes]
    expected = {"/run/secrets/ops-worker", "/tmp", "/etc/ops-worker"}
    return sources == {"configMapRef"} and all(paths == expected for paths in mounts)


EFFECTS: dict[str, Callable[[Objects], bool]] = {
    "monitoring": lambda objects: "PrometheusRule/ops-worker" in objects,
    "events": lambda objects: (
        env(objects, "health").get("KUBERNETES_EVENTS") == "true" and 6443 in ports(objects)
    ),
    "alertmanager": lambda objects: (
        "ALERTMANAGER_URL" in objects["ConfigMap/ops-worker"]["data"] and 9093 in ports(objects)
    ),
    "sharded": lambda objects: env(objects, "health").get("SHARD_COUNT") == "3",
    "every-5s": every_5s,
    "sidecar": lambda objects: (
        "Deployment/ops-worker-sidecar" in objects and "CronJob/ops-worker-metrics" not in objects
    ),
    "pull-secret": lambda objects: (
        objects["ServiceAccount/ops-worker"].get("imagePullSecrets")
        == [{"name": "ops-worker-registry"}]
    ),
    "priority": lambda objects: (
        "PriorityClass/ops-worker" in objects
        and all(pod.get("priorityClassName") == "ops-worker" for pod in pods(objects))
    ),
    "scheduling": lambda objects: all(
        {"nodeSelector", "tolerations", "affinity"} <= pod.keys() for pod in pods(objects)
    ),
    "secret-files": has_files,
    "openshift": lambda objects: (
        5353 in ports(objects)
        and not any(
            pod["securityContext"].keys() & {"runAsUser", "runAsGroup"} for pod in pods(objects)
        )
    ),
    "digest": lambda objects: all(
        "@sha256:" in pod["containers"][0]["image"] for pod in pods(objects)
    ),
}  # fmt: skip
"""For each component, a function that checks the objects for its effect."""


def test_every_component_is_tested_and_described() -> None:
    """Each component is in a list here, in the table of the page, and in the overlay to copy."""
    folders = {path.name for path in (K8S / "components").iterdir() if path.is_dir()}
    assert {*WHAT, *HOW, "inject"} <= folders
    assert EFFECTS.keys() == {*WHAT, *HOW}
    page = (K8S.parent / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert {*WHAT, *HOW, "inject"} <= set(re.findall(r"k8s/components/([\w-]+)\)", page))
    overlay = (K8S / "examples" / "overlay" / "kustomization.yaml").read_text(encoding="utf-8")
    listed = [
        name
        for name in re.findall(r"\.\./\.\./components/([\w-]+)", overlay)
        if name in {*WHAT, *HOW}
    ]
    assert listed == [name for name in (*WHAT, *HOW) if name != "digest"]


def test_example_needs_no_pull_secret() -> None:
    """Pods of the example name no Secret of a registry, because a missing one causes warnings."""
    rendered = (K8S / "examples" / "overlay" / "rendered.yaml").read_text(encoding="utf-8")
    assert "imagePullSecrets" not in rendered


def test_example_of_further_rules(tmp_path: Path) -> None:
    """The commented rules of the example let the worker reach a service outside the cluster."""
    place = tmp_path.resolve() / "k8s"
    for name in ("base", "examples/overlay"):
        shutil.copytree(K8S / name, place / name)
    folder = place / "examples" / "overlay"
    policy = folder / "networkpolicy.yaml"
    text = policy.read_text(encoding="utf-8")
    enabled = re.sub(r"^# ((?:- op| ).*)$", r"\1", text, flags=re.MULTILINE)
    policy.write_text(enabled, encoding="utf-8")
    catalogue = folder / "catalogue.yaml"
    url = "https://shop.example.com"
    with_url = catalogue.read_text(encoding="utf-8").replace("http://shop.shop:8080", url)
    catalogue.write_text(with_url, encoding="utf-8")
    content = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    objects = kustomize(folder, content)
    assert ports(objects) >= {9000, 443}
    assert faults_of(list(objects.items())) == []
    policy.write_text(text, encoding="utf-8")
    closed = faults_of(list(kustomize(folder, content).items()))
    assert closed
    assert all("TCP 443 outside the cluster (service shop)" in fault for fault in closed)


@pytest.mark.parametrize("name", [*WHAT, *HOW])
def test_alone(tmp_path: Path, name: str) -> None:
    """A component has its effect, has no fault, and has the effect of no other component."""
    objects = combined(tmp_path, [name])
    assert_right(objects)
    others = {*WHAT, *HOW} - {name}
    if name == "sidecar":
        others.discard("every-5s")  # there is no CronJob to look at
    assert EFFECTS[name](objects)
    assert [other for other in others if EFFECTS[other](objects)] == []


PAIRS = [pair for pair in itertools.combinations((*WHAT, *HOW), 2) if set(pair) != CONTRADICTION]


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_pair(tmp_path: Path, pair: tuple[str, str]) -> None:
    """Two components, in the order of the overlay, both have their effect and no fault."""
    objects = combined(tmp_path, pair)
    assert faults_of([*objects.items()]) == []
    assert [name for name in pair if not EFFECTS[name](objects)] == []


@pytest.mark.parametrize("left_out", sorted(CONTRADICTION))
def test_all(tmp_path: Path, left_out: str) -> None:
    """All components work together, except one of the two that contradict each other."""
    names = [name for name in (*WHAT, *HOW) if name != left_out]
    objects = combined(tmp_path, names)
    assert_right(objects)
    assert [name for name in names if not EFFECTS[name](objects)] == []


def _sorted_lists(node: Any) -> Any:
    """Return a document with sorted lists, so that their order does not count."""
    if isinstance(node, dict):
        return {key: _sorted_lists(value) for key, value in node.items()}
    if isinstance(node, list):
        return sorted((_sorted_lists(item) for item in node), key=repr)
    return node


def test_order(tmp_path: Path) -> None:
    """In each of the two groups, any order works if monitoring comes before sidecar."""
    first = ["monitoring", "events", "alertmanager", "sharded", "sidecar", *HOW]
    second = ["sharded", "monitoring", "sidecar", "alertmanager", "events", *reversed(HOW)]
    first_objects, second_objects = combined(tmp_path, first), combined(tmp_path, second)
    assert _sorted_lists(first_objects) == _sorted_lists(second_objects)


@pytest.mark.parametrize(
    "settings",
    [
        {"namespace": "elsewhere", "namePrefix": "eu-", "nameSuffix": "-b"},
        {"namespace": "elsewhere"},
    ],
)
@pytest.mark.parametrize("left_out", sorted(CONTRADICTION))
def test_renamed(tmp_path: Path, left_out: str, settings: dict[str, str]) -> None:
    """References between objects stay right when an overlay renames the objects."""
    names = [name for name in (*WHAT, *HOW) if name != left_out]
    objects = combined(tmp_path, names, **settings)
    assert_right(objects)
    prefix, suffix = settings.get("namePrefix", ""), settings.get("nameSuffix", "")
    role = objects[f"Role/{prefix}ops-worker-events{suffix}"]
    assert role["rules"][1]["resourceNames"] == [f"{prefix}ops-worker-health{suffix}"]


@pytest.mark.parametrize("names", [["every-5s", "sidecar"], ["sidecar", "every-5s"]], ids="+".join)
def test_contradiction(tmp_path: Path, names: list[str]) -> None:
    """With sidecar, every-5s has no effect, as its comment says: there is one metrics loop."""
    assert combined(tmp_path, names) == combined(tmp_path, ["sidecar"])


def test_monitoring_after_sidecar(tmp_path: Path) -> None:
    """In the wrong order, a record has no CronJob, and the fault says what to do."""
    objects = combined(tmp_path, ["sidecar", "monitoring"])
    (fault,) = faults_of([*objects.items()])
    assert "CronJob ops-worker/ops-worker-metrics is not in the files" in fault
    assert fault.endswith("list the component monitoring before sidecar)")


def test_secret_files_before_sidecar(tmp_path: Path) -> None:
    """In the wrong order, a pod keeps its variable, and the fault says what to do."""
    objects = combined(tmp_path, ["secret-files", "sidecar"])
    (fault,) = faults_of([*objects.items()])
    assert fault.startswith("Deployment/ops-worker-sidecar: ")
    assert "has no PG_PASS_FILE, which CronJob/ops-worker-health has" in fault
    assert fault.endswith("list the component secret-files after those that add pods)")


@pytest.mark.parametrize("name", [*WHAT])
def test_variant(tmp_path: Path, name: str) -> None:
    """A variant is the installation with one component. The monitoring variant has no CronJobs."""
    home = os.path.relpath(K8S / "variants" / name, tmp_path.resolve())
    objects = kustomize(tmp_path, {"resources": [home]})
    expected = combined(tmp_path, [name])
    if name == "monitoring":
        names = ("PrometheusRule/ops-worker", "ConfigMap/ops-worker-dashboard")
        expected = {name: expected[name] for name in names}
    assert objects == expected


@pytest.mark.parametrize("place", ["components", "variants"])
def test_inject(tmp_path: Path, place: str) -> None:
    """The component adds the sidecar to a labelled Deployment, from its old and its new folder."""
    home = os.path.relpath(K8S, tmp_path.resolve())
    content = {
        "namespace": "ops-worker",
        "resources": [f"{home}/base", "app.yaml"],
        "components": [f"{home}/{place}/inject"],
    }
    app = (K8S / "examples" / "inject" / "app.yaml").read_text(encoding="utf-8")
    (tmp_path / "app.yaml").write_text(app, encoding="utf-8")
    objects = kustomize(tmp_path, content)
    assert_right(objects)
    template = objects["Deployment/my-app"]["spec"]["template"]
    (sidecar,) = template["spec"]["initContainers"]
    assert (sidecar["args"], sidecar["restartPolicy"]) == (["sidecar"], "Always")
    assert sidecar["volumeMounts"][0]["mountPath"] == "/etc/ops-worker"
    assert template["spec"]["volumes"][0]["configMap"]["name"] == "ops-worker-catalogue"
    assert template["metadata"]["labels"]["ops-worker.io/inject"] == "true"
    (tmp_path / "app.yaml").write_text(app.replace('"true"', '"false"'), encoding="utf-8")
    untouched = kustomize(tmp_path, content)["Deployment/my-app"]["spec"]["template"]
    assert "initContainers" not in untouched["spec"]


CSI = {"driver": "secrets-store.csi.k8s.io", "readOnly": True}


def test_csi(tmp_path: Path) -> None:
    """An overlay can replace the Secret of secret-files with the volume of a CSI driver."""
    text = (K8S / "components" / "secret-files" / "kustomization.yaml").read_text(encoding="utf-8")
    comment = text.partition("# For a CSI driver")[2].partition("# For Vault")[0]
    lines = [line.removeprefix("#") for line in comment.splitlines()[1:]]
    patches = yaml.safe_load("\n".join(lines))
    objects = combined(tmp_path, ["secret-files"], patches=patches)
    assert_right(objects)
    for pod in pods(objects):
        (volume,) = (item for item in pod["volumes"] if item["name"] == "secret")
        assert volume.keys() == {"name", "csi"}
        assert volume["csi"].items() >= CSI.items()
