"""A Kubernetes API server for tests. It answers from a table, and records the requests."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT = Path(__file__).parents[1]
BATCH, CORE = "/apis/batch/v1/namespaces/ops", "/api/v1/namespaces/ops"
APPS = "/apis/apps/v1/namespaces/ops"
FORBIDDEN = (403, {"message": "pods is forbidden"})
"""The answer to a request without permission."""


def cronjob(name: str = "ops-worker-health", **status: object) -> dict[str, Any]:
    """Return a CronJob as the API server returns it."""
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
    """Return a pod. With an exit code, the pod has ended."""
    state = {}
    if code is not None:
        state["terminated"] = {
            "exitCode": code,
            "message": message,
            "finishedAt": "2026-03-01T12:00:02Z",
        }
    metadata = {
        "name": "a-pod",
        "creationTimestamp": "2026-03-01T12:00:00Z",
        "labels": {"batch.kubernetes.io/job-name": "a-job"},
    }
    return {
        "metadata": metadata,
        "status": {"phase": "Pending", "containerStatuses": [{"state": state}]} | status,
    }


def event(
    about: str, reason: str, message: str, *, at: str = "2026-03-01T12:00:10Z", warning: bool = True
) -> dict[str, Any]:
    """Return an Event as the kubelet and controllers write it. ``about`` is ``KIND/NAME``."""
    kind, _, name = about.partition("/")
    return {
        "metadata": {"name": f"{name}.17", "namespace": "ops", "creationTimestamp": at},
        "involvedObject": {"kind": kind, "name": name, "namespace": "ops"},
        "reason": reason,
        "message": message,
        "type": "Warning" if warning else "Normal",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


def selected(body: Any, query: str) -> Any:
    """Return a list of objects, reduced to those that the field selector of a query selects.

    Any other body is returned unchanged.
    """
    (selector,) = parse_qs(query).get("fieldSelector", [""])
    if not selector or not isinstance(body, dict):
        return body
    items = body.get("items") or []
    for term in selector.split(","):
        path, _, value = term.partition("=")
        items = [item for item in items if _at(item, path) == value]
    return body | {"items": items}


def _at(node: Any, path: str) -> Any:
    """Return the value at a path such as ``involvedObject.name``; empty if there is none."""
    for key in path.split("."):
        node = node.get(key, {})
    return node


class QuietServer(http.server.ThreadingHTTPServer):
    """A server that prints no traceback if a client closes the connection before its answer.

    The traceback would be in the standard error of another test, which runs at that moment.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512  # a test may send many requests at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the exception of a request, unless the client closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class ApiServer:
    """The server. Its answers are status and body, by method and path.

    - ``answers``: an answer for all requests, or a list with one answer for each request. With
      status 0, a request waits for ``closed``, at most 60 s.
    - ``headers``: the headers of every answer.
    - ``requests``: the method and path of each request, and its Authorization header or its body.
    """

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.closed = threading.Event()
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.requests.append((self.command, self.path, self.headers.get("Authorization")))
                self._answer()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                api.requests.append((self.command, self.path, body))
                self._answer()

            def _answer(self) -> None:
                url = urlsplit(self.path)
                not_found = (404, {"message": "not found"})
                answer = api.answers.get(f"{self.command} {url.path}", not_found)
                if isinstance(answer, list):
                    answer = answer.pop(0)
                status, body = answer
                body = selected(body, url.query)
                if status == 0:
                    api.closed.wait(60)
                data = body.encode() if isinstance(body, str) else body
                if not isinstance(data, bytes):
                    data = json.dumps(data).encode()
                self.send_response(status or 200)
                for name, value in api.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = QuietServer(("127.0.0.1", 0), Handler)
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


@contextmanager
def serving(folder: Path) -> Iterator[ApiServer]:
    """Run an API server with one CronJob. Its kubeconfig is in the folder."""
    server = ApiServer(folder)
    server.answers |= {
        f"GET {BATCH}/cronjobs": (200, {"items": [cronjob()]}),
        f"GET {BATCH}/cronjobs/ops-worker-health": (200, cronjob()),
        f"GET {BATCH}/jobs": (200, {"items": []}),
        f"GET {CORE}/pods": (200, {"items": []}),
        f"GET {CORE}/events": (200, {"items": []}),
        f"GET {APPS}/deployments": (200, {"items": []}),
        f"POST {BATCH}/jobs": (201, {"metadata": {"name": "a-job"}}),
    }
    yield server
    server.http.shutdown()
    server.http.server_close()


def last_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of standard error. Fails if it contains a traceback."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]
