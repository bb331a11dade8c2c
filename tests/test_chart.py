"""Tests of the Helm chart: its objects equal those of kustomize, and its values are checked."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ops_worker import __version__
from ops_worker.cli import _parser
from ops_worker.commands.manifests import program_facts
from ops_worker.manifest_rules import Document, check
from tests.kubernetes_tools import BIN, executable
from tests.manifest_rules.installation import documents
from tests.pages import chart_schema
from tests.render import K8S, misfits_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

HELM = executable("helm")
KUBECTL = executable("kubectl")
pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(
        HELM is None or KUBECTL is None, reason="python -m tests.kubernetes_tools installs them"
    ),
]

CHART = K8S / "helm" / "ops-worker"
RELEASE = ("--name-template", "ops-worker", "--namespace", "ops-worker")
DIFFERENT_LABELS = {"app.kubernetes.io/managed-by": "Helm"}
"""Labels that differ from those of kustomize: Helm writes this one when it creates an object."""
ENABLED = {"enabled": True}
SCHEDULING = {
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [
        {"key": "node-role.kubernetes.io/infra", "operator": "Exists", "effect": "NoSchedule"}
    ],
    "affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "preference": {
                        "matchExpressions": [
                            {"key": "node-role.kubernetes.io/infra", "operator": "Exists"}
                        ]
                    },
                }
            ]
        }
    },
}
COMPONENTS: dict[str, dict[str, Any]] = {
    "alertmanager": {"components": {"alertmanager": ENABLED}},
    "digest": {"image": {"digest": f"sha256:{'0' * 64}"}},
    "events": {"components": {"events": ENABLED}},
    "every-5s": {"components": {"every5s": ENABLED}},
    "monitoring": {"components": {"monitoring": ENABLED}},
    "openshift": {"components": {"openshift": ENABLED}},
    "priority": {"scheduling": {"priorityClassName": "ops-worker"}},
    "pull-secret": {"imagePullSecrets": [{"name": "ops-worker-registry"}]},
    "scheduling": {"scheduling": SCHEDULING},
    "secret-files": {"components": {"secretFiles": ENABLED}},
    "sharded": {"components": {"sharded": ENABLED}},
    "sidecar": {"components": {"sidecar": ENABLED}},
}
"""For each component of kustomize, the values that give the same objects."""
NOT_IN_THE_CHART = {
    "dashboard": "it is a part of `monitoring`; to have it alone, import it",
    "inject": "it changes a Deployment of yours, which the chart does not contain",
    "scrape": "apply it beside a release named ops-worker that has the sidecar",
}
NO_OBJECT_OF_THE_CHART = {"PriorityClass": "it belongs to the whole cluster, not to a release"}
EXCLUDED = "every5s"
EVERYTHING: dict[str, Any] = {
    "image": {"digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "scheduling": {**SCHEDULING, "priorityClassName": "high"},
    "components": {
        name: ENABLED
        for name in yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))[
            "components"
        ]
        if name != EXCLUDED
    },
}
"""All components except the one that the sidecar excludes."""


def as_yaml(values: dict[str, Any] | None) -> str:
    """Return values as JSON that a YAML parser reads: without pairs of surrogates."""
    text = json.dumps(values, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\ufeff\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def helm(*arguments: str, values: dict[str, Any] | None = None) -> tuple[int, str, str]:
    """Run helm with values. Return its exit code, its output and its errors."""
    assert HELM is not None
    result = subprocess.run(
        [HELM, *arguments, *(("--values", "-") if values else ())],
        input=as_yaml(values),
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


def template(
    values: dict[str, Any] | None = None, *, options: Sequence[str] = (), chart: Path = CHART
) -> str:
    """Return the YAML that the chart renders. Later options override earlier ones."""
    code, text, error = helm("template", str(chart), *RELEASE, *options, values=values)
    assert code == 0, error
    return text


def refusal(values: dict[str, Any] | None = None, *, options: Sequence[str] = ()) -> str:
    """Return the error of helm, which must refuse the values."""
    code, _, error = helm("template", str(CHART), *RELEASE, *options, values=values)
    assert code != 0
    return error


def objects(text: str) -> dict[str, Any]:
    """Return the objects of a YAML text by kind and name."""
    contents = documents(text)
    by_name = {f"{content['kind']}/{content['metadata']['name']}": content for content in contents}
    assert len(by_name) == len(contents), "two objects with one name"
    return by_name


def with_labels_of_helm(content: Any) -> Any:
    """Return an object of kustomize with the labels that Helm writes."""
    if isinstance(content, list):
        return [with_labels_of_helm(item) for item in content]
    if isinstance(content, dict):
        return {
            key: DIFFERENT_LABELS.get(key, with_labels_of_helm(value))
            for key, value in content.items()
        }
    return content


def kustomized(folder: Path, component: str) -> dict[str, Any]:
    """Return the objects of the base with one component."""
    kustomization = {
        "namespace": "ops-worker",
        "resources": [os.path.relpath(K8S / "base", folder)],
        "components": [os.path.relpath(K8S / "components" / component, folder)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    assert KUBECTL is not None
    result = subprocess.run(
        [KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=True
    )
    return objects(result.stdout)


def assert_equal(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that the objects of the chart equal those of kustomize."""
    assert actual.keys() == expected.keys()
    for name, content in expected.items():
        assert actual[name] == with_labels_of_helm(content), name


def faults(contents: Iterable[Any]) -> list[str]:
    """Return the faults of objects by the Kubernetes schemas and `ops-worker manifests check`."""
    contents = list(contents)
    facts = program_facts(_parser())
    misfits = [misfit for content in contents for misfit in misfits_of(copy.deepcopy(content))]
    findings = check([Document("chart", content) for content in contents], facts)
    return [*misfits, *map(str, findings)]


def test_default() -> None:
    """Without any value, the chart renders the objects of k8s/*.yaml."""
    files = sorted(K8S.glob("*.yaml"))
    expected = objects("\n---\n".join(path.read_text(encoding="utf-8") for path in files))
    assert_equal(objects(template()), expected)


def test_every_component_is_known() -> None:
    """Each component of kustomize has values of the chart, or a reason why not."""
    folders = {path.name for path in (K8S / "components").iterdir()}
    assert folders == COMPONENTS.keys() | NOT_IN_THE_CHART.keys()


@pytest.mark.parametrize("component", COMPONENTS)
def test_component(component: str, tmp_path: Path) -> None:
    """With one component, the objects equal those of kustomize, and have no fault."""
    expected = kustomized(tmp_path.resolve(), component)
    for name in list(expected):
        if name.partition("/")[0] in NO_OBJECT_OF_THE_CHART:
            del expected[name]
    actual = objects(template(COMPONENTS[component]))
    assert_equal(actual, expected)
    assert faults(actual.values()) == []


def test_all_together() -> None:
    """Components that do not exclude each other can be enabled together."""
    contents = objects(template(EVERYTHING))
    assert faults(contents.values()) == []
    assert "CronJob/ops-worker-metrics" not in contents
    (group,) = contents["PrometheusRule/ops-worker"]["spec"]["groups"]
    recorded = [rule["labels"]["cronjob"] for rule in group["rules"] if "record" in rule]
    assert recorded == ["ops-worker-health", "ops-worker-rollup"]


def test_components_that_exclude_each_other() -> None:
    """The chart refuses the sidecar with every5s: it replaces the CronJob that every5s changes."""
    error = refusal({"components": {"sidecar": ENABLED, EXCLUDED: ENABLED}})
    assert "enable one of them" in error


def test_another_release() -> None:
    """All objects of a release have its name and its namespace."""
    options = ("--name-template", "acme", "--namespace", "watch")
    text = template(EVERYTHING, options=options)
    contents = objects(text)
    assert {name for name in contents if "CronJob" in name} == {
        "CronJob/acme-health",
        "CronJob/acme-init-db",
        "CronJob/acme-rollup",
    }
    names = {content["metadata"]["name"] for content in contents.values()}
    assert {name for name in names if not name.startswith("acme")} == {"watch"}, "the Namespace"
    spaces = {content["metadata"].get("namespace") for content in contents.values()}
    assert spaces == {"watch", None}
    assert "name: ops-worker-" not in text
    assert "namespace: ops-worker" not in text
    assert faults(contents.values()) == []


@pytest.mark.parametrize("name", ["123", "true", "on", "null", "1e3", "2024"])
def test_names_that_look_like_other_types(name: str) -> None:
    """A name stays a string, even if unquoted YAML would be a number, a boolean or null."""
    values = copy.deepcopy(EVERYTHING)
    values["existingSecret"] = name
    values["scheduling"]["priorityClassName"] = name
    values["image"] = {"repository": "10", "tag": "20"}
    values["components"]["secretFiles"] = {"enabled": False}
    values["components"]["monitoring"] = {"enabled": True, "labels": {name: name}}
    options = ("--name-template", name, "--namespace", name)
    contents = objects(template(values, options=options))
    assert faults(contents.values()) == []
    rule = contents[f"PrometheusRule/{name}"]["metadata"]
    assert (rule["name"], rule["namespace"], rule["labels"][name]) == (name, name, name)
    assert rule["labels"]["app.kubernetes.io/instance"] == name
    assert contents[f"Namespace/{name}"]["metadata"]["name"] == name
    job = contents[f"CronJob/{name}-health"]["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "10:20"
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == (name, name)
    assert container["envFrom"] == [
        {"configMapRef": {"name": name}},
        {"secretRef": {"name": name}},
    ]
    assert contents[f"RoleBinding/{name}-events"]["subjects"] == [
        {"kind": "ServiceAccount", "name": name, "namespace": name}
    ]


TEXTS = [
    "",
    "\n",
    "\n\n[a]\n",
    "   [a]\n b\n",
    "[a]",
    "[a]\n\n\n",
    "\t[a] \n",
    "a: b # c\r\n",
    "<&> {{ x }} 'y' \"z\" \\u007f \\",
    "\x00\x07\x1b\x7f\x80\x85\x9f\u2028\ufeff\uffff",
    "\u00e4\U0001f600",
    "1e3",
    "null",
    "---\n...\n",
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_texts(text: str) -> None:
    """The catalogue and the settings have exactly the text of the values."""
    values = {
        "catalogue": text,
        "settings": {"PG_DB": text},
        "catalogueVariables": {"SHOP_URL": text},
        "scheduling": {"nodeSelector": {"key": text}},
    }
    contents = objects(template(values))
    assert contents["ConfigMap/ops-worker-catalogue"]["data"] == {"catalogue.toml": text}
    settings = contents["ConfigMap/ops-worker"]["data"]
    assert (settings["PG_DB"], settings["SHOP_URL"]) == (text, text)
    pod = contents["CronJob/ops-worker-health"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"key": text}


def test_large_numbers() -> None:
    """A number of a million or more keeps its digits: Kubernetes refuses `1e+06`."""
    toleration = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3_600_000}
    port = {"protocol": "TCP", "port": 1_000_000}
    text = template(
        {
            "resources": {"limits": {"memory": 134_217_728}},
            "scheduling": {"tolerations": [toleration]},
            "networkPolicy": {"extraEgress": [{"ports": [port]}]},
            "schedules": {"health": {"period": 999_999, "startingDeadlineSeconds": 999_999}},
        }
    )
    contents = objects(text)
    cronjob = contents["CronJob/ops-worker-health"]["spec"]
    assert cronjob["startingDeadlineSeconds"] == 999_999
    pod = cronjob["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["tolerations"] == [toleration]
    assert type(pod["tolerations"][0]["tolerationSeconds"]) is int
    (container,) = pod["containers"]
    assert {"name": "PASS_PERIOD", "value": "999999"} in container["env"]
    assert '{"memory":134217728}' in text
    assert '"port":1000000' in text


def test_labels_of_monitoring() -> None:
    """The chart refuses labels of the PrometheusRule that it sets itself: YAML keys are unique."""
    for label in ("app.kubernetes.io/component", "app.kubernetes.io/name"):
        monitoring = {"enabled": True, "labels": {label: "x"}}
        error = refusal({"components": {"monitoring": monitoring}})
        assert f'"{label}", which the chart sets itself: remove it' in error


@pytest.mark.parametrize(("length", "accepted"), [(44, True), (45, False)])
def test_length_of_names(length: int, accepted: bool) -> None:
    """The chart refuses a release if the name of a CronJob has more than 52 characters."""
    options = ("--name-template", "a" * length)
    if not accepted:
        assert "more than 44 characters" in refusal(options=options)
        return
    contents = objects(template(options=options))
    names = [name.partition("/")[2] for name in contents if name.startswith("CronJob/")]
    assert max(map(len, names)) == 52
    assert faults(contents.values()) == []


def test_namespace() -> None:
    """A release has no Namespace, because it must exist before. `helm template` has one."""
    in_cluster = ("--api-versions", "v1/Namespace")
    with_namespace = {"namespace": {"create": True}}
    without_namespace = {"namespace": {"create": False}}
    assert "Namespace/ops-worker" in objects(template())
    assert "Namespace/ops-worker" not in objects(template(options=in_cluster))
    assert "Namespace/ops-worker" in objects(template(with_namespace, options=in_cluster))
    assert "Namespace/ops-worker" not in objects(template(without_namespace))
    in_default = ("--namespace", "default")
    assert "Namespace/default" not in objects(template(options=in_default))


def test_values() -> None:
    """Image, Secret, settings, schedule, resources and port come from the values."""
    https = {"ports": [{"protocol": "TCP", "port": 443}]}
    values = {
        "image": {"repository": "registry.example.com/ops-worker", "tag": "1.2.3"},
        "existingSecret": "database",
        "settings": {"PG_HOST": "db.example.com", "PG_ROLE": None, "HISTORY_DAYS": "1000"},
        "initDb": {"standalone": True},
        "catalogueVariables": {"SHOP_URL": "http://shop:8080"},
        "catalogue": '[services.shop]\nurl = "${SHOP_URL}"\n',
        "schedules": {
            "health": {"schedule": "*/5 * * * *", "period": 300},
            "rollup": {"enabled": False},
        },
        "resources": {"limits": {"memory": "256Mi"}},
        "networkPolicy": {"extraEgress": [https]},
    }
    contents = objects(template(values))
    assert "CronJob/ops-worker-rollup" not in contents
    settings = contents["ConfigMap/ops-worker"]["data"]
    assert settings["PG_HOST"] == "db.example.com"
    assert settings["SHOP_URL"] == "http://shop:8080"
    assert settings["HISTORY_DAYS"] == "1000"
    assert "PG_ROLE" not in settings
    health = contents["CronJob/ops-worker-health"]["spec"]
    (container,) = health["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert health["schedule"] == "*/5 * * * *"
    assert container["image"] == "registry.example.com/ops-worker:1.2.3"
    assert {"secretRef": {"name": "database"}} in container["envFrom"]
    assert {"name": "PASS_PERIOD", "value": "300"} in container["env"]
    assert container["resources"]["limits"] == {"memory": "256Mi"}
    assert contents["NetworkPolicy/ops-worker"]["spec"]["egress"][-1] == https
    assert "- --standalone" in yaml.safe_dump(contents["CronJob/ops-worker-init-db"])
    assert faults(contents.values()) == []


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("imag.tag=1", "additional properties 'imag' not allowed"),
        ("image.tagg=1", "additional properties 'tagg' not allowed"),
        ("image.digest=sha256:12", "/image/digest"),
        ("settings.PG_HSOT=db", "additional properties 'PG_HSOT' not allowed"),
        ("settings.PG_PORT=5432", "got number, want string"),
        ("settings.PG_PASS=hunter2", "additional properties 'PG_PASS' not allowed"),
        ("catalogueVariables.DATABASE_URL=hunter2", "invalid propertyName 'DATABASE_URL'"),
        ("components.event.enabled=true", "additional properties 'event' not allowed"),
        ("components.sharded.shards=1", "/components/sharded/shards"),
        ("components.sharded.shards=1001", "/components/sharded/shards"),
        ("schedules.health.period=1000000", "/schedules/health/period"),
        ("schedules.health.passDeadline=86401", "/schedules/health/passDeadline"),
        ("schedules.health.activeDeadlineSeconds=1000000", "activeDeadlineSeconds"),
        ("schedules.health.startingDeadlineSeconds=1000000", "startingDeadlineSeconds"),
        ("initDb=null", "missing property 'initDb'"),
        ("schedules.health.startingDeadlineSeconds=5", "startingDeadlineSeconds"),
        ("schedules.weekly.enabled=true", "additional properties 'weekly' not allowed"),
        ("namespace.create=maybe", "/namespace/create"),
        ("scheduling.nodeselector.os=linux", "additional properties 'nodeselector' not allowed"),
    ],
)
def test_wrong_value(setting: str, problem: str) -> None:
    """The chart refuses an unknown key or a wrong type, and quotes no password."""
    error = refusal(options=("--set", setting))
    assert problem in error
    assert "hunter2" not in error


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_lint(values: dict[str, Any]) -> None:
    """`helm lint --strict` finds no fault in the chart."""
    code, text, _ = helm("lint", "--strict", str(CHART), values=values)
    assert code == 0, text


def test_package(tmp_path: Path) -> None:
    """The packaged chart renders the same text as its folder. It contains the linked files, too."""
    code, _, error = helm("package", str(CHART), "--destination", str(tmp_path))
    assert code == 0, error
    archive = tmp_path / f"ops-worker-{__version__}.tgz"
    assert template(EVERYTHING, chart=archive) == template(EVERYTHING)


def test_release_package(tmp_path: Path) -> None:
    """The chart of a release uses the image of the release, by its digest."""
    image = f"registry.example.com/ops-worker@sha256:{'1' * 64}"
    repository, _, digest = image.partition("@")
    result = subprocess.run(
        [K8S.parent / ".ci" / "chart", repository, digest, tmp_path],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    contents = objects(template(chart=tmp_path / f"ops-worker-{__version__}.tgz"))
    pod = contents["CronJob/ops-worker-health"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == image


def test_version() -> None:
    """The chart has the version of the package, and uses the image of this version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_schema_is_fresh() -> None:
    """The schema has every setting, except secrets and those that the chart sets itself."""
    path, text = chart_schema()
    assert path.read_text(encoding="utf-8") == text, "run python -m tests.pages"


def notes(values: dict[str, Any] | None = None) -> str:
    """Return the notes that helm prints after it has installed the release `acme`."""
    options = ("--namespace", "watch", "--dry-run=client")
    code, text, error = helm("install", "acme", str(CHART), *options, values=values)
    assert code == 0, error
    return text.partition("NOTES:")[2]


def test_notes() -> None:
    """The notes name the Secret, the CronJob and the namespace of the release."""
    text = notes()
    assert "kubectl -n watch create secret generic acme " in text
    assert "cronjob/acme-init-db" in text
    commands = re.findall(r"(?:kubectl|helm) [^`\n]+", text)
    assert len(commands) == 5
    assert all(command.split()[1:3] == ["-n", "watch"] for command in commands)


def test_notes_of_standalone() -> None:
    """The notes say when `initDb.standalone` is needed, or that it is on."""
    assert "set initDb.standalone to true" in notes()
    standalone = notes({"initDb": {"standalone": True}})
    assert "those of the platform (initDb.standalone)" in standalone
    assert "upgrade" not in standalone


def test_example_of_an_own_database() -> None:
    """The example values of docs/helm.md name no part of the platform, and have no fault."""
    page = (K8S.parent / "docs" / "helm.md").read_text(encoding="utf-8")
    section = page.partition("## A database of your own\n")[2]
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    values = yaml.safe_load(example)
    contents = objects(template(values))
    assert faults(contents.values()) == []
    settings = contents["ConfigMap/ops-worker"]["data"]
    assert not [name for name in settings if name == "PG_ROLE" or name.endswith("_URL")]
    assert "iotcloud" not in yaml.safe_dump(contents)
    assert "- --standalone" in yaml.safe_dump(contents["CronJob/ops-worker-init-db"])
    del values["networkPolicy"]
    closed = faults(objects(template(values)).values())
    assert any("TCP 5433 (PG_PORT)" in fault for fault in closed)
    assert any("TCP 443 outside the cluster (service payments)" in fault for fault in closed)
