"""``ops-worker check``: look at everything that a pass needs, and change nothing.

What it writes to find out whether a pass could write is rolled back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.arguments import env_file
from ops_worker.core.schema import OWN, VERSIONS, VIEW, quoted
from ops_worker.core.self_check import (
    FAULT,
    OK,
    WARNING,
    Finding,
    Refusal,
    SchemaState,
    lines,
    of_keys,
    of_schema,
    of_server,
    of_services,
    of_tables,
    worst,
)
from ops_worker.errors import DONE, OpsWorkerError, SchemaError, SettingsError
from ops_worker.text import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ops_worker.adapters.postgres import Store, Transaction
    from ops_worker.core.model import Figure
    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    parser.add_argument(
        "--output",
        choices=["json", "text"],
        default="text",
        help="a checklist (text, the default), or one document",
    )


def run(options: argparse.Namespace) -> int:
    """Print the checklist; give 0, 2 where the settings are at fault, 3 where something else is."""
    from ops_worker import settings

    findings: list[Finding] = []
    code = DONE
    unread = list(_unread(options.env_file))
    try:
        found = settings.load(options.env_file)
    except SettingsError as error:
        findings += [
            Finding("settings", FAULT, fault, "set it right, in the environment or .env")
            for fault in error.faults
        ]
        findings += unread
        code = error.exit_code
    else:
        findings += _settings(options.env_file)
        findings += unread
        findings += _doubts(found)
        findings += [*_database(found), *_services(found), *_cluster()]
        code = SchemaError.exit_code if worst(findings) == FAULT else DONE
        if unusable := [*_unusable(found)]:
            findings += unusable
            code = SettingsError.exit_code
    if options.output == "json":
        print(
            json.dumps(
                {
                    "state": worst(findings),
                    "exit_code": code,
                    "findings": [one._asdict() for one in findings],
                }
            )
        )
    else:
        print(lines(findings))
    return code


def _doubts(found: Settings) -> Iterator[Finding]:
    """Warn of values that are accepted, though they can hardly be meant."""
    off, remedy = "off", "set it to true, unless that is meant"
    for name, doubt in found.doubts.items():
        if name == "SYSTEM_ALERT_ENABLED":
            off, remedy = doubt
        else:
            yield Finding(name, WARNING, doubt.taken, doubt.remedy)
    if not found.system_alert_enabled:
        told = f"{off}: the health pass does nothing, and no alert opens"
        yield Finding("SYSTEM_ALERT_ENABLED", WARNING, told, remedy)


def _settings(env_file: Path | None) -> Iterator[Finding]:
    """Say where each setting that is set comes from, and its value unless it is a secret."""
    from ops_worker import settings
    from ops_worker.catalogue import url_problem
    from ops_worker.text import without_password
    from ops_worker.variables import variables

    given = settings.read_variables(env_file)
    for variable in variables():
        name = next((one for one in variable.names if one in given), None)
        if name is None:
            continue
        value = repr(without_password(given[name]))
        no_url = name.endswith("_URL") and given[name] and url_problem(given[name].strip())
        if name in settings.SECRETS or no_url:  # of what is no URL, any part may be a secret
            value = "(not shown)"
        origin = "the environment" if name in os.environ else str(env_file or ".env")
        yield Finding(f"setting {name}", OK, f"{value}, from {origin}")
    yield Finding("settings", OK, "every other one is its default")


class _Names(NamedTuple):
    """The keys of the ``.env`` file, the settings' variables, and what else is referred to."""

    keys: tuple[str, ...]
    settings: frozenset[str]
    references: frozenset[str]


def _names(env_file: Path | None) -> _Names:
    """Read which names there are. Raises SettingsError where the ``.env`` file cannot be read."""
    from ops_worker import catalogue, settings
    from ops_worker.variables import variables

    given = settings.read_variables(env_file)
    keys = tuple(settings.read_file(env_file))
    source, wrong = settings.named(given.get("OPS_WORKER_CATALOGUE", ""))
    references = set(catalogue.references(source.text)) if source else set()
    if keys:
        text = (env_file or Path(".env")).read_text(encoding="utf-8")
        references.update(re.findall(r"\$\{(\w+)", text))  # one line of it may refer to another
    known = frozenset(name for one in variables() for name in one.names)
    return _Names(() if wrong else keys, known, frozenset(references))


def _unread(env_file: Path | None) -> Iterator[Finding]:
    """Find what is set and never read: misspelled variables, and keys of the ``.env`` file."""
    for name, question in near_misses(env_file):
        yield Finding(f"variable {name}", WARNING, "nothing reads it", question)
    with contextlib.suppress(SettingsError):  # which the settings tell
        names = _names(env_file)
        keys = [key for key in names.keys if key not in names.settings | names.references]
        yield from of_keys(keys, names.settings, str(env_file or ".env"))


def near_misses(env_file: Path | None) -> list[tuple[str, str]]:
    """List variables that nearly are ones that are read, each with a question."""
    from ops_worker.core.suggest import variable

    try:
        names = _names(env_file)
    except SettingsError:
        return []
    meant = names.settings | {name for name in names.references if name not in os.environ}
    foreign = {name: value for name, value in os.environ.items() if name not in names.references}
    near = {name: variable(name, value, meant) for name, value in sorted(foreign.items())}
    return [(one_line(name), f"did you mean {other}?") for name, other in near.items() if other]


class _Facts(NamedTuple):
    """What the database answers: the server, the tables, the version, and findings on figures."""

    server: dict[str, Any]
    tables: list[dict[str, Any]]
    version: int | None
    present: frozenset[str]
    figures: list[Finding]


class _Trial(NamedTuple):
    """What was tried and rolled back. ``refusals`` is None if another check is under way."""

    refusals: list[Refusal] | None = None
    is_view_outdated: bool | None = None


def _database(found: Settings) -> Iterator[Finding]:
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import migrate, operations

    begun = time.monotonic()

    def look(transaction: Transaction) -> _Facts:
        server, tables = operations.inspect(transaction)
        connected_ms = (time.monotonic() - begun) * 1000
        skew_s = time.time() - server["now"].timestamp()
        present = {row["name"] for row in tables if row["present"]}
        figures: list[Finding] = []
        for figure in found.catalogue.figures:
            if present.union(transaction.present).issuperset(figure.tables):
                figures += _figure(transaction, figure, tables, server["role"])
        return _Facts(
            server=server | {"connected_ms": connected_ms, "skew_s": skew_s},
            tables=tables,
            version=migrate.recorded_version(transaction),
            present=transaction.present | present,
            figures=figures,
        )

    with contextlib.closing(
        postgres.Store(found.connection, role=found.pg_role, application="ops-worker check")
    ) as database:
        try:
            needed = [table for figure in found.catalogue.figures for table in figure.tables]
            optional = [table for table in needed if table != "fleet_alert"]
            facts = database.read(look, optional_tables=[*optional, VIEW, VERSIONS])
            trial = _Trial([]) if facts.server["standby"] else _try(database, facts)
            yield from of_server(facts.server | {"refusals": trial.refusals})
            state = SchemaState(
                version=facts.version,
                newest=migrate.newest(),
                has_tables=not facts.present.isdisjoint(OWN),
                has_view=VIEW in facts.present,
                is_view_outdated=trial.is_view_outdated,
            )
            yield from of_schema(state)
            yield from of_tables(facts.tables)
            yield from facts.figures
        except OpsWorkerError as error:
            what, _, remedy = str(error).rpartition("; " if "; " in str(error) else ": ")
            yield Finding("database", FAULT, what, remedy)


def _try(database: Store, facts: _Facts) -> _Trial:
    """Try to write what a pass writes, and compare the view. All of it is rolled back."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import migrate, trial_writes

    def write(transaction: Transaction) -> _Trial:
        refusals = trial_writes.refusals(transaction, facts.tables)
        is_outdated = None
        if VIEW in facts.present:
            is_outdated = migrate.is_view_outdated(transaction.connection)
        return _Trial(refusals, is_outdated)

    try:
        trial = database.write(
            postgres.CHECK, write, optional_tables=trial_writes.tables(facts.tables)
        )
    except OpsWorkerError as error:
        return _Trial([Refusal("all tables", str(error), "make the database writable")])
    return trial or _Trial()


def _figure(
    transaction: Transaction, figure: Figure, rows: list[dict[str, Any]], role: str
) -> Iterator[Finding]:
    """Prepare the statement of a figure; it is not executed."""
    from ops_worker.adapters.postgres import sql_metrics

    problem, denied = sql_metrics.prepare(transaction, figure)
    if not problem:
        return
    remedy = "correct its `sql` in the catalogue"
    tables = ", ".join(figure.tables)
    if any(row["missing"] for row in rows if row["name"] in figure.tables):
        remedy = f"see the lines of its tables above ({tables})"
    elif denied:
        remedy = f"`GRANT SELECT ON {tables} TO {quoted(role)}`, or set PG_ROLE"
    yield Finding(f"figure {figure.name}", FAULT, problem, remedy)


def _unusable(found: Settings) -> Iterator[Finding]:
    """Report each value that a service needs and that is missing or unusable.

    A pass finds such a service unknown.
    """
    from ops_worker.adapters import http

    remedy = "set it right in the environment, .env, the catalogue or the file"
    for name, fault in http.faults(found.targets):
        yield Finding(f"service {name}", FAULT, fault, remedy)


def _services(found: Settings) -> Iterator[Finding]:
    from ops_worker.adapters import http
    from ops_worker.core.health import judge_all, not_among, remedy, why_not_among

    seen = http.observe(
        found.targets,
        concurrency=found.probe_concurrency,
        budget_s=found.pass_deadline - http.RESERVE_S,
    )
    verdicts = judge_all(seen)
    # Those with faults of their own have been reported.
    yield from of_services([one for one in verdicts if not one.target.faults])
    reasons = why_not_among(seen, found.targets)
    for name in not_among(verdicts, found.targets):
        because = f"not probed: {', '.join(reasons)}"
        yield Finding(f"service {name}", WARNING, because, remedy(reasons))
    if not found.targets:
        yield Finding(
            "services",
            WARNING,
            "none is watched",
            "set their URLs, or name services of your own in a catalogue",
        )
    for name in found.catalogue.unwatched:
        yield Finding(f"service {name}", OK, "not watched: its URL is empty")


def _cluster() -> Iterator[Finding]:
    """Look at the CronJobs, where this runs in a pod that may ask for them."""
    if not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return
    from ops_worker.adapters.kubernetes import Cluster, may_ask
    from ops_worker.commands.cluster import rows

    if not may_ask():
        yield Finding(
            "CronJobs",
            OK,
            "not looked at: this pod has no service account's token; `ops-worker cluster` does it from outside",
        )
        return
    try:
        for row in rows(Cluster()):
            state = WARNING if row.warnings else OK
            yield Finding(
                f"CronJob {row.name}",
                state,
                "; ".join(row.warnings) or row.summary or "no run yet",
                "see `ops-worker cluster`" if row.warnings else "",
            )
    except OpsWorkerError as error:
        yield Finding(
            "CronJobs",
            WARNING,
            str(error),
            "run `ops-worker cluster` where you may ask the cluster",
        )
