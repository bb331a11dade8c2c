"""The page's arithmetic: durations, shares, points, timelines, and what is drawn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.adapters.html import percent
from ops_worker.core import cronjobs
from ops_worker.core.model import Target
from ops_worker.core.staleness import PassRecord
from ops_worker.history.report import (
    Span,
    announced,
    buckets,
    lasting,
    longest_s,
    spans,
    wanted,
)
from ops_worker.history.report import page as build
from ops_worker.history.series import Bucket, Run, Series
from ops_worker.history.status import Facts
from ops_worker.text import format_age, format_duration

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("seconds", "told"),
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
def test_lasted(seconds: float, told: str) -> None:
    """A duration is told in its two largest units; a second that is nothing is left out."""
    assert format_duration(seconds) == told


SIZES = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}


def read_back(told: str) -> tuple[float, list[int]]:
    """Give the seconds that a shown duration says, and the sizes of its units, the largest first."""
    words = told.split()
    sizes = [SIZES[unit] for unit in words[1::2]]
    return sum(int(number) * size for number, size in zip(words[::2], sizes, strict=True)), sizes


@pytest.mark.unit
@given(st.floats(0, 1e9) | st.integers(0, 10_000).map(float))
def test_a_shown_duration_is_the_duration(seconds: float) -> None:
    """Whatever is shown, read back, is the value: to half of its unit, or to less than one of the smaller of two units."""
    for told in (format_age(seconds), cronjobs._short(seconds)):
        value, (size,) = read_back(told)
        assert abs(value - seconds) <= size / 2
        assert size == 1 or value >= size
    value, sizes = read_back(format_duration(seconds))
    left = round(seconds) - value
    assert sizes == sorted(sizes, reverse=True) and len(sizes) <= 2
    smaller = {86_400: 3_600, 3_600: 60, 60: 1, 1: 1}[sizes[0]]
    assert 0 <= left < smaller or left == 0


@pytest.mark.unit
def test_percent() -> None:
    """Nothing is rounded up to all of it."""
    assert (percent(1), percent(0.999999), percent(0.98), percent(0), percent(None)) == (
        "100 %",
        "99.999 %",
        "98 %",
        "0 %",
        "unknown",
    )


@pytest.mark.unit
def test_buckets() -> None:
    """A point is never shorter than two periods of the slowest pass, so that a point without a row is a gap."""
    passes = [PassRecord("health", None, BEGUN, period_s) for period_s in (5.0, 60.0, None)]
    assert (longest_s(passes), longest_s(passes[:1]), longest_s([])) == (60, 5, 60)
    assert [buckets(since, 60) for since in (60, 600, 7200, 86_400)] == [1, 5, 60, 144]
    assert buckets(600, 5) == 60


@pytest.mark.unit
def test_spans() -> None:
    """A timeline shows the worst of each of its parts; what no run covers is unknown."""

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
    """Each shard is a pass of its own that tells of the same maintenance; what is not drawn is counted."""

    def series(
        metric: str, tags: dict[str, str], service: str = "ops_worker", points: int = 2
    ) -> Series:
        buckets = {number: Bucket(1.0, 1.0) for number in range(1, points + 1)}
        return Series(
            service, metric, tags, buckets, BEGUN, BEGUN + timedelta(seconds=240), counts=False
        )

    shards = [{"pass": "health", "period_s": "60", "shard": f"{number}/2"} for number in (0, 1)]
    told = [series("maintenance", tags) for tags in shards]
    drawn = [series("free_bytes", {"disk": str(number)}, "store") for number in range(63)]
    found = [*told, *drawn, series("used", {}, "store", points=1)]
    targets = [Target("database", "http://localhost", "db", None)]
    chosen = wanted(found, targets)
    assert [(key.service, name) for key, name in chosen] == [
        ("db", "metrics"),
        ("ops_worker", "health"),
        ("ops_worker", "health"),
    ]

    def at(minute: float) -> datetime:
        return BEGUN + timedelta(minutes=minute)

    lasts = lasting(
        chosen,
        [
            [],
            [Run(True, at(1), at(3)), Run(False, at(4), at(8)), Run(True, at(8), at(9))],
            [Run(True, at(2), at(4))],
        ],
        targets,
    )
    assert [*lasts] == [[("database", [])], [Run(True, at(1), at(4)), Run(True, at(8), at(9))]]
    ran = {"pass": "health", "shard": "0/2", "first": at(0), "recorded": 2, "missed": 3}
    page = build(
        Facts(
            at(10),
            600,
            [],
            [],
            [PassRecord("health", f"{number}/2", at(8), 60) for number in (0, 1)],
            [
                ran | {"last": at(8)},
                ran | {"shard": "1/2", "last": at(5)},
                ran | {"shard": None, "last": at(1)},
            ],
            found,
            {},
        ),
        5,
        lasts,
        [],
        targets,
    )
    assert [(one.name, one.recorded, one.missed, one.stopped_s) for one in page.passes] == [
        ("health 0/2", 2, 3, 0), ("health 1/2", 2, 3, 300), ("health", 2, 3, 0), ("metrics", 0, 0, 600)
    ], "nobody waits for one that is no shard now"  # fmt: skip
    assert (len(page.charts), page.left_out, page.charts[0].unit, page.charts[0].means) == (
        60,
        4,
        "bytes",
        [1.0, 1.0, None, None, None],
    )
    assert (page.services[0].available, page.services[0].coverage, page.services[0].unknown_s) == (
        None,
        0,
        600,
    )


@pytest.mark.unit
def test_announced() -> None:
    """A maintenance that was started again and again is one, by the same person for the same reason; another is another."""

    def row(first: float, last: float, by: str, ended_by: str | None = None) -> dict[str, Any]:
        begun, ended = (BEGUN + timedelta(minutes=minute) for minute in (first, last))
        return {
            "begun": begun,
            "ended": ended,
            "started_by": by,
            "ended_by": ended_by,
            "reason": "racks\n",
        }

    rows = [row(0, 1, "kim", "kim"), row(1, 3, "kim"), row(3, 4, "lee", "max"), row(5, 6, "lee")]
    assert [((one.ended - one.begun).total_seconds(), *one[2:]) for one in announced(rows)] == [
        (180, "kim", "", "racks"),
        (60, "lee", "max", "racks"),
        (60, "lee", "", "racks"),
    ]
