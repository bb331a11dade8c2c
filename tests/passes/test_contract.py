"""The contract with the platform, case by case: both passes run in this process on real servers."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ops_worker import __version__, cli, settings
from ops_worker.adapters import http
from ops_worker.adapters.postgres import Store
from ops_worker.adapters.postgres.pass_writes import WATCH_ROWS, last_seen_parameters
from ops_worker.adapters.postgres.transaction import SQL
from ops_worker.cli import main
from ops_worker.core.model import Failure, Observation, Outcome, Result, Target
from ops_worker.core.output import text
from ops_worker.errors import ROW_SECURITY_REMEDY
from ops_worker.passes import Context, function_of
from tests.looks import passes_in_ledger
from tests.seed_history import seed
from tests.stubs import Behaviour, Stub, Stubs, hang, reply

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.conftest import Database

pytestmark = pytest.mark.integration


class Passes:
    """Runs passes with the settings of the environment and a new connection for each."""

    def __init__(self, env: pytest.MonkeyPatch) -> None:
        self.env = env

    def __call__(self, name: str, *, dry_run: bool = False) -> Outcome:
        """Run one pass."""
        values = settings.load()
        with contextlib.closing(Store(values.connection, role=values.pg_role)) as store:
            return function_of(name)(Context(values, http.observe, store, time.monotonic, dry_run))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, database: Database, stubs: Stubs) -> Passes:
    """Return passes that use the test's database and services."""
    for name, value in (stubs.env | {"DATABASE_URL": database.url}).items():
        monkeypatch.setenv(name, value)
    return Passes(monkeypatch)


BIG = 10**400
OUTCOMES: list[tuple[str, str | Behaviour, str, bool, dict[str, Any], str]] = [
    ("ok", reply('{"status": "critical", "counters": {"jobs_queued": 1}}'), "healthy", True,
     {"status": "healthy", "counters": {"jobs_queued": 1}}, ""),
    ("no counters", reply("{}"), "healthy", True, {"status": "healthy", "counters": {}}, ""),
    ("odd numbers",
     reply('{"counters": {"a": NaN, "b": -Infinity, "c": "\\u0000\\ud800", "d": 1%s}}'
           % ("0" * 400)),
     "healthy", True,
     {"status": "healthy", "counters": {"a": None, "b": None, "c": "\ufffd\ufffd", "d": BIG}}, ""),
    ("counters no object", reply('{"counters": [1]}'), "healthy", True,
     {"status": "healthy", "counters": [1]}, ""),
    ("gzip, chunks, any type", "chunked", "healthy", True,
     {"status": "healthy", "counters": {"x": 1}}, ""),
    ("500", "500", "unhealthy", True, {"status": "degraded", "http_status": 500}, "http 500"),
    ("503", "503", "unhealthy", True, {"status": "degraded", "http_status": 503}, "http 503"),
    ("redirect", "redirect", "unhealthy", True,
     {"status": "degraded", "http_status": 302}, "http 302"),
    ("201", reply("{}", status="201 Created"), "unhealthy", True,
     {"status": "degraded", "http_status": 201}, "http 201"),
    ("refused", "down", "unhealthy", False,
     {"status": "down", "error": "Connection refused"}, "Connection refused"),
    ("list", "list", "unhealthy", False,
     {"status": "unknown", "error": "not a JSON object but an array"},
     "not a JSON object but an array"),
    ("half a JSON", "bad-json", "unhealthy", False, {"status": "unknown"}, "bad JSON: "),
    ("2 MB", "huge", "unhealthy", False,
     {"status": "unknown", "error": "body larger than 1 MiB"}, "body larger than 1 MiB"),
    ("reset", "reset", "unhealthy", False,
     {"status": "unknown", "error": "Connection reset by peer"}, "Connection reset by peer"),
    ("hang", "hang", "unhealthy", False,
     {"status": "unknown", "error": "timeout after 5 s"}, "timeout after 5 s"),
    ("8 s, byte by byte", "dribble", "unhealthy", False,
     {"status": "unknown", "error": "timeout after 5 s"}, "timeout after 5 s"),
]  # fmt: skip
"""Cases: a name, the behaviour of the service, and the expected row and alert.

Of the row: ``status``, whether it has a latency, and ``details`` without the worker's own keys.
Of the alert: its reason, or "" if none opens.
"""


@pytest.mark.parametrize(
    ("case", "mode", "status", "latency", "details", "reason"),
    OUTCOMES,
    ids=[row[0] for row in OUTCOMES],
)
def test_outcome(
    run: Passes,
    database: Database,
    stubs: Stubs,
    case: str,
    mode: str | Behaviour,
    status: str,
    latency: bool,
    details: dict[str, Any],
    reason: str,
) -> None:
    """Each outcome of a service has the row, alert and samples of the contract."""
    stubs["dispatcher"].mode = mode
    stubs["dispatcher"].counters = {"x": 1}
    outcome = run("health")
    assert (outcome.result, outcome.unhealthy) == (
        Result.RECORDED,
        ("dispatcher",) if reason else (),
    ), case
    assert_row(database, status, latency, details, reason)
    assert_alert(database, details["status"], reason)
    run("metrics")
    assert_samples(database, details.get("counters"), reason)


def assert_row(
    database: Database, status: str, latency: bool, details: dict[str, Any], reason: str
) -> None:
    """Check the row of the dispatcher. The other services stay healthy."""
    rows = database.health()
    row = rows.pop("dispatcher")
    assert (status, latency) == (row["status"], row["latency_ms"] is not None)
    written = dict(row["details"])
    assert {"streak", "since"} <= written.keys()
    assert written.pop("latency_ms", None) == row["latency_ms"]
    assert details.items() <= written.items()
    assert written.keys() - {"streak", "since"} <= {"status", "error", "http_status", "counters"}
    assert written.get("error", reason).startswith(reason)
    assert [other["status"] for other in rows.values()] == ["healthy"] * 3


def assert_alert(database: Database, state: str, reason: str) -> None:
    """Check the alert of the dispatcher and its tenant. Without a reason, there is neither."""
    alerts = database.alerts()
    tenants = database.rows(
        "SELECT name, status, metadata FROM tenants WHERE tenant_id = '__system__'"
    )
    if not reason:
        assert (alerts, tenants) == ([], [])
        return
    (alert,) = alerts
    assert alert["summary"].startswith(f"Service unhealthy: dispatcher ({reason}")
    expected = {
        "tenant_id": "__system__", "site_id": "__system__", "device_id": "__system__",
        "alert_type": "SYSTEM_HEALTH", "status": "OPEN", "severity": 5, "confidence": 1.0,
        "fingerprint": "system-health:dispatcher", "closed_at": None,
    }  # fmt: skip
    assert expected.items() <= alert.items()
    evidence = alert["details"].pop("evidence")
    assert alert["details"] == {"service": "dispatcher", "kind": "system_health"}
    assert (evidence["state"], evidence["streak"]) == (state, 1)
    assert evidence["reason"].startswith(reason)
    assert evidence["version"] == __version__
    assert tenants == [
        {"name": "System Alerts", "status": "ACTIVE", "metadata": {"kind": "system"}}
    ]


def assert_samples(database: Database, counters: object, reason: str) -> None:
    """Check the samples of the dispatcher."""
    samples = {
        metric: value
        for (service, metric), value in database.samples().items()
        if service == "dispatcher"
    }
    if reason:
        assert samples == {"healthy": 0.0}
    elif isinstance(counters, dict):
        assert samples == {"alerts_processed": 0.0, "routes_matched": 0.0, "healthy": 1.0}
    else:
        assert samples == {"healthy": 1.0}


def test_sample(run: Passes, database: Database, stubs: Stubs) -> None:
    """A metrics pass on a healthy platform writes exactly these rows, with one database time."""
    stubs["ingest"].counters = {
        "messages_received": 5,
        "messages_written": True,
        "messages_rejected": 0,
        "nats_telemetry_pending": 7,
    }
    stubs["evaluator"].counters = {
        "rules_evaluated": 2**40,
        "alerts_created": 1.5,
        "evaluation_errors": 3,
    }
    stubs["dispatcher"].counters = {"alerts_processed": 9, "routes_matched": None}
    stubs["delivery_worker"].counters = {
        "jobs_succeeded": "x",
        "jobs_failed": BIG,
        "jobs_pending": 2,
    }
    before = database.value("SELECT clock_timestamp()")
    outcome = run("metrics")
    after = database.value("SELECT clock_timestamp()")
    samples = database.samples()
    assert samples.pop(("postgres", "connections")) >= 1
    assert samples.pop(("postgres", "db_size_bytes")) > 1e6
    assert samples == {
        ("ingest", "messages_received"): 5.0,
        ("ingest", "messages_written"): 1.0,
        ("ingest", "messages_rejected"): 0.0,
        ("ingest", "queue_depth"): 7.0,
        ("ingest", "healthy"): 1.0,
        ("evaluator", "rules_evaluated"): float(2**40),
        ("evaluator", "alerts_created"): 1.5,
        ("evaluator", "healthy"): 1.0,
        ("dispatcher", "alerts_processed"): 9.0,
        ("dispatcher", "healthy"): 1.0,
        ("delivery", "jobs_pending"): 2.0,
        ("delivery", "healthy"): 1.0,
        ("postgres", "healthy"): 1.0,
        ("platform", "devices_online"): 34.0,
        ("platform", "devices_stale"): 9.0,
        ("platform", "alerts_open"): 5.0,
        ("platform", "deliveries_pending"): 4.0,
    }
    assert len(outcome.warnings) == 3
    times = database.rows(
        "SELECT DISTINCT time, tags::text FROM system_metrics WHERE service <> 'ops_worker'"
    )
    assert len(times) == 1 and times[0]["tags"] == "{}"
    early = after - before  # the most that the database's answer took to arrive
    assert before - early <= times[0]["time"] <= after


def test_newer_platform(run: Passes, database: Database) -> None:
    """Without the table delivery_jobs, its figure is absent, without a warning."""
    database.rows("DROP TABLE delivery_jobs")
    outcome = run("metrics")
    samples = database.samples()
    assert ("platform", "deliveries_pending") not in samples
    assert (len(samples), outcome.warnings) == (21, ())


def test_slow_count(run: Passes, database: Database) -> None:
    """A slow or locked figure is left out. The others are recorded."""
    database.rows("ALTER TABLE device_state RENAME TO device_rows")
    database.rows("""CREATE VIEW device_state AS SELECT d.* FROM device_rows d,
                     pg_sleep(CASE current_setting('transaction_read_only')
                     WHEN 'on' THEN 5 ELSE 0 END)""")
    outcome = run("metrics")
    assert ("platform", "devices_online") not in database.samples()
    assert ("platform", "alerts_open") in database.samples()
    assert outcome.warnings[0] == "platform.devices_online not recorded: took more than 2000 ms"


def test_alert_story(run: Passes, database: Database, stubs: Stubs) -> None:
    """An alert opens once, keeps its first reason, closes on recovery, and can open again."""
    stubs["ingest"].mode = "down"
    assert run("health").opened == ("ingest",)
    stubs["ingest"].mode = "503"
    assert (run("health").opened, run("health").alerted) == ((), ("ingest",))
    database.rows(
        "UPDATE fleet_alert SET status = 'ACKNOWLEDGED', details = '[1]' "
        "WHERE tenant_id = '__system__'"
    )
    assert run("health").opened == ()
    stubs["ingest"].mode = "ok"
    outcome = run("health")
    assert (outcome.closed, outcome.alerted) == (("ingest",), ())
    (alert,) = database.alerts()
    assert (alert["status"], alert["summary"]) == (
        "CLOSED",
        "Service unhealthy: ingest (Connection refused)",
    )
    assert alert["details"].keys() == {"resolved_at"}
    assert datetime.fromisoformat(alert["details"]["resolved_at"]) == alert["closed_at"]
    assert alert["closed_at"] > alert["created_at"]
    assert run("health").closed == ()
    database.rows("UPDATE tenants SET name = 'renamed' WHERE tenant_id = '__system__'")
    stubs["ingest"].mode = "hang"
    assert run("health").opened == ("ingest",)
    assert [alert["status"] for alert in database.alerts()] == ["CLOSED", "OPEN"]
    assert database.value("SELECT name FROM tenants WHERE tenant_id = '__system__'") == "renamed"


def test_damping_holds_across_processes(run: Passes, database: Database, stubs: Stubs) -> None:
    """The database keeps the streak, so that passes of different processes count together."""
    run.env.setenv("ALERT_AFTER_FAILURES", "3")
    run.env.setenv("RESOLVE_AFTER_SUCCESSES", "2")
    changes = []
    for mode in ("down", "down", "ok", "down", "down", "down", "ok", "down", "ok", "ok", "ok"):
        stubs["ingest"].mode = mode
        outcome = run("health")
        changes.append((outcome.opened, outcome.closed))
    opened, closed = (("ingest",), ()), ((), ("ingest",))
    nothing: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    assert changes == [nothing] * 5 + [opened] + [nothing] * 3 + [closed, nothing]
    row = database.health()["ingest"]
    assert row["details"]["streak"] == 3
    assert datetime.fromisoformat(row["details"]["since"]) < row["checked_at"]


def test_unwatched(run: Passes, database: Database, stubs: Stubs) -> None:
    """A service with an empty URL is not monitored. Its row and its alert do not change."""
    stubs["ingest"].mode = "down"
    run("health")
    run.env.setenv("INGEST_HEALTH_URL", "")
    assert {verdict.target.name for verdict in run("health").verdicts} == {
        "evaluator",
        "dispatcher",
        "delivery_worker",
    }
    assert database.alerts()[0]["status"] == "OPEN"
    assert database.health()["ingest"]["status"] == "unhealthy"


def test_off(run: Passes, database: Database, stubs: Stubs) -> None:
    """With SYSTEM_ALERT_ENABLED off, the health pass probes nothing and writes nothing."""
    run.env.setenv("SYSTEM_ALERT_ENABLED", "nope")
    assert run("health").result is Result.OFF
    assert database.value("SELECT to_regclass('service_health')::text") is None
    assert not stubs["ingest"].requests


def test_figures_belong_to_the_first_shard(run: Passes) -> None:
    """Only shard 0 reads the database's figures."""
    run.env.setenv("SHARD_COUNT", "2")
    recorded = {}
    for shard in ("0", "1"):
        run.env.setenv("JOB_COMPLETION_INDEX", shard)
        recorded[shard] = {sample.service for sample in run("metrics").samples}
    assert "postgres" in recorded["0"]
    assert not {"postgres", "platform"} & recorded["1"]
    assert not recorded["0"] & recorded["1"]


def test_dry_run(run: Passes, database: Database, stubs: Stubs) -> None:
    """A dry run shows what a pass would write, with and without tables, and writes nothing."""
    stubs["ingest"].mode = "down"
    outcome = run("health", dry_run=True)
    assert (outcome.result, outcome.opened, len(outcome.updates)) == (
        Result.DRY_RUN,
        ("ingest",),
        4,
    )
    assert database.value("SELECT to_regclass('service_health')::text") is None
    run("health")
    stubs["ingest"].mode = "ok"
    assert run("health", dry_run=True).closed == ("ingest",)
    assert database.alerts()[0]["status"] == "OPEN"
    assert len(run("metrics", dry_run=True).samples) == 22
    assert database.samples() == {}


def test_late_pass(run: Passes, database: Database, stubs: Stubs) -> None:
    """A pass that pauses between probe and write does not overwrite a later observation."""
    stubs["ingest"].mode = "down"
    pause_s = 0.0

    def observe_and_pause(targets: Any) -> Any:
        nonlocal pause_s
        observations = http.observe(targets)
        stubs["ingest"].mode = "ok"
        run("health")
        # The time of an observation is early by the time of the database's answer. On a busy
        # machine, this may be longer than the other pass took.
        pause_s = 10.0
        return observations

    loaded = settings.load()
    with contextlib.closing(Store(loaded.connection)) as store:
        context = Context(loaded, observe_and_pause, store, lambda: time.monotonic() + pause_s)
        outcome = function_of("health")(context)
    assert (len(outcome.superseded), outcome.opened) == (4, ())
    assert database.health()["ingest"]["status"] == "healthy"
    assert database.alerts() == []


def test_wrong_clock(run: Passes, database: Database) -> None:
    """A time is that of the database minus the age of the observation, whatever the local calendar.

    It is early by the time of the database's answer, which is shorter than the pass.
    """
    values, before = settings.load(), database.value("SELECT now()")
    begun = time.monotonic()
    with contextlib.closing(Store(values.connection)) as store:
        patient = values.model_copy(update={"pass_deadline": 200.0})
        function_of("metrics")(Context(patient, http.observe, store, lambda: time.monotonic() - 90))
    took = timedelta(seconds=time.monotonic() - begun)
    sampled_at = database.value("SELECT max(time) FROM system_metrics") + timedelta(seconds=90)
    assert before - took <= sampled_at <= database.value("SELECT now()")
    before, begun = database.value("SELECT now()"), time.monotonic()
    run("health")
    took = timedelta(seconds=time.monotonic() - begun)
    checked_at = database.health()["ingest"]["checked_at"]
    assert before - took <= checked_at <= database.value("SELECT now()")


def test_two_hang(run: Passes, stubs: Stubs) -> None:
    """Two services that hang cost one deadline: both are probed before either is given up."""
    probed, given_up = [], []

    def hangs(stub: Stub, connection: socket.socket) -> None:
        probed.append(stub.name)
        hang(stub, connection)
        given_up.append(len(probed))

    stubs["ingest"].mode = stubs["evaluator"].mode = hangs
    assert run("health").unhealthy == ("ingest", "evaluator")
    end = time.monotonic() + 60
    while len(given_up) < 2:  # the threads of the services notice it a little later
        assert time.monotonic() < end
        time.sleep(0.01)
    assert given_up == [2, 2]


def test_eight_at_once(run: Passes, database: Database, stubs: Stubs) -> None:
    """Eight passes run at once, fifty times. An outage has one alert. No pass fails."""
    done = 0
    with ThreadPoolExecutor(8) as pool:
        for number in range(50):
            down = number % 2 == 0
            stubs["ingest"].mode = "down" if down else "ok"
            barrier = threading.Barrier(8)

            def run_health(_: int, barrier: threading.Barrier = barrier) -> Outcome:
                barrier.wait()
                return run("health")

            outcomes = list(pool.map(run_health, range(8)))
            while not any(outcome.opened or outcome.closed for outcome in outcomes):
                # On a busy machine, an observation may look older than the previous round's.
                assert any("ingest" in outcome.superseded for outcome in outcomes)
                outcomes = list(pool.map(run_health, range(8)))
            assert {outcome.result for outcome in outcomes} <= {Result.RECORDED, Result.SKIPPED}
            changed = [outcome for outcome in outcomes if outcome.opened or outcome.closed]
            assert [(outcome.opened, outcome.closed) for outcome in changed] == [
                (("ingest",), ()) if down else ((), ("ingest",))
            ]
            done += sum(outcome.result is Result.RECORDED for outcome in outcomes)
    alerts = database.alerts()
    assert len(alerts) == 25
    assert all(alert["status"] == "CLOSED" for alert in alerts)
    assert done >= 50 <= passes_in_ledger(database) <= done
    lasting = "SELECT count(*) FROM ops_worker_span WHERE last_at IS NULL"
    assert database.value(lasting) == 4


@pytest.mark.usefixtures("run")
def test_output(capsys: pytest.CaptureFixture[str]) -> None:
    """A pass prints its outcome as the option demands."""
    assert cli.main(["health", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == "recorded"
    assert cli.main(["health", "--fail-on-unhealthy", "--output", "table"]) == 0
    assert "SERVICE" in capsys.readouterr().out


@pytest.mark.usefixtures("run")
def test_main(database: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> None:
    """A pass prints changes and warnings, and its exit code is that of the options."""
    assert cli.main(["health"]) == 0
    assert capsys.readouterr().out.startswith("health: 4 services, 4 healthy")
    stubs["ingest"].mode = "down"
    stubs["evaluator"].counters = {"rules_evaluated": "x"}
    assert cli.main(["health", "--fail-on-unhealthy"]) == 4
    captured = capsys.readouterr()
    assert captured.out.startswith(
        "health: 4 services, 3 healthy, 1 down; 1 alert opened: ingest ("
    )
    assert '"action": "alert opened"' in captured.err
    assert cli.main(["metrics"]) == 0
    assert "evaluator.rules_evaluated not recorded" in capsys.readouterr().err
    assert database.samples()
    stubs["ingest"].mode = "ok"
    assert cli.main(["health", "--fail-on-unhealthy"]) == 0


def test_main_without_alerts(run: Passes, stubs: Stubs) -> None:
    """Without system alerts, a health pass ends with 0, whatever the services answer."""
    stubs["ingest"].mode = "down"
    run.env.setenv("SYSTEM_ALERT_ENABLED", "off")
    assert cli.main(["health", "--fail-on-unhealthy"]) == 0


@pytest.mark.usefixtures("run")
def test_init_db(capsys: pytest.CaptureFixture[str]) -> None:
    """``init-db`` keeps a table that exists."""
    assert cli.main(["init-db"]) == 0
    assert "system_metrics: already there" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["health", "metrics"])
def test_skipped(run: Passes, database: Database, name: str) -> None:
    """A pass that meets the lock of another one is skipped and writes nothing."""
    values = settings.load()
    purpose = {"health": 1, "metrics": 2}[name]
    run("health")
    before = database.health()
    with contextlib.closing(Store(values.connection)) as store:
        connection = store._connected()
        connection.execute("BEGIN")
        connection.execute(f"SELECT pg_advisory_xact_lock({0x6F707377}, {purpose})")
        assert run(name).result is Result.SKIPPED
        assert cli.main([name, "--fail-on-unhealthy"]) == 0
    assert database.samples() == {}
    assert before == database.health()


OWN = """
[services.shop]
url = "${SHOP}"
path = "/status"
headers = { Authorization = "Bearer ${TOKEN}" }
conditions = [{ pointer = "/db", equals = "up" }]
counters = "*"
tags = { team = "shop" }
alert_after = 2

[services.ingest]
url = ""

[figures.stock.items]
sql = '''
SELECT 'shop-' || n AS service, n * 1.5 AS value, jsonb_build_object('n', n) AS tags
FROM generate_series(1, 2) AS n -- two
'''
every = 3600

[figures.stock.bad]
sql = "SELECT 1 / 0 AS value"

[figures.platform.devices_online]
sql = "SELECT 42 AS value"
"""


@pytest.fixture
def own(run: Passes, tmp_path: Path) -> Iterator[Stub]:
    """Add a catalogue of the user, and yield the service that it adds."""
    shop = Stub("shop")
    shop.mode = reply('{"db": "slow", "counters": {"a": 1, "b": 2.5, "c": "x"}}')
    (tmp_path / "c.toml").write_text(OWN)
    for name, value in {
        "OPS_WORKER_CATALOGUE": str(tmp_path / "c.toml"),
        "SHOP": shop.url,
        "TOKEN": "t0ken",
    }.items():
        run.env.setenv(name, value)
    yield shop
    shop.close()


def test_own_service(run: Passes, database: Database, own: Stub) -> None:
    """A user's service is probed and judged as its entry says. A removed one is not probed."""
    assert run("health").opened == ()
    assert run("health").opened == ("shop",)
    assert (
        own.requests[0].startswith(b"GET /status HTTP/1.1")
        and b"\r\nAuthorization: Bearer t0ken\r\n" in own.requests[0]
    )
    row = database.health()["shop"]
    assert (row["status"], row["details"]["status"], row["details"]["reason"]) == (
        "unhealthy",
        "degraded",
        '/db is "slow", wants "up"',
    )
    assert database.alerts()[0]["summary"] == 'Service unhealthy: shop (/db is "slow", wants "up")'
    assert "ingest" not in database.health()
    own.mode = reply('{"db": "up"}')
    assert run("health").closed == ("shop",)
    assert "t0ken" not in str(database.rows("SELECT details FROM service_health"))


@pytest.mark.usefixtures("own")
def test_own_figures(run: Passes, database: Database) -> None:
    """A user's figures have services and tags.

    A failed figure affects no other figure. A figure that is not due waits.
    """
    outcome = run("metrics")
    assert outcome.warnings == ("stock.bad not recorded: division by zero",)
    rows = database.rows(
        "SELECT service, metric_name, value, tags FROM system_metrics "
        "WHERE service LIKE 'shop%' ORDER BY 1, 2"
    )
    team = {"team": "shop"}
    assert [tuple(row.values()) for row in rows] == [
        ("shop", "a", 1.0, team), ("shop", "b", 2.5, team), ("shop", "healthy", 0.0, team),
        ("shop-1", "items", 1.5, {"n": 1}), ("shop-2", "items", 3.0, {"n": 2}),
    ]  # fmt: skip
    assert database.samples()["platform", "devices_online"] == 42
    assert database.value("SELECT count(*) FROM system_metrics WHERE tags IS NULL") == 0
    # The first moment of the slot.
    database.rows("UPDATE system_metrics SET time = date_trunc('hour', now())")
    run("metrics")
    assert database.value("SELECT count(*) FROM system_metrics WHERE metric_name = 'items'") == 2
    database.rows(
        "UPDATE system_metrics SET time = date_trunc('hour', now()) - interval '1 microsecond'"
    )
    run("metrics")
    assert database.value("SELECT count(*) FROM system_metrics WHERE metric_name = 'items'") == 4
    # As if the clock was set back.
    database.rows("UPDATE system_metrics SET time = now() + interval '1 day'")
    run("metrics")
    assert database.value("SELECT count(*) FROM system_metrics WHERE metric_name = 'items'") == 6


def test_not_probed(run: Passes, database: Database) -> None:
    """A service that was not probed for lack of time keeps its row, its alert and its samples."""
    run("health")
    before = database.health()["ingest"]
    values = settings.load()

    def hurried(targets: Sequence[Target]) -> list[Observation]:
        return http.observe(targets[1:])

    with contextlib.closing(Store(values.connection)) as store:
        context = Context(values, hurried, store, time.monotonic)
        health, metrics = (function_of(name)(context) for name in ("health", "metrics"))
    assert health.unprobed == metrics.unprobed == ("ingest",)
    assert (health.opened, health.superseded, database.alerts()) == ((), (), [])
    assert database.health()["ingest"] == before
    assert ("ingest", "healthy") not in database.samples() and (
        "evaluator",
        "healthy",
    ) in database.samples()
    assert text(health).startswith(
        "health: 3 services, 3 healthy; 1 not probed: the pass's time was up ("
    )


@pytest.mark.usefixtures("run")
def test_own_limits(database: Database) -> None:
    """A service that was not probed because of a process limit has no row. The reason is named."""
    words = "this process is out of file descriptors (too many open files)"
    values = settings.load()

    def limited(targets: Sequence[Target]) -> list[Observation]:
        first = Observation(targets[0], time.monotonic(), failure=Failure.NOT_PROBED, error=words)
        return [first, *http.observe(targets[2:])]

    with contextlib.closing(Store(values.connection)) as store:
        context = Context(values, limited, store, time.monotonic)
        health, metrics = (function_of(name)(context) for name in ("health", "metrics"))
        dry = function_of("health")(context._replace(dry_run=True))
    assert health.unprobed == metrics.unprobed == dry.unprobed == ("ingest", "evaluator")
    assert health.unprobed_because == metrics.unprobed_because == ("the pass's time was up", words)
    assert {*database.health()} == {"dispatcher", "delivery_worker"}
    assert database.alerts() == []
    assert ("ingest", "healthy") not in database.samples() and (
        "dispatcher",
        "healthy",
    ) in database.samples()
    assert f"; 2 not probed: the pass's time was up, {words}" in text(health)


@pytest.mark.usefixtures("run")
def test_no_time_for_figures(database: Database) -> None:
    """A late pass leaves its figures out and writes the rest."""
    values = settings.load()
    with contextlib.closing(Store(values.connection)) as store:
        outcome = function_of("metrics")(
            Context(values, http.observe, store, lambda: time.monotonic() - 50)
        )
    assert (
        outcome.warnings[0] == "postgres.connections not recorded: the pass had no time left for it"
    )
    assert (
        database.samples()["postgres", "healthy"] == 0
        and database.samples()["ingest", "healthy"] == 1
    )


def own_rows(database: Database) -> list[tuple[str, str, float, str]]:
    """Return the worker's self-metrics: metric, pass, value, period."""
    rows = database.rows(
        "SELECT metric_name, value, tags FROM system_metrics WHERE service = 'ops_worker' "
        "ORDER BY tags ->> 'pass', metric_name"
    )
    return [
        (row["metric_name"], row["tags"]["pass"], row["value"], row["tags"]["period_s"])
        for row in rows
    ]


def test_own_metrics(run: Passes, database: Database, stubs: Stubs) -> None:
    """Every pass records self-metrics, and the health pass the latency of each service."""
    stubs["dispatcher"].mode = "503"
    stubs["evaluator"].mode = "down"
    assert run("health").warnings == ()
    run("metrics")
    durations: list[tuple[str, str, float, str]] = []
    others: list[tuple[str, str, float, str]] = []
    for row in own_rows(database):
        (durations if row[0] == "pass_duration_ms" else others).append(row)
    assert others == [
        ("maintenance", "health", 0.0, "60"), ("pass_success", "health", 1.0, "60"),
        ("services_unhealthy", "health", 2.0, "60"),
        ("pass_success", "metrics", 1.0, "60"), ("services_unhealthy", "metrics", 2.0, "60"),
    ]  # fmt: skip
    assert all(row[2] > 0 for row in durations) and len(durations) == 2
    latencies = database.rows(
        "SELECT service, value FROM system_metrics "
        "WHERE metric_name = 'probe_latency_ms' ORDER BY 1"
    )
    health = database.health()
    assert latencies == [
        {"service": series, "value": float(health[name]["latency_ms"])}
        for series, name in (
            ("delivery", "delivery_worker"),
            ("dispatcher", "dispatcher"),
            ("ingest", "ingest"),
        )
    ]
    assert (
        database.value(
            "SELECT count(DISTINCT time) FROM system_metrics WHERE service = 'ops_worker'"
        )
        == 2
    )


def test_own_metrics_of_a_shard(run: Passes, database: Database) -> None:
    """The self-metrics of a shard are tagged with the shard."""
    run.env.setenv("SHARD_COUNT", "2")
    run.env.setenv("JOB_COMPLETION_INDEX", "1")
    run("health")
    assert (
        database.value(
            "SELECT tags ->> 'shard' FROM system_metrics WHERE metric_name = 'pass_success'"
        )
        == "1/2"
    )


def test_own_metrics_off(run: Passes, database: Database) -> None:
    """Neither a pass with RECORD_OWN_METRICS off nor a dry run writes self-metrics."""
    run("health", dry_run=True)
    run.env.setenv("RECORD_OWN_METRICS", "off")
    run("health")
    run("metrics")
    assert own_rows(database) == []
    assert (
        database.value("SELECT count(*) FROM system_metrics WHERE metric_name = 'probe_latency_ms'")
        == 0
    )


def test_own_metrics_fail(run: Passes, database: Database) -> None:
    """The health pass is recorded without self-metrics if a lock or the table prevents them."""
    with psycopg.connect(database.url) as session:
        session.execute("LOCK TABLE system_metrics")
        warning, watching = run("health").warnings  # while the lock is held
    assert (
        watching
        == "nobody watches the passes metrics and rollup: canceling statement due to lock timeout"
    )
    assert warning == (
        "the worker's own figures not recorded: canceling statement due to lock timeout; "
        "RECORD_OWN_METRICS=false leaves them out"
    )
    assert len(database.health()) == 4
    database.rows("ALTER TABLE system_metrics RENAME COLUMN tags TO labels")
    first, second = run("health").warnings
    assert first.startswith('the worker\'s own figures not recorded: column "tags" of relation')
    assert second == 'nobody watches the passes metrics and rollup: column "tags" does not exist'
    database.rows("DROP TABLE system_metrics CASCADE")
    assert run("health").warnings == ()


ROW = """INSERT INTO system_metrics (time, metric_name, service, value, tags)
         SELECT now() - make_interval(secs => %s), metric, 'ops_worker', 1, %s::jsonb
         FROM unnest(ARRAY['pass_success', 'maintenance']) AS metric"""


def write_record(database: Database, name: str, age_s: float, **tags: str) -> None:
    """Write the row of a pass that was recorded ``age_s`` seconds ago."""
    database.rows(ROW, age_s, json.dumps({"pass": name, "period_s": "60"} | tags))


@pytest.mark.parametrize(
    ("name", "other", "period_s", "patience_s"),
    [("health", "metrics", 5, 90), ("metrics", "health", 60, 180)],
)
def test_watching_the_other_pass(
    run: Passes, database: Database, name: str, other: str, period_s: int, patience_s: int
) -> None:
    """A pass opens the worker's alert if its peer has stopped. A pass of the peer closes it."""
    assert run(name).opened == ()  # a peer that never ran is not missed
    write_record(database, other, patience_s - 2, period_s=str(period_s))
    assert run(name).opened == ()
    database.rows("DELETE FROM system_metrics WHERE tags ->> 'pass' = %s", other)
    write_record(database, other, patience_s + 2, period_s=str(period_s))
    run.env.setenv("JOB_NAME", "job-1")
    assert run(name).opened == ("ops_worker",)
    assert run(name).opened == ()
    (alert,) = database.alerts()
    due, age = ("5 s", "2 min") if period_s == 5 else ("1 min", "3 min")
    reason = f"no {other} pass was recorded for {age}; one is due every {due}"
    assert (alert["fingerprint"], alert["summary"]) == (
        "system-health:ops_worker",
        f"Service unhealthy: ops_worker ({reason})",
    )
    evidence = alert["details"]["evidence"]
    assert (evidence["reason"], evidence["seen_by"], evidence["job"]) == (
        reason,
        f"{name} pass",
        "job-1",
    ) and evidence["version"]
    last = database.value("SELECT max(time) FROM system_metrics WHERE tags ->> 'pass' = %s", other)
    assert datetime.fromisoformat(evidence["last_recorded"]) == last
    assert name == "metrics" or run(name).alerted == ("ops_worker",)
    database.rows("UPDATE fleet_alert SET status = 'ACKNOWLEDGED' WHERE tenant_id = '__system__'")
    run(other)
    assert database.alerts()[0]["status"] == "CLOSED"
    assert run(name).closed == ()


def test_watching_with_patience(run: Passes, database: Database) -> None:
    """No alert opens about a peer that is not overdue.

    This covers a fast loop that waits for a service, a pass by hand, a peer with a long period,
    and a pass that was away itself.
    """
    run("health")
    write_record(database, "metrics", 26, period_s="5")
    assert run("health").opened == ()
    for age_s in (250, 550, 850):
        write_record(database, "metrics", age_s, period_s="300")
    write_record(database, "metrics", 200)
    database.rows("DELETE FROM system_metrics WHERE tags ->> 'period_s' = '5'")
    assert run("health").opened == ()
    database.rows("UPDATE system_metrics SET time = time - interval '1 hour'")
    # As if the database was away for an hour: the peer gets a turn of 300 s and 90 s.
    assert run("health").opened == ()
    write_record(database, "health", 380)
    assert run("health").opened == ()
    write_record(database, "health", 395)
    assert run("health").opened == ("ops_worker",)
    database.rows("DELETE FROM system_metrics")
    run.env.setenv("PASS_PERIOD", "300")
    assert main(["metrics"]) == 0
    assert (
        database.value(
            "SELECT tags ->> 'period_s' FROM system_metrics WHERE metric_name = 'pass_success'"
        )
        == "300"
    )


def test_watching_shards(run: Passes, database: Database) -> None:
    """A stopped shard opens the alert. Shards of an earlier division are not missed."""
    run("health")
    for number in range(4):
        write_record(database, "metrics", 600, shard=f"{number}/4")
    for number in range(2):
        write_record(database, "metrics", 10, shard=f"{number}/2")
    assert run("health").opened == ()
    database.rows(
        "UPDATE system_metrics SET time = time - interval '10 minutes' "
        "WHERE tags ->> 'shard' = '1/2'"
    )
    assert run("health").opened == ("ops_worker",)
    write_record(database, "metrics", 5, shard="1/2")
    assert run("health").closed == ("ops_worker",)


def test_watching_a_shard_that_is_out_of_sight(
    run: Passes, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the rows of a stopped shard are too far back, its alert stays open until it runs again."""
    monkeypatch.setattr("ops_worker.adapters.postgres.pass_writes.WATCH_ROWS", 8)
    run("health")
    for number in range(2):
        write_record(database, "metrics", 600 - 590 * number, shard=f"{number}/2")
    assert run("health").opened == ("ops_worker",)
    for age_s in range(1, 9):
        write_record(database, "metrics", age_s, shard="1/2")
    assert run("health").closed == ()
    # The begin of a pass, up to which it reads, is early by the time of the database's answer.
    write_record(database, "metrics", 1, shard="0/2")
    assert run("health").closed == ("ops_worker",)


@pytest.mark.parametrize("is_recorded", [True, False])
def test_watching_uses_an_index(database: Database, is_recorded: bool) -> None:
    """A pass finds its peers with an index. It reads a few rows of thousands."""
    seed(database.url, 8)
    if not is_recorded:
        database.rows("DELETE FROM system_metrics WHERE tags ->> 'pass' = 'health'")
    database.rows("ANALYZE system_metrics")
    with psycopg.connect(database.url) as connection:
        now = datetime.now(UTC)
        plan = connection.execute(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {SQL['passes_now']}".encode(),
            last_seen_parameters(now, WATCH_ROWS),
        ).fetchone()
    assert plan is not None
    scans = [
        node for node in _nodes(plan[0][0]["Plan"]) if node.get("Relation Name") == "system_metrics"
    ]
    rows_read = [
        node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for node in scans
    ]
    assert (
        len(scans) == 2
        and {node["Node Type"] for node in scans} == {"Index Scan"}
        and 2 <= sum(rows_read) < 200
    )
    assert plan[0][0]["Plan"]["Total Cost"] < 100_000, (
        "from there on PostgreSQL compiles a statement, which takes longer than a pass"
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def test_watching_without_alerts_of_others(run: Passes, database: Database, tmp_path: Path) -> None:
    """Without a figure of alerts, the metrics pass watches its peers. A failure is a warning."""
    (tmp_path / "own.toml").write_text("builtin = false\n", encoding="utf-8")
    run.env.setenv("OPS_WORKER_CATALOGUE", str(tmp_path / "own.toml"))
    run("metrics")
    write_record(database, "health", 600)
    assert run("metrics").opened == ("ops_worker",)
    database.rows("DELETE FROM fleet_alert WHERE tenant_id = '__system__'")
    database.rows("ALTER TABLE fleet_alert RENAME COLUMN confidence TO certainty")
    outcome = run("metrics")
    assert (outcome.opened, len(outcome.warnings)) == ((), 1)
    assert outcome.warnings[0].startswith("nobody watches the passes health and rollup: column ")
    database.rows("DROP TABLE fleet_alert CASCADE")
    assert run("metrics").warnings == ()


def test_watching_under_row_level_security(run: Passes, database: Database, tmp_path: Path) -> None:
    """If row level security hides the alerts, a metrics pass is recorded with a warning."""
    (tmp_path / "own.toml").write_text("builtin = false\n", encoding="utf-8")
    run.env.setenv("OPS_WORKER_CATALOGUE", str(tmp_path / "own.toml"))
    database.rows("DROP ROLE IF EXISTS ops_hidden")
    database.rows("CREATE ROLE ops_hidden LOGIN PASSWORD 'x' IN ROLE pulse_operator")
    run.env.setenv("DATABASE_URL", database.as_user("ops_hidden"))
    warning = (
        "nobody watches the passes health and rollup: "
        f"row level security hides fleet_alert: {ROW_SECURITY_REMEDY}"
    )
    assert run("metrics").warnings == (warning,)
    database.rows("DROP OWNED BY ops_hidden")
    database.rows("DROP ROLE ops_hidden")


def test_best_effort_leaves_no_limits(run: Passes, database: Database) -> None:
    """The short limits of best-effort work end with it: the COMMIT has the limits of the pass."""
    limits: list[tuple[str, str]] = []
    commit = Store._commit

    def look(store: Store, connection: Any, xid: str | None) -> None:
        row = connection.execute(
            "SELECT current_setting('lock_timeout') AS lock, "
            "current_setting('statement_timeout') AS statement"
        ).fetchone()
        limits.append((row["lock"], row["statement"]))
        commit(store, connection, xid)

    run.env.setattr(Store, "_commit", look)
    write_record(database, "metrics", 10)
    run("health")
    run("metrics")
    assert limits == [("5s", "10s")] * 2


@pytest.mark.parametrize("until", ["infinity", "2999-01-01"])
def test_maintenance_without_end(run: Passes, database: Database, stubs: Stubs, until: str) -> None:
    """No alert opens during a maintenance with an infinite or very late end."""
    assert main(["init-db"]) == 0
    database.rows(
        "INSERT INTO ops_worker_maintenance (until, started_by, reason) VALUES (%s, 'kim', '')",
        until,
    )
    stubs["ingest"].mode = "down"
    assert (run("health").opened, run("metrics").warnings) == ((), ())
    assert main(["status"]) == main(["maintenance", "status"]) == 0


def test_maintenance_that_cannot_be_read(run: Passes, database: Database, stubs: Stubs) -> None:
    """If the maintenance cannot be read, alerts open, and the pass has a warning."""
    assert main(["init-db"]) == 0
    database.rows("ALTER TABLE ops_worker_maintenance RENAME COLUMN until TO till")
    stubs["ingest"].mode = "down"
    outcome = run("health")
    assert outcome.opened == ("ingest",)
    assert outcome.warnings == (
        'no maintenance could be looked for, so that alerts open: column "until" does not exist',
    )
    assert len(run("metrics").warnings) == 1


def test_not_watching(run: Passes, database: Database) -> None:
    """A pass does not watch its peers with alerts or self-metrics off, or in a dry run."""
    run("metrics")
    database.rows("UPDATE system_metrics SET time = now() - interval '1 hour'")
    assert run("health", dry_run=True).opened == ()
    run.env.setenv("RECORD_OWN_METRICS", "off")
    assert run("health").opened == ()
    run.env.setenv("RECORD_OWN_METRICS", "on")
    run.env.setenv("SYSTEM_ALERT_ENABLED", "off")
    run("metrics")
    assert database.alerts() == []


@pytest.mark.parametrize(("name", "other"), [("health", "metrics"), ("metrics", "health")])
def test_watching_in_a_dry_run(run: Passes, database: Database, name: str, other: str) -> None:
    """A dry run shows what the next pass does with the worker's own alert, and writes nothing."""
    assert run(name, dry_run=True).opened == ()
    run(name)
    write_record(database, other, 600)
    assert run(name, dry_run=True).opened == ("ops_worker",)
    assert database.alerts() == []
    for setting in ("SYSTEM_ALERT_ENABLED", "RECORD_OWN_METRICS"):
        run.env.setenv(setting, "off")
        assert run(name, dry_run=True).opened == ()
        run.env.delenv(setting)
    run.env.setenv("MAINTENANCE_UNTIL", "2999-01-01T00:00:00Z")
    assert run(name, dry_run=True).opened == ()
    run.env.delenv("MAINTENANCE_UNTIL")
    assert run(name).opened == ("ops_worker",)
    assert run(name, dry_run=True).opened == ()
    write_record(database, other, 1)
    database.rows("UPDATE fleet_alert SET status = 'ACKNOWLEDGED' WHERE tenant_id = '__system__'")
    before = database.alerts()
    assert run(name, dry_run=True).closed == ("ops_worker",)
    assert database.alerts() == before
    assert run(name).closed == ("ops_worker",)
    assert run(name, dry_run=True).closed == ()


def test_a_dry_run_says_what_would_happen_to_the_workers_own_alert(
    run: Passes, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """The closing line of both commands names the worker's own alert."""
    run("health")
    run("metrics")
    for name, other in (("health", "metrics"), ("metrics", "health")):
        database.rows("DELETE FROM system_metrics WHERE tags ->> 'pass' = %s", other)
        write_record(database, other, 600)
        assert main([name, "--dry-run"]) == 0
        assert (
            "1 alert would open: ops_worker; dry run, nothing was written"
            in capsys.readouterr().out
        )
        for age_s in (160, 1):
            write_record(database, other, age_s)
    assert database.alerts() == []
