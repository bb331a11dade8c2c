"""Alertmanagers for tests: a stand-in that records requests, and the real one of Debian.

``Inbox`` is the stand-in. It also receives the webhooks of the real Alertmanager.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.conftest import Process

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

PROGRAM = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
"""The Alertmanager of this machine: Debian's package prometheus-alertmanager."""
MISSING = "there is no prometheus-alertmanager on this machine (apt-get install it)"
START_S = 60.0
"""Seconds that an Alertmanager may take to start on a busy machine."""

CONFIGURATION = """
route:
  receiver: hook
  group_by: [service]
  group_wait: 0s
  group_interval: 50ms
  repeat_interval: 1d
receivers:
  - name: hook
    webhook_configs:
      - url: {url}/hook
        send_resolved: true
"""


class Received(NamedTuple):
    """A request: its method, path, headers with small letters, and its JSON document."""

    method: str
    path: str
    headers: dict[str, str]
    document: Any


class Inbox:
    """An HTTP server that records every request and answers with ``status``.

    ``before`` is called with each request before its answer; it may block.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """Begin to listen on a free port of 127.0.0.1."""
        self.requests: list[Received] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b"{}"
        self.before: Callable[[Received], object] = lambda _: None
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            """Records a request, and answers it."""

            def do_GET(self) -> None:
                """Record a GET."""
                self._keep(None)

            def do_POST(self) -> None:
                """Record a POST with its document."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._keep(json.loads(body))

            def _keep(self, document: Any) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(self.command, self.path, headers, document)
                inbox.requests.append(received)
                inbox.before(received)
                with contextlib.suppress(OSError):  # the client may have gone
                    self.send_response(inbox.status)
                    for name, value in inbox.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(inbox.body)))
                    self.end_headers()
                    self.wfile.write(inbox.body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    @property
    def posts(self) -> list[list[dict[str, Any]]]:
        """The lists of alerts that were posted."""
        return [
            received.document
            for received in self.requests
            if received.path.endswith("/api/v2/alerts")
        ]

    def notifications(self) -> list[dict[str, Any]]:
        """Return the alerts of all webhooks of a real Alertmanager, in order."""
        return [
            alert
            for received in list(self.requests)
            if received.path == "/hook"
            for alert in received.document["alerts"]
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Alertmanager:
    """A real Alertmanager, which sends webhooks at once. Use it as a context manager."""

    def __init__(self, folder: Path, receiver: Inbox) -> None:
        """Write its configuration; nothing runs yet."""
        folder.mkdir(exist_ok=True)
        self._folder = folder
        (folder / "alertmanager.yml").write_text(CONFIGURATION.format(url=receiver.url))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The base URL, the same after each start."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert PROGRAM is not None
        with (self._folder / "log").open("ab") as log:
            self._process = Process(
                [
                    PROGRAM,
                    f"--config.file={self._folder / 'alertmanager.yml'}",
                    f"--storage.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--cluster.listen-address=",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_S
        while not self._is_ready():
            assert self._process.poll() is None and time.monotonic() < end, self.log()
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it. It forgets its alerts; after SIGTERM it remembers what it has sent."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_S)
            self._process = None

    def restart(self) -> None:
        """End it and start it again."""
        self.stop()
        self.start()

    def lose(self) -> None:
        """Kill it and start it on an empty disk.

        On the same disk, what it remembers to have sent could be older than what it has sent.
        """
        self.stop(signal.SIGKILL)
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        self.start()

    def log(self) -> str:
        """Return the log of the Alertmanager."""
        return (self._folder / "log").read_text(encoding="utf-8")

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Return the alerts that are firing, by service."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=START_S) as answer:
            return {alert["labels"]["service"]: alert for alert in json.load(answer)}

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=START_S):
                return True
        except OSError:
            return False


def eventually(holds: Callable[[], bool], patience_s: float = START_S) -> bool:
    """Wait until a condition holds; return whether it does."""
    end = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
