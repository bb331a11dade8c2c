-- A series in buckets: from samples, and over more than two days from hours where they are rolled
-- up. After the last point before a gap follows a row without a value, so that no line crosses it.
WITH asked AS MATERIALIZED (
    SELECT
        p.since, p.until, p.width,
        CASE
            WHEN p.until - p.since <= interval '2 days' THEN p.since
            ELSE greatest(p.since, (SELECT max(begun) + interval '1 hour' FROM ops_worker_hour))
        END AS rolled_until,
        greatest(p.width, make_interval(secs => greatest(90, (
            SELECT 3 * max(least(r.period_s, 1e6))
            FROM ops_worker_run AS r
            WHERE r.last_at >= p.since AND r.first_at <= p.until
        )))) AS patience
    FROM (
        SELECT
            $__timeFrom()::timestamptz AS since,
            $__timeTo()::timestamptz AS until,
            make_interval(secs => greatest($__interval_ms / 1000.0, 1)) AS width
    ) AS p
),
parts AS (
    SELECT
        date_bin(a.width, s.time, timestamptz '1970-01-01 00:00:00Z') AS bucket,
        @name AS metric,
        s.value AS total, s.value AS most, 1 AS samples
    FROM system_metrics AS s
    CROSS JOIN asked AS a
    WHERE @where
      AND $__timeFilter(s.time)
      AND s.time >= a.rolled_until
      AND s.value BETWEEN -1e150 AND 1e150
    UNION ALL
    SELECT
        date_bin(a.width, s.begun, timestamptz '1970-01-01 00:00:00Z') AS bucket,
        @name AS metric,
        s.mean * s.samples AS total, s.most, s.samples
    FROM ops_worker_hour AS s
    CROSS JOIN asked AS a
    WHERE @where
      AND $__timeFilter(s.begun)
      AND s.begun < a.rolled_until
),
points AS MATERIALIZED (
    SELECT bucket, metric, @value AS value
    FROM parts
    GROUP BY bucket, metric
)
SELECT bucket AS time, metric, value
FROM points
UNION ALL
SELECT p.bucket + p.width AS time, p.metric, NULL AS value
FROM (
    SELECT
        q.bucket, q.metric, a.patience, a.width,
        lead(q.bucket) OVER (PARTITION BY q.metric ORDER BY q.bucket) - q.bucket AS step
    FROM points AS q
    CROSS JOIN asked AS a
) AS p
WHERE p.step > p.patience
ORDER BY 1, 2
