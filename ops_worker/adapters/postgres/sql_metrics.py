"""Read figures: numbers that SQL statements of the catalogue return."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg

from ops_worker.adapters.postgres.transaction import SQL, column
from ops_worker.core.model import Reading
from ops_worker.core.samples import MAX_ROWS, samples_of, shape_fault
from ops_worker.errors import ROW_SECURITY_REMEDY
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.adapters.postgres.transaction import Cursor, Transaction
    from ops_worker.core.model import Figure


def read_figures(
    transaction: Transaction, figures: Sequence[Figure], begun: float, until: float
) -> list[Reading]:
    """Read each figure in its own savepoint, so that a failure does not affect another figure.

    A figure with its own interval is read only if its current slot has no sample yet. ``begun`` is
    the moment at which the pass began; no statement runs longer than ``until``. Both are seconds of
    the monotonic clock. The statement of a figure cannot write.
    """
    recorded = _already_taken(transaction, [figure for figure in figures if figure.every_s], begun)
    readings = []
    for figure in figures:
        if figure.name in recorded:
            readings.append(Reading(figure))
        else:
            readings.append(_read(transaction, figure, until))
    return readings


def prepare(transaction: Transaction, figure: Figure) -> tuple[str, bool]:
    """Let the database plan the statement of a figure, without reading a row.

    Return the problem, which is empty if there is none, and whether it is a missing privilege.
    """
    cursor, error = _try_statement(transaction, figure, 0, figure.timeout_s)
    problem = _problem(error, figure.timeout_s) or shape_fault(_columns(cursor))
    return problem, isinstance(error, psycopg.errors.InsufficientPrivilege)


def _already_taken(transaction: Transaction, figures: Sequence[Figure], begun: float) -> set[str]:
    """Return the names of the figures that already have a sample in their current slot."""
    if not figures or "system_metrics" not in transaction.present:
        return set()
    begun_at = transaction.time_of(begun)
    slots = [
        {
            "name": figure.name,
            "metric": figure.metric,
            "since": _slot(begun_at, figure.every_s).isoformat(),
            "until": begun_at.isoformat(),
        }
        for figure in figures
    ]
    rows = transaction.execute("already_taken", {"figures": json.dumps(slots)})
    return set(column(rows, "name"))


def _read(transaction: Transaction, figure: Figure, until: float) -> Reading:
    if missing := [table for table in figure.tables if table not in transaction.present]:
        return Reading(figure, problem=f"no table {', '.join(missing)}", absent=True)
    if hidden := [table for table in figure.tables if table in transaction.hidden]:
        problem = f"row level security hides {', '.join(hidden)}: {ROW_SECURITY_REMEDY}"
        return Reading(figure, problem=problem)
    begun = time.monotonic()
    timeout_s = min(figure.timeout_s, until - begun)
    if timeout_s <= 0:
        return Reading(figure, problem="the pass had no time left for it")
    # Read one row more than is allowed, to see whether there are too many.
    cursor, error = _try_statement(transaction, figure, MAX_ROWS + 1, timeout_s)
    took_s = time.monotonic() - begun
    if cursor is None:
        return Reading(figure, problem=_problem(error, timeout_s), took_s=took_s)
    try:
        samples, faults = samples_of(figure, _columns(cursor), cursor.fetchall())
    except (ValueError, psycopg.Error) as unreadable:  # psycopg.Error: the date `infinity`
        return Reading(figure, problem=one_line(str(unreadable)), took_s=took_s)
    return Reading(figure, samples, took_s=took_s, faults=faults)


def _try_statement(
    transaction: Transaction, figure: Figure, limit: int, timeout_s: float
) -> tuple[Cursor | None, psycopg.Error | None]:
    """Execute the statement of a figure so that it cannot write and cannot be two statements.

    Return its cursor, or the error.
    """
    # The catalogue's SQL is executed on purpose. A subquery cannot contain two statements. The line
    # end closes a comment in the last line of the SQL.
    framed = f"SELECT * FROM (\n{figure.sql}\n) AS figure LIMIT {limit}"  # noqa: S608
    limits = {"statement_ms": str(max(1, round(timeout_s * 1000)))}
    execute = transaction.connection.execute
    try:
        with transaction.connection.pipeline():
            execute("SAVEPOINT figure")
            execute(SQL["figure_limits"], limits)
            # The limits set the worker's time zone. "today" in a figure uses the role's time zone.
            execute("SET LOCAL TimeZone TO DEFAULT")
            cursor = execute(framed.encode())
            execute("ROLLBACK TO SAVEPOINT figure")  # resets the limits as well
    except psycopg.Error as error:
        if transaction.connection.closed:
            raise
        execute("ROLLBACK TO SAVEPOINT figure")
        return None, error
    return cursor, None


def _problem(error: psycopg.Error | None, timeout_s: float) -> str:
    if isinstance(error, psycopg.errors.QueryCanceled):
        return f"took more than {timeout_s * 1000:.0f} ms"
    return "" if error is None else one_line(error.diag.message_primary or str(error))


def _columns(cursor: Cursor | None) -> list[str]:
    if cursor is None or cursor.description is None:
        return []
    return [described.name for described in cursor.description]


def _slot(moment: datetime, every_s: float) -> datetime:
    """Return the beginning of the slot of ``every_s`` seconds, counted from the epoch."""
    return datetime.fromtimestamp(moment.timestamp() // every_s * every_s, UTC)
