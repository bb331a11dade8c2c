-- service_health_current: service_health as it may be believed now: a row older than three periods of the health pass (and than 90 s) is
-- stale, and so is one from a time that is not yet, after a clock was set back.
CREATE VIEW service_health_current AS
SELECT h.service,
       CASE WHEN h.checked_at BETWEEN now() - greatest(3 * p.period, interval '90 seconds') AND now() + p.period THEN h.status ELSE 'stale' END AS status,
       h.latency_ms, h.details, h.checked_at
FROM service_health AS h
CROSS JOIN (
    SELECT make_interval(secs => coalesce(max(last.period_s), 60)) AS period FROM (
        SELECT nullif(substring(m.tags ->> 'period_s' FROM '^[0-9]{1,6}(?:[.][0-9]{1,6})?$')::double precision, 0) AS period_s FROM system_metrics AS m
        WHERE m.metric_name = 'maintenance' AND m.service = 'ops_worker' AND m.tags ->> 'pass' = 'health'
          AND m.time > now() - interval '31 days' AND m.time <= now()
        ORDER BY m.time DESC LIMIT 5) AS last
) AS p;
