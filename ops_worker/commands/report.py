"""``ops-worker report``: write an HTML page about a period, to read, print and send."""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ops_worker.arguments import env_file
from ops_worker.commands.database import opened, read_history
from ops_worker.commands.history import period, period_options
from ops_worker.errors import DONE, FULL, SettingsError

if TYPE_CHECKING:
    import argparse

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.history.report import Report
    from ops_worker.settings import Settings

STDOUT = "-"
DEFAULT_PERIOD = timedelta(days=1)
"""The period without --since and --from."""
MAX_PREFIX = 100
"""How many characters of a file's name are in the name of its temporary file.

The name of a file may have 255 bytes.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    parser.add_argument(
        "-o",
        dest="file",
        required=True,
        metavar="FILE.html",
        help="the file to write; - is standard output",
    )
    period_options(parser, "24h")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Write the report; return the exit code.

    Raises DatabaseError, SchemaError, or SettingsError for a file that cannot be written or a
    period that is not in the past.
    """
    from ops_worker.adapters.html import render

    with opened(settings, "report") as store:
        report = read_history(store, lambda transaction: _read(transaction, options, settings))
    page = render(report)
    if options.file == STDOUT:
        # The page declares UTF-8, whatever the encoding of the terminal.
        sys.stdout.buffer.write(page.encode())
    else:
        _write(Path(options.file), page)
        print(f"{options.file}: written")
    return DONE


def _read(transaction: Transaction, options: argparse.Namespace, settings: Settings) -> Report:
    """Read the whole report at one moment of the database's clock."""
    from ops_worker.adapters.postgres import (
        action_reads,
        history,
        ledger_reads,
        maintenance_reads,
    )
    from ops_worker.core.slo import objectives
    from ops_worker.core.staleness import longest_period_s
    from ops_worker.history import report
    from ops_worker.history.series import counter_rule

    targets = settings.catalogue.targets
    begun, ended = period(options, transaction.now, DEFAULT_PERIOD)
    since_s = (ended - begun).total_seconds()
    past = transaction.as_of(ended)
    records = report.probing(history.pass_records(past))
    points = report.buckets(since_s, longest_period_s(records))
    services = {target.name for target in targets}
    ledger = None
    if ledger_reads.is_readable(transaction):
        services.update(ledger_reads.current_services(transaction))
        ledger = ledger_reads.status_ledger(
            transaction, sorted(services), since_s, objectives(targets), until=ended
        )
    actions = action_reads.read_actions(transaction, begun, ended, limit=report.MAX_ACTIONS)
    rows = report.ReportRows(
        now=transaction.now,
        begun=begun,
        ended=ended,
        status=history.status_rows(past, since_s, points, counter_rule(targets)),
        ledger=ledger,
        incidents=history.incidents(past, since_s),
        maintenances=maintenance_reads.maintenances(transaction, begun, ended),
        actions=actions or (),
    )
    return report.build(rows, points, targets, settings.maintenance_until)


def _write(path: Path, text: str) -> None:
    """Write a file completely or not at all, and keep its mode.

    The text is written to a temporary file, which then replaces the file. A path that is not a
    regular file, such as a pipe, is written directly. Raises SettingsError if the file cannot be
    written, and OSError if the disk is full.
    """
    temporary = None
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        prefix = f".{path.name[:MAX_PREFIX]}."
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=prefix, encoding="utf-8", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(_mode(path))
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if error.errno in FULL:
            raise
        raise SettingsError([f"-o {path}: {error.strerror or error}"]) from None


def _mode(path: Path) -> int:
    """Return the mode of a file; for a missing file, the mode of a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)  # the mask can only be read by setting it
    os.umask(mask)
    return 0o666 & ~mask
