"""Sights of passes while the ledger could not be written."""

from __future__ import annotations

import json
import random
import zlib
from datetime import UTC, datetime, timedelta

import pytest

from ops_worker.core.ledger import Sight, Sighting
from ops_worker.core.model import State, Target, Verdict
from ops_worker.core.sightings import ENTRY_BYTES, PendingSighting, Sightings, pending_sighting

pytestmark = pytest.mark.unit


def entry_of(begun: float, *states: str) -> PendingSighting:
    """Return a pass that saw services in these states, a second after it began."""
    services = tuple(
        (f"s{number}", 1.0, state, "" if state == "healthy" else state, f"text {begun}")
        for number, state in enumerate(states)
    )
    return PendingSighting(begun, services, 60.0, "c")


def contents(sightings: Sightings) -> list[tuple[float, list[str], list[str]]]:
    """Return when the waiting passes began, with the states and the texts that they saw."""
    return [
        (entry.begun, [row[2] for row in entry.services], [row[4] for row in entry.services])
        for _, entry in sightings.waiting()
    ]


def test_order() -> None:
    """Entries are returned oldest first. The text of a reason is that of its first pass."""
    sightings = Sightings()
    sightings.add(entry_of(0, "healthy", "down"))
    sightings.add(entry_of(60, "healthy", "down"))
    sightings.add(entry_of(120, "healthy", "healthy"))
    assert contents(sightings) == [
        (0, ["healthy", "down"], ["text 0", "text 0"]),
        (60, ["healthy", "down"], ["text 0", "text 0"]),
        (120, ["healthy", "healthy"], ["text 120", "text 120"]),
    ]


def test_without_services() -> None:
    """A pass without services waits, too. It has no observation whose time could be kept."""
    sightings = Sightings()
    sightings.add(entry_of(0))
    sightings.add(entry_of(60))
    assert contents(sightings) == [(0, [], []), (60, [], [])]


def test_discard() -> None:
    """Entries that the ledger has are removed. The next entry is still complete."""
    sightings = Sightings()
    numbers = [sightings.add(entry_of(second, "down")) for second in (0, 60, 120)]
    sightings.discard(numbers[1])
    assert contents(sightings) == [(120, ["down"], ["text 0"])]
    sightings.discard(numbers[2])
    assert len(sightings) == 0
    sightings.discard(numbers[2])
    sightings.add(entry_of(180, "down"))
    assert contents(sightings) == [(180, ["down"], ["text 180"])]


def test_withdraw() -> None:
    """Only the newest entry is taken back, and the next one does not refer to it."""
    sightings = Sightings()
    first = sightings.add(entry_of(0, "healthy"))
    second = sightings.add(entry_of(60, "down"))
    sightings.withdraw(first)
    assert len(sightings) == 2
    sightings.withdraw(second)
    sightings.add(entry_of(120, "down"))
    assert contents(sightings) == [
        (0, ["healthy"], ["text 0"]),
        (120, ["down"], ["text 120"]),
    ]


def test_withdrawn_bytes() -> None:
    """An entry that was taken back uses no memory. The memory of the others does not change."""
    sightings = Sightings(limit_bytes=ENTRY_BYTES * 3 + 1000)
    large = PendingSighting(
        0, (("s", 1.0, "down", "x", random.Random(1).randbytes(450).hex()),), 60.0, "c"
    )
    sightings.add(large)
    for second in range(60, 6000, 60):
        sightings.withdraw(sightings.add(entry_of(second, "down")))
    sightings.add(entry_of(6000, "down"))
    assert [begun for begun, _, _ in contents(sightings)] == [0, 6000]
    sightings.withdraw(sightings.add(entry_of(6060, "healthy")))
    sightings.add(large._replace(begun=6120))
    assert [begun for begun, _, _ in contents(sightings)] == [6000, 6120]


def test_withdraw_of_many() -> None:
    """The newest of three entries is taken back."""
    sightings = Sightings()
    numbers = [sightings.add(entry_of(second, "down")) for second in (0, 60, 120)]
    sightings.withdraw(numbers[-1])
    assert [begun for begun, _, _ in contents(sightings)] == [0, 60]


def test_limits() -> None:
    """The oldest entries are dropped when there are too many, or when they are too large."""
    few = Sightings(limit=2)
    for second in (0, 60, 120):
        few.add(entry_of(second, "down"))
    assert [begun for begun, _, _ in contents(few)] == [60, 120]
    small = Sightings(limit_bytes=ENTRY_BYTES * 2 + 100)
    for second in range(0, 600, 60):
        small.add(entry_of(second, *("down" if second % 120 else "healthy" for _ in range(3))))
    assert [begun for begun, _, _ in contents(small)] == [540], "one always fits"


def test_quicker_pass() -> None:
    """A pass that saw the same as the one before has its own first and last observation."""

    def pass_of(begun: float, *offsets: float) -> PendingSighting:
        rows = tuple((f"s{place}", offset, "down", "x", "") for place, offset in enumerate(offsets))
        return PendingSighting(begun, rows, 60.0, "c")

    sightings = Sightings()
    sightings.add(pass_of(0, 1.0, 5.0, 3.0))
    sightings.add(pass_of(60, 0.1, 0.3, 0.2))
    sightings.add(pass_of(120, 0.5, 0.5, 0.5))
    sightings.add(pass_of(180, 2.0, 4.0, 2.5))
    times = [[row[1] for row in entry.services] for _, entry in sightings.waiting()]
    assert times[0] == [1.0, 5.0, 3.0]
    assert times[1] == pytest.approx([0.1, 0.3, 0.2])
    assert times[2] == [0.5, 0.5, 0.5]
    assert times[3] == pytest.approx([2.0, 4.0, 3.0])


def test_times() -> None:
    """A verdict becomes a sight with a time of the database's clock."""
    begun = datetime(2026, 3, 1, tzinfo=UTC)
    target = Target("a", "http://a", "a", ())
    verdict = Verdict(target, 102.5, State.DOWN, "connection refused", reason_class="refused")
    entry = pending_sighting([verdict], 100.0, 60.0, "c")
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


def packed(entry: PendingSighting) -> bytes:
    """Return what a complete entry keeps of the services."""
    rows = [(row[0], round(row[1], 6), *row[2:]) for row in entry.services]
    return zlib.compress(json.dumps(rows).encode(), 1)


def size(entries: list[tuple[PendingSighting, bytes]]) -> int:
    """Return the bytes that entries use."""
    return sum(ENTRY_BYTES + len(services) for _, services in entries)


def drop_oldest(entries: list[tuple[PendingSighting, bytes]]) -> None:
    """Remove the oldest entry. If the next one has no services, it takes over those."""
    _, services = entries.pop(0)
    if entries and not entries[0][1]:
        entries[0] = (entries[0][0], services)


@pytest.mark.parametrize("number", range(20))
def test_bytes(number: int) -> None:
    """After any additions, withdrawals and removals, the entries that fit the limit are kept."""
    chance = random.Random(number)
    limit = chance.choice([ENTRY_BYTES * 2 + 60, 1000, 1500])
    sightings = Sightings(limit_bytes=limit)
    entries: list[tuple[PendingSighting, bytes]] = []
    numbers: list[int] = []
    is_complete = True
    for second in range(300):
        entry = entry_of(second, *chance.choice([("down",), ("healthy",), ("down", "degraded")]))
        states = [row[2:4] for row in entry.services]
        is_same = (
            bool(entries)
            and not is_complete
            and states == [row[2:4] for row in entries[-1][0].services]
        )
        numbers.append(sightings.add(entry))
        entries.append((entry, b"" if is_same else packed(entry)))
        is_complete = False
        while len(entries) > 1 and size(entries) > limit:
            drop_oldest(entries)
        if chance.random() < 0.2:
            sightings.withdraw(numbers.pop())
            entries.pop()
            is_complete = True
        if chance.random() < 0.1 and len(entries) > 1:
            sightings.discard(numbers[-len(entries)])
            drop_oldest(entries)
        assert [begun for begun, _, _ in contents(sightings)] == [
            entry.begun for entry, _ in entries
        ]


def test_exact_limit() -> None:
    """Entries that use exactly the limit are kept. One entry is always kept."""
    entries = [entry_of(0, "down"), entry_of(60, "healthy")]
    exact = sum(ENTRY_BYTES + len(packed(entry)) for entry in entries)
    for limit, count in ((exact, 2), (exact - 1, 1), (1, 1)):
        sightings = Sightings(limit_bytes=limit)
        for entry in entries:
            sightings.add(entry)
        assert len(sightings) == count


@pytest.mark.parametrize(
    "other",
    [
        ("t", 1.0, "down", "refused", "text"),  # another service
        ("s", 1.0, "degraded", "refused", "text"),  # another state
        ("s", 1.0, "down", "reset", "text"),  # another class
    ],
)
def test_another_sight(other: tuple[str, float, str, str, str]) -> None:
    """A pass with other sights than the pass before is kept completely."""
    sightings = Sightings()
    rows = [("s", 1.0, "down", "refused", "text"), other]
    for begun, row in enumerate(rows):
        sightings.add(PendingSighting(begun, (row,), 60.0, "c"))
    assert [entry.services for _, entry in sightings.waiting()] == [(row,) for row in rows]


def test_microseconds() -> None:
    """The time of an observation is kept to the microsecond, as the database does."""
    sightings = Sightings()
    sightings.add(PendingSighting(0, (("s", 1.23456789, "down", "x", "text"),), 60.0, "c"))
    ((_, entry),) = sightings.waiting()
    assert entry.services[0][1] == 1.234568
