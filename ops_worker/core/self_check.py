"""The self-check, ``ops-worker check``: judge facts, and write the findings as a checklist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.certificates import end_in_words
from ops_worker.core.installations import CONTESTED_REMEDY, service_list
from ops_worker.core.model import State
from ops_worker.core.passes import (
    DOUBT_TABLE,
    LEDGER_TABLES,
    MAINTENANCE_LOG,
    MAINTENANCE_TABLE,
    ROLLUP_TABLES,
    WINDOW_TABLE,
)
from ops_worker.core.schema import OWN, SHAPES, VERSIONS, VIEW, compare, quoted, set_type
from ops_worker.core.suggest import closest, intended_variable
from ops_worker.errors import ROW_SECURITY_REMEDY
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from ops_worker.core.doubt import Assessment
    from ops_worker.core.model import Verdict

OK, WARNING, FAULT = "ok", "warning", "fault"
"""The states of a finding. Only a fault changes the exit code."""
MIN_SIMILARITY = 0.75
"""Similarity, from 0 to 1, from which the name of a setting is suggested for an unknown key."""
MAX_SKEW_S = 2.0
"""Seconds by which two clocks may differ without a warning."""
OLDEST_VERSION = 140000
"""The oldest version of PostgreSQL that is tested: 14, in the format of ``server_version_num``."""

UNVERIFIED = "its certificate is not verified: anybody on the network path can answer in its place"
"""The finding about a service with ``skip_verify``."""


class Finding(NamedTuple):
    """One line of the checklist. The fields are keys of ``--output json``.

    - ``state``: OK, WARNING or FAULT.
    - ``found``: what was found, as text.
    - ``remedy``: what to do; empty if nothing has to be done.
    """

    subject: str
    state: str
    found: str
    remedy: str = ""


class Refusal(NamedTuple):
    """A row that the database refuses.

    ``message`` is the error of the database. ``remedy`` is empty if the findings about the tables
    have the remedy.
    """

    table: str
    message: str
    remedy: str = ""


class Presence(NamedTuple):
    """The answer of an Alertmanager: its version, or the problem. ``url`` has no password."""

    url: str
    version: str = ""
    problem: str = ""


class Table(NamedTuple):
    """The requirements of the worker for a table.

    - ``privileges``: the privileges that the role needs.
    - ``columns``: the columns that the statements use.
    - ``absent_state``: the state of the finding if the table does not exist.
    - ``remedy``: the remedy if the table does not exist.
    """

    name: str
    privileges: tuple[str, ...]
    columns: tuple[str, ...]
    absent_state: str
    remedy: str


class SchemaState(NamedTuple):
    """The state of the worker's schema in the database.

    - ``version``: the schema version; 0 if none is recorded, None if it cannot be read.
    - ``newest``: the newest schema version that this program knows.
    - ``has_tables``: whether a table of the worker exists.
    - ``has_view``: whether the view exists.
    - ``is_view_outdated``: whether the view differs; None if it could not be compared.
    - ``version_problem``: why the version cannot be read, if the table has the expected shape.
    """

    version: int | None
    newest: int
    has_tables: bool
    has_view: bool
    is_view_outdated: bool | None
    version_problem: str = ""


HIDDEN = "row level security hides its rows from this role"
"""The finding about a table with row level security for this role."""
INIT_DB = "run `ops-worker init-db`"
"""The remedy for the worker's own tables and view."""
PLATFORM = "run the platform's migrations, or `ops-worker init-db --standalone`"
"""The remedy for tables that the platform creates."""
BY_MAINTENANCE = "`ops-worker maintenance start` creates it"
"""The remedy for the tables of maintenances."""
ALERT_COLUMNS = (
    "tenant_id",
    "site_id",
    "device_id",
    "alert_type",
    "fingerprint",
    "status",
    "severity",
    "confidence",
    "summary",
    "details",
)


def _columns(table: str) -> tuple[str, ...]:
    return tuple(column.name for column in SHAPES[table].columns)


TABLES = (
    Table(
        name="service_health",
        privileges=("SELECT", "INSERT", "UPDATE"),
        columns=_columns("service_health"),
        absent_state=WARNING,
        remedy="the first health pass creates it if its role may; "
        "else the owner runs `ops-worker init-db`",
    ),
    Table(
        name="system_metrics",
        privileges=("SELECT", "INSERT"),
        columns=_columns("system_metrics"),
        absent_state=FAULT,
        remedy=INIT_DB,
    ),
    Table(
        name="fleet_alert",
        privileges=("SELECT", "INSERT", "UPDATE"),
        columns=(*ALERT_COLUMNS, "id", "created_at", "closed_at"),
        absent_state=FAULT,
        remedy=PLATFORM,
    ),
    Table(
        name="tenants",
        privileges=("SELECT", "INSERT"),
        columns=("tenant_id", "name", "status", "metadata"),
        absent_state=FAULT,
        remedy=PLATFORM,
    ),
    Table(
        name="device_state",
        privileges=("SELECT",),
        columns=("status",),
        absent_state=OK,
        remedy="its figures are left out",
    ),
    Table(
        name="delivery_jobs",
        privileges=("SELECT",),
        columns=("status",),
        absent_state=OK,
        remedy="its figure is left out",
    ),
    Table(
        name=MAINTENANCE_TABLE,
        privileges=("SELECT",),
        columns=_columns(MAINTENANCE_TABLE),
        absent_state=OK,
        remedy=BY_MAINTENANCE,
    ),
    Table(
        name=MAINTENANCE_LOG,
        privileges=("SELECT",),
        columns=_columns(MAINTENANCE_LOG),
        absent_state=OK,
        remedy=BY_MAINTENANCE,
    ),
    Table(
        name=WINDOW_TABLE,
        privileges=("SELECT",),
        columns=_columns(WINDOW_TABLE),
        absent_state=OK,
        remedy=BY_MAINTENANCE,
    ),
    *(
        Table(
            name=name,
            privileges=("SELECT", "INSERT", "UPDATE"),
            columns=_columns(name),
            absent_state=WARNING,
            remedy="no history of the services is recorded: the first pass creates it if its role "
            "may; else the owner runs `ops-worker init-db`",
        )
        for name in LEDGER_TABLES
    ),
    Table(
        name=DOUBT_TABLE,
        privileges=("SELECT", "INSERT", "UPDATE"),
        columns=_columns(DOUBT_TABLE),
        absent_state=WARNING,
        remedy="DOUBT_PASSES has no effect: the first pass creates it if its role may; "
        "else the owner runs `ops-worker init-db`",
    ),
    *(
        Table(
            name=name,
            privileges=("SELECT", "INSERT", "UPDATE", "DELETE"),
            columns=_columns(name),
            absent_state=OK,
            remedy="the first rollup pass creates it if its role may; "
            "else the owner runs `ops-worker init-db`",
        )
        for name in ROLLUP_TABLES
    ),
    Table(
        name=VERSIONS,
        privileges=("SELECT",),
        columns=_columns(VERSIONS),
        absent_state=OK,
        remedy="the line of the schema says more",
    ),
)
"""The tables of the contract with the platform (docs/contract.md), and the worker's own tables."""


def of_keys(keys: Iterable[str], known: Collection[str], file: str) -> Iterator[Finding]:
    """Warn about keys of a ``.env`` file that are not in ``known``, the names of the settings."""
    for key in keys:
        suggestion = intended_variable(key, "", known) or closest(key, known, MIN_SIMILARITY)
        remedy = "remove it; `ops-worker sidecar --help` lists the names that are read"
        if suggestion:
            remedy = f"did you mean {suggestion}?"
        yield Finding(f"{file}: {one_line(key)}", WARNING, "nothing reads this key", remedy)


def of_server(facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge the facts about the server: connection, version, writes, clock, extension, pooler."""
    role = facts["role"]
    if facts["login"] != role:
        role = f"{role}, by login role {facts['login']}"
    yield Finding(
        "connection",
        OK,
        f"database {facts['database']} as {role}, in {facts['connected_ms']:.0f} ms",
    )
    version = f"PostgreSQL {facts['version']}"
    if facts["version_number"] < OLDEST_VERSION:
        yield Finding("version", WARNING, version, "upgrade: the worker is tested on 14 and newer")
    else:
        yield Finding("version", OK, version)
    yield _writable(standby=facts["standby"], refusals=facts["refusals"])
    yield _clock(facts["skew_s"])
    absence = "not installed: system_metrics is an ordinary table"
    yield Finding("TimescaleDB", OK, facts["timescaledb"] or absence)
    pooler = "none"
    if facts["pooled"]:
        pooler = "there is one between, which is fine in transaction mode"
    yield Finding("pooler", OK, pooler)


def _clock(skew_s: float) -> Finding:
    """Judge the difference between the clock of this machine and the clock of the database."""
    if abs(skew_s) <= MAX_SKEW_S:
        return Finding("clock", OK, f"this machine is within {MAX_SKEW_S:g} s of the database")
    return Finding(
        "clock",
        WARNING,
        f"this machine differs from the database by {skew_s:+.1f} s",
        "rows have the time of the database; correct this clock for the sake of the logs",
    )


def _writable(*, standby: bool, refusals: Sequence[Refusal] | None) -> Finding:
    """Judge whether a pass can write. ``refusals`` is None if no write was tried."""
    if standby:
        return Finding(
            "writable", FAULT, "a standby", "point DATABASE_URL or PG_HOST at the primary"
        )
    if refusals is None:
        return Finding(
            "writable",
            WARNING,
            "not tried: another `ops-worker check` is running",
            "run it again",
        )
    if not refusals:
        return Finding("writable", OK, "yes: a row of each table was written and rolled back")
    messages = "; ".join(f"{refusal.table}: {refusal.message}" for refusal in refusals)
    remedies = dict.fromkeys(
        refusal.remedy or "see the lines of the tables below" for refusal in refusals
    )
    return Finding("writable", FAULT, messages, "; ".join(remedies))


def of_tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge the tables: existence, row level security, shape and privileges.

    ``rows`` are those of the statement ``inspect_tables``, one for each of TABLES.
    """
    by_name = {row["name"]: row for row in rows}
    for table in TABLES:
        row = by_name[table.name]
        subject = f"table {table.name}"
        if not row["present"]:
            yield _of_absent(table, row)
        elif row["hidden"]:
            yield Finding(subject, FAULT, HIDDEN, ROW_SECURITY_REMEDY)
        elif findings := [*_of_shape(table, row), *_of_privileges(table, row)]:
            yield Finding(
                subject,
                worst(findings),
                "; ".join(finding.found for finding in findings),
                "; ".join(dict.fromkeys(finding.remedy for finding in findings)),
            )
        else:
            yield Finding(subject, OK, f"may {', '.join(table.privileges)}")


def _of_absent(table: Table, row: Mapping[str, Any]) -> Finding:
    """Judge a table that this role cannot see. It may exist in a schema out of reach.

    A schema is out of reach if it is not in the search path, or if the role may not use it.
    """
    subject = f"table {table.name}"
    elsewhere = row.get("elsewhere")
    if table.absent_state == OK or not elsewhere:
        return Finding(subject, table.absent_state, "not there", table.remedy)
    schema, login = elsewhere["schema"], quoted(row["login"])
    remedy = f"`ALTER ROLE {login} SET search_path TO {row['search_path']}, {schema}`"
    if not elsewhere["usage"]:
        remedy = f"`GRANT USAGE ON SCHEMA {schema} TO {quoted(row['role'])}`"
    return Finding(subject, table.absent_state, f"not visible: it is in schema {schema}", remedy)


def _of_shape(table: Table, row: Mapping[str, Any]) -> Iterator[Finding]:
    """Report the columns, types and keys that differ from the expected shape.

    Of a table without an expected shape, report only missing columns.
    """
    init_db = f"{INIT_DB} as role {row['owner']}, which owns the table"
    if row["missing"]:
        remedy = init_db
        if table.name not in SHAPES:
            remedy = "run the platform's migrations"
        elif table.remedy == PLATFORM:
            remedy = PLATFORM
        yield Finding(table.name, FAULT, f"no column {', '.join(row['missing'])}", remedy)
    if table.name not in SHAPES:
        return
    is_own = table.name in OWN
    difference = compare(SHAPES[table.name], row["columns"], row["keys"])
    for column, actual in difference.types:
        # Only a warning: a pass may work with this type. The trial writes show if it does not.
        problem = f"column {column.name} is {actual}, not {column.type}"
        remedy = init_db
        if not is_own:
            remedy = _type_remedy(table.name, set_type(table.name, column), row["readers"])
        yield Finding(table.name, WARNING, problem, remedy)
    if difference.key and not row["missing"]:
        problem = f"no unique key ({', '.join(difference.key)})"
        yield Finding(table.name, FAULT, problem, init_db if is_own else PLATFORM)


def _type_remedy(table: str, statement: str, readers: Sequence[str]) -> str:
    """Return the remedy that converts a column by ``statement``.

    The type of a column cannot change while a view reads the table. ``readers`` are these views.
    """
    other_views = [view for view in readers if view != VIEW]
    if other_views:
        views = ", ".join(other_views)
        return f"drop the views that read it ({views}), then `{statement}`, and create them again"
    if table == "system_metrics":
        return f"`DROP VIEW IF EXISTS {VIEW}`, then `{statement}`, then `ops-worker init-db`"
    return f"`{statement}`"


def _of_privileges(table: Table, row: Mapping[str, Any]) -> Iterator[Finding]:
    """Report the privileges that the role lacks, and the statements that grant them."""
    role = quoted(row["role"])
    if row["lacking"]:
        lacking = ", ".join(row["lacking"])
        remedy = f"`GRANT {lacking} ON {table.name} TO {role}`, or set PG_ROLE to a role that may"
        yield Finding(table.name, FAULT, f"this role may not {lacking}", remedy)
    if "INSERT" not in table.privileges:
        return
    for sequence in row["sequences"]:
        remedy = f"`GRANT USAGE ON SEQUENCE {sequence} TO {role}`"
        yield Finding(table.name, FAULT, f"this role may not use its sequence {sequence}", remedy)


def of_schema(state: SchemaState) -> Iterator[Finding]:
    """Judge the version of the schema and the view."""
    yield _of_version(state)
    subject = f"view {VIEW}"
    if not state.has_view and state.has_tables:
        yield Finding(subject, WARNING, "not there: readers of SQL need it", INIT_DB)
    elif state.has_view and (state.version or 0) > state.newest:
        yield Finding(subject, OK, "not compared: the schema is newer than this program")
    elif state.has_view and state.is_view_outdated is None:
        yield Finding(subject, OK, "there; its definition could not be compared")
    elif state.has_view and state.is_view_outdated:
        remedy = f"{INIT_DB} as the role that owns it"
        yield Finding(subject, WARNING, "its definition is not that of this version", remedy)
    elif state.has_view:
        yield Finding(subject, OK, "its definition is up to date")


def _of_version(state: SchemaState) -> Finding:
    """Compare the schema version with the newest version that this program knows."""
    subject = "schema"
    owner = f"{INIT_DB} as the role that owns the tables"
    if state.version is None:
        remedy = f"run `DROP TABLE {VERSIONS}`, then `ops-worker init-db`"
        if state.version_problem:
            remedy = f"see the lines of table {VERSIONS}, or try again"
        problem = ": ".join(filter(None, [f"{VERSIONS} cannot be read", state.version_problem]))
        return Finding(subject, WARNING, problem, remedy)
    if state.version > state.newest:
        return Finding(
            subject,
            WARNING,
            f"version {state.version}; this program knows version {state.newest}",
            "upgrade ops-worker to the release that made this version",
        )
    if state.version == state.newest:
        return Finding(subject, OK, f"version {state.version}, the newest")
    if state.version == 0 and not state.has_tables:
        explanation = "no version yet: the first health pass or `ops-worker init-db` records it"
        return Finding(subject, OK, explanation)
    if state.version == 0:
        return Finding(subject, WARNING, "no version is recorded", owner)
    problem = f"version {state.version}; this program needs version {state.newest}"
    return Finding(subject, WARNING, problem, owner)


def of_services(verdicts: Sequence[Verdict]) -> Iterator[Finding]:
    """Judge the services. An unhealthy service is a warning, because passes still work."""
    remedies = {
        State.DOWN: "check its URL, its name, the NetworkPolicy, and that it runs",
        State.UNKNOWN: "the answer was unusable or late: check its URL and its log",
        State.DEGRADED: "it answers, but not as the catalogue expects: "
        "check its log and its entry in the catalogue",
    }
    for verdict in verdicts:
        subject = f"service {verdict.target.name}"
        if verdict.healthy:
            days = verdict.certificate_days_left
            ending = "" if days is None else f"; its certificate {end_in_words(days)}"
            yield Finding(subject, OK, f"healthy, {verdict.latency_ms} ms{ending}")
            continue
        remedy = remedies[verdict.state]
        if verdict.reason_class == "certificate":
            remedy = "renew its certificate"
        yield Finding(subject, WARNING, f"{verdict.state.value}: {verdict.reason}", remedy)


def of_installations(own: str, contested: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Warn about services that other installations in this database watch as well.

    ``own`` is this installation. ``contested`` has the services by the other installation.
    """
    for name, services in contested.items():
        problem = f"installation {one_line(name)} watches {service_list(services)} as well"
        yield Finding(f"installation {own}", WARNING, problem, CONTESTED_REMEDY)


def of_alertmanagers(presences: Iterable[Presence]) -> Iterator[Finding]:
    """Judge the Alertmanagers. A problem is a warning: passes are recorded without them."""
    for presence in presences:
        subject = f"Alertmanager {presence.url}"
        if presence.problem:
            remedy = (
                "check ALERTMANAGER_URL, its login or ALERTMANAGER_TOKEN_FILE, the NetworkPolicy, "
                "and that it runs"
            )
            yield Finding(subject, WARNING, presence.problem, remedy)
        else:
            version = f"version {presence.version}" if presence.version else "version unknown"
            yield Finding(subject, OK, f"it answers: {version}")


def of_doubt(assessment: Assessment) -> Iterator[Finding]:
    """Warn if the network or resolver of this machine has probably failed, not the services."""
    if assessment.suspects:
        yield Finding(
            "signs of life",
            WARNING,
            f"none: {'; '.join(assessment.suspects)}",
            "check the network, resolver and limits of this machine before the services",
        )
    for warning in assessment.warnings:
        subject, _, remedy = warning.rpartition(": ")
        yield Finding("names", WARNING, subject, remedy)


def lines(findings: Sequence[Finding]) -> str:
    """Write the checklist: a line per finding, its remedy below it, and the totals."""
    width = max(len(finding.subject) for finding in findings)
    rows = []
    for finding in findings:
        rows.append(f"{finding.state:7}  {finding.subject:{width}}  {finding.found}")
        if finding.remedy and finding.state != OK:
            rows.append(f"{'':7}  {'':{width}}  -> {finding.remedy}")
    states = [finding.state for finding in findings]
    totals = ", ".join(f"{states.count(state)} {state}" for state in (OK, WARNING, FAULT))
    return "\n".join([*rows, "", f"check: {totals}"])


def worst(findings: Sequence[Finding]) -> str:
    """Return the worst state of all findings."""
    states = {finding.state for finding in findings}
    return next((state for state in (FAULT, WARNING) if state in states), OK)
