"""Read maintenance for passes and commands: windows, occurrences, running maintenances."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.maintenance import (
    Window,
    occurrences,
    parse_recurrence,
    running,
    under_maintenance,
)
from ops_worker.core.passes import MAINTENANCE_LOG, MAINTENANCE_TABLE, WINDOW_TABLE
from ops_worker.text import one_line
from ops_worker.zones import zone_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.maintenance import Occurrence, UnderMaintenance
    from ops_worker.history.rows import MaintenanceRow, RunningMaintenance

AHEAD = timedelta(days=3650)
"""How far ahead planned windows are listed."""


class WindowRow(NamedTuple):
    """A maintenance window: ``maintenance_windows``. ``services`` is None for all of them."""

    id: int
    services: Sequence[str] | None
    begins: datetime
    duration_s: float
    recurrence: str
    zone: str
    reason: str
    started_by: str
    ended_at: datetime | None
    ended_by: str | None


def running_maintenance(transaction: Transaction) -> RunningMaintenance | None:
    """Return the maintenance of all services that is running; None if there is none.

    It is the row of ``ops_worker_maintenance``. Windows may be running at the same time.
    """
    # Only readers need it, and it takes some milliseconds to import.
    from ops_worker.history.rows import RunningMaintenance

    if MAINTENANCE_TABLE not in transaction.present:
        return None
    return transaction.query(RunningMaintenance, "maintenance").fetchone()


def windows(transaction: Transaction, since: datetime, until: datetime) -> list[Window]:
    """Return the windows that may have lasted between two times, in the order of their numbers.

    A window whose recurrence or zone cannot be read is left out, with a warning: its alerts open.
    """
    if WINDOW_TABLE not in transaction.present:
        return []
    parameters = {"since": since, "until": until}
    result = []
    for row in transaction.query(WindowRow, "maintenance_windows", parameters):
        try:
            result.append(_window(row))
        except ValueError as error:
            said = f"maintenance window {row.id} is left out: {error}"
            transaction.warnings.append(one_line(said))
    return result


def open_windows(transaction: Transaction) -> list[Window]:
    """Return the windows that are running or still to come."""
    now = transaction.now
    return windows(transaction, now, now + AHEAD)


def running_windows(transaction: Transaction) -> list[Occurrence]:
    """Return the occurrences of windows that last now."""
    now = transaction.now
    return running(windows(transaction, now, now), now)


def services_under_maintenance(
    transaction: Transaction, all_until: datetime | None
) -> UnderMaintenance:
    """Return which services are under maintenance by the windows, and by ``all_until``."""
    now = transaction.now
    return under_maintenance(windows(transaction, now, now), now, all_until)


def maintenances(
    transaction: Transaction, since: datetime, until: datetime
) -> list[MaintenanceRow]:
    """Read the maintenances between two times, the oldest first. A window has each occurrence."""
    from ops_worker.history.rows import MaintenanceRow

    parameters = {"since": since, "until": until}
    rows: list[MaintenanceRow] = []
    if MAINTENANCE_LOG in transaction.present:
        rows += transaction.query(MaintenanceRow, "maintenances_logged", parameters)
    if MAINTENANCE_TABLE in transaction.present:
        # An older release started it and did not log it.
        logged = {row.begun for row in rows}
        kept = transaction.query(MaintenanceRow, "maintenances_kept", parameters)
        rows += [row for row in kept if row.begun not in logged]
    for window in windows(transaction, since, until):
        rows += [MaintenanceRow.of(occurrence) for occurrence in occurrences(window, since, until)]
    return sorted(rows, key=lambda row: row.begun)


def _window(row: WindowRow) -> Window:
    """Return a window. Raises ValueError if its recurrence or its zone cannot be read."""
    return Window(
        begins=row.begins,
        duration=timedelta(seconds=row.duration_s),
        services=tuple(row.services or ()),
        recurrence=parse_recurrence(row.recurrence) if row.recurrence else None,
        zone=zone_of(row.zone),
        zone_name=row.zone,
        started_by=row.started_by,
        reason=row.reason,
        ended_at=row.ended_at,
        ended_by=row.ended_by or "",
        id=row.id,
    )
