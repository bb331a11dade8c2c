"""``ops-worker status``: what is known now, on one screen."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from ops_worker.commands.arguments import env_file, since
from ops_worker.core.report import columns
from ops_worker.errors import DONE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ops_worker.core.status import Table
    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    parser.add_argument(
        "--since", type=since, default=3600.0, metavar="TIME", help="how far back the history goes: 30m, 1h (the default), 7d"
    )
    parser.add_argument("--watch", nargs="?", type=since, const=2.0, metavar="TIME", help="show it again and again, each 2 s or so often")
    parser.add_argument("--output", choices=["json", "text"], default="text", help="tables for people (the default), or one document")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show it once, or with --watch until Ctrl-C. Raises DatabaseError or SchemaError."""
    from ops_worker.core.status import fitting, tables

    for document in _documents(options, settings):
        if options.output == "json":
            print(json.dumps(document), flush=True)
        else:
            found = tables(document)
            known = any(one.rows for one in found)
            shown = [one for one in found if one.rows or (one.none and known)]
            if options.watch is not None and sys.stdout.isatty():
                shown = fitting(shown, shutil.get_terminal_size().lines)
            draw(shown, clear=options.watch is not None)
    return DONE


def _documents(options: argparse.Namespace, settings: Settings) -> Iterator[dict[str, Any]]:
    from ops_worker.core.past import counting
    from ops_worker.core.status import BUCKETS, build
    from ops_worker.edges import store
    from ops_worker.edges.store import past

    targets = settings.catalogue.targets
    series_of = {target.name: target.series for target in targets}
    counts = counting(targets)
    with contextlib.closing(store.Store(settings.connection, role=settings.pg_role, application="ops-worker status")) as database:
        while True:
            facts = database.transact(
                store.LOOK,
                lambda transaction: past.facts(transaction, options.since, BUCKETS, counts),
                reads=store.LOOKS_AT,
                dry_run=True,
            )
            assert facts is not None, "who only looks takes no lock"
            yield build(facts, series_of, settings.maintenance_until)
            if options.watch is None:
                return
            time.sleep(options.watch)


def draw(tables: Sequence[Table], *, clear: bool = False) -> None:
    """Show tables: with colours and as wide as the terminal is, or plainly where there is none."""
    if tables and sys.stdout.isatty():
        with contextlib.suppress(ImportError):  # without the extra `view` it is as plain as in a pipe
            from ops_worker.edges import screen

            screen.draw(tables, clear=clear)
            return
    parts = (f"{one.title}\n{columns(one.head, one.rows) if one.rows else one.none}" for one in tables)
    print("\n\n".join(parts) or "no pass has recorded anything yet", flush=True)
