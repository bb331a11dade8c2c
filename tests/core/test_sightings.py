"""What passes saw while the ledger could not be written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ops_worker.core.ledger import Sight, Sighting
from ops_worker.core.model import State, Target, Verdict
from ops_worker.core.sightings import ENTRY_BYTES, Seen, Sightings, seen_by_pass

pytestmark = pytest.mark.unit


def seen(begun: float, *states: str) -> Seen:
    """Return a pass that saw services in these states, a second after it began."""
    services = tuple(
        (f"s{number}", 1.0, state, "" if state == "healthy" else state, f"text {begun}")
        for number, state in enumerate(states)
    )
    return Seen(begun, services, 60.0, "c")


def contents(sightings: Sightings) -> list[tuple[float, list[str], list[str]]]:
    """Return when the waiting passes began, with the states and the texts that they saw."""
    return [
        (each.begun, [row[2] for row in each.services], [row[4] for row in each.services])
        for _, each in sightings.waiting()
    ]


def test_order() -> None:
    """Entries come back oldest first; the text of a reason is that of the first pass with it."""
    sightings = Sightings()
    sightings.add(seen(0, "healthy", "down"))
    sightings.add(seen(60, "healthy", "down"))
    sightings.add(seen(120, "healthy", "healthy"))
    assert contents(sightings) == [
        (0, ["healthy", "down"], ["text 0", "text 0"]),
        (60, ["healthy", "down"], ["text 0", "text 0"]),
        (120, ["healthy", "healthy"], ["text 120", "text 120"]),
    ]


def test_discard() -> None:
    """Entries that the ledger has are removed; the next one is complete all the same."""
    sightings = Sightings()
    numbers = [sightings.add(seen(second, "down")) for second in (0, 60, 120)]
    sightings.discard(numbers[1])
    assert contents(sightings) == [(120, ["down"], ["text 0"])]
    sightings.discard(numbers[2])
    assert len(sightings) == 0
    sightings.discard(numbers[2])
    sightings.add(seen(180, "down"))
    assert contents(sightings) == [(180, ["down"], ["text 180"])]


def test_withdraw() -> None:
    """Only the newest entry is taken back, and the next one does not refer to it."""
    sightings = Sightings()
    first = sightings.add(seen(0, "healthy"))
    second = sightings.add(seen(60, "down"))
    sightings.withdraw(first)
    assert len(sightings) == 2
    sightings.withdraw(second)
    sightings.add(seen(120, "down"))
    assert contents(sightings) == [
        (0, ["healthy"], ["text 0"]),
        (120, ["down"], ["text 120"]),
    ]


def test_limits() -> None:
    """The oldest entries are dropped when there are too many, or when they are too large."""
    few = Sightings(limit=2)
    for second in (0, 60, 120):
        few.add(seen(second, "down"))
    assert [begun for begun, _, _ in contents(few)] == [60, 120]
    small = Sightings(limit_bytes=ENTRY_BYTES * 2 + 100)
    for second in range(0, 600, 60):
        small.add(seen(second, *("down" if second % 120 else "healthy" for _ in range(3))))
    assert [begun for begun, _, _ in contents(small)] == [540], "one always fits"


def test_times() -> None:
    """A verdict becomes a sight with a time of the database's clock."""
    begun = datetime(2026, 3, 1, tzinfo=UTC)
    target = Target("a", "http://a", "a", ())
    verdict = Verdict(target, 102.5, State.DOWN, "connection refused", reason_class="refused")
    entry = seen_by_pass([verdict], 100.0, 60.0, "c")
    sightings = Sightings()
    sightings.add(entry)
    ((_, back),) = sightings.waiting()
    sighting = back.sighting(lambda moment: begun + timedelta(seconds=moment - 100.0))
    assert sighting == Sighting(
        begun,
        (Sight("a", begun + timedelta(seconds=2.5), "down", "refused", "connection refused"),),
        60.0,
        "c",
    )
