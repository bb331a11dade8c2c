"""``ops-worker status``: what is known now, on one screen."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from ops_worker.arguments import env_file, since
from ops_worker.errors import DONE, OpsWorkerError
from ops_worker.text import format_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ops_worker.adapters.postgres import Store
    from ops_worker.history.status import Table
    from ops_worker.settings import Settings

ANSWER_S = 15.0
"""Seconds for a picture of a watch. A statement ends after 10 s: what takes longer is stuck."""
RETRY_PAUSE_S = 2.0
"""Seconds between two attempts of a watch, at least, while the database cannot be asked."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    parser.add_argument(
        "--since",
        type=since,
        default=3600.0,
        metavar="TIME",
        help="how far back the history goes: 30m, 1h (the default), 7d",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=since,
        const=2.0,
        metavar="TIME",
        help="show it again and again, each 2 s or so often",
    )
    parser.add_argument(
        "--output",
        choices=["json", "text"],
        default="text",
        help="tables for people (the default), or one document",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show it once, or with --watch until Ctrl-C. Raises DatabaseError or SchemaError.

    A watch whose first picture succeeded survives what comes later: it shows what is wrong and how
    old its last picture is, and goes on trying.
    """
    if options.watch is None:
        with contextlib.closing(_store(settings)) as database:
            _show(options, _document(database, options, settings))
        return DONE
    last: dict[str, Any] | None = None
    taken = 0.0
    while True:
        # A new one after each failure: nothing of a lost connection, or of its pauses, is left.
        with contextlib.closing(_store(settings, deadline_s=ANSWER_S)) as database:
            try:
                while True:
                    last = _document(database, options, settings)
                    taken = time.monotonic()
                    _show(options, last)
                    time.sleep(options.watch)
            except OpsWorkerError as error:
                if last is None:
                    raise
                _show(options, last, age_s=time.monotonic() - taken, error=str(error))
        time.sleep(max(options.watch, RETRY_PAUSE_S))


def _show(
    options: argparse.Namespace,
    document: dict[str, Any],
    age_s: float = 0.0,
    error: str = "",
) -> None:
    """Print a document; with an error, how old it is and why there is no newer one."""
    from ops_worker.history.status import fitting, outdated, tables

    if options.output == "json":
        failure = {"error": error, "at": document["at"], "age_s": round(age_s, 1)}
        print(json.dumps(failure if error else document), flush=True)
        return
    found = tables(document)
    known = any(one.rows for one in found)
    shown = [one for one in found if one.rows or (one.none and known)]
    on_screen = options.watch is not None and sys.stdout.isatty()
    if error:
        shown = [outdated(age_s, error), *(shown if on_screen else [])]
    if on_screen:
        shown = fitting(shown, shutil.get_terminal_size().lines)
    draw(shown, clear=options.watch is not None)


def _store(settings: Settings, *, deadline_s: float = 0.0) -> Store:
    from ops_worker.adapters import postgres

    return postgres.Store(
        settings.connection,
        role=settings.pg_role,
        application="ops-worker status",
        loop_deadline_s=deadline_s,
    )


def _document(database: Store, options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import history
    from ops_worker.history.series import counting
    from ops_worker.history.status import BUCKETS, build

    targets = settings.catalogue.targets
    counts = counting(targets)
    facts = database.read(
        lambda transaction: history.facts(transaction, options.since, BUCKETS, counts),
        required_tables=postgres.HISTORY_TABLES,
        optional_tables=postgres.HISTORY_OPTIONAL_TABLES,
    )
    series_of = {target.name: target.series for target in targets}
    return build(facts, series_of, settings.maintenance_until)


def draw(tables: Sequence[Table], *, clear: bool = False) -> None:
    """Show tables: with colours and as wide as the terminal is, or plainly where there is none."""
    if tables and sys.stdout.isatty():
        with contextlib.suppress(
            ImportError
        ):  # without the extra `view` it is as plain as in a pipe
            from ops_worker.adapters import terminal

            terminal.draw(tables, clear=clear)
            return
    parts = (
        f"{one.title}\n{format_table(one.head, one.rows) if one.rows else one.none}"
        for one in tables
    )
    print("\n\n".join(parts) or "no pass has recorded anything yet", flush=True)
