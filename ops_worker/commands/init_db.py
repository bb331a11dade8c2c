"""``ops-worker init-db``: bring the schema up to date, or create indexes for figures."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ops_worker.arguments import env_file
from ops_worker.commands.run_pass import store
from ops_worker.errors import DONE, OpsWorkerError, SchemaError

if TYPE_CHECKING:
    import argparse

    from ops_worker.adapters.postgres import Store
    from ops_worker.adapters.postgres.migrate import Change
    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``init-db``."""
    env_file(parser)
    parser.add_argument(
        "--indexes",
        nargs="?",
        choices=["print", "create"],
        const="print",
        help="print the SQL of indexes that make built-in figures cheap, and do nothing else; "
        "`create` also creates them (CREATE INDEX CONCURRENTLY)",
    )
    parser.add_argument(
        "--standalone",
        action="store_true",
        help="also create and repair minimal tenants and fleet_alert, where there is no platform",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Apply migrations and repair the schema, or print or create indexes; return the exit code.

    Raises SchemaError if a person must repair an object. Everything else is done before.
    """
    with contextlib.closing(store(settings, "init-db")) as database:
        if options.indexes:
            for proposal in database.indexes(make=options.indexes == "create"):
                print(f"-- {proposal.note}", flush=True)
                if proposal.statement:
                    print(f"{proposal.statement};", flush=True)
            return DONE
        changes: list[Change] = []
        try:
            changes.extend(database.migrate(standalone=options.standalone))
        finally:
            _print(changes)
        if not options.standalone:
            _print_platform(database)
        elif not settings.samples_days:
            _print_retention(database)
    if faults := [change.fault for change in changes if change.fault]:
        raise SchemaError("; ".join(faults))
    return DONE


def _print(changes: list[Change]) -> None:
    """Print the changes: first the migrations, then the objects in the order of their creation."""
    from ops_worker.adapters.postgres.migrate import OBJECTS

    order = {name: number for number, name in enumerate(OBJECTS)}
    for change in sorted(changes, key=lambda change: order.get(change.subject, -1)):
        if not change.fault:
            print(f"{change.subject}: {change.action}")


def _print_platform(database: Store) -> None:
    """Print which tables of the platform are missing, and what to do. Health passes need them."""
    from ops_worker.adapters.postgres import STANDALONE_TABLES

    problem: OpsWorkerError | None
    try:
        problem = database.missing(STANDALONE_TABLES)
    except OpsWorkerError as error:  # the worker's own tables exist anyway
        problem = error
    if problem is not None:
        print(f"warning: {problem}")


def _print_retention(database: Store) -> None:
    """Print a hint on how to remove old samples, if nothing removes them yet."""
    from ops_worker.adapters.postgres.rollup_writes import has_plain_samples

    if database.read(has_plain_samples):
        print(
            "system_metrics: nothing removes old samples from a plain table; "
            "set SAMPLES_DAYS=7 and run `ops-worker rollup` every hour"
        )
