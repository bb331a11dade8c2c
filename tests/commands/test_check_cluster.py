"""`ops-worker check` in a pod: a missing permission of its service account is no warning."""

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


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("path", "status", "state", "text"),
    [
        # The Role of the component `events` grants no access to CronJobs and pods.
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
    text: str,
) -> None:
    """If the account may not list the objects, the check is left out, and the state is ok.

    Any other error of the API server is a warning.
    """
    with serving(tmp_path) as server:
        server.answers[f"GET {path}"] = (status, FORBIDDEN)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        main(["check", "--output", "json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    (finding,) = [finding for finding in findings if finding["subject"] == "CronJobs"]
    assert finding["state"] == state
    assert text in finding["found"]
    assert finding["remedy"] == ("" if state == "ok" else REMEDY)


@pytest.mark.usefixtures("configured")
def test_warnings_of_cronjobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The remedy of a CronJob's warning names the namespace."""
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
