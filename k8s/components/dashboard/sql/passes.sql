-- When each pass was last recorded up to the end of the period, and how its passes in the period
-- were. The statement passes_now of the commands reads the same rows.
WITH asked AS MATERIALIZED (
    SELECT p.*,
        CASE
            WHEN p.at - p.since <= interval '2 days' THEN p.since
            ELSE greatest(p.since, (SELECT max(begun) + interval '1 hour' FROM ops_worker_hour))
        END AS rolled_until
    FROM (
        SELECT
            $__timeFrom()::timestamptz AS since,
            least($__timeTo()::timestamptz, now()) AS at,
            $__timeTo()::timestamptz >= now() - interval '1 minute' AS is_now
    ) AS p
),
recent AS MATERIALIZED (
    SELECT
        p.pass,
        r.time,
        r.tags ->> 'shard' AS shard,
        nullif(
            substring(r.tags ->> 'period_s' FROM '^[0-9]{1,6}(?:[.][0-9]{1,6})?$')::float8, 0
        ) AS period_s,
        row_number() OVER (PARTITION BY p.pass, r.tags ->> 'shard' ORDER BY r.time DESC) AS place
    FROM (VALUES
        ('health', 'maintenance'), ('metrics', 'pass_success'), ('rollup', 'rollup_behind_s')
    ) AS p (pass, metric)
    CROSS JOIN asked AS a
    CROSS JOIN LATERAL (
        SELECT m.time, m.tags
        FROM system_metrics AS m
        WHERE m.metric_name = p.metric
          AND m.service = 'ops_worker'
          AND m.time <= a.at
          AND m.time > a.at - interval '400 days'
        ORDER BY m.time DESC
        LIMIT 5000
    ) AS r
    WHERE r.tags ->> 'pass' = p.pass
),
-- The shards of the newest division. One that was not found has no row in `recent`.
shards AS (
    SELECT
        n.pass,
        CASE WHEN n.shards IS NOT NULL THEN i || '/' || n.shards END AS shard
    FROM (
        SELECT
            p.pass,
            (
                SELECT substring(r.shard FROM '^[0-9]{1,4}/([0-9]{1,4})$')::integer
                FROM recent AS r
                WHERE r.pass = p.pass
                ORDER BY r.time DESC
                LIMIT 1
            ) AS shards
        FROM (VALUES ('health'), ('metrics'), ('rollup')) AS p (pass)
    ) AS n
    CROSS JOIN LATERAL generate_series(0, coalesce(n.shards, 1) - 1) AS i
),
lasts AS (
    SELECT
        s.pass, s.shard,
        max(r.time) AS last_at,
        coalesce(max(r.period_s), 60) AS period_s
    FROM shards AS s
    LEFT JOIN recent AS r
        ON r.pass = s.pass AND r.shard IS NOT DISTINCT FROM s.shard AND r.place <= 5
    GROUP BY s.pass, s.shard
),
parts AS (
    SELECT m.metric_name, m.tags, 1 AS samples, m.value AS total, m.value AS most
    FROM system_metrics AS m
    CROSS JOIN asked AS a
    WHERE m.service = 'ops_worker'
      AND m.metric_name IN ('pass_success', 'pass_duration_ms', 'blind')
      AND $__timeFilter(m.time)
      AND m.time >= a.rolled_until
    UNION ALL
    SELECT h.metric_name, h.tags, h.samples, h.mean * h.samples AS total, h.most
    FROM ops_worker_hour AS h
    CROSS JOIN asked AS a
    WHERE h.service = 'ops_worker'
      AND h.metric_name IN ('pass_success', 'pass_duration_ms', 'blind')
      AND $__timeFilter(h.begun)
      AND h.begun < a.rolled_until
),
counts AS (
    SELECT
        tags ->> 'pass' AS pass,
        tags ->> 'shard' AS shard,
        sum(samples) FILTER (WHERE metric_name = 'pass_success') AS recorded,
        max(most) FILTER (WHERE metric_name = 'pass_duration_ms') AS longest_ms,
        round(sum(total) FILTER (WHERE metric_name = 'blind')) AS blind
    FROM parts
    GROUP BY 1, 2
)
SELECT
    l.pass AS "Pass",
    l.shard AS "Shard",
    CASE
        WHEN l.last_at IS NULL THEN 'never recorded'
        WHEN date_part('epoch', a.at - l.last_at) > greatest(90, 3 * l.period_s) THEN 'overdue'
        WHEN d.since IS NOT NULL THEN 'blind'
        ELSE 'on time'
    END AS "State",
    l.last_at AS "Last recorded",
    date_part('epoch', a.at - l.last_at) AS "Age",
    CASE WHEN l.last_at IS NOT NULL THEN l.period_s END AS "Period",
    coalesce(c.recorded, 0)::float8 AS "Recorded",
    c.longest_ms AS "Longest",
    c.blind::float8 AS "Blind",
    d.suspects AS "Suspects"
FROM lasts AS l
CROSS JOIN asked AS a
LEFT JOIN counts AS c ON c.pass = l.pass AND c.shard IS NOT DISTINCT FROM l.shard
LEFT JOIN ops_worker_doubt AS d
    ON d.installation = 'ops-worker' AND d.pass = l.pass AND d.since IS NOT NULL
    AND d.shard = coalesce(l.shard, '0/1') AND a.is_now
    AND date_part('epoch', now() - d.last_at) <= greatest(90, 3 * d.period_s)
ORDER BY 1, 2
