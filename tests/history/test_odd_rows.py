"""Rows that a person or a restored backup left: `status` and `explain` agree, and neither fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops_worker.core.decoding import load_jsonb
from ops_worker.core.model import Thresholds
from ops_worker.core.staleness import PassRecord
from ops_worker.history import explain, status
from ops_worker.history.explain import Explanation, Rule, ServiceHistory
from ops_worker.history.rows import HealthRow, ServiceAlertRow, ServiceRow
from ops_worker.history.status import ServiceStatus, Status, StatusRows

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
TIMES = (FIRST, NOW - timedelta(days=1), NOW, NOW + timedelta(days=1), LAST)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": [1, 2.5, "x", null, true]}', {"a": [1, 2.5, "x", None, True]}),
        (b'"x"', "x"),
        ("1e400", None),
        (b"-1e400", None),
        ("9" * 4001, None),
        ("9" * 4000, int("9" * 4000)),
        ("[" * 100_000 + "]" * 100_000, None),
    ],
)
def test_loaded(text: str | bytes, expected: Any) -> None:
    """Every `jsonb` value is read. A value that Python cannot hold or write again becomes null."""
    assert load_jsonb(text) == expected


@pytest.mark.parametrize("opening", ["[", b"[", '{"a":', b'{"a":'])
def test_loaded_is_bounded(opening: str | bytes) -> None:
    """A value that is nested too deeply is cut, at the same depth as a service's answer."""
    text = opening if isinstance(opening, str) else opening.decode()
    whole = text * 300 + "1" + ("]" if text == "[" else "}") * 300
    value, depth = load_jsonb(whole if isinstance(opening, str) else whole.encode()), 0
    while isinstance(value, (list, dict)):
        (value,) = value.values() if isinstance(value, dict) else value
        depth += 1
    assert (value, depth) == (None, 200)


def alert(
    status_word: str, created_at: datetime, closed_at: datetime | None = None
) -> ServiceAlertRow:
    """Return the row of an alert."""
    return ServiceAlertRow(
        id=7,
        status=status_word,
        summary="s",
        created_at=created_at,
        closed_at=closed_at,
        acknowledged_by="x",
        acknowledged_at=created_at if status_word == "ACKNOWLEDGED" else None,
        evidence=None,
    )


def service_history(
    row: HealthRow | None = None, alerts: tuple[ServiceAlertRow, ...] = (), at: datetime = NOW
) -> ServiceHistory:
    """Return the history of a service with a recent health pass."""
    return ServiceHistory(
        service="a",
        now=NOW,
        at=at,
        row=row,
        ledger=None,
        observations=(),
        alerts=alerts,
        passes=[PassRecord("health", None, at - timedelta(seconds=5), 60.0)],
        in_maintenance=False,
        maintenance_until=None,
    )


def explained(history: ServiceHistory) -> Explanation:
    """Return the document of `explain`. Lay out its screen, too, so that errors appear."""
    document = explain.build(history, Rule(None, Thresholds()))
    assert explain.heading(document).title
    assert explain.tables(document)
    return document


def status_of(row: ServiceRow) -> Status:
    """Return the document of `status` with one service. Lay out its screen, too."""
    rows = StatusRows(
        now=NOW,
        since_s=3600.0,
        services=[row],
        alerts=[],
        passes=[],
        counts=[],
        series=[],
        maintenance=None,
    )
    document = status.build(rows, {})
    assert status.tables(document)
    return document


def shown(row: HealthRow, state: str | None = None, since: Any = None) -> ServiceStatus:
    """Return what `status` shows of a service."""
    service = ServiceRow(
        service="a",
        status=row.status,
        latency_ms=None,
        state=state,
        since=since,
        checked_at=row.checked_at,
        reason=None,
    )
    return status_of(service).services[0]


@pytest.mark.parametrize("created_at", TIMES)
@pytest.mark.parametrize("word", ["OPEN", "ACKNOWLEDGED"])
def test_alert_of_any_time_is_open(word: str, created_at: datetime) -> None:
    """The status of an alert says whether it is open, whatever its time.

    A time in the future is shown as such.
    """
    document = explained(service_history(alerts=(alert(word, created_at, closed_at=FIRST),)))
    assert document.alerts[0].open
    since = "with an opening time in the future, " if created_at > NOW else "since "
    assert document.alert.startswith(f"alert 7 is open {since}")
    assert ("acknowledged by x" in document.alert) is (word == "ACKNOWLEDGED")


@pytest.mark.parametrize("closed_at", [*TIMES, None])
def test_closed_alert_is_closed(closed_at: datetime | None) -> None:
    """A closed alert is closed now, whatever its times."""
    for created_at in TIMES:
        document = explained(service_history(alerts=(alert("CLOSED", created_at, closed_at),)))
        assert (document.alerts[0].open, document.alert) == (False, "no alert is open")


def test_alerts_of_the_past() -> None:
    """At an earlier time, an alert is open from its opening to its closing."""
    opened, closed = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
    for at, row, is_open in (
        (NOW - timedelta(minutes=90), alert("CLOSED", opened, closed), True),
        (NOW - timedelta(minutes=30), alert("CLOSED", opened, closed), False),
        (NOW - timedelta(minutes=30), alert("CLOSED", opened, None), False),
        (NOW - timedelta(minutes=90), alert("OPEN", opened), True),
        (NOW - timedelta(hours=3), alert("OPEN", opened), False),
        (NOW - timedelta(hours=3), alert("OPEN", LAST), False),
    ):
        assert explained(service_history(alerts=(row,), at=at)).alerts[0].open is is_open


@pytest.mark.parametrize("checked_at", TIMES)
def test_row_of_any_time(checked_at: datetime) -> None:
    """`explain` and `status` agree on a row of any time. Too old and future rows are stale."""
    row = HealthRow(status="healthy", details={}, checked_at=checked_at)
    expected = "healthy" if checked_at == NOW else "stale"
    assert shown(row).state == expected
    age = {NOW: "0 s ago"}.get(checked_at, "in the future" if checked_at > NOW else "")
    service = ServiceRow("a", row.status, 1, None, None, checked_at, None)
    services_table = status.tables(status_of(service))[1]
    checked = services_table.head.index("CHECKED")
    assert services_table.rows[0][checked].startswith(age)
    assert explained(service_history(row)).state == expected


@pytest.mark.parametrize(
    "details",
    [
        None,
        [],
        "x",
        5,
        {"since": 5},
        {"since": "9999-12-31T23:59:59+00:00"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"status": {}, "error": ["x"], "streak": "9"},
        {"status": "a\n", "reason": 5, "streak": 1.5},
        {"http_status": [], "streak": None},
    ],
)
def test_odd_details(details: Any) -> None:
    """Details that no pass writes are shown as far as possible, on one line."""
    row = HealthRow(status="unhealthy", details=details, checked_at=NOW)
    for variant in (row, row._replace(checked_at=LAST)):
        document = explained(service_history(variant))
        assert "\n" not in "".join(explain.sentences(document)[:1])
        assert isinstance(document.reason, str)
        assert document.streak is None
    assert "\n" not in shown(row, state="a\nb", since=details).state
