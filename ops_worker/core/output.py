"""From an outcome to what people and programs read: the closing line, a table, a JSON document."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from ops_worker.core.model import Outcome, Result, State
from ops_worker.text import format_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ops_worker.core.model import Sample, Verdict


MAX_LISTED = 10
"""Services that the closing line names."""


def text(outcome: Outcome) -> str:
    """Render the closing line: the pass's name, what it counted, how long it took."""
    return f"{outcome.name}: {_body(outcome)} ({outcome.duration_s:.2f} s)"


def document(outcome: Outcome) -> dict[str, Any]:
    """Build the one document that scripts read. Times are ISO 8601, durations say their unit in the key."""
    since = {update.verdict.target.name: update.since.isoformat() for update in outcome.updates}
    return {
        "pass": outcome.name,
        "result": outcome.result.value,
        "services": [
            {
                "service": verdict.target.name,
                "status": "healthy" if verdict.healthy else "unhealthy",
                "state": verdict.state.value,
                "latency_ms": verdict.latency_ms,
                "reason": verdict.reason,
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
        "maintenance_until": outcome.maintenance_until.isoformat()
        if outcome.maintenance_until
        else None,
        "not_probed": list(outcome.unprobed),
        "not_probed_because": list(outcome.unprobed_because),
        "stale": list(outcome.stale),
        "samples": [_sample(sample) for sample in outcome.samples],
        "warnings": list(outcome.warnings),
        "duration_s": round(outcome.duration_s, 3),
    }


def _sample(sample: Sample) -> dict[str, Any]:
    found = {"service": sample.service, "metric": sample.metric, "value": sample.value}
    return found | {"tags": dict(sample.tags)} if sample.tags else found


def as_json(outcome: Outcome) -> str:
    """Render the document on one line."""
    return json.dumps(document(outcome), allow_nan=False)


def as_table(outcome: Outcome) -> str:
    """Render every service with its state, then the samples and warnings there are, then the closing line."""
    since = {
        update.verdict.target.name: f"{update.since:%Y-%m-%d %H:%M:%S %Z}"
        for update in outcome.updates
    }
    parts = []
    if outcome.verdicts:
        parts.append(
            format_table(
                ("SERVICE", "STATE", "LATENCY", "SINCE", "REASON"),
                [_row(v, since) for v in outcome.verdicts],
            )
        )
    if outcome.samples:
        rows = [
            (sample.service, sample.metric, f"{sample.value:.15g}") for sample in outcome.samples
        ]
        parts.append(format_table(("SERVICE", "METRIC", "VALUE"), rows))
    parts.extend(f"warning: {warning}" for warning in outcome.warnings)
    return "\n\n".join([*parts, text(outcome)])


def summary(outcome: Outcome, exit_code: int, job: str = "") -> dict[str, Any]:
    """Build the short form, which is left where Kubernetes shows it: what happened, less what the database holds anyway."""
    unhealthy = {
        verdict.target.name: verdict.reason[:80]
        for verdict in outcome.verdicts
        if not verdict.healthy
    }
    confirmed = sum(verdict.attempts > 1 and not verdict.healthy for verdict in outcome.verdicts)
    found = {
        "pass": outcome.name,
        "result": outcome.result.value,
        "exit_code": exit_code,
        "summary": text(outcome),
    }
    return found | {"job": job, "confirmed": confirmed, "unhealthy": unhealthy}


def failed(name: str, error: str, exit_code: int, job: str = "") -> dict[str, Any]:
    """Build the document of a pass that was not done."""
    return {"pass": name, "result": "failed", "exit_code": exit_code, "error": error, "job": job}


def message(found: dict[str, Any], limit: int = 4000) -> str:
    """Render one line of at most ``limit`` bytes (Kubernetes keeps 4096): what is long is cut, and stays JSON."""
    for cut in (limit, 1000, 300):
        short = {
            key: value[:cut] if isinstance(value, str) else value for key, value in found.items()
        }
        if len(line := json.dumps(short)) <= limit:
            return line
    return json.dumps({key: value for key, value in short.items() if key != "unhealthy"})


RENDERERS: dict[str, Callable[[Outcome], str]] = {"text": text, "json": as_json, "table": as_table}
"""What ``--output`` may name."""


def _body(outcome: Outcome) -> str:
    if outcome.result is Result.OFF:
        return "off: SYSTEM_ALERT_ENABLED is off; nothing was probed or written"
    if outcome.result is Result.WAITING:
        return f"waiting: an earlier {outcome.name} pass is still being recorded; {_services(outcome.verdicts)}"
    if outcome.result is Result.SKIPPED:
        return f"skipped: another {outcome.name} pass holds the lock; nothing was written"
    dry = outcome.result is Result.DRY_RUN
    parts = [_services(outcome.verdicts), *_remarks(outcome, dry=dry)]
    for names, verb in ((outcome.opened, "open"), (outcome.closed, "close")):
        if names:
            done = f"would {verb}" if dry else {"open": "opened", "close": "closed"}[verb]
            parts.append(f"{_count(len(names), 'alert')} {done}: {_listed(names)}")
    if outcome.warnings:
        parts.append(_count(len(outcome.warnings), "warning"))
    return "; ".join(parts) + ("; dry run, nothing was written" if dry else "")


def _remarks(outcome: Outcome, *, dry: bool) -> Iterator[str]:
    """Say what is worth a word besides the services' states."""
    if again := [verdict for verdict in outcome.verdicts if verdict.attempts > 1]:
        yield f"{len(again)} asked again, {sum(not verdict.healthy for verdict in again)} confirmed"
    if outcome.unprobed:
        yield f"{len(outcome.unprobed)} not probed: {', '.join(outcome.unprobed_because)}"
    if outcome.samples:
        yield f"{_count(len(outcome.samples), 'sample')}{' would be' if dry else ''} written"
    if outcome.stale:
        yield f"{len(outcome.stale)} older than what the database knows: {_listed(outcome.stale)}"
    if outcome.maintenance_until is not None:
        yield f"maintenance until {outcome.maintenance_until:%Y-%m-%d %H:%M %Z}: no alert opens"


def _listed(names: Sequence[str]) -> str:
    """Name the first few: a line is for reading, and the rest is in the JSON document."""
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _services(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.state for verdict in verdicts)
    states = [f"{counts[state]} {state}" for state in State if counts[state]]
    return ", ".join([_count(len(verdicts), "service"), *states])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _row(verdict: Verdict, since: dict[str, str]) -> tuple[str, ...]:
    latency = "-" if verdict.latency_ms is None else f"{verdict.latency_ms} ms"
    name = verdict.target.name
    return name, verdict.state.value, latency, since.get(name, "-"), verdict.reason or "-"
