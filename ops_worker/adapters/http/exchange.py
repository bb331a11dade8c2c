"""One request on one connection with one deadline, as a generator for the reactor."""

from __future__ import annotations

import errno
import math
import os
import re
import socket
import ssl
import time
import zlib
from collections import deque
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import h11
import httpx

from ops_worker import __version__
from ops_worker.adapters.http.limits import own_limit
from ops_worker.adapters.http.reactor import READ, WRITE, Lookup, Wait
from ops_worker.adapters.http.reasons import (
    CLOSED,
    CLOSED_IN_HEAD,
    SPEAKS_TLS,
    SWITCHED,
    NoAnswerError,
    UnreachableError,
    failure_of,
    foreign,
    system_words,
    wants_tls,
)
from ops_worker.catalogue import NO_HEADER, is_header_value
from ops_worker.core.model import Observation

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from ops_worker.core.model import Target, Tls

    Address = tuple[Any, Any, Any, Any, tuple[Any, ...]]
    Steps = Generator[Wait | Lookup | None, Any, Any]

MAX_BODY = 1 << 20
"""Bytes of a body, decoded (docs/contract.md, "Probe")."""
MAX_HEAD = 1 << 16
"""Bytes of a status line and headers."""
MAX_CODINGS = 5
"""Content codings on top of each other."""
STAGGER_S = 0.25
"""Seconds after which the next address is tried beside one that does not answer (RFC 8305, section
5).
"""

_RECEIVE = 1 << 16
_COMPRESSED_SLICE = 1 << 10
_HEADERS = httpx.Headers(
    {
        "User-Agent": f"ops-worker/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "Connection": "close",
    }
)
_PORTS = {"http": 80, "https": 443}


class UnusableError(ValueError):
    """No request can be made of what the catalogue says. The message names a key, never a value."""


def ask(target: Target, contexts: Mapping[Tls, ssl.SSLContext]) -> Steps:
    """Ask one target; return its observation.

    Its latency runs from the beginning of the connection that was made, after the name was
    resolved, to the arrival of the last byte. Raises whatever ``failed`` takes.
    """
    request = _request(target)
    host, certified = _host(request.url.raw_host)
    if b"%" in host:  # a zone has a meaning on this machine only (RFC 6874, section 4)
        request.headers["Host"] = re.sub(r"%[^]]*", "", request.headers["Host"])
    port = request.url.port or _PORTS[request.url.scheme]
    addresses = _numeric(host, port) or (yield from _resolved(host, port, target.deadline_s))
    sock, started = yield from _connect(addresses)
    try:
        if request.url.scheme == "https":
            sock = contexts[target.tls].wrap_socket(
                sock,
                server_hostname=certified,
                do_handshake_on_connect=False,
            )
            yield from _handshake(sock)
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        head = h11.Request(
            method=request.method, target=request.url.raw_path, headers=request.headers.raw
        )
        yield from _send(sock, (http.send(head) or b"") + (http.send(h11.EndOfMessage()) or b""))
        response, body, ended = yield from _answer(sock, http, target.expect)
    finally:
        sock.close()
    hint = ""
    if response.status_code in target.expect:
        body = _decoded(response, body)
    else:
        refused = response.status_code == httpx.codes.BAD_REQUEST and request.url.scheme == "http"
        if refused and wants_tls(body):
            hint = SPEAKS_TLS
        body = b""
    return Observation(
        target,
        ended,
        http_status=response.status_code,
        latency_ms=round((ended - started) * 1000),
        body=body,
        error=hint,
    )


def failed(target: Target, error: Exception) -> Observation:
    """Return the observation of a probe that ended with an error instead of an answer."""
    failure, reason = failure_of(error, target.deadline_s)
    return Observation(target, time.monotonic(), failure=failure, error=reason)


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
            return next(
                httpx.BasicAuth(request.url.username, request.url.password).auth_flow(request)
            )
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


def _host(host: bytes) -> tuple[bytes, str]:
    """Return the name to resolve, and the one for SNI, which the certificate must have.

    The dot at the end of ``name.`` is for the resolver, and the zone of ``fe80::1%25eth0`` for this
    machine: neither is in a certificate, or allowed in SNI (RFC 6066, section 3). The Host header
    keeps the dot, as RFC 9110, section 7.2 has it: it is the URL's authority.
    """
    if b":" not in host:
        return host, host.removesuffix(b".").decode("ascii")
    address, mark, zone = host.partition(b"%")
    return address + mark + zone.removeprefix(b"25"), address.decode("ascii")


def _numeric(host: bytes, port: int) -> Sequence[Address]:
    if not (host[-1:].isdigit() or b":" in host):
        return ()
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return ()


def _resolved(host: bytes, port: int, deadline_s: float) -> Steps:
    try:
        return (yield Lookup(host, port))
    except TimeoutError as error:
        words = f"no answer within {deadline_s:g} s"
        raise UnreachableError(f"name resolution failed: {words}") from error
    except OSError as error:
        if own_limit(error):
            raise
        words = error.strerror or ""
        if not isinstance(error, socket.gaierror):
            words = system_words(error)
        raise UnreachableError(f"name resolution failed: {words}") from error


def _connect(addresses: Sequence[Address]) -> Steps:
    """Race the addresses (RFC 8305); return the first connected socket and when its attempt began.

    An attempt begins as soon as one has failed, or when the last one had STAGGER_S seconds without
    an answer. So an address family that swallows packets costs a quarter of a second, which is no
    part of the service's latency.
    """
    left = deque((family, address) for family, *_, address in _alternating(addresses))
    racing: dict[int, tuple[socket.socket, float]] = {}
    errors: list[OSError] = []
    due = 0.0
    try:
        while left or racing:
            if left and (not racing or time.monotonic() >= due):
                begun = time.monotonic()
                due = begun + STAGGER_S
                try:
                    sock = _begin(*left.popleft())
                except OSError as error:
                    errors.append(error)
                    due = begun
                    continue
                racing[sock.fileno()] = sock, begun
            ready = yield Wait(tuple(racing), WRITE, due if left else math.inf)
            if ready is None:
                continue
            sock, begun = racing.pop(ready)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return sock, begun
            sock.close()
            errors.append(OSError(code, os.strerror(code)))
            due = begun
    except TimeoutError as error:
        errors.append(error)
    finally:
        for sock, _ in racing.values():
            sock.close()
    try:
        raise _telling(errors)
    finally:
        # An error that its own frame holds is a cycle, and a pass runs without their collector.
        errors.clear()


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """Order the addresses so that the families take turns, the system's choice first."""
    preferred = [one for one in addresses if one[0] == addresses[0][0]]
    others = [one for one in addresses if one[0] != addresses[0][0]]
    return [one for pair in zip_longest(preferred, others) for one in pair if one is not None]


def _begin(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Begin to connect; return the socket. It can be written once that has ended, well or badly."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's
        code = sock.connect_ex(address)
        if code == errno.EADDRNOTAVAIL and not _has_source(family, address):
            code = errno.ENETUNREACH
    except BaseException:
        sock.close()
        raise
    if code in (0, errno.EINPROGRESS):
        return sock
    sock.close()
    raise OSError(code, os.strerror(code))


def _has_source(family: int, address: tuple[Any, ...]) -> bool:
    """Tell whether this machine has an address from which it could reach that one.

    Without any, as without IPv6, connecting fails with the error that also means: all local ports
    are taken.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        return sock.connect_ex(address) != errno.EADDRNOTAVAIL


def _telling(errors: Sequence[OSError]) -> Exception:
    """Return the error that says most about addresses of which none could be connected to.

    Our own limit hides an address that may be well. A refusal says more than silence: a machine is
    there, and nothing listens.
    """
    limits = [error for error in errors if own_limit(error)]
    refusals = [error for error in errors if isinstance(error, ConnectionRefusedError)]
    error = [*errors, *refusals[-1:], *limits[-1:]][-1]
    if limits or isinstance(error, (TimeoutError, ConnectionResetError, ConnectionAbortedError)):
        return error
    return UnreachableError(system_words(error))


def _handshake(sock: ssl.SSLSocket) -> Steps:
    try:
        while True:
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                yield Wait((sock.fileno(),), READ)
            except ssl.SSLWantWriteError:
                yield Wait((sock.fileno(),), WRITE)
    except ConnectionError as error:
        raise UnreachableError(f"TLS: {system_words(error)} during the handshake") from error


def _send(sock: socket.socket, data: bytes) -> Steps:
    """Send the request.

    A server that closes before it has read it may have answered first: reading tells.
    """
    while data:
        try:
            data = data[sock.send(data) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            yield Wait((sock.fileno(),), WRITE)
        except ssl.SSLWantReadError:
            yield Wait((sock.fileno(),), READ)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return


def _answer(sock: socket.socket, http: h11.Connection, expect: Sequence[int]) -> Steps:
    """Read the answer; return its head, its raw body, and when its last bytes came.

    Of a status that is not expected, the body is what came together with the head: nobody waits for
    more.
    """
    response, body, received = None, bytearray(), 0.0
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            received = yield from _more(sock, http, received, in_head=response is None)
        elif event is h11.PAUSED:
            raise NoAnswerError(SWITCHED)
        elif isinstance(event, h11.Response):
            response = event
            if event.status_code not in expect:
                return response, _came_with(http), received
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise NoAnswerError("body larger than 1 MiB")
        elif isinstance(event, h11.EndOfMessage):
            return response, bytes(body), received


def _more(sock: socket.socket, http: h11.Connection, before: float, *, in_head: bool) -> Steps:
    """Read what comes next; return when it came. ``before`` is when something came last, or 0."""
    data = yield from _receive(sock)
    if in_head and not data:
        raise NoAnswerError(CLOSED_IN_HEAD if before else CLOSED)
    if not before and (words := foreign(data)):
        raise NoAnswerError(words)
    received = time.monotonic()
    yield None  # parsing can wait; sockets that are ready should not
    http.receive_data(data)
    return received


def _came_with(http: h11.Connection) -> bytes:
    """Return the part of the body that came together with the head."""
    try:
        event = http.next_event()
    except h11.RemoteProtocolError:
        return b""
    return bytes(event.data) if isinstance(event, h11.Data) else b""


def _receive(sock: socket.socket) -> Steps:
    if not isinstance(sock, ssl.SSLSocket):
        yield Wait((sock.fileno(),), READ)
    while True:
        try:
            return sock.recv(_RECEIVE)
        except (BlockingIOError, ssl.SSLWantReadError):
            yield Wait((sock.fileno(),), READ)
        except ssl.SSLWantWriteError:
            yield Wait((sock.fileno(),), WRITE)


def _decoded(response: h11.Response, body: bytes) -> bytes:
    """Undo the content codings (RFC 9110, section 8.4), the last one first.

    Each result is bounded as a body is.
    """
    if not body:
        return body
    lists = [value for name, value in response.headers if name == b"content-encoding"]
    elements = [one.strip().lower() for one in b",".join(lists).decode("latin-1").split(",")]
    codings = [one for one in elements if one not in {"", "identity"}]  # empty ones are ignored
    if unknown := [coding for coding in codings if coding not in {"gzip", "x-gzip", "deflate"}]:
        raise NoAnswerError(f"bad content encoding: {', '.join(unknown)} was not asked for")
    if len(codings) > MAX_CODINGS:
        raise NoAnswerError(f"bad content encoding: more than {MAX_CODINGS} on top of each other")
    for coding in reversed(codings):
        try:
            body = _inflated(body) if coding == "deflate" else _gunzipped(body)
        except zlib.error as error:
            words = f"the body is no {coding}, or damaged"
            raise NoAnswerError(f"bad content encoding: {words}") from error
        except EOFError as error:
            words = f"the {coding} body is cut off"
            raise NoAnswerError(f"bad content encoding: {words}") from error
    return body


def _inflated(body: bytes) -> bytes:
    """Undo ``deflate``: the zlib format (RFC 9110, section 8.4.1.2).

    Some servers send it without its header.
    """
    try:
        return _member(body, 0, zlib.MAX_WBITS, MAX_BODY)[0]
    except zlib.error:
        return _member(body, 0, -zlib.MAX_WBITS, MAX_BODY)[0]


def _gunzipped(body: bytes) -> bytes:
    """Undo ``gzip``: one member after the other.

    What follows them and is none is ignored, as gzip itself does.
    """
    whole = bytearray()
    start = 0
    while start == 0 or body.startswith(b"\x1f\x8b", start):
        part, start = _member(body, start, zlib.MAX_WBITS | 16, MAX_BODY - len(whole))
        whole += part
    return bytes(whole)


def _member(body: bytes, start: int, wbits: int, room: int) -> tuple[bytes, int]:
    """Decompress the member at ``start``, to at most ``room`` bytes; return it and its end.

    Raises EOFError when it is cut off. It is read in slices, because what follows a member is
    copied at its end.
    """
    inflater = zlib.decompressobj(wbits)
    whole = bytearray()
    while not inflater.eof:
        part = body[start : start + _COMPRESSED_SLICE]
        if not part:
            raise EOFError
        whole += inflater.decompress(part, room - len(whole) + 1)
        if len(whole) > room:
            raise NoAnswerError("body larger than 1 MiB")
        start += len(part) - len(inflater.unused_data)
    return bytes(whole), start
