"""What `check` prints about growing tables: size, growth per day, and what removes old rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ops_worker.core.growth import Retention, TableSize, describe, format_bytes

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SIZE = TableSize("system_metrics", 7_000_000.0, 1 << 30, NOW - timedelta(days=7), False)
KEPT = Retention(samples_days=7, history_days=400)


@pytest.mark.parametrize(
    ("size", "retention", "expected"),
    [
        (
            SIZE,
            KEPT,
            "about 1.00 M rows and 146 MiB per day (7.00 M rows, 1 GiB in 7 d); "
            "the rollup pass removes rows older than 7 d (SAMPLES_DAYS)",
        ),
        (
            SIZE._replace(name="ops_worker_span", rows=250.0, bytes=10_240),
            KEPT,
            "about 36 rows and 1.43 KiB per day (250 rows, 10 KiB in 7 d); "
            "the rollup pass removes rows older than 400 d (HISTORY_DAYS)",
        ),
        (
            SIZE._replace(rows=None),
            Retention(0, 0),
            "about 146 MiB per day (an unknown number of rows, 1 GiB in 7 d); "
            "nothing removes old rows: SAMPLES_DAYS is 0 here",
        ),
        (
            SIZE._replace(name="ops_worker_day", oldest=NOW - timedelta(minutes=59), bytes=0),
            Retention(7, 0),
            "7.00 M rows, 0 B; nothing removes old rows: HISTORY_DAYS is 0 here",
        ),
        (
            SIZE._replace(oldest=None, is_divided=True),
            KEPT,
            "7.00 M rows, 1 GiB; "
            "a hypertable or partitioned: a policy of the database removes old rows, if it has one",
        ),
        (
            SIZE._replace(oldest=datetime.max.replace(tzinfo=UTC)),
            KEPT,
            "7.00 M rows, 1 GiB; the rollup pass removes rows older than 7 d (SAMPLES_DAYS)",
        ),
    ],
)
def test_describe(size: TableSize, retention: Retention, expected: str) -> None:
    """The growth is the size, divided by the age of the oldest row.

    If the oldest row is younger than an hour, the growth is not known.
    """
    assert describe(size, NOW, retention) == expected


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1.5 * 2**20, "1.5 MiB"), (2**33, "8 GiB")],
)
def test_format_bytes(number: float, text: str) -> None:
    """The unit is the largest one of which the size has at least one."""
    assert format_bytes(number) == text
