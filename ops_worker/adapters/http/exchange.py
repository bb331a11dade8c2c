"""One request on one connection with one deadline, as a generator for the reactor.

Each redirect that is followed is another request on a new connection, with the same deadline.
"""

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
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import h11
import httpx

from ops_worker import __version__
from ops_worker.adapters.http import redirects
from ops_worker.adapters.http.limits import own_limit
from ops_worker.adapters.http.reactor import READ, SIGN, WRITE, Lookup, Wait
from ops_worker.adapters.http.reasons import (
    CLOSED,
    CLOSED_IN_HEAD,
    NO_TLS_TO_CONNECT,
    SPEAKS_TLS,
    SWITCHED,
    NoAnswerError,
    UnreachableError,
    cause_of,
    foreign,
    speaks_no_tls,
    system_text,
    wants_tls,
)
from ops_worker.catalogue import NO_HEADER, is_header_value
from ops_worker.core import certificates
from ops_worker.core.model import TLS_SCHEMES, Observation

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from ops_worker.adapters.http.reactor import Step
    from ops_worker.adapters.http.redirects import Hop
    from ops_worker.core.model import Target, Tls

    Address = tuple[Any, Any, Any, Any, tuple[Any, ...]]
    Steps = Generator[Step, Any, Any]

MAX_BODY = 1 << 20
"""Maximum size of a decoded body in bytes (docs/contract.md, "Probe")."""
MAX_HEAD = 1 << 16
"""Maximum size of the status line and headers in bytes."""
MAX_CODINGS = 5
"""Maximum number of content codings that are applied to one body."""
STAGGER_S = 0.25
"""Seconds without an answer before the next address is tried as well (RFC 8305, section 5)."""

_RECEIVE = 1 << 16
"""Maximum number of bytes that one call reads from a socket."""
_COMPRESSED_SLICE = 1 << 10
"""Number of compressed bytes that are decompressed at once."""
_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_MAGIC = b"\x1f\x8b"
_HEADERS = httpx.Headers(
    {
        "User-Agent": f"ops-worker/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        # Every probe has its own connection, which is not kept open for another request.
        "Connection": "close",
    }
)
_PORTS = {"http": 80, "https": 443}
_PACKET_CAME = frozenset({0, errno.ECONNREFUSED, errno.ECONNRESET})
"""Results of a connection attempt that prove that a packet came back. 0 is a connection.

Linux also reports some ICMP errors as a refusal. The worker cannot distinguish them.
"""


class UnusableError(ValueError):
    """No request can be made from a catalogue entry. The message names a key, never a value."""


class Answer(NamedTuple):
    """The answer to one request.

    ``body`` is the decoded body if the status is an expected one, else empty. ``hint`` is the
    likely cause of an unexpected status, if it is known. ``started`` and ``ended`` are moments of
    the monotonic clock in seconds. ``certificate_days_left`` is as in the observation.
    """

    response: h11.Response
    body: bytes
    hint: str
    started: float
    ended: float
    certificate_days_left: int | None = None


def ask(target: Target, contexts: Mapping[Tls, ssl.SSLContext]) -> Steps:
    """Send a request to a target and follow its redirects; return its observation.

    The latency is the time from the start of the connection that succeeded, after the name was
    resolved, to the arrival of the last byte, over all redirects. ``failed`` handles errors.
    """
    hop = redirects.first_hop(target)
    answer = yield from _exchange(target, hop, contexts)
    started = answer.started
    days_left = _known_days(answer)
    while target.redirects and answer.response.status_code in redirects.STATUSES:
        try:
            hop = _next_hop(target, hop, answer.response)
            answer = yield from _exchange(target, hop, contexts)
            # Of several certificates, the one that ends first counts.
            days_left += _known_days(answer)
        except redirects.NotFollowedError as error:
            answer = answer._replace(hint=str(error))
            break
        except UnusableError:
            answer = answer._replace(hint="redirects to an invalid URL")
            break
        except Exception as error:
            if not own_limit(error):
                error.add_note(f"after a redirect to {redirects.origin(hop.url)}")
            raise
    return Observation(
        target=target,
        taken_at=answer.ended,
        http_status=answer.response.status_code,
        latency_ms=round((answer.ended - started) * 1000),
        body=answer.body,
        headers=_named_headers(target, answer.response),
        certificate_days_left=min(days_left, default=None),
        error=answer.hint,
    )


def _known_days(answer: Answer) -> list[int]:
    return [] if answer.certificate_days_left is None else [answer.certificate_days_left]


def _next_hop(target: Target, hop: Hop, response: h11.Response) -> Hop:
    locations = [value for name, value in response.headers if name == b"location"]
    return redirects.next_hop(target, hop, response.status_code, (*locations, b"")[0])


def _exchange(target: Target, hop: Hop, contexts: Mapping[Tls, ssl.SSLContext]) -> Steps:
    """Send one request; return its answer."""
    request = _request(target, hop)
    sock, started = yield from _open(target, request, hop)
    days_left = None
    try:
        if request.url.scheme == "https":
            tls = target.tls if hop.same_origin else target.tls.without_client
            sock = _in_tls(sock, contexts[tls], _names(request.url.raw_host)[1])
            yield from _handshake(sock)
            days_left = _certificate_days_left(target, sock)
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        yield from _send(sock, _encoded(http, request))
        response, body, ended = yield from _receive_answer(sock, http, target.expect)
    finally:
        sock.close()
    hint = ""
    if response.status_code in target.expect:
        body = _decoded(response, body)
    else:
        hint = _hint(request, response, body)
        body = b""
    return Answer(
        response=response,
        body=body,
        hint=hint,
        started=started,
        ended=ended,
        certificate_days_left=days_left,
    )


def connect(target: Target, contexts: Mapping[Tls, ssl.SSLContext]) -> Steps:
    """Connect to a target, for ``tls`` with the handshake; return its observation.

    The latency is the time from the start of the attempt that succeeded until the connection was
    accepted, or until the end of the handshake. No request is sent. ``failed`` handles errors.
    """
    url = _connection_url(target)
    host, name = _names(url.raw_host)
    addresses = _numeric(host, url.port or 0)
    if not addresses:
        addresses = yield from _resolved(host, url.port or 0, target.deadline_s)
    sock, started = yield from _connect(addresses)
    days_left = None
    try:
        if target.scheme in TLS_SCHEMES:
            sock = _in_tls(sock, contexts[target.tls], name)
            yield from _handshake(sock)
            days_left = _certificate_days_left(target, sock)
    except ssl.SSLError as error:
        if speaks_no_tls(error):
            raise UnreachableError(NO_TLS_TO_CONNECT, "tls") from error
        raise
    finally:
        sock.close()
    ended = time.monotonic()
    return Observation(
        target=target,
        taken_at=ended,
        latency_ms=round((ended - started) * 1000),
        certificate_days_left=days_left,
    )


def _connection_url(target: Target) -> httpx.URL:
    """Return the URL of a target that only connects. Raises UnusableError."""
    try:
        return httpx.URL(target.url)
    except httpx.InvalidURL:
        raise UnusableError("bad URL: its host is no name or address, or it is too long") from None


def _in_tls(sock: socket.socket, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    # The socket does not block: the handshake takes several turns of the reactor.
    return context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)


def _certificate_days_left(target: Target, sock: ssl.SSLSocket) -> int | None:
    """Return the days left of the server's certificate; None if the target does not need them.

    The clock of this machine decides, as in the verification of the certificate.
    """
    if target.certificate_days is None:
        return None
    try:
        end = certificates.end_of(sock.getpeercert(binary_form=True) or b"")
    except ValueError:
        reason = "TLS: the end of the certificate cannot be read"
        raise UnreachableError(reason, "tls") from None
    return certificates.days_left(end, datetime.now(UTC))


def _named_headers(target: Target, response: h11.Response) -> dict[str, str]:
    """Return the headers that conditions name.

    Several headers with the same name are one list (RFC 9110, section 5.3).
    """
    named: dict[str, str] = {}
    for condition in target.conditions:
        name = condition.header
        values = [value for key, value in response.headers if key == name.encode()]
        if name and values:
            # latin-1 decodes any byte that a header may hold.
            named[name] = b", ".join(values).decode("latin-1")
    return named


def failed(target: Target, error: Exception) -> Observation:
    """Return the observation of a probe that ended with an error instead of an answer."""
    cause = cause_of(error, target.deadline_s)
    return Observation(
        target,
        time.monotonic(),
        failure=cause.failure,
        # The notes name the redirect after which the probe failed.
        error=", ".join((cause.reason, *getattr(error, "__notes__", ()))),
        reason_class=cause.reason_class,
        cut_off=cause.cut_off,
    )


def _request(target: Target, hop: Hop) -> httpx.Request:
    """Return the request of a hop.

    Raises UnusableError. Its text is the worker's, because libraries quote the values they refuse.
    """
    headers = _HEADERS
    if target.headers:
        for name, value in target.headers:
            if not is_header_value(value):
                raise UnusableError(f"headers.{name} {NO_HEADER}")
        # Copy the headers: the headers of one service must not reach another service.
        headers = httpx.Headers(_HEADERS)
        headers.update(redirects.headers(target, hop))
    content = redirects.body(target, hop) or None
    try:
        request = httpx.Request(hop.method, hop.url, headers=headers, content=content)
        login = httpx.URL(target.url)
        if login.userinfo and hop.same_origin:
            request = next(httpx.BasicAuth(login.username, login.password).auth_flow(request))
    except (httpx.InvalidURL, ValueError):
        raise UnusableError("bad URL: its host is no name or address, or it is too long") from None
    if b"%" in request.url.raw_host:
        # A zone has a meaning only on this machine (RFC 6874, section 4).
        request.headers["Host"] = re.sub(r"%[^]]*", "", request.headers["Host"])
    return request


def refused(target: Target) -> str:
    """Return why no request can be made to a target; empty if a request can be made."""
    try:
        if target.only_connects:
            _connection_url(target)
        else:
            _request(target, redirects.first_hop(target))
    except UnusableError as error:
        return str(error)
    return ""


def _encoded(http: h11.Connection, request: httpx.Request) -> bytes:
    head = h11.Request(
        method=request.method,
        target=request.url.raw_path,
        headers=request.headers.raw,
    )
    events = [head, h11.Data(request.content), h11.EndOfMessage()]
    return b"".join(http.send(event) or b"" for event in events)


def _hint(request: httpx.Request, response: h11.Response, body: bytes) -> str:
    """Return what an answer with an unexpected status means, if that is known."""
    bad_request = response.status_code == httpx.codes.BAD_REQUEST
    if bad_request and request.url.scheme == "http" and wants_tls(body):
        return SPEAKS_TLS
    return ""


def _names(host: bytes) -> tuple[bytes, str]:
    """Return the name to resolve, and the name for SNI, which the certificate must have.

    Only the resolver uses the final dot of ``name.``, and only this machine uses the zone of
    ``fe80::1%25eth0``. Neither is in a certificate or allowed in SNI (RFC 6066, section 3). The
    Host header keeps the dot, because it repeats the URL's authority (RFC 9110, section 7.2).
    """
    if b":" not in host:
        return host, host.removesuffix(b".").decode("ascii")
    address, mark, zone = host.partition(b"%")
    return address + mark + zone.removeprefix(b"25"), address.decode("ascii")


def _open(target: Target, request: httpx.Request, hop: Hop) -> Steps:
    """Resolve the host and connect; return the socket and the moment its connection started."""
    host, _ = _names(request.url.raw_host)
    port = request.url.port or _PORTS[request.url.scheme]
    # An IP address needs no thread of the resolver, so it works even if all threads hang.
    addresses = _numeric(host, port)
    if not addresses:
        addresses = yield from _resolved(host, port, target.deadline_s)
    redirects.require_permitted(target, hop, addresses)
    return (yield from _connect(addresses))


def _numeric(host: bytes, port: int) -> Sequence[Address]:
    """Return the address of a host that is an IP address; empty if the host is a name."""
    if not (host[-1:].isdigit() or b":" in host):
        return ()
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return ()


def _resolved(host: bytes, port: int, deadline_s: float) -> Steps:
    """Return the addresses of a name."""
    try:
        return (yield Lookup(host, port))
    except TimeoutError as error:
        reason = f"no answer within {deadline_s:g} s"
        raise UnreachableError(f"name resolution failed: {reason}", "name") from error
    except OSError as error:
        if own_limit(error):
            raise
        # gaierror has its own error numbers, which strerror does not know.
        reason = system_text(error)
        if isinstance(error, socket.gaierror):
            reason = error.strerror or ""
        raise UnreachableError(f"name resolution failed: {reason}", "name") from error


def _connect(addresses: Sequence[Address]) -> Steps:
    """Connect to the first address that answers (RFC 8305).

    Return the socket and the moment its attempt started. The next attempt starts as soon as an
    attempt fails, or when the last attempt had no answer for STAGGER_S seconds. So an address
    family that drops packets costs 0.25 s, which are not part of the service's latency.
    """
    remaining = deque((family, address) for family, *_, address in _alternating(addresses))
    attempts: dict[int, tuple[socket.socket, float]] = {}
    errors: list[OSError] = []
    next_start = 0.0
    try:
        while remaining or attempts:
            if remaining and (not attempts or time.monotonic() >= next_start):
                started = time.monotonic()
                next_start = started + STAGGER_S
                try:
                    sock = _begin(*remaining.popleft())
                except OSError as error:
                    yield from _sign_of(error.errno)
                    errors.append(error)
                    next_start = started
                    continue
                attempts[sock.fileno()] = sock, started
            fd = yield Wait(tuple(attempts), WRITE, next_start if remaining else math.inf)
            if fd is None:
                continue
            code = attempts[fd][0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            yield from _sign_of(code)
            sock, started = attempts.pop(fd)
            if not code:
                return sock, started
            sock.close()
            errors.append(OSError(code, os.strerror(code)))
            next_start = started
    except TimeoutError as error:
        errors.append(error)
    finally:
        for sock, _ in attempts.values():
            sock.close()
    try:
        # At the deadline, a refusal by one address is more informative than no answer from another.
        raise _most_telling(errors)
    finally:
        # Break reference cycles: each error refers to this frame, which refers to the error. A pass
        # runs without the cycle collector.
        errors.clear()


def _sign_of(code: int | None) -> Steps:
    """Yield SIGN if the result of a connection attempt proves that a packet came back."""
    if code in _PACKET_CAME:
        yield SIGN


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """Return the addresses with alternating families, beginning with the system's first choice."""
    preferred = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    ordered: list[Address] = []
    for pair in zip_longest(preferred, others):
        ordered += [address for address in pair if address is not None]
    return ordered


def _begin(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Start to connect; return the socket. It becomes writable on success and on failure."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's
        code = sock.connect_ex(address)
        if code == errno.EADDRNOTAVAIL and not _has_source(family, address):
            code = errno.ENETUNREACH
    except BaseException:
        sock.close()
        raise
    # The code is 0 if a connection within this machine succeeds at once.
    if code in (0, errno.EINPROGRESS):
        return sock
    sock.close()
    raise OSError(code, os.strerror(code))


def _has_source(family: int, address: tuple[Any, ...]) -> bool:
    """Return whether this machine has a source address for this destination.

    Without a source address (on a machine without IPv6, for example), ``connect`` fails with
    EADDRNOTAVAIL. This error also means that all local ports are in use.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        return sock.connect_ex(address) != errno.EADDRNOTAVAIL


def _most_telling(errors: Sequence[OSError]) -> Exception:
    """Return the most informative error, if no address could be connected.

    First comes a limit of this process, because the address that was not tried may be reachable.
    Second comes a refusal, because it shows that the machine runs and nothing listens on the port.
    Otherwise the last error counts.
    """
    limits = [error for error in errors if own_limit(error)]
    if limits:
        return limits[-1]
    refusals = [error for error in errors if isinstance(error, ConnectionRefusedError)]
    error = (refusals or errors)[-1]
    if isinstance(error, (TimeoutError, ConnectionResetError, ConnectionAbortedError)):
        return error
    refused = isinstance(error, ConnectionRefusedError)
    return UnreachableError(system_text(error), "refused" if refused else "unreachable")


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
        reason = f"TLS: {system_text(error)} during the handshake"
        raise UnreachableError(reason, "tls", cut_off=True) from error


def _send(sock: socket.socket, data: bytes) -> Steps:
    """Send the request.

    A closed connection is not an error here: the server may have answered early. Then
    ``_receive_answer`` reads the answer or the TLS alert.
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


def _receive_answer(sock: socket.socket, http: h11.Connection, expect: Sequence[int]) -> Steps:
    """Read the answer; return its head, its raw body, and the moment its last bytes arrived.

    If the status is not an expected one, do not wait for the body: return the part of the body that
    arrived together with the head.
    """
    response = None
    body = bytearray()
    received = 0.0
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            received = yield from _feed(sock, http, received, in_head=response is None)
        elif event is h11.PAUSED:
            raise NoAnswerError(SWITCHED)
        elif isinstance(event, h11.Response):
            # Informational answers (100, 103) may come before this one. They are ignored.
            response = event
            if event.status_code not in expect:
                return response, _buffered_body(http), received
        elif isinstance(event, h11.Data):
            body += event.data
            # Check the size while the body arrives: an endless body would fill the memory.
            if len(body) > MAX_BODY:
                raise NoAnswerError("body larger than 1 MiB", "too_large")
        elif isinstance(event, h11.EndOfMessage):
            return response, bytes(body), received


def _feed(sock: socket.socket, http: h11.Connection, before: float, *, in_head: bool) -> Steps:
    """Read bytes for the parser; return the moment they arrived.

    ``before`` is the moment at which earlier bytes arrived, or 0 for the first bytes.
    """
    data = yield from _receive(sock)
    if in_head and not data:
        raise NoAnswerError(CLOSED_IN_HEAD if before else CLOSED, "reset", cut_off=True)
    # The first bytes may show another protocol. h11 only reports it as malformed.
    if not before and (reason := foreign(data)):
        raise NoAnswerError(reason)
    received = time.monotonic()
    yield None  # let other exchanges read first: parsing would delay their measured latency
    http.receive_data(data)
    return received


def _buffered_body(http: h11.Connection) -> bytes:
    """Return the part of the body that the parser already has."""
    try:
        event = http.next_event()
    except h11.RemoteProtocolError:
        # The body is only needed for a hint. The status alone is an answer.
        return b""
    return bytes(event.data) if isinstance(event, h11.Data) else b""


def _receive(sock: socket.socket) -> Steps:
    # A TLS socket may have decrypted bytes already, so read it before polling it.
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
    """Decode the content codings of a body (RFC 9110, section 8.4), the last one first.

    The result of each step is at most MAX_BODY bytes.
    """
    if not body:
        return body
    for coding in reversed(_content_codings(response)):
        try:
            body = _inflated(body) if coding == "deflate" else _gunzipped(body)
        except zlib.error as error:
            reason = f"the body is not {coding}, or it is damaged"
            raise NoAnswerError(f"bad content encoding: {reason}") from error
        except EOFError as error:
            reason = f"the {coding} body is cut off"
            raise NoAnswerError(f"bad content encoding: {reason}") from error
    return body


def _content_codings(response: h11.Response) -> list[str]:
    """Return the content codings in the order in which the server applied them."""
    values = [value for name, value in response.headers if name == b"content-encoding"]
    # latin-1 decodes any byte that a header may hold.
    elements = [
        element.strip().lower() for element in b",".join(values).decode("latin-1").split(",")
    ]
    # RFC 9110, section 5.6.1: a recipient ignores empty list elements.
    codings = [element for element in elements if element not in {"", "identity"}]
    unknown = [coding for coding in codings if coding not in _CODINGS]
    if unknown:
        raise NoAnswerError(f"bad content encoding: {', '.join(unknown)} was not asked for")
    if len(codings) > MAX_CODINGS:
        raise NoAnswerError(f"bad content encoding: more than {MAX_CODINGS} codings of one body")
    return codings


def _inflated(body: bytes) -> bytes:
    """Decode ``deflate``: the zlib format (RFC 9110, section 8.4.1.2).

    Some servers send raw deflate data, without the zlib header.
    """
    try:
        return _decompressed(body, 0, zlib.MAX_WBITS, MAX_BODY)[0]
    except zlib.error:
        return _decompressed(body, 0, -zlib.MAX_WBITS, MAX_BODY)[0]


def _gunzipped(body: bytes) -> bytes:
    """Decode ``gzip``: all members, one after the other.

    Other bytes after the members are ignored, as gzip itself does.
    """
    result = bytearray()
    start = 0
    while start == 0 or body.startswith(_GZIP_MAGIC, start):
        part, start = _decompressed(body, start, zlib.MAX_WBITS | 16, MAX_BODY - len(result))
        result += part
    return bytes(result)


def _decompressed(body: bytes, start: int, wbits: int, max_length: int) -> tuple[bytes, int]:
    """Decompress the member at ``start``; return its data and where it ends.

    Raises EOFError if the member is cut off, and NoAnswerError if its data is longer than
    ``max_length`` bytes. The member is read in slices, because zlib copies all bytes after its end.
    """
    inflater = zlib.decompressobj(wbits)
    data = bytearray()
    while not inflater.eof:
        part = body[start : start + _COMPRESSED_SLICE]
        if not part:
            raise EOFError
        # Ask for one byte more than is allowed, to see whether the data is too long.
        data += inflater.decompress(part, max_length - len(data) + 1)
        if len(data) > max_length:
            raise NoAnswerError("body larger than 1 MiB", "too_large")
        start += len(part) - len(inflater.unused_data)
    return bytes(data), start
