"""When a pass counts as stopped, and when a row is too old to count."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ops_worker.text import format_age

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

DEFAULT_PERIOD_S = 60.0
"""Period in seconds of a pass that did not record its own: that of the shortest CronJob."""
PERIOD_PATTERN = "^[0-9]{1,6}(?:[.][0-9]{1,6})?$"
"""A regular expression for the tag ``period_s``. SQL statements take it as a parameter."""
STALE_PERIODS = 3
"""Number of periods after which a pass counts as stopped."""
MIN_STALE_S = 90.0
"""A pass that was recorded within this number of seconds never counts as stopped.

A row has the time at which its pass began. It becomes visible when the pass ends, up to
PASS_DEADLINE (40 s) later. In a loop with a short interval, while a service does not answer, the
newest row may therefore be 80 s plus one tick old.
"""

PARAMETERS = {
    "period_pattern": PERIOD_PATTERN,
    "default_period_s": DEFAULT_PERIOD_S,
    "stale_periods": STALE_PERIODS,
    "least_s": MIN_STALE_S,
}
"""The rules of this module as parameters of SQL statements."""


class PassRecord(NamedTuple):
    """The last record of a pass, or of one of its shards.

    - ``shard``: the shard ("0/2"); None for a pass that is not divided into shards.
    - ``time``: when the pass was recorded.
    - ``period_s``: its period in seconds; None if the pass did not record its period.
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
        """The age in seconds after which this record is stale."""
        return stale_after_s(longest_period_s([self]))

    def age_s(self, at: datetime) -> float:
        """Return the age of this record at a time, in seconds."""
        return (at - self.time).total_seconds()

    def is_stale(self, at: datetime) -> bool:
        """Return whether this record is stale at a time."""
        return self.age_s(at) > self.stale_after_s


def label(name: str, shard: str | None) -> str:
    """Return a pass and its shard, for people."""
    return f"{name} {shard}" if shard else name


def stale_after_s(period_s: float) -> float:
    """Return the age in seconds after which a record is stale: three periods, at least 90 s."""
    return max(STALE_PERIODS * period_s, MIN_STALE_S)


def is_current(age_s: float, period_s: float) -> bool:
    """Return whether a row still counts: it is not stale, and not from the future.

    ``age_s`` is the age of the row, and ``period_s`` the period of its pass, both in seconds. A row
    may be up to one period ahead of the clock. A row that is further ahead was written before a
    clock was set back.
    """
    return -period_s <= age_s <= stale_after_s(period_s)


def longest_period_s(records: Iterable[PassRecord]) -> float:
    """Return the longest period of these records, in seconds. Without records, it is 60 s."""
    periods = (record.period_s or DEFAULT_PERIOD_S for record in records)
    return max(periods, default=DEFAULT_PERIOD_S)


def period_of(records: Iterable[PassRecord], name: str) -> float:
    """Return the period of a pass in seconds. If its shards differ, it is the longest one."""
    return longest_period_s(record for record in records if record.name == name)


def oldest_record(records: Iterable[PassRecord], name: str) -> PassRecord | None:
    """Return the oldest record of a pass and its shards; None if there is none."""
    pass_records = (record for record in records if record.name == name)
    return min(pass_records, key=lambda record: record.time, default=None)


def oldest_stale_record(
    records: Iterable[PassRecord], name: str, at: datetime
) -> PassRecord | None:
    """Return the oldest record of a pass and its shards that is stale at a time, or None."""
    return oldest_record([record for record in records if record.is_stale(at)], name)


def is_fresh(records: Iterable[PassRecord], name: str, at: datetime) -> bool:
    """Return whether a pass, or one of its shards, has a record that is not stale at a time."""
    return any(not record.is_stale(at) for record in records if record.name == name)


def stopped_reason(record: PassRecord, at: datetime) -> str:
    """Return the reason of the worker's own alert about a pass that stopped."""
    return (
        f"no {record.name} pass was recorded for {format_age(record.age_s(at))}; "
        f"one is due every {format_age(longest_period_s([record]))}"
    )
