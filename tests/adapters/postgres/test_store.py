"""The store: queries, settings of a session, locks, retries, figures, and indexes."""

from __future__ import annotations

import contextlib
import math
import re
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest

import ops_worker.adapters.postgres
from ops_worker import sql
from ops_worker.adapters.postgres import (
    RetryPolicy,
    Store,
    pass_writes,
    rollup_writes,
    sql_metrics,
)
from ops_worker.adapters.postgres.connection import backoff
from ops_worker.adapters.postgres.operations import TIME_COLUMNS
from ops_worker.adapters.postgres.specs import SPAN_TABLE
from ops_worker.adapters.postgres.transaction import SQL
from ops_worker.adapters.postgres.types import FIRST, LAST
from ops_worker.catalogue import Surroundings, load
from ops_worker.core.backlog import Pending
from ops_worker.core.health import plan
from ops_worker.core.model import Figure, Recorded, Sample, State, Target, Thresholds, Verdict
from ops_worker.core.passes import DOUBT_TABLE, HEALTH, LEDGER_TABLES, METRICS
from ops_worker.core.schema import OWN, VERSIONS
from ops_worker.errors import (
    CommitUnknownError,
    DatabaseError,
    NotWritableError,
    OpsWorkerError,
    SchemaError,
    SettingsError,
    StatementTimeoutError,
)
from tests.postgres import PASSWORD, Postgres
from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ops_worker.adapters.postgres import Transaction
    from tests.conftest import Database

pytestmark = pytest.mark.integration


PENDING = Pending(0.0, (Sample("a", "b", 1.0),))


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """Yield a store on the test's database."""
    opened = Store({"conninfo": database.url})
    yield opened
    opened.close()


def verdict(name: str, *, healthy: bool, taken_at: float = 0.0) -> Verdict:
    """Return a verdict on a service."""
    target = Target(name, "", name, ())
    return (
        Verdict(target, taken_at, State.HEALTHY, "", 3, 200, {})
        if healthy
        else Verdict(target, taken_at, State.DOWN, "Connection refused")
    )


def record(
    store: Store,
    verdicts: Sequence[Verdict],
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - it is immutable
) -> Recorded | None:
    """Record verdicts whose observations were made now."""

    def keep(transaction: Transaction) -> Recorded:
        before = pass_writes.known_states(transaction, [v.target.name for v in verdicts])
        return pass_writes.record_health(
            transaction,
            plan(verdicts, before, thresholds, lambda _: transaction.now, transaction.now),
        )

    return store.write(HEALTH.transaction, keep)


def test_every_query_is_prepared_and_used(database: Database) -> None:
    """The server accepts each named statement, and each one is used."""
    queries = sql.queries()
    with contextlib.closing(Store({"conninfo": database.url})) as store:
        store.create([table for table in OWN if table != VERSIONS])
    with psycopg.connect(database.url) as connection:
        for name, statement in queries.items():
            if name == "hypertable_size" and not database.is_hypertable:
                continue  # TimescaleDB defines its functions
            numbers: dict[str, int] = {}
            prepared = re.sub(
                r"%\((\w+)\)s",
                lambda match: f"${numbers.setdefault(match[1], len(numbers) + 1)}",
                statement,
            )
            if not re.search(r"^(BEGIN|COMMIT|ROLLBACK)", prepared, re.MULTILINE):
                connection.execute(f"PREPARE {name} AS {prepared.replace('%%', '%')}")
    source = "".join(
        path.read_text() for path in Path(ops_worker.adapters.postgres.__file__).parent.glob("*.py")
    )
    used = set(re.findall(r'SQL\["(\w+)"', source)) | set(
        re.findall(r'SQL\["(\w+)" if \w+ else "\w+"\]', source)
    )
    used |= set(re.findall(r'SQL\["\w+" if \w+ else "(\w+)"\]', source))
    used |= set(re.findall(r'\.execute\("(\w+)"', source))
    used |= set(re.findall(r'\.query\(\s*\w+, "(\w+)"', source))
    used |= set(re.findall(r'\.rows\(\s*\w+\._make, "(\w+)"', source))
    used |= {f"oldest_of_{name}" for name in TIME_COLUMNS if name != SPAN_TABLE}
    used |= {step.statement for step in (*rollup_writes.HISTORY_STEPS, rollup_writes.SAMPLES_STEP)}
    assert set(queries) == used


@pytest.mark.parametrize(
    ("url", "names"),
    [
        # A user and a password without an @: libpq takes them for host and port.
        ("postgresql://iot:hush", "port"),
        ("postgresql://iot:hush@127.0.0.1:99999/d", "port"),
        ("postgresql://iot:hush@127.0.0.1:9,127.0.0.1:x/d", "port"),
        ("postgresql://iot:hush@127.0.0.1:9/d?port=1,2", "port"),
        ("postgresql://iot:hush@127.0.0.1:9/d?sslmode=hush", "sslmode"),
        ("postgresql://iot:hush@127.0.0.1:9/d?port=hush&sslmode=hush", "port, sslmode"),
        ("postgresql://iot:hush@127.0.0.1:9/d?target_session_attrs=hush", "target_session_attrs"),
        ("postgresql://iot:hush@127.0.0.1:9/d?connect_timeout=hush", "connect_timeout"),
        ("postgresql://iot:hush@127.0.0.1:9/d?keepalives_idle=hush", "keepalives_idle"),
        (
            "postgresql://iot:hush@127.0.0.1:9,127.0.0.1:9,127.0.0.1:9/d?hostaddr=127.0.0.1",
            "host and hostaddr, which have to be equally many",
        ),
    ],
)
def test_parameters_that_libpq_refuses(url: str, names: str) -> None:
    """A value that libpq refuses is a fault of the settings. It is named and never shown."""
    with pytest.raises(SettingsError) as caught:
        Store({"conninfo": url}).write(METRICS.transaction, lambda _: None)
    assert str(caught.value).startswith(f"DATABASE_URL or PG_*: libpq refuses the value of {names}")
    assert "hush" not in str(caught.value)


def test_variables_that_libpq_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad environment variable of libpq is reported as such, without its value."""
    monkeypatch.setenv("PGSSLMODE", "hush")
    with pytest.raises(SettingsError, match="an environment variable that libpq reads") as caught:
        Store({"conninfo": "postgresql://iot@127.0.0.1:9/d"}).write(
            METRICS.transaction, lambda _: None
        )
    assert "hush" not in str(caught.value)


class Refusing:
    """A server that refuses and counts all connections, with a message in any language."""

    def __init__(self, state: str, words: str) -> None:
        fields = {"S": "ВАЖНО", "V": "FATAL", "C": state, "M": words}
        body = (
            b"".join(key.encode() + value.encode() + b"\0" for key, value in fields.items()) + b"\0"
        )
        self._answer = b"E" + (len(body) + 4).to_bytes(4, "big") + body
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1  # before the answer, because the client continues after it
                with client:
                    client.recv(1000)
                    client.sendall(self._answer)

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("57P03", "система баз данных запускается"),
        ("53300", "извините, уже слишком много клиентов"),
        ("08P01", "no more connections allowed (max_client_conn)"),
    ],
)
def test_refused_in_any_language(state: str, words: str) -> None:
    """A server that starts or is full is tried again as often as CONFIRM_FAILURES says."""
    with contextlib.closing(Refusing(state, words)) as server:
        store = Store(
            {"host": "127.0.0.1", "port": server.port, "sslmode": "disable"},
            connect_retries=RetryPolicy(2, 0.0),
        )
        with pytest.raises(DatabaseError, match="no connection to database"):
            store.write(METRICS.transaction, lambda _: None)
        asked_for_its_databases = 1
        assert server.connections == 3 + asked_for_its_databases


STATES: list[tuple[str, type[OpsWorkerError], str]] = [
    ("22001", SchemaError, "`ops-worker check` names each difference"),
    ("22003", SchemaError, "`ops-worker check` names each difference"),
    ("22023", SchemaError, "set PG_ROLE to a role that exists"),
    ("23502", SchemaError, "allow NULL in the column"),
    ("23503", SchemaError, "foreign key"),
    ("23505", SchemaError, "unique or exclusion constraint"),
    ("23514", SchemaError, "create the partition for now"),
    ("25006", NotWritableError, "at the primary"),
    ("28P01", DatabaseError, "check PG_USER, PG_PASS or DATABASE_URL"),
    ("3D000", DatabaseError, "check PG_DB or DATABASE_URL"),
    ("3F000", SchemaError, "search_path"),
    ("42501", SchemaError, "grant that to the login role"),
    ("42703", SchemaError, "`ops-worker check` names each difference"),
    ("42804", SchemaError, "`ops-worker check` names each difference"),
    ("42P01", SchemaError, "`ops-worker check` names each difference"),
    ("42P10", SchemaError, "`ops-worker check` names each difference"),
    ("428C9", SchemaError, "not to a view or a generated column"),
    ("44000", SchemaError, "a trigger, rule or function"),
    ("53100", DatabaseError, "free disk space"),
    ("53200", DatabaseError, "no memory"),
    ("53400", DatabaseError, "a limit of its own"),
    ("54000", SchemaError, "too large"),
    ("55000", SchemaError, "not to a view or a generated column"),
    ("55P03", DatabaseError, "see pg_locks"),
    ("57014", StatementTimeoutError, "see pg_stat_activity"),
    ("58030", DatabaseError, "see its log"),
    ("0A000", SchemaError, "use an ordinary table"),
    ("HV000", SchemaError, "foreign table"),
    ("P0001", SchemaError, "a trigger, rule or function"),
    ("XX000", DatabaseError, "see its log"),
    ("XX001", SchemaError, "restore a backup"),
    ("25001", DatabaseError, "x"),
]


@pytest.mark.parametrize(("state", "kind", "remedy"), STATES, ids=[state for state, _, _ in STATES])
def test_states(store: Store, state: str, kind: type[OpsWorkerError], remedy: str) -> None:
    """The SQLSTATE decides about the error and its remedy: messages may be in any language."""

    def work(transaction: Transaction) -> None:
        transaction.connection.execute(
            f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$".encode()
        )

    with pytest.raises(OpsWorkerError, match=re.escape(remedy)) as caught:
        store.write(METRICS.transaction, work)
    assert type(caught.value) is kind


def test_elsewhere(database: Database) -> None:
    """A table outside search_path is named with its schema, and the setting is named too."""
    database.rows('CREATE SCHEMA "Odd"; ALTER TABLE fleet_alert SET SCHEMA "Odd"')
    store = Store({"conninfo": database.url})
    with pytest.raises(
        SchemaError,
        match=r'there is "Odd"\.fleet_alert, which search_path \(.*public.*\) does not reach',
    ):
        store.write(HEALTH.transaction, lambda _: None)
    store.close()


EXTREME_TIMES = {
    "infinity": LAST,
    "-infinity": FIRST,
    "294276-12-31 23:59:59.999999+00": LAST,
    "10000-01-01 00:00:00+00": LAST,
    "0044-03-15 12:00:00+00 BC": FIRST,
    "4713-01-01 00:00:00+00 BC": FIRST,
    "0001-01-01 00:00:00+01": FIRST,
    "9999-12-31 23:59:59-01": LAST,
    "2026-03-01 12:00:00.5+05:45": datetime(2026, 3, 1, 6, 15, 0, 500_000, tzinfo=UTC),
    "1900-01-01 00:00:00+00": datetime(1900, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/St_Johns"])
def test_any_time_is_read(store: Store, zone: str) -> None:
    """A time that Python cannot hold is read as its first or last one, in any time zone."""

    def work(transaction: Transaction) -> list[Any]:
        execute = transaction.connection.execute
        execute("SELECT set_config('TimeZone', %s, true)", [zone])
        return [
            execute("SELECT %s::timestamptz AS t", [text]).fetchall()[0]["t"]
            for text in EXTREME_TIMES
        ]

    assert store.write(METRICS.transaction, work) == list(EXTREME_TIMES.values())


def test_figures_of_odd_values(store: Store) -> None:
    """A value that Python cannot hold invalidates its figure, an invalid row only that row."""
    date = Figure("x", "date", "SELECT 'infinity'::date AS value")
    rows = Figure(
        "x",
        "rows",
        "SELECT * FROM (VALUES ('a', 1::numeric), ('b', 'NaN'), ('c', NULL), (NULL, 4)) "
        "AS t (service, value)",
    )
    readings = store.write(
        METRICS.transaction,
        lambda transaction: sql_metrics.read_figures(transaction, [date, rows], 0.0, math.inf),
    )
    assert readings is not None
    assert "date too large" in readings[0].problem and not readings[0].samples
    assert [(sample.service, sample.value) for sample in readings[1].samples] == [("a", 1.0)]
    assert [fault.split(" returns")[0] for fault in readings[1].faults] == [
        "row 2 (b)",
        "row 3 (c)",
        "row 4 has no `service`",
    ]


def test_bad_uri() -> None:
    """A URI that libpq cannot parse is a fault of the settings, shown without its password."""
    bad: dict[str, str | int] = {"conninfo": "postgresql://iot:secret@host/db?no_such_parameter=1"}
    hint = "check its parameters and %-escapes"
    with pytest.raises(SettingsError) as caught:
        Store(bad)
    assert caught.value.faults == (f"libpq cannot parse DATABASE_URL: {hint}",)
    with pytest.raises(SettingsError) as caught:
        Store(bad, changing=lambda: bad)
    assert caught.value.faults == (f"libpq cannot parse DATABASE_URL_FILE: {hint}",)


ROLE_SETS = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "statement_timeout": "700ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "transaction_timeout": "700ms",
    "standard_conforming_strings": "off",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "client_encoding": "LATIN1",
}
INSIDE = {
    "role": "pulse_operator",
    "transaction_isolation": "read committed",
    "transaction_read_only": "off",
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    "transaction_timeout": "0",
    "standard_conforming_strings": "on",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "client_encoding": "UTF8",
}


def test_settings_are_local(database: Database, dsn: str) -> None:
    """All settings hold only for the transaction, and override the settings of the role."""
    role = f"ALTER ROLE postgres IN DATABASE {urlsplit(database.url).path[1:]}"
    known = {
        name: database.value("SELECT current_setting(%s, true)", name)
        for name in {**INSIDE, **ROLE_SETS}
    }
    with psycopg.connect(dsn, autocommit=True) as elsewhere:
        for name, value in ROLE_SETS.items():
            if known[name] is not None:
                elsewhere.execute(f"{role} SET {name} = '{value}'".encode())
    store = Store({"conninfo": database.url}, role="pulse_operator")

    def settings_of(
        connection: psycopg.Connection[dict[str, Any]], names: Iterable[str]
    ) -> dict[str, str]:
        return {
            name: next(iter((connection.execute(f"SHOW {name}").fetchone() or {}).values()))
            for name in names
            if known[name] is not None
        }

    def look(transaction: Transaction) -> tuple[dict[str, str], dict[str, str], list[Any]]:
        connection = transaction.connection
        inside = settings_of(connection, INSIDE)
        zone = Figure(
            "x",
            "zone",
            "SELECT 'z' AS service, (current_setting('TimeZone') = 'Asia/Kathmandu')::int AS value",
        )
        readings = sql_metrics.read_figures(transaction, [zone], 0.0, math.inf)
        with transaction.best_effort("nothing"):
            connection.execute("SELECT 1")
        return (
            inside,
            settings_of(connection, INSIDE),
            [sample.value for sample in readings[0].samples],
        )

    expected = {name: value for name, value in INSIDE.items() if known[name] is not None}
    inside, later, zone = store.write(METRICS.transaction, look) or ({}, {}, [])
    assert inside == later == expected
    assert zone == [1.0], "a figure knows the role's time zone"
    assert store._connection is not None
    always = {"client_encoding": "UTF8"}
    outside = (
        {name: value for name, value in ROLE_SETS.items() if known[name] is not None}
        | always
        | {"role": "none"}
    )
    assert settings_of(store._connection, outside) == outside | {"DateStyle": "German, DMY"}
    assert store._connection.prepare_threshold is None
    store.close()
    store.close()
    with psycopg.connect(dsn, autocommit=True) as elsewhere:
        elsewhere.execute(f"{role} RESET ALL".encode())


def test_constant_number_of_statements(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A health pass needs the same number of statements for three services as for a thousand."""
    counts: list[int] = []
    execute = psycopg.Connection.execute

    def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        counts[-1] += 1
        return execute(self, query, *args, **kwargs)

    store = Store({"conninfo": database.url})
    store.create(["service_health", *LEDGER_TABLES, DOUBT_TABLE])
    monkeypatch.setattr(psycopg.Connection, "execute", counted)
    for number in (3, 1000):
        for healthy in (False, True):
            counts.append(0)
            recorded = record(
                store, [verdict(f"s{number}-{n}", healthy=healthy) for n in range(number)]
            )
            assert recorded is not None
            assert number == len(recorded.closed if healthy else recorded.opened)
    assert counts[:2] == counts[2:]
    store.close()


def test_lock_is_not_waited_for(store: Store, database: Database) -> None:
    """A store does not wait for a lock. Each pass has its own lock, and a dry run needs none."""
    other = Store({"conninfo": database.url})

    def inside(_: Transaction) -> list[Any]:
        return [
            other.write(METRICS.transaction, lambda _: "metrics"),
            other.write(HEALTH.transaction, lambda _: "health"),
            other.read(lambda _: "health"),
        ]

    assert store.write(HEALTH.transaction, inside) == ["metrics", None, "health"]
    assert other.write(HEALTH.transaction, lambda _: "health") == "health"
    other.close()


def test_old_snapshot_trap(store: Store, database: Database) -> None:
    """A pass sees rows that were committed just before it got the lock, and closes their alerts."""
    for _ in range(30):
        record(store, [verdict("a", healthy=True)])
        barrier = threading.Barrier(2)

        def run(healthy: bool) -> None:
            own = Store({"conninfo": database.url})
            # Connect first, so that both passes really meet.
            own.write(METRICS.transaction, lambda _: None)
            barrier.wait()
            while record(own, [verdict("a", healthy=healthy)]) is None:
                pass
            own.close()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run, (False, True)))
        state = database.value("SELECT status FROM service_health")
        open_alerts = database.value(
            "SELECT count(*) FROM fleet_alert WHERE tenant_id = '__system__' AND status <> 'CLOSED'"
        )
        assert open_alerts == (1 if state == "unhealthy" else 0)


def test_transitions_are_those_written(store: Store, database: Database) -> None:
    """Alerts that another client opens or closes meanwhile are not reported as own changes."""
    record(store, [verdict("a", healthy=False)])

    def keep(transaction: Transaction) -> Recorded:
        before = pass_writes.known_states(transaction, ["a", "b"])
        verdicts = [verdict("a", healthy=True), verdict("b", healthy=False)]
        database.rows(
            "UPDATE fleet_alert SET status = 'CLOSED', closed_at = now() "
            "WHERE tenant_id = '__system__'"
        )
        database.rows(
            "INSERT INTO fleet_alert "
            "(tenant_id, site_id, device_id, alert_type, fingerprint, summary) "
            "VALUES ('__system__', 'x', 'x', 'SYSTEM_HEALTH', 'system-health:b', 'by hand')"
        )
        return pass_writes.record_health(
            transaction,
            plan(verdicts, before, Thresholds(), lambda _: transaction.now, transaction.now),
        )

    recorded = store.write(HEALTH.transaction, keep)
    assert recorded is not None
    assert (recorded.opened, recorded.closed, len(recorded.updates)) == ((), (), 2)


def test_known_states_of_odd_rows(store: Store, database: Database) -> None:
    """Rows of old releases and damaged rows are read as far as possible."""
    store.create(["service_health"])
    database.rows("""INSERT INTO service_health (service, status, details) VALUES
        ('old', 'unhealthy', '{"status": "down"}'),
        ('list', 'healthy', '[1]'),
        ('odd', 'healthy', '{"streak": "many", "since": "yesterday"}'),
        ('well', 'healthy', '{"streak": 3, "since": "2026-03-01T12:00:00+00:00"}')""")
    states = store.write(
        HEALTH.transaction,
        lambda transaction: pass_writes.known_states(
            transaction, ["old", "list", "odd", "well", "new"]
        ),
    )
    assert states is not None
    assert {
        name: (state.healthy, state.streak, state.since is not None)
        for name, state in states.items()
    } == {
        "old": (False, 0, False),
        "list": (True, 0, False),
        "odd": (True, 0, False),
        "well": (True, 3, True),
        "new": (None, 0, False),
    }


def test_time_of(store: Store, database: Database) -> None:
    """A time of the monotonic clock is converted to the database's clock, not the calendar."""

    def work(transaction: Transaction) -> Any:
        return transaction.now, transaction.time_of(transaction._read_at - 90)

    before = database.value("SELECT now()")
    now, earlier = store.write(METRICS.transaction, work) or (None, None)
    assert now is not None and earlier is not None
    assert now - earlier == timedelta(seconds=90)
    assert before <= now <= database.value("SELECT now()")


FIGURES = load(None, Surroundings({}))[0].figures
FAULTY = [
    (
        Figure("x", "none", "SELECT count(*) AS value FROM nowhere", ("nowhere",)),
        "no table nowhere",
        True,
    ),
    (
        Figure("x", "slow", "SELECT 1 AS value FROM pg_sleep(5)", timeout_s=0.05),
        "took more than 50 ms",
        False,
    ),
    (Figure("x", "bad", "SELECT 1/0 AS value"), "division by zero", False),
    (
        Figure(
            "x",
            "cte",
            "WITH w AS (DELETE FROM tenants RETURNING 1) SELECT count(*) AS value FROM w",
        ),
        "data-modifying",
        False,
    ),
    (Figure("x", "writes", "SELECT writes() AS value"), "read-only transaction", False),
    (
        Figure(
            "x",
            "readwrite",
            "SELECT 1 AS value FROM set_config('transaction_read_only', 'off', true)",
        ),
        "read-write mode",
        False,
    ),
    (
        Figure(
            "x", "second", "SELECT 1 AS value) AS a; DELETE FROM tenants; SELECT * FROM (SELECT 1"
        ),
        "multiple commands",
        False,
    ),
    (
        Figure("x", "null", "SELECT NULL::int AS value"),
        "returns null, which is not a finite number",
        False,
    ),
    (
        Figure("x", "nan", "SELECT 'NaN'::float8 AS value"),
        "returns nan, which is not a finite number",
        False,
    ),
    (
        Figure("x", "word", "SELECT 'x' AS value"),
        "returns 'x', which is not a finite number",
        False,
    ),
    (
        Figure("x", "unnamed", "SELECT 1 AS number"),
        "returns number; it must return `value`, or rows of",
        False,
    ),
    (Figure("x", "two", "SELECT 1 AS value, 2 AS other"), "returns value, other; it must", False),
    (
        Figure("x", "rows", "SELECT generate_series(1, 2) AS value"),
        "returns 2 rows; without a column `service`",
        False,
    ),
    (Figure("x", "no-rows", "SELECT 1 AS value WHERE false"), "returns no rows; without", False),
    (
        Figure("x", "many", "SELECT 'a' AS service, generate_series(1, 1001) AS value"),
        "returns more than 1000 rows",
        False,
    ),
    (
        Figure("x", "tags", "SELECT 1 AS value, 'a' AS tags"),
        "returns `tags` that are not a JSON object",
        False,
    ),
]


def test_figures(store: Store, database: Database) -> None:
    """A figure that fails affects no other figure and no later statement."""
    database.rows(
        "CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql "
        "AS $$ BEGIN DELETE FROM tenants; RETURN 1; END $$"
    )
    first, *_, last = FIGURES
    figures = [first, *(figure for figure, _, _ in FAULTY), last]
    tables = [table for figure in figures for table in figure.tables]

    def work(transaction: Transaction) -> Any:
        readings = sql_metrics.read_figures(transaction, figures, 0.0, math.inf)
        pass_writes.record_samples(transaction, [Pending(0.0, (Sample("a", "b", 1.5),))])
        return readings

    readings = store.write(METRICS.transaction, work, optional_tables=tables)
    assert readings is not None
    assert [bool(reading.samples) for reading in readings] == [True, *[False] * len(FAULTY), True]
    for reading, (_, problem, absent) in zip(readings[1:-1], FAULTY, strict=True):
        assert problem in reading.problem
        assert absent == reading.absent
    assert database.samples() == {("a", "b"): 1.5}


def test_figure_behind_row_security(database: Database) -> None:
    """A figure whose rows are hidden by row level security is left out, not counted as 0."""
    database.rows("ALTER TABLE fleet_alert NO FORCE ROW LEVEL SECURITY")
    database.rows("DROP ROLE IF EXISTS ops_counter")
    database.rows("CREATE ROLE ops_counter LOGIN PASSWORD 'x'")
    database.rows("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO ops_counter")
    database.rows("ALTER TABLE fleet_alert OWNER TO ops_counter")
    store = Store({"conninfo": database.as_user("ops_counter")})
    readings = store.write(
        METRICS.transaction,
        lambda t: sql_metrics.read_figures(t, FIGURES, 0.0, math.inf),
        optional_tables=["device_state", "fleet_alert", "delivery_jobs"],
    )
    assert readings is not None
    assert {r.figure.metric for r in readings if "row level security" in r.problem} == {
        "devices_online",
        "devices_stale",
        "deliveries_pending",
    }
    store.close()
    database.rows("ALTER TABLE fleet_alert OWNER TO postgres")
    database.rows("DROP OWNED BY ops_counter")
    database.rows("DROP ROLE ops_counter")


@pytest.mark.parametrize("loop_deadline_s", [0.0, 60.0])
def test_rotated_password(database: Database, loop_deadline_s: float) -> None:
    """A new connection uses the current password. An open connection stays open."""
    user = f"ops_rotated_{uuid.uuid4().hex[:8]}"
    database.rows(f"CREATE ROLE {user} LOGIN PASSWORD 'first'")
    passwords = ["first"]

    def parameters() -> dict[str, str | int]:
        return {"conninfo": database.as_user(user, passwords[-1])}

    def session(transaction: Transaction) -> int:
        row = transaction.connection.execute(b"SELECT pg_backend_pid() AS pid").fetchone()
        assert row is not None
        return int(row["pid"])

    store = Store(parameters(), changing=parameters, loop_deadline_s=loop_deadline_s)
    try:
        with contextlib.closing(store):
            first_pid = store.read(session)
            database.rows(f"ALTER ROLE {user} PASSWORD 'second'")
            assert store.read(session) == first_pid
            passwords.append("second")
            store.close()
            assert store.read(session) != first_pid
    finally:
        database.rows(f"DROP ROLE {user}")


def test_file_is_missing_for_a_moment() -> None:
    """A missing password file is a fault of the settings, or in a loop a database failure."""

    def missing() -> dict[str, str | int]:
        raise SettingsError(["PG_PASS_FILE: the file is empty"])

    url = {"conninfo": "postgresql://iot@127.0.0.1:9/d"}
    with pytest.raises(SettingsError, match=r"^PG_PASS_FILE: the file is empty$"):
        Store(url, changing=missing).read(lambda _: None)
    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1:9/d: PG_PASS_FILE: the file is empty$"):
        Store(url, changing=missing, loop_deadline_s=1.0).read(lambda _: None)


@pytest.mark.parametrize("verdict_word", ["drop", "deaf"])
def test_connection_cut_at_every_piece(database: Database, verdict_word: str) -> None:
    """If the connection is lost at any piece, the sample is written once or not at all.

    If it is lost while connecting, the pass fails. If it is lost later, the pass is retried once.
    A COMMIT without an answer is checked before it is repeated.
    """
    outcomes = []
    for cut in range(1, 40):
        database.rows("TRUNCATE system_metrics")
        reached = []

        def watch(piece: int, _: bytes) -> str:
            reached.append(piece)
            return verdict_word if piece == cut else ""

        with Proxy(urlsplit(database.url).port or 5432, watch) as proxy:
            address = re.sub(r":\d+/", f":{proxy.port}/", database.url)
            store = Store({"conninfo": address})
            try:
                store.write(METRICS.transaction, lambda t: pass_writes.record_samples(t, [PENDING]))
                outcomes.append("done")
                assert database.samples() == {("a", "b"): 1.0}
            except DatabaseError:
                outcomes.append("failed")
                assert database.samples() == {}
            store.close()
        if cut not in reached:
            break
    assert "failed" in outcomes
    assert outcomes[-4:] == ["done"] * 4, "from the first statement on, a retry succeeds"


def test_commit_unknown(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the result of a COMMIT remains unknown, the pass fails and does not write twice."""
    monkeypatch.setattr("ops_worker.adapters.postgres.connection.SETTLE_S", 0.0)
    database.create_ledger()
    cut: list[int] = []

    def watch(piece: int, data: bytes) -> str:
        if b"COMMIT\x00" in data and not cut:
            cut.append(piece)
            return "deaf"
        return "drop" if cut else ""

    with Proxy(urlsplit(database.url).port or 5432, watch) as proxy:
        store = Store({"conninfo": re.sub(r":\d+/", f":{proxy.port}/", database.url)})
        with pytest.raises(CommitUnknownError, match="nothing was written again"):
            store.write(METRICS.transaction, lambda t: pass_writes.record_samples(t, [PENDING]))
    assert database.samples() == {("a", "b"): 1.0}


def test_commit_settled_late(database: Database) -> None:
    """If the answer about a COMMIT is lost as well, the store asks again."""
    database.create_ledger()
    cut: list[bytes] = []

    def watch(_: int, data: bytes) -> str:
        for text, verdict_word in ((b"COMMIT\x00", "deaf"), (b"pg_xact_status", "drop")):
            if text in data and text not in cut:
                cut.append(text)
                return verdict_word
        return ""

    with Proxy(urlsplit(database.url).port or 5432, watch) as proxy:
        store = Store({"conninfo": re.sub(r":\d+/", f":{proxy.port}/", database.url)})
        store.write(METRICS.transaction, lambda t: pass_writes.record_samples(t, [PENDING]))
        store.close()
    assert len(cut) == 2
    assert database.samples() == {("a", "b"): 1.0}


def test_was_committed(store: Store, database: Database) -> None:
    """A transaction that a crash or a failover has lost was not committed."""
    committed = str(database.value("SELECT pg_current_xact_id()::text"))
    answers = store.write(
        METRICS.transaction, lambda t: [t.was_committed(xid) for xid in (committed, "999999999999")]
    )
    assert answers == [True, False]


def test_deadlock_is_retried(store: Store, database: Database) -> None:
    """A serialization failure or a deadlock is retried exactly once."""
    tries = []

    def work(transaction: Transaction) -> str:
        tries.append(1)
        if len(tries) == 1:
            transaction.connection.execute(
                "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'serialization_failure'; END $$"
            )
        return "done"

    assert store.write(METRICS.transaction, work) == "done"
    tries.clear()

    def always(transaction: Transaction) -> None:
        tries.append(1)
        transaction.connection.execute(
            "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'deadlock_detected'; END $$"
        )

    with pytest.raises(DatabaseError):
        store.write(METRICS.transaction, always)
    assert len(tries) == 2
    assert database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def test_blocked_table(store: Store, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a locked table is limited, and the message names the lock."""
    monkeypatch.setattr("ops_worker.adapters.postgres.specs.LOCK_TIMEOUT_MS", 100)
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE system_metrics")
        with pytest.raises(DatabaseError, match="lock"):
            store.write(METRICS.transaction, lambda t: pass_writes.record_samples(t, [PENDING]))


def test_create_by_several_at_once(empty: Database) -> None:
    """Many first runs at once all succeed, and each table is created once."""
    tables = ("tenants", "fleet_alert", "system_metrics", "service_health")

    def run(_: int) -> dict[str, bool]:
        store = Store({"conninfo": empty.url})
        with contextlib.closing(store):
            return store.create(tables)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, range(8)))
    assert [sum(result[table] for result in results) for table in tables] == [1, 1, 1, 1]


def test_standalone_is_enough(empty: Database) -> None:
    """A role that may only use the tables of init-db can run both passes."""
    empty.rows("DROP ROLE IF EXISTS ops_user")
    empty.rows("CREATE ROLE ops_user LOGIN PASSWORD 'x'")
    owner = Store({"conninfo": empty.url}, role="ops_user")
    owner.create(("tenants", "fleet_alert", "system_metrics", "service_health"))
    owner.close()
    store = Store({"conninfo": empty.as_user("ops_user")})
    recorded = record(store, [verdict("a", healthy=False)])
    assert recorded is not None and recorded.opened == ("a",)
    recorded = record(store, [verdict("a", healthy=True)])
    assert recorded is not None and recorded.closed == ("a",)
    store.write(METRICS.transaction, lambda t: pass_writes.record_samples(t, [PENDING]))
    store.close()
    empty.rows("DROP OWNED BY ops_user")
    empty.rows("DROP ROLE ops_user")


def test_system_metrics_is_the_platforms(database: Database, empty: Database) -> None:
    """init-db creates system_metrics with the same columns and indexes as the platform."""
    with contextlib.closing(Store({"conninfo": empty.url})) as store:
        store.create(("system_metrics",))
    columns = """SELECT column_name, data_type, is_nullable, column_default
                 FROM information_schema.columns
                 WHERE table_name = 'system_metrics' ORDER BY ordinal_position"""
    indexes = (
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'system_metrics' ORDER BY 1"
    )
    assert database.rows(columns) == empty.rows(columns)
    assert database.rows(indexes) == empty.rows(indexes)


def test_hypertable(empty: Database) -> None:
    """With TimescaleDB, init-db creates a hypertable of 1 h chunks with both policies."""
    if not empty.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"):
        pytest.skip(
            "the extension timescaledb is not available on this server; "
            "OPS_TEST_DSN may name one that has it"
        )
    empty.rows("CREATE EXTENSION timescaledb")
    with contextlib.closing(Store({"conninfo": empty.url})) as store:
        assert store.create(("system_metrics",)) == {"system_metrics": True}
    interval = (
        "SELECT time_interval FROM timescaledb_information.dimensions "
        "WHERE hypertable_name = 'system_metrics'"
    )
    assert empty.value(interval) == timedelta(hours=1)
    if empty.value("SELECT current_setting('timescaledb.license')") == "timescale":
        jobs = empty.rows(
            "SELECT proc_name FROM timescaledb_information.jobs "
            "WHERE hypertable_name = 'system_metrics'"
        )
        assert {job["proc_name"] for job in jobs} == {"policy_compression", "policy_retention"}


def test_no_connection() -> None:
    """The message about a failed connection has the address and the user, but no password."""
    with pytest.raises(DatabaseError) as caught:
        Store(
            {"host": "127.0.0.1", "port": 9, "dbname": "d", "user": "u", "password": "secret"}
        ).write(METRICS.transaction, lambda _: None)
    assert "127.0.0.1:9/d as u" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_standby(server: Postgres) -> None:
    """A read-only standby refuses writes and can be read by a dry run."""
    with server.standby() as standby:
        store = Store({"conninfo": standby.url()})
        with pytest.raises(
            DatabaseError,
            match=r"is read-only \(a standby\?\): point DATABASE_URL or PG_HOST at the primary",
        ):
            store.write(METRICS.transaction, lambda _: None)
        with pytest.raises(DatabaseError, match="is read-only"):
            store.create(["service_health"])
        assert store.read(lambda transaction: transaction.now) is not None
        store.close()
    assert PASSWORD not in str(store._place)


def test_questions_have_a_deadline(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a loop, questions about the lock's holder or a COMMIT end at the deadline as well."""
    for name in ("lock_holder", "xact_status"):
        monkeypatch.setitem(SQL, name, "SELECT pg_sleep(600)")
    with (
        contextlib.closing(Store({"conninfo": database.url}, loop_deadline_s=1.0)) as store,
        contextlib.closing(Store({"conninfo": database.url})) as other,
    ):
        assert other.write(
            METRICS.transaction,
            lambda _: store.write(METRICS.transaction, lambda _: "done") is None,
        )
        assert store.lock_holder is None
        with pytest.raises(psycopg.Error):
            store._status_of("1")
    database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE 'SELECT pg_sleep(600)%'"
    )


def test_loop_deadline(database: Database) -> None:
    """In a loop, a transaction that exceeds its deadline loses its connection."""
    store = Store({"conninfo": database.url}, loop_deadline_s=1.0)
    with pytest.raises(DatabaseError):
        store.write(METRICS.transaction, lambda t: t.connection.execute("SELECT pg_sleep(600)"))
    sessions = database.rows(
        "SELECT pg_terminate_backend(pid, 60000) AS ended FROM pg_stat_activity "
        "WHERE query = 'SELECT pg_sleep(600)'"
    )
    assert sessions == [{"ended": True}], (
        "the server still ran the statement, because it notices a lost client only later"
    )
    assert store.write(METRICS.transaction, lambda _: "done") == "done"
    store.close()
    unreachable = Store({"host": "127.0.0.1", "port": 9, "password": "x"}, loop_deadline_s=1.0)
    for message in ("refused", "next attempt"):
        with pytest.raises(DatabaseError, match=message):
            unreachable.write(METRICS.transaction, lambda _: None)


@pytest.mark.parametrize(
    ("failures", "chance", "expected"),
    [
        (1, 0, 0.5),
        (1, 1, 0.25),
        (2, 0, 1.0),
        (5, 0, 8.0),
        (6, 0, 15.0),
        (900, 0, 15.0),
        (900, 1, 7.5),
    ],
)
def test_backoff(failures: int, chance: float, expected: float) -> None:
    """The pause doubles from 0.5 s to 15 s, less a random part of up to half of it."""
    assert expected == backoff(failures, chance)


def many(database: Database, rows: int = 20_000) -> None:
    """Insert this number of devices, of which few are stale."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE device_state DISABLE TRIGGER USER")
        connection.execute(
            "INSERT INTO device_state (tenant_id, site_id, device_id, status) "
            "SELECT (SELECT tenant_id FROM tenants LIMIT 1), 's', 'many' || n,"
            " CASE WHEN n % 100 = 0 THEN 'STALE' ELSE 'ONLINE' END "
            f"FROM generate_series(1, {rows}) AS n"
        )
        connection.execute("VACUUM ANALYZE device_state")


def test_indexes(database: Database) -> None:
    """An index is proposed if a figure reads rows of every state, and is created on demand."""
    store = Store({"conninfo": database.url})
    assert not any(proposal.statement for proposal in store.indexes())
    many(database)
    statement = (
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS ops_worker_device_state_stale "
        "ON device_state (status) WHERE status = 'STALE'"
    )
    stale, alerts, pending, online = store.indexes()
    assert (stale.statement, alerts.statement, pending.statement, online.statement) == (
        statement,
        "",
        "",
        "",
    )
    assert "give it `every`" in online.note and "the table is small" in alerts.note
    assert database.value("SELECT to_regclass('ops_worker_device_state_stale')") is None
    created, *_ = store.indexes(make=True)
    assert created.statement == statement
    database.rows("ANALYZE device_state")
    assert not any(proposal.statement for proposal in store.indexes())
    assert "ops_worker_device_state_stale holds few other rows" in next(iter(store.indexes())).note
    database.rows(
        "UPDATE pg_index SET indisvalid = false "
        "WHERE indexrelid = 'ops_worker_device_state_stale'::regclass"
    )
    assert (
        "DROP INDEX CONCURRENTLY ops_worker_device_state_stale" in next(iter(store.indexes())).note
    )
    database.rows("DROP TABLE delivery_jobs")
    notes = [proposal.note for proposal in store.indexes()]
    assert notes[2] == "platform.deliveries_pending: no table delivery_jobs"
    store.close()


def test_indexes_of_somebody_else(database: Database) -> None:
    """If the role may not create an index, the error has the message of the server."""
    many(database)
    database.rows("CREATE ROLE ops_reader LOGIN PASSWORD 'x'")
    store = Store({"conninfo": database.as_user("ops_reader")})
    with pytest.raises(SchemaError, match=r"must be owner of table device_state|permission denied"):
        list(store.indexes(make=True))
    store.close()
    database.rows("DROP ROLE ops_reader")
