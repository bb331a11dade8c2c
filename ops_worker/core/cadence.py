"""When a loop's passes are due: slots of a fixed length, lined up with the calendar, told by the monotonic clock."""

from __future__ import annotations

import math
from typing import NamedTuple


class Cadence(NamedTuple):
    """Slots of ``interval_s`` seconds. ``origin`` is the moment, in seconds of the monotonic clock, at which slot 0 began."""

    interval_s: float
    origin: float

    @classmethod
    def aligned(cls, interval_s: float, *, monotonic: float, calendar: float) -> Cadence:
        """Line the slots up with multiples of the interval since the epoch; both clocks are read at the same moment.

        Samples of different days and processes then fall on the same seconds. The calendar gives the phase only, and
        only once: a clock that is set later moves nothing.
        """
        return cls(interval_s, monotonic - calendar % interval_s)

    def slot_at(self, moment: float) -> int:
        """Give the number of the slot in which a moment lies."""
        return math.floor((moment - self.origin) / self.interval_s)

    def start_of(self, slot: int) -> float:
        """Give the moment at which a slot begins."""
        return self.origin + slot * self.interval_s

    def after(self, last: int, now: float) -> int:
        """Give the slot that is due next, when ``last`` was run and it is ``now``: the first that has not begun yet.

        Slots that began meanwhile are skipped, however many: a stall is followed by one pass, not by a burst.
        """
        return max(last, self.slot_at(now)) + 1
