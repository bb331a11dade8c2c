"""``ops-worker report``: what happened, as a page to read, print and send."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ops_worker.commands.status import since
from ops_worker.errors import DONE, SettingsError

if TYPE_CHECKING:
    import argparse

    from ops_worker.core.page import Page
    from ops_worker.edges.store.statements import Transaction
    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read settings from FILE instead of .env; the environment wins")
    parser.add_argument("-o", dest="file", required=True, metavar="FILE.html", help="where to write the page; - is the standard output")
    parser.add_argument("--since", type=since, default=86_400.0, metavar="TIME", help="how far back it goes: 2h, 24h (the default), 7d")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Write it. Raises DatabaseError, SchemaError, or SettingsError for a file that cannot be written."""
    from ops_worker.core import page
    from ops_worker.core.past import gauges
    from ops_worker.edges import store
    from ops_worker.edges.page import render
    from ops_worker.edges.store import past

    targets, figures = settings.catalogue.targets, settings.catalogue.figures
    series_of = {target.name: target.series for target in targets}
    flat = gauges(targets, figures)

    def read(transaction: Transaction) -> Page:
        points = page.buckets(options.since, past.passes(transaction))
        facts = past.facts(transaction, options.since, points, flat)
        chosen = page.wanted(facts.series)
        told = page.lasting(chosen, past.runs(transaction, transaction.now, options.since, chosen), series_of)
        return page.page(facts, points, told, past.incidents(transaction, options.since), series_of)

    with contextlib.closing(store.Store(settings.connection, role=settings.pg_role, application="ops-worker report")) as database:
        found = database.transact(store.LOOK, read, reads=[store.MAINTENANCE_TABLE], dry_run=True)
    assert found is not None, "who only looks takes no lock"
    if options.file == "-":
        sys.stdout.write(render(found))
    else:
        _write(Path(options.file), render(found))
        print(f"{options.file}: written")
    return DONE


def _write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    beside = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False) as file:
            beside = Path(file.name)
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        beside.chmod(0o666 & ~mask)
        beside.replace(path)
    except OSError as error:
        if beside is not None:
            beside.unlink(missing_ok=True)
        raise SettingsError([f"-o {path}: {error.strerror or error}"]) from None
