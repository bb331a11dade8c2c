"""The commands of docs/kubernetes.md, from the example overlay to a row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from ops_worker.cli import main
from tests.cluster.conftest import (
    K8S,
    example_overlay,
    fetch,
    kubectl,
    page_commands,
    pods_of,
    shell,
    until,
)
from tests.postgres import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import Overlay

pytestmark = pytest.mark.cluster
NAMESPACE = "try-manifests-overlay"
BASE = "try-base"
"""The namespace of a copy of ``k8s/*.yaml``: that of the original belongs to other tests."""


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    """Copy the example, and edit it: namespace, image, database, service, network."""
    with example_overlay(NAMESPACE, tmp_path) as copied:
        yield copied


def waiting(namespace: str, job: str) -> str:
    """Return why the container of a Job's only pod waits. It is empty if it does not wait."""
    for pod in pods_of(namespace, job):
        for status in pod["status"].get("containerStatuses", ()):
            return str(status["state"].get("waiting", {}).get("reason", ""))
    return ""


def test_from_the_example_to_a_row(overlay: Overlay, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of the page lead from an empty database to a row of one's own service.

    The pod of the first Job waits for the Secret.
    """
    page = ("kubernetes.md", "3. Check the result.", "On the platform itself")
    check, apply, secret, login, init_db, complete, first, recorded, logs, *later = (
        command.replace("PG_PASS=...", f"PG_PASS='{PASSWORD}'").replace("=...", "=any")
        for command in page_commands(*page)
    )
    text = overlay.run(check.partition("|")[0])
    (overlay.root / "rendered.yaml").write_text(text, encoding="utf-8")
    assert main(["manifests", "check", str(overlay.root / "rendered.yaml")]) == 0
    overlay.run(apply)
    labels = fetch("namespace", NAMESPACE)["metadata"]["labels"]
    modes = {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "warn", "audit")}
    assert modes == {"restricted"}
    overlay.run(init_db)
    until(lambda: waiting(NAMESPACE, "init-db") == "CreateContainerConfigError")
    overlay.run(secret)
    overlay.run(login)
    overlay.run(complete)
    overlay.run(first)
    overlay.run(recorded)
    assert overlay.run(logs).splitlines()[-1].startswith("health: 1 service, 1 healthy (")
    assert set(overlay.database.health()) == {"shop"}
    assert overlay.database.value("SELECT to_regclass('tenants') IS NOT NULL")
    delete, change = later[1:]
    overlay.run(delete)
    overlay.run(first)
    overlay.run(recorded)
    overlay.run(change)
    again = overlay.apply()
    assert [line for line in again if not line.endswith(" unchanged")] == []
    assert main(["cluster", "-n", NAMESPACE]) == 0
    assert "health: 1 service, 1 healthy" in capsys.readouterr().out


def test_changed_in_the_cluster(overlay: Overlay) -> None:
    """`kubectl diff` shows a ConfigMap that was changed in the cluster. An apply overwrites it."""
    overlay.apply()
    diff = next(c for c in page_commands("kubernetes.md", "## After", "## Check") if " diff " in c)
    assert overlay.run(diff) == ""
    patch = json.dumps({"data": {"PG_DB": "changed"}})
    kubectl("-n", NAMESPACE, "patch", "configmap", "ops-worker", "-p", patch)
    output = overlay.run(f"{diff} || test $? = 1")
    assert "-  PG_DB: changed" in output and "+  PG_DB: shop" in output
    overlay.apply()
    assert fetch("configmap", "ops-worker", "-n", NAMESPACE)["data"]["PG_DB"] == "shop"


def test_uninstall(overlay: Overlay) -> None:
    """The commands of the runbook remove all objects, the Secret and the namespace."""
    overlay.write(["events", "priority", "sidecar"])
    overlay.apply()
    overlay.run(page_commands("kubernetes.md", "4. Apply it", "5. Create")[1])
    of_overlay, of_base = page_commands("operations.md", "## Uninstall", "helm uninstall")
    overlay.run(of_overlay)
    assert kubectl("get", "namespace", NAMESPACE, "--ignore-not-found") == ""
    assert kubectl("get", "priorityclass", "ops-worker", "--ignore-not-found") == ""
    folder = overlay.root / "base-alone" / "k8s"
    folder.mkdir(parents=True)
    for path in K8S.glob("*.yaml"):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        field = "name" if document["kind"] == "Namespace" else "namespace"
        document["metadata"][field] = BASE
        (folder / path.name).write_text(yaml.safe_dump(document), encoding="utf-8")
    assert of_base == "kubectl delete -f k8s/"
    shell("kubectl apply -f k8s/", folder=folder.parent, namespace=BASE)
    shell(of_base, folder=folder.parent, namespace=BASE)
    assert kubectl("get", "namespace", BASE, "--ignore-not-found") == ""
