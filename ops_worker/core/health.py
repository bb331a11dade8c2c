"""The rules of health: judge observations, and decide which alerts open and close."""

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
"""The reason why services have no observation.

A service whose probe was prevented by a limit of this process has an observation, which names the
limit.
"""


def judge_all(observations: Iterable[Observation]) -> tuple[Verdict, ...]:
    """Return the verdicts of a pass. A service that was not probed has no verdict."""
    return tuple(
        judge(observation)
        for observation in observations
        if observation.failure is not Failure.NOT_PROBED
    )


def judge(observation: Observation) -> Verdict:
    """Return the verdict on an observation of a probe.

    This never raises an error, and every unhealthy verdict has a reason.
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
        # The error of a library may have no text.
        reason=one_line(observation.error) or failure.value,
        reason_class=observation.reason_class or "protocol",
    )


def _judge_status(observation: Observation) -> Verdict:
    """Judge an answer with an unexpected HTTP status."""
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
    """Judge a completed connection to a target that only connects."""
    latency_reasons = _latency_reasons(observation)
    certificate_reasons = _certificate_reasons(observation)
    return _judge_by_reasons(
        observation,
        [*latency_reasons, *certificate_reasons],
        _limit_class(latency_reasons, certificate_reasons),
    )


def _judge_answer(observation: Observation) -> Verdict:
    """Judge an answer with an expected status: its conditions, latency and certificate."""
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
    latency_reasons = _latency_reasons(observation)
    certificate_reasons = _certificate_reasons(observation)
    reasons = [*(reason for _, reason in broken), *latency_reasons, *certificate_reasons]
    reason_class = _limit_class(latency_reasons, certificate_reasons)
    if broken:
        first_condition, _ = broken[0]
        reason_class = f"condition:{first_condition.subject}"
    verdict = _judge_by_reasons(observation, reasons, reason_class)
    counters = value_at(document, target.counters_at)
    return verdict._replace(counters={} if counters is ABSENT else storable(counters))


def _judge_by_reasons(
    observation: Observation, reasons: Sequence[str], reason_class: str
) -> Verdict:
    """Judge a service that answered. With a reason it is degraded, otherwise healthy."""
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
    """Return the parts of an answer that conditions compare.

    The body is decoded only if a condition needs it. ``document`` is the body of a target whose
    body must be a JSON object.
    """
    target, body = observation.target, observation.body
    value: Any = document
    if not target.json:
        has_pointers = any(condition.pointer is not None for condition in target.conditions)
        value = _any_json(body) if has_pointers else NOT_JSON
    needs_text = any(
        not condition.header and condition.pointer is None for condition in target.conditions
    )
    text = body.decode("utf-8-sig", errors="replace").strip() if needs_text else ""
    return Answer(value, text, observation.headers)


def _any_json(body: bytes) -> Any:
    """Return the JSON value of a body, or NOT_JSON."""
    try:
        return decode_any(body)
    except ValueError:
        return NOT_JSON


def _limit_class(latency_reasons: Sequence[str], certificate_reasons: Sequence[str]) -> str:
    """Return the reason class of an answer that breaks no condition; empty without a reason."""
    if latency_reasons:
        return "latency"
    return "certificate" if certificate_reasons else ""


def _certificate_reasons(observation: Observation) -> list[str]:
    """Return the reason if the server's certificate ends too soon, else an empty list."""
    min_days, days_left = observation.target.certificate_days, observation.certificate_days_left
    if min_days is None or days_left is None or days_left >= min_days:
        return []
    return [f"certificate {end_in_words(days_left)}, wants at least {format_days(min_days)} left"]


def _latency_reasons(observation: Observation) -> list[str]:
    """Return the reason if the latency is over the service's limit, else an empty list."""
    latency_ms = observation.latency_ms
    limit_ms = observation.target.max_latency_ms
    if limit_ms is None or latency_ms is None or latency_ms <= limit_ms:
        return []
    return [f"latency is {latency_ms} ms, wants at most {limit_ms} ms"]


def not_probed(verdicts: Sequence[Verdict], targets: Sequence[Target]) -> tuple[str, ...]:
    """Return the names of the services that have no verdict."""
    judged = {verdict.target.name for verdict in verdicts}
    return tuple(target.name for target in targets if target.name not in judged)


def not_probed_reasons(
    observations: Sequence[Observation], targets: Sequence[Target]
) -> tuple[str, ...]:
    """Return the reasons why services were not probed, each reason once."""
    reasons = [TIME_UP] if len(observations) < len(targets) else []
    reasons += [
        one_line(observation.error)
        for observation in observations
        if observation.failure is Failure.NOT_PROBED
    ]
    return tuple(dict.fromkeys(reasons))


def remedy(reasons: Sequence[str]) -> str:
    """Return the remedy for the reasons why services were not probed."""
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
    """Return the state change of a verdict; None if the database has this or a newer observation.

    So a pass that is late, was paused or is repeated changes nothing. An observation from the
    future does not count as newer: its clock was set back. ``before`` is the known state.
    ``observed_at`` and ``now`` are times of the database's clock.
    """
    if before.checked_at is not None and observed_at <= before.checked_at <= now:
        return None
    same_health = before.healthy is verdict.healthy
    # The streak comes from the database, so that passes of different processes count together.
    streak = before.streak + 1 if same_health else 1
    since = observed_at
    if same_health and before.since is not None:
        since = before.since
    return StateChange(
        verdict=verdict,
        streak=streak,
        since=since,
        checked_at=observed_at,
        # Not `==`: a maintenance may have suppressed the alert at the exact streak.
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
    """Return the state changes of all verdicts of a pass.

    ``time_of`` converts a moment of the process's monotonic clock to a time of the database's
    clock. ``thresholds`` are for services without thresholds in the catalogue.
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
    """Return the thresholds of a service. ``thresholds`` are those of the settings."""
    return Thresholds(
        target.alert_after or thresholds.alert_after,
        target.resolve_after or thresholds.resolve_after,
    )


def suppress_alerts(changes: Iterable[StateChange], services: Container[str]) -> list[StateChange]:
    """Return the state changes, of which none opens an alert for one of ``services``.

    Nothing else changes: states and streaks are still recorded, and alerts still close.
    """
    return [
        change._replace(opens=change.opens and change.verdict.target.name not in services)
        for change in changes
    ]


def preview(changes: Iterable[StateChange]) -> Recorded:
    """Return what a pass would record for these state changes: the result of a dry run."""
    changes = tuple(changes)
    opened = tuple(change.verdict.target.name for change in changes if change.opens)
    closed = tuple(change.verdict.target.name for change in changes if change.closes)
    return Recorded(changes, opened, closed)


def alerted(before: Mapping[str, KnownState], recorded: Recorded) -> tuple[str, ...]:
    """Return the names of the services with an open or acknowledged alert after a pass, sorted.

    ``before`` are the known states before the pass, and ``recorded`` is what the pass recorded.
    """
    names = {name for name, known in before.items() if known.alerted}
    names |= {*recorded.opened}
    names -= {*recorded.closed}
    return tuple(sorted(names))


def details(change: StateChange) -> dict[str, Any]:
    """Return ``service_health.details``.

    The first keys come from the platform's contract (docs/contract.md). The worker adds ``streak``,
    ``since`` and, for a service with ``certificate_days``, ``certificate_days_left``.
    """
    verdict = change.verdict
    document: dict[str, Any] = {"status": verdict.state.value}
    if verdict.state is State.HEALTHY:
        document |= {"latency_ms": verdict.latency_ms, "counters": verdict.counters}
    elif verdict.state is State.DEGRADED:
        document |= {"latency_ms": verdict.latency_ms, "http_status": verdict.http_status}
        if verdict.reason != f"http {verdict.http_status}":  # the status is not the whole reason
            document["reason"] = verdict.reason
        if verdict.counters is not None:  # the status was expected, so that counters were read
            document["counters"] = verdict.counters
    else:
        document["error"] = verdict.reason
    if verdict.certificate_days_left is not None:
        document["certificate_days_left"] = verdict.certificate_days_left
    return document | {"streak": change.streak, "since": change.since.isoformat()}


def evidence(change: StateChange, origin: Mapping[str, str]) -> dict[str, Any]:
    """Return ``fleet_alert.details.evidence``: what a pass saw when it opened the alert.

    ``origin`` has the job, pod and version of the pass. Keys without a value are left out. The size
    is limited, because the reason is limited to one line.
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
    """Return an alert to open. Its summary has the service and the reason.

    ``causes`` are the causes of the worker's own alert; None for the alert of a service.
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
    """Return the end of the maintenance of all services; None if there is no maintenance now.

    ``recorded`` is the end of the running maintenance in the database, and ``setting`` is
    MAINTENANCE_UNTIL. The later end counts. A setting in the past does not count.
    """
    ends = [recorded, setting if setting is not None and setting > now else None]
    return max(filter(None, ends), default=None)
