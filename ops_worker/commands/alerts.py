"""``ops-worker alerts``: list, acknowledge, close and prune system alerts."""

from __future__ import annotations

import getpass
import json
import os
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any

from ops_worker.arguments import add_action, by_option, env_file, output_option, row_number, words
from ops_worker.commands.database import opened, write
from ops_worker.core.installations import own_service
from ops_worker.errors import DONE
from ops_worker.text import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ops_worker.adapters.postgres import Store
    from ops_worker.history.rows import AlertRow, UnmonitoredRow
    from ops_worker.settings import Settings

_number = partial(row_number, noun="an alert", listed_by="alerts list")
"""Parse the number of an alert."""
ID_HELP = "the number of the alert, as `alerts list` shows it"
"""Help of the argument ID."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    list_ = add_action(actions, "list", "list the alerts that are open or acknowledged")
    list_.add_argument(
        "--all", action="store_true", help="also list the last hundred closed alerts"
    )
    output_option(list_, "a table for people (the default), or one JSON document", plain="table")
    ack = add_action(
        actions, "ack", "acknowledge an alert; it stays open until its service is healthy again"
    )
    ack.add_argument("id", type=_number, metavar="ID", help=ID_HELP)
    close = add_action(
        actions,
        "close",
        "close an alert; if its service is still unhealthy, the next pass opens a new one",
    )
    close.add_argument("id", type=_number, metavar="ID", help=ID_HELP)
    prune = add_action(
        actions,
        "prune",
        "remove services that no installation monitors any more, and close their alerts",
    )
    prune.add_argument(
        "--dry-run", action="store_true", help="show what would be removed; remove nothing"
    )
    for action in (ack, close, prune):
        by_option(action)
        action.add_argument(
            "--reason", type=words, default="", help="the reason; it is kept with the action"
        )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Do the action and report each alert. Raises SettingsError if the alert does not exist."""
    with opened(settings, "alerts") as store:
        ACTIONS[options.action](store, options, settings)
    return DONE


def _list(store: Store, options: argparse.Namespace, _: Settings) -> None:
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations

    rows = store.read(
        lambda transaction: operations.alerts(transaction, closed=options.all),
        required_tables=postgres.ALERTS.required_tables,
    )
    if options.output == "json":
        print(json.dumps([row._asdict() for row in rows], default=str))
    else:
        _show(rows)


def _acknowledge(store: Store, options: argparse.Namespace, _: Settings) -> None:
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations

    by = options.by or user()
    acknowledge = partial(operations.acknowledge, number=options.id, by=by, reason=options.reason)
    alert = write(store, postgres.ALERTS, acknowledge)
    print(f"alert {alert.id} of {alert.service} is acknowledged by {by}")


def _close(store: Store, options: argparse.Namespace, _: Settings) -> None:
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations

    by = options.by or user()
    close = partial(operations.close, number=options.id, by=by, reason=options.reason)
    alert = write(store, postgres.ALERTS, close)
    consequence = "if the service is still unhealthy, the next pass opens a new one"
    print(f"alert {alert.id} of {alert.service} is closed; {consequence}")


def _prune(store: Store, options: argparse.Namespace, settings: Settings) -> None:
    from ops_worker.adapters.postgres import operations
    from ops_worker.core.passes import HEALTH, LEDGER_TABLES

    monitored = [target.name for target in settings.catalogue.targets]
    if settings.record_own_metrics:
        # The passes close the worker's own alert. Without self-metrics, they do not, so prune it.
        monitored.append(own_service(settings.installation))
    prune = partial(
        operations.prune,
        monitored=monitored,
        by=options.by or user(),
        reason=options.reason,
        dry_run=options.dry_run,
    )
    optional = (*LEDGER_TABLES, "system_metrics")
    if options.dry_run:
        rows = store.dry_run(HEALTH.transaction, prune, optional_tables=optional)
    else:
        rows = write(store, HEALTH.transaction, prune, optional_tables=optional)
    rows_of_others = [row for row in rows if row.kept_by]
    rows = [row for row in rows if not row.kept_by]
    for row in rows:
        _print_pruned(row, dry_run=options.dry_run)
    for row in rows_of_others:
        print(f"kept {one_line(row.service)}: installation {one_line(row.kept_by)} watches it")
    number = "1 service" if len(rows) == 1 else f"{len(rows)} services"
    verb = "was" if len(rows) == 1 else "were"
    if options.dry_run:
        verb = "would be"
    print(f"alerts prune: {number} {verb} removed")


ACTIONS = {"list": _list, "ack": _acknowledge, "close": _close, "prune": _prune}


def _print_pruned(row: UnmonitoredRow, *, dry_run: bool) -> None:
    parts = []
    if row.checked_at:
        parts.append(f"row of {row.checked_at:%Y-%m-%d %H:%M}")
    if row.alert:
        parts.append(f"alert {row.alert} closed")
    verb = "would remove" if dry_run else "removed"
    print(f"{verb} {one_line(row.service)}: {', '.join(parts)}")


def _show(rows: Sequence[AlertRow]) -> None:
    """Print the alerts as a table that fits the screen, like the tables of `status`."""
    if not rows:
        print("no alert is open")
        return
    from ops_worker.commands.status import draw, screen_width
    from ops_worker.history.screen import Column, fitted, flexible, format_time

    cells = [
        (
            str(row.id),
            one_line(row.service),
            row.status,
            format_time(row.created_at.astimezone(UTC)),
            format_time(row.closed_at.astimezone(UTC) if row.closed_at else None),
            one_line(row.acknowledged_by or "-"),
            one_line(row.summary),
        )
        for row in rows
    ]
    columns = (
        Column("ID"),
        Column("SERVICE", least=12),
        Column("STATUS"),
        Column("OPENED"),
        Column("CLOSED", drop=2),
        Column("ACKNOWLEDGED BY", least=15, drop=1),
        Column("SUMMARY", least=8, is_note=True),
    )
    title = "System alerts, times in UTC"
    table = flexible(title, columns, tuple(cells), state_column=2)
    width = screen_width()
    draw([fitted(table, width)], width=width)


def user() -> str:
    """Return the name of the user who runs this command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A user without a name, as in the image.
        return f"user {os.getuid()}"
