"""The database for commands of people. ``run_pass`` opens the database for passes."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, TypeVar

from ops_worker.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ops_worker.adapters.postgres import Store, Transaction
    from ops_worker.core.passes import TransactionSpec
    from ops_worker.settings import Settings

T = TypeVar("T")
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def opened(settings: Settings, command: str, *, deadline_s: float = 0.0) -> Iterator[Store]:
    """Yield the store of a command and close it at the end.

    ``deadline_s`` limits each transaction of a command that repeats, in seconds; 0 means no limit.
    """
    from ops_worker.adapters import postgres

    store = postgres.Store(
        settings.connection,
        role=settings.pg_role,
        application=f"ops-worker {command}",
        loop_deadline_s=deadline_s,
        changing=settings.changing_connection,
        installation=settings.installation,
    )
    with contextlib.closing(store):
        yield store


def read_history(store: Store, work: Callable[[Transaction], T]) -> T:
    """Read the records of passes in one transaction."""
    from ops_worker.adapters import postgres

    return store.read(
        work,
        required_tables=postgres.HISTORY_TABLES,
        optional_tables=postgres.HISTORY_OPTIONAL_TABLES,
    )


def write(
    store: Store,
    spec: TransactionSpec,
    work: Callable[[Transaction], T],
    *,
    optional_tables: Sequence[str] = (),
) -> T:
    """Do the work in one transaction; log its warnings about tables of the history.

    Raises DatabaseError if another process holds the lock.
    """
    # Return a tuple: the work may return None, but None from the store means a held lock.
    result = store.write(
        spec,
        lambda transaction: (work(transaction), transaction.warnings),
        optional_tables=optional_tables,
    )
    if result is None:
        raise DatabaseError("another ops-worker process holds the lock: try again")
    returned, warnings = result
    warn_not_recorded(dict.fromkeys(warnings))
    return returned


def warn_not_recorded(errors: Iterable[str]) -> None:
    """Log that an action is not in the history because a privilege is missing."""
    for error in errors:
        remedy = (
            "as the owner of the tables, run `ops-worker init-db`, "
            "then grant INSERT and UPDATE on this table to this role"
        )
        extra = {"action": "no history", "error": error, "remedy": remedy}
        _log.warning("this is not recorded in the history", extra=extra)
