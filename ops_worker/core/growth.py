"""How fast the worker's tables grow, and what removes their old rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ops_worker.text import format_age, format_si

if TYPE_CHECKING:
    from datetime import datetime

DAY_S = 86_400.0
MIN_AGE_S = 3600.0
"""Minimum age of the oldest row, in seconds. A shorter time does not show the growth per day."""
BYTES_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
"""The units of a size, the largest one first, and their bytes."""
SAMPLES = "system_metrics"
"""The table of the samples. It has its own retention."""
GROWING = (SAMPLES, "ops_worker_span", "ops_worker_hour", "ops_worker_day")
"""The tables that grow with time."""


class TableSize(NamedTuple):
    """The size of a table, from the statistics of the server.

    ``rows`` is None if the table was never analyzed. ``oldest`` is the time of the oldest row; it
    is None if the table is empty or divided, or has no index on the time. ``is_divided`` is True if
    the table has chunks (TimescaleDB) or partitions.
    """

    name: str
    rows: float | None
    bytes: int
    oldest: datetime | None
    is_divided: bool


class Retention(NamedTuple):
    """The age in days at which the rollup pass removes rows; 0: never."""

    samples_days: int
    history_days: int


def describe(size: TableSize, now: datetime, retention: Retention) -> str:
    """Return the size of a table, its growth per day, and what removes its old rows."""
    rows = "an unknown number of rows" if size.rows is None else f"{_format_rows(size.rows)} rows"
    content = f"{rows}, {format_bytes(size.bytes)}"
    age_s = 0.0 if size.oldest is None else (now - size.oldest).total_seconds()
    if age_s >= MIN_AGE_S:
        content = f"{_growth(size, age_s)} ({content} in {format_age(age_s)})"
    return f"{content}; {_retention(size, retention)}"


def _growth(size: TableSize, age_s: float) -> str:
    """Return the mean growth of a table per day. ``age_s`` is the age of its oldest row."""
    days = age_s / DAY_S
    bytes_per_day = format_bytes(size.bytes / days)
    if size.rows is None:
        return f"about {bytes_per_day} per day"
    return f"about {_format_rows(size.rows / days)} rows and {bytes_per_day} per day"


def _format_rows(number: float) -> str:
    return format_si(round(number))


def format_bytes(number: float) -> str:
    """Return a number of bytes with a unit: ``1.5 MiB``."""
    for unit, size in BYTES_UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def _retention(size: TableSize, retention: Retention) -> str:
    """Return what removes the old rows of a table."""
    if size.is_divided:
        return (
            "a hypertable or partitioned: a policy of the database removes old rows, if it has one"
        )
    setting, days = "HISTORY_DAYS", retention.history_days
    if size.name == SAMPLES:
        setting, days = "SAMPLES_DAYS", retention.samples_days
    if not days:
        return f"nothing removes old rows: {setting} is 0 here"
    return f"the rollup pass removes rows older than {days} d ({setting})"
