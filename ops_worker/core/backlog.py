"""Samples that could not be written yet: bounded, oldest first, each with the moment at which it was taken."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.core.model import Sample


class Pending(NamedTuple):
    """One pass's samples and the moment at which it began, in seconds of the monotonic clock."""

    moment: float
    samples: tuple[Sample, ...]


class Backlog:
    """What waits for the database. On overflow the oldest goes; ``dropped`` counts those that went.

    ``in_doubt`` holds the identity of a transaction of which nobody could say yet whether it was committed, with what
    it carried; once that is known, ``settle`` either forgets these samples or takes them back.
    """

    def __init__(self, limit: int) -> None:
        """Take how many passes' samples it may hold."""
        self._waiting: deque[Pending] = deque()
        self._limit = limit
        self.dropped = 0
        self.in_doubt: tuple[str, tuple[Pending, ...]] | None = None

    def __len__(self) -> int:
        """Count the passes whose samples wait."""
        return len(self._waiting)

    def waiting(self) -> tuple[Pending, ...]:
        """Give what waits, oldest first."""
        return tuple(self._waiting)

    def replace(self, pending: Sequence[Pending]) -> int:
        """Hold exactly these, less the oldest that are too many; give how many those were."""
        over = max(0, len(pending) - self._limit)
        self._waiting = deque(pending[over:])
        self.dropped += over
        return over

    def settle(self, *, committed: bool) -> None:
        """Say what became of the transaction in doubt."""
        assert self.in_doubt is not None
        _, carried = self.in_doubt
        self.in_doubt = None
        if not committed:
            self.replace([*carried, *self._waiting])
