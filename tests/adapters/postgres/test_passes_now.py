"""The cost of the search for a pass that never ran, beside a busy installation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ops_worker.adapters.postgres.pass_writes import WATCH_ROWS, last_seen_parameters
from ops_worker.adapters.postgres.transaction import SQL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

pytestmark = pytest.mark.integration

NEIGHBOUR = """
INSERT INTO system_metrics (time, metric_name, service, tags, value)
SELECT now() - number * interval '5 s', 'pass_success', 'ops_worker',
    '{"pass": "metrics", "period_s": "5", "installation": "east"}', 1
FROM generate_series(1, 5000) AS number;
INSERT INTO system_metrics (time, metric_name, service, tags, value)
SELECT now() - interval '1 day', metric, 'ops_worker', '{"pass": "health", "period_s": "60"}', 1
FROM unnest(ARRAY['pass_success', 'maintenance']) AS metric
"""
"""The metrics passes of another installation, and one health pass of this one, a day ago."""
ALL_ROWS = 1000
"""Rows of all installations to which these tests limit the statement."""


def test_never_recorded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for a pass that never ran does not read all rows of another installation."""
    database.rows(NEIGHBOUR)
    database.rows("ANALYZE system_metrics")
    monkeypatch.setattr("ops_worker.adapters.postgres.pass_writes.ALL_ROWS", ALL_ROWS)
    parameters = last_seen_parameters(datetime.now(UTC), WATCH_ROWS // ALL_ROWS)
    with psycopg.connect(database.url) as connection:
        rows = connection.execute(SQL["passes_now"], parameters).fetchall()
        plan = connection.execute(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {SQL['passes_now']}".encode(), parameters
        ).fetchone()
    assert [row[0] for row in rows] == ["health"]
    assert plan is not None
    rows_read = sum(
        node["Actual Loops"] * node["Actual Rows"]
        for node in nodes(plan[0][0]["Plan"])
        if node.get("Relation Name") == "system_metrics"
    )
    assert ALL_ROWS <= rows_read < 2 * ALL_ROWS


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every node of a plan."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def test_limits() -> None:
    """A pass reads more rows of all installations than of its own. A command reads as many."""
    now = datetime.now(UTC)
    watch = last_seen_parameters(now, WATCH_ROWS)
    assert watch["all_rows"] > watch["rows"] == WATCH_ROWS
    command = last_seen_parameters(now, 1_000_000)
    assert command["all_rows"] == command["rows"] == 1_000_000
