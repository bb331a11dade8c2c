"""The backlog: samples that wait for the database, compressed and limited in number and bytes."""

from __future__ import annotations

import json
import threading
import zlib
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops_worker.core.model import Sample

ROWS_PER_DOCUMENT = 4_000
"""Rows of one JSON document: about 400 kB, and 2 MB of memory while it is built.

PostgreSQL refuses a ``jsonb`` value of more than 256 MB.
"""
MEBIBYTE = 1 << 20
SLICE_ENTRIES = 64
"""The most entries that one transaction writes."""
SLICE_ROWS = 40_000
"""The most rows that one transaction writes: they take about one second."""
ENTRY_BYTES = 200
"""Bytes of memory that an entry uses in addition to its compressed rows."""


class Pending(NamedTuple):
    """The samples of one pass.

    ``moment`` is the time at which the pass began, in seconds of the monotonic clock.
    """

    moment: float
    samples: tuple[Sample, ...]

    @property
    def documents(self) -> Iterator[str]:
        """Yield the samples as JSON arrays of at most ROWS_PER_DOCUMENT rows."""
        for start in range(0, len(self.samples), ROWS_PER_DOCUMENT):
            rows = [
                {
                    "service": sample.service,
                    "metric": sample.metric,
                    "value": sample.value,
                    "tags": dict(sample.tags),
                }
                for sample in self.samples[start : start + ROWS_PER_DOCUMENT]
            ]
            yield json.dumps(rows, allow_nan=False)


class Packed(NamedTuple):
    """The samples of one pass as they wait: compressed JSON documents.

    Compression reduces them to about 5 %. ``rows`` is the number of samples.
    """

    moment: float
    rows: int
    data: tuple[bytes, ...]

    @property
    def documents(self) -> Iterator[str]:
        """Yield the JSON documents of ``Pending.documents``."""
        for part in self.data:
            yield zlib.decompress(part).decode()

    @property
    def size(self) -> int:
        """Memory that the entry uses, in bytes."""
        return ENTRY_BYTES + sum(map(len, self.data))


def pack(pending: Pending) -> Packed:
    """Compress the samples of a pass."""
    data = tuple(zlib.compress(document.encode(), 1) for document in pending.documents)
    return Packed(pending.moment, len(pending.samples), data)


class Backlog:
    """The samples that the database does not have yet. Safe to use from several threads.

    - *Waiting* entries are written as soon as the database answers.
    - Entries *set apart* were refused by the database for a reason that no retry removes, for
      example a partition that no longer exists. They never delay the others.
    - Entries *in doubt* belong to a transaction whose COMMIT got no answer. ``settle`` either
      removes them or lets them wait again.

    When a limit is exceeded, the oldest entry is dropped, those set apart first. ``dropped`` is the
    number of dropped entries.

    ``resumed_at`` is the moment (seconds, monotonic clock) of the first pass that was recorded
    after an outage; None if there was none. The rows of passes that waited do not show an outage,
    because each row has the time of its pass.
    """

    def __init__(self, limit: int, limit_bytes: int = 32 * MEBIBYTE) -> None:
        """Set the limits: at most ``limit`` passes and ``limit_bytes`` bytes of memory."""
        self._lock = threading.Lock()
        self._waiting: deque[Packed] = deque()
        self._apart: deque[Packed] = deque()
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._slice = SLICE_ENTRIES
        self._retry_at = 0.0
        self.in_doubt: tuple[str, tuple[Packed, ...]] | None = None
        self.dropped = 0
        self.resumed_at: float | None = None
        self._recorded_at: float | None = None

    def mark_recorded(self, moment: float, patience_s: float) -> None:
        """Note that the pass that began at ``moment`` was recorded when it ended.

        If no pass was recorded in the ``patience_s`` seconds before it, an outage has ended.
        """
        if self._recorded_at is not None and moment - self._recorded_at > patience_s:
            self.resumed_at = moment
        self._recorded_at = moment

    def __len__(self) -> int:
        """Return the number of waiting entries, without those set apart or in doubt."""
        return len(self._waiting)

    @property
    def apart(self) -> int:
        """The number of entries that are set apart."""
        return len(self._apart)

    @property
    def unwritten(self) -> int:
        """The number of entries that the database may not have: waiting, set apart or in doubt."""
        with self._lock:
            doubtful = len(self.in_doubt[1]) if self.in_doubt else 0
            return len(self._waiting) + len(self._apart) + doubtful

    @property
    def size(self) -> int:
        """Memory that all entries use, in bytes."""
        with self._lock:
            return self._size()

    def add(self, pending: Pending) -> Packed:
        """Compress the samples of a pass, let them wait as a new entry, and return the entry."""
        # Compressed before the lock is taken, so that no other thread waits for it.
        entry = pack(pending)
        with self._lock:
            self._waiting.append(entry)
            self._drop_excess()
            if self._recorded_at is None:  # the outage began before the first pass of the loop
                self._recorded_at = pending.moment
        return entry

    def next_slice(self) -> tuple[Packed, ...]:
        """Return the oldest waiting entries, as many as one transaction should write."""
        entries: list[Packed] = []
        rows = 0
        with self._lock:
            for entry in self._waiting:
                rows += entry.rows
                is_full = len(entries) >= self._slice or rows > SLICE_ROWS
                # A slice has at least one entry, however many rows this entry has.
                if entries and is_full:
                    break
                entries.append(entry)
        return tuple(entries)

    def shrink_slice(self, failed: int) -> None:
        """Halve the size of a slice after the database refused one with ``failed`` entries."""
        # The refused slice may have had fewer entries than the limit.
        self._slice = max(1, failed // 2)

    def grow_slice(self) -> None:
        """Double the size of a slice, up to SLICE_ENTRIES, after a slice was written."""
        self._slice = min(SLICE_ENTRIES, 2 * self._slice)

    def discard(self, entries: Sequence[Packed]) -> None:
        """Remove entries that the database has or that are no longer needed."""
        with self._lock:
            self._remove(entries)

    def set_apart(self, entries: Sequence[Packed], retry_at: float) -> None:
        """Set apart entries that the database refuses, so that they do not delay the others.

        No entry that is set apart is tried again before ``retry_at``, in seconds of the monotonic
        clock.
        """
        with self._lock:
            self._remove(entries)
            self._apart.extend(entries)
            self._retry_at = retry_at
            self._drop_excess()

    def take_due_apart(self, now: float) -> tuple[Packed, ...]:
        """Let the first entry that is set apart wait again if a retry is due, and return it.

        The tuple is empty if no retry is due. The entries take turns, because ``set_apart`` appends
        to the end.
        """
        with self._lock:
            if not self._apart or now < self._retry_at:
                return ()
            entry = self._apart.popleft()
            self._waiting.append(entry)
            return (entry,)

    def readmit_apart(self) -> None:
        """Let all entries that are set apart wait again after the database accepted one."""
        with self._lock:
            # In the order of time, so that the oldest entry is also dropped first.
            self._waiting = deque(sorted([*self._apart, *self._waiting], key=_moment))
            self._apart.clear()

    def doubt(self, xid: str, entries: Sequence[Packed]) -> None:
        """Move the entries of transaction ``xid``, whose COMMIT got no answer, into doubt."""
        with self._lock:
            self._remove(entries)
            self.in_doubt = (xid, tuple(entries))

    def settle(self, *, committed: bool) -> None:
        """Remove the entries in doubt if they were committed; otherwise let them wait again."""
        assert self.in_doubt is not None
        with self._lock:
            _, entries = self.in_doubt
            self.in_doubt = None
            if not committed:
                # The entries in doubt are older than all waiting entries.
                self._waiting.extendleft(reversed(entries))
                self._drop_excess()

    def _remove(self, entries: Sequence[Packed]) -> None:
        """Remove waiting entries. An entry that was already dropped is ignored."""
        # Entries are compared by identity, because two passes may have equal samples.
        removed = {id(entry) for entry in entries}
        self._waiting = deque(entry for entry in self._waiting if id(entry) not in removed)

    def _drop_excess(self) -> None:
        while self._exceeded():
            (self._apart or self._waiting).popleft()
            self.dropped += 1

    def _exceeded(self) -> bool:
        count = len(self._apart) + len(self._waiting)
        # The newest entry stays, however large it is.
        return count > self._limit or (count > 1 and self._size() > self._limit_bytes)

    def _size(self) -> int:
        doubtful: Sequence[Packed] = self.in_doubt[1] if self.in_doubt else ()
        return sum(entry.size for part in (self._apart, self._waiting, doubtful) for entry in part)


def _moment(entry: Packed) -> float:
    return entry.moment
