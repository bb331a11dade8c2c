"""Statuses of a healthy answer: how the catalogue writes them, and how they are shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.statuses import FIRST, LAST, expand, format_statuses

pytestmark = pytest.mark.unit

ITEMS = [
    (200, (200, 200)),
    ("304", (304, 304)),
    ("2xx", (200, 299)),
    ("5XX", (500, 599)),
    ("200-299", (200, 299)),
    ("200-499", (200, 499)),
    ("404-404", (404, 404)),
]


@pytest.mark.parametrize(("item", "bounds"), ITEMS)
def test_expand(item: Any, bounds: tuple[int, int]) -> None:
    """A number, a class and a range expand to their statuses, both ends included."""
    assert [*expand(item)] == [*range(bounds[0], bounds[1] + 1)]


BAD: list[Any] = [
    True, 200.0, None, [], 199, 600, -200, "", "1xx", "6xx", "2x", "2xxx", "xx", "x", "20",
    "200-", "-200", "299-200", "200-600", "100-200", "200 - 299", "2xx-3xx", "200\n", "٢٠٠",
    "2000", "200,201", 10**4000,
]  # fmt: skip


@pytest.mark.parametrize("item", BAD, ids=lambda item: repr(item)[:20])
def test_bad(item: Any) -> None:
    """Everything else raises ValueError, which the catalogue expects."""
    with pytest.raises(ValueError, match=r"not a status|an empty range|integer string"):
        expand(item)


SHOWN = [
    ([200], "200"),
    ([204, 200, 204], "200, 204"),
    ([200, 201], "200, 201"),
    ([200, 201, 202], "200-202"),
    (range(200, 300), "2xx"),
    ([*range(200, 300), 304], "2xx, 304"),
    (range(200, 400), "2xx, 3xx"),
    (range(200, 500), "2xx, 3xx, 4xx"),
    (range(200, 450), "2xx, 3xx, 400-449"),
    (range(250, 400), "250-299, 3xx"),
    (range(298, 400), "298, 299, 3xx"),
    (range(250, 350), "250-349"),
    (range(201, 300), "201-299"),
    ([], ""),
]


@pytest.mark.parametrize(("statuses", "text"), SHOWN)
def test_format(statuses: Any, text: str) -> None:
    """A whole class is shown as a class, three or more statuses in a row as a range."""
    assert format_statuses(statuses) == text


@given(st.sets(st.integers(FIRST, LAST)))
def test_shown_can_be_written(statuses: set[int]) -> None:
    """The shown text has the syntax of the catalogue, and means the same statuses."""
    items = [item for item in format_statuses(statuses).split(", ") if item]
    assert [status for item in items for status in expand(item)] == sorted(statuses)
