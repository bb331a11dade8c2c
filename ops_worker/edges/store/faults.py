"""What an error of the database means, and what to do about it."""

from __future__ import annotations

import time
from typing import NamedTuple

from psycopg import Error
from psycopg import errors as pg

from ops_worker.core.answer import one_line
from ops_worker.errors import DatabaseError, NotWritableError, OpsWorkerError, SchemaError, StatementTimeoutError

CONNECTION_LOST = ("08", "57P", "25P03")
"""SQLSTATEs, or their beginnings, with which the server ends a connection; without any, the network did."""
RECONNECT_PAUSE_S = 0.5


class Meaning(NamedTuple):
    """A row of the table: the errors of the database, what they are to us, and the remedy."""

    errors: tuple[type[Error], ...]
    kind: type[OpsWorkerError]
    remedy: str


MEANINGS = (
    Meaning((pg.InvalidParameterValue, pg.UndefinedObject), SchemaError, "set PG_ROLE to a role that exists, or leave it empty"),
    Meaning(
        (pg.InsufficientPrivilege,),
        SchemaError,
        "grant that to the login role, or set PG_ROLE to a role that has it (`ops-worker init-db`, run by the owner, makes tables)",
    ),
    Meaning(
        (pg.InvalidSchemaName,),
        SchemaError,
        "give the role a search_path with a schema that is there",
    ),
    Meaning(
        (pg.UndefinedTable, pg.UndefinedColumn, pg.UndefinedFunction, pg.DatatypeMismatch, pg.NotNullViolation, pg.WrongObjectType),
        SchemaError,
        "the tables are not as the worker knows them: run the platform's migrations, or `ops-worker init-db`",
    ),
    Meaning((pg.CheckViolation,), SchemaError, "the table refuses the row: look at its constraints and partitions"),
    Meaning((pg.ReadOnlySqlTransaction,), NotWritableError, "point DATABASE_URL or PG_HOST at the primary"),
    Meaning((pg.LockNotAvailable,), DatabaseError, "somebody held a lock on it for too long: look at pg_locks"),
    Meaning((pg.QueryCanceled,), StatementTimeoutError, "it took too long: look at pg_stat_activity"),
)


def told(error: Error, place: str) -> OpsWorkerError:
    """Turn an error of the database at ``place`` into one line of ours, with its exit code."""
    said = f"database {place}: {one_line(error.diag.message_primary or str(error))}"
    for meaning in MEANINGS:
        if isinstance(error, meaning.errors):
            return meaning.kind(f"{said}: {meaning.remedy}")
    return DatabaseError(said)


def worth_a_retry(error: Error) -> bool:
    """Whether the same once more may well succeed; where the connection was lost, after a moment."""
    if isinstance(error, (pg.SerializationFailure, pg.DeadlockDetected)):
        return True
    lost = isinstance(error, pg.OperationalError) and (error.sqlstate or "08000").startswith(CONNECTION_LOST)
    if lost:
        time.sleep(RECONNECT_PAUSE_S)  # a server that restarts needs a moment
    return lost
