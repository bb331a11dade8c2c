"""``ops-worker status``: the current state on one screen."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from ops_worker.arguments import duration, env_file, output_option, since
from ops_worker.commands.database import opened, read_history
from ops_worker.errors import DONE, OpsWorkerError
from ops_worker.text import format_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ops_worker.adapters.postgres import Store
    from ops_worker.history.screen import ScreenTable
    from ops_worker.history.status import Status
    from ops_worker.settings import Settings

READ_DEADLINE_S = 15.0
"""Seconds to read the state with --watch. A statement ends after 10 s; a longer wait is stuck."""
RETRY_PAUSE_S = 2.0
"""Shortest pause in seconds between two attempts with --watch while the database fails."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    parser.add_argument(
        "--since",
        type=since,
        default=3600.0,
        metavar="TIME",
        help="how far back the history goes: 30m, 1h (the default), 7d; "
        "or from when: 05:08, 2026-03-01",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=duration,
        const=2.0,
        metavar="TIME",
        help="refresh the screen every TIME until Ctrl-C; every 2 s without TIME",
    )
    output_option(parser, "tables for people (the default), or one JSON document")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show the state once, or with --watch until Ctrl-C. Raises DatabaseError or SchemaError."""
    if options.watch is not None:
        _watch(options, settings)
    with opened(settings, "status") as store:
        _show(options, _read(store, options, settings))
    return DONE


def _watch(options: argparse.Namespace, settings: Settings) -> NoReturn:
    """Refresh the screen until Ctrl-C.

    Only a failure of the first attempt is raised. After a later one, the screen shows the error and
    the age of the last state, and the next attempt follows.
    """
    status: Status | None = None
    read_at = 0.0
    while True:
        # A new store after each failure: the old one may have a broken connection.
        with opened(settings, "status", deadline_s=READ_DEADLINE_S) as store:
            try:
                while True:
                    status = _read(store, options, settings)
                    read_at = time.monotonic()
                    _show(options, status)
                    time.sleep(options.watch)
            except OpsWorkerError as error:
                if status is None:
                    raise
                _show_failure(options, status, time.monotonic() - read_at, str(error))
        time.sleep(max(options.watch, RETRY_PAUSE_S))


def _show(options: argparse.Namespace, status: Status) -> None:
    from ops_worker.history.documents import as_json

    if options.output == "json":
        print(json.dumps(as_json(status)), flush=True)
    else:
        _show_tables(options, _visible_tables(status))


def _show_failure(options: argparse.Namespace, status: Status, age_s: float, error: str) -> None:
    """Print why there is no newer state, and how old the last one is.

    On a terminal, the last state stays on the screen. In a pipe it has been printed before.
    """
    from ops_worker.history.screen import outdated

    if options.output == "json":
        failure = {"error": error, "at": status.at.isoformat(), "age_s": round(age_s, 1)}
        print(json.dumps(failure), flush=True)
        return
    tables = [outdated(age_s, error)]
    if sys.stdout.isatty():
        tables += _visible_tables(status)
    _show_tables(options, tables)


def _visible_tables(status: Status) -> list[ScreenTable]:
    """Return the tables that are worth showing; nothing before the first pass."""
    from ops_worker.history.status import tables

    shown = tables(status)
    if not any(table.rows for table in shown):
        return []
    return [table for table in shown if table.rows or table.none]


def _show_tables(options: argparse.Namespace, tables: list[ScreenTable]) -> None:
    from ops_worker.history.screen import fit

    is_watch = options.watch is not None
    if is_watch and sys.stdout.isatty():
        tables = fit(tables, shutil.get_terminal_size().lines)
    draw(tables, clear=is_watch)


def _read(store: Store, options: argparse.Namespace, settings: Settings) -> Status:
    from ops_worker.adapters.postgres import history
    from ops_worker.history.series import counter_rule
    from ops_worker.history.status import BUCKETS, build

    targets = settings.catalogue.targets
    is_counter = counter_rule(targets)
    rows = read_history(
        store,
        lambda transaction: history.status_rows(transaction, options.since, BUCKETS, is_counter),
    )
    series_of = {target.name: target.series for target in targets}
    return build(rows, series_of, settings.maintenance_until)


def draw(tables: Sequence[ScreenTable], *, clear: bool = False) -> None:
    """Print tables: in colour on a terminal, as plain text elsewhere."""
    if tables and sys.stdout.isatty():
        # Without the extra ``view``, a terminal gets plain text, too.
        with contextlib.suppress(ImportError):
            from ops_worker.adapters import terminal

            terminal.draw(tables, clear=clear)
            return
    text = "\n\n".join(_plain(table) for table in tables)
    print(text or "no pass has recorded anything yet", flush=True)


def _plain(table: ScreenTable) -> str:
    body = format_table(table.head, table.rows) if table.rows else table.none
    return f"{table.title}\n{body}"
