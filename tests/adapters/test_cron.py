"""Schedules as Kubernetes reads them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops_worker.adapters.cron import LIMIT, Gaps, NeverError, Schedule, read
from ops_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400


@pytest.mark.parametrize(
    ("text", "zone", "shortest", "longest"),
    [
        ("* * * * *", "UTC", 60, 60),
        ("* * * * *", "Europe/Berlin", 60, 60),
        ("*/5 * * * *", "UTC", 300, 300),
        ("0,1 * * * *", "UTC", 60, 59 * 60),
        ("*/7 * * * *", "UTC", 240, 420),
        ("59 * * * *", "UTC", HOUR, HOUR),
        ("0-30/15 8-10 * * MON-fri", "UTC", 900, 2 * DAY + 21 * HOUR + 1800),
        ("*/5 9-17 * * 1-5", "UTC", 300, 63 * HOUR + 300),
        ("*/5 9-17 * * 1-5", "America/New_York", 300, 63 * HOUR + 300),
        ("0 23,0 * * *", "UTC", HOUR, 23 * HOUR),
        ("0,59 0,23 * * 1-5", "UTC", 60, 2 * DAY + 60),
        ("5/20 * ? jan *", "UTC", 1200, 334 * DAY + DAY + 1200),
        ("@hourly", "UTC", HOUR, HOUR),
        ("@daily", "UTC", DAY, DAY),
        ("@midnight", "UTC", DAY, DAY),
        ("@weekly", "UTC", 7 * DAY, 7 * DAY),
        ("@monthly", "UTC", 28 * DAY, 31 * DAY),
        ("@yearly", "UTC", 365 * DAY, 366 * DAY),
        ("@annually", "UTC", 365 * DAY, 366 * DAY),
        ("0 0 31 * *", "UTC", 31 * DAY, 61 * DAY),
        ("0 0 29 2 *", "UTC", 4 * 365 * DAY + DAY, 4 * 365 * DAY + DAY),
        ("0 0 1 * 1", "UTC", DAY, 7 * DAY),
        ("0 0 */2 * *", "UTC", DAY, 2 * DAY),
        # By the clock of a zone: the change to summer time makes a gap an hour shorter.
        # Repeated and skipped times do not count for a gap.
        ("0 6 * * *", "Europe/Berlin", 23 * HOUR, DAY),
        ("30 2 * * *", "Europe/Berlin", HOUR, DAY),
        ("0 1-23/2 * * *", "Europe/Berlin", HOUR, 2 * HOUR),
        ("0 6 * * *", "Asia/Kolkata", DAY, DAY),
        # This zone sets its clock by half an hour, in the afternoon in UTC.
        ("30 * * * *", "Australia/Lord_Howe", 1800, HOUR),
        ("@every 90s", "UTC", 90, 90),
        ("@every 1h30m", "Europe/Berlin", 5400, 5400),
        ("@every 1.5h", "UTC", 5400, 5400),
        ("@every +90.9s", "UTC", 90, 90),
        ("@every 300ms", "UTC", 1, 1),
        ("@every 2000000\N{MICRO SIGN}s", "UTC", 2, 2),
        ("@every -5m", "UTC", 1, 1),
        ("@every 0", "UTC", 1, 1),
        ("@every .5m", "UTC", 30, 30),
    ],
)
def test_gaps(text: str, zone: str, shortest: int, longest: int) -> None:
    """A schedule has a shortest and a longest time between two runs."""
    assert read(text, zone).gaps == Gaps(shortest, longest)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("  0   5 * * 1 ", "0 5 * * 1"),
        ("0\t5 * * 1", "0 5 * * 1"),
        ("00 05 * * *", "0 5 * * *"),
        ("+0 5 * * *", "0 5 * * *"),
        ("0\u00a05\u3000* * 1", "0 5 * * 1"),
        ("000000000000000000000000 5 * * *", "0 5 * * *"),
        ("*/9223372036854775807 5 * * *", "0 5 * * *"),
        ("0,,30, 5 * * *", "0,30 5 * * *"),
        ("0 5 ? * ?", "0 5 * * *"),
        ("*-7 5 * * *", "* 5 * * *"),
        ("0 0 * * SUN", "0 0 * * 0"),
        ("0 0 * Jan-MAR Mon,wEd", "0 0 * 1-3 1,3"),
        ("0 0/6 * * *", "0 0,6,12,18 * * *"),
        ("0 22/100 * * *", "0 22 * * *"),
        # A step of one keeps the star: day of the month and day of the week must both fit.
        ("0 0 */1 * 1", "0 0 * * 1"),
        ("0 0 1,* * 1", "0 0 * * 1"),
        # Any other step drops the star: one of the two days is enough.
        ("0 0 */40 * 1", "0 0 1 * 1"),
        ("0 0 1-31 * 1", "0 0 * * 0-6"),
        ("0 0 13 * */2", "0 0 13 * 0,2,4,6"),
    ],
)
def test_dialect(text: str, same: str) -> None:
    """Unusual notations mean the same times as the usual ones."""
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
    assert read(text).slots(begin, end) == read(same).slots(begin, end) != []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has 0 fields instead of 5"),
        ("* * * *", "it has 4 fields instead of 5"),
        ("0 * * * * *", "it has 6 fields instead of 5"),
        ("*\x1c* * * *", "it has 4 fields instead of 5"),
        (" @hourly", "it has 1 fields instead of 5"),
        ("TZ=UTC * * * * *", "the time zone belongs in spec.timeZone"),
        ("CRON_TZ=Europe/Berlin * * * * *", "the time zone belongs in spec.timeZone"),
        ("60 * * * *", "minute '60' is not in the range 0 to 59"),
        ("* 24 * * *", "hour '24' is not in the range 0 to 23"),
        ("* * 0 * *", "day of the month '0' is not in the range 1 to 31"),
        ("* * L * *", "day of the month 'L' is not in the range 1 to 31"),
        ("* * LW * *", "day of the month 'LW' is not in the range 1 to 31"),
        ("* * 15W * *", "day of the month '15W' is not in the range 1 to 31"),
        ("* * * 13 *", "month '13' is not in the range 1 to 12"),
        ("* * * january *", "month 'january' is not in the range 1 to 12"),
        ("* * * * 7", "day of the week '7' is not in the range 0 to 6"),
        ("* * * * 5L", "day of the week '5L' is not in the range 0 to 6"),
        ("* * * * mon#2", "day of the week 'mon#2' is not in the range 0 to 6"),
        ("* * * * xyz", "day of the week 'xyz' is not in the range 0 to 6"),
        ("-5 * * * *", "minute '' is not in the range 0 to 59"),
        ("\u0665 * * * *", "minute '\u0665' is not in the range 0 to 59"),
        ("5_0 * * * *", "minute '5_0' is not in the range 0 to 59"),
        (
            "99999999999999999999 * * * *",
            "minute '99999999999999999999' is not in the range 0 to 59",
        ),
        ("*/9223372036854775808 * * * *", "minute '*/9223372036854775808' matches no time"),
        ("a-b-c * * * *", "minute 'a-b-c' is not a range"),
        ("*/0 * * * *", "minute '*/0' matches no time"),
        ("*/x * * * *", "minute '*/x' matches no time"),
        ("*/ * * * *", "minute '*/' matches no time"),
        ("1/2/3 * * * *", "minute '1/2/3' matches no time"),
        ("5-1 * * * *", "minute '5-1' matches no time"),
        ("* 22-2 * * *", "hour '22-2' matches no time"),
        ("H * * * *", "minute 'H' is not in the range 0 to 59"),
        ("~ * * * *", "minute '~' is not in the range 0 to 59"),
        ("@Hourly", "'@Hourly' is unknown; use @every, @hourly,"),
        ("@reboot", "'@reboot' is unknown; use @every, @hourly,"),
        ("@every", "'@every' is unknown; use @every, @hourly,"),
        ("@every 1d", "'1d' is not a duration, such as 90s or 1h30m"),
        ("@every 90", "'90' is not a duration, such as 90s or 1h30m"),
        ("@every ", "'' is not a duration, such as 90s or 1h30m"),
        ("@every 1h 30m", "'1h 30m' is not a duration, such as 90s or 1h30m"),
        ("@every  90s", "' 90s' is not a duration, such as 90s or 1h30m"),
        ("@every .s", "'.s' is not a duration, such as 90s or 1h30m"),
        ("@every 9999999h", "'9999999h' is not a duration, such as 90s or 1h30m"),
    ],
)
def test_refused(text: str, message: str) -> None:
    """A schedule that Kubernetes refuses is an error that names the wrong part."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the text is compared below
        read(text)
    assert not isinstance(raised.value, NeverError)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "text", ["0 0 31 2 *", "0 0 30,31 2 *", "0 0 31 4,6 ?", ", * * * *", "* * , * *"]
)
def test_never(text: str) -> None:
    """Kubernetes accepts these schedules but never runs them."""
    with pytest.raises(NeverError, match="no time ever matches it"):
        read(text)


def at(text: str) -> datetime:
    """Return a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "zone", "begin", "end", "expected"),
    [
        # The clock goes forward at 01:00Z: 02:30 is skipped on that day.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00",
            "2026-03-30T12:00",
            ["2026-03-28T01:30", "2026-03-30T00:30"],
        ),
        (
            "*/30 1-3 * * *",
            "Europe/Berlin",
            "2026-03-29T00:00",
            "2026-03-29T03:00",
            ["2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30"],
        ),
        # The clock goes back at 01:00Z: 02:30 comes twice.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00",
            "2026-10-25T12:00",
            ["2026-10-25T00:30", "2026-10-25T01:30"],
        ),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00",
            "2026-10-25T12:00",
            ["2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30"],
        ),
        # The clock of this zone skips midnight.
        ("0 0 * * *", "Africa/Cairo", "2026-04-23T00:00", "2026-04-25T12:00", ["2026-04-24T21:00"]),
        ("0 1 * * *", "Africa/Cairo", "2026-04-23T12:00", "2026-04-24T12:00", ["2026-04-23T22:00"]),
        (
            "0 12 * * *",
            "Pacific/Auckland",
            "2026-06-01T12:00",
            "2026-06-03T00:00",
            ["2026-06-02T00:00", "2026-06-03T00:00"],
        ),
        (
            "@every 1h",
            "Europe/Berlin",
            "2026-03-29T00:10",
            "2026-03-29T02:20",
            ["2026-03-29T01:10", "2026-03-29T02:10"],
        ),
        ("@every 1h", "UTC", "2026-03-29T02:10", "2026-03-29T00:10", []),
    ],
)
def test_clock_changes(text: str, zone: str, begin: str, end: str, expected: list[str]) -> None:
    """A skipped local time never comes, and a repeated one comes twice. @every is unaffected."""
    assert read(text, zone).slots(at(begin), at(end)) == [at(time) for time in expected]


def test_limit() -> None:
    """At most ``limit`` runs are returned in order, also when the clock goes back."""
    assert len(read("* * * * *").slots(at("2020-01-01T00:00"), at("2026-01-01T00:00"))) == LIMIT
    assert len(read("@every 1s").slots(at("2020-01-01T00:00"), at("2026-01-01T00:00"))) == LIMIT
    repeated = read("0,30 2 * * *", "Europe/Berlin")
    begin, end = at("2026-10-24T12:00"), at("2026-10-26T12:00")
    assert (
        repeated.slots(begin, end, 3)
        == repeated.slots(begin, end)[:3]
        == [at(f"2026-10-25T{time}") for time in ("00:00", "00:30", "01:00")]
    )


def test_names() -> None:
    """A run is due only at its own second. With @every, any second may be a run."""
    assert read("0 6 * * *", "Europe/Berlin").names(at("2026-01-05T05:00"))
    assert not read("0 6 * * *", "Europe/Berlin").names(at("2026-01-05T06:00"))
    assert read("@every 90s").names(at("2026-01-05T06:00:07"))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cronsim, the error names the extra."""
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(SettingsError, match="reading a schedule requires an extra"):
        Schedule("1 2 3 4 *")


NAMES = (
    None,
    None,
    None,
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
)
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def number_or_name(field: int, value: int) -> st.SearchStrategy[str]:
    """Return a value as a number or as its name."""
    names, low = NAMES[field], BOUNDS[field][0]
    return st.sampled_from(
        [str(value), *([names[value - low], names[value - low].upper()] if names else [])]
    )


@st.composite
def part(draw: st.DrawFn, field: int) -> str:
    """Return one part of the list of a field."""
    low, high = BOUNDS[field]
    first = draw(st.integers(low, high))
    text = draw(st.sampled_from(["*", "?", "n", "n", "n-m"]))
    if text == "n":
        text = draw(number_or_name(field, first))
    elif text == "n-m":
        last = draw(st.integers(first, high))
        text = f"{draw(number_or_name(field, first))}-{draw(number_or_name(field, last))}"
    return text + draw(st.sampled_from(["", "", f"/{draw(st.integers(1, 40))}"]))


def field_text(field: int) -> st.SearchStrategy[str]:
    """Return a field."""
    return st.one_of(st.just("*"), st.lists(part(field), min_size=1, max_size=3).map(",".join))


def values_of(text: str, field: int) -> set[int]:
    """Return the values of a field. Try each possible value."""
    low, high = BOUNDS[field]
    names = {name: index + low for index, name in enumerate(NAMES[field] or [])}
    values = set()
    for item in text.lower().split(","):
        span, _, step = item.partition("/")
        ends = [names.get(word, word) for word in span.split("-")]
        first = low if ends[0] in {"*", "?"} else int(ends[0])
        last = high if ends[0] in {"*", "?"} or (step and len(ends) == 1) else int(ends[-1])
        values |= {
            value
            for value in range(low, high + 1)
            if first <= value <= last and (value - first) % int(step or 1) == 0
        }
    return values


def starred(text: str) -> bool:
    """Return whether a field counts as a star."""
    return any(item in {"*", "?", "*/1", "?/1"} for item in text.split(","))


def brute_force(text: str, zone: str, begin: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the matching minutes. Try each minute."""
    fields = text.split()
    minutes, hours, days, months, weekdays = (
        values_of(field, index) for index, field in enumerate(fields)
    )
    both = starred(fields[2]) or starred(fields[4])
    moment = begin.replace(second=0)
    while (moment := moment + timedelta(minutes=1)) <= end:
        local = moment.astimezone(ZoneInfo(zone))
        fit = [local.day in days, local.isoweekday() % 7 in weekdays]
        if (
            local.minute in minutes
            and local.hour in hours
            and local.month in months
            and (all(fit) if both else any(fit))
        ):
            yield moment


TEXTS = st.tuples(*map(field_text, range(5))).map(" ".join)
ZONES = st.sampled_from(
    [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Asia/Kolkata",
        "Africa/Cairo",
        "Australia/Lord_Howe",
    ]
)
CHANGES = [
    at(text)
    for text in (
        "2026-03-28T20:00",
        "2026-10-24T20:00",
        "2026-10-03T09:00",
        "2026-04-23T09:00",
        "2026-10-29T12:00",
    )
]
TIMES = st.one_of(
    st.sampled_from(CHANGES),
    st.integers(0, 365 * DAY).map(
        lambda seconds: at("2026-01-01T00:00") + timedelta(seconds=seconds)
    ),
)


@settings(max_examples=150)
@given(text=TEXTS, zone=ZONES, begin=TIMES)
def test_as_a_slow_reading(text: str, zone: str, begin: datetime) -> None:
    """A schedule has the same times as a search of every minute."""
    end = begin + timedelta(hours=30)
    expected = list(brute_force(text, zone, begin, end))
    try:
        slots = Schedule(text, zone).slots(begin, end)
    except NeverError:
        slots = []
    assert slots == expected


@settings(max_examples=12)
@given(text=TEXTS, zone=ZONES, begin=TIMES)
def test_gaps_hold(text: str, zone: str, begin: datetime) -> None:
    """All gaps lie between the shortest and the longest one, except at a change of the clock."""
    try:
        schedule = Schedule(text, zone)
    except NeverError:
        return
    slots = schedule.slots(begin, begin + timedelta(days=800), 300)
    gaps_s = [(after - before).total_seconds() for before, after in pairwise(slots)]
    assert all(schedule.gaps.shortest <= gap_s <= 2 * schedule.gaps.longest for gap_s in gaps_s)
    assert zone not in {"UTC", "Asia/Kolkata"} or all(
        gap_s <= schedule.gaps.longest for gap_s in gaps_s
    )
