"""Describe the rule by which a service is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.core.certificates import format_days
from ops_worker.core.conditions import wanted
from ops_worker.core.model import TLS_SCHEMES
from ops_worker.core.samples import OPS_WORKER, POSTGRES
from ops_worker.core.staleness import MIN_STALE_S, STALE_PERIODS
from ops_worker.core.statuses import format_statuses

if TYPE_CHECKING:
    from ops_worker.core.model import Target
    from ops_worker.history.explain.rows import Rule


def describe_rule(service: str, rule: Rule, *, elsewhere: str = "") -> dict[str, str]:
    """Return the parts of the rule, each as a phrase and its value.

    ``elsewhere`` is the other installation that keeps the state of the service.
    """
    if rule.target is not None:
        return _describe_target(rule.target, rule)
    if elsewhere:
        return {"watched": f"by installation {elsewhere}, not by this one"}
    if service == OPS_WORKER:
        return _describe_own_alert(rule)
    if service == POSTGRES:
        return {
            "healthy when": "it answers at least one figure of the metrics pass",
            "an alert opens": "never",
        }
    alone = "its row and its alert, where there are any, go with `ops-worker alerts prune`"
    return {"watched": f"no; {alone}"}


def _describe_own_alert(rule: Rule) -> dict[str, str]:
    if not rule.alerts_enabled:
        return {"an alert opens": "never: SYSTEM_ALERT_ENABLED is off"}
    opens_when = []
    if rule.self_metrics_enabled:
        silent = f"{STALE_PERIODS} of its periods, at least {MIN_STALE_S:g} s"
        stopped = f"a pass that once ran was not recorded for {silent}"
        opens_when.append(f"{stopped}; another pass sees that")
    if rule.doubt_passes:
        opens_when.append(f"a pass is blind, at most {rule.doubt_passes} times in a row")
    if not opens_when:
        return {"an alert opens": "never: RECORD_OWN_METRICS is off"}
    return {"an alert opens when": "; or ".join(opens_when)}


def _describe_target(target: Target, rule: Rule) -> dict[str, str]:
    expectations = _describe_answer(target)
    if target.max_latency_ms is not None:
        expectations.append(f"latency at most {target.max_latency_ms} ms")
    if target.certificate_days is not None:
        days = format_days(target.certificate_days)
        expectations.append(f"certificate valid for at least {days}")
    opens_after = _passes_in_a_row(rule.thresholds.alert_after, "unhealthy")
    if not rule.alerts_enabled:
        opens_after = "never: SYSTEM_ALERT_ENABLED is off"
    described = {
        "asked": _asked(target),
        "answers within": f"{target.deadline_s:g} s",
        "healthy when": "; ".join(expectations),
        "an alert opens after": opens_after,
        "it closes after": _passes_in_a_row(rule.thresholds.resolve_after, "healthy"),
    }
    if target.needs:
        needed = ", ".join(target.needs)
        described["needs"] = f"{needed}; no alert opens while one of them is unhealthy"
    if target.slo is not None:
        described["objective"] = f"{target.slo:g} % healthy over {target.slo_window_days} d"
    return described


def _describe_answer(target: Target) -> list[str]:
    """Return the parts of a healthy answer, or of a healthy connection."""
    if target.only_connects:
        handshake = target.scheme in TLS_SCHEMES
        return ["a connection and its TLS handshake" if handshake else "a connection"]
    expectations = [f"http {format_statuses(target.expect)}"]
    if target.json:
        expectations.append("a JSON object")
    return expectations + wanted(target.conditions)


def _asked(target: Target) -> str:
    """Return the request of the probe: the URL, and every setting that is not the default."""
    request = target.shown_url
    if target.method != "GET":
        request = f"{target.method} {request}"
    if target.redirects:
        request += f", up to {target.redirects} redirects"
    if target.tls.skip_verify:
        request += "; its certificate is not verified"
    return request


def _passes_in_a_row(number: int, health: str) -> str:
    if number == 1:
        return f"1 {health} pass"
    return f"{number} {health} passes in a row"
