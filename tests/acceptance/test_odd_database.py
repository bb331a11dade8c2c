"""Every command works with any setting of the session and with odd rows."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest

from ops_worker.cli import main
from tests.pooler import pooler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.acceptance

COMMANDS = (
    "init-db",
    "check",
    "health --dry-run",
    "metrics --dry-run",
    "health",
    "metrics",
    "metrics --every 3600 --for 1",
    "metrics",
    "status",
    "status --output json",
    "explain evaluator",
    "explain evaluator --output json",
    "explain ingest --at 1s",
    "explain ops_worker",
    "explain postgres",
    "report -o -",
    "history",
    "history evaluator --output json",
    "history --since 1h30m --pass health --output csv",
    "alerts list --all",
    "alerts list --output json",
    "alerts ack ID --by Zoë",
    "alerts close ID",
    "alerts prune --dry-run",
    "alerts prune",
    "maintenance start --for 1h --by Zoë --reason é→ü",
    "maintenance start --service ingest --for 1h --by Zoë --reason é→ü",
    "maintenance start --at 23:59 --zone Europe/Berlin --by Zoë",
    "maintenance status",
    "maintenance list",
    "maintenance list --output json",
    "health",
    "maintenance end",
    "catalogue check --prepare",
    "init-db --indexes",
    "health",
    "status --output json",
)
"""Every command that uses the database. ID is the number of the evaluator's alert."""


class Ran(NamedTuple):
    """A finished command: its exit code and its output."""

    command: str
    code: int
    out: str
    err: str


class Worker:
    """Runs commands in this process. The service evaluator is down."""

    def __init__(self, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
        self.database = database
        self._capsys = capsys

    def __call__(self, command: str) -> Ran:
        """Run one command."""
        if "ID" in command:
            listed = json.loads(self("alerts list --output json").out)
            (number,) = (row["id"] for row in listed if row["service"] == "evaluator")
            command = command.replace("ID", str(number))
        code = main(command.split())
        out, err = self._capsys.readouterr()
        return Ran(command, code, out, err)

    def all(self, commands: Sequence[str] = COMMANDS) -> list[Ran]:
        """Run the commands. Assert that none fails, crashes or warns about the database."""
        done = [self(command) for command in commands]
        for ran in done:
            assert ran.code == 0, ran
            assert "Traceback" not in ran.err, ran
            assert " not recorded: " not in ran.out + ran.err, ran
            assert "nobody watches" not in ran.out + ran.err, ran
            if ran.command.endswith("--output json"):
                json.loads(ran.out, parse_constant=_no_json)
        return done


def _no_json(word: str) -> None:
    raise AssertionError(word)


@pytest.fixture
def worker(
    database: Database,
    stubs: Stubs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Worker:
    """Return a worker with the test's database and services."""
    stubs["evaluator"].mode = "down"
    for name, value in (stubs.env | {"DATABASE_URL": database.url, "PASS_PERIOD": "300"}).items():
        monkeypatch.setenv(name, value)
    return Worker(database, capsys)


@contextlib.contextmanager
def role_sets(dsn: str, database: Database, settings: Sequence[str]) -> Iterator[None]:
    """Set these for the login role in the test's database while the context lasts."""
    role = f"ALTER ROLE postgres IN DATABASE {urlsplit(database.url).path[1:]}"
    with psycopg.connect(dsn, autocommit=True) as elsewhere:
        for setting in settings:
            elsewhere.execute(f"{role} SET {setting}".encode())
        yield
        elsewhere.execute(f"{role} RESET ALL".encode())


SETTINGS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "DateStyle SQL": ("DateStyle = 'SQL, DMY'",),
    "DateStyle German": ("DateStyle = 'German'",),
    "DateStyle Postgres": ("DateStyle = 'Postgres, MDY'",),
    "strings with escapes": ("standard_conforming_strings = off", "backslash_quote = off"),
    "LATIN1": ("client_encoding = 'LATIN1'",),
    "SQL_ASCII": ("client_encoding = 'SQL_ASCII'",),
    "read-only by default": ("default_transaction_read_only = on",),
    "serializable": (
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "default_transaction_read_only = on",
    ),
    "IntervalStyle": ("IntervalStyle = 'iso_8601'",),
    "a half-hour zone": ("TimeZone = 'Asia/Kathmandu'",),
    "a zone without a name": ("TimeZone = '<-07>+07:30'",),
    "search_path": ('search_path = public, "Odd, Schema", pg_temp',),
    "digits": ("extra_float_digits = -15", "bytea_output = 'escape'"),
    "low limits": (
        "statement_timeout = '250ms'",
        "lock_timeout = '1ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "idle_session_timeout = '1s'",
    ),
    "a limit of the transaction": ("transaction_timeout = '250ms'",),
    "row_security": ("row_security = off",),
    "replica": ("session_replication_role = 'replica'",),
    "a role": ("role = 'pulse_operator'",),
    "planner": ("enable_indexscan = off", "enable_bitmapscan = off", "jit_above_cost = 0"),
    "quoting": ("quote_all_identifiers = on", "array_nulls = off", "transform_null_equals = on"),
    "storage": ("synchronous_commit = off", "default_tablespace = 'pg_default'"),
}

TOGETHER = (
    ("DateStyle SQL", "strings with escapes", "a half-hour zone", "digits", "planner", "quoting"),
    ("DateStyle German", "LATIN1", "IntervalStyle", "search_path", "row_security", "storage"),
    ("DateStyle Postgres", "SQL_ASCII", "a zone without a name", "low limits", "replica"),
)
"""Settings that do not affect each other. One test covers a whole row."""


def cases() -> dict[str, tuple[str, ...]]:
    """Return the settings of each test: a row at once, or each alone with OPS_TEST_FULL."""
    if os.environ.get("OPS_TEST_FULL"):
        return SETTINGS
    in_rows = {*itertools.chain(*TOGETHER)}
    alone = {name: settings for name, settings in SETTINGS.items() if name not in in_rows}
    rows = {
        ", ".join(names): tuple(itertools.chain(*(SETTINGS[name] for name in names)))
        for names in TOGETHER
    }
    return alone | rows


ENVIRONMENT: dict[str, dict[str, str]] = {
    "PGDATESTYLE, PGCLIENTENCODING, PGTZ, PGAPPNAME": {
        "PGDATESTYLE": "SQL,DMY",
        "PGCLIENTENCODING": "LATIN1",
        "PGTZ": "Australia/Lord_Howe",
        "PGAPPNAME": "ü",
    },
    "PGOPTIONS": {
        "PGOPTIONS": "-c standard_conforming_strings=off "
        "-c default_transaction_read_only=on -c DateStyle=German"
    },
}


def claim_rows(database: Database) -> None:
    """Assert that the commands leave the same rows as in any other database."""
    now = datetime.now(UTC)
    rows = database.health()
    assert rows["evaluator"]["status"] == "unhealthy"
    for row in rows.values():
        assert abs(row["checked_at"] - now) < timedelta(minutes=10)
        assert abs(datetime.fromisoformat(row["details"]["since"]) - now) < timedelta(minutes=10)
    first, *_ = database.alerts()
    assert (first["status"], first["acknowledged_by"]) == ("CLOSED", "Zoë")
    resolved = datetime.fromisoformat(first["details"]["resolved_at"])
    assert resolved == first["closed_at"]
    database.rows("UPDATE service_health SET checked_at = now() - interval '10 minutes'")
    current = database.rows("SELECT service, status FROM service_health_current")
    assert {row["service"]: row["status"] for row in current} == {
        "ingest": "healthy",
        "evaluator": "unhealthy",
        "dispatcher": "healthy",
        "delivery_worker": "healthy",
    }


def claim_screens(done: Sequence[Ran]) -> None:
    """Assert that the commands print the same as with any other database."""
    outputs = {ran.command: ran.out for ran in done}
    status = json.loads(outputs["status --output json"])
    assert [row["period_s"] for row in status["passes"] if row["pass"] == "health"] == [300.0]
    states = {row["service"]: row["state"] for row in status["services"]}
    assert states == {
        "ingest": "healthy",
        "evaluator": "down",
        "dispatcher": "healthy",
        "delivery_worker": "healthy",
    }
    sentence = " ".join(outputs["explain evaluator"].split())
    assert "evaluator is down, unhealthy since 20" in sentence
    assert re.search(r"^ok +writable +yes", outputs["check"], re.MULTILINE)
    assert "started by Zoë: é→ü" in outputs["maintenance status"]
    assert re.search(
        r"^ops_worker is healthy|: ops_worker is healthy",
        outputs["explain ops_worker"],
        re.MULTILINE,
    )


@pytest.mark.parametrize("settings", cases().values(), ids=list(cases()))
def test_settings(worker: Worker, dsn: str, settings: tuple[str, ...]) -> None:
    """Every command works the same with any setting of the role."""
    skip_unknown(worker.database, settings)
    worker.database.rows('CREATE SCHEMA "Odd, Schema"')
    if settings == SETTINGS["a role"]:  # this role may create no table
        worker("init-db")
    with role_sets(dsn, worker.database, settings):
        done = worker.all()
    claim_screens(done)
    claim_rows(worker.database)


def skip_unknown(database: Database, settings: Sequence[str]) -> None:
    """Skip the test if the server does not know a setting."""
    for setting in settings:
        if database.value("SELECT current_setting(%s, true)", setting.split(" = ")[0]) is None:
            pytest.skip(f"this server does not know {setting}")


@pytest.mark.parametrize("env", ENVIRONMENT.values(), ids=list(ENVIRONMENT))
def test_environment(worker: Worker, monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    """Every command works the same with any environment variable of libpq."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    claim_screens(worker.all())
    for name in env:
        monkeypatch.delenv(name)
    claim_rows(worker.database)


def test_behind_a_pooler(
    worker: Worker, dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command works behind a pooler in transaction mode and keeps its session unchanged."""
    with pooler(worker.database.url, tmp_path) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        for name in POOLED:
            database = worker.database
            with role_sets(dsn, database, SETTINGS[name]):
                # The pooler opens a new session with these settings.
                with psycopg.connect(dsn, autocommit=True) as elsewhere:
                    elsewhere.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                        [urlsplit(database.url).path[1:]],
                    )
                claim_screens(worker.all())
                with psycopg.connect(url, prepare_threshold=None) as connection:
                    values = connection.execute(SHOWN).fetchone()
            assert values == ("0", "0", "0"), name
            claim_rows(database)


POOLED = ("DateStyle German", "strings with escapes", "LATIN1", "read-only by default")
SHOWN = """SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),
       current_setting('idle_in_transaction_session_timeout')"""

REFUSED = {
    "no schema": ("search_path = '\"$user\"'", "search_path"),
    "temporary": ("search_path = pg_temp, public", "begins with pg_temp"),
}


@pytest.mark.parametrize(("setting", "words"), REFUSED.values(), ids=list(REFUSED))
def test_settings_in_the_way(worker: Worker, dsn: str, setting: str, words: str) -> None:
    """A setting that makes passes impossible ends with exit code 3 and is named."""
    with role_sets(dsn, worker.database, [setting]):
        done = worker("health")
    assert done.code == 3
    assert words in done.err and "ALTER ROLE" in done.err


TIMES = (
    "infinity",
    "-infinity",
    "294276-12-31 23:59:59.999999+00",
    "10000-01-01 00:00:00+00",
    "9999-12-31 23:59:59.999999+00",
    "4713-01-01 00:00:00+00 BC",
    "0001-01-01 00:00:00+00",
    "tomorrow",
)
DOCUMENTS = (
    "[]",
    '"text"',
    "7",
    "null",
    "{}",
    '{"status": 5, "since": 5, "streak": "x", "error": ["a"], "http_status": {}, "reason": null}',
    '{"status": "a\\nb", "since": "infinity", "streak": -9, "error": {"a": 1}}',
    '{"status": "down", "since": "9999-12-31T23:59:59+00:00", "streak": 1e400, "error": 1e400}',
    '{"status": null, "since": "0001-01-01T00:00:00+14:00", "streak": true, "error": null}',
    f'{{"status": "down", "streak": {"9" * 5000}}}',
    f'{{"deep": {"[" * 3000}1{"]" * 3000}}}',
)
WITH_TIME = """
UPDATE service_health
SET checked_at = {0}, details = jsonb_set(details, '{{since}}', to_jsonb({0}::text));
UPDATE fleet_alert SET created_at = {0};
INSERT INTO fleet_alert
    (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary,
     acknowledged_by, acknowledged_at, closed_at)
VALUES
    ('__system__', '', '', '', 'system-health:dispatcher', 'ACKNOWLEDGED', 's', 'x', {0}, NULL),
    ('__system__', '', '', '', 'system-health:ingest', 'CLOSED', 's', 'x', {0}, {0});
INSERT INTO system_metrics SELECT {0}, metric_name, service, tags, value FROM system_metrics;
UPDATE system_metrics SET time = {0} WHERE service = 'ingest';
INSERT INTO ops_worker_maintenance (until, started_at, started_by) VALUES ({0}, {0}, 'x');
INSERT INTO ops_worker_maintenance_log (until, started_at, ended_at, started_by)
VALUES
    ({0}, {0}, {0}, 'x'),
    ('infinity', '2000-01-01', NULL, 'x'),
    ({0}, now() - interval '1 hour', NULL, 'x');
INSERT INTO ops_worker_maintenance_window
    (begins, created_at, ended_at, duration_s, recurrence, started_by)
VALUES
    ({0}, {0}, NULL, 60, '', 'x'),
    ({0}, {0}, {0}, 60, 'day 00:00', 'x'),
    (now(), {0}, {0}, 60, 'day 00:00', 'x')
"""
"""Write a time into every column that can hold one."""
WITH_JSON = """
UPDATE service_health SET details = {0};
UPDATE fleet_alert
SET details = CASE WHEN id % 2 = 0 THEN {0} ELSE jsonb_build_object('evidence', {0}) END;
INSERT INTO fleet_alert
    (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary, details)
VALUES ('__system__', '', '', '', 'system-health:dispatcher', 'OPEN', 's', {0});
INSERT INTO system_metrics
SELECT time - interval '1 ms', metric_name, service, {0}, value FROM system_metrics;
UPDATE system_metrics SET tags = {0} WHERE service = 'ingest'
"""
"""Write a JSON value into every column that can hold one."""
STATEMENTS = {
    "times without a zone": """DROP VIEW service_health_current;
        ALTER TABLE service_health ALTER checked_at TYPE timestamp;
        ALTER TABLE fleet_alert ALTER created_at TYPE timestamp, ALTER closed_at TYPE timestamp;
        ALTER TABLE ops_worker_maintenance ALTER until TYPE timestamp;
        ALTER TABLE ops_worker_maintenance_window
        ALTER begins TYPE timestamp, ALTER ended_at TYPE timestamp""",
    "no values": """UPDATE service_health SET latency_ms = NULL;
        UPDATE system_metrics SET service = NULL, tags = NULL WHERE service <> 'postgres'""",
    "odd values": """INSERT INTO system_metrics
        SELECT time - interval '1 ms', metric_name, service, tags, v FROM system_metrics,
        unnest('{NaN,Infinity,-Infinity,1e308,-1e308,5e-324}'::float8[]) AS v""",
    "odd shards": """INSERT INTO system_metrics
        SELECT time - interval '1 ms', metric_name, service,
        tags || jsonb_build_object('shard', s, 'period_s', p), value FROM system_metrics,
        unnest('{0/0,1/0,9/3,x,""}'::text[], '{0,-1,999999.9,NaN,1e9}'::text[]) AS o (s, p)
        WHERE service = 'ops_worker'""",
    "odd words": """UPDATE service_health
        SET status = E'\\x01\\n' || repeat('x', 9999), latency_ms = -5;
        UPDATE fleet_alert
        SET summary = E'\\x1b[2J' || repeat('y', 9999), acknowledged_by = E'\\n';
        UPDATE system_metrics SET metric_name = metric_name || E'\\n'
        WHERE service NOT IN ('ops_worker', 'postgres')""",
    "odd services": """INSERT INTO service_health (service, status)
        VALUES ('', ''), (E'\\n\\x07', 'x');
        INSERT INTO fleet_alert
            (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary)
        VALUES
            ('__system__', '', '', '', 'system-health:', 'OPEN', ''),
            ('__system__', '', '', '', 'system-health:a:b', 'ACKNOWLEDGED', '');
        INSERT INTO system_metrics (time, metric_name, service, value) VALUES (now(), '', '', 1)""",
}
ROWS = {
    **{f"time {time}": WITH_TIME.format(f"timestamptz '{time}'") for time in TIMES},
    **{
        f"JSON {number}": WITH_JSON.format(f"'{text}'::jsonb")
        for number, text in enumerate(DOCUMENTS)
    },
    **STATEMENTS,
}
LOOKING = (
    "check",
    "status",
    "report -o -",
    "status --output json",
    "explain evaluator",
    "explain evaluator --output json",
    "explain ingest --at 1s",
    "explain ops_worker",
    "explain postgres --output json",
    "alerts list --all",
    "alerts list --output json",
    "maintenance status",
    "maintenance list --output json",
    "alerts prune --dry-run",
    "health --dry-run",
    "metrics --dry-run",
)
WRITING = (
    "metrics",
    "metrics --every 3600 --for 1",
    "health --output json",
    "alerts ack ID",
    "alerts close ID",
    "alerts prune",
    "maintenance start --for 1h --replace",
    "maintenance start --service ingest",
    "maintenance end",
    "health",
)


@pytest.mark.parametrize("statements", ROWS.values(), ids=list(ROWS))
def test_rows(worker: Worker, statements: str) -> None:
    """No command fails on rows that a person or a restored backup left. Passes repair the rows."""
    database = worker.database
    worker.all(("init-db", "health", "metrics"))
    for statement in statements.split(";\n"):
        database.rows(statement)
    outputs = {ran.command: ran.out for ran in worker.all(LOOKING)}
    alerts = json.loads(outputs["status --output json"])["alerts"]
    (number,) = (row["id"] for row in alerts if row["service"] == "evaluator")
    assert f"alert {number} is open" in outputs["explain evaluator"]
    explained = json.loads(outputs["explain evaluator --output json"])["alerts"]
    assert [row["id"] for row in explained if row["open"]] == [number]
    assert f'data-label="Alert">{number}</td>' in outputs["report -o -"]

    worker.all(WRITING)
    now = datetime.now(UTC)
    rows = database.health()
    assert {name for name, row in rows.items() if row["status"] == "healthy"} == {
        "ingest",
        "dispatcher",
        "delivery_worker",
    }
    for row in rows.values():
        checked_at = row["checked_at"].replace(tzinfo=UTC)
        assert now - timedelta(minutes=10) < checked_at <= now + timedelta(minutes=1)
        assert datetime.fromisoformat(row["details"]["since"]) <= now + timedelta(minutes=1)
    open_alerts = database.rows(
        "SELECT fingerprint FROM fleet_alert WHERE tenant_id = '__system__' AND status <> 'CLOSED'"
    )
    assert open_alerts == [{"fingerprint": "system-health:evaluator"}]


@pytest.mark.parametrize("moment", TIMES)
def test_a_maintenance_of_any_time(worker: Worker, moment: str) -> None:
    """A maintenance with odd times is replaced if it is over. Otherwise it is reported."""
    worker.all(("init-db",))
    worker.database.rows(
        "INSERT INTO ops_worker_maintenance (until, started_at, started_by) VALUES (%s, %s, 'x')",
        moment,
        moment,
    )
    done = worker("maintenance start --for 1h --by x")
    is_over = moment.startswith(("-", "0")) or moment.endswith("BC")
    assert done.code == (0 if is_over else 2), done
    assert is_over or "another maintenance is running" in done.err
