"""The alerts that a health pass reads for its post, and the indexes that it uses."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
import pytest

from ops_worker import sql
from ops_worker.adapters.postgres import Store, alert_reads
from ops_worker.core.notify import SystemAlert, repeat_s
from ops_worker.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

pytestmark = pytest.mark.integration


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """Yield a store on the database of the test."""
    with contextlib.closing(Store({"conninfo": database.url})) as opened:
        yield opened


def insert(
    database: Database,
    fingerprint: str,
    status: str = "OPEN",
    *,
    created: str = "now() - interval '1 h'",
    closed: str = "NULL",
    details: str = "{}",
    tenant: str = "__system__",
) -> None:
    """Insert an alert. The times are SQL expressions."""
    database.rows(
        "INSERT INTO tenants (tenant_id, name) VALUES (%s, 'x') ON CONFLICT DO NOTHING", tenant
    )
    database.rows(
        "INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status,"
        f" summary, details, created_at, closed_at) VALUES (%s, 's', 'd', 'SYSTEM_HEALTH', %s, %s,"
        f" 'down', %s::jsonb, {created}, {closed})",
        tenant,
        fingerprint,
        status,
        details,
    )


def read(store: Store, period_s: float = 60.0, services: int = 4) -> dict[str, SystemAlert]:
    """Return the alerts that are read, by service."""
    rows = store.read(
        lambda transaction: alert_reads.read_alerts_to_post(transaction, period_s, services)
    )
    assert len({row.service for row in rows}) == len(rows)
    return {row.service: row for row in rows}


def test_rows(store: Store, database: Database) -> None:
    """Open, acknowledged and recently closed system alerts are read, and no others."""
    evidence = {"state": "down", "reason": "Connection refused"}
    insert(database, "system-health:open", details=json.dumps({"evidence": evidence}))
    insert(database, "system-health:acknowledged", "ACKNOWLEDGED", details="[]")
    insert(database, "system-health:closed", "CLOSED", closed="now() - interval '14 min'")
    insert(database, "system-health:long ago", "CLOSED", closed="now() - interval '16 min'")
    insert(database, "system-health:no end", "CLOSED")
    insert(database, "system-health:ops_worker")
    insert(database, "system-health:", created="'-infinity'")
    insert(database, "system-healthy:x")
    insert(database, "system-health:other", tenant="t1")
    alerts = read(store)
    assert set(alerts) == {"open", "acknowledged", "closed", "ops_worker", ""}
    assert alerts["open"].evidence == evidence
    assert (alerts["open"].is_open, alerts["open"].closed_at) == (True, None)
    assert (alerts["acknowledged"].is_open, alerts["acknowledged"].evidence) == (True, None)
    assert not alerts["closed"].is_open
    assert alerts[""].created_at == datetime.min.replace(tzinfo=UTC)


def test_period(store: Store, database: Database) -> None:
    """A longer period keeps closed alerts in the post for longer."""
    insert(database, "system-health:a", "CLOSED", closed="now() - interval '299 min'")
    assert repeat_s(3600) == 300 * 60
    assert set(read(store, 3600)) == {"a"}
    assert set(read(store, 3500)) == set()


def test_newest(store: Store, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed alerts are read only among the newest rows, open ones at any age."""
    insert(database, "system-health:old", "CLOSED", created="'2020-01-01'", closed="now()")
    insert(database, "system-health:open", created="'2019-01-01'")
    for name in "abc":
        insert(database, f"system-health:{name}", "CLOSED", closed="now()")
    assert set(read(store)) == {"a", "b", "c", "old", "open"}
    monkeypatch.setattr(alert_reads, "NEWEST_ROWS", 0)
    assert set(read(store, services=2)) == {"a", "b", "c", "old", "open"}
    monkeypatch.setattr(alert_reads, "ROWS_PER_SERVICE", 1)
    assert set(read(store, services=3)) == {"a", "b", "c", "open"}


def test_hidden_rows(database: Database) -> None:
    """If row level security hides alerts, the read is an error, not an empty post."""
    name = f"reader_{database.url.rpartition('/')[2]}"
    database.rows(f"CREATE ROLE {name} LOGIN PASSWORD 'x'; GRANT SELECT ON fleet_alert TO {name}")
    with (
        contextlib.closing(Store({"conninfo": database.as_user(name)})) as store,
        pytest.raises(SchemaError, match="row level security hides fleet_alert"),
    ):
        store.read(lambda _: None, required_tables=["fleet_alert"])


def test_indexes(database: Database) -> None:
    """In a table of many years, indexes find the open alerts and the newest closed ones.

    A scan would read all alerts of all tenants in every pass.
    """
    database.rows("INSERT INTO tenants (tenant_id, name) VALUES ('__system__', 'x'), ('t', 'y')")
    database.rows(
        "INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status,"
        " summary, created_at, closed_at)"
        " SELECT CASE WHEN i %% 100 = 0 THEN '__system__' ELSE 't' END, 's', 'd', 'X',"
        " 'system-health:' || i, 'CLOSED', 'down', now() - make_interval(mins => i),"
        " now() - make_interval(mins => i) FROM generate_series(1, 60000) AS i WHERE %s",
        True,
    )
    insert(database, "system-health:open", created="'2019-01-01'")
    database.rows("ANALYZE fleet_alert")
    parameters = {"closed_since": "2026-01-01", "rows": 100}
    with psycopg.connect(database.url) as connection:
        statement = f"EXPLAIN {sql.queries()['alerts_to_post']}"
        plan = "\n".join(row[0] for row in connection.execute(statement.encode(), parameters))
    assert "Seq Scan" not in plan, plan
    assert "idx_fleet_alert_open_uq" in plan, plan
    assert "idx_fleet_alert_tenant_created" in plan, plan
