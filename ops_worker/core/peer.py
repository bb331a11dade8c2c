"""Whether another pass has stopped: the rule by which the passes watch each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.staleness import PassRecord, is_fresh

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
    """Return the records among the rows: those of passes and shards that were recorded."""
    return [
        PassRecord(name=row.name, shard=row.shard, time=row.time, period_s=row.period_s)
        for row in rows
        if row.time is not None
    ]


def judge_peers(
    name: str, peers: Collection[str], rows: Sequence[LastSeen], now: datetime
) -> PeerState:
    """Judge whether peers of the pass ``name`` have stopped.

    A peer that never ran has not stopped. A pass that was itself not recorded for that long does
    not open the alert: the same cause may have stopped the others, and they get time to run first.
    """
    known = records(rows)
    watched = [row for row in rows if row.name in peers]
    stale = [record for record in known if record.name in peers and record.is_stale(now)]
    if stale and is_fresh(known, name, now):
        names = sorted({record.name for record in stale})
        return PeerState(
            stopped=min(stale, key=lambda record: record.time),
            names=tuple(names),
        )
    complete = bool(watched) and all(row.time is not None for row in watched)
    return PeerState(recovered=complete and not stale)


def causes(before: Sequence[str] | None, state: PeerState, *, is_blind: bool) -> tuple[str, ...]:
    """Return what the worker's own alert stands for now; it is closed if nothing is left.

    ``before`` are the causes of the open alert, or None if it is not open. They stay while nobody
    knows better about the peers.
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
