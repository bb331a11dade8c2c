"""The Helm chart on a real cluster: install, upgrade and uninstall a release with another name."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from ops_worker.cli import main
from tests.cluster.conftest import K8S, create_secret, kubectl, require_cluster
from tests.kubernetes_tools import executable
from tests.postgres import Postgres, load_platform
from tests.stubs import Stubs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

pytestmark = pytest.mark.cluster

CHART = str(K8S / "helm" / "ops-worker")
RELEASE = "acme"
NAMESPACE = "try-helm"


@pytest.fixture
def values() -> Iterator[tuple[dict[str, Any], Database]]:
    """Return the values for a database and services that pods reach, and that database."""
    from tests.conftest import Database

    if executable("helm") is None:
        pytest.skip("there is no helm")
    host = require_cluster(NAMESPACE)
    with Postgres(also=host) as server, Stubs(host) as stubs:
        load_platform(server.url())
        place = urlsplit(server.url())
        settings = stubs.env | {
            "PG_HOST": host,
            "PG_PORT": str(place.port),
            "PG_DB": place.path.strip("/"),
            "PG_USER": "postgres",
            "PG_ROLE": None,
        }
        schedules = {name: {"suspend": True} for name in ("health", "metrics", "rollup")}
        try:
            yield {"settings": settings, "schedules": schedules}, Database(server.url())
        finally:
            kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")


def helm(*arguments: str, values: dict[str, Any] | None = None) -> str:
    """Run helm, which must succeed, and return its output."""
    program = executable("helm")
    assert program is not None
    done = subprocess.run(
        [program, "--namespace", NAMESPACE, *arguments, *(("--values", "-") if values else ())],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_release(values: tuple[dict[str, Any], Database]) -> None:
    """A release records. An upgrade changes the settings. An uninstall leaves only the Secret."""
    settings, database = values
    helm("install", RELEASE, CHART, "--create-namespace", values=settings)
    create_secret(NAMESPACE, name=RELEASE)
    assert main(["trigger", f"{RELEASE}-health", "--wait", "-n", NAMESPACE]) == 0
    assert len(database.health()) == 4
    settings["settings"]["DELIVERY_HEALTH_URL"] = ""
    settings["settings"]["INSTALLATION"] = RELEASE
    helm("upgrade", RELEASE, CHART, values=settings)
    assert main(["trigger", f"{RELEASE}-health", "--wait", "-n", NAMESPACE]) == 0
    runs = database.rows("SELECT DISTINCT installation FROM ops_worker_run")
    assert {row["installation"] for row in runs} == {"ops-worker", RELEASE}
    assert main(["cluster", "-n", NAMESPACE]) == 0
    helm("uninstall", RELEASE)
    kinds = "cronjobs,deployments,configmaps,networkpolicies,serviceaccounts"
    labels = ("-l", f"app.kubernetes.io/instance={RELEASE}")
    assert kubectl("-n", NAMESPACE, "get", kinds, "-o", "name", *labels) == ""
    secrets = kubectl("-n", NAMESPACE, "get", "secrets", "-o", "name").split()
    assert secrets == [f"secret/{RELEASE}"]
