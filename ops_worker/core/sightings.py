"""What passes saw and the ledger does not have yet: compressed, and limited in number and bytes."""

from __future__ import annotations

import json
import threading
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.ledger import Sight, Sighting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from ops_worker.core.model import Verdict

LIMIT = 20_000
"""Passes that wait at most: a day of a pass every 5 s."""
LIMIT_BYTES = 8 << 20
"""Bytes of memory that they use at most, compressed."""
ENTRY_BYTES = 200
"""Bytes of memory that an entry uses in addition to what it saw."""


class Seen(NamedTuple):
    """What one pass saw. Moments are seconds of the monotonic clock.

    A row of ``services`` has the name of the service, the seconds from ``begun`` to its
    observation, its state, the class of its reason, and the reason.
    """

    begun: float
    services: tuple[tuple[str, float, str, str, str], ...]
    period_s: float
    config: str

    def sighting(self, time_of: Callable[[float], datetime]) -> Sighting:
        """Return it with times of the database's clock."""
        sights = tuple(
            Sight(service, time_of(self.begun + offset_s), state, reason_class, reason)
            for service, offset_s, state, reason_class, reason in self.services
        )
        return Sighting(time_of(self.begun), sights, self.period_s, self.config)


def seen_by_pass(verdicts: Sequence[Verdict], begun: float, period_s: float, config: str) -> Seen:
    """Return what a pass saw that began at the moment ``begun``."""
    services = tuple(
        (
            verdict.target.name,
            verdict.taken_at - begun,
            verdict.state.value,
            verdict.reason_class,
            verdict.reason,
        )
        for verdict in verdicts
    )
    return Seen(begun, services, period_s, config)


class _Entry(NamedTuple):
    """A pass that waits. ``services`` are compressed; None if they are as in the entry before.

    ``first_s`` and ``last_s`` are the seconds from ``begun`` to the first and last observation.
    """

    number: int
    begun: float
    services: bytes | None
    period_s: float
    config: str
    first_s: float
    last_s: float

    @property
    def size(self) -> int:
        """Memory that the entry uses, in bytes."""
        return ENTRY_BYTES + len(self.services or b"")


class Sightings:
    """The passes that wait to be entered into the ledger, oldest first. Safe for several threads.

    The ledger ignores a pass that it already has. So after a COMMIT whose answer was lost, a pass
    simply stays here and is entered again. When a limit is exceeded, the oldest entry is dropped:
    in its time, nobody looked.
    """

    def __init__(self, limit: int = LIMIT, limit_bytes: int = LIMIT_BYTES) -> None:
        """Set the limits: passes, and bytes of memory."""
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque()
        self._newest: Seen | None = None
        self._number = 0
        self._size = 0
        self._limit = limit
        self._limit_bytes = limit_bytes

    def __len__(self) -> int:
        """Return the number of passes that wait."""
        return len(self._entries)

    def add(self, seen: Seen) -> int:
        """Append what a pass saw; return its number."""
        with self._lock:
            is_same = bool(self._entries) and _states(self._newest) == _states(seen)
            offsets = [row[1] for row in seen.services]
            entry = _Entry(
                number=self._number,
                begun=seen.begun,
                services=None if is_same else _packed(seen),
                period_s=seen.period_s,
                config=seen.config,
                first_s=round(min(offsets, default=0.0), 6),
                last_s=round(max(offsets, default=0.0), 6),
            )
            self._number += 1
            self._newest = seen
            self._entries.append(entry)
            self._size += entry.size
            while len(self._entries) > self._limit or (
                len(self._entries) > 1 and self._size > self._limit_bytes
            ):
                self._drop_oldest()
        return entry.number

    def withdraw(self, number: int | None) -> None:
        """Remove the newest entry, if it has this number: another process entered this pass."""
        with self._lock:
            if self._entries and self._entries[-1].number == number:
                self._size -= self._entries.pop().size
                self._newest = None  # so that the next entry is complete

    def discard(self, number: int) -> None:
        """Remove the entries up to this number: the ledger has them."""
        with self._lock:
            while self._entries and self._entries[0].number <= number:
                self._drop_oldest()

    def waiting(self) -> Iterator[tuple[int, Seen]]:
        """Yield the number of each entry and what its pass saw, oldest first.

        If a pass saw the same states as the pass before it, only its first and last observation
        keep their times. The others are spread between these two, as in the pass before.
        """
        with self._lock:
            entries = tuple(self._entries)
        services: tuple[Any, ...] = ()
        for entry in entries:
            if entry.services is not None:
                rows = json.loads(zlib.decompress(entry.services))
                services = tuple(tuple(row) for row in rows)
            rows_of_entry = tuple(_moved(services, entry.first_s, entry.last_s))
            yield entry.number, Seen(entry.begun, rows_of_entry, entry.period_s, entry.config)

    def _drop_oldest(self) -> None:
        oldest = self._entries.popleft()
        self._size -= oldest.size
        if self._entries and self._entries[0].services is None:
            following = self._entries.popleft()
            self._size -= following.size
            following = following._replace(services=oldest.services)
            self._size += following.size
            self._entries.appendleft(following)


def _moved(
    rows: Sequence[tuple[str, float, str, str, str]], first_s: float, last_s: float
) -> Iterator[tuple[str, float, str, str, str]]:
    """Yield the rows with their offsets moved, so that they begin and end with these.

    Without this, a pass that was quicker than the one before would have observations after its end.
    """
    offsets = [row[1] for row in rows]
    least, most = min(offsets, default=0.0), max(offsets, default=0.0)
    scale = (last_s - first_s) / (most - least) if most > least else 0.0
    for name, offset_s, *state in rows:
        moved_s = min(last_s, first_s + (offset_s - least) * scale)
        yield (name, round(moved_s, 6), state[0], state[1], state[2])


def _states(seen: Seen | None) -> tuple[tuple[str, str, str], ...] | None:
    if seen is None:
        return None
    return tuple((row[0], row[2], row[3]) for row in seen.services)


def _packed(seen: Seen) -> bytes:
    rows = [(row[0], round(row[1], 6), *row[2:]) for row in seen.services]
    return zlib.compress(json.dumps(rows).encode(), 1)
