from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.model import Counter, Figure, Reading, Sample, State, Target, Verdict
from ops_worker.core.samples import (
    counter_series,
    distinct,
    figure_samples,
    number,
    samples_of,
    service_samples,
)

pytestmark = pytest.mark.unit

TARGET = Target(
    "delivery_worker",
    "http://x/health",
    "delivery",
    (Counter("depth", ("depth", "pending")), Counter("sent")),
)
FIGURES = [
    Figure("postgres", "connections", ""),
    Figure("postgres", "db_size_bytes", ""),
    Figure("platform", "devices_online", ""),
]
HEALTHY = Sample("delivery", "healthy", 1.0)


def recorded(counters: Any) -> tuple[dict[str, float], list[str]]:
    """Return the samples of a healthy service with these counters, by metric, and the warnings."""
    samples, warnings = service_samples(Verdict(TARGET, 0.0, State.HEALTHY, counters=counters))
    assert samples[-1] == HEALTHY
    return {sample.metric: sample.value for sample in samples[:-1]}, warnings


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ({"depth": 3, "sent": 4}, {"depth": 3.0, "sent": 4.0}),
        ({}, {"depth": 0.0, "sent": 0.0}),
        ({"pending": 7}, {"depth": 7.0, "sent": 0.0}),
        ({"depth": 3, "pending": 7}, {"depth": 3.0, "sent": 0.0}),
        ({"depth": True, "sent": 1.5}, {"depth": 1.0, "sent": 1.5}),
        ({"depth": 2**53 + 1, "other": "x"}, {"depth": float(2**53), "sent": 0.0}),
    ],
)
def test_service_samples(counters: Any, expected: dict[str, float]) -> None:
    """Counters become doubles. An absent counter is 0.

    If the first key of a counter is absent, the fallback key counts.
    """
    assert (expected, []) == recorded(counters)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ("12", "'12'"),
        (None, "null"),
        ({}, "an object"),
        ([1], "an array"),
        (10**400, "1" + "0" * 36 + "..."),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_service_samples_bad_counter(odd: Any, words: str) -> None:
    """A counter that is not a finite number is left out, with a warning.

    The other counters are recorded.
    """
    assert (
        {"sent": 4.0},
        [f"delivery.depth not recorded: {words} is not a finite number"],
    ) == recorded({"depth": odd, "sent": 4})


@pytest.mark.parametrize(
    ("odd", "words"), [(None, "null"), ([1], "an array"), ("x", "'x'"), (5, "5")]
)
def test_service_samples_bad_counters(odd: Any, words: str) -> None:
    """If the counters are not an object, there are none. The service is still healthy."""
    assert ({}, [f"delivery: counters not recorded: {words} is not a JSON object"]) == recorded(odd)


def test_service_samples_unhealthy() -> None:
    """An unhealthy service has the one row that says so."""
    assert ([Sample("delivery", "healthy", 0.0)], []) == service_samples(
        Verdict(TARGET, 0.0, State.DOWN, "Connection refused")
    )


def test_figure_samples() -> None:
    """A figure that failed is left out, with a warning. It is never recorded as 0.

    An absent figure is left out without a warning.
    """
    connections, size, online = FIGURES
    readings = [
        Reading(connections, (Sample("postgres", "connections", 3.0),)),
        Reading(size, problem="took more than 2000 ms"),
        Reading(online, problem="no table", absent=True),
    ]
    assert figure_samples(readings) == (
        [Sample("postgres", "connections", 3.0), Sample("postgres", "healthy", 1.0)],
        ["postgres.db_size_bytes not recorded: took more than 2000 ms"],
    )


def test_figure_samples_none() -> None:
    """A database that answered no figure is not healthy."""
    assert figure_samples([Reading(FIGURES[0], problem="x")])[0] == [
        Sample("postgres", "healthy", 0.0)
    ]


def test_all_counters() -> None:
    """With an asterisk, every finite number is recorded, whatever its name, up to 200 counters."""
    target = TARGET._replace(counters=None, tags={"team": "a"})
    reported: dict[str, Any] = {"a": 1, "b\n": 2.5, "c": "x", "d": None, "e": True, "healthy": 0}
    samples, warnings = service_samples(Verdict(target, 0.0, State.HEALTHY, counters=reported))
    assert [(sample.metric, sample.value, sample.tags) for sample in samples] == [
        ("a", 1.0, {"team": "a"}),
        ("b", 2.5, {"team": "a"}),
        ("e", 1.0, {"team": "a"}),
        ("healthy", 1.0, {"team": "a"}),
    ]
    assert not warnings
    samples, warnings = service_samples(
        Verdict(target, 0.0, State.HEALTHY, counters={f"c{n}": n for n in range(300)})
    )
    assert len(samples) == 201
    assert warnings == [
        "delivery: 300 counters reported, only the first 200 recorded: "
        "list the counters to record in the catalogue"
    ]


def test_degraded_keeps_its_counters() -> None:
    """A service that breaks a condition keeps its counters, and is not healthy."""
    samples, warnings = service_samples(
        Verdict(TARGET, 0.0, State.DEGRADED, "x", 1, 200, {"sent": 4})
    )
    assert [(sample.metric, sample.value) for sample in samples] == [
        ("depth", 0.0),
        ("sent", 4.0),
        ("healthy", 0.0),
    ]
    assert not warnings


def test_distinct() -> None:
    """The first row of a series in a sample is kept. Rows of the worker's own series are not.

    The other rows are counted in a warning.
    """
    ours, twice = Sample("ops_worker", "pass_success", 1.0), Sample("ingest", "healthy", 0.0)
    tagged = [Sample("ingest", "healthy", 0.0, {"zone": [zone]}) for zone in ("a", "b", "a")]
    parts = [
        ([Sample("ingest", "healthy", 1.0)], ["before"]),
        ([ours, twice, twice, *tagged, Sample("x", "y", 2.0)], []),
    ]
    because = "the series is the worker's own, or already has a row in this sample"
    assert distinct(parts) == [
        ([Sample("ingest", "healthy", 1.0)], ["before"]),
        (
            [*tagged[:2], Sample("x", "y", 2.0)],
            [
                f"ops_worker.pass_success not recorded (such rows: 1): {because}",
                f"ingest.healthy not recorded (such rows: 3): {because}",
            ],
        ),
    ]


def test_all_counters_have_names_of_their_own() -> None:
    """Two keys that have the same name after cleaning are one counter.

    No counter takes the name of a metric that the worker records.
    """
    reported = {"a": 1, "a\n": 2, "healthy\n": 0, "probe_latency_ms": 9}
    samples, _ = service_samples(
        Verdict(TARGET._replace(counters=None), 0.0, State.HEALTHY, counters=reported)
    )
    assert [(sample.metric, sample.value) for sample in samples] == [("a", 1.0), ("healthy", 1.0)]


def test_figure_costs() -> None:
    """A figure that takes more than a tenth of its interval is a warning with a remedy.

    Without its own interval, the period of the pass counts. A failed figure is reported, too.
    """
    connections, size, online = FIGURES
    readings = [
        Reading(connections, took_s=0.6),
        Reading(size._replace(every_s=60.0), took_s=0.6),
        Reading(online, problem="took more than 2000 ms", took_s=2.0),
    ]
    todo = "set `every` in the catalogue, or see `ops-worker init-db --indexes`"
    assert figure_samples(readings, 5.0)[1] == [
        f"postgres.connections took 600 ms, 12% of its interval of 5 s: {todo}",
        "platform.devices_online not recorded: took more than 2000 ms",
        f"platform.devices_online took 2000 ms, 40% of its interval of 5 s: {todo}",
    ]


def test_figures_that_are_not_due() -> None:
    """A database is healthy if no figure was due. It is not healthy if it could not be asked."""
    healthy = [Sample("postgres", "healthy", 1.0)]
    assert figure_samples([Reading(FIGURES[0])])[0] == figure_samples([])[0] == healthy
    assert figure_samples(None)[0] == [Sample("postgres", "healthy", 0.0)]


def test_samples_of_rows() -> None:
    """Rows have their own service and tags. A number of any type becomes a double."""
    figure = FIGURES[0]._replace(tags={"a": "1"})
    rows: list[dict[str, Any]] = [
        {"service": "x", "value": Decimal("1.5"), "tags": {"b": 2}},
        {"service": 5, "value": 7, "tags": None},
    ]
    assert samples_of(figure, ["service", "value", "tags"], rows) == (
        (
            Sample("x", "connections", 1.5, {"a": "1", "b": 2}),
            Sample("5", "connections", 7.0, {"a": "1"}),
        ),
        (),
    )
    assert samples_of(figure, ["service", "value"], []) == ((), ())


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"service": "a", "value": None}, "row 2 (a) returns null, which is not a finite number"),
    (
        {"service": "a", "value": float("nan"), "tags": {"t": 1}},
        "row 2 (a{t=1}) returns nan, which is not a finite number",
    ),
    (
        {"service": "a", "value": Decimal("NaN")},
        "row 2 (a) returns nan, which is not a finite number",
    ),
    (
        {"service": "a", "value": Decimal("Infinity")},
        "row 2 (a) returns inf, which is not a finite number",
    ),
    (
        {"service": "a", "value": float("-inf")},
        "row 2 (a) returns -inf, which is not a finite number",
    ),
    (
        {"service": "a", "value": 10**400},
        "row 2 (a) returns 1000000000000000000000000000000000000..., which is not a finite number",
    ),
    ({"service": "a", "value": "12"}, "row 2 (a) returns '12', which is not a finite number"),
    (
        {"service": "a\n", "value": 1, "tags": [1]},
        "row 2 (a {[1]}) returns `tags` that are not a JSON object",
    ),
    (
        {"service": "a", "value": 1, "tags": "x"},
        'row 2 (a{"x"}) returns `tags` that are not a JSON object',
    ),
    ({"service": None, "value": 1}, "row 2 has no `service`"),
    ({"service": "", "value": 1, "tags": {"t": 1}}, "row 2 ({t=1}) has no `service`"),
    (
        {"service": "first", "value": 9, "tags": {}},
        "row 2 (first) has the `service` and `tags` of an earlier row",
    ),
]


@pytest.mark.parametrize(("row", "fault"), BAD_ROWS, ids=[fault for _, fault in BAD_ROWS])
def test_a_bad_row_costs_itself(row: dict[str, Any], fault: str) -> None:
    """A bad row is left out, and a warning names it. The other rows are recorded."""
    rows = [{"service": "first", "value": 1}, row, {"service": "last", "value": 2}]
    samples, faults = samples_of(FIGURES[0], ["service", "value", "tags"], rows)
    assert [(sample.service, sample.value) for sample in samples] == [("first", 1.0), ("last", 2.0)]
    assert faults == (fault,)
    all_samples, warnings = figure_samples([Reading(FIGURES[0], samples, faults=faults)])
    assert warnings == [f"postgres.connections: 1 of its rows not recorded: {fault}"]
    assert all_samples[-1] == Sample("postgres", "healthy", 1.0)


def test_many_bad_rows() -> None:
    """All bad rows are in one warning, which names the first ones."""
    samples, faults = samples_of(
        FIGURES[0], ["service", "value"], [{"service": f"s{n}", "value": None} for n in range(13)]
    )
    assert samples == () and len(faults) == 13
    (warning,) = figure_samples([Reading(FIGURES[0], samples, faults=faults)])[1]
    assert warning.startswith(
        "postgres.connections: 13 of its rows not recorded: row 1 (s0) returns null, "
    )
    assert warning.endswith("row 10 (s9) returns null, which is not a finite number; and 3 more")


@pytest.mark.parametrize(
    ("columns", "rows", "problem"),
    [
        (
            ["count"],
            [{"count": 1}],
            "returns count; it must return `value`, or rows of `service`, `value` and `tags`",
        ),
        (["value", "x"], [], "returns value, x; it must"),
        (["value"], [], "returns no rows; without a column `service` it must return exactly one"),
        (["value"], [{"value": 1}] * 2, "returns 2 rows; without"),
        (["service", "value"], [{"value": 1}] * 1001, "returns more than 1000 rows"),
        (["value"], [{"value": Decimal("1e400")}], "returns inf, which is not a finite number"),
        (
            ["value", "tags"],
            [{"value": 1, "tags": [1]}],
            "returns `tags` that are not a JSON object",
        ),
    ],
)
def test_samples_of_bad_rows(columns: list[str], rows: list[dict[str, Any]], problem: str) -> None:
    """Rows that are no samples raise an error that says what they are."""
    with pytest.raises(ValueError, match=re.escape(problem)):
        samples_of(FIGURES[0], columns, rows)


@given(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
)
def test_number_is_total(value: Any) -> None:
    """Any value becomes a finite double or None."""
    converted = number(value)
    assert converted is None or (isinstance(converted, float) and abs(converted) < float("inf"))


def test_counter_series() -> None:
    """Counters are listed, or all metrics of a service whose counters are not listed."""
    listed = Target("a", "", "a", (Counter("c", ()), Counter("g", (), gauge=True)))
    series = counter_series([listed, Target("b", "", "b", None)])
    assert series.includes("a", "c")
    assert not series.includes("a", "g")
    assert series.includes("b", "anything")
    assert not series.includes("b", "healthy")
    assert not series.includes("c", "c")
