"""``ops-worker maintenance``: start, end and show a period in which no alert opens."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ops_worker.arguments import by_option, duration, env_file, words
from ops_worker.commands.alerts import user
from ops_worker.commands.database import opened, warn_not_recorded, write
from ops_worker.core.passes import MAINTENANCE_LOG, MAINTENANCE_TABLE
from ops_worker.errors import DONE, SchemaError

if TYPE_CHECKING:
    import argparse

    from ops_worker.adapters.postgres import Store
    from ops_worker.settings import Settings

TABLES = (MAINTENANCE_TABLE, MAINTENANCE_LOG)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    start = actions.add_parser(
        "start",
        help="open no alert from now on; probing and recording continue, and alerts still close",
    )
    start.add_argument(
        "--for",
        type=duration,
        dest="for_s",
        default=3600.0,
        metavar="TIME",
        help="how long it lasts: 30m, 1h (the default), 2d",
    )
    start.add_argument("--reason", type=words, default="", help="why there is maintenance")
    start.add_argument(
        "--replace",
        action="store_true",
        help="replace a maintenance that is running; without it, only the same one starts anew",
    )
    end = actions.add_parser("end", help="let alerts open again, from the next pass on")
    for action in (start, end):
        by_option(action)
    actions.add_parser("status", help="show whether there is maintenance, until when, by whom")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Do the action, and print the maintenance that is running then.

    Raises DatabaseError, SchemaError, or SettingsError if another maintenance is running.
    """
    from ops_worker.adapters.postgres import operations

    with opened(settings, "maintenance") as store:
        before = ""
        if options.action == "start":
            before = _start(store, options)
        elif options.action == "end":
            before = _end(store, options)
        running = store.read(operations.running_maintenance, optional_tables=[MAINTENANCE_TABLE])
    until = settings.maintenance_until
    lasts = until is not None and until > datetime.now(UTC)
    if running:
        print(f"{before}{operations.describe(running)}")
    elif not lasts:
        print(f"{before}no maintenance is running; alerts open")
    if until is not None:
        past = "" if lasts else ", which is past"
        print(f"MAINTENANCE_UNTIL is set: until {until:%Y-%m-%d %H:%M:%S %Z}{past}")
    return DONE


def _start(store: Store, options: argparse.Namespace) -> str:
    """Start a maintenance, and return a line about the one that it replaced."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations

    store.create([MAINTENANCE_TABLE])
    try:
        store.create([MAINTENANCE_LOG])
    except SchemaError as error:
        # A role that may not create the log can still start a maintenance.
        warn_not_recorded([str(error)])
    maintenance = operations.NewMaintenance(
        seconds=options.for_s, by=options.by or user(), reason=options.reason
    )
    replaced = write(
        store,
        postgres.MAINTENANCE,
        lambda transaction: operations.start(transaction, maintenance, replace=options.replace),
        optional_tables=TABLES,
    )
    if replaced is None or not options.replace:
        return ""
    return f"replaced: {operations.describe(replaced)}\n"


def _end(store: Store, options: argparse.Namespace) -> str:
    """End the maintenance, and return the start of a line about it, if there was one."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations

    by = options.by or user()
    was_running = write(
        store,
        postgres.MAINTENANCE,
        lambda transaction: operations.end(transaction, by),
        optional_tables=TABLES,
    )
    return "the maintenance has ended; " if was_running else ""
