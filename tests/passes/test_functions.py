"""The functions of a pass are found by its name in the registry."""

from __future__ import annotations

import pytest

from ops_worker.core.passes import PASSES
from ops_worker.passes import flush_of, function_of, health, metrics

pytestmark = pytest.mark.unit


def test_function_of() -> None:
    """Each pass of the registry has its function."""
    assert function_of("health") is health.run
    assert all(callable(function_of(name)) for name in PASSES)


def test_flush_of() -> None:
    """Only a pass that keeps samples while the database is away has a flush function."""
    assert flush_of("metrics") is metrics.flush
    assert flush_of("health") is None
