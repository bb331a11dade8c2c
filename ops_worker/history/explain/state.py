"""Decide the state of a service at a time, since when it lasted, and which pass saw it."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.decoding import parse_time
from ops_worker.core.doubt import blind_to
from ops_worker.core.ledger import UNSEEN
from ops_worker.core.needs import causes_of
from ops_worker.core.passes import HEALTH, METRICS, PASSES
from ops_worker.core.samples import HEALTHY, OPS_WORKER, POSTGRES
from ops_worker.core.staleness import (
    STALE_PERIODS,
    is_current,
    is_fresh,
    oldest_record,
    oldest_stale_record,
    period_of,
    stale_after_s,
)
from ops_worker.history.ledger import MERGED, timelines
from ops_worker.history.outages import Stretch, of_same_health, of_state, stretches
from ops_worker.history.screen import stale_reason
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.timeline import Piece
    from ops_worker.history.explain.rows import Rule, ServiceHistory
    from ops_worker.history.rows import JsonValue

NOT_OBSERVED = "no pass looked"
"""The reason if nothing is known because no pass ran."""
STALE = "stale"
"""The state of a service if it is not known whether its last state still holds."""


class ServiceState(NamedTuple):
    """The state of a service at a time.

    ``seen_by`` is the pass that observed it; it is empty if nothing is known. ``last_state`` is the
    state that was recorded last, even if it is stale. ``last_seen`` is the time of the last sight,
    or None if it is not known.

    The other fields come from the ledger only. ``health`` is the stretch in which the service has
    been healthy, or unhealthy in any way. ``same`` is the stretch in which it has been in this
    state. ``is_first_sight`` is whether the service was never seen before ``health``.
    ``is_complete`` is False if ``health`` may have begun earlier than the rows that were read.
    """

    state: str
    since: datetime | None
    reason: str
    seen_by: str = ""
    streak: int | None = None
    last_state: str = ""
    last_seen: datetime | None = None
    health: Stretch | None = None
    same: Stretch | None = None
    is_first_sight: bool = False
    is_complete: bool = True


class Timelines(NamedTuple):
    """The timelines of a service up to the time in question: merged, and one for each pass."""

    merged: Sequence[Piece]
    by_pass: Mapping[str, Sequence[Piece]]


class _RowAtTime(NamedTuple):
    """What the row in ``service_health`` says about the time in question.

    - ``covers``: the state of the row had begun by that time.
    - ``is_written``: the row had been written by that time, so its details are valid for it.
    - ``from_future``: the row is from the future, because a clock was set back. It is not used.
    - ``looked_at``: when a health pass last looked.
    """

    state: str
    since: datetime
    covers: bool
    is_written: bool
    from_future: bool
    looked_at: datetime | None
    details: Mapping[str, JsonValue]


def timelines_of(history: ServiceHistory) -> Timelines | None:
    """Return the timelines of the service; None if the ledger has no rows about it."""
    ledger = history.ledger
    if ledger is None or not ledger.is_recorded:
        return None
    ((_, merged),) = timelines(ledger.rows)
    by_pass = {}
    for name in MERGED:
        ((_, by_pass[name]),) = timelines(ledger.rows, name)
    return Timelines(merged, by_pass)


def state_of(history: ServiceHistory, rule: Rule, lines: Timelines | None) -> ServiceState:
    """Return the state: from the ledger if it knows the state, else from the row, else unknown.

    Each step returns None if it does not know the state. The first state that is returned counts.
    """
    row = _row_at_time(history)
    return (
        _unknown_to_blind(row, history)
        or _seen_in_ledger(row, lines, history)
        or _seen_in_row(row, lines, history)
        or _state_of_worker(history)
        or _state_of_database(history)
        or _stale_in_ledger(lines)
        or _stale_row(row)
        or _unknown(history, rule)
    )


def causes_at(history: ServiceHistory, rule: Rule, state: ServiceState) -> tuple[str, ...]:
    """Return the unhealthy services that make this service unhealthy, sorted by name."""
    if not state.seen_by or state.state in {HEALTHY, STALE}:
        return ()
    health = {**history.needed, history.service: False}
    return causes_of(rule.needs, health).get(history.service, ())


def _unknown_to_blind(row: _RowAtTime | None, history: ServiceHistory) -> ServiceState | None:
    """Return the state stale if the health pass of the service is blind."""
    blind = blind_to(history.service, history.blind)
    if blind is None or row is None:
        return None
    return ServiceState(
        state=STALE,
        since=blind.since,
        reason=stale_reason(row.state, blind),
        seen_by="the health pass",
        last_state=row.state,
        last_seen=row.looked_at.astimezone(UTC) if row.looked_at else None,
    )


def _row_at_time(history: ServiceHistory) -> _RowAtTime | None:
    row = history.row
    if row is None:
        return None
    details: Mapping[str, JsonValue] = row.details if isinstance(row.details, dict) else {}
    since = parse_time(details.get("since")) or row.checked_at
    covers = since <= history.at
    is_written = covers and row.checked_at <= history.at
    age_s = (history.at - row.checked_at).total_seconds()
    health_s = period_of(history.passes, HEALTH.name)
    # The shard of the service is not known, so the oldest record of all shards counts.
    record = oldest_record(history.passes, HEALTH.name)
    looked_at = record.time if record else None
    state = row.status
    if is_written:
        looked_at = row.checked_at
        state = details.get("status") or row.status
    return _RowAtTime(
        state=one_line(str(state)),
        since=since,
        covers=covers,
        is_written=is_written,
        from_future=history.is_now and age_s < -health_s,
        looked_at=looked_at,
        details=details,
    )


def _seen_in_ledger(
    row: _RowAtTime | None, lines: Timelines | None, history: ServiceHistory
) -> ServiceState | None:
    """Return the state in the ledger, if a pass looked at the time in question."""
    if lines is None or history.ledger is None or lines.merged[-1].state == UNSEEN:
        return None
    name = _seen_by(lines, history)
    pieces = lines.by_pass[name]
    last_seen = last_sight(pieces[-1], history)
    if pieces[-1].state == lines.merged[-1].state:
        pieces = lines.merged
    piece = pieces[-1]
    health = stretches(pieces, of_same_health(piece.state))[-1]
    reason = piece.reason
    streak = None
    if row is not None and row.is_written and row.state == piece.state:
        # The ledger has the reason of the first sight; the row has the newest reason.
        reason = _reason(row.details) or reason
        streak = row.details.get("streak")
    is_complete = history.ledger.is_complete or health.from_ > history.ledger.rows.since
    seen_before = any(
        earlier.state != UNSEEN and earlier.begun < health.from_ for earlier in pieces
    )
    return ServiceState(
        state=piece.state,
        since=health.from_.astimezone(UTC),
        reason=one_line(reason),
        seen_by=f"the {name} pass",
        streak=streak if isinstance(streak, int) else None,
        last_state=piece.state,
        last_seen=last_seen,
        health=health,
        same=stretches(pieces, of_state(piece.state))[-1],
        is_first_sight=is_complete and not seen_before,
        is_complete=is_complete,
    )


def _seen_by(lines: Timelines, history: ServiceHistory) -> str:
    """Return the pass whose state counts: now, the pass that looked last.

    For an earlier time, it is not known which pass looked last. Then the first of ``MERGED`` that
    looked counts.
    """
    looked = [name for name in MERGED if lines.by_pass[name][-1].state != UNSEEN]
    if not history.is_now:
        return looked[0]
    return max(looked, key=lambda name: lines.by_pass[name][-1].last_seen)


def last_sight(piece: Piece, history: ServiceHistory) -> datetime | None:
    """Return the last sight of a piece before the time in question; None if it is not known.

    A piece that lasted beyond that time was cut there. The ledger does not record when the pass
    last looked before the cut.
    """
    if history.is_now or piece.last_seen < history.at:
        return piece.last_seen.astimezone(UTC)
    return None


def _seen_in_row(
    row: _RowAtTime | None, lines: Timelines | None, history: ServiceHistory
) -> ServiceState | None:
    """Return the state in the row, if a health pass looked shortly before the time in question."""
    if row is None or not row.covers or row.from_future or row.looked_at is None:
        return None
    if lines is not None and not history.is_now:
        # For an earlier time, only the ledger knows when a pass looked.
        return None
    age_s = (history.at - row.looked_at).total_seconds()
    if age_s > stale_after_s(period_of(history.passes, HEALTH.name)):
        return None
    reason = ""
    streak = None
    if row.is_written:
        # A row that was written later has the reason and the streak of a later time.
        reason = _reason(row.details)
        streak = row.details.get("streak")
    return ServiceState(
        state=row.state,
        since=row.since.astimezone(UTC),
        reason=one_line(reason),
        seen_by="the health pass",
        streak=streak if isinstance(streak, int) else None,
        last_state=row.state,
        last_seen=row.looked_at.astimezone(UTC),
    )


def _reason(details: Mapping[str, JsonValue]) -> str:
    reason = details.get("error") or details.get("reason")
    if not reason and "http_status" in details:
        reason = f"http {details['http_status']}"
    return str(reason or "")


def _state_of_worker(history: ServiceHistory) -> ServiceState | None:
    """Return the state of the worker: stale if one of its passes has stopped or is blind."""
    if history.service != OPS_WORKER or not history.passes:
        return None
    names = sorted({record.name for record in history.passes})
    stopped = [name for name in names if oldest_stale_record(history.passes, name, history.at)]
    if not stopped and history.blind:
        blind = history.blind[0]
        return ServiceState(
            state=STALE, since=blind.since, reason=blind.reason, seen_by="its passes"
        )
    if not stopped:
        return ServiceState(state="healthy", since=None, reason="", seen_by="its passes")
    reason = f"not recorded for {STALE_PERIODS} periods: {', '.join(stopped)}"
    return ServiceState(state=STALE, since=None, reason=reason, seen_by="its passes")


def _state_of_database(history: ServiceHistory) -> ServiceState | None:
    """Return the state of PostgreSQL from its newest sample. The ledger has only services."""
    if history.service != POSTGRES:
        return None
    samples = [row for row in history.observations if row.metric == HEALTHY]
    if not samples:
        return None
    newest = samples[0]
    age_s = (history.at - newest.time).total_seconds()
    state = "healthy" if newest.value == 1 else "unhealthy"
    last_seen = newest.time.astimezone(UTC)
    if age_s > stale_after_s(period_of(history.passes, METRICS.name)):
        return _stale(state, last_seen, "the metrics pass")
    return ServiceState(
        state=state,
        since=None,
        reason="",
        seen_by="the metrics pass",
        last_state=state,
        last_seen=last_seen,
    )


def _stale_in_ledger(lines: Timelines | None) -> ServiceState | None:
    """Return the state stale if the ledger has a sight before the time in question.

    Earlier steps have ruled out that a pass has looked since.
    """
    if lines is None:
        return None
    last_sights = [
        (piece.last_seen, name, piece.state)
        for name, pieces in lines.by_pass.items()
        for piece in pieces
        if piece.state != UNSEEN
    ]
    if not last_sights:
        return None
    last_seen, name, state = max(last_sights)
    return _stale(state, last_seen.astimezone(UTC), f"the {name} pass")


def _stale_row(row: _RowAtTime | None) -> ServiceState | None:
    """Return the state stale if there is a row for the time in question.

    Earlier steps have ruled out that a pass has confirmed it.
    """
    if row is None or not (row.covers or row.from_future):
        return None
    last_seen = row.looked_at.astimezone(UTC) if row.looked_at else None
    return _stale(row.state, last_seen, "the health pass")


def _stale(last_state: str, last_seen: datetime | None, seen_by: str) -> ServiceState:
    return ServiceState(
        state=STALE,
        since=last_seen,
        reason=one_line(stale_reason(last_state)),
        seen_by=seen_by,
        last_state=last_state,
        last_seen=last_seen,
    )


def _unknown(history: ServiceHistory, rule: Rule) -> ServiceState:
    return ServiceState(state="unknown", since=None, reason=one_line(_why_unknown(history, rule)))


def _why_unknown(history: ServiceHistory, rule: Rule) -> str:
    """Return why nothing is known about a service at the time in question."""
    if history.service == OPS_WORKER:
        return "no pass was recorded, or RECORD_OWN_METRICS is off"
    probing = [name for name, spec in PASSES.items() if spec.probes]
    ran = [name for name in probing if _ran(history, name)]
    if not ran or history.service == POSTGRES:
        return NOT_OBSERVED
    several = len(ran) > 1
    reason = f"the last {' and '.join(ran)} {'passes' if several else 'pass'} did not probe it"
    if rule.target is None:
        return reason
    pronoun = "they" if several else "it"
    return f"{reason}: it was not in the catalogue then, or {pronoun} had no time left for it"


def _ran(history: ServiceHistory, name: str) -> bool:
    """Return whether a pass ran shortly before the time in question, by its samples or ledger."""
    if is_fresh(history.passes, name, history.at):
        return True
    if history.ledger is None:
        return False
    return any(
        run.first_at <= history.at
        and (history.at - run.last_at).total_seconds() <= stale_after_s(run.period_s)
        for run in history.ledger.rows.runs.get(name, ())
    )


def shown_by_status(history: ServiceHistory) -> str:
    """Return the state that ``ops-worker status`` shows now.

    The result is empty if the service has no row, or if the time in question is not now.
    """
    row = history.row
    if row is None or not history.is_now:
        return ""
    if blind_to(history.service, history.blind) is not None:
        return STALE
    age_s = (history.now - row.checked_at).total_seconds()
    if not is_current(age_s, period_of(history.passes, HEALTH.name)):
        return STALE
    details: Mapping[str, JsonValue] = row.details if isinstance(row.details, dict) else {}
    return one_line(str(details.get("status") or row.status))
