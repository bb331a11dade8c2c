"""A loop keeps its cadence and loses no sample when the database fails.

The times are short, for CI. With OPS_TEST_FULL=1 the database is away for 90 s, other faults last
40 s, and the loop monitors 100 services of 200 counters.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.test_loop import SLOTS, ended, logged, skipped
from tests.conftest import Database
from tests.kubernetes_api import QuietServer
from tests.postgres import Postgres, load_platform
from tests.proxy import Switchboard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Running, Worker

pytestmark = pytest.mark.acceptance

FULL = bool(os.environ.get("OPS_TEST_FULL"))
SERVICES, COUNTERS, FAULT_S, AWAY_S = (100, 200, 40, 90) if FULL else (3, 20, 8, 5)
MAX_MEMORY_KB = 160_000
NO_BUILTIN = "builtin = false\n"
TWICE = """SELECT count(*) FROM (SELECT FROM system_metrics WHERE metric_name <> 'pass_success'
           GROUP BY time, service, metric_name HAVING count(*) > 1) AS t"""


@pytest.fixture
def counters() -> Iterator[int]:
    """Yield the port of a service with COUNTERS counters that change all the time."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            now = time.time_ns() // 1000
            values = {f"counter_{number}": now * (number + 1) for number in range(COUNTERS)}
            body = json.dumps({"counters": values}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = QuietServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def primary() -> Iterator[Postgres]:
    """Yield a server that the test may stop."""
    with Postgres() as server:
        load_platform(server.url())
        yield server


@pytest.fixture
def looped(worker: Worker, counters: int, tmp_path: Path) -> Worker:
    """Return a worker that monitors SERVICES services of COUNTERS counters."""
    entries = [
        f'[services.s{number}]\nurl = "http://127.0.0.1:{counters}"\ncounters = "*"\n'
        for number in range(SERVICES)
    ]
    catalogue = tmp_path / "many.toml"
    catalogue.write_text(NO_BUILTIN + "\n".join(entries))
    worker.env |= {"OPS_WORKER_CATALOGUE": str(catalogue), "PASS_DEADLINE": "6"}
    return worker


def memory_kb(pid: int) -> int:
    """Return the peak memory of a process, in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def await_samples(
    process: Running, database: Database, count: int, within_s: float = 120.0
) -> None:
    """Wait until the database holds samples of at least ``count`` different times."""
    end = time.monotonic() + within_s
    while database.value("SELECT count(DISTINCT time) FROM system_metrics") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {count} samples within {within_s} s"
        time.sleep(0.2)


def await_no_gap(database: Database, within_s: float = 300.0) -> None:
    """Wait until no second is without a sample, or the time is up.

    A loop on a busy machine may have skipped a second. Then the sample never comes.
    """
    end = time.monotonic() + within_s
    while any(row["samples"] == 0 for row in database.rows(SLOTS)) and time.monotonic() < end:
        time.sleep(0.5)


def fault(
    kind: str, primary: Postgres, line: Switchboard
) -> contextlib.AbstractContextManager[object]:
    """Return a context in which the database has this fault. The fault ends with the context."""

    @contextlib.contextmanager
    def during(begin: Callable[[], object], end: Callable[[], object]) -> Iterator[None]:
        begin()
        try:
            yield
        finally:
            end()

    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "silent": (line.silent.set, line.silent.clear),
        "stopped": (
            lambda: primary.signal(signal.SIGSTOP),
            lambda: primary.signal(signal.SIGCONT),
        ),
        "refusing": (primary.stop, primary.start),
        "away": (primary.stop, primary.start),
    }
    return during(*ways[kind])


@pytest.mark.parametrize("kind", ["silent", "stopped", "refusing", "away"])
def test_every_second_has_its_sample(looped: Worker, primary: Postgres, kind: str) -> None:
    """After a fault every second has its sample, none has two, and memory stays bounded."""
    database = Database(primary.url())
    with Switchboard(primary.port) as line:
        url = primary.url().replace(f":{primary.port}/", f":{line.port}/")
        with looped.start("metrics", "--every", "1", DATABASE_URL=url) as process:
            await_samples(process, database, 3)
            seconds = AWAY_S if kind == "away" else FAULT_S
            with fault(kind, primary, line):
                time.sleep(seconds)
            await_samples(process, database, seconds + 6)
            await_no_gap(database)
            assert memory_kb(process.pid) < MAX_MEMORY_KB
            _, err = ended(process)
    slots = database.rows(SLOTS)
    assert len(slots) >= seconds + 3
    assert {row["samples"] for row in slots} <= {0, 1}
    assert sum(row["samples"] == 0 for row in slots) <= skipped(err) < seconds / 2, (
        "a busy machine may skip some seconds, and then says so; no second is lost otherwise"
    )
    assert database.value(TWICE) == 0
    per_pass = "SELECT count(*) FROM system_metrics WHERE service LIKE 's%' GROUP BY time"
    assert {row["count"] for row in database.rows(per_pass)} == {SERVICES * (COUNTERS + 1)}
    assert not logged(err, "samples lost")


def test_demoted_and_promoted_elsewhere(looped: Worker, primary: Postgres) -> None:
    """A loop that is connected to a standby opens a new connection and finds the new primary."""
    database = Database(primary.url())
    with primary.standby() as standby, Switchboard(standby.port) as line:
        url = primary.url().replace(f":{primary.port}/", f":{line.port}/")
        with looped.start("metrics", "--every", "1", DATABASE_URL=url) as process:
            assert process.stderr is not None
            first = json.loads(process.stderr.readline())
            assert "read-only" in first["error"]
            time.sleep(FAULT_S)
            line.target = primary.port
            await_samples(process, database, FAULT_S + 3)
            _, err = ended(process)
    slots = database.rows(SLOTS)
    assert {row["samples"] for row in slots} <= {0, 1}
    assert sum(row["samples"] == 0 for row in slots) <= skipped(err) < FAULT_S / 2
    assert not logged(err, "samples lost")


def test_half_open_connection(looped: Worker, primary: Postgres) -> None:
    """The loop gives up a dead connection. The next one leads to the new server."""
    with Postgres() as new_primary, Switchboard(primary.port) as line:
        load_platform(new_primary.url())
        url = primary.url().replace(f":{primary.port}/", f":{line.port}/")
        with looped.start("metrics", "--every", "1", DATABASE_URL=url) as process:
            await_samples(process, Database(primary.url()), 2)
            line.silent.set()
            assert line.has_dropped.wait(60), "a tick meets the dead line"
            line.target = new_primary.port
            line.silent.clear()
            await_samples(process, Database(new_primary.url()), 3)
            ended(process)
        rows = [
            row for server in (primary, new_primary) for row in Database(server.url()).rows(SLOTS)
        ]
        assert all(row["samples"] <= 1 for row in rows)


def test_primary_of_several_hosts(worker: Worker, primary: Postgres) -> None:
    """Of several hosts a pass uses the primary, even if a standby comes first."""
    with primary.standby() as standby:
        hosts = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}/"
        url = primary.url().replace(f"127.0.0.1:{primary.port}/", hosts)
        for command in ("health", "metrics"):
            done = worker(command, DATABASE_URL=url)
            assert done.returncode == 0, done.stderr
        assert Database(primary.url()).health().keys() >= {"ingest"}


def test_no_standby_left(worker: Worker, primary: Postgres) -> None:
    """With synchronous replication and no standby, a pass is recorded and releases its lock."""
    database = Database(primary.url())
    database.rows("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    database.rows("SELECT pg_reload_conf()")
    worker.env |= {"DATABASE_URL": primary.url(), "PASS_DEADLINE": "20"}
    for command in ("health", "metrics", "health"):
        done = worker(command)
        assert done.returncode == 0, done.stderr
        assert "skipped" not in done.stdout
    assert database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
