"""What is known now, from the rows of the database to one document and to tables: stale is never shown as healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.decoding import parse_time
from ops_worker.core.passes import HEALTH, METRICS, PASSES
from ops_worker.core.samples import HEALTHY, OPS_WORKER, PROBE_LATENCY_MS
from ops_worker.core.staleness import PassRecord, period_of, stale_after_s
from ops_worker.text import format_age, format_labels, format_si, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.history.series import Series

BUCKETS = 24
"""Points of a sparkline."""
BARS = "▁▂▃▄▅▆▇█"
GAP = "·"
"""Where no pass looked."""


class Facts(NamedTuple):
    """The rows that a status is made of, as the store reads them, at one moment of the database's clock."""

    now: datetime
    since_s: float
    services: Sequence[Mapping[str, Any]]
    alerts: Sequence[Mapping[str, Any]]
    passes: Sequence[PassRecord]
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


def build(
    facts: Facts, series_of: Mapping[str, str], maintenance_until: datetime | None = None
) -> dict[str, Any]:
    """Build the document. ``series_of`` gives a service's name in ``system_metrics``; the settings may tell of a maintenance as well."""
    metrics_s = period_of(facts.passes, METRICS.name)
    series = [_series(one, facts.now, metrics_s) for one in facts.series]
    latencies = {
        one["service"]: one["history"] for one in series if one["metric"] == PROBE_LATENCY_MS
    }
    health_s = period_of(facts.passes, HEALTH.name)
    named = {
        row["service"]: series_of.get(row["service"], row["service"]) for row in facts.services
    }
    return {
        "at": facts.now.isoformat(),
        "since_s": facts.since_s,
        "services": [
            _service(row, facts.now, health_s, latencies.get(named[row["service"]]))
            for row in facts.services
        ],
        "alerts": [_alert(row, facts.now) for row in facts.alerts],
        "maintenance": _maintenance(facts, maintenance_until),
        "passes": [_pass(row, facts) for row in facts.passes],
        "series": [
            one
            for one in series
            if one["metric"] != PROBE_LATENCY_MS and one["service"] != OPS_WORKER
        ],
    }


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Lay the document out for a person."""
    services = tuple(
        (
            one["service"],
            one["state"],
            "-" if one["since_s"] is None else _age(one["since_s"]),
            "-" if one["latency_ms"] is None else f"{one['latency_ms']} ms",
            sparkline(one["latency_history"]),
            _age(one["age_s"]),
            one["reason"] or "-",
        )
        for one in document["services"]
    )
    alerts = tuple(
        (
            str(one["id"]),
            one["service"],
            one["status"],
            _age(one["age_s"]),
            one["acknowledged_by"] or "-",
            one["summary"],
        )
        for one in document["alerts"]
    )
    ran = tuple(
        (
            _labelled(one),
            "stale" if one["stale"] else "on time",
            format_age(one["age_s"]),
            format_age(one["period_s"]),
            str(one["missed"]),
        )
        for one in document["passes"]
    )
    never = (PASSES.keys() - {one["pass"] for one in document["passes"]}) if ran else ()
    ran += tuple((name, "never", "-", "-", "-") for name in sorted(never))
    series = tuple(
        (
            one["service"],
            one["metric"] + format_labels(one["tags"]),
            _now(one),
            _rate(one["rate_per_s"]),
            _drawn(one),
        )
        for one in document["series"]
    )
    lasting = document["maintenance"]
    maintenance = (
        ((format_age(lasting["left_s"]), lasting["started_by"], lasting["reason"] or "-"),)
        if lasting
        else ()
    )
    return [
        Table("Maintenance: no alert opens", ("ENDS IN", "STARTED BY", "REASON"), maintenance),
        Table(
            "Services",
            ("SERVICE", "STATE", "FOR", "LATENCY", "HISTORY", "CHECKED", "REASON"),
            services,
            1,
            "none was recorded",
        ),
        Table(
            "Open alerts",
            ("ID", "SERVICE", "STATUS", "AGE", "ACKNOWLEDGED BY", "SUMMARY"),
            alerts,
            2,
            "none",
        ),
        Table(
            "Passes",
            ("PASS", "STATE", "LAST SUCCESS", "EACH", "MISSED"),
            ran,
            1,
            "none was recorded, or RECORD_OWN_METRICS is off",
        ),
        Table(
            f"Last {format_age(document['since_s'])}",
            ("SERIES", "METRIC", "NOW", "RATE", "HISTORY"),
            series,
        ),
    ]


def outdated(age_s: float, error: str) -> Table:
    """Say that what follows is old, and why there is nothing newer."""
    title = f"No new picture for {format_age(age_s)}"
    return Table(title, (), (), none=f"{error}; trying again")


def fitting(shown: Sequence[Table], lines: int) -> list[Table]:
    """Cut the last table so that all fits on a screen of so many lines; it then says how much is left out."""
    *first, last = shown or [Table("", (), ())]
    left = max(1, lines - sum(len(one.rows) + 3 if one.rows else 2 for one in first) - 5)
    if len(last.rows) <= left:
        return list(shown)
    return [
        *first,
        last._replace(
            title=f"{last.title}, {left} of {len(last.rows)}: the rest is on a higher screen",
            rows=last.rows[:left],
        ),
    ]


def sparkline(
    values: Sequence[float | None] | None, scale: tuple[float, float] | None = None
) -> str:
    """Draw a bar for each value, from the least to the most or on a given scale; a gap where there is none."""
    known = [value for value in values or () if value is not None]
    if not known:
        return ""
    low, high = scale or (min(known), max(known))
    if low == high:  # nothing moved: half way up, unless there is nothing
        low, high = low - abs(low), high + abs(high)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(
        GAP if value is None else BARS[min(len(BARS) - 1, max(0, round((value - low) / step)))]
        for value in values or ()
    )


def _service(
    row: Mapping[str, Any], now: datetime, period_s: float, history: Sequence[float | None] | None
) -> dict[str, Any]:
    age_s = (now - row["checked_at"]).total_seconds()
    since = parse_time(row["since"])
    stale = (
        not -period_s <= age_s <= stale_after_s(period_s)
    )  # also of a time that is not yet: a clock was set back
    reason = one_line(row["reason"] or "")
    last_state = one_line(row["state"] or row["status"])
    return {
        "service": one_line(row["service"]),
        "state": "stale" if stale else last_state,
        "stale": stale,
        "last_state": last_state,
        "since": since.isoformat() if since else None,
        "since_s": (now - since).total_seconds() if since else None,
        "latency_ms": row["latency_ms"],
        "latency_history": list(history or ()),
        "checked_at": row["checked_at"].isoformat(),
        "age_s": age_s,
        "reason": f"no pass has looked since; it was {last_state}" if stale else reason,
    }


def _alert(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    return {
        "id": row["id"],
        "service": one_line(row["service"]),
        "status": row["status"],
        "summary": one_line(row["summary"]),
        "created_at": row["created_at"].isoformat(),
        "age_s": (now - row["created_at"]).total_seconds(),
        "acknowledged_by": one_line(row["acknowledged_by"] or "") or None,
        "acknowledged_at": row["acknowledged_at"].isoformat() if row["acknowledged_at"] else None,
    }


def _maintenance(facts: Facts, told: datetime | None) -> dict[str, Any] | None:
    row = facts.maintenance
    if told is not None and told > (row["until"] if row else facts.now):
        row = {
            "until": told,
            "left_s": (told - facts.now).total_seconds(),
            "started_by": "MAINTENANCE_UNTIL",
            "reason": "",
        }
    if not row:
        return None
    return {
        "until": row["until"].isoformat(),
        "left_s": row["left_s"],
        "started_by": one_line(row["started_by"]),
        "reason": one_line(row["reason"]),
    }


def _pass(record: PassRecord, facts: Facts) -> dict[str, Any]:
    return {
        "pass": record.name,
        "shard": record.shard,
        "last_success": record.time.isoformat(),
        "age_s": record.age_s(facts.now),
        "period_s": period_of([record], record.name),
        "missed": sum(
            one["missed"]
            for one in facts.ran
            if (one["pass"], one["shard"]) == (record.name, record.shard)
        ),
        "stale": record.is_stale(facts.now),
    }


def _series(one: Series, now: datetime, period_s: float) -> dict[str, Any]:
    age_s = (now - one.last).total_seconds()
    return {
        "service": one_line(one.service or ""),
        "metric": one_line(one.metric),
        "tags": one.tags or {},
        "value": one.latest,
        "time": one.last.isoformat(),
        "age_s": age_s,
        "stale": age_s > stale_after_s(period_s),
        "rate_per_s": one.rate_per_s,
        "history": [
            one.buckets[bucket].mean if bucket in one.buckets else None
            for bucket in range(1, BUCKETS + 1)
        ],
    }


def _age(seconds: float) -> str:
    """Write how long ago a time was. A row of a time to come was written by a wrong clock."""
    return format_age(seconds) if seconds > -1 else "in the future"


def _labelled(told: Mapping[str, Any]) -> str:
    return one_line(f"{told['pass']} {told['shard']}" if told["shard"] else told["pass"])


def _now(series: Mapping[str, Any]) -> str:
    """Write the newest value, with its age where it is not of now."""
    value = "-" if series["value"] is None else format_si(series["value"])
    return f"{value} ({format_age(series['age_s'])} ago)" if series["stale"] else value


def _drawn(series: Mapping[str, Any]) -> str:
    return sparkline(series["history"], (0.0, 1.0) if series["metric"] == HEALTHY else None)


def _rate(per_s: float | None) -> str:
    return "" if per_s is None else f"{format_si(float(f'{per_s:.3g}'))}/s"
