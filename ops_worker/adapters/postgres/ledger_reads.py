"""Read the ledger, inside a transaction."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ops_worker.adapters.postgres.specs import LEDGER_READ_TABLES
from ops_worker.adapters.postgres.transaction import column, one
from ops_worker.core.ledger import Run, Span
from ops_worker.core.staleness import stale_after_s
from ops_worker.history.explain.rows import ServiceLedger, before
from ops_worker.history.ledger import MERGED, LedgerRows
from ops_worker.history.rows import RecentSpansRow
from ops_worker.history.status import StatusLedger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.slo import Objective

RECENT_SPANS = 40
"""Minimum number of spans of each pass that are read, however old. A screen shows fewer changes."""
MOMENT = timedelta(microseconds=1)
"""The resolution of a time in the database."""
FUTURE = timedelta(days=3650)
"""A time that is later than this after now, such as infinity, is read as now plus this."""


def ledger_rows(
    transaction: Transaction,
    services: Sequence[str],
    passes: Sequence[str],
    since: datetime,
    until: datetime,
) -> LedgerRows:
    """Read what these passes recorded about these services between two times."""
    runs = {name: _runs_of(transaction, name) for name in passes}
    spans: dict[str, list[Span]] = {}
    for name in passes:
        periods = [run.period_s for run in runs[name]]
        parameters = {
            "pass": name,
            "latest": transaction.now + FUTURE,
            "services": list(services),
            "since": since,
            "until": until,
            "margin_s": stale_after_s(max(periods, default=0.0)),
        }
        spans[name] = transaction.rows(Span._make, "ledger_spans", parameters)
    return LedgerRows(
        now=transaction.now,
        since=since,
        until=until,
        services=services,
        runs=runs,
        spans=spans,
    )


def _runs_of(transaction: Transaction, name: str) -> list[Run]:
    """Read all runs of a pass, of all installations.

    A shard of another installation has another name, so its runs count like the runs of any shard.
    """
    latest = transaction.now + FUTURE
    parameters = {"pass": name, "installation": transaction.installation, "latest": latest}
    return transaction.rows(Run._make, "ledger_runs", parameters)


def pass_runs(transaction: Transaction, passes: Sequence[str]) -> dict[str, list[Run]]:
    """Read all runs of these passes, by pass; none if the ledger is missing or may not be read."""
    if not is_readable(transaction):
        return {}
    return {name: _runs_of(transaction, name) for name in passes}


def is_readable(transaction: Transaction) -> bool:
    """Return whether there is a ledger that this role may read."""
    return transaction.may_read(LEDGER_READ_TABLES)


def status_ledger(
    transaction: Transaction,
    services: Sequence[str],
    since_s: float,
    objectives: Mapping[str, Objective],
    until: datetime | None = None,
) -> StatusLedger | None:
    """Read the last ``since_s`` seconds of these services, and the windows of their objectives.

    All of them end at ``until``, or now. Return None if there is no ledger that this role may read.
    """
    if not is_readable(transaction):
        return None
    by_days: dict[int, list[str]] = {}
    for service in services:
        if service in objectives:
            by_days.setdefault(objectives[service].days, []).append(service)
    end = until or transaction.now

    def read(some_services: Sequence[str], length: timedelta) -> LedgerRows:
        """Read the rows of these services for a period of this length that ends at ``until``."""
        return ledger_rows(transaction, some_services, MERGED, end - length, end)

    return StatusLedger(
        period=read(services, timedelta(seconds=since_s)),
        windows=[read(some, timedelta(days=days)) for days, some in by_days.items()],
        objectives=objectives,
    )


def service_ledger(
    transaction: Transaction, service: str, at: datetime, length: timedelta
) -> ServiceLedger | None:
    """Read the states of a service for ``length`` before a time, and its last changes, however old.

    Return None if there is no ledger that this role may read.
    """
    if not is_readable(transaction):
        return None
    # A span that begins exactly at this time counts. If the time is now, the period ends now.
    until = at if at == transaction.now else at + MOMENT
    since = before(at, length)
    parameters = {
        "service": service,
        "passes": list(MERGED),
        "until": at,
        "number": RECENT_SPANS,
    }
    recent = transaction.query(RecentSpansRow, "ledger_recent", parameters).fetchall()
    cut = [row.first_at for row in recent if row.spans == RECENT_SPANS]
    # Both passes are known only from the time at which the shorter history begins.
    first = max(cut) if cut else min([row.first_at for row in recent], default=since)
    return ServiceLedger(
        rows=ledger_rows(transaction, [service], MERGED, min(since, first), until),
        is_complete=not cut,
        is_recorded=is_recorded(transaction, service),
    )


def current_services(transaction: Transaction) -> list[str]:
    """Return the services that were recorded and not removed, sorted by name."""
    names = set(column(transaction.execute("ledger_services"), "service"))
    if "service_health" in transaction.present:
        names |= set(column(transaction.execute("services_known"), "service"))
    return sorted(names)


def is_recorded(transaction: Transaction, service: str) -> bool:
    """Return whether anything was ever recorded about a service."""
    return bool(one(transaction.execute("ledger_knows", {"service": service}))["known"])
