"""Tests of the rules about several objects."""

from __future__ import annotations

from typing import Any

import pytest

from tests.manifest_rules.installation import (
    CATALOGUE,
    CONTAINER,
    GONE,
    HEALTH,
    INSTALLED,
    POD,
    assert_fault,
    broken,
    faults_of,
    variant,
)

pytestmark = pytest.mark.unit

ALERTED = variant("variants/alertmanager")

TOML = "data.catalogue|toml"


def test_one_image() -> None:
    """All containers of the worker must run the same image."""
    path = f"{CONTAINER}.image"
    assert faults_of(broken("40-cronjob-metrics.yaml", path, "ops-worker:0.2.0")) == [
        f"40-cronjob-metrics.yaml: CronJob/ops-worker-metrics: {path}: is ops-worker:0.2.0, "
        "but ops-worker-health has ops-worker:0.1.0; use the same image everywhere"
    ]


def test_one_password_source() -> None:
    """If one pod of the worker reads the password from a file, all must."""
    path = f"{CONTAINER}.env[1]"
    file = {"name": "PG_PASS_FILE", "value": "/run/secrets/x"}
    metrics = "40-cronjob-metrics.yaml"
    all_faults = faults_of(broken(metrics, path, file))
    faults = [fault for fault in all_faults if "PG_PASS_FILE" in fault]
    assert [fault.partition(":")[0] for fault in faults] == [
        "40-cronjob-health.yaml",
        "40-cronjob-init-db.yaml",
        "40-cronjob-rollup.yaml",
    ]
    reason = "has no PG_PASS_FILE, which CronJob/ops-worker-metrics has (with kustomize, "
    assert all(f"{CONTAINER}.env: {reason}" in fault for fault in faults)
    empty = broken(metrics, path, file | {"value": ""})
    assert not any("PG_PASS_FILE" in fault for fault in faults_of(empty))


def test_namespace() -> None:
    """An object of the worker must name its namespace."""
    message = "is not set, so kubectl would use whatever namespace is current"
    assert_fault("metadata.namespace", GONE, "metadata.namespace", message)


@pytest.mark.parametrize(
    ("file", "path", "value", "missing"),
    [
        ("30-networkpolicy.yaml", "spec.egress[0].ports[1]", GONE, "TCP 53 (DNS)"),
        ("30-networkpolicy.yaml", "spec.egress[0].ports[0]", GONE, "UDP 53 (DNS)"),
        ("30-networkpolicy.yaml", "spec.egress[1]", GONE, "TCP 5432 (PG_PORT)"),
        ("20-configmap.yaml", "data.PG_PORT", "6432", "TCP 6432 (PG_PORT)"),
        (
            "20-configmap.yaml",
            "data.INGEST_HEALTH_URL",
            "https://ingest",
            "TCP 443 (service ingest)",
        ),
        (
            "20-configmap.yaml",
            "data.INGEST_HEALTH_URL",
            "http://ingest:8081",
            "TCP 8081 (service ingest)",
        ),
    ],
)
def test_network(file: str, path: str, value: object, missing: str) -> None:
    """The network policy must allow every destination of the worker."""
    message = f"does not let CronJob/ops-worker-health reach {missing}"
    assert f"30-networkpolicy.yaml: NetworkPolicy/ops-worker: spec.egress: {message}" in faults_of(
        broken(file, path, value)
    )


@pytest.mark.parametrize("scheme", ["http", "https", "tcp", "tls"])
def test_catalogue_in_the_network(scheme: str) -> None:
    """The network policy must allow the services of the catalogue, with its variables expanded."""
    objects = broken(CATALOGUE, TOML, '[services.a]\nurl = "${SHOP}"')
    objects = broken("20-configmap.yaml", "data.SHOP", f"{scheme}://shop:9000", objects)
    (fault,) = faults_of(objects)[:1]
    assert fault.endswith("does not let CronJob/ops-worker-health reach TCP 9000 (service a)")
    assert len(faults_of(objects)) == 2


POLICY = "30-networkpolicy.yaml"
OUTSIDE_FAULT = (
    f"{POLICY}: NetworkPolicy/ops-worker: spec.egress: "
    "does not let CronJob/ops-worker-health reach TCP {port} outside the cluster (service a); "
    "add an egress rule for port {port} with an ipBlock or without `to`"
)


def outside_faults(url: str, *rules: object) -> list[str]:
    """Return the faults of the NetworkPolicy for a service, with these egress rules added."""
    objects = broken(CATALOGUE, TOML, f'[services.a]\nurl = "{url}"')
    egress = dict(INSTALLED)[POLICY]["spec"]["egress"]
    all_faults = faults_of(broken(POLICY, "spec.egress", [*egress, *rules], objects))
    return [fault for fault in all_faults if "ops-worker-health reach" in fault]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://192.0.2.9:8080", 8080),
        ("http://10.0.0.1:8080", 8080),
        ("http://[2001:db8::1]:8080", 8080),
        ("https://shop.example.com", 443),
        ("https://user:hunter2@shop.example.com.", 443),
        ("tcp://mail.example.com:25", 25),
        ("http://127.0.0.1:8080", None),
        ("http://[::1]:8080", None),
        ("http://shop:8080", None),
        ("http://shop.shop:8080", None),
        ("http://shop.shop.svc:8080", None),
        ("http://shop.shop.svc.cluster.local.:8080", None),
        ("http://shop-0.shop.shop.svc.k8s.example:8080", None),
        ("http://10-0-0-1.shop.pod.cluster.local:8080", None),
    ],
)
def test_network_outside(url: str, port: int | None) -> None:
    """A rule that selects pods does not let the worker reach a service outside the cluster."""
    expected = [] if port is None else [OUTSIDE_FAULT.format(port=port)]
    assert outside_faults(url) == expected


@pytest.mark.parametrize(
    ("to", "is_open"),
    [
        ({}, True),
        ({"to": []}, True),
        ({"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}, True),
        ({"to": [{"podSelector": {}}, {"ipBlock": {"cidr": "192.0.2.0/24"}}]}, True),
        ({"to": [{"podSelector": {}}]}, False),
        ({"to": [{"namespaceSelector": {}}]}, False),
        ({"to": [None]}, False),
    ],
)
def test_rule_for_outside(to: dict[str, Any], is_open: bool) -> None:
    """A rule without `to`, or with an ipBlock, lets the worker reach a service outside."""
    https = {"ports": [{"protocol": "TCP", "port": 443}]}
    expected = [] if is_open else [OUTSIDE_FAULT.format(port=443)]
    assert outside_faults("https://shop.example.com", https | to) == expected
    assert outside_faults("https://shop.example.com", to) == expected


def test_alertmanager_outside() -> None:
    """An Alertmanager outside the cluster needs an egress rule for outside, too."""
    url = "http://alerts.example.com:9093"
    changed = broken("ConfigMap/ops-worker", "data.ALERTMANAGER_URL", url, ALERTED)
    (fault,) = faults_of(changed)
    assert "TCP 9093 outside the cluster (ALERTMANAGER_URL)" in fault


def test_network_ranges() -> None:
    """A range of ports allows all of them. A rule without ports allows everything."""
    wide = [
        {"ports": [{"protocol": protocol, "port": 1, "endPort": 9000}]}
        for protocol in ("TCP", "UDP")
    ]
    assert faults_of(broken("30-networkpolicy.yaml", "spec.egress", wide)) == []
    assert faults_of(broken("30-networkpolicy.yaml", "spec.egress", [{}])) == []


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ({"key": "app.kubernetes.io/component", "operator": "In", "values": ["metrics"]}, False),
        ({"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["metrics"]}, True),
        ({"key": "app.kubernetes.io/name", "operator": "Exists"}, True),
        ({"key": "app.kubernetes.io/name", "operator": "DoesNotExist"}, False),
        ({"key": "app.kubernetes.io/name", "operator": "Like"}, False),
    ],
)
def test_network_expressions(expression: dict[str, Any], holds: bool) -> None:
    """A policy with match expressions applies to the pods that they select."""
    closed = broken(
        "30-networkpolicy.yaml",
        "spec.egress",
        GONE,
        broken("30-networkpolicy.yaml", "spec.podSelector", {"matchExpressions": [expression]}),
    )
    assert any("CronJob/ops-worker-health reach" in fault for fault in faults_of(closed)) == holds


def test_secret() -> None:
    """A Secret with data and a kustomization are faults."""
    secret = {
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "x"},
        "stringData": {"PG_PASS": "hunter2"},
    }
    assert faults_of([("s.yaml", secret)]) == [
        "s.yaml: Secret/s: data: a Secret is stored in a file; "
        "create it in the cluster and refer to it"
    ]
    assert faults_of([("kustomization.yaml", {"kind": "Kustomization"})]) == [
        "kustomization.yaml: Kustomization/: kind: `kubectl apply -f` fails on it; "
        "move it to a folder of its own and use `kubectl apply -k`"
    ]


def test_rights() -> None:
    """A Role must grant the verbs that are used, and no others."""
    events = variant("variants/events")
    role = "Role/ops-worker-events"
    assert faults_of(broken(role, "rules[0].verbs", ["create", "delete"], events)) == [
        f"{role}: {role}: rules[0]: grants delete on events, which ops-worker does not use"
    ]
    assert faults_of(broken(role, "rules[0].resources", ["*"], events))[:1] == [
        f"{role}: {role}: rules[0]: grants create on *, which ops-worker does not use"
    ]
    health = "CronJob/ops-worker-health"
    expected = (
        f"{health}: {health}: {CONTAINER}.env: KUBERNETES_EVENTS is on, "
        "but no bound Role in the files grants create on events"
    )
    assert faults_of([(file, content) for file, content in events if file != role]) == [expected]
    assert faults_of(
        [(file, content) for file, content in events if not file.startswith("RoleBinding")]
    ) == [expected]
    assert (
        f"{health}: {health}: {POD}.automountServiceAccountToken: "
        "must be true: the command calls the Kubernetes API"
    ) in faults_of(broken(health, f"{POD}.automountServiceAccountToken", False, events))
    assert (
        "NetworkPolicy/ops-worker: NetworkPolicy/ops-worker: spec.egress: "
        f"does not let {health} reach TCP 443 (the API server)"
    ) in faults_of(broken("NetworkPolicy/ops-worker", "spec.egress[3]", GONE, events))


def test_alertmanager() -> None:
    """The NetworkPolicy must allow each Alertmanager's port, only for passes that post."""
    posting = ALERTED
    assert faults_of(posting) == []
    policy = "NetworkPolicy/ops-worker"
    expected = (
        f"{policy}: {policy}: spec.egress: "
        "does not let CronJob/ops-worker-health reach TCP {} (ALERTMANAGER_URL)"
    )
    assert faults_of(broken(policy, "spec.egress[3]", GONE, posting)) == [expected.format(9093)]
    several = "http://a:9093, https://u:p@b,http://c:9093,http://d:x,"
    changed = broken("ConfigMap/ops-worker", "data.ALERTMANAGER_URL", several, posting)
    assert expected.format(443) in faults_of(changed)
    assert not any("9093" in fault for fault in faults_of(changed))


@pytest.mark.parametrize(
    ("version", "kind", "since", "instead"),
    [
        ("batch/v1beta1", "CronJob", "1.25", "batch/v1"),
        ("batch/v2alpha1", "CronJob", "1.21", "batch/v1"),
        ("extensions/v1beta1", "NetworkPolicy", "1.16", "networking.k8s.io/v1"),
        ("extensions/v1beta1", "Deployment", "1.16", "apps/v1"),
        ("apps/v1beta2", "Deployment", "1.16", "apps/v1"),
        ("rbac.authorization.k8s.io/v1beta1", "Role", "1.22", "rbac.authorization.k8s.io/v1"),
    ],
)
def test_removed(version: str, kind: str, since: str, instead: str) -> None:
    """A removed apiVersion is a fault of the worker's objects only."""
    ours = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "ops-worker-x", "namespace": "x"},
    }
    assert faults_of([*INSTALLED, ("x.yaml", ours)]) == [
        f"x.yaml: {kind}/ops-worker-x: apiVersion: {version} was removed in Kubernetes {since}; "
        f"use {instead}"
    ]
    assert faults_of([*INSTALLED, ("x.yaml", ours | {"metadata": {"name": "theirs"}})]) == []


CLUSTER_KINDS = (
    "Namespace",
    "ClusterRole",
    "PriorityClass",
    "IngressClass",
    "ValidatingWebhookConfiguration",
    "ValidatingAdmissionPolicyBinding",
    "CSIDriver",
)
"""Kinds without a namespace."""


@pytest.mark.parametrize(
    ("kind", "metadata", "is_fault"),
    [
        ("ConfigMap", {"name": "theirs"}, False),
        ("Service", {"name": "theirs", "labels": {"app.kubernetes.io/name": "theirs"}}, False),
        ("Service", {"name": "ops-worker"}, True),
        ("Service", {"name": "ops-worker-x"}, True),
        ("Service", {"name": "acme-ops-worker"}, True),
        ("Service", {"name": "ops-workers"}, False),
        ("Service", {"name": "x", "labels": {"app.kubernetes.io/name": "ops-worker"}}, True),
        ("ConfigMap", {"name": "extra"}, True),
        ("Secret", {"name": "extra"}, False),
        ("PersistentVolumeClaim", {"name": "claim"}, True),
        ("ServiceAccount", {"name": "ops-worker"}, True),
        *((kind, {"name": "ops-worker"}, False) for kind in CLUSTER_KINDS),
    ],
)
def test_namespaces(kind: str, metadata: dict[str, Any], is_fault: bool) -> None:
    """The worker's objects need a namespace, unless their kind has none."""
    more = [
        {"name": "a", "configMap": {"name": "extra", "optional": True}},
        {"name": "b", "persistentVolumeClaim": {"claimName": "claim"}},
    ]
    volumes = dict(INSTALLED)[HEALTH]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    objects = [
        *broken(HEALTH, f"{POD}.volumes", [*volumes, *more]),
        ("x.yaml", {"kind": kind, "metadata": metadata}),
    ]
    fault = (
        f"x.yaml: {kind}/{metadata['name']}: metadata.namespace: "
        "is not set, so kubectl would use whatever namespace is current"
    )
    assert faults_of(objects) == [fault] * is_fault
