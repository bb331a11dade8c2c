"""What was: the series of ``system_metrics`` over some time, in buckets of equal length."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.series import HEALTHY, OPS_WORKER, PASS_SUCCESS, POSTGRES, PROBE_LATENCY_MS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from ops_worker.core.model import Figure, Target


PERIOD = re.compile(r"\d{1,6}(\.\d{1,6})?")
"""How a pass tells the time to the next one; what stands there otherwise was not written by one."""


class Bucket(NamedTuple):
    """The rows of one series in a part of the time: how many, their mean and the highest."""

    number: int
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
    latest: float = 0.0
    growth: Mapping[int, Growth] = {}

    @property
    def key(self) -> Key:
        """What names it."""
        return Key(self.service, self.metric, self.tags)

    @property
    def number(self) -> int:
        """Rows."""
        return sum(one.number for one in self.buckets.values())

    @property
    def rate_per_s(self) -> float | None:
        """Growth for each second between the first and the last row; None for what does not count, or has one row only."""
        elapsed_s = (self.last - self.first).total_seconds()
        return sum(one.increase for one in self.growth.values()) / elapsed_s if self.counts and elapsed_s > 0 else None


class Run(NamedTuple):
    """A time without a break in which a series said the same."""

    up: bool
    begun: datetime
    ended: datetime

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.ended - self.begun).total_seconds()


def gauges(targets: Iterable[Target], figures: Iterable[Figure]) -> set[tuple[str, str]]:
    """Name the series and metrics that go up and down: what a service's counter says of itself, and every figure of the database."""
    targets = tuple(targets)
    named = {(target.series, one.name) for target in targets for one in target.counters or () if one.gauge}
    own = {(target.series, metric) for target in targets for metric in (HEALTHY, PROBE_LATENCY_MS)}
    return named | own | {(figure.series, figure.metric) for figure in figures} | {(POSTGRES, HEALTHY)}


def gathered(rows: Iterable[Mapping[str, Any]], gauges: Collection[tuple[str, str]]) -> list[Series]:
    """Gather the buckets of each series, in the order of their names."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["service"] or "", row["metric"], json.dumps(row["tags"], sort_keys=True)), []).append(row)
    return [
        Series(
            group[0]["service"],
            metric,
            group[0]["tags"],
            {row["bucket"]: Bucket(row["number"], row["mean"], row["peak"]) for row in group},
            min(row["first"] for row in group),
            max(row["last"] for row in group),
            service != OPS_WORKER and (service, metric) not in gauges,
        )
        for (service, metric, _), group in sorted(groups.items())
    ]


def passes(series: Iterable[Series]) -> list[Series]:
    """Choose the series in which the passes tell that they were recorded."""
    return [one for one in series if (one.service, one.metric) == (OPS_WORKER, PASS_SUCCESS)]


def each_s(one: Series, default: float) -> float:
    """Give the time from one row of a pass's series to the next, in seconds, as the pass told it; ``default`` where it did not."""
    told = str((one.tags or {}).get("period_s", ""))
    return (float(told) if PERIOD.fullmatch(told) else 0.0) or default


def missed(one: Series, default: float) -> int:
    """Count the passes that were due between the first row of a pass's series and the last one, and were not recorded."""
    due = round((one.last - one.first).total_seconds() / each_s(one, default)) + 1
    return max(0, due - one.number)


def period_s(series: Iterable[Series], name: str, default: float) -> float:
    """Give the longest time that a pass said it would be to the next one, in seconds."""
    return max((each_s(one, default) for one in passes(series) if (one.tags or {}).get("pass") == name), default=default)
