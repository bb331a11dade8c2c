"""The remedies for failed connections: every row of the table, with a real server."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import psycopg
import pytest

from ops_worker.adapters.postgres import Store
from ops_worker.adapters.postgres.sqlstate import (
    CONNECTION_REMEDIES,
    UNREACHABLE,
    connection_message,
    connection_remedy,
)
from ops_worker.core.passes import METRICS
from ops_worker.core.schema import quoted
from ops_worker.errors import DatabaseError, OpsWorkerError, SettingsError
from tests.postgres import SETTINGS, Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

pytestmark = pytest.mark.integration

ROLES = """
CREATE ROLE plain LOGIN PASSWORD 'x'; CREATE ROLE "No Login" PASSWORD 'x';
CREATE ROLE full_role LOGIN PASSWORD 'x' CONNECTION LIMIT 0
"""
DATABASES = (
    'CREATE DATABASE "Not Mine"',
    'REVOKE CONNECT ON DATABASE "Not Mine" FROM PUBLIC',
    "CREATE DATABASE shut ALLOW_CONNECTIONS false",
    "CREATE DATABASE full_database CONNECTION LIMIT 0",
)
ACCESS = """
host postgres refused 127.0.0.1/32 reject
host all trusted 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""
LOOP_S = 60.0
"""Deadline in seconds of a transaction in a loop, which none of these tests reaches."""
PASSWORD = "check the password and the role: PG_PASS and PG_USER, or DATABASE_URL"
TOO_MANY = "raise max_connections, or the limit of the role or database"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Postgres]:
    """Yield a separate server, because these tests change who may connect."""
    with Postgres() as running:
        (running.data / "pg_hba.conf").write_text(ACCESS)
        with psycopg.connect(running.url(), autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(ROLES.encode())
            for statement in DATABASES:
                connection.execute(statement.encode())
        yield running


def failure(url: str, *, loop_deadline_s: float = 0.0) -> OpsWorkerError:
    """Return the error of a pass that cannot connect."""
    store = Store({"conninfo": url}, loop_deadline_s=loop_deadline_s)
    with contextlib.closing(store), pytest.raises(OpsWorkerError) as caught:
        store.write(METRICS.transaction, lambda _: None)
    return caught.value


@pytest.mark.parametrize(
    ("user", "password", "database", "remedy"),
    [
        ("plain", "wrong", "postgres", PASSWORD),
        ("nobody", "x", "postgres", PASSWORD),
        ("plain", "", "postgres", PASSWORD),
        (
            "refused",
            "x",
            "postgres",
            "allow this address, role and database in the server's pg_hba",
        ),
        ("trusted", "x", "postgres", "the role has to exist, with LOGIN"),
        ("No%20Login", "x", "postgres", "the role has to exist, with LOGIN"),
        ("plain", "x", "Not Mine", 'run `GRANT CONNECT ON DATABASE "Not Mine" TO plain`'),
        ("full_role", "x", "postgres", TOO_MANY),
        ("plain", "x", "full_database", TOO_MANY),
        ("plain", "x", "shut", "run `ALTER DATABASE shut ALLOW_CONNECTIONS true`"),
        ("plain", "x", "postgres?sslmode=require", "check sslmode and sslrootcert"),
    ],
)
def test_refused(guarded: Postgres, user: str, password: str, database: str, remedy: str) -> None:
    """Each refusal has its own remedy, and never the remedy for an unreachable server."""
    url = guarded.url(database.replace(" ", "%20"), user, password)
    error = failure(url)
    assert error.remedy.find(remedy) >= 0, str(error)
    assert str(error).endswith(f"; {error.remedy}")
    assert UNREACHABLE not in str(error)


def test_no_database(guarded: Postgres) -> None:
    """A missing database is a fault of the settings. In a loop, it is an error with a remedy."""
    single = failure(guarded.url("gone"))
    assert isinstance(single, SettingsError)
    assert "the server has no database gone" in str(single)
    loop = failure(guarded.url("gone"), loop_deadline_s=LOOP_S)
    assert isinstance(loop, DatabaseError)
    assert loop.remedy == "check PG_DB or DATABASE_URL: the worker creates no database"


def test_too_many(guarded: Postgres) -> None:
    """The remedy for a server without a free connection is to raise a limit."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            for _ in range(int(SETTINGS["max_connections"]) + 1):
                stack.enter_context(psycopg.connect(guarded.url()))
        assert failure(guarded.url()).remedy.startswith(TOO_MANY)


def test_shutting_down() -> None:
    """The remedy for a server that starts or stops is to wait."""
    with Postgres() as server, psycopg.connect(server.url()):
        # The server waits for the open session, and refuses all others.
        server.run("pg_ctl", "--pgdata", str(server.data), "--mode=smart", "--no-wait", "stop")
        error = failure(server.url())
        assert "the database system is shutting down" in str(error)
        assert error.remedy.startswith("wait until the server has started")


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("postgresql://u:p@127.0.0.1:9/d", UNREACHABLE),
        ("postgresql://u:p@nowhere.invalid/d", "check PG_HOST or DATABASE_URL, and the name"),
    ],
)
def test_unreachable(url: str, remedy: str) -> None:
    """If the server does not answer, the remedy is to check that it runs, or its name."""
    assert failure(url).remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("FATAL:  SASL authentication failed", PASSWORD),
        ("FATAL:  no such user: x", PASSWORD),
        ("FATAL:  no such database: x", "check PG_DB"),
        ("FATAL:  no more connections allowed (max_client_conn)", TOO_MANY),
        ("SSL error: certificate verify failed", "check sslmode and sslrootcert"),
        ("FATAL:  Passwort-Authentifizierung für Benutzer »x« fehlgeschlagen", UNREACHABLE),
    ],
)
def test_messages_of_others(message: str, remedy: str) -> None:
    """Messages of PgBouncer and libpq have remedies. Other messages have the general remedy."""
    assert connection_remedy(message, "d", "u").startswith(remedy)


def test_lines_of_libpq() -> None:
    """Each line of a message is a sentence; a line with punctuation at its end stays as it is."""
    error = psycopg.OperationalError(
        "port 1 failed: Connection refused\n\tIs the server running?\nAll failures were:\n- host\n"
    )
    assert connection_message(error) == (
        "port 1 failed: Connection refused. Is the server running? All failures were: - host"
    )


def test_resolver_of_older_psycopg() -> None:
    """The remedy matches the resolver's message in psycopg 3.2.2, the oldest allowed version."""
    remedy = connection_remedy("[Errno -2] Name or service not known", "d", "u")
    assert remedy.startswith("check PG_HOST or DATABASE_URL, and the name")


def test_patterns() -> None:
    """Every pattern is valid, and no remedy names a role or database that is not escaped."""
    for pattern, remedy in CONNECTION_REMEDIES:
        assert re.compile(pattern)
        assert remedy.format(database="d", role="r")
    odd = connection_remedy("permission denied for database", 'a"b\x1b', "r\nx")
    assert odd == 'run `GRANT CONNECT ON DATABASE "a""b " TO "r x"`'


@pytest.mark.parametrize("role", ["", "Ops Role"])
def test_no_right_to_create(database: Database, role: str) -> None:
    """If neither the login nor PG_ROLE may create tables, the GRANT names schema and role."""
    database.rows("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # as since PostgreSQL 15
    database.rows('CREATE ROLE "Ops Login" LOGIN PASSWORD \'x\'; CREATE ROLE "Ops Role"')
    database.rows('GRANT "Ops Role" TO "Ops Login"')
    grant = f'GRANT CREATE ON SCHEMA public TO "{role or "Ops Login"}"'
    url = database.as_user("Ops%20Login")
    store = Store({"conninfo": url}, role=role)
    with pytest.raises(OpsWorkerError) as caught:
        list(store.migrate())
    database.rows(grant)
    created = store.create(["service_health"])
    store.close()
    database.rows('DROP OWNED BY "Ops Login", "Ops Role"; DROP ROLE "Ops Login", "Ops Role"')
    assert caught.value.exit_code == 3
    assert f"permission denied for schema public: run `{grant}`, or" in str(caught.value)
    assert created == {"service_health": True}


def test_reserved_words(database: Database) -> None:
    """Printed statements quote each name that is a reserved word of this server."""
    rows = database.rows("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
    words = {row["word"] for row in rows}
    assert {word for word in words if quoted(word) == word} == set()
