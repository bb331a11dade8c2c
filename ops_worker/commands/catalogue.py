"""``ops-worker catalogue``: check a file of services and figures, and show what is in force."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ops_worker.arguments import env_file
from ops_worker.errors import DONE, UNHEALTHY, SettingsError
from ops_worker.text import format_table

if TYPE_CHECKING:
    import argparse

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.catalogue import Catalogue
    from ops_worker.core.model import Figure, Target


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="tell everything that is wrong with a catalogue")
    check.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="the TOML file; else the one that OPS_WORKER_CATALOGUE names",
    )
    check.add_argument(
        "--prepare",
        action="store_true",
        help="also ask the database about each figure's SQL, without running it",
    )
    show = actions.add_parser("show", help="show what is in force, and from where")
    show.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="the TOML file; else the one that OPS_WORKER_CATALOGUE names",
    )
    show.add_argument(
        "--output",
        choices=["json", "table"],
        default="table",
        help="a table for people (the default), or all of it",
    )


def run(options: argparse.Namespace) -> int:
    """Check or show a catalogue; return 4 where ``check`` finds faults.

    ``show`` raises SettingsError for faults of the shape.
    """
    from ops_worker import catalogue, settings

    variables = settings.read_variables(options.env_file)
    path = options.file or variables.get("OPS_WORKER_CATALOGUE", "")
    source, wrong = settings.named(path)
    found, faults = (
        (catalogue.Catalogue(), [wrong])
        if wrong
        else catalogue.load(source, catalogue.Surroundings(variables))
    )
    if options.action == "show":
        if faults:
            raise SettingsError(faults)
        print(
            json.dumps(_document(found, path)) if options.output == "json" else _table(found, path)
        )
        return DONE
    prepared = options.prepare and not faults
    faults += _unusable(found)
    if prepared:
        more, notes = _prepared(options, path)
        faults += more
        for note in notes:
            print(f"note: {note}")
    for fault in faults:
        print(fault)
    print(
        f"catalogue: {len(found.targets)} services watched, {len(found.figures)} figures, {len(faults)} fault{'s' * (len(faults) != 1)}"
    )
    return UNHEALTHY if faults else DONE


def _unusable(found: Catalogue) -> list[str]:
    """List the faults of single services: values, certificates and keys that cannot be used."""
    from ops_worker.adapters import http

    return [found.located(name, fault) for name, fault in http.faults(found.targets)]


def _prepared(options: argparse.Namespace, path: str) -> tuple[list[str], list[str]]:
    """Give the faults that the database finds, and the figures whose tables are not there."""
    from ops_worker import settings
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import sql_metrics
    from ops_worker.core.passes import METRICS

    loaded = settings.load(options.env_file, path)
    figures = loaded.catalogue.figures
    notes: list[str] = []

    def ask(transaction: Transaction) -> list[str]:
        faults = []
        for figure in figures:
            if missing := [table for table in figure.tables if table not in transaction.present]:
                notes.append(f"figures.{figure.name} is absent: no table {', '.join(missing)}")
            elif problem := sql_metrics.prepare(transaction, figure)[0]:
                faults.append(
                    f"{path or 'built-in catalogue'}: figures.{figure.name}.sql: {problem}"
                )
        return faults

    database = postgres.Store(
        loaded.connection, role=loaded.pg_role, application="ops-worker catalogue"
    )
    try:
        tables = [table for figure in figures for table in figure.tables]
        needs = METRICS.transaction.required_tables
        return database.read(ask, required_tables=needs, optional_tables=tables), notes
    finally:
        database.close()


def _table(found: Catalogue, path: str) -> str:
    services = [
        (
            target.name,
            target.series,
            _shown(target),
            _origin(found, f"services.{target.name}", path),
        )
        for target in found.targets
    ]
    services += [
        (name, "-", "not watched: its URL is empty", _origin(found, f"services.{name}", path))
        for name in found.unwatched
    ]
    figures = [
        (
            figure.name,
            f"{figure.every_s:g} s" if figure.every_s else "each pass",
            f"{figure.timeout_s:g} s",
            _origin(found, f"figures.{figure.name}", path),
        )
        for figure in found.figures
    ]
    return (
        format_table(("SERVICE", "SERIES", "URL", "FROM"), services)
        + "\n\n"
        + format_table(("FIGURE", "EVERY", "TIMEOUT", "FROM"), figures)
    )


def _shown(target: Target) -> str:
    return f"not probed: {'; '.join(target.faults)}" if target.faults else target.shown_url


def _document(found: Catalogue, path: str) -> dict[str, Any]:
    return {
        "services": [
            _service(target) | {"from": _origin(found, f"services.{target.name}", path)}
            for target in found.targets
        ],
        "not_watched": list(found.unwatched),
        "figures": [
            _figure(figure) | {"from": _origin(found, f"figures.{figure.name}", path)}
            for figure in found.figures
        ],
    }


def _service(target: Target) -> dict[str, Any]:
    """Describe a service; of its headers, only the names."""
    shown = {key: value for key, value in target._asdict().items() if key != "url_template"} | {
        "url": target.shown_url,
        "headers": [name for name, _ in target.headers],
    }
    shown["counters"] = (
        "*" if target.counters is None else [one._asdict() for one in target.counters]
    )
    return shown | {
        "tls": target.tls._asdict(),
        "conditions": [one._asdict() for one in target.conditions],
        "tags": dict(target.tags),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return figure._asdict() | {"tags": dict(figure.tags)}


def _origin(found: Catalogue, name: str, path: str) -> str:
    return path if name in found.own else "built-in"
