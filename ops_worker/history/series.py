"""What was: the series of ``system_metrics`` over some time, in buckets of equal length."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.samples import HEALTHY, PROBE_LATENCY_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from ops_worker.core.model import Target


class Bucket(NamedTuple):
    """The rows of one series in a part of the time: their mean and the highest."""

    mean: float
    peak: float


class Growth(NamedTuple):
    """How much a counter has grown, and in how many seconds: from the last row before a bucket to the last one in it."""

    increase: float
    seconds: float


class Key(NamedTuple):
    """What names a series."""

    service: str | None
    metric: str
    tags: Mapping[str, Any] | None


class Series(NamedTuple):
    """One series over some time, in buckets (from 1) that have rows, with its newest value.

    ``counts`` says that it is a counter, whose growth is of interest; of others the growth is not read.
    """

    service: str | None
    metric: str
    tags: Mapping[str, Any] | None
    buckets: Mapping[int, Bucket]
    first: datetime
    last: datetime
    counts: bool
    latest: float | None = None
    growth: Mapping[int, Growth] = {}

    @property
    def key(self) -> Key:
        """What names it."""
        return Key(self.service, self.metric, self.tags)

    @property
    def rate_per_s(self) -> float | None:
        """Growth for each second between the first and the last row; None for what does not count, or has one row only."""
        elapsed_s = (self.last - self.first).total_seconds()
        return (
            sum(one.increase for one in self.growth.values()) / elapsed_s
            if self.counts and elapsed_s > 0
            else None
        )


class Run(NamedTuple):
    """A time without a break in which a series said the same."""

    up: bool
    begun: datetime
    ended: datetime

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.ended - self.begun).total_seconds()


def counting(targets: Iterable[Target]) -> Callable[[str, str], bool]:
    """Give the rule by which a series and metric is a counter: a watched service reports it, and does not call it a gauge."""
    targets = tuple(targets)
    named = {
        (target.series, one.name)
        for target in targets
        for one in target.counters or ()
        if not one.gauge
    }
    every = {target.series for target in targets if target.counters is None}
    return lambda service, metric: (
        (service, metric) in named
        or (service in every and metric not in {HEALTHY, PROBE_LATENCY_MS})
    )


def gathered(rows: Iterable[Mapping[str, Any]], counts: Callable[[str, str], bool]) -> list[Series]:
    """Gather the buckets of each series, in the order of their names."""
    groups: dict[tuple[str, bool, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        name = (
            row["service"] or "",
            row["service"] is None,
            row["metric"],
            json.dumps(row["tags"], sort_keys=True),
        )
        groups.setdefault(name, []).append(row)
    return [
        Series(
            group[0]["service"],
            metric,
            group[0]["tags"],
            {row["bucket"]: Bucket(row["mean"], row["peak"]) for row in group},
            min(row["first"] for row in group),
            max(row["last"] for row in group),
            counts(service, metric),
        )
        for (service, _, metric, _), group in sorted(groups.items())
    ]
