"""The arithmetic of a report: durations, shares, points, timelines, and the choice of charts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.adapters.html import percent
from ops_worker.core.model import Target
from ops_worker.core.staleness import PassRecord, longest_period_s
from ops_worker.history.report import (
    Span,
    buckets,
    build,
    health_runs,
    health_series,
    maintenances,
    spans,
)
from ops_worker.history.rows import MaintenanceRow, PassCountRow
from ops_worker.history.series import Bucket, Run, Series
from ops_worker.history.status import StatusRows
from ops_worker.text import format_age, format_duration

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)


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
    """A duration has its two largest units; the second one is left out if it is zero."""
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
    """A text means the value, within half of its unit, or within one of the smaller of two units."""
    for text in (format_age(seconds),):
        value, (size,) = read_back(text)
        assert abs(value - seconds) <= size / 2
        assert size == 1 or value >= size
    value, sizes = read_back(format_duration(seconds))
    left = round(seconds) - value
    assert sizes == sorted(sizes, reverse=True) and len(sizes) <= 2
    smaller = {86_400: 3_600, 3_600: 60, 60: 1, 1: 1}[sizes[0]]
    assert 0 <= left < smaller or left == 0


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
    """A point is at least two periods of the slowest pass, so that a point without rows is a gap."""
    passes = [PassRecord("health", None, BEGUN, period_s) for period_s in (5.0, 60.0, None)]
    assert (longest_period_s(passes), longest_period_s(passes[:1]), longest_period_s([])) == (
        60,
        5,
        60,
    )
    assert [buckets(since, 60) for since in (60, 600, 7200, 86_400)] == [1, 5, 60, 144]
    assert buckets(600, 5) == 60


@pytest.mark.unit
def test_spans() -> None:
    """Each part of a timeline shows the worst state in it; a part without a run is unknown."""

    def run(up: bool, first: float, last: float) -> Run:
        return Run(up, BEGUN + timedelta(seconds=first), BEGUN + timedelta(seconds=last))

    ended = BEGUN + timedelta(seconds=100)
    assert spans([], BEGUN, ended, 10) == [Span("unknown", 0, 10)]
    assert spans([run(True, 0, 100)], BEGUN, ended, 10) == [Span("up", 0, 10)]
    flicker = [run(True, 0, 50), run(False, 50, 50.1), run(True, 50.1, 85)]
    assert spans(flicker, BEGUN, ended, 10) == [
        Span("up", 0, 5),
        Span("down", 5, 1),
        Span("up", 6, 2),
        Span("unknown", 8, 2),
    ]
    assert spans([run(False, 95, 100)], BEGUN, ended, 10) == [
        Span("unknown", 0, 9),
        Span("down", 9, 1),
    ]


@pytest.mark.unit
def test_shards_and_many_series() -> None:
    """Each shard is a pass that records the same maintenance; series without a chart are counted."""

    def series(
        metric: str, tags: dict[str, str], service: str = "ops_worker", points: int = 2
    ) -> Series:
        buckets = {number: Bucket(1.0, 1.0) for number in range(1, points + 1)}
        return Series(
            service, metric, tags, buckets, BEGUN, BEGUN + timedelta(seconds=240), counts=False
        )

    shards = [{"pass": "health", "period_s": "60", "shard": f"{number}/2"} for number in (0, 1)]
    own = [series("maintenance", tags) for tags in shards]
    drawn = [series("free_bytes", {"disk": str(number)}, "store") for number in range(63)]
    all_series = [*own, *drawn, series("used", {}, "store", points=1)]
    targets = [Target("database", "http://localhost", "db", None)]
    chosen = health_series(all_series, targets)
    assert [(key.service, name) for key, name in chosen] == [
        ("db", "metrics"),
        ("ops_worker", "health"),
        ("ops_worker", "health"),
    ]

    def at(minute: float) -> datetime:
        return BEGUN + timedelta(minutes=minute)

    health = health_runs(
        chosen,
        [
            [],
            [Run(True, at(1), at(3)), Run(False, at(4), at(8)), Run(True, at(8), at(9))],
            [Run(True, at(2), at(4))],
        ],
        targets,
    )
    assert [*health] == [[("database", [])], [Run(True, at(1), at(4)), Run(True, at(8), at(9))]]
    count = PassCountRow("health", "0/2", first=at(0), last=at(8), recorded=2, missed=3)
    rows = StatusRows(
        now=at(10),
        since_s=600,
        services=[],
        alerts=[],
        passes=[PassRecord("health", f"{number}/2", at(8), 60) for number in (0, 1)],
        counts=[
            count,
            count._replace(shard="1/2", last=at(5)),
            count._replace(shard=None, last=at(1)),
        ],
        series=all_series,
        maintenance=None,
    )
    report = build(rows, 5, health, [], targets)
    assert [(row.name, row.recorded, row.missed, row.stopped_s) for row in report.passes] == [
        ("health 0/2", 2, 3, 0), ("health 1/2", 2, 3, 300), ("health", 2, 3, 0), ("metrics", 0, 0, 600)
    ], "a shard that no longer exists has not stopped"  # fmt: skip
    assert (len(report.charts), report.left_out, report.charts[0].unit, report.charts[0].means) == (
        60,
        4,
        "bytes",
        [1.0, 1.0, None, None, None],
    )
    assert (
        report.services[0].available,
        report.services[0].coverage,
        report.services[0].unknown_s,
    ) == (
        None,
        0,
        600,
    )


@pytest.mark.unit
def test_maintenances() -> None:
    """A maintenance that the same person started again for the same reason is one; others are not."""

    def row(first: float, last: float, by: str, ended_by: str | None = None) -> MaintenanceRow:
        begun, ended = (BEGUN + timedelta(minutes=minute) for minute in (first, last))
        return MaintenanceRow(begun, ended, by, ended_by, reason="racks\n")

    rows = [row(0, 1, "kim", "kim"), row(1, 3, "kim"), row(3, 4, "lee", "max"), row(5, 6, "lee")]
    assert [
        ((item.ended - item.begun).total_seconds(), *item[2:]) for item in maintenances(rows)
    ] == [
        (180, "kim", "", "racks"),
        (60, "lee", "max", "racks"),
        (60, "lee", "", "racks"),
    ]
