-- The longest time between two passes of an installation in each bucket, of at most the last seven
-- days. It is about the period; two periods are a pass that was missed or skipped.
SELECT
    date_bin(
        make_interval(secs => greatest($__interval_ms / 1000.0, 1)), p.time,
        timestamptz '1970-01-01 00:00:00Z'
    ) AS time,
    concat_ws(' ', p.installation, p.pass, p.shard) AS metric,
    max(p.step) AS value
FROM (
    SELECT
        m.time,
        m.tags ->> 'installation' AS installation,
        m.tags ->> 'pass' AS pass,
        m.tags ->> 'shard' AS shard,
        date_part('epoch', m.time - lag(m.time) OVER (
            PARTITION BY m.tags ->> 'installation', m.tags ->> 'pass', m.tags ->> 'shard'
            ORDER BY m.time
        )) AS step
    FROM system_metrics AS m
    WHERE m.metric_name = 'pass_success'
      AND m.service = 'ops_worker'
      AND $__timeFilter(m.time)
      AND m.time > $__timeTo()::timestamptz - interval '7 days'
) AS p
WHERE p.step IS NOT NULL
GROUP BY 1, 2
ORDER BY 1, 2
