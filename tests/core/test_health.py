from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.health import (
    TIME_UP,
    decide,
    details,
    evidence,
    judge,
    judge_all,
    maintenance_end,
    new_alert,
    not_probed,
    not_probed_reasons,
    plan,
    preview,
    remedy,
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

TARGET = Target("ingest", "http://x/health", "ingest", ())
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def observed(**facts: Any) -> Observation:
    """Return an observation with these facts."""
    return Observation(TARGET, 0.0, **facts)


JUDGED = [
    (
        observed(http_status=200, latency_ms=3, body=b'{"counters": {"a": 1}}'),
        State.HEALTHY,
        "",
        3,
        {"a": 1},
    ),
    (
        observed(http_status=200, latency_ms=3, body=b'{"status": "critical"}'),
        State.HEALTHY,
        "",
        3,
        {},
    ),
    (
        observed(http_status=200, latency_ms=3, body=b'{"counters": null}'),
        State.HEALTHY,
        "",
        3,
        None,
    ),
    (observed(http_status=200, latency_ms=3, body=b'{"counters": [1]}'), State.HEALTHY, "", 3, [1]),
    (
        observed(http_status=200, latency_ms=3, body=b"[]"),
        State.UNKNOWN,
        "not a JSON object but an array",
        None,
        None,
    ),
    (
        observed(http_status=200, latency_ms=3, body=b""),
        State.UNKNOWN,
        "the body is empty, not JSON (set json = false)",
        None,
        None,
    ),
    (observed(http_status=503, latency_ms=3), State.DEGRADED, "http 503", 3, None),
    (
        observed(http_status=400, latency_ms=3, error="speaks\nTLS"),
        State.DEGRADED,
        "http 400: speaks TLS",
        3,
        None,
    ),
    (observed(http_status=302, latency_ms=3), State.DEGRADED, "http 302", 3, None),
    (observed(http_status=204, latency_ms=3), State.DEGRADED, "http 204", 3, None),
    (
        observed(failure=Failure.NO_CONNECTION, error="Connection refused"),
        State.DOWN,
        "Connection refused",
        None,
        None,
    ),
    (
        observed(failure=Failure.NO_ANSWER, error="timeout after 5 s"),
        State.UNKNOWN,
        "timeout after 5 s",
        None,
        None,
    ),
    (observed(failure=Failure.NO_ANSWER, error="a\nb"), State.UNKNOWN, "a b", None, None),
    (observed(failure=Failure.NO_ANSWER, error=" \x00 "), State.UNKNOWN, "no answer", None, None),
    (observed(failure=Failure.NO_CONNECTION), State.DOWN, "no connection", None, None),
]


@pytest.mark.parametrize(("observation", "state", "reason", "latency_ms", "counters"), JUDGED)
def test_judge(
    observation: Observation, state: State, reason: str, latency_ms: int | None, counters: object
) -> None:
    """Every outcome of the contract's table has its state, reason, latency and counters."""
    verdict = judge(observation)
    assert (state, reason, latency_ms, counters) == (
        verdict.state,
        verdict.reason,
        verdict.latency_ms,
        verdict.counters,
    )
    assert verdict.healthy == (state is State.HEALTHY) == (not reason)


FULL = {"db": "up", "counters": {"a": 1}}


@pytest.mark.parametrize(
    ("wants", "facts", "state", "reason"),
    [
        ({"conditions": (Condition("/db", "equals", "up"),)}, {}, State.HEALTHY, ""),
        ({"conditions": (Condition("/db", "equals", "ok"), Condition("/x", "at_most", 1))}, {},
         State.DEGRADED, '/db is "up", wants "ok"; /x is absent, wants at most 1'),
        ({"max_latency_ms": 300}, {"latency_ms": 300}, State.HEALTHY, ""),
        ({"max_latency_ms": 300}, {"latency_ms": 301}, State.DEGRADED,
         "latency is 301 ms, wants at most 300 ms"),
        ({"expect": (204, 404)}, {"http_status": 404}, State.HEALTHY, ""),
        ({"expect": (204, 404)}, {}, State.DEGRADED, "http 200"),
        ({"json": False}, {"body": b"OK"}, State.HEALTHY, ""),
        ({"json": False, "conditions": (Condition("", "equals", "x"),)}, {"body": b"OK"},
         State.DEGRADED, 'body is not JSON, wants "x"'),
        ({"json": False, "conditions": (Condition("/0", "equals", "x"),)}, {"body": b'["x"]'},
         State.HEALTHY, ""),
        ({"json": False, "conditions": (Condition("", "length_at_least", 1),)}, {"body": b"[]"},
         State.DEGRADED, "body is [] of length 0, wants a length of at least 1"),
        ({"json": False, "conditions": (Condition(None, "equals", "OK"),)},
         {"body": b"\xef\xbb\xbf OK\r\n"}, State.HEALTHY, ""),
        ({"json": False, "conditions": (Condition(None, "equals", "OK"),)}, {"body": b"O\xffK"},
         State.DEGRADED, 'body is "O\ufffdK", wants "OK"'),
        ({"json": False, "conditions": (Condition(None, "equals", "OK", "x"),)},
         {"headers": {"x": "OK"}}, State.HEALTHY, ""),
        ({"conditions": (Condition(None, "contains", "up"),)}, {}, State.HEALTHY, ""),
        ({"conditions": (Condition(None, "contains", "up"),)}, {"body": b"up"}, State.UNKNOWN,
         "the body is text, not JSON (set json = false)"),
        ({"certificate_days": 14}, {"certificate_days_left": 14}, State.HEALTHY, ""),
        ({"certificate_days": 14}, {"certificate_days_left": 13}, State.DEGRADED,
         "certificate expires in 13 days, wants at least 14 days left"),
        ({"certificate_days": 0}, {"certificate_days_left": -1}, State.DEGRADED,
         "certificate expired, wants at least 0 days left"),
        ({"certificate_days": 14}, {}, State.HEALTHY, ""),
        ({"counters_at": "/none"}, {}, State.HEALTHY, ""),
    ],
)  # fmt: skip
def test_judge_by_the_catalogue(
    wants: dict[str, Any], facts: dict[str, Any], state: State, reason: str
) -> None:
    """The statuses, conditions and limits of a service decide its state.

    The reason names every condition and limit that is not met.
    """
    answer: dict[str, Any] = {
        "http_status": 200,
        "latency_ms": 3,
        "body": json.dumps(FULL).encode(),
    } | facts
    verdict = judge(Observation(TARGET._replace(**wants), 0.0, **answer))
    assert (verdict.state, verdict.reason) == (state, reason)


@pytest.mark.parametrize(
    ("wants", "facts", "state", "reason_class", "reason"),
    [
        ({}, {}, State.HEALTHY, "", ""),
        ({"max_latency_ms": 2}, {}, State.DEGRADED, "latency",
         "latency is 3 ms, wants at most 2 ms"),
        ({"certificate_days": 2}, {"certificate_days_left": 1}, State.DEGRADED, "certificate",
         "certificate expires in 1 day, wants at least 2 days left"),
        ({"certificate_days": 1, "max_latency_ms": 2}, {"certificate_days_left": 0}, State.DEGRADED,
         "latency",
         ("latency is 3 ms, wants at most 2 ms; "
          "certificate expires in less than a day, wants at least 1 day left")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("url", ["tls://a:1", "TCP://a:1"])
def test_judge_a_connection(
    url: str,
    wants: dict[str, Any],
    facts: dict[str, Any],
    state: State,
    reason_class: str,
    reason: str,
) -> None:
    """A service that is only connected to is healthy if the connection is made.

    Its row has the same keys as any other row.
    """
    target = TARGET._replace(url=url, **wants)
    verdict = judge(Observation(target, 0.0, latency_ms=3, **facts))
    assert (verdict.state, verdict.reason_class, verdict.reason) == (state, reason_class, reason)
    row = details(StateChange(verdict, 1, NOW, NOW))
    assert (row["status"], row["latency_ms"], row["counters"]) == (state.value, 3, {})
    assert row.get("certificate_days_left") == facts.get("certificate_days_left")


@pytest.mark.parametrize(
    ("condition", "reason_class"),
    [
        (Condition("/x", "equals", 1), "condition:/x"),
        (Condition("", "equals", 1), "condition:"),
        (Condition(None, "equals", "x"), "condition:body"),
        (Condition(None, "equals", "x", "etag"), "condition:header etag"),
    ],
)
def test_reason_class_of_a_condition(condition: Condition, reason_class: str) -> None:
    """The reason class names the part of the answer. Another value has the same class."""
    target = TARGET._replace(conditions=(condition,), certificate_days=9, max_latency_ms=1)
    observation = Observation(target, 0.0, 200, 3, b"{}", certificate_days_left=8)
    assert judge(observation).reason_class == reason_class


def test_certificate_with_another_status() -> None:
    """The days of the certificate are recorded, whatever the service answers."""
    target = TARGET._replace(certificate_days=14)
    verdict = judge(Observation(target, 0.0, 503, 3, certificate_days_left=3))
    assert (verdict.reason, verdict.certificate_days_left) == ("http 503", 3)
    assert evidence(StateChange(verdict, 1, NOW, NOW), {})["certificate_days_left"] == 3


def test_degraded_by_a_condition() -> None:
    """A service that a condition degrades keeps its counters. Its row has the reason."""
    target = TARGET._replace(conditions=(Condition("/db", "equals", "ok"),))
    verdict = judge(Observation(target, 0.0, 200, 3, json.dumps(FULL).encode()))
    assert verdict.counters == {"a": 1}
    assert details(StateChange(verdict, 1, NOW, NOW)) == {
        "status": "degraded",
        "latency_ms": 3,
        "http_status": 200,
        "reason": '/db is "up", wants "ok"',
        "counters": {"a": 1},
        "streak": 1,
        "since": "2026-03-01T12:00:00+00:00",
    }


def test_evidence() -> None:
    """The evidence of an alert has what was seen, since when, and by which pass.

    A fact that is not known is left out.
    """
    verdict = verdict_of(healthy=False)._replace(attempts=2)
    assert evidence(StateChange(verdict, 3, NOW - MINUTE, NOW), {"pod": "p", "version": "1"}) == {
        "pod": "p",
        "version": "1",
        "state": "down",
        "reason": "Connection refused",
        "attempts": 2,
        "streak": 3,
        "since": "2026-03-01T11:59:00+00:00",
        "checked_at": "2026-03-01T12:00:00+00:00",
    }


def test_names_of_not_probed() -> None:
    """A service that was not probed is named."""
    unprobed = TARGET._replace(name="other")
    assert not_probed([verdict_of(healthy=True)], [TARGET, unprobed]) == ("other",)
    assert not_probed([verdict_of(healthy=True)], [TARGET]) == ()


def test_not_probed() -> None:
    """A service that a limit of this process kept from being probed has no verdict.

    Each reason is reported once.
    """
    answered, limited = (
        observed(http_status=200, latency_ms=3, body=b"{}"),
        observed(failure=Failure.NOT_PROBED, error="no\nfiles"),
    )
    assert [verdict.state for verdict in judge_all([limited, answered, limited])] == [State.HEALTHY]
    assert not_probed_reasons([answered], [TARGET]) == ()
    assert not_probed_reasons([answered, limited, limited], [TARGET] * 3) == ("no files",)
    assert not_probed_reasons([limited], [TARGET] * 2) == (TIME_UP, "no files")
    assert "PASS_DEADLINE" in remedy((TIME_UP, "no files"))
    assert "raise the limit" in remedy(("no files",))


def test_own_damping() -> None:
    """A threshold of a service wins over the same threshold of the settings."""
    target = TARGET._replace(alert_after=2)
    verdict = verdict_of(healthy=False)._replace(target=target)
    before = {"ingest": KnownState(healthy=False, streak=0, since=NOW, checked_at=NOW - MINUTE)}
    for streak, opens in ((0, False), (1, True)):
        (update,) = plan(
            [verdict],
            {"ingest": before["ingest"]._replace(streak=streak)},
            Thresholds(1, 1),
            lambda _: NOW,
            NOW,
        )
        assert update.opens is opens


@given(st.binary(), st.integers(100, 599))
def test_judge_is_total(body: bytes, status: int) -> None:
    """Every answer has a verdict. Every verdict that is not healthy has a reason."""
    verdict = judge(observed(http_status=status, latency_ms=1, body=body))
    assert verdict.healthy == (verdict.reason == "")


def verdict_of(healthy: bool) -> Verdict:
    """Return a verdict."""
    return (
        Verdict(TARGET, 0.0, State.HEALTHY, "", 3, 200, {})
        if healthy
        else Verdict(TARGET, 0.0, State.DOWN, "Connection refused")
    )


def after(before: KnownState, update: StateChange | None) -> KnownState:
    """Return the known state after a change is written."""
    if update is None:
        return before
    alerted = (before.alerted or update.opens) and not update.closes
    return KnownState(
        update.verdict.healthy, update.streak, update.since, update.checked_at, alerted
    )


DECIDED = [
    # case, healthy, before, thresholds, streak, opens, closes
    ("first seen healthy", True, KnownState(), Thresholds(), 1, False, False),
    ("first seen down", False, KnownState(), Thresholds(), 1, True, False),
    (
        "still down, alert there",
        False,
        KnownState(False, 4, NOW, NOW, alerted=True),
        Thresholds(),
        5,
        False,
        False,
    ),
    (
        "down, alert closed by hand",
        False,
        KnownState(False, 4, NOW, NOW),
        Thresholds(),
        5,
        True,
        False,
    ),
    ("back", True, KnownState(False, 4, NOW, NOW, alerted=True), Thresholds(), 1, False, True),
    ("alert without a row", True, KnownState(alerted=True), Thresholds(), 1, False, True),
    (
        "a row of the old loops",
        False,
        KnownState(False, 0, None, NOW),
        Thresholds(2, 1),
        1,
        False,
        False,
    ),
    ("second of three", False, KnownState(False, 1, NOW, NOW), Thresholds(3, 1), 2, False, False),
    ("third of three", False, KnownState(False, 2, NOW, NOW), Thresholds(3, 1), 3, True, False),
    (
        "first of two good ones",
        True,
        KnownState(False, 9, NOW, NOW, alerted=True),
        Thresholds(1, 2),
        1,
        False,
        False,
    ),
    (
        "second of two good ones",
        True,
        KnownState(True, 1, NOW, NOW, alerted=True),
        Thresholds(1, 2),
        2,
        False,
        True,
    ),
    (
        "thresholds was lowered meanwhile",
        False,
        KnownState(False, 9, NOW, NOW),
        Thresholds(2, 1),
        10,
        True,
        False,
    ),
]


@pytest.mark.parametrize(
    ("case", "healthy", "before", "thresholds", "streak", "opens", "closes"), DECIDED
)
def test_decide(
    case: str,
    healthy: bool,
    before: KnownState,
    thresholds: Thresholds,
    streak: int,
    opens: bool,
    closes: bool,
) -> None:
    """Every case of the rule gives its streak, and opens or closes the alert."""
    update = decide(verdict_of(healthy), NOW + MINUTE, before, thresholds, NOW + MINUTE)
    assert update is not None, case
    assert (streak, opens, closes) == (update.streak, update.opens, update.closes), case


@pytest.mark.parametrize(
    ("observed_at", "checked_at", "counts"),
    [
        (NOW, NOW - MINUTE, True),
        (NOW - MINUTE, NOW - timedelta(seconds=1), False),
        (NOW - MINUTE, NOW - MINUTE, False),
        (NOW - MINUTE, NOW, False),
        (NOW - MINUTE, NOW + MINUTE, True),
    ],
    ids=[
        "newer",
        "older: a late pass",
        "the same: a replay",
        "older by all",
        "a row from the future: the clock was set back",
    ],
)
def test_decide_is_fenced(observed_at: datetime, checked_at: datetime, counts: bool) -> None:
    """An observation never overwrites a newer one.

    After a clock was set back, a row from the future is overwritten, so that the worker goes on.
    """
    before = KnownState(healthy=True, streak=1, since=checked_at, checked_at=checked_at)
    assert counts == (
        decide(verdict_of(healthy=False), observed_at, before, Thresholds(), NOW) is not None
    )


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_alert_machine(verdicts: list[bool], alert_after: int, resolve_after: int) -> None:
    """Over any sequence of verdicts, opening and closing alternate, exactly at the thresholds.

    The same or an older observation changes nothing.
    """
    thresholds, before, changes = Thresholds(alert_after, resolve_after), KnownState(), []
    runs: list[bool] = []
    for number, healthy in enumerate(verdicts):
        at = NOW + number * MINUTE
        update = decide(verdict_of(healthy), at, before, thresholds, at)
        assert update is not None
        runs.append(healthy)
        streak = next(
            (n for n, earlier in enumerate(reversed(runs)) if earlier is not healthy), len(runs)
        )
        assert streak == update.streak
        assert NOW + (number - streak + 1) * MINUTE == update.since
        assert update.opens == (not healthy and not before.alerted and streak >= alert_after)
        assert update.closes == (healthy and before.alerted and streak >= resolve_after)
        changes += ["open"] * update.opens + ["close"] * update.closes
        before = after(before, update)
        assert decide(verdict_of(healthy), at, before, thresholds, at) is None
        assert decide(verdict_of(not healthy), at - MINUTE / 2, before, thresholds, at) is None
    assert changes == ["open", "close"] * (len(changes) // 2) + ["open"] * (len(changes) % 2)


def test_plan_and_planned() -> None:
    """A plan has a change for each verdict that is newer than its row.

    The preview names the alerts that it would open and close.
    """
    other = TARGET._replace(name="evaluator")
    verdicts = [verdict_of(healthy=False), verdict_of(healthy=True)._replace(target=other)]
    before = {
        "ingest": KnownState(),
        "evaluator": KnownState(healthy=False, streak=1, since=NOW, checked_at=NOW, alerted=True),
    }
    updates = plan(
        verdicts,
        before,
        Thresholds(),
        lambda moment: NOW + MINUTE + timedelta(seconds=moment),
        NOW + MINUTE,
    )
    assert preview(updates) == Recorded(tuple(updates), ("ingest",), ("evaluator",))
    stale = {"ingest": KnownState(checked_at=NOW + MINUTE), "evaluator": before["evaluator"]}
    assert [
        u.verdict.target.name
        for u in plan(verdicts, stale, Thresholds(), lambda _: NOW + MINUTE, NOW + MINUTE)
    ] == ["evaluator"]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (
            Verdict(TARGET, 0, State.HEALTHY, "", 3, 200, {"a": 1}),
            {"status": "healthy", "latency_ms": 3, "counters": {"a": 1}},
        ),
        (
            Verdict(TARGET, 0, State.DEGRADED, "http 503", 3, 503),
            {"status": "degraded", "latency_ms": 3, "http_status": 503},
        ),
        (
            Verdict(TARGET, 0, State.DOWN, "Connection refused"),
            {"status": "down", "error": "Connection refused"},
        ),
        (
            Verdict(TARGET, 0, State.UNKNOWN, "timeout after 5 s"),
            {"status": "unknown", "error": "timeout after 5 s"},
        ),
    ],
)
def test_details(verdict: Verdict, expected: dict[str, Any]) -> None:
    """The details have the contract's keys for each state, ``streak`` and ``since``."""
    assert expected | {"streak": 2, "since": NOW.isoformat()} == details(
        StateChange(verdict, 2, NOW, NOW)
    )


def test_summary() -> None:
    """An alert's summary names the service and the reason."""
    assert new_alert("ingest", "Connection refused", {"streak": 1}) == {
        "service": "ingest",
        "summary": "Service unhealthy: ingest (Connection refused)",
        "evidence": {"streak": 1},
    }
    of_the_worker = new_alert("ops_worker", "the metrics pass has stopped", {}, ["metrics"])
    assert of_the_worker["causes"] == ["metrics"]


def test_certificate_of_an_answer() -> None:
    """A certificate that ends soon makes a correct answer degraded, with a class of its own."""
    target = TARGET._replace(url="https://a", certificate_days=2)
    body = b'{"status": "healthy"}'
    observation = Observation(target, 0.0, 200, 3, body=body, certificate_days_left=1)
    verdict = judge(observation)
    assert (verdict.state, verdict.reason_class) == (State.DEGRADED, "certificate")


def test_maintenance_end() -> None:
    """The later end counts. The end of the setting counts only while it is in the future."""
    hour = timedelta(hours=1)
    assert maintenance_end(None, None, NOW) is None
    assert maintenance_end(None, NOW, NOW) is None
    assert maintenance_end(NOW + hour, None, NOW) == NOW + hour
    assert maintenance_end(NOW + hour, NOW + 2 * hour, NOW) == NOW + 2 * hour
    assert maintenance_end(NOW + 2 * hour, NOW + hour, NOW) == NOW + 2 * hour
