"""Cron schedules, as Kubernetes reads them: five fields, or a macro (kubernetes.io, "CronJob", schedule syntax)."""

from __future__ import annotations

import re
from itertools import pairwise

DAY_S = 86_400
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
    "@hourly": 3600,
    "@daily": DAY_S,
    "@midnight": DAY_S,
    "@weekly": 7 * DAY_S,
    "@monthly": 28 * DAY_S,
    "@yearly": 365 * DAY_S,
    "@annually": 365 * DAY_S,
}


def period(schedule: str) -> int:
    """Give the shortest time between two runs, in seconds. Raises ValueError, whose message says what is wrong."""
    if schedule.startswith(("TZ=", "CRON_TZ=")):
        raise ValueError("the zone belongs in spec.timeZone")
    if schedule in _MACROS:
        return _MACROS[schedule]
    fields = schedule.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"it has {len(fields)} fields and not 5")
    minutes, hours, *_ = (_values(field, *about) for field, about in zip(fields, _FIELDS, strict=True))
    times = sorted(hour * 3600 + minute * 60 for hour in hours for minute in minutes)
    overnight = DAY_S - times[-1] + times[0]  # on the next day, which is as near as the days can be
    return min([overnight, *(after - before for before, after in pairwise(times))])


def _values(field: str, name: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        match = re.fullmatch(r"(\*|\?|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/([0-9]{1,3}))?", part.lower())
        if match is None:
            raise ValueError(f"{name} {part!r} cannot be read")
        first, last, step = match.groups()
        if first in {"*", "?"}:
            start, end = low, high
        else:
            start = _number(first, name, low, high, names)
            end = _number(last, name, low, high, names) if last else high if step else start
        if start > end or step == "0":
            raise ValueError(f"{name} {part!r} names no moment")
        found.update(range(start, end + 1, int(step or 1)))
    return found


def _number(text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> int:
    value = names.index(text) + low if text in names else int(text) if text.isdecimal() and len(text) <= 2 else -1  # noqa: PLR2004
    if not low <= value <= high:
        raise ValueError(f"{name} {text!r} is not one of {low} to {high}")
    return value
