"""What the tests of people's commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.stubs import Stubs


@pytest.fixture
def told(database: Database, stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database that the settings name, with the stubs as the services."""
    for name, value in (stubs.env | {"DATABASE_URL": database.url}).items():
        monkeypatch.setenv(name, value)
    return database
