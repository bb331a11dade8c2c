"""What happened, for the page of ``ops-worker report``: from rows to availabilities, incidents and the points of charts."""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.passes import HEALTH, METRICS, PASSES
from ops_worker.core.samples import HEALTHY, MAINTENANCE, OPS_WORKER, PROBE_LATENCY_MS
from ops_worker.core.staleness import DEFAULT_PERIOD_S, PassRecord, period_of, stale_after_s
from ops_worker.history.series import Key, Run
from ops_worker.text import format_labels, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.model import Target
    from ops_worker.history.series import Series
    from ops_worker.history.status import Facts

MAX_BUCKETS = 144
"""Points of a chart, at most: one for ten minutes of a day."""
BUCKET_PERIODS = 2
"""Periods of the slowest pass that make a point, at least: with fewer there would be points without a row where nothing is missing."""
CELLS = 600
"""Parts of a timeline, each as wide as the narrowest mark that can be seen."""
MAX_CHARTS = 60
MAX_TIMELINES = 100
STATES = ("down", "unknown", "up")
"""What a part of a timeline can be. The first one that is so at any time of it, is what it is: a short outage is seen."""
UNITS = {"ms": "ms", "bytes": "bytes", "seconds": "s", "s": "s", "percent": "%"}


class Lasting(NamedTuple):
    """How long each of the series that tell of up and down was so, as the store reads them."""

    services: Sequence[tuple[str, Sequence[Run]]]
    maintenance: Sequence[Run]


class Span(NamedTuple):
    """A part of a timeline, in cells of its width, in which all was the same."""

    state: str
    first: int
    number: int


class Availability(NamedTuple):
    """How long a service was up, down, and nobody knows, in seconds; and how long of the time that it was down there was maintenance."""

    service: str
    up_s: float
    down_s: float
    unknown_s: float
    planned_s: float
    outages: int
    spans: Sequence[Span]

    @property
    def available(self) -> float | None:
        """The share that it was up, of the time of which somebody knows."""
        known = self.up_s + self.down_s
        return self.up_s / known if known else None

    @property
    def coverage(self) -> float:
        """The share of the time of which somebody knows."""
        return (self.up_s + self.down_s) / (self.up_s + self.down_s + self.unknown_s)


class Chart(NamedTuple):
    """One series as the points of a chart: the middle of each bucket, its mean and its highest value; None where nobody looked.

    Of a counter the points are its growth for each second, and there is no highest.
    """

    service: str
    metric: str
    unit: str
    latest: float | None
    times: Sequence[datetime]
    means: Sequence[float | None]
    peaks: Sequence[float | None] | None


class PassRow(NamedTuple):
    """How often a pass was recorded, and how often it was not between the first time and the last.

    ``stopped_s`` tells for how many seconds it has not been recorded any more, where that is longer than it may be; else 0.
    """

    name: str
    period_s: float | None
    first: datetime | None
    last: datetime | None
    recorded: int
    missed: int
    stopped_s: float


class Announced(NamedTuple):
    """A maintenance as people started and ended it; ``ended`` may lie ahead."""

    begun: datetime
    ended: datetime
    started_by: str
    ended_by: str
    reason: str


class Page(NamedTuple):
    """Everything that is on the page, at one moment of the database's clock."""

    begun: datetime
    ended: datetime
    services: Sequence[Availability]
    maintenance: Sequence[Run]
    incidents: Sequence[Mapping[str, Any]]
    passes: Sequence[PassRow]
    charts: Sequence[Chart]
    buckets: int
    left_out: int
    announced: Sequence[Announced] = ()


def longest_s(records: Iterable[PassRecord]) -> float:
    """Return the longest period of any pass, in seconds."""
    periods = (record.period_s or DEFAULT_PERIOD_S for record in records)
    return max(periods, default=DEFAULT_PERIOD_S)


def buckets(since_s: float, longest_s: float) -> int:
    """Choose the number of a chart's points, by the longest time from one pass to the next."""
    return max(1, min(MAX_BUCKETS, int(since_s / (BUCKET_PERIODS * longest_s))))


def wanted(series: Iterable[Series], targets: Iterable[Target]) -> list[tuple[Key, str]]:
    """Choose the series that tell of up and down and of maintenance, each with the pass that writes it; all services' among them."""
    found = [one.key for one in series if one.metric == HEALTHY]
    keys = [Key(target.series, HEALTHY, dict(target.tags)) for target in targets]
    found += [key for key in keys if key not in found]
    maintained = [
        one.key for one in series if (one.service, one.metric) == (OPS_WORKER, MAINTENANCE)
    ]
    return [(key, METRICS.name) for key in found] + [(key, HEALTH.name) for key in maintained]


def lasting(
    chosen: Sequence[tuple[Key, str]], runs: Sequence[Sequence[Run]], targets: Iterable[Target]
) -> Lasting:
    """Name each of the services, also those of which nothing is known."""
    named, told = _names(targets), list(zip(chosen, runs, strict=True))
    services = [
        (_name(key.service, named) + format_labels(key.tags), some)
        for (key, _), some in told
        if key.metric == HEALTHY
    ]
    return Lasting(
        services,
        _merged(
            one for (key, _), some in told if key.metric == MAINTENANCE for one in some if one.up
        ),
    )


def page(
    facts: Facts,
    points: int,
    told: Lasting,
    incidents: Sequence[Mapping[str, Any]],
    targets: Iterable[Target],
) -> Page:
    """Build the page: the worst service first, then by name."""
    begun = facts.now - timedelta(seconds=facts.since_s)
    services = [
        _availability(name, runs, told.maintenance, begun, facts.now)
        for name, runs in told.services
    ]
    services.sort(key=lambda one: (-one.down_s, -one.unknown_s, one.service))
    worth = [one for one in facts.series if _is_drawn(one)]
    drawn = sorted(
        (one for one in worth if len(one.growth if one.counts else one.buckets) > 1),
        key=lambda one: (_rank(one), one.service or "", one.metric),
    )
    named = _names(targets)
    return Page(
        begun,
        facts.now,
        services,
        told.maintenance,
        [_incident(row, begun, facts.now) for row in incidents],
        _passes(facts),
        [
            _chart(one, named, begun, timedelta(seconds=facts.since_s / points), points)
            for one in drawn[:MAX_CHARTS]
        ],
        points,
        len(worth) - len(drawn[:MAX_CHARTS]),
    )


def announced(rows: Iterable[Mapping[str, Any]]) -> list[Announced]:
    """List the maintenances that people started, in the order of time; repeats of one are one."""
    found: list[Announced] = []
    for row in rows:
        one = Announced(
            row["begun"],
            row["ended"],
            started_by=one_line(row["started_by"]),
            ended_by=one_line(row["ended_by"] or ""),
            reason=one_line(row["reason"]),
        )
        same = (one.started_by, one.reason)
        repeats = [last for last in found[-1:] if (last.started_by, last.reason) == same]
        if repeats and repeats[0].ended >= one.begun:
            found[-1] = one._replace(begun=repeats[0].begun)
        else:
            found.append(one)
    return found


def spans(runs: Sequence[Run], begun: datetime, ended: datetime, cells: int = CELLS) -> list[Span]:
    """Lay runs out on a timeline of so many cells: the worst that was in a cell at any time is what it shows."""
    cell_s = (ended - begun).total_seconds() / cells
    known = [0.0] * cells
    down = [False] * cells
    for run in runs:
        low, high = (
            (run.begun - begun).total_seconds() / cell_s,
            (run.ended - begun).total_seconds() / cell_s,
        )
        first, last = min(cells - 1, max(0, int(low))), min(cells - 1, max(0, int(high)))
        for cell in range(first, last + 1):
            part = max(0.0, min(high, cell + 1) - max(low, cell))
            known[cell] += part
            down[cell] = down[cell] or (not run.up and part > 0)
    states = [
        "down" if down[cell] else "up" if known[cell] > 1 - 1e-6 else "unknown"
        for cell in range(cells)
    ]
    found = []
    for state, group in groupby(range(cells), key=states.__getitem__):
        some = list(group)
        found.append(Span(state, some[0], len(some)))
    return found


def _merged(runs: Iterable[Run]) -> list[Run]:
    """Make one of those that overlap: each shard of a health pass tells of the same maintenance."""
    found: list[Run] = []
    for run in sorted(runs, key=lambda one: one.begun):
        if found and run.begun <= found[-1].ended:
            found[-1] = found[-1]._replace(ended=max(found[-1].ended, run.ended))
        else:
            found.append(run)
    return found


def _names(targets: Iterable[Target]) -> dict[str, str]:
    return {target.series: target.name for target in targets}


def _name(series: str | None, named: Mapping[str, str]) -> str:
    return one_line(named.get(series or "", series or "(none)"))


def _availability(
    service: str, runs: Sequence[Run], maintenance: Sequence[Run], begun: datetime, ended: datetime
) -> Availability:
    up_s, down_s = (sum(run.seconds for run in runs if run.up is up) for up in (True, False))
    outages = [run for run in runs if not run.up]
    planned_s = sum(
        max(0.0, (min(run.ended, one.ended) - max(run.begun, one.begun)).total_seconds())
        for run in outages
        for one in maintenance
    )
    whole_s = (ended - begun).total_seconds()
    return Availability(
        service,
        up_s,
        down_s,
        max(0.0, whole_s - up_s - down_s),
        planned_s,
        len(outages),
        spans(runs, begun, ended),
    )


def _incident(row: Mapping[str, Any], begun: datetime, now: datetime) -> dict[str, Any]:
    closed_at = row["closed_at"] if row["status"] == "CLOSED" else None
    return {
        **row,
        "closed_at": closed_at,
        "service": one_line(row["service"]),
        "summary": one_line(row["summary"]),
        "acknowledged_by": one_line(row["acknowledged_by"] or ""),
        "before": row["created_at"] < begun,
        "seconds": max(0.0, ((closed_at or now) - row["created_at"]).total_seconds()),
    }


def _passes(facts: Facts) -> list[PassRow]:
    """List each pass, or shard of one, that was recorded in this time or should have been; of other shards than now none has stopped."""
    each_s = {(one.name, one.shard): period_of([one], one.name) for one in facts.passes}
    rows = []
    for one in facts.ran:
        name = one_line(f"{one['pass']} {one['shard']}" if one["shard"] else one["pass"])
        now_s, stopped_s = (
            each_s.pop((one["pass"], one["shard"]), None),
            (facts.now - one["last"]).total_seconds(),
        )
        stopped_s = stopped_s if now_s and stopped_s > stale_after_s(now_s) else 0.0
        rows.append(
            PassRow(
                name, now_s, one["first"], one["last"], one["recorded"], one["missed"], stopped_s
            )
        )
    if not (facts.ran or facts.passes):
        return []  # nothing is recorded of any: they do not run, or are told not to tell
    gone = {f"{name} {shard}" if shard else name for name, shard in each_s} | (
        PASSES.keys() - {one["pass"] for one in facts.ran}
    )
    return rows + [PassRow(name, None, None, None, 0, 0, facts.since_s) for name in sorted(gone)]


def _is_drawn(one: Series) -> bool:
    return one.metric != HEALTHY and (one.service != OPS_WORKER or one.metric == "pass_duration_ms")


def _rank(one: Series) -> int:
    """Latencies first, then the services' and the platform's figures, the worker's own last."""
    return 0 if one.metric == PROBE_LATENCY_MS else 2 if one.service == OPS_WORKER else 1


def _chart(
    one: Series, named: Mapping[str, str], begun: datetime, width: timedelta, points: int
) -> Chart:
    numbers = range(1, points + 1)
    unit = UNITS.get(one.metric.rpartition("_")[2], "")
    service = _name(one.service, named)
    metric, times = (
        one_line(one.metric) + format_labels(one.tags),
        [begun + width * (number - 0.5) for number in numbers],
    )
    if one.counts:
        grown = [one.growth.get(number) for number in numbers]
        rates = [some.increase / some.seconds if some and some.seconds else None for some in grown]
        return Chart(service, metric, f"{unit} per s".strip(), one.latest, times, rates, None)
    found = [one.buckets.get(number) for number in numbers]
    means, peaks = [some and some.mean for some in found], [some and some.peak for some in found]
    return Chart(service, metric, unit, one.latest, times, means, peaks)
