"""`ops-worker maintenance`: while it lasts no alert opens, and everything else goes on."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from ops_worker.cli import main
from ops_worker.edges.store.purposes import LOCK_SPACE, MAINTENANCE

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.integration


def test_maintenance(told: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> None:
    """States are recorded, alerts close, none opens; when it is over, what is still unhealthy has its alert."""
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    assert main(["maintenance", "start", "--for", "30m", "--by", "kim", "--reason", "new\nswitch"]) == 0
    assert re.search(r"^maintenance until [\d: -]+ UTC \(30 min left\), started by kim: new switch$", capsys.readouterr().out, re.MULTILINE)
    stubs["evaluator"].mode = "down"
    stubs["ingest"].mode = "ok"
    told.rows("INSERT INTO system_metrics (time, metric_name, service, value, tags) "
              """VALUES (now() - interval '1 hour', 'pass_success', 'ops_worker', 1, '{"pass": "metrics"}')""")  # fmt: skip
    assert main(["health"]) == main(["health"]) == 0
    assert re.search(r"maintenance until [\d: -]+ UTC: no alert opens", capsys.readouterr().out)
    assert [(alert["details"]["service"], alert["status"]) for alert in told.alerts()] == [("ingest", "CLOSED")]
    assert (told.health()["evaluator"]["status"], told.health()["evaluator"]["details"]["streak"]) == ("unhealthy", 2)
    assert main(["maintenance", "end"]) == 0
    assert capsys.readouterr().out == "the maintenance is over; no maintenance: what is unhealthy has an alert\n"
    assert main(["health"]) == 0
    assert {alert["details"]["service"] for alert in told.alerts() if alert["status"] == "OPEN"} == {"evaluator", "ops_worker"}


def test_over(told: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> None:
    """One whose time is over is none; a second start has the last word."""
    assert main(["maintenance", "status"]) == main(["maintenance", "end"]) == 0
    assert capsys.readouterr().out == "no maintenance: what is unhealthy has an alert\n" * 2
    assert main(["maintenance", "start", "--for", "2d"]) == main(["maintenance", "start", "--for", "1h"]) == 0
    assert "(60 min left)" in capsys.readouterr().out.splitlines()[-1]
    told.rows("UPDATE ops_worker_maintenance SET until = now() - interval '1 second'")
    stubs["ingest"].mode = "down"
    assert main(["health"]) == main(["maintenance", "status"]) == 0
    assert len(told.alerts()) == 1


def test_somebody_else_is_at_it(told: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """What could not be done for somebody else's being at it, is no success."""
    assert main(["maintenance", "start"]) == 0
    with psycopg.connect(told.url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_SPACE, MAINTENANCE.lock))
        assert main(["maintenance", "end"]) == main(["maintenance", "start", "--for", "1h"]) == 1
    assert "another one is at it at this moment: try again" in capsys.readouterr().err
    assert told.value("SELECT count(*) FROM ops_worker_maintenance") == 1


@pytest.mark.parametrize(
    "command", [["maintenance", "start", "--by", "\udcff"], ["alerts", "ack", "1", "--by", "\udcff"], ["explain", "\udcff"]]
)
def test_no_text(told: Database, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """Bytes that are no UTF-8 are refused before the database would."""
    assert told.url and main(command) == 2
    assert "it is not UTF-8" in capsys.readouterr().err


def test_made_by_somebody_else(told: Database, stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of a role that has no right to the table but to read it is quiet as well."""
    told.rows("CREATE ROLE ops_other LOGIN PASSWORD 'x' BYPASSRLS")
    told.rows("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO ops_other")
    told.rows("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ops_other")
    told.rows("GRANT CREATE ON SCHEMA public TO ops_other")
    assert main(["maintenance", "start"]) == 0
    told.rows("REVOKE ALL ON ops_worker_maintenance FROM ops_other")
    stubs["ingest"].mode = "down"
    monkeypatch.setenv("DATABASE_URL", told.as_user("ops_other"))
    assert main(["health"]) == main(["metrics"]) == 0
    assert told.alerts() == []
    assert main(["maintenance", "end"]) == 3
    told.rows("DROP OWNED BY ops_other")
    told.rows("DROP ROLE ops_other")


def test_setting(told: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """MAINTENANCE_UNTIL does the same without a word in the database, while it lies ahead; it wants a zone."""
    stubs["ingest"].mode = "down"
    monkeypatch.setenv("MAINTENANCE_UNTIL", (datetime.now(UTC) + timedelta(minutes=5)).isoformat())
    assert main(["health"]) == main(["metrics"]) == main(["maintenance", "status"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^MAINTENANCE_UNTIL, where it is set, says until [\d: -]+ UTC$", said, re.MULTILINE) and "no maintenance" not in said
    assert main(["status"]) == 0
    assert re.search(r"^Maintenance: no alert opens\nENDS IN .*\n5 min +MAINTENANCE_UNTIL +-$", capsys.readouterr().out, re.MULTILINE)
    assert told.alerts() == []
    monkeypatch.setenv("MAINTENANCE_UNTIL", "2020-01-01T00:00:00Z")
    assert main(["health"]) == 0
    assert len(told.alerts()) == 1
    assert main(["maintenance", "status"]) == 0
    assert "says until 2020-01-01 00:00:00 UTC, which is past" in capsys.readouterr().out
    monkeypatch.setenv("MAINTENANCE_UNTIL", "2030-01-01T00:00:00")
    assert main(["health"]) == 2
    assert "MAINTENANCE_UNTIL is '2030-01-01T00:00:00', but wants a time with its zone" in capsys.readouterr().err
