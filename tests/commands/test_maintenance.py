"""`ops-worker maintenance`: no alert opens during a maintenance, and everything else continues."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from ops_worker.adapters.postgres import Store, operations
from ops_worker.adapters.postgres.maintenance_reads import running_maintenance
from ops_worker.adapters.postgres.specs import LOCK_SPACE, MAINTENANCE
from ops_worker.cli import main
from ops_worker.core.passes import MAINTENANCE_LOG, MAINTENANCE_TABLE
from ops_worker.errors import SettingsError

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.integration


def test_maintenance(
    configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]
) -> None:
    """During a maintenance, states are recorded and alerts close, but no alert opens.

    Afterwards, unhealthy services get an alert.
    """
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    assert (
        main(["maintenance", "start", "--for", "30m", "--by", "kim", "--reason", "new\nswitch"])
        == 0
    )
    assert re.search(
        r"^maintenance of all services until [\d: -]+ UTC \(30 min left\), "
        r"started by kim: new switch$",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    stubs["evaluator"].mode = "down"
    stubs["ingest"].mode = "ok"
    configured.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value, tags) "
        "VALUES (now() - interval '1 hour', 'pass_success', 'ops_worker', "
        """1, '{"pass": "metrics"}')"""
    )
    assert main(["health"]) == main(["health"]) == 0
    assert re.search(r"maintenance until [\d: -]+ UTC: no alert opens", capsys.readouterr().out)
    assert [(alert["details"]["service"], alert["status"]) for alert in configured.alerts()] == [
        ("ingest", "CLOSED")
    ]
    assert (
        configured.health()["evaluator"]["status"],
        configured.health()["evaluator"]["details"]["streak"],
    ) == ("unhealthy", 2)
    assert main(["maintenance", "end"]) == 0
    assert (
        capsys.readouterr().out
        == "the maintenance has ended; no maintenance is running; alerts open\n"
    )
    assert main(["health"]) == 0
    assert {
        alert["details"]["service"] for alert in configured.alerts() if alert["status"] == "OPEN"
    } == {"evaluator", "ops_worker"}


def test_over(configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> None:
    """A maintenance ends at its time. With --replace, the last start counts."""
    assert main(["maintenance", "status"]) == main(["maintenance", "end"]) == 0
    assert capsys.readouterr().out == "no maintenance is running; alerts open\n" * 2
    assert (
        main(["maintenance", "start", "--for", "2d"])
        == main(["maintenance", "start", "--for", "1h", "--replace"])
        == 0
    )
    assert "(60 min left)" in capsys.readouterr().out.splitlines()[-1]
    configured.rows("UPDATE ops_worker_maintenance SET until = now() - interval '1 second'")
    stubs["ingest"].mode = "down"
    assert main(["health"]) == main(["maintenance", "status"]) == 0
    assert len(configured.alerts()) == 1


def test_lock_is_held(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """While another process holds the lock, a command changes nothing and fails."""
    assert main(["maintenance", "start"]) == 0
    with psycopg.connect(configured.url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_SPACE, MAINTENANCE.lock))
        assert main(["maintenance", "end"]) == main(["maintenance", "start", "--for", "1h"]) == 1
    assert "another ops-worker process holds the lock: try again" in capsys.readouterr().err
    assert configured.value("SELECT count(*) FROM ops_worker_maintenance") == 1


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    "command",
    [
        ["maintenance", "start", "--by", "\udcff"],
        ["alerts", "ack", "1", "--by", "\udcff"],
        ["explain", "\udcff"],
    ],
)
def test_not_utf8(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """Arguments that are not UTF-8 are refused before they reach the database."""
    assert main(command) == 2
    assert "it is not UTF-8" in capsys.readouterr().err


def test_table_of_another_owner(
    configured: Database, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass of another role, without a privilege on the table, opens no alert."""
    configured.rows("CREATE ROLE ops_other LOGIN PASSWORD 'x' BYPASSRLS")
    configured.rows("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO ops_other")
    configured.rows("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ops_other")
    configured.rows("GRANT CREATE ON SCHEMA public TO ops_other")
    assert main(["maintenance", "start"]) == 0
    configured.rows("REVOKE ALL ON ops_worker_maintenance FROM ops_other")
    stubs["ingest"].mode = "down"
    monkeypatch.setenv("DATABASE_URL", configured.as_user("ops_other"))
    assert main(["health"]) == main(["metrics"]) == 0
    assert configured.alerts() == []
    assert main(["maintenance", "end"]) == 3
    configured.rows("DROP OWNED BY ops_other")
    configured.rows("DROP ROLE ops_other")


def test_setting(
    configured: Database,
    stubs: Stubs,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MAINTENANCE_UNTIL has the same effect, without a row in the database.

    Its time needs a zone.
    """
    stubs["ingest"].mode = "down"
    monkeypatch.setenv("MAINTENANCE_UNTIL", (datetime.now(UTC) + timedelta(minutes=5)).isoformat())
    assert main(["health"]) == main(["metrics"]) == main(["maintenance", "status"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^MAINTENANCE_UNTIL is set: until [\d: -]+ UTC$", output, re.MULTILINE)
    assert "no maintenance" not in output
    assert main(["status"]) == 0
    assert re.search(
        r"^Maintenance: no alert opens for these services\nENDS IN .*\n"
        r"5 min +all +MAINTENANCE_UNTIL +-$",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    assert configured.alerts() == []
    monkeypatch.setenv("MAINTENANCE_UNTIL", "2020-01-01T00:00:00Z")
    assert main(["health"]) == 0
    assert len(configured.alerts()) == 1
    assert main(["maintenance", "status"]) == 0
    assert "is set: until 2020-01-01 00:00:00 UTC, which is past" in capsys.readouterr().out
    monkeypatch.setenv("MAINTENANCE_UNTIL", "2030-01-01T00:00:00")
    assert main(["health"]) == 2
    assert (
        "MAINTENANCE_UNTIL is '2030-01-01T00:00:00'; expected a time with its zone"
        in capsys.readouterr().err
    )


def start(*arguments: str) -> int:
    """Start a maintenance."""
    return main(["maintenance", "start", *arguments])


def logged(database: Database) -> list[tuple[str, str, str | None, bool]]:
    """Return the log: who started each maintenance, why, who ended it, and whether early."""
    rows = database.rows(
        "SELECT *, coalesce(ended_at < until, false) AS early "
        "FROM ops_worker_maintenance_log ORDER BY started_at"
    )
    return [(row["started_by"], row["reason"], row["ended_by"], row["early"]) for row in rows]


def test_replace(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A running maintenance is replaced only with --replace.

    Without it, the error shows the end, the person and the reason.
    """
    assert start("--for", "30m", "--by", "kim", "--reason", "new\nswitch") == 0
    before = configured.rows("SELECT * FROM ops_worker_maintenance")
    capsys.readouterr()
    others = [
        ["--by", "lee"],
        ["--by", "kim"],
        ["--by", "kim", "--reason", "new\nswitch", "--for", "31m"],
    ]
    for other in others:
        assert start(*other) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(
            r"ops-worker maintenance: another maintenance is running: "
            r"maintenance of all services until [\d: -]+ UTC \((29|30) min left\), "
            r"started by kim: new switch\. "
            r"Nothing was changed; use --replace to replace it\n",
            err,
        )
    assert configured.rows("SELECT * FROM ops_worker_maintenance") == before
    assert logged(configured) == [("kim", "new\nswitch", None, False)]
    assert start("--by", "lee", "--replace") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"replaced: maintenance of all services until [\d: -]+ UTC \((29|30) min left\), "
        r"started by kim: new switch",
        first,
    )
    assert re.fullmatch(
        r"maintenance of all services until [\d: -]+ UTC \(60 min left\), started by lee", second
    )
    assert logged(configured) == [("kim", "new\nswitch", "lee", True), ("lee", "", None, False)]


def test_same_maintenance_again(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again starts the maintenance anew, without --replace.

    A person repeats it, for example, after a lost connection.
    """
    same = ["--for", "30m", "--by", "kim", "--reason", "racks"]
    assert start(*same) == 0
    configured.rows(
        "UPDATE ops_worker_maintenance SET until = until - interval '20 minutes', "
        "started_at = started_at - interval '20 minutes'"
    )
    assert start(*same) == start(*same) == 0
    assert "replaced" not in capsys.readouterr().out
    left_s = configured.value(
        "SELECT extract(epoch FROM until - now())::float8 FROM ops_worker_maintenance"
    )
    assert 1700 < left_s <= 1800
    configured.rows("UPDATE ops_worker_maintenance SET until = now() - interval '1 second'")
    assert start("--by", "lee", "--replace") == 0
    assert "replaced" not in capsys.readouterr().out, "the maintenance had ended"


def test_two_at_once(configured: Database) -> None:
    """Of several starts at the same time, one succeeds.

    The others are refused, or find the lock held.
    """
    names = [f"person {number}" for number in range(6)]
    assert main(["init-db"]) == 0
    ready = threading.Barrier(len(names))

    def begin(name: str) -> object:
        with contextlib.closing(Store({"conninfo": configured.url})) as database:
            maintenance = operations.NewMaintenance(seconds=60.0, by=name, reason="")
            database.read(running_maintenance, optional_tables=[MAINTENANCE_TABLE])
            ready.wait(timeout=30)
            try:
                return database.write(
                    MAINTENANCE,
                    lambda transaction: (
                        operations.start(transaction, maintenance, replace=False),
                    ),
                    optional_tables=[MAINTENANCE_TABLE, MAINTENANCE_LOG],
                )
            except SettingsError as error:
                return error

    with ThreadPoolExecutor(len(names)) as pool:
        results = list(pool.map(begin, names))
    (winner,) = [name for name, result in zip(names, results, strict=True) if result == (None,)]
    assert logged(configured) == [(winner, "", None, False)]
    refusals = [str(result) for result in results if isinstance(result, SettingsError)]
    assert all(f"started by {winner}" in refusal for refusal in refusals)
    assert len(refusals) + results.count(None) == len(names) - 1


def test_history_of_others(
    configured: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A maintenance without an entry in the log gets one when it ends.

    A role that may not write the log can still start a maintenance.
    """
    assert main(["init-db"]) == 0
    configured.rows("DROP TABLE ops_worker_maintenance_log")
    configured.rows(
        "INSERT INTO ops_worker_maintenance (until, started_by, reason) "
        "VALUES (now() + interval '1 hour', 'kim', 'racks')"
    )
    assert main(["maintenance", "end", "--by", "lee"]) == 0
    configured.rows("CREATE ROLE ops_limited LOGIN PASSWORD 'x'")
    configured.rows("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    configured.rows("GRANT ALL ON ops_worker_maintenance TO ops_limited")
    with monkeypatch.context() as other:
        other.setenv("DATABASE_URL", configured.as_user("ops_limited"))
        capsys.readouterr()
        assert start("--by", "max") == 0
        assert "this is not recorded in the history" in capsys.readouterr().err
        assert main(["init-db"]) == 3
        assert main(["maintenance", "end"]) == 0
    configured.rows(
        "INSERT INTO ops_worker_maintenance (until, started_by, reason) "
        "VALUES (now() + interval '1 hour', 'kim', 'racks')"
    )
    assert main(["init-db"]) == main(["maintenance", "end", "--by", "lee"]) == 0
    assert logged(configured) == [("kim", "racks", "lee", True)]
    with monkeypatch.context() as other:
        other.setenv("DATABASE_URL", configured.as_user("ops_limited"))
        capsys.readouterr()
        assert start("--by", "max") == main(["maintenance", "end"]) == 0
        assert (
            capsys.readouterr().err.count("permission denied for table ops_worker_maintenance_log")
            == 2
        )
    assert logged(configured) == [("kim", "racks", "lee", True)]
    configured.rows("DROP OWNED BY ops_limited")
    configured.rows("DROP ROLE ops_limited")


REASON = "<b>new</b> switch"
"""A reason that must not become markup."""


@pytest.mark.usefixtures("seeded")
def test_person_and_reason_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """`explain` and `status` show the person and the reason of a running maintenance."""
    assert start("--for", "30m", "--by", "kim", "--reason", REASON) == 0
    capsys.readouterr()
    assert main(["explain", "ingest"]) == main(["status"]) == 0
    explained, status = capsys.readouterr().out.split(
        "Maintenance: no alert opens for these services"
    )
    assert re.search(
        r"^Maintenance at that time\nFROM.*\n[\d :-]+  [\d :-]+  all +kim\n  <b>new</b> switch$",
        explained,
        re.MULTILINE,
    )
    assert re.search(r"^\d+ min +all +kim +<b>new</b> switch$", status, re.MULTILINE)


@pytest.fixture
def past(seeded: Database, capsys: pytest.CaptureFixture[str]) -> Database:
    """Return a database with a maintenance from 65 to 50 minutes ago."""
    assert start("--for", "30m", "--by", "kim", "--reason", REASON) == 0
    assert main(["maintenance", "end", "--by", "lee"]) == 0
    seeded.rows(
        "UPDATE ops_worker_maintenance_log SET started_at = now() - interval '65 minutes', "
        "ended_at = now() - interval '50 minutes', until = now()"
    )
    capsys.readouterr()
    return seeded


@pytest.mark.usefixtures("past")
def test_past_maintenance_in_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """`explain` shows a past maintenance only for its own time."""
    assert main(["explain", "ingest", "--at", "55m", "--output", "json"]) == 0
    (maintenance,) = json.loads(capsys.readouterr().out)["maintenances"]
    assert (maintenance["started_by"], maintenance["reason"]) == ("kim", REASON)
    assert main(["explain", "ingest"]) == 0
    assert "Maintenance at that time" not in capsys.readouterr().out


def test_maintenance_log_in_the_report(past: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """`report` has the maintenances of its period, also with infinite times.

    Person and reason are shown literally, not as markup.
    """
    past.rows(
        "INSERT INTO ops_worker_maintenance_log (started_at, until, started_by) VALUES "
        "('2000-01-01', now() - interval '1 day', 'old'), ('-infinity', 'infinity', 'odd'), "
        "('infinity', 'infinity', 'later')"
    )
    assert main(["explain", "ingest"]) == main(["report", "-o", "-", "--since", "2h"]) == 0
    explained, page = capsys.readouterr().out.split("<!doctype html>")
    assert re.search(
        r"^Maintenance at that time\nFROM.*\n[\d :-]+  [\d :-]+  all +odd +-$",
        explained,
        re.MULTILINE,
    )
    assert re.search(
        r">kim</td>\s<td[^>]*>&lt;b&gt;new&lt;/b&gt; switch</td>\s<td[^>]*>lee</td>", page
    )
    assert '<data value="900.0">' in page
    starters = re.findall(r'data-label="Started by">(\w+)<', page)
    assert sorted(starters) == ["kim", "odd"]


def test_without_the_log(past: Database) -> None:
    """Without the log of maintenances, `report` and `explain` still work."""
    past.rows("DROP TABLE ops_worker_maintenance_log")
    assert (
        main(["report", "-o", "-", "--since", "2h"])
        == main(["explain", "ingest", "--at", "55m"])
        == 0
    )


def test_actions(configured: Database) -> None:
    """The table of actions has the people, the reason and the end of a maintenance."""
    assert start("--by", "kim", "--reason", "racks") == 0
    assert main(["maintenance", "end", "--by", "lee"]) == 0
    rows = configured.rows("SELECT * FROM ops_worker_action ORDER BY id")
    assert [(row["action"], row["by"], row["reason"]) for row in rows] == [
        ("maintenance_started", "kim", "racks"),
        ("maintenance_ended", "lee", ""),
    ]
    assert rows[0]["until"] > rows[0]["at"]
