"""What was: the series of ``system_metrics`` over some time, in buckets of equal length."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.series import HEALTHY, OPS_WORKER, POSTGRES, PROBE_LATENCY_MS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from ops_worker.core.model import Figure, Target


class Series(NamedTuple):
    """One series over some time: the mean of each bucket (from 1) that has rows, its newest value, and how much it has grown.

    ``counts`` says that it is a counter, whose growth is of interest; of others the growth is not read.
    """

    service: str | None
    metric: str
    tags: Mapping[str, Any] | None
    means: Mapping[int, float]
    first: datetime
    last: datetime
    counts: bool
    latest: float = 0.0
    increase: float = 0.0

    @property
    def rate_per_s(self) -> float | None:
        """Growth for each second between the first and the last row; None for what does not count, or has one row only."""
        elapsed_s = (self.last - self.first).total_seconds()
        return self.increase / elapsed_s if self.counts and elapsed_s > 0 else None


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
            {row["bucket"]: row["mean"] for row in group},
            min(row["first"] for row in group),
            max(row["last"] for row in group),
            service != OPS_WORKER and (service, metric) not in gauges,
        )
        for (service, metric, _), group in sorted(groups.items())
    ]
