"""Locks, time limits and tables of transactions."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from ops_worker.core.installations import DEFAULT
from ops_worker.core.passes import (
    ACTION_TABLE,
    DOUBT_TABLE,
    LEDGER_TABLES,
    MAINTENANCE_LOG,
    MAINTENANCE_TABLES,
    ROLLUP_TABLES,
    TransactionSpec,
)

LOCK_SPACE = 0x6F707377
"""First half of the worker's advisory lock keys: "opsw" in ASCII.

The default installation uses it, and so do locks that all installations share.
"""
SCHEMA_LOCK = 0
"""Second half of the key of the lock for schema changes."""

STANDALONE_TABLES = ("tenants", "fleet_alert")
"""Tables of the platform that only ``init-db --standalone`` creates."""

STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 5_000
"""Longest wait for a row or table that another session locks. The pass's own lock never waits."""
IDLE_TIMEOUT_MS = 15_000
"""Time after which the server ends a transaction whose process hangs."""


def lock_space(installation: str) -> int:
    """Return the first half of the keys of the locks that only one installation takes.

    It is a hash of 31 bits. Two installations with the same one would only skip passes, as two of
    one name do.
    """
    if installation == DEFAULT:
        return LOCK_SPACE
    digest = blake2b(installation.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def limits() -> dict[str, str]:
    """Return the limits of a transaction in ms, as parameters of ``set_limits``."""
    return {
        "statement_ms": str(STATEMENT_TIMEOUT_MS),
        "lock_ms": str(LOCK_TIMEOUT_MS),
        "idle_ms": str(IDLE_TIMEOUT_MS),
    }


WRITE_RESERVE_S = 2.0
"""Seconds of a pass that are kept for writing when figures take long."""


class RetryPolicy(NamedTuple):
    """How often a failed connection is tried again, and the pause before each try in seconds."""

    times: int = 0
    delay_s: float = 1.0


RUN_TABLE, SPAN_TABLE, CONFIG_TABLE, _ = LEDGER_TABLES

# The locks 1 and 2 belong to the passes (core/passes.py).
CHECK = TransactionSpec(lock=4)
# A command has its own number, so it never makes a pass skip.
ALERTS = TransactionSpec(
    lock=5, required_tables=("fleet_alert",), creates_if_permitted=(ACTION_TABLE,)
)
MAINTENANCE = TransactionSpec(lock=6, creates_if_permitted=(ACTION_TABLE,))

HISTORY_TABLES = ("system_metrics", "fleet_alert")
"""The tables that readers of the history require."""
LEDGER_READ_TABLES = (RUN_TABLE, SPAN_TABLE)
"""The tables that readers of the ledger require."""
HISTORY_OPTIONAL_TABLES = (
    "service_health",
    *MAINTENANCE_TABLES,
    MAINTENANCE_LOG,
    ACTION_TABLE,
    DOUBT_TABLE,
    *LEDGER_READ_TABLES,
    *ROLLUP_TABLES,
)
"""The tables that readers can do without: passes or a person create them."""

LEDGER_OPTIONAL_TABLES = (
    "service_health",
    *MAINTENANCE_TABLES,
    MAINTENANCE_LOG,
    ACTION_TABLE,
)
"""The tables that readers of the ledger can do without."""
