"""Maintenance windows: when they last, when they begin again, and where clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.maintenance import (
    DAY,
    SEARCH_TIME,
    Recurrence,
    UnderMaintenance,
    Window,
    current_occurrence,
    current_occurrences,
    local_time,
    next_occurrence,
    occurrences,
    parse_recurrence,
    planned_time,
    under_maintenance,
)

pytestmark = pytest.mark.unit

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [
    UTC,
    BERLIN,
    ZoneInfo("America/New_York"),
    ZoneInfo("Australia/Lord_Howe"),  # its clocks change by 30 minutes
    ZoneInfo("Pacific/Apia"),  # it left out 2011-12-30
    ZoneInfo("Asia/Kathmandu"),
]
HOUR = timedelta(hours=1)
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday


def utc(text: str) -> datetime:
    """Return a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected", "normal_text"),
    [
        ("Sunday 02:00", ((6,), 2, 0), "Sunday 02:00"),
        ("sun 2:00", ((6,), 2, 0), "Sunday 02:00"),
        (" Thu, MON 22:30 ", ((0, 3), 22, 30), "Monday,Thursday 22:30"),
        ("Mon,Monday 00:00", ((0,), 0, 0), "Monday 00:00"),
        ("day 23:59", (tuple(range(7)), 23, 59), "day 23:59"),
        ("Mon,Tue,Wed,Thu,Fri,Sat,Sun 23:59", (tuple(range(7)), 23, 59), "day 23:59"),
    ],
)
def test_recurrence(text: str, expected: tuple[object, ...], normal_text: str) -> None:
    """A recurrence has weekdays and a time. Reading its text gives the same recurrence."""
    recurrence = parse_recurrence(text)
    assert recurrence == expected
    assert recurrence.text == normal_text
    assert parse_recurrence(normal_text) == recurrence


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sunday",
        "02:00",
        "Sunday 24:00",
        "Sunday 02:60",
        "Sunday 02:00:00",
        "Sonntag 02:00",
        "Su 02:00",
        "day,Monday 02:00",
        "Sunday 02:00\n* * * * *",
        "Sunday \N{ARABIC-INDIC DIGIT TWO}:00",
        "every Sunday 02:00",
    ],
)
def test_no_recurrence(text: str) -> None:
    """Other texts are refused. The error says what is accepted."""
    with pytest.raises(ValueError, match="Sunday 02:00"):
        parse_recurrence(text)


@pytest.mark.parametrize(
    ("text", "days"),
    [("day 03:00", 1), ("Sunday 02:00", 7), ("Mon,Thu 22:00", 3), ("Sun,Mon 22:00", 1)],
)
def test_shortest_gap(text: str, days: int) -> None:
    """The gap between two beginnings may cross the end of the week."""
    assert parse_recurrence(text).shortest_gap == days * DAY


WEEKLY = Window(
    begins=utc("2026-03-01 00:00"),
    duration=2 * HOUR,
    recurrence=parse_recurrence("Sunday 02:00"),
    zone=BERLIN,
)


@pytest.mark.parametrize(
    ("sunday", "begun", "ended"),
    [
        ("2026-03-22", "2026-03-22 01:00", "2026-03-22 03:00"),  # winter: UTC+1
        ("2026-03-29", "2026-03-29 01:00", "2026-03-29 03:00"),  # 02:00 does not exist: it is 03:00
        ("2026-04-05", "2026-04-05 00:00", "2026-04-05 02:00"),  # summer: UTC+2
        ("2026-10-25", "2026-10-25 00:00", "2026-10-25 02:00"),  # 02:00 exists twice: the first one
        ("2026-11-01", "2026-11-01 01:00", "2026-11-01 03:00"),
    ],
)
def test_clocks_change(sunday: str, begun: str, ended: str) -> None:
    """Where the clocks of Berlin change, a window begins as RFC 5545 says, and lasts two hours."""
    day = utc(f"{sunday} 00:00")
    (occurrence,) = occurrences(WEEKLY, day - 12 * HOUR, day + 36 * HOUR)
    assert (occurrence.begun, occurrence.ended) == (utc(begun), utc(ended))


@pytest.mark.parametrize(
    ("naive", "expected"),
    [
        ("2026-03-29 01:59", "2026-03-29 00:59"),
        ("2026-03-29 02:30", "2026-03-29 01:30"),  # shown as 03:30
        ("2026-03-29 03:00", "2026-03-29 01:00"),
        ("2026-10-25 02:30", "2026-10-25 00:30"),  # not 01:30, the second one
        ("2026-10-25 03:00", "2026-10-25 02:00"),
    ],
)
def test_local_time(naive: str, expected: str) -> None:
    """A local time that does not exist has the offset before the change of the clocks.

    Of a local time that exists twice, the first one counts.
    """
    converted = local_time(BERLIN, datetime.fromisoformat(naive))
    assert (converted, converted.tzinfo) == (utc(expected), UTC)


def test_fold_is_ignored() -> None:
    """``fold`` does not select the second of two equal local times."""
    second = datetime.fromisoformat("2026-10-25 02:30").replace(fold=1)
    assert local_time(BERLIN, second) == utc("2026-10-25 00:30")


ONCE = Window(begins=NOW, duration=HOUR, services=("a", "b"), id=1)


@pytest.mark.parametrize(
    ("window", "minutes", "lasts"),
    [
        (ONCE, -1, False),
        (ONCE, 0, True),
        (ONCE, 59, True),
        (ONCE, 60, False),
        (ONCE._replace(ended_at=NOW + HOUR / 2), 29, True),
        (ONCE._replace(ended_at=NOW + HOUR / 2), 30, False),
        (ONCE._replace(ended_at=NOW - HOUR), 1, False),
        (ONCE._replace(duration=timedelta(0)), 0, False),
    ],
)
def test_running(window: Window, minutes: float, lasts: bool) -> None:
    """A window lasts from its beginning up to its end. Ending it never makes it longer."""
    current = current_occurrences([window], NOW + timedelta(minutes=minutes))
    assert [occurrence.window for occurrence in current] == [window] * lasts


def test_running_where_the_date_is_ahead() -> None:
    """In a zone 14 hours ahead of UTC, the date of an occurrence may be the next one."""
    begun = utc("2026-03-04 11:00")  # 01:00 of Thursday there
    window = Window(
        begins=begun - 30 * DAY,
        duration=HOUR,
        recurrence=parse_recurrence("Thursday 01:00"),
        zone=ZoneInfo("Pacific/Kiritimati"),
    )
    occurrence = current_occurrence(window, begun + HOUR / 2)
    assert occurrence is not None
    assert occurrence.begun == begun
    assert current_occurrence(window, begun - timedelta(seconds=1)) is None


def test_cut() -> None:
    """A window that is made during an occurrence begins then. An ended window stays ended."""
    begins = utc("2026-03-08 02:00")
    window = WEEKLY._replace(begins=begins, ended_at=utc("2026-03-22 01:30"))
    all_occurrences = list(occurrences(window, begins - 30 * DAY, begins + 90 * DAY))
    assert [(item.begun, item.ended) for item in all_occurrences] == [
        (begins, utc("2026-03-08 03:00")),
        (utc("2026-03-15 01:00"), utc("2026-03-15 03:00")),
        (utc("2026-03-22 01:00"), utc("2026-03-22 01:30")),
    ]
    assert next_occurrence(window, utc("2026-03-22 01:30")) is None


def test_next_occurrence() -> None:
    """The next occurrence is the current one, else the next one, however far in the future."""
    first = utc("2026-03-08 01:00")
    for now in (NOW, first, first + HOUR):
        occurrence = next_occurrence(WEEKLY, now)
        assert occurrence is not None
        assert occurrence.begun == first
    later = next_occurrence(WEEKLY, first + 2 * HOUR)
    assert later is not None
    assert later.begun == first + 7 * DAY
    planned = ONCE._replace(begins=NOW + 900 * DAY)
    far = next_occurrence(planned, NOW)
    assert far is not None
    assert far.begun == planned.begins
    assert next_occurrence(ONCE, NOW + HOUR) is None


def test_under_maintenance() -> None:
    """If several windows last, the latest end counts, for each service and for all services."""
    assert "a" not in under_maintenance([], NOW)
    longer = ONCE._replace(services=("b", "c"), duration=3 * HOUR)
    later = ONCE._replace(services=("d",), begins=NOW + HOUR)
    of_services = under_maintenance([longer, ONCE, later], NOW)
    assert [name for name in "abcd" if name in of_services] == ["a", "b", "c"]
    assert of_services.all_until is None
    assert [of_services.until(name) for name in "abd"] == [NOW + HOUR, NOW + 3 * HOUR, None]
    of_all = ONCE._replace(services=(), duration=2 * HOUR)
    everything = under_maintenance([of_all, longer], NOW)
    assert "e" in everything
    assert everything.all_until == NOW + 2 * HOUR
    assert [everything.until(name) for name in "be"] == [NOW + 3 * HOUR, NOW + 2 * HOUR]
    for end in (HOUR, 5 * HOUR):
        with_setting = under_maintenance([of_all], NOW, NOW + end)
        assert with_setting.all_until == NOW + max(end, 2 * HOUR)
    assert "e" in UnderMaintenance(NOW)


def test_ends_of() -> None:
    """Only a service that is under maintenance has an end."""
    of_services = UnderMaintenance(ends={"a": NOW, "b": NOW + HOUR})
    assert of_services.ends_of(["a", "c"]) == {"a": NOW}
    everything = UnderMaintenance(NOW + HOUR, {"a": NOW})
    assert everything.ends_of(["a", "c"]) == {"a": NOW + HOUR, "c": NOW + HOUR}


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (time(14), "2026-03-04 13:00"),
        (time(13), "2026-03-05 12:00"),  # it is 13:00 in Berlin now: the next one is tomorrow
        (time(0, 30), "2026-03-04 23:30"),
        (datetime.fromisoformat("2026-03-29 02:30"), "2026-03-29 01:30"),
        (datetime.fromisoformat("2026-03-29 02:30+05:00"), "2026-03-28 21:30"),
    ],
)
def test_planned_time(at: datetime | time, expected: str) -> None:
    """A time of day is the next one in the zone. A time with its own zone keeps that zone."""
    planned = planned_time(at, BERLIN, NOW)
    assert (planned, planned.tzinfo) == (utc(expected), UTC)


@pytest.mark.parametrize(
    ("zone", "at", "now", "expected"),
    [
        # The date in the zone is not that of the tests' local time.
        ("America/Los_Angeles", time(14), "2026-03-04 20:00", "2026-03-04 22:00"),
        ("Asia/Tokyo", time(8), "2026-03-04 22:30", "2026-03-04 23:00"),
        # At 00:01, the clocks went back to 23:01. The first midnight was at 02:30, and counts.
        ("America/St_Johns", time(0), "2010-11-07 03:00", "2010-11-08 03:30"),
    ],
)
def test_planned_time_near_midnight(zone: str, at: time, now: str, expected: str) -> None:
    """A time of day is the next one in the zone, also where a date begins twice."""
    assert planned_time(at, ZoneInfo(zone), utc(now)) == utc(expected)


def test_planned_time_beyond_the_calendar() -> None:
    """A local time whose time in UTC has no year is refused."""
    with pytest.raises(ValueError, match=r"^this time is beyond the calendar$"):
        planned_time(datetime.fromisoformat("0001-01-01"), ZoneInfo("Asia/Tokyo"), NOW)


recurrences = st.builds(
    Recurrence,
    st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
    st.integers(0, 23),
    st.integers(0, 59),
)
times = st.integers(0, 20 * 365 * 24 * 60).map(
    lambda minute: utc("2010-01-01 00:00") + timedelta(minutes=minute)
)
minutes = st.integers(1, 31 * 24 * 60).map(lambda number: timedelta(minutes=number))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Return a window that repeats, in a zone whose clocks may change."""
    ended_at = draw(st.none() | times)
    return Window(
        begins=draw(times),
        duration=draw(minutes),
        recurrence=draw(recurrences),
        zone=draw(st.sampled_from(ZONES)),
        ended_at=ended_at,
    )


@given(windows(), times, st.integers(0, 60 * 24 * 60))
def test_by_minutes(window: Window, since: datetime, length: int) -> None:
    """Occurrences begin at the local minutes of the recurrence, and at no other times."""
    until = since + timedelta(minutes=length)
    all_occurrences = list(occurrences(window, since, until))
    assert all_occurrences == sorted(all_occurrences, key=lambda item: item.begun)
    last = min(until, window.ended_at or until)
    for item in all_occurrences:
        assert max(window.begins, since - window.duration) <= item.begun <= last
        assert since < item.ended <= (window.ended_at or item.ended)
        assert item.begun < item.ended <= item.begun + window.duration
    recurrence = window.recurrence
    assert recurrence is not None
    # All existing local times of the recurrence whose window overlaps the period.
    for number in range((until - since).days + 2):
        local = (since + number * DAY).astimezone(window.zone)
        clock = local.replace(hour=recurrence.hour, minute=recurrence.minute, second=0, fold=0)
        begun = clock.replace(microsecond=0).astimezone(UTC)
        is_local = begun.astimezone(window.zone).time() == clock.replace(microsecond=0).time()
        if clock.weekday() not in recurrence.weekdays or not is_local:
            continue
        if max(since, window.begins) <= begun < last:
            assert begun in [item.begun for item in all_occurrences]


@given(windows(), times)
def test_running_is_an_occurrence(window: Window, now: datetime) -> None:
    """A service is under maintenance exactly in the occurrences of its window."""
    lasting = [
        item
        for item in occurrences(window, now - SEARCH_TIME, now + SEARCH_TIME)
        if item.begun <= now < item.ended
    ]
    latest = max(lasting, key=lambda item: item.ended, default=None)
    assert current_occurrence(window, now) == latest
    assert current_occurrences([window, window], now) == ([latest, latest] if latest else [])
    under = under_maintenance([window], now)
    assert ("any" in under) is bool(lasting)
    if latest:
        assert next_occurrence(window, now) == latest
        assert under.all_until == latest.ended


@given(windows(), times)
def test_there_is_always_a_next_one(window: Window, now: datetime) -> None:
    """A window that nobody ended begins again within two weeks, and never in the past."""
    window = window._replace(ended_at=None)
    occurrence = next_occurrence(window, now)
    assert occurrence is not None
    assert occurrence.ended > now
    assert occurrence.begun <= max(now, window.begins) + SEARCH_TIME


@given(recurrences, times, st.sampled_from(ZONES))
def test_lasts_for_elapsed_time(recurrence: Recurrence, now: datetime, zone: ZoneInfo) -> None:
    """A window that nobody ended lasts for its duration, even if the clocks change meanwhile."""
    window = Window(now - 40 * DAY, HOUR, recurrence=recurrence, zone=zone)
    all_occurrences = list(occurrences(window, now, now + 30 * DAY))
    assert len(all_occurrences) >= 3 * len(recurrence.weekdays)
    assert {item.ended - item.begun for item in all_occurrences} == {HOUR}
