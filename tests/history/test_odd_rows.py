"""Rows that a person or a restored backup left: what is said of them is of one mind, and nothing fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops_worker.core.decoding import loaded
from ops_worker.core.model import Thresholds
from ops_worker.core.staleness import PassRecord
from ops_worker.history import explain, status
from ops_worker.history.explain import Findings, Rule

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
EVERY = (FIRST, NOW - timedelta(days=1), NOW, NOW + timedelta(days=1), LAST)


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
    """Whatever `jsonb` holds is read; what Python cannot hold, or nobody could write again, is null."""
    assert loaded(text) == expected


@pytest.mark.parametrize("opening", ["[", b"[", '{"a":', b'{"a":'])
def test_loaded_is_bounded(opening: str | bytes) -> None:
    """What is nested too deep is cut at the depth that is kept of a service's answer."""
    text = opening if isinstance(opening, str) else opening.decode()
    whole = text * 300 + "1" + ("]" if text == "[" else "}") * 300
    found, depth = loaded(whole if isinstance(opening, str) else whole.encode()), 0
    while isinstance(found, (list, dict)):
        (found,) = found.values() if isinstance(found, dict) else found
        depth += 1
    assert (found, depth) == (None, 200)


def alert(
    status_word: str, created_at: datetime, closed_at: datetime | None = None
) -> dict[str, Any]:
    """Make a row of an alert."""
    return {
        "id": 7,
        "service": "a",
        "status": status_word,
        "summary": "s",
        "created_at": created_at,
        "closed_at": closed_at,
        "acknowledged_by": "x",
        "acknowledged_at": created_at if status_word == "ACKNOWLEDGED" else None,
        "evidence": None,
    }


def findings(
    row: dict[str, Any] | None = None, alerts: tuple[dict[str, Any], ...] = (), at: datetime = NOW
) -> Findings:
    """Make what is known of a service."""
    passes = [PassRecord("health", None, at - timedelta(seconds=5), 60.0)]
    return Findings(
        "a", NOW, at, row, (), (), alerts, passes, maintained=False, maintenance_until=None
    )


def explained(found: Findings) -> dict[str, Any]:
    """Give the document, after all of it was laid out as well."""
    document = explain.build(found, Rule(None, Thresholds()))
    assert explain.sentences(document)
    assert explain.tables(document)
    return document


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Give what `status` says of a service, after all of it was laid out as well."""
    service = {
        "service": "a",
        "latency_ms": None,
        "state": None,
        "since": None,
        "reason": None,
    } | row
    facts = status.Facts(NOW, 3600.0, [service], [], [], [], [], {})
    document = status.build(facts, {})
    assert status.tables(document)
    found: dict[str, Any] = document["services"][0]
    return found


@pytest.mark.parametrize("created_at", EVERY)
@pytest.mark.parametrize("word", ["OPEN", "ACKNOWLEDGED"])
def test_an_alert_of_any_time_is_open(word: str, created_at: datetime) -> None:
    """An alert is open by its status, as `status` lists it, whatever its time; one that is not yet is told so."""
    document = explained(findings(alerts=(alert(word, created_at, closed_at=FIRST),)))
    assert document["alerts"][0]["open"]
    since = "with a time that is not yet, " if created_at > NOW else "since "
    assert document["alert"].startswith(f"alert 7 is open {since}")
    assert ("acknowledged by x" in document["alert"]) is (word == "ACKNOWLEDGED")


@pytest.mark.parametrize("closed_at", [*EVERY, None])
def test_an_alert_that_is_closed_is_closed(closed_at: datetime | None) -> None:
    """A closed alert is closed now, whatever its times."""
    for created_at in EVERY:
        document = explained(findings(alerts=(alert("CLOSED", created_at, closed_at),)))
        assert (document["alerts"][0]["open"], document["alert"]) == (False, "no alert is open")


def test_alerts_of_the_past() -> None:
    """At a time that is past an alert is open from when it was opened until it was closed, and no longer."""
    opened, closed = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
    for at, row, is_open in (
        (NOW - timedelta(minutes=90), alert("CLOSED", opened, closed), True),
        (NOW - timedelta(minutes=30), alert("CLOSED", opened, closed), False),
        (NOW - timedelta(minutes=30), alert("CLOSED", opened, None), False),
        (NOW - timedelta(minutes=90), alert("OPEN", opened), True),
        (NOW - timedelta(hours=3), alert("OPEN", opened), False),
        (NOW - timedelta(hours=3), alert("OPEN", LAST), False),
    ):
        assert explained(findings(alerts=(row,), at=at))["alerts"][0]["open"] is is_open


@pytest.mark.parametrize("checked_at", EVERY)
def test_a_row_that_nobody_believes(checked_at: datetime) -> None:
    """`explain` and `status` are of one mind about a row of any time: what is too old, or not yet, is stale."""
    row = {"status": "healthy", "latency_ms": 1, "details": {}, "checked_at": checked_at}
    expected = "healthy" if checked_at == NOW else "stale"
    age = "0 s" if checked_at == NOW else "in the future" if checked_at > NOW else ""
    assert shown(row)["state"] == expected
    document = status.build(
        status.Facts(
            NOW,
            3600.0,
            [row | {"service": "a", "state": None, "since": None, "reason": None}],
            [],
            [],
            [],
            [],
            {},
        ),
        {},
    )
    assert status.tables(document)[1].rows[0][5].startswith(age)
    if checked_at >= NOW:  # of an older one a health pass that was recorded since looked as well
        assert explained(findings(row))["state"] == expected


@pytest.mark.parametrize(
    "details",
    [None, [], "x", 5, {"since": 5}, {"since": "9999-12-31T23:59:59+00:00"}, {"since": "0001-01-01T00:00:00+14:00"},
     {"status": {}, "error": ["x"], "streak": "9"}, {"status": "a\n", "reason": 5, "streak": 1.5}, {"http_status": [], "streak": None}],
)  # fmt: skip
def test_odd_details(details: Any) -> None:
    """Details that no pass writes are told as far as they can be, in one line."""
    row = {"status": "unhealthy", "latency_ms": None, "details": details, "checked_at": NOW}
    for one in (row, row | {"checked_at": LAST}):
        document = explained(findings(one))
        assert "\n" not in "".join(explain.sentences(document)[:1])
        assert isinstance(document["reason"], str)
        assert document["streak"] is None
    assert "\n" not in shown(row | {"state": "a\nb", "since": details})["state"]
