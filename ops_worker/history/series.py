"""Group samples of ``system_metrics`` in a period by series and bucket (``history.buckets``)."""

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
    """The rows of one series in one bucket: their mean, their maximum, and their number."""

    mean: float
    peak: float
    samples: int = 1


class Growth(NamedTuple):
    """The growth of a counter, and the seconds in which it grew.

    Both are counted from the last row before a bucket to the last row in the bucket.
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
    value. ``counts`` is True for a counter; only a counter has ``growth``. If rows were removed,
    only their hours are known: then the first and the last row were up to ``first_s`` and
    ``last_s`` seconds later.
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
    first_s: float = 0.0
    last_s: float = 0.0

    @property
    def key(self) -> Key:
        """The identity of this series."""
        return Key(self.service, self.metric, self.tags)

    @property
    def rate_per_s(self) -> float | None:
        """The growth per second over the period; None for a gauge or a single row."""
        elapsed_s = sum(growth.seconds for growth in self.growth.values())
        if not self.counts or elapsed_s <= 0:
            return None
        return sum(growth.increase for growth in self.growth.values()) / elapsed_s


def counter_rule(targets: Iterable[Target]) -> Callable[[str, str], bool]:
    """Return the function that decides whether a metric of a service is a counter.

    It takes the name of the service in ``system_metrics``, and the metric.
    """
    return counter_series(targets).includes


def group_series(rows: Iterable[BucketRow], is_counter: Callable[[str, str], bool]) -> list[Series]:
    """Group rows of buckets by series, sorted by service, metric and tags.

    A bucket may have several rows, each for a part of the bucket.
    """
    groups: dict[tuple[str, bool, str, str], list[BucketRow]] = {}
    for row in rows:
        # A service of NULL sorts like an empty name, but is a different series.
        tags = json.dumps(row.tags, sort_keys=True)
        identity = (row.service or "", row.service is None, row.metric, tags)
        groups.setdefault(identity, []).append(row)
    return [
        _series(group, counts=is_counter(service, metric))
        for (service, _, metric, _), group in sorted(groups.items())
    ]


def _series(rows: Sequence[BucketRow], *, counts: bool) -> Series:
    buckets: dict[int, Bucket] = {}
    growth: dict[int, Growth] = {}
    for row in rows:
        bucket = Bucket(row.mean, row.peak, row.samples)
        buckets[row.bucket] = _joined(buckets.get(row.bucket), bucket)
        if counts and row.increase is not None and row.seconds is not None:
            add_growth(growth, row.bucket, Growth(row.increase, row.seconds))
    return Series(
        service=rows[0].service,
        metric=rows[0].metric,
        tags=rows[0].tags,
        buckets=buckets,
        first=min(row.first for row in rows),
        last=max(row.last for row in rows),
        counts=counts,
        growth=growth,
    )


def _joined(before: Bucket | None, part: Bucket) -> Bucket:
    """Add a part of a bucket to the parts before it. A part may come from the rollup."""
    if before is None:
        return part
    samples = before.samples + part.samples
    total = before.mean * before.samples + part.mean * part.samples
    return Bucket(total / samples, max(before.peak, part.peak), samples)


def add_growth(growth: dict[int, Growth], bucket: int, part: Growth) -> None:
    """Add the growth in a part of a bucket to the growth of the bucket."""
    before = growth.get(bucket, Growth(0.0, 0.0))
    growth[bucket] = Growth(before.increase + part.increase, before.seconds + part.seconds)
