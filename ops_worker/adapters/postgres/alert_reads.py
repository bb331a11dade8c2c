"""Read the alerts that a health pass posts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.core.notify import SystemAlert, closed_since

if TYPE_CHECKING:
    from ops_worker.adapters.postgres.transaction import Transaction

NEWEST_ROWS = 1000
"""How many of the newest system alerts are searched for closed ones. This takes a few ms."""
ROWS_PER_SERVICE = 4
"""How many more alerts per service are searched, so that all are found if all services recover."""


def read_alerts_to_post(
    transaction: Transaction, period_s: float, services: int
) -> list[SystemAlert]:
    """Read the system alerts that are open or were closed a short time ago.

    ``period_s`` is the number of seconds from one health pass to the next; it decides how long a
    short time is. ``services`` is the number of monitored services.
    """
    parameters = {
        "closed_since": closed_since(transaction.now, period_s),
        "rows": NEWEST_ROWS + ROWS_PER_SERVICE * services,
    }
    return transaction.query(SystemAlert, "alerts_to_post", parameters).fetchall()
