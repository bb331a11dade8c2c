"""Calls of the Kubernetes API, against a simulated API server."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.adapters import kubernetes
from ops_worker.cli import main
from ops_worker.errors import SettingsError
from tests.kubernetes_api import (
    BATCH,
    CORE,
    FORBIDDEN,
    ROOT,
    ApiServer,
    cronjob,
    last_error_line,
    pod,
    serving,
)
from tests.network import START_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """Yield an API server with one CronJob. KUBECONFIG names it."""
    with serving(tmp_path) as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig))
        yield running


LAZY = 37
"""The first version of the Kubernetes client that imports its models only on use."""


def test_pages(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """All pages of a list are read."""
    first = {"items": [cronjob()], "metadata": {"continue": "more"}}
    server.answers[f"GET {BATCH}/cronjobs"] = [
        (200, first),
        (200, {"items": [cronjob("ops-worker-metrics")]}),
    ]
    assert main(["cluster"]) == 0
    assert "ops-worker-metrics" in capsys.readouterr().out
    assert "continue=more" in server.requests[1][1]


def test_other_labels(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """CronJobs with other labels are recognised by the commands of their containers."""
    ours, other = cronjob("acme-ops-worker-health"), cronjob("backup")
    ours["spec"]["jobTemplate"]["spec"] = {
        "template": {
            "spec": {
                "containers": [{"name": "mesh"}, {"name": "x", "command": ["ops-worker", "health"]}]
            }
        }
    }
    job = {
        "metadata": {"name": "a-job", "ownerReferences": [{"uid": "uid-acme-ops-worker-health"}]}
    }
    ended = pod(3, '{"error": "no table"}') | {
        "spec": {"containers": [{"name": "x", "command": ["ops-worker"]}]}
    }
    ended["status"]["containerStatuses"][0]["name"] = "x"
    server.answers |= {
        f"GET {BATCH}/cronjobs": [(200, {"items": []}), (200, {"items": [ours, other]})],
        f"GET {BATCH}/jobs": (200, {"items": [job]}),
        f"GET {CORE}/pods": (200, {"items": [ended]}),
    }
    assert main(["cluster", "--output", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["cronjobs"]
    assert (row["name"], row["exit_code"], row["summary"]) == (
        "acme-ops-worker-health",
        3,
        "no table",
    )
    assert any(
        "labelSelector=batch.kubernetes.io%2Fjob-name" in path for _, path, _ in server.requests
    )


CRONJOBS = f"GET {BATCH}/cronjobs"
HEALTH = f"GET {BATCH}/cronjobs/ops-worker-health"
NAMESPACE = "GET /api/v1/namespaces/ops"
NO_CRONJOB = "no CronJob of ops-worker in namespace ops"
NEXT_STEP = (
    "name another namespace with -n, or apply your overlay again (`kubectl apply -k ...`), "
    "or run `helm upgrade`"
)
GRANT = "in namespace ops: grant it in a Role of that namespace, bound to this account"
ERRORS = [
    (
        ["cluster"],
        {CRONJOBS: (200, {"items": []})},
        2,
        f"{NO_CRONJOB}: the namespace does not exist; {NEXT_STEP}",
    ),
    (
        ["cluster"],
        {CRONJOBS: (200, {"items": []}), NAMESPACE: (200, {})},
        2,
        f"{NO_CRONJOB}: it has no CronJob at all; {NEXT_STEP}",
    ),
    (
        ["cluster"],
        {CRONJOBS: (200, {"items": []}), NAMESPACE: FORBIDDEN},
        2,
        f"{NO_CRONJOB}: it has no CronJob at all; {NEXT_STEP}",
    ),
    (
        ["trigger", "metrics"],
        {},
        2,
        "no CronJob ops-worker-metrics in namespace ops: existing CronJobs: ops-worker-health",
    ),
    (
        ["trigger", "other"],
        {},
        2,
        "no CronJob other in namespace ops: existing CronJobs: ops-worker-health",
    ),
    (["cluster"], {f"GET {CORE}/pods": FORBIDDEN}, 3, f"not permitted to list pods {GRANT}"),
    (
        ["trigger", "health"],
        {f"POST {BATCH}/jobs": FORBIDDEN},
        3,
        f"not permitted to create jobs {GRANT}",
    ),
    (["trigger", "health"], {HEALTH: FORBIDDEN}, 3, f"not permitted to get cronjobs {GRANT}"),
    (
        ["cluster"],
        {CRONJOBS: (401, {})},
        3,
        "{url} (context test) does not accept the credentials (401): "
        "renew the token of the kubeconfig or of the service account",
    ),
    (
        ["cluster"],
        {CRONJOBS: (500, {"message": "etcd\nis away"})},
        1,
        "{url} (context test) answered 500 to list cronjobs: etcd is away",
    ),
    (
        ["cluster"],
        {CRONJOBS: (503, "<html>")},
        1,
        "{url} (context test) answered 503 to list cronjobs: <html>",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "answers", "code", "message"), ERRORS, ids=range(len(ERRORS))
)
def test_errors(
    server: ApiServer,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    answers: dict[str, Any],
    code: int,
    message: str,
) -> None:
    """An error is one line with a hint, and has its own exit code."""
    server.answers |= answers
    assert main(arguments) == code
    assert last_error_line(capsys) == f"ops-worker {arguments[0]}: {message.format(url=server.url)}"


def test_away(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """If the API server does not listen, the error is one line."""
    server.http.shutdown()
    server.http.server_close()
    assert main(["cluster"]) == 1
    line = last_error_line(capsys)
    assert line.startswith(f"ops-worker cluster: no answer from {server.url} (context test): ")
    assert line.endswith(
        "Connection refused; check that it is running and that this is the right cluster"
    )


def test_redirect(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A redirect is not followed, so that the token goes only to the kubeconfig's server."""
    server.headers["Location"] = f"{server.url}/elsewhere"
    server.answers[f"GET {BATCH}/cronjobs"] = (307, {"message": "elsewhere"})
    assert main(["cluster"]) == 1
    assert last_error_line(capsys).endswith("answered 307 to list cronjobs: elsewhere")
    assert [path.partition("?")[0] for _, path, _ in server.requests] == [f"{BATCH}/cronjobs"]


@pytest.mark.parametrize("status", [429, 503])
def test_no_retry(server: ApiServer, status: int) -> None:
    """A call is made once, even if the answer has a Retry-After header."""
    server.headers["Retry-After"] = "0"
    server.answers[f"GET {BATCH}/cronjobs"] = (status, {"message": "busy"})
    assert main(["cluster"]) == 1
    assert len(server.requests) == 1


def test_no_models(server: ApiServer) -> None:
    """The client's models, which are slow to import, are not imported."""
    if int(version("kubernetes").partition(".")[0]) < LAZY:
        pytest.skip("this version of the client imports them in any case")
    script = (
        "import sys; from ops_worker.cli import main; main(['cluster']); "
        "print(*sys.modules, sep='\\n')"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    loaded = result.stdout.splitlines()
    # CronJobs, Deployments, Jobs, pods, and four kinds of Events.
    assert len(server.requests) == 8
    assert "kubernetes.client.api_client" in loaded
    assert not [
        name
        for name in loaded
        if name.startswith(("kubernetes.client.models.", "kubernetes.client.api."))
    ]


def test_hangs(
    server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of an API server that never answers ends at its deadline."""
    monkeypatch.setattr(kubernetes, "READ_S", 0.2)
    server.answers[f"GET {BATCH}/cronjobs"] = (0, {})
    assert main(["cluster"]) == 1
    assert "no answer from" in last_error_line(capsys)


def test_kubeconfigs(
    server: ApiServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing or invalid kubeconfig and an unknown context are errors with a hint."""
    assert main(["cluster", "--kubeconfig", "/nowhere"]) == 2
    assert last_error_line(capsys) == (
        "ops-worker cluster: no kubeconfig: file /nowhere does not exist; "
        "set KUBECONFIG or --kubeconfig"
    )
    assert main(["cluster", "--context", "other"]) == 2
    assert (
        last_error_line(capsys)
        == f"ops-worker cluster: --context other: {server.kubeconfig} has no such context"
    )
    server.kubeconfig.write_text("\n")
    assert main(["cluster"]) == 2
    assert last_error_line(capsys) == (
        "ops-worker cluster: the kubeconfig cannot be used: "
        f"Invalid kube-config. {server.kubeconfig} file is empty"
    )
    server.kubeconfig.write_text("{")
    assert main(["cluster"]) == 2
    assert last_error_line(capsys) == (
        "ops-worker cluster: the kubeconfig cannot be used: "
        "expected the node content, but found '<stream end>' at line 1, column 2"
    )
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["cluster"]) == 2
    assert last_error_line(capsys) == (
        f"ops-worker cluster: no kubeconfig: file {tmp_path}/.kube/config does not exist; "
        "set KUBECONFIG or --kubeconfig"
    )


def _kubeconfig(file: Path, name: str, current: str | None) -> Path:
    """Write a kubeconfig with two contexts: one of this name, and one named ``same``."""
    server = f"http://{name}.invalid"
    document: dict[str, Any] = {
        "clusters": [
            {"name": name, "cluster": {"server": server}},
            {"name": "same", "cluster": {"server": f"{server}:1"}},
        ],
        "users": [
            {"name": name, "user": {"token": "t"}},
            {"name": "same", "user": {"token": f"t-{name}"}},
        ],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": name, "namespace": name}},
            {"name": "same", "context": {"cluster": "same", "user": "same", "namespace": name}},
        ],
    }
    if current is not None:
        document["current-context"] = current
    file.write_text(json.dumps(document))
    return file


def _kubectl_context(paths: str) -> str:
    """Return the current context according to kubectl."""
    return subprocess.run(
        ["kubectl", "config", "current-context"],
        env=os.environ | {"KUBECONFIG": paths},
        capture_output=True,
        text=True,
        check=True,
        timeout=START_S,
    ).stdout.strip()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("first second", "first"),
        ("second first", "second"),
        ("none second first", "second"),
        ("empty first second", "first"),
        ("missing second empty", "second"),
        ("second none", "second"),
        ("blank first", "first"),
        ("second blank", "second"),
    ],
)
def test_several_kubeconfigs(tmp_path: Path, names: str, expected: str) -> None:
    """As with kubectl, the first file counts that names a current context."""
    currents = {"first": "first", "second": "second", "none": None, "empty": ""}
    for name, current in currents.items():
        _kubeconfig(tmp_path / name, name, current)
    (tmp_path / "blank").write_text("\n")
    paths = os.pathsep.join(str(tmp_path / name) for name in names.split())
    cluster = kubernetes.Cluster(kubeconfig=paths)
    assert cluster.label == f"http://{expected}.invalid (context {expected})"
    assert cluster.namespace == expected
    if shutil.which("kubectl"):
        assert _kubectl_context(paths) == expected


def test_same_names_in_several_kubeconfigs(tmp_path: Path) -> None:
    """As with kubectl, a context, cluster or user is the first one of its name."""
    for name in ("first", "second"):
        _kubeconfig(tmp_path / name, name, name)
    paths = os.pathsep.join(str(tmp_path / name) for name in ("second", "first"))
    cluster = kubernetes.Cluster(kubeconfig=paths, context="same")
    assert cluster.label == "http://second.invalid:1 (context same)"
    assert cluster.namespace == "second"
    assert cluster._headers()["Authorization"] == "Bearer t-second"
    other = kubernetes.Cluster(kubeconfig=paths, context="first")
    assert other.label == "http://first.invalid (context first)"


def test_no_current_context(tmp_path: Path) -> None:
    """Without a current context, only ``--context`` names one."""
    file = str(_kubeconfig(tmp_path / "none", "none", None))
    assert kubernetes.Cluster(kubeconfig=file, context="none").namespace == "none"
    with pytest.raises(SettingsError, match=r"the kubeconfig cannot be used: .*current-context"):
        kubernetes.Cluster(kubeconfig=file)


@pytest.fixture
def in_pod(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    """Set up a service account with its token, as in a pod."""
    for name, text in (("token", "secret"), ("namespace", "ops")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kubernetes, "TOKEN", tmp_path / "token")
    return server


def test_announce(in_pod: ApiServer) -> None:
    """Every transition is an Event on the CronJob, with the uid that `kubectl describe` needs."""
    in_pod.answers[f"POST {CORE}/events"] = (201, {})
    assert (
        kubernetes.announce(
            "ops-worker-health-29400000", [("ingest", "http 503\nX: y"), ("evaluator", "")]
        )
        == []
    )
    first, second = (body for method, _, body in in_pod.requests if method == "POST")
    cronjob_reference = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "namespace": "ops",
        "name": "ops-worker-health",
        "uid": "uid-ops-worker-health",
    }
    assert first["involvedObject"] == cronjob_reference
    assert (first["type"], first["reason"], first["message"]) == (
        "Warning",
        "ServiceUnhealthy",
        "ingest is unhealthy: http 503 X: y",
    )
    assert (second["type"], second["reason"], second["message"]) == (
        "Normal",
        "ServiceRecovered",
        "evaluator is healthy again",
    )


@pytest.mark.parametrize(
    ("job", "answers", "warning"),
    [
        (
            "ops-worker-health-1",
            {f"POST {CORE}/events": FORBIDDEN},
            f"not permitted to create events {GRANT}",
        ),
        ("ops-worker-health-1", {HEALTH: FORBIDDEN}, f"not permitted to get cronjobs {GRANT}"),
        ("ops-worker-health-1", {HEALTH: (200, {})}, "KeyError: 'metadata'"),
        ("", {}, "KUBERNETES_EVENTS is on, but JOB_NAME is not a Job of a CronJob"),
    ],
)
def test_announce_refused(
    in_pod: ApiServer, job: str, answers: dict[str, Any], warning: str
) -> None:
    """Any failure of an Event is a warning."""
    in_pod.answers |= answers
    assert kubernetes.announce(job, [("ingest", "http 503")]) == [warning]


@pytest.mark.parametrize("deadline_s", [2.0, -1.0])
def test_announce_in_time(in_pod: ApiServer, deadline_s: float) -> None:
    """Events take no longer than the time that the pass has left."""
    importlib.import_module("kubernetes.client")  # the import may take longer than the deadline
    in_pod.answers[f"GET {BATCH}/cronjobs/ops-worker-health"] = (0, {})
    (warning,) = kubernetes.announce("ops-worker-health-1", [("ingest", "http 503")], deadline_s)
    assert not in_pod.closed.is_set(), "the deadline ended the call before the answer"
    assert warning.startswith(
        "no answer from" if deadline_s > 0 else "no time was left for Kubernetes Events"
    )


def test_announce_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a service account no Event is sent, not even with a developer's kubeconfig."""
    monkeypatch.setattr(kubernetes, "TOKEN", tmp_path / "token")
    (warning,) = kubernetes.announce("ops-worker-health-1", [("ingest", "http 503")])
    assert warning.startswith("KUBERNETES_EVENTS is on, but there is no service account token")


def test_without_the_extra(
    server: ApiServer,  # noqa: ARG001 - the fixture sets KUBECONFIG
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If an extra is missing, the error names it."""
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["cluster"]) == 2
    assert last_error_line(capsys) == (
        "ops-worker cluster: calling the Kubernetes API requires an extra: "
        "pip install 'ops-worker[cluster]'"
    )
    assert main(["manifests", "check", "x"]) == 2
    assert (
        last_error_line(capsys)
        == "ops-worker manifests: manifests requires an extra: pip install 'ops-worker[cluster]'"
    )
