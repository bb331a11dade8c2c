"""`ops-worker maintenance` with windows: of some services, planned, repeated, listed and ended."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.cli import main

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.integration

WINDOWS = "SELECT * FROM ops_worker_maintenance_window ORDER BY id"


def start(*arguments: str) -> int:
    """Start or plan a maintenance."""
    return main(["maintenance", "start", "--by", "kim", *arguments])


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the document of ``maintenance list``."""
    capsys.readouterr()
    assert main(["maintenance", "list", "--output", "json"]) == 0
    items: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return items


def alerted_services(database: Database) -> set[str]:
    """Return the services that have an open alert."""
    return {row["details"]["service"] for row in database.alerts() if row["status"] == "OPEN"}


def test_some_services(
    configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]
) -> None:
    """No alert opens for the services of a window, others get theirs, and open alerts close."""
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    assert start("--service", "ingest", "evaluator", "--service", "delivery", "--for", "30m") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"maintenance 1 of delivery_worker, evaluator, ingest until [\d: -]+ UTC \(30 min left\), "
        "started by kim",
        line,
    )
    stubs["ingest"].mode = "ok"
    for name in ("evaluator", "dispatcher"):
        stubs[name].mode = "down"
    assert main(["health"]) == 0
    closing = capsys.readouterr().out
    assert "3 under maintenance: ingest, evaluator, delivery_worker" in closing
    assert alerted_services(configured) == {"dispatcher"}
    assert [row["status"] for row in configured.alerts()] == ["CLOSED", "OPEN"]
    assert configured.health()["evaluator"]["details"]["streak"] == 1
    values = "SELECT value FROM system_metrics WHERE metric_name = 'maintenance'"
    assert {row["value"] for row in configured.rows(values)} == {0.0}, (
        "it is 1 only in a maintenance of all services"
    )
    assert main(["maintenance", "end", "1"]) == 0
    assert capsys.readouterr().out == (
        "maintenance 1 has ended; no maintenance is running; alerts open\n"
    )
    assert main(["health"]) == 0
    assert alerted_services(configured) == {"dispatcher", "evaluator"}


def test_document_of_a_pass(
    configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The document has the end for each service, which is the latest of its windows.

    The document of a dry run has it, too.
    """
    stubs["ingest"].mode = "down"
    assert start("--service", "ingest", "--for", "1h") == 0
    assert start("--service", "ingest", "evaluator", "--for", "2h") == 0
    for arguments in (["--dry-run"], []):
        capsys.readouterr()
        assert main(["health", "--output", "json", *arguments]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["maintenance_until"] is None
        assert document["alerts"]["opened"] == []
        (later,) = {row["begins"] + timedelta(hours=2) for row in configured.rows(WINDOWS)[1:]}
        ends = {
            key: datetime.fromisoformat(end) for key, end in document["under_maintenance"].items()
        }
        assert ends == {"ingest": later, "evaluator": later}


def test_the_worker_itself(configured: Database, stubs: Stubs) -> None:
    """A window of ops_worker or of all services suppresses the alert on a stopped pass."""
    assert stubs["ingest"].mode == "ok"
    configured.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value, tags) "
        "VALUES (now() - interval '1 hour', 'pass_success', 'ops_worker', "
        """1, '{"pass": "metrics"}')"""
    )
    assert start("--service", "ops_worker") == main(["health"]) == 0
    assert alerted_services(configured) == set()
    assert start("--service", "ingest") == main(["maintenance", "end", "1"]) == 0
    assert main(["health"]) == 0
    assert alerted_services(configured) == {"ops_worker"}


@pytest.mark.usefixtures("configured")
def test_times_that_cannot_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """A window cannot begin in the past, or more than ten years ahead."""
    assert start("--at", "2999-01-01T02:00") == 2
    assert "more than ten years ahead" in capsys.readouterr().err
    for time in ("2020-01-01T02:00", "2020-01-01"):
        assert start("--at", time) == 2
        assert "this time is in the past; the database's clock says" in capsys.readouterr().err


def test_planned(configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> None:
    """The time of a planned window is given in its zone, and listed in UTC.

    Before its begin, the window suppresses no alert.
    """
    stubs["ingest"].mode = "down"
    year = datetime.now(UTC).year + 1
    command = ["--at", f"{year}-07-01T02:00", "--zone", "Europe/Berlin", "--for", "2h"]
    assert start(*command, "--reason", "new\nswitch") == 0
    assert capsys.readouterr().out == (
        f"maintenance 1 of all services from {year}-07-01 00:00:00 UTC until "
        f"{year}-07-01 02:00:00 UTC, planned by kim: new switch\n"
    )
    (item,) = listed(capsys)
    assert item == {
        "id": 1,
        "state": "planned",
        "services": [],
        "from": f"{year}-07-01T00:00:00+00:00",
        "to": f"{year}-07-01T02:00:00+00:00",
        "every": "",
        "zone": "Europe/Berlin",
        "started_by": "kim",
        "reason": "new switch",
    }
    assert main(["maintenance", "status"]) == 0
    assert capsys.readouterr().out == "no maintenance is running; alerts open\n"
    assert main(["health"]) == 0
    assert alerted_services(configured) == {"ingest"}


def test_begin_and_end_of_a_planned_window(
    configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]
) -> None:
    """A planned window suppresses alerts from its begin to its end. Open alerts stay open."""
    stubs["ingest"].mode = "down"
    year = datetime.now(UTC).year + 1
    assert start("--at", f"{year}-07-01T02:00", "--zone", "Europe/Berlin", "--for", "2h") == 0
    assert main(["health"]) == 0
    stubs["evaluator"].mode = "down"
    configured.rows("UPDATE ops_worker_maintenance_window SET begins = now() - interval '1 minute'")
    assert main(["health"]) == 0
    assert alerted_services(configured) == {"ingest"}
    assert re.search(r"maintenance until [\d: -]+ UTC: no alert opens", capsys.readouterr().out)
    assert main(["status", "--output", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["maintenance"]["id"] == 1
    configured.rows("UPDATE ops_worker_maintenance_window SET begins = now() - interval '2 hours'")
    assert main(["health"]) == 0
    assert alerted_services(configured) == {"ingest", "evaluator"}
    assert main(["maintenance", "end", "1"]) == 2
    assert "maintenance 1 is neither running nor planned; none is" in capsys.readouterr().err


def test_time_of_day(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A time of day stands for its next occurrence in the zone, by the database's clock."""
    assert start("--at", "04:05", "--zone", "Asia/Kathmandu", "--service", "ingest") == 0
    (item,) = listed(capsys)
    begins = datetime.fromisoformat(item["from"])
    assert begins.strftime("%H:%M") == "22:20"  # Kathmandu is 5:45 ahead, without summer time
    now = configured.value("SELECT now()")
    assert now - timedelta(minutes=5) < begins <= now + timedelta(days=1)


def test_repeated(configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> None:
    """A repeating window suppresses alerts in its occurrences until a person ends it."""
    stubs["ingest"].mode = "down"
    now = configured.value("SELECT now()")
    weekday = f"{now - timedelta(hours=1):%A}"
    clock = f"{now - timedelta(hours=1):%H:%M}"
    every = ["--every", f"{weekday} {clock}", "--for", "2h", "--service", "ingest"]
    assert start(*every) == 0
    line = capsys.readouterr().out
    assert re.fullmatch(
        rf"maintenance 1 of ingest until [\d: -]+ UTC \(\d+ min left\), every {weekday} {clock} "
        r"UTC, started by kim\n",
        line,
    )
    assert main(["health"]) == 0
    assert alerted_services(configured) == set()
    (item,) = listed(capsys)
    assert (item["state"], item["every"], item["zone"]) == ("running", f"{weekday} {clock}", "UTC")
    assert main(["maintenance", "list"]) == 0
    table = capsys.readouterr().out
    assert re.search(rf"^1 +running +ingest +[\d: -]+ +{weekday} {clock} UTC", table, re.MULTILINE)
    day_after = f"{now + timedelta(days=1):%A} {clock}"
    configured.rows("UPDATE ops_worker_maintenance_window SET recurrence = %s", day_after)
    assert main(["health"]) == 0
    assert alerted_services(configured) == {"ingest"}
    assert main(["maintenance", "end", "1", "--by", "lee"]) == 0
    assert listed(capsys) == []
    assert main(["maintenance", "list"]) == 0
    assert "no maintenance is running or planned; alerts open" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--service", "ingst"], "--service ingst: this service is not monitored; did you mean in"),
        (["--service", "x\x1b[2J"], "--service x [2J: this service is not monitored"),
        (["--every", "Sunday 02:00", "--for", "7d"], "this maintenance begins again after 168h"),
        (["--every", "day 02:00", "--for", "24h"], "this maintenance begins again after 24h"),
        (["--every", "Sonntag 02:00"], "sonntag is not a weekday"),
        (["--every", "Sunday 02:00", "--at", "02:00"], "not allowed with argument"),
        (["--at", "25:00"], "25:00 is not a time; write 22:30"),
        (["--at", "0001-01-01T00:00", "--zone", "Asia/Tokyo"], "beyond the calendar"),
        (["--at", "02:00", "--zone", "Mars/Olympus"], "it is not a time zone of this machine"),
        (["--at", "02:00", "--zone", "../../etc/passwd"], "it is not a time zone of this machine"),
        (["--at", "02:00", "--zone", "Europe"], "it is not a time zone of this machine"),
        (["--at", "02:00", "--zone", "a" * 300], "it is not a time zone of this machine"),
        (["--zone", "Europe/Berlin"], "--zone needs --at or --every"),
        (["--service", "ingest", "--replace"], "--replace cannot be used with --service"),
    ],
)
def test_refused(
    configured: Database, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    """Invalid arguments are refused before anything is written."""
    try:
        code = start(*arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert problem in capsys.readouterr().err
    tables = configured.value("SELECT to_regclass('ops_worker_maintenance_window')::text")
    assert tables is None or configured.rows(WINDOWS) == []


@pytest.mark.parametrize("number", ["0", "99", "-1", "x", str(2**63), "9" * 5000])
def test_end_of_no_window(
    configured: Database, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    """`end` refuses an unknown number, and refers to `maintenance list`."""
    assert start("--service", "ingest") == 0
    try:
        code = main(["maintenance", "end", number])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert "maintenance list" in capsys.readouterr().err
    assert [row["ended_at"] for row in configured.rows(WINDOWS)] == [None]


def test_end_without_a_number(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """`end` ends the maintenance of all services; to end a window, it needs a number."""
    assert start("--service", "ingest") == start("--service", "evaluator") == start() == 0
    assert [item["id"] for item in listed(capsys)] == [None, 1, 2]
    assert configured.value("SELECT count(*) FROM ops_worker_maintenance") == 1
    assert main(["maintenance", "end"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the maintenance has ended; maintenance 1 of ingest until ")
    assert lines[1].startswith("maintenance 2 of evaluator until ")
    assert main(["maintenance", "end"]) == 2
    assert (
        "give the ID of another one: `ops-worker maintenance list` lists 1, 2"
        in capsys.readouterr().err
    )


def test_end_while_the_setting_lasts(
    configured: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`end` names the ended window, even if MAINTENANCE_UNTIL still suppresses alerts."""
    monkeypatch.setenv("MAINTENANCE_UNTIL", "2999-01-01T00:00:00Z")
    assert start("--service", "ingest") == main(["maintenance", "end", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    until = "2999-01-01 00:00:00 UTC"
    assert lines == ["maintenance 1 has ended", f"MAINTENANCE_UNTIL is set: until {until}"]
    assert configured.value("SELECT count(*) FROM ops_worker_maintenance_window") == 1
    (item,) = listed(capsys)
    assert (item["id"], item["started_by"]) == (None, "MAINTENANCE_UNTIL")


def test_nothing_is_replaced(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Different windows exist side by side, and beside a maintenance of all services.

    The same command again replaces its own window.
    """
    commands = [
        ["--service", "ingest"],
        ["--service", "ingest", "--reason", "racks"],
        ["--service", "evaluator"],
        ["--every", "Sunday 02:00"],
        ["--every", "Sunday 02:00", "--zone", "Europe/Berlin"],
        ["--at", f"{datetime.now(UTC).year + 1}-01-01T02:00"],
        ["--at", f"{datetime.now(UTC).year + 1}-01-02T02:00"],
    ]
    assert start("--reason", "of all") == 0
    for command in commands:
        assert start(*command) == 0
    assert "replaces" not in capsys.readouterr().out
    for command in commands:
        assert start(*command) == 0
    numbers = re.findall(r"^replaces maintenance (\d+), .*$", capsys.readouterr().out, re.MULTILINE)
    assert [*map(int, numbers)] == [1, 2, 3, 4, 5, 6, 7]
    items = listed(capsys)
    assert [item["id"] for item in items] == [None, 8, 9, 10, 11, 12, 13, 14]
    assert items[0]["reason"] == "of all"
    assert {row["ended_by"] for row in configured.rows(WINDOWS)[:7]} == {"kim"}
    configured.rows("UPDATE ops_worker_maintenance_window SET begins = begins - interval '1 day'")
    assert start(*commands[0]) == 0
    assert configured.rows(WINDOWS)[7]["ended_at"] is None, "it had ended already"


@pytest.fixture
def with_window(seeded: Database, capsys: pytest.CaptureFixture[str]) -> Database:
    """Return a database with a window of the evaluator, which began 40 minutes ago."""
    reason = "<b>new</b>\x1b[2J\nswitch"
    assert start("--service", "evaluator", "--reason", reason, "--for", "2h") == 0
    seeded.rows("UPDATE ops_worker_maintenance_window SET begins = now() - interval '40 minutes'")
    capsys.readouterr()
    return seeded


@pytest.mark.usefixtures("with_window")
def test_person_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """`status`, `explain` and `history` show a window of their services, person and reason."""
    assert main(["status"]) == 0
    row = r"evaluator +kim(?: +|\n +)<b>new</b> \[2J switch$"
    assert re.search(rf"^(79|80) min +{row}", capsys.readouterr().out, re.MULTILINE)
    for arguments in (["explain", "evaluator"], ["history", "evaluator"], ["history"]):
        assert main(arguments) == 0
        assert re.search(rf"^[\d :-]+  [\d :-]+  {row}", capsys.readouterr().out, re.MULTILINE)
    for arguments in (["explain", "ingest"], ["history", "ingest"]):
        assert main(arguments) == 0
        assert "evaluator  kim" not in capsys.readouterr().out


def test_ended_window(with_window: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """The actions, `history` and `report` have the people who started and ended a window."""
    assert main(["maintenance", "end", "1", "--by", "lee"]) == 0
    actions = with_window.rows("SELECT * FROM ops_worker_action ORDER BY id")
    assert [(action["action"], action["services"], action["by"]) for action in actions] == [
        ("maintenance_started", ["evaluator"], "kim"),
        ("maintenance_ended", ["evaluator"], "lee"),
    ]
    capsys.readouterr()
    assert main(["history", "evaluator", "--output", "json"]) == 0
    (maintenance,) = json.loads(capsys.readouterr().out)["maintenances"]
    assert (maintenance["services"], maintenance["started_by"]) == (["evaluator"], "kim")
    assert main(["report", "-o", "-", "--since", "2h"]) == 0
    page = capsys.readouterr().out
    assert re.search(
        r'data-label="Services">evaluator</td>\s<td[^>]*>kim</td>\s'
        r"<td[^>]*>&lt;b&gt;new&lt;/b&gt; \[2J switch</td>\s<td[^>]*>lee</td>",
        page,
    )
    assert "lee</b> ended the maintenance of evaluator" in page


def test_why_no_alert(
    configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]
) -> None:
    """`explain` shows the end of the window of an unhealthy service.

    It says nothing about windows for other services.
    """
    stubs["evaluator"].mode = "down"
    assert main(["init-db"]) == start("--service", "evaluator") == main(["health"]) == 0
    capsys.readouterr()
    (until,) = [row["begins"] + timedelta(hours=1) for row in configured.rows(WINDOWS)]
    assert main(["explain", "evaluator", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["alert"] == (
        f"no alert is open: there is maintenance until {until:%Y-%m-%d %H:%M:%S}"
    )
    assert main(["maintenance", "end", "1"]) == 0
    capsys.readouterr()
    assert main(["explain", "evaluator", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["alert"] == (
        "no alert is open: it opens with the next health pass that finds it so"
    )


ODD = """INSERT INTO ops_worker_maintenance_window
    (services, begins, duration_s, recurrence, zone, started_by, ended_at) VALUES
    (NULL, 'infinity', 60, '', 'UTC', 'x', NULL),
    (NULL, '-infinity', 60, '', 'UTC', 'x', 'infinity'),
    (NULL, now(), 'NaN', '', 'UTC', 'x', NULL),
    (NULL, now(), '-Infinity', '', 'UTC', 'x', '-infinity'),
    (NULL, now(), 'Infinity', 'day 00:00', 'UTC', 'x', NULL),
    ('{}', now(), 3600, '', 'UTC', 'x', NULL),
    ('{NULL}', now(), 3600, '', 'UTC', 'x', NULL),
    (NULL, '-infinity', 3600, 'at noon', 'UTC', 'x', NULL),
    (NULL, '-infinity', 3600, 'day 00:00', E'Mars\n', 'x', NULL),
    ('{{evaluator,dispatcher},{NULL,""}}', now(), 3e8, 'day 00:00', 'UTC', 'x', NULL)"""


def test_odd_rows(seeded: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> None:
    """Each odd row is one warning, and no pass and no reader fails."""
    seeded.rows("DELETE FROM fleet_alert WHERE tenant_id = '__system__'")
    seeded.rows(ODD)
    for name in ("ingest", "evaluator"):
        stubs[name].mode = "down"
    assert main(["health", "--output", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["alerts"]["opened"] == ["ingest"], "no other odd window is of all services"
    assert [re.sub(r"(window) \d+", r"\1 N", warning) for warning in document["warnings"]] == [
        "maintenance window N is left out: it is not a recurrence such as 'Sunday 02:00', "
        "'Mon,Thu 22:30' or 'day 03:00'",
        "maintenance window N is left out: it is not a time zone of this machine; write for "
        "example Europe/Berlin",
    ]
    for command in (
        ["metrics"],
        ["status"],
        ["explain", "evaluator"],
        ["history"],
        ["report", "-o", "-"],
        ["maintenance", "list"],
        ["maintenance", "status"],
    ):
        assert main(command) == 0, command
    capsys.readouterr()
    assert main(["maintenance", "list"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("a maintenance window cannot be read") == 2
    assert re.search(r"^\d+ +running +evaluator, dis", captured.out, re.MULTILINE)
    broken = "SELECT id FROM ops_worker_maintenance_window WHERE recurrence = 'at noon'"
    number = str(seeded.value(broken))
    assert main(["maintenance", "end", number]) == 0, "a window that cannot be read can be ended"


def test_windows_that_cannot_be_read(
    configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of another shape is a warning; a maintenance of all services still works."""
    stubs["ingest"].mode = "down"
    assert start("--service", "ingest") == main(["maintenance", "start"]) == 0
    configured.rows("ALTER TABLE ops_worker_maintenance_window RENAME COLUMN begins TO begun")
    capsys.readouterr()
    assert main(["health", "--output", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["alerts"]["opened"] == []
    assert document["warnings"] == [
        "no maintenance window could be read, so that alerts open: column w.begins does not exist"
    ]


def test_role_without_create(
    configured: Database,
    stubs: Stubs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If the table cannot be created, a maintenance of all services still works."""
    stubs["ingest"].mode = "down"
    assert main(["init-db"]) == 0
    configured.rows("DROP TABLE ops_worker_maintenance_window")
    configured.rows("CREATE ROLE ops_narrow LOGIN PASSWORD 'x' BYPASSRLS")
    configured.rows("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    configured.rows(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ops_narrow"
    )
    with monkeypatch.context() as narrow:
        narrow.setenv("DATABASE_URL", configured.as_user("ops_narrow"))
        capsys.readouterr()
        assert start("--service", "ingest") == 3
        assert "permission denied for schema public" in capsys.readouterr().err
        assert start() == main(["health"]) == main(["maintenance", "list"]) == 0
        assert capsys.readouterr().err == ""
        assert configured.alerts() == []
        assert main(["maintenance", "end"]) == 0
    configured.rows("DROP OWNED BY ops_narrow; DROP ROLE ops_narrow")


def test_a_release_before_windows(configured: Database, stubs: Stubs) -> None:
    """The row that an older release writes is a maintenance of all services."""
    stubs["ingest"].mode = "down"
    assert main(["init-db"]) == start("--service", "evaluator") == 0
    assert configured.rows("SELECT * FROM ops_worker_maintenance") == []
    configured.rows(
        "INSERT INTO ops_worker_maintenance (until, started_by, reason) "
        "VALUES (now() + interval '1 hour', 'old', 'by an older release')"
    )
    assert main(["health"]) == 0
    assert configured.alerts() == []
    configured.rows("DELETE FROM ops_worker_maintenance")
    assert main(["health"]) == 0
    assert alerted_services(configured) == {"ingest"}
    assert start() == 0
    assert configured.value("SELECT count(*) FROM ops_worker_maintenance WHERE until > now()") == 1


def test_planned_time_in_the_report(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Unhealthy time in windows of the same service is planned time."""
    assert start("--service", "evaluator", "--for", "1h") == 0
    seeded.rows(
        "UPDATE ops_worker_maintenance_window SET begins = begins - interval '1 hour', "
        "recurrence = 'day ' || to_char(now() - interval '2 hours', 'HH24:MI'), duration_s = 10800"
    )
    capsys.readouterr()
    assert main(["report", "-o", "-", "--since", "2h"]) == 0
    page = capsys.readouterr().out
    services = re.findall(r'data-service="(\w+)"(.*?)</li>', page, re.DOTALL)
    planned = {name for name, part in services if "Of it in maintenance" in part}
    unhealthy = {name for name, part in services if "Unhealthy in all" in part}
    assert planned == {"evaluator"}
    assert planned <= unhealthy
    assert "Maintenance of evaluator until" in page.replace("\n", " ")
    assert "Maintenance of all services" not in page
