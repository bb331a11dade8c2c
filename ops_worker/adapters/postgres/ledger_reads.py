"""What readers get from the ledger in a transaction."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ops_worker.adapters.postgres.specs import LEDGER_READ_TABLES
from ops_worker.adapters.postgres.transaction import column, one
from ops_worker.core.ledger import INSTALLATION, Run, Span
from ops_worker.core.passes import ACTION_TABLE
from ops_worker.core.staleness import stale_after_s
from ops_worker.history.ledger import MERGED, LedgerRows
from ops_worker.history.rows import ActionRow
from ops_worker.history.status import StatusLedger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.slo import Objective

FUTURE = timedelta(days=3650)
"""Times later than this after now, such as infinity, are read as this one."""


def ledger_rows(
    transaction: Transaction,
    services: Sequence[str],
    passes: Sequence[str],
    since: datetime,
    until: datetime,
) -> LedgerRows:
    """Read what these passes recorded of these services between two times."""
    latest = transaction.now + FUTURE
    runs: dict[str, list[Run]] = {}
    spans: dict[str, list[Span]] = {}
    for name in passes:
        parameters = {"pass": name, "installation": INSTALLATION, "latest": latest}
        runs[name] = transaction.query(Run, "ledger_runs", parameters).fetchall()
        periods = [run.period_s for run in runs[name]]
        parameters |= {
            "services": list(services),
            "since": since,
            "until": until,
            "margin_s": stale_after_s(max(periods, default=0.0)),
        }
        spans[name] = transaction.query(Span, "ledger_spans", parameters).fetchall()
    return LedgerRows(
        now=transaction.now,
        since=since,
        until=until,
        services=services,
        runs=runs,
        spans=spans,
    )


def status_ledger(
    transaction: Transaction,
    services: Sequence[str],
    since_s: float,
    objectives: Mapping[str, Objective],
    until: datetime | None = None,
) -> StatusLedger | None:
    """Read the last ``since_s`` seconds of these services, and the windows of their objectives.

    They end at ``until``, or now. Return None if there is no ledger that this role may read.
    """
    if not is_readable(transaction):
        return None
    by_days: dict[int, list[str]] = {}
    for service in services:
        if service in objectives:
            by_days.setdefault(objectives[service].days, []).append(service)
    end = until or transaction.now

    def read(some_services: Sequence[str], length: timedelta) -> LedgerRows:
        """Read what was recorded of these services for so long, up to the end."""
        return ledger_rows(transaction, some_services, MERGED, end - length, end)

    return StatusLedger(
        period=read(services, timedelta(seconds=since_s)),
        windows=[read(some, timedelta(days=days)) for days, some in by_days.items()],
        objectives=objectives,
    )


def is_readable(transaction: Transaction) -> bool:
    """Return whether there is a ledger, and this role may read it."""
    if not transaction.present.issuperset(LEDGER_READ_TABLES):
        return False
    return bool(one(transaction.execute("ledger_readable"))["readable"])


def current_services(transaction: Transaction) -> list[str]:
    """Return the services that were recorded and not removed, sorted by name."""
    names = set(column(transaction.execute("ledger_services"), "service"))
    if "service_health" in transaction.present:
        names |= set(column(transaction.execute("services_known"), "service"))
    return sorted(names)


def actions(
    transaction: Transaction, since: datetime, until: datetime, limit: int
) -> list[ActionRow]:
    """Read what people did between two times, the newest first; none if it is not readable."""
    if ACTION_TABLE not in transaction.present:
        return []
    if not one(transaction.execute("actions_readable"))["readable"]:
        return []
    parameters = {"since": since, "until": until, "limit": limit}
    return transaction.query(ActionRow, "actions", parameters).fetchall()


def is_recorded(transaction: Transaction, service: str) -> bool:
    """Return whether anything was recorded of a service, at any time."""
    return bool(one(transaction.execute("ledger_knows", {"service": service}))["known"])
