"""The screen of `status`: the verdict, the layout, and the changes since the last screen."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops_worker.core.ledger import Run, Span
from ops_worker.core.slo import Objective
from ops_worker.core.staleness import PassRecord
from ops_worker.history import status
from ops_worker.history.budgets import bounds_of_left
from ops_worker.history.ledger import AvailabilityDocument, LedgerRows
from ops_worker.history.rows import OpenAlertRow, RunningMaintenance, ServiceRow
from ops_worker.history.screen import (
    LEGEND,
    MIN_WIDTH,
    STATE_MARKS,
    Column,
    ScreenTable,
    cut,
    fit,
    fitted,
    flexible,
    halved,
    plain,
    state_bar,
    text_width,
    wrapped,
)
from ops_worker.history.series import Bucket, Growth, Series
from ops_worker.history.status import Status, StatusLedger, StatusRows

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEGUN = NOW - timedelta(hours=1)
OLD = timedelta(minutes=5)
REASON = "not ready: /queue/depth is 51200, expected less than 1000, as the catalogue says"


def service(
    name: str, state: str = "healthy", age: timedelta = timedelta(seconds=12), reason: str = ""
) -> ServiceRow:
    """Return the row of a service."""
    since = (NOW - timedelta(minutes=119)).isoformat()
    verdict = "healthy" if state == "healthy" else "unhealthy"
    return ServiceRow(name, verdict, 7, state, since, NOW - age, reason or None)


def alert(number: int, word: str = "OPEN", name: str = "evaluator") -> OpenAlertRow:
    """Return the row of an alert."""
    by = None if word == "OPEN" else "kim of the night shift"
    summary = f"Service unhealthy: {name} ({REASON})"
    return OpenAlertRow(number, name, word, summary, BEGUN, by, None if by is None else NOW)


ROWS = StatusRows(
    now=NOW,
    since_s=3600.0,
    services=[],
    alerts=[],
    passes=[PassRecord("health", None, NOW, 60.0), PassRecord("metrics", None, NOW, 5.0)],
    counts=[],
    series=[],
    maintenance=None,
    database="iotcloud",
)
HEALTHY = [service("dispatcher"), service("evaluator"), service("ingest")]


def built(services: list[ServiceRow], **changes: Any) -> Status:
    """Return the document."""
    return status.build(ROWS._replace(services=services, **changes), {})


def lines(document: Status, width: int = 80, before: Status | None = None) -> list[str]:
    """Return the lines of a screen of this width."""
    tables = [
        status.heading(document, before=before),
        *status.tables(document, before=before, width=width),
    ]
    visible = [fitted(table, width) for table in tables if table.rows or table.none]
    return "\n\n".join(plain(table, width) for table in visible).splitlines()


def test_causes() -> None:
    """A service that is unhealthy because of another one is below its cause, and names it.

    It counts as unhealthy. A stale service is no cause, and has none.
    """
    services = [
        service("api", "down", reason="refused"),
        service("db", "down", reason="no route"),
        service("lost", "down", age=OLD),
        service("page", "degraded", reason="http 503"),
        service("web", "healthy"),
        service("zone", "down", reason="x"),
    ]
    needs = {
        "api": ["zone"],
        "db": [],
        "lost": [],
        "page": ["api", "db"],
        "web": ["db"],
        "zone": ["lost"],
    }
    document = status.build(ROWS._replace(services=services), {}, needs=needs)
    assert document.verdict == "4 of 6 services are unhealthy, 1 stale; 2 because of db and zone"
    assert {row.service: row.because_of for row in document.services if row.because_of} == {
        "api": ("zone",),
        "page": ("db", "zone"),
    }
    table = status.tables(document, width=160)[1]
    assert [(row[0], row[-1]) for row in table.rows] == [
        ("db", "no route"),
        ("page", "because of db and zone: http 503"),
        ("zone", "x"),
        ("api", "because of zone: refused"),
        ("lost", "no pass has looked since; it was down"),
        ("web", "-"),
    ]


@pytest.mark.parametrize(
    ("services", "changes", "verdict"),
    [
        ([], {}, "No service was recorded"),
        (HEALTHY, {}, "All 3 services are healthy"),
        (HEALTHY[:1], {}, "The only service is healthy"),
        ([service("a", "unknown")], {}, "The only service is unhealthy"),
        ([service("a", age=OLD)], {}, "The only service is stale"),
        ([*HEALTHY, service("x", "unknown")], {}, "1 of 4 services is unhealthy"),
        (
            [*HEALTHY, service("x", "degraded"), service("y", "down")],
            {},
            "2 of 5 services are unhealthy",
        ),
        ([*HEALTHY, service("x", age=OLD)], {}, "1 of 4 services is stale"),
        ([*HEALTHY, service("x", age=-OLD)], {}, "1 of 4 services is stale"),
        (
            [*HEALTHY, service("x", "down"), service("y", "down", OLD), service("z", age=OLD)],
            {},
            "1 of 6 services is unhealthy, 2 stale",
        ),
        ([service("x", "down"), service("y", "sleepy")], {}, "All 2 services are unhealthy"),
        ([service("x", age=OLD), service("y", "down", OLD)], {}, "All 2 services are stale"),
        (
            HEALTHY,
            {"alerts": [alert(1)]},
            "All 3 services are healthy; 1 alert is not acknowledged",
        ),
        (
            HEALTHY,
            {"alerts": [alert(1), alert(2), alert(3, "ACKNOWLEDGED")]},
            "All 3 services are healthy; 2 alerts are not acknowledged",
        ),
        (
            HEALTHY,
            {"alerts": [alert(1, "ACKNOWLEDGED")]},
            "All 3 services are healthy; 1 alert is open and acknowledged",
        ),
        (
            HEALTHY,
            {
                "passes": [
                    PassRecord("health", "0/2", NOW, 60.0),
                    PassRecord("metrics", "0/2", NOW - OLD, 5.0),
                    PassRecord("metrics", "1/2", NOW - OLD, 5.0),
                ]
            },
            "All 3 services are healthy; the metrics pass is stale",
        ),
    ],
)  # fmt: skip
def test_verdict(services: list[ServiceRow], changes: dict[str, Any], verdict: str) -> None:
    """The verdict never counts an unhealthy or stale service as healthy."""
    document = built(services, **changes)
    assert document.verdict == verdict
    assert lines(document)[:2] == [verdict, "database iotcloud, 2026-03-01 12:00:00 UTC"]


def names(document: Status) -> list[str]:
    """Return the services in the order of the screen."""
    return [row[0] for row in status.tables(document)[1].rows]


def test_order() -> None:
    """On the screen, unhealthy services come first, then stale ones, each by name.

    The document is in the order of names.
    """
    rows = [
        service("a"),
        service("b", age=OLD),
        service("c", "unknown"),
        service("d", "degraded"),
        service("e"),
    ]
    document = built(rows)
    assert names(document) == ["c", "d", "b", "a", "e"]
    assert [item.service for item in document.services] == ["a", "b", "c", "d", "e"]


def test_stale_lasts_no_time() -> None:
    """A stale service has no duration: nobody knows when its state began."""
    table = status.tables(built([service("a", age=OLD), service("b")]))[1]
    duration = table.head.index("FOR")
    assert [row[duration] for row in table.rows] == ["-", "119 min"]


RUN = Run(1, 60.0, "c", BEGUN, NOW, 61)


def span(number: int, name: str, state: str, first: int, last: int | None) -> Span:
    """Return a span. Its begin and end are in minutes after the beginning."""
    ended = None if last is None else BEGUN + timedelta(minutes=last)
    return Span(
        id=number,
        service=name,
        state=state,
        reason_class="" if state == "healthy" else "refused",
        reason="",
        first_at=BEGUN + timedelta(minutes=first),
        first_no=first + 1,
        run=1,
        last_at=ended,
        last_no=last,
        last_run=None if last is None else 1,
    )


SPANS = [
    span(1, "dispatcher", "healthy", 0, 29),
    span(2, "dispatcher", "degraded", 30, 39),
    span(3, "dispatcher", "healthy", 40, None),
    span(4, "evaluator", "healthy", 0, 53),
    span(5, "evaluator", "down", 54, None),
]
PERIOD = LedgerRows(
    now=NOW,
    since=BEGUN,
    until=NOW,
    services=["dispatcher", "evaluator", "ingest"],
    runs={"health": [RUN], "metrics": []},
    spans={"health": SPANS, "metrics": []},
)
OBJECTIVES = {
    "dispatcher": Objective(90.0, 1),
    "evaluator": Objective(99.9),
    "ingest": Objective(99.0, 1),
}
LEDGER = StatusLedger(
    period=PERIOD,
    windows=[
        PERIOD._replace(services=["dispatcher", "ingest"], since=NOW - timedelta(days=1)),
        PERIOD._replace(services=["evaluator"], since=NOW - timedelta(days=30)),
    ],
    objectives=OBJECTIVES,
)


def with_ledger(states: int = 24, **changes: Any) -> Status:
    """Return the document of three services with their past."""
    services = [
        service("dispatcher"),
        service("evaluator", "down", reason=REASON),
        service("ingest", age=OLD),
    ]
    rows = ROWS._replace(services=services, **changes)
    return status.build(rows, {}, None, ledger=LEDGER, states=states)


def test_states_of_the_past() -> None:
    """Each state of a bar is computed by hand from the spans."""
    first, second, third = with_ledger(states=12).services
    assert first.states == ["healthy"] * 6 + ["degraded"] * 2 + ["healthy"] * 4
    assert second.states == ["healthy"] * 10 + ["down"] * 2
    assert third.states == ["unseen"] * 12


def test_availability_of_the_past() -> None:
    """Each availability is computed by hand from the spans."""
    first, second, third = with_ledger(states=12).services
    assert first.availability is not None and first.availability.value == 50 / 60
    assert second.availability is not None and second.availability.value == 54 / 60
    assert third.availability is not None and third.availability.value is None


def test_budgets_of_the_past() -> None:
    """Each error budget is computed by hand from the spans."""
    first, second, _ = with_ledger(states=12).services
    assert first.budget is not None and second.budget is not None
    assert first.budget.left_s == pytest.approx(8640 - 600)
    assert first.budget.left == pytest.approx(8040 / 8640)
    assert first.budget.least_s == pytest.approx(8640 - 660)
    assert first.budget.most_s == pytest.approx(8640 - 540)
    assert first.budget.coverage == pytest.approx(1 / 24)
    assert second.budget.left_s == pytest.approx(2592 - 360)
    assert (second.budget.slo, second.budget.window_days) == (99.9, 30)


def test_screen() -> None:
    """The whole screen, line by line."""
    assert (
        "\n".join(lines(with_ledger(status.bar_length(80))))
        == f"""\
1 of 3 services is unhealthy, 1 stale
database iotcloud, 2026-03-01 12:00:00 UTC

Services; BAR and AVAIL: last 60 min
SERVICE     STATE    FOR      BAR               AVAIL    LATENCY  CHECKED
evaluator   down     119 min  ██████████████xx  90.00 %  7 ms     12 s ago
  {REASON[:77]}…
ingest      stale    -        ················  -        7 ms     5 min ago
  no pass has looked since; it was healthy
dispatcher  healthy  119 min  ████████▒▒▒█████  83.33 %  7 ms     12 s ago
BAR: █ healthy  ▒ degraded  x down  ? unknown  · unseen

Service level objectives
SERVICE     SLO     ERROR BUDGET    USED    LEFT     BOUNDS      SEEN
dispatcher  90 %    2 h in 1 d      10 min  93 %     92 to 93 %  4 %
evaluator   99.9 %  43 min in 30 d  6 min   86 %     83 to 86 %  < 1 %
ingest      99 %    14 min in 1 d   -       unknown  -           0 %

Open alerts
none

Passes; MISSED: last 60 min
PASS     STATE    LAST SUCCESS  PERIOD  MISSED
health   on time  0 s ago       1 min   0
metrics  on time  0 s ago       5 s     0"""
    )


def test_without_a_ledger() -> None:
    """Without a ledger, the columns that need it are left out. A line says why."""
    screen = lines(built(HEALTHY))
    assert screen[3:6] == [
        "Services",
        "SERVICE     STATE    FOR      LATENCY  CHECKED   REASON",
        "dispatcher  healthy  119 min  7 ms     12 s ago  -",
    ]
    assert screen[8] == "no BAR, no AVAIL: no ledger to read (`ops-worker init-db`)"
    assert LEGEND not in screen


def test_missed_objective() -> None:
    """A budget that is used up has nothing left. USED says how much was used."""
    objectives = OBJECTIVES | {"evaluator": Objective(99.99, 1)}
    windows = [LEDGER.windows[0]._replace(services=["evaluator"])]
    ledger = LEDGER._replace(windows=windows, objectives=objectives)
    rows = ROWS._replace(services=[service("evaluator", "down")])
    table = status.tables(status.build(rows, {}, None, ledger=ledger))[2]
    assert table.rows[0][:5] == ("evaluator", "99.99 %", "9 s in 1 d", "6 min", "none")


def test_bounds_of_a_budget() -> None:
    """A bound below 0 is ``none``. Equal bounds are left out."""
    assert bounds_of_left(-30, 50, 100) == "none to 50 %"
    assert bounds_of_left(-30, -10, 100) == ""
    assert bounds_of_left(50, 50.5, 100) == ""
    assert bounds_of_left(83, 86, 100) == "83 to 86 %"


def test_service_without_a_record() -> None:
    """A monitored service without a record is in the verdict, and before the healthy ones."""
    rows = ROWS._replace(services=[service("evaluator", "down"), service("ingest")])
    names = ("evaluator", "ingest", "new\n")
    document = status.build(rows, dict.fromkeys(names, "x"), None, ledger=LEDGER)
    assert document.verdict.endswith("; 1 monitored service was never recorded")
    assert document.missing == ["new"]
    table_rows = status.tables(document)[1].rows
    assert [row[:2] for row in table_rows] == [
        ("evaluator", "down"),
        ("new", "unseen"),
        ("ingest", "healthy"),
    ]
    assert set(table_rows[1][3]) == {"·"}
    again = status.tables(document, before=document)[1].rows
    assert again[1][0] == "  new"
    nothing = status.build(ROWS._replace(services=[]), {"new": "new"}, None)
    assert "never recorded" not in nothing.verdict
    assert status.tables(nothing)[1].rows == ()
    two = status.build(rows, dict.fromkeys((*names, "old"), "x"), None)
    assert two.verdict.endswith("; 2 monitored services were never recorded")


def test_missed_at_least_nothing() -> None:
    """If at least 0 passes were missed, the number is shown as unknown."""
    record = status.build(ROWS, {}).passes[0]
    passes = [record._replace(missed=number, missed_is_least=True) for number in (0, 3)]
    document = status.build(ROWS, {})._replace(passes=passes)
    assert [row[-1] for row in status.tables(document)[4].rows[:2]] == ["unknown", "≥ 3"]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100 %"),
        (0.999_999, "99.99 %"),
        (0.9993, "99.93 %"),
        (0.5, "50.00 %"),
        (0.0, "0.00 %"),
    ],
)
def test_availability_is_rounded_down(share: float, text: str) -> None:
    """Only a share of exactly 1 is shown as 100 %."""
    document = AvailabilityDocument(share, share, share, 1.0)
    assert status._availability(document) == text


def test_availability_of_little_time() -> None:
    """If less than half of the period was seen, the availability is in parentheses.

    A line explains the parentheses.
    """
    document = AvailabilityDocument(1.0, 1.0, 1.0, 0.5)
    assert status._availability(document) == "100 %"
    assert status._availability(document._replace(coverage=0.49)) == "(100 %)"
    period = PERIOD._replace(since=NOW - timedelta(days=1))
    rows = ROWS._replace(services=HEALTHY)
    ledger = StatusLedger(period, [], {})
    table = status.tables(status.build(rows, {}, None, ledger=ledger))[1]
    assert [row[4] for row in table.rows] == ["(83.33 %)", "(90.00 %)", "-"]
    assert table.below == f"{LEGEND}\nAVAIL in (): seen for less than half of the period"
    assert plain(fitted(table, 80), 80).endswith(table.below)


def crowded(width: int, *, before: bool = False) -> Status:
    """Return a document with long names, reasons and values in every table."""
    services = [
        service("a-service-with-a-very-long-name-indeed", "degraded", reason=REASON * 3),
        service("délivrance-日本語-サービス", "unknown", reason="日本語" * 50),
        service("evaluator", "down", reason="Connection refused"),
        service("ingest"),
        service("w", "a word that no pass writes, and that is long"),
    ]
    key = Series(
        service="a-service-with-a-very-long-name-indeed",
        metric="messages_received_by_the_gateway",
        tags={"region": "eu-central-1", "shard": "17"},
        buckets={number: Bucket(5.0 * number, 9.0) for number in range(1, 25)},
        first=BEGUN,
        last=NOW - OLD,
        counts=True,
        latest=1.5e9,
        growth={number: Growth(7.0 * number, 150.0) for number in range(2, 25)},
    )
    return with_services(
        services,
        status.bar_length(width) + (0 if not before else -1),
        alerts=[alert(1), alert(12345, "ACKNOWLEDGED", "délivrance")],
        series=[key, key._replace(counts=False), key._replace(metric="probe_latency_ms")],
        passes=[*ROWS.passes, PassRecord("health", "0/2", NOW - OLD, 60.0)],
        maintenance=RunningMaintenance(
            NOW + timedelta(hours=3), "kim of the night shift", REASON, 9e3
        ),
    )


def with_services(services: list[ServiceRow], states: int, **changes: Any) -> Status:
    """Return a document with a ledger of other services, and objectives of all services."""
    names = [row.service for row in services]
    period = PERIOD._replace(services=names)
    ledger = StatusLedger(
        period=period,
        windows=[period._replace(services=names)],
        objectives=dict.fromkeys(names, Objective(99.9)),
    )
    rows = ROWS._replace(services=services, **changes)
    return status.build(rows, {}, None, ledger=ledger, states=states)


@pytest.mark.parametrize("marks", [False, True])
@pytest.mark.parametrize("width", [MIN_WIDTH, 50, 60, 70, 80, 100, 120, 200])
def test_fits(width: int, marks: bool) -> None:
    """No line is wider than the screen. Each row is one line, followed by its note."""
    document = crowded(width)
    before = crowded(width) if marks else None
    screen = lines(document, width, before)
    assert max(map(text_width, screen)) <= width
    assert screen.count("") == len(
        [table for table in status.tables(document) if table.rows or table.none]
    )
    for table in status.tables(document, width=width, before=before):
        table = fitted(table, width)  # noqa: PLW2901
        drawn = plain(table, width).splitlines()
        notes = sum(1 for note in table.notes if note)
        assert len(drawn) == 2 + len(table.rows) + notes + len(table.below.splitlines())
    rows = [line.removeprefix("  ") for line in screen]
    assert any(re.match("evaluator +down ", line) for line in rows)
    text = "\n".join(screen)
    assert "Connection refused" in text
    words = {word for line in screen for word in line.split() if "…" not in word}
    assert not any(word.startswith("expecte") and word != "expected" for word in words)


def columns(width: int, certificate: object = None) -> list[str]:
    """Return the columns of the table of services on a screen of this width."""
    names = ("delivery_worker", "evaluator")
    services = [service(name, "down", reason="Connection refused") for name in names]
    services[0] = services[0]._replace(certificate_days_left=certificate)
    document = with_services(services, status.bar_length(width))
    (head,) = [
        line for line in lines(document, width) if line.startswith("SERVICE") and "FOR" in line
    ]
    return head.split()


def test_columns_are_left_out_in_order() -> None:
    """On a narrow screen, first the reasons move below the rows.

    Then latency and age are left out.
    """
    whole = ["SERVICE", "STATE", "FOR", "BAR", "AVAIL", "LATENCY", "CHECKED", "REASON"]
    assert columns(120) == whole
    assert columns(80) == whole[:-1]
    assert columns(70) == [*whole[:5], "CHECKED"]
    assert columns(60) == whole[:5]
    assert columns(50) == whole[:4]
    assert columns(40) == whole[:3]


def test_certificates_have_a_column() -> None:
    """If a service has a certificate, its days are shown.

    On a narrow screen, the age is left out before the days.
    """
    whole = ["SERVICE", "STATE", "FOR", "BAR", "AVAIL", "LATENCY", "CERT", "CHECKED", "REASON"]
    assert columns(130, 13) == whole
    assert columns(80, 13) == [*whole[:5], "CERT", "CHECKED"]
    assert columns(130, "13") == columns(130), "another program wrote it"
    assert columns(60, 13) == [*whole[:5], "CERT"]
    document = built([service("a")._replace(certificate_days_left=-2), service("b")])
    (table,) = [table for table in status.tables(document) if table.title.startswith("Services")]
    place = table.head.index("CERT")
    assert [row[place] for row in table.rows] == ["-2 d", "-"]
    assert document.services[0].certificate_days_left == -2


def test_bar_grows() -> None:
    """The bar has at least 12 marks, 16 on 80 columns, and grows with the screen."""
    assert [status.bar_length(width) for width in (40, 60, 80, 88, 120, 1000)] == [
        12, 12, 16, 24, 32, 60,
    ]  # fmt: skip
    wide, narrow = with_ledger(32), with_ledger(12)
    assert [len(item.states) for item in (*wide.services, *narrow.services)] == [32] * 3 + [12] * 3


def test_marks_differ_without_colour() -> None:
    """Each state has a mark of its own, which the legend names."""
    assert len(set(STATE_MARKS.values())) == len(STATE_MARKS) == 5
    assert state_bar(list(STATE_MARKS)) == "█▒x?·"
    for state, mark in STATE_MARKS.items():
        assert f"{mark} {state}" in LEGEND
    assert len(LEGEND) <= 60


def test_changes() -> None:
    """Services, alerts and passes that changed since the last screen have a star."""
    before = built(
        [service("a"), service("b"), service("c", "down", reason="latency 512 ms")],
        alerts=[alert(1), alert(2)],
    )
    after = built(
        [
            service("a", "down"),
            service("b"),
            service("c", "down", reason="latency 518 ms"),
            service("d"),
        ],
        alerts=[alert(1), alert(2, "ACKNOWLEDGED"), alert(3)],
        passes=[ROWS.passes[0]._replace(time=NOW - OLD)],
    )
    tables = status.tables(after, before=before)
    assert [row[0] for row in tables[1].rows] == ["* a", "  c", "  b", "* d"]
    assert [row[0] for row in tables[3].rows] == ["  1", "* 2", "* 3"]
    assert [row[0] for row in tables[4].rows] == ["* health", "  metrics"]
    screen = lines(after, before=before)
    assert "database iotcloud, 2026-03-01 12:00:00 UTC; * changed since 12:00:00" in screen
    unmarked = lines(before, before=before)[2:]
    assert not any("*" in line for line in unmarked)
    assert not any(line.startswith("  ") for line in lines(before) if "latency" not in line)


def test_rate_of_a_counter() -> None:
    """A counter has its rate and the history of the rate. A gauge has its value."""
    key = Series(
        service="a",
        metric="m",
        tags={},
        buckets={number: Bucket(100.0 * number, 9.0) for number in range(1, 25)},
        first=BEGUN,
        last=NOW,
        counts=True,
        latest=2400.0,
        growth={24: Growth(300.0, 150.0), 23: Growth(150.0, 150.0), 22: Growth(5.0, 0.0)},
    )
    document = built(
        [],
        series=[
            key,
            key._replace(metric="n", counts=False),
            key._replace(metric="o", last=BEGUN, growth={}),
        ],
    )
    assert [item.counter for item in document.series] == [True, False, True]
    assert document.series[0].rate_history == [None] * 22 + [1.0, 2.0]
    rows = status.tables(document)[5].rows
    assert rows[0] == ("a", "m", "1.52/s", "·" * 22 + "▁█")
    assert rows[1][2] == "2400"
    assert rows[1][3].startswith("▁▁▂")
    assert rows[2][2] == "- (60 min ago)"
    (narrow,) = [row for row in status.tables(document, width=60)[5].rows if row[1] == "m"]
    assert narrow[3] == "·" * 11 + "▅"


def test_latency_is_among_the_series() -> None:
    """The history of a latency has a row of its own, under the name of the series."""
    key = Series(
        service="delivery",
        metric="probe_latency_ms",
        tags={},
        buckets={1: Bucket(5.0, 9.0), 2: Bucket(7.0, 9.0)},
        first=BEGUN,
        last=NOW,
        counts=False,
    )
    rows = ROWS._replace(
        services=[
            service("delivery_worker"),
            service("old", age=OLD),
            service("x")._replace(latency_ms=None),
        ],
        series=[key, key._replace(service="old"), key._replace(service="x")],
    )
    document = status.build(rows, {"delivery_worker": "delivery"})
    assert document.services[0].series == "delivery"
    assert document.series == []
    table = status.tables(document)[5]
    assert [row[:3] for row in table.rows] == [
        ("delivery", "probe_latency_ms", "7 ms"),
        ("old", "probe_latency_ms", "7 ms (5 min ago)"),
        ("x", "probe_latency_ms", "-"),
    ]
    assert table.rows[0][3] == "▁█" + "·" * 22


def test_no_name_of_a_database() -> None:
    """Without a name of the database, the line has the time."""
    assert lines(built(HEALTHY, database=""))[1] == "2026-03-01 12:00:00 UTC"


def test_cut() -> None:
    """A text that is cut ends with an ellipsis, and fits the width, also with wide letters."""
    assert (cut("abcdef", 6), cut("abcdef", 5), cut("ab def", 4)) == ("abcdef", "abcd…", "ab…")
    assert (cut("日本語", 6), cut("日本語", 5), cut("e\u0301e\u0301e\u0301", 3)) == (
        "日本語",
        "日本…",
        "e\u0301e\u0301e\u0301",
    )
    assert text_width("日本語a") == 7
    assert halved([1, 3, None, 5, None, None, 4]) == [2, 5, None, 4]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("healthy 99.921 % of it", "99.921 %"),
        ("seen 3 s ago", "3 s"),
        ("since 2026-03-01 11:58:00 UTC", "2026-03-01 11:58:00"),
        ("longest of 2 h 30 min here", "2 h 30 min"),
        ("for 1 min 5 s only", "1 min"),
    ],
)
def test_values_are_not_broken(text: str, whole: str) -> None:
    """No line ends within a duration, a percentage or a time. No word is lost."""
    for width in range(max(8, len(whole)), len(text) + 1):
        parts = wrapped(text, width)
        assert any(whole in line for line in parts)
        assert " ".join(parts) == text


def test_words_are_wrapped_whole() -> None:
    """A long verdict or error is wrapped between words. No word is lost."""
    text = "database db.example.net:5432/iotcloud: connection refused; trying again"
    table = fitted(ScreenTable("No new data for 42 s", (), (), none=text), 40)
    assert max(map(len, table.none.splitlines())) <= 40
    assert table.none.replace("\n", " ") == text
    assert plain(table, 40).startswith("No new data for 42 s\ndatabase ")
    assert wrapped("", 40) == [""]
    assert fit([table, ScreenTable("T", ("H",), (("a",),) * 9)], 10)[1].rows == (("a",),)


def test_table_for_no_screen() -> None:
    """A table without columns stays as it is."""
    table = ScreenTable("T", ("H",), (("x" * 99,),), none="")
    assert fitted(table, 60) == table
    assert plain(table, 60) == f"T\nH\n{'x' * 99}"


def test_nothing_to_leave_out() -> None:
    """If no column can be left out or shortened, the table is cut at the edge of the screen."""
    table = flexible("T", (Column("A"), Column("B", least=3)), (("x" * 50, "y" * 50),))
    assert plain(fitted(table, 40), 40).splitlines()[2] == "x" * 39 + "…"
    many = flexible("T", (Column("A"), Column("B", is_note=True)), (("x" * 50, "-"),))
    assert fitted(many, 40).head == ("A",)


def test_note_stays_with_its_row() -> None:
    """A shortened table keeps the notes of its rows."""
    rows = tuple((str(number), "y" * 60) for number in range(30))
    table = fitted(flexible("T", (Column("A" * 20), Column("B", is_note=True)), rows), 40)
    (short,) = fit([table], 20)
    assert len(short.rows) == len(short.notes) == 15
    assert plain(short, 40).splitlines()[2:4] == ["0", f"  {'y' * 37}…"]
