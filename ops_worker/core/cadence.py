"""When the passes of a loop are due: slots of fixed length, aligned with the calendar."""

from __future__ import annotations

import math
from typing import NamedTuple


class Cadence(NamedTuple):
    """Slots of ``interval_s`` seconds.

    ``origin`` is the time at which slot 0 began, in seconds of the monotonic clock.
    """

    interval_s: float
    origin: float

    @classmethod
    def aligned(cls, interval_s: float, *, monotonic: float, calendar: float) -> Cadence:
        """Return slots that begin at multiples of the interval since the epoch.

        ``monotonic`` and ``calendar`` are the times of both clocks at the same moment, in seconds.

        Samples of different days and processes then have the same seconds. The calendar is read
        only once. If the system clock is set later, no slot moves.
        """
        return cls(interval_s, monotonic - calendar % interval_s)

    def slot_at(self, moment: float) -> int:
        """Return the number of the slot that contains a time of the monotonic clock."""
        return math.floor((moment - self.origin) / self.interval_s)

    def start_of(self, slot: int) -> float:
        """Return the time at which a slot begins, in seconds of the monotonic clock."""
        return self.origin + slot * self.interval_s

    def after(self, last: int, now: float) -> int:
        """Return the next slot to run after slot ``last``: the first that has not begun at ``now``.

        Slots that began in the meantime are skipped. After a stall, one pass runs, not a burst.
        """
        return max(last, self.slot_at(now)) + 1
