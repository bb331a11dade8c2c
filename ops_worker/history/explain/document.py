"""The document of ``ops-worker explain``."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core import slo, timeline
from ops_worker.core.certificates import recorded_days
from ops_worker.core.ledger import UNKNOWN, UNSEEN
from ops_worker.core.passes import HEALTH, METRICS
from ops_worker.core.samples import CERTIFICATE_DAYS_LEFT, HEALTHY
from ops_worker.history.actions import Action, action_document
from ops_worker.history.budgets import BudgetDocument, budget_document
from ops_worker.history.explain.alert import Alert, alert_of, alert_sentence
from ops_worker.history.explain.rows import PERIOD, before
from ops_worker.history.explain.rule import describe_rule
from ops_worker.history.explain.state import (
    STALE,
    causes_at,
    last_sight,
    shown_by_status,
    state_of,
    timelines_of,
)
from ops_worker.history.ledger import timelines
from ops_worker.history.maintenances import maintenance_document
from ops_worker.history.outages import Past, of_state, stretches, sum_up
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.staleness import PassRecord
    from ops_worker.core.timeline import Piece
    from ops_worker.history.explain.rows import Rule, ServiceHistory
    from ops_worker.history.explain.state import Timelines
    from ops_worker.history.maintenances import Maintenance
    from ops_worker.history.rows import ObservationRow

MAX_TURNS = 8
"""Maximum number of changes of the state in the list."""


class Turn(NamedTuple):
    """A time in which a service was in one state, for one class of reasons.

    ``seen`` is False where no pass looked; the state is then ``unknown``. The state really began
    between ``from_earliest`` and ``from_``, and really ended between ``to`` and ``to_latest``.
    """

    state: str
    from_: datetime
    to: datetime
    seconds: float
    seen: bool
    reason: str
    reason_class: str
    from_earliest: datetime
    to_latest: datetime


class Sight(NamedTuple):
    """A service as one pass saw it: since when it was in this state, and when it was last seen.

    ``last_seen`` is None if the pass looked again after the time in question: the ledger does not
    record when the pass looked before.
    """

    pass_: str
    state: str
    since: datetime
    last_seen: datetime | None
    age_s: float | None


class Observation(NamedTuple):
    """What a pass recorded about a service."""

    time: datetime
    pass_: str
    found: str


class PassAge(NamedTuple):
    """The last record of a pass before the time in question, and its age at that time."""

    pass_: str
    recorded: datetime
    age_s: float


class Explanation(NamedTuple):
    """The document of ``ops-worker explain``. The fields of these types are its keys.

    ``since`` is when the service became healthy, or unhealthy in any way. ``state_since`` is when
    it came into this state. Both may really have begun as early as ``since_earliest`` and
    ``state_since_earliest``. ``unseen_s`` is the time in seconds since ``since`` in which no pass
    looked. ``first_sight`` is whether the service was never seen before ``since``. ``complete`` is
    False if the current health may have begun even earlier.

    ``alert`` is a sentence. ``rule`` has a phrase and its value for each part of the rule.
    ``certificate_days_left`` is the last value that the health pass recorded before the time in
    question, if there is one. ``ledger`` is whether the ledger could be read. ``status_shows`` is
    the state in ``status``; it is empty for an earlier time. ``actions`` is None if the actions
    cannot be read.

    ``because_of`` has the unhealthy services that make this service unhealthy, by the catalogue of
    today. ``passes`` belong to ``installation``, which keeps the state of the service.
    ``is_elsewhere`` is whether another installation keeps it. ``other_installations`` were recorded
    in the same database lately.
    """

    service: str
    at: datetime
    state: str
    since: datetime | None
    reason: str
    because_of: Sequence[str]
    seen_by: str
    streak: int | None
    alert: str
    turns: Sequence[Turn]
    observations: Sequence[Observation]
    rule: Mapping[str, str]
    alerts: Sequence[Alert]
    passes: Sequence[PassAge]
    maintenances: Sequence[Maintenance]
    now: bool
    stale: bool
    last_state: str
    status_shows: str
    last_seen: datetime | None
    age_s: float | None
    certificate_days_left: int | None
    since_earliest: datetime | None
    state_since: datetime | None
    state_since_earliest: datetime | None
    unseen_s: float | None
    first_sight: bool
    complete: bool
    ledger: bool
    sights: Sequence[Sight]
    past: Past | None
    budget: BudgetDocument | None
    actions: Sequence[Action] | None
    installation: str
    is_elsewhere: bool
    other_installations: Sequence[str]


def build(history: ServiceHistory, rule: Rule) -> Explanation:
    """Build the document: the state, its reason, the past of the service, and the alert."""
    lines = timelines_of(history)
    state = state_of(history, rule, lines)
    alerts = [alert_of(row, history) for row in history.alerts]
    health, same = state.health, state.same
    return Explanation(
        service=one_line(history.service),
        at=history.at.astimezone(UTC),
        state=state.state,
        since=state.since,
        reason=state.reason,
        because_of=causes_at(history, rule, state),
        seen_by=state.seen_by,
        streak=state.streak,
        alert=alert_sentence(history, rule, state, alerts),
        turns=_turns(lines),
        observations=[_observation(row) for row in history.observations],
        rule=describe_rule(history.service, rule, elsewhere=_elsewhere(history)),
        alerts=alerts,
        passes=[_pass(record, history.at) for record in history.passes],
        maintenances=[maintenance_document(row) for row in history.maintenances],
        now=history.is_now,
        stale=state.state == STALE,
        last_state=state.last_state,
        status_shows=shown_by_status(history),
        last_seen=state.last_seen,
        age_s=_age_s(state.last_seen, history),
        certificate_days_left=_certificate_days_left(history),
        since_earliest=health.from_earliest if health else None,
        state_since=same.from_ if same else None,
        state_since_earliest=same.from_earliest if same else None,
        unseen_s=health.unseen_s if health else None,
        first_sight=state.is_first_sight,
        complete=state.is_complete,
        ledger=history.ledger is not None,
        sights=_sights(lines, history),
        past=_past(lines, history),
        budget=_budget(lines, history, rule),
        actions=_actions(history),
        installation=one_line(history.installation),
        is_elsewhere=history.is_elsewhere,
        other_installations=[one_line(row.name) for row in history.other_installations],
    )


def _elsewhere(history: ServiceHistory) -> str:
    """Return the other installation that keeps the state; empty if this installation does."""
    return one_line(history.installation) if history.is_elsewhere else ""


def _age_s(last_seen: datetime | None, history: ServiceHistory) -> float | None:
    return None if last_seen is None else (history.at - last_seen).total_seconds()


def _certificate_days_left(history: ServiceHistory) -> int | None:
    """Return the value in the row; None if the row was written after the time in question."""
    row = history.row
    if row is None or row.checked_at > history.at or not isinstance(row.details, dict):
        return None
    return recorded_days(row.details.get(CERTIFICATE_DAYS_LEFT))


def _turns(lines: Timelines | None) -> list[Turn]:
    """Return the last changes, the newest last. The time before the first sight is left out."""
    if lines is None:
        return []
    pieces = lines.merged
    if pieces[0].state == UNSEEN:
        pieces = pieces[1:]
    return [_turn(piece) for piece in pieces[-MAX_TURNS:]]


def _turn(piece: Piece) -> Turn:
    is_seen = piece.state != UNSEEN
    return Turn(
        state=piece.state if is_seen else UNKNOWN,
        from_=piece.begun,
        to=piece.ended,
        seconds=piece.seconds,
        seen=is_seen,
        reason=one_line(piece.reason),
        reason_class=one_line(piece.reason_class),
        from_earliest=piece.from_earliest,
        to_latest=piece.to_latest,
    )


def _sights(lines: Timelines | None, history: ServiceHistory) -> list[Sight]:
    """Return a sight for each pass that looked at the time in question."""
    if lines is None:
        return []
    sights = []
    for name, pieces in lines.by_pass.items():
        piece = pieces[-1]
        if piece.state == UNSEEN:
            continue
        last_seen = last_sight(piece, history)
        same = stretches(pieces, of_state(piece.state))[-1]
        sights.append(Sight(name, piece.state, same.from_, last_seen, _age_s(last_seen, history)))
    return sights


def _past(lines: Timelines | None, history: ServiceHistory) -> Past | None:
    """Sum up the days before the time in question; return None if the ledger has none of them."""
    pieces = _last(lines, history, PERIOD)
    if pieces is None:
        return None
    return sum_up(pieces, pieces[0].begun, history.at)


def _budget(lines: Timelines | None, history: ServiceHistory, rule: Rule) -> BudgetDocument | None:
    """Return the error budget; None without an objective or a ledger."""
    objective = slo.objective_of(rule.target)
    if objective is None:
        return None
    pieces = _last(lines, history, timedelta(days=objective.days))
    if pieces is None:
        return None
    return budget_document(slo.budget(objective, timeline.availability(pieces)))


def _last(
    lines: Timelines | None, history: ServiceHistory, length: timedelta
) -> Sequence[Piece] | None:
    """Return the timeline of the last ``length`` before the time in question.

    It is shorter if fewer rows were read.
    """
    if lines is None or history.ledger is None:
        return None
    rows = history.ledger.rows
    since = max(rows.since, before(rows.until, length))
    ((_, pieces),) = timelines(rows._replace(since=since))
    return pieces


def _actions(history: ServiceHistory) -> list[Action] | None:
    if history.actions is None:
        return None
    return [action_document(row) for row in history.actions]


def _observation(row: ObservationRow) -> Observation:
    time = row.time.astimezone(UTC)
    if row.metric != HEALTHY:
        return Observation(time, HEALTH.name, f"answered in {row.value:g} ms")
    return Observation(time, METRICS.name, "healthy" if row.value == 1 else "unhealthy")


def _pass(record: PassRecord, at: datetime) -> PassAge:
    return PassAge(one_line(record.label), record.time.astimezone(UTC), record.age_s(at))
