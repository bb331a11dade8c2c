"""``ops-worker status``: show the current state on one screen."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

from ops_worker.arguments import duration, env_file, output_option, time_or_age
from ops_worker.commands.database import opened, read_history
from ops_worker.errors import DONE, OpsWorkerError, SettingsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ops_worker.adapters.postgres import Store, Transaction
    from ops_worker.history.screen import ScreenTable
    from ops_worker.history.status import Status
    from ops_worker.settings import Settings

READ_DEADLINE_S = 15.0
"""Deadline in seconds for reading the state with --watch.

A statement ends after 10 s. After a longer wait, the connection is stuck.
"""
RETRY_PAUSE_S = 2.0
"""Shortest pause in seconds between two attempts with --watch while the database fails."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    parser.add_argument(
        "--since",
        type=time_or_age,
        default=3600.0,
        metavar="TIME",
        help="the beginning of the history, as an age: 90m, 1h (the default), 7d, 1y; or as a "
        "time: 05:08, 2026-03-01, 2026-03-01T03:10 (UTC unless it has a zone)",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=duration,
        const=2.0,
        metavar="TIME",
        help="refresh the screen until Ctrl-C, every TIME; without TIME, every 2 s",
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

    Only a failure of the first attempt is raised. After a later failure, the screen shows the error
    and the age of the last state, and the next attempt follows.
    """
    status: Status | None = None
    before: Status | None = None
    read_at = 0.0
    while True:
        # Use a new store after each failure: the old store may have a broken connection.
        with opened(settings, "status", deadline_s=READ_DEADLINE_S) as store:
            try:
                while True:
                    before, status = status, _read(store, options, settings)
                    read_at = time.monotonic()
                    _show(options, status, before)
                    time.sleep(options.watch)
            except OpsWorkerError as error:
                if status is None:
                    raise
                _show_failure(options, status, time.monotonic() - read_at, str(error))
        time.sleep(max(options.watch, RETRY_PAUSE_S))


def _show(options: argparse.Namespace, status: Status, before: Status | None = None) -> None:
    """Print the state. With --watch, ``before`` is the previous state."""
    from ops_worker.history.documents import as_json

    if options.output == "json":
        print(json.dumps(as_json(status)), flush=True)
    else:
        _show_tables(options, _visible_tables(status, before))


def _show_failure(options: argparse.Namespace, status: Status, age_s: float, error: str) -> None:
    """Print why there is no newer state, and the age of the last state.

    On a terminal, the last state stays on the screen. In a pipe, it was already printed.
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


def _visible_tables(status: Status, before: Status | None = None) -> list[ScreenTable]:
    """Return the tables with content; no tables before the first pass."""
    from ops_worker.history.status import heading, tables

    all_tables = tables(status, before=before, width=screen_width())
    if not any(table.rows for table in all_tables):
        return []
    visible = [table for table in all_tables if table.rows or table.none]
    return [heading(status, before=before), *visible]


def _show_tables(options: argparse.Namespace, tables: list[ScreenTable]) -> None:
    from ops_worker.history.screen import fit, fitted

    width = screen_width()
    is_watch = options.watch is not None
    tables = [fitted(table, width) for table in tables]
    if is_watch and sys.stdout.isatty():
        tables = fit(tables, shutil.get_terminal_size().lines)
    draw(tables, clear=is_watch, width=width)


def screen_width() -> int:
    """Return the width of the screen in columns: that of the terminal, or COLUMNS; 80 in a pipe."""
    from ops_worker.history.screen import MIN_WIDTH

    return max(MIN_WIDTH, shutil.get_terminal_size().columns)


def _read(store: Store, options: argparse.Namespace, settings: Settings) -> Status:
    from ops_worker.adapters.postgres import history, ledger_reads
    from ops_worker.core.needs import needs_of
    from ops_worker.core.slo import objectives
    from ops_worker.history.series import counter_rule
    from ops_worker.history.status import BUCKETS, CHANGED, StatusLedger, StatusRows, bar_length
    from ops_worker.history.status import build as build_status

    targets = settings.catalogue.targets
    is_counter = counter_rule(targets)
    objectives_of = objectives(targets)

    def read(transaction: Transaction) -> tuple[StatusRows, StatusLedger | None]:
        """Read all rows at one moment of the database's clock."""
        since_s = _since_s(options.since, transaction.now)
        rows = history.status_rows(transaction, since_s, BUCKETS, is_counter)
        services = [row.service for row in rows.services]
        ledger = ledger_reads.status_ledger(transaction, services, since_s, objectives_of)
        return rows, ledger

    rows, ledger = read_history(store, read)
    states = BUCKETS
    if options.output != "json":
        # The marks of --watch need some of the width.
        states = bar_length(screen_width() - (len(CHANGED) if options.watch is not None else 0))
    return build_status(
        rows,
        {target.name: target.series for target in targets},
        settings.maintenance_until,
        needs=needs_of(targets),
        ledger=ledger,
        states=states,
    )


def _since_s(since: datetime | float, now: datetime) -> float:
    """Return the length of the period in seconds. Raises SettingsError if it is less than 1 s."""
    since_s = (now - since).total_seconds() if isinstance(since, datetime) else since
    if since_s < 1:
        clock = f"the database's clock says {now:%Y-%m-%dT%H:%M:%S}Z"
        raise SettingsError(
            [f"--since: the period is shorter than 1 s, or not in the past; {clock}"]
        )
    return since_s


def draw(tables: Sequence[ScreenTable], *, clear: bool = False, width: int | None = None) -> None:
    """Print tables: in colour on a terminal, as plain text elsewhere.

    ``width`` is the width of the screen for which the tables were made, or None.
    """
    from ops_worker.history.screen import WIDTH, plain

    if tables and sys.stdout.isatty():
        # Without the extra ``view``, a terminal also gets plain text.
        with contextlib.suppress(ImportError):
            from ops_worker.adapters import terminal

            terminal.draw(tables, clear=clear, width=width)
            return
    text = "\n\n".join(plain(table, width or WIDTH) for table in tables)
    print(text or "no pass has recorded anything yet", flush=True)
