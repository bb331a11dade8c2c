SELECT service FROM ops_worker_span WHERE last_at IS NULL
UNION
SELECT service FROM service_health
ORDER BY service
