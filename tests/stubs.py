"""Stand-ins for the services of the platform: HTTP servers on 127.0.0.1.

A stand-in answers, fails in a chosen way, or does not listen.

    with Stubs() as stubs:
        stubs["ingest"].mode = "down"
        run(env=os.environ | stubs.env)

A mode is ``down``, a key of ``MODES``, ``slow:SECONDS``, or a function. The function gets the stub
and the connection after the request was read. The program ``python -m tests.stubs`` prints the
environment to export, and serves all four services until a signal ends it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from ops_worker.catalogue import builtin_urls

if TYPE_CHECKING:
    from types import TracebackType

Behaviour = Callable[["Stub", socket.socket], None]


class Stub:
    """A service: a port, a mode, and counters that grow with the time since its start.

    ``requests`` are the requests that it received. If ``counters`` is not None, its answer has them
    instead.
    """

    def __init__(
        self, name: str, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        """Bind a free port and start to answer."""
        self.name = name
        self.counters: Any = None
        self.started = time.monotonic()
        self.requests: list[bytes] = []
        self._tls = tls
        self._host = host
        self._mode: str | Behaviour = "ok"
        self._listener: socket.socket | None = None
        # A socket that never listens reserves the port while the service is down. Otherwise another
        # process could get the port, and answer.
        self._reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((host, 0))
        self.port = self._reserved.getsockname()[1]
        self._listen()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http{'s' if self._tls else ''}://{self._host}:{self.port}"

    @property
    def mode(self) -> str | Behaviour:
        """How the service treats a request."""
        return self._mode

    @mode.setter
    def mode(self, mode: str | Behaviour) -> None:
        assert callable(mode) or mode.partition(":")[0] in {*MODES, "down", "slow"}, (
            f"no mode {mode!r}"
        )
        self._mode = mode
        if mode == "down":
            self._refuse()
        elif self._listener is None:
            self._listen()

    def close(self) -> None:
        """Stop listening, and release the port."""
        self._refuse()
        self._reserved.close()

    def _refuse(self) -> None:
        """Stop listening: connections are refused from now on."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def answer(self) -> dict[str, Any]:
        """Return the body of a healthy answer, with the keys of the real service."""
        counters = self.counters
        if counters is None:
            counters = _growing(self.name, time.monotonic() - self.started)
        return {"status": "healthy", "service": self.name, "counters": counters}

    def _listen(self) -> None:
        """Listen, and accept connections in a thread."""
        listener = socket.create_server((self._host, self.port), backlog=256, reuse_port=False)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        """Serve each connection in its own thread, until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one request, and close the connection."""
        with contextlib.suppress(OSError, ssl.SSLError), connection:
            connection.settimeout(30)
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        """Read a request up to its headers' end, and answer it as the mode says.

        A client that closes the connection without a request is answered, too.
        """
        request = b""
        while b"\r\n\r\n" not in request and (part := connection.recv(65536)):
            request += part
        self.requests.append(request)
        mode = self._mode
        if callable(mode):
            mode(self, connection)
            return
        name, _, seconds = mode.partition(":")
        if name == "slow":
            time.sleep(float(seconds or 2))
        behaviour = MODES.get(name, healthy)
        behaviour(self, connection)


def reply(
    body: bytes | str, *, status: str = "200 OK", headers: Mapping[str, str] | None = None
) -> Behaviour:
    """Return the behaviour of answering with a body and its length."""
    data = body.encode() if isinstance(body, str) else body

    def behave(_: Stub, connection: socket.socket) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + data)

    return behave


def raw(data: bytes) -> Behaviour:
    """Return the behaviour of sending these bytes and closing the connection."""
    return lambda _, connection: connection.sendall(data)


def healthy(stub: Stub, connection: socket.socket) -> None:
    """Answer as the real service does."""
    reply(json.dumps(stub.answer()), headers={"Content-Type": "application/json"})(stub, connection)


def reset(_: Stub, connection: socket.socket) -> None:
    """Reset the connection instead of answering."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang(_: Stub, connection: socket.socket) -> None:
    """Do not answer, and wait until the client closes the connection."""
    while connection.recv(65536):
        pass


def dribble(stub: Stub, connection: socket.socket) -> None:
    """Send the healthy answer byte by byte, for about eight seconds."""
    body = json.dumps(stub.answer()).encode().ljust(80)
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    for byte in body:
        connection.sendall(bytes([byte]))
        time.sleep(8 / len(body))


def chunked(stub: Stub, connection: socket.socket) -> None:
    """Answer compressed and in chunks."""
    body = gzip.compress(json.dumps(stub.answer()).encode())
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Encoding: gzip\r\nContent-Type: text/weird\r\n\r\n"
    )
    for start in range(0, len(body), 10):
        part = body[start : start + 10]
        connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
    connection.sendall(b"0\r\n\r\n")


MODES: dict[str, Behaviour] = {
    "ok": healthy,
    "500": reply('{"error": "told to fail"}', status="500 Internal Server Error"),
    "503": reply('{"error": "told to fail"}', status="503 Service Unavailable"),
    "redirect": reply("", status="302 Found", headers={"Location": "http://169.254.169.254/"}),
    "hang": hang,
    "reset": reset,
    "dribble": dribble,
    "chunked": chunked,
    "bad-json": reply('{"status": "healthy", "counters": {"mess'),
    "list": reply("[1, 2]"),
    "huge": reply(json.dumps({"padding": "." * (2 << 20)})),
}


class Stubs(dict[str, Stub]):
    """All services of the catalogue, by name."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        """Start to listen."""
        super().__init__({name: Stub(name, host=host) for name, _, _ in builtin_urls()})

    @property
    def env(self) -> dict[str, str]:
        """The environment variables with which the worker probes these services."""
        return {variables[0]: self[name].url for name, variables, _ in builtin_urls()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stub in self.values():
            stub.close()


def _growing(name: str, seconds: float, rate: float = 25.0) -> dict[str, int]:
    """Return the counters of a service after some seconds with ``rate`` messages per second."""
    n, wave = int(seconds * rate), int(seconds) % 7
    return {
        "ingest": {
            "messages_received": n,
            "messages_written": n - n // 100,
            "messages_rejected": n // 100,
            "queue_depth": wave * 3,
        },
        "evaluator": {
            "rules_evaluated": n // 2,
            "alerts_created": n // 500,
            "evaluation_errors": 0,
        },
        "dispatcher": {
            "alerts_processed": n // 500,
            "routes_matched": n // 600,
            "jobs_queued": n // 600,
        },
        "delivery_worker": {
            "jobs_processed": n // 60,
            "jobs_succeeded": n // 60,
            "jobs_failed": n // 6000,
            "jobs_pending": wave // 2,
        },
    }[name]


if __name__ == "__main__":
    with Stubs() as all_stubs:
        for variable, address in all_stubs.env.items():
            print(f"export {variable}={address}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
