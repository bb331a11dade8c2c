"""What people did, as documents and as a table: acknowledged and closed alerts, maintenances."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.history.screen import Column, ScreenTable, flexible, format_time
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ops_worker.history.rows import ActionRow, JsonValue

ALL_SERVICES = "all"
"""What the table shows if an action is about all services."""
NO_ACTIONS = "no table ops_worker_action to read (`ops-worker init-db`)"
"""What a screen shows if the table of actions is missing or may not be read."""


WORDS = {
    "acknowledged": "acknowledged alert",
    "closed": "closed alert",
    "pruned": "removed services (alerts prune)",
    "maintenance_started": "started a maintenance",
    "maintenance_planned": "planned a maintenance",
    "maintenance_ended": "ended the maintenance",
}
"""Each action in words. An action that is not listed here is shown unchanged."""


class Action(NamedTuple):
    """What a person did.

    ``services`` is empty if the action is about all services. ``until`` is the end of a
    maintenance, ``alert`` the number of an alert.
    """

    at: datetime
    action: str
    by: str
    reason: str
    services: Sequence[str]
    until: datetime | None
    alert: int | None


def action_document(row: ActionRow) -> Action:
    """Return the action of a row in the form of the documents."""
    return Action(
        at=row.at.astimezone(UTC),
        action=one_line(row.action),
        by=one_line(row.by),
        reason=one_line(row.reason),
        services=_names(row.services),
        until=row.until.astimezone(UTC) if row.until else None,
        alert=row.alert,
    )


def in_words(action: Action) -> str:
    """Return what a person did, with the number of the alert."""
    words = WORDS.get(action.action, action.action)
    return words if action.alert is None else f"{words} {action.alert}"


def named_services(services: Sequence[str]) -> str:
    """Return the names of services as one text; an empty list means all services."""
    return ", ".join(services) or ALL_SERVICES


def _names(services: JsonValue) -> list[str]:
    """Return the names of services in an action. Any program may have written any JSON there."""
    names = services if isinstance(services, list) else [services]
    return [one_line(name) for name in names if isinstance(name, str)]


def actions_table(actions: Sequence[Action], title: str, *, none: str = "") -> ScreenTable:
    """Return the table of what people did, the newest last."""
    rows = tuple(
        (
            format_time(action.at),
            action.action.replace("_", " "),
            action.by or "-",
            named_services(action.services),
            _subject(action),
            action.reason or "-",
        )
        for action in actions
    )
    columns = (
        Column("AT"),
        Column("ACTION"),
        Column("BY", least=6),
        Column("SERVICES", least=6, drop=1),
        Column("DETAIL", drop=2),
        Column("REASON", least=8, is_note=True),
    )
    return flexible(title, columns, rows, none=none)


def _subject(action: Action) -> str:
    """Return the number of the alert, or the end of the maintenance."""
    if action.alert is not None:
        return f"alert {action.alert}"
    return f"until {format_time(action.until)}" if action.until else "-"
