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


class PeerState(NamedTuple):
    """What a pass concludes about its peers.

    ``stopped`` is the record of the peer that is silent for longest, if the worker's own alert has
    to open. ``recovered`` is whether that alert has to close: every shard of every peer that ever
    ran is recorded again.
    """

    stopped: PassRecord | None = None
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
        return PeerState(stopped=min(stale, key=lambda record: record.time))
    complete = bool(watched) and all(row.time is not None for row in watched)
    return PeerState(recovered=complete and not stale)
