"""Installations as processes: passes of two installations run at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.looks import passes_in_ledger

if TYPE_CHECKING:
    from tests.conftest import Database, Worker
    from tests.stubs import Stubs

pytestmark = pytest.mark.acceptance

OWN = {"DISPATCHER_HEALTH_URL": "", "DELIVERY_HEALTH_URL": ""}
"""The services of the default installation: ingest and evaluator."""
OTHER = {"INSTALLATION": "b", "INGEST_HEALTH_URL": "", "EVALUATOR_HEALTH_URL": ""}
"""The services of the other one: dispatcher and delivery_worker."""


def test_first_runs_at_once(worker: Worker, database: Database, stubs: Stubs) -> None:
    """The first passes of two installations, all at once, create the tables and skip nothing."""
    stubs["ingest"].mode = stubs["dispatcher"].mode = "down"
    running = [
        worker.start(command, **env) for env in (OWN, OTHER) for command in ("health", "metrics")
    ]
    done = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, done
    assert not any("skipped" in out for out, _ in done)
    assert {
        name: row["details"].get("installation") for name, row in database.health().items()
    } == {
        "ingest": None,
        "evaluator": None,
        "dispatcher": "b",
        "delivery_worker": "b",
    }
    assert {alert["fingerprint"] for alert in database.alerts()} == {
        "system-health:ingest",
        "system-health:dispatcher",
    }
    assert passes_in_ledger(database) == 4


def test_same_services(worker: Worker, database: Database, stubs: Stubs) -> None:
    """The second installation of a service reports the first one and changes no row of it."""
    stubs["ingest"].mode = "down"
    assert worker("health").returncode == 0
    before = (database.health(), database.alerts())
    stubs["ingest"].mode = "ok"
    done = worker("health", INSTALLATION="b")
    assert done.returncode == 0
    assert "installation ops-worker watches the same services" in done.stderr
    assert (database.health(), database.alerts()) == before


def test_no_such_name(worker: Worker) -> None:
    """An invalid name ends with exit code 2."""
    done = worker("health", INSTALLATION="a b")
    assert done.returncode == 2
    assert "INSTALLATION is 'a b'; expected 1 to 63 letters" in done.stderr
