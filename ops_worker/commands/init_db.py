"""``ops-worker init-db``: create the tables of the worker, or the indexes that figures need."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ops_worker.arguments import env_file
from ops_worker.commands.run_pass import store
from ops_worker.errors import DONE

if TYPE_CHECKING:
    import argparse

    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``init-db``."""
    env_file(parser)
    parser.add_argument(
        "--indexes",
        nargs="?",
        choices=["print", "create"],
        const="print",
        help="instead: print, as SQL, the indexes that make the figures cost what they find; "
        "`create` also makes them, concurrently",
    )
    parser.add_argument(
        "--standalone",
        action="store_true",
        help="also create minimal tenants and fleet_alert, where there is no platform",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Create the tables that are missing, or print or create indexes; return the exit code."""
    from ops_worker.adapters import postgres

    with contextlib.closing(store(settings, "init-db")) as database:
        if options.indexes:
            for proposal in database.indexes(make=options.indexes == "create"):
                print(f"-- {proposal.said}", flush=True)
                if proposal.statement:
                    print(f"{proposal.statement};", flush=True)
            return DONE
        tables = [
            *(postgres.STANDALONE_TABLES if options.standalone else ()),
            "system_metrics",
            "service_health",
            "service_health_current",
            postgres.MAINTENANCE_TABLE,
            postgres.MAINTENANCE_LOG,
        ]
        created = database.create(tables)
    for table, new in created.items():
        print(f"{table}: {'created' if new else 'already there'}")
    return DONE
