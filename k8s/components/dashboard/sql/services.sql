-- The last recorded state of each service. What is too old is stale: nobody knows it. So is what
-- was recorded before a health pass of the installation that keeps the row became blind.
SELECT
    h.service AS "Service",
    CASE
        WHEN h.status = 'stale' OR b.since >= h.checked_at THEN 'stale'
        ELSE coalesce(h.details ->> 'status', h.status)
    END AS "State",
    h.latency_ms AS "Latency",
    h.checked_at AS "Checked",
    h.details ->> 'since' AS "Since",
    coalesce(
        h.details ->> 'error', h.details ->> 'reason', 'http ' || (h.details ->> 'http_status')
    ) AS "Reason",
    CASE
        WHEN jsonb_typeof(h.details -> 'certificate_days_left') = 'number'
            THEN (h.details ->> 'certificate_days_left')::float8
    END AS "Certificate"
FROM service_health_current AS h
LEFT JOIN (
    SELECT installation, max(since) AS since
    FROM ops_worker_doubt
    WHERE pass = 'health' AND isfinite(since)
    GROUP BY installation
) AS b ON b.installation = coalesce(h.details ->> 'installation', 'ops-worker')
WHERE h.service = ANY(ARRAY[$service]::text[])
ORDER BY h.status = 'healthy', h.service
