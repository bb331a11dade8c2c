"""The rules of health: what an observation means, and when that opens or closes an alert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ops_worker.core.conditions import ABSENT, broken, value_at
from ops_worker.core.decoding import decode, storable
from ops_worker.core.model import (
    Failure,
    KnownState,
    Observation,
    Recorded,
    State,
    StateChange,
    Thresholds,
    Verdict,
)
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.model import Target


TIME_UP = "the pass's time was up"
"""Why a service was not probed, unless a limit of this process kept it from that."""


def judge_all(seen: Iterable[Observation]) -> tuple[Verdict, ...]:
    """Judge what was seen. There is no verdict on a service that was not probed."""
    return tuple(judge(one) for one in seen if one.failure is not Failure.NOT_PROBED)


def judge(seen: Observation) -> Verdict:
    """Say what an observation means. Total: any observation has a verdict, and every unhealthy one has a reason."""
    return _judged(seen)._replace(attempts=seen.attempts)


def _judged(seen: Observation) -> Verdict:
    if seen.failure is not None:
        state = State.DOWN if seen.failure is Failure.NO_CONNECTION else State.UNKNOWN
        return Verdict(
            seen.target, seen.taken_at, state, one_line(seen.error) or seen.failure.value
        )
    target = seen.target
    if seen.http_status not in target.expect:
        hint = f": {seen.error}" if seen.error else ""
        reason = one_line(f"http {seen.http_status}{hint}")
        return Verdict(
            target, seen.taken_at, State.DEGRADED, reason, seen.latency_ms, seen.http_status
        )
    try:
        answer = decode(seen.body) if target.json else {}
    except ValueError as error:
        return Verdict(target, seen.taken_at, State.UNKNOWN, one_line(str(error)))
    counters = value_at(answer, target.counters_at)
    reasons = broken(answer, target.conditions)
    if (
        target.max_latency_ms is not None
        and seen.latency_ms is not None
        and seen.latency_ms > target.max_latency_ms
    ):
        reasons.append(f"latency is {seen.latency_ms} ms, wants at most {target.max_latency_ms} ms")
    return Verdict(
        target,
        seen.taken_at,
        State.DEGRADED if reasons else State.HEALTHY,
        one_line("; ".join(reasons)),
        seen.latency_ms,
        seen.http_status,
        {} if counters is ABSENT else storable(counters),
    )


def not_among(verdicts: Sequence[Verdict], targets: Sequence[Target]) -> tuple[str, ...]:
    """Name the services of which there is no verdict: nobody looked at them, so nothing is known of them."""
    judged = {verdict.target.name for verdict in verdicts}
    return (
        tuple(target.name for target in targets if target.name not in judged)
        if len(judged) < len(targets)
        else ()
    )


def why_not_among(seen: Sequence[Observation], targets: Sequence[Target]) -> tuple[str, ...]:
    """Return every reason why there are services without a verdict, once."""
    limits = {one_line(one.error): None for one in seen if one.failure is Failure.NOT_PROBED}
    return (*([TIME_UP] if len(seen) < len(targets) else []), *limits)


def remedy(reasons: Sequence[str]) -> str:
    """Return what to do about these reasons why services were not probed."""
    if TIME_UP in reasons:
        return "raise PROBE_CONCURRENCY or PASS_DEADLINE, or divide the services among shards"
    return "raise the limit that is named, or divide the services among shards"


def decide(
    verdict: Verdict,
    observed_at: datetime,
    before: KnownState,
    thresholds: Thresholds,
    now: datetime,
) -> StateChange | None:
    """Say what a verdict changes, given what was known before.

    ``observed_at`` and ``now`` are of the database's clock. Returns None where the database already knows of this
    observation or a newer one: a late pass, a paused one or a replay changes nothing. A row from the future is no
    newer observation but a clock that was set back, and does not count as one.
    """
    if before.checked_at is not None and observed_at <= before.checked_at <= now:
        return None
    goes_on = before.healthy is verdict.healthy
    streak = before.streak + 1 if goes_on else 1
    since = before.since if goes_on and before.since is not None else observed_at
    return StateChange(
        verdict,
        streak,
        since,
        observed_at,
        opens=not verdict.healthy and not before.alerted and streak >= thresholds.alert_after,
        closes=verdict.healthy and before.alerted and streak >= thresholds.resolve_after,
    )


def plan(
    verdicts: Iterable[Verdict],
    before: Mapping[str, KnownState],
    thresholds: Thresholds,
    time_of: Callable[[float], datetime],
    now: datetime,
) -> list[StateChange]:
    """Decide over all verdicts of a pass; ``time_of`` turns a moment of the process's clock into the database's.

    ``thresholds`` is for the services that have none of their own.
    """
    decided = (
        decide(
            v, time_of(v.taken_at), before[v.target.name], thresholds_of(v.target, thresholds), now
        )
        for v in verdicts
    )
    return [update for update in decided if update is not None]


def thresholds_of(target: Target, thresholds: Thresholds) -> Thresholds:
    """Give the thresholds of a service: its own, and where it has none that of the settings."""
    return Thresholds(
        target.alert_after or thresholds.alert_after,
        target.resolve_after or thresholds.resolve_after,
    )


def suppress_alerts(updates: Iterable[StateChange]) -> list[StateChange]:
    """Give the updates as they are in a maintenance: states are kept and streaks counted, alerts close, none opens."""
    return [update._replace(opens=False) for update in updates]


def preview(updates: Iterable[StateChange]) -> Recorded:
    """Say what recording these updates would do, without doing it."""
    updates = tuple(updates)
    opening = tuple(update.verdict.target.name for update in updates if update.opens)
    closing = tuple(update.verdict.target.name for update in updates if update.closes)
    return Recorded(updates, opening, closing)


def alerted(before: Mapping[str, KnownState], recorded: Recorded) -> tuple[str, ...]:
    """Name the services that have an alert once this is recorded."""
    had = {name for name, known in before.items() if known.alerted}
    return tuple(sorted((had | {*recorded.opened}) - {*recorded.closed}))


def details(update: StateChange) -> dict[str, Any]:
    """Build ``service_health.details``: the keys that the platform's contract names, then the worker's own two."""
    verdict = update.verdict
    found: dict[str, Any] = {"status": verdict.state.value}
    if verdict.state is State.HEALTHY:
        found |= {"latency_ms": verdict.latency_ms, "counters": verdict.counters}
    elif verdict.state is State.DEGRADED:
        found |= {"latency_ms": verdict.latency_ms, "http_status": verdict.http_status}
        if verdict.counters is not None:  # it answered as it should, but a condition does not hold
            found |= {"reason": verdict.reason, "counters": verdict.counters}
    else:
        found["error"] = verdict.reason
    return found | {"streak": update.streak, "since": update.since.isoformat()}


def evidence(update: StateChange, origin: Mapping[str, str]) -> dict[str, Any]:
    """Build ``fleet_alert.details.evidence``: what was seen when the alert opened, and which pass saw it. Bounded, as its reason is."""
    verdict = update.verdict
    seen = {
        "state": verdict.state.value,
        "reason": verdict.reason,
        "http_status": verdict.http_status,
        "latency_ms": verdict.latency_ms,
        "attempts": verdict.attempts,
        "streak": update.streak,
        "since": update.since.isoformat(),
        "checked_at": update.checked_at.isoformat(),
    }
    return {**origin, **{name: value for name, value in seen.items() if value is not None}}


def summary(verdict: Verdict) -> str:
    """Name an alert: the text of ``fleet_alert.summary``, which keeps the reason that opened it."""
    return f"Service unhealthy: {verdict.target.name} ({verdict.reason})"
