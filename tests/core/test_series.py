from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.catalogue import FIGURES
from ops_worker.core.model import Counter, Reading, Sample, State, Target, Verdict
from ops_worker.core.series import figure_samples, number, service_samples

pytestmark = pytest.mark.unit

TARGET = Target("delivery_worker", "http://x/health", "delivery", (Counter("depth", fallback="pending"), Counter("sent")))
HEALTHY = Sample("delivery", "healthy", 1.0)


def taken(counters: Any) -> tuple[dict[str, float], list[str]]:
    """Give the samples of a healthy service with these counters, by metric, and the warnings."""
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
    """Counters become doubles, an absent one 0, and the fallback's key counts where the counter's own is absent."""
    assert (expected, []) == taken(counters)


@pytest.mark.parametrize(
    ("odd", "shown"),
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
def test_service_samples_bad_counter(odd: Any, shown: str) -> None:
    """A counter that is no finite number costs its own row, with a warning, and no other."""
    assert ({"sent": 4.0}, [f"delivery.depth not recorded: {shown} is no finite number"]) == taken({"depth": odd, "sent": 4})


@pytest.mark.parametrize(("odd", "shown"), [(None, "null"), ([1], "an array"), ("x", "'x'"), (5, "5")])
def test_service_samples_bad_counters(odd: Any, shown: str) -> None:
    """Counters that are no object are none at all; the service is healthy all the same."""
    assert ({}, [f"delivery: counters not recorded: {shown} is no object"]) == taken(odd)


def test_service_samples_unhealthy() -> None:
    """An unhealthy service has the one row that says so."""
    assert ([Sample("delivery", "healthy", 0.0)], []) == service_samples(Verdict(TARGET, 0.0, State.DOWN, "Connection refused"))


def test_figure_samples() -> None:
    """A figure that could not be taken is left out with a warning, one whose table is not there without; never 0."""
    connections, size, online, *_ = FIGURES
    readings = [
        Reading(connections, 3.0),
        Reading(size, problem="took more than 2000 ms"),
        Reading(online, problem="no table", absent=True),
    ]
    assert figure_samples(readings) == (
        [Sample("postgres", "connections", 3.0), Sample("postgres", "healthy", 1.0)],
        ["postgres.db_size_bytes not recorded: took more than 2000 ms"],
    )


def test_figure_samples_none() -> None:
    """A database that answered no figure is not healthy."""
    assert figure_samples([Reading(FIGURES[0], problem="x")])[0] == [Sample("postgres", "healthy", 0.0)]


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))
def test_number_is_total(value: Any) -> None:
    """Any value is a finite double or none."""
    found = number(value)
    assert found is None or (isinstance(found, float) and abs(found) < float("inf"))
