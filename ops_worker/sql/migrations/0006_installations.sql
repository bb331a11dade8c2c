-- Migration 6: several installations in one database. Each row of service_health is as old as the
-- period of the installation that keeps it allows.

-- object: service_health_current
-- service_health for readers of SQL. A row is stale if it is older than three periods of the health
-- pass and than 90 s. So is a row whose time is in the future, after a clock was set back. The
-- period is that of the installation that keeps the row; the default one is not named.
CREATE OR REPLACE VIEW service_health_current AS
SELECT
    h.service,
    CASE
        WHEN
            h.checked_at >= now() - greatest(3 * p.period, interval '90 seconds')
            AND h.checked_at <= now() + p.period
            THEN h.status
        ELSE 'stale'
    END AS status,
    h.latency_ms,
    h.details,
    h.checked_at
FROM service_health AS h
INNER JOIN (
    SELECT
        i.installation,
        make_interval(secs => coalesce(max(last.period_s), 60)) AS period
    FROM (
        SELECT DISTINCT coalesce(details ->> 'installation', 'ops-worker') AS installation
        FROM service_health
    ) AS i
    LEFT JOIN
        LATERAL (
            SELECT
                nullif(
                    substring(
                        m.tags ->> 'period_s' FROM '^[0-9]{1,6}(?:[.][0-9]{1,6})?$'
                    )::double precision,
                    0
                ) AS period_s
            FROM system_metrics AS m
            WHERE
                m.metric_name = 'maintenance'
                AND m.service = 'ops_worker'
                AND m.tags ->> 'pass' = 'health'
                AND coalesce(m.tags ->> 'installation', 'ops-worker') = i.installation
                AND m.time > now() - interval '31 days' AND m.time <= now()
            ORDER BY m.time DESC
            LIMIT 5
        ) AS last
        ON true
    GROUP BY i.installation
) AS p
    ON p.installation = coalesce(h.details ->> 'installation', 'ops-worker');
