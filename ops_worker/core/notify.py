"""Choose the system alerts that an Alertmanager receives, and write them in its format.

Every post contains all alerts. No state about earlier posts is stored. So no alert is lost if a
process is killed before its post, if an Alertmanager restarts, or if two passes run at once: the
next pass posts all alerts again. The Alertmanager recognises an alert by its labels.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.installations import without_installation
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

HORIZON_PERIODS = 4
"""The horizon in periods of the health pass. An alert does not end if three passes fail."""
MIN_HORIZON_S = 300.0
"""The shortest horizon in seconds."""
MIN_REPEAT_S = 900.0
"""The shortest time in seconds for which a closed alert is posted again, as in Prometheus."""
SEVERITY = "critical"
"""The label ``severity``. Every system alert has severity 5 in the database."""
OPEN_STATUSES = frozenset({"OPEN", "ACKNOWLEDGED"})
"""The statuses of an alert that is not closed."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RESERVED_LABELS = frozenset({"alertname", "service", "severity", "source"})
"""Labels that the worker sets. Together with ALERT_LABELS, they identify an alert."""
FIRST_EVIDENCE = ("state", "http_status", "latency_ms", "attempts", "streak", "since", "checked_at")
"""The first keys of the annotation ``evidence``. Other keys follow in the order of the row."""

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class SystemAlert(NamedTuple):
    """A row of the statement ``alerts_to_post``: a system alert that is open or was closed lately.

    ``evidence`` may be any JSON value.
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
        return self.status in OPEN_STATUSES


class PostRules(NamedTuple):
    """Everything that a post depends on, except the rows.

    - ``now``: the current time of the database's clock.
    - ``period_s``: the period of the health pass in seconds.
    - ``labels``: additional labels of every alert (ALERT_LABELS).
    - ``runbook_url``: a link for every alert; empty for no link.
    - ``under_maintenance``: services under maintenance. Their alerts are not posted.
    """

    now: datetime
    period_s: float
    labels: Mapping[str, str] = {}
    runbook_url: str = ""
    under_maintenance: Container[str] = ()


def horizon_s(period_s: float) -> float:
    """Return the seconds after which an open alert ends in Alertmanager if no other post follows.

    ``period_s`` is the period of the health pass in seconds.
    """
    return max(HORIZON_PERIODS * period_s, MIN_HORIZON_S)


def repeat_s(period_s: float) -> float:
    """Return the seconds for which a closed alert is posted again.

    This is at least the horizon and one period: an Alertmanager that missed posts may regard the
    alert as open for that long. ``period_s`` is the period of the health pass in seconds.
    """
    return max(MIN_REPEAT_S, horizon_s(period_s) + period_s)


def closed_since(now: datetime, period_s: float) -> datetime:
    """Return the earliest time at which a closed alert that is still posted was closed."""
    return now - timedelta(seconds=repeat_s(period_s))


def alerts_to_post(rows: Iterable[SystemAlert], rules: PostRules) -> list[dict[str, Any]]:
    """Return the alerts to post, the oldest first, in the format of ``POST /api/v2/alerts``.

    These are the open alerts, and the alerts that were closed in the last ``repeat_s`` seconds. A
    closed alert is left out if an open alert has the same labels. Otherwise the Alertmanager, which
    identifies alerts by their labels, would end the open alert for a moment.
    """
    candidates = sorted(
        (row for row in rows if without_installation(row.service) not in rules.under_maintenance),
        key=lambda row: (row.created_at, row.id),
    )
    open_services = {one_line(row.service) for row in candidates if row.is_open}
    since = closed_since(rules.now, rules.period_s)
    return [
        _alert(row, rules)
        for row in candidates
        if row.is_open
        or (_was_closed_since(row, since) and one_line(row.service) not in open_services)
    ]


def parse_labels(text: str) -> dict[str, str]:
    """Parse ``name=value,name=value``. Empty parts are ignored.

    Raises ValueError if a name is not a label name of Prometheus, occurs twice or is one of
    RESERVED_LABELS, or if a value is empty or contains a control character.
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


def _was_closed_since(row: SystemAlert, since: datetime) -> bool:
    return row.closed_at is not None and row.closed_at >= since


def _alert(row: SystemAlert, rules: PostRules) -> dict[str, Any]:
    """Return an alert in the format of the Alertmanager.

    The Alertmanager refuses an alert that ends before it starts.
    """
    starts_at = _limited(row.created_at, EPOCH, rules.now)
    if row.is_open:
        ends_at = rules.now + timedelta(seconds=horizon_s(rules.period_s))
    else:
        # With an end in the future, a closed alert would still fire.
        ends_at = _limited(row.closed_at or rules.now, starts_at, rules.now)
    labels = {
        "alertname": "ServiceUnhealthy",
        "service": one_line(row.service),
        "severity": SEVERITY,
        "source": "ops-worker",
    }
    return {
        "labels": {**rules.labels, **labels},
        "annotations": _annotations(row, rules.runbook_url),
        "startsAt": _timestamp(starts_at),
        "endsAt": _timestamp(ends_at),
    }


def _limited(time: datetime, earliest: datetime, latest: datetime) -> datetime:
    """Return a time of a row, or the limit that it exceeds. A row may hold any time."""
    return max(earliest, min(time, latest))


def _timestamp(time: datetime) -> str:
    """Return a time in the format of RFC 3339, in UTC."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _annotations(row: SystemAlert, runbook_url: str) -> dict[str, str]:
    """Return the texts for people. Empty texts are left out.

    Annotations do not identify an alert, so they may change from post to post.
    """
    evidence = row.evidence if isinstance(row.evidence, dict) else {}
    reason = evidence.get("reason")
    facts = {
        key: evidence[key]
        for key in dict.fromkeys([*FIRST_EVIDENCE, *evidence])
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
