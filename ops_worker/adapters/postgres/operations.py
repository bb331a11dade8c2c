"""The transactions of people's commands: inspect tables, change alerts and maintenances."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from psycopg.errors import InsufficientPrivilege

from ops_worker.adapters.postgres.ledger_reads import is_readable
from ops_worker.adapters.postgres.maintenance_reads import open_windows, running_maintenance
from ops_worker.adapters.postgres.specs import RUN_TABLE, SPAN_TABLE
from ops_worker.adapters.postgres.transaction import SQL, column, one
from ops_worker.core.growth import GROWING, SAMPLES, TableSize
from ops_worker.core.installations import (
    RECENT_AGE,
    Claim,
    InstallationRecord,
    is_own_service,
    protected_services,
    recent_installations,
    service_list,
)
from ops_worker.core.passes import (
    ACTION_TABLE,
    MAINTENANCE_LOG,
    MAINTENANCE_TABLE,
    WINDOW_TABLE,
)
from ops_worker.core.samples import PASS_SUCCESS
from ops_worker.core.self_check import TABLES
from ops_worker.errors import SettingsError
from ops_worker.history.rows import (
    AlertRow,
    ChangedAlertRow,
    RunningMaintenance,
    UnmonitoredRow,
)
from ops_worker.text import format_age, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.maintenance import Window

TIME_COLUMNS = {
    SAMPLES: "time",
    RUN_TABLE: "id",
    SPAN_TABLE: "first_at",
    "ops_worker_hour": "begun",
    "ops_worker_day": "begun",
}
"""The column by which the oldest row of each table is found, if an index begins with it."""
Row = dict[str, Any]
"""A row of the self-check. Its rules take untyped rows."""


class Action(NamedTuple):
    """What a person did, who did it, and why. ``services`` is empty for all services."""

    action: str
    by: str = ""
    reason: str = ""
    services: tuple[str, ...] = ()
    until: datetime | None = None
    alert: int | None = None


class NewMaintenance(NamedTuple):
    """A maintenance of all services that a person starts: its length, the person, the reason."""

    seconds: float
    by: str
    reason: str


class NewWindow(NamedTuple):
    """A maintenance window that a person creates.

    ``services`` is None for all services. ``begins`` is None if the window begins now.
    ``recurrence`` is empty if the window does not repeat.
    """

    seconds: float
    by: str
    reason: str
    services: Sequence[str] | None = None
    begins: datetime | None = None
    recurrence: str = ""
    zone: str = "UTC"


def inspect(transaction: Transaction) -> tuple[Row, list[Row]]:
    """Read what the server reports about itself and the tables in ``self_check.TABLES``."""
    connection = transaction.connection
    expected = [
        {"name": table.name, "privileges": table.privileges, "columns": table.columns}
        for table in TABLES
    ]
    with connection.pipeline():
        server = transaction.execute("inspect_server")
        tables = transaction.execute("inspect_tables", {"tables": json.dumps(expected)})
    row = one(server)
    # Behind a pooler, libpq has the process ID that the pooler reports.
    pooled = row["pid"] != connection.info.backend_pid
    return row | {"pooled": pooled}, tables.fetchall()


def table_sizes(transaction: Transaction) -> list[TableSize]:
    """Read the sizes of the tables that grow with time, without reading their rows.

    Return no sizes on failure: other lines of the checklist report what is wrong with the tables.
    """
    sizes: list[TableSize] = []
    with transaction.best_effort("the sizes of the tables were not read"):
        sizes += _table_sizes(transaction)
    return sizes


def _table_sizes(transaction: Transaction) -> list[TableSize]:
    names = json.dumps([{"name": name, "time": time} for name, time in TIME_COLUMNS.items()])
    cursor = transaction.execute("table_sizes", {"tables": names})
    rows = {row["name"]: row for row in cursor.fetchall()}
    sizes = []
    for name in GROWING:
        if name not in rows:
            continue
        row = rows[name]
        if row["is_measurable"]:
            row |= _hypertable_size(transaction)
        # Spans have no index on time alone, but they are as old as the first run.
        dated = rows.get(RUN_TABLE if name == SPAN_TABLE else name)
        oldest = None
        if dated is not None and dated["is_indexed"] and not row["is_divided"]:
            oldest = _oldest(transaction, dated["name"])
        sizes.append(TableSize(name, row["rows"], row["bytes"], oldest, row["is_divided"]))
    return sizes


def _hypertable_size(transaction: Transaction) -> Row:
    """Return the rows and bytes of a hypertable with its compressed chunks.

    Return an empty row for a plain table.
    """
    row: Row | None = transaction.execute("hypertable_size").fetchone()
    return row if row and row["bytes"] is not None else {}


def _oldest(transaction: Transaction, name: str) -> datetime | None:
    """Return the time of the oldest row; None if there is no row, or the value is not a time."""
    row = transaction.execute(f"oldest_of_{name}").fetchone()
    oldest = row["oldest"] if row else None
    return oldest if isinstance(oldest, datetime) else None


def alerts(transaction: Transaction, *, closed: bool) -> list[AlertRow]:
    """Return the system alerts that are open or acknowledged, the oldest first.

    With ``closed``, also return the last hundred closed alerts.
    """
    return transaction.query(AlertRow, "list_alerts", {"closed": closed}).fetchall()


def acknowledge(
    transaction: Transaction, number: int, by: str, reason: str = ""
) -> ChangedAlertRow:
    """Acknowledge an open alert, as the platform does.

    Raises SettingsError if the alert is not open.
    """
    parameters = {"id": number, "by": by}
    row = transaction.query(ChangedAlertRow, "acknowledge_alert", parameters).fetchone()
    if row is None:
        _raise_not_changed(transaction, number)
    _record(transaction, Action("acknowledged", by, reason, (row.service,), alert=number))
    return row


def close(transaction: Transaction, number: int, by: str, reason: str = "") -> ChangedAlertRow:
    """Close an alert that is open or acknowledged, as a recovery does.

    Raises SettingsError if the alert is neither.
    """
    row = transaction.query(ChangedAlertRow, "close_alert", {"id": number}).fetchone()
    if row is None:
        _raise_not_changed(transaction, number)
    _record(transaction, Action("closed", by, reason, (row.service,), alert=number))
    return row


def _raise_not_changed(transaction: Transaction, number: int) -> NoReturn:
    """Raise SettingsError with the status of the alert, or with the numbers of the open ones."""
    for alert in alerts(transaction, closed=True):
        if alert.id == number:
            by = f" by {alert.acknowledged_by}" if alert.status == "ACKNOWLEDGED" else ""
            raise SettingsError([f"alert {number} is {alert.status}{by} already"])
    numbers = ", ".join(str(alert.id) for alert in alerts(transaction, closed=False))
    state = f"open alerts: {numbers}" if numbers else "no alert is open"
    raise SettingsError([f"there is no system alert {number}; {state}"])


def prune(
    transaction: Transaction, monitored: Sequence[str], by: str, reason: str, *, dry_run: bool
) -> list[UnmonitoredRow]:
    """Remove the rows of services that are no longer monitored, and close their alerts.

    The history of these services stays and ends with the last pass. Services that another
    installation in this database monitors stay, and the own alert of that installation also stays.
    Return all of these services. If a service stays, its row names the other installation. A dry
    run changes nothing.

    Raises SettingsError if the settings are not those of the passes that record the services.
    """
    # The first health pass creates this table. Alerts may exist without it.
    if "service_health" in transaction.present:
        parameters = {"watched": json.dumps(monitored)}
        rows = transaction.query(UnmonitoredRow, "unwatched", parameters).fetchall()
    else:
        rows = [
            UnmonitoredRow(service=alert.service, checked_at=None, alert=alert.id)
            for alert in alerts(transaction, closed=False)
            if alert.service not in monitored
        ]
    others: list[InstallationRecord] = []
    if any(is_own_service(row.service) for row in rows):
        others = _recorded_installations(transaction)
    own_services = {row.service for row in rows if row.installation == transaction.installation}
    keepers = protected_services(claims(transaction), others, transaction.now, own_services)
    rows = [row._replace(kept_by=keepers.get(row.service, "")) for row in rows]
    _refuse_other_settings(transaction, monitored, rows)
    names = tuple(row.service for row in rows if not row.kept_by)
    if names and not dry_run:
        services = {"services": json.dumps(names)}
        with transaction.connection.pipeline():
            transaction.execute("forget_services", services)
            transaction.execute("close_alerts", services)
        if {RUN_TABLE, SPAN_TABLE} <= transaction.present:
            _if_permitted(transaction, SQL["end_spans_of"], services)
        _record(transaction, Action("pruned", by, reason, names))
    return rows


def _refuse_other_settings(
    transaction: Transaction, monitored: Sequence[str], rows: Sequence[UnmonitoredRow]
) -> None:
    """Raise SettingsError if no monitored service was ever recorded, but others were lately.

    Then this command has other settings than the passes, for example on a machine without their
    catalogue, and would remove what they monitor. A catalogue without services means what it says.
    """
    services = [name for name in monitored if not is_own_service(name)]
    recent = [
        row.service
        for row in rows
        if not row.kept_by and row.checked_at and transaction.now - row.checked_at <= RECENT_AGE
    ]
    if not services or not recent:
        return
    parameters = {"services": json.dumps(services)}
    (row,) = transaction.execute("any_recorded", parameters).fetchall()
    if not row["is_any"]:
        fault = (
            f"none of the monitored services ({service_list(services)}) was ever recorded, but "
            f"passes recorded {service_list(recent)} lately: run this command with the "
            "catalogue and the INSTALLATION of these passes, on Kubernetes by `ops-worker "
            "trigger --args 'alerts prune' --wait`"
        )
        raise SettingsError([fault])


def claims(transaction: Transaction) -> list[Claim]:
    """Read which services other installations in this database monitor, and when they last did."""
    rows: list[Claim] = []
    if "service_health" in transaction.present:
        rows += transaction.query(Claim, "claims_of_rows", _own(transaction)).fetchall()
    if is_readable(transaction):
        rows += transaction.query(Claim, "claims_of_spans", _own(transaction)).fetchall()
    return rows


def _recorded_installations(transaction: Transaction) -> list[InstallationRecord]:
    """Read which other installations were recorded lately, by their runs and self-metrics."""
    rows: list[InstallationRecord] = []
    if is_readable(transaction):
        rows += transaction.query(InstallationRecord, "installations").fetchall()
    if transaction.may_read(("system_metrics",)):
        now = transaction.now
        parameters = {"metric": PASS_SUCCESS, "since": now - RECENT_AGE, "until": now}
        rows += transaction.query(
            InstallationRecord, "installations_of_samples", parameters
        ).fetchall()
    return recent_installations(rows, transaction.installation, transaction.now)


def _own(transaction: Transaction) -> dict[str, str]:
    return {"installation": transaction.installation}


def start(
    transaction: Transaction, maintenance: NewMaintenance, *, replace: bool
) -> RunningMaintenance | None:
    """Start a maintenance; return the maintenance that was running before, if there was one.

    If the same maintenance is already running, start it anew. Raises SettingsError if another
    maintenance is running and ``replace`` is false.
    """
    running = running_maintenance(transaction)
    parameters = maintenance._asdict() | {"replace": replace}
    # If an older release started the maintenance that is replaced now, it is not in the log yet.
    _log(transaction, SQL["log_maintenance"], parameters)
    started = transaction.execute("start_maintenance", parameters).fetchone()
    if started is None:
        current = running_maintenance(transaction)
        assert current is not None, "the one that was not replaced"
        hint = "Nothing was changed; use --replace to replace it"
        raise SettingsError([f"another maintenance is running: {describe(current)}. {hint}"])
    _log(transaction, SQL["log_maintenance_end"], parameters)
    _log(transaction, SQL["log_maintenance"], parameters)
    action = Action(
        action="maintenance_started",
        by=maintenance.by,
        reason=maintenance.reason,
        until=started["until"],
    )
    _record(transaction, action)
    return running


def end(transaction: Transaction, by: str) -> bool:
    """End the maintenance of all services; return whether one was running."""
    was_running = running_maintenance(transaction) is not None
    if MAINTENANCE_TABLE in transaction.present:
        _log(transaction, SQL["log_maintenance"], {})
        transaction.execute("end_maintenance")
        _log(transaction, SQL["log_maintenance_end"], {"by": by})
        if was_running:
            _record(transaction, Action("maintenance_ended", by))
    return was_running


def start_window(transaction: Transaction, request: NewWindow) -> tuple[Window, list[int]]:
    """Create a maintenance window in addition to others.

    Return the window, and the numbers of the windows that it replaces. It replaces an equal window,
    so that a command may be repeated.
    """
    now = transaction.now
    begins = request.begins or now
    parameters = request._asdict() | {
        "services": None if request.services is None else list(request.services),
        "begins": begins,
        "is_planned": request.begins is not None,
        "now": now,
    }
    replaced = list(column(transaction.execute("end_same_windows", parameters), "id"))
    number = one(transaction.execute("start_window", parameters))["id"]
    is_started = request.begins is None and not request.recurrence
    action = Action(
        action="maintenance_started" if is_started else "maintenance_planned",
        by=request.by,
        reason=request.reason,
        services=tuple(request.services or ()),
        until=None if request.recurrence else begins + timedelta(seconds=request.seconds),
    )
    _record(transaction, action)
    (window,) = [window for window in open_windows(transaction) if window.id == number]
    return window, replaced


def end_window(transaction: Transaction, number: int, by: str) -> None:
    """End a running or planned maintenance window, with all its later occurrences.

    Raises SettingsError if there is no such window.
    """
    ended = None
    if WINDOW_TABLE in transaction.present:
        parameters = {"id": number, "by": by, "now": transaction.now}
        ended = transaction.execute("end_window", parameters).fetchone()
    if ended is None:
        fault = f"maintenance {number} is neither running nor planned"
        raise SettingsError([f"{fault}; {_open_numbers(transaction)}"])
    _record(transaction, Action("maintenance_ended", by, services=tuple(ended["services"] or ())))


def _open_numbers(transaction: Transaction) -> str:
    """Return the numbers of the windows that a person can end, as text for a message."""
    numbers = ", ".join(str(window.id) for window in open_windows(transaction))
    return f"`ops-worker maintenance list` lists {numbers}" if numbers else "none is"


def end_any(transaction: Transaction, by: str) -> bool:
    """End the maintenance of all services; return whether one was running.

    Raises SettingsError if only windows are running or planned: then a person must name the window.
    """
    was_running = end(transaction, by)
    if not was_running and open_windows(transaction):
        fault = "no maintenance of all services was started without --at and --every"
        remedy = f"give the ID of another one: {_open_numbers(transaction)}"
        raise SettingsError([f"{fault}; {remedy}"])
    return was_running


def describe(maintenance: RunningMaintenance) -> str:
    """Return one line with the end of a maintenance, who started it, and why."""
    until = f"{maintenance.until:%Y-%m-%d %H:%M:%S %Z} ({format_age(maintenance.left_s)} left)"
    reason = f": {one_line(maintenance.reason)}" if maintenance.reason else ""
    by = f"started by {one_line(maintenance.started_by)}{reason}"
    return f"maintenance of all services until {until}, {by}"


def _log(transaction: Transaction, statement: str, parameters: Mapping[str, object]) -> None:
    """Write to the log of maintenances, if it exists. A missing privilege is a warning."""
    if MAINTENANCE_LOG in transaction.present:
        _if_permitted(transaction, statement, parameters)


def _record(transaction: Transaction, action: Action) -> None:
    """Record what a person did, if the table exists. A missing privilege is a warning."""
    if ACTION_TABLE in transaction.present:
        parameters = action._asdict() | {"services": json.dumps(action.services)}
        _if_permitted(transaction, SQL["record_action"], parameters)


def _if_permitted(
    transaction: Transaction, statement: str, parameters: Mapping[str, object]
) -> None:
    """Execute an optional statement. A missing privilege is a warning.

    For example, a role may be permitted to start a maintenance, but not to write the log.
    """
    try:
        with transaction.connection.transaction():  # a savepoint
            transaction.connection.execute(statement, parameters)
    except InsufficientPrivilege as error:
        transaction.warnings.append(one_line(error.diag.message_primary or str(error)))
