"""What readers get from the ledger in a transaction."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ops_worker.adapters.postgres.transaction import column, one
from ops_worker.core.ledger import INSTALLATION, Run, Span
from ops_worker.core.staleness import stale_after_s
from ops_worker.history.ledger import LedgerRows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction

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


def current_services(transaction: Transaction) -> list[str]:
    """Return the services that were recorded and not removed, sorted by name."""
    names = set(column(transaction.execute("ledger_services"), "service"))
    if "service_health" in transaction.present:
        names |= set(column(transaction.execute("services_known"), "service"))
    return sorted(names)


def is_recorded(transaction: Transaction, service: str) -> bool:
    """Return whether anything was recorded of a service, at any time."""
    return bool(one(transaction.execute("ledger_knows", {"service": service}))["known"])
