from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.cadence import Cadence

pytestmark = pytest.mark.unit


def test_aligned() -> None:
    """Slots begin at multiples of the interval since the epoch.

    The value of the monotonic clock makes no difference.
    """
    cadence = Cadence.aligned(5.0, monotonic=1000.0, calendar=1_700_000_003.0)
    assert [cadence.start_of(slot) for slot in (0, 1, 2)] == [997.0, 1002.0, 1007.0]
    assert [cadence.slot_at(moment) for moment in (996.9, 997.0, 1001.9, 1002.0)] == [-1, 0, 0, 1]


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [
        (0, 998.0, 1),
        (0, 1001.999, 1),
        (0, 1002.0, 2),
        (0, 1021.0, 5),
        (3, 998.0, 4),
    ],
    ids=[
        "in time",
        "just in time",
        "overrun",
        "a long stall: four are skipped",
        "a clock that stood still",
    ],
)
def test_after(last: int, now: float, expected: int) -> None:
    """The next slot is the first one that has not begun. Missed slots are skipped.

    No slot runs twice.
    """
    assert expected == Cadence(5.0, 997.0).after(last, now)


@given(st.floats(0.1, 1000), st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(0, 1000))
def test_after_is_in_the_future(
    interval_s: float, origin: float, elapsed: float, last: int
) -> None:
    """The next slot is always in the future.

    It is at most one interval away, unless the last slot is in the future as well.
    """
    cadence = Cadence(interval_s, origin)
    now = origin + elapsed
    slot = cadence.after(last, now)
    assert slot > last
    assert cadence.start_of(slot) > now - 1e-6
    assert slot == last + 1 or cadence.start_of(slot) <= now + interval_s + 1e-6
