"""The result of `kubectl apply -f k8s/` on a real API server, with real pods."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from ops_worker.catalogue import Surroundings, load
from ops_worker.cli import main
from tests.cluster.conftest import (
    K8S,
    NAMESPACE,
    cluster_rows,
    container,
    fetch,
    kubectl,
    suspend,
    until,
)
from tests.stubs import Stub, healthy, reset

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import Installation

pytestmark = pytest.mark.cluster
RENDERED = sorted(K8S.glob("*/*/rendered.yaml"))


def test_again_changes_nothing(installation: Installation) -> None:
    """A second `kubectl apply -f k8s/` changes nothing."""
    assert len(installation.again) == len(list(K8S.glob("*.yaml")))
    assert [line for line in installation.again if not line.endswith(" unchanged")] == []


@pytest.mark.usefixtures("installation", "operator")
@pytest.mark.parametrize("path", RENDERED, ids=[path.parent.name for path in RENDERED])
def test_variants_are_accepted(path: Path) -> None:
    """The API server accepts every variant in a dry run, without a warning of Pod Security."""
    objects = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    foreign = [
        document
        for document in objects
        if document["kind"] == "Namespace" and document["metadata"]["name"] != NAMESPACE
    ]
    try:
        for namespace in foreign:
            kubectl("apply", "-f", "-", stdin=yaml.safe_dump(namespace))
        assert "(server dry run)" in kubectl("apply", "--dry-run=server", "-f", str(path))
    finally:
        for namespace in foreign:
            kubectl("delete", "namespace", namespace["metadata"]["name"], "--wait=false")


def test_passes_complete(installation: Installation) -> None:
    """A Job of each CronJob reaches Complete, and its rows are there."""
    assert installation.job("t-init-db", "init-db").condition == "Complete"
    health = installation.job("t-health", "health")
    assert health.condition == "Complete"
    assert health.message["summary"].startswith("health: 4 services, 4 healthy (")
    assert health.message["job"] == "t-health"
    assert {row["status"] for row in installation.database.health().values()} == {"healthy"}
    assert installation.job("t-metrics", "metrics").condition == "Complete"
    counters = sum(len(target.counters or ()) for target in load(None, Surroundings({}))[0].targets)
    assert len(installation.database.samples()) > counters


def test_schedule(installation: Installation) -> None:
    """The controller starts the pass itself, every minute."""
    suspend("ops-worker-metrics", suspended=False)
    try:
        until(lambda: installation.database.rows("SELECT 1 FROM system_metrics"))
    finally:
        suspend("ops-worker-metrics", suspended=True)


@pytest.mark.parametrize(
    ("env", "exit_code", "reason", "pods"),
    [
        ({"PG_PASS": "wrong"}, 1, "BackoffLimitExceeded", 2),
        ({"PASS_DEADLINE": "soon"}, 2, "PodFailurePolicy", 1),
        ({"PG_DB": "template1"}, 3, "PodFailurePolicy", 1),
    ],
)
def test_retry(
    installation: Installation, env: dict[str, str], exit_code: int, reason: str, pods: int
) -> None:
    """A pass that failed with exit code 1 is retried once. Codes 2 and 3 are not retried."""
    ended = installation.job(f"t-retry-{exit_code}", "metrics", env)
    assert (ended.condition, ended.reason, len(ended.pods)) == ("Failed", reason, pods)
    assert ended.message["exit_code"] == exit_code


def test_described(installation: Installation) -> None:
    """`kubectl describe pod` shows why a pass failed, and what to do."""
    ended = installation.job("t-password", "health", {"PG_PASS": "wrong"})
    described = kubectl("-n", NAMESPACE, "describe", "pod", ended.pods[-1]["metadata"]["name"])
    assert "password authentication failed" in described
    assert "check the password and the role: PG_PASS and PG_USER" in described
    setting = installation.job("t-setting", "health", {"PASS_DEADLINE": "soon"})
    error = "PASS_DEADLINE is 'soon'; expected a number of seconds, 6 to 86400"
    assert setting.message["error"] == error


def test_nothing_is_compiled(installation: Installation) -> None:
    """Every module that a pass imports comes from bytecode that is in the image."""
    installation.job("t-verbose", "health", {"PYTHONVERBOSE": "1"})
    log = kubectl("-n", NAMESPACE, "logs", "job/t-verbose", "--tail=-1")
    loaded = re.findall(r"^# code object from '?(\S+?\.pyc?)'?$", log, re.MULTILINE)
    assert len(loaded) > 200
    assert [path for path in loaded if not path.endswith(".pyc")] == []


def test_memory(plain: Installation) -> None:
    """A pass uses at most 50 MB of memory: with this limit it is not killed."""
    assert container(pod_spec("ops-worker-health"))["resources"]["limits"] == {"memory": "128Mi"}
    for name in ("health", "metrics"):
        limits = ("--limits=memory=50M", "--requests=memory=50M")
        kubectl("-n", NAMESPACE, "set", "resources", f"cronjob/ops-worker-{name}", *limits)
        assert plain.job(f"t-memory-{name}", name).condition == "Complete"


def pod_spec(cronjob: str) -> dict[str, Any]:
    """Return the pod's spec of a CronJob."""
    spec: dict[str, Any] = fetch("cronjob", cronjob, "-n", NAMESPACE)["spec"]["jobTemplate"]
    template: dict[str, Any] = spec["spec"]["template"]["spec"]
    return template


def test_trigger(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """`ops-worker trigger --wait` runs a pass now, shows its log, and ends with its exit code."""
    installation.stubs["ingest"].mode = "503"
    try:
        assert main(["trigger", "health", "--wait", "-n", NAMESPACE]) == 0
    finally:
        installation.stubs["ingest"].mode = "ok"
    out, err = capsys.readouterr()
    assert "health: 4 services, 3 healthy, 1 degraded; 1 alert opened: ingest" in out
    assert "Complete" in err
    names = [
        job["metadata"]["name"]
        for job in fetch("jobs", "-n", NAMESPACE)["items"]
        if job["metadata"]["annotations"].get("cronjob.kubernetes.io/instantiate") == "manual"
    ]
    assert any(name.startswith("ops-worker-health-m") for name in names)


def test_table(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """`ops-worker cluster` shows the last run's exit code and summary, and what is wrong."""
    ended = installation.job("t-table", "metrics", {"PG_PASS": "wrong"})
    assert ended.condition == "Failed"
    assert main(["cluster", "-n", NAMESPACE, "--fail-on-warnings"]) == 4
    out = capsys.readouterr().out
    assert re.search(
        r"^ops-worker-metrics +\* \* \* \* \* +yes .* 1\n  no connection to database",
        out,
        re.MULTILINE,
    )
    failure = "the last pass failed with exit code 1: no connection to database"
    assert f"warning: ops-worker-metrics: {failure}" in out


def test_events(plain: Installation) -> None:
    """With the variant, `kubectl describe cronjob` shows that a service went down and came back.

    The image needs the extra `cluster`.
    """
    path = K8S / "variants" / "events" / "rendered.yaml"
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    objects = [
        document
        for document in documents
        if document["kind"] in {"Role", "RoleBinding"}
        or document["metadata"]["name"] == "ops-worker-health"
    ]
    objects[-1]["spec"]["suspend"] = True
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
    plain.stubs["ingest"].mode = "503"
    try:
        assert main(["trigger", "health", "--wait", "-n", NAMESPACE]) == 0
    finally:
        plain.stubs["ingest"].mode = "ok"
    assert main(["trigger", "health", "--wait", "-n", NAMESPACE]) == 0
    described = kubectl("-n", NAMESPACE, "describe", "cronjob", "ops-worker-health")
    assert re.search(r"Warning +ServiceUnhealthy .*ingest is unhealthy: http 503", described)
    assert re.search(r"Normal +ServiceRecovered .*ingest is healthy again", described)
    kubectl("-n", NAMESPACE, "delete", "rolebinding,role", "ops-worker-events")


def variant(name: str, kind: str, object_name: str) -> dict[str, Any]:
    """Return one object of a variant."""
    path = K8S / "variants" / name / "rendered.yaml"
    documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    document: dict[str, Any] = next(
        document
        for document in documents
        if (document["kind"], document["metadata"]["name"]) == (kind, object_name)
    )
    return document


def apply_cronjob(of_variant: str, name: str) -> None:
    """Apply a CronJob of a variant, suspended."""
    cronjob = variant(of_variant, "CronJob", name)
    cronjob["spec"]["suspend"] = True
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cronjob))


@contextmanager
def running_sidecar() -> Iterator[None]:
    """Apply the Deployment of the variant, and delete it at the end."""
    sidecar = variant("sidecar", "Deployment", "ops-worker-sidecar")
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(sidecar))
    try:
        wait = ("rollout", "status", "deployment/ops-worker-sidecar", "--timeout=110s")
        kubectl("-n", NAMESPACE, *wait)
        yield
    finally:
        kubectl("-n", NAMESPACE, "delete", "deployment", "ops-worker-sidecar", "--wait=true")


def test_sidecar(plain: Installation) -> None:
    """The Deployment becomes ready after the database has answered, and takes samples in a loop."""
    with running_sidecar():
        until(lambda: plain.database.value(TIMES) >= 4)


def test_sidecar_beside_cronjob(plain: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """A CronJob of the same pass adds samples, and none is recorded twice. `cluster` warns."""
    with running_sidecar():
        for number in range(2):
            assert plain.job(f"t-beside-{number}", "metrics").condition == "Complete"
        suspend("ops-worker-metrics", suspended=False)
        (warning,) = cluster_rows(capsys, NAMESPACE)["warnings"]
        suspend("ops-worker-metrics", suspended=True)
    assert "ops-worker-metrics" in warning and "ops-worker-sidecar" in warning
    twice = (
        "SELECT time, service, metric_name, tags FROM system_metrics"
        " GROUP BY time, service, metric_name, tags HAVING count(*) > 1"
    )
    assert plain.database.rows(twice) == []


TIMES = "SELECT count(DISTINCT time) FROM system_metrics"
ATTEMPTS = 3
"""Jobs of which one pod at least starts within 9 s, also on a busy machine."""


def test_every_5s(plain: Installation) -> None:
    """A Job of the variant completes: one sample at the start, and ten at multiples of 5 s."""
    apply_cronjob("every-5s", "ops-worker-metrics")
    for attempt in range(ATTEMPTS):
        plain.database.rows("DELETE FROM system_metrics")
        ended = plain.job(f"t-every-{attempt}", "metrics")
        if ended.condition == "Complete":
            break
        assert ended.reason == "DeadlineExceeded"
    assert ended.condition == "Complete"
    assert plain.database.value(TIMES) in {10, 11}


def test_every_5s_deleted(plain: Installation) -> None:
    """A pod that is deleted ends with exit code 1, and the Job starts another one."""
    apply_cronjob("every-5s", "ops-worker-metrics")
    name = "t-deleted"
    plain.start(name, "metrics")
    until(lambda: plain.database.value(TIMES))
    kubectl("-n", NAMESPACE, "delete", "pod", "-l", f"job-name={name}", "--wait=true")
    before = plain.database.value(TIMES)
    until(lambda: plain.database.value(TIMES) > before)
    status = fetch("job", name, "-n", NAMESPACE)["status"]
    assert (status.get("succeeded", 0), status["failed"]) == (0, 1)
    kubectl("-n", NAMESPACE, "delete", "job", name, "--wait=true")


def test_sharded(plain: Installation) -> None:
    """An Indexed Job of three pods completes, and all services are recorded."""
    apply_cronjob("sharded", "ops-worker-health")
    plain.database.rows("DELETE FROM service_health")
    ended = plain.job("t-sharded", "health")
    assert (ended.condition, len(ended.pods)) == ("Complete", 3)
    assert len(plain.database.health()) == 4


def test_service_account(installation: Installation) -> None:
    """The ServiceAccount has no permission of its own, and its pods have no token."""
    kubectl("-n", NAMESPACE, "create", "serviceaccount", "t-fresh")
    try:
        own, fresh = [
            kubectl("auth", "can-i", "--list", f"--as=system:serviceaccount:{NAMESPACE}:{name}")
            for name in ("ops-worker", "t-fresh")
        ]
    finally:
        kubectl("-n", NAMESPACE, "delete", "serviceaccount", "t-fresh")
    assert sorted(own.splitlines()) == sorted(fresh.splitlines())
    (pod,) = installation.job("t-token", "init-db").pods
    volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
    assert volumes == ["tmp", "catalogue"]


def test_repeated_probe(plain: Installation) -> None:
    """A probe without an answer is repeated once. The closing line gives the number of repeats."""
    stub = plain.stubs["ingest"]
    first = [reset]

    def once(_: Stub, connection: socket.socket) -> None:
        """Reset the first connection, and answer the others."""
        behaviour = first.pop() if first else healthy
        behaviour(stub, connection)

    stub.mode = once
    try:
        ended = plain.job("t-repeated", "health")
    finally:
        stub.mode = "ok"
    assert ended.message["summary"].startswith("health: 4 services, 4 healthy")
    assert "1 probed again, 0 confirmed" in ended.message["summary"]


def test_blind(plain: Installation) -> None:
    """Without a resolver, two passes are blind. The third one records unhealthy services."""
    assert plain.job("t-sighted", "health").condition == "Complete"
    env = {name: f"http://host-{n}.invalid:8080" for n, name in enumerate(plain.stubs.env)}
    states = []
    for number in range(3):
        assert plain.job(f"t-blind-{number}", "health", env).condition == "Complete"
        states.append({row["status"] for row in plain.database.health().values()})
        services = {alert["fingerprint"] for alert in plain.database.alerts()}
        if number < 2:
            assert services == {"system-health:ops_worker"}
    assert states == [{"healthy"}, {"healthy"}, {"unhealthy"}]
    assert plain.job("t-sighted-again", "health").condition == "Complete"


def test_heartbeat(plain: Installation) -> None:
    """A service receives start and success, or start and failure, of each single pass.

    A pass that is killed sends neither success nor failure.
    """
    host = urlsplit(plain.stubs["ingest"].url).hostname or ""
    listener = Stub("heartbeat", host=host)
    listener.counters = {}
    try:
        url = {"HEARTBEAT_URL": f"{listener.url}/ping"}
        plain.job("t-heartbeat", "health", url)
        plain.job("t-heartbeat-failure", "health", url | {"PG_DB": "template1"})
        plain.stubs["evaluator"].mode = "slow:30"
        plain.start("t-heartbeat-killed", "health", url)
        until(lambda: len(listener.requests) == 5)
        pods = ("pod", "-l", "job-name=t-heartbeat-killed", "--grace-period=0", "--force")
        kubectl("-n", NAMESPACE, "delete", "job", "t-heartbeat-killed", "--cascade=orphan")
        kubectl("-n", NAMESPACE, "delete", *pods, warned=True)
    finally:
        plain.stubs["evaluator"].mode = "ok"
        listener.close()
    paths = [request.split()[1].decode() for request in listener.requests]
    assert paths == ["/ping/start", "/ping", "/ping/start", "/ping/fail", "/ping/start"]
