"""``ops-worker alerts``: what a person does with system alerts."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
from typing import TYPE_CHECKING, Any

from ops_worker.arguments import env_file, words
from ops_worker.core.samples import OPS_WORKER
from ops_worker.errors import DONE, DatabaseError
from ops_worker.text import format_table, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.settings import Settings

HEAD = ("ID", "SERVICE", "STATUS", "OPENED", "CLOSED", "ACKNOWLEDGED BY", "SUMMARY")
MAX_ID = 2**63 - 1


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list those that are open or acknowledged")
    listing.add_argument("--all", action="store_true", help="also the last hundred that are closed")
    listing.add_argument(
        "--output",
        choices=["json", "table"],
        default="table",
        help="a table for people (the default), or one document",
    )
    ack = actions.add_parser(
        "ack", help="acknowledge one: it stays until its service is healthy again"
    )
    ack.add_argument("id", type=_number, metavar="ID")
    ack.add_argument(
        "--by",
        type=words,
        default="",
        metavar="NAME",
        help="who acknowledges it; else the user who runs this",
    )
    close = actions.add_parser(
        "close",
        help="close one; a service that is still unhealthy has a new one after the next pass",
    )
    close.add_argument("id", type=_number, metavar="ID")
    prune = actions.add_parser(
        "prune",
        help="remove the rows of services that are no longer watched, and close their alerts",
    )
    prune.add_argument(
        "--dry-run", action="store_true", help="show what would be removed; remove nothing"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Do it, and tell of each alert. Raises SettingsError for one that is not there."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations
    from ops_worker.core.passes import HEALTH

    with contextlib.closing(
        postgres.Store(settings.connection, role=settings.pg_role, application="ops-worker alerts")
    ) as database:

        def within(
            work: Callable[[Transaction], Any], *, health: bool = False, dry_run: bool = False
        ) -> Any:
            spec = HEALTH.transaction if health else postgres.ALERTS
            if dry_run:
                return database.read(
                    work,
                    required_tables=spec.required_tables,
                    optional_tables=[spec.creates] if spec.creates else [],
                )
            done = database.write(spec, work)
            if done is None:
                raise DatabaseError("another ops-worker process holds the lock: try again")
            return done

        if options.action == "list":
            rows = within(
                lambda transaction: operations.alerts(transaction, closed=options.all), dry_run=True
            )
            print(json.dumps(rows, default=str) if options.output == "json" else _table(rows))
        elif options.action == "ack":
            by = options.by or user()
            row = within(lambda transaction: operations.acknowledge(transaction, options.id, by))
            print(f"alert {row['id']} of {row['service']} is acknowledged by {by}")
        elif options.action == "close":
            row = within(lambda transaction: operations.close(transaction, options.id))
            print(
                f"alert {row['id']} of {row['service']} is closed; if the service is still unhealthy, the next pass opens a new one"
            )
        else:
            own = (
                [OPS_WORKER] if settings.record_own_metrics else []
            )  # else nobody closes the worker's own alert
            watched = [*(target.name for target in settings.catalogue.targets), *own]
            rows = within(
                lambda transaction: operations.prune(transaction, watched, dry_run=options.dry_run),
                health=True,
                dry_run=options.dry_run,
            )
            for row in rows:
                _say(row, dry_run=options.dry_run)
            number, verb = (
                ("1 service", "was") if len(rows) == 1 else (f"{len(rows)} services", "were")
            )
            print(f"alerts prune: {number} {'would be' if options.dry_run else verb} removed")
    return DONE


def _say(row: dict[str, Any], *, dry_run: bool) -> None:
    what = [
        f"row of {row['checked_at']:%Y-%m-%d %H:%M}" if row["checked_at"] else "",
        f"alert {row['alert']} closed" if row["alert"] else "",
    ]
    print(
        f"{'would remove' if dry_run else 'removed'} {one_line(row['service'])}: {', '.join(filter(None, what))}"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    told = [
        (
            str(row["id"]),
            one_line(row["service"]),
            row["status"],
            f"{row['created_at']:%Y-%m-%d %H:%M:%S %Z}",
            f"{row['closed_at']:%Y-%m-%d %H:%M:%S %Z}" if row["closed_at"] else "-",
            one_line(row["acknowledged_by"] or "-"),
            one_line(row["summary"]),
        )
        for row in rows
    ]
    return format_table(HEAD, told) if told else "no alert is open"


def user() -> str:
    """Name the user who runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in the image
        return f"user {os.getuid()}"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= MAX_ID):
        raise argparse.ArgumentTypeError(
            f"{text} is no alert's number; `ops-worker alerts list` shows them"
        )
    return int(text)
