"""The outbound heartbeat reports every pass and never hinders one."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

import pytest

from ops_worker.adapters.http.heartbeat import heartbeat
from ops_worker.cli import main
from tests.stubs import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database, Worker

pytestmark = pytest.mark.acceptance


@pytest.fixture
def listener() -> Iterator[Stub]:
    """Yield the receiver of the heartbeat."""
    stub = Stub("heartbeat")
    stub.counters = {}
    yield stub
    stub.close()


def paths(stub: Stub) -> list[str]:
    """Return the paths of the requests."""
    return [request.split()[1].decode() for request in stub.requests]


def test_start_and_result(worker: Worker, database: Database, listener: Stub) -> None:
    """A recorded pass sends start and success, a failed one start and fail, a dry run nothing."""
    url = f"{listener.url}/ping/s3cret"
    assert worker("health", "--dry-run", HEARTBEAT_URL=url).returncode == 0
    assert paths(listener) == []
    assert worker("health", HEARTBEAT_URL=f"{url}/").returncode == 0
    assert paths(listener) == ["/ping/s3cret/start", "/ping/s3cret"]
    database.rows("DROP TABLE system_metrics CASCADE")
    done = worker("metrics", HEARTBEAT_URL=url)
    assert done.returncode == 3
    assert paths(listener)[2:] == ["/ping/s3cret/start", "/ping/s3cret/fail"]
    assert "s3cret" not in done.stdout + done.stderr


def test_query(worker: Worker, listener: Stub) -> None:
    """The heartbeat extends the path of the URL and keeps its query."""
    assert (
        worker("health", HEARTBEAT_URL=f"{listener.url}/ping/s3cret/?create=1&a=/b\n").returncode
        == 0
    )
    assert paths(listener) == ["/ping/s3cret/start?create=1&a=/b", "/ping/s3cret?create=1&a=/b"]


@pytest.mark.parametrize(
    ("mode", "error"),
    [("down", "Connection refused"), ("503", "http 503"), ("hang", "timeout after 3 s")],
)
def test_failed_heartbeat(
    worker: Worker, database: Database, listener: Stub, mode: str, error: str
) -> None:
    """A failed heartbeat does not hinder the pass. The log has its error without the URL."""
    listener.mode = mode
    done = worker("health", HEARTBEAT_URL=f"{listener.url}/ping/s3cret")
    assert done.returncode == 0
    assert len(database.health()) == 4
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["error"] for line in lines if line.get("action") == "no heartbeat"] == [
        error,
        error,
    ]
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(("left_s", "count"), [(60.0, 2), (-1.0, 0)])
def test_never_later_than_the_pass_may_be(listener: Stub, left_s: float, count: int) -> None:
    """A pass that is recorded late sends no heartbeat, so that it meets its deadline."""
    with heartbeat(listener.url, time.monotonic() + left_s):
        pass
    assert len(listener.requests) == count


def test_ends_before_the_pass(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, listener: Stub
) -> None:
    """The heartbeat ends 1 s before PASS_DEADLINE, counted from the start of the command."""
    ends: list[float] = []

    def noted(url: str, end: float) -> contextlib.AbstractContextManager[None]:
        assert url == listener.url
        ends.append(end)
        return contextlib.nullcontext()

    monkeypatch.setattr("ops_worker.adapters.http.heartbeat.heartbeat", noted)
    for name, value in (
        worker.env | {"HEARTBEAT_URL": listener.url, "PASS_DEADLINE": "30"}
    ).items():
        monkeypatch.setenv(name, value)
    before = time.monotonic()
    assert main(["health"]) == 0
    assert before + 29 <= ends[0] <= time.monotonic() + 29


def test_bad_url(worker: Worker) -> None:
    """An invalid URL is a fault of the settings, and is not shown."""
    done = worker("health", HEARTBEAT_URL="ftp://s3cret")
    assert done.returncode == 2
    assert done.stderr == (
        "ops-worker health: HEARTBEAT_URL has an invalid value (not shown); "
        "expected an http:// or https:// URL\n"
    )
