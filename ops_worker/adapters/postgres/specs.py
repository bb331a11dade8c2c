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
"""First half of the keys of the worker's advisory locks: "opsw" in ASCII.

The default installation and the locks that all installations share use this number.
"""
SCHEMA_LOCK = 0
"""Second half of the key of the lock for schema changes."""

STANDALONE_TABLES = ("tenants", "fleet_alert")
"""Tables of the platform that only ``init-db --standalone`` creates."""

STATEMENT_TIMEOUT_MS = 10_000
"""Longest duration of a statement, in ms."""
LOCK_TIMEOUT_MS = 5_000
"""Longest wait for a row or table that another session locks, in ms.

A pass never waits for its own lock.
"""
IDLE_TIMEOUT_MS = 15_000
"""Time in ms after which the server ends a transaction whose process hangs."""


def lock_space(installation: str) -> int:
    """Return the first half of the keys of the locks that belong to one installation.

    It is a hash of 31 bits. Two installations with the same hash would only skip passes, like two
    installations with the same name.
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
"""Seconds of a pass that are reserved for writing if figures take long."""


class RetryPolicy(NamedTuple):
    """How often a failed connection is repeated, and the pause before each attempt in seconds."""

    times: int = 0
    delay_s: float = 1.0


RUN_TABLE, SPAN_TABLE, CONFIG_TABLE, _ = LEDGER_TABLES

# The locks 1 and 2 belong to the passes (core/passes.py).
CHECK = TransactionSpec(lock=4)
# Each command has its own lock, so that no pass is skipped because of a command.
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
"""The tables that readers of the history do not need. Passes or a person create them."""

LEDGER_OPTIONAL_TABLES = (
    "service_health",
    *MAINTENANCE_TABLES,
    MAINTENANCE_LOG,
    ACTION_TABLE,
)
"""The tables that readers of the ledger do not need."""
