"""The cost of the platform's figures on a large fleet.

The figures are measured after a vacuum, after heartbeats, and with the proposed indexes.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg

from ops_worker.adapters.postgres import Store
from ops_worker.catalogue import Surroundings, load

FLEET = """
INSERT INTO tenants (tenant_id, name)
SELECT 't' || n, 't' FROM generate_series(1, 100) AS n ON CONFLICT DO NOTHING;
INSERT INTO device_state (tenant_id, site_id, device_id, status, last_heartbeat_at, state)
SELECT 't' || 1 + n % 100, 's' || n % 1000, 'd' || n,
       CASE WHEN n % 100 < 90 THEN 'ONLINE' WHEN n % 100 < 98 THEN 'OFFLINE' ELSE 'STALE' END,
       now(), '{"battery": 77}'
FROM generate_series(1, DEVICES) AS n;
INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary)
SELECT 't' || 1 + n % 100, 's' || n % 1000, 'd' || n, 'THRESHOLD', 'f' || n,
       CASE WHEN n % 500 = 0 THEN 'OPEN' WHEN n % 499 = 0 THEN 'ACKNOWLEDGED' ELSE 'CLOSED' END,
       'x'
FROM generate_series(1, ALERTS) AS n
"""
HEARTBEATS = (
    "UPDATE device_state SET last_heartbeat_at = now() WHERE abs(hashtext(device_id)) % 10 = 0"
)
"""A tenth of the devices sends a heartbeat."""
TIMES = 5
"""How often each figure is measured."""


def run(url: str, devices: int, alerts: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure each figure in three states of the tables; return the rows and the last plans.

    The time of a figure is the time of its fastest run, in milliseconds.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no notification for each row
        script = FLEET.replace("DEVICES", str(devices)).replace("ALERTS", str(alerts))
        for statement in script.split(";"):
            connection.execute(statement.encode())
        for table in ("device_state", "fleet_alert"):
            connection.execute(f"VACUUM ANALYZE {table}".encode())
        states = {"vacuumed": _measured(connection)}
        connection.execute(HEARTBEATS)
        states["after heartbeats of a tenth"] = _measured(connection)
        store = Store({"conninfo": url})
        list(store.indexes(make=True))
        store.close()
        connection.execute("ANALYZE device_state")
        states["with the proposed index"] = _measured(connection)
        plans = [_plan(connection, name, sql) for name, sql in _figures()]
    rows: list[dict[str, Any]] = [
        {"figure": name, **{f"{state}, ms": times[name] for state, times in states.items()}}
        for name, _ in _figures()
    ]
    totals = {f"{state}, ms": sum(times.values()) for state, times in states.items()}
    rows.append({"figure": "all", **totals})
    return rows, plans


def _plan(connection: psycopg.Connection[Any], name: str, sql: str) -> str:
    """Return the plan of a figure as text."""
    lines = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS) {sql}".encode())
    return f"{name}:\n" + "\n".join(f"    {row[0]}" for row in lines)


def _figures() -> list[tuple[str, str]]:
    """Return the name and the statement of each figure of the built-in catalogue."""
    return [(figure.name, figure.sql) for figure in load(None, Surroundings({}))[0].figures]


def _measured(connection: psycopg.Connection[Any]) -> dict[str, float]:
    """Return the milliseconds of the fastest run of each figure."""
    times: dict[str, float] = {}
    for name, sql in _figures() * TIMES:
        begun = time.monotonic()
        connection.execute(sql.encode()).fetchall()
        times[name] = min(times.get(name, 1e9), (time.monotonic() - begun) * 1000)
    return times
