"""The checklist of ``check``: what the facts about the server mean."""

from __future__ import annotations

from typing import Any

import pytest

from ops_worker.core.model import State, Target, Verdict
from ops_worker.core.self_check import (
    FAULT,
    OK,
    WARNING,
    Finding,
    Refusal,
    of_server,
    of_services,
)

pytestmark = pytest.mark.unit

FACTS: dict[str, Any] = {
    "role": "iot",
    "login": "iot",
    "database": "iotcloud",
    "connected_ms": 3.0,
    "version": "15.4",
    "version_number": 150004,
    "standby": False,
    "refusals": (),
    "skew_s": 0.0,
    "timescaledb": "",
    "pooled": False,
}
"""A server with which nothing is wrong."""


def finding(subject: str, **facts: object) -> Finding:
    """Return the line about ``subject`` of a server with these facts."""
    return {line.subject: line for line in of_server(FACTS | facts)}[subject]


def test_nothing_wrong() -> None:
    """Every line about a usual server is ok."""
    assert {line.state for line in of_server(FACTS)} == {OK}


@pytest.mark.parametrize(
    ("facts", "state", "said", "remedy"),
    [
        ({"standby": True}, FAULT, "a standby", "primary"),
        ({"refusals": None}, WARNING, "not tried", "run it again"),
        (
            {"refusals": [Refusal("tenants", "read-only", "GRANT")]},
            FAULT,
            "tenants: read-only",
            "GRANT",
        ),
        (
            {"refusals": [Refusal("tenants", "full", "")]},
            FAULT,
            "full",
            "lines of the tables below",
        ),
    ],
)
def test_writable(facts: dict[str, Any], state: str, said: str, remedy: str) -> None:
    """A server to which a pass cannot write is a fault. The line says what to do."""
    line = finding("writable", **facts)
    assert line.state == state
    assert said in line.found
    assert remedy in line.remedy


@pytest.mark.parametrize(
    ("skew_s", "state"), [(2.0, OK), (-2.0, OK), (2.1, WARNING), (-2.1, WARNING)]
)
def test_clock(skew_s: float, state: str) -> None:
    """Two clocks may differ by two seconds, in both directions."""
    assert finding("clock", skew_s=skew_s).state == state


def test_login_role() -> None:
    """If the role differs from the login, the line names both."""
    assert "as iot, by login role app" in finding("connection", login="app").found


def test_pooler() -> None:
    """A pooler is named, and is no fault."""
    assert finding("pooler", pooled=True).found.startswith("there is one between")


@pytest.mark.parametrize(("number", "state"), [(139999, WARNING), (140000, OK)])
def test_version(number: int, state: str) -> None:
    """PostgreSQL 14 is the oldest version that is tested."""
    assert finding("version", version_number=number).state == state


@pytest.mark.parametrize(
    ("reason_class", "remedy"),
    [("certificate", "renew its certificate"), ("http_503", "it answers, but not as")],
)
def test_degraded_service(reason_class: str, remedy: str) -> None:
    """The hint for a degraded service depends on the reason."""
    verdict = Verdict(
        target=Target("web", "https://web", "web", ()),
        taken_at=0.0,
        state=State.DEGRADED,
        reason="because",
        reason_class=reason_class,
    )
    (line,) = of_services([verdict])
    assert (line.state, line.found) == (WARNING, "degraded: because")
    assert line.remedy.startswith(remedy)
