"""The worker's own alert. It is open while another pass has stopped or a pass is blind."""

from __future__ import annotations

import json
from datetime import UTC, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.adapters.postgres.doubt_rows import readable_rows
from ops_worker.adapters.postgres.pass_writes import (
    NOTHING,
    WATCH_ROWS,
    last_seen_parameters,
    open_alerts,
)
from ops_worker.adapters.postgres.transaction import column, one
from ops_worker.core.doubt import blind_rows
from ops_worker.core.health import new_alert
from ops_worker.core.installations import own_service
from ops_worker.core.passes import DOUBT_TABLE, peers
from ops_worker.core.peer import (
    LastRecord,
    PeerState,
    causes,
    causes_of,
    had_turn,
    judge_peers,
    last_turn_start,
    stale_peers,
)
from ops_worker.core.staleness import stopped_reason
from ops_worker.errors import ROW_SECURITY_REMEDY
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.doubt import DoubtRow
    from ops_worker.core.model import Recorded
    from ops_worker.core.staleness import PassRecord


class Watch(NamedTuple):
    """The pass that judges the installation, and what it may do.

    - ``name``: the pass. ``begun`` is the moment at which it began (seconds, monotonic clock).
    - ``origin``: its job, pod and version.
    - ``may_open``: false during a maintenance. Then the alert can only close.
    - ``peers``: false without self-metrics, which show whether a peer has stopped.
    - ``doubt``: the row of this pass if it doubts what it saw. A dry run does not write this row.
    - ``dry_run``: decide in the same way, but only return what would be done.
    - ``resumed_at``: in a loop, the moment at which passes were recorded again after an outage.
    """

    name: str
    begun: float
    origin: Mapping[str, str]
    may_open: bool = True
    peers: bool = True
    doubt: DoubtRow | None = None
    dry_run: bool = False
    resumed_at: float | None = None


def update(transaction: Transaction, watch: Watch) -> Recorded:
    """Open, change or close the worker's own alert, according to its current causes.

    A failure is a warning.
    """
    watches = watch.peers and "system_metrics" in transaction.present
    # The alert about a blind pass must also close after DOUBT_PASSES was set to 0.
    if not watches and watch.doubt is None and DOUBT_TABLE not in transaction.present:
        return NOTHING
    names = " and ".join(peers(watch.name))
    problem = f"nobody watches the passes {names}"
    return transaction.attempt(problem, partial(_update, transaction, watch, problem), NOTHING)


def _update(transaction: Transaction, watch: Watch, problem: str) -> Recorded:
    cursor = transaction.execute("alerts_can_open")
    state = _peer_state(transaction, watch)
    rows = _blind_rows(transaction, watch)
    permitted = one(cursor)["can"]
    # None means that the table does not exist: an installation without alerts.
    if permitted is False:
        fault = f"row level security hides fleet_alert: {ROW_SECURITY_REMEDY}"
        transaction.warnings.append(f"{problem}: {fault}")
    return _judged(transaction, watch, state, rows) if permitted else NOTHING


def _judged(
    transaction: Transaction, watch: Watch, state: PeerState, rows: Sequence[DoubtRow]
) -> Recorded:
    """Compare the causes of the alert with the current causes; change the alert if they differ."""
    worker = {"service": own_service(transaction.installation)}
    alert = transaction.execute("own_alert", worker).fetchone()
    before = None if alert is None else causes_of(alert["causes"])
    after = causes(before, state, is_blind=bool(rows))
    if before is None and after and watch.may_open:
        return _open(transaction, watch, state, rows, after)
    if before is not None and not after:
        return _close(transaction, dry_run=watch.dry_run)
    if before is not None and set(after) != set(before) and not watch.dry_run:
        transaction.execute("set_causes", {**worker, "causes": json.dumps(after)})
    return NOTHING


def _peer_state(transaction: Transaction, watch: Watch) -> PeerState:
    """Judge whether peers have stopped. Without self-metrics, this is unknown."""
    if not watch.peers or "system_metrics" not in transaction.present:
        return PeerState()
    # Leave out the row that this pass has just written.
    before = transaction.time_of(watch.begun) - timedelta(microseconds=1)
    now, names = transaction.now, peers(watch.name)
    rows = _last_seen(transaction, watch, before)
    stopped = [
        record
        for record in stale_peers(watch.name, names, rows, now)
        if _had_turn(transaction, watch, record)
    ]
    return judge_peers(names, rows, now, stopped)


def _last_seen(transaction: Transaction, watch: Watch, at: datetime) -> list[LastRecord]:
    """Read when each pass was last recorded before a time."""
    parameters = last_seen_parameters(at, WATCH_ROWS, transaction.installation, watch.name)
    return transaction.query(LastRecord, "passes_now", parameters).fetchall()


def _had_turn(transaction: Transaction, watch: Watch, record: PassRecord) -> bool:
    """Return whether a stale peer had its turn. This reads rows only if a peer is stale."""
    resumed_at = None
    if watch.resumed_at is not None:
        resumed_at = transaction.time_of(watch.resumed_at)
    rows = _last_seen(transaction, watch, last_turn_start(record, transaction.now))
    return had_turn(watch.name, record, rows, transaction.now, resumed_at)


def _blind_rows(transaction: Transaction, watch: Watch) -> list[DoubtRow]:
    """Return the rows of this installation's passes that are blind now, including this pass."""
    rows = {
        (row.name, row.shard): row
        for row in readable_rows(transaction)
        if row.installation == transaction.installation
    }
    if watch.doubt is not None:
        rows[watch.doubt.name, watch.doubt.shard] = watch.doubt
    return blind_rows(rows.values(), transaction.now)


def _open(
    transaction: Transaction,
    watch: Watch,
    state: PeerState,
    rows: Sequence[DoubtRow],
    causes_now: Sequence[str],
) -> Recorded:
    reasons = [row.reason for row in rows]
    facts: dict[str, Any] = {**watch.origin, "seen_by": f"{watch.name} pass"}
    if state.stopped is not None:
        reasons.append(stopped_reason(state.stopped, transaction.now))
        facts["last_recorded"] = state.stopped.time.astimezone(UTC).isoformat()
    reason = one_line("; ".join(reasons))
    facts["reason"] = reason
    worker = own_service(transaction.installation)
    if watch.dry_run:
        return NOTHING._replace(opened=(worker,), own_reason=reason)
    opened = open_alerts(transaction, [new_alert(worker, reason, facts, causes_now)])
    return NOTHING._replace(opened=tuple(column(opened, "service")), own_reason=reason)


def _close(transaction: Transaction, *, dry_run: bool) -> Recorded:
    worker = own_service(transaction.installation)
    if dry_run:
        return NOTHING._replace(closed=(worker,))
    closed = transaction.execute("close_alerts", {"services": json.dumps([worker])})
    return NOTHING._replace(closed=tuple(column(closed, "service")))
