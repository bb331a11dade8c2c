"""What the worker's tables grow by, and what removes their old rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ops_worker.text import format_age, format_si

if TYPE_CHECKING:
    from datetime import datetime

DAY_S = 86_400.0
MIN_AGE_S = 3600.0
"""A table whose rows are younger says nothing about a day."""
BYTES_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
SAMPLES = "system_metrics"
"""The table of the samples, which has a retention of its own."""
GROWING = (SAMPLES, "ops_worker_span", "ops_worker_hour", "ops_worker_day")
"""The tables that grow with time."""


class TableSize(NamedTuple):
    """How large a table is, by the statistics of the server.

    ``rows`` is None if the table was never analyzed. ``oldest`` is the time of its oldest row, None
    if it has none or no index tells. ``is_divided`` is whether it
    has chunks (TimescaleDB) or partitions.
    """

    name: str
    rows: float | None
    bytes: int
    oldest: datetime | None
    is_divided: bool


class Retention(NamedTuple):
    """After how many days the rollup pass removes rows; 0: never."""

    samples_days: int
    history_days: int


def describe(size: TableSize, now: datetime, retention: Retention) -> str:
    """Return what a table has, what it grows by per day, and what removes its old rows."""
    rows = "an unknown number of rows" if size.rows is None else f"{_rows(size.rows)} rows"
    has = f"{rows}, {format_bytes(size.bytes)}"
    age_s = 0.0 if size.oldest is None else (now - size.oldest).total_seconds()
    if age_s >= MIN_AGE_S:
        has = f"{_growth(size, age_s)} ({has} in {format_age(age_s)})"
    return f"{has}; {_retention(size, retention)}"


def _growth(size: TableSize, age_s: float) -> str:
    """Return by how much a table grew per day, on average."""
    days = age_s / DAY_S
    grown = f"about {format_bytes(size.bytes / days)} per day"
    if size.rows is None:
        return grown
    return f"about {_rows(size.rows / days)} rows and {format_bytes(size.bytes / days)} per day"


def _rows(number: float) -> str:
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
    name, days = "HISTORY_DAYS", retention.history_days
    if size.name == SAMPLES:
        name, days = "SAMPLES_DAYS", retention.samples_days
    if not days:
        return f"nothing removes old rows: {name} is 0 here"
    return f"the rollup pass removes rows older than {days} d ({name})"
