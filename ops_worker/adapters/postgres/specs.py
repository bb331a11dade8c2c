"""What transactions are for, the locks that keep two of a kind apart, and the patience for a connection."""

from __future__ import annotations

from typing import NamedTuple

LOCK_SPACE = 0x6F707377
"""First half of the worker's advisory lock keys: "opsw"."""
SCHEMA_LOCK = 0

STANDALONE_TABLES = ("tenants", "fleet_alert")
"""Tables of the platform that only ``init-db --standalone`` makes."""


STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 5_000
"""Longest wait for a row or table that somebody else holds. (The pass's own lock is never waited for.)"""
IDLE_TIMEOUT_MS = 15_000
"""The server ends a transaction whose process was stopped in the middle of it."""


def limits() -> dict[str, str]:
    """Give the limits of a transaction, as its statement takes them."""
    return {
        "statement_ms": str(STATEMENT_TIMEOUT_MS),
        "lock_ms": str(LOCK_TIMEOUT_MS),
        "idle_ms": str(IDLE_TIMEOUT_MS),
    }


RESERVE_S = 2.0
"""Seconds of a pass that its figures leave, to write them."""


class TransactionSpec(NamedTuple):
    """What a transaction is for: its lock, the tables without which it cannot be done, and the one it may make itself."""

    name: str
    lock: int
    required_tables: tuple[str, ...]
    creates: str = ""


class RetryPolicy(NamedTuple):
    """How often a connection that failed is tried again at once, and after how many seconds."""

    times: int = 0
    delay_s: float = 1.0


HEALTH = TransactionSpec(
    "health", 1, required_tables=("fleet_alert", "tenants"), creates="service_health"
)
METRICS = TransactionSpec("metrics", 2, required_tables=("system_metrics",))
ALERTS = TransactionSpec("alerts", 5, required_tables=("fleet_alert",))
MAINTENANCE = TransactionSpec("maintenance", 6, required_tables=())
MAINTENANCE_TABLE = "ops_worker_maintenance"
MAINTENANCE_LOG = "ops_worker_maintenance_log"
CHECK = TransactionSpec("check", 4, required_tables=())
LOOK = TransactionSpec("look", 3, required_tables=("system_metrics", "fleet_alert"))
LOOKS_AT = ("service_health", MAINTENANCE_TABLE, MAINTENANCE_LOG)
"""What who looks back can do without: the health pass, or a person, makes these tables."""
