"""Passes under random maintenance windows: a maintenance only holds back opening alerts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from ops_worker.cli import main

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.looks import Looks

pytestmark = pytest.mark.integration

NAMES = ("a", "b", "c")
STATES = ("healthy", "down", "timeout", "http 503")
INSERT = """INSERT INTO ops_worker_maintenance_window
    (services, begins, duration_s, recurrence, zone, started_by, ended_at)
    SELECT %s::text[], now() + make_interval(mins => %s), 60 * %s, r, 'Pacific/Apia', 'kim',
        now() + make_interval(mins => %s)
    FROM (
        SELECT CASE WHEN %s THEN 'day ' || to_char(
            (now() + make_interval(mins => %s)) AT TIME ZONE 'Pacific/Apia', 'HH24:MI'
        ) ELSE '' END AS r
    ) AS t"""


def plan(database: Database, numbers: random.Random) -> set[str]:
    """Create random windows. Return the services that are under maintenance now."""
    database.rows("DELETE FROM ops_worker_maintenance_window")
    covered: set[str] = set()
    for _ in range(numbers.randint(0, 4)):
        services = numbers.choice([None, *([name] for name in NAMES), ["a", "c"], ["d"], []])
        begins = numbers.choice([-300, -90, -20, 20, 300])
        length = numbers.choice([30, 60, 120])
        ended = numbers.choice([None, None, -10, 10])
        repeats = numbers.choice([False, True])
        # A window that repeats begins a day earlier and has its next occurrence today.
        first = begins - 24 * 60 if repeats else begins
        database.rows(INSERT, services, first, length, ended, repeats, begins)
        lasts = begins <= 0 < begins + length and (ended is None or ended > 0)
        if lasts:
            covered |= set(NAMES) if services is None else set(services)
    return covered


@pytest.mark.parametrize("seed", range(4))
def test_random_windows(look: Looks, database: Database, seed: int) -> None:
    """A maintenance holds back only the opening of alerts, not probes, rows or closing."""
    numbers = random.Random(seed)
    assert main(["init-db"]) == 0
    alerted: set[str] = set()
    streaks = dict.fromkeys(NAMES, 0)
    last: dict[str, bool] = {}
    held_back = 0
    for step in range(40):
        covered = plan(database, numbers)
        states = {name: numbers.choice(STATES) for name in NAMES}
        outcome = look(60 * step, states)
        unhealthy = {name for name, state in states.items() if state != "healthy"}
        opening = unhealthy - alerted - covered
        assert set(outcome.opened) == opening, (step, covered, states)
        assert set(outcome.closed) == alerted - unhealthy, (step, covered, states)
        assert set(outcome.under_maintenance) == covered & set(NAMES), (step, covered)
        held_back += len((unhealthy - alerted) & covered)
        alerted = (alerted | opening) & unhealthy
        rows = database.health()
        for name in NAMES:
            is_healthy = name not in unhealthy
            streaks[name] = streaks[name] + 1 if last.get(name) is is_healthy else 1
            last[name] = is_healthy
            assert rows[name]["details"]["streak"] == streaks[name]
            assert (rows[name]["status"] == "healthy") is is_healthy
    assert held_back, "no maintenance held an alert back"


@pytest.mark.parametrize("at_once", [1, 3])
def test_alert_after_the_maintenance(look: Looks, database: Database, at_once: int) -> None:
    """A service that is still unhealthy at the end of its maintenance gets one alert then."""
    look.env.setenv("ALERT_AFTER_FAILURES", str(at_once))
    assert main(["init-db"]) == 0
    assert main(["maintenance", "start", "--service", "b", "--for", "1h"]) == 0
    down = {"a": "healthy", "b": "down", "c": "healthy"}
    for step in range(4):
        assert look(60 * step, down).opened == ()
    database.rows("UPDATE ops_worker_maintenance_window SET begins = now() - interval '2 hours'")
    assert look(300, down).opened == ("b",)
    assert look(360, down).opened == ()
    assert main(["maintenance", "start", "--service", "b", "--for", "1h"]) == 0
    assert look(420, down).alerted == ("b",), "an open alert stays open in a maintenance"
    assert look(480, dict.fromkeys(NAMES, "healthy")).closed == ("b",)
