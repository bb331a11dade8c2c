"""One request on one connection with one deadline, as a generator for the reactor."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import h11
import httpx

from ops_worker import __version__
from ops_worker.catalogue import NO_HEADER, is_header_value
from ops_worker.core.model import Failure, Observation
from ops_worker.edges.probes.reactor import READ, WRITE, Lookup, Wait

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from ops_worker.core.model import Target, Tls

    Addresses = Sequence[tuple[Any, Any, Any, Any, tuple[Any, ...]]]
    Steps = Generator[Wait | Lookup | None, Any, Any]

MAX_BODY = 1 << 20
"""Bytes of a body, decoded (README, "What is seen")."""
MAX_HEAD = 1 << 16
"""Bytes of a status line and headers."""

_RECEIVE = 1 << 16
_COMPRESSED_SLICE = 1 << 10  # deflate grows at most 1032-fold: no slice of a bomb can decode to much over MAX_BODY
_HEADERS = httpx.Headers(
    {"User-Agent": f"ops-worker/{__version__}", "Accept": "*/*", "Accept-Encoding": "gzip, deflate", "Connection": "close"}
)
_OUR_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""What says nothing of the service: this process or machine has no more files, memory or ports."""
_PORTS = {"http": 80, "https": 443}


class UnusableError(ValueError):
    """No request can be made of what the catalogue says. The message names a key, never a value."""


class Unreachable(httpx.ConnectError):
    """No connection could be made, and a new one would meet the same: refused, unresolved, no route, TLS."""


def ask(target: Target, deadline: float, contexts: Mapping[Tls, ssl.SSLContext]) -> Steps:
    """Ask one target; return its observation.

    Its latency runs from the beginning of the connection, after the name was resolved, to the arrival of the last byte.
    Raises Unreachable, TimeoutError, OSError, h11.RemoteProtocolError, httpx.DecodingError, httpx.InvalidURL, ValueError.
    """
    request = _request(target)
    host, port = request.url.raw_host, request.url.port or _PORTS[request.url.scheme]
    addresses = _numeric(host, port) or (yield from _resolved(host, port))
    started = time.monotonic()
    sock = yield from _connect(addresses, deadline)
    try:
        if request.url.scheme == "https":
            sock = contexts[target.tls].wrap_socket(sock, server_hostname=host.decode("ascii"), do_handshake_on_connect=False)
            yield from _handshake(sock)
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
        yield from _send(sock, (http.send(head) or b"") + (http.send(h11.EndOfMessage()) or b""))
        response, body, ended = yield from _answer(sock, http, target.expect)
    finally:
        sock.close()
    if body:
        body = _decoded(response, body)
    return Observation(target, ended, response.status_code, round((ended - started) * 1000), body)


def failed(target: Target, error: Exception) -> Observation:
    """Say what became of a probe that had no answer to show."""
    failure = Failure.NO_CONNECTION if isinstance(error, Unreachable) else Failure.NO_ANSWER
    text = f"timeout after {target.deadline_s:g} s" if isinstance(error, TimeoutError) else _described(error)
    return Observation(target, time.monotonic(), failure=failure, error=text)


def _request(target: Target) -> httpx.Request:
    """Make the request.

    Raises UnusableError, whose text is our own: the libraries quote the values that they refuse.
    """
    headers = _HEADERS
    if target.headers:
        for name, value in target.headers:
            if not is_header_value(value):
                raise UnusableError(f"headers.{name} {NO_HEADER}")
        headers = httpx.Headers(_HEADERS)
        headers.update(target.headers)
    try:
        request = httpx.Request("GET", target.url, headers=headers)
        if request.url.userinfo:
            return next(httpx.BasicAuth(request.url.username, request.url.password).auth_flow(request))
    except (httpx.InvalidURL, ValueError):
        raise UnusableError("bad URL: its host is no name or address, or it is too long") from None
    return request


def refused(target: Target) -> str:
    """Say why no request can be made of a target; nothing where one can."""
    try:
        _request(target)
    except UnusableError as error:
        return str(error)
    return ""


def _numeric(host: bytes, port: int) -> Addresses:
    if not (host[-1:].isdigit() or b":" in host):
        return ()
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return ()


def _resolved(host: bytes, port: int) -> Steps:
    try:
        return (yield Lookup(host, port))
    except socket.gaierror as error:
        raise Unreachable(f"name resolution failed: {error.strerror}") from error


def _connect(addresses: Addresses, deadline: float) -> Steps:
    """Try the addresses in turn; each may use its share of the time that is left, so that a dead one leaves some."""
    last: OSError = TimeoutError()
    for index, (family, _, _, _, address) in enumerate(addresses):
        share = (deadline - time.monotonic()) / (len(addresses) - index)
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)  # noqa: FBT003 - the standard library's
            code = sock.connect_ex(address)
            if code == errno.EINPROGRESS:
                if not (yield Wait(sock.fileno(), WRITE, time.monotonic() + share)):
                    raise TimeoutError  # noqa: TRY301 - an address that does not answer is as good as one that refuses
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))  # noqa: TRY301 - connect_ex gives a code where connect raises
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, OSError):
                raise
            # A refusal says most: a machine is there, and nothing listens.
            last = last if isinstance(last, ConnectionRefusedError) else error
        else:
            return sock
    try:
        if isinstance(last, (TimeoutError, ConnectionResetError, ConnectionAbortedError)) or last.errno in _OUR_LIMITS:
            raise last
        raise Unreachable(_described(last))
    finally:
        del last  # an error that its own frame holds is a cycle, and a pass runs without the collector of those


def _handshake(sock: ssl.SSLSocket) -> Steps:
    try:
        while True:
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                yield Wait(sock.fileno(), READ)
            except ssl.SSLWantWriteError:
                yield Wait(sock.fileno(), WRITE)
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"TLS: certificate verify failed: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise Unreachable(f"TLS: {error.reason or error}") from error


def _send(sock: socket.socket, data: bytes) -> Steps:
    while data:
        try:
            data = data[sock.send(data) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            yield Wait(sock.fileno(), WRITE)
        except ssl.SSLWantReadError:
            yield Wait(sock.fileno(), READ)


def _answer(sock: socket.socket, http: h11.Connection, expect: Sequence[int]) -> Steps:
    """Read the answer: its head, its raw body where the status is an expected one, and when its last bytes came."""
    response, body, received = None, bytearray(), 0.0
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            data = yield from _receive(sock)
            received = time.monotonic()
            yield None  # parsing can wait; sockets that are ready should not
            http.receive_data(data)
        elif event is h11.PAUSED:
            raise h11.RemoteProtocolError("the server switched protocols")
        elif isinstance(event, h11.Response):
            response = event
            if event.status_code not in expect:
                return response, b"", received
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise ValueError("body larger than 1 MiB")
        elif isinstance(event, h11.EndOfMessage):
            return response, bytes(body), received


def _receive(sock: socket.socket) -> Steps:
    if not isinstance(sock, ssl.SSLSocket):
        yield Wait(sock.fileno(), READ)
    while True:
        try:
            return sock.recv(_RECEIVE)
        except (BlockingIOError, ssl.SSLWantReadError):
            yield Wait(sock.fileno(), READ)
        except ssl.SSLWantWriteError:
            yield Wait(sock.fileno(), WRITE)


def _decoded(response: h11.Response, body: bytes) -> bytes:
    """Undo the content coding: one at the most, and of those that were asked for.

    Two on top of each other, or brotli, grow a slice to gigabytes before anybody can count them.
    """
    codings = [
        coding.strip().lower()
        for name, value in response.headers
        if name == b"content-encoding"
        for coding in value.decode("latin-1").split(",")
    ]
    if codings in ([], ["identity"]):
        return body
    if codings not in (["gzip"], ["deflate"]):
        raise httpx.DecodingError(f"{', '.join(codings)} was not asked for")
    decoded = bytearray()
    for part in httpx.Response(200, headers={"Content-Encoding": codings[0]}, stream=_Slices(body)).iter_bytes():
        decoded += part
        if len(decoded) > MAX_BODY:
            raise ValueError("body larger than 1 MiB")
    return bytes(decoded)


class _Slices(httpx.SyncByteStream):
    """A compressed body in slices that cannot decode to much more than a body may have."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return (self._body[start : start + _COMPRESSED_SLICE] for start in range(0, len(self._body), _COMPRESSED_SLICE))


_PREFIXES: tuple[tuple[type[Exception], str], ...] = (
    (h11.RemoteProtocolError, "protocol error: "),
    (httpx.DecodingError, "bad content encoding: "),
    (httpx.InvalidURL, "bad URL: "),
)


def _described(error: Exception) -> str:
    prefix = next((prefix for kind, prefix in _PREFIXES if isinstance(error, kind)), "")
    return prefix + ((error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__)
