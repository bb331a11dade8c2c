"""Translate an error of the database into an error of the worker with a remedy."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import Error, pq
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ops_worker.core.schema import quoted
from ops_worker.errors import (
    DatabaseError,
    NotWritableError,
    OpsWorkerError,
    SchemaError,
    StatementTimeoutError,
)
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECTION_LOST = ("08", "53300", "57P", "25P03", "25P04")
"""SQLSTATEs or their prefixes with which the server ends a connection.

An error without an SQLSTATE comes from the network.
"""
RECONNECT_PAUSE_S = 0.5
"""Pause in seconds before a new connection, so that a restarting server is ready."""
NUMBERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
"""Parameters that libpq parses as numbers only after it has connected by TCP."""
NOWHERE = "/nonexistent-folder-of-ops-worker"


class Meaning(NamedTuple):
    """A row of MEANINGS: SQLSTATEs or their prefixes, the class of the error, the remedy."""

    states: tuple[str, ...]
    kind: type[OpsWorkerError]
    remedy: str

    def remedy_for(self, error: Error) -> str:
        """Return the remedy, with the table and the column that the error names."""
        if "{" not in self.remedy:
            return self.remedy
        names = {"table": error.diag.table_name, "column": error.diag.column_name}
        return self.remedy.format(
            **{name: one_line(value or f"the {name}") for name, value in names.items()}
        )


SCHEMA = (
    "the tables are not as the worker expects them: `ops-worker check` names each difference and "
    "what repairs it, `ops-worker init-db` or the platform's migrations"
)
"""The remedy for a table with another shape. ``check`` shows the lines about the tables instead."""

MEANINGS = (
    # Privileges and roles.
    Meaning(
        ("22023", "42704", "0P"),
        SchemaError,
        "set PG_ROLE to a role that exists, or leave it empty",
    ),
    Meaning(
        ("42501",),
        SchemaError,
        "grant that to the login role, or set PG_ROLE to a role that has it: "
        "`ops-worker check` prints the statements",
    ),
    Meaning(("3F",), SchemaError, "give the role a search_path with an existing schema"),
    # A table refuses a row: the same row would be refused again.
    Meaning(
        ("23514",),
        SchemaError,
        "create the partition for now, and let a job create the next ones; "
        "or change the CHECK constraint",
    ),
    # ON CONFLICT finds no unique key.
    Meaning(("42P10",), SchemaError, SCHEMA),
    # A column that the worker does not know requires a value.
    Meaning(
        ("23502",),
        SchemaError,
        "allow NULL in the column: `ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL`, "
        "or give it a default",
    ),
    Meaning(
        ("23503",),
        SchemaError,
        "add the row that the foreign key refers to, or drop the foreign key",
    ),
    Meaning(
        ("23505", "23P01", "21000"),
        SchemaError,
        "drop the unique or exclusion constraint, or widen it",
    ),
    Meaning(
        ("428C9", "55000"),
        SchemaError,
        "the worker has to write to a table, not to a view or a generated column",
    ),
    Meaning(
        ("P0", "09", "27", "38", "39", "44"),
        SchemaError,
        "a trigger, rule or function refuses the row: change it",
    ),
    Meaning(("54",), SchemaError, "a row is too large for an index or the server: drop that index"),
    Meaning(("0A",), SchemaError, "use an ordinary table: this one, or the server, cannot do that"),
    Meaning(("HV",), SchemaError, "check the foreign table, its server and its user mapping"),
    Meaning(("57014",), StatementTimeoutError, "it took too long: see pg_stat_activity"),
    Meaning(
        ("55P03",), DatabaseError, "another session held a lock on it for too long: see pg_locks"
    ),
    Meaning(("25006",), NotWritableError, "point DATABASE_URL or PG_HOST at the primary"),
    # Temporary errors, and errors that must be resolved outside the worker.
    Meaning(
        ("28",),
        DatabaseError,
        "check PG_USER, PG_PASS or DATABASE_URL, and the server's pg_hba.conf",
    ),
    Meaning(("3D",), DatabaseError, "check PG_DB or DATABASE_URL: the worker creates no database"),
    # Single states of class 53 come before the whole class, because the first match counts.
    Meaning(("53100",), DatabaseError, "free disk space on the server"),
    Meaning(("53200",), DatabaseError, "the server has no memory left: check its other sessions"),
    Meaning(
        ("53300",), DatabaseError, "raise max_connections or the role's limit, or use a pooler"
    ),
    Meaning(("53",), DatabaseError, "the server has reached a limit of its own: see its log"),
    Meaning(
        ("XX001", "XX002"),
        SchemaError,
        "the server's data is damaged: REINDEX, or restore a backup",
    ),
    Meaning(
        ("58", "F0", "XX"),
        DatabaseError,
        "the server reports damage or a bug of its own: see its log",
    ),
    # Columns are missing, too narrow or of another type.
    Meaning(("22", "23", "42"), SchemaError, SCHEMA),
)
"""The first row that matches counts."""

CONNECTION_REMEDIES = (
    # 28P01: wrong password or unknown role. Only PgBouncer distinguishes the two.
    (
        (
            r"password authentication failed|SASL authentication failed|no password supplied"
            r"|no such user"
        ),
        "check the password and the role: PG_PASS and PG_USER, or DATABASE_URL",
    ),
    # 28000
    (
        r"pg_hba\.conf",
        (
            "allow this address, role and database in the server's pg_hba.conf; "
            "if it asks for encryption, set PGSSLMODE=require"
        ),
    ),
    (
        r"\brole \".*\" (does not exist|is not permitted to log in)",
        "check PG_USER or DATABASE_URL: the role has to exist, with LOGIN",
    ),
    # 3D000
    (
        r"\bdatabase \".*\" does not exist|no such database",
        "check PG_DB or DATABASE_URL: the worker creates no database",
    ),
    # 42501
    (r"permission denied for database", "run `GRANT CONNECT ON DATABASE {database} TO {role}`"),
    # 53300. The last alternative is the message of PgBouncer.
    (
        r"too many (clients|connections)|connection slots are reserved|no more connections allowed",
        "raise max_connections, or the limit of the role or database, or use a pooler",
    ),
    # 55000
    (
        r"database \".*\" is not currently accepting connections",
        "run `ALTER DATABASE {database} ALLOW_CONNECTIONS true`",
    ),
    # 57P03
    (
        (
            r"database system is (starting up|shutting down|in recovery mode"
            r"|not (yet )?accepting connections)"
        ),
        "wait until the server has started; if it stays so, see its log",
    ),
    # Messages of libpq and psycopg. Older releases of psycopg show the resolver's negative number.
    (
        r"failed to resolve host|could not translate host name|\[Errno -\d+\]",
        "check PG_HOST or DATABASE_URL, and the name service of this machine",
    ),
    (
        r"\bSSL was required|\bSSL error|certificate",
        "check sslmode and sslrootcert in DATABASE_URL, or PGSSLMODE and PGSSLROOTCERT",
    ),
)
"""The remedy for a failed connection, by its message. The first pattern that matches counts.

libpq gives no SQLSTATE for a failed connection. A server in another language has other messages.
"""
UNREACHABLE = "check that it runs, and DATABASE_URL or PG_HOST, PG_PORT, PG_DB, PG_USER, PG_PASS"
"""The remedy for a failed connection with an unknown message."""


def connection_message(error: Error) -> str:
    """Return the message of a failed connection on one line. Each line of libpq ends a sentence."""
    return one_line(re.sub(r"(?<=[^\s.:;,?!])\s*\n\s*", ". ", str(error).strip()))


def connection_remedy(message: str, database: str, role: str) -> str:
    """Return the remedy for a failed connection of a role to a database."""
    for pattern, remedy in CONNECTION_REMEDIES:
        if re.search(pattern, message):
            names = {"database": quoted(database), "role": quoted(role)}
            return remedy.format(**{name: one_line(value) for name, value in names.items()})
    return UNREACHABLE


def translated(error: Error, place: str) -> OpsWorkerError:
    """Return the worker's error, with a remedy, for an error of the database at ``place``."""
    text = f"database {place}: {words(error)}"
    row = meaning(error)
    if row is None:
        return DatabaseError(text)
    return row.kind(text, row.remedy_for(error))


def meaning(error: Error) -> Meaning | None:
    """Return the row of MEANINGS for the SQLSTATE of an error; None if there is none.

    The text of the error is not used, because it may be in any language.
    """
    state = error.sqlstate or ""
    return next((row for row in MEANINGS if state.startswith(row.states)), None)


def words(error: Error) -> str:
    """Return the message of an error on one line, with the constraint or column that it names."""
    # Leave out the detail, because it quotes values of the row.
    message = one_line(error.diag.message_primary or str(error))
    name = error.diag.constraint_name or error.diag.column_name
    if not name or name in message:
        return message
    return f"{message} ({one_line(name)})"


def refused_parameters(conninfo: str) -> list[str]:
    """Return the names of connection parameters whose values libpq refuses.

    No server is contacted. libpq checks most parameters only when it connects, so let it connect to
    a socket that does not exist. If its message names the socket, libpq accepted the parameters.
    The message is not shown, because it may contain a password.
    """
    parameters = conninfo_to_dict(conninfo)
    commas = [
        str(parameters.pop(name)).count(",")
        for name in ("host", "hostaddr")
        if parameters.get(name)
    ]
    if len(set(commas)) > 1:
        return ["host and hostaddr, which have to be equally many"]
    hosts = max(commas, default=0) + 1
    if _accepted(parameters, hosts):
        return [name for name in NUMBERS if not _is_number(parameters.get(name, 0))]
    # libpq also reads variables such as PGPORT, and refuses their values in the same way.
    if not _accepted({}, hosts):
        return ["an environment variable that libpq reads (PGPORT, PGSSLMODE ...)"]
    refused = [name for name, value in parameters.items() if not _accepted({name: value}, hosts)]
    return refused or ["some of its parameters, which exclude each other"]


def _is_number(value: object) -> bool:
    return str(value).strip().removeprefix("-").isdecimal()


def _accepted(parameters: Mapping[str, Any], hosts: int) -> bool:
    """Return whether libpq accepts the parameters and tries to connect to all ``hosts`` hosts."""
    conninfo = make_conninfo(**parameters, host=",".join([NOWHERE] * hosts))
    attempt = pq.PGconn.connect_start(conninfo.encode())
    tried = attempt.error_message.count(NOWHERE.encode())
    attempt.finish()
    return tried == hosts


def worth_a_retry(error: Error) -> bool:
    """Return whether a retry may succeed. If the connection was lost, pause first."""
    if isinstance(error, (pg.SerializationFailure, pg.DeadlockDetected)):
        return True
    # An error of libpq itself has no SQLSTATE. It means that the network failed.
    state = error.sqlstate or ("08000" if isinstance(error, pg.OperationalError) else "")
    lost = state.startswith(CONNECTION_LOST)
    if lost:
        time.sleep(RECONNECT_PAUSE_S)
    return lost
