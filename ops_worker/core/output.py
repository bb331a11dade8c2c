"""Render an outcome for people and programs: closing line, table, JSON document."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from ops_worker.core.model import Outcome, Result, State
from ops_worker.core.needs import because_of, with_causes
from ops_worker.text import format_age, format_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ops_worker.core.model import Rolled, Sample, Verdict


MAX_LISTED = 10
"""The most names that a part of the closing line lists."""


def text(outcome: Outcome) -> str:
    """Return the closing line: the name of the pass, its counts, and its duration."""
    return f"{outcome.name}: {_body(outcome)} ({outcome.duration_s:.2f} s)"


def document(outcome: Outcome) -> dict[str, Any]:
    """Return the JSON document of ``--output json``.

    Times are in ISO 8601. The key of a duration ends with its unit.
    """
    since = {change.verdict.target.name: change.since.isoformat() for change in outcome.updates}
    maintenance_until = None
    if outcome.maintenance_until is not None:
        maintenance_until = outcome.maintenance_until.isoformat()
    rolled = {} if outcome.rolled is None else {"rollup": _rolled(outcome.rolled)}
    return {
        "pass": outcome.name,
        "result": outcome.result.value,
        **rolled,
        "services": [
            {
                "service": verdict.target.name,
                "status": "healthy" if verdict.healthy else "unhealthy",
                "state": verdict.state.value,
                "latency_ms": verdict.latency_ms,
                "certificate_days_left": verdict.certificate_days_left,
                "reason": verdict.reason,
                "because_of": list(outcome.because_of.get(verdict.target.name, ())),
                "attempts": verdict.attempts,
                "since": since.get(verdict.target.name),
            }
            for verdict in outcome.verdicts
        ],
        "alerts": {
            "opened": list(outcome.opened),
            "closed": list(outcome.closed),
            "open": list(outcome.alerted),
        },
        "maintenance_until": maintenance_until,
        "under_maintenance": {
            service: until.isoformat() for service, until in outcome.under_maintenance.items()
        },
        "blind": bool(outcome.blind_because),
        "blind_because": list(outcome.blind_because),
        "decided_by": dict(outcome.decided_by),
        "not_probed": list(outcome.unprobed),
        "not_probed_because": list(outcome.unprobed_because),
        "stale": list(outcome.superseded),
        "samples": [_sample(sample) for sample in outcome.samples],
        "warnings": list(outcome.warnings),
        "duration_s": round(outcome.duration_s, 3),
    }


def _rolled(rolled: Rolled) -> dict[str, Any]:
    """Return the JSON document of what a rollup pass did."""
    return {
        **rolled._asdict(),
        "until": None if rolled.until is None else rolled.until.isoformat(),
        "behind_s": round(rolled.behind_s),
    }


def _sample(sample: Sample) -> dict[str, Any]:
    """Return the JSON document of a sample."""
    row = {"service": sample.service, "metric": sample.metric, "value": sample.value}
    if sample.tags:
        row["tags"] = dict(sample.tags)
    return row


def as_json(outcome: Outcome) -> str:
    """Return the JSON document on one line."""
    return json.dumps(document(outcome), allow_nan=False)


def as_table(outcome: Outcome) -> str:
    """Return tables of the services and the samples, the warnings, and the closing line."""
    parts = []
    if outcome.verdicts:
        since = {
            change.verdict.target.name: f"{change.since:%Y-%m-%d %H:%M:%S %Z}"
            for change in outcome.updates
        }
        head = ("SERVICE", "STATE", "LATENCY", "SINCE", "REASON")
        rows = [_row(verdict, since, outcome) for verdict in outcome.verdicts]
        parts.append(format_table(head, rows))
    if outcome.samples:
        samples = [
            (sample.service, sample.metric, f"{sample.value:.15g}") for sample in outcome.samples
        ]
        parts.append(format_table(("SERVICE", "METRIC", "VALUE"), samples))
    parts.extend(f"warning: {warning}" for warning in outcome.warnings)
    return "\n\n".join([*parts, text(outcome)])


def summary(outcome: Outcome, exit_code: int, job: str = "") -> dict[str, Any]:
    """Return the short document for the termination message, which Kubernetes shows.

    It leaves out most facts that the database has.
    """
    unhealthy = [verdict for verdict in outcome.verdicts if not verdict.healthy]
    return {
        "pass": outcome.name,
        "result": outcome.result.value,
        "exit_code": exit_code,
        "summary": text(outcome),
        "job": job,
        "blind": bool(outcome.blind_because),
        "confirmed": sum(verdict.attempts > 1 for verdict in unhealthy),
        "unhealthy": {verdict.target.name: verdict.reason[:80] for verdict in unhealthy},
    }


def failure_summary(name: str, error: str, exit_code: int, job: str = "") -> dict[str, Any]:
    """Return the document for the termination message of a pass that ended with an error."""
    return {"pass": name, "result": "failed", "exit_code": exit_code, "error": error, "job": job}


def message(report: dict[str, Any], limit: int = 4000) -> str:
    """Return a document as one line of JSON of at most ``limit`` bytes.

    Kubernetes keeps 4,096 bytes of a termination message. Long strings are cut. If that is not
    enough, the unhealthy services are left out. All characters are ASCII, so each is one byte.
    """
    for length in (limit, 1000, 300):
        short = {
            key: value[:length] if isinstance(value, str) else value
            for key, value in report.items()
        }
        line = json.dumps(short)
        if len(line) <= limit:
            return line
    return json.dumps({key: value for key, value in short.items() if key != "unhealthy"})


RENDERERS: dict[str, Callable[[Outcome], str]] = {"text": text, "json": as_json, "table": as_table}
"""The renderer by the value of ``--output``."""


def _body(outcome: Outcome) -> str:
    """Return the closing line without the name and the duration of the pass."""
    if outcome.result is Result.OFF and outcome.rolled is not None:
        return "off: the pass of shard 0 does it for all shards"
    services = _services(outcome.verdicts)
    if outcome.blind_because:
        services = f"blind, no service was judged: {', '.join(outcome.blind_because)}"
    if outcome.result is Result.OFF:
        return "off: SYSTEM_ALERT_ENABLED is off; nothing was probed or written"
    if outcome.result is Result.WAITING:
        waiting = f"waiting: an earlier {outcome.name} pass is still being recorded"
        return waiting if outcome.rolled is not None else f"{waiting}; {services}"
    if outcome.result is Result.SKIPPED:
        return f"skipped: another {outcome.name} pass holds the lock; nothing was written"
    dry_run = outcome.result is Result.DRY_RUN
    parts = [services]
    if outcome.rolled is not None:
        parts = list(_rollup(outcome.rolled, dry_run=dry_run))
    parts.extend(_remarks(outcome, dry_run=dry_run))
    parts.extend(_alerts(outcome, dry_run=dry_run))
    if outcome.warnings:
        parts.append(_count(len(outcome.warnings), "warning"))
    if dry_run:
        parts.append("dry run, nothing was written")
    return "; ".join(parts)


def _remarks(outcome: Outcome, *, dry_run: bool) -> Iterator[str]:
    """Yield facts for an operator, in addition to the states of the services."""
    if outcome.decided_by:
        yield f"{len(outcome.decided_by)} decided by another installation"
    repeated = [verdict for verdict in outcome.verdicts if verdict.attempts > 1]
    if repeated:
        confirmed = sum(not verdict.healthy for verdict in repeated)
        yield f"{len(repeated)} probed again, {confirmed} confirmed"
    # For a blind pass, the closing line already has these reasons.
    if outcome.unprobed and not outcome.blind_because:
        yield f"{len(outcome.unprobed)} not probed: {', '.join(outcome.unprobed_because)}"
    if outcome.because_of:
        causes = {cause for causes in outcome.because_of.values() for cause in causes}
        yield f"{len(outcome.because_of)} unhealthy {because_of(causes)}"
    if outcome.samples:
        verb = "would be written" if dry_run else "written"
        yield f"{_count(len(outcome.samples), 'sample')} {verb}"
    if outcome.superseded:
        names = _listed(outcome.superseded)
        yield f"{len(outcome.superseded)} older than the database's row: {names}"
    yield from _maintenance(outcome)


def _maintenance(outcome: Outcome) -> Iterator[str]:
    """Yield the services for which no alert opens because of a maintenance."""
    if outcome.maintenance_until is not None:
        yield f"maintenance until {outcome.maintenance_until:%Y-%m-%d %H:%M %Z}: no alert opens"
    elif outcome.under_maintenance:
        services = tuple(outcome.under_maintenance)
        yield f"{len(services)} under maintenance: {_listed(services)}"


def _rollup(rolled: Rolled, *, dry_run: bool) -> Iterator[str]:
    """Yield what a rollup pass did, and how far it has come."""
    verb = "would be written" if dry_run else "written"
    hours, days = _count(rolled.hours, "hour"), _count(rolled.days, "day")
    yield f"{hours} and {days} {verb}, {_count(rolled.rows, 'row')}"
    removed = [f"{count} of {table}" for table, count in rolled.removed.items() if count]
    if removed:
        yield f"rows removed: {', '.join(removed)}"
    if rolled.until is not None:
        yield f"complete until {rolled.until:%Y-%m-%d %H:%M %Z}"
    if rolled.behind_s:
        yield f"behind by {format_age(rolled.behind_s)}; the next pass continues"


def _alerts(outcome: Outcome, *, dry_run: bool) -> Iterator[str]:
    """Yield the alerts that were opened and closed, or would be."""
    if outcome.opened:
        verb = "would open" if dry_run else "opened"
        yield f"{_count(len(outcome.opened), 'alert')} {verb}: {_listed(outcome.opened)}"
    if outcome.closed:
        verb = "would close" if dry_run else "closed"
        yield f"{_count(len(outcome.closed), 'alert')} {verb}: {_listed(outcome.closed)}"


def _listed(names: Sequence[str]) -> str:
    """Return the first MAX_LISTED names and the number of the others.

    The JSON document has all names.
    """
    listed = ", ".join(names[:MAX_LISTED])
    more = len(names) - MAX_LISTED
    if more > 0:
        listed += f" and {more} more"
    return listed


def _services(verdicts: Sequence[Verdict]) -> str:
    """Return the number of services, in total and by state."""
    counts = Counter(verdict.state for verdict in verdicts)
    states = [f"{counts[state]} {state}" for state in State if counts[state]]
    return ", ".join([_count(len(verdicts), "service"), *states])


def _count(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural."""
    plural = "" if number == 1 else "s"
    return f"{number} {noun}{plural}"


def _row(verdict: Verdict, since: dict[str, str], outcome: Outcome) -> tuple[str, ...]:
    """Return the row of a service. ``since`` has the times by service."""
    latency = "-"
    if verdict.latency_ms is not None:
        latency = f"{verdict.latency_ms} ms"
    name = verdict.target.name
    reason = with_causes(verdict.reason, outcome.because_of.get(name, ()))
    return name, verdict.state.value, latency, since.get(name, "-"), reason or "-"
