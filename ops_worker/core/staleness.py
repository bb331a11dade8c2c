"""How long a pass may be silent: after that nobody believes what it recorded, and the other pass says that it has stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ops_worker.core.samples import MAINTENANCE, PASS_SUCCESS
from ops_worker.text import format_age

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

PASSES = {"health": MAINTENANCE, "metrics": PASS_SUCCESS}
"""The passes that there should be, and the metric by which each is found in ``system_metrics``. That of the health pass is written by no
other, so that nobody walks past the many rows of the metrics pass to find that there is none."""
DEFAULT_PERIOD_S = 60.0
"""The period of a pass that never told its own: that of the shortest CronJob."""
STALE_PERIODS = 3
MIN_STALE_S = 90.0
"""Below which no silence is told: rows bear the time at which their pass began and can be seen when it ends, up to PASS_DEADLINE (40 s)
later; so, of a loop with a short interval and a service that hangs, the newest one may be twice that old, and a tick."""


def stale_after_s(period_s: float | None) -> float:
    """Give how long a pass of this period may be silent, in seconds: three periods, but no less than 90 s."""
    return max(STALE_PERIODS * (period_s or DEFAULT_PERIOD_S), MIN_STALE_S)


def period_of(told: Iterable[Mapping[str, Any]], name: str) -> float:
    """Give how long a pass said that it is to the next one, in seconds: the longest that any of its shards said."""
    return max(
        (row["period_s"] or DEFAULT_PERIOD_S for row in told if row["pass"] == name),
        default=DEFAULT_PERIOD_S,
    )


def longest_silent(told: Iterable[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """Give the last row of a pass; of its shards, that of the one that was silent for longest."""
    return min(
        (row for row in told if row["pass"] == name), key=lambda row: row["time"], default=None
    )


def overdue(told: Iterable[Mapping[str, Any]], name: str, at: datetime) -> Mapping[str, Any] | None:
    """Give the last row of a pass, or of its shard, that was silent for too long at that time."""
    return longest_silent(
        [
            row
            for row in told
            if (at - row["time"]).total_seconds() > stale_after_s(row["period_s"])
        ],
        name,
    )


def is_fresh(told: Sequence[Mapping[str, Any]], name: str, at: datetime) -> bool:
    """Say whether a pass, or a shard of it, was recorded lately. One that was not has missed nothing: it was away itself."""
    return any(
        (at - row["time"]).total_seconds() <= stale_after_s(row["period_s"])
        for row in told
        if row["pass"] == name
    )


def stopped(name: str, age_s: float, period_s: float) -> str:
    """Return the reason of the worker's own alert: the pass ``name`` has stopped."""
    return f"no {name} pass was recorded for {format_age(age_s)}; one is due each {format_age(period_s)}"
