"""Tests of the rules about names: an object that another object names is in the files."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ops_worker.manifest_rules.parts import Document, find_workers
from ops_worker.manifest_rules.references import references
from tests.manifest_rules.installation import (
    CONTAINER,
    GONE,
    INSTALLED,
    broken,
    faults_of,
    variant,
)

pytestmark = pytest.mark.unit

EVENTS = variant("variants/events")
MONITORED = [*INSTALLED, *variant("variants/monitoring")]
ROLE, BINDING = "Role/ops-worker-events", "RoleBinding/ops-worker-events"
HEALTH = "CronJob/ops-worker-health"
RULE = "PrometheusRule/ops-worker"
ALL = "ops-worker-health, ops-worker-init-db, ops-worker-metrics, ops-worker-rollup"


def without(file: str, objects: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the objects without those of a file."""
    return [(name, content) for name, content in objects if name != file]


def test_renamed_cronjob() -> None:
    """A Role that has the old name of a renamed CronJob is a fault."""
    renamed = broken(HEALTH, "metadata.name", "eu-ops-worker-health", EVENTS)
    names = ALL.replace("ops-worker-health", "eu-ops-worker-health")
    assert faults_of(renamed) == [
        f"{ROLE}: {ROLE}: rules[1].resourceNames: ops-worker-health is not in the files, "
        f"which have {names}; "
        "kustomize renames it only with a nameReference for rules/resourceNames"
    ]
    elsewhere = broken(ROLE, "rules[1].resources", ["pods"], renamed)
    assert not any("resourceNames" in fault for fault in faults_of(elsewhere))


def test_role_alone() -> None:
    """Without CronJobs in the files, a Role may name any: the CronJobs may be in the cluster."""
    assert faults_of([(file, content) for file, content in EVENTS if file in {ROLE, BINDING}]) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("roleRef.name", "x", "roleRef.name: x is not in the files, which have ops-worker-events"),
        (
            "subjects[0].name",
            "x",
            "subjects[0].name: x of namespace ops-worker is not in the files, "
            "which have ops-worker",
        ),
        (
            "subjects[0].namespace",
            GONE,
            "subjects[0].namespace: is not set; Kubernetes refuses the object",
        ),
        (
            "subjects[0].name",
            {"a": 1},
            "subjects[0].name: {'a': 1} of namespace ops-worker is not in the files, which have "
            "ops-worker",
        ),
        ("subjects[0].namespace", "elsewhere", None),
        ("subjects[0].name", "default", None),
        ("subjects[0].kind", "User", None),
    ],
)
def test_binding(path: str, value: object, fault: str | None) -> None:
    """A RoleBinding names a Role and a ServiceAccount of the files."""
    faults = [
        problem for problem in faults_of(broken(BINDING, path, value, EVENTS)) if BINDING in problem
    ]
    assert faults == ([] if fault is None else [f"{BINDING}: {BINDING}: {fault}"])


def test_binding_of_another_account() -> None:
    """A binding with an account of the files may also name an account of the cluster."""
    external = {"kind": "ServiceAccount", "name": "ci", "namespace": "ops-worker"}
    subjects = dict(EVENTS)[BINDING]["subjects"]
    assert faults_of(broken(BINDING, "subjects", [*subjects, external], EVENTS)) == []
    nameless = {"kind": "ServiceAccount", "name": "ci"}
    assert faults_of(broken(BINDING, "subjects", [*subjects, nameless], EVENTS)) == [
        f"{BINDING}: {BINDING}: subjects[1].namespace: is not set; Kubernetes refuses the object"
    ]
    user = {"kind": "User", "name": "ops-worker"}
    changed = broken(BINDING, "subjects", [user, external], EVENTS)
    assert any("subjects[1].name: ci of namespace" in fault for fault in faults_of(changed))


@pytest.mark.parametrize("file", [ROLE, BINDING])
def test_rights_of_another_namespace(file: str) -> None:
    """A Role or a RoleBinding of another namespace grants the worker nothing."""
    moved = broken(file, "metadata.namespace", "elsewhere", EVENTS)
    expected = "KUBERNETES_EVENTS is on, but no bound Role in the files grants create on events"
    assert f"{HEALTH}: {HEALTH}: {CONTAINER}.env: {expected}" in faults_of(moved)


def test_rights_of_the_cluster() -> None:
    """A ClusterRole grants its rights by a RoleBinding or by a ClusterRoleBinding."""
    objects = broken(ROLE, "kind", "ClusterRole", EVENTS)
    objects = broken(ROLE, "metadata.namespace", GONE, objects)
    objects = broken(BINDING, "roleRef.kind", "ClusterRole", objects)
    assert faults_of(objects) == []
    objects = broken(BINDING, "kind", "ClusterRoleBinding", objects)
    assert faults_of(broken(BINDING, "metadata.namespace", GONE, objects)) == []


def test_records() -> None:
    """The PrometheusRule has one record for each CronJob. A suspended one needs none."""
    assert faults_of(MONITORED) == []
    metrics = "40-cronjob-metrics.yaml"
    assert faults_of(without(metrics, MONITORED)) == [
        f"{RULE}: {RULE}: spec.groups[0].rules[1].labels: "
        "CronJob ops-worker/ops-worker-metrics is not in the files, "
        "so OpsWorkerUnknown would fire; remove this record "
        "(with kustomize, list the component monitoring before sidecar)"
    ]
    no_record = broken(RULE, "spec.groups[0].rules[1]", GONE, MONITORED)
    assert faults_of(no_record) == [
        f"{RULE}: {RULE}: spec.groups: no record ops_worker:overdue_after_seconds has CronJob "
        "ops-worker/ops-worker-metrics, so no alert fires if it stops"
    ]
    assert faults_of(broken(metrics, "spec.suspend", True, no_record)) == []
    assert faults_of(variant("variants/monitoring")) == []


@pytest.mark.parametrize("label", ["namespace", "cronjob"])
def test_record_of_another(label: str) -> None:
    """A record that names another CronJob is a fault, and so is the CronJob without a record."""
    changed = broken(RULE, f"spec.groups[0].rules[0].labels.{label}", "elsewhere", MONITORED)
    assert len(faults_of(changed)) == 2


@pytest.mark.parametrize(
    ("expression", "is_early"),
    [("vector(179)", True), ("vector(180)", False), ("vector(x)", False)],
)
def test_threshold(expression: str, is_early: bool) -> None:
    """A CronJob counts as overdue after three of its periods, not earlier."""
    changed = broken(RULE, "spec.groups[0].rules[0].expr", expression, MONITORED)
    fault = (
        f"{RULE}: {RULE}: spec.groups[0].rules[0].expr: is vector(179); CronJob ops-worker/"
        "ops-worker-health needs 180, 3 of its periods, or OpsWorkerOverdue fires too early"
    )
    assert faults_of(changed) == [fault] * is_early


def test_threshold_without_a_schedule() -> None:
    """An invalid schedule is a fault of the CronJob, not of the PrometheusRule."""
    changed = broken("40-cronjob-health.yaml", "spec.schedule", "x", MONITORED)
    assert [fault for fault in faults_of(changed) if RULE in fault] == []


WORKER_LABELS = {"app.kubernetes.io/name": "ops-worker"}
METADATA = {"name": "ops-worker", "namespace": "ops-worker", "labels": WORKER_LABELS}
SIDECAR = {"app.kubernetes.io/component": "sidecar"}
SCRAPED = variant("variants/sidecar")


def selecting(
    kind: str, selector: object, namespace: str = "ops-worker", **spec: object
) -> tuple[str, Any]:
    """Return a Service or monitor of the worker with a selector."""
    metadata = METADATA | {"namespace": namespace}
    return kind, {"kind": kind, "metadata": metadata, "spec": {"selector": selector, **spec}}


@pytest.mark.parametrize(
    ("content", "noun"),
    [
        (selecting("Service", SIDECAR), None),
        (selecting("Service", {}), None),
        (selecting("Service", {"app": "x"}), "pod of the worker"),
        (selecting("Service", SIDECAR, "elsewhere"), "pod of the worker"),
        (selecting("PodMonitor", {"matchLabels": SIDECAR}), None),
        (selecting("PodMonitor", {"matchLabels": {"app": "x"}}), "pod of the worker"),
        (selecting("PodMonitor", {"matchLabels": SIDECAR}, "monitoring"), "pod of the worker"),
        (
            selecting(
                "PodMonitor",
                {"matchLabels": SIDECAR},
                "monitoring",
                namespaceSelector={"matchNames": ["ops-worker"]},
            ),
            None,
        ),
        (
            selecting("PodMonitor", {}, "monitoring", namespaceSelector={"any": True}),
            None,
        ),
        (selecting("ServiceMonitor", {"matchLabels": {"app": "x"}}), None),
    ],
)
def test_selector(content: tuple[str, Any], noun: str | None) -> None:
    """A Service or a PodMonitor that selects no pod of the worker is a fault.

    Without a Service in the files, a ServiceMonitor has no fault.
    """
    kind = content[0]
    fault = f"{kind}: {kind}/ops-worker: spec.selector: selects no {noun} in the files"
    assert faults_of([*SCRAPED, content]) == ([] if noun is None else [fault])
    assert faults_of([content]) == []


@pytest.mark.parametrize(("labels", "is_found"), [(WORKER_LABELS, True), ({"app": "x"}, False)])
def test_service_monitor(labels: dict[str, str], is_found: bool) -> None:
    """A ServiceMonitor selects a Service by the labels of the Service, not of its pods."""
    monitor = selecting("ServiceMonitor", {"matchLabels": labels})
    fault = (
        "ServiceMonitor: ServiceMonitor/ops-worker: spec.selector: selects no Service in the files"
    )
    faults = faults_of([*SCRAPED, selecting("Service", SIDECAR), monitor])
    assert faults == ([] if is_found else [fault])


@pytest.mark.parametrize(
    ("args", "namespace", "is_double"),
    [
        (["sidecar", "metrics"], "ops-worker", True),
        (["sidecar"], "ops-worker", True),
        (["metrics", "--every", "5"], "ops-worker", True),
        (["sidecar", "health"], "ops-worker", False),
        (["sidecar", "metrics"], "elsewhere", False),
    ],
)
def test_two_loops(args: list[str], namespace: str, is_double: bool) -> None:
    """A CronJob with --every and a sidecar of the same pass contradict each other."""
    sidecar = copy.deepcopy(dict(SCRAPED)["Deployment/ops-worker-sidecar"])
    sidecar["metadata"]["namespace"] = namespace
    sidecar["spec"]["template"]["spec"]["containers"][0]["args"] = args
    name = "CronJob/ops-worker-metrics"
    fault = (
        f"{name}: {name}: {CONTAINER}.args: repeats the metrics pass, and so does "
        "Deployment/ops-worker-sidecar: remove one of the two"
    )
    faults = faults_of([*variant("variants/every-5s"), ("Deployment/x", sidecar)])
    assert (fault in faults) == is_double


def test_a_single_pass_beside_a_sidecar() -> None:
    """A CronJob of a single pass and a loop of the same pass may run together: one is skipped."""
    assert faults_of(variant("examples/inject")) == []


ODD = [None, True, 0, "", [], {}, [None], {"a": {1: 2}}, [[1]]]


def places(node: Any) -> list[tuple[Any, Any]]:
    """Return every place in a document: the mapping or list, and its key or index."""
    if not isinstance(node, (dict, list)):
        return []
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    return [(node, key) for key in keys] + [place for key in keys for place in places(node[key])]


@pytest.mark.parametrize("file", [ROLE, BINDING, RULE, "Service", "PodMonitor", "ServiceMonitor"])
def test_odd_values(file: str) -> None:
    """Odd values in an object that names other objects raise no exception."""
    reach = {"matchNames": ["ops-worker"]}
    expression = {"key": "x", "operator": "In", "values": ["y"]}
    selector = {"matchLabels": SIDECAR, "matchExpressions": [expression]}
    content = {
        **dict(EVENTS),
        **dict(variant("variants/monitoring")),
        "Service": selecting("Service", SIDECAR)[1],
        "PodMonitor": selecting("PodMonitor", selector, namespaceSelector=reach)[1],
        "ServiceMonitor": selecting("ServiceMonitor", selector, namespaceSelector=reach)[1],
    }[file]
    others = [Document(name, content) for name, content in SCRAPED]
    workers = list(find_workers(others))
    for number in range(len(places(content))):
        for value in ODD:
            changed = copy.deepcopy(content)
            node, key = places(changed)[number]
            node[key] = value
            documents = [*others, Document(file, changed)]
            for fault in references(documents, workers):
                assert fault.file == file
