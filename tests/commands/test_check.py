"""`ops-worker check` finds each broken requirement of a pass, and changes nothing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from ops_worker.adapters import http, kubernetes
from ops_worker.cli import main
from ops_worker.core.model import Failure, Observation
from ops_worker.core.passes import DOUBT_TABLE, LEDGER_TABLES
from ops_worker.core.self_check import (
    FAULT,
    OK,
    TABLES,
    WARNING,
    SchemaState,
    of_schema,
    of_server,
    of_tables,
    worst,
)
from tests.alertmanager import Inbox

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ops_worker.core.model import Target
    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.integration


def check(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, tuple[str, str]]:
    """Return the state and the text of each finding, by subject.

    The text has two parts with a bar between them: the finding and its remedy.
    """
    capsys.readouterr()
    assert main(["check", "--output", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == code
    for finding in document["findings"]:
        assert finding["remedy"] or finding["state"] == OK
    return {
        finding["subject"]: (finding["state"], f"{finding['found']} | {finding['remedy']}")
        for finding in document["findings"]
    }


def test_alertmanagers(
    configured: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` asks each Alertmanager for its version, and shows no login.

    An Alertmanager that does not answer is a warning.
    """
    with Inbox() as closed:
        closed_url = closed.url
    with Inbox() as inbox:
        inbox.body = b'{"versionInfo": {"version": "0.25.0"}}'
        login = inbox.url.replace("://", "://us-er:hunter2-login@")
        monkeypatch.setenv("ALERTMANAGER_URL", f"{login},{closed_url},{login}/prefix")
        findings = check(capsys)
        # The requests are made at the same time, so their order varies.
        assert {received.path for received in inbox.requests} == {
            "/api/v2/status",
            "/prefix/api/v2/status",
        }
    shown_url = inbox.url.replace("://", "://***@")
    assert findings[f"Alertmanager {shown_url}"] == (OK, "it answers: version 0.25.0 | ")
    state, text = findings[f"Alertmanager {closed_url}"]
    assert (state, text.partition(" | ")[0]) == (WARNING, "Connection refused")
    assert "ALERTMANAGER_URL" in text and "NetworkPolicy" in text
    assert "hunter2" not in str(findings) and "us-er" not in str(findings)
    assert configured.alerts() == []


def test_no_alertmanager(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ALERTMANAGER_URL there is no line about an Alertmanager."""
    assert not any("Alertmanager" in subject for subject in check(capsys))
    assert configured.alerts() == []


def test_well(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the tables that the first pass creates are not ok, and `check` creates nothing."""
    findings = check(capsys)
    assert {subject for subject, (state, _) in findings.items() if state != OK} == {
        "table service_health",
        *(f"table {name}" for name in LEDGER_TABLES),
        f"table {DOUBT_TABLE}",
    }
    assert configured.value("SELECT to_regclass('service_health')") is None
    assert configured.samples() == {}
    assert findings["setting DATABASE_URL"][1].startswith("(not shown), from the environment")
    assert re.match(r"healthy, \d+ ms", findings["service ingest"][1])
    assert findings["table fleet_alert"][1].startswith("may SELECT, INSERT, UPDATE")
    main(["init-db"])
    capsys.readouterr()
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ok +version +PostgreSQL \d+", out, re.MULTILINE)
    assert re.search(r"^check: \d+ ok, 0 warning, 0 fault$", out, re.MULTILINE)
    assert "->" not in out


BROKEN = [
    (
        "DROP TABLE system_metrics CASCADE",
        "table system_metrics",
        FAULT,
        "not there | run `ops-worker init-db`",
    ),
    ("DROP TABLE delivery_jobs", "table delivery_jobs", OK, "not there | its figure is left out"),
    (
        "ALTER TABLE fleet_alert RENAME COLUMN summary TO title",
        "table fleet_alert",
        FAULT,
        "no column summary | run the platform's migrations",
    ),
    (
        "ALTER TABLE device_state RENAME COLUMN status TO state_word",
        "figure platform.devices_online",
        FAULT,
        'column "status" does not exist | see the lines of its tables above (device_state)',
    ),
]


@pytest.mark.parametrize(("sql", "subject", "state", "text"), BROKEN)
def test_broken_tables(
    configured: Database,
    capsys: pytest.CaptureFixture[str],
    sql: str,
    subject: str,
    state: str,
    text: str,
) -> None:
    """A broken table is reported with its remedy.

    A missing table delivery_jobs is no fault, because newer platforms do not have it.
    """
    configured.rows(sql)
    findings = check(capsys, 3 if state == FAULT else 0)
    assert findings[subject][0] == state
    assert findings[subject][1].startswith(text)


def test_role(
    configured: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table whose rows the role cannot see or write is a fault with its remedy."""
    configured.rows("CREATE ROLE ops_seer LOGIN PASSWORD 'x'")
    configured.rows("GRANT SELECT ON ALL TABLES IN SCHEMA public TO ops_seer")
    monkeypatch.setenv("DATABASE_URL", configured.as_user("ops_seer"))
    findings = check(capsys, 3)
    assert findings["table fleet_alert"] == (
        FAULT,
        (
            "row level security hides its rows from this role | "
            "set PG_ROLE to a role that bypasses it (pulse_operator on the platform) "
            "and that the login role is a member of"
        ),
    )
    assert findings["table system_metrics"] == (
        FAULT,
        (
            "this role may not INSERT | `GRANT INSERT ON system_metrics TO ops_seer`, "
            "or set PG_ROLE to a role that may"
        ),
    )
    monkeypatch.setenv("PG_ROLE", "nobody_here")
    assert "nobody_here" in check(capsys, 3)["database"][1]
    configured.rows("DROP OWNED BY ops_seer")
    configured.rows("DROP ROLE ops_seer")


@pytest.mark.usefixtures("configured")
def test_signs_of_life(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sign of life, `check` suspects the network of this machine, not the services."""
    monkeypatch.setenv("DISPATCHER_HEALTH_URL", "")
    monkeypatch.setenv("DELIVERY_HEALTH_URL", "")
    monkeypatch.setenv("EVALUATOR_HEALTH_URL", "http://one.invalid")
    names = check(capsys, 0)["names"]
    assert names[0] == WARNING
    assert names[1].startswith(
        "names could not be resolved, although other services gave a sign of life: evaluator"
    )
    monkeypatch.setenv("INGEST_HEALTH_URL", "http://two.invalid")
    signs = check(capsys, 0)["signs of life"]
    assert signs[0] == WARNING
    assert signs[1].startswith("none: no name could be resolved: 2 of 2")


@pytest.mark.usefixtures("configured")
def test_services(
    stubs: Stubs,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A service that does not answer is a warning, because a pass can run without it."""
    stubs["ingest"].mode = "down"
    stubs["evaluator"].mode = "503"
    monkeypatch.setenv("DELIVERY_HEALTH_URL", "")
    findings = check(capsys)
    assert findings["service ingest"] == (
        WARNING,
        "down: Connection refused | check its URL, its name, the NetworkPolicy, and that it runs",
    )
    assert findings["service evaluator"] == (
        WARNING,
        (
            "degraded: http 503 | it answers, but not as the catalogue expects: "
            "check its log and its entry in the catalogue"
        ),
    )
    assert findings["service delivery_worker"] == (OK, "not monitored: its URL is empty | ")


@pytest.mark.usefixtures("configured")
def test_unverified(
    stubs: Stubs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A service whose certificate is not verified gets a warning, for any answer."""
    (tmp_path / "c.toml").write_text(
        f'[services.ingest]\nurl = "{stubs["ingest"].url}"\nskip_verify = true\n'
    )
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(tmp_path / "c.toml"))
    capsys.readouterr()
    assert main(["check", "--output", "json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    answer, unverified = (finding for finding in findings if finding["subject"] == "service ingest")
    assert unverified["state"] == WARNING
    assert unverified["found"].startswith("its certificate is not verified")
    assert unverified["remedy"].startswith("remove `skip_verify`")
    assert answer["state"] == OK


@pytest.mark.usefixtures("configured")
def test_own_limits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that was not probed because of a limit of this process names the limit's remedy."""

    def limited(targets: Sequence[Target], **_: object) -> list[Observation]:
        return [
            Observation(target, 0.0, failure=Failure.NOT_PROBED, error="no files")
            for target in targets
        ]

    monkeypatch.setattr(http, "observe", limited)
    state, text = check(capsys)["service ingest"]
    assert state == WARNING
    assert text.startswith("not probed: no files | raise the limit that is named")


@pytest.mark.usefixtures("configured")
def test_nothing_to_do(
    capsys: pytest.CaptureFixture[str],
    stubs: Stubs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is a warning if no service is monitored or no alert can open."""
    for name in stubs.env:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SYSTEM_ALERT_ENABLED", "flase")
    findings = check(capsys)
    assert findings["services"][0] == findings["SYSTEM_ALERT_ENABLED"][0] == WARNING


def test_not_permitted(
    configured: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing privilege is reported with its GRANT.

    The statement of the built-in figure is not blamed.
    """
    configured.rows("CREATE ROLE ops_checked LOGIN PASSWORD 'x' BYPASSRLS")
    monkeypatch.setenv("DATABASE_URL", configured.as_user("ops_checked"))
    findings = check(capsys, code=3)
    assert findings["figure platform.devices_online"] == (
        FAULT,
        (
            "permission denied for table device_state | "
            "`GRANT SELECT ON device_state TO ops_checked`, or set PG_ROLE"
        ),
    )
    monkeypatch.setenv("PG_ROLE", "pulse_operator")
    state, text = check(capsys, code=3)["database"]
    assert state == FAULT
    assert "| grant that to the login role, or set PG_ROLE to a role that has it" in text
    configured.rows("DROP ROLE ops_checked")


@pytest.mark.usefixtures("configured")
def test_away(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable database is a fault, and the other checks still run."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://a:hush@127.0.0.1:9/d")
    findings = check(capsys, 3)
    assert findings["database"][0] == FAULT and "check that it runs" in findings["database"][1]
    assert findings["service ingest"][0] == OK
    assert "hush" not in str(findings)


def test_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All invalid settings are listed with exit code 2, and nothing else is checked.

    A setting from a .env file names the file as its source.
    """
    monkeypatch.setenv("PG_PORT", "x")
    monkeypatch.setenv("PASS_DEADLINE", "1")
    assert main(["check"]) == 2
    out = capsys.readouterr().out
    assert "PG_PORT is 'x'" in out
    assert "PASS_DEADLINE is '1'" in out
    assert out.endswith("check: 0 ok, 0 warning, 3 fault\n")
    (tmp_path / ".env").write_text("PG_PASS=hush\nPG_HOST=127.0.0.1\n")
    monkeypatch.setenv("PG_PORT", "9")
    monkeypatch.delenv("PASS_DEADLINE")
    for name in ("INGEST_URL", "EVALUATOR_URL", "DISPATCHER_URL", "DELIVERY_URL"):
        monkeypatch.setenv(name, "")
    findings = check(capsys, 3)
    assert findings["setting PG_HOST"] == (OK, "'127.0.0.1', from .env | ")
    assert findings["setting PG_PASS"] == (OK, "(not shown), from .env | ")


SERVER = {
    "database": "d",
    "role": "r",
    "login": "l",
    "connected_ms": 5,
    "version": "13.1",
    "version_number": 130001,
    "standby": True,
    "refusals": [],
    "skew_s": -9.0,
    "timescaledb": "2.17",
    "pooled": True,
}


def test_of_server() -> None:
    """An old server, a standby, a wrong clock and a pooler are reported."""
    findings = {finding.subject: (finding.state, finding.found) for finding in of_server(SERVER)}
    assert findings == {
        "connection": (OK, "database d as r, by login role l, in 5 ms"),
        "version": (WARNING, "PostgreSQL 13.1"),
        "writable": (FAULT, "a standby"),
        "clock": (WARNING, "this machine differs from the database by -9.0 s"),
        "TimescaleDB": (OK, "2.17"),
        "pooler": (OK, "there is one between, which is fine in transaction mode"),
    }
    assert worst([]) == OK


SCHEMA: list[tuple[SchemaState, list[tuple[str, str]]]] = [
    (SchemaState(0, 2, False, False, None), [(OK, "no version yet: the first health pass")]),
    (
        SchemaState(0, 2, True, False, None),
        [(WARNING, "no version is recorded"), (WARNING, "not there")],
    ),
    (
        SchemaState(1, 2, True, True, None),
        [(WARNING, "version 1; this program needs version 2"), (OK, "there; its definition")],
    ),
    (
        SchemaState(2, 2, True, True, True),
        [(OK, "version 2, the newest"), (WARNING, "its definition is not that")],
    ),
    (
        SchemaState(2, 2, True, True, False),
        [(OK, "version 2, the newest"), (OK, "its definition is up to date")],
    ),
    (
        SchemaState(3, 2, True, True, True),
        [(WARNING, "version 3; this program knows version 2"), (OK, "not compared")],
    ),
    (
        SchemaState(None, 2, True, True, False),
        [(WARNING, "ops_worker_schema cannot be read"), (OK, "its definition is up to date")],
    ),
    (
        SchemaState(None, 2, True, True, False, "permission denied"),
        [
            (WARNING, "ops_worker_schema cannot be read: permission denied"),
            (OK, "its definition is up to date"),
        ],
    ),
]


@pytest.mark.parametrize(("state", "expected"), SCHEMA)
def test_of_schema(state: SchemaState, expected: list[tuple[str, str]]) -> None:
    """The version and the view are judged in each state, and a warning has a remedy."""
    findings = list(of_schema(state))
    assert len(findings) == len(expected)
    for finding, (level, text) in zip(findings, expected, strict=True):
        assert finding.state == level and finding.found.startswith(text)
        assert bool(finding.remedy) is (level == WARNING)


@pytest.mark.parametrize(
    ("readers", "remedy"),
    [
        (["service_health_current"], "`DROP VIEW IF EXISTS service_health_current`, then `ALTER"),
        (["other", "service_health_current"], "drop the views that read it (other), then `ALTER"),
    ],
)
def test_type_under_a_view(readers: list[str], remedy: str) -> None:
    """A type cannot change under a view, so the remedy drops the view first."""
    row = {
        "present": True,
        "hidden": False,
        "missing": [],
        "lacking": [],
        "sequences": [],
        "owner": "o",
        "role": "r",
        "keys": [],
        "columns": {"time": "date"},
        "readers": readers,
    }
    rows = [{"name": table.name, "present": False} for table in TABLES]
    rows = [row | {"name": r["name"]} if r["name"] == "system_metrics" else r for r in rows]
    findings = {finding.subject: finding for finding in of_tables(rows)}
    assert findings["table system_metrics"].state == WARNING
    assert findings["table system_metrics"].remedy.startswith(remedy)


@pytest.mark.usefixtures("configured")
def test_cluster(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """In a pod, `check` looks at the CronJobs, unless the pod has no token.

    CronJobs that it cannot read are a warning.
    """
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "9")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    state, text = check(capsys)["CronJobs"]
    assert state == WARNING and "run `ops-worker cluster` with access to the cluster" in text
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setattr(kubernetes, "TOKEN", tmp_path / "token")
    state, text = check(capsys)["CronJobs"]
    assert state == OK
    assert text.startswith("not checked: this pod has no token of a service account")
    (tmp_path / "token").write_text("t")
    assert check(capsys)["CronJobs"][0] == WARNING


@pytest.mark.usefixtures("configured")
def test_near_misses(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A variable whose name resembles a setting is reported with that setting.

    Its value is never shown. Variables that other programs read are not reported.
    """
    assert main(["init-db"]) == 0
    (tmp_path / "own.toml").write_text(
        '[services.gate]\nurl = "http://127.0.0.1:9"\nheaders = { A = "${GATE_TOKEN}" }\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(tmp_path / "own.toml"))
    monkeypatch.setenv("GATE_TOKEN", "hush")
    before = {subject for subject in check(capsys) if subject.startswith("variable ")}
    for name in (
        "PGSSLMODE",
        "PGAPPNAME",
        "PG_PORT_5432_TCP",
        "KUBERNETES_PORT",
        "GATE_TOKENS",
        "NOTIFY_DATABASE_URL",
        "PG_MAJOR",
    ):
        monkeypatch.setenv(name, "prefer")
    assert {subject for subject in check(capsys) if subject.startswith("variable ")} == before
    for name in ("PG_PASSWORD", "INGEST_ULR", "DATABSE_URL", "LOGLEVEL", "OPS_WORKER_DATABASE_URL"):
        monkeypatch.setenv(name, "hush")
    findings = check(capsys)
    for name, meant in (
        ("PG_PASSWORD", "PG_PASS"),
        ("INGEST_ULR", "INGEST_URL"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("OPS_WORKER_DATABASE_URL", "DATABASE_URL"),
    ):
        assert findings[f"variable {name}"] == (
            WARNING,
            f"nothing reads it | did you mean {meant}?",
        )
    assert "hush" not in str(findings)


def test_missing_by_another_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If a setting is missing, a variable with a similar name is reported.

    Both `check` and a pass that cannot start report it.
    """
    monkeypatch.setenv("PG_PASSWORD", "hush")
    assert check(capsys, 2)["variable PG_PASSWORD"] == (
        WARNING,
        "nothing reads it | did you mean PG_PASS?",
    )
    assert main(["health"]) == 2
    assert capsys.readouterr().err == (
        "ops-worker health: PG_PASS is not set; it is required if DATABASE_URL is empty\n"
        "ops-worker health: PG_PASSWORD is set, but nothing reads it; did you mean PG_PASS?\n"
    )
    monkeypatch.delenv("PG_PASSWORD")
    (tmp_path / "own.toml").write_text('[services.gate]\nurl = "${GATE_URL}"\n', encoding="utf-8")
    for name, value in (
        ("PG_PASS", "x"),
        ("OPS_WORKER_CATALOGUE", str(tmp_path / "own.toml")),
        ("GATE_ULR", "http://127.0.0.1:9"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PASS_DEADLINE", "1")
    assert check(capsys, 2)["variable GATE_ULR"] == (
        WARNING,
        "nothing reads it | did you mean GATE_URL?",
    )
    assert main(["health", "--env-file", str(tmp_path / "none")]) == 2


@pytest.mark.usefixtures("configured")
def test_keys_of_the_env_file(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each key of the .env file that nothing reads is reported.

    Settings, references of the catalogue and references in the file itself are read.
    """
    assert main(["init-db"]) == 0
    (tmp_path / "own.toml").write_text(
        '[services.gate]\nurl = "http://127.0.0.1:9"\nheaders = { A = "${GATE_TOKEN}" }\n',
        encoding="utf-8",
    )
    (tmp_path / ".env").write_text(
        "OPS_WORKER_CATALOGUE=own.toml\nGATE_TOKEN=hush\nBASE=/tmp\n"
        "TERMINATION_MESSAGE_PATH=${BASE}/t\n"
        "INGEST_ULR=hush\nPGPASSWORD=hush\nCOMPOSE_FILE=hush\n"
    )
    findings = check(capsys)
    assert {
        subject: text for subject, (_, text) in findings.items() if subject.startswith(".env: ")
    } == {
        ".env: INGEST_ULR": "nothing reads this key | did you mean INGEST_URL?",
        ".env: PGPASSWORD": "nothing reads this key | did you mean PG_PASS?",
        ".env: COMPOSE_FILE": (
            "nothing reads this key | remove it; `ops-worker sidecar --help` "
            "lists the names that are read"
        ),
    }
    assert "hush" not in str(findings)
    (tmp_path / "other").write_text("LOGLEVEL=DEBUG\n")
    capsys.readouterr()
    assert main(["check", "--env-file", str(tmp_path / "other")]) == 0
    text = capsys.readouterr().out
    assert "other: LOGLEVEL" in text and "COMPOSE_FILE" not in text
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", "none.toml")
    assert [subject for subject in check(capsys, 2) if subject.startswith(".env: ")] == [], (
        "without the catalogue its references are unknown"
    )


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("word", "is_odd"),
    [("maybe", True), ("flase", True), ("2", True), ("off", False), (" No ", False), ("", False)],
)
def test_odd_words(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    is_odd: bool,
) -> None:
    """A switch with an unknown word counts as off. `check` and the log of a pass report it."""
    assert main(["init-db"]) == 0
    monkeypatch.setenv("SYSTEM_ALERT_ENABLED", word)
    off = f"{word!r} is neither on nor off, and counts as off" if is_odd else "off"
    state, text = check(capsys)["SYSTEM_ALERT_ENABLED"]
    assert state == WARNING
    assert text.startswith(
        f"{off}: the health pass does nothing, and no alert opens | set it to true"
    )
    assert main(["health"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("health: off")
    assert ("is neither on nor off, and counts as off" in err) is is_odd
    for name in ("RECORD_OWN_METRICS", "KUBERNETES_EVENTS", "SYSTEM_ALERT_ENABLED"):
        monkeypatch.setenv(name, word)
    findings = check(capsys)
    for name in ("RECORD_OWN_METRICS", "KUBERNETES_EVENTS"):
        assert (findings.get(name) == (WARNING, f"{off} | set it to true or false")) is is_odd
    assert main(["metrics"]) == 0
    assert capsys.readouterr().err.count("neither on nor off") == 3 * is_odd
    assert main(["status"]) == 0
    assert "neither" not in capsys.readouterr().err, "the commands of people do not depend on it"


@pytest.mark.usefixtures("configured")
def test_odd_level(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown log level counts as INFO, and `check` reports it."""
    assert main(["init-db"]) == 0
    for word in ("debug", "", "Warning "):
        monkeypatch.setenv("LOG_LEVEL", word)
        assert "LOG_LEVEL" not in check(capsys)
    monkeypatch.setenv("LOG_LEVEL", "verbose")
    assert check(capsys)["LOG_LEVEL"] == (
        WARNING,
        (
            "'verbose' is not a log level; INFO is used | "
            "set it to DEBUG, INFO, WARNING, ERROR, CRITICAL"
        ),
    )


@pytest.mark.plain_table
def test_growth(
    seeded: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The growth of a table is the rows and bytes of its statistics, divided by its age in days."""
    seeded.rows("ANALYZE system_metrics; ANALYZE ops_worker_span")
    rows, size = (
        seeded.value(f"SELECT {expression} FROM pg_class WHERE oid = 'system_metrics'::regclass")
        for expression in ("reltuples", "pg_total_relation_size(oid)")
    )
    age_s = seeded.value("SELECT date_part('epoch', now() - min(time)) FROM system_metrics")
    monkeypatch.setenv("SAMPLES_DAYS", "7")
    findings = check(capsys)
    state, text = findings["growth of system_metrics"]
    assert state == OK
    match = re.match(r"about ([\d.]+) rows and ([\d.]+) MiB per day \(([\d.]+) rows, ", text)
    assert match
    per_day, mib_per_day, number = map(float, match.groups())
    assert number == rows == seeded.value("SELECT count(*) FROM system_metrics")
    assert per_day == pytest.approx(rows / age_s * 86_400, rel=0.05)
    assert mib_per_day == pytest.approx(size / age_s * 86_400 / 2**20, rel=0.05)
    assert "the rollup pass removes rows older than 7 d (SAMPLES_DAYS)" in text
    assert re.match(
        r"8 rows, \d+ KiB; .* 400 d \(HISTORY_DAYS\)", findings["growth of ops_worker_span"][1]
    )
    seeded.rows("UPDATE ops_worker_run SET first_at = first_at - interval '2 days'")
    text = check(capsys)["growth of ops_worker_span"][1]
    assert re.match(r"about 4 rows and [\d.]+ KiB per day \(8 rows, .* in 2 d\)", text)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP INDEX system_metrics_time_idx",
        "ALTER TABLE ops_worker_run RENAME first_at TO x",
        "UPDATE ops_worker_run SET first_at = 'infinity'",
        "UPDATE ops_worker_run SET first_at = '-infinity'",
        pytest.param(
            "CREATE TABLE part () INHERITS (system_metrics)", marks=pytest.mark.plain_table
        ),
    ],
)
def test_growth_of_odd_tables(
    seeded: Database, capsys: pytest.CaptureFixture[str], statement: str
) -> None:
    """Without an index for the oldest row, the table is not read.

    The command continues with odd times, odd columns and partitions.
    """
    seeded.rows(statement)
    main(["check", "--output", "json"])
    document = json.loads(capsys.readouterr().out)
    texts = {finding["subject"]: finding["found"] for finding in document["findings"]}
    assert "database" not in texts
    assert "connection" in texts
    if "INDEX" in statement or "INHERITS" in statement:
        assert "per day" not in texts["growth of system_metrics"]
    if "INHERITS" in statement:
        assert "partitioned" in texts["growth of system_metrics"]
