"""Signs of life, and stalls: a process that was not run while its probes were open."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.adapters.http import confirm, exchange, observe, reactor
from ops_worker.core.model import Failure, Observation, Target
from tests.stubs import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

DEADLINE_S = 2.0
STALL_S = 3.0


@pytest.fixture
def other() -> Iterator[Stub]:
    """Yield a second service."""
    running = Stub("evaluator")
    yield running
    running.close()


def target(stub: Stub, deadline_s: float = DEADLINE_S) -> Target:
    """Return the target of a stub."""
    return Target(stub.name, f"{stub.url}/health", "", (), deadline_s=deadline_s)


@pytest.mark.parametrize(
    ("mode", "sign"),
    [
        ("ok", True),
        ("503", True),
        ("down", True),
        ("reset", True),
        ("hang", True),
        ("bad-json", True),
    ],
)
def test_signs(stub: Stub, mode: str, sign: bool) -> None:
    """An answer, a refusal, a reset and a completed connection prove that packets come back."""
    stub.mode = mode
    (observation,) = observe([target(stub, 0.5)])
    assert observation.sign is sign


def _no_route(_: int, __: Any) -> socket.socket:
    raise OSError(113, "No route to host")


def test_no_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence, a missing route and an unresolved name are no sign of life."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, socket.socket() as filler:
        filler.connect(silent.getsockname())  # Linux drops connections to a full queue
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (observation,) = observe([Target("a", url, "", (), deadline_s=0.3)])
    assert (observation.reason_class, observation.sign) == ("timeout", False)
    (observation,) = observe([Target("a", "http://name.invalid", "", (), deadline_s=20)])
    assert (observation.reason_class, observation.sign) == ("name", False)
    monkeypatch.setattr(exchange, "_begin", _no_route)
    (observation,) = observe([Target("a", "http://127.0.0.1:9", "", ())])
    assert (observation.reason_class, observation.sign) == ("unreachable", False)


def test_a_refusal_at_once_is_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine, a refusal may come at the start of a connection."""

    def refuse(_: int, __: Any) -> socket.socket:
        raise OSError(111, "Connection refused")

    monkeypatch.setattr(exchange, "_begin", refuse)
    (observation,) = observe([Target("a", "http://127.0.0.1:9", "", ())])
    assert (observation.reason_class, observation.sign) == ("refused", True)


def test_a_sign_of_an_earlier_probe_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign of life of the first probe counts after its confirmation."""
    service = Target("a", "http://127.0.0.1:9", "", (), deadline_s=0.1)
    silent = Observation(service, 1.0, failure=Failure.NO_ANSWER, reason_class="timeout")
    rounds = iter([[silent._replace(sign=True)], [silent]])
    monkeypatch.setattr("ops_worker.adapters.http.observe", lambda *_, **__: next(rounds))
    (observation,) = confirm([service], times=1, delay_s=0)
    assert (observation.attempts, observation.sign) == (2, True)


def test_answers_that_wait_count(stub: Stub, other: Stub) -> None:
    """After a stall, an answer that waits in its socket is read; a probe without one is void."""
    stub.mode = "slow:1"
    other.mode = "hang"
    quick = Stub("dispatcher")

    def stall(count: int) -> None:
        """Block for longer than the deadline of the other probes."""
        if count == 1:
            time.sleep(STALL_S)

    try:
        observations = observe([target(quick, 60), target(stub), target(other)], on_progress=stall)
    finally:
        quick.close()
    assert [observation.http_status for observation in observations] == [200, 200, None]
    void = observations[2]
    assert (void.reason_class, void.sign) == ("timeout", True)
    assert void.stalled_s > STALL_S * 0.9


def test_no_stall(stub: Stub) -> None:
    """A service that hangs is no stall, because the process runs while it waits."""
    stub.mode = "hang"
    (observation,) = observe([target(stub, 1.0)])
    assert observation.reason_class == "timeout"
    assert observation.stalled_s < 0.5


class TestStalls:
    """The accounting of turns."""

    def test_turns(self) -> None:
        """A turn may take as long as its wait and a little longer."""
        stalls = reactor._Stalls()
        stalls.begin(100.0)
        assert not stalls.turn(100.25, 0.25)
        assert not stalls.turn(100.29, 0.0)
        assert not stalls.turn(100.30, 0.25)
        assert stalls.total_s == 0
        assert stalls.turn(103.0, 0.2)
        assert stalls.total_s == pytest.approx(2.5)
        stalls.turn(103.095, 0.0)
        assert stalls.total_s == pytest.approx(2.595)

    def test_drains(self) -> None:
        """Deadlines wait while answers are read, but only for a limited time."""
        stalls = reactor._Stalls()
        stalls.begin(100.0)
        assert not stalls.drains(100.0, busy=True)
        stalls.turn(105.0, 0.0)
        assert stalls.drains(105.0, busy=True)
        assert stalls.turn(105.5, 0.0)
        assert stalls.drains(105.9, busy=True)
        assert stalls.turn(106.1, 0.0)
        assert not stalls.drains(106.1, busy=True), "a service that sends without end"
        stalls.turn(110.0, 0.0)
        assert not stalls.drains(110.0, busy=False)
        assert not stalls.drains(110.1, busy=True), "the sockets were empty"


def test_a_stop_while_a_task_is_resumed(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop outside of the wait for sockets is a stall, too."""
    stub.mode = "hang"
    send = exchange._send

    def stopped(sock: socket.socket, data: bytes) -> Any:
        yield from send(sock, data)
        time.sleep(STALL_S)

    monkeypatch.setattr(exchange, "_send", stopped)
    (observation,) = observe([target(stub)])
    assert (observation.reason_class, observation.sign) == ("timeout", True)
    assert observation.stalled_s > STALL_S * 0.9
