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
    """The Chromium of this machine, headless."""
    yield from chromium()


@pytest.fixture
def told(database: Database, stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database that the settings name; the stubs are the services."""
    for name, value in (stubs.env | {"DATABASE_URL": database.url}).items():
        monkeypatch.setenv(name, value)
    return database


@pytest.fixture
def looked(told: Database, stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> Database:
    """A database with two hours of history and a fresh pass of each kind.

    In the newest passes the evaluator is down.
    """
    seed(told.url, moved_clock=True)
    told.compress()
    stubs["evaluator"].mode = "down"
    assert main(["init-db"]) == main(["health"]) == main(["metrics"]) == 0
    capsys.readouterr()
    return told
