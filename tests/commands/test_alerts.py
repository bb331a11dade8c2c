"""`ops-worker alerts` handles system alerts, never the alerts of tenants."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ops_worker.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.integration


@pytest.fixture
def with_alerts(configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> Database:
    """Return a database in which the evaluator and the dispatcher have an open alert."""
    stubs["evaluator"].mode = stubs["dispatcher"].mode = "down"
    assert main(["health"]) == 0
    capsys.readouterr()
    return configured


def numbers(database: Database) -> dict[str, int]:
    """Return the ID of each service's alert."""
    return {alert["details"]["service"]: alert["id"] for alert in database.alerts()}


def test_list(with_alerts: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Open and acknowledged system alerts are listed; --all adds the closed ones."""
    assert main(["alerts", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[2].split()[1:3] == ["evaluator", "OPEN"]
    assert lines[3].startswith("  Service unhealthy: evaluator (")
    with_alerts.rows(
        "UPDATE fleet_alert SET status = 'CLOSED', closed_at = now() WHERE tenant_id = '__system__'"
    )
    assert main(["alerts", "list"]) == 0
    assert capsys.readouterr().out == "no alert is open\n"
    assert main(["alerts", "list", "--all", "--output", "json"]) == 0
    alerts = json.loads(capsys.readouterr().out)
    assert [(alert["service"], alert["status"]) for alert in alerts] == [
        ("evaluator", "CLOSED"),
        ("dispatcher", "CLOSED"),
    ]


def test_acknowledge(
    with_alerts: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row gets the person and the time, and a second acknowledgement is refused.

    The alert closes when the service recovers.
    """
    number = numbers(with_alerts)["evaluator"]
    assert main(["alerts", "ack", str(number), "--by", "kim"]) == 0
    assert capsys.readouterr().out == f"alert {number} of evaluator is acknowledged by kim\n"
    row = next(alert for alert in with_alerts.alerts() if alert["id"] == number)
    assert (row["status"], row["acknowledged_by"]) == ("ACKNOWLEDGED", "kim")
    assert row["acknowledged_at"] is not None
    assert main(["alerts", "ack", str(number)]) == 2
    assert (
        capsys.readouterr().err
        == f"ops-worker alerts: alert {number} is ACKNOWLEDGED by kim already\n"
    )
    stubs["evaluator"].mode = "ok"
    assert main(["health"]) == 0
    assert (
        next(alert for alert in with_alerts.alerts() if alert["id"] == number)["status"] == "CLOSED"
    )


def test_close(with_alerts: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """`alerts close` changes a row in the same way as a recovery.

    The next pass opens a new alert if the service is still unhealthy.
    """
    number = numbers(with_alerts)["evaluator"]
    assert main(["alerts", "close", str(number)]) == 0
    row = next(alert for alert in with_alerts.alerts() if alert["id"] == number)
    assert row["status"] == "CLOSED"
    assert row["closed_at"] is not None
    assert "resolved_at" in row["details"]
    assert main(["alerts", "close", str(number)]) == 2
    assert f"alert {number} is CLOSED already" in capsys.readouterr().err
    assert main(["health"]) == 0
    assert numbers(with_alerts)["evaluator"] > number


@pytest.mark.parametrize("number", ["999999", "0", "x", "-1", "9" * 30, "\u0661"])
def test_unknown(with_alerts: Database, capsys: pytest.CaptureFixture[str], number: str) -> None:
    """A missing alert and an alert of a tenant are refused, and nothing changes."""
    before = with_alerts.rows("SELECT * FROM fleet_alert ORDER BY id")
    tenants = with_alerts.value("SELECT min(id) FROM fleet_alert WHERE tenant_id <> '__system__'")
    for argument in (number, str(tenants)):
        assert main(["alerts", "ack", argument]) == main(["alerts", "close", argument]) == 2
    assert f"there is no system alert {tenants}; open alerts: " in capsys.readouterr().err
    assert with_alerts.rows("SELECT * FROM fleet_alert ORDER BY id") == before


def test_prune(
    with_alerts: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`alerts prune` removes state rows and alerts of services that are no longer monitored.

    With --dry-run it only lists them.
    """
    assert main(["alerts", "prune"]) == 0
    assert capsys.readouterr().out == "alerts prune: 0 services were removed\n"
    monkeypatch.setenv("EVALUATOR_HEALTH_URL", "")
    monkeypatch.setenv("INGEST_HEALTH_URL", "")
    before = (with_alerts.health(), with_alerts.alerts())
    assert main(["alerts", "prune", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("would remove evaluator: row of ")
    assert lines[0].endswith(f", alert {numbers(with_alerts)['evaluator']} closed")
    assert lines[1].startswith("would remove ingest: row of ")
    assert lines[2] == "alerts prune: 2 services would be removed"
    assert (with_alerts.health(), with_alerts.alerts()) == before
    assert main(["alerts", "prune"]) == 0
    assert capsys.readouterr().out.endswith("alerts prune: 2 services were removed\n")
    assert sorted(with_alerts.health()) == ["delivery_worker", "dispatcher"]
    assert {alert["details"]["service"]: alert["status"] for alert in with_alerts.alerts()} == {
        "evaluator": "CLOSED",
        "dispatcher": "OPEN",
    }


def test_prune_alert_of_the_worker(
    with_alerts: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`alerts prune` closes the worker's own alert only if no pass can close it."""
    assert main(["alerts", "close", str(numbers(with_alerts)["evaluator"])]) == 0
    with_alerts.rows(
        "UPDATE fleet_alert SET fingerprint = 'system-health:ops_worker' "
        "WHERE status = 'OPEN' AND tenant_id = '__system__'"
    )
    capsys.readouterr()
    assert main(["alerts", "prune", "--dry-run"]) == 0
    assert capsys.readouterr().out == "alerts prune: 0 services would be removed\n", (
        "the passes close the worker's own alert"
    )
    monkeypatch.setenv("RECORD_OWN_METRICS", "off")
    with_alerts.rows("DROP TABLE service_health CASCADE")
    assert main(["alerts", "prune", "--dry-run"]) == main(["alerts", "prune"]) == 0
    out = capsys.readouterr().out
    assert "alerts prune: 1 service would be removed\n" in out
    assert out.endswith("alerts prune: 1 service was removed\n")
    assert {alert["status"] for alert in with_alerts.alerts()} == {"CLOSED"}


def test_prune_with_other_settings(
    with_alerts: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`alerts prune` is refused if no monitored service was ever recorded.

    Rows older than a week do not count, and a catalogue without services is allowed.
    """
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text('builtin = false\n[services.shop]\nurl = "http://shop:8080"\n')
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(catalogue))
    before = (with_alerts.health(), with_alerts.alerts())
    for options in ([], ["--dry-run"]):
        assert main(["alerts", "prune", *options]) == 2
        assert (
            "none of the monitored services (shop) was ever recorded, but passes recorded "
            "delivery_worker, dispatcher, evaluator, ingest lately: run this command with the "
            "catalogue and the INSTALLATION of these passes, on Kubernetes by `ops-worker trigger "
            "--args 'alerts prune' --wait`"
        ) in capsys.readouterr().err
    assert (with_alerts.health(), with_alerts.alerts()) == before
    with_alerts.rows("UPDATE service_health SET checked_at = checked_at - interval '8 days'")
    assert main(["alerts", "prune", "--dry-run"]) == 0
    with_alerts.rows("UPDATE service_health SET checked_at = now()")
    catalogue.write_text("builtin = false\n")
    assert main(["alerts", "prune"]) == 0
    assert capsys.readouterr().out.endswith("alerts prune: 4 services were removed\n")


def actions(database: Database) -> list[tuple[object, ...]]:
    """Return the actions of people in order: action, person, reason, services."""
    rows = database.rows("SELECT * FROM ops_worker_action ORDER BY id")
    return [(row["action"], row["by"], row["reason"], row["services"]) for row in rows]


def test_actions(with_alerts: Database) -> None:
    """Acknowledging, closing and pruning are recorded with person, time and reason."""
    alerts = numbers(with_alerts)
    number = str(alerts["evaluator"])
    assert main(["alerts", "ack", number, "--by", "kim", "--reason", "on it"]) == 0
    assert main(["alerts", "close", number, "--by", "lee", "--reason", "a false alarm"]) == 0
    assert actions(with_alerts) == [
        ("acknowledged", "kim", "on it", ["evaluator"]),
        ("closed", "lee", "a false alarm", ["evaluator"]),
    ]
    assert with_alerts.value("SELECT count(*) FROM ops_worker_action WHERE alert = %s", number) == 2


def test_pruned_history_ends(with_alerts: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history of a pruned service ends with the last pass.

    The next pass reads the ledger again.
    """
    open_spans = "SELECT service FROM ops_worker_span WHERE last_at IS NULL ORDER BY 1"
    monkeypatch.setenv("INGEST_HEALTH_URL", "")
    assert main(["alerts", "prune", "--by", "kim"]) == 0
    assert [row["service"] for row in with_alerts.rows(open_spans)] == [
        "delivery_worker",
        "dispatcher",
        "evaluator",
    ]
    assert actions(with_alerts) == [("pruned", "kim", "", ["ingest"])]
    ends = (
        "SELECT s.last_at = r.last_at AND s.last_no = r.passes AND r.digest = '' "
        "FROM ops_worker_span AS s JOIN ops_worker_run AS r ON r.id = s.last_run"
    )
    assert with_alerts.value(ends) is True


def test_actions_without_their_table(
    with_alerts: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role that may not write the table of actions can still act.

    A log line says that the action was not recorded.
    """
    with_alerts.rows("CREATE ROLE ops_limited LOGIN BYPASSRLS PASSWORD 'x'")
    with_alerts.rows("GRANT ALL ON fleet_alert TO ops_limited")
    with_alerts.rows("GRANT SELECT ON ops_worker_action TO ops_limited")
    monkeypatch.setenv("DATABASE_URL", with_alerts.as_user("ops_limited"))
    try:
        assert main(["alerts", "close", str(numbers(with_alerts)["evaluator"])]) == 0
        assert "permission denied for table ops_worker_action" in capsys.readouterr().err
    finally:
        with_alerts.rows("DROP OWNED BY ops_limited")
        with_alerts.rows("DROP ROLE ops_limited")
    assert actions(with_alerts) == []
