"""What happens to an installation: deleted pods, evictions, a controller that was away."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster.conftest import K8S, NAMESPACE, fetch, kubectl, pods_of, suspend, until
from tests.stubs import healthy

if TYPE_CHECKING:
    import socket

    from tests.cluster.conftest import Ended, Installation
    from tests.stubs import Stub

pytestmark = pytest.mark.cluster

SLOW_S = 3
"""How long a service takes to answer, so that a pass is still probing when its pod is deleted."""
LIFE_S = 6
"""A pod whose service answers after SLOW_S is gone after so many seconds."""


def slow(stub: Stub, connection: socket.socket) -> None:
    """Answer healthy after SLOW_S."""
    time.sleep(SLOW_S)
    healthy(stub, connection)


def jobs_of(name: str) -> list[dict[str, Any]]:
    """Return the Jobs that the controller made of a CronJob."""
    return [
        job
        for job in fetch("jobs", "-n", NAMESPACE)["items"]
        for owner in job["metadata"].get("ownerReferences", ())
        if owner["name"] == name
    ]


@pytest.mark.parametrize("second", range(LIFE_S + 1))
def test_pod_deleted(installation: Installation, second: int) -> None:
    """If a pod is deleted at any second of its life, the Job completes, and no alert opens."""
    installation.stubs["evaluator"].mode = slow
    name = f"t-deleted-{second}"

    def delete() -> None:
        """Delete the first pod of the Job."""
        kubectl("-n", NAMESPACE, "delete", "pods", "-l", f"job-name={name}", "--wait=false")

    begun = installation.database.value("SELECT now()")
    timer = threading.Timer(second, delete)
    timer.start()
    try:
        ended = installation.job(name, "health")
    finally:
        timer.join()
        installation.stubs["evaluator"].mode = "ok"
    assert (ended.condition, ended.reason) in {("Complete", ""), ("Complete", "CompletionsReached")}
    rows = installation.database.health()
    assert {row["status"] for row in rows.values()} == {"healthy"}
    assert all(row["checked_at"] >= begun for row in rows.values())
    assert installation.database.alerts() == []


def test_evicted(installation: Installation) -> None:
    """A pod that is evicted does not count as a failure, and is replaced, even a second time.

    The Job may fail once (`backoffLimit`), so two failures would end it.
    """
    installation.stubs["evaluator"].mode = slow
    name = "t-evicted"
    evicted: list[str] = []

    def running() -> str:
        """Return the name of a pod that runs and was not evicted. It is empty if there is none."""
        for pod in pods_of(NAMESPACE, name):
            if pod["status"]["phase"] == "Running" and pod["metadata"]["name"] not in evicted:
                return str(pod["metadata"]["name"])
        return ""

    try:
        installation.start(name, "health")
        for _ in range(2):
            pod = until(running)
            evict(pod)
            evicted.append(pod)
        ended = installation.end(name)
    finally:
        installation.stubs["evaluator"].mode = "ok"
    assert ended.condition == "Complete"
    status = fetch("job", name, "-n", NAMESPACE)["status"]
    assert (status["succeeded"], status.get("failed", 0)) == (1, 0)
    assert {row["status"] for row in installation.database.health().values()} == {"healthy"}


def evict(pod: str) -> None:
    """Ask for the eviction of a pod, as `kubectl drain` does."""
    metadata = {"name": pod, "namespace": NAMESPACE}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def test_controller_was_away(installation: Installation) -> None:
    """A controller that was away for three hours starts one run, not one for each missed run."""
    name = "ops-worker-metrics"
    last = datetime.now(UTC) - timedelta(hours=3)
    status = json.dumps({"status": {"lastScheduleTime": f"{last:%Y-%m-%dT%H:%M:%SZ}"}})
    before = {job["metadata"]["uid"] for job in jobs_of(name)}
    kubectl("-n", NAMESPACE, "patch", "cronjob", name, "--subresource=status", "-p", status)
    suspend(name, suspended=False)
    try:
        until(lambda: installation.database.value("SELECT count(*) FROM system_metrics"))
        jobs = [job for job in jobs_of(name) if job["metadata"]["uid"] not in before]
    finally:
        suspend(name, suspended=True)
    minutes = {job["metadata"]["annotations"][SCHEDULED] for job in jobs}
    assert 1 <= len(jobs) <= 2
    assert len(minutes) == len(jobs)


SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"


def test_upgrade_while_a_job_runs(installation: Installation) -> None:
    """A running Job keeps the template that it began with. The next one has the new template."""
    installation.stubs["evaluator"].mode = slow
    cronjob = yaml.safe_load((K8S / "40-cronjob-health.yaml").read_text(encoding="utf-8"))
    cronjob["spec"]["suspend"] = True
    container = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "LOG_LEVEL", "value": "DEBUG"})
    upgrade = threading.Timer(
        SLOW_S / 2, kubectl, ("apply", "-f", "-"), {"stdin": yaml.safe_dump(cronjob)}
    )
    upgrade.start()
    try:
        old = installation.job("t-before-upgrade", "health")
        upgrade.join()
        new = installation.job("t-after-upgrade", "health")
    finally:
        upgrade.join()
        installation.stubs["evaluator"].mode = "ok"
        container["env"].pop()
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cronjob))
    assert (old.condition, len(old.pods)) == ("Complete", 1)
    assert (new.condition, len(new.pods)) == ("Complete", 1)
    assert "LOG_LEVEL" not in variables(old.pods[0])
    assert "LOG_LEVEL" in variables(new.pods[0])
    assert {row["status"] for row in installation.database.health().values()} == {"healthy"}


def variables(pod: dict[str, Any]) -> set[str]:
    """Return the names of the environment variables of a pod's container."""
    return {variable["name"] for variable in pod["spec"]["containers"][0]["env"]}


def test_two_installations(installation: Installation) -> None:
    """Two installations in one database run at the same time: both record their services."""
    names = {
        "t-first": {"DISPATCHER_HEALTH_URL": "", "DELIVERY_HEALTH_URL": ""},
        "t-second": {
            "INSTALLATION": "second",
            "INGEST_HEALTH_URL": "",
            "EVALUATOR_HEALTH_URL": "",
        },
    }
    assert installation.job("t-tables", "init-db").condition == "Complete"
    installation.database.rows("DELETE FROM service_health")
    ended: dict[str, Ended] = {}

    def run(name: str) -> None:
        """Run the health pass of one installation."""
        ended[name] = installation.job(name, "health", names[name], owned=False)

    begun = installation.database.value("SELECT now()")
    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: job.condition for name, job in ended.items()} == dict.fromkeys(names, "Complete")
    assert ended["t-first"].message["summary"].startswith("health: 2 services, 2 healthy")
    assert ended["t-second"].message["summary"].startswith("health: 2 services, 2 healthy")
    runs = installation.database.rows(
        "SELECT installation, passes FROM ops_worker_run WHERE last_at >= %s", begun
    )
    assert {row["installation"] for row in runs} == {"ops-worker", "second"}
    states = {name: row["status"] for name, row in installation.database.health().items()}
    # The second installation would keep its services for three more periods.
    installation.database.rows("DELETE FROM service_health")
    assert sorted(states.values()) == ["healthy"] * 4
