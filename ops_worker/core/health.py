"""The rules of health: what an observation means, and when that opens or closes an alert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ops_worker.core.answer import decode, one_line, storable
from ops_worker.core.model import Failure, Observation, Recorded, Remembered, State, Update, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from ops_worker.core.model import Damping

OK = 200


def judge(seen: Observation) -> Verdict:
    """Say what an observation means. Total: any observation has a verdict, and every unhealthy one has a reason."""
    return _judged(seen)._replace(attempts=seen.attempts)


def _judged(seen: Observation) -> Verdict:
    if seen.failure is not None:
        state = State.DOWN if seen.failure is Failure.NO_CONNECTION else State.UNKNOWN
        return Verdict(seen.target, seen.taken_at, state, one_line(seen.error) or seen.failure.value)
    if seen.http_status != OK:
        reason = f"http {seen.http_status}"
        return Verdict(seen.target, seen.taken_at, State.DEGRADED, reason, seen.latency_ms, seen.http_status)
    try:
        answer = decode(seen.body)
    except ValueError as error:
        return Verdict(seen.target, seen.taken_at, State.UNKNOWN, one_line(str(error)))
    counters = storable(answer.get("counters", {}))
    return Verdict(seen.target, seen.taken_at, State.HEALTHY, "", seen.latency_ms, seen.http_status, counters)


def decide(verdict: Verdict, observed_at: datetime, before: Remembered, damping: Damping, now: datetime) -> Update | None:
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
    return Update(
        verdict,
        streak,
        since,
        observed_at,
        opens=not verdict.healthy and not before.alerted and streak >= damping.alert_after,
        closes=verdict.healthy and before.alerted and streak >= damping.resolve_after,
    )


def plan(
    verdicts: Iterable[Verdict],
    before: Mapping[str, Remembered],
    damping: Damping,
    time_of: Callable[[float], datetime],
    now: datetime,
) -> list[Update]:
    """Decide over all verdicts of a pass; ``time_of`` turns a moment of the process's clock into the database's."""
    decided = (decide(v, time_of(v.taken_at), before[v.target.name], damping, now) for v in verdicts)
    return [update for update in decided if update is not None]


def planned(updates: Iterable[Update]) -> Recorded:
    """Say what recording these updates would do, without doing it."""
    updates = tuple(updates)
    opening = tuple(update.verdict.target.name for update in updates if update.opens)
    closing = tuple(update.verdict.target.name for update in updates if update.closes)
    return Recorded(updates, opening, closing)


def alerted(before: Mapping[str, Remembered], recorded: Recorded) -> tuple[str, ...]:
    """Name the services that have an alert once this is recorded."""
    had = {name for name, known in before.items() if known.alerted}
    return tuple(sorted((had | {*recorded.opened}) - {*recorded.closed}))


def details(update: Update) -> dict[str, Any]:
    """Build ``service_health.details``: the keys that the platform's contract names, then the worker's own two."""
    verdict = update.verdict
    found: dict[str, Any] = {"status": verdict.state.value}
    if verdict.state is State.HEALTHY:
        found |= {"latency_ms": verdict.latency_ms, "counters": verdict.counters}
    elif verdict.state is State.DEGRADED:
        found |= {"latency_ms": verdict.latency_ms, "http_status": verdict.http_status}
    else:
        found["error"] = verdict.reason
    return found | {"streak": update.streak, "since": update.since.isoformat()}


def summary(verdict: Verdict) -> str:
    """Name an alert: the text of ``fleet_alert.summary``, which keeps the reason that opened it."""
    return f"Service unhealthy: {verdict.target.name} ({verdict.reason})"
