"""PostgreSQL: what earlier passes left, and what this one leaves. The only importer of psycopg.

One connection, made after the network is done; one short transaction, begun, committed and, once, retried in
``connection`` and nowhere else; what may be done inside it is in ``statements``. Nothing outlives the transaction: no
session setting, no prepared statement, no session lock, so that a pooler in transaction mode may stand in between.
"""

from ops_worker.adapters.postgres.connection import Store
from ops_worker.adapters.postgres.specs import (
    ALERTS,
    CHECK,
    HEALTH,
    LOOK,
    LOOKS_AT,
    MAINTENANCE,
    MAINTENANCE_LOG,
    MAINTENANCE_TABLE,
    METRICS,
    RESERVE_S,
    STANDALONE_TABLES,
    RetryPolicy,
)
from ops_worker.adapters.postgres.transaction import Transaction

__all__ = [
    "ALERTS",
    "CHECK",
    "HEALTH",
    "LOOK",
    "LOOKS_AT",
    "MAINTENANCE",
    "MAINTENANCE_LOG",
    "MAINTENANCE_TABLE",
    "METRICS",
    "RESERVE_S",
    "STANDALONE_TABLES",
    "RetryPolicy",
    "Store",
    "Transaction",
]
