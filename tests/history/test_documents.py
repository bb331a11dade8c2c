"""The keys and their order in the JSON documents of `status` and `explain`: users rely on them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

import pytest

from ops_worker.core.ledger import Run, Span
from ops_worker.core.maintenance import Occurrence, Window
from ops_worker.core.model import Thresholds
from ops_worker.core.staleness import PassRecord
from ops_worker.history import explain, status
from ops_worker.history.documents import as_json
from ops_worker.history.explain import Rule, ServiceHistory, ServiceLedger
from ops_worker.history.ledger import LedgerRows
from ops_worker.history.rows import (
    ActionRow,
    HealthRow,
    MaintenanceRow,
    ObservationRow,
    OpenAlertRow,
    PassCountRow,
    RunningMaintenance,
    ServiceAlertRow,
    ServiceRow,
)
from ops_worker.history.series import Bucket, Growth, Series
from ops_worker.history.status import StatusRows

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEFORE = NOW - timedelta(seconds=30)
PASSES = [PassRecord("health", "0/2", BEFORE, 60.0)]


class Part(NamedTuple):
    """A document with everything that needs a conversion."""

    from_: datetime
    pass_: str
    tags: dict[str, list[int]]
    parts: tuple[Part, ...]


def test_as_json() -> None:
    """Fields become keys in order. Keywords lose their underscore. Times are in ISO 8601."""
    tokyo = datetime(2026, 3, 1, 9, tzinfo=timezone(timedelta(hours=9)))
    part = Part(tokyo, "health", {"from_": [1]}, ())
    assert json.dumps(as_json(part._replace(parts=(part,)))) == (
        '{"from": "2026-03-01T09:00:00+09:00", "pass": "health", "tags": {"from_": [1]}, '
        '"parts": [{"from": "2026-03-01T09:00:00+09:00", "pass": "health", "tags": {"from_": [1]}, '
        '"parts": []}]}'
    )


def test_status() -> None:
    """The keys of `status`, their order and their formats do not change."""
    series = Series(
        service="ingest",
        metric="messages_received",
        tags=None,
        buckets={24: Bucket(5.0, 9.0)},
        first=NOW - timedelta(seconds=40),
        last=BEFORE,
        counts=True,
        latest=9.0,
        growth={24: Growth(5.0, 10.0)},
    )
    rows = StatusRows(
        now=NOW,
        since_s=3600.0,
        services=[
            ServiceRow("ingest", "unhealthy", 7, "down", BEFORE.isoformat(), BEFORE, "x\n", 13)
        ],
        alerts=[OpenAlertRow(3, "ingest", "OPEN", "summary", BEFORE, None, None)],
        passes=PASSES,
        counts=[PassCountRow("health", "0/2", BEFORE, BEFORE, 5, 2)],
        series=[series, series._replace(metric="probe_latency_ms")],
        maintenance=RunningMaintenance(NOW + timedelta(hours=1), "kim", "racks", 3600.0),
        windows=[
            Occurrence(
                Window(BEFORE, timedelta(hours=2), ("in\ngest",), started_by="le\x1be", id=4),
                BEFORE,
                NOW + timedelta(hours=2),
            )
        ],
    )
    history = [None] * 23 + [5.0]
    expected = {
        "verdict": "The only service is unhealthy; 1 alert is not acknowledged",
        "database": "",
        "at": "2026-03-01T12:00:00+00:00",
        "since_s": 3600.0,
        "samples_since_s": 3600.0,
        "services": [
            {
                "service": "ingest",
                "state": "down",
                "stale": False,
                "last_state": "down",
                "since": "2026-03-01T11:59:30+00:00",
                "since_s": 30.0,
                "latency_ms": 7,
                "latency_history": history,
                "certificate_days_left": 13,
                "checked_at": "2026-03-01T11:59:30+00:00",
                "age_s": 30.0,
                "reason": "x",
                "because_of": [],
                "series": "ingest",
                "states": [],
                "availability": None,
                "budget": None,
            }
        ],
        "alerts": [
            {
                "id": 3,
                "service": "ingest",
                "status": "OPEN",
                "summary": "summary",
                "created_at": "2026-03-01T11:59:30+00:00",
                "age_s": 30.0,
                "acknowledged_by": None,
                "acknowledged_at": None,
            }
        ],
        "maintenance": {
            "until": "2026-03-01T13:00:00+00:00",
            "left_s": 3600.0,
            "started_by": "kim",
            "reason": "racks",
            "services": [],
            "id": None,
        },
        "passes": [
            {
                "pass": "health",
                "shard": "0/2",
                "last_success": "2026-03-01T11:59:30+00:00",
                "age_s": 30.0,
                "period_s": 60.0,
                "missed": 2,
                "stale": False,
                "missed_is_least": False,
                "blind_since": None,
                "blind_because": "",
            }
        ],
        "series": [
            {
                "service": "ingest",
                "metric": "messages_received",
                "tags": {},
                "value": 9.0,
                "time": "2026-03-01T11:59:30+00:00",
                "age_s": 30.0,
                "stale": False,
                "rate_per_s": 0.5,
                "history": history,
                "counter": True,
                "rate_history": [None] * 23 + [0.5],
            }
        ],
        "missing": [],
        "maintenances": [
            {
                "until": "2026-03-01T13:00:00+00:00",
                "left_s": 3600.0,
                "started_by": "kim",
                "reason": "racks",
                "services": [],
                "id": None,
            },
            {
                "until": "2026-03-01T14:00:00+00:00",
                "left_s": 7200.0,
                "started_by": "le e",
                "reason": "",
                "services": ["in gest"],
                "id": 4,
            },
        ],
        "installation": "ops-worker",
        "other_installations": [],
    }
    assert json.dumps(as_json(status.build(rows, {}))) == json.dumps(expected)


LEDGER = ServiceLedger(
    rows=LedgerRows(
        now=NOW,
        since=NOW - timedelta(days=30),
        until=NOW,
        services=["gone"],
        runs={
            "health": [Run(1, 60.0, "c", NOW - timedelta(minutes=10), BEFORE, 10)],
            "metrics": [],
        },
        spans={
            "health": [
                Span(
                    id=1,
                    service="gone",
                    state="down",
                    reason_class="refused",
                    reason="Connection refused",
                    first_at=NOW - timedelta(minutes=10),
                    first_no=1,
                    run=1,
                )
            ],
            "metrics": [],
        },
    ),
    is_complete=True,
    is_recorded=True,
)
TEN_MINUTES = "2026-03-01T11:50:00+00:00"
OUTAGE = {
    "from": TEN_MINUTES,
    "to": "2026-03-01T12:00:00+00:00",
    "from_earliest": TEN_MINUTES,
    "to_latest": "2026-03-01T12:00:00+00:00",
    "seconds": 600.0,
    "unseen_s": 0.0,
}
PAST = {
    "from": "2026-01-30T12:00:00+00:00",
    "to": "2026-03-01T12:00:00+00:00",
    "availability": {"value": 0.0, "least": 0.0, "most": 0.0, "coverage": 600 / 2_592_000},
    "seconds": {
        "healthy": 0.0,
        "degraded": 0.0,
        "down": 600.0,
        "unknown": 0.0,
        "unseen": 2_591_400.0,
    },
    "outages": 1,
    "longest": OUTAGE,
    "states": [
        {"state": "degraded", "times": 0, "seconds": 0.0, "longest": None},
        {"state": "down", "times": 1, "seconds": 600.0, "longest": OUTAGE},
        {"state": "unknown", "times": 0, "seconds": 0.0, "longest": None},
    ],
}


def test_explain() -> None:
    """The keys of `explain`, their order and their formats do not change."""
    alert = ServiceAlertRow(
        id=3,
        status="ACKNOWLEDGED",
        summary="summary",
        created_at=BEFORE,
        closed_at=None,
        acknowledged_by="kim",
        acknowledged_at=NOW,
        evidence={"state": "down"},
    )
    details = {"status": "down", "error": "refused", "streak": 2, "certificate_days_left": 13}
    history = ServiceHistory(
        service="gone",
        now=NOW,
        at=NOW,
        row=HealthRow("unhealthy", details, BEFORE),
        ledger=LEDGER,
        observations=[
            ObservationRow(BEFORE, "healthy", 0.0),
            ObservationRow(BEFORE, "probe_latency_ms", 7.0),
        ],
        alerts=[alert],
        passes=PASSES,
        in_maintenance=False,
        maintenance_until=None,
        maintenances=[MaintenanceRow(BEFORE, NOW, "kim", None, "racks")],
        actions=[ActionRow(NOW, "acknowledged", "kim", "mine", ["gone"], None, 3)],
    )
    expected = {
        "service": "gone",
        "at": "2026-03-01T12:00:00+00:00",
        "state": "down",
        "since": TEN_MINUTES,
        "reason": "refused",
        "because_of": [],
        "seen_by": "the health pass",
        "streak": 2,
        "alert": (
            "alert 3 is open since 2026-03-01 11:59:30, acknowledged by kim at 2026-03-01 12:00:00"
        ),
        "turns": [
            {
                "state": "down",
                "from": TEN_MINUTES,
                "to": "2026-03-01T12:00:00+00:00",
                "seconds": 600.0,
                "seen": True,
                "reason": "Connection refused",
                "reason_class": "refused",
                "from_earliest": TEN_MINUTES,
                "to_latest": "2026-03-01T12:00:00+00:00",
            }
        ],
        "observations": [
            {"time": "2026-03-01T11:59:30+00:00", "pass": "metrics", "found": "unhealthy"},
            {"time": "2026-03-01T11:59:30+00:00", "pass": "health", "found": "answered in 7 ms"},
        ],
        "rule": {
            "watched": (
                "no; its row and its alert, where there are any, go with `ops-worker alerts prune`"
            )
        },
        "alerts": [
            {
                "id": 3,
                "status": "ACKNOWLEDGED",
                "open": True,
                "ahead": False,
                "opened": "2026-03-01T11:59:30+00:00",
                "closed": None,
                "acknowledged_by": "kim",
                "acknowledged_in_time": True,
                "acknowledged_at": "2026-03-01T12:00:00+00:00",
                "summary": "summary",
                "evidence": {"state": "down"},
            }
        ],
        "passes": [{"pass": "health 0/2", "recorded": "2026-03-01T11:59:30+00:00", "age_s": 30.0}],
        "maintenances": [
            {
                "from": "2026-03-01T11:59:30+00:00",
                "to": "2026-03-01T12:00:00+00:00",
                "started_by": "kim",
                "reason": "racks",
                "services": [],
            }
        ],
        "now": True,
        "stale": False,
        "last_state": "down",
        "status_shows": "down",
        "last_seen": "2026-03-01T11:59:30+00:00",
        "age_s": 30.0,
        "certificate_days_left": 13,
        "since_earliest": TEN_MINUTES,
        "state_since": TEN_MINUTES,
        "state_since_earliest": TEN_MINUTES,
        "unseen_s": 0.0,
        "first_sight": True,
        "complete": True,
        "ledger": True,
        "sights": [
            {
                "pass": "health",
                "state": "down",
                "since": TEN_MINUTES,
                "last_seen": "2026-03-01T11:59:30+00:00",
                "age_s": 30.0,
            }
        ],
        "past": PAST,
        "budget": None,
        "actions": [
            {
                "at": "2026-03-01T12:00:00+00:00",
                "action": "acknowledged",
                "by": "kim",
                "reason": "mine",
                "services": ["gone"],
                "until": None,
                "alert": 3,
            }
        ],
        "installation": "ops-worker",
        "is_elsewhere": False,
        "other_installations": [],
    }
    document = explain.build(history, Rule(None, Thresholds()))
    assert json.dumps(as_json(document)) == json.dumps(expected)
