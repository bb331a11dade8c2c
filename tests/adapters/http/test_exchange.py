"""One exchange: HTTP and TLS rules, the race of addresses, and the reasons of failures."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import re
import select
import socket
import ssl
import threading
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import h11
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops_worker.adapters.http import exchange, observe
from ops_worker.adapters.http.limits import own_limit
from ops_worker.adapters.http.reactor import SIGN
from ops_worker.adapters.http.reasons import Cause, UnreachableError, cause_of
from ops_worker.core.health import judge
from ops_worker.core.model import Failure, Observation, State, Target
from tests.stubs import Behaviour, Stub, raw, reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

pytestmark = pytest.mark.integration

MEBIBYTE = 1 << 20
"""Bytes of the largest body that is read."""

OBJECT = b'{"counters": {"a": 1}}'
HEAD = b"HTTP/1.1 200 OK\r\n"
INTERNAL_TEXT = re.compile(
    r"bytearray\(|\bb['\"]|<class|<Failure|h11|httpx|Expecting|_ssl\.c|\[SSL"
    r"|[A-Z][a-z]+(Error|Exception)\b|[A-Z]+_[A-Z]|state="
    r"|event type|0x[0-9a-f]{6}|Traceback"
)
"""Texts that no reason may contain: Python values, names of classes, states of libraries."""


def look(url: str, **more: Any) -> Observation:
    """Probe one URL."""
    return observe([Target("ingest", f"{url}/health", "ingest", (), **more)])[0]


def gz(data: bytes) -> bytes:
    """Compress with gzip."""
    return gzip.compress(data, mtime=0)


def raw_deflate(data: bytes) -> bytes:
    """Compress with deflate, without the header that HTTP requires."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


FORMS = [
    (HEAD + b"Content-Length: 2\r\n\r\n{}", 200, b"{}"),
    (HEAD + b"Content-Length: 2\r\n\r\n{}and more", 200, b"{}"),
    (HEAD + b"Content-Length: 2, 2\r\n\r\n{}", 200, b"{}"),
    (HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    (HEAD + b"\r\n{}", 200, b"{}"),
    (HEAD + b"X: folded\r\n over two lines\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    (HEAD + b"X: \xe4\xff\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    (
        HEAD + b"Transfer-Encoding: CHUNKED\r\nContent-Length: 9\r\n\r\n"
        b'2;name="v"\r\n{}\r\n0\r\nX-Trailer: y\r\n\r\n',
        200,
        b"{}",
    ),
    (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        + HEAD
        + b"Content-Length: 2\r\n\r\n{}",
        200,
        b"{}",
    ),
    (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    (b"HTTP/1.1 200 \xc3\xa4\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", 200, b"{}"),
    (b"HTTP/1.0 200 OK\r\n\r\n{}", 200, b"{}"),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
    (b"HTTP/1.1 600 Odd\r\n\r\n", 600, b""),
    (b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\nno chunk", 503, b""),
    (b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\nno chunk", 400, b""),
]


@pytest.mark.parametrize(("data", "status", "body"), FORMS)
def test_forms_of_an_answer(stub: Stub, data: bytes, status: int, body: bytes) -> None:
    """Every form of an answer that RFC 9112 allows or tolerates is read."""
    stub.mode = raw(data)
    observation = look(stub.url)
    assert (observation.http_status, observation.body, observation.failure, observation.error) == (
        status,
        body,
        None,
        "",
    )


CODINGS = [
    (["gzip"], gz(OBJECT)),
    (["x-gzip"], gz(OBJECT)),
    (["X-GZIP , identity"], gz(OBJECT)),
    ([", gzip,, "], gz(OBJECT)),
    (["identity", "gzip"], gz(OBJECT)),
    (["identity, identity"], OBJECT),
    ([""], OBJECT),
    (["gzip, deflate"], zlib.compress(gz(OBJECT))),
    (["gzip", "deflate"], zlib.compress(gz(OBJECT))),
    (["deflate"], zlib.compress(OBJECT)),
    (["deflate"], raw_deflate(OBJECT)),
    (["gzip"], gz(OBJECT[:5]) + gz(b"") + gz(OBJECT[5:])),
    (["gzip"], gz(OBJECT) + b"\0" * 512),
    (["gzip"], gz(OBJECT) + b"garbage"),
    (["gzip"], b""),
]


@pytest.mark.parametrize(("lines", "body"), CODINGS)
def test_content_codings(stub: Stub, lines: list[str], body: bytes) -> None:
    """Content codings are decoded in turn, from one or more headers.

    Upper and lower case are equal, and empty codings are ignored.
    """
    headers = "".join(f"Content-Encoding: {line}\r\n" for line in lines).encode()
    stub.mode = raw(HEAD + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    observation = look(stub.url)
    assert (observation.http_status, observation.body, observation.error) == (
        200,
        OBJECT if body else b"",
        "",
    )


def test_many_members(stub: Stub) -> None:
    """A body of very many gzip members is decoded without a copy of the rest for each member."""
    body = gz(b"") * (MEBIBYTE // len(gz(b"")))
    assert exchange._gunzipped(body) == b""
    stub.mode = reply(gz(b"x" * MEBIBYTE) + gz(b"x"), headers={"Content-Encoding": "gzip"})
    assert look(stub.url).error == "body larger than 1 MiB"


def coded(coding: str, body: bytes) -> Behaviour:
    """Answer with a body that claims this coding."""
    return reply(body, headers={"Content-Encoding": coding})


def in_two(first: bytes, second: bytes) -> Behaviour:
    """Send the answer in two parts, one after the other."""

    def behave(_: Stub, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(first)
        connection.sendall(second)

    return behave


HTTP2 = b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00\x03\x00\x00\x00\x64" * 3
REASONS = [
    (raw(b""), "closed the connection without an answer"),
    (raw(b"H"), "closed the connection before the end of its headers"),
    (raw(HEAD + b"X: y"), "closed the connection before the end of its headers"),
    (raw(b"HTTP/1.1 100 Continue\r\n\r\n"), "closed the connection before the end of its headers"),
    (
        raw(HEAD + b"Content-Length: 5\r\n\r\n{}"),
        "closed the connection before the end of the body",
    ),
    (
        raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}"),
        "closed the connection before the end of the body",
    ),
    (
        raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
        "closed the connection before the end of the body",
    ),
    (raw(b"\x15\x03\x01\x00\x02\x02\x46"), "speaks TLS on this port: use https://"),
    (raw(b"\x15\x03\x03\x00\x02\x02\x50"), "speaks TLS on this port: use https://"),
    (raw(HTTP2), "speaks HTTP/2, not HTTP/1.1, on this port"),
    (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "speaks SSH, not HTTP, on this port"),
    (raw(b"220 mail.example ESMTP\r\n"), "speaks no HTTP on this port"),
    (raw(b"-ERR unknown command\r\n"), "speaks no HTTP on this port"),
    (raw(b"ICY 200 OK\r\n\r\n"), "speaks no HTTP on this port"),
    (raw(b"HTTP/2 200\r\n\r\n"), "protocol error: bad status line"),
    (raw(b"HTTP/1.1 two OK\r\n\r\n"), "protocol error: bad status line"),
    (raw(b"HTTP/1.1 099 OK\r\n\r\n"), "protocol error: bad status line"),
    (raw(HEAD + b"no colon\r\n\r\n"), "protocol error: bad header line"),
    (raw(HEAD + b"X : y\r\n\r\n"), "protocol error: bad header line"),
    (raw(HEAD + b"X: a\0b\r\n\r\n"), "protocol error: bad header line"),
    (raw(HEAD + b" X: y\r\n\r\n"), "protocol error: bad header line"),
    (raw(HEAD + b"X: " + b"a" * 100_000), "protocol error: headers larger than 64 KiB"),
    (raw(HEAD + b"Content-Length: -1\r\n\r\n"), "protocol error: bad Content-Length header"),
    (
        raw(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        "protocol error: bad Content-Length header",
    ),
    (
        raw(HEAD + b"Transfer-Encoding: br\r\n\r\n{}"),
        "protocol error: unsupported Transfer-Encoding header",
    ),
    (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "protocol error: bad chunk"),
    (
        raw(b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n"),
        "protocol error: switched protocols (http 101) without being asked to",
    ),
    (coded("gzip", OBJECT), "bad content encoding: the body is not gzip, or it is damaged"),
    (coded("gzip", gz(OBJECT)[:-9]), "bad content encoding: the gzip body is cut off"),
    (
        coded("gzip", gz(OBJECT)[:-8] + b"\0" * 8),
        "bad content encoding: the body is not gzip, or it is damaged",
    ),
    (coded("gzip", gz(OBJECT) + gz(OBJECT)[:15]), "bad content encoding: the gzip body is cut off"),
    (
        coded("deflate", zlib.compress(OBJECT)[:-5]),
        "bad content encoding: the deflate body is cut off",
    ),
    (
        coded("deflate", b"\xff" * 20),
        "bad content encoding: the body is not deflate, or it is damaged",
    ),
    (coded("gzip, br", OBJECT), "bad content encoding: br was not asked for"),
    (
        coded(",".join(["gzip"] * 6), OBJECT),
        "bad content encoding: more than 5 codings of one body",
    ),
    (reply("OK"), "the body is text, not JSON (set json = false)"),
    (reply(""), "the body is empty, not JSON (set json = false)"),
    (reply("<html><title>Log in</title>"), "the body is HTML, not JSON (set json = false)"),
    (
        in_two(HEAD, b"Content-Length: 1\r\n\r\n["),
        "bad JSON: unexpected end at line 1 column 2",
    ),
    ("reset", "Connection reset by peer"),
]


@pytest.mark.parametrize(("behaviour", "reason"), REASONS)
def test_reasons(stub: Stub, behaviour: Behaviour | str, reason: str) -> None:
    """A service without a usable answer is unknown, with a reason that a user can search for."""
    stub.mode = behaviour
    observation = look(stub.url)
    verdict = judge(observation)
    assert (verdict.state, verdict.reason) == (State.UNKNOWN, reason)
    is_closed = reason.startswith("closed the connection")
    assert observation.cut_off is (is_closed or reason == "Connection reset by peer")
    assert not INTERNAL_TEXT.search(verdict.reason)


TO_TLS = [
    b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
    b"Client sent an HTTP request to an HTTPS server.\n",
    b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
]


@pytest.mark.parametrize("body", TO_TLS)
def test_plain_http_on_a_tls_port(stub: Stub, body: bytes) -> None:
    """A 400 that nginx, Go or Apache sends for plain HTTP on a TLS port has a hint."""
    stub.mode = reply(body, status="400 Bad Request")
    verdict = judge(look(stub.url))
    assert (verdict.state, verdict.reason) == (
        State.DEGRADED,
        "http 400: speaks TLS on this port: use https://",
    )
    stub.mode = reply("plain HTTP", status="404 Not Found")
    assert judge(look(stub.url)).reason == "http 404"
    stub.mode = reply("bad request", status="400 Bad Request")
    assert judge(look(stub.url)).reason == "http 400"
    stub.mode = reply(body, status="400 Bad Request")
    assert look(stub.url, expect=(400,)).body == body


def test_a_400_is_not_waited_for(stub: Stub) -> None:
    """The probe does not wait for the rest of an unexpected answer."""

    def behave(_: Stub, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: 99\r\n\r\n")
        connection.recv(1)  # until the client closes the connection

    stub.mode = behave
    assert judge(look(stub.url)).reason == "http 400"


BEGINNINGS = [b"", HEAD, HEAD + b"\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"\x16\x03"]


def test_no_reason_is_a_programs(stub: Stub) -> None:
    """No reason contains text of Python, a parser or OpenSSL, for any bytes of a service."""

    @settings(max_examples=150)
    @given(st.binary(max_size=200), st.sampled_from(BEGINNINGS))
    def send(data: bytes, begin: bytes) -> None:
        stub.mode = raw(begin + data)
        reason = judge(look(stub.url)).reason
        assert not INTERNAL_TEXT.search(reason), reason

    send()


def errors() -> list[Exception]:
    """Return an exception of every kind that the libraries of a probe raise."""
    exceptions: list[Exception] = [OSError(code, os.strerror(code)) for code in errno.errorcode]
    exceptions += [socket.gaierror(code, "x") for code in (-2, -3, -10)]
    exceptions += [
        OSError("[Errno x] <class>"),
        TimeoutError("timed out"),
        ssl.SSLEOFError(8, "EOF occurred (_ssl.c:997)"),
        ssl.SSLZeroReturnError(),
    ]
    exceptions += [
        ssl.SSLError(1, "[SSL] record layer failure (_ssl.c:1000)"),
        ssl.SSLSyscallError(5, "Some (_ssl.c:1)"),
    ]
    exceptions += [
        h11.RemoteProtocolError(
            "can't handle event type ConnectionClosed when role=SERVER and state=SEND_RESPONSE"
        )
    ]
    exceptions += [
        httpx.InvalidURL(f"Invalid {part}: 'http://user:secret@x'")
        for part in ("port", "IPv4 address", "IDNA hostname", "URL")
    ]
    exceptions += [
        ValueError("secret"),
        UnicodeError("secret"),
        KeyError("host"),
        RecursionError("secret"),
        MemoryError(),
        RuntimeError("b'x'"),
    ]
    return exceptions


@pytest.mark.parametrize("error", errors(), ids=repr)
def test_every_error_has_words(error: Exception) -> None:
    """No reason is the text or name of an exception, unless the system wrote it."""
    reason = cause_of(error, 5.0).reason
    assert reason
    assert not INTERNAL_TEXT.search(reason)
    assert "secret" not in reason


def test_openssl_words() -> None:
    """An OpenSSL error without our own words has OpenSSL's text, because users search for it."""
    error = ssl.SSLError(
        1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error (_ssl.c:997)"
    )
    error.reason = "TLSV1_ALERT_INTERNAL_ERROR"
    cause = (Failure.NO_CONNECTION, "TLS: tlsv1 alert internal error", "tls")
    assert cause_of(error, 5.0) == Cause(*cause)


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return the context of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


HOSTS = [
    ("name.example.", "name.example", "name.example", "name.example."),
    ("NAME.Example", "name.example", "name.example", "name.example"),
    (
        "m\u00fcnchen.example.",
        "xn--mnchen-3ya.example",
        "xn--mnchen-3ya.example",
        "xn--mnchen-3ya.example.",
    ),
    ("127.0.0.1", "127.0.0.1", None, "127.0.0.1"),
    ("[::1]", "::1", None, "[::1]"),
    ("[fe80::1%25lo]", "fe80::1", None, "[fe80::1]"),
]


@pytest.mark.parametrize(("host", "certified", "sni", "header"), HOSTS)
def test_names_in_tls(
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    certified: str,
    sni: str | None,
    header: str,
) -> None:
    """The certificate must match the name without final dot or zone. An address has no SNI."""
    server_names: list[str | None] = []
    context = context_of(authority.issue_cert(certified))
    context.sni_callback = lambda _socket, name, _context: server_names.append(name)
    stub = Stub("ingest", tls=context)
    names: list[bytes] = []

    def resolve(name: bytes, *_: object, **__: object) -> list[Any]:
        names.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", stub.port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    observation = look(f"https://{host}:{stub.port}")
    stub.close()
    assert (observation.http_status, observation.error, server_names) == (200, "", [sni])
    assert f"\r\nhost: {header}:{stub.port}\r\n" in stub.requests[0].decode().lower()
    resolved = {"[::1]": b"::1", "[fe80::1%25lo]": b"fe80::1%lo"}
    assert names[0] == resolved.get(host, host.lower().encode("idna"))


@pytest.mark.parametrize(
    ("newest", "reason"),
    [
        (
            ssl.TLSVersion.TLSv1_3,
            "TLS: the server requires a client certificate (tlsv13 alert certificate required)",
        ),
        (
            ssl.TLSVersion.TLSv1_2,
            "TLS: the server refused the handshake (sslv3 alert handshake failure): "
            "it requires a client certificate, or there is no common cipher",
        ),
    ],
)
def test_a_client_certificate_is_required(
    authority: trustme.CA, newest: ssl.TLSVersion, reason: str
) -> None:
    """A TLS failure is down, even if it comes after the handshake, as in TLS 1.3."""
    context = context_of(authority.issue_cert("127.0.0.1"))
    context.maximum_version = newest
    context.verify_mode = ssl.CERT_REQUIRED
    stub = Stub("ingest", tls=context)
    observation = look(stub.url)
    stub.close()
    assert (observation.failure, observation.error) == (Failure.NO_CONNECTION, reason)


def test_an_unknown_name(authority: trustme.CA) -> None:
    """A server that refuses the name in SNI is down, with OpenSSL's text."""
    context = context_of(authority.issue_cert("127.0.0.1"))
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    stub = Stub("ingest", tls=context)
    observation = look(stub.url.replace("127.0.0.1", "localhost"))
    stub.close()
    assert (observation.failure, observation.error) == (
        Failure.NO_CONNECTION,
        "TLS: tlsv1 unrecognized name",
    )


def test_no_close_notify(authority: trustme.CA) -> None:
    """A body that ends with the connection is complete even if TLS was not closed."""

    def behave(_: Stub, connection: socket.socket) -> None:
        connection.sendall(HEAD + b"\r\n" + OBJECT)
        connection.shutdown(socket.SHUT_RDWR)  # closes the socket below TLS

    stub = Stub("ingest", tls=context_of(authority.issue_cert("127.0.0.1")))
    stub.mode = behave
    observation = look(stub.url)
    stub.close()
    assert (observation.http_status, observation.body) == (200, OBJECT)


@pytest.mark.usefixtures("authority")
def test_tls_on_a_plain_port() -> None:
    """The reason for TLS on a plain HTTP port says that the port speaks no TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        observation = look(f"https://127.0.0.1:{listener.getsockname()[1]}")
    assert (observation.failure, observation.error) == (
        Failure.NO_CONNECTION,
        "TLS: speaks no TLS on this port: use http://, or another port",
    )


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_the_handshake_breaks_off(how: str) -> None:
    """A server that ends the connection during the handshake is a TLS failure too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                # If a part stays unread, the close becomes a reset.
                connection.recv(65536 if how == "closes" else 1)

        threading.Thread(target=answer, daemon=True).start()
        observation = look(f"https://127.0.0.1:{listener.getsockname()[1]}")
    words = "the server closed the connection" if how == "closes" else "Connection reset by peer"
    assert (observation.failure, observation.error) == (
        Failure.NO_CONNECTION,
        f"TLS: {words} during the handshake",
    )
    assert observation.cut_off


def test_a_server_that_does_not_read() -> None:
    """A failed send does not end the exchange, because the server may have sent an answer."""

    def fail(_: bytes) -> int:
        raise BrokenPipeError

    assert list(exchange._send(SimpleNamespace(send=fail), b"GET")) == []  # type: ignore[arg-type]


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(exchange, "time", SimpleNamespace(monotonic=lambda: self.now))


def address(port: int, family: int = socket.AF_INET) -> Any:
    """Return an entry as from getaddrinfo."""
    return (family, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))


@pytest.fixture
def refused() -> Iterator[int]:
    """Yield a port that is in use and refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def connected(fd: int) -> int:
    """Wait until a socket has connected or failed to connect."""
    assert select.select([], [fd], [], 30)[1]
    return fd


def resumed(steps: Any, fd: int) -> Any:
    """Resume an exchange with a socket that has connected or failed, past its sign of life."""
    assert steps.send(connected(fd)) is SIGN
    return next(steps)


def test_the_next_address_after_a_silence(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    """A silent address delays the next one by 0.25 s, which is no part of the latency."""
    clock = Clock(monkeypatch)
    steps: Any = exchange._connect([address(stub.port)] * 3)
    wait = next(steps)
    assert (len(wait.fds), wait.until) == (1, 100.25)
    clock.now = 100.2
    assert steps.send(None) == wait  # not yet
    clock.now = 100.25
    second = steps.send(None)
    assert (second.fds[0], len(second.fds), second.until) == (wait.fds[0], 2, 100.5)
    clock.now = 100.75
    third = steps.send(None)
    assert (len(third.fds), third.until) == (3, float("inf"))
    sockets = {fd: os.fstat(fd).st_ino for fd in third.fds}
    with pytest.raises(StopIteration) as stop:
        resumed(steps, second.fds[1])
    sock, begun = stop.value.value
    assert begun == 100.25
    assert sock.fileno() == second.fds[1]
    del sockets[sock.fileno()]
    for fd, inode in sockets.items():
        # Its number may already belong to another socket, for example of the stub.
        with contextlib.suppress(OSError):
            assert os.fstat(fd).st_ino != inode
    sock.close()


def test_the_next_address_after_a_refusal(
    monkeypatch: pytest.MonkeyPatch, stub: Stub, refused: int
) -> None:
    """After a refusal the next address is tried at once."""
    Clock(monkeypatch)
    steps: Any = exchange._connect([address(refused), address(stub.port)])
    wait = next(steps)
    wait = resumed(steps, wait.fds[0])
    assert len(wait.fds) == 1
    with pytest.raises(StopIteration) as stop:
        resumed(steps, wait.fds[0])
    stop.value.value[0].close()


def test_a_refusal_says_more_than_a_silence(
    monkeypatch: pytest.MonkeyPatch, stub: Stub, refused: int
) -> None:
    """If one address refuses and another one is silent, the reason is the refusal."""
    Clock(monkeypatch)
    steps: Any = exchange._connect([address(refused), address(stub.port)])
    wait = next(steps)
    resumed(steps, wait.fds[0])
    with pytest.raises(UnreachableError, match=r"^Connection refused$"):
        steps.throw(TimeoutError())
    steps = exchange._connect([address(stub.port)])
    next(steps)
    with pytest.raises(TimeoutError):
        steps.throw(TimeoutError())


def test_families_take_turns() -> None:
    """The address families are tried in turn, beginning with the system's first choice."""
    addresses = [address(n, family) for family, n in ((10, 1), (10, 2), (10, 3), (2, 4), (2, 5))]
    assert [entry[4][1] for entry in exchange._alternating(addresses)] == [1, 4, 2, 5, 3]


def test_a_dead_family_end_to_end(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    """If the first address of a name is silent, the second one answers before the deadline."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, socket.socket() as filler:
        filler.connect(silent.getsockname())  # Linux drops connections to a full queue
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda *_, **__: [address(silent.getsockname()[1]), address(stub.port)],
        )
        observation = look("http://two.example", deadline_s=60)
    assert observation.http_status == 200
    # Equal shares of the deadline would take half of it.
    assert observation.latency_ms is not None and observation.latency_ms < 15_000


def test_our_limit_hides_an_address(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """If a limit of this process prevents one address, a refusal of another proves nothing."""
    begin = exchange._begin

    def limited(*entry: Any) -> socket.socket:
        if entry[0] == socket.AF_INET6:
            raise OSError(errno.EMFILE, "x")
        return begin(*entry)

    monkeypatch.setattr(exchange, "_begin", limited)
    both = [address(refused), address(9, socket.AF_INET6)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert look("http://two.example").failure is Failure.NOT_PROBED


@pytest.mark.parametrize(
    ("has_source", "failure", "reason"),
    [
        (
            True,
            Failure.NOT_PROBED,
            "this machine is out of local ports (cannot assign requested address)",
        ),
        (False, Failure.NO_CONNECTION, "Network is unreachable"),
    ],
)
def test_no_port_or_no_address(
    monkeypatch: pytest.MonkeyPatch, has_source: bool, failure: Failure, reason: str
) -> None:
    """A machine without free ports and one without IPv6 have the same error, but two reasons."""

    class Socket(socket.socket):
        def connect_ex(self, _: Any, /) -> int:
            return 0 if self.type == socket.SOCK_DGRAM and has_source else errno.EADDRNOTAVAIL

    monkeypatch.setattr(socket, "socket", Socket)
    observation = look("http://127.0.0.1:9")
    assert (observation.failure, observation.error) == (failure, reason)


def test_names_of_limits() -> None:
    """A TLS error with the number of a process limit is not a process limit."""
    assert own_limit(OSError(errno.ENOMEM, "x")) and own_limit(MemoryError())
    assert not own_limit(ssl.SSLError(errno.ENOMEM, "x"))
    assert not own_limit(OSError("x")) and not own_limit(None)
