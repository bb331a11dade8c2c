"""``ops-worker catalogue``: check a file of services and figures, show the catalogue in force."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ops_worker.arguments import add_action, env_file, output_option
from ops_worker.commands.database import opened
from ops_worker.core import slo
from ops_worker.core.self_check import UNVERIFIED
from ops_worker.errors import DONE, UNHEALTHY, SettingsError
from ops_worker.text import format_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.catalogue import Catalogue
    from ops_worker.core.model import Figure, Target


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    env_file(parser)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = add_action(actions, "check", "report all faults of a catalogue")
    _add_file(check)
    check.add_argument(
        "--prepare",
        action="store_true",
        help="also let the database check the SQL of each figure, without running it",
    )
    show = add_action(actions, "show", "show the entries in force and where they come from")
    _add_file(show)
    output_option(show, "a table for people (the default), or JSON with all details", plain="table")


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="the TOML file; by default the one that OPS_WORKER_CATALOGUE names",
    )


def run(options: argparse.Namespace) -> int:
    """Check or show a catalogue; return the exit code, which is 4 if ``check`` finds faults.

    ``show`` raises SettingsError if the catalogue cannot be loaded.
    """
    from ops_worker import settings

    variables = settings.read_variables(options.env_file)
    path = options.file or variables.get("OPS_WORKER_CATALOGUE", "")
    catalogue, faults = settings.load_catalogue(path, variables)
    if options.action == "check":
        faults = [*faults, *_slo_faults(catalogue, variables)]
        return _check(options, catalogue, faults, path)
    if faults:
        raise SettingsError(faults)
    if options.output == "json":
        print(json.dumps(_document(catalogue, path)))
    else:
        print(_table(catalogue, path))
    return DONE


def _check(
    options: argparse.Namespace, catalogue: Catalogue, shape_faults: list[str], path: str
) -> int:
    """Print all faults, each on its own line, and a summary."""
    faults = [*shape_faults, *_service_faults(catalogue)]
    if options.prepare and not shape_faults:
        sql_faults, notes = _prepare(options, path)
        faults += sql_faults
        for note in notes:
            print(f"note: {note}")
    for target in catalogue.targets:
        if target.tls.skip_verify:
            print(f"note: {catalogue.located(target.name, f'skip_verify: {UNVERIFIED}')}")
    for fault in faults:
        print(fault)
    noun = "fault" if len(faults) == 1 else "faults"
    print(
        f"catalogue: {len(catalogue.targets)} services monitored, "
        f"{len(catalogue.figures)} figures, {len(faults)} {noun}"
    )
    return UNHEALTHY if faults else DONE


def _service_faults(catalogue: Catalogue) -> list[str]:
    """Return the faults of single services: unusable values, certificates and keys."""
    from ops_worker.adapters import http

    return [catalogue.located(name, fault) for name, fault in http.faults(catalogue.targets)]


def _slo_faults(catalogue: Catalogue, variables: Mapping[str, str]) -> list[str]:
    """Return a fault for each objective that passes every PASS_PERIOD cannot measure."""
    from ops_worker import settings

    period_s = settings.pass_period(variables)
    faults = []
    for target in catalogue.targets:
        if target.slo is None:
            continue
        objective = slo.Objective(target.slo, target.slo_window_days)
        if problem := slo.problem(objective, period_s):
            faults.append(catalogue.located(target.name, f"slo: {problem}"))
    return faults


def _prepare(options: argparse.Namespace, path: str) -> tuple[list[str], list[str]]:
    """Let the database prepare the SQL of each figure.

    Return the faults that the database finds, and notes about figures whose tables do not exist.
    """
    from ops_worker import settings
    from ops_worker.adapters.postgres import sql_metrics
    from ops_worker.core.passes import METRICS

    loaded = settings.load(options.env_file, path)
    figures = loaded.catalogue.figures
    file = path or "built-in catalogue"
    notes: list[str] = []

    def prepare(transaction: Transaction) -> list[str]:
        """Return the faults that the database finds in the figures."""
        faults = []
        for figure in figures:
            missing = [table for table in figure.tables if table not in transaction.present]
            if missing:
                notes.append(f"figures.{figure.name} is absent: no table {', '.join(missing)}")
                continue
            problem, _ = sql_metrics.prepare(transaction, figure)
            if problem:
                faults.append(f"{file}: figures.{figure.name}.sql: {problem}")
        return faults

    with opened(loaded, "catalogue") as store:
        faults = store.read(
            prepare,
            required_tables=METRICS.transaction.required_tables,
            optional_tables=[table for figure in figures for table in figure.tables],
        )
    return faults, notes


def _table(catalogue: Catalogue, path: str) -> str:
    services = [_service_row(catalogue, target, path) for target in catalogue.targets]
    services += [
        (name, "-", "not monitored: its URL is empty", _origin(catalogue, f"services.{name}", path))
        for name in catalogue.unmonitored
    ]
    figures = [_figure_row(catalogue, figure, path) for figure in catalogue.figures]
    service_table = format_table(("SERVICE", "SERIES", "URL", "FROM"), services)
    figure_table = format_table(("FIGURE", "EVERY", "TIMEOUT", "FROM"), figures)
    return f"{service_table}\n\n{figure_table}"


def _service_row(catalogue: Catalogue, target: Target, path: str) -> tuple[str, str, str, str]:
    url = target.shown_url
    if target.faults:
        url = f"not probed: {'; '.join(target.faults)}"
    return target.name, target.series, url, _origin(catalogue, f"services.{target.name}", path)


def _figure_row(catalogue: Catalogue, figure: Figure, path: str) -> tuple[str, str, str, str]:
    interval = f"{figure.every_s:g} s" if figure.every_s else "every pass"
    origin = _origin(catalogue, f"figures.{figure.name}", path)
    return figure.name, interval, f"{figure.timeout_s:g} s", origin


def _document(catalogue: Catalogue, path: str) -> dict[str, Any]:
    return {
        "services": [
            _service(target) | {"from": _origin(catalogue, f"services.{target.name}", path)}
            for target in catalogue.targets
        ],
        "not_watched": list(catalogue.unmonitored),
        "figures": [
            _figure(figure) | {"from": _origin(catalogue, f"figures.{figure.name}", path)}
            for figure in catalogue.figures
        ],
    }


def _service(target: Target) -> dict[str, Any]:
    """Describe a service without the values of its headers and its body, which are secrets."""
    document = target._asdict()
    del document["url_template"], document["body_secrets"]
    counters: Any = "*"
    if target.counters is not None:
        counters = [counter._asdict() for counter in target.counters]
    return document | {
        "url": target.shown_url,
        "counters": counters,
        "body": bool(target.body),
        "headers": [name for name, _ in target.headers],
        "tls": target.tls._asdict(),
        "conditions": [condition._asdict() for condition in target.conditions],
        "tags": dict(target.tags),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return figure._asdict() | {"tags": dict(figure.tags)}


def _origin(catalogue: Catalogue, entry: str, path: str) -> str:
    return path if entry in catalogue.user_entries else "built-in"
