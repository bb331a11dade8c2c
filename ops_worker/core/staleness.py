"""How long a pass may go unrecorded before nobody believes what it recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ops_worker.text import format_age

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

DEFAULT_PERIOD_S = 60.0
"""The period in seconds of a pass that did not record its own: that of the shortest CronJob."""
PERIOD_PATTERN = "^[0-9]{1,6}(?:[.][0-9]{1,6})?$"
"""A regular expression for the tag ``period_s``. Statements get it as a parameter."""
STALE_PERIODS = 3
"""Periods after which a pass counts as stopped."""
MIN_STALE_S = 90.0
"""A pass recorded within this many seconds never counts as stopped.

A row carries the time at which its pass began, and is visible when the pass ends, up to
PASS_DEADLINE (40 s) later. So in a loop with a short interval, while a service hangs, the newest
row may be 80 s plus one tick old.
"""

PARAMETERS = {
    "period_pattern": PERIOD_PATTERN,
    "default_period_s": DEFAULT_PERIOD_S,
    "stale_periods": STALE_PERIODS,
    "least_s": MIN_STALE_S,
}
"""The rules of this module as parameters of SQL statements."""


class PassRecord(NamedTuple):
    """The last time that a pass, or a shard of it ("0/2"), was recorded, and its period in seconds.

    ``period_s`` is None where the pass did not record its period.
    """

    name: str
    shard: str | None
    time: datetime
    period_s: float | None

    @property
    def label(self) -> str:
        """The pass and its shard, for people."""
        return label(self.name, self.shard)

    @property
    def stale_after_s(self) -> float:
        """Seconds after which this record is stale."""
        return stale_after_s(longest_period_s([self]))

    def age_s(self, at: datetime) -> float:
        """Return the age of this record at a time, in seconds."""
        return (at - self.time).total_seconds()

    def is_stale(self, at: datetime) -> bool:
        """Return whether this record is too old at a time."""
        return self.age_s(at) > self.stale_after_s


def label(name: str, shard: str | None) -> str:
    """Return a pass and its shard, for people."""
    return f"{name} {shard}" if shard else name


def stale_after_s(period_s: float) -> float:
    """Return the seconds after which a pass counts as stopped: three periods, at least 90 s."""
    return max(STALE_PERIODS * period_s, MIN_STALE_S)


def is_current(age_s: float, period_s: float) -> bool:
    """Return whether a row of this age, of a pass that runs every ``period_s``, is believed.

    A row from more than one period in the future is not: the clock that wrote it was set back.
    Both values are in seconds.
    """
    return -period_s <= age_s <= stale_after_s(period_s)


def longest_period_s(records: Iterable[PassRecord]) -> float:
    """Return the longest period of these records, in seconds."""
    periods = (record.period_s or DEFAULT_PERIOD_S for record in records)
    return max(periods, default=DEFAULT_PERIOD_S)


def period_of(records: Iterable[PassRecord], name: str) -> float:
    """Return the period of a pass in seconds: the longest that any of its shards recorded."""
    return longest_period_s(record for record in records if record.name == name)


def longest_silent(records: Iterable[PassRecord], name: str) -> PassRecord | None:
    """Return the record of a pass; of several shards, the oldest one."""
    own = (record for record in records if record.name == name)
    return min(own, key=lambda record: record.time, default=None)


def overdue(records: Iterable[PassRecord], name: str, at: datetime) -> PassRecord | None:
    """Return the oldest record of a pass that is stale at a time, if any of its shards is."""
    return longest_silent([record for record in records if record.is_stale(at)], name)


def is_fresh(records: Iterable[PassRecord], name: str, at: datetime) -> bool:
    """Return whether a pass, or any shard of it, was recorded lately."""
    return any(not record.is_stale(at) for record in records if record.name == name)


def stopped(record: PassRecord, at: datetime) -> str:
    """Return the reason of the worker's own alert: this pass has stopped."""
    return (
        f"no {record.name} pass was recorded for {format_age(record.age_s(at))}; "
        f"one is due every {format_age(longest_period_s([record]))}"
    )
