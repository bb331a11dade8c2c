-- Statements of the rollup pass: samples become one row per series and hour, and per day.

-- name: rollup_limits
-- A slice may take longer than a statement of the other passes, because nobody waits for its lock.
SELECT
    set_config('statement_timeout', %(statement_ms)s, true),
    set_config('idle_in_transaction_session_timeout', %(statement_ms)s, true),
    set_config('work_mem', '64MB', true),
    set_config('jit', 'off', true);

-- name: rollup_state
-- The newest hour and day that were rolled up.
SELECT
    (SELECT max(begun) FROM ops_worker_hour) AS hour,
    (SELECT max(begun) FROM ops_worker_day) AS day;

-- name: plain_samples
-- Whether samples are in a plain table. A partitioned table has children. So has a hypertable, but
-- not before its first row; it counts as one wherever TimescaleDB is installed.
SELECT
    EXISTS(
        SELECT FROM pg_class AS c
        WHERE
            c.oid = to_regclass('system_metrics') AND c.relkind = 'r'
            AND NOT EXISTS (
                SELECT FROM pg_inherits AS i
                WHERE i.inhparent = c.oid
            )
            AND NOT EXISTS (
                SELECT FROM pg_extension AS e
                WHERE e.extname = 'timescaledb'
            )
    ) AS plain;

-- name: first_sample
-- The oldest sample between two times; NULL if there is none. An index on time answers it.
SELECT min(time) AS first
FROM system_metrics
WHERE time >= %(since)s AND time < %(until)s;

-- name: roll_up
-- One slice, an hour or a day. `sample` has its samples; larger values and NaN are left out, as in
-- `history`. A missing service is '', and missing tags are {}.
--
-- The increase of a counter is that of `growth`: the sum of the steps to each sample of the slice
-- from the one before it, which may be up to a day older than the slice. A counter that fell was
-- reset to 0. A sample that a wrong clock put between two others is left out. So each counter needs
-- its two samples before the slice and the first one after it.
--
-- A row is left as it is if it was made of more samples, which were deleted since. A series whose
-- key does not fit into a page of the index (2,704 bytes) is left out.
WITH
sample AS MATERIALIZED (
    SELECT
        coalesce(service, '') AS service,
        metric_name,
        coalesce(tags, '{}') AS tags,
        time,
        value
    FROM system_metrics
    WHERE
        time >= %(begun)s AND time < %(until)s
        AND value BETWEEN -1e150 AND 1e150
),

series AS MATERIALIZED (
    SELECT
        s.*,
        s.metric_name = ANY(%(latencies)s::text[]) AS is_latency,
        EXISTS (
            SELECT FROM jsonb_to_recordset(%(counters)s::jsonb) AS c (service text, metric text)
            WHERE c.service = s.service AND c.metric = s.metric_name
        )
        OR s.service = ANY(%(all_counters)s::text[])
        AND NOT s.metric_name = ANY(%(gauges)s::text[]) AS is_counter
    FROM (
        SELECT
            service,
            metric_name,
            tags,
            count(*) AS samples,
            avg(value) AS mean,
            min(value) AS least,
            max(value) AS most,
            (max(ARRAY[date_part('epoch', time), value]))[2] AS latest
        FROM sample
        GROUP BY 1, 2, 3
        OFFSET 0  -- the sizes are computed once per series, not per sample
    ) AS s
    WHERE
        octet_length(s.service) + octet_length(s.metric_name)
        + pg_column_size(jsonb_build_array(s.tags)) <= 2500
),

latency AS (
    SELECT
        s.service,
        s.metric_name,
        s.tags,
        percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY s.value) AS p
    FROM sample AS s
    WHERE s.metric_name = ANY(%(latencies)s::text[])
    GROUP BY 1, 2, 3
),

counted AS (
    SELECT
        s.service,
        s.metric_name,
        s.tags,
        m.time,
        m.value
    FROM series AS s
    JOIN sample AS m USING (service, metric_name, tags)
    WHERE s.is_counter
    UNION ALL
    SELECT
        s.service,
        s.metric_name,
        s.tags,
        m.time,
        m.value
    FROM series AS s
    CROSS JOIN
        LATERAL (
            SELECT
                b.time,
                b.value
            FROM system_metrics AS b
            WHERE
                b.metric_name = s.metric_name AND b.service = s.service
                AND coalesce(b.tags, '{}') = s.tags
                AND b.time >= %(begun)s::timestamptz - interval '1 day' AND b.time < %(begun)s
                AND b.value BETWEEN -1e150 AND 1e150
            ORDER BY b.time DESC, b.value DESC LIMIT 2
        ) AS m
    WHERE s.is_counter
    UNION ALL
    SELECT
        s.service,
        s.metric_name,
        s.tags,
        m.time,
        m.value
    FROM series AS s
    CROSS JOIN
        LATERAL (
            SELECT
                b.time,
                b.value
            FROM system_metrics AS b
            WHERE
                b.metric_name = s.metric_name AND b.service = s.service
                AND coalesce(b.tags, '{}') = s.tags
                AND b.time >= %(until)s AND b.time < %(until)s::timestamptz + interval '1 hour'
                AND b.value BETWEEN -1e150 AND 1e150
            ORDER BY b.time, b.value LIMIT 1
        ) AS m
    WHERE s.is_counter
),

growth AS (
    SELECT
        service,
        metric_name,
        tags,
        sum(CASE WHEN step < 0 THEN value ELSE step END) AS increase,
        sum(seconds)::float8 AS seconds
    FROM (
        SELECT
            r.*,
            r.value - lag(r.value) OVER past AS step,
            date_part('epoch', r.time - lag(r.time) OVER past) AS seconds
        FROM (
            SELECT
                c.*,
                lag(c.value) OVER around AS before,
                lead(c.value) OVER around AS after,
                lead(c.time) OVER around - lag(c.time) OVER around AS apart
            FROM counted AS c
            WINDOW around AS (
                PARTITION BY c.service, c.metric_name, c.tags ORDER BY c.time, c.value
            )
        ) AS r
        CROSS JOIN (
            SELECT
                make_interval(secs => 1.5 * coalesce(max(nullif(
                    substring(tags ->> 'period_s' FROM %(period_pattern)s::text)::float8, 0
                )), %(default_period_s)s)) AS neighbours
            FROM sample
            WHERE
                metric_name = 'pass_success' AND service = 'ops_worker'
                AND tags ->> 'pass' = 'metrics'
        ) AS p
        WHERE (
            r.before <= r.after
            AND r.value NOT BETWEEN r.before AND r.after
            AND r.apart < p.neighbours
        ) IS NOT TRUE
        WINDOW past AS (
            PARTITION BY r.service, r.metric_name, r.tags ORDER BY r.time, r.value
        )
    ) AS steps
    WHERE step IS NOT NULL AND time >= %(begun)s AND time < %(until)s
    GROUP BY 1, 2, 3
),

rolled AS MATERIALIZED (
    SELECT
        s.service,
        s.metric_name,
        s.tags,
        %(begun)s::timestamptz AS begun,
        s.samples,
        s.mean,
        s.least,
        s.most,
        s.latest,
        l.p[1] AS p50,
        l.p[2] AS p95,
        l.p[3] AS p99,
        g.increase,
        g.seconds
    FROM series AS s
    LEFT JOIN latency AS l USING (service, metric_name, tags)
    LEFT JOIN growth AS g USING (service, metric_name, tags)
),

hours AS (
    INSERT INTO ops_worker_hour AS t (
        service, metric_name, tags, begun, samples, mean, least, most, latest, p50, p95, p99,
        increase, seconds
    )
    SELECT * FROM rolled
    WHERE %(level)s = 'hour'
    ON CONFLICT (service, metric_name, tags, begun) DO UPDATE
        SET
            samples = excluded.samples,
            mean = excluded.mean,
            least = excluded.least,
            most = excluded.most,
            latest = excluded.latest,
            p50 = excluded.p50,
            p95 = excluded.p95,
            p99 = excluded.p99,
            increase = excluded.increase,
            seconds = excluded.seconds
        WHERE t.samples <= excluded.samples AND t IS DISTINCT FROM excluded
    RETURNING 1
),

days AS (
    INSERT INTO ops_worker_day AS t (
        service, metric_name, tags, begun, samples, mean, least, most, latest, p50, p95, p99,
        increase, seconds
    )
    SELECT * FROM rolled
    WHERE %(level)s = 'day'
    ON CONFLICT (service, metric_name, tags, begun) DO UPDATE
        SET
            samples = excluded.samples,
            mean = excluded.mean,
            least = excluded.least,
            most = excluded.most,
            latest = excluded.latest,
            p50 = excluded.p50,
            p95 = excluded.p95,
            p99 = excluded.p99,
            increase = excluded.increase,
            seconds = excluded.seconds
        WHERE t.samples <= excluded.samples AND t IS DISTINCT FROM excluded
    RETURNING 1
)

SELECT
    (SELECT count(*) FROM rolled) AS series,
    (SELECT count(*) FROM hours) + (SELECT count(*) FROM days) AS written;

-- name: remove_samples
-- The oldest samples, a limited number. Rows of a table without a key are found by their place.
WITH old AS (
    SELECT ctid
    FROM system_metrics
    WHERE time < %(before)s
    ORDER BY time LIMIT %(rows)s
),

removed AS (
    DELETE FROM system_metrics
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM old))
    RETURNING 1
)

SELECT count(*) AS removed FROM removed;

-- name: remove_hours
WITH removed AS (
    DELETE FROM ops_worker_hour
    WHERE
        ctid = ANY(
            ARRAY(
                SELECT ctid FROM ops_worker_hour
                WHERE begun < %(before)s
                ORDER BY begun LIMIT %(rows)s
            )
        )
    RETURNING 1
)

SELECT count(*) AS removed FROM removed;

-- name: remove_days
WITH removed AS (
    DELETE FROM ops_worker_day
    WHERE
        ctid = ANY(
            ARRAY(
                SELECT ctid FROM ops_worker_day
                WHERE begun < %(before)s
                ORDER BY begun LIMIT %(rows)s
            )
        )
    RETURNING 1
)

SELECT count(*) AS removed FROM removed;

-- name: remove_spans
-- Only spans that have ended: one that lasts says how a service is now.
WITH removed AS (
    DELETE FROM ops_worker_span
    WHERE
        id = ANY(
            ARRAY(
                SELECT id FROM ops_worker_span
                WHERE last_at < %(before)s
                LIMIT %(rows)s
            )
        )
    RETURNING 1
)

SELECT count(*) AS removed FROM removed;

-- name: remove_runs
-- Runs that no span refers to. The newest run of each pass and shard stays, because the next pass
-- continues it.
WITH removed AS (
    DELETE FROM ops_worker_run
    WHERE
        id = ANY(
            ARRAY(
                SELECT r.id FROM ops_worker_run AS r
                WHERE
                    r.last_at < %(before)s
                    AND NOT EXISTS (
                        SELECT FROM ops_worker_span AS s
                        WHERE s.run = r.id
                    )
                    AND NOT EXISTS (
                        SELECT FROM ops_worker_span AS s
                        WHERE s.last_run = r.id
                    )
                    AND EXISTS (
                        SELECT FROM ops_worker_run AS n
                        WHERE
                            n.installation = r.installation AND n.pass = r.pass
                            AND n.shard = r.shard AND n.id > r.id
                    )
                LIMIT %(rows)s
            )
        )
    RETURNING 1
)

SELECT count(*) AS removed FROM removed;

-- name: remove_configs
WITH removed AS (
    DELETE FROM ops_worker_config
    WHERE
        config = ANY(
            ARRAY(
                SELECT c.config FROM ops_worker_config AS c
                WHERE
                    c.first_at < %(before)s
                    AND NOT EXISTS (
                        SELECT FROM ops_worker_run AS r
                        WHERE r.config = c.config
                    )
                LIMIT %(rows)s
            )
        )
    RETURNING 1
)

SELECT count(*) AS removed FROM removed;

-- name: remove_actions
WITH removed AS (
    DELETE FROM ops_worker_action
    WHERE
        id = ANY(
            ARRAY(
                SELECT id FROM ops_worker_action
                WHERE at < %(before)s
                LIMIT %(rows)s
            )
        )
    RETURNING 1
)

SELECT count(*) AS removed FROM removed;

-- name: fill_bounds
-- The oldest sample that is not in the ledger yet, and the time at which the first pass began that
-- wrote to the ledger itself. A sample has the time at which its pass began, which is before the
-- pass's first sight. So what is less than half a period older than that sight is its own sample.
-- The index on metric_name and time finds both ends.
SELECT
    r.begun AS ledger_begins,
    (
        SELECT m.time FROM system_metrics AS m
        WHERE
            m.metric_name = 'healthy' AND m.service = ANY(%(series)s::text[])
            AND m.time > coalesce(%(after)s::timestamptz, '-infinity') AND m.time < r.begun
        ORDER BY m.time LIMIT 1
    ) AS first
FROM (
    SELECT first_at - make_interval(secs => least(greatest(period_s, 0), 3600) / 2) AS begun
    FROM ops_worker_run
    WHERE installation = %(installation)s AND pass = %(pass)s AND shard <> %(shard)s
    ORDER BY first_at LIMIT 1
) AS r;

-- name: samples_to_fill
SELECT
    m.time,
    m.service AS series,
    m.value
FROM system_metrics AS m
WHERE
    m.metric_name = 'healthy' AND m.service = ANY(%(series)s::text[])
    AND m.time >= %(since)s AND m.time < %(until)s
ORDER BY m.time, m.service LIMIT %(rows)s;
