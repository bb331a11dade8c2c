"""The commands that ask a cluster, against an API server of the test's own."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.adapters import kubernetes
from ops_worker.cli import main
from ops_worker.commands import cluster as commands

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
BATCH, CORE = "/apis/batch/v1/namespaces/ops", "/api/v1/namespaces/ops"
FORBIDDEN = (403, {"message": "pods is forbidden"})
LAZY = 37
"""The first version of the Kubernetes client that imports its models only when they are used."""


def cronjob(name: str = "ops-worker-health", **status: object) -> dict[str, Any]:
    """Give a CronJob as the API server does."""
    template = {
        "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {"template": {"spec": {}}},
    }
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": "2026-03-01T12:00:00Z"}
    return {
        "metadata": metadata,
        "spec": {"schedule": "* * * * *", "suspend": True, "jobTemplate": template},
        "status": status,
    }


def pod(code: int | None = None, message: str = "", **status: object) -> dict[str, Any]:
    """Give a pod, ended with an exit code or not."""
    state = (
        {}
        if code is None
        else {
            "terminated": {
                "exitCode": code,
                "message": message,
                "finishedAt": "2026-03-01T12:00:02Z",
            }
        }
    )
    about = {
        "name": "a-pod",
        "creationTimestamp": "2026-03-01T12:00:00Z",
        "labels": {"batch.kubernetes.io/job-name": "a-job"},
    }
    return {
        "metadata": about,
        "status": {"phase": "Pending", "containerStatuses": [{"state": state}]} | status,
    }


class Server:
    """Answers from a table of method and path to status and body; a list gives one answer after the other."""

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, Any] = {}
        self.headers: dict[str, str] = {}  # of every answer
        self.asked: list[tuple[str, str, Any]] = []
        self.closed = threading.Event()  # until then, whoever is to have no answer waits for one
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.command, self.path, self.headers.get("Authorization")))
                self._answer()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.command, self.path, body))
                self._answer()

            def _answer(self) -> None:
                found = outer.answers.get(
                    f"{self.command} {self.path.partition('?')[0]}", (404, {"message": "not found"})
                )
                status, body = found.pop(0) if isinstance(found, list) else found
                if status == 0:
                    outer.closed.wait(60)
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status or 200)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                    "users": [{"name": "u", "user": {"token": "secret"}}],
                    "contexts": [
                        {
                            "name": "test",
                            "context": {"cluster": "c", "user": "u", "namespace": "ops"},
                        }
                    ],
                    "current-context": "test",
                }
            )
        )


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An API server with one CronJob, and the kubeconfig that names it."""
    running = Server(tmp_path)
    running.answers |= {
        f"GET {BATCH}/cronjobs": (200, {"items": [cronjob()]}),
        f"GET {BATCH}/cronjobs/ops-worker-health": (200, cronjob()),
        f"GET {BATCH}/jobs": (200, {"items": []}),
        f"GET {CORE}/pods": (200, {"items": []}),
        f"POST {BATCH}/jobs": (201, {"metadata": {"name": "a-job"}}),
    }
    monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig))
    monkeypatch.setattr(commands, "POLL_S", 0.01)
    yield running
    running.http.shutdown()
    running.http.server_close()


def test_table(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The CronJobs, and on standard error which cluster was asked."""
    assert main(["cluster"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "CRONJOB            SCHEDULE   SUSPENDED  LAST RUN  LAST SUCCESS  RUNNING  MISSED  EXIT  SUMMARY",
        "ops-worker-health  * * * * *  yes        -         -             0        -       -     -",
    ]
    assert err == f"{server.url} (context test), namespace ops\n"
    assert server.asked[0][2] == "Bearer secret"


def test_json_and_warnings(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The document, and exit code 4 for warnings where asked."""
    running = cronjob(lastSuccessfulTime="2026-03-01T12:00:00Z")
    running["spec"]["suspend"] = False
    server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": [running]})
    assert main(["cluster", "--output", "json", "--fail-on-warnings"]) == 4
    (row,) = json.loads(capsys.readouterr().out)["cronjobs"]
    assert "no successful run for" in row["warnings"][0]


def test_pages(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A list that comes in pages is read to its end."""
    first = {"items": [cronjob()], "metadata": {"continue": "more"}}
    server.answers[f"GET {BATCH}/cronjobs"] = [
        (200, first),
        (200, {"items": [cronjob("ops-worker-metrics")]}),
    ]
    assert main(["cluster"]) == 0
    assert "ops-worker-metrics" in capsys.readouterr().out
    assert "continue=more" in server.asked[1][1]


def test_trigger(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The Job is what kubectl makes of the template."""
    assert main(["trigger", "health"]) == 0
    method, path, body = server.asked[-1]
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
def test_wait(server: Server, capsys: pytest.CaptureFixture[str], code: int, kind: str) -> None:
    """With --wait: what happens meanwhile, the pod's log, the pass's own exit code."""
    done = {"status": {"conditions": [{"type": kind, "status": "True", "reason": "Why"}]}}
    image = {"reason": "ErrImagePull", "message": "no such\nimage"}
    stuck = pod() | {
        "status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": image}}]}
    }
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [(200, {}), (200, {}), (200, {}), (200, {}), (200, done)],
        f"GET {CORE}/pods": [
            (200, {"items": found}) for found in ([], [pod()], [stuck], [pod(), pod()], [pod(code)])
        ],
        f"GET {CORE}/pods/a-pod/log": (200, "health: 4 services\n"),
    }
    assert main(["trigger", "health", "--wait"]) == code
    out, err = capsys.readouterr()
    assert out == "health: 4 services\n"
    assert err.splitlines()[2:] == [
        "a-job: waiting for a pod",
        "a-job: pending",
        "a-job: pod a-pod cannot start: ErrImagePull: no such image; check the image's name, and that the cluster can pull it",
        "a-job: pending, attempt 2",
        f"a-job: {kind}{': Why' if code else ''}",
    ]


def test_wait_without_a_pod(server: Server) -> None:
    """A Job that failed before its pod ended is exit code 1."""
    server.answers[f"GET {BATCH}/jobs/a-job"] = (
        200,
        {
            "status": {
                "conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]
            }
        },
    )
    assert main(["trigger", "health", "--wait"]) == 1


BOXES = {
    "initContainers": [{"name": "proxy", "restartPolicy": "Always"}],
    "containers": [{"name": "a-mesh"}, {"name": "ops-worker"}],
}
COMPLETE: dict[str, Any] = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
ENDED = {"terminated": {"exitCode": 0, "finishedAt": "2026-03-01T12:00:02Z"}}


def shared(phase: str, **states: object) -> dict[str, Any]:
    """Give a pod in which others' containers are beside the worker's; of each the state, the worker's is ``ours``."""
    named = {"ours": "ops-worker", "mesh": "a-mesh", "proxy": "proxy"}
    told = {
        field: [
            {"name": named[name], "state": state}
            for name, state in sorted(states.items())
            if (name == "proxy") == (field[0] == "i")
        ]
        for field in ("initContainerStatuses", "containerStatuses")
    }
    return pod() | {"spec": BOXES, "status": {"phase": phase} | told}


def over(kind: str, reason: str = "") -> dict[str, Any]:
    """Give a Job that has ended."""
    condition = {"type": kind, "status": "True", "reason": reason, "message": "too long"}
    return {
        "metadata": {"name": "a-job"},
        "spec": {"activeDeadlineSeconds": 50},
        "status": {"conditions": [condition]},
    }


def test_wait_beside_others(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The log and the exit code are those of the worker's container, in a pod with a mesh and a native sidecar."""
    pulling = {"waiting": {"reason": "ErrImagePull"}}
    going = shared("Running", ours=ENDED, mesh={"running": {}}, proxy={"running": {}})
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
            (200, over("Failed", "BackoffLimitExceeded")),
        ],
        f"GET {CORE}/pods": [
            (200, {"items": [one]}) for one in (shared("Pending", proxy=pulling), going, ended)
        ],
        f"GET {CORE}/pods/a-pod/log": (200, "no table\n"),
    }
    assert main(["trigger", "health", "--wait"]) == 3
    out, err = capsys.readouterr()
    assert out == "no table\n"
    assert [path for _, path, _ in server.asked if "/log" in path] == [
        f"{CORE}/pods/a-pod/log?tailLines=1000&container=ops-worker"
    ]
    assert err.splitlines()[2:] == [
        "a-job: pod a-pod cannot start: init container proxy: ErrImagePull; check the image's name, and that the cluster can pull it",
        "a-job: the pass in pod a-pod ended with exit code 0, but container a-mesh keeps running, so the Job does not complete; if it is a sidecar, make it a native sidecar (an init container with restartPolicy: Always), because a Job does not wait for those",
        "a-job: Failed: BackoffLimitExceeded: too long",
    ]


def test_wait_first_container_fails(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A pass that never began because another container failed is exit code 1, and that container is named."""
    broken = shared(
        "Failed",
        ours={"waiting": {"reason": "PodInitializing"}},
        mesh={"terminated": {"exitCode": 7, "reason": "Error"}},
    )
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": (200, over("Failed")),
        f"GET {CORE}/pods": (200, {"items": [broken]}),
    }
    assert main(["trigger", "health", "--wait"]) == 1
    assert (
        told(capsys)
        == "a-job: container a-mesh of pod a-pod ended with exit code 7: Error; see `kubectl logs a-pod -c a-mesh`"
    )
    assert not any("/log" in path for _, path, _ in server.asked)


@pytest.mark.parametrize("left", [[], [shared("Running", ours={"running": {}})]])
def test_wait_deadline(
    server: Server, capsys: pytest.CaptureFixture[str], left: list[dict[str, Any]]
) -> None:
    """A Job that was ended by its deadline has no pod any more: that is told, and what to do."""
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": (200, over("Failed", "DeadlineExceeded")),
        f"GET {CORE}/pods": (200, {"items": left}),
    }
    assert main(["trigger", "health", "--wait"]) == 1
    assert told(capsys) == (
        "a-job: Job a-job exceeded activeDeadlineSeconds (50 s), and Kubernetes deleted its pod and log: look in `kubectl get events` "
        "for a pod that could not start; otherwise raise activeDeadlineSeconds or lower PASS_DEADLINE"
    )


@pytest.mark.parametrize("code", [0, 2, 4])
def test_wait_sidecar_goes_on(
    server: Server, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    """A pod that a deadline takes away has had its say: its log, and the pass's own exit code."""
    ended = {"terminated": {"exitCode": code, "finishedAt": "2026-03-01T12:00:02Z"}}
    going = shared("Running", ours=ended, mesh={"running": {}})
    killed = shared("Failed", ours=ended, mesh={"terminated": {"exitCode": 137}})
    late = (200, over("Failed", "DeadlineExceeded"))
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [(200, {}), (200, {}), (200, {}), late],
        f"GET {CORE}/pods": [(200, {"items": found}) for found in ([going], [killed], [], [])],
        f"GET {CORE}/pods/a-pod/log": [(200, "health: 4 services\n")],
    }
    assert main(["trigger", "health", "--wait"]) == code
    out, err = capsys.readouterr()
    assert out == "health: 4 services\n"
    remedy = "make it a native sidecar (an init container with restartPolicy: Always), because a Job does not wait for those"
    assert err.splitlines()[2:] == [
        f"a-job: the pass in pod a-pod ended with exit code {code}, but container a-mesh "
        f"keeps running, so the Job does not complete; if it is a sidecar, {remedy}",
        "a-job: failed",
        "a-job: Failed: DeadlineExceeded: too long",
    ]


def test_wait_killed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A pass that the deadline itself ends is not done, whether or not its end was seen."""
    running = shared("Running", ours={"running": {}}, mesh={"running": {}})
    killed = shared("Failed", ours={"terminated": {"exitCode": 137}}, mesh=ENDED)
    late = (200, over("Failed", "DeadlineExceeded"))
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": [(200, {}), (200, {}), (200, {}), late],
        f"GET {CORE}/pods": [(200, {"items": found}) for found in ([running], [killed], [], [])],
    }
    assert main(["trigger", "health", "--wait"]) == 1
    err = capsys.readouterr().err.splitlines()[2:]
    assert err[:3] == [
        "a-job: running",
        "a-job: failed",
        "a-job: Failed: DeadlineExceeded: too long",
    ]
    assert err[3].startswith("a-job: Job a-job exceeded activeDeadlineSeconds (50 s)")


def test_wait_log_gone(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that is not there any more changes nothing of what the pass has done."""
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
def test_wait_shards(server: Server, codes: list[int | None], kind: str, code: int) -> None:
    """Of a Job with indexes the worst counts, of each index its newest pod; one that never ended is not done."""
    pods = [pod(2), *map(pod, codes)]
    for index, one in zip(("1", "0", "1"), pods, strict=True):
        one["metadata"] = one["metadata"] | {
            "annotations": {"batch.kubernetes.io/job-completion-index": index},
            "creationTimestamp": f"2026-03-0{pods.index(one) + 1}",
        }
    server.answers |= {
        f"GET {BATCH}/jobs/a-job": (200, over(kind)),
        f"GET {CORE}/pods": (200, {"items": pods}),
    }
    server.answers[f"GET {CORE}/pods/a-pod/log"] = (200, "")
    assert main(["trigger", "health", "--wait"]) == code


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
    server: Server,
    capsys: pytest.CaptureFixture[str],
    schedule: str,
    deadline: int | None,
    warned: bool,
) -> None:
    """A CronJob of which Kubernetes never starts a run, without a word, is told with the reason."""
    one = cronjob()
    one["spec"] |= {"schedule": schedule, "startingDeadlineSeconds": deadline, "suspend": False}
    by_hand = cronjob("by-hand")
    by_hand["spec"] |= {"schedule": schedule, "startingDeadlineSeconds": deadline}
    server.answers[f"GET {BATCH}/cronjobs"] = (200, {"items": [one, by_hand]})
    assert main(["cluster", "--output", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["cronjobs"]
    told = [warning for row in rows for warning in row["warnings"]]
    assert [warning for warning in told if "startingDeadlineSeconds" in warning] == warned * [
        "ops-worker-health: startingDeadlineSeconds is 89; with @every it must be at least the period (90), or no run ever starts"
    ]


def test_other_labels(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """CronJobs to which an overlay gave other labels are found by what their containers run; nobody else's are."""
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
    assert "labelSelector=batch.kubernetes.io%2Fjob-name" in server.asked[-1][1]


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
        # no zone is UTC
        (
            "0 6 * * *",
            "",
            "2026-03-02T06:00:00Z",
            "2026-03-02T06:00:00Z",
            "2026-03-03T06:30:00Z",
            1,
        ),
        # unless the last run says otherwise: then as many as there were at least
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
    """The runs that a schedule really had since a time, in its zone."""
    spec = {"schedule": schedule, **({"timeZone": zone} if zone else {})}
    counted = commands.due(
        {"spec": spec, "status": {"lastScheduleTime": last} if last else {}},
        datetime.fromisoformat(now),
    )
    assert counted(datetime.fromisoformat(since)) == runs


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """Give the last line on standard error, after which nothing follows, and no traceback came before."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_wait_too_long(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The wait ends in time, and says where the Job stands."""
    server.answers[f"GET {BATCH}/jobs/a-job"] = (200, {})
    assert main(["trigger", "health", "--wait", "--timeout", "0.1"]) == 1
    assert (
        told(capsys)
        == "ops-worker trigger: a-job has not ended within 0.1 s: waiting for a pod; see `kubectl -n ops describe job a-job`"
    )


ERRORS = [
    (["cluster"], {f"GET {BATCH}/cronjobs": (200, {"items": []})}, 2, "no CronJob of ops-worker in namespace ops: the namespace does not exist; name another namespace with -n, or run `kubectl apply -f k8s/`"),
    (["cluster"], {f"GET {BATCH}/cronjobs": (200, {"items": []}), "GET /api/v1/namespaces/ops": (200, {})}, 2, "no CronJob of ops-worker in namespace ops: it has no CronJob at all; name another namespace with -n, or run `kubectl apply -f k8s/`"),
    (["cluster"], {f"GET {BATCH}/cronjobs": (200, {"items": []}), "GET /api/v1/namespaces/ops": FORBIDDEN}, 2, "no CronJob of ops-worker in namespace ops: it has no CronJob at all; name another namespace with -n, or run `kubectl apply -f k8s/`"),
    (["trigger", "metrics"], {}, 2, "no CronJob ops-worker-metrics in namespace ops: existing CronJobs: ops-worker-health"),
    (["trigger", "other"], {}, 2, "no CronJob other in namespace ops: existing CronJobs: ops-worker-health"),
    (["cluster"], {f"GET {CORE}/pods": FORBIDDEN}, 3, "not permitted to list pods in namespace ops: grant it in a Role of that namespace, bound to this account"),
    (["trigger", "health"], {f"POST {BATCH}/jobs": FORBIDDEN}, 3, "not permitted to create jobs in namespace ops: grant it in a Role of that namespace, bound to this account"),
    (["trigger", "health"], {f"GET {BATCH}/cronjobs/ops-worker-health": FORBIDDEN}, 3, "not permitted to get cronjobs in namespace ops: grant it in a Role of that namespace, bound to this account"),
    (["cluster"], {f"GET {BATCH}/cronjobs": (401, {})}, 3, "{url} (context test) does not accept the credentials (401): renew the token of the kubeconfig or of the service account"),
    (["cluster"], {f"GET {BATCH}/cronjobs": (500, {"message": "etcd\nis away"})}, 1, "{url} (context test) answered 500 to list cronjobs: etcd is away"),
    (["cluster"], {f"GET {BATCH}/cronjobs": (503, "<html>")}, 1, "{url} (context test) answered 503 to list cronjobs: <html>"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "answers", "code", "message"), ERRORS, ids=range(len(ERRORS))
)
def test_errors(
    server: Server,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    answers: dict[str, Any],
    code: int,
    message: str,
) -> None:
    """One clear line, and the right exit code."""
    server.answers |= answers
    assert main(arguments) == code
    assert told(capsys) == f"ops-worker {arguments[0]}: {message.format(url=server.url)}"


def test_away(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """An API server that does not listen."""
    server.http.shutdown()
    server.http.server_close()
    assert main(["cluster"]) == 1
    line = told(capsys)
    assert line.startswith(f"ops-worker cluster: no answer from {server.url} (context test): ")
    assert line.endswith(
        "Connection refused; check that it is running and that this is the right cluster"
    )


def test_redirect(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A redirect is not followed: the token goes to the server that the kubeconfig names only."""
    server.headers["Location"] = f"{server.url}/elsewhere"
    server.answers[f"GET {BATCH}/cronjobs"] = (307, {"message": "elsewhere"})
    assert main(["cluster"]) == 1
    assert told(capsys).endswith("answered 307 to list cronjobs: elsewhere")
    assert [path.partition("?")[0] for _, path, _ in server.asked] == [f"{BATCH}/cronjobs"]


@pytest.mark.parametrize("status", [429, 503])
def test_no_retry(server: Server, status: int) -> None:
    """A call is made once, also where the answer says when to come back."""
    server.headers["Retry-After"] = "0"
    server.answers[f"GET {BATCH}/cronjobs"] = (status, {"message": "busy"})
    assert main(["cluster"]) == 1
    assert len(server.asked) == 1


def test_no_models(server: Server) -> None:
    """The client's models, which take longer to import than all the rest, are not imported."""
    if int(version("kubernetes").partition(".")[0]) < LAZY:
        pytest.skip("this version of the client imports them in any case")
    script = "import sys; from ops_worker.cli import main; main(['cluster']); print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    loaded = done.stdout.splitlines()
    assert len(server.asked) == 3
    assert "kubernetes.client.api_client" in loaded
    assert not [
        name
        for name in loaded
        if name.startswith(("kubernetes.client.models.", "kubernetes.client.api."))
    ]


def test_hangs(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API server that never answers is given up."""
    monkeypatch.setattr(kubernetes, "READ_S", 0.2)
    server.answers[f"GET {BATCH}/cronjobs"] = (0, {})
    assert main(["cluster"]) == 1
    assert "no answer from" in told(capsys)


def test_kubeconfigs(
    server: Server,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No kubeconfig, none that can be read, and a context that it does not have."""
    assert main(["cluster", "--kubeconfig", "/nowhere"]) == 2
    assert (
        told(capsys)
        == "ops-worker cluster: no kubeconfig: file /nowhere does not exist; set KUBECONFIG or --kubeconfig"
    )
    assert main(["cluster", "--context", "other"]) == 2
    assert (
        told(capsys)
        == f"ops-worker cluster: --context other: {server.kubeconfig} has no such context"
    )
    server.kubeconfig.write_text("{")
    assert main(["cluster"]) == 2
    assert (
        told(capsys)
        == "ops-worker cluster: the kubeconfig cannot be used: expected the node content, but found '<stream end>' at line 1, column 2"
    )
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["cluster"]) == 2
    assert (
        told(capsys)
        == f"ops-worker cluster: no kubeconfig: file {tmp_path}/.kube/config does not exist; set KUBECONFIG or --kubeconfig"
    )


@pytest.fixture
def inside(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A pod's view: a service account, and its token."""
    for name, text in (("token", "secret"), ("namespace", "ops")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kubernetes, "TOKEN", tmp_path / "token")
    return server


def test_announce(inside: Server) -> None:
    """An Event on the CronJob for each transition, with the uid by which `kubectl describe` finds it."""
    inside.answers[f"POST {CORE}/events"] = (201, {})
    assert (
        kubernetes.announce(
            "ops-worker-health-29400000", [("ingest", "http 503\nX: y"), ("evaluator", "")]
        )
        == []
    )
    first, second = (body for method, _, body in inside.asked if method == "POST")
    about = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "namespace": "ops",
        "name": "ops-worker-health",
        "uid": "uid-ops-worker-health",
    }
    assert first["involvedObject"] == about
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
        ("ops-worker-health-1", {f"POST {CORE}/events": FORBIDDEN}, "not permitted to create events in namespace ops: grant it in a Role of that namespace, bound to this account"),
        ("ops-worker-health-1", {f"GET {BATCH}/cronjobs/ops-worker-health": FORBIDDEN}, "not permitted to get cronjobs in namespace ops: grant it in a Role of that namespace, bound to this account"),
        ("ops-worker-health-1", {f"GET {BATCH}/cronjobs/ops-worker-health": (200, {})}, "KeyError: 'metadata'"),
        ("", {}, "KUBERNETES_EVENTS is on, but JOB_NAME is not a Job of a CronJob"),
    ],
)  # fmt: skip
def test_announce_refused(inside: Server, job: str, answers: dict[str, Any], warning: str) -> None:
    """Whatever goes wrong is a warning."""
    inside.answers |= answers
    assert kubernetes.announce(job, [("ingest", "http 503")]) == [warning]


@pytest.mark.parametrize("deadline_s", [0.3, -1.0])
def test_announce_in_time(inside: Server, deadline_s: float) -> None:
    """Events take no longer than the pass has left."""
    inside.answers[f"GET {BATCH}/cronjobs/ops-worker-health"] = (0, {})
    (warning,) = kubernetes.announce("ops-worker-health-1", [("ingest", "http 503")], deadline_s)
    assert not inside.closed.is_set(), (
        "it is the deadline that ended it: the answer is still to come"
    )
    assert warning.startswith(
        "no answer from" if deadline_s > 0 else "no time was left for Kubernetes Events"
    )


def test_announce_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a service account nobody is told, least of all a developer's cluster."""
    monkeypatch.setattr(kubernetes, "TOKEN", tmp_path / "token")
    (warning,) = kubernetes.announce("ops-worker-health-1", [("ingest", "http 503")])
    assert warning.startswith("KUBERNETES_EVENTS is on, but there is no service account token")


def test_without_the_extra(
    server: Server,  # noqa: ARG001 - it is there
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command whose extra is missing names it."""
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["cluster"]) == 2
    assert (
        told(capsys)
        == "ops-worker cluster: calling the Kubernetes API requires an extra: pip install 'ops-worker[cluster]'"
    )
    assert main(["manifests", "check", "x"]) == 2
    assert (
        told(capsys)
        == "ops-worker manifests: manifests requires an extra: pip install 'ops-worker[cluster]'"
    )


def test_interrupted(server: Server) -> None:
    """Ctrl-C while it waits ends it at once, without a traceback."""
    server.answers[f"GET {BATCH}/jobs/a-job"] = (200, {})
    command = [sys.executable, "-m", "ops_worker", "trigger", "health", "--wait"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=10)[1]
    assert said[2] == "a-job: waiting for a pod\n"
    assert (process.returncode, rest) == (-signal.SIGINT, "")


def test_nobody_reads(server: Server) -> None:
    """A pipe that is closed is no bug of the worker's."""
    server.answers[f"GET {BATCH}/cronjobs"] = (
        200,
        {"items": [cronjob(f"ops-worker-{number}") for number in range(2000)]},
    )
    script = f"{sys.executable} -m ops_worker cluster | head -1"
    done = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.startswith("CRONJOB")
    assert "Traceback" not in done.stderr
