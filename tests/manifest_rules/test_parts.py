"""Tests of documents, numbers, pod templates, environment variables and files."""

from __future__ import annotations

from typing import Any

import pytest

from ops_worker.core.pods import Container
from ops_worker.manifest_rules.parts import (
    Document,
    Fault,
    Worker,
    find_workers,
    number,
    pod_template,
    serves,
)

pytestmark = pytest.mark.unit


def deployment(container: dict[str, Any], **pod: object) -> Document:
    """Return a Deployment of the worker with these fields of its container and its pod."""
    container = {"name": "ops-worker", "args": ["health"]} | container
    spec = {"template": {"spec": {"containers": [container]} | pod}}
    metadata = {"name": "x", "namespace": "ops"}
    return Document("d.yaml", {"kind": "Deployment", "metadata": metadata, "spec": spec})


def config_map(name: str, **data: str) -> Document:
    """Return a ConfigMap of the same namespace."""
    metadata = {"name": name, "namespace": "ops"}
    return Document("c.yaml", {"kind": "ConfigMap", "metadata": metadata, "data": data})


def worker_of(*documents: Document) -> Worker:
    """Return the only worker of some documents."""
    (worker,) = find_workers(documents)
    return worker


def variable(name: str, value: str) -> dict[str, Any]:
    """Return a variable with a value."""
    return {"name": name, "value": value}


def variable_from(name: str, kind: str, source: str, key: str) -> dict[str, Any]:
    """Return a variable from a key of a ConfigMap or of a Secret."""
    return {"name": name, "valueFrom": {kind: {"name": source, "key": key}}}


def test_document() -> None:
    """A document of any shape has a kind, a name, a namespace and labels, which may be empty."""
    document = Document("x.yaml", {"kind": 5, "metadata": {"name": ["x"], "labels": "none"}})
    assert (document.kind, document.name, document.namespace) == ("", "", "")
    assert document.labels == {}
    assert document.fault("spec", "is wrong") == Fault("x.yaml", "/", "spec", "is wrong")


def test_fault_is_one_line() -> None:
    """A fault is one line, whatever a name contains."""
    fault = Fault("x.yaml", "CronJob/a\nb", "spec", "is\twrong")
    assert str(fault) == "x.yaml: CronJob/a b: spec: is wrong"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (5, 5.0),
        ("5", 5.0),
        (2.5, 2.5),
        (True, None),
        (None, None),
        ("five", None),
        ([5], None),
        (10**400, None),
    ],
)
def test_number(node: object, expected: float | None) -> None:
    """A number or a string of digits is a number. A boolean is not."""
    assert number(node) == expected


@pytest.mark.parametrize(
    ("kind", "spec", "path"),
    [
        (
            "CronJob",
            {"jobTemplate": {"spec": {"template": "POD"}}},
            "spec.jobTemplate.spec.template",
        ),
        ("Deployment", {"template": "POD"}, "spec.template"),
        ("Rollout", {"template": "POD"}, "spec.template"),
    ],
)
def test_pod_template(kind: str, spec: dict[str, Any], path: str) -> None:
    """The pod template is found in any kind, at the kind's own path."""
    template: dict[str, Any] = {"spec": {"containers": [{}]}}

    def filled(node: Any) -> Any:
        if node == "POD":
            return template
        return {key: filled(value) for key, value in node.items()}

    actual_path, actual = pod_template(Document("x", {"kind": kind, "spec": filled(spec)}))
    assert (".".join(actual_path), actual) == (path, template)


def test_pod_itself() -> None:
    """A Pod is its own template. Without containers, there is no template."""
    pod = {"kind": "Pod", "spec": {"containers": [{}]}}
    assert pod_template(Document("x", pod)) == ((), pod)
    assert pod_template(Document("x", {"kind": "Pod", "spec": {"containers": []}})) == ((), {})
    assert pod_template(Document("x", {"kind": "Service", "spec": {}}))[1] == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"image": "envoyproxy/envoy:1"}, True),
        ({"image": "x", "command": ["/usr/bin/pgbouncer", "x.ini"]}, True),
        ({"image": "redis:7", "command": ["redis-cli", "flushall"]}, False),
        ({"image": "x", "readinessProbe": {"httpGet": {"path": "/"}}}, True),
        ({"image": "x", "command": ["tail", "-f", "/dev/null"]}, True),
        ({"image": "x", "command": ["sh", "-c", "sleep infinity & run; kill $!"]}, False),
        ({"image": "nginx", "command": ["sh", "-c", "nginx -t"]}, False),
        ({"image": "x"}, False),
    ],
)
def test_serves(content: dict[str, Any], expected: bool) -> None:
    """The name, the probe or the command shows that a container runs forever. A shell does not."""
    assert serves(Container("containers", 0, content)) == expected


def test_values_of_the_environment() -> None:
    """Values come from `env`, from ConfigMaps and from earlier variables."""
    env = [
        variable("HOST", "db"),
        variable("URL", "http://$(HOST):$(PORT)/$$(HOST)"),
        variable_from("MODE", "configMapKeyRef", "settings", "mode"),
        variable_from("ABSENT", "configMapKeyRef", "settings", "absent"),
    ]
    sources = [{"configMapRef": {"name": "settings"}, "prefix": "X_"}]
    settings = config_map("settings", mode="fast")
    environment = worker_of(settings, deployment({"env": env, "envFrom": sources})).environment
    assert environment.values == {
        "X_mode": "fast",
        "HOST": "db",
        "URL": "http://db:$(PORT)/$(HOST)",
        "MODE": "fast",
    }
    assert environment.undefined == (("URL", "PORT"),)
    assert environment.unknown == {"ABSENT"}
    assert not environment.may_have_more and not environment.password_from_secret


def test_the_last_variable_of_a_name_counts() -> None:
    """A variable replaces an earlier one of the same name, with everything known about it."""
    env = [
        variable_from("PG_PASS", "secretKeyRef", "s", "k"),
        variable("PG_PASS", "plain"),
        variable("HOST", "a"),
        variable_from("HOST", "secretKeyRef", "s", "k"),
    ]
    environment = worker_of(deployment({"env": env})).environment
    assert environment.values == {"PG_PASS": "plain"}
    assert environment.unknown == {"HOST"}
    assert not environment.password_from_secret


def test_secrets_are_not_expanded() -> None:
    """A reference to a secret's name stays, even if its value is in the manifest."""
    env = [variable("PG_PASS", "hunter2"), variable("URL", "http://u:$(PG_PASS)@h")]
    environment = worker_of(deployment({"env": env})).environment
    assert environment.partial == {"URL": "http://u:$(PG_PASS)@h"}
    assert "URL" in environment.unknown


@pytest.mark.parametrize(
    ("source", "missing", "may_have_more"),
    [
        ({"configMapRef": {"name": "settings"}}, (), False),
        ({"configMapRef": {"name": "other"}}, ("other",), True),
        ({"configMapRef": {"name": "other", "optional": True}}, (), True),
        ({"secretRef": {"name": "other"}}, (), True),
    ],
)
def test_sources(source: dict[str, Any], missing: tuple[str, ...], may_have_more: bool) -> None:
    """A source that is not in the files may set any variable. A required ConfigMap is reported."""
    settings = config_map("settings", mode="fast")
    environment = worker_of(settings, deployment({"envFrom": [source]})).environment
    assert environment.missing_config_maps == missing
    assert environment.may_have_more == may_have_more
    assert environment.password_from_secret == ("secretRef" in source)


@pytest.mark.parametrize(
    ("source", "known"),
    [([], True), ([{"secretRef": {"name": "s"}}], False)],
)
def test_arguments_with_references(source: list[dict[str, Any]], known: bool) -> None:
    """Arguments are unknown if a reference in them may have a value elsewhere."""
    args = ["health", "--every", "$(EVERY)", "--for=$(FOR)"]
    content = {"args": args, "envFrom": source, "env": [variable("FOR", "55")]}
    worker = worker_of(deployment(content))
    assert worker.arguments == ("health", "--every", "$(EVERY)", "--for=55")
    assert worker.options == {"--every": "$(EVERY)", "--for": "55"}
    assert worker.arguments_known == known


@pytest.mark.parametrize(
    ("mount", "volume_items", "expected"),
    [
        ({}, [], {"/etc/x/a": "1", "/etc/x/b": "2"}),
        ({}, [{"key": "a", "path": "c"}], {"/etc/x/c": "1"}),
        ({"subPath": "b"}, [], {"/etc/x": "2"}),
        ({"subPath": "z"}, [], {}),
    ],
)
def test_files(
    mount: dict[str, str], volume_items: list[dict[str, str]], expected: dict[str, str]
) -> None:
    """A ConfigMap mounts all its keys, some keys under other names, or one file."""
    volume = {"name": "v", "configMap": {"name": "settings", "items": volume_items}}
    mounts = [{"name": "v", "mountPath": "/etc/x/"} | mount]
    worker = worker_of(
        config_map("settings", a="1", b="2"),
        deployment({"volumeMounts": mounts}, volumes=[volume]),
    )
    assert worker.files == expected


@pytest.mark.parametrize(
    ("others", "owns_pod", "only_container"),
    [
        ({}, True, True),
        ({"initContainers": [{"name": "wait"}]}, True, False),
        ({"containers": [{"name": "ops-worker"}, {"name": "app"}]}, False, False),
        ({"containers": [{"name": "ops-worker"}, {"name": "envoy"}]}, False, False),
    ],
)
def test_owner_of_a_pod(others: dict[str, Any], owns_pod: bool, only_container: bool) -> None:
    """A pod with another main container is not owned by the worker."""
    worker = worker_of(deployment({}, **others))
    assert (worker.owns_pod, worker.only_container) == (owns_pod, only_container)


def test_a_proxy_owns_no_job() -> None:
    """In a Job, a container that runs forever serves the pass, so the worker owns the pod."""
    pod = {"containers": [{"name": "ops-worker"}, {"name": "envoy"}]}
    job = Document("j.yaml", {"kind": "Job", "spec": {"template": {"spec": pod}}})
    assert worker_of(job).owns_pod
