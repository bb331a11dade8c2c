-- What was recorded in the last 15 minutes; no counters, which only the rollup knows.
SELECT DISTINCT m.metric_name
FROM system_metrics AS m
WHERE m.time > now() - interval '15 minutes'
  AND coalesce(m.service, '') <> 'ops_worker'
  AND m.metric_name NOT IN (@own)
  AND NOT EXISTS (
      SELECT FROM ops_worker_hour AS h
      WHERE h.begun > now() - interval '1 day'
        AND h.metric_name = m.metric_name
        AND h.increase IS NOT NULL
  )
ORDER BY 1
