"""``ops-worker history``: show the states of services over a long time, from the ledger."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ops_worker.arguments import env_file, time_or_age, words
from ops_worker.commands.database import opened
from ops_worker.commands.explain import named_target, unknown_service
from ops_worker.errors import DONE, SettingsError
from ops_worker.text import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ops_worker.adapters.postgres import Store, Transaction
    from ops_worker.core.model import Target
    from ops_worker.history.actions import Action
    from ops_worker.history.ledger import LedgerPeriod, LedgerRows, ServiceDocument
    from ops_worker.history.maintenances import Maintenance
    from ops_worker.settings import Settings

T = TypeVar("T")
DEFAULT_PERIOD = timedelta(days=7)
"""The period without --since and --from."""
MAX_MAINTENANCES = 50
"""Maximum number of maintenances below the table. The JSON document has all of them.

A window that repeats every day has many occurrences.
"""
CHUNK = 200
"""How many services one transaction reads: their rows of a year take a few MB of memory."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from ops_worker.core.passes import PASSES
    from ops_worker.history.ledger import ALL

    env_file(parser)
    parser.add_argument(
        "service",
        nargs="?",
        type=words,
        metavar="SERVICE",
        help="a service that is or was monitored; default: all services that are recorded, except "
        "those that `alerts prune` removed",
    )
    period_options(parser, "7d")
    parser.add_argument(
        "--pass",
        dest="name",
        choices=[ALL, *(name for name, spec in PASSES.items() if spec.probes)],
        default=ALL,
        help="what one pass saw; or all (the default): what the metrics pass saw and, where it did "
        "not look, what the health pass saw",
    )
    parser.add_argument(
        "--output",
        choices=["table", "csv", "json"],
        default="table",
        help="a table for people (the default), CSV for spreadsheets with a row for each span, or "
        "one JSON document",
    )


def period_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --since, --from and --to. ``default`` is the length of the period without them."""
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--since",
        type=time_or_age,
        metavar="TIME",
        help=f"the beginning of the period, as an age: 90m, 1h30m, 30d, 1y; or as a time: 05:08, "
        f"2026-03-01, 2026-03-01T03:10 (UTC unless it has a zone); default: {default}",
    )
    begin.add_argument(
        "--from",
        dest="beginning",
        type=time_or_age,
        metavar="TIME",
        help="the same as --since",
    )
    parser.add_argument(
        "--to",
        "--until",
        dest="end",
        type=time_or_age,
        metavar="TIME",
        help="the end of the period, in the same forms as --since; default: now",
    )


class _Request(NamedTuple):
    """The requested period with its services, and the name of the requested pass, or ``all``.

    ``actions`` has what people did in the period; None if it cannot be read. ``maintenances`` has
    the maintenances in the period. With a requested service, both are only about this service.
    """

    period: LedgerPeriod
    name: str
    actions: Sequence[Action] | None
    maintenances: Sequence[Maintenance]


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show the history.

    Raises DatabaseError, SchemaError, or SettingsError for an unknown service or a period that is
    not in the past.
    """
    targets = {target.name: target for target in settings.catalogue.targets}
    with opened(settings, "history") as store:
        request = _read(store, lambda transaction: _request(transaction, options, targets))
        show = {"json": _show_json, "csv": _show_csv, "table": _show_table}[options.output]
        show(request, _documents(store, request))
    return DONE


def _read(store: Store, work: Callable[[Transaction], T]) -> T:
    """Read from the ledger in one transaction."""
    from ops_worker.adapters import postgres

    return store.read(
        work,
        required_tables=postgres.LEDGER_READ_TABLES,
        optional_tables=postgres.LEDGER_OPTIONAL_TABLES,
    )


def _request(
    transaction: Transaction, options: argparse.Namespace, targets: Mapping[str, Target]
) -> _Request:
    """Return the requested period and services, and what people did in the period."""
    from ops_worker.adapters.postgres import action_reads, ledger_reads, maintenance_reads
    from ops_worker.history.actions import action_document
    from ops_worker.history.ledger import LedgerPeriod
    from ops_worker.history.maintenances import maintenance_document

    since, until = period(options, transaction.now, DEFAULT_PERIOD)
    services = ledger_reads.current_services(transaction)
    if options.service is not None:
        target = named_target(options.service, targets)
        service = target.name if target else options.service
        is_known = target is not None or service in services
        if not is_known and not ledger_reads.is_recorded(transaction, service):
            raise SettingsError([unknown_service(one_line(service), targets)])
        services = [service]
    about = None if options.service is None else services
    actions = action_reads.read_actions(transaction, since, until, about)
    maintenances = maintenance_reads.maintenances(transaction, since, until)
    if about is not None:
        maintenances = [row for row in maintenances if row.covers(about[0])]
    return _Request(
        period=LedgerPeriod(transaction.now, since, until, services),
        name=options.name,
        actions=None if actions is None else [action_document(row) for row in actions],
        maintenances=[maintenance_document(row) for row in maintenances],
    )


def _documents(store: Store, request: _Request) -> Iterator[ServiceDocument]:
    """Yield the document of each service.

    Only CHUNK services are in memory at a time. No transaction is open while documents are written,
    because the reader of the output may be slow. Records that passes write meanwhile are later than
    the period's ``now``, and do not count.
    """
    from ops_worker.history.ledger import documents

    services = request.period.services
    for start in range(0, len(services), CHUNK):
        part = request.period._replace(services=services[start : start + CHUNK])
        yield from documents(_read(store, partial(_rows, part, request.name)), request.name)


def _rows(period: LedgerPeriod, name: str, transaction: Transaction) -> LedgerRows:
    """Read the rows of the period's services. Their ``now`` is that of the period."""
    from ops_worker.adapters.postgres import ledger_reads
    from ops_worker.history.ledger import ALL, MERGED

    passes = MERGED if name == ALL else (name,)
    rows = ledger_reads.ledger_rows(
        transaction, period.services, passes, period.since, period.until
    )
    return rows._replace(now=period.now)


def period(
    options: argparse.Namespace, now: datetime, default: timedelta
) -> tuple[datetime, datetime]:
    """Return the begin and the end of the period of ``period_options``.

    Without options, the period has the length ``default`` and ends now. Raises SettingsError if the
    period is empty or in the future.
    """
    begun = options.since if options.since is not None else options.beginning
    until = now if options.end is None else _time(options.end, now)
    since = until - default if begun is None else _time(begun, now)
    for time in (until, since):
        if time > now:
            raise SettingsError([f"{_shown(time)}: this time is in the future; {_clock(now)}"])
    if since >= until:
        raise SettingsError(
            [f"the period from {_shown(since)} to {_shown(until)} is empty; {_clock(now)}"]
        )
    return since, until


def _time(value: datetime | float, now: datetime) -> datetime:
    """Return a time. A number is an age in seconds."""
    return value if isinstance(value, datetime) else now - timedelta(seconds=value)


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}Z"


def _clock(now: datetime) -> str:
    return f"the database's clock says {_shown(now)}"


def _show_json(request: _Request, documents: Iterable[ServiceDocument]) -> None:
    """Print one document. It is written service by service, because it may be large."""
    from ops_worker.history.documents import as_json

    begin = {"from": as_json(request.period.since), "to": as_json(request.period.until)}
    sys.stdout.write(json.dumps(begin).removesuffix("}") + ', "services": [')
    separator = ""
    for document in documents:
        sys.stdout.write(separator + json.dumps(as_json(document)))
        separator = ", "
    end = {"actions": as_json(request.actions), "maintenances": as_json(request.maintenances)}
    print("], " + json.dumps(end).removeprefix("{"))


def _show_csv(_: _Request, documents: Iterable[ServiceDocument]) -> None:
    """Print a row for each span, without the actions of people."""
    from ops_worker.history.ledger import CSV_HEAD, csv_rows

    writer = csv.writer(sys.stdout)
    writer.writerow(CSV_HEAD)
    for document in documents:
        writer.writerows(csv_rows(document))


def _show_table(request: _Request, documents: Iterable[ServiceDocument]) -> None:
    """Print a line for each span, and below the spans maintenances and what people did."""
    from ops_worker.history.actions import NO_ACTIONS, actions_table
    from ops_worker.history.ledger import Table
    from ops_worker.history.maintenances import maintenances_table
    from ops_worker.history.screen import fitted, plain

    if not request.period.services:
        print("no pass has recorded anything yet")
        return
    width = _width()
    table = Table(request.period, request.name, width=width)
    for line in table.heading():
        print(line)
    for document in documents:
        for line in table.lines(document):
            print(line)
    if request.maintenances:
        newest = request.maintenances[-MAX_MAINTENANCES:]
        total = len(request.maintenances)
        title = "Maintenance"
        if total > MAX_MAINTENANCES:
            title += f", the newest {MAX_MAINTENANCES} of {total}"
        fitting = fitted(maintenances_table(newest, title), width)
        print(f"\n{plain(fitting, width)}")
    if request.actions is None:
        print(f"\n{NO_ACTIONS}")
    elif request.actions:
        fitting = fitted(actions_table(request.actions, "What people did"), width)
        print(f"\n{plain(fitting, width)}")


def _width() -> int:
    """Return the width of a table in columns: that of the terminal, but at least WIDTH.

    For a pipe, return WIDTH, the usual width of a table.
    """
    from ops_worker.history.ledger import WIDTH

    if not sys.stdout.isatty():
        return WIDTH
    return max(WIDTH, shutil.get_terminal_size().columns)
