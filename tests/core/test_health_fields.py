"""Every field of a verdict, of an alert's evidence and of a hint, for every kind of observation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ops_worker.core.health import (
    TIME_UP,
    alerted,
    details,
    evidence,
    judge,
    not_probed,
    remedy,
    suppress_alerts,
    thresholds_of,
)
from ops_worker.core.model import (
    Condition,
    Failure,
    KnownState,
    Observation,
    Recorded,
    State,
    StateChange,
    Target,
    Thresholds,
    Verdict,
)

pytestmark = pytest.mark.unit

TARGET = Target(
    "ingest",
    "http://x/health",
    "ingest",
    (),
    conditions=(Condition("/status", "equals", "ok"),),
    max_latency_ms=10,
)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANSWERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"failure": Failure.NO_CONNECTION, "error": "no way", "reason_class": "unreachable"},
        {"state": State.DOWN, "reason": "no way", "reason_class": "unreachable"},
    ),
    (
        {"failure": Failure.NO_ANSWER},
        {"state": State.UNKNOWN, "reason": "no answer", "reason_class": "protocol"},
    ),
    (
        {"http_status": 503, "latency_ms": 4},
        {
            "state": State.DEGRADED,
            "reason": "http 503",
            "latency_ms": 4,
            "http_status": 503,
            "reason_class": "http_503",
        },
    ),
    (
        {"http_status": 200, "latency_ms": 4, "body": b"[]"},
        {
            "state": State.UNKNOWN,
            "reason": "not a JSON object but an array",
            "reason_class": "not_object",
        },
    ),
    (
        {"http_status": 200, "latency_ms": 10, "body": b'{"status": "ok", "counters": {"a": 1}}'},
        {"state": State.HEALTHY, "latency_ms": 10, "http_status": 200, "counters": {"a": 1}},
    ),
    (
        {"http_status": 200, "latency_ms": 11, "body": b'{"status": "bad"}'},
        {
            "state": State.DEGRADED,
            "reason": '/status is "bad", wants "ok"; latency is 11 ms, wants at most 10 ms',
            "reason_class": "condition:/status",
            "latency_ms": 11,
            "http_status": 200,
            "counters": {},
        },
    ),
]

ANSWERS += [
    (
        {"http_status": 200, "latency_ms": 11, "body": b'{"status": "ok"}'},
        {
            "state": State.DEGRADED,
            "reason": "latency is 11 ms, wants at most 10 ms",
            "reason_class": "latency",
            "latency_ms": 11,
            "http_status": 200,
            "counters": {},
        },
    ),
    (
        {"http_status": 200, "latency_ms": 4, "body": b"well"},
        {
            "state": State.UNKNOWN,
            "reason": "the body is text, not JSON (set json = false)",
            "reason_class": "not_json",
        },
    ),
]


@pytest.mark.parametrize(("facts", "expected"), ANSWERS)
def test_judge(facts: dict[str, Any], expected: dict[str, Any]) -> None:
    """A verdict has the observation's target, time and number of attempts.

    A fact that was not seen is left out.
    """
    verdict = judge(Observation(TARGET, 12.5, attempts=3, **facts))
    assert verdict == Verdict(target=TARGET, taken_at=12.5, attempts=3, **expected)


def change(**verdict: Any) -> StateChange:
    """Return the change that a verdict makes."""
    return StateChange(
        verdict=Verdict(target=TARGET, taken_at=1.0, **verdict),
        streak=2,
        since=NOW,
        checked_at=NOW,
    )


def test_evidence() -> None:
    """The keys of ``fleet_alert.details.evidence`` are promised. Unknown facts are left out."""
    facts = {"state": State.DEGRADED, "reason": "http 503", "http_status": 503, "latency_ms": 4}
    assert evidence(change(**facts, attempts=2), {"pass": "health"}) == {
        "pass": "health",
        "state": "degraded",
        "reason": "http 503",
        "http_status": 503,
        "latency_ms": 4,
        "attempts": 2,
        "streak": 2,
        "since": "2026-03-01T12:00:00+00:00",
        "checked_at": "2026-03-01T12:00:00+00:00",
    }
    document = evidence(change(state=State.DOWN, reason="refused"), {})
    assert list(document) == ["state", "reason", "attempts", "streak", "since", "checked_at"]


def test_details() -> None:
    """The keys of ``service_health.details`` are promised, for every state."""
    own = {"streak": 2, "since": "2026-03-01T12:00:00+00:00"}
    healthy = change(state=State.HEALTHY, latency_ms=4, http_status=200, counters={"a": 1})
    assert details(healthy) == {
        "status": "healthy",
        "latency_ms": 4,
        "counters": {"a": 1},
        **own,
    }
    degraded = {"status": "degraded", "latency_ms": 4, "http_status": 503}
    facts = {"state": State.DEGRADED, "latency_ms": 4, "http_status": 503}
    assert details(change(**facts, reason="http 503")) == {**degraded, **own}
    hint = "http 503: more than 3 redirects"
    assert details(change(**facts, reason=hint)) == {**degraded, "reason": hint, **own}
    facts["reason"] = "r"
    assert details(change(**facts, counters={})) == {
        **degraded,
        "reason": "r",
        "counters": {},
        **own,
    }
    for state in (State.DOWN, State.UNKNOWN):
        assert details(change(state=state, reason="r")) == {
            "status": state.value,
            "error": "r",
            **own,
        }


@pytest.mark.parametrize(
    ("own", "expected"),
    [((None, None), (2, 3)), ((5, None), (5, 3)), ((None, 7), (2, 7)), ((5, 7), (5, 7))],
)
def test_thresholds(own: tuple[int | None, int | None], expected: tuple[int, int]) -> None:
    """A threshold of a service wins over the same threshold of the settings."""
    target = TARGET._replace(alert_after=own[0], resolve_after=own[1])
    assert thresholds_of(target, Thresholds(2, 3)) == Thresholds(*expected)


@pytest.mark.parametrize(
    ("reasons", "settings"),
    [
        ((TIME_UP,), "raise PROBE_CONCURRENCY or PASS_DEADLINE, or "),
        ((TIME_UP, "too many open files"), "raise PROBE_CONCURRENCY or PASS_DEADLINE, or "),
        (("too many open files",), "raise the limit "),
        ((), "raise the limit "),
    ],
)
def test_remedy(reasons: tuple[str, ...], settings: str) -> None:
    """If the pass ran out of time, the remedy names the settings. It always suggests shards."""
    text = remedy(reasons)
    assert text.startswith(settings)
    assert text.endswith("divide the services among shards")


def test_not_among() -> None:
    """Services without a verdict are named in the order of the catalogue."""
    names = [TARGET._replace(name=name) for name in "cab"]
    verdicts = [Verdict(target=names[1], taken_at=0.0, state=State.HEALTHY)]
    assert not_probed(verdicts, names) == ("c", "b")
    assert not_probed(verdicts, names[1:2]) == ()


def test_suppress_alerts() -> None:
    """For the given services no alert opens. Alerts still close, and the rows do not change."""
    opening = change(state=State.DOWN, reason="r")._replace(opens=True)
    closing = change(state=State.HEALTHY)._replace(closes=True)
    name = TARGET.name
    assert suppress_alerts([opening, closing], {name}) == [opening._replace(opens=False), closing]
    assert suppress_alerts([opening, closing], {"other"}) == [opening, closing]


def test_alerted() -> None:
    """A service has an alert if it had one before or one opened, unless the alert closed."""
    before = {
        "z": KnownState(alerted=True),
        "b": KnownState(alerted=True),
        "c": KnownState(alerted=False),
        "d": KnownState(alerted=False),
    }
    recorded = Recorded(updates=(), opened=("c",), closed=("b",))
    assert alerted(before, recorded) == ("c", "z")
