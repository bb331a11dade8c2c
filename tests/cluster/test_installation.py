"""What `kubectl apply -f k8s/` gives, on a real API server, with real pods."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from ops_worker.catalogue import Surroundings, load
from ops_worker.cli import main
from tests.cluster.conftest import K8S, NAMESPACE, kubectl

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import Installation

pytestmark = pytest.mark.cluster
RENDERED = sorted(K8S.glob("*/*/rendered.yaml"))
PROMETHEUS_RULES = "prometheusrules.monitoring.coreos.com"


def test_again_changes_nothing(installation: Installation) -> None:
    """A second `kubectl apply -f k8s/` changes nothing."""
    assert len(installation.again) == len(list(K8S.glob("*.yaml")))
    assert [line for line in installation.again if not line.endswith(" unchanged")] == []


@pytest.mark.parametrize("path", RENDERED, ids=[path.parent.name for path in RENDERED])
def test_variants_are_accepted(installation: Installation, path: Path) -> None:  # noqa: ARG001 - the namespace is there
    """A server-side dry run of every variant, under Pod Security restricted, is accepted without a warning."""
    if path.parent.name == "monitoring" and not kubectl(
        "get", "crd", PROMETHEUS_RULES, "--ignore-not-found", "-o", "name"
    ):
        pytest.skip(
            f"the cluster has no CRD {PROMETHEUS_RULES}, which the Prometheus Operator brings"
        )
    objects = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    foreign = [
        one
        for one in objects
        if one["kind"] == "Namespace" and one["metadata"]["name"] != NAMESPACE
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
    """The controller itself starts the pass, within two minutes of being let."""
    kubectl(
        "-n",
        NAMESPACE,
        "patch",
        "cronjob",
        "ops-worker-metrics",
        "-p",
        '{"spec": {"suspend": false}}',
    )
    end = time.monotonic() + 130
    try:
        while (
            not installation.database.rows("SELECT 1 FROM system_metrics")
            and time.monotonic() < end
        ):
            time.sleep(2)
        assert installation.database.rows("SELECT 1 FROM system_metrics")
    finally:
        kubectl(
            "-n",
            NAMESPACE,
            "patch",
            "cronjob",
            "ops-worker-metrics",
            "-p",
            '{"spec": {"suspend": true}}',
        )


def test_wrong_password(installation: Installation) -> None:
    """The Job fails after its retry, and `kubectl describe pod` says why."""
    ended = installation.job("t-password", "health", {"PG_PASS": "wrong"})
    assert (ended.condition, ended.reason) == ("Failed", "BackoffLimitExceeded")
    assert len(ended.pods) == 2
    described = kubectl("-n", NAMESPACE, "describe", "pod", ended.pods[-1]["metadata"]["name"])
    assert "password authentication failed" in described
    assert "check the password and the role: PG_PASS and PG_USER" in described
    assert ended.message["exit_code"] == 1


def test_bad_setting(installation: Installation) -> None:
    """The Job fails at once: no retry helps."""
    ended = installation.job("t-setting", "health", {"PASS_DEADLINE": "soon"})
    assert (ended.condition, ended.reason) == ("Failed", "PodFailurePolicy")
    assert len(ended.pods) == 1
    assert (
        ended.message["error"]
        == "PASS_DEADLINE is 'soon'; expected a number of seconds, 6 to 86400"
    )
    assert ended.message["exit_code"] == 2


def test_nothing_is_compiled(installation: Installation) -> None:
    """Every module that a pass imports comes from bytecode that is in the image."""
    installation.job("t-verbose", "health", {"PYTHONVERBOSE": "1"})
    log = kubectl("-n", NAMESPACE, "logs", "job/t-verbose", "--tail=-1")
    loaded = re.findall(r"^# code object from '?(\S+?\.pyc?)'?$", log, re.MULTILINE)
    assert len(loaded) > 200
    assert [path for path in loaded if not path.endswith(".pyc")] == []


def test_memory(installation: Installation) -> None:
    """The pass stays far below its limit: half of it, here set as the limit, is enough."""
    text = kubectl("-n", NAMESPACE, "get", "cronjob", "ops-worker-health", "-o", "json")
    limit = json.loads(text)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0][
        "resources"
    ]["limits"]["memory"]
    assert limit == "128Mi"
    kubectl(
        "-n",
        NAMESPACE,
        "set",
        "resources",
        "cronjob/ops-worker-health",
        "--limits=memory=72Mi",
        "--requests=memory=64Mi",
    )
    try:
        assert installation.job("t-memory", "health").condition == "Complete"
    finally:
        kubectl(
            "-n",
            NAMESPACE,
            "set",
            "resources",
            "cronjob/ops-worker-health",
            "--limits=memory=128Mi",
            "--requests=memory=64Mi",
        )


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
    owned = json.loads(kubectl("-n", NAMESPACE, "get", "jobs", "-o", "json"))["items"]
    names = [
        job["metadata"]["name"]
        for job in owned
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
    assert (
        "warning: ops-worker-metrics: the last pass failed with exit code 1: no connection to database"
        in out
    )


def test_not_permitted(
    installation: Installation,  # noqa: ARG001 - it is there
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Somebody without rights is told which are missing, and ends with 3."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {
        "token": kubectl("-n", NAMESPACE, "create", "token", "ops-worker").strip()
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    assert main(["cluster", "-n", NAMESPACE, "--kubeconfig", str(path)]) == 3
    assert capsys.readouterr().err.endswith(
        f"not permitted to list cronjobs in namespace {NAMESPACE}: grant it in a Role of that namespace, bound to this account\n"
    )
    assert main(["trigger", "health", "-n", "nowhere-at-all"]) == 2
    assert "the namespace does not exist" in capsys.readouterr().err


def test_events(installation: Installation) -> None:
    """With the variant, `kubectl describe cronjob` tells of a service that went down. Wants an image with the extra `cluster`."""
    objects = list(
        yaml.safe_load_all(
            (K8S / "variants" / "events" / "rendered.yaml").read_text(encoding="utf-8")
        )
    )
    kubectl(
        "apply",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(one for one in objects if one["kind"] in {"Role", "RoleBinding"}),
    )
    (health,) = (
        one
        for one in objects
        if one["kind"] == "CronJob" and one["metadata"]["name"] == "ops-worker-health"
    )
    health["spec"]["suspend"] = True
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(health))
    installation.stubs["ingest"].mode = "503"
    try:
        assert main(["trigger", "health", "--wait", "-n", NAMESPACE]) == 0
    finally:
        installation.stubs["ingest"].mode = "ok"
    assert main(["trigger", "health", "--wait", "-n", NAMESPACE]) == 0
    described = kubectl("-n", NAMESPACE, "describe", "cronjob", "ops-worker-health")
    assert re.search(r"Warning +ServiceUnhealthy .*ingest is unhealthy: http 503", described)
    assert re.search(r"Normal +ServiceRecovered .*ingest is healthy again", described)


def variant(name: str, kind: str, which: str) -> str:
    """Return one object of a variant, as YAML."""
    objects = yaml.safe_load_all(
        (K8S / "variants" / name / "rendered.yaml").read_text(encoding="utf-8")
    )
    return yaml.safe_dump(
        next(one for one in objects if one["kind"] == kind and one["metadata"]["name"] == which)
    )


def test_sidecar(installation: Installation) -> None:
    """The Deployment becomes ready, which it is once the database has answered, and samples each five seconds."""
    kubectl("apply", "-f", "-", stdin=variant("sidecar", "Deployment", "ops-worker-sidecar"))
    try:
        kubectl(
            "-n", NAMESPACE, "rollout", "status", "deployment/ops-worker-sidecar", "--timeout=90s"
        )
        time.sleep(12)
        assert installation.database.value("SELECT count(DISTINCT time) FROM system_metrics") >= 3
    finally:
        kubectl("-n", NAMESPACE, "delete", "deployment", "ops-worker-sidecar", "--wait=true")


def apply_every_5s() -> None:
    """Apply the CronJob of the variant, suspended."""
    cronjob = yaml.safe_load(variant("every-5s", "CronJob", "ops-worker-metrics"))
    cronjob["spec"]["suspend"] = True
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cronjob))


def test_every_5s(installation: Installation) -> None:
    """A Job of the variant completes before its deadline: a sample at its start, and ten on the grid."""
    apply_every_5s()
    assert installation.job("t-every", "metrics").condition == "Complete"
    assert installation.database.value("SELECT count(DISTINCT time) FROM system_metrics") >= 10


def test_every_5s_deleted(installation: Installation) -> None:
    """A pod that is deleted before its end is no success: the Job starts another one."""
    apply_every_5s()
    kubectl("-n", NAMESPACE, "create", "job", "t-deleted", "--from=cronjob/ops-worker-metrics")
    selector = ("-l", "job-name=t-deleted")
    taken = "SELECT count(DISTINCT time) FROM system_metrics"
    end = time.monotonic() + 40
    while not installation.database.value(taken):
        assert time.monotonic() < end
        time.sleep(0.5)
    kubectl("-n", NAMESPACE, "delete", "pod", *selector, "--wait=true")
    before = installation.database.value(taken)
    while installation.database.value(taken) <= before:
        assert time.monotonic() < end, kubectl("-n", NAMESPACE, "describe", "job", "t-deleted")
        time.sleep(0.5)
    status = json.loads(kubectl("-n", NAMESPACE, "get", "job", "t-deleted", "-o", "json"))["status"]
    assert (status.get("succeeded", 0), status["failed"]) == (0, 1)
    kubectl("-n", NAMESPACE, "delete", "job", "t-deleted", "--wait=true")


def test_sharded(installation: Installation) -> None:
    """An Indexed Job of three pods completes, and all services are recorded."""
    cronjob = yaml.safe_load(variant("sharded", "CronJob", "ops-worker-health"))
    cronjob["spec"]["suspend"] = True
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cronjob))
    installation.database.rows("DELETE FROM service_health")
    ended = installation.job("t-sharded", "health")
    assert (ended.condition, len(ended.pods)) == ("Complete", 3)
    assert len(installation.database.health()) == 4
