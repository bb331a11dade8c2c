"""Which system alerts an Alertmanager receives, and how they look there.

A post repeats everything: nothing remembers what was posted before. So a process that was killed
before its post, an Alertmanager that was restarted, or two passes at once lose nothing. The next
pass posts it again, and the Alertmanager knows an alert again by its labels.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.installations import without_installation
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

FIRING_PERIODS = 4
"""Periods for which an open alert is announced: three passes may fail before it would end."""
MIN_FIRING_S = 300.0
"""The least seconds for which an open alert is announced."""
MIN_REPEAT_S = 900.0
"""The least seconds for which a closed alert is posted again. Prometheus does the same."""
SEVERITY = "critical"
"""The label ``severity``. Every system alert has severity 5 in the database."""
OPEN = frozenset({"OPEN", "ACKNOWLEDGED"})
"""The status of an alert that is not over."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RESERVED_LABELS = frozenset({"alertname", "service", "severity", "source"})
"""Labels that the worker sets itself. Together with ALERT_LABELS they identify an alert."""
EVIDENCE = ("state", "http_status", "latency_ms", "attempts", "streak", "since", "checked_at")
"""Keys of the evidence that stand first. The others follow in their order."""

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class SystemAlert(NamedTuple):
    """A row of ``fleet_alert`` that may have to be posted: ``alerts_to_post``.

    ``evidence`` is a JSON value of any shape.
    """

    id: int
    service: str
    status: str
    summary: str
    created_at: datetime
    closed_at: datetime | None
    acknowledged_by: str | None
    evidence: Any

    @property
    def is_open(self) -> bool:
        """Whether the alert is open or acknowledged."""
        return self.status in OPEN


class PostRules(NamedTuple):
    """What a post depends on besides the rows.

    - ``now``: the time of the database's clock.
    - ``period_s``: seconds from one health pass to the next.
    - ``labels``: further labels of every alert.
    - ``runbook_url``: a link for every alert; empty: none.
    - ``under_maintenance``: services whose alerts are sent to nobody.
    """

    now: datetime
    period_s: float
    labels: Mapping[str, str] = {}
    runbook_url: str = ""
    under_maintenance: Container[str] = ()


def firing_s(period_s: float) -> float:
    """Return the seconds after which an open alert ends if no pass posts it again."""
    return max(FIRING_PERIODS * period_s, MIN_FIRING_S)


def repeat_s(period_s: float) -> float:
    """Return the seconds for which a closed alert is posted again.

    At least until an Alertmanager that has it as open would end it by itself, and one period more.
    """
    return max(MIN_REPEAT_S, firing_s(period_s) + period_s)


def closed_since(now: datetime, period_s: float) -> datetime:
    """Return the time since which an alert was closed if it is still posted."""
    return now - timedelta(seconds=repeat_s(period_s))


def alerts_to_post(rows: Iterable[SystemAlert], rules: PostRules) -> list[dict[str, Any]]:
    """Return the alerts to post, the oldest first, in the format of ``POST /api/v2/alerts``.

    They are the open alerts, and those that were closed within ``repeat_s`` seconds. A closed alert
    is left out if an open one has the same labels: the Alertmanager knows an alert by its labels
    only, and would end the open one for a moment.
    """
    candidates = sorted(
        (row for row in rows if without_installation(row.service) not in rules.under_maintenance),
        key=lambda row: (row.created_at, row.id),
    )
    firing = {one_line(row.service) for row in candidates if row.is_open}
    since = closed_since(rules.now, rules.period_s)
    return [
        _alert(row, rules)
        for row in candidates
        if row.is_open or (_is_recent(row, since) and one_line(row.service) not in firing)
    ]


def parse_labels(text: str) -> dict[str, str]:
    """Parse ``name=value,name=value``; empty parts are ignored.

    Raises ValueError for a name that is not a label name of Prometheus, that stands twice or that
    the worker sets itself, and for a value that is empty or holds a control character.
    """
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        if not _LABEL_NAME.fullmatch(name) or name in RESERVED_LABELS or name in labels:
            raise ValueError("not a label name, or one that is in use")
        if not value or value != one_line(value):
            raise ValueError("not a label value")
        labels[name] = value
    return labels


def _is_recent(row: SystemAlert, since: datetime) -> bool:
    return row.closed_at is not None and row.closed_at >= since


def _alert(row: SystemAlert, rules: PostRules) -> dict[str, Any]:
    """Return an alert in the format of the Alertmanager. It refuses an end before the start."""
    begins = _within(row.created_at, EPOCH, rules.now)
    if row.is_open:
        ends = rules.now + timedelta(seconds=firing_s(rules.period_s))
    else:
        # A time in the future would keep a closed alert firing.
        ends = _within(row.closed_at or rules.now, begins, rules.now)
    labels = {
        "alertname": "ServiceUnhealthy",
        "service": one_line(row.service),
        "severity": SEVERITY,
        "source": "ops-worker",
    }
    return {
        "labels": {**rules.labels, **labels},
        "annotations": _annotations(row, rules.runbook_url),
        "startsAt": _written(begins),
        "endsAt": _written(ends),
    }


def _within(time: datetime, first: datetime, last: datetime) -> datetime:
    """Return the time, or the limit that it exceeds: a person may have written any time."""
    return max(first, min(time, last))


def _written(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _annotations(row: SystemAlert, runbook_url: str) -> dict[str, str]:
    """Return what people read. It may change from post to post; empty texts are left out."""
    evidence = row.evidence if isinstance(row.evidence, dict) else {}
    reason = evidence.get("reason")
    facts = {
        key: evidence[key]
        for key in dict.fromkeys([*EVIDENCE, *evidence])
        if key != "reason" and isinstance(evidence.get(key), (str, int, float))
    }
    acknowledged_by = row.acknowledged_by or ""
    if row.status == "ACKNOWLEDGED":
        acknowledged_by = acknowledged_by or "unknown"
    texts = {
        "summary": row.summary,
        "reason": reason if isinstance(reason, str) else "",
        "evidence": ", ".join(f"{key}: {value}" for key, value in facts.items()),
        "alert_id": str(row.id),
        "acknowledged_by": acknowledged_by,
        "runbook_url": runbook_url,
    }
    return {name: line for name, text in texts.items() if (line := one_line(text))}
