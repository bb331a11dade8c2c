"""The alerts of a post, and what an Alertmanager makes of any sequence of posts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.notify import (
    EPOCH,
    RESERVED_LABELS,
    PostRules,
    SystemAlert,
    alerts_to_post,
    closed_since,
    horizon_s,
    parse_labels,
    repeat_s,
)
from ops_worker.text import one_line

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a time relative to now."""
    return NOW + timedelta(seconds=seconds)


def alert(
    number: int,
    status: str = "OPEN",
    *,
    service: str = "ingest",
    created: datetime | None = None,
    closed: datetime | None = None,
    by: str | None = None,
    evidence: Any = None,
) -> SystemAlert:
    """Return a row, by default of an open alert of a minute ago."""
    return SystemAlert(
        id=number,
        service=service,
        status=status,
        summary=f"Service unhealthy: {service} (http 503)",
        created_at=at(-60) if created is None else created,
        closed_at=closed,
        acknowledged_by=by,
        evidence=evidence,
    )


def posted(*rows: SystemAlert, period_s: float = 60.0, **rules: Any) -> list[dict[str, Any]]:
    """Return the alerts of a post at NOW."""
    return alerts_to_post(rows, PostRules(now=NOW, period_s=period_s, **rules))


def numbers(alerts: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of the posted alerts in order."""
    return [int(alert["annotations"]["alert_id"]) for alert in alerts]


def test_open_alert() -> None:
    """An open alert has identifying labels, annotations for people, and an end in the future."""
    evidence = {
        "job": "health-1",
        "reason": "http 503",
        "http_status": 503,
        "state": "degraded",
        "deep": {"a": 1},
        "none": None,
    }
    row = alert(7, evidence=evidence)
    assert posted(row, labels={"env": "prod"}, runbook_url="https://wiki/alerts") == [
        {
            "labels": {
                "alertname": "ServiceUnhealthy",
                "service": "ingest",
                "severity": "critical",
                "source": "ops-worker",
                "env": "prod",
            },
            "annotations": {
                "summary": "Service unhealthy: ingest (http 503)",
                "reason": "http 503",
                "evidence": "state: degraded, http_status: 503, job: health-1",
                "alert_id": "7",
                "runbook_url": "https://wiki/alerts",
            },
            "startsAt": "2026-03-01T11:59:00Z",
            "endsAt": "2026-03-01T12:05:00Z",
        }
    ]


@pytest.mark.parametrize(
    ("period_s", "horizon", "repeat"),
    [
        (1, 300, 900),
        (60, 300, 900),
        (75, 300, 900),
        (76, 304, 900),
        (180, 720, 900),
        (3600, 14400, 18000),
    ],
)
def test_horizons(period_s: float, horizon: float, repeat: float) -> None:
    """An open alert lasts four periods. A closed one is repeated for longer than that."""
    assert horizon_s(period_s) == horizon
    assert repeat_s(period_s) == repeat
    assert closed_since(NOW, period_s) == at(-repeat)
    (alone,) = posted(alert(1), period_s=period_s)
    assert datetime.fromisoformat(alone["endsAt"]) == at(horizon)


@pytest.mark.parametrize(
    ("status", "by", "annotation"),
    [
        ("OPEN", None, None),
        ("ACKNOWLEDGED", "kim", "kim"),
        ("ACKNOWLEDGED", None, "unknown"),
        ("ACKNOWLEDGED", "", "unknown"),
        ("ACKNOWLEDGED", "k\x1b[2J\nim", "k [2J im"),
        ("CLOSED", "kim", "kim"),
        ("CLOSED", None, None),
    ],
)
def test_acknowledged(status: str, by: str | None, annotation: str | None) -> None:
    """An annotation says who acknowledged an alert. The labels identify it and do not change."""
    (posted_alert,) = posted(alert(1, status, by=by, closed=at(-1)))
    assert posted_alert["annotations"].get("acknowledged_by") == annotation
    assert posted_alert["labels"] == posted(alert(1))[0]["labels"]


CLOSED_CASES: list[tuple[str, datetime, datetime | None, tuple[str, str] | None]] = [
    ("a moment ago", at(-60), at(-1), ("2026-03-01T11:59:00Z", "2026-03-01T11:59:59Z")),
    ("15 minutes ago", at(-999), at(-900), ("2026-03-01T11:43:21Z", "2026-03-01T11:45:00Z")),
    ("longer ago", at(-999), at(-900.001), None),
    ("without an end", at(-60), None, None),
    ("before its begin", at(-60), at(-90), ("2026-03-01T11:59:00Z", "2026-03-01T11:59:00Z")),
    ("in the future", at(-60), at(90), ("2026-03-01T11:59:00Z", "2026-03-01T12:00:00Z")),
    ("never", at(-60), LAST, ("2026-03-01T11:59:00Z", "2026-03-01T12:00:00Z")),
    ("begun in the future", at(60), at(90), ("2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z")),
    ("begun before all times", FIRST, at(0), ("1970-01-01T00:00:00Z", "2026-03-01T12:00:00Z")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("created", "closed", "times"),
    [case[1:] for case in CLOSED_CASES],
    ids=[case[0] for case in CLOSED_CASES],
)
def test_closed_alert(
    created: datetime, closed: datetime | None, times: tuple[str, str] | None
) -> None:
    """A closed alert has its own times, made valid, and is repeated for a while."""
    alerts = posted(alert(1, "CLOSED", created=created, closed=closed))
    assert [(posted_alert["startsAt"], posted_alert["endsAt"]) for posted_alert in alerts] == (
        [times] if times else []
    )


@pytest.mark.parametrize(
    ("created", "begins"),
    [
        (at(-60), "2026-03-01T11:59:00Z"),
        (at(60), "2026-03-01T12:00:00Z"),
        (LAST, "2026-03-01T12:00:00Z"),
        (FIRST, "1970-01-01T00:00:00Z"),
        (
            datetime(2026, 3, 1, 12, 30, 0, 5, tzinfo=UTC).astimezone() - timedelta(hours=1),
            "2026-03-01T11:30:00.000005Z",
        ),
    ],
)
def test_begin(created: datetime, begins: str) -> None:
    """A begin in the future becomes now. Otherwise the Alertmanager would send the alert later."""
    assert posted(alert(1, created=created))[0]["startsAt"] == begins


ORDERS: list[tuple[str, list[SystemAlert], list[int]]] = [
    ("nothing", [], []),
    ("open ones, the oldest first", [alert(3), alert(1, created=at(-90), service="b")], [1, 3]),
    ("the oldest first, not by number", [alert(1), alert(3, created=at(-90), service="b")], [3, 1]),
    ("the same time: by number", [alert(3), alert(2, service="b")], [2, 3]),
    (
        "closed, and open again",
        [alert(2, created=at(-5)), alert(1, "CLOSED", closed=at(-10))],
        [2],
    ),
    (
        "closed, and acknowledged again",
        [alert(2, "ACKNOWLEDGED", created=at(-5)), alert(1, "CLOSED", closed=at(-10))],
        [2],
    ),
    (
        "closed, and another one is open",
        [alert(2, created=at(-5), service="b"), alert(1, "CLOSED", closed=at(-10))],
        [1, 2],
    ),
    (
        "closed twice",
        [
            alert(2, "CLOSED", created=at(-20), closed=at(-10)),
            alert(1, "CLOSED", created=at(-40), closed=at(-30)),
        ],
        [1, 2],
    ),
    (
        "open since a time before it was closed: a clock was set back",
        [alert(2, created=at(-500)), alert(1, "CLOSED", created=at(-20), closed=at(-10))],
        [2],
    ),
    (
        "the same name for the Alertmanager",
        [alert(2, service="a b"), alert(1, "CLOSED", service="a\nb", closed=at(-10))],
        [2],
    ),
]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [case[1:] for case in ORDERS],
    ids=[case[0] for case in ORDERS],
)
def test_order(rows: list[SystemAlert], expected: list[int]) -> None:
    """The oldest alert is first. A closed alert is left out if an open one has the same labels."""
    assert numbers(posted(*rows)) == expected


def test_maintenance() -> None:
    """Alerts of a service under maintenance are not posted."""
    rows = [alert(1, service="a"), alert(2, service="b"), alert(3, "CLOSED", closed=at(-1))]
    assert numbers(posted(*rows, under_maintenance={"b", "ingest"})) == [1]


def test_maintenance_of_the_worker() -> None:
    """A maintenance of `ops_worker` applies to the worker's own alert of every installation."""
    rows = [alert(1, service="a"), alert(2, service="ops_worker"), alert(3, service="ops_worker#b")]
    assert numbers(posted(*rows, under_maintenance={"ops_worker"})) == [1]
    assert numbers(posted(*rows)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("evidence", "annotations"),
    [
        (None, {}),
        ("text", {}),
        ([1], {}),
        ({}, {}),
        ({"reason": 5}, {}),
        ({"reason": "  "}, {}),
        ({"reason": "a\nb"}, {"reason": "a b"}),
        ({"a": "x\x00y", "b": 1.5, "c": [], "d": True}, {"evidence": "a: x y, b: 1.5, d: True"}),
    ],
)
def test_odd_evidence(evidence: Any, annotations: dict[str, str]) -> None:
    """Evidence of any shape makes an alert. Only its texts and numbers are shown."""
    (posted_alert,) = posted(alert(1, evidence=evidence))
    always = {"summary": "Service unhealthy: ingest (http 503)", "alert_id": "1"}
    assert posted_alert["annotations"] == always | annotations


BAD_NAME = "not a label name, or one that is in use"
BAD_VALUE = "not a label value"
LABELS: list[tuple[str, dict[str, str] | str]] = [
    ("", {}),
    (" , ", {}),
    ("env=prod", {"env": "prod"}),
    (" env = prod , team=iot,", {"env": "prod", "team": "iot"}),
    ("a=b=c", {"a": "b=c"}),
    ("_x9=ä b", {"_x9": "ä b"}),
    ("env", BAD_VALUE),
    ("env=", BAD_VALUE),
    ("=prod", BAD_NAME),
    ("9a=b", BAD_NAME),
    ("a-b=c", BAD_NAME),
    ("ä=c", BAD_NAME),
    ("a=b,a=c", BAD_NAME),
    ("a=b\x07c", BAD_VALUE),
    ("a=b\nc", BAD_VALUE),
    *[(f"{name}=x", BAD_NAME) for name in sorted(RESERVED_LABELS)],
]


@pytest.mark.parametrize(("text", "labels"), LABELS)
def test_labels(text: str, labels: dict[str, str] | str) -> None:
    """A label is a valid name of Prometheus that is not in use, and has a value."""
    if isinstance(labels, str):
        with pytest.raises(ValueError, match=f"^{labels}$"):
            parse_labels(text)
    else:
        assert parse_labels(text) == labels


TIMES = st.datetimes(
    min_value=datetime(1, 1, 1),  # noqa: DTZ001 - the zone is given below
    max_value=datetime(9999, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
) | st.integers(-2000, 100).map(at)
ROWS = st.lists(
    st.builds(
        SystemAlert,
        id=st.integers(1, 99),
        service=st.text(max_size=3) | st.sampled_from("ab"),
        status=st.sampled_from(["OPEN", "ACKNOWLEDGED", "CLOSED", "ODD"]),
        summary=st.text(max_size=5),
        created_at=TIMES,
        closed_at=st.none() | TIMES,
        acknowledged_by=st.none() | st.text(max_size=5),
        evidence=st.none()
        | st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers()),
    ),
    max_size=8,
)


@given(rows=ROWS, period_s=st.floats(1, 999_999))
def test_always_valid(rows: list[SystemAlert], period_s: float) -> None:
    """Whatever a table holds, the Alertmanager accepts it: one bad alert would make it say 400."""
    alerts = posted(*rows, period_s=period_s)
    json.dumps(alerts, allow_nan=False).encode()
    for posted_alert in alerts:
        begins, ends = map(
            datetime.fromisoformat, (posted_alert["startsAt"], posted_alert["endsAt"])
        )
        assert EPOCH <= begins <= NOW and begins <= ends
        for text in [*posted_alert["labels"].values(), *posted_alert["annotations"].values()]:
            assert text == one_line(text)
            text.encode()
    is_open = [
        posted_alert
        for posted_alert in alerts
        if datetime.fromisoformat(posted_alert["endsAt"]) > NOW
    ]
    assert len(is_open) == len([row for row in rows if row.is_open])


class Held(NamedTuple):
    """An alert in the memory of an Alertmanager."""

    begins: datetime
    ends: datetime
    received: datetime


class Receiver:
    """The memory of an Alertmanager: it merges posted alerts by its rules (types.Alert.Merge)."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}

    def post(self, alerts: list[dict[str, Any]], now: datetime) -> set[str]:
        """Receive a post at a time. Return the services whose alert it ended, even for a moment."""
        ended = set()
        for posted_alert in alerts:
            begins, ends = map(
                datetime.fromisoformat, (posted_alert["startsAt"], posted_alert["endsAt"])
            )
            new = Held(begins, ends, now)
            old = self.held.get(posted_alert["labels"]["service"])
            overlaps = old is not None and (
                old.begins < ends < old.ends or old.begins < begins < old.ends
            )
            if old is not None and overlaps:
                new = self._merged(old, new, now)
            self.held[posted_alert["labels"]["service"]] = new
            if old is not None and new.ends <= now < old.ends:
                ended.add(posted_alert["labels"]["service"])
        return ended

    @staticmethod
    def _merged(old: Held, new: Held, now: datetime) -> Held:
        """Return two alerts as one: the earliest begin, and the later end.

        If the new end is in the past and the old end is not, the new end counts.
        """
        ends = max(old.ends, new.ends)
        if new.ends <= now < old.ends:
            ends = new.ends
        return Held(min(old.begins, new.begins), ends, now)

    def firing(self, now: datetime) -> set[str]:
        """Return the services whose alert fires."""
        return {service for service, held in self.held.items() if held.ends > now}


class Fleet:
    """A table of alerts that passes write, and two Alertmanagers that they post to."""

    def __init__(self, period_s: float) -> None:
        self.now = NOW
        self.period_s = period_s
        self.rows: list[SystemAlert] = []
        self.receivers = [Receiver(), Receiver()]
        self.waiting: list[list[dict[str, Any]]] = []

    def open(self) -> set[str]:
        """Return the services with an open alert."""
        return {row.service for row in self.rows if row.is_open}

    def alerts(self) -> list[dict[str, Any]]:
        """Return what a pass posts now."""
        return alerts_to_post(self.rows, PostRules(now=self.now, period_s=self.period_s))

    def change(self, service: str) -> None:
        """Open the alert of a service, or close it."""
        for index, row in enumerate(self.rows):
            if row.service == service and row.is_open:
                self.rows[index] = row._replace(status="CLOSED", closed_at=self.now)
                return
        self.rows.append(alert(len(self.rows) + 1, service=service, created=self.now))

    def acknowledge(self, service: str) -> None:
        """Acknowledge the alert of a service, if it is open."""
        for index, row in enumerate(self.rows):
            if row.service == service and row.is_open:
                self.rows[index] = row._replace(status="ACKNOWLEDGED", acknowledged_by="kim")

    def post(self, _: str) -> None:
        """Post to both, so that both know the open alerts. No open alert ends, even briefly."""
        for receiver in self.receivers:
            ended = receiver.post(self.alerts(), self.now)
            assert ended.isdisjoint(self.open())
            assert receiver.firing(self.now) == self.open()

    def delay(self, _: str) -> None:
        """Make a post that arrives later or never."""
        self.waiting.append(self.alerts())

    def arrive(self, _: str) -> None:
        """Let a delayed post arrive at one of the two."""
        if self.waiting:
            self.receivers[1].post(self.waiting.pop(), self.now)

    def post_to_one(self, _: str) -> None:
        """Post to one of the two. The other one is down."""
        self.receivers[0].post(self.alerts(), self.now)

    def restart(self, _: str) -> None:
        """Restart one of the two. It forgets all alerts."""
        self.receivers[0] = Receiver()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["change", "post", "acknowledge", "delay", "arrive", "post_to_one", "restart"]
        ),
        st.sampled_from("ab"),
        st.sampled_from([0.001, 7, 70, 400]),
    ),
    min_size=15,
    max_size=30,
)


@given(steps=STEPS, period_s=st.sampled_from([5.0, 60.0, 600.0]))
def test_any_sequence(steps: list[tuple[str, str, float]], period_s: float) -> None:
    """After a post, both Alertmanagers fire exactly for the open alerts, whatever came before.

    Posts are lost, arrive at one of the two only, or arrive after those of later passes.
    Alertmanagers lose their memory. If no pass follows, nothing fires after four periods.
    """
    fleet = Fleet(period_s)
    for step, service, seconds in [*steps, ("post", "", 1)]:
        fleet.now += timedelta(seconds=seconds)
        getattr(fleet, step)(service)
    for receiver in fleet.receivers:
        assert receiver.firing(fleet.now + timedelta(seconds=horizon_s(period_s))) == set()
