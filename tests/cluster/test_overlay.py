"""What docs/kubernetes.md describes: from the example overlay to a recorded row of one's own service."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.cluster.conftest import K8S, _address, kubectl
from tests.conftest import Database
from tests.postgres import PASSWORD, Postgres
from tests.stubs import Stubs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.cluster
NAMESPACE = "try-manifests-overlay"


class Overlay(NamedTuple):
    """A copy of the example, changed as the page says, and the database that it names."""

    folder: Path
    database: Database


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    """Copy the example, and edit it: namespace, image, database, service, network."""
    if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
        pytest.skip("KUBECONFIG names no cluster, or there is no kubectl")
    if NAMESPACE in kubectl("get", "namespaces", "-o", "name"):
        pytest.skip(f"the cluster has a namespace {NAMESPACE}")
    host = os.environ.get("OPS_TEST_HOST") or _address()
    for name in ("base", "components", "examples"):
        shutil.copytree(K8S / name, tmp_path / "k8s" / name)
    folder = tmp_path / "k8s" / "overlays" / "mine"
    shutil.copytree(K8S / "examples" / "overlay", folder)
    with Postgres(also=host) as server, Stubs(host) as stubs:
        parts = urlsplit(server.url())
        edits = {
            "kustomization.yaml": {
                "shop-monitoring": NAMESPACE,
                "registry.example.com/ops-worker": "ops-worker",
            },
            "settings.yaml": {
                "postgres.shop": host,
                '"5433"': f'"{parts.port}"',
                "PG_DB: shop": f"PG_DB: {parts.path.strip('/')}",
                "PG_USER: ops_worker": "PG_USER: postgres",
            },
            "catalogue.yaml": {"http://shop.shop:8080": stubs.env["INGEST_HEALTH_URL"]},
            "networkpolicy.yaml": {"5433": str(parts.port)},
        }
        for name, replacements in edits.items():
            path = folder / name
            text = path.read_text(encoding="utf-8")
            for old, new in replacements.items():
                assert old in text
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
        try:
            yield Overlay(folder, Database(server.url()))
        finally:
            kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")


def run_job(name: str, cronjob: str) -> str:
    """Run a Job from a CronJob until it is complete; return its log."""
    kubectl("-n", NAMESPACE, "create", "job", name, f"--from=cronjob/ops-worker-{cronjob}")
    wait = ("wait", "--for=condition=complete", "--timeout=90s", f"job/{name}")
    kubectl("-n", NAMESPACE, *wait)
    return kubectl("-n", NAMESPACE, "logs", f"job/{name}")


def test_from_the_example_to_a_row(overlay: Overlay) -> None:
    """The steps of the page, on an empty database: the service of the overlay is recorded."""
    kubectl("apply", "-k", str(overlay.folder))
    secret = f"--from-literal=PG_PASS={PASSWORD}"
    kubectl("-n", NAMESPACE, "create", "secret", "generic", "ops-worker", secret)
    run_job("init-db", "init-db")
    assert "health: 1 service, 1 healthy" in run_job("first", "health")
    assert set(overlay.database.health()) == {"shop"}
    again = kubectl("apply", "-k", str(overlay.folder)).splitlines()
    assert [line for line in again if not line.endswith(" unchanged")] == []
