"""PostgreSQL: what earlier passes recorded and what this one records; sole importer of psycopg.

One connection, made after the network is done, and one short transaction. ``connection`` is the
only module that begins, commits and retries transactions. What may be done in one is in
``pass_writes`` and ``sql_metrics`` for passes, in ``alert_reads`` for their posts, in ``history``,
``ledger_reads`` and ``action_reads`` for readers, and in ``operations`` for people. Nothing
outlives a transaction: no session setting, no prepared statement, no session lock. So a pooler in
transaction mode may stand in between.
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
