"""`ops-worker trigger --args`: any command of the worker, as a Job in the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from ops_worker.cli import main
from ops_worker.commands import trigger
from ops_worker.core.jobs import command_job
from tests.kubernetes_api import (
    BATCH,
    CORE,
    ROOT,
    ApiServer,
    cronjob,
    event,
    last_error_line,
    pod,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

WORKER = {"name": "ops-worker", "image": "ops-worker:0.1.0", "args": ["health"]}
QUOTA = 'Error creating: pods "a-job-x" is forbidden: exceeded quota: none, requested: pods=1'


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """Return an API server whose CronJob runs the worker; KUBECONFIG names it."""
    with serving(tmp_path) as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig))
        monkeypatch.setattr(trigger, "POLL_S", 0.01)
        source = cronjob()
        source["spec"]["jobTemplate"]["spec"] = {"template": {"spec": {"containers": [WORKER]}}}
        running.answers[f"GET {BATCH}/cronjobs/ops-worker-health"] = (200, source)
        yield running


def ended(kind: str, reason: str = "") -> dict[str, Any]:
    """Return a Job that has ended."""
    condition = {"type": kind, "status": "True", "reason": reason, "message": "m"}
    return {
        "metadata": {"name": "a-job", "namespace": "ops"},
        "spec": {"activeDeadlineSeconds": 300},
        "status": {"conditions": [condition]},
    }


def created(server: ApiServer) -> dict[str, Any]:
    """Return the Job that was created."""
    (body,) = [body for method, _, body in server.requests if method == "POST"]
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("alerts list", ["alerts", "list"]),
        ("ops-worker status --output json", ["status", "--output", "json"]),
        (
            "maintenance start --for 2h --reason 'new switch'",
            ["maintenance", "start", "--for", "2h", "--reason", "new switch"],
        ),
        ("check", ["check"]),
    ],
)
def test_arguments(server: ApiServer, text: str, arguments: list[str]) -> None:
    """The words are split as in a shell. The template is that of the health pass."""
    assert main(["trigger", "--args", text]) == 0
    job = created(server)
    assert job["metadata"]["name"].startswith("ops-worker-health-command-m")
    assert "ownerReferences" not in job["metadata"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == arguments


def test_other_template(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The template of another CronJob may be used; --timeout is the deadline of the Job."""
    assert main(["trigger", "health", "--args=--version", "--timeout", "19.5"]) == 0
    assert created(server)["spec"]["activeDeadlineSeconds"] == 20
    assert main(["trigger", "metrics", "--args", "check"]) == 2
    assert "no CronJob ops-worker-metrics" in last_error_line(capsys)


def release(name: str, command: str) -> dict[str, Any]:
    """Return a CronJob of a Helm release that runs a command."""
    source = cronjob(f"{name}-{command}")
    source["metadata"]["labels"] = {"app.kubernetes.io/component": command}
    containers = [WORKER | {"args": [command]}]
    source["spec"]["jobTemplate"]["spec"] = {"template": {"spec": {"containers": containers}}}
    return source


@pytest.mark.parametrize("command", ["health", "metrics", "init-db"])
def test_name_of_a_release(server: ApiServer, command: str) -> None:
    """The only CronJob that runs a pass is found under any name."""
    del server.answers[f"GET {BATCH}/cronjobs/ops-worker-health"]
    items = [cronjob("shop"), *(release("acme", name) for name in ("health", "metrics", "init-db"))]
    server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": items})
    assert main(["trigger", command]) == 0
    (owner,) = created(server)["metadata"]["ownerReferences"]
    assert owner["name"] == f"acme-{command}"


def test_several_releases(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """If several CronJobs run a pass, the command line has to name one."""
    items = [release("acme", "health"), release("other", "health")]
    server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": items})
    assert main(["trigger", "health"]) == 0
    del server.answers[f"GET {BATCH}/cronjobs/ops-worker-health"]
    assert main(["trigger", "health"]) == 2
    assert last_error_line(capsys) == (
        "ops-worker trigger: several CronJobs in namespace ops run health: "
        "name one of acme-health, other-health"
    )
    assert main(["trigger", "metrics"]) == 2
    assert "existing CronJobs: acme-health, other-health" in last_error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--args", "alerts 'list"], "alerts 'list cannot be split: No closing quotation"),
        (["--args", " "], "it is empty; write for example --args 'alerts list'"),
        (["--args", "ops-worker"], "it is empty; write for example --args 'alerts list'"),
        ([], "name a pass (health, metrics, rollup, init-db), or a command with --args"),
        (
            ["--args", "check", "--timeout", "11.9"],
            (
                "--timeout 11.9: with --args it is at least 12, "
                "because half of it is left for the start of the pod"
            ),
        ),
        (["health", "--timeout", "soon"], "soon is not a number of seconds, 0.1 to 86400"),
        (["health", "--timeout", "nan"], "nan is not a number of seconds, 0.1 to 86400"),
        (["health", "--timeout", "0"], "0 is not a number of seconds, 0.1 to 86400"),
    ],
)
def test_usage(
    server: ApiServer, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    """A wrong command line ends with 2, and nothing is created."""
    assert main(["trigger", *arguments]) == 2
    assert problem in last_error_line(capsys)
    assert server.requests == []


def test_no_worker(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A CronJob whose container is not the worker's cannot run its commands."""
    server.answers[f"GET {BATCH}/cronjobs/ops-worker-health"] = (200, cronjob())
    assert main(["trigger", "--args", "check"]) == 2
    assert last_error_line(capsys) == (
        "ops-worker trigger: CronJob ops-worker-health cannot run a command: "
        "no container of its template runs ops-worker; name another CronJob"
    )


TEMPLATES = [
    *sorted((ROOT / "k8s").glob("40-cronjob-*.yaml")),
    ROOT / "k8s" / "variants" / "sharded" / "rendered.yaml",
]


@pytest.mark.parametrize(
    "path", TEMPLATES, ids=[f"{path.parent.name}-{path.stem}" for path in TEMPLATES]
)
def test_job_keeps_the_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: Path
) -> None:  # fmt: skip
    """The Job of a command satisfies the rules and schemas for manifests."""
    documents = [*yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    (source, *_) = [document for document in documents if document["kind"] == "CronJob"]
    for file in (ROOT / "k8s").glob("[0-3]*.yaml"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    job = command_job(source, ["alerts", "list"], "m1")
    job["metadata"]["namespace"] = "ops-worker"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    assert main(["manifests", "check", str(tmp_path)]) == 0, capsys.readouterr()
    kubernetes_validate.validate(job, "1.31", strict=True)


@pytest.mark.parametrize(("code", "kind"), [(0, "Complete"), (2, "Failed"), (4, "Failed")])
def test_output(
    server: ApiServer, capfdbinary: pytest.CaptureFixture[bytes], code: int, kind: str
) -> None:
    """The whole log reaches standard output byte by byte; the exit code is the command's."""
    log = b'{"a": 1}\n' * 200_000 + b"\xff\x00 no end of line"
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": (200, ended(kind)),
        f"GET {CORE}/pods": (200, {"items": [pod(code)]}),
        f"GET {CORE}/pods/a-pod/log": (200, log),
    }
    assert main(["trigger", "--args", "status --output json", "--wait"]) == code
    out, err = capfdbinary.readouterr()
    assert out == log
    assert b"a-job: " + kind.encode() in err


def test_quota(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A Job without a pod shows the reason once, and again when it exceeds its deadline."""
    running = ended("Suspended")
    late = ended("Failed", "DeadlineExceeded")
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [(200, running)] * 3 + [(200, late)],
        f"GET {CORE}/events": [
            (200, {"items": [event("Job/a-job", "FailedCreate", QUOTA.replace("-x", suffix))]})
            for suffix in ("-x", "-x", "-x", "-y", "-y", "-y")
        ]
        + [(200, {"items": []})] * 9,
    }
    assert main(["trigger", "--args", "check", "--wait"]) == 1
    problem = (
        "no pod can be created: FailedCreate: exceeded quota: none, requested: pods=1; "
        "raise ResourceQuota none, or delete what uses it up: "
        "`kubectl -n ops describe resourcequota none`"
    )
    assert capsys.readouterr().err.splitlines()[2:] == [
        f"a-job: {problem}",
        "a-job: Failed: DeadlineExceeded: m",
        f"a-job: Job a-job exceeded activeDeadlineSeconds (300 s): {problem}",
    ]


def test_pull_error(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The cause of a pod that cannot start is kept until the Job has failed."""
    cause = 'Failed to pull image "x:1": failed to resolve reference "x:1": x:1: not found'
    stuck = pod()
    stuck["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ImagePullBackOff"}}
    deleted = pod(phase="Failed")
    deleted["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:50Z"
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [
            (200, ended("Suspended")),
            (200, ended("Suspended")),
            (200, ended("Failed", "DeadlineExceeded")),
        ],
        f"GET {CORE}/pods": [(200, {"items": pods}) for pods in ([stuck], [deleted], [])],
        f"GET {CORE}/events": (200, {"items": [event("Pod/a-pod", "Failed", cause)]}),
    }
    assert main(["trigger", "--args", "check", "--wait"]) == 1
    assert last_error_line(capsys).startswith(
        "a-job: Job a-job exceeded activeDeadlineSeconds (300 s): pod a-pod cannot start: "
        f"ImagePullBackOff: {cause}; no such image or tag in the registry"
    )


def test_events_are_not_permitted(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Without permission to read Events, the command still waits."""
    server.answers |= {
        f"GET {CORE}/events": (403, {"message": "events is forbidden"}),
        f"GET {BATCH}/jobs/a-job": [(200, ended("Suspended")), (200, ended("Failed", "Why"))],
    }
    assert main(["trigger", "--args", "check", "--wait"]) == 1
    assert capsys.readouterr().err.splitlines()[2:4] == [
        "a-job: waiting for a pod",
        "a-job: Failed: Why: m",
    ]


def test_job_is_refused(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A quota that refuses the Job is not reported as a missing permission."""
    message = 'jobs.batch "a" is forbidden: exceeded quota: few, requested: count/jobs.batch=1'
    server.answers[f"POST {BATCH}/jobs"] = (403, {"message": message})
    assert main(["trigger", "--args", "check"]) == 1
    assert last_error_line(capsys) == (
        f"ops-worker trigger: {server.url} (context test) refused to create jobs: {message}; "
        "raise ResourceQuota few, or delete what uses it up: "
        "`kubectl -n ops describe resourcequota few`"
    )


def test_not_a_run_of_the_pass(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """`cluster` counts a command neither as a run nor as a failure of the pass."""
    assert main(["trigger", "--args", "check"]) == 0
    job = created(server) | {"status": ended("Failed", "BackoffLimitExceeded")["status"]}
    failed = pod(1, "no database")
    failed["metadata"]["labels"] = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    server.answers |= {
        f"GET {BATCH}/jobs": (200, {"items": [job]}),
        f"GET {CORE}/pods": (200, {"items": [failed]}),
    }
    capsys.readouterr()
    assert main(["cluster", "--fail-on-warnings"]) == 0
    out = capsys.readouterr().out
    assert "no database" not in out and "warning" not in out
