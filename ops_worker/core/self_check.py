"""Whether everything is there that a pass needs: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.model import State
from ops_worker.core.suggest import closest, intended_variable
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from ops_worker.core.model import Verdict

OK, WARNING, FAULT = "ok", "warning", "fault"
KEY_LIKE = 0.75
"""How like a setting's name an unknown key has to be, from 0 to 1, to be taken for it."""
MAX_SKEW_S = 2.0
"""Seconds by which two clocks may differ before it is worth a word."""
OLDEST = 140000
"""PostgreSQL 14, as ``server_version_num`` tells it: the oldest on which the worker is tried."""


class Finding(NamedTuple):
    """One line of the checklist: what was looked at, how it is, what was found, and what to do where it is not ok."""

    subject: str
    state: str
    found: str
    remedy: str = ""


class Refusal(NamedTuple):
    """A row that a pass writes and the database refuses: the table, its words, and what helps."""

    table: str
    said: str
    remedy: str = ""


class Table(NamedTuple):
    """What a pass needs of a table. ``absent`` is how it is when the table is not there, and ``remedy`` what then helps."""

    name: str
    privileges: tuple[str, ...]
    columns: tuple[str, ...]
    absent: str
    remedy: str


PLATFORM = "run the platform's migrations, or `ops-worker init-db --standalone`"
ALERT = (
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
LOGGED = ("started_at", "until", "ended_at", "started_by", "ended_by", "reason")
TABLES = (
    Table("service_health", ("SELECT", "INSERT", "UPDATE"), ("service", "status", "latency_ms", "details", "checked_at"), WARNING,
          "the first health pass makes it where its role may; else the owner runs `ops-worker init-db`"),
    Table("system_metrics", ("SELECT", "INSERT"), ("time", "metric_name", "service", "tags", "value"), FAULT, "run `ops-worker init-db`"),
    Table("fleet_alert", ("SELECT", "INSERT", "UPDATE"), (*ALERT, "id", "created_at", "closed_at"), FAULT, PLATFORM),
    Table("tenants", ("SELECT", "INSERT"), ("tenant_id", "name", "status", "metadata"), FAULT, PLATFORM),
    Table("device_state", ("SELECT",), ("status",), OK, "its figures are left out"),
    Table("delivery_jobs", ("SELECT",), ("status",), OK, "its figure is left out"),
    Table("ops_worker_maintenance", ("SELECT",), ("until", "started_by", "reason"), OK, "`ops-worker maintenance start` makes it"),
    Table("ops_worker_maintenance_log", ("SELECT",), LOGGED, OK,
          "`ops-worker maintenance start` makes it"),
)  # fmt: skip
"""The tables, as the contract with the platform has them."""


def of_keys(keys: Iterable[str], known: Collection[str], file: str) -> Iterator[Finding]:
    """Warn of the keys of a ``.env`` file that are never read; ``known`` are the settings."""
    for key in keys:
        near = intended_variable(key, "", known) or closest(key, known, KEY_LIKE)
        remedy = "remove it; `ops-worker sidecar --help` lists the names that are read"
        if near:
            remedy = f"did you mean {near}?"
        yield Finding(f"{file}: {one_line(key)}", WARNING, "nothing reads this key", remedy)


def of_server(facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge what the server told of itself."""
    as_role = (
        facts["role"]
        if facts["role"] == facts["login"]
        else f"{facts['role']}, by login role {facts['login']}"
    )
    yield Finding(
        "connection",
        OK,
        f"database {facts['database']} as {as_role}, in {facts['connected_ms']:.0f} ms",
    )
    old = facts["version_number"] < OLDEST
    yield Finding(
        "version",
        WARNING if old else OK,
        f"PostgreSQL {facts['version']}",
        "the worker is tried on 14 and newer" if old else "",
    )
    yield _writable(standby=facts["standby"], refusals=facts["refusals"])
    skew = facts["skew_s"]
    if abs(skew) > MAX_SKEW_S:
        yield Finding(
            "clock",
            WARNING,
            f"this machine is {skew:+.1f} s off the database's",
            "rows have the database's time; set this clock right for its logs",
        )
    else:
        yield Finding("clock", OK, f"this machine is within {MAX_SKEW_S:g} s of the database's")
    yield Finding(
        "TimescaleDB",
        OK,
        facts["timescaledb"]
        or "not installed: system_metrics is an ordinary table, and nothing deletes old rows",
    )
    yield Finding(
        "pooler",
        OK,
        "a pooler stands in between, which is fine in transaction mode"
        if facts["pooled"]
        else "none in between",
    )


def _writable(*, standby: bool, refusals: Sequence[Refusal] | None) -> Finding:
    """Judge whether a pass could write. ``refusals`` is None where that could not be tried."""
    if standby:
        return Finding(
            "writable", FAULT, "a standby", "point DATABASE_URL or PG_HOST at the primary"
        )
    if refusals is None:
        return Finding(
            "writable",
            WARNING,
            "not tried: another `ops-worker check` is under way",
            "run it again",
        )
    if not refusals:
        return Finding("writable", OK, "yes: a row of each table was written and rolled back")
    said = "; ".join(f"{one.table}: {one.said}" for one in refusals)
    remedies = dict.fromkeys(one.remedy or f"see table {one.table} below" for one in refusals)
    return Finding("writable", FAULT, said, "; ".join(remedies))


def of_tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge the tables: there, not hidden, with the columns and the privileges that are needed."""
    found = {row["name"]: row for row in rows}
    for table in TABLES:
        row = found[table.name]
        subject = f"table {table.name}"
        if not row["present"]:
            yield Finding(subject, table.absent, "not there", table.remedy)
        elif row["hidden"]:
            yield Finding(
                subject,
                FAULT,
                "row level security hides its rows from this role",
                "set PG_ROLE to a role that bypasses it, pulse_operator on the platform",
            )
        elif row["missing"]:
            yield Finding(subject, FAULT, f"no column {', '.join(row['missing'])}", PLATFORM)
        elif row["lacking"]:
            yield Finding(
                subject,
                FAULT,
                f"this role may not {', '.join(row['lacking'])}",
                "grant that to it, or set PG_ROLE to a role that may",
            )
        else:
            yield Finding(subject, OK, f"may {', '.join(table.privileges)}")


def of_services(verdicts: Sequence[Verdict]) -> Iterator[Finding]:
    """Judge what the services answered. One that does not is a warning: the world is watched, not needed."""
    remedies = {
        State.DOWN: "check its URL, its name, the NetworkPolicy, and that it runs",
        State.UNKNOWN: "something answered, or nothing did in time: check its URL and its log",
        State.DEGRADED: "it answers: its log says more",
    }
    for verdict in verdicts:
        subject = f"service {verdict.target.name}"
        if verdict.healthy:
            yield Finding(subject, OK, f"healthy, {verdict.latency_ms} ms")
        else:
            yield Finding(
                subject,
                WARNING,
                f"{verdict.state.value}: {verdict.reason}",
                remedies[verdict.state],
            )


def lines(findings: Sequence[Finding]) -> str:
    """Render the checklist: a line for each finding, below it what to do, and a line that counts them."""
    width = max(len(finding.subject) for finding in findings)
    told = []
    for finding in findings:
        told.append(f"{finding.state:7}  {finding.subject:{width}}  {finding.found}")
        if finding.remedy and finding.state != OK:
            told.append(f"{'':7}  {'':{width}}  -> {finding.remedy}")
    counts = [
        f"{sum(finding.state == state for finding in findings)} {state}"
        for state in (OK, WARNING, FAULT)
    ]
    return "\n".join([*told, "", f"check: {', '.join(counts)}"])


def worst(findings: Sequence[Finding]) -> str:
    """Give the worst state of all."""
    states = {finding.state for finding in findings}
    return next((state for state in (FAULT, WARNING) if state in states), OK)
