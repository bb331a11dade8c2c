-- When each pass of each installation was last recorded up to the end of the period, and how its
-- passes in the period were. The statement passes_now of the commands reads the same rows.
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
        coalesce(r.tags ->> 'installation', 'ops-worker') AS installation,
        p.pass,
        r.time,
        r.tags ->> 'shard' AS shard,
        nullif(
            substring(r.tags ->> 'period_s' FROM '^[0-9]{1,6}(?:[.][0-9]{1,6})?$')::float8, 0
        ) AS period_s,
        row_number() OVER (
            PARTITION BY r.tags ->> 'installation', p.pass, r.tags ->> 'shard'
            ORDER BY r.time DESC
        ) AS place
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
ledger AS (
    SELECT
        r.installation, r.pass, nullif(r.shard, '0/1') AS shard,
        least(r.last_at, a.at) AS time,
        least(greatest(r.period_s, 0), 1e6::float8) AS period_s
    FROM ops_worker_run AS r
    CROSS JOIN asked AS a
    WHERE r.pass IN ('health', 'metrics') AND r.first_at <= a.at AND isfinite(r.last_at)
),
-- Newer samples of other passes may hide one that stopped from `recent`. The ledger still has it.
records AS MATERIALIZED (
    SELECT installation, pass, shard, time, period_s
    FROM recent
    WHERE place <= 5
    UNION ALL
    SELECT l.installation, l.pass, l.shard, l.time, l.period_s
    FROM (
        SELECT DISTINCT ON (installation, pass, shard) *
        FROM ledger
        ORDER BY installation, pass, shard, time DESC
    ) AS l
    CROSS JOIN asked AS a
    WHERE date_part('epoch', a.at - l.time) > greatest(90, 3 * l.period_s)
      AND NOT EXISTS (
          SELECT FROM recent AS r
          WHERE r.installation = l.installation
            AND r.pass = l.pass
            AND r.shard IS NOT DISTINCT FROM l.shard
      )
),
-- As in the commands, one that stopped a week before the others is one no more.
installations AS (
    SELECT i.installation
    FROM (
        SELECT installation, max(time) AS last_at, max(max(time)) OVER () AS newest_at
        FROM (
            SELECT installation, time FROM records
            UNION ALL
            SELECT installation, time FROM ledger
        ) AS t
        GROUP BY installation
    ) AS i
    WHERE i.last_at >= i.newest_at - interval '7 days'
    UNION ALL
    SELECT 'ops-worker' AS installation
    WHERE NOT EXISTS (SELECT FROM records) AND NOT EXISTS (SELECT FROM ledger)
),
-- The shards of the newest division. One that was not found has no row in `records`.
shards AS (
    SELECT
        n.installation, n.pass,
        CASE WHEN n.shards IS NOT NULL THEN i || '/' || n.shards END AS shard
    FROM (
        SELECT
            s.installation, p.pass,
            (
                SELECT substring(r.shard FROM '^[0-9]{1,4}/([0-9]{1,4})$')::integer
                FROM records AS r
                WHERE r.installation = s.installation AND r.pass = p.pass
                ORDER BY r.time DESC
                LIMIT 1
            ) AS shards
        FROM installations AS s
        CROSS JOIN (VALUES ('health'), ('metrics'), ('rollup')) AS p (pass)
    ) AS n
    CROSS JOIN LATERAL generate_series(0, coalesce(n.shards, 1) - 1) AS i
),
lasts AS (
    SELECT
        s.installation, s.pass, s.shard,
        max(r.time) AS last_at,
        coalesce(max(r.period_s), 60) AS period_s
    FROM shards AS s
    LEFT JOIN records AS r
        ON r.installation = s.installation AND r.pass = s.pass
        AND r.shard IS NOT DISTINCT FROM s.shard
    GROUP BY s.installation, s.pass, s.shard
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
        coalesce(tags ->> 'installation', 'ops-worker') AS installation,
        tags ->> 'pass' AS pass,
        tags ->> 'shard' AS shard,
        sum(samples) FILTER (WHERE metric_name = 'pass_success') AS recorded,
        max(most) FILTER (WHERE metric_name = 'pass_duration_ms') AS longest_ms,
        round(sum(total) FILTER (WHERE metric_name = 'blind')) AS blind
    FROM parts
    GROUP BY 1, 2, 3
)
SELECT
    l.pass AS "Pass",
    l.installation AS "Installation",
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
LEFT JOIN counts AS c
    ON c.installation = l.installation AND c.pass = l.pass
    AND c.shard IS NOT DISTINCT FROM l.shard
LEFT JOIN ops_worker_doubt AS d
    ON d.installation = l.installation AND d.pass = l.pass AND d.since IS NOT NULL
    AND d.shard = coalesce(l.shard, '0/1') AND a.is_now
    AND date_part('epoch', now() - d.last_at) <= greatest(90, 3 * d.period_s)
ORDER BY 1, 2, 3
