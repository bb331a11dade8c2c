"""The table "After a change" of docs/kubernetes.md: its commands delete what an apply leaves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cluster.conftest import DOCS, example_overlay, fetch, kubectl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import Overlay

pytestmark = pytest.mark.cluster
NAMESPACE = "try-changes"
KINDS = (
    "cronjobs,deployments,configmaps,services,networkpolicies,serviceaccounts,roles,rolebindings,"
    "prometheusrules.monitoring.coreos.com"
)
MADE_BY_THE_CLUSTER = {
    ("ConfigMap", "kube-root-ca.crt"),
    ("ConfigMap", "openshift-service-ca.crt"),
    ("ServiceAccount", "default"),
}
"""What controllers add to every namespace."""
CHANGES: dict[str, tuple[list[str], list[str]]] = {
    "to `sidecar`": ([], ["sidecar"]),
    "from `sidecar` back": (["sidecar"], []),
    "`events` removed": (["events"], []),
    "`monitoring` removed": (["monitoring"], []),
    "`priority` removed": (["priority"], []),
}
"""The components before and after each change of the page."""


def commands() -> dict[str, str]:
    """Return the command of each change, from the page."""
    text = (DOCS / "kubernetes.md").read_text(encoding="utf-8")
    table = text.partition("| after this change | run |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| (.+?) \| `(kubectl [^`]*)`", table, re.MULTILINE))


@pytest.fixture(scope="module")
def overlay(
    tmp_path_factory: pytest.TempPathFactory,
    operator: None,  # noqa: ARG001 - its kinds are there
) -> Iterator[Overlay]:
    """Copy the example."""
    with example_overlay(NAMESPACE, tmp_path_factory.mktemp("changes")) as copied:
        if kubectl("get", "priorityclass", "ops-worker", "--ignore-not-found"):
            pytest.skip(
                "the cluster has a PriorityClass ops-worker: it is not the test's to change"
            )
        try:
            yield copied
        finally:
            kubectl("delete", "priorityclass", "ops-worker", "--ignore-not-found")


def present(overlay: Overlay) -> set[tuple[str, str]]:
    """Return kind and name of every object of the installation."""
    objects = fetch(KINDS, "-n", overlay.namespace)["items"]
    objects += fetch("priorityclasses", "-l", "app.kubernetes.io/name=ops-worker")["items"]
    names = {(content["kind"], content["metadata"]["name"]) for content in objects}
    return names - MADE_BY_THE_CLUSTER


def test_every_row_has_a_test() -> None:
    """The table has the changes that are tested here."""
    assert list(commands()) == list(CHANGES)


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_left(overlay: Overlay, change: str) -> None:
    """After the command, the objects are those of a new installation. `kubectl diff` is empty."""
    before, after = CHANGES[change]
    overlay.write(before)
    overlay.apply()
    overlay.write(after)
    overlay.apply()
    fresh = {(new["kind"], new["metadata"]["name"]) for new in overlay.rendered()}
    fresh -= {("Namespace", overlay.namespace)}
    assert present(overlay) > fresh
    overlay.run(commands()[change])
    assert present(overlay) == fresh
    assert overlay.run("kubectl diff -k k8s/overlays/mine") == ""
