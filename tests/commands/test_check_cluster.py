"""`ops-worker check` in a pod: what its service account may not read is no problem of a pass."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ops_worker.cli import main
from tests.kubernetes_api import BATCH, CORE, cronjob, serving

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.integration

FORBIDDEN = {
    "message": 'cronjobs.batch is forbidden: User "u" cannot list resource "cronjobs" in API group'
}
NOT_CHECKED = "not checked: not permitted to list {} in namespace ops, which no pass needs; "
REMEDY = "run `ops-worker cluster` with access to the cluster"


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    ("path", "status", "state", "said"),
    [
        # The Role of the component `events` grants neither.
        (f"{BATCH}/cronjobs", 403, "ok", NOT_CHECKED.format("cronjobs")),
        (f"{CORE}/pods", 403, "ok", NOT_CHECKED.format("pods")),
        (f"{BATCH}/cronjobs", 401, "warning", "does not accept the credentials (401)"),
        (f"{BATCH}/cronjobs", 500, "warning", "answered 500 to list cronjobs"),
    ],
)
def test_permission(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    status: int,
    state: str,
    said: str,
) -> None:
    """A missing permission limits the check and is harmless; another answer is a warning."""
    with serving(tmp_path) as server:
        server.answers[f"GET {path}"] = (status, FORBIDDEN)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        main(["check", "--output", "json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    (finding,) = [finding for finding in findings if finding["subject"] == "CronJobs"]
    assert finding["state"] == state
    assert said in finding["found"]
    assert finding["remedy"] == ("" if state == "ok" else REMEDY)


@pytest.mark.usefixtures("told")
def test_warnings_of_cronjobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that shows more about a CronJob names the namespace."""
    late = cronjob(lastSuccessfulTime="2026-03-01T12:00:00Z")
    late["spec"]["suspend"] = False
    with serving(tmp_path) as server:
        server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": [late]})
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        main(["check", "--output", "json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    (finding,) = [finding for finding in findings if finding["subject"].startswith("CronJob ")]
    assert finding["remedy"] == "see `ops-worker cluster -n ops`"
