"""What `kubectl apply -f k8s/` gives, on a real API server, with real pods."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from ops_worker.core.catalogue import SERVICES
from tests.cluster.conftest import K8S, NAMESPACE, kubectl

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import Installation

pytestmark = pytest.mark.cluster
RENDERED = sorted(K8S.glob("*/*/rendered.yaml"))


def test_again_changes_nothing(installation: Installation) -> None:
    """A second `kubectl apply -f k8s/` changes nothing."""
    assert len(installation.again) == len(list(K8S.glob("*.yaml")))
    assert [line for line in installation.again if not line.endswith(" unchanged")] == []


@pytest.mark.parametrize("path", RENDERED, ids=[path.parent.name for path in RENDERED])
def test_variants_are_accepted(installation: Installation, path: Path) -> None:  # noqa: ARG001 - the namespace is there
    """A server-side dry run of every variant, under Pod Security restricted, is accepted without a warning."""
    objects = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    foreign = [one["metadata"]["name"] for one in objects if one["kind"] == "Namespace" and one["metadata"]["name"] != NAMESPACE]
    try:
        for name in foreign:
            kubectl("create", "namespace", name)
            kubectl("label", "namespace", name, *(f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")))
        assert "(server dry run)" in kubectl("apply", "--dry-run=server", "-f", str(path))
    finally:
        for name in foreign:
            kubectl("delete", "namespace", name, "--wait=false")


def test_passes_complete(installation: Installation) -> None:
    """A Job of each CronJob reaches Complete, and its rows are there."""
    assert installation.job("t-init-db", "init-db").condition == "Complete"
    health = installation.job("t-health", "health")
    assert health.condition == "Complete"
    assert health.message["summary"].startswith("health: 4 services, 4 healthy (")
    assert health.message["job"] == "t-health"
    assert {row["status"] for row in installation.database.health().values()} == {"healthy"}
    assert installation.job("t-metrics", "metrics").condition == "Complete"
    counters = sum(len(service.counters) for service in SERVICES)
    assert len(installation.database.samples()) > counters


def test_schedule(installation: Installation) -> None:
    """The controller itself starts the pass, within two minutes of being let."""
    kubectl("-n", NAMESPACE, "patch", "cronjob", "ops-worker-metrics", "-p", '{"spec": {"suspend": false}}')
    end = time.monotonic() + 130
    try:
        while not installation.database.rows("SELECT 1 FROM system_metrics") and time.monotonic() < end:
            time.sleep(2)
        assert installation.database.rows("SELECT 1 FROM system_metrics")
    finally:
        kubectl("-n", NAMESPACE, "patch", "cronjob", "ops-worker-metrics", "-p", '{"spec": {"suspend": true}}')


def test_wrong_password(installation: Installation) -> None:
    """The Job fails after its retry, and `kubectl describe pod` says why."""
    ended = installation.job("t-password", "health", {"PG_PASS": "wrong"})
    assert (ended.condition, ended.reason) == ("Failed", "BackoffLimitExceeded")
    assert len(ended.pods) == 2
    described = kubectl("-n", NAMESPACE, "describe", "pod", ended.pods[-1]["metadata"]["name"])
    assert "password authentication failed" in described
    assert "check that it runs, and DATABASE_URL or PG_HOST" in described
    assert ended.message["exit_code"] == 1


def test_bad_setting(installation: Installation) -> None:
    """The Job fails at once: no retry helps."""
    ended = installation.job("t-setting", "health", {"PASS_DEADLINE": "soon"})
    assert (ended.condition, ended.reason) == ("Failed", "PodFailurePolicy")
    assert len(ended.pods) == 1
    assert ended.message["error"] == "PASS_DEADLINE is 'soon', but wants a number of seconds, at least 6, at most 86400"
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
    limit = json.loads(text)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert limit == "128Mi"
    kubectl("-n", NAMESPACE, "set", "resources", "cronjob/ops-worker-health", "--limits=memory=72Mi", "--requests=memory=64Mi")
    try:
        assert installation.job("t-memory", "health").condition == "Complete"
    finally:
        kubectl("-n", NAMESPACE, "set", "resources", "cronjob/ops-worker-health", "--limits=memory=128Mi", "--requests=memory=64Mi")
