"""Probes of services over HTTP: answers, failures, deadlines, TLS, and confirmations."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import resource
import socket
import ssl
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import trustme

from ops_worker.adapters import http
from ops_worker.adapters.http import exchange, observe
from ops_worker.catalogue import NO_HEADER
from ops_worker.core.model import Failure, Observation, Target, Tls
from tests.stubs import Behaviour, Stub, Stubs, healthy, raw, reply

pytestmark = pytest.mark.integration

MEBIBYTE = 1 << 20
"""Bytes of the largest body that is read."""

SHORT_S = 0.3
OBJECT = json.dumps({"counters": {"a": 1}})


def look(url: str, deadline_s: float = 5.0) -> Observation:
    """Probe one URL."""
    return observe([Target("ingest", f"{url}/health", "ingest", (), deadline_s=deadline_s)])[0]


ANSWERS = [
    (reply(OBJECT), 200, OBJECT.encode()),
    (reply(OBJECT, headers={"Content-Encoding": "identity"}), 200, OBJECT.encode()),
    (
        reply(gzip.compress(OBJECT.encode()), headers={"Content-Encoding": "GZIP"}),
        200,
        OBJECT.encode(),
    ),
    (
        reply(gzip.compress(OBJECT.encode()), headers={"Content-Encoding": "gzip"}),
        200,
        OBJECT.encode(),
    ),
    (
        reply(zlib.compress(OBJECT.encode()), headers={"Content-Encoding": "deflate"}),
        200,
        OBJECT.encode(),
    ),
    (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"), 200, b"{}"),
    (raw(b"HTTP/1.0 200 OK\r\nContent-Type: image/png\r\n\r\n{}"), 200, b"{}"),
    (
        raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        200,
        b"{}",
    ),
    (reply("x" * MEBIBYTE), 200, b"x" * MEBIBYTE),
    (reply("no", status="500 Internal Server Error"), 500, b""),
    (reply("", status="302 Found", headers={"Location": "http://127.0.0.1:1/"}), 302, b""),
    (reply("", status="204 No Content"), 204, b""),
    (raw(b"HTTP/1.1 503 No\r\nContent-Length: 99999999999\r\n\r\n"), 503, b""),
]


@pytest.mark.parametrize(("behaviour", "status", "body"), ANSWERS)
def test_observe(stub: Stub, behaviour: Behaviour, status: int, body: bytes) -> None:
    """Any form of an answer is read. The body is kept only for status 200."""
    stub.mode = behaviour
    begun = time.monotonic()
    observation = look(stub.url)
    assert (observation.http_status, observation.body, observation.failure) == (status, body, None)
    assert observation.latency_ms is not None
    assert 0 <= observation.latency_ms <= 1000 * (time.monotonic() - begun) + 1


BOMB = gzip.compress(gzip.compress(b"x" * (16 << 20)))
UNANSWERED = [
    (reply("x" * (MEBIBYTE + 1)), "body larger than 1 MiB"),
    (
        reply(gzip.compress(b"x" * (64 << 20)), headers={"Content-Encoding": "gzip"}),
        "body larger than 1 MiB",
    ),
    (reply("{}", headers={"Content-Encoding": "gzip"}), "bad content encoding: "),
    (reply(BOMB, headers={"Content-Encoding": "gzip, gzip"}), "body larger than 1 MiB"),
    (reply("x", headers={"Content-Encoding": "br"}), "bad content encoding: br was not asked for"),
    (raw(b""), "closed the connection without an answer"),
    (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "speaks SSH, not HTTP, on this port"),
    (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"),
        "closed the connection before the end of the body",
    ),
    (raw(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n{}"), "protocol error: "),
    (raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000), "protocol error: "),
    (raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), "protocol error: "),
]


@pytest.mark.parametrize(("behaviour", "error"), UNANSWERED)
def test_observe_bad(stub: Stub, behaviour: Behaviour, error: str) -> None:
    """A broken answer has its own reason."""
    stub.mode = behaviour
    observation = look(stub.url)
    assert (observation.http_status, observation.latency_ms, observation.failure) == (
        None,
        None,
        Failure.NO_ANSWER,
    )
    assert observation.error.startswith(error)


@pytest.mark.parametrize(
    ("mode", "failure", "error"),
    [
        ("down", Failure.NO_CONNECTION, "Connection refused"),
        ("reset", Failure.NO_ANSWER, "Connection reset by peer"),
        ("hang", Failure.NO_ANSWER, "timeout after 0.3 s"),
        ("dribble", Failure.NO_ANSWER, "timeout after 0.3 s"),
    ],
)
def test_observe_failure(stub: Stub, mode: str, failure: Failure, error: str) -> None:
    """A probe has one deadline for all its bytes. A refusal and a silence have other reasons."""
    stub.mode = mode
    # On a slow machine, a refusal or a reset may take longer than the short deadline.
    observation = look(stub.url, SHORT_S if "timeout" in error else 30)
    assert (observation.failure, observation.error) == (failure, error)


@pytest.mark.parametrize(
    ("url", "failure", "error"),
    [
        ("http://no-such-host.invalid", Failure.NO_CONNECTION, "name resolution failed: "),
        ("http://" + "a" * 64 + ".example", Failure.NO_CONNECTION, "name resolution failed: "),
        ("http://exa\u2100mple..", Failure.NO_ANSWER, "bad URL: "),
    ],
)
def test_observe_unreachable(url: str, failure: Failure, error: str) -> None:
    """An unresolved name is a failed connection. An invalid name is a bad URL."""
    observation = look(url)
    assert failure is observation.failure
    assert observation.error.startswith(error)


def test_observe_resolver_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that hangs delays only the probe of its name."""
    release = threading.Event()
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: (
            release.wait(60) if host == b"slow.example" else resolve(host, *a, **k)
        ),
    )
    well = Stub("evaluator")
    targets = [
        Target("slow", "http://slow.example/health", "slow", (), deadline_s=SHORT_S),
        Target("well", f"{well.url}/health", "well", (), deadline_s=20),
    ]
    slow, answered = observe(targets)
    assert not release.is_set(), "the resolver still hangs"
    assert (slow.failure, answered.http_status) == (Failure.NO_CONNECTION, 200)
    assert slow.error == "name resolution failed: no answer within 0.3 s"
    release.set()
    well.close()


def test_observe_tries_every_address(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe tries all addresses of a name. If all fail, the reason is the last error."""
    dead = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.9", 9))
    alive = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", stub.port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [dead, alive])
    assert look("http://two.example").http_status == 200
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [alive, dead])
    stub.mode = "down"
    assert look("http://two.example").error == "Connection refused"
    # An address family that this machine does not have.
    nowhere = (99, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [alive, nowhere])
    assert look("http://two.example").error == "Connection refused"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [nowhere])
    assert look("http://two.example").failure is Failure.NO_CONNECTION


def test_observe_is_concurrent() -> None:
    """All services are probed at the same time, and each observation belongs to its target."""
    stubs = [Stub(f"service-{n}") for n in range(8)]
    barrier = threading.Barrier(8)  # each service answers when all have a request
    for n, stub in enumerate(stubs):
        stub.mode = lambda stub, connection: (
            healthy(stub, connection) if barrier.wait(20) >= 0 else None
        )
        stub.counters = {"n": n}
    observations = observe(
        [Target(stub.name, f"{stub.url}/health", "", (), deadline_s=30) for stub in stubs]
    )
    assert [json.loads(observation.body)["counters"]["n"] for observation in observations] == list(
        range(8)
    )
    assert [observation.target.name for observation in observations] == [
        stub.name for stub in stubs
    ]
    assert all(observation.latency_ms is not None for observation in observations)
    for stub in stubs:
        stub.close()


def test_observe_nothing() -> None:
    """Without targets there are no observations."""
    assert observe([]) == []


def test_request(stub: Stub) -> None:
    """A request is HTTP/1.1, closes the connection, names the worker, and has the URL's login."""
    look(f"http://user:p%40ss@127.0.0.1:{stub.port}/base")
    lines = stub.requests[0].decode().split("\r\n")
    assert lines[0] == "GET /base/health HTTP/1.1"
    headers = {
        name.lower(): value
        for name, _, value in (line.partition(": ") for line in lines[1:] if line)
    }
    assert headers["authorization"] == "Basic dXNlcjpwQHNz"
    assert headers["connection"] == "close"
    assert headers["host"] == f"127.0.0.1:{stub.port}"
    assert headers["user-agent"].startswith("ops-worker/")


def test_proxies_are_ignored(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes ignore the proxies of the environment."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert look(stub.url).http_status == 200


def test_headers_of_a_service(stub: Stub) -> None:
    """A service's own headers are sent and replace those of the worker."""
    target = Target(
        "a",
        f"{stub.url}/health?full=1",
        "a",
        (),
        headers=(("X-Key", "k"), ("user-agent", "me"), ("Host", "other.example")),
    )
    assert observe([target])[0].http_status == 200
    lines = stub.requests[0].decode().split("\r\n")
    assert lines[0] == "GET /health?full=1 HTTP/1.1"
    headers = [tuple(line.lower().split(": ")) for line in lines[1:] if line]
    assert {("x-key", "k"), ("user-agent", "me"), ("host", "other.example")} <= {*headers}
    assert sum(name in {"user-agent", "host"} for name, _ in headers) == 2


def test_an_expected_status_is_read(stub: Stub) -> None:
    """The body of an answer is read if its status is expected."""
    stub.mode = reply(OBJECT, status="404 Not Found")
    assert (
        observe([Target("a", f"{stub.url}/health", "a", (), expect=(404,))])[0].body
        == OBJECT.encode()
    )
    stub.mode = "ok"
    assert observe([Target("a", f"{stub.url}/health", "a", (), expect=(404,))])[0].body == b""


def test_many(stub: Stub) -> None:
    """Exactly the allowed number of probes run at once, and each has its own answer."""
    barrier, count, under_way, most = threading.Barrier(5), threading.Lock(), 0, 0

    def answer(stub: Stub, connection: socket.socket) -> None:
        nonlocal under_way, most
        with count:
            under_way += 1
            most = max(most, under_way)
        barrier.wait(20)  # five requests are answered together
        with count:
            under_way -= 1
        healthy(stub, connection)

    stub.mode = answer
    targets = [Target(f"s{n}", f"{stub.url}/health", "", (), deadline_s=30) for n in range(20)]
    progress: list[int] = []
    observations = observe(targets, concurrency=5, on_progress=progress.append)
    assert [observation.target.name for observation in observations] == [
        target.name for target in targets
    ]
    assert ({observation.error for observation in observations}, most) == ({""}, 5)
    assert progress == list(range(1, 21))


def test_many_hang(stub: Stub) -> None:
    """Probes that hang run five at a time, and each takes only its own deadline."""
    stub.mode = "hang"
    targets = [Target(f"s{n}", f"{stub.url}/health", "", (), deadline_s=0.4) for n in range(20)]
    begun = time.monotonic()
    observations = observe(targets, concurrency=5)
    assert time.monotonic() - begun >= 4 * 0.4
    assert [observation.error for observation in observations] == ["timeout after 0.4 s"] * 20


def test_budget(stub: Stub) -> None:
    """A probe that cannot end in time does not begin. The skipped services vary."""
    stub.mode = "hang"
    targets = [Target(f"s{n}", f"{stub.url}/health", "", (), deadline_s=0.3) for n in range(30)]
    rounds = [
        {observation.target.name for observation in observe(targets, concurrency=5, budget_s=0.7)}
        for _ in range(3)
    ]
    assert all(5 <= len(names) <= 10 for names in rounds), (
        "the second five still fit, unless this machine is busy; the third never do"
    )
    assert len(set.union(*rounds)) > max(map(len, rounds))
    assert len(observe(targets, concurrency=5, budget_s=0.0)) == 5


def test_out_of_files(stub: Stub) -> None:
    """If this process is out of files, a service is not probed rather than down."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(descriptor.name) for descriptor in Path("/dev/fd").iterdir())
    descriptors: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
    try:
        with contextlib.suppress(OSError):  # until no file descriptor is free
            while True:
                descriptors.append(os.dup(2))
        for _ in range(3):  # for the selector and the pipe of the resolver
            os.close(descriptors.pop())
        observation = look(stub.url)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in descriptors:
            os.close(descriptor)
    assert (observation.failure, observation.error) == (
        Failure.NOT_PROBED,
        "this process is out of file descriptors (too many open files)",
    )


def test_names_are_resolved_once(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that share a host share its lookup."""
    hosts: list[bytes] = []
    resolve = socket.getaddrinfo

    def count(host: bytes, *arguments: Any, **options: Any) -> Any:
        hosts.append(host)
        return resolve("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", count)
    observations = observe(
        [Target(f"s{n}", f"http://one.example:{stub.port}/health", "", ()) for n in range(9)],
        concurrency=3,
    )
    assert [observation.http_status for observation in observations] == [200] * 9
    assert hosts == [b"one.example"]


def served(certificate: trustme.LeafCert) -> Stub:
    """Run a service with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return Stub("ingest", tls=context)


def test_tls(authority: trustme.CA) -> None:
    """A certificate of a trusted authority for the right name is accepted."""
    stub = served(authority.issue_cert("127.0.0.1"))
    assert look(stub.url).http_status == 200
    assert look(stub.url.replace("https", "HTTPS")).http_status == 200
    stub.close()


@pytest.mark.parametrize("case", ["wrong name", "unknown authority"])
def test_tls_bad(authority: trustme.CA, case: str) -> None:
    """A wrong certificate is a failed connection, with the reason of OpenSSL."""
    issuer = trustme.CA() if case == "unknown authority" else authority
    stub = served(issuer.issue_cert("other.example" if case == "wrong name" else "127.0.0.1"))
    observation = look(stub.url)
    assert observation.failure is Failure.NO_CONNECTION
    assert observation.error.startswith("TLS: certificate verify failed: ")
    stub.close()


def test_tls_of_a_service(tmp_path: Path) -> None:
    """A service's own authorities and client certificate are used."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "own.pem")
    client = authority.issue_cert("client.example")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    stub = Stub("ingest", tls=context)
    own, with_client = (
        Tls(f"{tmp_path}/own.pem"),
        Tls(f"{tmp_path}/own.pem", f"{tmp_path}/client.pem", f"{tmp_path}/client.key"),
    )
    observations = observe(
        [
            Target(str(n), f"{stub.url}/health", "", (), tls=tls)
            for n, tls in enumerate((own, with_client, Tls()))
        ]
    )
    assert [observation.http_status for observation in observations] == [None, 200, None]
    assert observations[2].error.startswith("TLS: certificate verify failed")
    stub.close()


LOCKED = b"""-----BEGIN ENCRYPTED PRIVATE KEY-----
MIH0MF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBCLPow7O5EccqVHKA6B
1hwSAgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQhK6s1wGAtP1YytB0
sO/s5ASBkP/KAte4dNvShsFexFdzZoROFi7YOSLc0hm6fCHrsZrTxlU7Nu0Nx86O
gM3Xf6h026bbEeEFzgxP+thRN3cr33/F/EG1NL2ydQnOKDgea/GfEEyxnIAg9FJA
hFrrQpmzXW9auAjyWlQEGnmVGUMZ4PT/gE5aGCe4XEzhv23JgkKFe4+9C1hEAchL
EzjreYRvnA==
-----END ENCRYPTED PRIVATE KEY-----
"""
PEM = {
    "junk": b"hush\n",
    "empty": b"",
    "damaged": b"-----BEGIN CERTIFICATE-----\nhush\n-----END CERTIFICATE-----\n",
    "locked": LOCKED,
}
UNUSABLE = [
    (("none", "", ""), "ca: {none} cannot be loaded: No such file or directory"),
    (("empty", "", ""), "ca: {empty} cannot be loaded: it holds no PEM certificate"),
    (("junk", "", ""), "ca: {junk} cannot be loaded: it holds no PEM certificate"),
    (("damaged", "", ""), "ca: {damaged} cannot be loaded: it holds no PEM certificate"),
    (
        ("own", "none", "key"),
        "certificate: {none} and key: {key} cannot be loaded: No such file or directory",
    ),
    (("own", "junk", "key"), "certificate: {junk} holds no PEM certificate"),
    (("own", "certificate", "junk"), "key: {junk} holds no PEM key"),
    (("own", "certificate", ""), "key: {certificate} holds no PEM key"),
    (
        ("own", "damaged", "key"),
        "certificate: {damaged} and key: {key} cannot be loaded: they are damaged",
    ),
    (("own", "certificate", "locked"), "key: {locked} has a password; use a key without one"),
    (
        ("own", "certificate", "other"),
        "certificate: {certificate} and key: {other} cannot be loaded: "
        "the key does not belong to the certificate",
    ),
]
"""Authorities, certificate and key, each a file of ``pem_files``, and the fault."""


@pytest.fixture(scope="module")
def pem_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write right and wrong files of a client's certificate. Return their paths by name."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    issued, another = (
        authority.issue_cert("client.example"),
        authority.issue_cert("another.example"),
    )
    contents = PEM | {
        "own": authority.cert_pem.bytes(),
        "certificate": issued.cert_chain_pems[0].bytes(),
        "key": issued.private_key_pem.bytes(),
        "other": another.private_key_pem.bytes(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in (*contents, "none")}


@pytest.mark.parametrize(("names", "fault"), UNUSABLE)
def test_tls_unusable(
    stub: Stub, pem_files: dict[str, str], names: tuple[str, ...], fault: str
) -> None:
    """An unusable file is a fault of the services that need it, and needs no probe to be found."""
    ca, certificate, key = (pem_files.get(name, "") for name in names)
    tls = Tls(ca, certificate, key)
    targets = [
        Target("a", "https://127.0.0.1:9/health", "a", (), tls=tls),
        Target("b", f"{stub.url}/health", "b", (), tls=tls),
    ]
    error = fault.format(**pem_files)
    broken, well = observe(targets)
    assert (broken.failure, broken.error, broken.target.faults) == (
        Failure.NO_ANSWER,
        error,
        (error,),
    )
    assert (well.http_status, well.target.faults) == (200, ())
    assert [*http.faults(targets)] == [("a", error)]


REFUSED = [
    (("X-Key", "hush "), f"headers.X-Key {NO_HEADER}"),
    (("X-Key", "hush\u00e9"), f"headers.X-Key {NO_HEADER}"),
    (("X-Key", "hush\r\nX: y"), f"headers.X-Key {NO_HEADER}"),
]


@pytest.mark.parametrize(("header", "fault"), REFUSED)
def test_header_refused(stub: Stub, header: tuple[str, str], fault: str) -> None:
    """A header with an invalid value is named without its value, and nothing is sent."""
    target = Target("a", f"{stub.url}/health", "a", (), headers=(("X-Fine", "fine"), header))
    (observation,) = http.confirm([target], times=3, delay_s=0.01, budget_s=40)
    assert (
        observation.failure,
        observation.error,
        observation.attempts,
        observation.target.faults,
    ) == (
        Failure.NO_ANSWER,
        fault,
        1,
        (fault,),
    )
    assert [*http.faults([target])] == [("a", fault)]
    assert stub.requests == []


def test_faults_of_the_catalogue(stub: Stub) -> None:
    """A service with faults of the catalogue is not probed, and all its faults are reported."""
    faults = ("headers.A: TOKEN is not set", "ca: /none cannot be read")
    target = Target("a", f"{stub.url}/health", "a", (), faults=faults)
    progress: list[int] = []
    observations = observe(
        [target, Target("b", f"{stub.url}/health", "b", ())], on_progress=progress.append
    )
    assert [(observation.failure, observation.error) for observation in observations] == [
        (Failure.NO_ANSWER, "; ".join(faults)),
        (None, ""),
    ]
    assert progress == [2] and len(stub.requests) == 1
    assert [*http.faults([target])] == [("a", fault) for fault in faults]


def test_tls_none() -> None:
    """A server without TLS is a failed connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n" * 20)
                connection.recv(65536)

        threading.Thread(target=greet, daemon=True).start()
        observation = look(f"https://127.0.0.1:{listener.getsockname()[1]}")
    assert observation.failure is Failure.NO_CONNECTION
    assert observation.error.startswith("TLS: ")


def test_tls_context(
    monkeypatch: pytest.MonkeyPatch, stub: Stub, pem_files: dict[str, str]
) -> None:
    """An unusable bundle is a fault only of https services without their own authorities."""
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    assert look(stub.url).http_status == 200
    own = Target("own", "https://127.0.0.1:9/health", "own", (), tls=Tls(pem_files["own"]))
    without, other = observe([Target("without", "https://127.0.0.1:9/health", "without", ()), own])
    assert (
        without.error == "SSL_CERT_FILE or SSL_CERT_DIR cannot be loaded: No such file or directory"
    )
    assert other.error == "Connection refused"


def test_a_fault_of_ours_stays_in_its_probe(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception in one probe is an error of that probe only."""

    def broken(*_: object) -> bytes:
        raise RuntimeError("oh no")

    monkeypatch.setattr(exchange, "_decoded", broken)
    assert re.fullmatch(
        r"internal error of ops-worker \(test_probes.py:\d+\)", look(stub.url).error
    )


def test_confirm_asks_again(stubs: Stubs) -> None:
    """A probe without an HTTP answer is repeated, and its second result counts."""
    stubs["ingest"].mode = "down"
    stubs["evaluator"].mode = "503"
    targets = [
        Target(name, f"{stubs[name].url}/health", name, ())
        for name in ("ingest", "evaluator", "dispatcher")
    ]
    threading.Timer(0.3, setattr, (stubs["ingest"], "mode", "ok")).start()
    observations = http.confirm(targets, times=1, delay_s=0.6, budget_s=40)
    assert [(observation.http_status, observation.attempts) for observation in observations] == [
        (200, 2),
        (503, 1),
        (200, 1),
    ]
    assert len(stubs["evaluator"].requests) == 1


@pytest.mark.parametrize(
    ("times", "budget_s", "attempts"), [(1, 40, 2), (3, 40, 4), (0, 40, 1), (1, 4, 1)]
)
def test_confirm_within_the_budget(
    stubs: Stubs, times: int, budget_s: float, attempts: int
) -> None:
    """A probe is repeated as often as allowed, or not at all without time for it."""
    stubs["ingest"].mode = "down"
    target = Target("ingest", f"{stubs['ingest'].url}/health", "ingest", ())
    (observation,) = http.confirm([target], times=times, delay_s=0.01, budget_s=budget_s)
    assert (observation.failure, observation.attempts) == (Failure.NO_CONNECTION, attempts)
