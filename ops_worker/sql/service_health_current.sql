-- service_health_current: service_health as it may be believed now: a row older than three periods of the health pass is stale.
CREATE VIEW service_health_current AS
SELECT h.service,
       CASE WHEN now() - h.checked_at > 3 * p.period THEN 'stale' ELSE h.status END AS status,
       h.latency_ms, h.details, h.checked_at
FROM service_health AS h
CROSS JOIN (
    SELECT make_interval(secs => coalesce(
               (SELECT nullif(substring(m.tags ->> 'period_s' FROM '^\d{1,6}(?:\.\d{1,6})?$')::double precision, 0) FROM system_metrics AS m
                WHERE m.metric_name = 'pass_success' AND m.service = 'ops_worker' AND m.tags ->> 'pass' = 'health'
                ORDER BY m.time DESC LIMIT 1), 60)) AS period
) AS p;
