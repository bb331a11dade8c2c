"""The times at which passes of a loop are due: slots of equal length, aligned with the calendar."""

from __future__ import annotations

import math
from typing import NamedTuple


class Cadence(NamedTuple):
    """The slots of a loop. Each one is ``interval_s`` seconds long.

    ``origin`` is the time at which slot 0 begins, in seconds of the monotonic clock.
    """

    interval_s: float
    origin: float

    @classmethod
    def aligned(cls, interval_s: float, *, monotonic: float, calendar: float) -> Cadence:
        """Return the cadence whose slots begin at multiples of the interval since the epoch.

        ``monotonic`` and ``calendar`` are the times of both clocks at the same moment, in seconds.

        So the samples of different days and processes are taken at the same seconds. The calendar
        is read only once, so a later change of the system clock moves no slot.
        """
        return cls(interval_s, monotonic - calendar % interval_s)

    def slot_at(self, moment: float) -> int:
        """Return the number of the slot that contains a time of the monotonic clock."""
        return math.floor((moment - self.origin) / self.interval_s)

    def start_of(self, slot: int) -> float:
        """Return the time at which a slot begins, in seconds of the monotonic clock."""
        return self.origin + slot * self.interval_s

    def after(self, last: int, now: float) -> int:
        """Return the first slot after slot ``last`` that has not begun at the time ``now``.

        ``now`` is in seconds of the monotonic clock. Slots that began in the meantime are skipped:
        after a stall, only one pass runs.
        """
        return max(last, self.slot_at(now)) + 1
