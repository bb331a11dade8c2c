"""``ops-worker maintenance``: a time in which no alert opens."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ops_worker.commands.alerts import user
from ops_worker.commands.arguments import env_file, since, words
from ops_worker.core.answer import ago, one_line
from ops_worker.errors import DONE, DatabaseError

if TYPE_CHECKING:
    import argparse

    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    start = actions.add_parser("start", help="from now on no alert opens; probing and recording go on, and alerts still close")
    start.add_argument("--for", type=since, dest="seconds", default=3600.0, metavar="TIME", help="how long: 30m, 1h (the default), 2d")
    start.add_argument("--reason", type=words, default="", help="what for")
    start.add_argument("--by", type=words, default="", metavar="NAME", help="who says so; else the user who runs this")
    actions.add_parser("end", help="alerts open again, with the next pass")
    actions.add_parser("status", help="say whether there is maintenance, until when, by whom")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Do it, and tell how it is then. Raises DatabaseError or SchemaError."""
    from ops_worker.edges import store
    from ops_worker.edges.store import people

    said = ""
    with contextlib.closing(store.Store(settings.connection, role=settings.pg_role, application="ops-worker maintenance")) as database:
        if options.action == "start":
            database.create([store.MAINTENANCE_TABLE])
            by = options.by or user()
            done: object = database.transact(
                store.MAINTENANCE, lambda transaction: people.start(transaction, options.seconds, by, options.reason)
            )
        elif options.action == "end":
            done = database.transact(store.MAINTENANCE, people.end, reads=[store.MAINTENANCE_TABLE])
            said = "the maintenance is over; " if done else ""
        else:
            done = False
        if done is None:
            raise DatabaseError("another one is at it at this moment: try again")
        row = database.transact(store.MAINTENANCE, people.maintenance, reads=[store.MAINTENANCE_TABLE], dry_run=True)
    until = settings.maintenance_until
    lasts = until is not None and until > datetime.now(UTC)
    if row:
        reason = f": {one_line(row['reason'])}" if row["reason"] else ""
        print(f"maintenance until {_time(row['until'])} ({ago(row['left_s'])} left), started by {one_line(row['started_by'])}{reason}")
    elif not lasts:
        print(f"{said}no maintenance: what is unhealthy has an alert")
    if until is not None:
        print(f"MAINTENANCE_UNTIL, where it is set, says until {_time(until)}{'' if lasts else ', which is past'}")
    return DONE


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"
