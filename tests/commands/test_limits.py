"""The documented limits of the commands of people: periods, numbers of rows, ages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.cli import main

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = pytest.mark.integration


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run a command and return its document."""
    capsys.readouterr()
    assert main([*arguments, "--output", "json"]) == 0
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return parsed


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
    configured: Database,
    capsys: pytest.CaptureFixture[str],
    period_s: int,
    age_s: float,
    state: str,
) -> None:
    """A check is believed up to an age of three periods, and up to one period in the future.

    Three periods count as at least 90 s.
    """
    assert main(["init-db"]) == main(["health"]) == 0
    configured.rows(
        "UPDATE service_health SET checked_at = now() - make_interval(secs => %s)"
        " WHERE service = 'ingest'",
        age_s,
    )
    configured.rows(
        "UPDATE system_metrics SET tags = tags || jsonb_build_object('period_s', %s::text)"
        " WHERE service = 'ops_worker'",
        period_s,
    )
    services = {row["service"]: row for row in document(capsys, "status")["services"]}
    service = services["ingest"]
    assert (service["state"], service["stale"]) == (state, state == "stale")
    assert service["last_state"] == "healthy"


@pytest.mark.parametrize(("spans", "turns"), [(1, 2), (6, 7), (7, 8), (8, 8), (50, 8)])
def test_turns(
    configured: Database, capsys: pytest.CaptureFixture[str], spans: int, turns: int
) -> None:
    """`explain` lists the last 8 changes of any age; the newest comes last."""
    assert main(["init-db"]) == 0
    begun = "now() - interval '2 years'"
    configured.rows(
        "INSERT INTO ops_worker_run (id, pass, period_s, first_at, last_at, passes) VALUES "
        f"(1, 'health', 60, {begun}, {begun} + interval '1 day', 1441)"
    )
    configured.rows(
        "INSERT INTO ops_worker_span (pass, service, state, first_at, first_no, run, last_at, "
        "last_no, last_run) SELECT 'health', 'ingest', "
        "CASE n % 2 WHEN 0 THEN 'healthy' ELSE 'down' END, "
        f"{begun} + make_interval(mins => 10 * n), 10 * n + 1, 1, "
        f"{begun} + make_interval(mins => 10 * n + 9), 10 * n + 10, 1 "
        f"FROM generate_series(0, {spans - 1}) AS n"
    )
    changes = document(capsys, "explain", "ingest", "--at", "729d")["turns"]
    # No pass ran after the last span.
    states = ["healthy", "down"] * spans
    assert [change["state"] for change in changes] == [*states[:spans], "unknown"][-turns:]
    assert [change["seen"] for change in changes][-1] is False
    assert changes[-2]["seconds"] == 600
