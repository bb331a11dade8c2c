"""Write a history for people and tests: two hours or more of samples, as passes write them.

    seed(url, hours=2, moved_clock=True)

The metrics pass runs every 5 s, and the health pass every 60 s. The history has:

- 15 minutes without any pass, from 77 to 62 minutes ago;
- a restart of ingest 30 minutes ago, after which its counters begin again;
- an outage of the dispatcher of 7 minutes, with its alert;
- an outage of delivery of 2 minutes, within 10 minutes of maintenance;
- with a moved clock: a minute in which the clock was an hour slow. The rows of this minute have
  older times than the rows before them.

The statistics of the table are up to date: on a real server, autovacuum updates them every minute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from datetime import datetime

SCRIPT = """
CREATE TEMPORARY TABLE ticks AS
SELECT
    at,
    extract(epoch FROM at - (UNTIL - make_interval(hours => HOURS)))::float8 AS s,
    UNTIL - at AS ago,
    extract(epoch FROM at)::bigint % 60 < 5 AS minute
FROM generate_series(
    date_trunc('minute', UNTIL) - make_interval(hours => HOURS),
    UNTIL - interval '5 seconds',
    '5 seconds'
) AS at
WHERE NOT UNTIL - at BETWEEN interval '62 minutes' AND interval '77 minutes';
INSERT INTO system_metrics (time, metric_name, service, value, tags)
SELECT
    CASE WHEN MOVED AND ago BETWEEN interval '20 minutes' AND interval '21 minutes'
        THEN at - interval '1 hour 2 seconds' ELSE at END,
    x.metric, x.service, x.value, x.tags::jsonb
FROM ticks, LATERAL (VALUES
    ('ingest', 'messages_received',
     floor(40 * CASE WHEN ago < interval '30 minutes'
                 THEN 1800 - extract(epoch FROM ago) ELSE s END), '{}'),
    ('ingest', 'messages_written',
     floor(39 * CASE WHEN ago < interval '30 minutes'
                 THEN 1800 - extract(epoch FROM ago) ELSE s END), '{}'),
    ('ingest', 'queue_depth', round(50 + 40 * sin(s / 600)), '{}'),
    ('ingest', 'healthy', 1, '{}'),
    ('evaluator', 'rules_evaluated', floor(200 * s), '{}'),
    ('evaluator', 'healthy', 1, '{}'),
    ('dispatcher', 'healthy',
     CASE WHEN ago BETWEEN interval '38 minutes' AND interval '45 minutes'
         THEN 0 ELSE 1 END, '{}'),
    ('delivery', 'jobs_pending', round(5 + 5 * cos(s / 300)), '{}'),
    ('delivery', 'healthy',
     CASE WHEN ago BETWEEN interval '95 minutes' AND interval '97 minutes'
         THEN 0 ELSE 1 END, '{}'),
    ('postgres', 'connections', round(12 + 3 * sin(s / 200)), '{}'),
    ('postgres', 'db_size_bytes', 1e8 + 1000 * s, '{}'),
    ('postgres', 'healthy', 1, '{}'),
    ('platform', 'devices_online', round(34 - 4 * sin(s / 900)), '{}'),
    ('platform', 'devices_stale', round(9 + 4 * sin(s / 900)), '{}'),
    ('ops_worker', 'pass_success', 1, '{"pass": "metrics", "period_s": "5"}'),
    ('ops_worker', 'pass_duration_ms', 30 + 5 * sin(s), '{"pass": "metrics", "period_s": "5"}')
) AS x (service, metric, value, tags);
INSERT INTO system_metrics (time, metric_name, service, value, tags)
SELECT at, x.metric, x.service, x.value, x.tags::jsonb
FROM ticks, LATERAL (VALUES
    ('ops_worker', 'pass_success', 1, '{"pass": "health", "period_s": "60"}'),
    ('ops_worker', 'pass_duration_ms', 45 + 9 * cos(s), '{"pass": "health", "period_s": "60"}'),
    ('ops_worker', 'maintenance',
     (ago BETWEEN interval '90 minutes' AND interval '100 minutes')::integer,
     '{"pass": "health", "period_s": "60"}'),
    ('ingest', 'probe_latency_ms', round(8 + 4 * sin(s / 700)), '{}'),
    ('evaluator', 'probe_latency_ms', round(12 + 2 * cos(s / 500)), '{}'),
    ('dispatcher', 'probe_latency_ms',
     CASE WHEN ago BETWEEN interval '38 minutes' AND interval '45 minutes'
         THEN NULL ELSE round(5 + 3 * sin(s / 250)) END, '{}'),
    ('delivery', 'probe_latency_ms', round(20 + 15 * sin(s / 400)), '{}')
) AS x (service, metric, value, tags)
WHERE minute AND x.value IS NOT NULL;
INSERT INTO tenants (tenant_id, name, status, metadata)
VALUES ('__system__', 'System Alerts', 'ACTIVE', '{"kind": "system"}')
ON CONFLICT DO NOTHING;
INSERT INTO fleet_alert (
    tenant_id, site_id, device_id, alert_type, fingerprint, status, severity, confidence,
    summary, details,
    created_at, closed_at, acknowledged_by, acknowledged_at
) VALUES (
    '__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:dispatcher',
    'CLOSED', 5, 1.0,
    'Service unhealthy: dispatcher (Connection refused)',
    '{"service": "dispatcher", "kind": "system_health"}',
    UNTIL - interval '45 minutes', UNTIL - interval '38 minutes',
    'alex', UNTIL - interval '42 minutes'
);
DROP TABLE ticks;
ANALYZE system_metrics
"""


def seed(
    url: str, hours: int = 2, *, moved_clock: bool = False, until: datetime | None = None
) -> None:
    """Write so many hours of history before ``until``, by default before now."""
    end = f"timestamptz '{until.isoformat()}'" if until else "now()"
    script = SCRIPT.replace("HOURS", str(hours))
    script = script.replace("MOVED", str(moved_clock))
    script = script.replace("UNTIL", end)
    with psycopg.connect(url) as connection:
        for statement in script.split(";\n"):
            connection.execute(statement.encode())
