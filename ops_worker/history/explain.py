"""Why a service is what it is: from the rows about it to sentences, with the rule, its thresholds and the alert's history."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.conditions import wanted
from ops_worker.core.decoding import parse_time
from ops_worker.core.passes import HEALTH, METRICS, PASSES
from ops_worker.core.samples import HEALTHY, OPS_WORKER, POSTGRES
from ops_worker.core.staleness import (
    MIN_STALE_S,
    STALE_PERIODS,
    PassRecord,
    is_fresh,
    longest_silent,
    overdue,
    period_of,
    stale_after_s,
)
from ops_worker.history.status import Table
from ops_worker.text import format_age, format_duration, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.model import Target, Thresholds
    from ops_worker.history.series import Run

LOOKS_BACK_S = 86_400.0
"""Seconds before the time in question of which the ups and downs are told."""
MAX_TURNS = 8
NOBODY = "no pass looked"


class Findings(NamedTuple):
    """The rows about a service, as the store reads them, at a time ``at``; ``now`` is the database's clock."""

    service: str
    now: datetime
    at: datetime
    row: Mapping[str, Any] | None
    runs: Sequence[Run]
    observations: Sequence[Mapping[str, Any]]
    alerts: Sequence[Mapping[str, Any]]
    passes: Sequence[PassRecord]
    maintained: bool
    maintenance_until: datetime | None
    maintenances: Sequence[Mapping[str, Any]] = ()


class Rule(NamedTuple):
    """What a service is judged by: its target (None where it is not watched), the thresholds.

    ``alerts`` is whether alerts open at all; ``own`` is whether the passes record themselves,
    without which nobody can tell that one of them has stopped.
    """

    target: Target | None
    thresholds: Thresholds
    alerts: bool = True
    own: bool = True


def build(found: Findings, rule: Rule) -> dict[str, Any]:
    """Build the document: what was so, why, and what the alert did."""
    state = _state(found, rule)
    alerts = [_alert(row, found) for row in found.alerts]
    return {
        "service": one_line(found.service),
        "at": _utc(found.at),
        **state,
        "alert": _about_alert(found, rule, state, alerts),
        "turns": _turns(found),
        "observations": [_observation(row) for row in found.observations],
        "rule": _rule(found.service, rule),
        "alerts": alerts,
        "passes": [
            {
                "pass": one_line(record.label),
                "recorded": _utc(record.time),
                "age_s": record.age_s(found.at),
            }
            for record in found.passes
        ],
        "maintenances": [_maintenance(row) for row in found.maintenances],
    }


def known(found: Findings) -> bool:
    """Say whether anything is known of the service: a row, a sample or an alert.

    The worker and its database always are.
    """
    always = found.service in {OPS_WORKER, POSTGRES}
    return bool(always or found.row or found.runs or found.observations or found.alerts)


def sentences(document: Mapping[str, Any]) -> list[str]:
    """Say in two lines what was so, and what came of it."""
    state, since, at = document["state"], document["since"], document["at"]
    if not document["seen_by"]:
        held = f" since {_time(since)}" if since else ""
        what = f"nothing is known of {document['service']}{held}: {document['reason']}"
        if document["reason"] == NOBODY:
            what = f"nothing is known of {document['service']}: no pass has looked{held}"
    else:
        held = f" since {_time(since)}" if since else ""
        what = f"{document['service']} is {state}{held}{': ' if document['reason'] else ''}{document['reason']}"
    by = f" (seen by {document['seen_by']})" if document["seen_by"] else ""
    return [f"at {_time(at)} UTC: {what}{by}", document["alert"]]


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Lay the document out for a person."""
    turns = tuple(
        (one["state"], _time(one["from"]), _time(one["to"]), format_duration(one["seconds"]))
        for one in document["turns"]
    )
    seen = tuple(
        (_time(one["time"]), one["pass"], one["found"]) for one in document["observations"]
    )
    alerts = tuple(
        (
            str(one["id"]),
            one["status"],
            _time(one["opened"]),
            _time(one["closed"]),
            f"{one['acknowledged_by']}, {_time(one['acknowledged_at'])}"
            if one["acknowledged_at"]
            else "-",
            one["summary"],
        )
        for one in document["alerts"]
    )
    newest = next((one for one in document["alerts"] if one["evidence"]), None)
    evidence = (
        tuple((name, one_line(str(value))) for name, value in newest["evidence"].items())
        if newest
        else ()
    )
    passes = tuple(
        (one["pass"], _time(one["recorded"]), format_age(one["age_s"]))
        for one in document["passes"]
    )
    looked = document["service"] != OPS_WORKER  # whose passes are all there is to see
    no_turns, no_samples = NOBODY, "no pass has recorded anything of it"
    if document["passes"]:
        no_turns = "the metrics pass has recorded nothing of it"
    if document["seen_by"]:
        no_samples = "no sample of it is recorded"
    maintenances = tuple(
        (
            _time(one["from"]),
            _time(one["to"]),
            one["started_by"],
            one["reason"] or "-",
        )
        for one in document["maintenances"]
    )
    return [
        Table(
            f"Up and down by the metrics pass, the {format_age(LOOKS_BACK_S)} before",
            ("STATE", "FROM", "TO", "FOR"),
            turns,
            0,
            no_turns if looked else "",
        ),
        Table("Last seen", ("TIME", "PASS", "FOUND"), seen, None, no_samples if looked else ""),
        Table("The rule", ("WHAT", "IS"), tuple(document["rule"].items())),
        Table(
            "Its last alerts",
            ("ID", "STATUS", "OPENED", "CLOSED", "ACKNOWLEDGED", "SUMMARY"),
            alerts,
            1,
            "none",
        ),
        Table(f"What opened alert {newest['id'] if newest else ''}", ("WHAT", "WAS"), evidence),
        Table("Maintenance at that time", ("FROM", "TO", "STARTED BY", "REASON"), maintenances),
        Table(
            "Passes, the last before it",
            ("PASS", "RECORDED", "AGE"),
            passes,
            None,
            "none was recorded, or RECORD_OWN_METRICS is off",
        ),
    ]


def _state(found: Findings, rule: Rule) -> dict[str, Any]:
    """Say what the service was: by its row where that speaks of the time, else by the samples, else nobody knows."""
    row, health_s = found.row or {}, period_of(found.passes, HEALTH.name)
    details = row["details"] if row and isinstance(row["details"], dict) else {}
    since = (parse_time(details.get("since")) or row["checked_at"]) if row else None
    spoken_of = since is not None and since <= found.at
    now = spoken_of and row["checked_at"] <= found.at
    age_s = (found.at - row["checked_at"]).total_seconds() if row else 0.0
    ahead = found.at == found.now and age_s < -health_s  # a clock was set back: not to be believed
    last = longest_silent(found.passes, HEALTH.name)  # of whichever shard the service is
    looked_at = row["checked_at"] if now else last.time if last else None
    state = one_line(str((details.get("status") if now else None) or row.get("status")))
    if (
        spoken_of
        and not ahead
        and looked_at
        and (found.at - looked_at).total_seconds() <= stale_after_s(health_s)
    ):
        answer = f"http {details['http_status']}" if "http_status" in details else ""
        # What was last seen, and so not what was seen then.
        reason = str(details.get("error") or details.get("reason") or answer)
        streak = details.get("streak") if now else None
        return _told(
            state,
            since,
            reason if now else "",
            "the health pass",
            streak if isinstance(streak, int) else None,
        )
    opened = next((row for row in found.alerts if _open(row, found)), None)
    if run := next(
        (one for one in reversed(found.runs) if one.begun <= found.at <= one.ended), None
    ):
        return _told(
            "healthy" if run.up else "unhealthy",
            run.begun,
            opened["summary"] if opened and not run.up else "",
            "the metrics pass",
        )
    if found.service == OPS_WORKER and found.passes:
        gone = [
            name
            for name in sorted({record.name for record in found.passes})
            if overdue(found.passes, name, found.at)
        ]
        reason = f"not recorded for {STALE_PERIODS} periods: {', '.join(gone)}" if gone else ""
        return _told("stale" if gone else "healthy", None, reason, "its passes")
    if spoken_of or ahead:
        return _told(
            "stale", looked_at, f"no pass has looked since; it was {state}", "the health pass"
        )
    return _told("unknown", found.runs[-1].ended if found.runs else None, _unseen(found, rule))


def _unseen(found: Findings, rule: Rule) -> str:
    """Say why nothing is known of a service at that time; passes that ran are not denied."""
    if found.service == OPS_WORKER:
        return "no pass was recorded, or RECORD_OWN_METRICS is off"
    ran = [name for name in PASSES if is_fresh(found.passes, name, found.at)]
    if not ran or found.service == POSTGRES:
        return NOBODY
    what = f"the last {' and '.join(ran)} pass{'es' if len(ran) > 1 else ''} did not probe it"
    if rule.target is None:
        return what
    they = "they" if len(ran) > 1 else "it"
    return f"{what}: it was not in the catalogue then, or {they} had no time left for it"


def _told(
    state: str, since: datetime | None, reason: str, by: str = "", streak: int | None = None
) -> dict[str, Any]:
    return {
        "state": state,
        "since": _utc(since),
        "reason": one_line(reason),
        "seen_by": by,
        "streak": streak,
    }


def _about_alert(
    found: Findings, rule: Rule, state: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]]
) -> str:
    """Say in a sentence whether there is an alert, and if there is none though one may be expected, why not."""
    if opened := next((one for one in alerts if one["open"]), None):
        acknowledged = opened["acknowledged_at"] if opened["acknowledged_in_time"] else None
        by = (
            f"acknowledged by {opened['acknowledged_by']} at {_time(acknowledged)}"
            if acknowledged
            else "acknowledged by nobody"
        )
        since = f"since {_time(opened['opened'])}"
        if opened["ahead"]:
            since = f"with a time that is not yet, {_time(opened['opened'])}"
        return f"alert {opened['id']} is open {since}, {by}"
    nothing_wrong = {"healthy"} if found.service == OPS_WORKER else {"healthy", "stale"}
    if not state["seen_by"] or state["state"] in nothing_wrong:
        return "no alert is open"
    return f"no alert is open{_why_none(found, rule, state, alerts)}"


def _why_none(
    found: Findings,
    rule: Rule,
    state: Mapping[str, Any],
    alerts: Sequence[Mapping[str, Any]],
) -> str:
    """Say why no alert is open of what is not healthy."""
    if why := _ruled_out(found, rule) or _maintained(found):
        return f": {why}"
    if found.service == OPS_WORKER:
        return f": {_watcher(found)}"
    after, streak = rule.thresholds.alert_after, state["streak"]
    if streak is not None and streak < after:
        return f" yet: {streak} of {after} passes in a row found it so"
    opens = "it opens with the next health pass that finds it so"
    if after > 1 and streak is None:
        opens = f"it opens once {after} health passes in a row find it so"
    since = state["since"]
    closed_since = any(one["closed"] and since and one["closed"] >= since for one in alerts)
    return f": {opens}{', or a person has closed it since' if closed_since else ''}"


def _ruled_out(found: Findings, rule: Rule) -> str:
    """Say why no alert of this service can open at all; nothing where one can."""
    is_worker = found.service == OPS_WORKER
    if found.service == POSTGRES:
        return "none ever opens for postgres"
    if rule.target is None and not is_worker:
        return "no pass watches it any more"
    if not rule.alerts:
        return "SYSTEM_ALERT_ENABLED is off, and so is the health pass"
    if is_worker and not rule.own:
        return "RECORD_OWN_METRICS is off, so that no pass can tell that the other one stopped"
    return ""


def _maintained(found: Findings) -> str:
    """Say that there is maintenance; where only the last health pass told of it, it may be over."""
    if found.maintenance_until:
        return f"there is maintenance until {_time(_utc(found.maintenance_until))}"
    if not (found.maintained or found.maintenances):
        return ""
    if found.at < found.now:
        return "there is maintenance"
    then = "if that is over, the next one that finds it so opens an alert"
    return f"at the last health pass there was maintenance; {then}"


def _watcher(found: Findings) -> str:
    """Say which pass opens the worker's own alert, of a pass that stopped."""
    for name in PASSES:
        if is_fresh(found.passes, name, found.at) and not overdue(found.passes, name, found.at):
            return f"the {name} pass opens one with its next turn"
    return "no pass runs that could open one"


def _maintenance(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "from": _utc(row["begun"]),
        "to": _utc(row["ended"]),
        "started_by": one_line(row["started_by"]),
        "reason": one_line(row["reason"]),
    }


def _turns(found: Findings) -> list[dict[str, Any]]:
    """List the last ups and downs, and the times between them of which nobody knows; the newest last."""
    turns: list[dict[str, Any]] = []
    for run, then in zip(
        found.runs, [*(run.begun for run in found.runs[1:]), found.at], strict=False
    ):
        turns.append(_turn("healthy" if run.up else "unhealthy", run.begun, run.ended))
        if run.ended < then:
            turns.append(_turn("unknown", run.ended, then))
    return turns[-MAX_TURNS:]


def _turn(state: str, begun: datetime, ended: datetime) -> dict[str, Any]:
    return {
        "state": state,
        "from": _utc(begun),
        "to": _utc(ended),
        "seconds": (ended - begun).total_seconds(),
    }


def _observation(row: Mapping[str, Any]) -> dict[str, Any]:
    healthy = row["metric"] == HEALTHY
    found = (
        ("healthy" if row["value"] == 1 else "unhealthy")
        if healthy
        else f"answered in {row['value']:g} ms"
    )
    return {
        "time": _utc(row["time"]),
        "pass": METRICS.name if healthy else HEALTH.name,
        "found": found,
    }


def _alert(row: Mapping[str, Any], found: Findings) -> dict[str, Any]:
    acknowledged = row["acknowledged_at"]
    return {
        "id": row["id"],
        "status": row["status"],
        "open": _open(row, found),
        "ahead": row["created_at"] > found.at,
        "opened": _utc(row["created_at"]),
        "closed": _utc(row["closed_at"]),
        "acknowledged_by": one_line(row["acknowledged_by"] or ""),
        "acknowledged_in_time": bool(
            acknowledged and (acknowledged <= found.at or found.at == found.now)
        ),
        "acknowledged_at": _utc(acknowledged),
        "summary": one_line(row["summary"]),
        "evidence": row["evidence"] if isinstance(row["evidence"], dict) else {},
    }


def _open(row: Mapping[str, Any], found: Findings) -> bool:
    """Return whether an alert was open at that time. Now its status alone decides."""
    if found.at == found.now:
        return bool(row["status"] != "CLOSED")
    closed = row["status"] == "CLOSED" and (
        row["closed_at"] is None or row["closed_at"] <= found.at
    )
    return bool(row["created_at"] <= found.at and not closed)


def _rule(service: str, rule: Rule) -> dict[str, str]:
    target = rule.target
    off = "SYSTEM_ALERT_ENABLED is off" if not rule.alerts else ""
    if target is None:
        if service == OPS_WORKER:
            if off or not rule.own:
                return {"an alert opens": f"never: {off or 'RECORD_OWN_METRICS is off'}"}
            silent = f"{STALE_PERIODS} of its periods, at least {MIN_STALE_S:g} s"
            return {
                "an alert opens when": f"a pass that once ran was not recorded for {silent}; the other pass sees that"
            }
        if service == POSTGRES:
            return {
                "healthy when": "it answers at least one figure of the metrics pass",
                "an alert opens": "never",
            }
        return {
            "watched": "no; its row and its alert, where there are any, go with `ops-worker alerts prune`"
        }
    statuses = ", ".join(map(str, target.expect))
    body = ["a JSON object"] if target.json else []
    body += wanted(target.conditions)
    body += (
        [f"latency at most {target.max_latency_ms} ms"] if target.max_latency_ms is not None else []
    )
    opens_after = _passes(rule.thresholds.alert_after, "unhealthy")
    if off:
        opens_after = f"never: {off}"
    return {
        "asked": target.shown_url,
        "answers within": f"{target.deadline_s:g} s",
        "healthy when": "; ".join([f"http {statuses}", *body]),
        "an alert opens after": opens_after,
        "it closes after": _passes(rule.thresholds.resolve_after, "healthy"),
    }


def _passes(number: int, found: str) -> str:
    return f"{number} {found} pass{'es in a row' if number > 1 else ''}"


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _time(moment: str | None) -> str:
    return moment[:19].replace("T", " ") if moment else "-"
