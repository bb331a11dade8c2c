"""`ops-worker cluster` and `ops-worker trigger`, against a simulated API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.cli import main
from ops_worker.commands import cluster as commands
from ops_worker.commands import trigger
from ops_worker.core import jobs
from tests.kubernetes_api import (
    APPS,
    BATCH,
    CORE,
    ROOT,
    ApiServer,
    cronjob,
    last_error_line,
    pod,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """Return an API server with one CronJob; KUBECONFIG names it."""
    with serving(tmp_path) as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig))
        monkeypatch.delenv("COLUMNS", raising=False)
        monkeypatch.setattr(trigger, "POLL_S", 0.01)
        yield running


def test_table(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The table goes to standard output; the cluster's name goes to standard error."""
    assert main(["cluster"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        (
            "CRONJOB            SCHEDULE   SUSPENDED  LAST RUN  LAST SUCCESS  RUNNING  MISSED  "
            "EXIT  SUMMARY"
        ),
        "ops-worker-health  * * * * *  yes        -         -             0        -       -     -",
    ]
    assert err == f"{server.url} (context test), namespace ops\n"
    assert server.requests[0][2] == "Bearer secret"


def test_json_and_warnings(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON output contains the warnings; the exit code for warnings is 4 on request."""
    running = cronjob(lastSuccessfulTime="2026-03-01T12:00:00Z")
    running["spec"]["suspend"] = False
    server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": [running]})
    assert main(["cluster", "--output", "json", "--fail-on-warnings"]) == 4
    (row,) = json.loads(capsys.readouterr().out)["cronjobs"]
    assert "no successful run for" in row["warnings"][0]


def test_commands_name_the_cluster(
    server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands in warnings and errors name the cluster with the options of this command."""
    monkeypatch.delenv("KUBECONFIG")
    file = server.kubeconfig.with_name("my config")
    file.write_text(server.kubeconfig.read_text())
    options = ["--kubeconfig", str(file), "--context", "test"]
    flags = f"--kubeconfig '{file}' --context test"
    template = {"spec": {"containers": [{"name": "ops-worker-health", "args": ["health"]}]}}
    late = cronjob(lastSuccessfulTime="2026-03-01T12:00:00Z")
    late["metadata"]["namespace"] = "ops"
    late["spec"] |= {"suspend": False, "jobTemplate": {"spec": {"template": template}}}
    loop = {
        "metadata": {"name": "loop", "namespace": "ops"},
        "spec": {"replicas": 1, "template": template},
    }
    server.answers |= {
        f"GET {BATCH}/cronjobs": (200, {"items": [late]}),
        f"GET {APPS}/deployments": (200, {"items": [loop]}),
        f"GET {BATCH}/jobs/a-job": (200, {}),
    }
    assert main(["cluster", *options]) == 0
    out = capsys.readouterr().out
    assert f"`kubectl {flags} -n ops describe cronjob ops-worker-health`" in out
    assert f"`ops-worker trigger {flags} ops-worker-health -n ops --wait`" in out
    assert f"`kubectl {flags} -n ops describe deployment loop`" in out
    assert f"`kubectl {flags} -n ops delete deployment loop`" in out
    assert main(["trigger", *options, "health", "--wait", "--timeout", "0.1"]) == 1
    assert last_error_line(capsys).endswith(f"`kubectl {flags} -n ops describe job a-job`")
    blocked = pod(phase="Pending")
    blocked["status"]["containerStatuses"][0]["state"] = {
        "waiting": {"reason": "CrashLoopBackOff"},
    }
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [(200, {}), (200, ended_job("Failed", "DeadlineExceeded"))],
        f"GET {CORE}/pods": [(200, {"items": [blocked]}), (200, {"items": []})],
    }
    assert main(["trigger", *options, "health", "--wait"]) == 1
    _, _, *lines = capsys.readouterr().err.splitlines()
    assert [line.count(flags) for line in lines] == [1, 0, 1]
    server.answers[f"GET {BATCH}/cronjobs/nope"] = (404, {})
    server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": []})
    assert main(["trigger", *options, "nope"]) == 2
    assert f"(`kubectl {flags} apply -k ...`)" in last_error_line(capsys)


def test_null_status(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A new CronJob may have a status of null until the controller handles it."""
    new = cronjob() | {"status": None}
    server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": [new]})
    assert main(["cluster"]) == 0
    assert "ops-worker-health" in capsys.readouterr().out


def test_suspended(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A suspended CronJob of a pass is a warning; that of init-db is not."""
    items = []
    for command in ("health", "init-db"):
        item = cronjob(f"ops-worker-{command}")
        item["metadata"]["namespace"] = "ops"
        container = {"name": "ops-worker", "args": [command]}
        item["spec"]["jobTemplate"]["spec"] = {"template": {"spec": {"containers": [container]}}}
        items.append(item)
    server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": items})
    assert main(["cluster", "--output", "json", "--fail-on-warnings"]) == 4
    health, init_db = json.loads(capsys.readouterr().out)["cronjobs"]
    (warning,) = health["warnings"]
    resume = """kubectl -n ops patch cronjob ops-worker-health -p '{"spec":{"suspend":false}}'"""
    assert f"to resume it, run `{resume}`" in warning
    assert init_db["warnings"] == []


def test_trigger(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The Job equals the one that `kubectl create job --from` builds."""
    assert main(["trigger", "health"]) == 0
    method, path, body = server.requests[-1]
    assert (method, path) == ("POST", f"{BATCH}/jobs")
    assert body["metadata"].pop("name").startswith("ops-worker-health-m")
    owner = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "name": "ops-worker-health",
        "uid": "uid-ops-worker-health",
        "controller": True,
    }
    assert body["metadata"] == {
        "labels": {"a": "b"},
        "annotations": {"cronjob.kubernetes.io/instantiate": "manual", "c": "d"},
        "ownerReferences": [owner],
    }
    assert body["spec"] == {"template": {"spec": {}}}
    assert "job.batch/a-job created in namespace ops" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "kind"), [(0, "Complete"), (1, "Failed"), (2, "Failed"), (3, "Failed"), (4, "Failed")]
)
def test_wait(server: ApiServer, capsys: pytest.CaptureFixture[str], code: int, kind: str) -> None:
    """With --wait: show every change, print the pod's log, and return the pass's exit code."""
    ended = {"status": {"conditions": [{"type": kind, "status": "True", "reason": "Why"}]}}
    image = {"reason": "ErrImagePull", "message": "no such\nimage"}
    stuck = pod() | {
        "status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": image}}]}
    }
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [(200, {}), (200, {}), (200, {}), (200, {}), (200, ended)],
        f"GET {CORE}/pods": [
            (200, {"items": pods}) for pods in ([], [pod()], [stuck], [pod(), pod()], [pod(code)])
        ],
        f"GET {CORE}/pods/a-pod/log": (200, "health: 4 services\n"),
    }
    assert main(["trigger", "health", "--wait"]) == code
    out, err = capsys.readouterr()
    assert out == "health: 4 services\n"
    assert err.splitlines()[2:] == [
        "a-job: waiting for a pod",
        "a-job: pending",
        (
            "a-job: pod a-pod cannot start: ErrImagePull: no such image; check the image's name, "
            "and that the cluster can pull it"
        ),
        "a-job: pending, attempt 2",
        f"a-job: {kind}{': Why' if code else ''}",
    ]


def test_wait_without_a_pod(server: ApiServer) -> None:
    """A Job that failed before its pod ended has exit code 1."""
    server.answers[f"GET {BATCH}/jobs/a-job"] = (
        200,
        {
            "status": {
                "conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]
            }
        },
    )
    assert main(["trigger", "health", "--wait"]) == 1


SHARED_SPEC = {
    "initContainers": [{"name": "proxy", "restartPolicy": "Always"}],
    "containers": [{"name": "a-mesh"}, {"name": "ops-worker"}],
}


COMPLETE: dict[str, Any] = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}


ENDED = {"terminated": {"exitCode": 0, "finishedAt": "2026-03-01T12:00:02Z"}}


def shared(phase: str, **states: object) -> dict[str, Any]:
    """Return a pod with the worker's container and other containers.

    ``states`` contains the state of each container.
    """
    container_names = {"ours": "ops-worker", "mesh": "a-mesh", "proxy": "proxy"}
    statuses = {
        field: [
            {"name": container_names[name], "state": state}
            for name, state in sorted(states.items())
            if (name == "proxy") == (field[0] == "i")
        ]
        for field in ("initContainerStatuses", "containerStatuses")
    }
    return pod() | {"spec": SHARED_SPEC, "status": {"phase": phase} | statuses}


def ended_job(kind: str, reason: str = "") -> dict[str, Any]:
    """Return a Job that has ended."""
    condition = {"type": kind, "status": "True", "reason": reason, "message": "too long"}
    return {
        "metadata": {"name": "a-job"},
        "spec": {"activeDeadlineSeconds": 50},
        "status": {"conditions": [condition]},
    }


def test_wait_beside_others(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pod with other containers, log and exit code come from the worker's container."""
    pulling = {"waiting": {"reason": "ErrImagePull"}}
    running = shared("Running", ours=ENDED, mesh={"running": {}}, proxy={"running": {}})
    ended = shared(
        "Failed",
        ours={"terminated": {"exitCode": 3}},
        mesh=ENDED,
        proxy={"terminated": {"exitCode": 143}},
    )
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [
            (200, {}),
            (200, {}),
            (200, ended_job("Failed", "BackoffLimitExceeded")),
        ],
        f"GET {CORE}/pods": [
            (200, {"items": [item]}) for item in (shared("Pending", proxy=pulling), running, ended)
        ],
        f"GET {CORE}/pods/a-pod/log": (200, "no table\n"),
    }
    assert main(["trigger", "health", "--wait"]) == 3
    out, err = capsys.readouterr()
    assert out == "no table\n"
    assert [path for _, path, _ in server.requests if "/log" in path] == [
        f"{CORE}/pods/a-pod/log?container=ops-worker"
    ]
    assert err.splitlines()[2:] == [
        (
            "a-job: pod a-pod cannot start: init container proxy: ErrImagePull; "
            "check the image's name, and that the cluster can pull it"
        ),
        (
            "a-job: the pass in pod a-pod ended with exit code 0, but container a-mesh keeps "
            "running, so the Job does not complete; if it is a sidecar, make it a native sidecar "
            "(an init container with restartPolicy: Always), because a Job does not wait for those"
        ),
        "a-job: Failed: BackoffLimitExceeded: too long",
    ]


def test_wait_first_container_fails(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """If another container fails before the pass, name it and return exit code 1."""
    broken = shared(
        "Failed",
        ours={"waiting": {"reason": "PodInitializing"}},
        mesh={"terminated": {"exitCode": 7, "reason": "Error"}},
    )
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": (200, ended_job("Failed")),
        f"GET {CORE}/pods": (200, {"items": [broken]}),
    }
    assert main(["trigger", "health", "--wait"]) == 1
    assert last_error_line(capsys) == (
        "a-job: container a-mesh of pod a-pod ended with exit code 7: Error; "
        "see `kubectl logs a-pod -c a-mesh`"
    )
    assert not any("/log" in path for _, path, _ in server.requests)


@pytest.mark.parametrize("pods", [[], [shared("Running", ours={"running": {}})]])
def test_wait_deadline(
    server: ApiServer, capsys: pytest.CaptureFixture[str], pods: list[dict[str, Any]]
) -> None:
    """A Job that exceeded its deadline has no pod. The message says so, with a hint."""
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": (200, ended_job("Failed", "DeadlineExceeded")),
        f"GET {CORE}/pods": (200, {"items": pods}),
    }
    assert main(["trigger", "health", "--wait"]) == 1
    assert last_error_line(capsys) == (
        "a-job: Job a-job exceeded activeDeadlineSeconds (50 s), "
        "and Kubernetes deleted its pod and log: look in `kubectl get events` for a pod "
        "that could not start; otherwise raise activeDeadlineSeconds or lower PASS_DEADLINE"
    )


@pytest.mark.parametrize("code", [0, 2, 4])
def test_wait_sidecar_goes_on(
    server: ApiServer, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    """If a sidecar keeps the Job running, log and exit code of the pass are still shown."""
    ended = {"terminated": {"exitCode": code, "finishedAt": "2026-03-01T12:00:02Z"}}
    running = shared("Running", ours=ended, mesh={"running": {}})
    killed = shared("Failed", ours=ended, mesh={"terminated": {"exitCode": 137}})
    late = (200, ended_job("Failed", "DeadlineExceeded"))
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [(200, {}), (200, {}), (200, {}), late],
        f"GET {CORE}/pods": [(200, {"items": pods}) for pods in ([running], [killed], [], [])],
        f"GET {CORE}/pods/a-pod/log": [(200, "health: 4 services\n")],
    }
    assert main(["trigger", "health", "--wait"]) == code
    out, err = capsys.readouterr()
    assert out == "health: 4 services\n"
    remedy = (
        "make it a native sidecar "
        "(an init container with restartPolicy: Always), because a Job does not wait for those"
    )
    assert err.splitlines()[2:] == [
        f"a-job: the pass in pod a-pod ended with exit code {code}, but container a-mesh "
        f"keeps running, so the Job does not complete; if it is a sidecar, {remedy}",
        "a-job: failed",
        "a-job: Failed: DeadlineExceeded: too long",
    ]


def test_wait_killed(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A pass that the Job's deadline killed has exit code 1, even if its own was read."""
    running = shared("Running", ours={"running": {}}, mesh={"running": {}})
    killed = shared("Failed", ours={"terminated": {"exitCode": 137}}, mesh=ENDED)
    late = (200, ended_job("Failed", "DeadlineExceeded"))
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [(200, {}), (200, {}), (200, {}), late],
        f"GET {CORE}/pods": [(200, {"items": pods}) for pods in ([running], [killed], [], [])],
    }
    assert main(["trigger", "health", "--wait"]) == 1
    err = capsys.readouterr().err.splitlines()[2:]
    assert err[:3] == [
        "a-job: running",
        "a-job: failed",
        "a-job: Failed: DeadlineExceeded: too long",
    ]
    assert err[3].startswith("a-job: Job a-job exceeded activeDeadlineSeconds (50 s)")


def test_wait_log_gone(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that no longer exists does not change the exit code."""
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": (200, COMPLETE),
        f"GET {CORE}/pods": (200, {"items": [pod(0)]}),
    }
    assert main(["trigger", "health", "--wait"]) == 0
    assert "no log of pod a-pod: no pods/log a-pod in namespace ops" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("codes", "kind", "code"),
    [
        ([0, 0], "Complete", 0),
        ([0, 4], "Complete", 4),
        ([1, 4], "Failed", 1),
        ([3, 0], "Failed", 3),
        ([0, None], "Failed", 1),
    ],
)
def test_wait_shards(server: ApiServer, codes: list[int | None], kind: str, code: int) -> None:
    """For an Indexed Job, return the worst exit code of the newest pod of each index."""
    pods = [pod(2), *map(pod, codes)]
    for index, item in zip(("1", "0", "1"), pods, strict=True):
        item["metadata"] = item["metadata"] | {
            "annotations": {"batch.kubernetes.io/job-completion-index": index},
            "creationTimestamp": f"2026-03-0{pods.index(item) + 1}",
        }
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": (200, ended_job(kind)),
        f"GET {CORE}/pods": (200, {"items": pods}),
    }
    server.answers[f"GET {CORE}/pods/a-pod/log"] = (200, "")
    assert main(["trigger", "health", "--wait"]) == code


def test_wait_too_long(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The wait ends at the timeout with the state of the Job."""
    server.answers[f"GET {BATCH}/jobs/a-job"] = (200, {})
    assert main(["trigger", "health", "--wait", "--timeout", "0.1"]) == 1
    assert last_error_line(capsys) == (
        "ops-worker trigger: a-job has not ended within 0.1 s: waiting for a pod; "
        "see `kubectl -n ops describe job a-job`"
    )


@pytest.mark.parametrize(("deadline_s", "wait_s"), [(None, "0.1"), (330, "0.2")])
def test_wait_by_default(
    server: ApiServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    deadline_s: int | None,
    wait_s: str,
) -> None:
    """Without --timeout, the wait is longer than the deadline of the Job."""
    monkeypatch.setattr(jobs, "WAIT_S", 0.1)
    monkeypatch.setattr(jobs, "WAIT_MARGIN_S", -329.8)
    long = cronjob()
    long["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] = deadline_s
    server.answers[f"GET {BATCH}/cronjobs/ops-worker-health"] = (200, long)
    server.answers[f"GET {BATCH}/jobs/a-job"] = (200, {})
    assert main(["trigger", "health", "--wait"]) == 1
    assert f"has not ended within {wait_s} s" in last_error_line(capsys)


def test_wait_out_of_memory(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A pass that was killed for its memory use prints nothing; the reason is shown."""
    killed = pod(137)
    killed["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": (200, ended_job("Failed")),
        f"GET {CORE}/pods": (200, {"items": [killed]}),
        f"GET {CORE}/pods/a-pod/log": (200, ""),
    }
    assert main(["trigger", "health", "--wait"]) == 137
    assert last_error_line(capsys) == (
        "a-job: pod a-pod ended with exit code 137: "
        "OOMKilled: raise resources.limits.memory of the container (the manifests set 128Mi)"
    )


@pytest.mark.parametrize(
    ("schedule", "deadline", "warned"),
    [
        ("@every 90s", 89, True),
        ("@every 90s", 90, False),
        ("@every 90s", None, False),
        ("* * * * *", 25, False),
        ("* * L * *", 25, False),
    ],
)
def test_never_starts(
    server: ApiServer,
    capsys: pytest.CaptureFixture[str],
    schedule: str,
    deadline: int | None,
    warned: bool,
) -> None:
    """A CronJob that can never start gets a warning with the reason."""
    scheduled = cronjob()
    scheduled["spec"] |= {
        "schedule": schedule,
        "startingDeadlineSeconds": deadline,
        "suspend": False,
    }
    by_hand = cronjob("by-hand")
    by_hand["spec"] |= {"schedule": schedule, "startingDeadlineSeconds": deadline}
    server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": [scheduled, by_hand]})
    assert main(["cluster", "--output", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["cronjobs"]
    warnings = [warning for row in rows for warning in row["warnings"]]
    assert [warning for warning in warnings if "startingDeadlineSeconds" in warning] == warned * [
        (
            "ops-worker-health: startingDeadlineSeconds is 89; "
            "with @every it must be at least the period (90), or no run ever starts"
        )
    ]


@pytest.mark.parametrize(
    ("schedule", "zone", "last", "since", "now", "runs"),
    [
        ("* * * * *", "Etc/UTC", "", "2026-03-02T12:00:00Z", "2026-03-02T12:04:59Z", 4),
        ("@weekly", "Etc/UTC", "", "2026-03-01T00:00:00Z", "2026-03-07T23:59:59Z", 0),
        ("@weekly", "Etc/UTC", "", "2026-03-01T00:00:00Z", "2026-03-08T00:00:00Z", 1),
        ("@monthly", "Etc/UTC", "", "2026-03-01T00:00:00Z", "2026-03-31T12:00:00Z", 0),
        ("*/5 9-17 * * 1-5", "Etc/UTC", "", "2026-02-27T17:55:00Z", "2026-03-02T08:59:59Z", 0),
        ("*/5 9-17 * * 1-5", "Etc/UTC", "", "2026-02-27T17:50:00Z", "2026-03-02T09:05:00Z", 3),
        ("0 6 * * *", "Europe/Berlin", "", "2026-03-28T05:00:00Z", "2026-03-29T04:00:00Z", 1),
        ("@every 90s", "", "", "2026-03-02T12:00:30Z", "2026-03-02T12:03:29Z", 1),
        ("0 0 31 2 *", "Etc/UTC", "", "2026-03-02T12:00:00Z", "2027-03-02T12:00:00Z", None),
        ("0 0 * * *", "Mars/Olympus", "", "2026-03-02T12:00:00Z", "2027-03-02T12:00:00Z", None),
        # Without a zone, the schedule is in UTC.
        (
            "0 6 * * *",
            "",
            "2026-03-02T06:00:00Z",
            "2026-03-02T06:00:00Z",
            "2026-03-03T06:30:00Z",
            1,
        ),
        # If the last run does not match the schedule, the number is a lower bound.
        (
            "0 6 * * *",
            "",
            "2026-03-02T04:00:00Z",
            "2026-03-02T04:00:00Z",
            "2026-03-02T06:30:00Z",
            0,
        ),
        (
            "*/5 9-17 * * 1-5",
            "",
            "2026-03-02T03:00:00Z",
            "2026-03-02T03:00:00Z",
            "2026-03-06T12:00:00Z",
            1,
        ),
        ("* * * * *", "Etc/UTC", "", "2025-03-02T12:00:00Z", "2026-03-02T12:04:59Z", 10_000),
    ],
)
def test_due(schedule: str, zone: str, last: str, since: str, now: str, runs: int | None) -> None:
    """Count the runs of a schedule since a time, in its time zone."""
    spec = {"schedule": schedule, **({"timeZone": zone} if zone else {})}
    counted = commands.due(
        {"spec": spec, "status": {"lastScheduleTime": last} if last else {}},
        datetime.fromisoformat(now),
    )
    assert counted(datetime.fromisoformat(since)) == runs


def test_interrupted(server: ApiServer) -> None:
    """Ctrl-C during --wait ends the command at once, without a traceback."""
    server.answers[f"GET {BATCH}/jobs/a-job"] = (200, {})
    command = [sys.executable, "-m", "ops_worker", "trigger", "health", "--wait"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[1]
    assert lines[2] == "a-job: waiting for a pod\n"
    assert (process.returncode, rest) == (-signal.SIGINT, "")


def test_nobody_reads(server: ApiServer) -> None:
    """A closed pipe is no error."""
    server.answers[f"GET {BATCH}/cronjobs"] = (
        200,
        {"items": [cronjob(f"ops-worker-{number}") for number in range(2000)]},
    )
    script = f"{sys.executable} -m ops_worker cluster | head -1"
    result = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.stdout.startswith("CRONJOB")
    assert "Traceback" not in result.stderr
