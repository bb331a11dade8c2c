"""Judge whether another pass has stopped: the rule by which the passes watch each other."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.staleness import MIN_STALE_S, PassRecord, is_fresh, longest_period_s

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime


class LastRecord(NamedTuple):
    """A row of the statement ``passes_now``: the last record of a pass, or of one of its shards.

    - ``shard``: the shard ("0/2"); None for a pass that is not divided into shards.
    - ``time``: when the pass was recorded last; None if it was never recorded.
    - ``period_s``: its period in seconds; None if the pass did not record its period.
    """

    name: str
    shard: str | None
    time: datetime | None
    period_s: float | None


BLIND = "blind"
"""The cause of the worker's own alert while a pass is blind."""
UNNAMED = "a pass stopped"
"""The cause of an alert whose row has no causes. Older releases wrote such rows."""


class PeerState(NamedTuple):
    """The judgement of a pass on its peers.

    - ``stopped``: the oldest record of a peer that stopped; None if no peer stopped.
    - ``names``: the names of all peers that stopped, sorted.
    - ``recovered``: whether every shard of every peer that ever ran is recorded again. Then no peer
      is a cause of the worker's own alert any more.

    The default means that this is unknown: then the causes of the alert stay as they are.
    """

    stopped: PassRecord | None = None
    names: tuple[str, ...] = ()
    recovered: bool = False


def records(rows: Sequence[LastRecord]) -> list[PassRecord]:
    """Return the records of the passes and shards. Rows without a time are left out."""
    return [
        PassRecord(name=row.name, shard=row.shard, time=row.time, period_s=row.period_s)
        for row in rows
        if row.time is not None
    ]


def stale_peers(
    name: str, peers: Collection[str], rows: Sequence[LastRecord], now: datetime
) -> list[PassRecord]:
    """Return the stale records of the peers that the pass ``name`` watches.

    A peer that was never recorded has not stopped. If the pass ``name`` is stale itself, it does
    not judge its peers: the same cause, such as an outage of the database, may have stopped all
    passes, and the peers may not have run since.
    """
    pass_records = records(rows)
    if not is_fresh(pass_records, name, now):
        return []
    return [record for record in pass_records if record.name in peers and record.is_stale(now)]


def last_turn_start(record: PassRecord, now: datetime) -> datetime:
    """Return when the last turn of a peer started: one period and MIN_STALE_S ago.

    In each period, one run is due. Its row becomes visible at most MIN_STALE_S after the time that
    the row has.
    """
    return now - timedelta(seconds=longest_period_s([record]) + MIN_STALE_S)


def had_turn(
    name: str,
    record: PassRecord,
    earlier_rows: Sequence[LastRecord],
    now: datetime,
    resumed_at: datetime | None,
) -> bool:
    """Return whether a stale peer had a turn in which no outage prevented its record.

    After an outage of the database, a pass with a short period is fresh again before a peer with a
    long period is due. Such a peer is stale, but has not stopped. So the pass ``name`` must have
    been fresh when the last turn of the peer started. If the pass ``name`` was not recorded before
    that time, no outage is known, and the peer had its turn.

    A loop writes the samples of an outage later, with the times of the outage. Then the records
    show no gap. So the turn must also not have started before ``resumed_at``.

    - ``name``: the pass that judges the peer.
    - ``record``: the last record of the peer.
    - ``earlier_rows``: the last records of all passes before ``last_turn_start``.
    - ``resumed_at``: when a loop was recorded again after an outage; None: no outage is known.
    """
    turn_start = last_turn_start(record, now)
    if resumed_at is not None and resumed_at > turn_start:
        return False
    earlier_records = records(earlier_rows)
    was_recorded = any(earlier.name == name for earlier in earlier_records)
    return not was_recorded or is_fresh(earlier_records, name, turn_start)


def judge_peers(
    peers: Collection[str],
    rows: Sequence[LastRecord],
    now: datetime,
    stopped: Sequence[PassRecord],
) -> PeerState:
    """Return the state of the peers.

    ``stopped`` are those records of ``stale_peers`` whose peers had a turn (``had_turn``).
    """
    if stopped:
        names = sorted({record.name for record in stopped})
        return PeerState(
            stopped=min(stopped, key=lambda record: record.time),
            names=tuple(names),
        )
    peer_rows = [row for row in rows if row.name in peers]
    is_complete = bool(peer_rows) and all(row.time is not None for row in peer_rows)
    is_any_stale = any(record.is_stale(now) for record in records(peer_rows))
    return PeerState(recovered=is_complete and not is_any_stale)


def causes(before: Sequence[str] | None, state: PeerState, *, is_blind: bool) -> tuple[str, ...]:
    """Return the current causes of the worker's own alert. Without a cause, the alert closes.

    ``before`` are the causes of the open alert; None if no alert is open. A cause about peers stays
    until the peers have recovered.
    """
    peer_causes = [cause for cause in before or () if cause != BLIND]
    if state.stopped is not None:
        peer_causes = [f"{name} pass stopped" for name in state.names]
    elif state.recovered:
        peer_causes = []
    return (*peer_causes, BLIND) if is_blind else tuple(peer_causes)


def causes_of(value: object) -> tuple[str, ...]:
    """Return the causes of an open alert from ``details.causes``, which may be any JSON value."""
    if isinstance(value, list) and value and all(isinstance(cause, str) for cause in value):
        return tuple(value)
    return (UNNAMED,)
