"""An open transaction: named statements, the clock, and optional work in a savepoint."""

from __future__ import annotations

import contextlib
import copy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
from psycopg.rows import class_row

from ops_worker.adapters.postgres.specs import limits
from ops_worker.core.installations import DEFAULT
from ops_worker.sql import queries
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

Connection = psycopg.Connection[dict[str, Any]]
Cursor = psycopg.Cursor[dict[str, Any]]
R = TypeVar("R")

SQL = queries()


class Transaction:
    """An open transaction. ``Store`` creates it. Other modules do their work in it.

    - ``now``: the database's clock when the transaction began (UTC).
    - ``present``: the requested tables that exist and are visible.
    - ``hidden``: the present tables whose rows are hidden by row level security.
    - ``installation``: the name of the installation that uses the transaction.
    - ``warnings``: problems of optional work, which the pass reports.
    """

    def __init__(
        self, connection: Connection, survey: Mapping[str, Any], installation: str = DEFAULT
    ) -> None:
        """Store the connection, the row of the survey, and the name of the installation."""
        self.connection = connection
        self.installation = installation
        self._read_at: float = survey["read_at"]
        self.now: datetime = survey["now"].astimezone(UTC)
        self.present = frozenset[str](survey["present"])
        self.hidden = frozenset[str](survey["hidden"])
        self.warnings: list[str] = []

    def as_of(self, time: datetime) -> Self:
        """Return a copy whose ``now`` is a time in the past, where a reader's period ends."""
        past = copy.copy(self)
        past.now = time
        return past

    def time_of(self, moment: float) -> datetime:
        """Convert a moment of the monotonic clock (seconds) to a time of the database's clock."""
        # The calendar of this machine is never used, because it may be wrong.
        return self.now - timedelta(seconds=self._read_at - moment)

    def execute(self, name: str, parameters: Mapping[str, Any] | None = None) -> Cursor:
        """Execute the statement ``name`` and return its cursor."""
        return self.connection.execute(SQL[name], parameters)

    def query(
        self, row_type: type[R], name: str, parameters: Mapping[str, Any] | None = None
    ) -> psycopg.Cursor[R]:
        """Execute the statement ``name``; its columns are the fields of ``row_type``."""
        cursor = self.connection.cursor(row_factory=class_row(row_type))
        return cursor.execute(SQL[name], parameters)

    def rows(
        self,
        make: Callable[[Sequence[Any]], R],
        name: str,
        parameters: Mapping[str, Any] | None = None,
    ) -> list[R]:
        """Return all rows of the statement ``name``; ``make`` gets the values of a row in order.

        For many rows, this takes a third of the time of ``query``, because values come in binary
        format and without names.
        """
        cursor = self.connection.cursor(binary=True, row_factory=lambda _: make)
        return cursor.execute(SQL[name], parameters).fetchall()

    def may_read(self, tables: Collection[str]) -> bool:
        """Return whether all of these tables are present and this role may read them."""
        if not self.present.issuperset(tables):
            return False
        return bool(one(self.execute("readable", {"tables": list(tables)}))["readable"])

    @contextlib.contextmanager
    def best_effort(self, problem: str, remedy: str = "") -> Iterator[None]:
        """Run optional work in a savepoint with short timeouts.

        On failure, roll back to the savepoint and add a warning. Only the loss of the connection is
        raised. In a pipeline, the error of a statement may arrive only at the end of the block,
        after the block has assigned its variables. If a result depends on a write, use ``attempt``.
        """
        try:
            with self._savepoint():
                yield
        except psycopg.Error as error:
            self._warn(problem, error, remedy)

    def attempt(self, problem: str, work: Callable[[], R], otherwise: R) -> R:
        """Run optional work like ``best_effort``; return its result if all of it succeeded.

        Return ``otherwise`` if any of its statements failed.
        """
        try:
            with self._savepoint():
                result = work()
        except psycopg.Error as error:
            self._warn(problem, error)
            return otherwise
        return result

    @contextlib.contextmanager
    def _savepoint(self) -> Iterator[None]:
        """Run a block in a savepoint with short timeouts; roll back to it on failure."""
        execute = self.connection.execute
        try:
            with self.connection.pipeline():
                execute("SAVEPOINT best_effort")
                execute(SQL["best_effort_limits"])
                yield
                # RELEASE keeps the short limits, but a COMMIT may need more time.
                execute("RELEASE SAVEPOINT best_effort")
                execute(SQL["set_limits"], limits())
        except psycopg.Error:
            if not self.connection.closed:
                execute("ROLLBACK TO SAVEPOINT best_effort")
            raise

    def _warn(self, problem: str, error: psycopg.Error, remedy: str = "") -> None:
        """Add a warning about optional work that failed. Raise if the connection is lost."""
        if self.connection.closed:
            raise error
        reason = one_line(error.diag.message_primary or str(error))
        self.warnings.append(f"{problem}: {reason}{remedy}")

    def was_committed(self, xid: str) -> bool:
        """Return whether an earlier transaction was committed; True if the server no longer knows.

        The earlier transaction is over, because it held the lock that this transaction holds. It is
        better to lose a sample than to write it twice.
        """
        status = one(self.execute("xact_status", {"xid": xid}))["status"]
        return bool(status != "aborted")


def one(cursor: Cursor) -> dict[str, Any]:
    """Return the only row of a statement that always returns one row."""
    row = cursor.fetchone()
    assert row is not None, "a statement that always has a row"
    return row


def column(cursor: Cursor | None, name: str) -> Sequence[Any]:
    """Return the values of one column; none if the statement was not executed."""
    return [row[name] for row in cursor.fetchall()] if cursor else []
