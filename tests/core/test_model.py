"""The values of the core, and what their properties return."""

from __future__ import annotations

import pytest

from ops_worker.core.model import Outcome, Result, State, Target, Tick, Tls, Verdict
from ops_worker.errors import DatabaseError, SchemaError

pytestmark = pytest.mark.unit


def target(name: str, **values: str) -> Target:
    """Return a service."""
    return Target(name, "http://user:secret@host/", name, (), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("", "http://***@host/"),
        ("http://${A}/", "http://${A}/"),
        ("http://u:p@h/", "http://***@h/"),
    ],
)
def test_shown_url(template: str, shown: str) -> None:
    """A URL is shown as the catalogue has it, and never with a password."""
    assert target("a", url_template=template).shown_url == shown


def test_without_client() -> None:
    """Another origin is trusted in the same way, and does not see the client's certificate."""
    assert Tls("ca", "certificate", "key", skip_verify=True).without_client == Tls(
        ca="ca", skip_verify=True
    )


@pytest.mark.parametrize("state", State)
def test_healthy(state: State) -> None:
    """Only the state ``healthy`` is healthy."""
    assert Verdict(target("a"), 0.0, state).healthy == (state.value == "healthy")


def test_words() -> None:
    """The states are the words in ``service_health.details.status``."""
    assert [state.value for state in State] == ["healthy", "degraded", "down", "unknown"]


def test_unhealthy() -> None:
    """An outcome names the services that are not healthy."""
    verdicts = tuple(Verdict(target(state.value), 0.0, state) for state in State)
    outcome = Outcome("health", Result.RECORDED, verdicts=verdicts)
    assert outcome.unhealthy == ("degraded", "down", "unknown")


@pytest.mark.parametrize(
    ("outcome", "error", "result", "exit_code"),
    [
        (Outcome("health", Result.RECORDED), None, "recorded", 0),
        (Outcome("health", Result.SKIPPED), None, "skipped", 0),
        (None, DatabaseError("away"), "failed", 1),
        (None, SchemaError("no table"), "failed", 3),
        (None, ValueError("a bug"), "crashed", 1),
    ],
)
def test_tick(
    outcome: Outcome | None, error: Exception | None, result: str, exit_code: int
) -> None:
    """A tick ends as its pass did, with the exit code that a process would have had."""
    tick = Tick("health", 0.1, outcome=outcome, error=error)
    assert (tick.result, tick.exit_code) == (result, exit_code)


def test_problem() -> None:
    """An expected error is shown with its message. A bug is shown by its class only."""
    assert Tick("health", 0.1).problem == ""
    assert Tick("health", 0.1, error=DatabaseError("away")).problem == "away"
    text = Tick("health", 0.1, error=ValueError("hunter2")).problem
    assert "ValueError" in text
    assert "hunter2" not in text
