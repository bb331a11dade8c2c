"""Tests of all rules together, on the installation and on objects of other programs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.manifest_rules.installation import (
    CONTAINER,
    HEALTH,
    INSTALLED,
    OURS,
    POD,
    PROXY,
    faults_of,
    variant,
)

pytestmark = pytest.mark.unit


def test_good() -> None:
    """The installation and an object of another program have no faults."""
    assert faults_of(INSTALLED) == []
    assert (
        faults_of(
            [
                (
                    "x.yaml",
                    {
                        "kind": "Deployment",
                        "metadata": {"name": "x", "namespace": "x"},
                        "spec": {"template": {"spec": {}}},
                    },
                )
            ]
        )
        == []
    )


def renamed(**container: object) -> list[tuple[str, Any]]:
    """Return the installation with other labels and another image, as after an overlay."""
    objects = copy.deepcopy(INSTALLED)
    for _, content in objects:
        if content["kind"] == "CronJob":
            template = content["spec"]["jobTemplate"]["spec"]["template"]
            for labels in (content["metadata"]["labels"], template["metadata"]["labels"]):
                labels["app.kubernetes.io/name"] = "platform-watch"
            box = template["spec"]["containers"][0]
            box |= {"image": "registry.example:5000/platform/watcher:2026.11"} | container
            content["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"][
                "containerName"
            ] = box["name"]
    return objects


def test_an_overlay() -> None:
    """After an overlay the worker is still recognised, by its name or its settings."""
    assert faults_of(renamed()) == []
    assert (
        f"{HEALTH}: CronJob/ops-worker-health: {CONTAINER}.resources.limits.memory: "
        "is not set; set 128Mi, which is enough"
    ) in faults_of(renamed(resources={"requests": {"cpu": "50m", "memory": "64Mi"}}))
    # OPS_WORKER_CATALOGUE and the pass that it runs show that the container is the worker's.
    assert faults_of(renamed(name="watcher")) == []
    (fault,) = faults_of(renamed(name="watcher", env=[]))
    assert fault.startswith(
        f"{HEALTH}: CronJob/ops-worker-health: {POD}: no ops-worker container found: "
        "a container is the worker's if "
    )


def test_labels_for_everybody() -> None:
    """A label that an overlay sets on all objects does not make them the worker's."""
    theirs = copy.deepcopy(dict(INSTALLED)[HEALTH])
    theirs["metadata"]["name"] = "backup"
    box = {"name": "dump", "image": "postgres:15", "command": ["pg_dump"]}
    theirs["spec"] = {"schedule": "@daily", "jobTemplate": theirs["spec"]["jobTemplate"]}
    theirs["spec"]["jobTemplate"]["spec"]["template"]["spec"] = {"containers": [box]}
    assert faults_of([*INSTALLED, ("x.yaml", theirs)]) == []


def test_a_kind_of_others() -> None:
    """Custom resources with a pod template at the usual path are checked, too."""
    rollout = {
        "kind": "Rollout",
        "metadata": {"name": "x", "namespace": "x"},
        "spec": {"template": {"spec": {"containers": [PROXY]}}},
    }
    assert " no ops-worker container found" in faults_of([("x.yaml", rollout)])[0]
    rollout["spec"]["template"]["spec"]["containers"] = [OURS]  # type: ignore[index]
    assert any(".args: ends after one pass" in fault for fault in faults_of([("x.yaml", rollout)]))


WEIRD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([None]),
    st.just({"a": {1: 2}}),
)


INSTALLATIONS = [INSTALLED, variant("variants/events"), variant("variants/sidecar")]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_it_holds(data: st.DataObject) -> None:
    """No value anywhere in a manifest raises an exception."""
    objects = copy.deepcopy(data.draw(st.sampled_from(INSTALLATIONS)))
    node: Any = data.draw(st.sampled_from([content for _, content in objects]))
    while True:
        key = data.draw(
            st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))
        )
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.integers(0, 9)) == 0:
            break
        node = inner
    node[key] = data.draw(WEIRD)
    faults_of(objects)
