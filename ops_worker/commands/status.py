"""``ops-worker status``: what is known now, on one screen."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_worker.core.report import columns
from ops_worker.errors import DONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops_worker.core.status import Table
    from ops_worker.settings import Settings

MAX_SINCE_S = 31 * 86_400.0
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read settings from FILE instead of .env; the environment wins")
    parser.add_argument(
        "--since", type=since, default=3600.0, metavar="TIME", help="how far back the history goes: 30m, 1h (the default), 7d"
    )
    parser.add_argument("--watch", nargs="?", type=since, const=2.0, metavar="TIME", help="show it again and again, each 2 s or so often")
    parser.add_argument("--output", choices=["json", "text"], default="text", help="tables for people (the default), or one document")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show it once, or with --watch until Ctrl-C. Raises DatabaseError or SchemaError."""
    from ops_worker.core.status import tables

    for document in _documents(options, settings):
        if options.output == "json":
            print(json.dumps(document), flush=True)
        else:
            found = tables(document)
            known = any(one.rows for one in found)
            draw([one for one in found if one.rows or (one.none and known)], clear=options.watch is not None)
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
            yield build(facts, series_of)
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


def since(text: str) -> float:
    """Read a time, 30m say, as seconds."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", text)
    seconds = float(found.group(1)) * UNITS[found.group(2) or "s"] if found else 0.0
    if not 1 <= seconds <= MAX_SINCE_S:
        raise argparse.ArgumentTypeError(f"{text} is no time from 1s to 31d: 30m, 1h, 7d")
    return seconds
