"""The database returns the same windows that the core would choose from all windows."""

from __future__ import annotations

import contextlib
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ops_worker.adapters.postgres import Store
from ops_worker.adapters.postgres.maintenance_reads import maintenances, open_windows, windows
from ops_worker.core.maintenance import Window, next_occurrence, occurrences, parse_recurrence
from ops_worker.core.passes import WINDOW_TABLE
from ops_worker.zones import zone_of

if TYPE_CHECKING:
    from ops_worker.adapters.postgres import Transaction
    from tests.conftest import Database

pytestmark = pytest.mark.integration

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia")
RECURRENCES = ("", "", "Sunday 02:30", "day 23:45", "Monday,Thursday 00:00")
INSERT = """INSERT INTO ops_worker_maintenance_window
    (services, begins, duration_s, recurrence, zone, reason, started_by, ended_at, ended_by)
    VALUES (%s, %s, %s, %s, %s, '', 'kim', %s, %s) RETURNING id"""


def insert_windows(database: Database, numbers: random.Random, now: datetime) -> list[Window]:
    """Insert random windows. Return them."""
    inserted = []
    for _ in range(60):
        begins = now + timedelta(minutes=numbers.randint(-500_000, 50_000))
        ended_at = None
        if numbers.random() < 0.4:
            ended_at = begins + timedelta(minutes=numbers.randint(-10, 300_000))
        window = Window(
            begins=begins,
            duration=timedelta(minutes=numbers.choice([1, 60, 600, 6000])),
            services=numbers.choice([(), ("a",), ("a", "b")]),
            recurrence=None,
            zone_name=numbers.choice(ZONES),
            started_by="kim",
            ended_at=ended_at,
            ended_by="" if ended_at is None else "lee",
        )
        text = numbers.choice(RECURRENCES)
        row = (
            list(window.services) or None,
            begins,
            window.duration.total_seconds(),
            text,
            window.zone_name,
            ended_at,
            window.ended_by or None,
        )
        window = window._replace(
            zone=zone_of(window.zone_name),
            recurrence=parse_recurrence(text) if text else None,
            id=database.value(INSERT, *row),
        )
        inserted.append(window)
    return inserted


def test_windows(database: Database) -> None:
    """For any period, the windows that are read have the same occurrences as all windows."""
    numbers = random.Random(1)
    now = datetime(2026, 6, 1, tzinfo=UTC)
    with contextlib.closing(Store({"conninfo": database.url})) as store:
        store.create([WINDOW_TABLE])
        everything = insert_windows(database, numbers, now)

        def check(transaction: Transaction) -> int:
            total = 0
            for _ in range(120):
                since = now + timedelta(minutes=numbers.randint(-500_000, 50_000))
                until = since + timedelta(minutes=numbers.choice([0, 0, 60, 100_000]))
                expected = [
                    occurrence
                    for window in everything
                    for occurrence in occurrences(window, since, until)
                ]
                selected = windows(transaction, since, until)
                assert expected == [
                    occurrence
                    for window in selected
                    for occurrence in occurrences(window, since, until)
                ]
                rows = maintenances(transaction, since, until)
                assert rows == sorted(rows, key=lambda row: row.begun)
                assert len(rows) == len(expected)
                for row in rows:
                    assert row.ended_by in {None, "lee"}
                    assert row.covers("a")
                total += len(expected)
            return total

        assert store.read(check, optional_tables=[WINDOW_TABLE]) > 1000


def test_open_windows(database: Database) -> None:
    """The open windows are those that have a current or a future occurrence."""
    numbers = random.Random(2)
    with contextlib.closing(Store({"conninfo": database.url})) as store:
        store.create([WINDOW_TABLE])
        now = database.value("SELECT now()").astimezone(UTC)
        everything = insert_windows(database, numbers, now)

        def read(transaction: Transaction) -> tuple[list[Window], datetime]:
            return open_windows(transaction), transaction.now

        open_now, at = store.read(read, optional_tables=[WINDOW_TABLE])
    coming = [window for window in everything if next_occurrence(window, at)]
    assert [window for window in open_now if next_occurrence(window, at)] == coming
    assert 0 < len(coming) < len(everything)


def test_without_the_table(database: Database) -> None:
    """Without the table there are no windows."""
    with contextlib.closing(Store({"conninfo": database.url})) as store:
        assert store.read(open_windows, optional_tables=[WINDOW_TABLE]) == []


def test_dropped_constraints(database: Database) -> None:
    """A NULL is read as the default of its column. A window without a begin is left out."""
    with contextlib.closing(Store({"conninfo": database.url})) as store:
        store.create([WINDOW_TABLE])
        columns = ("begins", "duration_s", "recurrence", "zone", "reason", "started_by")
        dropped = ", ".join(f"ALTER {column} DROP NOT NULL" for column in columns)
        database.rows(f"ALTER TABLE {WINDOW_TABLE} {dropped}")
        insert = f"""INSERT INTO {WINDOW_TABLE}
            (begins, duration_s, recurrence, zone, reason, started_by)
            VALUES ({{}}, NULL, NULL, NULL)"""
        database.rows(insert.format("now(), 3600, NULL"))
        database.rows(insert.format("now(), NULL, 'day 00:00'"))
        database.rows(insert.format("NULL, 3600, NULL"))
        once, daily = store.read(open_windows, optional_tables=[WINDOW_TABLE])
    assert (once.recurrence, once.duration) == (None, timedelta(hours=1))
    assert (daily.recurrence, daily.duration) == (parse_recurrence("day 00:00"), timedelta())
    for window in (once, daily):
        assert (window.zone_name, window.reason, window.started_by) == ("UTC", "", "")
