"""Why a service has its state: from the rows about it to a document, sentences and tables."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.conditions import wanted
from ops_worker.core.decoding import parse_time
from ops_worker.core.model import State
from ops_worker.core.passes import HEALTH, METRICS, PASSES
from ops_worker.core.samples import HEALTHY, OPS_WORKER, POSTGRES
from ops_worker.core.staleness import (
    MIN_STALE_S,
    STALE_PERIODS,
    PassRecord,
    is_fresh,
    longest_silent,
    overdue,
    period_of,
    stale_after_s,
)
from ops_worker.history.screen import ScreenTable, format_time
from ops_worker.text import format_age, format_duration, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.model import Target, Thresholds
    from ops_worker.history.rows import (
        HealthRow,
        JsonValue,
        MaintenanceRow,
        ObservationRow,
        ServiceAlertRow,
    )
    from ops_worker.history.series import Run

LOOK_BACK_S = 86_400.0
"""Seconds before the time in question for which the ups and downs are listed."""
MAX_PERIODS = 8
"""Periods of health that are listed."""
UNHEALTHY_STATES = frozenset(state.value for state in State if state is not State.HEALTHY)
"""The states that one streak of unhealthy passes may have in turn."""
NOT_OBSERVED = "no pass looked"
"""The reason where nothing is known because no pass ran."""


class ServiceHistory(NamedTuple):
    """The rows about a service at the time ``at``; ``now`` is the database's clock.

    ``in_maintenance`` is whether the last health pass before ``at`` recorded a maintenance.
    ``maintenance_until`` is the end of the maintenance that is running, if ``at`` is now.
    """

    service: str
    now: datetime
    at: datetime
    row: HealthRow | None
    runs: Sequence[Run]
    observations: Sequence[ObservationRow]
    alerts: Sequence[ServiceAlertRow]
    passes: Sequence[PassRecord]
    in_maintenance: bool
    maintenance_until: datetime | None
    maintenances: Sequence[MaintenanceRow] = ()


class Rule(NamedTuple):
    """The rule by which a service is judged.

    ``target`` is None if the service is not monitored. ``alerts_enabled`` is whether alerts open at
    all. ``self_metrics_enabled`` is whether the passes record themselves; without that, no pass can
    find out that another one has stopped.
    """

    target: Target | None
    thresholds: Thresholds
    alerts_enabled: bool = True
    self_metrics_enabled: bool = True


class ServiceState(NamedTuple):
    """The state of a service at a time.

    ``seen_by`` is the pass that observed it; it is empty if nothing is known.
    """

    state: str
    since: datetime | None
    reason: str
    seen_by: str = ""
    streak: int | None = None


class HealthPeriod(NamedTuple):
    """A period in which a service was healthy, unhealthy, or of which nothing is known."""

    state: str
    from_: datetime
    to: datetime
    seconds: float


class Observation(NamedTuple):
    """What a pass recorded about a service."""

    time: datetime
    pass_: str
    found: str


class Alert(NamedTuple):
    """An alert of a service. ``open`` is whether it was open at the time in question.

    ``ahead`` is whether it opened after that time. ``acknowledged_in_time`` is whether it had been
    acknowledged by then.
    """

    id: int
    status: str
    open: bool
    ahead: bool
    opened: datetime
    closed: datetime | None
    acknowledged_by: str
    acknowledged_in_time: bool
    acknowledged_at: datetime | None
    summary: str
    evidence: Mapping[str, JsonValue]


class PassAge(NamedTuple):
    """The last record of a pass before the time in question, and its age then."""

    pass_: str
    recorded: datetime
    age_s: float


class Maintenance(NamedTuple):
    """A maintenance at the time in question."""

    from_: datetime
    to: datetime
    started_by: str
    reason: str


class Explanation(NamedTuple):
    """The document of ``ops-worker explain``. The fields of these types are its keys.

    ``alert`` is a sentence. ``rule`` has a phrase and its value for each part of the rule.
    """

    service: str
    at: datetime
    state: str
    since: datetime | None
    reason: str
    seen_by: str
    streak: int | None
    alert: str
    turns: Sequence[HealthPeriod]
    observations: Sequence[Observation]
    rule: Mapping[str, str]
    alerts: Sequence[Alert]
    passes: Sequence[PassAge]
    maintenances: Sequence[Maintenance]


def build(history: ServiceHistory, rule: Rule) -> Explanation:
    """Build the document: the state, the reason, and what the alert did."""
    state = _state(history, rule)
    alerts = [_alert(row, history) for row in history.alerts]
    return Explanation(
        service=one_line(history.service),
        at=history.at.astimezone(UTC),
        state=state.state,
        since=state.since,
        reason=state.reason,
        seen_by=state.seen_by,
        streak=state.streak,
        alert=_alert_sentence(history, rule, state, alerts),
        turns=_health_periods(history),
        observations=[_observation(row) for row in history.observations],
        rule=_describe_rule(history.service, rule),
        alerts=alerts,
        passes=[_pass(record, history.at) for record in history.passes],
        maintenances=[_maintenance(row) for row in history.maintenances],
    )


def is_known(history: ServiceHistory) -> bool:
    """Return whether anything is known about the service: a row, a sample or an alert.

    The worker and its database are always known.
    """
    if history.service in {OPS_WORKER, POSTGRES}:
        return True
    return bool(history.row or history.runs or history.observations or history.alerts)


# The state. Each step returns None if it cannot answer; the first answer counts.


class _RowAtTime(NamedTuple):
    """What the row in ``service_health`` says about the time in question.

    - ``covers``: the state of the row had begun by then.
    - ``is_current``: the row had been written by then, so its details hold.
    - ``from_future``: it is from the future, because a clock was set back. It is not believed.
    - ``looked_at``: when a health pass last looked.
    """

    state: str
    since: datetime
    covers: bool
    is_current: bool
    from_future: bool
    looked_at: datetime | None
    details: Mapping[str, JsonValue]


def _state(history: ServiceHistory, rule: Rule) -> ServiceState:
    """Return the state from the row if it covers the time, else from the samples, else unknown."""
    row = _row_at_time(history)
    return (
        _seen_by_health_pass(history, row)
        or _seen_by_metrics_pass(history)
        or _state_of_worker(history)
        or _stale_row(row)
        or _unknown(history, rule)
    )


def _row_at_time(history: ServiceHistory) -> _RowAtTime | None:
    row = history.row
    if row is None:
        return None
    details: Mapping[str, JsonValue] = row.details if isinstance(row.details, dict) else {}
    since = parse_time(details.get("since")) or row.checked_at
    covers = since <= history.at
    is_current = covers and row.checked_at <= history.at
    age_s = (history.at - row.checked_at).total_seconds()
    health_s = period_of(history.passes, HEALTH.name)
    # Nobody knows in which shard the service is: the oldest record counts.
    record = longest_silent(history.passes, HEALTH.name)
    looked_at = record.time if record else None
    state = row.status
    if is_current:
        looked_at = row.checked_at
        state = details.get("status") or row.status
    return _RowAtTime(
        state=one_line(str(state)),
        since=since,
        covers=covers,
        is_current=is_current,
        from_future=history.at == history.now and age_s < -health_s,
        looked_at=looked_at,
        details=details,
    )


def _seen_by_health_pass(history: ServiceHistory, row: _RowAtTime | None) -> ServiceState | None:
    """Return the state in the row, if a health pass looked shortly before that time."""
    if row is None or not row.covers or row.from_future or row.looked_at is None:
        return None
    age_s = (history.at - row.looked_at).total_seconds()
    if age_s > stale_after_s(period_of(history.passes, HEALTH.name)):
        return None
    reason = ""
    streak = None
    if row.is_current:
        # A later row has the reason and the streak of a later time.
        reason = _reason(row.details)
        streak = row.details.get("streak")
    return ServiceState(
        state=row.state,
        since=row.since.astimezone(UTC),
        reason=one_line(reason),
        seen_by="the health pass",
        streak=streak if isinstance(streak, int) else None,
    )


def _reason(details: Mapping[str, JsonValue]) -> str:
    reason = details.get("error") or details.get("reason")
    if not reason and "http_status" in details:
        reason = f"http {details['http_status']}"
    return str(reason or "")


def _seen_by_metrics_pass(history: ServiceHistory) -> ServiceState | None:
    """Return the state in the samples, if they cover that time."""
    covering = [run for run in history.runs if run.begun <= history.at <= run.ended]
    if not covering:
        return None
    # At the moment of a change, the later run counts.
    run = covering[-1]
    reason = ""
    if not run.up:
        summaries = [row.summary for row in history.alerts if _is_open(row, history)]
        reason = summaries[0] if summaries else ""
    return ServiceState(
        state="healthy" if run.up else "unhealthy",
        since=run.begun.astimezone(UTC),
        reason=one_line(reason),
        seen_by="the metrics pass",
    )


def _state_of_worker(history: ServiceHistory) -> ServiceState | None:
    """Return the state of the worker itself: stale if any of its passes has stopped."""
    if history.service != OPS_WORKER or not history.passes:
        return None
    names = sorted({record.name for record in history.passes})
    stopped = [name for name in names if overdue(history.passes, name, history.at)]
    if not stopped:
        return ServiceState(state="healthy", since=None, reason="", seen_by="its passes")
    reason = f"not recorded for {STALE_PERIODS} periods: {', '.join(stopped)}"
    return ServiceState(state="stale", since=None, reason=reason, seen_by="its passes")


def _stale_row(row: _RowAtTime | None) -> ServiceState | None:
    """Return stale, if there is a row for that time and no pass has confirmed it."""
    if row is None or not (row.covers or row.from_future):
        return None
    return ServiceState(
        state="stale",
        since=row.looked_at.astimezone(UTC) if row.looked_at else None,
        reason=one_line(f"no pass has looked since; it was {row.state}"),
        seen_by="the health pass",
    )


def _unknown(history: ServiceHistory, rule: Rule) -> ServiceState:
    since = history.runs[-1].ended.astimezone(UTC) if history.runs else None
    return ServiceState(state="unknown", since=since, reason=one_line(_why_unknown(history, rule)))


def _why_unknown(history: ServiceHistory, rule: Rule) -> str:
    """Return why nothing is known about a service at that time, although passes may have run."""
    if history.service == OPS_WORKER:
        return "no pass was recorded, or RECORD_OWN_METRICS is off"
    probing = [name for name, spec in PASSES.items() if spec.probes]
    ran = [name for name in probing if is_fresh(history.passes, name, history.at)]
    if not ran or history.service == POSTGRES:
        return NOT_OBSERVED
    several = len(ran) > 1
    reason = f"the last {' and '.join(ran)} {'passes' if several else 'pass'} did not probe it"
    if rule.target is None:
        return reason
    pronoun = "they" if several else "it"
    return f"{reason}: it was not in the catalogue then, or {pronoun} had no time left for it"


# The alert.


def _alert_sentence(
    history: ServiceHistory, rule: Rule, state: ServiceState, alerts: Sequence[Alert]
) -> str:
    """Return a sentence about the alert. If one may be expected, it says why none is open."""
    for alert in alerts:
        if alert.open:
            return _open_alert_sentence(alert)
    expects_none = {"healthy", "stale"}
    if history.service == OPS_WORKER:
        expects_none = {"healthy"}
    if not state.seen_by or state.state in expects_none:
        return "no alert is open"
    return f"no alert is open{_why_no_alert(history, rule, state, alerts)}"


def _open_alert_sentence(alert: Alert) -> str:
    acknowledged = "acknowledged by nobody"
    if alert.acknowledged_at and alert.acknowledged_in_time:
        time = format_time(alert.acknowledged_at)
        acknowledged = f"acknowledged by {alert.acknowledged_by} at {time}"
    opened = format_time(alert.opened)
    since = f"with an opening time in the future, {opened}" if alert.ahead else f"since {opened}"
    return f"alert {alert.id} is open {since}, {acknowledged}"


def _why_no_alert(
    history: ServiceHistory, rule: Rule, state: ServiceState, alerts: Sequence[Alert]
) -> str:
    """Return why no alert is open for a service that is not healthy, with punctuation."""
    reason = _why_never(history, rule) or _why_maintenance(history)
    if reason:
        return f": {reason}"
    if history.service == OPS_WORKER:
        return f": {_who_opens_own_alert(history)}"
    after = rule.thresholds.alert_after
    if state.streak is not None and state.streak < after:
        return f" yet: {state.streak} of {after} passes in a row found it so"
    opens = "it opens with the next health pass that finds it so"
    if after > 1 and state.streak is None:
        opens = f"it opens once {after} health passes in a row find it so"
    closed_by_person = ""
    if _was_closed_since(alerts, state.since):
        closed_by_person = ", or a person has closed it since"
    return f": {opens}{closed_by_person}"


def _was_closed_since(alerts: Sequence[Alert], since: datetime | None) -> bool:
    if since is None:
        return False
    return any(alert.closed is not None and alert.closed >= since for alert in alerts)


def _why_never(history: ServiceHistory, rule: Rule) -> str:
    """Return why no alert of this service can open at all; nothing if one can."""
    is_worker = history.service == OPS_WORKER
    if history.service == POSTGRES:
        return "none ever opens for postgres"
    if rule.target is None and not is_worker:
        return "no pass watches it any more"
    if not rule.alerts_enabled:
        return "SYSTEM_ALERT_ENABLED is off, and so is the health pass"
    if is_worker and not rule.self_metrics_enabled:
        return "RECORD_OWN_METRICS is off, so that no pass can tell that the other one stopped"
    return ""


def _why_maintenance(history: ServiceHistory) -> str:
    """Return that a maintenance is the reason; nothing if there is none.

    If only the last health pass recorded it, it may be over.
    """
    if history.maintenance_until:
        until = history.maintenance_until.astimezone(UTC)
        return f"there is maintenance until {format_time(until)}"
    if not history.in_maintenance and not history.maintenances:
        return ""
    if history.at < history.now:
        return "there is maintenance"
    opens = "if that is over, the next one that finds it so opens an alert"
    return f"at the last health pass there was maintenance; {opens}"


def _who_opens_own_alert(history: ServiceHistory) -> str:
    """Return which pass opens the worker's own alert, after another pass has stopped."""
    for name in PASSES:
        fresh = is_fresh(history.passes, name, history.at)
        if fresh and not overdue(history.passes, name, history.at):
            return f"the {name} pass opens one with its next turn"
    return "no pass runs that could open one"


def _alert(row: ServiceAlertRow, history: ServiceHistory) -> Alert:
    acknowledged_in_time = False
    if row.acknowledged_at:
        is_now = history.at == history.now
        acknowledged_in_time = is_now or row.acknowledged_at <= history.at
    return Alert(
        id=row.id,
        status=row.status,
        open=_is_open(row, history),
        ahead=row.created_at > history.at,
        opened=row.created_at.astimezone(UTC),
        closed=_utc(row.closed_at),
        acknowledged_by=one_line(row.acknowledged_by or ""),
        acknowledged_in_time=acknowledged_in_time,
        acknowledged_at=_utc(row.acknowledged_at),
        summary=one_line(row.summary),
        evidence=row.evidence if isinstance(row.evidence, dict) else {},
    )


def _is_open(row: ServiceAlertRow, history: ServiceHistory) -> bool:
    """Return whether an alert was open at that time. Now, its status alone decides."""
    if history.at == history.now:
        return row.status != "CLOSED"
    if row.created_at > history.at:
        return False
    if row.status != "CLOSED":
        return True
    return row.closed_at is not None and row.closed_at > history.at


# The other parts of the document.


def _health_periods(history: ServiceHistory) -> list[HealthPeriod]:
    """Return the last ups and downs, with the gaps between them as unknown, the newest last."""
    periods: list[HealthPeriod] = []
    next_begins = [*(run.begun for run in history.runs[1:]), history.at]
    for run, next_begin in zip(history.runs, next_begins, strict=False):
        periods.append(_health_period("healthy" if run.up else "unhealthy", run.begun, run.ended))
        if run.ended < next_begin:
            periods.append(_health_period("unknown", run.ended, next_begin))
    return periods[-MAX_PERIODS:]


def _health_period(state: str, begun: datetime, ended: datetime) -> HealthPeriod:
    return HealthPeriod(
        state=state,
        from_=begun.astimezone(UTC),
        to=ended.astimezone(UTC),
        seconds=(ended - begun).total_seconds(),
    )


def _observation(row: ObservationRow) -> Observation:
    time = row.time.astimezone(UTC)
    if row.metric != HEALTHY:
        return Observation(time, HEALTH.name, f"answered in {row.value:g} ms")
    return Observation(time, METRICS.name, "healthy" if row.value == 1 else "unhealthy")


def _pass(record: PassRecord, at: datetime) -> PassAge:
    return PassAge(one_line(record.label), record.time.astimezone(UTC), record.age_s(at))


def _maintenance(row: MaintenanceRow) -> Maintenance:
    return Maintenance(
        from_=row.begun.astimezone(UTC),
        to=row.ended.astimezone(UTC),
        started_by=one_line(row.started_by),
        reason=one_line(row.reason),
    )


def _describe_rule(service: str, rule: Rule) -> dict[str, str]:
    """Return the parts of the rule, each as a phrase and its value."""
    if rule.target is not None:
        return _describe_target(rule.target, rule)
    if service == OPS_WORKER:
        return _describe_own_alert(rule)
    if service == POSTGRES:
        return {
            "healthy when": "it answers at least one figure of the metrics pass",
            "an alert opens": "never",
        }
    alone = "its row and its alert, where there are any, go with `ops-worker alerts prune`"
    return {"watched": f"no; {alone}"}


def _describe_own_alert(rule: Rule) -> dict[str, str]:
    if not rule.alerts_enabled:
        return {"an alert opens": "never: SYSTEM_ALERT_ENABLED is off"}
    if not rule.self_metrics_enabled:
        return {"an alert opens": "never: RECORD_OWN_METRICS is off"}
    silent = f"{STALE_PERIODS} of its periods, at least {MIN_STALE_S:g} s"
    stopped = f"a pass that once ran was not recorded for {silent}"
    return {"an alert opens when": f"{stopped}; another pass sees that"}


def _describe_target(target: Target, rule: Rule) -> dict[str, str]:
    expectations = [f"http {', '.join(map(str, target.expect))}"]
    if target.json:
        expectations.append("a JSON object")
    expectations += wanted(target.conditions)
    if target.max_latency_ms is not None:
        expectations.append(f"latency at most {target.max_latency_ms} ms")
    opens_after = _passes_in_a_row(rule.thresholds.alert_after, "unhealthy")
    if not rule.alerts_enabled:
        opens_after = "never: SYSTEM_ALERT_ENABLED is off"
    return {
        "asked": target.shown_url,
        "answers within": f"{target.deadline_s:g} s",
        "healthy when": "; ".join(expectations),
        "an alert opens after": opens_after,
        "it closes after": _passes_in_a_row(rule.thresholds.resolve_after, "healthy"),
    }


def _passes_in_a_row(number: int, health: str) -> str:
    if number == 1:
        return f"1 {health} pass"
    return f"{number} {health} passes in a row"


def _utc(time: datetime | None) -> datetime | None:
    return time.astimezone(UTC) if time else None


# The screen.


def sentences(explanation: Explanation) -> list[str]:
    """Return two sentences: the state with its reason, and the alert."""
    time = format_time(explanation.at)
    return [f"at {time} UTC: {_state_sentence(explanation)}", explanation.alert]


def _state_sentence(explanation: Explanation) -> str:
    service, reason = explanation.service, explanation.reason
    since = f" since {format_time(explanation.since)}" if explanation.since else ""
    if explanation.seen_by:
        because = f": {reason}" if reason else ""
        seen_by = f" (seen by {explanation.seen_by})"
        if explanation.state in UNHEALTHY_STATES and since:
            # The time is that of the streak, which goes on when a degraded service goes down.
            since = f", unhealthy{since}"
        return f"{service} is {explanation.state}{since}{because}{seen_by}"
    if reason == NOT_OBSERVED:
        return f"nothing is known about {service}: no pass has looked{since}"
    return f"nothing is known about {service}{since}: {reason}"


def tables(explanation: Explanation) -> list[ScreenTable]:
    """Lay the document out as tables, below the sentences."""
    return [
        _health_table(explanation),
        _observations_table(explanation),
        ScreenTable("Rule", ("RULE", "VALUE"), tuple(explanation.rule.items())),
        _alerts_table(explanation.alerts),
        _evidence_table(explanation.alerts),
        _maintenances_table(explanation.maintenances),
        _passes_table(explanation.passes),
    ]


def _health_table(explanation: Explanation) -> ScreenTable:
    none = NOT_OBSERVED
    if explanation.passes:
        none = "the metrics pass has recorded nothing about it"
    if explanation.service == OPS_WORKER:
        none = ""  # Its passes are all that there is to see.
    return ScreenTable(
        title=f"Health as recorded by the metrics pass, previous {format_age(LOOK_BACK_S)}",
        head=("STATE", "FROM", "TO", "DURATION"),
        rows=tuple(
            (
                period.state,
                format_time(period.from_),
                format_time(period.to),
                format_duration(period.seconds),
            )
            for period in explanation.turns
        ),
        state_column=0,
        none=none,
    )


def _observations_table(explanation: Explanation) -> ScreenTable:
    none = "no pass has recorded anything about it"
    if explanation.seen_by:
        none = "no sample is recorded"
    if explanation.service == OPS_WORKER:
        none = ""
    return ScreenTable(
        title="Last samples",
        head=("TIME", "PASS", "RESULT"),
        rows=tuple(
            (format_time(observation.time), observation.pass_, observation.found)
            for observation in explanation.observations
        ),
        none=none,
    )


def _alerts_table(alerts: Sequence[Alert]) -> ScreenTable:
    return ScreenTable(
        title="Last alerts",
        head=("ID", "STATUS", "OPENED", "CLOSED", "ACKNOWLEDGED", "SUMMARY"),
        rows=tuple(
            (
                str(alert.id),
                alert.status,
                format_time(alert.opened),
                format_time(alert.closed),
                _acknowledgement(alert),
                alert.summary,
            )
            for alert in alerts
        ),
        state_column=1,
        none="none",
    )


def _acknowledgement(alert: Alert) -> str:
    if alert.acknowledged_at is None:
        return "-"
    return f"{alert.acknowledged_by}, {format_time(alert.acknowledged_at)}"


def _evidence_table(alerts: Sequence[Alert]) -> ScreenTable:
    """Return the evidence of the newest alert that has any; the table has no rows without it."""
    head = ("NAME", "VALUE")
    for alert in alerts:
        if alert.evidence:
            rows = tuple(
                (one_line(name), one_line(str(value))) for name, value in alert.evidence.items()
            )
            return ScreenTable(f"Evidence of alert {alert.id}", head, rows)
    return ScreenTable("Evidence", head, ())


def _maintenances_table(maintenances: Sequence[Maintenance]) -> ScreenTable:
    return ScreenTable(
        title="Maintenance at that time",
        head=("FROM", "TO", "STARTED BY", "REASON"),
        rows=tuple(
            (
                format_time(maintenance.from_),
                format_time(maintenance.to),
                maintenance.started_by,
                maintenance.reason or "-",
            )
            for maintenance in maintenances
        ),
    )


def _passes_table(passes: Sequence[PassAge]) -> ScreenTable:
    return ScreenTable(
        title="Last passes before that time",
        head=("PASS", "RECORDED", "AGE"),
        rows=tuple(
            (record.pass_, format_time(record.recorded), format_age(record.age_s))
            for record in passes
        ),
        none="none was recorded, or RECORD_OWN_METRICS is off",
    )
