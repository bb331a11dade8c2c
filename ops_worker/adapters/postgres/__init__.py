"""PostgreSQL: read what earlier passes recorded, and record a pass. The only importer of psycopg.

A pass opens one connection after its probes, and uses one short transaction. Only ``connection``
begins, commits and retries transactions. The other modules have the work inside a transaction:
``pass_writes`` and ``sql_metrics`` for passes, ``alert_reads`` for their posts, ``history``,
``ledger_reads`` and ``action_reads`` for readers, and ``operations`` for people. Nothing outlives a
transaction: no session setting, no prepared statement, no session lock. So a connection pooler in
transaction mode may be used.
"""

from ops_worker.adapters.postgres.connection import Store
from ops_worker.adapters.postgres.specs import (
    ALERTS,
    CHECK,
    HISTORY_OPTIONAL_TABLES,
    HISTORY_TABLES,
    LEDGER_OPTIONAL_TABLES,
    LEDGER_READ_TABLES,
    MAINTENANCE,
    STANDALONE_TABLES,
    WRITE_RESERVE_S,
    RetryPolicy,
)
from ops_worker.adapters.postgres.transaction import Transaction

__all__ = [
    "ALERTS",
    "CHECK",
    "HISTORY_OPTIONAL_TABLES",
    "HISTORY_TABLES",
    "LEDGER_OPTIONAL_TABLES",
    "LEDGER_READ_TABLES",
    "MAINTENANCE",
    "STANDALONE_TABLES",
    "WRITE_RESERVE_S",
    "RetryPolicy",
    "Store",
    "Transaction",
]
