"""`ops-worker status --watch` as a process: it runs until a signal ends it."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.postgres import Postgres, load_platform

if TYPE_CHECKING:
    from tests.conftest import Database, Running, Worker

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch(worker: Worker, number: signal.Signals) -> None:
    """The watch prints one document after the other, with new rows, and ends at a signal."""
    with worker.start("status", "--watch", "1", "--output", "json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["services"] == []
        assert worker("health").returncode == 0
        end = time.monotonic() + 60
        while not json.loads(process.stdout.readline())["services"]:
            assert time.monotonic() < end
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-number, "")


def documents(process: Running, key: str) -> dict[str, Any]:
    """Read documents up to the first one that has this key, and return it."""
    assert process.stdout is not None
    end = time.monotonic() + 50
    while time.monotonic() < end:
        document: dict[str, Any] = json.loads(process.stdout.readline())
        if key in document:
            return document
    raise AssertionError(f"no document with {key}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_lost_connection(
    worker: Worker, database: Database, dsn: str, number: signal.Signals
) -> None:
    """Without a connection the watch prints the error and the age of its last document."""
    name = database.value("SELECT current_database()::text")
    with (
        psycopg.connect(dsn, autocommit=True) as server,
        worker.start("status", "--watch", "1", "--output", "json") as process,
    ):
        first = documents(process, "services")
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        lost = documents(process, "error")
        assert (
            "is not currently accepting connections" in lost["error"] and lost["at"] >= first["at"]
        )
        later = documents(process, "error")
        assert later["age_s"] > lost["age_s"] > 0 and later["at"] == lost["at"]
        if number == signal.SIGINT:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
            assert documents(process, "services")["at"] > lost["at"]
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (-number, "")
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


def test_never_connected(worker: Worker) -> None:
    """The watch ends if the first connection fails: the settings are probably wrong."""
    done = worker("status", "--watch", "1", DATABASE_URL="postgresql://a:b@127.0.0.1:9/d")
    assert done.returncode == 1 and "check that it runs" in done.stderr


def test_failover(worker: Worker) -> None:
    """The watch continues with a standby, reports the loss of all servers, and then resumes."""
    with Postgres() as primary:
        load_platform(primary.url())
        with primary.standby() as standby:
            url = primary.url().replace(
                f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/"
            )
            with worker.start(
                "status", "--watch", "1", "--output", "json", DATABASE_URL=url
            ) as process:
                first = documents(process, "services")
                primary.stop()
                while (document := documents(process, "services"))["at"] <= first["at"]:
                    pass
                standby.stop()
                assert documents(process, "error")["at"] >= document["at"]
                standby.start()
                assert documents(process, "services")["at"] > document["at"]
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGINT, "")
