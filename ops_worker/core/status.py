"""What is known now, from the rows of the database to one document and to tables: stale is never shown as healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.answer import ago, labelled, one_line, short
from ops_worker.core.series import HEALTHY, OPS_WORKER, PROBE_LATENCY_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.past import Series

BUCKETS = 24
"""Points of a sparkline."""
STALE_PERIODS = 3
"""Periods of its pass after which a row is not believed any more."""
DEFAULT_PERIOD_S = 60.0
"""The period of a pass that never told its own: that of the shortest CronJob."""
PASSES = frozenset({"health", "metrics"})
"""The passes that there should be."""
BARS = "▁▂▃▄▅▆▇█"
GAP = "·"
"""Where no pass looked."""


class Facts(NamedTuple):
    """The rows that a status is made of, as the store reads them, at one moment of the database's clock."""

    now: datetime
    since_s: float
    services: Sequence[Mapping[str, Any]]
    alerts: Sequence[Mapping[str, Any]]
    passes: Sequence[Mapping[str, Any]]
    ran: Sequence[Mapping[str, Any]]
    series: Sequence[Series]
    maintenance: Mapping[str, Any]


class Table(NamedTuple):
    """A part of the screen. ``marks`` gives the column whose word decides how a row is shown."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: int | None = None
    none: str = ""  # what is said where there are no rows; nothing: it is left out


def period_of(passes: Iterable[Mapping[str, Any]], name: str) -> float:
    """Give how long a pass said that it is to the next one, in seconds."""
    return next((row["period_s"] for row in passes if row["pass"] == name), None) or DEFAULT_PERIOD_S


def build(facts: Facts, series_of: Mapping[str, str]) -> dict[str, Any]:
    """Build the document. ``series_of`` gives a service's name in ``system_metrics``."""
    series = [_series(one, facts.now) for one in facts.series]
    latencies = {one["service"]: one["history"] for one in series if one["metric"] == PROBE_LATENCY_MS}
    health_s = period_of(facts.passes, "health")
    named = {row["service"]: series_of.get(row["service"], row["service"]) for row in facts.services}
    return {
        "at": facts.now.isoformat(),
        "since_s": facts.since_s,
        "services": [_service(row, facts.now, health_s, latencies.get(named[row["service"]])) for row in facts.services],
        "alerts": [_alert(row, facts.now) for row in facts.alerts],
        "maintenance": _maintenance(facts.maintenance),
        "passes": [_pass(row, facts) for row in facts.passes],
        "series": [one for one in series if one["metric"] != PROBE_LATENCY_MS and one["service"] != OPS_WORKER],
    }


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Lay the document out for a person."""
    services = tuple(
        (
            one["service"],
            one["state"],
            "-" if one["since_s"] is None else ago(one["since_s"]),
            "-" if one["latency_ms"] is None else f"{one['latency_ms']} ms",
            sparkline(one["latency_history"]),
            ago(one["age_s"]),
            one["reason"] or "-",
        )
        for one in document["services"]
    )
    alerts = tuple(
        (str(one["id"]), one["service"], one["status"], ago(one["age_s"]), one["acknowledged_by"] or "-", one["summary"])
        for one in document["alerts"]
    )
    ran = tuple(
        (one["pass"], "stale" if one["stale"] else "on time", ago(one["age_s"]), ago(one["period_s"]), str(one["missed"]))
        for one in document["passes"]
    )
    never = (PASSES - {one["pass"] for one in document["passes"]}) if ran else ()
    ran += tuple((name, "never", "-", "-", "-") for name in sorted(never))
    series = tuple(
        (one["service"], one["metric"] + labelled(one["tags"]), short(one["value"]), _rate(one["rate_per_s"]), _drawn(one))
        for one in document["series"]
    )
    lasting = document["maintenance"]
    maintenance = ((ago(lasting["left_s"]), lasting["started_by"], lasting["reason"] or "-"),) if lasting else ()
    return [
        Table("Maintenance: no alert opens", ("ENDS IN", "STARTED BY", "REASON"), maintenance),
        Table("Services", ("SERVICE", "STATE", "FOR", "LATENCY", "HISTORY", "CHECKED", "REASON"), services, 1, "none was recorded"),
        Table("Open alerts", ("ID", "SERVICE", "STATUS", "AGE", "ACKNOWLEDGED BY", "SUMMARY"), alerts, 2, "none"),
        Table("Passes", ("PASS", "STATE", "LAST SUCCESS", "EACH", "MISSED"), ran, 1, "none was recorded, or RECORD_OWN_METRICS is off"),
        Table(f"Last {ago(document['since_s'])}", ("SERIES", "METRIC", "NOW", "RATE", "HISTORY"), series),
    ]


def sparkline(values: Sequence[float | None] | None, scale: tuple[float, float] | None = None) -> str:
    """Draw a bar for each value, from the least to the most or on a given scale; a gap where there is none."""
    known = [value for value in values or () if value is not None]
    if not known:
        return ""
    low, high = scale or (min(known), max(known))
    if low == high:  # nothing moved: half way up, unless there is nothing
        low, high = low - abs(low), high + abs(high)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(GAP if value is None else BARS[round((value - low) / step)] for value in values or ())


def _service(row: Mapping[str, Any], now: datetime, period_s: float, history: Sequence[float | None] | None) -> dict[str, Any]:
    age_s = (now - row["checked_at"]).total_seconds()
    stale = age_s > STALE_PERIODS * period_s
    reason = one_line(row["reason"] or "")
    return {
        "service": one_line(row["service"]),
        "state": "stale" if stale else row["state"] or row["status"],
        "stale": stale,
        "last_state": row["state"] or row["status"],
        "since": row["since"],
        "since_s": row["since_s"],
        "latency_ms": row["latency_ms"],
        "latency_history": list(history or ()),
        "checked_at": row["checked_at"].isoformat(),
        "age_s": age_s,
        "reason": f"no pass has looked since; it was {row['state'] or row['status']}" if stale else reason,
    }


def _alert(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    return {
        "id": row["id"],
        "service": one_line(row["service"]),
        "status": row["status"],
        "summary": one_line(row["summary"]),
        "created_at": row["created_at"].isoformat(),
        "age_s": (now - row["created_at"]).total_seconds(),
        "acknowledged_by": row["acknowledged_by"],
        "acknowledged_at": row["acknowledged_at"].isoformat() if row["acknowledged_at"] else None,
    }


def _maintenance(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if not row:
        return None
    return {
        "until": row["until"].isoformat(),
        "left_s": row["left_s"],
        "started_by": one_line(row["started_by"]),
        "reason": one_line(row["reason"]),
    }


def _pass(row: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    age_s, period_s = (facts.now - row["time"]).total_seconds(), row["period_s"] or DEFAULT_PERIOD_S
    return {
        "pass": row["pass"],
        "last_success": row["time"].isoformat(),
        "age_s": age_s,
        "period_s": period_s,
        "missed": sum(one["missed"] for one in facts.ran if one["pass"] == row["pass"]),
        "stale": age_s > STALE_PERIODS * period_s,
    }


def _series(one: Series, now: datetime) -> dict[str, Any]:
    return {
        "service": one_line(one.service or ""),
        "metric": one_line(one.metric),
        "tags": one.tags or {},
        "value": one.latest,
        "time": one.last.isoformat(),
        "age_s": (now - one.last).total_seconds(),
        "rate_per_s": one.rate_per_s,
        "history": [one.buckets[bucket].mean if bucket in one.buckets else None for bucket in range(1, BUCKETS + 1)],
    }


def _drawn(series: Mapping[str, Any]) -> str:
    return sparkline(series["history"], (0.0, 1.0) if series["metric"] == HEALTHY else None)


def _rate(per_s: float | None) -> str:
    return "" if per_s is None else f"{short(float(f'{per_s:.3g}'))}/s"
