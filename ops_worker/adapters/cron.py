"""Schedules of CronJobs, as Kubernetes reads them. The only importer of cronsim.

Kubernetes reads a schedule with robfig/cron 3: five fields, a macro, or ``@every`` with a duration.
cronsim speaks the dialect of Debian's cron. So the fields are read here and handed over as lists of
numbers, which both understand alike; cronsim does the arithmetic of the calendar. In Kubernetes:

* a step of two or more is no star: ``*/2`` restricts the days as a list does; ``?`` is a star;
* Sunday is 0, never 7; there are no seconds, and no ``L``, ``W`` or ``#``;
* a local time that the clock skips never comes, and one that it repeats comes twice.
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
"""The most slots that are looked at; whoever missed as many knows enough."""
FIRST = datetime(2024, 1, 1)  # noqa: DTZ001 - the calendar has no zone
CYCLE = timedelta(days=28 * 365 + 8)
"""28 years, after which weekdays and leap years repeat."""
LEAP_YEARS = timedelta(days=5 * 365 + 2)
"""Enough where no weekday is asked for: from one leap year to the next, and a year."""
FORTNIGHT = timedelta(days=15)
"""Enough where neither the day of the month nor the month is restricted."""
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
SHIFT = timedelta(hours=3)
"""More than any clock is put forward or back."""
SHIFT_YEARS = 4
"""Years in which changes of the clock are looked at."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
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
_PART = re.compile(r"[\S\x1c-\x1f]+")
"""What Go does not take for white space; Python takes four characters more."""
_AMOUNT = re.compile(rf"([0-9]+\.?[0-9]*|\.[0-9]+)({'|'.join(_UNITS)})")
_MAX_S = 2**63 / 1e9
"""The longest duration that Go can hold: 292 years."""


class NeverError(ValueError):
    """No run ever comes."""


class Gaps(NamedTuple):
    """Seconds from one run to the next: the fewest, and the most."""

    shortest: int
    longest: int


class Schedule:
    """The times at which a CronJob is due, in a time zone."""

    def __init__(self, text: str, zone: str = "UTC") -> None:
        """Read ``spec.schedule``. Raises ValueError, or NeverError if no run ever comes."""
        if "TZ" in text:
            raise ValueError("the zone belongs in spec.timeZone")
        self._zone = UTC if zone == "UTC" else ZoneInfo(zone)  # the first wants no file of zones
        self._every = _duration(text.removeprefix(_EVERY)) if text.startswith(_EVERY) else 0
        if not self._every:
            self._fields = _fields(text)
            if next(_walls(self._fields, FIRST, FIRST + CYCLE), None) is None:
                raise NeverError("it names no moment that ever comes")

    def slots(self, after: datetime, until: datetime, limit: int = LIMIT) -> list[datetime]:
        """Give the times at which a run is due, after one time and up to another.

        They come oldest first, at most ``limit``. ``@every`` counts from the first time, as the
        controller does from the last run.
        """
        if self._every:
            step = timedelta(seconds=self._every)
            count = max(0, min(limit, (until - after) // step))
            return [after + step * (number + 1) for number in range(count)]
        begin, end = (one.astimezone(self._zone).replace(tzinfo=None) for one in (after, until))
        found: set[datetime] = set()
        last = end + SHIFT
        for wall in _walls(self._fields, begin - SHIFT, last):
            if wall > last:
                break
            found.update(moment for moment in self._moments(wall) if after < moment <= until)
            if len(found) >= limit:
                last = min(last, wall + SHIFT)  # a clock put back brings earlier times later
        return sorted(found)[:limit]

    def names(self, moment: datetime) -> bool:
        """Tell whether a run is due at this very second."""
        return bool(self._every or self.slots(moment - SECOND, moment))

    def starved(self, deadline_s: float) -> str:
        """Say why no run ever starts with this startingDeadlineSeconds; nothing when they do.

        The controller counts @every from the last run, but from no earlier than that long ago.
        """
        if deadline_s >= self._every:
            return ""
        least = "with @every it has to be at least the period, or no run ever starts"
        return f"is {deadline_s:g}; {least} ({self._every})"

    @cached_property
    def gaps(self) -> Gaps:
        """Give the shortest and the longest time between two runs.

        The shortest includes gaps across a clock put forward. The longest is that of the calendar:
        a change of the clock makes a gap at most twice as long, once a year.
        """
        if self._every:
            return Gaps(self._every, self._every)
        overnight = self._times[0] - self._times[-1]
        days = [after - before + overnight for before, after in pairwise(self._days)]
        found = [*days, *(after - before for before, after in pairwise(self._times))]
        longest = max(found)
        if min(found) < longest or timedelta(minutes=30) % longest:
            found += self._changed(longest)
        return Gaps(int(min(found).total_seconds()), int(longest.total_seconds()))

    @cached_property
    def _times(self) -> list[timedelta]:
        """The times of a day on which it is due."""
        minute, hour, *_ = self._fields
        walls = _walls((minute, hour, "*", "*", "*"), FIRST - SECOND, FIRST + DAY - SECOND)
        return [wall - FIRST for wall in walls]

    @cached_property
    def _days(self) -> list[datetime]:
        """The days on which it is due, in as many years as it takes until they repeat."""
        _, _, *date = self._fields
        span = CYCLE
        if date[2] == "*":
            span = LEAP_YEARS
        if date[:2] == ["*", "*"]:
            span = FORTNIGHT
        return list(_walls(("0", "0", *date), FIRST - SECOND, FIRST + span))

    def _changed(self, longest: timedelta) -> list[timedelta]:
        """Give the time between runs around each change of the clock."""
        found = []
        day = FIRST.replace(tzinfo=UTC)
        for _ in range(SHIFT_YEARS * 366):
            if self._offset(day) != self._offset(day + DAY):
                hours = [day + timedelta(hours=hour) for hour in range(24)]
                change = next(one for one in hours if self._offset(one) != self._offset(day + DAY))
                near = self.slots(change - longest - SHIFT, change + longest + 2 * SHIFT)
                found += [after - before for before, after in pairwise(near)]
            day += DAY
        return found

    def _offset(self, moment: datetime) -> timedelta | None:
        return moment.astimezone(self._zone).utcoffset()

    def _moments(self, wall: datetime) -> Iterator[datetime]:
        """Give the moments at which the zone's clock shows a time: one, none if skipped, or two."""
        for fold in (0, 1):
            moment = wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC)
            if moment.astimezone(self._zone).replace(tzinfo=None) == wall:
                yield moment


@lru_cache(maxsize=64)
def read(text: str, zone: str = "UTC") -> Schedule:
    """Give a schedule, from a cache. Raises ValueError, which says what is wrong with it."""
    return Schedule(text, zone)


def _walls(fields: tuple[str, ...], after: datetime, until: datetime) -> Iterator[datetime]:
    """Give the local times that five fields name, after the first and up to the second."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        told = "reading a schedule wants the extra: pip install 'ops-worker[cluster]'"
        raise SettingsError([told]) from None
    try:
        for wall in CronSim(" ".join(fields), after):
            if wall > until:
                return
            yield wall
    except CronSimError:  # no month has such a day
        return


def _fields(text: str) -> tuple[str, ...]:
    """Give the five fields as cronsim takes them: a star, or a list of numbers."""
    parts = _PART.findall(_MACROS.get(text, "") if text.startswith("@") else text)
    if text.startswith("@") and not parts:
        raise ValueError(f"there is no {text!r}: it may be @every, {', '.join(_MACROS)}")
    if len(parts) != len(_FIELDS):
        raise ValueError(f"it has {len(parts)} fields and not 5")
    return tuple(_field(part, *about) for part, about in zip(parts, _FIELDS, strict=True))


def _field(field: str, name: str, low: int, high: int, names: tuple[str, ...]) -> str:
    found: set[int] = set()
    star = False
    for part in filter(None, field.split(",")):
        span, slash, last = part.partition("/")
        step = _number(last) if slash else 1
        first, *rest = span.split("-")
        if first in {"*", "?"}:
            start, end = low, high
            star = star or step == 1
        elif len(rest) > 1:
            raise ValueError(f"{name} {part!r} cannot be read")
        else:
            start = _value(first, name, low, high, names)
            end = _value(rest[0], name, low, high, names) if rest else start
            end = high if slash and not rest else end
        if start > end or step < 1:
            raise ValueError(f"{name} {part!r} names no moment")
        found.update(range(start, end + 1, step))
    if not found:
        raise NeverError("it names no moment that ever comes")
    return "*" if star else ",".join(map(str, sorted(found)))


def _value(text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> int:
    value = names.index(text.lower()) + low if text.lower() in names else _number(text)
    if not low <= value <= high:
        raise ValueError(f"{name} {text!r} is not one of {low} to {high}")
    return value


def _number(text: str) -> int:
    """Give a number as Go reads it, or -1."""
    found = re.fullmatch(r"\+?0*([0-9]{1,19})", text)
    value = int(found[1]) if found else -1
    return value if value < 2**63 else -1


def _duration(text: str) -> int:
    """Give whole seconds, at least one, of a duration as Go writes it."""
    unsigned = text[1:] if text[:1] in {"+", "-"} else text
    amounts = _AMOUNT.findall(unsigned)
    seconds = sum(float(amount) * _UNITS[unit] for amount, unit in amounts)
    complete = bool(unsigned) and "".join(map("".join, amounts)) == unsigned
    if (unsigned != "0" and not complete) or seconds >= _MAX_S:
        raise ValueError(f"{text!r} is no duration such as 90s or 1h30m")
    return 1 if text.startswith("-") else max(1, int(seconds))
