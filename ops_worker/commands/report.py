"""``ops-worker report``: what happened, as a page to read, print and send."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ops_worker.arguments import env_file, since
from ops_worker.errors import DONE, FULL, SettingsError

if TYPE_CHECKING:
    import argparse

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.history.report import Page
    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    parser.add_argument(
        "-o",
        dest="file",
        required=True,
        metavar="FILE.html",
        help="where to write the page; - is the standard output",
    )
    parser.add_argument(
        "--since",
        type=since,
        default=86_400.0,
        metavar="TIME",
        help="how far back it goes: 2h, 24h (the default), 7d",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Write it. Raises DatabaseError, SchemaError, or SettingsError for a file that cannot be written."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.html import render
    from ops_worker.adapters.postgres import history
    from ops_worker.history import report
    from ops_worker.history.series import counting

    targets = settings.catalogue.targets
    counts = counting(targets)

    def read(transaction: Transaction) -> Page:
        """Read it all at one moment of the database."""
        longest_s = report.longest_s(history.passes(transaction))
        points = report.buckets(options.since, longest_s)
        facts = history.facts(transaction, options.since, points, counts)
        chosen = report.wanted(facts.series, targets)
        told = report.lasting(
            chosen,
            history.runs(transaction, transaction.now, options.since, chosen, longest_s),
            targets,
        )
        found = report.page(
            facts, points, told, history.incidents(transaction, options.since), targets
        )
        people = history.maintenances(transaction, found.begun, found.ended)
        return found._replace(announced=report.announced(people))

    with contextlib.closing(
        postgres.Store(settings.connection, role=settings.pg_role, application="ops-worker report")
    ) as database:
        found = database.read(
            read,
            required_tables=postgres.HISTORY_TABLES,
            optional_tables=postgres.HISTORY_OPTIONAL_TABLES,
        )
    if options.file == "-":
        sys.stdout.buffer.write(
            render(found).encode()
        )  # UTF-8, as the page says of itself, whatever the terminal's encoding
    else:
        _write(Path(options.file), render(found))
        print(f"{options.file}: written")
    return DONE


def _write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all; what is there and is no file, a pipe say, is written to."""
    beside = None
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name[:100]}.", encoding="utf-8", delete=False
        ) as file:
            beside = Path(file.name)
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        beside.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask)
        beside.replace(path)
    except OSError as error:
        if beside is not None:
            beside.unlink(missing_ok=True)
        if error.errno in FULL:
            raise
        raise SettingsError([f"-o {path}: {error.strerror or error}"]) from None
