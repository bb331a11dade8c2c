"""The arithmetic of a report: durations, shares, points, calendars, and the choice of charts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.adapters.html import breakable, budget_left, length_of, part, percent, unbroken
from ops_worker.core import slo, timeline
from ops_worker.core.model import Target
from ops_worker.core.slo import Budget, Objective, budget
from ops_worker.core.staleness import PassRecord, longest_period_s
from ops_worker.history.actions import in_words
from ops_worker.history.days import Day
from ops_worker.history.ledger import LedgerRows
from ops_worker.history.report import (
    MAX_DAYS,
    MAX_DRAWN,
    ReportRows,
    buckets,
    build,
    maintenances,
    probing,
)
from ops_worker.history.rows import ActionRow, AlertRow, MaintenanceRow, PassCountRow
from ops_worker.history.series import Bucket, Series
from ops_worker.history.status import StatusLedger, StatusRows
from ops_worker.text import format_age, format_duration
from tests.recorder import BEGUN, Recorder, at, sight

if TYPE_CHECKING:
    from datetime import datetime

DAY_S = 86_400


@pytest.mark.unit
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (90_000, "1 d 1 h"),
        (86_460, "1 d"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    """A duration has its two largest units. The second unit is left out if it is zero."""
    assert format_duration(seconds) == text


SIZES = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}


def read_back(text: str) -> tuple[float, list[int]]:
    """Return the seconds that a text means, and the sizes of its units, the largest first."""
    words = text.split()
    sizes = [SIZES[unit] for unit in words[1::2]]
    return sum(int(number) * size for number, size in zip(words[::2], sizes, strict=True)), sizes


@pytest.mark.unit
@given(st.floats(0, 1e9) | st.integers(0, 10_000).map(float))
def test_a_shown_duration_is_the_duration(seconds: float) -> None:
    """The text of a duration is right within half of its unit.

    A text with two units is right within the smaller one.
    """
    value, (size,) = read_back(format_age(seconds))
    assert abs(value - seconds) <= size / 2
    assert size == 1 or value >= size
    value, sizes = read_back(format_duration(seconds))
    difference = round(seconds) - value
    assert sizes == sorted(sizes, reverse=True) and len(sizes) <= 2
    smaller = {86_400: 3_600, 3_600: 60, 60: 1, 1: 1}[sizes[0]]
    assert 0 <= difference < smaller or difference == 0


@pytest.mark.unit
def test_percent() -> None:
    """No share is rounded up to 100 %."""
    assert (percent(1), percent(0.999999), percent(0.98), percent(0), percent(None)) == (
        "100 %",
        "99.999 %",
        "98 %",
        "0 %",
        "unknown",
    )


@pytest.mark.unit
def test_buckets() -> None:
    """A point covers at least two periods of the slowest pass. A point without rows is a gap."""
    passes = [PassRecord("health", None, BEGUN, period_s) for period_s in (5.0, 60.0, None)]
    assert (longest_period_s(passes), longest_period_s(passes[:1]), longest_period_s([])) == (
        60,
        5,
        60,
    )
    assert [buckets(since, 60) for since in (60, 600, 7200, 86_400)] == [1, 5, 60, 144]
    assert buckets(600, 5) == 60
    records = [PassRecord(name, None, BEGUN, 60.0) for name in ("health", "rollup", "theirs")]
    assert [record.name for record in probing(records)] == ["health", "theirs"], (
        "an hourly pass that probes nothing does not make the points of a chart longer"
    )


@pytest.mark.unit
def test_texts() -> None:
    """No line breaks within a duration, a percentage or a label. A day is 24 h."""
    assert unbroken("1 h 3 min, 99.5 % of 3 services") == (
        "1\u00a0h\u00a03\u00a0min, 99.5\u00a0% of 3 services"
    )
    assert breakable("ms{a=<1>,b=2}") == "ms<wbr>{a=&lt;1&gt;,<wbr>b=2}"
    assert [length_of(seconds) for seconds in (DAY_S, DAY_S + 3600, 2 * DAY_S)] == [
        "24 h",
        "1 d 1 h",
        "2 d",
    ]


@pytest.mark.unit
@pytest.mark.parametrize(("unhealthy_s", "expected"), [(1, 25.0), (43_200, 50.0), (86_400, 100.0)])
def test_part(unhealthy_s: float, expected: float) -> None:
    """A short outage is large enough to be visible. A longer one has its share of the bar."""
    day = Day(at(0), at(DAY_S), "down", DAY_S - unhealthy_s, unhealthy_s, 0.0)
    assert part(day) == expected


@pytest.mark.unit
@pytest.mark.parametrize(
    ("left_s", "least_s", "most_s", "coverage", "expected"),
    [
        (432, 432, 432, 1.0, "50 % left: 7 min 12 s of 14 min 24 s"),
        (432, 400, 460, 1.0, "50 % left (46 to 53 %): 7 min 12 s of 14 min 24 s"),
        (-60, -90, -60, 1.0, "none left: 15 min 24 s used of 14 min 24 s"),
        (864, 864, 864, 0.0, "unknown: nobody looked (of 14 min 24 s)"),
    ],
)
def test_budget_left(
    left_s: float, least_s: float, most_s: float, coverage: float, expected: str
) -> None:
    """An error budget is shown with its bounds. An unknown budget is shown as unknown."""
    assert budget_left(Budget(Objective(99, 1), left_s, least_s, most_s, coverage)) == expected


def status_rows(now: datetime, since_s: float = 600, **changes: Any) -> StatusRows:
    """Return the rows of a status in which nothing was recorded."""
    rows = StatusRows(
        now=now,
        since_s=since_s,
        services=[],
        alerts=[],
        passes=[],
        counts=[],
        series=[],
        maintenance=None,
    )
    return rows._replace(**changes)


def report_rows(now: datetime, since_s: float, **changes: Any) -> ReportRows:
    """Return the rows of a report in which nothing was recorded."""
    rows = ReportRows(
        now=now,
        begun=now - timedelta(seconds=since_s),
        ended=now,
        status=status_rows(now, since_s),
        ledger=None,
        incidents=[],
        maintenances=[],
        actions=[],
    )
    return rows._replace(**changes)


@pytest.mark.unit
def test_shards_and_many_series() -> None:
    """Each shard counts as a pass. Series without a chart are counted. A counter has its growth."""

    def series(
        metric: str, tags: dict[str, str], service: str = "ops_worker", points: int = 2
    ) -> Series:
        buckets = {number: Bucket(1.0, 1.0) for number in range(1, points + 1)}
        return Series(service, metric, tags, buckets, BEGUN, at(240), counts=False)

    shards = [{"pass": "health", "period_s": "60", "shard": f"{number}/2"} for number in (0, 1)]
    own = [series("maintenance", tags) for tags in shards]
    drawn = [series("free_bytes", {"disk": str(number)}, "store") for number in range(63)]
    all_series = [*own, *drawn, series("used", {}, "store", points=1)]
    targets = [Target("database", "http://localhost", "db", None)]
    count = PassCountRow("health", "0/2", first=at(0), last=at(480), recorded=2, missed=3)
    status = status_rows(
        at(600),
        passes=[PassRecord("health", f"{number}/2", at(480), 60) for number in (0, 1)],
        counts=[
            count,
            count._replace(shard="1/2", last=at(300)),
            count._replace(shard=None, last=at(60)),
        ],
        series=all_series,
    )
    report = build(report_rows(at(600), 600, status=status), 5, targets)
    assert [(row.name, row.recorded, row.missed, row.stopped_s) for row in report.passes] == [
        ("health 0/2", 2, 3, 0),
        ("health 1/2", 2, 3, 300),
        ("health", 2, 3, 0),
        ("metrics", 0, 0, 600),
    ], "a shard that no longer exists has not stopped"
    assert (len(report.charts), report.left_out, report.charts[0].unit, report.charts[0].means) == (
        60,
        4,
        "bytes",
        [1.0, 1.0, None, None, None],
    )
    assert (report.has_ledger, report.services) == (False, [])
    assert report.present is not None
    assert report.present.missing == ["database"]
    assert report.present.verdict == "No service was recorded"


def ledger_rows(ledger: Recorder, services: list[str], since: float, now: float) -> LedgerRows:
    """Return the rows of a ledger as the database gives them."""
    return LedgerRows(
        now=at(now),
        since=at(since),
        until=at(now),
        services=services,
        runs={"health": ledger.runs, "metrics": []},
        spans={"health": ledger.spans, "metrics": []},
    )


@pytest.mark.unit
def test_services() -> None:
    """The unhealthiest service is first. Each has its sums, outages, planned time and budget."""
    ledger = Recorder()
    for second in range(0, 6000, 60):
        states = {
            "a": "down" if 1200 <= second < 1800 else "healthy",
            "b": {1200: "down", 1260: "unknown", 3000: "degraded"}.get(second, "healthy"),
            "c": "healthy",
        }
        ledger.record([sight(name, second, state) for name, state in states.items()])
    rows = ledger_rows(ledger, ["a", "b", "c", "new\nline"], 0, 6000)
    objectives = {"b": Objective(90.0, 1)}
    window = rows._replace(since=at(6000 - DAY_S), services=["b"])
    maintenance_rows = [
        MaintenanceRow(at(1500), at(1620), "kim", None, ""),
        MaintenanceRow(at(1600), at(9000), "lee", None, ""),
        MaintenanceRow(at(1200), at(1300), "max", None, "", ["a", "new\nline"]),
    ]
    report = build(
        report_rows(
            at(6000),
            6000,
            ledger=StatusLedger(rows, [window], objectives),
            maintenances=maintenance_rows,
        ),
        5,
        [],
    )
    assert [
        (row.service, row.summary.outages, row.unhealthy_s, row.summary.longest_s, row.planned_s)
        for row in report.services
    ] == [
        ("a", 1, 600, 600, 400),
        ("b", 2, 180, 120, 60),
        ("new line", 0, 0, 0, 0),
        ("c", 0, 0, 0, 0),
    ], (
        "the longest outage is a single one; overlapping maintenances count once, "
        "and only for their services"
    )
    a, b, dark, _ = report.services
    assert (dark.total.value, {*dark.states}, dark.longest) == (None, {"unseen"}, None)
    own = ledger.pieces("a", 0, 6000, 6000)
    assert a.states == timeline.bucket_states(own, at(0), at(6000), 180)
    assert {*a.states} == {"healthy", "down"}
    assert (a.days, report.calendar_begun) == ((), None)
    pieces = ledger.pieces("b", 6000 - DAY_S, 6000, 6000)
    assert b.budget == budget(objectives["b"], timeline.availability(pieces))
    assert (a.budget, dark.budget) == (None, None)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("begun_day", "now_day", "expected_day"),
    [
        (0, 4, None),
        (0, 5, 0),
        (-90, 5, 0),  # the first pass was on day 0
        (2, 30, 2),
        (-1000, 1000, 1000 - MAX_DAYS),
    ],
)
def test_calendar(begun_day: float, now_day: float, expected_day: float | None) -> None:
    """A long period has a bar for each day since the first pass. The number of days is limited."""
    ledger = Recorder()
    ledger.record([sight("a", 7200, "healthy")])
    rows = ledger_rows(ledger, ["a"], begun_day * DAY_S, now_day * DAY_S)
    report = build(
        report_rows(
            at(now_day * DAY_S), (now_day - begun_day) * DAY_S, ledger=StatusLedger(rows, [], {})
        ),
        5,
        [],
    )
    (service,) = report.services
    if expected_day is None:
        assert (report.calendar_begun, service.days) == (None, ())
        assert service.states
    else:
        assert report.calendar_begun == at(expected_day * DAY_S)
        assert len(service.days) == now_day - expected_day
        assert service.states == ()


@pytest.mark.unit
def test_many_services() -> None:
    """Only the worst services are drawn. All have their figures, in the same order."""
    number = MAX_DRAWN + 20
    ledger = Recorder()
    for second in range(0, 60 * number + 60, 60):
        ledger.record(
            [
                sight(f"s{place:03}", second, "down" if second < 60 * place else "healthy")
                for place in range(number)
            ]
        )
    now = 60 * number + 60
    rows = ledger_rows(ledger, [f"s{place:03}" for place in range(number)], 0, now)
    report = build(report_rows(at(now), now, ledger=StatusLedger(rows, [], {})), 5, [])
    assert [service.unhealthy_s for service in report.services] == [
        60 * place for place in reversed(range(number))
    ]
    assert [bool(service.states) for service in report.services] == [True] * MAX_DRAWN + [
        False
    ] * 20
    assert [service.is_drawn for service in report.services] == [True] * MAX_DRAWN + [False] * 20
    assert report.services[-2].summary.outages == 1 and report.services[-2].outages == ()


@pytest.mark.unit
def test_the_past() -> None:
    """An alert that opened after the end of the period is not in the report."""
    alert = AlertRow(1, "a", "OPEN", "x", at(50), None, None, None)
    incidents = [alert, alert._replace(id=2, created_at=at(150))]
    past = report_rows(at(200), 200, ended=at(100), incidents=incidents)
    report = build(past, 5, [])
    assert report.present is None
    assert [(item.id, item.seconds) for item in report.incidents] == [(1, 50)]
    present = build(past._replace(ended=at(200)), 5, [])
    assert [item.id for item in present.incidents] == [2, 1], "the newest first"
    assert present.present is not None


@pytest.mark.unit
def test_actions() -> None:
    """Actions of people are shown in words. Those of other programs are shown as they are.

    Every action is on one line.
    """
    row = ActionRow(at(0), "acknowledged", "kim", "", ["a"], None, 7)
    rows = [
        row,
        row._replace(action="pruned", alert=None, services=["a", 1, "b\n"]),
        row._replace(action="sl\x1bept", by="\x00", services={"a": 1}, alert=None),
    ]
    report = build(report_rows(at(9), 9, actions=rows[::-1]), 5, [])
    assert [(in_words(item), item.by, item.services) for item in report.actions] == [
        ("acknowledged alert 7", "kim", ["a"]),
        ("removed services (alerts prune)", "kim", ["a", "b"]),
        ("sl ept", "", []),
    ]


@pytest.mark.unit
def test_objectives() -> None:
    """Only services with an objective are returned, by name."""
    target = Target("a", "http://localhost", "a", None)
    with_one = target._replace(name="b", slo=99.9, slo_window_days=7)
    assert slo.objectives([target, with_one]) == {"b": Objective(99.9, 7)}


@pytest.mark.unit
def test_maintenances() -> None:
    """Maintenances in a row by the same person, for the same reason and services, are joined."""

    def row(first: float, last: float, by: str, ended_by: str | None = None) -> MaintenanceRow:
        begun, ended = (BEGUN + timedelta(minutes=minute) for minute in (first, last))
        return MaintenanceRow(begun, ended, by, ended_by, reason="racks\n")

    rows = [row(0, 1, "kim", "kim"), row(1, 3, "kim"), row(3, 4, "lee", "max"), row(5, 6, "lee")]
    assert [
        ((item.ended - item.begun).total_seconds(), *item[2:]) for item in maintenances(rows)
    ] == [
        (180, "kim", "", "racks", ()),
        (60, "lee", "max", "racks", ()),
        (60, "lee", "", "racks", ()),
    ]
    of_services = row(0, 9, "kim")._replace(services=["a"])
    others = [
        row(1, 2, "kim"),
        of_services,
        row(2, 3, "kim"),
        of_services._replace(services=["a", "b"]),
    ]
    assert [
        ((item.ended - item.begun).total_seconds(), *item.services) for item in maintenances(others)
    ] == [
        (120,),
        (540, "a"),
        (540, "a", "b"),
    ], "started again while others run"
