"""The termination message: what `kubectl describe pod` will show."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.alertmanager import Inbox
from tests.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.alertmanager import Received
    from tests.conftest import Database, Worker
    from tests.stubs import Stubs

pytestmark = pytest.mark.acceptance


def message_in(path: Path) -> dict[str, Any]:
    """Return the message. Assert that it is one line of less than 4 KiB."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 4096
    assert "\n" not in text
    content: dict[str, Any] = json.loads(text)
    return content


@pytest.fixture
def path(worker: Worker, tmp_path: Path) -> Path:
    """Set the path of the termination message."""
    worker.env["TERMINATION_MESSAGE_PATH"] = str(tmp_path / "termination-log")
    worker.env["JOB_NAME"] = "ops-worker-health-29400000"
    return tmp_path / "termination-log"


def test_done(worker: Worker, stubs: Stubs, path: Path) -> None:
    """A pass writes its counts and the unhealthy services."""
    stubs["ingest"].mode = "503"
    assert worker("health", "--fail-on-unhealthy").returncode == 4
    message = message_in(path)
    assert message.pop("summary").startswith(
        "health: 4 services, 3 healthy, 1 degraded; 1 alert opened: ingest ("
    )
    assert message == {
        "pass": "health",
        "result": "recorded",
        "exit_code": 4,
        "job": "ops-worker-health-29400000",
        "blind": False,
        "confirmed": 0,
        "unhealthy": {"ingest": "http 503"},
    }


@pytest.mark.parametrize(
    ("env", "code", "error"),
    [
        (
            {"PASS_DEADLINE": "soon"},
            2,
            "PASS_DEADLINE is 'soon'; expected a number of seconds, 6 to 86400",
        ),
        (
            {"DATABASE_URL": "postgresql://iot:x@127.0.0.1:1/iot"},
            1,
            "no connection to database 127.0.0.1:1/iot as iot: ",
        ),
    ],
)
def test_failed(worker: Worker, path: Path, env: dict[str, str], code: int, error: str) -> None:
    """A failed pass writes its reason and its exit code."""
    assert worker("metrics", **env).returncode == code
    message = message_in(path)
    assert message["error"].startswith(error)
    expected = {
        "pass": "metrics",
        "result": "failed",
        "exit_code": code,
        "job": "ops-worker-health-29400000",
    }
    assert {key: value for key, value in message.items() if key != "error"} == expected


def test_loop_leaves_its_worst(
    worker: Worker, database: Database, path: Path, stubs: Stubs
) -> None:
    """A loop ends with the exit code and the message of its worst pass."""
    worker("init-db")
    stubs["ingest"].mode = "503"
    statement = "SELECT count(*) FROM service_health WHERE service = 'ingest' AND status = %s"
    with worker.start("health", "--every", "0.5", "--fail-on-unhealthy", "--for", "8") as process:
        for status in ("unhealthy", "healthy"):
            end = time.monotonic() + 60
            while not database.value(statement, status):
                assert time.monotonic() < end
                time.sleep(0.05)
            stubs["ingest"].mode = "ok"
        assert process.wait(60) == 4
    assert message_in(path)["unhealthy"] == {"ingest": "http 503"}


def test_loop_stopped_before_its_end(worker: Worker, database: Database, path: Path) -> None:
    """A Job that is stopped before the end of --for has failed, and its message says so."""
    worker("init-db")
    with worker.start("metrics", "--every", "3600", "--for", "7200") as process:
        end = time.monotonic() + 60
        while not database.samples():
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
    assert message_in(path)["exit_code"] == 1
    assert message_in(path)["error"].startswith("stopped by a signal before the end of --for")


def test_cannot_be_written(worker: Worker, database: Database) -> None:
    """A message that cannot be written is a warning: the pass is done."""
    done = worker("health", TERMINATION_MESSAGE_PATH="/nowhere/at/all")
    assert done.returncode == 0
    assert '"action": "no termination message"' in done.stderr
    assert len(database.health()) == 4


def test_database_is_asked_again(worker: Worker, database: Database) -> None:
    """A pass tries again if the database does not answer in the first second of a pod."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    address = urlsplit(database.url)
    url = urlunsplit(
        address._replace(netloc=address.netloc.replace(f":{address.port}", f":{port}"))
    )
    assert "Connection refused" in worker("health", DATABASE_URL=url, CONFIRM_FAILURES="0").stderr
    late = threading.Timer(1.0, lambda: Proxy(address.port or 0, lambda *_: "", own=port))
    late.start()
    done = worker("health", DATABASE_URL=url, CONFIRM_FAILURES="5", CONFIRM_DELAY="0.5")
    assert (done.returncode, done.stderr) == (0, "")


def test_confirmed_in_the_summary(worker: Worker, stubs: Stubs) -> None:
    """The closing line says how many services were probed again, and how many were confirmed."""
    stubs["ingest"].mode = "down"
    done = worker("health", CONFIRM_FAILURES="1", CONFIRM_DELAY="0.1")
    assert "1 down; 1 probed again, 1 confirmed; 1 alert opened: ingest" in done.stdout


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("--fail-on-unhealthy",), 4)])
def test_signal_after_the_pass(
    worker: Worker, stubs: Stubs, path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """A signal during the post of alerts does not change the result: the pass is recorded."""
    stubs["ingest"].mode = "503"
    posting = threading.Event()
    ended = threading.Event()

    def hang(_: Received) -> None:
        posting.set()
        ended.wait(60)

    with Inbox() as inbox:
        inbox.before = hang
        with worker.start("health", *arguments, ALERTMANAGER_URL=inbox.url) as process:
            assert posting.wait(60)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        ended.set()
    assert (process.returncode, err.count("stopped by")) == (code, 0), err
    assert out.startswith("health: 4 services, 3 healthy, 1 degraded; 1 alert opened: ingest")
    assert (message_in(path)["result"], message_in(path)["exit_code"]) == ("recorded", code)
