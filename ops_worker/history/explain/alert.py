"""The alerts of a service: which alerts were open at a time, and why no alert was."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.passes import PASSES
from ops_worker.core.samples import OPS_WORKER, POSTGRES
from ops_worker.core.staleness import is_fresh, oldest_stale_record
from ops_worker.history.explain.state import causes_at
from ops_worker.history.screen import format_time
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.history.explain.rows import Rule, ServiceHistory
    from ops_worker.history.explain.state import ServiceState
    from ops_worker.history.rows import JsonValue, ServiceAlertRow


class Alert(NamedTuple):
    """An alert of a service. ``open`` is whether it was open at the time in question.

    ``ahead`` is whether it opened after that time. ``acknowledged_in_time`` is whether it was
    acknowledged before that time.
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


def alert_of(row: ServiceAlertRow, history: ServiceHistory) -> Alert:
    """Return the alert of a row as it was at the time in question."""
    acknowledged_in_time = False
    if row.acknowledged_at:
        acknowledged_in_time = history.is_now or row.acknowledged_at <= history.at
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
    """Return whether an alert was open at the time in question.

    If this time is now, only the alert's status decides.
    """
    if history.is_now:
        return row.status != "CLOSED"
    if row.created_at > history.at:
        return False
    if row.status != "CLOSED":
        return True
    return row.closed_at is not None and row.closed_at > history.at


def alert_sentence(
    history: ServiceHistory, rule: Rule, state: ServiceState, alerts: Sequence[Alert]
) -> str:
    """Return a sentence about the alert. If one might be expected, it says why none is open."""
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
    acknowledged = "not acknowledged"
    if alert.acknowledged_at and alert.acknowledged_in_time:
        time = format_time(alert.acknowledged_at)
        acknowledged = f"acknowledged by {alert.acknowledged_by} at {time}"
    opened = format_time(alert.opened)
    since = f"with an opening time in the future, {opened}" if alert.ahead else f"since {opened}"
    return f"alert {alert.id} is open {since}, {acknowledged}"


def _why_no_alert(
    history: ServiceHistory, rule: Rule, state: ServiceState, alerts: Sequence[Alert]
) -> str:
    """Return why no alert is open for an unhealthy service, as the end of a sentence."""
    reason = _why_never(history, rule) or _why_maintenance(history)
    causes = causes_at(history, rule, state)
    if causes and not reason:
        reason = f"none opens while services that it needs are unhealthy: {', '.join(causes)}"
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
    return f": {opens}{_closed_by_person(history, state, alerts)}"


def _closed_by_person(history: ServiceHistory, state: ServiceState, alerts: Sequence[Alert]) -> str:
    """Return who closed an alert since the state began, as the end of a sentence.

    Return an empty text if no alert was closed.
    """
    since = state.since
    if since is None:
        return ""
    for action in reversed(history.actions or ()):
        if action.action == "closed" and action.at >= since:
            by = one_line(action.by) or "somebody"
            return f"; {by} closed alert {action.alert} at {format_time(action.at)}"
    if any(alert.closed is not None and alert.closed >= since for alert in alerts):
        # Only the actions, which are missing, would show whether a person or a pass closed it.
        return ", or a person has closed it since"
    return ""


def _why_never(history: ServiceHistory, rule: Rule) -> str:
    """Return why no alert of this service can ever open; empty if one can."""
    is_worker = history.service == OPS_WORKER
    if history.service == POSTGRES:
        return "none ever opens for postgres"
    if history.is_elsewhere:
        return f"installation {one_line(history.installation)} decides about it"
    if rule.target is None and not is_worker:
        return "no pass watches it any more"
    if not rule.alerts_enabled:
        return "SYSTEM_ALERT_ENABLED is off, and so is the health pass"
    if is_worker and not rule.self_metrics_enabled and not rule.doubt_passes:
        return "RECORD_OWN_METRICS is off, so that no pass can tell that the other one stopped"
    return ""


def _why_maintenance(history: ServiceHistory) -> str:
    """Return the clause that a maintenance is the reason; empty if there is no maintenance.

    If only the last health pass recorded the maintenance, it may be over by now.
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
        if fresh and not oldest_stale_record(history.passes, name, history.at):
            return f"the {name} pass opens one with its next turn"
    return "no pass runs that could open one"


def _utc(time: datetime | None) -> datetime | None:
    return time.astimezone(UTC) if time else None
