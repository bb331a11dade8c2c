"""Many exchanges at once: limits of this process, and a resolver that hangs."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import selectors
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.adapters import http
from ops_worker.adapters.http import exchange, limits, observe, reactor
from ops_worker.core.model import Failure, Observation, Target, Tls
from tests.bench.tools import fast_server, urls
from tests.stubs import Stub, healthy

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

FILES = "this process is out of file descriptors (too many open files)"
SHORT_S = 0.3
ROOT = Path(__file__).parents[3]


@pytest.fixture
def port() -> Iterator[int]:
    """Yield the port of a server in another process, which has its own file descriptors."""
    with fast_server() as server_port:
        yield server_port


def a_hundred(port: int) -> list[Target]:
    """Return a hundred services of one server."""
    return [Target(f"s{n}", f"{url}/health", "", ()) for n, url in enumerate(urls(100, port))]


def run_alone(name: str, port: int) -> None:
    """Run a function of this module in a process where no other thread opens or closes files."""
    code = f"from tests.adapters.http import test_reactor; test_reactor.{name}({port})"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr


@contextlib.contextmanager
def files(free: int) -> Iterator[None]:
    """Leave this number of file descriptors free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(descriptor.name) for descriptor in Path("/dev/fd").iterdir())
    descriptors = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + free + 2, hard))
    try:
        with contextlib.suppress(OSError):  # until no file descriptor is free
            while True:
                descriptors.append(os.dup(descriptors[0]))
        for _ in range(free):
            os.close(descriptors.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in descriptors:
            os.close(descriptor)


def probe_with_few_files(port: int) -> None:
    """Probe more services than there are files. Assert that no probe meets the limit."""
    results: list[Any] = []
    own_limit = limits.own_limit

    def watched(result: object) -> str:
        results.append(result)
        return own_limit(result)

    reactor.own_limit = watched  # type: ignore[attr-defined]
    with files(30):
        assert 6 <= http.fitting(128) <= 9, "three for each"
        observations = observe(a_hundred(port))
    assert [observation.http_status for observation in observations] == [200] * 100
    assert results
    assert not [result for result in results if own_limit(result)]


def test_fewer_at_once(port: int) -> None:
    """With few file descriptors, fewer probes run at once, and no probe meets the limit."""
    run_alone("probe_with_few_files", port)


@pytest.mark.parametrize(
    ("limit", "requested", "fits"),
    [(-1, 128, 128), (10_000, 128, 128), (10_000, 1000, 1000), (3, 128, 1)],
)
def test_fitting(monkeypatch: pytest.MonkeyPatch, limit: int, requested: int, fits: int) -> None:
    """The requested number of probes run at once, or as many as files allow, at least one."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert limits.fitting(requested) == fits


@pytest.mark.parametrize(("code", "fits"), [(errno.EMFILE, 1), (errno.ENOENT, 29)])
def test_fitting_without_a_count(monkeypatch: pytest.MonkeyPatch, code: int, fits: int) -> None:
    """If open files cannot be counted, only one probe runs, or the usual number is assumed."""

    def fail(_: str) -> list[str]:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "listdir", fail)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    assert limits.fitting(128) == fits


def probe_at_the_limit(port: int) -> None:
    """Probe more services at once than there are file descriptors."""
    http.fitting = lambda concurrency: concurrency
    with files(12):
        observations = observe(a_hundred(port))
    assert [observation.http_status for observation in observations] == [200] * 100


def test_a_limit_on_the_way(port: int) -> None:
    """A probe that meets a limit is repeated when others have ended, and succeeds."""
    run_alone("probe_at_the_limit", port)


def test_a_limit_that_passes(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that was met once does not slow a long round: each probe that ends adds one."""
    begin = exchange._begin
    attempts: list[int] = []
    at_once: list[int] = []
    go_on = reactor.Reactor._start

    def limited(*entry: Any) -> socket.socket:
        attempts.append(1)
        if len(attempts) == 2:
            raise OSError(errno.ENOBUFS, "x")
        return begin(*entry)

    def watched(self: Any, job: Any, ended: Any) -> None:
        at_once.append(self._concurrency)
        go_on(self, job, ended)

    monkeypatch.setattr(exchange, "_begin", limited)
    monkeypatch.setattr(reactor.Reactor, "_start", watched)
    observations = observe(a_hundred(port), concurrency=20)
    assert [observation.http_status for observation in observations] == [200] * 100
    assert at_once[2] == 2  # one probe was open, and has ended
    assert at_once[-1] == 20 and len(at_once) == 101


def test_no_time_to_try_again(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that met a limit and has no time for another attempt was not probed."""
    begin = exchange._begin
    attempts: list[int] = []

    def limited(*entry: Any) -> socket.socket:
        attempts.append(entry[1][1])
        if len(attempts) == 2:
            raise OSError(errno.ENOBUFS, "x")
        return begin(*entry)

    monkeypatch.setattr(exchange, "_begin", limited)
    stub.mode = "hang"
    targets = [Target(f"s{n}", f"{stub.url}/health", "", (), deadline_s=SHORT_S) for n in range(2)]
    observations = observe(targets, budget_s=0.0)
    assert [(observation.failure, observation.error) for observation in observations] == [
        (Failure.NO_ANSWER, "timeout after 0.3 s"),
        (
            Failure.NOT_PROBED,
            "this machine is out of memory for sockets (no buffer space available)",
        ),
    ]
    assert len(attempts) == 2


@pytest.mark.parametrize("factory", ["selector", "socketpair"])
def test_nothing_can_be_probed(stub: Stub, monkeypatch: pytest.MonkeyPatch, factory: str) -> None:
    """If the selector cannot be created, no service was probed. Other errors are raised."""
    code = errno.EMFILE

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(
        *((selectors, "DefaultSelector") if factory == "selector" else (socket, "socketpair")), fail
    )
    targets = [Target(name, f"{stub.url}/health", "", ()) for name in "ab"]
    assert [
        (observation.target.name, observation.failure, observation.error)
        for observation in observe(targets)
    ] == [
        ("a", Failure.NOT_PROBED, FILES),
        ("b", Failure.NOT_PROBED, FILES),
    ]
    code = errno.EPERM
    with pytest.raises(PermissionError):
        observe(targets)


def test_no_watch_for_a_socket(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that does not fit into the selector is a limit of this process, and is closed."""
    register = selectors.DefaultSelector.register

    def limited(self: Any, fd: Any, events: int, data: Any = None) -> Any:
        if isinstance(data, tuple):
            raise OSError(errno.ENOSPC, "x")
        return register(self, fd, events, data)

    monkeypatch.setattr(selectors.DefaultSelector, "register", limited)
    (observation,) = observe([Target("a", f"{stub.url}/health", "", ())])
    assert observation.failure is Failure.NOT_PROBED


def test_out_of_memory(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe without memory says nothing about its service."""

    def exhausted(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(exchange, "_decoded", exhausted)
    (observation,) = observe([Target("a", f"{stub.url}/health", "", ())])
    assert (observation.failure, observation.error) == (
        Failure.NOT_PROBED,
        "this process is out of memory",
    )


def test_confirm_without_files(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirmation skips services that were not probed, and ignores probes that met a limit."""
    answers = [
        {"a": Failure.NO_CONNECTION, "b": Failure.NOT_PROBED, "c": Failure.NO_ANSWER},
        {"a": Failure.NOT_PROBED, "c": Failure.NO_CONNECTION},
    ]

    def answered(targets: list[Target], **_: object) -> list[Observation]:
        failures = answers.pop(0)
        assert [target.name for target in targets] == [*failures]
        return [Observation(target, 0.0, failure=failures[target.name]) for target in targets]

    monkeypatch.setattr(http, "observe", answered)
    targets = [Target(name, f"{stub.url}/health", "", ()) for name in "abc"]
    observations = http.confirm(targets, times=1, delay_s=0.0)
    assert [(observation.failure, observation.attempts) for observation in observations] == [
        (Failure.NO_CONNECTION, 1),
        (Failure.NOT_PROBED, 1),
        (Failure.NO_CONNECTION, 2),
    ]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the resolver. The new resolver hangs for names that begin with "hang"."""
    release = threading.Event()

    def resolve(host: bytes, port: int, **options: Any) -> Any:
        if host.startswith(b"hang"):
            release.wait(60)
        return RESOLVE("127.0.0.1", port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield
    release.set()


RESOLVE = socket.getaddrinfo


def target_of(host: str, port: int) -> Target:
    """Return a target, with a short deadline if its name hangs."""
    return Target(
        host,
        f"http://{host}:{port}/health",
        "",
        (),
        deadline_s=SHORT_S if host.startswith("h") else 30,
    )


@pytest.mark.usefixtures("hanging")
def test_the_resolver_hangs(stub: Stub) -> None:
    """A name that is not resolved in time is down. Other services do not wait for it."""
    hosts = ["hang1.example", "127.0.0.1", "hang2.example", "well.example"]
    observations = observe([target_of(host, stub.port) for host in hosts])
    assert [observation.http_status for observation in observations] == [None, 200, None, 200]
    for observation in (observations[0], observations[2]):
        assert (observation.failure, observation.error) == (
            Failure.NO_CONNECTION,
            "name resolution failed: no answer within 0.3 s",
        )


@pytest.mark.usefixtures("hanging")
def test_a_name_behind_others(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that never got a free thread says nothing about its service."""
    monkeypatch.setattr(reactor, "MAX_RESOLVERS", 1)
    hosts = ["hang1.example", "127.0.0.1", "hung.example"]
    observations = observe([target_of(host, stub.port) for host in hosts])
    assert [observation.failure for observation in observations] == [
        Failure.NO_CONNECTION,
        None,
        Failure.NOT_PROBED,
    ]
    assert (
        observations[2].error
        == "no thread was free to resolve its name: all of them hang on other names"
    )


def test_no_thread(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can start, names are not resolved. Addresses are still probed."""
    start = threading.Thread.start

    def fail(self: threading.Thread) -> None:
        if self.name == "resolver":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", fail)
    hosts = ["localhost", "127.0.0.1"]
    observations = observe(
        [Target(host, f"http://{host}:{stub.port}/health", "", ()) for host in hosts]
    )
    assert [observation.failure for observation in observations] == [Failure.NOT_PROBED, None]
    assert "can't start new thread" in observations[0].error


def test_one_thread_sees_to_all(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """If only the first thread can start, it also resolves the names of the others."""
    start = threading.Thread.start
    started: list[threading.Thread] = []
    second = threading.Event()

    def first_only(self: threading.Thread) -> None:
        if self.name != "resolver":
            start(self)
        elif started:
            second.set()
            raise RuntimeError("can't start new thread")
        else:
            started.append(self)
            start(self)

    def resolve(_: bytes, port: int, **options: Any) -> Any:
        assert second.wait(30)  # the first thread works until the second one has failed
        return RESOLVE("127.0.0.1", port, **options)

    monkeypatch.setattr(threading.Thread, "start", first_only)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    hosts = ["one.example", "two.example"]
    observations = observe(
        [Target(host, f"http://{host}:{stub.port}/health", "", ()) for host in hosts]
    )
    assert [observation.http_status for observation in observations] == [200, 200]


def test_a_resolver_without_files(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system's resolver fails for lack of files, the name is resolved again."""
    limit = OSError(errno.EMFILE, "x")
    limited: list[object] = []
    put_back = threading.Event()
    hosts: list[bytes] = []

    def resolve(host: bytes, port: int, **options: Any) -> Any:
        hosts.append(host)
        if len(hosts) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return RESOLVE("127.0.0.1", port, **options)

    def watched(result: object) -> str:
        if result is limit:
            limited.append(result)
        # One limit of the name, and one of the probe, while the other probe is open.
        if len(limited) == 2:
            put_back.set()
        return limits.own_limit(result)

    def behave(stub: Stub, connection: socket.socket) -> None:
        assert put_back.wait(30)
        healthy(stub, connection)

    numeric = Target("a", f"http://127.0.0.1:{stub.port}/health", "", (), deadline_s=30)
    monkeypatch.setattr(
        exchange, "_numeric", lambda host, port: RESOLVE(host, port) if host == b"127.0.0.1" else ()
    )
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(reactor, "no_descriptor", lambda: limit)
    monkeypatch.setattr(reactor, "own_limit", watched)
    stub.mode = behave
    observations = observe([numeric, Target("b", f"http://one.example:{stub.port}/health", "", ())])
    assert [observation.http_status for observation in observations] == [200, 200]
    assert hosts == [b"one.example"] * 2


def test_what_the_resolver_says() -> None:
    """A failure of the resolver is a failure of the name, except for limits of this process."""
    for error, failure, reason in (
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            Failure.NO_CONNECTION,
            "Name or service not known",
        ),
        (OSError(errno.ECONNREFUSED, "x"), Failure.NO_CONNECTION, "Connection refused"),
        (socket.gaierror(socket.EAI_MEMORY, "x"), Failure.NOT_PROBED, "out of memory"),
        (OSError(errno.EMFILE, "x"), Failure.NOT_PROBED, "too many open files"),
    ):
        steps: Any = exchange._resolved(b"x", 80, 5.0)
        next(steps)
        with pytest.raises(Exception, match=r".") as raised:
            steps.throw(error)
        observation = exchange.failed(Target("a", "http://x/", "", ()), raised.value)
        assert observation.failure is failure
        assert reason in observation.error


def test_no_descriptor() -> None:
    """The function returns an error if no file descriptor is free."""
    assert limits.no_descriptor() is None
    with files(0):
        error = limits.no_descriptor()
    assert error is not None and error.errno == errno.EMFILE


def test_no_file_for_certificates(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a certificate's file cannot be opened for lack of files, the service is not at fault."""

    def fail(**_: object) -> None:
        raise OSError(errno.EMFILE, "x")

    monkeypatch.setattr(ssl, "create_default_context", fail)
    target = Target(
        "a", stub.url.replace("http:", "https:") + "/health", "", (), tls=Tls("/some.pem")
    )
    assert [observation.failure for observation in observe([target])] == [Failure.NOT_PROBED]
