"""Read what people did, inside a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.core.passes import ACTION_TABLE
from ops_worker.history.rows import ActionRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction


def read_actions(
    transaction: Transaction,
    since: datetime,
    until: datetime,
    services: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[ActionRow] | None:
    """Read what people did after ``since`` and up to ``until``, the oldest action first.

    With ``services``, read only actions about one of them or about all services, such as a
    maintenance. With ``limit``, read only this number of actions: the newest ones. Return None if
    there is no table of actions or this role may not read it.
    """
    if not transaction.may_read([ACTION_TABLE]):
        return None
    parameters = {
        "since": since,
        "until": until,
        "services": None if services is None else list(services),
        "limit": limit,
    }
    return transaction.query(ActionRow, "actions", parameters).fetchall()[::-1]
