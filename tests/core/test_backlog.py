from __future__ import annotations

import json
import random

import pytest

from ops_worker.core.backlog import MEBIBYTE, Backlog, Packed, Pending, pack
from ops_worker.core.model import Sample

pytestmark = pytest.mark.unit


def pending(number: int, rows: int = 1) -> Pending:
    """Return a pass that began at this moment, with this number of rows."""
    return Pending(float(number), tuple(Sample("a", f"m{row}", float(row)) for row in range(rows)))


def moments(entries: tuple[Packed, ...]) -> list[float]:
    """Return the moments of entries."""
    return [entry.moment for entry in entries]


def filled(count: int, limit: int = 100) -> tuple[Backlog, list[Packed]]:
    """Return a backlog in which this number of passes wait, and its entries."""
    backlog = Backlog(limit)
    return backlog, [backlog.add(pending(number)) for number in range(count)]


def test_packed_is_the_same() -> None:
    """Compressing loses nothing: the documents are those of the samples, with tags."""
    unpacked = Pending(1.0, (Sample("a", "b", 1.5, {"x": 1}), Sample("a", "é", -0.1)))
    packed = pack(unpacked)
    assert [json.loads(text) for text in packed.documents] == [
        [
            {"service": "a", "metric": "b", "value": 1.5, "tags": {"x": 1}},
            {"service": "a", "metric": "é", "value": -0.1, "tags": {}},
        ]
    ]
    assert list(packed.documents) == list(unpacked.documents)
    assert (packed.moment, packed.rows) == (1.0, 2)


def test_documents_are_bounded() -> None:
    """A pass with very many rows makes several documents, in order."""
    documents = [json.loads(text) for text in pending(0, 45_000).documents]
    assert len(documents) > 5
    assert max(len(rows) for rows in documents) <= 5_000
    assert [row["value"] for rows in documents for row in rows] == list(range(45_000))


def test_limit_of_passes() -> None:
    """On overflow, the oldest entry is dropped and counted."""
    backlog, entries = filled(4, limit=2)
    assert backlog.next_slice() == (entries[2], entries[3])
    assert (len(backlog), backlog.dropped) == (2, 2)


def test_limit_of_bytes() -> None:
    """The memory of waiting samples is bounded in bytes. The newest sample is always kept."""
    chance = random.Random(1)
    noise = tuple(Sample("a", f"m{row}", chance.random()) for row in range(2_000))
    backlog = Backlog(1_000, limit_bytes=MEBIBYTE)
    for number in range(100):
        backlog.add(Pending(float(number), noise))
        assert backlog.size <= MEBIBYTE
    assert backlog.dropped == 100 - len(backlog) > 0
    assert moments(backlog.next_slice())[0] == float(backlog.dropped), "the newest are kept"
    tiny = Backlog(1_000, limit_bytes=1)
    tiny.add(pending(0))
    tiny.add(pending(1))
    assert moments(tiny.next_slice()) == [1.0]


def test_a_day_of_counters_fits() -> None:
    """100 services of 200 counters are compressed so far that 90 samples fit into the default."""
    chance = random.Random(2)
    backlog = Backlog(3_600)
    values = [chance.randrange(10**7) for _ in range(20_000)]
    for second in range(2):
        rows = tuple(
            Sample(f"service-{row // 200}", f"counter_{row % 200}", float(value + 17 * second))
            for row, value in enumerate(values)
        )
        backlog.add(Pending(float(second), rows))
    assert backlog.size / 2 * 90 < 32 * MEBIBYTE


def test_slices_are_bounded() -> None:
    """A slice has at most 64 entries and 40,000 rows, but always one entry."""
    backlog, entries = filled(70)
    assert backlog.next_slice() == tuple(entries[:64])
    large = Backlog(100)
    for number in range(3):
        large.add(pending(number, 30_000))
    assert moments(large.next_slice()) == [0.0]


def test_slices_shrink_and_grow() -> None:
    """A refused slice halves the next slice. A written one doubles it."""
    backlog, _ = filled(70)
    sizes = []
    for failed in (64, 32, 16, 8, 4, 2):
        backlog.shrink_slice(failed)
        sizes.append(len(backlog.next_slice()))
    for _ in range(7):
        backlog.grow_slice()
        sizes.append(len(backlog.next_slice()))
    assert sizes == [32, 16, 8, 4, 2, 1, 2, 4, 8, 16, 32, 64, 64]


def test_discard() -> None:
    """Entries that the database has are removed. A dropped entry is no error."""
    backlog, entries = filled(3)
    backlog.discard([entries[0], pack(pending(9))])
    assert backlog.next_slice() == tuple(entries[1:])


def test_set_apart() -> None:
    """An entry that the database refuses is set apart and counted. It no longer waits."""
    backlog, entries = filled(3)
    backlog.set_apart([entries[1]], retry_at=60.0)
    assert backlog.next_slice() == (entries[0], entries[2])
    assert (len(backlog), backlog.apart, backlog.unwritten) == (2, 1, 3)


def test_apart_goes_first() -> None:
    """On overflow, entries that the database refused are dropped before entries that wait."""
    backlog, entries = filled(3, limit=3)
    backlog.set_apart([entries[2]], retry_at=60.0)
    backlog.add(pending(3))
    assert (backlog.apart, moments(backlog.next_slice())) == (0, [0.0, 1.0, 3.0])


def test_apart_is_tried_again() -> None:
    """After a time, an entry that is set apart is tried again. Each time it is another entry."""
    backlog, entries = filled(2)
    backlog.set_apart(entries, retry_at=60.0)
    tried = []
    for now in (59.0, 60.0, 120.0, 180.0):
        due = backlog.take_due_apart(now)
        tried.append(moments(due))
        if due:
            backlog.set_apart(due, retry_at=now + 60.0)
    assert tried == [[], [0.0], [1.0], [0.0]]
    assert backlog.apart == 2


def test_readmit() -> None:
    """When the database accepts an entry again, all entries wait again, oldest first."""
    backlog, entries = filled(4)
    backlog.set_apart(entries[:3], retry_at=0.0)
    (accepted,) = backlog.take_due_apart(1.0)
    backlog.discard([accepted])
    backlog.readmit_apart()
    assert moments(backlog.next_slice()) == [1.0, 2.0, 3.0]
    assert backlog.apart == 0


@pytest.mark.parametrize(("committed", "expected"), [(True, [2.0]), (False, [0.0, 1.0, 2.0])])
def test_settle(committed: bool, expected: list[float]) -> None:
    """Samples in doubt are removed if they were committed.

    If not, they wait again, before newer samples.
    """
    backlog, entries = filled(3)
    backlog.doubt("42", entries[:2])
    assert (len(backlog), backlog.unwritten) == (1, 3)
    backlog.settle(committed=committed)
    assert moments(backlog.next_slice()) == expected
    assert backlog.in_doubt is None


def entry(moment: float, rows: int) -> Packed:
    """Return an entry with this number of rows that uses 300 bytes."""
    return Packed(moment, rows, (b"x" * 100,))


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        ((20_000, 20_000), 2),
        ((20_000, 20_001), 1),
        ((40_001, 1), 1),
        ((39_999, 1, 1), 2),
        ((1,) * 64, 64),
        ((1,) * 65, 64),
    ],
)
def test_slice_limits(rows: tuple[int, ...], size: int) -> None:
    """A slice has at most 40,000 rows and 64 entries, but never less than one entry."""
    backlog = Backlog(100)
    backlog._waiting.extend(entry(number, count) for number, count in enumerate(rows))
    assert len(backlog.next_slice()) == size


@pytest.mark.parametrize(("failed", "size"), [(1, 1), (2, 1), (3, 1), (5, 2), (7, 3), (64, 32)])
def test_half_slice(failed: int, size: int) -> None:
    """Half of the refused entries are tried next, rounded down, at least one."""
    backlog, _ = filled(70)
    backlog.shrink_slice(failed)
    assert len(backlog.next_slice()) == size


def test_size_counts_every_entry() -> None:
    """Memory is counted wherever an entry is: waiting, set apart or in doubt."""
    backlog, entries = filled(3)
    total = sum(packed.size for packed in entries)
    assert backlog.size == total
    backlog.set_apart(entries[:1], retry_at=0.0)
    backlog.doubt("42", entries[1:2])
    assert backlog.size == total
    assert entries[0].size == 200 + len(entries[0].data[0])


@pytest.mark.parametrize(("spare", "dropped"), [(0, 0), (-1, 1)])
def test_limit_of_bytes_is_reached(spare: int, dropped: int) -> None:
    """A backlog may use exactly the limit. One byte more drops the oldest entry."""
    sizes = sum(pack(pending(number)).size for number in range(2))
    backlog = Backlog(100, sizes + spare)
    for number in range(2):
        backlog.add(pending(number))
    assert backlog.dropped == dropped


def test_bytes_of_doubt_are_limited() -> None:
    """Entries in doubt use memory, too: other entries are dropped for them."""
    size = pack(pending(0)).size
    backlog = Backlog(100, 2 * size)
    first = backlog.add(pending(0))
    backlog.doubt("42", [first])
    for number in (1, 2):
        backlog.add(pending(number))
    assert backlog.dropped == 1
    assert moments(backlog.next_slice()) == [2.0]


def test_readmitted_by_their_moments() -> None:
    """Entries are ordered by time. At the same time, an entry that is set apart comes first."""
    backlog = Backlog(100)
    apart, waiting = entry(1.0, 9), entry(1.0, 1)
    backlog.set_apart([apart], retry_at=0.0)
    backlog._waiting.append(waiting)
    backlog.readmit_apart()
    assert backlog.next_slice() == (apart, waiting)


def test_new() -> None:
    """A new backlog is empty, and nothing is in doubt."""
    backlog = Backlog(1)
    assert backlog.in_doubt is None
    assert (len(backlog), backlog.apart, backlog.unwritten, backlog.dropped) == (0, 0, 0, 0)
    assert backlog.take_due_apart(0.0) == backlog.next_slice() == ()


@pytest.mark.parametrize(
    ("failed", "recorded", "expected"),
    [
        ([], [0], None),
        ([], [0, 5, 10], None),
        ([], [0, 90], None),
        ([], [0, 90.5], 90.5),
        ([5], [0, 90.5, 95], 90.5),
        ([5], [0, 90.5, 300], 300),
        # The outage was there at the first pass of the loop.
        ([0, 5], [90.5], 90.5),
        ([0, 5], [90], None),
    ],
)
def test_outage(failed: list[float], recorded: list[float], expected: float | None) -> None:
    """The end of an outage is the first pass that is recorded after a time without one."""
    backlog = Backlog(100)
    for moment in sorted([*failed, *recorded]):
        if moment in failed:
            backlog.add(Pending(moment, (Sample("a", "b", 1.0),)))
        else:
            backlog.mark_recorded(moment, 90.0)
    assert backlog.resumed_at == expected
