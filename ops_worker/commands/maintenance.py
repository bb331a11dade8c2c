"""``ops-worker maintenance``: a time in which no alert opens."""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from ops_worker.arguments import env_file, since, words
from ops_worker.commands.alerts import user
from ops_worker.errors import DONE, DatabaseError, SchemaError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ops_worker.adapters.postgres import Store, Transaction
    from ops_worker.settings import Settings

T = TypeVar("T")
_log = logging.getLogger(__name__)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    start = actions.add_parser(
        "start",
        help="from now on no alert opens; probing and recording go on, and alerts still close",
    )
    start.add_argument(
        "--for",
        type=since,
        dest="seconds",
        default=3600.0,
        metavar="TIME",
        help="how long: 30m, 1h (the default), 2d",
    )
    start.add_argument("--reason", type=words, default="", help="what for")
    start.add_argument(
        "--replace",
        action="store_true",
        help="in place of one that is running; without this, that one stays, unless it is the same",
    )
    end = actions.add_parser("end", help="alerts open again, with the next pass")
    for action in (start, end):
        said_by = "who says so; else the user who runs this"
        action.add_argument("--by", type=words, default="", metavar="NAME", help=said_by)
    actions.add_parser("status", help="say whether there is maintenance, until when, by whom")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Do it, and tell how it is then.

    Raises DatabaseError, SchemaError, or SettingsError where another maintenance is running.
    """
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations

    said = ""
    with contextlib.closing(
        postgres.Store(
            settings.connection, role=settings.pg_role, application="ops-worker maintenance"
        )
    ) as database:
        if options.action == "start":
            said = _start(database, options)
        elif options.action == "end":
            by = options.by or user()
            ended = _write(database, lambda transaction: operations.end(transaction, by))
            said = "the maintenance is over; " if ended else ""
        row = database.read(operations.maintenance, optional_tables=[postgres.MAINTENANCE_TABLE])
    until = settings.maintenance_until
    lasts = until is not None and until > datetime.now(UTC)
    if row:
        print(f"{said}{operations.described(row)}")
    elif not lasts:
        print(f"{said}no maintenance: what is unhealthy has an alert")
    if until is not None:
        print(
            f"MAINTENANCE_UNTIL, where it is set, says until {_time(until)}{'' if lasts else ', which is past'}"
        )
    return DONE


def _start(database: Store, options: argparse.Namespace) -> str:
    """Start one; say in whose place it is, where there was another."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations

    database.create([postgres.MAINTENANCE_TABLE])
    try:
        database.create([postgres.MAINTENANCE_LOG])
    except SchemaError as error:  # a role that may not make it starts a maintenance all the same
        _no_history(str(error))
    given = {
        "seconds": options.seconds,
        "by": options.by or user(),
        "reason": options.reason,
    }
    replaced = _write(
        database,
        lambda transaction: operations.start(transaction, given, replace=options.replace),
    )
    return f"replaced: {operations.described(replaced)}\n" if replaced and options.replace else ""


def _write(database: Store, work: Callable[[Transaction], T]) -> T:
    """Do the work in one transaction. Raises DatabaseError where another one is under way."""
    from ops_worker.adapters import postgres

    warnings: list[str] = []

    def within(transaction: Transaction) -> tuple[T]:
        nonlocal warnings
        warnings = transaction.warnings
        return (work(transaction),)

    tables = [postgres.MAINTENANCE_TABLE, postgres.MAINTENANCE_LOG]
    done = database.write(postgres.MAINTENANCE, within, optional_tables=tables)
    if done is None:
        raise DatabaseError("another ops-worker process holds the lock: try again")
    for warning in dict.fromkeys(warnings):
        _no_history(warning)
    return done[0]


def _no_history(error: str) -> None:
    remedy = "the owner of the tables runs `ops-worker init-db`, and grants INSERT and UPDATE on it"
    extra = {"action": "no history", "error": error, "remedy": remedy}
    _log.warning("this maintenance is not kept in the history", extra=extra)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"
