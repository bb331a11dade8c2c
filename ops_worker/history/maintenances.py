"""Past, running and planned maintenances, as documents and as tables."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.history.actions import named_services
from ops_worker.history.screen import Column, ScreenTable, flexible, format_time
from ops_worker.text import format_age, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ops_worker.core.maintenance import Occurrence
    from ops_worker.history.rows import MaintenanceRow

MAX_NAMES = 20
"""Maximum number of services that a line names."""


class Maintenance(NamedTuple):
    """A maintenance, or one occurrence of a window. ``services`` is empty for all services."""

    from_: datetime
    to: datetime
    started_by: str
    reason: str
    services: Sequence[str] = ()


def maintenance_document(row: MaintenanceRow) -> Maintenance:
    """Return the maintenance of a row in the form of the documents."""
    return Maintenance(
        from_=row.begun.astimezone(UTC),
        to=row.ended.astimezone(UTC),
        started_by=one_line(row.started_by),
        reason=one_line(row.reason),
        services=[one_line(service) for service in row.services],
    )


def maintenances_table(maintenances: Iterable[Maintenance], title: str) -> ScreenTable:
    """Return the table of maintenances, in the order in which they come."""
    columns = (
        Column("FROM"),
        Column("TO"),
        Column("SERVICES", least=8),
        Column("STARTED BY", least=10),
        Column("REASON", least=8, is_note=True),
    )
    rows = tuple(
        (
            format_time(maintenance.from_),
            format_time(maintenance.to),
            named_services(maintenance.services),
            maintenance.started_by,
            maintenance.reason or "-",
        )
        for maintenance in maintenances
    )
    return flexible(title, columns, rows)


class Listed(NamedTuple):
    """A running or planned maintenance, as ``maintenance list`` shows it.

    ``id`` is the number of a window; None for a maintenance that is not a window. The current or
    next occurrence lasts from ``from_`` to ``to``; ``from_`` is None if it is not known. ``every``
    is empty if the maintenance does not repeat.
    """

    id: int | None
    state: str
    services: Sequence[str]
    from_: datetime | None
    to: datetime
    every: str
    zone: str
    started_by: str
    reason: str


RUNNING, PLANNED = "running", "planned"


def listed(occurrence: Occurrence, now: datetime) -> Listed:
    """Return the list entry of a window with its current or next occurrence."""
    window = occurrence.window
    return Listed(
        id=window.id,
        state=RUNNING if occurrence.begun <= now else PLANNED,
        services=[one_line(service) for service in window.services],
        from_=occurrence.begun.astimezone(UTC),
        to=occurrence.ended.astimezone(UTC),
        every=window.recurrence.text if window.recurrence else "",
        zone=one_line(window.zone_name),
        started_by=one_line(window.started_by),
        reason=one_line(window.reason),
    )


def listed_until(until: datetime, started_by: str, reason: str = "") -> Listed:
    """Return the list entry of a maintenance of all services that is not a window."""
    return Listed(
        id=None,
        state=RUNNING,
        services=(),
        from_=None,
        to=until.astimezone(UTC),
        every="",
        zone="UTC",
        started_by=one_line(started_by),
        reason=one_line(reason),
    )


def list_table(maintenances: Iterable[Listed]) -> ScreenTable:
    """Return the table of the maintenances that are running or planned."""
    columns = (
        Column("ID"),
        Column("STATE", drop=2),
        Column("SERVICES", least=8),
        Column("FROM"),
        Column("TO"),
        Column("EVERY", least=12),
        Column("STARTED BY", least=10, drop=1),
        Column("REASON", least=8, is_note=True),
    )
    rows = tuple(
        (
            "-" if maintenance.id is None else str(maintenance.id),
            maintenance.state,
            named_services(maintenance.services),
            _minute(maintenance.from_),
            _minute(maintenance.to),
            f"{maintenance.every} {maintenance.zone}" if maintenance.every else "-",
            maintenance.started_by,
            maintenance.reason or "-",
        )
        for maintenance in maintenances
    )
    none = "no maintenance is running or planned; alerts open"
    return flexible("Maintenance, times in UTC", columns, rows, none=none)


def describe(occurrence: Occurrence, now: datetime) -> str:
    """Return one line that describes a window: its services, times, author and reason."""
    window = occurrence.window
    services = ", ".join(one_line(service) for service in window.services[:MAX_NAMES])
    if len(window.services) > MAX_NAMES:
        services += f" and {len(window.services) - MAX_NAMES} more"
    of = f"maintenance {window.id} of {services or 'all services'}"
    reason = f": {one_line(window.reason)}" if window.reason else ""
    verb = "started" if occurrence.begun <= now else "planned"
    by = f"{verb} by {one_line(window.started_by)}{reason}"
    if occurrence.begun <= now:
        left_s = (occurrence.ended - now).total_seconds()
        of += f" until {_time(occurrence.ended)} ({format_age(left_s)} left)"
    else:
        of += f" from {_time(occurrence.begun)} until {_time(occurrence.ended)}"
    if window.recurrence is not None:
        of += f", every {window.recurrence.text} {one_line(window.zone_name)}"
    return f"{of}, {by}"


def _minute(time: datetime | None) -> str:
    """Return a time without its seconds, so that two times fit into one line."""
    return f"{time:%Y-%m-%d %H:%M}" if time else "-"


def _time(time: datetime) -> str:
    return f"{format_time(time.astimezone(UTC))} UTC"
