"""The series of ``system_metrics`` over a period, in buckets of equal length."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.samples import counter_series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.model import Target
    from ops_worker.history.rows import BucketRow, JsonValue


class Bucket(NamedTuple):
    """The rows of one series in one bucket: their mean and their maximum."""

    mean: float
    peak: float


class Growth(NamedTuple):
    """The growth of a counter, and the seconds that it took.

    It is counted from the last row before a bucket to the last row in it.
    """

    increase: float
    seconds: float


class Key(NamedTuple):
    """The identity of a series."""

    service: str | None
    metric: str
    tags: JsonValue


class Series(NamedTuple):
    """One series over a period. ``buckets`` has the buckets with rows, numbered from 1.

    ``first`` and ``last`` are the times of its first and last row, and ``latest`` is its newest
    value. ``counts`` is whether it is a counter; only of a counter ``growth`` is read.
    """

    service: str | None
    metric: str
    tags: JsonValue
    buckets: Mapping[int, Bucket]
    first: datetime
    last: datetime
    counts: bool
    latest: float | None = None
    growth: Mapping[int, Growth] = {}

    @property
    def key(self) -> Key:
        """The identity of this series."""
        return Key(self.service, self.metric, self.tags)

    @property
    def rate_per_s(self) -> float | None:
        """The growth per second between the first and last row; None for a gauge or one row."""
        elapsed_s = (self.last - self.first).total_seconds()
        if not self.counts or elapsed_s <= 0:
            return None
        return sum(growth.increase for growth in self.growth.values()) / elapsed_s


class Run(NamedTuple):
    """A period in which a series was continuously up or down."""

    up: bool
    begun: datetime
    ended: datetime

    @property
    def seconds(self) -> float:
        """The length of this period in seconds."""
        return (self.ended - self.begun).total_seconds()


def counter_rule(targets: Iterable[Target]) -> Callable[[str, str], bool]:
    """Return the function that decides whether a service and metric are a counter."""
    return counter_series(targets).includes


def group_series(rows: Iterable[BucketRow], is_counter: Callable[[str, str], bool]) -> list[Series]:
    """Group the buckets by series, sorted by service, metric and tags."""
    groups: dict[tuple[str, bool, str, str], list[BucketRow]] = {}
    for row in rows:
        # A service of NULL sorts like an empty name, and is another series.
        tags = json.dumps(row.tags, sort_keys=True)
        identity = (row.service or "", row.service is None, row.metric, tags)
        groups.setdefault(identity, []).append(row)
    return [
        _series(group, counts=is_counter(service, metric))
        for (service, _, metric, _), group in sorted(groups.items())
    ]


def _series(rows: Sequence[BucketRow], *, counts: bool) -> Series:
    return Series(
        service=rows[0].service,
        metric=rows[0].metric,
        tags=rows[0].tags,
        buckets={row.bucket: Bucket(row.mean, row.peak) for row in rows},
        first=min(row.first for row in rows),
        last=max(row.last for row in rows),
        counts=counts,
    )
