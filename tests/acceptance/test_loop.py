"""Loop mode as a process: cadence, isolation, an absent database, a stopped process, signals.

``tests/test_loop.py`` has the cases, in virtual time. Here each family of cases has one real
process. The times are short, for CI. With OPS_TEST_FULL=1 they are a crash of 60 s, a database
that is away for 60 s, a stop of 20 s and 200 overlaps.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.conftest import Database, Process
from tests.looks import passes_in_ledger
from tests.postgres import Postgres, load_platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Running, Worker
    from tests.stubs import Stubs

pytestmark = pytest.mark.acceptance

FULL = bool(os.environ.get("OPS_TEST_FULL"))
CRASH_S, AWAY_S, STOPPED_S, OVERLAPS = (60, 60, 20, 200) if FULL else (16, 8, 4, 40)
TAKEN = "SELECT count(DISTINCT time) FROM system_metrics WHERE metric_name = 'healthy'"
NOT_ASKED = """SELECT DISTINCT time FROM system_metrics
WHERE service = 'postgres' AND metric_name = 'healthy' AND value = 0"""
"""The times of samples that waited because the database could not answer its figures."""
SLOTS = """WITH t AS (
    SELECT DISTINCT time FROM system_metrics WHERE metric_name = 'healthy'
), s AS (
    SELECT round(extract(epoch FROM time))::bigint AS slot FROM t
)
SELECT g.slot, (SELECT count(*) FROM s WHERE s.slot = g.slot) AS samples
FROM generate_series((SELECT min(slot) + 1 FROM s), (SELECT max(slot) FROM s)) AS g (slot)
ORDER BY 1"""
"""The number of samples of every second between the first sample and the last."""
REPEATED = """SELECT max(n) FROM (
    SELECT count(*) AS n FROM system_metrics GROUP BY time, service, metric_name
) AS t"""
"""The largest number of rows with the same time, service and metric."""


def ended(process: Running, number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
    """Send a signal, assert that the process ends with 0, and return what it printed."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out, err


def until(holds: Callable[[], object]) -> None:
    """Poll until ``holds`` returns a true value."""
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def logged(err: str, action: str) -> list[dict[str, object]]:
    """Return the lines of the log with this action."""
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("action") == action]


def free_port() -> str:
    """Return a free port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def get(port: str, path: str) -> tuple[int, str]:
    """Send a request to the sidecar. Return status and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(port: str, name: str) -> float:
    """Return a metric of the sidecar, such as ``buffered_samples{loop="metrics"}``, or 0."""
    if not asked(port, "metrics"):
        return 0.0
    match = re.search(
        rf"^ops_worker_{re.escape(name)} (\S+)$", get(port, "metrics")[1], re.MULTILINE
    )
    return float(match[1]) if match else 0.0


def asked(port: str, path: str) -> int:
    """Return the status of the sidecar's answer, or 0 if the sidecar does not listen yet."""
    try:
        return get(port, path)[0]
    except OSError:
        return 0


def skipped(err: str) -> int:
    """Return the number of skipped ticks in the log."""
    return sum(int(str(line["count"])) for line in logged(err, "ticks skipped"))


def pending(process: Running) -> bool:
    """Return whether a signal is pending in the process."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return any(
        int(mask, 16) for mask in re.findall(r"^(?:ShdPnd|SigPnd):\s*(\w+)$", status, re.MULTILINE)
    )


def broken(worker: Worker, patch: str, *arguments: str, **env: str) -> Running:
    """Start the worker after a line of Python that breaks a part of it."""
    script = (
        "import sys; from ops_worker import cli, loop, process; "
        f"from ops_worker.passes import health; {patch}; process.hold_signals(); "
        "process.finish(cli.main(sys.argv[1:], guarded=True))"
    )
    command = [sys.executable, "-c", script, *arguments]
    return Process(
        command,
        cwd=worker.folder,
        env=worker.env | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_for(worker: Worker, database: Database) -> None:
    """A loop with --for ends by itself: one sample at once, then one every second.

    On a busy machine, a loop may skip some samples. It counts them.
    """
    done = worker("metrics", "--every", "1", "--for", "4")
    assert done.returncode == 0, done.stderr
    written = done.stdout.count("samples written")
    # On a busy machine a tick may wait. The next tick writes its sample.
    waited = done.stdout.count("metrics: waiting")
    assert written + waited == database.value(TAKEN)
    assert 1 <= written + waited <= 5 - skipped(done.stderr)


def test_for_worst_code(worker: Worker, database: Database, stubs: Stubs) -> None:
    """The exit code of a loop is that of its pass. ``tests/test_loop.py`` covers several passes."""
    stubs["ingest"].mode = "down"
    assert worker("health", "--every", "3600", "--for", "1", "--fail-on-unhealthy").returncode == 4
    assert (
        worker(
            "health", "--every", "3600", "--for", "1", DATABASE_URL="postgresql://a:b@127.0.0.1:9/d"
        ).returncode
        == 1
    )
    database.rows("DROP TABLE system_metrics CASCADE")
    done = worker("metrics", "--every", "3600", "--for", "1")
    assert done.returncode == 3
    assert {line["exit_code"] for line in logged(done.stderr, "pass failed")} == {3}
    assert {line["buffered"] for line in logged(done.stderr, "pass failed")} == {0}, (
        "a sample that no retry helps does not wait"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("health", "--for", "5"), "--for needs --every"),
        (("health", "--every", "0"), "is not a number of seconds"),
        (("health", "--every", "soon"), "invalid"),
        (("sidecar", "metric"), "no pass metric"),
    ],
)
def test_usage(worker: Worker, arguments: tuple[str, ...], message: str) -> None:
    """An invalid command line ends with 2."""
    done = worker(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_crash_isolation(worker: Worker, database: Database) -> None:
    """If a pass crashes on every tick, the other loop keeps its cadence and the process runs on."""
    port = free_port()
    env = {
        "HEALTH_CHECK_INTERVAL": "5",
        "METRICS_COLLECTION_INTERVAL": "1",
        "PASS_DEADLINE": "6",
        "SIDECAR_PORT": port,
    }
    with broken(worker, "health.run = lambda context: 1 / 0", "sidecar", **env) as process:
        until(
            lambda: (
                metric(port, 'passes_total{loop="health",result="crashed"}') >= CRASH_S // 5
                and database.value(TAKEN) >= CRASH_S - 3
                and asked(port, "health") == 503
            )
        )
        assert process.poll() is None
        status, body = get(port, "health")
        assert status == 503
        assert (
            json.loads(body)["loops"]["health"]["error"]
            == "a bug in ops-worker: ZeroDivisionError; the log has the traceback"
        )
        assert json.loads(body)["loops"]["metrics"]["ok"]
        _, err = ended(process)
    crashes = logged(err, "pass crashed")
    assert len(crashes) >= CRASH_S // 5
    assert "ZeroDivisionError" in str(crashes[0]["traceback"])


def test_thread_dies(worker: Worker, database: Database) -> None:
    """A tick whose thread dies is reported, and the loop continues."""
    patch = (
        "from ops_worker.commands import run_loop; real = run_loop.report; seen = []; "
        "run_loop.report = "
        "lambda o, t: seen.append(1) or (1 / 0 if len(seen) == 2 else real(o, t))"
    )
    with broken(
        worker,
        patch + "; import threading; threading.excepthook = lambda a: None",
        "metrics",
        "--every",
        "1",
    ) as process:
        until(lambda: database.value(TAKEN) >= 5)
        _, err = ended(process)
    assert len(logged(err, "loop revived")) == 1


def test_hang_isolation(worker: Worker, database: Database) -> None:
    """A health loop that waits for a lock or a service does not delay the metrics loop."""
    worker("health")
    env = {"HEALTH_CHECK_INTERVAL": "5", "METRICS_COLLECTION_INTERVAL": "1", "SIDECAR_PORT": "0"}
    with psycopg.connect(database.url) as session:
        session.execute("LOCK TABLE service_health")
        beside = """SELECT count(DISTINCT time) FROM system_metrics
                    WHERE metric_name = 'healthy' AND time > (
                        SELECT min(waitstart) FROM pg_locks
                        WHERE relation = 'service_health'::regclass AND NOT granted
                    )"""
        with worker.start("sidecar", **env) as process:
            # Wait for a sample that was taken while the health loop waits.
            until(lambda: database.value(beside))
            session.rollback()
            until(lambda: database.health()["ingest"]["details"]["streak"] > 1)
            _, err = ended(process)
    assert all("lock" in str(line["error"]) for line in logged(err, "pass failed"))


@pytest.fixture
def own(worker: Worker) -> Iterator[tuple[Postgres, Database]]:
    """Yield a server that the test may stop, and its database."""
    with Postgres() as server:
        load_platform(server.url())
        worker.env["DATABASE_URL"] = server.url()
        yield server, Database(server.url())


def test_database_away(worker: Worker, own: tuple[Postgres, Database]) -> None:
    """No sample is lost while the database is away: afterwards every second has one."""
    server, database = own
    port = free_port()
    env = {"METRICS_COLLECTION_INTERVAL": "1", "SIDECAR_PORT": port}
    with worker.start("sidecar", "metrics", **env) as process:
        until(lambda: database.value(TAKEN) >= 3)
        server.stop()
        until(lambda: metric(port, 'passes_total{loop="metrics",result="failed"}') >= AWAY_S)
        server.start()
        until(lambda: len(database.rows(SLOTS)) > AWAY_S)
        until(lambda: {row["samples"] for row in database.rows(SLOTS)} == {1})
        before = database.value(TAKEN)
        until(lambda: database.value(TAKEN) >= before + 2)  # no earlier sample comes twice
        _, err = ended(process)
    slots = database.rows(SLOTS)
    assert len(slots) >= AWAY_S + 3
    assert {row["samples"] for row in slots} == {1}
    failed = logged(err, "pass failed")
    assert len(failed) >= AWAY_S - 2
    assert max(int(str(line["buffered"])) for line in failed) >= AWAY_S - 2
    unhealthy = (
        "SELECT count(*) FROM system_metrics "
        "WHERE service = 'postgres' AND metric_name = 'healthy' AND value = 0"
    )
    assert database.value(unhealthy) >= AWAY_S - 2
    assert database.value(REPEATED) == 1


def test_backlog_is_bounded(worker: Worker, own: tuple[Postgres, Database]) -> None:
    """A full buffer drops, counts and logs the oldest samples. The others are written later."""
    server, database = own
    port = free_port()
    env = {"METRICS_COLLECTION_INTERVAL": "1", "SIDECAR_PORT": port, "METRICS_BUFFER_SAMPLES": "3"}
    with worker.start("sidecar", "metrics", **env) as process:
        until(lambda: database.value(TAKEN) >= 2)
        server.stop()
        before = time.time()
        until(lambda: metric(port, 'samples_dropped_total{loop="metrics"}') >= 3)
        back = time.time()
        server.start()
        until(lambda: len(database.rows(NOT_ASKED)) >= 3)
        _, err = ended(process)
    assert sum(int(str(line["count"])) for line in logged(err, "samples dropped")) >= 3
    times = [row["time"].timestamp() for row in database.rows(NOT_ASKED)]
    # More may follow while the server starts: then the buffer has room again.
    assert len([moment for moment in times if before < moment < back]) <= 3
    # The server may have stopped during a COMMIT. That sample is in doubt, not in the buffer.
    assert len([moment for moment in times if moment <= before]) <= 1


def test_dry_run(worker: Worker, own: tuple[Postgres, Database]) -> None:
    """A dry run in a loop never writes, not even later."""
    server, database = own
    with worker.start("metrics", "--every", "0.5", "--dry-run") as process:
        assert process.stdout is not None and process.stderr is not None
        # A pass that is slower than the interval makes the next one say "waiting" instead.
        while "dry run" not in process.stdout.readline():
            assert process.poll() is None
        server.stop()
        while "pass failed" not in process.stderr.readline():
            assert process.poll() is None
        server.start()
        dry_runs = 0
        while dry_runs < 6:  # some were printed before; at least one is from the new server
            dry_runs += "dry run" in process.stdout.readline()
            assert process.poll() is None
        ended(process)
    assert database.samples() == {}


def test_stopped_process(worker: Worker, database: Database) -> None:
    """A resumed process continues with one pass, not with a burst, and counts skipped ticks."""
    begun = time.monotonic()
    with worker.start("metrics", "--every", "1") as process:
        until(lambda: database.value(TAKEN) >= 2)
        process.send_signal(signal.SIGSTOP)
        before = database.value(TAKEN)
        time.sleep(STOPPED_S)  # the process is stopped for this time
        process.send_signal(signal.SIGCONT)
        until(lambda: database.value(TAKEN) >= before + 3)
        _, err = ended(process)
    assert skipped(err) >= STOPPED_S - 1
    assert database.value(TAKEN) + skipped(err) <= time.monotonic() - begun + 2, (
        "the loop repeated no skipped slot"
    )


def test_overlap(worker: Worker, database: Database, stubs: Stubs) -> None:
    """Loops and single passes can run at the same time.

    No pass fails. Each outage opens one alert, and each tick writes one sample.
    """
    with (
        worker.start("health", "--every", "0.1") as health,
        worker.start("metrics", "--every", "1") as metrics,
    ):
        for number in range(OVERLAPS // 2):
            stubs["ingest"].mode = "down" if number % 2 == 0 else "ok"
            passes = [worker.start("health") for _ in range(2)]
            for process in passes:
                _, err = process.communicate(timeout=30)
                assert process.returncode == 0, err
            state = "unhealthy" if number % 2 == 0 else "healthy"
            statement = (
                "SELECT count(*) FROM service_health WHERE service = 'ingest' AND status = %s"
            )
            # The loop covers what both passes skipped.
            until(partial(database.value, statement, state))
        _, err = ended(health)
        assert not logged(err, "pass failed")
        ended(metrics)
    alerts = database.alerts()
    assert len(alerts) == OVERLAPS // 4, "down for every second pair"
    assert {alert["status"] for alert in alerts} == {"CLOSED"}
    # Each change was awaited. The number of passes that see one state depends on the machine.
    assert passes_in_ledger(database) >= OVERLAPS // 2
    # A probe that is open when the service goes down may return another reason in between.
    spans = database.rows(
        "SELECT state FROM ops_worker_span WHERE service = 'ingest' AND pass = 'health' "
        "ORDER BY first_at"
    )
    healthy = [
        is_healthy
        for is_healthy, _ in itertools.groupby(row["state"] == "healthy" for row in spans)
    ]
    assert healthy.count(False) == len(alerts)
    for earlier, later in itertools.pairwise(alerts):
        assert earlier["closed_at"] <= later["created_at"]
    assert database.value(REPEATED) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_between_ticks(worker: Worker, database: Database, number: signal.Signals) -> None:
    """A signal between two ticks, which are a day apart, ends the sidecar with 0."""
    env = {
        "HEALTH_CHECK_INTERVAL": "86400",
        "METRICS_COLLECTION_INTERVAL": "86400",
        "ROLLUP_INTERVAL": "86400",
        "SIDECAR_PORT": "0",
    }
    recorded = """SELECT count(DISTINCT tags ->> 'pass') FROM system_metrics
                  WHERE metric_name = 'pass_success'"""
    with worker.start("sidecar", **env) as process:
        until(lambda: database.value(recorded) == 3)
        ended(process, number)


def test_signal_during_a_pass(worker: Worker, database: Database, stubs: Stubs) -> None:
    """A signal lets the running pass finish.

    A pass that exceeds SHUTDOWN_GRACE is given up. A second signal ends the process at once.
    """
    stubs["ingest"].mode = "hang"
    with worker.start("health", "--every", "60") as process:
        until(lambda: stubs["ingest"].requests)
        ended(process)
    assert database.health()["ingest"]["details"]["error"] == "timeout after 5 s"
    stubs["ingest"].requests.clear()
    with worker.start("health", "--every", "60", SHUTDOWN_GRACE="0.5") as process:
        until(lambda: stubs["ingest"].requests)
        assert logged(ended(process)[1], "pass given up")
    stubs["ingest"].requests.clear()
    with worker.start("health", "--every", "60", SHUTDOWN_GRACE="60") as process:
        until(lambda: stubs["ingest"].requests)
        process.send_signal(signal.SIGTERM)
        until(lambda: not pending(process))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1, "a process that waits for its pass ends with 0"


def test_port_taken(worker: Worker) -> None:
    """A port that is taken ends with 2, and names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = worker("sidecar", SIDECAR_PORT=str(listener.getsockname()[1]))
    assert done.returncode == 2
    assert "SIDECAR_PORT" in done.stderr


def test_probes(worker: Worker) -> None:
    """The sidecar is ready once the first pass of each loop is done."""
    port = free_port()
    with worker.start("sidecar", SIDECAR_PORT=port) as process:
        until(lambda: asked(port, "ready") == 200)
        assert get(port, "ready") == (200, '{"ready": true, "waiting_for": [], "errors": {}}')
        assert get(port, "health")[0] == 200
        assert (
            'ops_worker_service_state{service="ingest",state="healthy"} 1.0'
            in get(port, "metrics")[1]
        )
        ended(process)
