"""``ops-worker check``: check everything that a pass needs, and change nothing.

Trial writes show whether a pass could write. They are rolled back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.arguments import env_file, output_option
from ops_worker.commands.database import opened
from ops_worker.core.growth import Retention, TableSize, describe
from ops_worker.core.installations import contested
from ops_worker.core.passes import LEDGER_TABLES
from ops_worker.core.schema import OWN, VERSIONS, VIEW, quoted
from ops_worker.core.self_check import (
    FAULT,
    OK,
    UNVERIFIED,
    WARNING,
    Finding,
    Refusal,
    SchemaState,
    lines,
    of_alertmanagers,
    of_doubt,
    of_installations,
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
    from ops_worker.core.installations import Claim
    from ops_worker.core.model import Figure
    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``check``."""
    env_file(parser)
    output_option(parser, "a checklist (text, the default), or one JSON document")


def run(options: argparse.Namespace) -> int:
    """Print the checklist; return 0, 2 for a fault of the settings, or 3 for any other fault."""
    from ops_worker import settings

    findings: list[Finding] = []
    code = DONE
    unread = list(_unread(options.env_file))
    try:
        loaded = settings.load(options.env_file)
    except SettingsError as error:
        findings += [Finding("settings", FAULT, fault, error.remedy) for fault in error.faults]
        findings += unread
        code = error.exit_code
    else:
        findings += _settings(options.env_file)
        findings += unread
        findings += _doubts(loaded)
        findings += [*_database(loaded), *_services(loaded), *_unverified(loaded)]
        findings += [*_alertmanagers(loaded), *_cluster()]
        code = SchemaError.exit_code if worst(findings) == FAULT else DONE
        if unusable := [*_unusable(loaded)]:
            findings += unusable
            code = SettingsError.exit_code
    print(_document(findings, code) if options.output == "json" else lines(findings))
    return code


def _document(findings: list[Finding], code: int) -> str:
    document = {
        "state": worst(findings),
        "exit_code": code,
        "findings": [finding._asdict() for finding in findings],
    }
    return json.dumps(document)


def _doubts(loaded: Settings) -> Iterator[Finding]:
    """Warn about values that are accepted but are probably mistakes."""
    off, remedy = "off", "set it to true, unless that is intended"
    for name, doubt in loaded.doubts.items():
        if name == "SYSTEM_ALERT_ENABLED":
            off, remedy = doubt
        else:
            yield Finding(name, WARNING, doubt.taken, doubt.remedy)
    if not loaded.system_alert_enabled:
        consequence = f"{off}: the health pass does nothing, and no alert opens"
        yield Finding("SYSTEM_ALERT_ENABLED", WARNING, consequence, remedy)


def _settings(env_file: Path | None) -> Iterator[Finding]:
    """Report the source of each setting, and its value unless it is a secret."""
    from ops_worker import settings
    from ops_worker.catalogue import url_problem
    from ops_worker.text import without_password
    from ops_worker.variables import variables

    values = settings.read_variables(env_file)
    for variable in variables():
        name = next((name for name in variable.names if name in values), None)
        if name is None:
            continue
        text = values[name]
        is_bad_url = name.endswith("_URL") and text and url_problem(text.strip())
        # A name without a slash may be the token itself.
        is_bad_path = name.endswith("_FILE") and "/" not in text
        value = repr(without_password(text))
        # Show nothing of a malformed URL: any part of it may be a secret.
        if name in settings.SECRET_VARIABLES or is_bad_url or is_bad_path:
            value = "(not shown)"
        origin = "the environment" if name in os.environ else str(env_file or ".env")
        yield Finding(f"setting {name}", OK, f"{value}, from {origin}")
    yield Finding("settings", OK, "all others have their default")


class _Names(NamedTuple):
    """Keys of the ``.env`` file, names of settings, and names that the catalogue refers to."""

    keys: tuple[str, ...]
    settings: frozenset[str]
    references: frozenset[str]


def _names(env_file: Path | None) -> _Names:
    """Collect the names. Raises SettingsError if the ``.env`` file cannot be read."""
    from ops_worker import catalogue, settings
    from ops_worker.variables import variables

    values = settings.read_variables(env_file)
    keys = tuple(settings.read_env_file(env_file))
    source, wrong = settings.read_user_catalogue(values.get("OPS_WORKER_CATALOGUE", ""))
    references = set(catalogue.references(source.text)) if source else set()
    if keys:
        text = (env_file or Path(".env")).read_text(encoding="utf-8")
        references.update(re.findall(r"\$\{(\w+)", text))  # a line may refer to another line
    setting_names = frozenset(name for variable in variables() for name in variable.names)
    return _Names(() if wrong else keys, setting_names, frozenset(references))


def _unread(env_file: Path | None) -> Iterator[Finding]:
    """Warn about values that nothing reads: misspelled variables and keys of the ``.env`` file."""
    for name, question in near_misses(env_file):
        yield Finding(f"variable {name}", WARNING, "nothing reads it", question)
    with contextlib.suppress(SettingsError):  # another finding reports this error
        names = _names(env_file)
        keys = [key for key in names.keys if key not in names.settings | names.references]
        yield from of_keys(keys, names.settings, str(env_file or ".env"))


def near_misses(env_file: Path | None) -> list[tuple[str, str]]:
    """Return unread variables with a name similar to a name that is read, each with a question."""
    from ops_worker.core.suggest import intended_variable

    try:
        names = _names(env_file)
    except SettingsError:
        return []
    candidates = names.settings | {name for name in names.references if name not in os.environ}
    misses = []
    for name, value in sorted(os.environ.items()):
        if name in names.references:
            continue
        if similar := intended_variable(name, value, candidates):
            misses.append((one_line(name), f"did you mean {similar}?"))
    return misses


class _Facts(NamedTuple):
    """What the database reports: server, tables and their sizes, schema version, figures."""

    server: dict[str, Any]
    tables: list[dict[str, Any]]
    version: int | None
    version_problem: str
    present: frozenset[str]
    figures: list[Finding]
    sizes: list[TableSize]
    contested: dict[str, list[str]]


class _Trial(NamedTuple):
    """The results of the trial writes. ``refusals`` is None if another check is running."""

    refusals: list[Refusal] | None = None
    is_view_outdated: bool | None = None


def _database(loaded: Settings) -> Iterator[Finding]:
    """Check the database: server, schema, tables, privileges, trial writes and figures."""
    from ops_worker.adapters.postgres import migrate, operations

    begun = time.monotonic()

    def look(transaction: Transaction) -> _Facts:
        """Read everything about the database that needs no write."""
        server, tables = operations.inspect(transaction)
        connected_ms = (time.monotonic() - begun) * 1000
        skew_s = time.time() - server["now"].timestamp()
        present = {row["name"] for row in tables if row["present"]}
        figures: list[Finding] = []
        for figure in loaded.catalogue.figures:
            if present.union(transaction.present).issuperset(figure.tables):
                figures += _figure(transaction, figure, tables, server["role"])
        version, version_problem = migrate.recorded_version(transaction)
        return _Facts(
            server=server | {"connected_ms": connected_ms, "skew_s": skew_s},
            tables=tables,
            version=version,
            version_problem=version_problem,
            present=transaction.present | present,
            figures=figures,
            sizes=operations.table_sizes(transaction),
            contested=_contested(transaction, loaded),
        )

    with opened(loaded, "check") as database:
        try:
            counted = [table for figure in loaded.catalogue.figures for table in figure.tables]
            optional = [table for table in counted if table != "fleet_alert"]
            facts = database.read(
                look, optional_tables=[*optional, *LEDGER_TABLES, "service_health", VIEW, VERSIONS]
            )
            trial = _Trial([]) if facts.server["standby"] else _try(database, facts)
            yield from of_server(facts.server | {"refusals": trial.refusals})
            state = SchemaState(
                version=facts.version,
                newest=migrate.newest(),
                has_tables=not facts.present.isdisjoint(OWN),
                has_view=VIEW in facts.present,
                is_view_outdated=trial.is_view_outdated,
                version_problem=facts.version_problem,
            )
            yield from of_schema(state)
            yield from of_tables(facts.tables)
            yield from _growth(facts, loaded)
            yield from of_installations(loaded.installation, facts.contested)
            yield from facts.figures
        except OpsWorkerError as error:
            remedy = error.remedy or "see the log of the server"
            yield Finding("database", FAULT, error.problem, remedy)


def _contested(transaction: Transaction, loaded: Settings) -> dict[str, list[str]]:
    """Return the services that another installation also monitors. A failure is no finding."""
    from ops_worker.adapters.postgres import operations

    claims: list[Claim] = []
    with transaction.best_effort("the services of other installations were not read"):
        claims += operations.claims(transaction)
    monitored = {target.name for target in loaded.targets}
    return contested(claims, monitored, transaction.now)


def _growth(facts: _Facts, loaded: Settings) -> Iterator[Finding]:
    """Report how much the tables grow, and what removes their old rows."""
    retention = Retention(loaded.samples_days, loaded.history_days)
    for size in facts.sizes:
        described = describe(size, facts.server["now"], retention)
        yield Finding(f"growth of {size.name}", OK, described)


def _try(database: Store, facts: _Facts) -> _Trial:
    """Try to write the rows of a pass, and compare the view. Everything is rolled back."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import migrate, trial_writes

    def write(transaction: Transaction) -> _Trial:
        """Try the writes of a pass, and compare the view in the same transaction."""
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
    """Prepare the statement of a figure without executing it."""
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


def _unusable(loaded: Settings) -> Iterator[Finding]:
    """Report each missing or unusable value that a service needs.

    In a pass, the state of such a service is unknown.
    """
    from ops_worker.adapters import http

    remedy = "correct it in the environment, .env, the catalogue or the file"
    for name, fault in http.faults(loaded.targets):
        yield Finding(f"service {name}", FAULT, fault, remedy)


def _unverified(loaded: Settings) -> Iterator[Finding]:
    """Warn about each service whose certificate is not verified."""
    remedy = "remove `skip_verify`; `ca` names the authority of a private certificate"
    for target in loaded.targets:
        if target.tls.skip_verify:
            yield Finding(f"service {target.name}", WARNING, UNVERIFIED, remedy)


def _services(loaded: Settings) -> Iterator[Finding]:
    """Probe the services."""
    from ops_worker.adapters import http
    from ops_worker.adapters.machine import nameservers
    from ops_worker.core.doubt import Evidence, assess
    from ops_worker.core.health import judge_all, not_probed, not_probed_reasons, remedy

    observations = http.observe(
        loaded.targets,
        concurrency=loaded.probe_concurrency,
        budget_s=loaded.pass_deadline - http.DATABASE_RESERVE_S,
    )
    verdicts = judge_all(observations)
    # `_unusable` reports services with faults in their settings.
    yield from of_services([verdict for verdict in verdicts if not verdict.target.faults])
    yield from of_doubt(assess(observations, loaded.targets, Evidence(None, nameservers())))
    reasons = not_probed_reasons(observations, loaded.targets)
    for name in not_probed(verdicts, loaded.targets):
        problem = f"not probed: {', '.join(reasons)}"
        yield Finding(f"service {name}", WARNING, problem, remedy(reasons))
    if not loaded.targets:
        yield Finding(
            "services",
            WARNING,
            "none is monitored",
            "set their URLs, or define your own services in a catalogue",
        )
    for name in loaded.catalogue.unmonitored:
        yield Finding(f"service {name}", OK, "not monitored: its URL is empty")


def _alertmanagers(loaded: Settings) -> Iterator[Finding]:
    """Ask every Alertmanager for its version.

    If one does not answer, this is only a warning, because passes do not need it.
    """
    if not loaded.alertmanager_urls:
        return
    from ops_worker.adapters.http import alertmanager
    from ops_worker.commands.post_alerts import REQUEST_DEADLINE_S

    receivers = alertmanager.Alertmanagers(
        urls=loaded.alertmanager_urls,
        token_file=loaded.alertmanager_token_file,
        ca=loaded.alertmanager_ca,
    )
    yield from of_alertmanagers(alertmanager.presence(receivers, REQUEST_DEADLINE_S))


def _cluster() -> Iterator[Finding]:
    """Check the CronJobs, if this runs in a pod with access to the API of Kubernetes."""
    if not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return
    from ops_worker.adapters.kubernetes import (
        Cluster,
        CredentialsError,
        NotPermittedError,
        may_ask,
    )
    from ops_worker.commands.cluster import rows

    remedy = "run `ops-worker cluster` with access to the cluster"
    outside = "`ops-worker cluster` does it from outside"
    if not may_ask():
        summary = f"not checked: this pod has no token of a service account; {outside}"
        yield Finding("CronJobs", OK, summary)
        return
    try:
        cluster = Cluster()
        see = f"see `ops-worker cluster -n {cluster.namespace}`"
        for row in rows(cluster):
            subject = f"CronJob {row.name}"
            if row.warnings:
                warnings = "; ".join(row.warnings)
                yield Finding(subject, WARNING, warnings, see)
            else:
                yield Finding(subject, OK, row.summary or "no run yet")
    except CredentialsError as error:
        yield Finding("CronJobs", WARNING, str(error), remedy)
    except NotPermittedError as error:
        # For example, the Role of the component `events` grants only what an Event needs.
        summary = f"not checked: {error.problem}, which no pass needs; {outside}"
        yield Finding("CronJobs", OK, summary)
    except OpsWorkerError as error:
        yield Finding("CronJobs", WARNING, str(error), remedy)
