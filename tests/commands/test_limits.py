"""The numbers that people's commands promise: how far they look back, how much they list, what they believe."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.cli import main

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = pytest.mark.integration

SAMPLES = """INSERT INTO system_metrics (time, metric_name, service, value)
             SELECT now() - ago, 'healthy', 'ingest', value FROM """


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run a command and return its document."""
    capsys.readouterr()
    assert main([*arguments, "--output", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("period_s", "age_s", "state"),
    [
        (60, 175, "healthy"),
        (60, 185, "stale"),
        (60, -50, "healthy"),
        (60, -65, "stale"),
        (300, -290, "healthy"),
        (300, -305, "stale"),
        (300, 890, "healthy"),
        (300, 905, "stale"),
        (10, 85, "healthy"),
        (10, 95, "stale"),
        (10, -15, "stale"),
        (10, -86_400, "stale"),
    ],
)
def test_state_that_is_believed(
    told: Database,
    capsys: pytest.CaptureFixture[str],
    period_s: int,
    age_s: float,
    state: str,
) -> None:
    """A check is believed up to one period in the future, and for three periods, at least 90 s, after it."""
    assert main(["init-db"]) == main(["health"]) == 0
    told.rows(
        "UPDATE service_health SET checked_at = now() - make_interval(secs => %s)"
        " WHERE service = 'ingest'",
        age_s,
    )
    told.rows(
        "UPDATE system_metrics SET tags = tags || jsonb_build_object('period_s', %s::text)"
        " WHERE service = 'ops_worker'",
        period_s,
    )
    services = {one["service"]: one for one in document(capsys, "status")["services"]}
    found = services["ingest"]
    assert (found["state"], found["stale"]) == (state, state == "stale")
    assert found["last_state"] == "healthy"


@pytest.mark.parametrize(("samples", "turns"), [(1, 1), (7, 7), (8, 8), (9, 8), (30, 8)])
def test_turns(
    told: Database, capsys: pytest.CaptureFixture[str], samples: int, turns: int
) -> None:
    """`explain` lists the last 8 ups and downs; the newest is the last one."""
    told.rows(
        SAMPLES
        + "(SELECT make_interval(mins => n) AS ago, n %% 2 AS value FROM generate_series(0, %s) AS n) AS t",
        samples - 1,
    )
    found = document(capsys, "explain", "ingest")["turns"]
    assert len(found) == turns
    assert [one["state"] for one in reversed(found)] == (["unhealthy", "healthy"] * 4)[:turns]


def test_looks_back_a_day(told: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """`explain` reads the samples of the last 24 hours, and no older ones."""
    told.rows(
        SAMPLES + "(VALUES (interval '24 hours 5 minutes', 0),"
        " (interval '23 hours 55 minutes', 1)) AS t (ago, value)"
    )
    found = document(capsys, "explain", "ingest")["turns"]
    assert [one["state"] for one in found if one["state"] != "unknown"] == ["healthy"]
    assert main(["explain", "ingest"]) == 0
    assert "previous 24 h" in capsys.readouterr().out
