"""The installation on a real cluster, with a database and services on this machine, at an address that pods reach."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.conftest import Database
from tests.postgres import PASSWORD, Postgres, load_platform
from tests.stubs import Stubs

if TYPE_CHECKING:
    from collections.abc import Iterator

K8S = Path(__file__).parents[2] / "k8s"
NAMESPACE = "ops-worker"


def kubectl(*arguments: str, stdin: str = "") -> str:
    """Run kubectl, which has to succeed without a warning; give what it prints."""
    done = subprocess.run(
        ["kubectl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


class Ended(NamedTuple):
    """A Job at its end: the type of its last condition, its reason, and its pods."""

    name: str
    condition: str
    reason: str
    pods: list[dict[str, Any]]

    @property
    def message(self) -> dict[str, Any]:
        """What the last pod left."""
        found: dict[str, Any] = json.loads(
            self.pods[-1]["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
        )
        return found


class Installation(NamedTuple):
    """What runs: the database and the services that the installation watches; and what a second apply said."""

    database: Database
    stubs: Stubs
    again: list[str]

    def job(
        self, name: str, cronjob: str, env: dict[str, str] | None = None, *, owned: bool = True
    ) -> Ended:
        """Run a Job from a CronJob, with some variables set otherwise, to its end.

        Of those that a CronJob owns, the controller keeps only the last that succeeded.
        """
        text = kubectl(
            "-n",
            NAMESPACE,
            "create",
            "job",
            name,
            f"--from=cronjob/ops-worker-{cronjob}",
            "--dry-run=client",
            "-o",
            "json",
        )
        job = json.loads(text)
        if not owned:
            del job["metadata"]["ownerReferences"]
        job["spec"]["template"]["spec"]["containers"][0].setdefault("env", []).extend(
            {"name": k, "value": v} for k, v in (env or {}).items()
        )
        kubectl("create", "-f", "-", stdin=json.dumps(job))
        end = time.monotonic() + 110
        while time.monotonic() < end:
            status = json.loads(kubectl("-n", NAMESPACE, "get", "job", name, "-o", "json"))[
                "status"
            ]
            for condition in status.get("conditions", ()):
                if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
                    found = json.loads(
                        kubectl(
                            "-n", NAMESPACE, "get", "pods", "-l", f"job-name={name}", "-o", "json"
                        )
                    )["items"]
                    pods = sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])
                    return Ended(name, condition["type"], condition.get("reason", ""), pods)
            time.sleep(0.5)
        raise AssertionError(kubectl("-n", NAMESPACE, "describe", "pods", "-l", f"job-name={name}"))


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """Apply ``k8s/`` as it stands, then tell it where the database and the services are, and the password."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    if not shutil.which("kubectl"):
        pytest.skip("there is no kubectl")
    if NAMESPACE in kubectl("get", "namespaces", "-o", "name"):
        pytest.skip(
            f"the cluster has a namespace {NAMESPACE}: an installation that is not the test's to change"
        )
    host = os.environ.get("OPS_TEST_HOST") or _address()
    with Postgres(also=host) as server, Stubs(host) as stubs:
        load_platform(server.url())
        try:
            kubectl("apply", "-f", str(K8S))
            again = kubectl("apply", "-f", str(K8S)).splitlines()
            _point_at(host, urlsplit(server.url()).port or 0, stubs)
            yield Installation(Database(server.url()), stubs, again)
        finally:
            kubectl("delete", "namespace", NAMESPACE, "--wait=true")


def _address() -> str:
    """Guess the address of this machine that pods reach: a node's, when the cluster runs on it."""
    node = json.loads(kubectl("get", "nodes", "-o", "json"))["items"][0]
    return str(node["status"]["addresses"][0]["address"])


def _point_at(host: str, port: int, stubs: Stubs) -> None:
    """Let the installation use what listens on the host: the settings, the network policy, the Secret; the schedules are suspended."""
    data = stubs.env | {
        "PG_HOST": host,
        "PG_PORT": str(port),
        "PG_DB": "postgres",
        "PG_USER": "postgres",
        "PG_ROLE": "",
    }
    kubectl("-n", NAMESPACE, "patch", "configmap", "ops-worker", "-p", json.dumps({"data": data}))
    to_host = [
        {
            "op": "add",
            "path": "/spec/egress/-",
            "value": {"to": [{"ipBlock": {"cidr": f"{host}/32"}}]},
        }
    ]
    kubectl(
        "-n",
        NAMESPACE,
        "patch",
        "networkpolicy",
        "ops-worker",
        "--type=json",
        "-p",
        json.dumps(to_host),
    )
    for name in ("health", "metrics", "rollup"):
        kubectl(
            "-n",
            NAMESPACE,
            "patch",
            "cronjob",
            f"ops-worker-{name}",
            "-p",
            '{"spec": {"suspend": true}}',
        )
    kubectl(
        "-n",
        NAMESPACE,
        "create",
        "secret",
        "generic",
        "ops-worker",
        f"--from-literal=PG_PASS={PASSWORD}",
    )


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> None:
    """Each test begins without rows."""
    if "installation" in request.fixturenames:
        with psycopg.connect(
            request.getfixturevalue("installation").database.url, autocommit=True
        ) as connection:
            connection.execute("DELETE FROM system_metrics")
            connection.execute("DELETE FROM fleet_alert WHERE tenant_id = '__system__'")
