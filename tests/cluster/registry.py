"""A stand-in for an image registry, for the container runtime of a node on this machine.

It serves images without files over plain HTTP on 127.0.0.1. containerd and CRI-O use plain HTTP for
this address without any configuration. The registry can also be slow, require a login, or refuse.
Source: the OCI distribution and image specifications.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import platform
import tarfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from types import TracebackType

REPOSITORY = "ops-worker"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
HELD_S = 300.0
"""Seconds after which a request ends that nobody released."""


class Request(NamedTuple):
    """A request: its path, and the login that it had, as ``USER:PASSWORD``."""

    path: str
    login: str


class Registry:
    """The registry. Use it as a context manager."""

    def __init__(self) -> None:
        """Bind a free port."""
        self.requests: list[Request] = []
        self.login = ""
        """The only login that is let in. If it is empty, everybody is."""
        self.refusal: tuple[int, str, str] | None = None
        """The status, code and message with which every request is refused."""
        self._released = threading.Event()
        self._released.set()
        self._documents: dict[str, tuple[str, bytes]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def host(self) -> str:
        """Return the address as the name of an image has it."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def hold(self) -> None:
        """Answer no request until ``release``."""
        self._released.clear()

    def release(self) -> None:
        """Answer the requests that wait, and every later one."""
        self._released.set()

    def add(self, **config: Any) -> tuple[str, str]:
        """Add an image with a ``config``, for example ``User``. Return its name and its digest.

        No node has an image of this name.
        """
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w"):
            pass
        packed = gzip.compress(layer.getvalue(), mtime=0)
        image = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
        }
        content = json.dumps(image).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob(CONFIG, content),
            "layers": [self._blob(LAYER, packed)],
        }
        text = json.dumps(manifest).encode()
        tag = uuid.uuid4().hex
        for reference in (tag, _digest(text)):
            self._documents[f"/v2/{REPOSITORY}/manifests/{reference}"] = MANIFEST, text
        return f"{self.host}/{REPOSITORY}:{tag}", _digest(text)

    def _blob(self, kind: str, content: bytes) -> dict[str, Any]:
        """Serve a blob. Return its descriptor."""
        self._documents[f"/v2/{REPOSITORY}/blobs/{_digest(content)}"] = kind, content
        return {"mediaType": kind, "digest": _digest(content), "size": len(content)}

    def answer(self, path: str, login: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer to a request."""
        self.requests.append(Request(path, login))
        self._released.wait(HELD_S)
        if self.refusal is not None:
            status, code, message = self.refusal
            return status, {}, _error(code, message)
        if self.login and login != self.login:
            challenge = {"WWW-Authenticate": 'Basic realm="registry"'}
            return 401, challenge, _error("UNAUTHORIZED", "authentication required")
        if path.rstrip("/") == "/v2":
            return 200, {}, b"{}"
        if path not in self._documents:
            return 404, {}, _error("MANIFEST_UNKNOWN", "manifest unknown")
        kind, content = self._documents[path]
        return 200, {"Content-Type": kind, "Docker-Content-Digest": _digest(content)}, content


def _handler(registry: Registry) -> type[BaseHTTPRequestHandler]:
    """Return the class that handles the requests to a registry."""

    class Handler(BaseHTTPRequestHandler):
        """Answer HEAD and GET."""

        def do_GET(self) -> None:
            """Answer with the body."""
            self._send(with_body=True)

        def do_HEAD(self) -> None:
            """Answer without the body."""
            self._send(with_body=False)

        def _send(self, *, with_body: bool) -> None:
            word, _, encoded = self.headers.get("Authorization", "").partition(" ")
            login = base64.b64decode(encoded).decode() if word == "Basic" else ""
            status, headers, content = registry.answer(self.path.partition("?")[0], login)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name
            """Print nothing."""

    return Handler


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()
