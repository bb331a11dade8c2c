"""Tables that refuse the rows of a pass.

The pass ends with 3 and names the remedy. `check` finds the fault beforehand.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from ops_worker.adapters.postgres import CHECK, Store
from ops_worker.cli import main
from ops_worker.core.self_check import FAULT, OK, WARNING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.acceptance

RAISES = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '{}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION refuse()"""
PARTITIONED = """ALTER TABLE system_metrics RENAME TO plain;
CREATE TABLE system_metrics (LIKE plain) PARTITION BY RANGE (time);
CREATE TABLE last_year PARTITION OF system_metrics
FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')"""
SHAPE = "`ops-worker check` names each difference"
"""A pass's remedy for a table of another shape. `check` refers to the lines of the tables."""
REFUSED = {
    "check": (
        "ALTER TABLE system_metrics ADD CHECK (metric_name <> 'healthy')",
        "metrics",
        "change the CHECK constraint",
    ),
    "no partition for now": (PARTITIONED, "metrics", "create the partition for now"),
    "no key of services": (
        "ALTER TABLE service_health DROP CONSTRAINT service_health_pkey",
        "health",
        SHAPE,
    ),
    "no key of tenants": (
        "ALTER TABLE tenants DROP CONSTRAINT tenants_pkey CASCADE",
        "health",
        SHAPE,
    ),
    "a trigger": (
        RAISES.format("P0001", "fleet_alert"),
        "health",
        "not today: a trigger, rule or function",
    ),
    "a foreign key": (
        "ALTER TABLE system_metrics ADD FOREIGN KEY (service) REFERENCES tenants",
        "metrics",
        "foreign key",
    ),
    "a unique index": (
        "CREATE UNIQUE INDEX ON system_metrics (time)",
        "metrics",
        "drop the unique or exclusion constraint",
    ),
    "another column": (
        "ALTER TABLE system_metrics ADD x int NOT NULL",
        "metrics",
        "`ALTER TABLE system_metrics ALTER COLUMN x DROP NOT NULL`",
    ),
    "a generated column": (
        """ALTER TABLE fleet_alert DROP COLUMN severity;
        ALTER TABLE fleet_alert ADD severity integer GENERATED ALWAYS AS (5) STORED""",
        "health",
        "or a generated column",
    ),
    "out of range": (
        """DROP VIEW system_metrics_latest, system_metrics_recent, service_health_current;
        ALTER TABLE system_metrics ALTER value TYPE numeric(5, 2)""",
        "metrics",
        SHAPE,
    ),
    "too long": (
        "DELETE FROM fleet_alert; ALTER TABLE fleet_alert ALTER summary TYPE varchar(9)",
        "health",
        SHAPE,
    ),
    "another type": (
        """DROP VIEW service_health_current;
        ALTER TABLE service_health ALTER checked_at DROP DEFAULT;
        ALTER TABLE service_health ALTER checked_at TYPE integer USING 0""",
        "health",
        SHAPE,
    ),
    "a view": (
        """ALTER TABLE system_metrics RENAME TO plain;
        CREATE VIEW system_metrics AS SELECT DISTINCT * FROM plain""",
        "metrics",
        "the worker has to write to a table, not to a view",
    ),
    "at the commit": (
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'too late'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON system_metrics
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()""",
        "metrics",
        "too late: a trigger, rule or function",
    ),
}


@pytest.fixture
def prepared(database: Database, stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Return a database with its tables that the settings name. The service evaluator is down."""
    stubs["evaluator"].mode = "down"
    for name, value in (stubs.env | {"DATABASE_URL": database.url}).items():
        monkeypatch.setenv(name, value)
    assert main(["init-db"]) == 0
    return database


def writable(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Return the state of the finding `writable` of `check`, and its text with the remedy."""
    capsys.readouterr()
    main(["check", "--output", "json"])
    (finding,) = (
        row
        for row in json.loads(capsys.readouterr().out)["findings"]
        if row["subject"] == "writable"
    )
    return finding["state"], f"{finding['found']}: {finding['remedy']}"


def counts(database: Database) -> list[int]:
    """Return the number of rows of each table that a pass writes."""
    names = ("system_metrics", "service_health", "fleet_alert", "tenants")
    return [database.value(f"SELECT count(*) FROM {name}") for name in names]


@pytest.mark.parametrize(("statements", "command", "words"), REFUSED.values(), ids=list(REFUSED))
def test_refused(
    prepared: Database,
    capsys: pytest.CaptureFixture[str],
    statements: str,
    command: str,
    words: str,
) -> None:
    """A pass that no retry helps ends with 3 and a remedy. `check` reports it and keeps no row."""
    prepared.rows(statements)
    before = counts(prepared)
    state, text = writable(capsys)
    assert state == FAULT
    assert ("see the lines of the tables below" if words == SHAPE else words) in text
    assert counts(prepared) == before
    assert main([command]) == 3
    assert words in capsys.readouterr().err
    assert counts(prepared)[0] == before[0] or command == "health"


def test_no_right_to_a_sequence(
    prepared: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing right to a sequence names the sequence, not its table, and the remedy grants it."""
    prepared.rows("CREATE ROLE ops_numberless LOGIN PASSWORD 'x' BYPASSRLS")
    prepared.rows("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO ops_numberless")
    monkeypatch.setenv("DATABASE_URL", prepared.as_user("ops_numberless"))
    state, text = writable(capsys)
    assert (
        state == FAULT and "fleet_alert_id_seq" in text and "grant that to the login role" in text
    )
    assert main(["health"]) == 3
    assert "grant that to the login role" in capsys.readouterr().err
    monkeypatch.undo()
    prepared.rows("DROP OWNED BY ops_numberless")
    prepared.rows("DROP ROLE ops_numberless")


def test_a_row_that_does_not_arrive(prepared: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """`check` finds a trigger that silently drops rows, because it reads each row back."""
    prepared.rows(
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    )
    prepared.rows(
        "CREATE TRIGGER lose BEFORE INSERT ON fleet_alert FOR EACH ROW EXECUTE FUNCTION lose()"
    )
    assert writable(capsys) == (
        FAULT,
        "fleet_alert: a row did not arrive: a trigger or rule keeps it away: change that",
    )


def test_what_passes(prepared: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk is a temporary failure: exit code 1, and a remedy."""
    prepared.rows(RAISES.format("53100", "system_metrics"))
    assert main(["metrics"]) == 1
    assert "free disk space on the server" in capsys.readouterr().err


def test_check_leaves_nothing(prepared: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows that `check` tries send no notification, remain nowhere and block nobody."""
    assert main(["health"]) == 0
    before = counts(prepared)
    with psycopg.connect(prepared.url, autocommit=True) as listener:
        listener.execute("LISTEN new_fleet_alert")
        assert writable(capsys) == (OK, "yes: a row of each table was written and rolled back: ")
        assert list(listener.notifies(timeout=0)) == []
    assert counts(prepared) == before


def test_two_checks(prepared: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """The second of two checks does not try to write. `check` does not wait for a held lock."""
    store = Store({"conninfo": prepared.url})

    def inside(_: object) -> tuple[str, str]:
        return writable(capsys)

    assert store.write(CHECK, inside) == (
        WARNING,
        "not tried: another `ops-worker check` is running: run it again",
    )
    store.close()
    with psycopg.connect(prepared.url) as holder:
        holder.execute("LOCK TABLE system_metrics IN SHARE MODE")
        state, text = writable(capsys)
    assert state == FAULT and "see pg_locks" in text


def test_check_without_tables(prepared: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing table and hidden rows are faults of the finding `writable`."""
    prepared.rows("DROP TABLE system_metrics CASCADE")
    prepared.rows("CREATE ROLE ops_blind LOGIN PASSWORD 'x'")
    prepared.rows("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO ops_blind")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("DATABASE_URL", prepared.as_user("ops_blind"))
        state, text = writable(capsys)
    assert state == FAULT
    assert (
        "system_metrics: not there" in text
        and "fleet_alert: row level security hides its rows" in text
    )
    prepared.rows("DROP OWNED BY ops_blind")
    prepared.rows("DROP ROLE ops_blind")


@pytest.fixture
def login(prepared: Database) -> Iterator[str]:
    """Yield the URL of a login role that may open no connection."""
    prepared.rows("CREATE ROLE ops_limited LOGIN PASSWORD 'x' CONNECTION LIMIT 0")
    yield prepared.as_user("ops_limited")
    prepared.rows("DROP ROLE ops_limited")


def test_too_many_connections(
    prepared: Database, login: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CONFIRM_FAILURES, a pass tries again if the server has no free connection."""
    waited: list[float] = []

    def make_room(seconds: float) -> None:
        waited.append(seconds)
        prepared.rows(sql.SQL("ALTER ROLE ops_limited CONNECTION LIMIT -1").as_string(None))

    monkeypatch.setattr("ops_worker.adapters.postgres.connection.time.sleep", make_room)
    monkeypatch.setenv("DATABASE_URL", login)
    monkeypatch.setenv("CONFIRM_FAILURES", "1")
    monkeypatch.setenv("CONFIRM_DELAY", "0.25")
    assert main(["metrics"]) == 3  # the connection is open, but the role has no rights
    assert waited == [0.25]
