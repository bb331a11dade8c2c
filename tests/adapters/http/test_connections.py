"""Probes that only connect, days left of certificates, and headers that conditions name."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from ops_worker.adapters import http
from ops_worker.adapters.http import observe
from ops_worker.core import certificates
from ops_worker.core.health import judge
from ops_worker.core.model import Condition, Failure, Observation, State, Target, Tls
from tests.stubs import Behaviour, Stub, raw, reply

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SHORT_S = 0.3


def look(url: str, **more: Any) -> Observation:
    """Probe one URL."""
    return observe([Target("a", url, "a", (), **more)])[0]


def tls_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return the context of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@contextlib.contextmanager
def served(authority: trustme.CA, validity: timedelta = 90 * DAY) -> Iterator[Stub]:
    """Run an https server whose certificate is valid for this long."""
    end = datetime.now(UTC) + validity
    leaf = authority.issue_cert("127.0.0.1", not_before=end - 900 * DAY, not_after=end)
    stub = Stub("ingest", tls=tls_context(leaf))
    try:
        yield stub
    finally:
        stub.close()


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """Yield a port on which the system completes connections and nothing accepts them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_tcp(stub: Stub) -> None:
    """A tcp:// probe only connects: it sends nothing and waits for no answer."""
    with silent() as port:
        observation = look(f"tcp://127.0.0.1:{port}")
        assert (
            observation.failure,
            observation.error,
            observation.http_status,
            observation.body,
        ) == (None, "", None, b"")
        assert observation.latency_ms is not None and observation.latency_ms >= 0
        assert observation.certificate_days_left is None
        assert judge(observation).state is State.HEALTHY
    stub.mode = "hang"
    assert judge(look(stub.url.replace("http", "TCP"))).healthy
    assert b"".join(stub.requests) == b""


def test_tcp_over_ipv6() -> None:
    """An IPv6 address stands in brackets."""
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        except OSError:
            pytest.skip("this machine has no IPv6")
        assert judge(look(f"tcp://[::1]:{listener.getsockname()[1]}")).healthy


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
@pytest.mark.parametrize(
    ("host", "reason_class", "error"),
    [
        ("127.0.0.1", "refused", "Connection refused"),
        ("no-such-host.invalid", "name", "name resolution failed: "),
    ],
)
def test_unreachable(stub: Stub, scheme: str, host: str, reason_class: str, error: str) -> None:
    """Without a connection the service is down, with the same reasons as for other probes."""
    stub.mode = "down"
    observation = look(f"{scheme}://{host}:{stub.port}")
    assert (observation.failure, observation.reason_class) == (Failure.NO_CONNECTION, reason_class)
    assert observation.error.startswith(error)
    assert judge(observation).state is State.DOWN


def test_tls(authority: trustme.CA) -> None:
    """A tls:// probe makes the handshake, verifies the certificate, and sends nothing."""
    with served(authority) as stub:
        observation = look(stub.url.replace("https", "tls"))
        assert (observation.failure, observation.error, observation.certificate_days_left) == (
            None,
            "",
            None,
        )
        assert judge(observation).healthy
    assert b"".join(stub.requests) == b""


def test_tls_name(authority: trustme.CA) -> None:
    """The certificate must have the name of the URL, which is sent as SNI."""
    names: list[str | None] = []
    context = tls_context(authority.issue_cert("localhost"))
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    stub = Stub("ingest", tls=context)
    assert judge(look(f"tls://localhost:{stub.port}")).healthy
    observation = look(f"tls://127.0.0.1:{stub.port}")
    stub.close()
    assert names == ["localhost", None]
    assert observation.failure is Failure.NO_CONNECTION
    assert observation.error.startswith("TLS: certificate verify failed: ")


@pytest.mark.usefixtures("authority")
def test_tls_bad(stub: Stub) -> None:
    """An unknown authority, a port without TLS and a silent port have their own reasons."""
    with served(trustme.CA()) as other:
        observation = look(other.url.replace("https", "tls"))
        assert (observation.failure, observation.reason_class) == (Failure.NO_CONNECTION, "tls")
        assert observation.error.startswith("TLS: certificate verify failed: ")
        skipped = look(other.url.replace("https", "tls"), tls=Tls(skip_verify=True))
        assert judge(skipped).healthy
    stub.mode = raw(b"220 mail.example ESMTP\r\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.recv(65536)

        threading.Thread(target=greet, daemon=True).start()
        observation = look(f"tls://127.0.0.1:{listener.getsockname()[1]}")
    assert observation.error == "TLS: speaks no TLS on this port: use tcp://, or another port"
    assert (observation.failure, observation.reason_class) == (Failure.NO_CONNECTION, "tls")
    with silent() as port:
        observation = look(f"tls://127.0.0.1:{port}", deadline_s=SHORT_S)
    assert (observation.failure, observation.error) == (Failure.NO_ANSWER, "timeout after 0.3 s")


@pytest.mark.parametrize("scheme", ["https", "tls"])
@pytest.mark.parametrize(
    ("validity", "days", "reason"),
    [
        (14 * DAY + HOUR, 14, ""),
        (14 * DAY - HOUR, 13, "certificate expires in 13 days, wants at least 14 days left"),
        (2 * HOUR, 0, "certificate expires in less than a day, wants at least 14 days left"),
    ],
)
def test_certificate(
    authority: trustme.CA, scheme: str, validity: timedelta, days: int, reason: str
) -> None:
    """A service whose certificate ends too soon is degraded. The days left are recorded."""
    with served(authority, validity) as stub:
        observation = look(stub.url.replace("https", scheme), certificate_days=14)
        assert observation.certificate_days_left == days
        assert judge(observation).reason == reason
        assert look(stub.url.replace("https", scheme)).certificate_days_left is None


@pytest.mark.parametrize("scheme", ["https", "tls"])
def test_expired(authority: trustme.CA, scheme: str) -> None:
    """An expired certificate is a TLS failure. Without verification its days are negative."""
    with served(authority, -2 * DAY - HOUR) as stub:
        url = stub.url.replace("https", scheme)
        observation = look(url, certificate_days=0)
        assert observation.error == "TLS: certificate verify failed: certificate has expired"
        assert (observation.failure, observation.certificate_days_left) == (
            Failure.NO_CONNECTION,
            None,
        )
        observation = look(url, certificate_days=0, tls=Tls(skip_verify=True))
        assert observation.certificate_days_left == -3
        assert (
            judge(observation).reason
            == "certificate expired 2 days ago, wants at least 0 days left"
        )


def test_certificate_with_another_status(authority: trustme.CA) -> None:
    """The days left are known for any status of the answer."""
    with served(authority, 3 * DAY + HOUR) as stub:
        stub.mode = "503"
        observation = look(stub.url, certificate_days=14)
        assert (observation.http_status, observation.certificate_days_left) == (503, 3)


def test_certificate_over_redirects(authority: trustme.CA) -> None:
    """Of several certificates, the certificate that ends first counts."""
    with served(authority, 9 * DAY + HOUR) as first, served(authority, 30 * DAY) as second:
        for redirecting, final in ((first, second), (second, first)):
            final.mode = reply("{}")
            redirecting.mode = reply("", status="302 Found", headers={"Location": f"{final.url}/x"})
            observation = look(redirecting.url, certificate_days=5, redirects=1)
            assert (observation.http_status, observation.certificate_days_left) == (200, 9)


def test_unreadable_certificate(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate with an unreadable end is a TLS failure, not a good one."""
    monkeypatch.setattr(certificates, "_SEQUENCE", 0)
    with served(authority) as stub:
        observation = look(stub.url, certificate_days=14)
        assert (observation.failure, observation.error) == (
            Failure.NO_CONNECTION,
            "TLS: the end of the certificate cannot be read",
        )
        assert look(stub.url).http_status == 200


def test_faults() -> None:
    """A service with an unusable file or host has one fault, and is not probed."""
    targets = [
        Target("a", "tls://127.0.0.1:1", "a", (), tls=Tls(ca="/no/such/file")),
        Target("b", "tcp://127.0.0.1:1", "b", (), tls=Tls(ca="/no/such/file")),
        Target("c", f"tcp://{'ä' * 300}:1", "c", ()),
    ]
    assert [*http.faults(targets)] == [
        ("a", "ca: /no/such/file cannot be loaded: No such file or directory"),
        ("c", "bad URL: its host is no name or address, or it is too long"),
    ]
    assert judge(observe(targets)[2]).state is State.UNKNOWN


SECRET = "sesame-open-up"
HEADERS: list[tuple[Behaviour, str, str | None]] = [
    (reply("{}", headers={"X-Version": "1.2"}), "x-version", "1.2"),
    (reply("{}", headers={"ETag": ""}), "etag", ""),
    (reply("{}"), "x-version", None),
    (raw(b"HTTP/1.1 200 OK\r\nVary: a\r\nX: y\r\nvary: b\r\n\r\n{}"), "vary", "a, b"),
    (raw(b"HTTP/1.1 200 OK\r\nX-Name: gr\xfcn\r\n\r\n{}"), "x-name", "grün"),
    (reply("{}", headers={"X-Echo": f"got {SECRET}"}), "x-echo", "got ***"),
]


@pytest.mark.parametrize(("behaviour", "name", "value"), HEADERS)
def test_headers(stub: Stub, behaviour: Behaviour, name: str, value: str | None) -> None:
    """Only headers that conditions name are kept. Secrets of the service are starred in them."""
    stub.mode = behaviour
    conditions = (Condition(None, "equals", "x", name), Condition("/a", "absent", value=True))
    observation = look(stub.url, headers=(("X-Key", SECRET),), conditions=conditions)
    assert dict(observation.headers) == ({} if value is None else {name: value})
    assert SECRET not in judge(observation).reason
    assert dict(look(stub.url).headers) == {}


@pytest.mark.parametrize("secret", [SECRET, "12345678"])
def test_secret_in_a_text(stub: Stub, secret: str) -> None:
    """If a page sends a secret of the service back, the reason has stars for it."""
    stub.mode = reply(f"token {secret} refused")
    more: dict[str, Any] = {"headers": (("X-Key", secret),), "json": False}
    reason = judge(look(stub.url, conditions=(Condition(None, "equals", "OK"),), **more)).reason
    assert reason == 'body is "token *** refused", wants "OK"'


def test_no_socket_stays_open(stub: Stub) -> None:
    """Each connection is closed at the end of its probe."""
    closed = threading.Event()

    def wait(_: Stub, connection: socket.socket) -> None:
        if not connection.recv(1):
            closed.set()

    stub.mode = wait
    assert judge(look(stub.url.replace("http", "tcp"))).healthy
    assert closed.wait(30)
