"""The registry of passes: what other programs rely on, written down."""

from __future__ import annotations

import pytest

from ops_worker.core.passes import PASSES, commands, container_commands, expected, peers

pytestmark = pytest.mark.unit


def test_order() -> None:
    """The order is that of the help."""
    assert list(PASSES) == ["health", "metrics", "rollup"]


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("health", ("metrics", "rollup")),
        ("metrics", ("health", "rollup")),
        ("rollup", ("health", "metrics")),
    ],
)
def test_peers(name: str, others: tuple[str, ...]) -> None:
    """Each pass watches all others and not itself."""
    assert peers(name) == others


def test_commands() -> None:
    """Containers run the passes, the sidecar and init-db."""
    assert commands() == ("health", "metrics", "rollup", "sidecar")
    assert container_commands() == ("health", "metrics", "rollup", "sidecar", "init-db")


def test_locks() -> None:
    """Locks never change: old and new releases of a pass exclude each other during a rollout."""
    locks = {name: spec.transaction.lock for name, spec in PASSES.items()}
    assert locks == {"health": 1, "metrics": 2, "rollup": 3}


def test_tables() -> None:
    """A pass refuses to run without its tables. Only the health pass creates a table."""
    tables = {
        name: (spec.transaction.required_tables, spec.transaction.creates)
        for name, spec in PASSES.items()
    }
    assert tables == {
        "health": (("fleet_alert", "tenants"), "service_health"),
        "metrics": (("system_metrics",), ""),
        "rollup": (("system_metrics",), ""),
    }


def test_markers() -> None:
    """The marker of a pass is a metric that only this pass writes, or that every pass writes."""
    assert {name: spec.marker for name, spec in PASSES.items()} == {
        "health": "maintenance",
        "metrics": "pass_success",
        "rollup": "rollup_behind_s",
    }


def test_expected() -> None:
    """An installation may omit the rollup pass. No other pass is optional."""
    assert expected() == {"health", "metrics"}


def test_flush() -> None:
    """While the database is away, only samples are kept. An old state of a service has no use."""
    assert {name for name, spec in PASSES.items() if spec.flush} == {"metrics"}


@pytest.mark.parametrize("name", PASSES)
def test_names_agree(name: str) -> None:
    """The registry has each pass under its own name."""
    assert PASSES[name].name == name
