"""What people's commands do inside a transaction: inspect, acknowledge, close, remove, start and end a maintenance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from psycopg.errors import InsufficientPrivilege

from ops_worker.adapters.postgres.specs import MAINTENANCE_LOG, MAINTENANCE_TABLE
from ops_worker.adapters.postgres.transaction import SQL, one
from ops_worker.core.self_check import TABLES
from ops_worker.errors import SettingsError
from ops_worker.text import format_age, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ops_worker.adapters.postgres.transaction import Transaction

Row = dict[str, Any]


def inspect(transaction: Transaction) -> tuple[Row, list[Row]]:
    """Read what the server tells of itself, and of the tables of ``checkup.TABLES``."""
    connection = transaction.connection
    wanted = [
        {"name": table.name, "privileges": table.privileges, "columns": table.columns}
        for table in TABLES
    ]
    with connection.pipeline():
        server = connection.execute(SQL["inspect_server"])
        tables = connection.execute(SQL["inspect_tables"], {"tables": json.dumps(wanted)})
    found = one(server)
    pooled = found["pid"] != connection.info.backend_pid  # a pooler gives a number of its own
    return found | {"pooled": pooled}, tables.fetchall()


def alerts(transaction: Transaction, *, closed: bool) -> list[Row]:
    """List the system alerts that are open or acknowledged, oldest first; with ``closed`` the last hundred of those as well."""
    return transaction.connection.execute(SQL["list_alerts"], {"closed": closed}).fetchall()


def acknowledge(transaction: Transaction, number: int, by: str) -> Row:
    """Acknowledge an open alert, as the platform does. Raises SettingsError where it is not open."""
    return _changed(transaction, SQL["acknowledge_alert"], number, {"by": by})


def close(transaction: Transaction, number: int) -> Row:
    """Close an alert that is open or acknowledged, as a recovery does. Raises SettingsError where it is neither."""
    return _changed(transaction, SQL["close_alert"], number, {})


def prune(transaction: Transaction, watched: Sequence[str], *, dry_run: bool) -> list[Row]:
    """Remove the rows of services that are not watched, and close their alerts; give each with its row and its alert."""
    execute = transaction.connection.execute
    if "service_health" in transaction.present:
        found = execute(SQL["unwatched"], {"watched": json.dumps(watched)}).fetchall()
    else:
        left = [row for row in alerts(transaction, closed=False) if row["service"] not in watched]
        found = [
            {"service": row["service"], "checked_at": None, "alert": row["id"]} for row in left
        ]
    if found and not dry_run:
        names = {"services": json.dumps([row["service"] for row in found])}
        with transaction.connection.pipeline():
            execute(SQL["forget_services"], names)
            execute(SQL["close_alerts"], names)
    return found


def start(transaction: Transaction, given: Mapping[str, Any], *, replace: bool) -> Row:
    """Begin a maintenance of ``seconds`` for a ``reason`` that a person names, ``by``.

    Return the one in whose place it is, if there was one. A repeat of the same begins it anew.
    Raises SettingsError where another one is running and is not to be replaced.
    """
    running = maintenance(transaction)
    _log(transaction, SQL["log_maintenance"], given)
    given = {**given, "replace": replace}
    if not transaction.connection.execute(SQL["start_maintenance"], given).fetchone():
        stays = described(maintenance(transaction))
        remedy = "Nothing was changed; --replace puts yours in its place"
        raise SettingsError([f"one is running already: {stays}. {remedy}"])
    _log(transaction, SQL["log_maintenance_end"], given)
    _log(transaction, SQL["log_maintenance"], given)
    return running


def end(transaction: Transaction, by: str) -> bool:
    """End the maintenance, and say whether there was one."""
    lasts = bool(maintenance(transaction))
    if MAINTENANCE_TABLE in transaction.present:
        _log(transaction, SQL["log_maintenance"], {})
        transaction.connection.execute(SQL["end_maintenance"])
        _log(transaction, SQL["log_maintenance_end"], {"by": by})
    return lasts


def described(row: Mapping[str, Any]) -> str:
    """Say whose maintenance it is, until when, and what for."""
    reason = f": {one_line(row['reason'])}" if row["reason"] else ""
    until = f"{row['until']:%Y-%m-%d %H:%M:%S %Z} ({format_age(row['left_s'])} left)"
    return f"maintenance until {until}, started by {one_line(row['started_by'])}{reason}"


def _log(transaction: Transaction, statement: str, given: Mapping[str, Any]) -> None:
    """Write to the history, where there is one; where this role may not, that is a warning."""
    if MAINTENANCE_LOG not in transaction.present:
        return
    try:
        with transaction.connection.transaction():  # a savepoint
            transaction.connection.execute(statement, given)
    except InsufficientPrivilege as error:
        transaction.warnings.append(one_line(error.diag.message_primary or str(error)))


def maintenance(transaction: Transaction) -> Row:
    """Give the maintenance that lasts now; nothing where there is none."""
    if MAINTENANCE_TABLE not in transaction.present:
        return {}
    return transaction.connection.execute(SQL["maintenance"]).fetchone() or {}


def _changed(transaction: Transaction, statement: str, number: int, given: Row) -> Row:
    if changed := transaction.connection.execute(statement, given | {"id": number}).fetchone():
        return changed
    if there := [row for row in alerts(transaction, closed=True) if row["id"] == number]:
        by = f" by {there[0]['acknowledged_by']}" if there[0]["status"] == "ACKNOWLEDGED" else ""
        raise SettingsError([f"alert {number} is {there[0]['status']}{by} already"])
    numbers = ", ".join(str(row["id"]) for row in alerts(transaction, closed=False))
    raise SettingsError(
        [f"no system alert {number}: {f'open are {numbers}' if numbers else 'none is open'}"]
    )
