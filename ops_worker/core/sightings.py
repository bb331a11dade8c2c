"""Sightings that wait for the ledger: compressed, and limited in number and bytes.

A sighting waits until a transaction has entered it into the ledger. If the transaction of its pass
fails, the transaction of a later pass enters it.
"""

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
"""The most passes that wait: more than a day of a pass every 5 s."""
LIMIT_BYTES = 8 << 20
"""The most bytes of memory that the waiting passes use, compressed."""
ENTRY_BYTES = 200
"""Bytes of memory that an entry uses in addition to its compressed services."""


class PendingSighting(NamedTuple):
    """What one pass saw of all its services, before the ledger has it.

    ``begun`` is the moment at which the pass began, in seconds of the monotonic clock. A row of
    ``services`` has the name of the service, the seconds from ``begun`` to its observation, its
    state, the class of its reason, and the reason. ``period_s`` is the period of the pass in
    seconds, and ``config`` the hash of its configuration.
    """

    begun: float
    services: tuple[tuple[str, float, str, str, str], ...]
    period_s: float
    config: str

    def sighting(self, time_of: Callable[[float], datetime]) -> Sighting:
        """Return the sighting with times of the database's clock.

        ``time_of`` returns the time of a moment.
        """
        sights = tuple(
            Sight(service, time_of(self.begun + offset_s), state, reason_class, reason)
            for service, offset_s, state, reason_class, reason in self.services
        )
        return Sighting(time_of(self.begun), sights, self.period_s, self.config)


def pending_sighting(
    verdicts: Sequence[Verdict], begun: float, period_s: float, config: str
) -> PendingSighting:
    """Return the sighting of a pass that began at the moment ``begun``."""
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
    return PendingSighting(begun, services, period_s, config)


class _Entry(NamedTuple):
    """A sighting that waits, with a number that only grows.

    ``services`` are compressed. They are None if they have the same states as the entry before.
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
    """The sightings that wait for the ledger, oldest first. Safe for several threads.

    If the answer to a COMMIT was lost, a sighting remains here and is entered again. The ledger
    ignores a sighting that it already has. If a limit is exceeded, the oldest entry is dropped: its
    time becomes unseen.
    """

    def __init__(self, limit: int = LIMIT, limit_bytes: int = LIMIT_BYTES) -> None:
        """Set the limits: the number of sightings, and their bytes of memory."""
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque()
        self._newest: PendingSighting | None = None
        self._number = 0
        self._size = 0
        self._limit = limit
        self._limit_bytes = limit_bytes

    def __len__(self) -> int:
        """Return the number of sightings that wait."""
        return len(self._entries)

    def add(self, sighting: PendingSighting) -> int:
        """Append the sighting of a pass; return its number."""
        with self._lock:
            is_same = bool(self._entries) and _states(self._newest) == _states(sighting)
            offsets = [row[1] for row in sighting.services]
            entry = _Entry(
                number=self._number,
                begun=sighting.begun,
                services=None if is_same else _packed(sighting),
                period_s=sighting.period_s,
                config=sighting.config,
                first_s=round(min(offsets, default=0.0), 6),
                last_s=round(max(offsets, default=0.0), 6),
            )
            self._number += 1
            self._newest = sighting
            self._entries.append(entry)
            self._size += entry.size
            while len(self._entries) > self._limit or (
                len(self._entries) > 1 and self._size > self._limit_bytes
            ):
                self._drop_oldest()
        return entry.number

    def withdraw(self, number: int | None) -> None:
        """Remove the newest entry if it has this number: another process enters its own pass."""
        with self._lock:
            if self._entries and self._entries[-1].number == number:
                self._size -= self._entries.pop().size
                self._newest = None  # so that the next entry is complete

    def discard(self, number: int) -> None:
        """Remove the entries up to this number: the ledger has them."""
        with self._lock:
            while self._entries and self._entries[0].number <= number:
                self._drop_oldest()

    def waiting(self) -> Iterator[tuple[int, PendingSighting]]:
        """Yield the number and the sighting of each entry, oldest first.

        If a pass saw the same states as the pass before it, only its first and last observation
        keep their times. The others are spread between these two as in the pass before, and have
        the reasons of that pass.
        """
        with self._lock:
            entries = tuple(self._entries)
        services: tuple[Any, ...] = ()
        for entry in entries:
            if entry.services is not None:
                rows = json.loads(zlib.decompress(entry.services))
                services = tuple(tuple(row) for row in rows)
            rows_of_entry = tuple(_moved(services, entry.first_s, entry.last_s))
            sighting = PendingSighting(entry.begun, rows_of_entry, entry.period_s, entry.config)
            yield entry.number, sighting

    def _drop_oldest(self) -> None:
        """Remove the oldest entry. The next entry becomes complete."""
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
    """Yield the rows with offsets from ``first_s`` to ``last_s``, in proportion to their offsets.

    Otherwise a pass that was quicker than the pass before would have observations after its end.
    """
    offsets = [row[1] for row in rows]
    least, most = min(offsets, default=0.0), max(offsets, default=0.0)
    scale = (last_s - first_s) / (most - least) if most > least else 0.0
    for name, offset_s, *state in rows:
        moved_s = min(last_s, first_s + (offset_s - least) * scale)
        yield (name, round(moved_s, 6), state[0], state[1], state[2])


def _states(sighting: PendingSighting | None) -> tuple[tuple[str, str, str], ...] | None:
    """Return the name, state and reason class of each service."""
    if sighting is None:
        return None
    return tuple((row[0], row[2], row[3]) for row in sighting.services)


def _packed(sighting: PendingSighting) -> bytes:
    """Return the services as compressed JSON. Offsets have microseconds, as in the database."""
    rows = [(row[0], round(row[1], 6), *row[2:]) for row in sighting.services]
    return zlib.compress(json.dumps(rows).encode(), 1)
