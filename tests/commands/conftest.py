"""Fixtures for the tests of the commands that people run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ops_worker.cli import main
from tests.browser import chromium
from tests.seed_history import seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.conftest import Database
    from tests.stubs import Stubs


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return the Chromium of this machine, headless."""
    yield from chromium()


@pytest.fixture
def configured(database: Database, stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Return the database that the settings name. The stubs are the services."""
    for name, value in (stubs.env | {"DATABASE_URL": database.url}).items():
        monkeypatch.setenv(name, value)
    return database


@pytest.fixture
def seeded(configured: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> Database:
    """Return a database with two hours of history and a new pass of each kind.

    In the new passes the evaluator is down.
    """
    seed(configured.url, moved_clock=True)
    configured.compress()
    stubs["evaluator"].mode = "down"
    assert main(["init-db"]) == main(["health"]) == main(["metrics"]) == 0
    capsys.readouterr()
    return configured
