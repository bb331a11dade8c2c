"""Read maintenance for passes and commands: windows, occurrences, running maintenances."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.maintenance import (
    Window,
    current_occurrences,
    occurrences,
    parse_recurrence,
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
"""How far ahead planned windows are listed: about ten years."""


class WindowRow(NamedTuple):
    """A maintenance window: ``maintenance_windows``. ``services`` is None for all services."""

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
    """Return the running maintenance of all services; None if there is none.

    It is the row of ``ops_worker_maintenance``. Windows may be running at the same time.
    """
    # Only readers need this module, and its import takes a few milliseconds.
    from ops_worker.history.rows import RunningMaintenance

    if MAINTENANCE_TABLE not in transaction.present:
        return None
    return transaction.query(RunningMaintenance, "maintenance").fetchone()


def windows(transaction: Transaction, since: datetime, until: datetime) -> list[Window]:
    """Return the windows that may have lasted between two times, in the order of their numbers.

    A window whose recurrence or zone cannot be read is left out with a warning. Then alerts open
    during this window.
    """
    if WINDOW_TABLE not in transaction.present:
        return []
    parameters = {"since": since, "until": until}
    result = []
    for row in transaction.query(WindowRow, "maintenance_windows", parameters):
        try:
            result.append(_window(row))
        except ValueError as error:
            warning = f"maintenance window {row.id} is left out: {error}"
            transaction.warnings.append(one_line(warning))
    return result


def open_windows(transaction: Transaction) -> list[Window]:
    """Return the windows that are running or planned."""
    now = transaction.now
    return windows(transaction, now, now + AHEAD)


def running_windows(transaction: Transaction) -> list[Occurrence]:
    """Return the occurrences of windows that are running now."""
    now = transaction.now
    return current_occurrences(windows(transaction, now, now), now)


def services_under_maintenance(
    transaction: Transaction, all_until: datetime | None
) -> UnderMaintenance:
    """Return which services are under maintenance, by windows and by ``all_until``.

    ``all_until`` is the end of a maintenance of all services, or None.
    """
    now = transaction.now
    return under_maintenance(windows(transaction, now, now), now, all_until)


def maintenances(
    transaction: Transaction, since: datetime, until: datetime
) -> list[MaintenanceRow]:
    """Read the maintenances between two times, the oldest first.

    Each occurrence of a window is one maintenance.
    """
    from ops_worker.history.rows import MaintenanceRow

    parameters = {"since": since, "until": until}
    rows: list[MaintenanceRow] = []
    if MAINTENANCE_LOG in transaction.present:
        rows += transaction.query(MaintenanceRow, "maintenances_logged", parameters)
    if MAINTENANCE_TABLE in transaction.present:
        # An older release may have started a maintenance without an entry in the log.
        logged = {row.begun for row in rows}
        current = transaction.query(MaintenanceRow, "maintenances_kept", parameters)
        rows += [row for row in current if row.begun not in logged]
    for window in windows(transaction, since, until):
        rows += [MaintenanceRow.of(occurrence) for occurrence in occurrences(window, since, until)]
    return sorted(rows, key=lambda row: row.begun)


def _window(row: WindowRow) -> Window:
    """Return the window of a row. Raises ValueError if its recurrence or zone cannot be read."""
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
