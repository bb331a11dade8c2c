"""Schedules of CronJobs, as Kubernetes reads them. The only importer of cronsim.

Kubernetes reads a schedule with robfig/cron 3: five fields, a macro, or ``@every`` with a duration.
cronsim reads the dialect of Debian's cron. So this module reads the fields itself, and passes them
to cronsim as lists of numbers, which have the same meaning in both dialects. cronsim does the
calendar arithmetic. Kubernetes differs from Debian's cron in these points:

* A star with a step of two or more is not a star: ``*/2`` restricts the days like a list. ``?`` is
  a star.
* Sunday is 0, never 7. There are no seconds, and no ``L``, ``W`` or ``#``.
* At a local time that the clock skips, no run is due. At one that it repeats, two runs are due.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from ops_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 10_000
"""The largest number of runs that is counted. No caller needs an exact number above this one."""
FIRST = datetime(2024, 1, 1)  # noqa: DTZ001 - the calendar has no zone
"""Where the calendar of a schedule begins: a leap year."""
CYCLE = timedelta(days=28 * 365 + 8)
"""28 years and a day: weekdays and leap years repeat after 28 years."""
LEAP_YEARS = timedelta(days=5 * 365 + 2)
"""The time from one leap year to the next, and a year.

This is long enough for a schedule that names no weekday.
"""
FORTNIGHT = timedelta(days=15)
"""Long enough for a schedule that restricts neither the day of the month nor the month."""
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
MAX_SHIFT = timedelta(hours=3)
"""More than any zone sets its clock forward or back."""
SHIFT_YEARS = 4
"""Number of years that are searched for changes of the clock."""
HALF_HOUR = timedelta(minutes=30)
"""The smallest change of a clock (Australia/Lord_Howe)."""
NO_RUN = "no time ever matches it"
"""The error of a schedule that is valid but never runs."""


class _FieldSpec(NamedTuple):
    """A field of a schedule: its range, and the names of its values in order."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    _FieldSpec("minute", 0, 59),
    _FieldSpec("hour", 0, 23),
    _FieldSpec("day of the month", 1, 31),
    _FieldSpec("month", 1, 12, _MONTHS),
    _FieldSpec("day of the week", 0, 6, _DAYS),
)
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EVERY = "@every "
_MICRO = ("us", "\N{MICRO SIGN}s", "\N{GREEK SMALL LETTER MU}s")
_UNITS = {"ns": 1e-9, **dict.fromkeys(_MICRO, 1e-6), "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Seconds in each unit of a Go duration."""
_PART = re.compile(r"[\S\x1c-\x1f]+")
"""A word between white space, as Go defines it. Python has four more white space characters."""
_AMOUNT = re.compile(rf"([0-9]+\.?[0-9]*|\.[0-9]+)({'|'.join(_UNITS)})")
_MAX_INT = 2**63
"""One more than the largest integer of Go."""
_MAX_S = _MAX_INT / 1e9
"""The longest Go duration, in seconds: 292 years. Go counts nanoseconds in 64 bits."""


class NeverError(ValueError):
    """The schedule is valid, but no run ever comes."""


class Gaps(NamedTuple):
    """The shortest and the longest time from one run to the next, in seconds."""

    shortest: int
    longest: int


class Schedule:
    """The times at which a CronJob is due, in a time zone."""

    def __init__(self, text: str, zone: str = "UTC") -> None:
        """Read ``spec.schedule``. Raises ValueError, or NeverError if no run ever comes."""
        if "TZ" in text:
            raise ValueError("the time zone belongs in spec.timeZone")
        self._zone = UTC if zone == "UTC" else ZoneInfo(zone)  # UTC needs no zone files
        self._every_s = 0
        if text.startswith(_EVERY):
            self._every_s = _duration_s(text.removeprefix(_EVERY))
        else:
            self._fields = _fields(text)
            if next(_local_times(self._fields, FIRST, FIRST + CYCLE), None) is None:
                raise NeverError(NO_RUN)

    def slots(self, after: datetime, until: datetime, limit: int = LIMIT) -> list[datetime]:
        """Return at most ``limit`` times at which a run is due, the oldest first.

        The times are later than ``after`` and not later than ``until``. ``@every`` counts from
        ``after``, as the controller counts from the last run.
        """
        if self._every_s:
            step = timedelta(seconds=self._every_s)
            count = max(0, min(limit, (until - after) // step))
            return [after + step * (number + 1) for number in range(count)]
        begin, end = self._local(after), self._local(until)
        moments: set[datetime] = set()
        last = end + MAX_SHIFT
        for local_time in _local_times(self._fields, begin - MAX_SHIFT, last):
            if local_time > last:
                break
            moments.update(
                moment for moment in self._moments(local_time) if after < moment <= until
            )
            if len(moments) >= limit:
                # When a clock is set back, a later local time can be an earlier moment.
                last = min(last, local_time + MAX_SHIFT)
        return sorted(moments)[:limit]

    def names(self, moment: datetime) -> bool:
        """Return whether a run is due at exactly this second. With ``@every``, it always may be."""
        return bool(self._every_s or self.slots(moment - SECOND, moment))

    def starved(self, deadline_s: float) -> str:
        """Return why no run ever starts with this startingDeadlineSeconds; empty if runs start.

        The controller counts ``@every`` from the last run, but never from a time that is longer ago
        than this deadline. So if the deadline is shorter than the interval, the next run is always
        in the future.
        """
        if deadline_s >= self._every_s:
            return ""
        return (
            f"is {deadline_s:g}; with @every it must be at least the period ({self._every_s}), "
            "or no run ever starts"
        )

    @cached_property
    def gaps(self) -> Gaps:
        """The shortest and the longest time between two runs.

        The shortest time includes gaps in which the clock is set forward. The longest time is that
        of the calendar: a change of the clock makes a gap at most twice as long, once a year.
        """
        if self._every_s:
            return Gaps(self._every_s, self._every_s)
        overnight = self._times_of_day[0] - self._times_of_day[-1]
        gaps = [after - before + overnight for before, after in pairwise(self._days)]
        gaps += [after - before for before, after in pairwise(self._times_of_day)]
        longest = max(gaps)
        # A change of the clock does not change an even interval that divides half an hour.
        is_even = min(gaps) == longest and not HALF_HOUR % longest
        if not is_even:
            gaps += self._gaps_at_clock_changes(longest)
        return Gaps(int(min(gaps).total_seconds()), int(longest.total_seconds()))

    @cached_property
    def _times_of_day(self) -> list[timedelta]:
        """The times of a day at which a run is due."""
        minute, hour, *_ = self._fields
        every_day = (minute, hour, "*", "*", "*")
        local_times = _local_times(every_day, FIRST - SECOND, FIRST + DAY - SECOND)
        return [local_time - FIRST for local_time in local_times]

    @cached_property
    def _days(self) -> list[datetime]:
        """The days on which a run is due, over the number of years after which they repeat."""
        _, _, day, month, weekday = self._fields
        span = CYCLE
        if weekday == "*":
            span = LEAP_YEARS
        if (day, month) == ("*", "*"):
            span = FORTNIGHT
        midnights = ("0", "0", day, month, weekday)
        return list(_local_times(midnights, FIRST - SECOND, FIRST + span))

    def _gaps_at_clock_changes(self, longest: timedelta) -> list[timedelta]:
        """Return the times between runs around every change of the clock."""
        gaps: list[timedelta] = []
        day = FIRST.replace(tzinfo=UTC)
        for _ in range(SHIFT_YEARS * 366):
            offset = self._offset(day + DAY)
            if self._offset(day) != offset:
                hours = [day + timedelta(hours=hour) for hour in range(1, 25)]
                change = next(hour for hour in hours if self._offset(hour) == offset)
                runs = self.slots(change - longest - MAX_SHIFT, change + longest + 2 * MAX_SHIFT)
                gaps += [after - before for before, after in pairwise(runs)]
            day += DAY
        return gaps

    def _local(self, moment: datetime) -> datetime:
        """Return the local time in the zone, without the zone."""
        return moment.astimezone(self._zone).replace(tzinfo=None)

    def _offset(self, moment: datetime) -> timedelta | None:
        return moment.astimezone(self._zone).utcoffset()

    def _moments(self, local_time: datetime) -> Iterator[datetime]:
        """Return the moments at which the zone's clock shows a time: one, two or none."""
        for fold in (0, 1):
            moment = local_time.replace(tzinfo=self._zone, fold=fold).astimezone(UTC)
            if self._local(moment) == local_time:
                yield moment


@lru_cache(maxsize=64)
def read(text: str, zone: str = "UTC") -> Schedule:
    """Return a schedule from a cache. Raises ValueError if the schedule is invalid."""
    return Schedule(text, zone)


def _local_times(fields: tuple[str, ...], after: datetime, until: datetime) -> Iterator[datetime]:
    """Return the local times that match five fields, later than ``after`` and up to ``until``."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise SettingsError(
            ["reading a schedule requires an extra: pip install 'ops-worker[cluster]'"]
        ) from None
    try:
        for local_time in CronSim(" ".join(fields), after):
            if local_time > until:
                return
            yield local_time
    except CronSimError:  # no month has such a day
        return


def _fields(text: str) -> tuple[str, ...]:
    """Return the five fields for cronsim. Each one is a star or a list of numbers."""
    if text.startswith("@"):
        if text not in _MACROS:
            raise ValueError(f"{text!r} is unknown; use @every, {', '.join(_MACROS)}")
        text = _MACROS[text]
    parts = _PART.findall(text)
    if len(parts) != len(_FIELDS):
        raise ValueError(f"it has {len(parts)} fields instead of 5")
    return tuple(_field(part, spec) for part, spec in zip(parts, _FIELDS, strict=True))


def _field(field: str, spec: _FieldSpec) -> str:
    """Return a field for cronsim. Raises ValueError, or NeverError if it has no values."""
    values: set[int] = set()
    has_star = False
    for part in filter(None, field.split(",")):
        numbers = _range(part, spec)
        values.update(numbers)
        has_star = has_star or (part[0] in "*?" and numbers.step == 1)
    if not values:
        raise NeverError(NO_RUN)
    return "*" if has_star else ",".join(map(str, sorted(values)))


def _range(part: str, spec: _FieldSpec) -> range:
    """Return the values of one part of a field: ``5``, ``1-5`` or ``*``, and ``/step``."""
    span, has_step, step_text = part.partition("/")
    step = _number(step_text) if has_step else 1
    first, *ends = span.split("-")
    if first in {"*", "?"}:
        low, high = spec.low, spec.high
    elif len(ends) > 1:
        raise ValueError(f"{spec.name} {part!r} is not a range")
    else:
        low = high = _value(first, spec)
        if ends:
            high = _value(ends[0], spec)
        elif has_step:
            high = spec.high
    if low > high or step < 1:
        raise ValueError(f"{spec.name} {part!r} matches no time")
    return range(low, high + 1, step)


def _value(text: str, spec: _FieldSpec) -> int:
    name = text.lower()
    value = spec.names.index(name) + spec.low if name in spec.names else _number(text)
    if not spec.low <= value <= spec.high:
        raise ValueError(f"{spec.name} {text!r} is not in the range {spec.low} to {spec.high}")
    return value


def _number(text: str) -> int:
    """Return a number as Go reads it, or -1 if Go does not accept it."""
    match = re.fullmatch(r"\+?0*([0-9]{1,19})", text)
    if match is None or int(match[1]) >= _MAX_INT:
        return -1
    return int(match[1])


def _duration_s(text: str) -> int:
    """Return a Go duration in whole seconds, at least 1 s."""
    unsigned = re.sub(r"^[+-]", "", text)
    amounts = _AMOUNT.findall(unsigned)
    seconds = sum(float(amount) * _UNITS[unit] for amount, unit in amounts)
    is_complete = bool(unsigned) and "".join(map("".join, amounts)) == unsigned
    if (unsigned != "0" and not is_complete) or seconds >= _MAX_S:
        raise ValueError(f"{text!r} is not a duration, such as 90s or 1h30m")
    if text.startswith("-"):
        return 1
    return max(1, int(seconds))
