-- What each service was in the chosen period, as `ops-worker history --pass all` computes it. The
-- rules are in docs/contract.md, "Ledger". The last CTE, `known`, has a row for each state of a
-- service and each time in which it was seen in that state. All other time is unseen.
WITH asked AS MATERIALIZED (
    SELECT
        $__timeFrom()::timestamptz AS since,
        greatest($__timeFrom()::timestamptz, least($__timeTo()::timestamptz, now())) AS until,
        now() AS now,
        timestamptz '1970-01-01 00:00:00Z' AS earliest,
        now() + interval '3650 days' AS latest
),
-- All runs of both passes, of all installations: they are few. The shards of each installation have
-- names of their own. A time or period with which nobody can compute is moved.
runs AS MATERIALIZED (
    SELECT
        r.id, r.pass, r.installation || ' ' || r.shard AS shard, r.config,
        least(greatest(r.period_s, 0), 1e6::float8) AS period_s,
        least(greatest(r.first_at, a.earliest), a.latest) AS first_at,
        least(greatest(r.last_at, r.first_at, a.earliest), a.latest) AS last_at
    FROM ops_worker_run AS r
    CROSS JOIN asked AS a
    WHERE r.pass IN ('metrics', 'health')
),
-- The period with the longest patience of each pass: a state counts for at most so long after its
-- last sight.
margin AS MATERIALIZED (
    SELECT
        r.pass,
        a.since - make_interval(secs => greatest(90, 3 * max(r.period_s))) AS since,
        a.until + make_interval(secs => greatest(90, 3 * max(r.period_s))) AS until
    FROM runs AS r
    CROSS JOIN asked AS a
    GROUP BY r.pass, a.since, a.until
),
followed AS (
    SELECT
        r.*,
        lag(r.last_at) OVER shard_runs AS before_at,
        lag(r.period_s) OVER shard_runs AS before_s,
        lag(r.config) OVER shard_runs AS before_config
    FROM runs AS r
    WINDOW shard_runs AS (PARTITION BY r.pass, r.shard ORDER BY r.id)
),
-- A new epoch begins where the clock was set back. A run is near if no unseen time is before it. If
-- period and configuration are the same all the same, a blind pass was in between.
judged AS (
    SELECT
        f.*,
        count(*) FILTER (WHERE f.first_at <= f.before_at)
        OVER (PARTITION BY f.pass, f.shard ORDER BY f.id) AS epoch,
        coalesce(
            f.first_at > f.before_at
            AND f.first_at - f.before_at
            <= make_interval(secs => greatest(90, 3 * f.period_s, 3 * f.before_s)),
            false
        ) AS is_near,
        coalesce(f.period_s = f.before_s AND f.config = f.before_config, false) AS is_same
    FROM followed AS f
),
numbered AS MATERIALIZED (
    SELECT
        j.*,
        count(*) FILTER (WHERE NOT j.is_near OR j.is_same)
        OVER (PARTITION BY j.pass, j.shard, j.epoch ORDER BY j.id) AS cover
    FROM judged AS j
),
-- A cover is a time without a hole in which passes of one shard ran.
covers AS MATERIALIZED (
    SELECT
        n.pass, n.shard, n.epoch, n.cover,
        min(n.first_at) AS begun,
        max(n.last_at) AS last_at,
        (array_agg(n.period_s ORDER BY n.id))[1] AS first_s,
        (array_agg(n.period_s ORDER BY n.id DESC))[1] AS last_s,
        bool_or(n.is_near AND n.is_same) AS follows_blind
    FROM numbered AS n
    GROUP BY n.pass, n.shard, n.epoch, n.cover
),
placed AS (
    SELECT
        c.*,
        lead(c.cover) OVER place IS NULL AS is_last,
        lead(c.follows_blind) OVER place AS is_cut,
        lead(c.last_at) OVER place AS next_last_at,
        lag(c.begun) OVER place AS earlier_begun
    FROM covers AS c
    WINDOW place AS (PARTITION BY c.pass, c.shard, c.epoch ORDER BY c.cover)
),
-- The last sight before the next blind pass, which ended this cover or a later one.
cut AS (
    SELECT
        p.*,
        min(CASE WHEN p.is_cut THEN p.last_at END) OVER (
            PARTITION BY p.pass, p.shard, p.epoch
            ORDER BY p.cover
            ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
        ) AS cut_at
    FROM placed AS p
),
-- Those of the period, and the nearest one before and after it.
close_covers AS MATERIALIZED (
    SELECT c.*
    FROM cut AS c
    JOIN margin AS m ON m.pass = c.pass
    WHERE coalesce(c.next_last_at >= m.since, true)
      AND coalesce(c.earlier_begun <= m.until, true)
),
-- The covers of each place in order, so that those of a span are found by a binary search.
places AS MATERIALIZED (
    SELECT
        c.pass, c.shard, c.epoch,
        count(*)::integer AS number,
        array_agg(c.begun ORDER BY c.cover) AS begins,
        array_agg(c.last_at ORDER BY c.cover) AS lasts,
        min(n.first_close)::integer AS first_close,
        min(n.last_close)::integer AS last_close
    FROM covers AS c
    JOIN (
        SELECT pass, shard, epoch, min(cover) AS first_close, max(cover) AS last_close
        FROM close_covers
        GROUP BY pass, shard, epoch
    ) AS n ON n.pass = c.pass AND n.shard = c.shard AND n.epoch = c.epoch
    GROUP BY c.pass, c.shard, c.epoch
),
spans AS MATERIALIZED (
    SELECT
        s.id, s.pass, s.service, s.run, s.last_run, s.last_at IS NULL AS is_open,
        CASE
            WHEN s.state IN ('healthy', 'degraded', 'down', 'unknown') THEN s.state
            ELSE 'unknown'
        END AS state,
        least(greatest(s.first_at, a.earliest), a.latest) AS first_at,
        CASE
            WHEN s.last_at IS NOT NULL THEN least(greatest(s.last_at, a.earliest), a.latest)
        END AS last_at
    FROM ops_worker_span AS s
    JOIN margin AS m ON m.pass = s.pass
    CROSS JOIN asked AS a
    WHERE s.service = ANY(ARRAY[$service]::text[])
      AND s.first_at <= m.until
      AND (s.last_at IS NULL OR s.last_at >= m.since)
),
located AS MATERIALIZED (
    SELECT
        s.id, s.pass, s.service, s.state, s.first_at, s.last_at, s.is_open, r.shard, r.epoch,
        r.period_s AS run_s, l.period_s AS last_run_s,
        greatest(
            p.first_close, 1 + width_bucket(s.first_at - interval '1 microsecond', p.lasts)
        ) AS start,
        least(
            p.last_close,
            CASE WHEN s.last_at IS NULL THEN p.number ELSE width_bucket(s.last_at, p.begins) END
        ) AS stop
    FROM spans AS s
    JOIN numbered AS r ON r.id = s.run AND r.pass = s.pass
    LEFT JOIN numbered AS l ON l.id = s.last_run AND l.pass = s.pass
    JOIN places AS p ON p.pass = s.pass AND p.shard = r.shard AND p.epoch = r.epoch
),
-- A state of a service in one cover: its first and its last sight.
segments AS MATERIALIZED (
    SELECT
        s.id, s.pass, s.service, s.state, s.epoch,
        greatest(s.first_at, c.begun) AS first_at,
        least(s.last_at, c.last_at) AS last_at,
        CASE WHEN s.first_at >= c.begun THEN s.run_s ELSE c.first_s END AS first_s,
        CASE
            WHEN s.last_at <= c.last_at THEN coalesce(s.last_run_s, c.last_s)
            ELSE c.last_s
        END AS last_s,
        s.is_open AND c.is_last AS lasts,
        c.cut_at
    FROM (SELECT l.*, generate_series(l.start, l.stop) AS cover FROM located AS l) AS s
    JOIN close_covers AS c
        ON c.pass = s.pass AND c.shard = s.shard AND c.epoch = s.epoch AND c.cover = s.cover
),
-- A segment that lies within another one, of another shard: the outer one goes on after it.
measured AS (
    SELECT
        s.*,
        max(s.last_at) OVER (
            PARTITION BY s.pass, s.service, s.epoch
            ORDER BY s.first_at, s.id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS outer_at
    FROM segments AS s
),
resumed AS (
    SELECT
        s.id, s.pass, s.service, s.state, s.epoch, s.first_at, s.last_at, s.first_s, s.last_s,
        s.lasts, s.cut_at, false AS is_rest
    FROM segments AS s
    UNION ALL
    SELECT
        o.id, o.pass, o.service, o.state, o.epoch,
        least(i.last_at + make_interval(secs => i.last_s), o.last_at) AS first_at,
        o.last_at, o.first_s, o.last_s, o.lasts, o.cut_at, true AS is_rest
    FROM measured AS i
    JOIN segments AS o
        ON o.pass = i.pass AND o.service = i.service AND o.epoch = i.epoch
        AND o.last_at = i.outer_at AND o.first_at <= i.first_at
    WHERE i.last_at < i.outer_at
),
-- A sight of the moment in which an outer one goes on comes after it: what was seen counts.
neighbours AS (
    SELECT
        r.*,
        lead(r.first_at) OVER place AS after_at,
        lead(r.first_s) OVER place AS after_s
    FROM resumed AS r
    WINDOW place AS (
        PARTITION BY r.pass, r.service, r.epoch ORDER BY r.first_at, r.is_rest DESC, r.id
    )
),
-- A state counts up to the next one if that is near. Else it counts for one period after its last
-- sight, and the newest one up to now while its pass is not overdue.
pieces AS MATERIALIZED (
    SELECT
        n.pass, n.service, n.state, n.epoch, n.first_at AS begun,
        greatest(n.first_at, CASE
            WHEN n.after_at IS NULL AND n.lasts
                AND a.now - n.last_at <= make_interval(secs => greatest(90, 3 * n.last_s))
                THEN a.now
            WHEN n.after_at IS NULL
                THEN least(n.last_at + make_interval(secs => n.last_s), a.now)
            WHEN n.after_at - n.last_at
                <= make_interval(secs => greatest(90, 3 * n.last_s, 3 * n.after_s))
                AND coalesce(n.cut_at >= n.after_at, true)
                THEN n.after_at
            ELSE least(n.last_at + make_interval(secs => n.last_s), n.after_at)
        END) AS ended
    FROM neighbours AS n
    CROSS JOIN asked AS a
),
-- A later epoch hides the earlier ones.
extents AS MATERIALIZED (
    SELECT pass, service, epoch, tstzrange(min(begun), max(ended)) AS extent
    FROM pieces
    GROUP BY pass, service, epoch
),
hidden AS (
    SELECT e.pass, e.service, e.epoch, range_agg(l.extent) AS by_later
    FROM extents AS e
    JOIN extents AS l ON l.pass = e.pass AND l.service = e.service AND l.epoch > e.epoch
    GROUP BY e.pass, e.service, e.epoch
),
seen AS MATERIALIZED (
    SELECT p.pass, p.service, p.state, part.during
    FROM pieces AS p
    CROSS JOIN asked AS a
    LEFT JOIN hidden AS h
        ON h.pass = p.pass AND h.service = p.service AND h.epoch = p.epoch
    CROSS JOIN LATERAL unnest(
        tstzmultirange(tstzrange(p.begun, p.ended) * tstzrange(a.since, a.until))
        - coalesce(h.by_later, '{}'::tstzmultirange)
    ) AS part (during)
),
-- Where the metrics pass knows, it counts; else the health pass.
finer AS (
    SELECT service, range_agg(during) AS by_metrics
    FROM seen
    WHERE pass = 'metrics'
    GROUP BY service
),
known AS MATERIALIZED (
    SELECT service, state, during FROM seen WHERE pass = 'metrics'
    UNION ALL
    SELECT
        s.service, s.state,
        unnest(s.during - coalesce(f.by_metrics, '{}'::tstzmultirange)) AS during
    FROM (
        SELECT service, state, range_agg(during) AS during
        FROM seen
        WHERE pass = 'health'
        GROUP BY service, state
    ) AS s
    LEFT JOIN finer AS f ON f.service = s.service
)
