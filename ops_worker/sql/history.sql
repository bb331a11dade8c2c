-- Statements of the commands that read what was recorded: status, explain, report.

-- name: services_now
-- The counters in details stay in the database: a screen shows none of them, and they may be large.
SELECT
    service, status, latency_ms, details ->> 'status' AS state, details ->> 'since' AS since,
    checked_at,
    coalesce(
        details ->> 'error', details ->> 'reason', 'http ' || (details ->> 'http_status')
    ) AS reason,
    details -> 'certificate_days_left' AS certificate_days_left,
    coalesce(details ->> 'installation', 'ops-worker') AS installation
FROM service_health
ORDER BY service

-- name: alerts_now
-- The prefix of the fingerprint tells system alerts from those of the platform.
SELECT
    id, substr(fingerprint, length('system-health:') + 1) AS service, status, summary, created_at,
    acknowledged_by, acknowledged_at
FROM fleet_alert
WHERE tenant_id = '__system__'
  AND status IN ('OPEN', 'ACKNOWLEDGED')
  AND starts_with(fingerprint, 'system-health:')
ORDER BY created_at, id

-- name: look_back
-- The rows of a week are sorted in memory: this is one connection of one person. JIT compilation
-- is off, because each statement is executed once.
SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true)

-- name: history
-- Every series in buckets, which begin at these times. There is no ORDER BY, so that parallel
-- workers can share the work. Larger values are left out, because their squares are not doubles:
-- one value near the largest double would hide all others. NaN sorts above all numbers, and is left
-- out as well. Where a period also has rows of the rollup, a missing service is '', and missing
-- tags are {} there; else they are NULL.
SELECT
    coalesce(service, %(no_service)s) AS service,
    metric_name AS metric,
    coalesce(tags, %(no_tags)s::jsonb) AS tags,
    width_bucket(time, %(begins)s::timestamptz[]) AS bucket,
    count(*) AS samples,
    avg(value) AS mean,
    max(value) AS peak,
    min(time) AS first,
    max(time) AS last
FROM system_metrics
WHERE time >= %(since)s AND time < %(until)s
  AND value BETWEEN -1e150 AND 1e150
GROUP BY 1, 2, 3, 4

-- name: ends
-- The newest value of each series; of several at the same time, the largest one, as in `roll_up`.
SELECT n.place, l.value AS latest
FROM jsonb_to_recordset(%(series)s::jsonb)
     AS n (place integer, service text, metric text, tags jsonb, last timestamptz)
CROSS JOIN LATERAL (
    SELECT m.value
    FROM system_metrics AS m
    WHERE m.metric_name = n.metric
      AND (m.service = n.service
           OR m.service IS NULL AND n.service IS NOT DISTINCT FROM %(no_service)s)
      AND coalesce(m.tags, %(no_tags)s::jsonb) IS NOT DISTINCT FROM n.tags
      AND m.time = n.last
      AND m.value BETWEEN -1e150 AND 1e150
    ORDER BY m.value DESC
    LIMIT 1
) AS l

-- name: growth
-- The growth of each counter in each bucket, and over how many seconds. A counter that fell was
-- reset to 0. One kind of row is left out: its value is outside of its neighbours', the neighbours
-- do not fall, and they are at most a period and a half apart. Such a row was written while a clock
-- was wrong. If nothing was squeezed in, the neighbours are two periods apart, and the counter was
-- reset twice. The first step begins at the last row before, if that is at most look_back_s older.
SELECT
    n.place,
    width_bucket(s.time, %(begins)s::timestamptz[]) AS bucket,
    sum(CASE WHEN s.step < 0 THEN s.value ELSE s.step END) AS increase,
    sum(s.seconds)::float8 AS seconds
FROM jsonb_to_recordset(%(series)s::jsonb)
     AS n (place integer, service text, metric text, tags jsonb)
CROSS JOIN LATERAL (
    SELECT
        r.time,
        r.value,
        r.value - lag(r.value) OVER past AS step,
        date_part('epoch', r.time - lag(r.time) OVER past) AS seconds
    FROM (
        SELECT
            c.time, c.value,
            lag(c.value) OVER around AS before,
            lead(c.value) OVER around AS after,
            lead(c.time) OVER around - lag(c.time) OVER around AS apart
        FROM (
            SELECT m.time, m.value
            FROM system_metrics AS m
            WHERE m.metric_name = n.metric
              AND (m.service = n.service
                   OR m.service IS NULL AND n.service IS NOT DISTINCT FROM %(no_service)s)
              AND coalesce(m.tags, %(no_tags)s::jsonb) IS NOT DISTINCT FROM n.tags
              AND m.time >= %(since)s AND m.time < %(until)s
              AND m.value BETWEEN -1e150 AND 1e150
            UNION ALL
            SELECT * FROM (
                SELECT m.time, m.value
                FROM system_metrics AS m
                WHERE m.metric_name = n.metric
                  AND (m.service = n.service
                       OR m.service IS NULL AND n.service IS NOT DISTINCT FROM %(no_service)s)
                  AND coalesce(m.tags, %(no_tags)s::jsonb) IS NOT DISTINCT FROM n.tags
                  AND m.time < %(since)s
                  AND m.time >= %(since)s::timestamptz
                                - make_interval(secs => %(look_back_s)s::float8)
                  AND m.value BETWEEN -1e150 AND 1e150
                ORDER BY m.time DESC, m.value DESC
                LIMIT 2
            ) AS earlier
            UNION ALL
            SELECT * FROM (
                SELECT m.time, m.value
                FROM system_metrics AS m
                WHERE m.metric_name = n.metric
                  AND (m.service = n.service
                       OR m.service IS NULL AND n.service IS NOT DISTINCT FROM %(no_service)s)
                  AND coalesce(m.tags, %(no_tags)s::jsonb) IS NOT DISTINCT FROM n.tags
                  AND m.time >= %(until)s AND m.time < %(end)s
                  AND m.value BETWEEN -1e150 AND 1e150
                ORDER BY m.time, m.value
                LIMIT 1
            ) AS later
        ) AS c
        WINDOW around AS (ORDER BY c.time, c.value)
    ) AS r
    WHERE (
        r.before <= r.after
        AND r.value NOT BETWEEN r.before AND r.after
        AND r.apart < make_interval(secs => 1.5 * %(period_s)s::float8)
    ) IS NOT TRUE
    WINDOW past AS (ORDER BY r.time, r.value)
) AS s
WHERE s.step IS NOT NULL AND s.time >= %(since)s AND s.time < %(until)s
GROUP BY 1, 2

-- name: ran
-- How often each pass of one installation was recorded, and how often it was missed. Each record
-- has the period until the next one. Of two neighbours with different periods, the longer period
-- counts. OFFSET 0 keeps the planner from evaluating the tags of a row more than once.
SELECT
    r.pass AS name, r.shard,
    min(r.time) AS first, max(r.time) AS last,
    count(*) AS recorded, sum(r.missed)::bigint AS missed
FROM (
    SELECT
        p.*,
        greatest(0, round(
            date_part('epoch', p.time - lag(p.time) OVER past)
            / greatest(lag(p.period_s) OVER past, p.period_s)
        ) - 1) AS missed
    FROM (
        SELECT
            m.tags ->> 'pass' AS pass, m.tags ->> 'shard' AS shard, m.time,
            coalesce(nullif(
                substring(m.tags ->> 'period_s' FROM %(period_pattern)s::text)::float8, 0
            ), %(default_period_s)s) AS period_s
        FROM system_metrics AS m
        WHERE m.metric_name = 'pass_success'
          AND m.service = 'ops_worker'
          AND m.tags ->> 'pass' IS NOT NULL
          AND coalesce(m.tags ->> 'installation', 'ops-worker') = %(installation)s
          AND m.time <= %(now)s
          AND m.time > %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8)
        OFFSET 0
    ) AS p
    WINDOW past AS (PARTITION BY p.pass, p.shard ORDER BY p.time)
) AS r
GROUP BY 1, 2
ORDER BY 1, 2

-- name: incidents
-- The system alerts that were open in the last so many seconds. Those that are open now are among
-- them, whatever their time.
SELECT
    id, substr(fingerprint, length('system-health:') + 1) AS service, status, summary, created_at,
    closed_at, acknowledged_by, acknowledged_at
FROM fleet_alert
WHERE tenant_id = '__system__'
  AND starts_with(fingerprint, 'system-health:')
  AND (
      status <> 'CLOSED'
      OR created_at <= %(now)s
         AND closed_at > %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8)
  )
ORDER BY created_at, id

-- name: service_row
SELECT status, details, checked_at FROM service_health WHERE service = %(service)s

-- name: observations
-- The last samples of the health and the latency of a service.
SELECT time, metric_name AS metric, value
FROM system_metrics
WHERE service = %(series)s
  AND metric_name IN ('healthy', 'probe_latency_ms')
  AND time <= %(at)s
ORDER BY time DESC
LIMIT 10

-- name: alerts_of
-- The last alerts of a service that had opened by a time. If that time is now, the alerts that are
-- open are among them, whatever their time.
SELECT
    id, status, summary, created_at, closed_at, acknowledged_by, acknowledged_at,
    details -> 'evidence' AS evidence
FROM fleet_alert
WHERE tenant_id = '__system__'
  AND fingerprint = 'system-health:' || %(service)s
  AND (created_at <= %(at)s OR %(now)s::boolean AND status <> 'CLOSED')
ORDER BY %(now)s::boolean AND status <> 'CLOSED' DESC, created_at DESC, id DESC
LIMIT 5

-- name: maintained
-- Whether the last health pass before a time recorded a maintenance: 1 or 0.
SELECT value
FROM system_metrics
WHERE metric_name = 'maintenance'
  AND service = 'ops_worker'
  AND coalesce(tags ->> 'installation', 'ops-worker') = %(installation)s
  AND time <= %(at)s
  AND time > %(at)s::timestamptz - make_interval(secs => %(patience_s)s::float8)
ORDER BY time DESC
LIMIT 1

-- name: maintenances_logged
-- The maintenances between two times. Infinite times are moved to a time within ten years, because
-- durations are computed from them.
SELECT
    greatest(started_at, %(until)s::timestamptz - interval '10 years') AS begun,
    least(coalesce(ended_at, until), %(until)s::timestamptz + interval '10 years') AS ended,
    started_by, ended_by, reason
FROM ops_worker_maintenance_log
WHERE started_at <= %(until)s AND coalesce(ended_at, until) > %(since)s
ORDER BY started_at

-- name: maintenances_kept
-- The same for the maintenance that is running, in case it is not in the log.
SELECT
    greatest(started_at, %(until)s::timestamptz - interval '10 years') AS begun,
    least(until, %(until)s::timestamptz + interval '10 years') AS ended,
    started_by, NULL AS ended_by, reason
FROM ops_worker_maintenance
WHERE started_at <= %(until)s AND until > %(since)s

-- name: readable
-- Whether this role may read all of these optional tables.
SELECT bool_and(has_table_privilege(name, 'SELECT')) AS readable
FROM unnest(%(tables)s::text[]) AS name

-- name: ledger_runs
-- The columns are the fields of core.ledger.Run, in this order.
-- All runs of a pass, of all installations: a service may have moved from one to another. An open
-- span refers to the run in which it began, however old that run is. The runs are few. An infinite
-- time, or a period that is not a number, is replaced by one with which Python can compute.
SELECT
    id,
    least(greatest(period_s, 0), 1e6)::float8 AS period_s,
    config,
    least(greatest(first_at, timestamptz '1970-01-01 00:00:00Z'), %(latest)s) AS first_at,
    least(greatest(last_at, first_at, timestamptz '1970-01-01 00:00:00Z'), %(latest)s) AS last_at,
    passes,
    digest,
    CASE
        WHEN installation = %(installation)s THEN shard
        ELSE installation || ' ' || shard
    END AS shard
FROM ops_worker_run
WHERE pass = %(pass)s
ORDER BY id

-- name: ledger_spans
-- The columns are the fields of core.ledger.Span, in this order.
-- The spans of these services that overlap a period. The period is longer by a margin at both ends:
-- a state counts for some time after its last sight, until the first sight of the next one.
SELECT
    id,
    service,
    state,
    reason_class,
    reason,
    least(greatest(first_at, timestamptz '1970-01-01 00:00:00Z'), %(latest)s) AS first_at,
    first_no,
    run,
    CASE
        WHEN last_at IS NOT NULL
            THEN least(greatest(last_at, timestamptz '1970-01-01 00:00:00Z'), %(latest)s)
    END AS last_at,
    last_no,
    last_run
FROM ops_worker_span
WHERE pass = %(pass)s
  AND service = ANY(%(services)s::text[])
  AND first_at <= %(until)s::timestamptz + make_interval(secs => %(margin_s)s::float8)
  AND (
      last_at IS NULL
      OR last_at >= %(since)s::timestamptz - make_interval(secs => %(margin_s)s::float8)
  )
ORDER BY service, first_at, id

-- name: ledger_recent
-- The last spans of a service by each pass: how many, at most so many, and when the first began.
SELECT p.name, count(*) AS spans, min(s.first_at) AS first_at
FROM unnest(%(passes)s::text[]) AS p (name)
CROSS JOIN LATERAL (
    SELECT greatest(s.first_at, timestamptz '1970-01-01 00:00:00Z') AS first_at
    FROM ops_worker_span AS s
    WHERE s.service = %(service)s AND s.pass = p.name AND s.first_at <= %(until)s
    ORDER BY s.first_at DESC
    LIMIT %(number)s
) AS s
GROUP BY p.name

-- name: ledger_services
-- The services that the ledger has and that were not removed: a span of each of them lasts.
SELECT DISTINCT service FROM ops_worker_span WHERE last_at IS NULL

-- name: installations
-- When each installation was recorded last, by its runs: they are few.
SELECT installation AS name, max(last_at) AS last_at
FROM ops_worker_run
WHERE isfinite(last_at)
GROUP BY installation

-- name: installations_of_samples
-- When each installation was recorded last between two times, by its self-metrics.
SELECT
    coalesce(tags ->> 'installation', 'ops-worker') AS name,
    max(time) AS last_at
FROM system_metrics
WHERE
    metric_name = %(metric)s
    AND service = 'ops_worker'
    AND time >= %(since)s
    AND time <= %(until)s
GROUP BY 1

-- name: claims_of_rows
-- The services whose rows other installations keep.
SELECT
    service,
    coalesce(details ->> 'installation', 'ops-worker') AS installation,
    checked_at AS last_at
FROM service_health
WHERE
    coalesce(details ->> 'installation', 'ops-worker') <> %(installation)s
    AND isfinite(checked_at)

-- name: claims_of_spans
-- The services that other installations watch: a span lasts, and its shard was recorded last then.
SELECT DISTINCT
    s.service,
    r.installation,
    n.last_at,
    least(greatest(n.period_s, 0), 1e6)::float8 AS period_s
FROM ops_worker_span AS s
JOIN ops_worker_run AS r ON r.id = s.run
CROSS JOIN LATERAL (
    SELECT last_at, period_s
    FROM ops_worker_run AS newest
    WHERE newest.installation = r.installation
      AND newest.pass = r.pass
      AND newest.shard = r.shard
    ORDER BY newest.id DESC
    LIMIT 1
) AS n
WHERE s.last_at IS NULL
  AND r.installation <> %(installation)s
  AND isfinite(n.last_at)

-- name: ledger_knows
SELECT EXISTS (SELECT FROM ops_worker_span WHERE service = %(service)s) AS known

-- name: services_known
SELECT service FROM service_health

-- name: actions
-- What people did in a period, the newest first. An action without names is about all services. An
-- infinite end of a maintenance is moved to a time within ten years.
SELECT
    at, action, by, reason, services,
    CASE
        WHEN until IS NOT NULL
            THEN least(greatest(until, at - interval '10 years'), at + interval '10 years')
    END AS until,
    alert
FROM ops_worker_action
WHERE at > %(since)s
  AND at <= %(until)s
  AND (
      %(services)s::text[] IS NULL
      OR services = '[]'
      OR jsonb_exists_any(services, %(services)s::text[])
  )
ORDER BY at DESC, id DESC
LIMIT %(limit)s::bigint
