"""An open transaction: the statements by name, the clock, and optional work in a savepoint."""

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
    """An open transaction. ``Store`` makes it; other modules contain the work done in it.

    - ``now``: the database's clock when the transaction began (UTC).
    - ``present``: the requested tables that exist and are visible.
    - ``hidden``: the present tables whose rows row level security hides.
    - ``installation``: the name of the installation that works in it.
    - ``warnings``: problems of optional work, for the pass to report.
    """

    def __init__(
        self, connection: Connection, survey: Mapping[str, Any], installation: str = DEFAULT
    ) -> None:
        """Store the connection, the row of the survey, and whose transaction it is."""
        self.connection = connection
        self.installation = installation
        self._read_at: float = survey["read_at"]
        self.now: datetime = survey["now"].astimezone(UTC)
        self.present = frozenset[str](survey["present"])
        self.hidden = frozenset[str](survey["hidden"])
        self.warnings: list[str] = []

    def as_of(self, time: datetime) -> Self:
        """Return this transaction for readers of the past: their period ends at that time."""
        past = copy.copy(self)
        past.now = time
        return past

    def time_of(self, moment: float) -> datetime:
        """Convert a moment of the monotonic clock (seconds) to a time of the database's clock."""
        # The calendar of this machine is never asked, because it may be wrong.
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
        """Return all rows of the statement ``name``; ``make`` gets the values of each in order.

        For many rows this takes a third of the time that ``query`` does: values come in binary
        format, and fields are not named.
        """
        cursor = self.connection.cursor(binary=True, row_factory=lambda _: make)
        return cursor.execute(SQL[name], parameters).fetchall()

    def may_read(self, tables: Collection[str]) -> bool:
        """Return whether all of these tables are present, and this role may read them."""
        if not self.present.issuperset(tables):
            return False
        return bool(one(self.execute("readable", {"tables": list(tables)}))["readable"])

    @contextlib.contextmanager
    def best_effort(self, problem: str, remedy: str = "") -> Iterator[None]:
        """Run optional work in a savepoint with short timeouts.

        On failure, roll back to the savepoint and add a warning. Only the loss of the connection
        is raised. The error of a statement may arrive when the block ends, after what the block
        assigned. Use ``attempt`` where a result depends on what was written.
        """
        try:
            with self._savepoint():
                yield
        except psycopg.Error as error:
            self._warn(problem, error, remedy)

    def attempt(self, problem: str, work: Callable[[], R], otherwise: R) -> R:
        """Run optional work as ``best_effort`` does; return its result once all of it succeeded.

        Return ``otherwise`` if any statement of it failed.
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
                # RELEASE keeps the short limits, and a COMMIT may take longer than they allow.
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

        That transaction held the lock that this one holds, so it is over. It is better to lose a
        sample than to write it twice.
        """
        status = one(self.execute("xact_status", {"xid": xid}))["status"]
        return bool(status != "aborted")


def one(cursor: Cursor) -> dict[str, Any]:
    """Return the row of a statement that always has one."""
    row = cursor.fetchone()
    assert row is not None, "a statement that always has a row"
    return row


def column(cursor: Cursor | None, name: str) -> Sequence[Any]:
    """Return the values of one column; nothing if the statement was not executed."""
    return [row[name] for row in cursor.fetchall()] if cursor else []
