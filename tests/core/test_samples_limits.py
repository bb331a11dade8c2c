"""The limits of samples, exactly at their edges, and when two rows have the same series."""

from __future__ import annotations

from typing import Any

import pytest

from ops_worker.core.model import Counter, Figure, Reading, Sample, State, Target, Verdict
from ops_worker.core.samples import (
    certificate_samples,
    distinct,
    figure_samples,
    latency_samples,
    number,
    samples_of,
    self_metrics,
    service_samples,
)

pytestmark = pytest.mark.unit

FIGURE = Figure("postgres", "size", "SELECT 1", tags={"a": 1})
TARGET = Target("delivery_worker", "http://x/", "delivery", None, tags={"site": "b"})


def verdict(counters: Any, target: Target = TARGET) -> Verdict:
    """Return a healthy service that reports these counters."""
    return Verdict(target=target, taken_at=0.0, state=State.HEALTHY, counters=counters)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (1, "row 0 is bad"),
        (2, "row 0 is bad; row 1 is bad"),
        (10, "; ".join(f"row {place} is bad" for place in range(10))),
        (11, "; ".join(f"row {place} is bad" for place in range(10)) + "; and 1 more"),
        (13, "; ".join(f"row {place} is bad" for place in range(10)) + "; and 3 more"),
    ],
)
def test_ten_faults(rows: int, text: str) -> None:
    """A warning lists 10 bad rows and counts the others."""
    faults = tuple(f"row {place} is bad" for place in range(rows))
    _, warnings = figure_samples([Reading(FIGURE, faults=faults)])
    (warning,) = warnings
    assert warning.endswith(f": {text}")
    assert f" {rows} " in warning


@pytest.mark.parametrize(
    ("every_s", "period_s", "took_s", "warned"),
    [
        (0.0, 10.0, 1.0, False),
        (0.0, 10.0, 1.01, True),
        (100.0, 10.0, 10.0, False),
        (100.0, 10.0, 10.01, True),
    ],
)
def test_slow_figure(every_s: float, period_s: float, took_s: float, warned: bool) -> None:
    """More than a tenth of the interval is too slow.

    The interval of the figure wins over the period of the pass.
    """
    reading = Reading(FIGURE._replace(every_s=every_s), took_s=took_s)
    _, warnings = figure_samples([reading], period_s)
    assert bool(warnings) == warned


@pytest.mark.parametrize(("count", "is_recorded"), [(1, True), (1000, True), (1001, False)])
def test_thousand_rows(count: int, is_recorded: bool) -> None:
    """A figure may return 1,000 rows."""
    rows = [{"value": 1, "service": f"s{place}"} for place in range(count)]
    if is_recorded:
        samples, faults = samples_of(FIGURE, ["value", "service"], rows)
        assert (len(samples), faults) == (count, ())
    else:
        with pytest.raises(ValueError, match=r"more than 1000 rows"):
            samples_of(FIGURE, ["value", "service"], rows)


@pytest.mark.parametrize(("count", "recorded"), [(1, 1), (199, 199), (200, 200), (201, 200)])
def test_two_hundred_counters(count: int, recorded: int) -> None:
    """At most 200 counters of a service without listed counters are recorded.

    If there are more, a warning says so.
    """
    samples, warnings = service_samples(verdict({f"c{place}": place for place in range(count)}))
    assert len(samples) == recorded + 1
    assert len(warnings) == (count > 200)


def test_one_row() -> None:
    """Without a column `service`, the sample is of the figure's own series and has its tags."""
    samples, faults = samples_of(FIGURE, ["value"], [{"value": 3}])
    assert samples == (Sample("postgres", "size", 3.0, {"a": 1}),)
    assert faults == ()


def test_series_of_a_service() -> None:
    """Every sample of a service has its series and its tags."""
    named = TARGET._replace(counters=(Counter("jobs"), Counter("failed", ("errors", "failed"))))
    samples, _ = service_samples(verdict({"jobs": 2, "failed": 1}, named))
    assert samples == [
        Sample("delivery", "jobs", 2.0, {"site": "b"}),
        Sample("delivery", "failed", 1.0, {"site": "b"}),
        Sample("delivery", "healthy", 1.0, {"site": "b"}),
    ]


def test_same_series_in_a_figure() -> None:
    """Two rows have the same series if service and tags are equal, in any order of the tags."""
    rows = [
        {"value": 1, "service": "s", "tags": {"x": 1, "y": 2}},
        {"value": 2, "service": "s", "tags": {"x": 1, "y": 3}},
        {"value": 3, "service": "s", "tags": {"y": 2, "x": 1}},
        {"value": 4, "service": "t", "tags": {"x": 1, "y": 2}},
    ]
    samples, faults = samples_of(FIGURE, ["value", "service", "tags"], rows)
    assert [sample.value for sample in samples] == [1.0, 2.0, 4.0]
    (fault,) = faults
    assert fault.startswith("row 3 (s{x=1,y=2})")


def test_same_series_in_a_pass() -> None:
    """The first row of a series counts. Other values of tags are another series.

    Another order of the tags is the same series.
    """
    first = Sample("s", "m", 1.0, {"x": 1, "y": 2})
    other = Sample("s", "m", 2.0, {"x": 2, "y": 2})
    again = Sample("s", "m", 3.0, {"y": 2, "x": 1})
    bare = Sample("s", "m", 4.0)
    bare_again = Sample("s", "m", 5.0, {})
    (part,) = distinct([([first, other, again, bare, bare_again], [])])
    assert part[0] == [first, other, bare]
    (warning,) = part[1]
    assert "(such rows: 2)" in warning


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x" * 38, repr("x" * 38)),  # with its quotes 40 characters
        ("x" * 39, "'" + "x" * 36 + "..."),
        (None, "null"),
        ([1], "an array"),
        ({"a": 1}, "an object"),
    ],
)
def test_shown(value: Any, words: str) -> None:
    """A value that is no number is shown in at most 40 characters."""
    target = TARGET._replace(counters=(Counter("jobs"),))
    _, warnings = service_samples(verdict({"jobs": value}, target))
    (warning,) = warnings
    assert f": {words} is " in warning


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1.0),
        (0, 0.0),
        (-1.5, -1.5),
        (10**308, 1e308),
        (10**309, None),
        (float("nan"), None),
        (float("inf"), None),
        ("1", None),
        (None, None),
        ([], None),
    ],
)
def test_number(value: Any, expected: float | None) -> None:
    """A value that fits into a double is a number. Text is no number."""
    assert number(value) == expected


def test_self_metrics() -> None:
    """The self-metrics of a pass have its tags. `maintenance` is left out where it is not known."""
    down = Verdict(target=TARGET, taken_at=0.0, state=State.DOWN, reason="r")
    tags = {"period_s": "60"}
    metrics = self_metrics("health", [down, verdict({}), down], 0.25, tags, maintenance=True)
    assert {sample.metric: sample.value for sample in metrics} == {
        "pass_duration_ms": 250.0,
        "pass_success": 1.0,
        "services_unhealthy": 2.0,
        "maintenance": 1.0,
    }
    assert {sample.service for sample in metrics} == {"ops_worker"}
    assert [sample.tags for sample in metrics] == [{"pass": "health", "period_s": "60"}] * 4
    names = {sample.metric for sample in self_metrics("metrics", [], 0.1, tags)}
    assert "maintenance" not in names


@pytest.mark.parametrize(
    ("blind", "expected"),
    [
        (None, {"services_unhealthy": 1.0}),
        (False, {"services_unhealthy": 1.0, "blind": 0.0}),
        (True, {"blind": 1.0}),
    ],
)
def test_self_metrics_of_doubt(blind: bool | None, expected: dict[str, float]) -> None:
    """A blind pass does not know how many services are unhealthy. Without doubt, no pass is."""
    down = Verdict(target=TARGET, taken_at=0.0, state=State.DOWN, reason="r")
    metrics = {
        sample.metric: sample.value for sample in self_metrics("a", [down], 0, {}, blind=blind)
    }
    assert metrics == {"pass_duration_ms": 0.0, "pass_success": 1.0} | expected


def test_latency() -> None:
    """Only a service that answered has a latency."""
    answered = verdict({})._replace(latency_ms=7)
    assert latency_samples([answered, verdict({})]) == [
        Sample("delivery", "probe_latency_ms", 7.0, {"site": "b"})
    ]


def test_certificates() -> None:
    """Only a service whose certificate was read has days left."""
    ended = verdict({})._replace(certificate_days_left=-2)
    assert certificate_samples([ended, verdict({})]) == [
        Sample("delivery", "certificate_days_left", -2.0, {"site": "b"})
    ]
