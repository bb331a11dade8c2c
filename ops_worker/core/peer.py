"""Whether another pass has stopped: the rule by which the passes watch each other."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.staleness import MIN_STALE_S, PassRecord, is_fresh, longest_period_s

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime


class LastSeen(NamedTuple):
    """A row of the query for the last record of a pass; ``time`` is None where a shard has none."""

    name: str
    shard: str | None
    time: datetime | None
    period_s: float | None


BLIND = "blind"
"""The cause of the worker's own alert while a pass does not believe what it sees."""
UNNAMED = "a pass stopped"
"""The cause of an alert that an older release opened: it names none."""


class PeerState(NamedTuple):
    """What a pass concludes about its peers.

    ``stopped`` is the record of the peer that is silent for longest, if the worker's own alert has
    to open, and ``names`` has all peers that stopped. ``recovered`` is whether no peer is a cause
    of that alert any more: every shard of every peer that ever ran is recorded again.
    """

    stopped: PassRecord | None = None
    names: tuple[str, ...] = ()
    recovered: bool = False


def records(rows: Sequence[LastSeen]) -> list[PassRecord]:
    """Return the records of the passes and shards that were recorded at all."""
    return [
        PassRecord(name=row.name, shard=row.shard, time=row.time, period_s=row.period_s)
        for row in rows
        if row.time is not None
    ]


def stale_peers(
    name: str, peers: Collection[str], rows: Sequence[LastSeen], now: datetime
) -> list[PassRecord]:
    """Return the records of peers that are stale, as far as the pass ``name`` can judge them.

    A peer that never ran has not stopped. If the pass ``name`` is stale itself, it judges no peer:
    the same cause may have stopped all of them, and the peers get time to run first.
    """
    known = records(rows)
    if not is_fresh(known, name, now):
        return []
    return [record for record in known if record.name in peers and record.is_stale(now)]


def last_turn(record: PassRecord, now: datetime) -> datetime:
    """Return the time from which until now a pass had one turn at least, and time to record it.

    One is due in each period. MIN_STALE_S is how old a row may be when it becomes visible.
    """
    return now - timedelta(seconds=longest_period_s([record]) + MIN_STALE_S)


def had_turn(
    name: str,
    record: PassRecord,
    rows_then: Sequence[LastSeen],
    now: datetime,
    resumed_at: datetime | None,
) -> bool:
    """Return whether a stale peer had a turn since passes could be recorded again.

    After an outage of the database, a fast pass is fresh long before the turn of a slower one. So
    the pass ``name`` must not have been stale at the ``last_turn`` of the peer; ``rows_then`` are
    the last records at that time. A pass that did not run yet then knows of no outage. A loop
    writes the samples of the outage afterwards, which fill the hole in the records: ``resumed_at``
    is when it was recorded again, or None if it knows of no outage.
    """
    begun = last_turn(record, now)
    if resumed_at is not None and resumed_at > begun:
        return False
    known = records(rows_then)
    has_run = any(row.name == name for row in known)
    return not has_run or is_fresh(known, name, begun)


def judge_peers(
    peers: Collection[str],
    rows: Sequence[LastSeen],
    now: datetime,
    stopped: Sequence[PassRecord],
) -> PeerState:
    """Judge whether peers have stopped; ``stopped`` are the stale ones that had their turn."""
    if stopped:
        names = sorted({record.name for record in stopped})
        return PeerState(
            stopped=min(stopped, key=lambda record: record.time),
            names=tuple(names),
        )
    watched = [row for row in rows if row.name in peers]
    is_complete = bool(watched) and all(row.time is not None for row in watched)
    is_any_stale = any(record.is_stale(now) for record in records(watched))
    return PeerState(recovered=is_complete and not is_any_stale)


def causes(before: Sequence[str] | None, state: PeerState, *, is_blind: bool) -> tuple[str, ...]:
    """Return what the worker's own alert stands for now; it is closed if nothing is left.

    ``before`` are the causes of the open alert, or None if it is not open. They stay until it is
    known that the peers have recovered.
    """
    others = [cause for cause in before or () if cause != BLIND]
    if state.stopped is not None:
        others = [f"{name} pass stopped" for name in state.names]
    elif state.recovered:
        others = []
    return (*others, BLIND) if is_blind else tuple(others)


def causes_of(value: object) -> tuple[str, ...]:
    """Return the causes of an open alert by its ``details.causes``, which may hold anything."""
    if isinstance(value, list) and value and all(isinstance(cause, str) for cause in value):
        return tuple(value)
    return (UNNAMED,)
