"""The checklist of ``check``: what the facts about settings, server, tables and services mean."""

from __future__ import annotations

from typing import Any

import pytest

from ops_worker.core.doubt import Assessment
from ops_worker.core.model import State, Target, Verdict
from ops_worker.core.schema import SHAPES, VIEW
from ops_worker.core.self_check import (
    FAULT,
    HIDDEN,
    INIT_DB,
    OK,
    PLATFORM,
    TABLES,
    WARNING,
    Finding,
    Presence,
    Refusal,
    SchemaState,
    Table,
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
from ops_worker.errors import ROW_SECURITY_REMEDY

pytestmark = pytest.mark.unit

FACTS: dict[str, Any] = {
    "role": "iot",
    "login": "iot",
    "database": "iotcloud",
    "connected_ms": 3.0,
    "version": "15.4",
    "version_number": 150004,
    "standby": False,
    "refusals": (),
    "skew_s": 0.0,
    "timescaledb": "",
    "pooled": False,
}
"""A server with which nothing is wrong."""


def finding(subject: str, **facts: object) -> Finding:
    """Return the line about ``subject`` of a server with these facts."""
    return {line.subject: line for line in of_server(FACTS | facts)}[subject]


def test_nothing_wrong() -> None:
    """Every line about a usual server is ok."""
    assert {line.state for line in of_server(FACTS)} == {OK}


@pytest.mark.parametrize(
    ("facts", "state", "words", "remedy"),
    [
        ({"standby": True}, FAULT, "a standby", "primary"),
        ({"refusals": None}, WARNING, "not tried", "run it again"),
        (
            {"refusals": [Refusal("tenants", "read-only", "GRANT")]},
            FAULT,
            "tenants: read-only",
            "GRANT",
        ),
        (
            {"refusals": [Refusal("tenants", "full", "")]},
            FAULT,
            "full",
            "lines of the tables below",
        ),
    ],
)
def test_writable(facts: dict[str, Any], state: str, words: str, remedy: str) -> None:
    """A server to which a pass cannot write is a fault. The line says what to do."""
    line = finding("writable", **facts)
    assert line.state == state
    assert words in line.found
    assert remedy in line.remedy


@pytest.mark.parametrize(
    ("skew_s", "state"), [(2.0, OK), (-2.0, OK), (2.1, WARNING), (-2.1, WARNING)]
)
def test_clock(skew_s: float, state: str) -> None:
    """Two clocks may differ by two seconds, in both directions."""
    assert finding("clock", skew_s=skew_s).state == state


def test_login_role() -> None:
    """If the role differs from the login, the line names both."""
    assert "as iot, by login role app" in finding("connection", login="app").found


def test_pooler() -> None:
    """A pooler is named, and is no fault."""
    assert finding("pooler", pooled=True).found.startswith("there is one between")


@pytest.mark.parametrize(("number", "state"), [(139999, WARNING), (140000, OK)])
def test_version(number: int, state: str) -> None:
    """PostgreSQL 14 is the oldest version that is tested."""
    assert finding("version", version_number=number).state == state


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("PG_PASSWORD", "did you mean PG_PASS?"),  # another word for the same
        ("PASS_DEADLIN", "did you mean PASS_DEADLINE?"),
        ("COLOUR", "remove it;"),
    ],
)
def test_unknown_key(key: str, remedy: str) -> None:
    """A key that nothing reads is a warning, with the setting that it resembles."""
    (line,) = of_keys([key], {"PG_PASS", "PASS_DEADLINE"}, ".env")
    assert (line.subject, line.state) == (f".env: {key}", WARNING)
    assert line.remedy.startswith(remedy)


def test_key_with_control_characters() -> None:
    """A key comes from a file, and is printed on a terminal."""
    (line,) = of_keys(["A\x1b[2J"], (), ".env")
    assert line.subject == ".env: A [2J"


def table_of(name: str) -> Table:
    """Return what a pass needs of a table."""
    return next(table for table in TABLES if table.name == name)


def row_of(table: Table, **facts: object) -> dict[str, Any]:
    """Return what the database says about a table that is as expected, but for these facts."""
    shape = SHAPES.get(table.name)
    columns = {column.name: column.type for column in shape.columns} if shape else {}
    return {
        "name": table.name,
        "present": True,
        "hidden": False,
        "elsewhere": None,
        "role": "iot",
        "login": "app",
        "search_path": "public",
        "owner": "boss",
        "missing": [],
        "columns": columns,
        "keys": [shape.key] if shape and shape.key else [],
        "readers": [VIEW],
        "lacking": [],
        "sequences": [],
    } | facts


def table_finding(name: str, **facts: object) -> Finding:
    """Return the line about one table with these facts. All others are as expected."""
    rows = [row_of(table, **(facts if table.name == name else {})) for table in TABLES]
    return {line.subject: line for line in of_tables(rows)}[f"table {name}"]


def test_tables_as_expected() -> None:
    """Every table has a line, which names what the role may do."""
    findings = list(of_tables([row_of(table) for table in TABLES]))
    assert [line.subject for line in findings] == [f"table {table.name}" for table in TABLES]
    assert {line.state for line in findings} == {OK}
    assert table_finding("system_metrics").found == "may SELECT, INSERT"


@pytest.mark.parametrize(
    ("name", "state", "remedy"),
    [
        ("fleet_alert", FAULT, PLATFORM),
        ("system_metrics", FAULT, INIT_DB),
        ("service_health", WARNING, "the first health pass creates it"),
        ("device_state", OK, "its figures are left out"),
    ],
)
def test_absent_table(name: str, state: str, remedy: str) -> None:
    """An absent table is a fault only if a pass needs it and no pass creates it."""
    line = table_finding(name, present=False)
    assert (line.state, line.found) == (state, "not there")
    assert line.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("usage", "remedy"),
    [
        (True, '`ALTER ROLE app SET search_path TO public, "Ops"`'),
        (False, '`GRANT USAGE ON SCHEMA "Ops" TO iot`'),
    ],
)
def test_table_out_of_reach(usage: bool, remedy: str) -> None:
    """A table in a schema that the role does not search exists: do not create a second one."""
    elsewhere = {"schema": '"Ops"', "usage": usage}
    line = table_finding("fleet_alert", present=False, elsewhere=elsewhere)
    assert (line.state, line.found) == (FAULT, 'not visible: it is in schema "Ops"')
    assert line.remedy == remedy


def test_optional_table_out_of_reach() -> None:
    """Where a table may be absent, it may be in another schema, too."""
    elsewhere = {"schema": "other", "usage": True}
    line = table_finding("device_state", present=False, elsewhere=elsewhere)
    assert (line.state, line.found) == (OK, "not there")


def test_hidden_rows() -> None:
    """If row level security hides the rows, nothing else about the table matters."""
    line = table_finding("fleet_alert", hidden=True, missing=["id"], lacking=["SELECT"])
    assert line == Finding("table fleet_alert", FAULT, HIDDEN, ROW_SECURITY_REMEDY)


OWNER = "run `ops-worker init-db` as role boss, which owns the table"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("service_health", OWNER),
        ("system_metrics", OWNER),
        ("fleet_alert", PLATFORM),
        ("device_state", "run the platform's migrations"),
    ],
)
def test_missing_column(name: str, remedy: str) -> None:
    """A missing column is a fault. Who adds it depends on who creates the table."""
    line = table_finding(name, missing=["status", "site"], keys=[])
    words = "no column status, site"  # a key cannot exist without its columns: it is not named
    assert line == Finding(f"table {name}", FAULT, words, remedy)


@pytest.mark.parametrize(
    ("name", "remedy"), [("service_health", OWNER), ("tenants", PLATFORM), ("fleet_alert", "")]
)
def test_missing_key(name: str, remedy: str) -> None:
    """A table without the key by which rows are looked up is a fault, if it needs one."""
    line = table_finding(name, keys=[])
    assert line.state == (FAULT if remedy else OK)
    assert line.remedy == remedy


@pytest.mark.parametrize(
    ("name", "column", "readers", "remedy"),
    [
        ("service_health", "latency_ms", [], OWNER),
        (
            "fleet_alert",
            "site_id",
            [],
            "`ALTER TABLE fleet_alert ALTER COLUMN site_id TYPE text USING site_id::text::text`",
        ),
        (
            "system_metrics",
            "service",
            [VIEW],
            f"`DROP VIEW IF EXISTS {VIEW}`, then `ALTER TABLE system_metrics ALTER COLUMN service "
            "TYPE text USING service::text::text`, then `ops-worker init-db`",
        ),
        (
            "system_metrics",
            "service",
            [VIEW, "daily", "weekly"],
            "drop the views that read it (daily, weekly), then `ALTER TABLE system_metrics ALTER "
            "COLUMN service TYPE text USING service::text::text`, and create them again",
        ),
    ],
)
def test_other_type(name: str, column: str, readers: list[str], remedy: str) -> None:
    """Another type is a warning: init-db converts the worker's own tables, people the others.

    A type cannot change while a view reads the table.
    """
    columns = row_of(table_of(name))["columns"]
    expected = columns[column]
    line = table_finding(name, columns=columns | {column: "json"}, readers=readers)
    assert line.state == WARNING
    assert line.found == f"column {column} is json, not {expected}"
    assert line.remedy == remedy


def test_missing_privilege() -> None:
    """The remedy grants exactly what is missing, to the role that a pass uses."""
    line = table_finding("fleet_alert", lacking=["INSERT", "UPDATE"], role="Iot")
    assert (line.state, line.found) == (FAULT, "this role may not INSERT, UPDATE")
    assert line.remedy.startswith('`GRANT INSERT, UPDATE ON fleet_alert TO "Iot"`')


def test_sequence() -> None:
    """The sequence of a column matters only where a pass inserts rows."""
    line = table_finding("fleet_alert", sequences=["fleet_alert_id_seq"])
    assert (line.state, line.remedy) == (
        FAULT,
        "`GRANT USAGE ON SEQUENCE fleet_alert_id_seq TO iot`",
    )
    assert table_finding("device_state", sequences=["device_state_id_seq"]).state == OK


def test_several_problems_of_a_table() -> None:
    """One line has all problems of a table, and each remedy once. A fault outweighs a warning."""
    columns = row_of(table_of("service_health"))["columns"] | {"latency_ms": "json"}
    line = table_finding("service_health", columns=columns, keys=[])
    assert line.state == FAULT
    assert line.found == "column latency_ms is json, not integer; no unique key (service)"
    assert line.remedy == OWNER


BEFORE = SchemaState(version=0, newest=4, has_tables=False, has_view=False, is_view_outdated=None)
"""An empty database."""
CURRENT = SchemaState(version=4, newest=4, has_tables=True, has_view=True, is_view_outdated=False)
"""A database with the schema of this program."""


@pytest.mark.parametrize(
    ("schema", "state", "words", "remedy"),
    [
        (CURRENT, OK, "version 4, the newest", ""),
        (BEFORE, OK, "no version yet", ""),
        (CURRENT._replace(version=0), WARNING, "no version is recorded", INIT_DB),
        (CURRENT._replace(version=3), WARNING, "this program needs version 4", INIT_DB),
        (CURRENT._replace(version=5), WARNING, "this program knows version 4", "upgrade"),
        (CURRENT._replace(version=None), WARNING, "cannot be read", "run `DROP TABLE"),
        (
            CURRENT._replace(version=None, version_problem="timeout"),
            WARNING,
            "cannot be read: timeout",
            "see the lines of table",  # never drop a table that is as expected
        ),
    ],
)
def test_schema_version(schema: SchemaState, state: str, words: str, remedy: str) -> None:
    """The version is compared with that of this program. The older side is to be upgraded."""
    line = next(iter(of_schema(schema)))
    assert (line.subject, line.state) == ("schema", state)
    assert words in line.found
    assert line.remedy.startswith(remedy)
    assert bool(line.remedy) == bool(remedy)


@pytest.mark.parametrize(
    ("schema", "state", "words"),
    [
        (CURRENT, OK, "its definition is up to date"),
        (CURRENT._replace(is_view_outdated=True), WARNING, "is not that of this version"),
        (CURRENT._replace(is_view_outdated=None), OK, "could not be compared"),
        # A newer release has another view.
        (CURRENT._replace(version=5, is_view_outdated=True), OK, "not compared"),
        (CURRENT._replace(version=None, is_view_outdated=True), WARNING, "is not that of"),
        (CURRENT._replace(has_view=False), WARNING, "not there"),
    ],
)
def test_view(schema: SchemaState, state: str, words: str) -> None:
    """A view that is absent or outdated is a warning, unless the schema is newer."""
    _, line = of_schema(schema)
    assert (line.subject, line.state) == (f"view {VIEW}", state)
    assert words in line.found
    assert line.remedy.startswith(INIT_DB) == (state == WARNING)


def test_no_view_before_the_first_pass() -> None:
    """Nobody misses a view in an empty database."""
    assert [line.subject for line in of_schema(BEFORE)] == ["schema"]


def verdict(state: State, reason_class: str = "", **fields: Any) -> Verdict:
    """Return what a probe of a service resulted in."""
    return Verdict(
        target=Target("web", "https://web", "web", ()),
        taken_at=0.0,
        state=state,
        reason="" if state is State.HEALTHY else "because",
        reason_class=reason_class,
        **fields,
    )


@pytest.mark.parametrize(
    ("days", "words"),
    [(None, "healthy, 7 ms"), (3, "healthy, 7 ms; its certificate expires in 3 days")],
)
def test_healthy_service(days: int | None, words: str) -> None:
    """A healthy service is ok. With TLS, the line says when its certificate ends."""
    healthy = verdict(State.HEALTHY, latency_ms=7, certificate_days_left=days)
    assert list(of_services([healthy])) == [Finding("service web", OK, words)]


@pytest.mark.parametrize(
    ("state", "reason_class", "remedy"),
    [
        (State.DOWN, "refused", "check its URL, its name, the NetworkPolicy"),
        (State.DOWN, "certificate", "renew its certificate"),
        (State.UNKNOWN, "timeout", "the answer was unusable or late"),
        (State.DEGRADED, "certificate", "renew its certificate"),
        (State.DEGRADED, "http_503", "it answers, but not as"),
    ],
)
def test_unhealthy_service(state: State, reason_class: str, remedy: str) -> None:
    """An unhealthy service is a warning. The hint depends on its state and on the reason."""
    (line,) = of_services([verdict(state, reason_class)])
    assert (line.state, line.found) == (WARNING, f"{state.value}: because")
    assert line.remedy.startswith(remedy)


def test_contested_services() -> None:
    """Each other installation that watches the same services is a warning of its own."""
    findings = list(of_installations("east", {"west\n": ["a", "b"], "south": ["a"]}))
    assert [(line.subject, line.state) for line in findings] == [("installation east", WARNING)] * 2
    assert findings[0].found == "installation west watches a, b as well"
    assert findings[1].found == "installation south watches a as well"


def test_no_contested_services() -> None:
    """An installation that watches its services alone has no line."""
    assert list(of_installations("east", {})) == []


def test_alertmanagers() -> None:
    """An Alertmanager that answers is ok, also without a version. One that is away is a warning."""
    findings = list(
        of_alertmanagers(
            [
                Presence("http://a", version="0.27.0"),
                Presence("http://b"),
                Presence("http://c", problem="Connection refused"),
            ]
        )
    )
    assert [(line.subject, line.state, line.found) for line in findings] == [
        ("Alertmanager http://a", OK, "it answers: version 0.27.0"),
        ("Alertmanager http://b", OK, "it answers: version unknown"),
        ("Alertmanager http://c", WARNING, "Connection refused"),
    ]
    assert [bool(line.remedy) for line in findings] == [False, False, True]


def test_doubt() -> None:
    """What has probably failed instead of the services is one warning, before the services."""
    doubtful = Assessment(
        (), ("no nameserver answers", "no route"), warnings=("dns: a: b: raise it",)
    )
    assert [(line.subject, line.state, line.found) for line in of_doubt(doubtful)] == [
        ("signs of life", WARNING, "none: no nameserver answers; no route"),
        ("names", WARNING, "dns: a: b"),
    ]
    assert list(of_doubt(doubtful))[1].remedy == "raise it"
    assert list(of_doubt(Assessment(()))) == []


def test_lines() -> None:
    """A finding is a line. Its remedy follows unless it is ok. The totals end the list."""
    assert lines(
        [
            Finding("a", OK, "fine", "not shown"),
            Finding("longer", WARNING, "odd", "look"),
            Finding("b", FAULT, "broken"),
            Finding("c", OK, "fine"),
        ]
    ).splitlines() == [
        "ok       a       fine",
        "warning  longer  odd",
        "                 -> look",
        "fault    b       broken",
        "ok       c       fine",
        "",
        "check: 2 ok, 1 warning, 1 fault",
    ]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((), OK),
        ((OK, OK), OK),
        ((OK, WARNING), WARNING),
        ((FAULT, WARNING, OK), FAULT),
        ((WARNING, FAULT), FAULT),
    ],
)
def test_worst(states: tuple[str, ...], expected: str) -> None:
    """The worst finding decides, wherever it stands."""
    assert worst([Finding("a", state, "") for state in states]) == expected
