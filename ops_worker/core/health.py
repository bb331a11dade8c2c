"""The rules of health: what an observation means, and when it opens or closes an alert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ops_worker.core.certificates import end_in_words, format_days
from ops_worker.core.conditions import ABSENT, NOT_JSON, Answer, broken_conditions, value_at
from ops_worker.core.decoding import NotAnObjectError, decode, decode_any, storable
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
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.model import Target


TIME_UP = "the pass's time was up"
"""The reason for services without an observation.

If a limit of this process prevented a probe, the service has an observation that names the limit.
"""


def judge_all(observations: Iterable[Observation]) -> tuple[Verdict, ...]:
    """Return the verdicts of a pass. A service that was not probed has none."""
    return tuple(
        judge(observation)
        for observation in observations
        if observation.failure is not Failure.NOT_PROBED
    )


def judge(observation: Observation) -> Verdict:
    """Return the verdict on an observation.

    Never raises: every observation has a verdict, and every unhealthy verdict has a reason.
    """
    if observation.failure is not None:
        verdict = _judge_failure(observation, observation.failure)
    elif observation.target.only_connects:
        verdict = _judge_connection(observation)
    elif observation.http_status not in observation.target.expect:
        verdict = _judge_status(observation)
    else:
        verdict = _judge_answer(observation)
    return verdict._replace(
        attempts=observation.attempts,
        certificate_days_left=observation.certificate_days_left,
    )


def _judge_failure(observation: Observation, failure: Failure) -> Verdict:
    """Judge a probe without an HTTP answer."""
    return Verdict(
        target=observation.target,
        taken_at=observation.taken_at,
        state=State.DOWN if failure is Failure.NO_CONNECTION else State.UNKNOWN,
        # An unhealthy verdict always has a reason, also where the error has no text.
        reason=one_line(observation.error) or failure.value,
        reason_class=observation.reason_class or "protocol",
    )


def _judge_status(observation: Observation) -> Verdict:
    """Judge an answer whose HTTP status is not an expected one."""
    reason = f"http {observation.http_status}"
    if observation.error:
        reason += f": {observation.error}"
    return Verdict(
        target=observation.target,
        taken_at=observation.taken_at,
        state=State.DEGRADED,
        reason=one_line(reason),
        latency_ms=observation.latency_ms,
        http_status=observation.http_status,
        reason_class=f"http_{observation.http_status}",
    )


def _judge_connection(observation: Observation) -> Verdict:
    """Judge a connection that succeeded, of a target that only connects."""
    slow = _too_slow(observation)
    ending = _certificate_ends(observation)
    return _judge_by_reasons(observation, [*slow, *ending], _first_class(slow, ending))


def _judge_answer(observation: Observation) -> Verdict:
    """Judge an answer with an expected status by its body, its latency and its certificate."""
    target = observation.target
    try:
        document = decode(observation.body) if target.json else {}
    except ValueError as error:
        return Verdict(
            target=target,
            taken_at=observation.taken_at,
            state=State.UNKNOWN,
            reason=one_line(str(error)),
            reason_class="not_object" if isinstance(error, NotAnObjectError) else "not_json",
        )
    broken = broken_conditions(_answer(observation, document), target.conditions)
    slow = _too_slow(observation)
    ending = _certificate_ends(observation)
    reasons = [*(reason for _, reason in broken), *slow, *ending]
    reason_class = _first_class(slow, ending)
    if broken:
        reason_class = f"condition:{broken[0][0].subject}"
    verdict = _judge_by_reasons(observation, reasons, reason_class)
    counters = value_at(document, target.counters_at)
    return verdict._replace(counters={} if counters is ABSENT else storable(counters))


def _judge_by_reasons(
    observation: Observation, reasons: Sequence[str], reason_class: str
) -> Verdict:
    """Judge a service that answered: it is degraded if there is any reason."""
    return Verdict(
        target=observation.target,
        taken_at=observation.taken_at,
        state=State.DEGRADED if reasons else State.HEALTHY,
        reason=one_line("; ".join(reasons)),
        reason_class=reason_class,
        latency_ms=observation.latency_ms,
        http_status=observation.http_status,
        counters={},
    )


def _answer(observation: Observation, document: Mapping[str, Any]) -> Answer:
    """Return what the conditions are about. A body is decoded only if one of them needs it."""
    target, body = observation.target, observation.body
    read: Any = document
    if not target.json:
        has_pointers = any(condition.pointer is not None for condition in target.conditions)
        read = _any_json(body) if has_pointers else NOT_JSON
    is_text = any(not item.header and item.pointer is None for item in target.conditions)
    text = body.decode("utf-8-sig", errors="replace").strip() if is_text else ""
    return Answer(read, text, observation.headers)


def _any_json(body: bytes) -> Any:
    """Return a body as any JSON value, and NOT_JSON if it is none."""
    try:
        return decode_any(body)
    except ValueError:
        return NOT_JSON


def _first_class(slow: Sequence[str], ending: Sequence[str]) -> str:
    """Return the reason class of an answer that breaks no condition."""
    if slow:
        return "latency"
    return "certificate" if ending else ""


def _certificate_ends(observation: Observation) -> list[str]:
    """Return the reason if the server's certificate ends too soon."""
    least, left = observation.target.certificate_days, observation.certificate_days_left
    if least is None or left is None or left >= least:
        return []
    return [f"certificate {end_in_words(left)}, wants at least {format_days(least)} left"]


def _too_slow(observation: Observation) -> list[str]:
    """Return the reason if the latency is over the service's limit."""
    latency_ms = observation.latency_ms
    limit_ms = observation.target.max_latency_ms
    if limit_ms is None or latency_ms is None or latency_ms <= limit_ms:
        return []
    return [f"latency is {latency_ms} ms, wants at most {limit_ms} ms"]


def not_probed(verdicts: Sequence[Verdict], targets: Sequence[Target]) -> tuple[str, ...]:
    """Return the names of the services without a verdict. Nothing is known about them."""
    judged = {verdict.target.name for verdict in verdicts}
    return tuple(target.name for target in targets if target.name not in judged)


def not_probed_reasons(
    observations: Sequence[Observation], targets: Sequence[Target]
) -> tuple[str, ...]:
    """Return why services were not probed, each reason once."""
    reasons = [TIME_UP] if len(observations) < len(targets) else []
    reasons += [
        one_line(observation.error)
        for observation in observations
        if observation.failure is Failure.NOT_PROBED
    ]
    return tuple(dict.fromkeys(reasons))


def remedy(reasons: Sequence[str]) -> str:
    """Return what to do about the reasons why services were not probed."""
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
    """Return what a verdict changes, compared with the state that the database knows.

    ``observed_at`` and ``now`` are times of the database's clock. Return None if the database
    already has this observation or a newer one: a pass that is late, was paused or is repeated
    changes nothing. A row from the future does not count as newer: a clock was set back.
    """
    if before.checked_at is not None and observed_at <= before.checked_at <= now:
        return None
    same_health = before.healthy is verdict.healthy
    # Counted in the database, so that passes of different processes count together.
    streak = before.streak + 1 if same_health else 1
    since = observed_at
    if same_health and before.since is not None:
        since = before.since
    return StateChange(
        verdict=verdict,
        streak=streak,
        since=since,
        checked_at=observed_at,
        # At least, not exactly: a maintenance may have suppressed the alert before.
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
    """Return the changes of all verdicts of a pass.

    ``time_of`` converts a moment of the process's clock to a time of the database's clock.
    ``thresholds`` are for services without thresholds of their own.
    """
    changes = []
    for verdict in verdicts:
        target = verdict.target
        change = decide(
            verdict,
            observed_at=time_of(verdict.taken_at),
            before=before[target.name],
            thresholds=thresholds_of(target, thresholds),
            now=now,
        )
        if change is not None:
            changes.append(change)
    return changes


def thresholds_of(target: Target, thresholds: Thresholds) -> Thresholds:
    """Return the thresholds of a service. The settings have the default of each one."""
    return Thresholds(
        target.alert_after or thresholds.alert_after,
        target.resolve_after or thresholds.resolve_after,
    )


def suppress_alerts(changes: Iterable[StateChange], services: Container[str]) -> list[StateChange]:
    """Return the changes with no alert that opens for ``services``.

    States and streaks are recorded as usual, and alerts close.
    """
    return [
        change._replace(opens=change.opens and change.verdict.target.name not in services)
        for change in changes
    ]


def preview(changes: Iterable[StateChange]) -> Recorded:
    """Return what recording these changes would do. Nothing is recorded."""
    changes = tuple(changes)
    opening = tuple(change.verdict.target.name for change in changes if change.opens)
    closing = tuple(change.verdict.target.name for change in changes if change.closes)
    return Recorded(changes, opening, closing)


def alerted(before: Mapping[str, KnownState], recorded: Recorded) -> tuple[str, ...]:
    """Return the names of the services that have an alert after this is recorded, sorted."""
    names = {name for name, known in before.items() if known.alerted}
    names |= {*recorded.opened}
    names -= {*recorded.closed}
    return tuple(sorted(names))


def details(change: StateChange) -> dict[str, Any]:
    """Return ``service_health.details``.

    The first keys are those of the platform's contract (docs/contract.md). The worker adds
    ``streak`` and ``since``, and ``certificate_days_left`` of a service that asks for it.
    """
    verdict = change.verdict
    document: dict[str, Any] = {"status": verdict.state.value}
    if verdict.state is State.HEALTHY:
        document |= {"latency_ms": verdict.latency_ms, "counters": verdict.counters}
    elif verdict.state is State.DEGRADED:
        document |= {"latency_ms": verdict.latency_ms, "http_status": verdict.http_status}
        if verdict.reason != f"http {verdict.http_status}":  # the status alone does not say why
            document["reason"] = verdict.reason
        if verdict.counters is not None:  # the status was as expected, but something else is not
            document["counters"] = verdict.counters
    else:
        document["error"] = verdict.reason
    if verdict.certificate_days_left is not None:
        document["certificate_days_left"] = verdict.certificate_days_left
    return document | {"streak": change.streak, "since": change.since.isoformat()}


def evidence(change: StateChange, origin: Mapping[str, str]) -> dict[str, Any]:
    """Return ``fleet_alert.details.evidence``: what was seen when the alert opened.

    ``origin`` names the pass that saw it. Keys without a value are left out. The size is bounded,
    because the reason is.
    """
    verdict = change.verdict
    facts = {
        "state": verdict.state.value,
        "reason": verdict.reason,
        "http_status": verdict.http_status,
        "latency_ms": verdict.latency_ms,
        "attempts": verdict.attempts,
        "certificate_days_left": verdict.certificate_days_left,
        "streak": change.streak,
        "since": change.since.isoformat(),
        "checked_at": change.checked_at.isoformat(),
    }
    return {**origin, **{name: value for name, value in facts.items() if value is not None}}


def new_alert(
    service: str, reason: str, evidence: Mapping[str, Any], causes: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return an alert to open. Its summary names the service and the reason that opened it.

    ``causes`` are what the worker's own alert stands for; None for a service.
    """
    alert = {
        "service": service,
        "summary": f"Service unhealthy: {service} ({reason})",
        "evidence": evidence,
    }
    return alert if causes is None else {**alert, "causes": causes}


def maintenance_end(
    recorded: datetime | None, setting: datetime | None, now: datetime
) -> datetime | None:
    """Return when the maintenance in which no alert opens ends; None if there is none.

    The later end counts. ``recorded`` is the end of the maintenance that the database has now.
    ``setting`` is MAINTENANCE_UNTIL; it is ignored once it is over.
    """
    ends = [recorded, setting if setting is not None and setting > now else None]
    return max(filter(None, ends), default=None)
