"""Compute which services are under maintenance at a time, until when, and when it begins again.

A window is stored once, even if it has a recurrence. Its occurrences are computed from the weekdays
and the local time of its recurrence, in its zone. If the clocks of the zone change, the rules of
RFC 5545 (iCalendar), section 3.3.5, apply. A local time that does not exist has the offset before
the change, so 02:30 becomes 03:30. Of a local time that exists twice, the first one counts. The
duration of a window is elapsed time. A change of the clocks does not change it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import tzinfo

DAY = timedelta(days=1)
WEEK_DAYS = 7
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
"""The weekdays in the order of ``date.weekday``."""
EVERY_DAY = "day"
"""The word for all weekdays in a recurrence."""
ABBREVIATION_LENGTH = 3
"""The number of letters of an abbreviated weekday."""
EXAMPLES = "'Sunday 02:00', 'Mon,Thu 22:30' or 'day 03:00'"
"""Examples of recurrences, for error messages."""
_RECURRENCE = re.compile(r"([A-Za-z]+(?: *, *[A-Za-z]+)*) +([01]?[0-9]|2[0-3]):([0-5][0-9])")
SEARCH_TIME = timedelta(days=2 * WEEK_DAYS)
"""A period in which each window with a recurrence has an occurrence.

It is two weeks and not one, because a zone may leave out a day (Pacific/Apia, 2011-12-30).
"""


class Recurrence(NamedTuple):
    """The weekdays (0 is Monday), in order, and the local time at which a window begins."""

    weekdays: tuple[int, ...]
    hour: int
    minute: int

    @property
    def shortest_gap(self) -> timedelta:
        """The shortest time from one beginning to the next, if no clock changes."""
        following = [*self.weekdays[1:], self.weekdays[0] + WEEK_DAYS]
        gaps = (after - day for day, after in zip(self.weekdays, following, strict=True))
        return min(gaps) * DAY

    @property
    def text(self) -> str:
        """The recurrence as text, for example ``Sunday 02:00`` or ``day 03:00``.

        It is stored and shown in this form.
        """
        days = ",".join(WEEKDAYS[day] for day in self.weekdays)
        if len(self.weekdays) == WEEK_DAYS:
            days = EVERY_DAY
        return f"{days} {self.hour:02}:{self.minute:02}"


class Window(NamedTuple):
    """A maintenance window, as a person created it.

    - ``begins``: in UTC; no occurrence begins earlier. Without a recurrence, the window begins at
      this time.
    - ``duration``: the length of each occurrence.
    - ``services``: the names of the services; empty for all services.
    - ``recurrence``, ``zone``: when the window begins again, in the local time of the zone.
    - ``ended_at``: when a person ended the window, with all later occurrences.
    - ``id``: the number of the window; None for the maintenance in ``ops_worker_maintenance``, or a
      setting.
    """

    begins: datetime
    duration: timedelta
    services: tuple[str, ...] = ()
    recurrence: Recurrence | None = None
    zone: tzinfo = UTC
    zone_name: str = "UTC"
    started_by: str = ""
    reason: str = ""
    ended_at: datetime | None = None
    ended_by: str = ""
    id: int | None = None


class Occurrence(NamedTuple):
    """One time of a window, in UTC. It includes ``begun`` and excludes ``ended``."""

    window: Window
    begun: datetime
    ended: datetime


class UnderMaintenance:
    """The services that are under maintenance at a time: a container of their names.

    ``all_until`` is the end of a maintenance of all services, and of the worker itself; None if
    there is none. During such a maintenance, the container has every name.
    """

    def __init__(
        self, all_until: datetime | None = None, ends: Mapping[str, datetime] | None = None
    ) -> None:
        """Store the end for all services, and the ends of the services of windows by name."""
        self.all_until = all_until
        self._ends = ends or {}

    def __contains__(self, service: object) -> bool:
        """Return whether a service is under maintenance, so that no alert opens for it."""
        return self.all_until is not None or service in self._ends

    def until(self, service: str) -> datetime | None:
        """Return when the maintenance of a service ends; None if it is not under maintenance."""
        ends = (self.all_until, self._ends.get(service))
        return max((end for end in ends if end is not None), default=None)

    def ends_of(self, services: Iterable[str]) -> dict[str, datetime]:
        """Return the end of the maintenance of each of these services that is under maintenance."""
        ends = ((service, self.until(service)) for service in services)
        return {service: end for service, end in ends if end is not None}


def parse_recurrence(text: str) -> Recurrence:
    """Parse a recurrence such as ``Sunday 02:00``.

    Weekdays may be abbreviated to three letters. Several weekdays are separated by commas. Raises
    ValueError for any other text.
    """
    match = _RECURRENCE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"it is not a recurrence such as {EXAMPLES}")
    names, hour, minute = match.groups()
    words = [word.strip().lower() for word in names.split(",")]
    weekdays = set(range(WEEK_DAYS))
    if words != [EVERY_DAY]:
        weekdays = {_weekday(word) for word in words}
    return Recurrence(tuple(sorted(weekdays)), int(hour), int(minute))


def _weekday(word: str) -> int:
    """Return the number of a weekday in lower case. Raises ValueError for another word."""
    for number, name in enumerate(WEEKDAYS):
        if word in {name.lower(), name[:ABBREVIATION_LENGTH].lower()}:
            return number
    raise ValueError(f"{word} is not a weekday; write {EXAMPLES}")


def local_time(zone: tzinfo, naive: datetime) -> datetime:
    """Convert a local time to UTC. The docstring of this module has the rules for clock changes."""
    return naive.replace(tzinfo=zone, fold=0).astimezone(UTC)


def occurrences(window: Window, since: datetime, until: datetime) -> Iterator[Occurrence]:
    """Yield the occurrences of a window that overlap the time from ``since`` to ``until``.

    The oldest comes first. No occurrence begins before the window, or lasts after a person ended
    the window.
    """
    if window.ended_at is not None:
        until = min(until, window.ended_at)
    for beginning in _beginnings(window, max(since, window.begins), until):
        begun = max(beginning, window.begins)
        ended = beginning + window.duration
        if window.ended_at is not None:
            ended = min(ended, window.ended_at)
        if begun <= until and ended > max(begun, since):
            yield Occurrence(window, begun, ended)


def _beginnings(window: Window, since: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the beginnings of occurrences, in UTC, oldest first.

    All occurrences from ``since`` to ``until`` are among them, and some of the days around.
    """
    recurrence = window.recurrence
    if recurrence is None:
        yield window.begins
        return
    # Add a day at each end: the local date may differ from the date in UTC.
    date = (since - window.duration - DAY).date()
    last = (until + DAY).date()
    clock = time(recurrence.hour, recurrence.minute)
    while date <= last:
        if date.weekday() in recurrence.weekdays:
            yield local_time(window.zone, datetime.combine(date, clock))
        date += DAY


def current_occurrence(window: Window, now: datetime) -> Occurrence | None:
    """Return the occurrence that lasts now; None if there is none.

    If several overlap, return the occurrence that ends last.
    """
    return max(occurrences(window, now, now), key=lambda occurrence: occurrence.ended, default=None)


def current_occurrences(windows: Iterable[Window], now: datetime) -> list[Occurrence]:
    """Return the current occurrence of each window that has one."""
    current = (current_occurrence(window, now) for window in windows)
    return [occurrence for occurrence in current if occurrence is not None]


def next_occurrence(window: Window, now: datetime) -> Occurrence | None:
    """Return the current occurrence, otherwise the next one; None if the window is over."""
    until = max(now, window.begins) + SEARCH_TIME
    return current_occurrence(window, now) or next(occurrences(window, now, until), None)


def under_maintenance(
    windows: Iterable[Window], now: datetime, all_until: datetime | None = None
) -> UnderMaintenance:
    """Return which services are under maintenance now, and until when.

    If a service is in several windows, the last end counts. ``all_until`` is the end of a
    maintenance of all services that is not a window: from ``ops_worker_maintenance`` or
    MAINTENANCE_UNTIL.
    """
    ends: dict[str, datetime] = {}
    for occurrence in current_occurrences(windows, now):
        if not occurrence.window.services:
            all_until = max(all_until or occurrence.ended, occurrence.ended)
        for service in occurrence.window.services:
            ends[service] = max(ends.get(service, occurrence.ended), occurrence.ended)
    return UnderMaintenance(all_until, ends)


def planned_time(at: datetime | time, zone: tzinfo, now: datetime) -> datetime:
    """Return when a planned window begins, in UTC.

    For a time of day, return its next occurrence after ``now`` in the zone. A date and time without
    a zone of its own is a local time of the zone. Raises ValueError if the year is out of range.
    """
    try:
        if isinstance(at, datetime):
            return at.astimezone(UTC) if at.tzinfo is not None else local_time(zone, at)
        today = now.astimezone(zone).date()
        coming = (datetime.combine(today + number * DAY, at) for number in (0, 1, 2))
        return next(time for naive in coming if (time := local_time(zone, naive)) > now)
    except OverflowError:
        raise ValueError("this time is beyond the calendar") from None
