-- Statements of the readers of the rollup: hours and days instead of samples.

-- name: rolled_bounds
-- The oldest and newest of the hours, or days, that begin in a period.
SELECT
    CASE %(level)s
        WHEN 'hour'
            THEN (
                SELECT min(begun) FROM ops_worker_hour
                WHERE begun >= %(since)s AND begun < %(until)s
            )
        ELSE (
            SELECT min(begun) FROM ops_worker_day
            WHERE begun >= %(since)s AND begun < %(until)s
        )
    END AS oldest,
    CASE %(level)s
        WHEN 'hour'
            THEN (
                SELECT max(begun) FROM ops_worker_hour
                WHERE begun >= %(since)s AND begun < %(until)s
            )
        ELSE (
            SELECT max(begun) FROM ops_worker_day
            WHERE begun >= %(since)s AND begun < %(until)s
        )
    END AS newest;

-- name: rolled
-- Every series in buckets, made of hours or days. Each of them belongs to the bucket in which it
-- begins. A mean counts as often as it has samples. Values that the rollup does not write are left
-- out.
SELECT
    service,
    metric_name AS metric,
    tags,
    width_bucket(begun, %(begins)s::timestamptz[]) AS bucket,
    sum(samples)::bigint AS samples,
    sum(mean * samples) / sum(samples)::float8 AS mean,
    max(most) AS peak,
    min(begun) AS first,
    max(begun) AS last,
    sum(increase) AS increase,
    sum(seconds) AS seconds
FROM (
    SELECT * FROM ops_worker_hour
    WHERE %(level)s = 'hour'
    UNION ALL
    SELECT * FROM ops_worker_day
    WHERE %(level)s = 'day'
) AS rolled
WHERE
    begun >= %(since)s AND begun < %(until)s
    AND samples > 0
    AND mean BETWEEN -1e150 AND 1e150
    AND most BETWEEN -1e150 AND 1e150
GROUP BY 1, 2, 3, 4;

-- name: rolled_ends
-- The times of the first and last sample of each series, and its newest value. `first` and `last`
-- of a series are the begins of an hour or day with samples. `first_s` and `last_s` are their
-- lengths in seconds; 0: the time is that of a sample. If the sample was removed since, the result
-- is the begin of its hour, and `first_exact` or `last_exact` is false.
SELECT
    n.place,
    coalesce(f.time, e.begun) AS first,
    f.time IS NOT NULL OR e.begun IS NULL AND n.first_s = 0 AS first_exact,
    coalesce(l.time, h.begun) AS last,
    l.time IS NOT NULL OR h.begun IS NULL AND n.last_s = 0 AS last_exact,
    h.latest
FROM
    jsonb_to_recordset(%(series)s::jsonb)
        AS n (
            place integer, service text, metric text, tags jsonb,
            first timestamptz, first_s float8, last timestamptz, last_s float8
        )
LEFT JOIN
    LATERAL (
        SELECT r.begun
        FROM ops_worker_hour AS r
        WHERE
            r.service = n.service AND r.metric_name = n.metric AND r.tags = n.tags
            AND r.begun >= n.first AND r.begun < n.first + make_interval(secs => n.first_s)
        ORDER BY r.begun LIMIT 1
    ) AS e
    ON true
LEFT JOIN
    LATERAL (
        SELECT
            r.begun,
            r.latest
        FROM ops_worker_hour AS r
        WHERE
            r.service = n.service AND r.metric_name = n.metric AND r.tags = n.tags
            AND r.begun >= n.last AND r.begun < n.last + make_interval(secs => n.last_s)
        ORDER BY r.begun DESC LIMIT 1
    ) AS h
    ON true
LEFT JOIN
    LATERAL (
        SELECT m.time
        FROM system_metrics AS m
        WHERE
            m.metric_name = n.metric
            AND (m.service = n.service OR m.service IS NULL AND n.service = '')
            AND coalesce(m.tags, '{}') = n.tags
            AND m.time >= e.begun AND m.time < e.begun + interval '1 hour'
            AND m.value BETWEEN -1e150 AND 1e150
        ORDER BY m.time LIMIT 1
    ) AS f
    ON true
LEFT JOIN
    LATERAL (
        SELECT m.time
        FROM system_metrics AS m
        WHERE
            m.metric_name = n.metric
            AND (m.service = n.service OR m.service IS NULL AND n.service = '')
            AND coalesce(m.tags, '{}') = n.tags
            AND m.time >= h.begun AND m.time < h.begun + interval '1 hour'
            AND m.value BETWEEN -1e150 AND 1e150
        ORDER BY m.time DESC LIMIT 1
    ) AS l
    ON true;
