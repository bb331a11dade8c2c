-- Statements of the passes. A transaction runs begin, set_role, set_limits, try_lock, survey; then
-- what the pass reads; then what it writes; then COMMIT. Lists are one jsonb parameter, which
-- jsonb_to_recordset unpacks.

-- name: set_role
-- SET LOCAL ROLE as a function, so that the name can be a parameter.
SELECT set_config('role', %(role)s, true);

-- name: set_limits
-- The only place that configures the session, whatever the role, the database or the server sets:
-- limits, formats of times and numbers, and strings without backslash escapes. All of it is SET
-- LOCAL: behind a connection pooler the session belongs to others. client_encoding is a parameter
-- of the connection, which poolers keep. transaction_timeout exists since PostgreSQL 17. A COMMIT
-- does not wait for a standby. With synchronous replication and no standby left it would wait for
-- ever, hold the lock of the pass, and nobody would be alerted. A failover may lose the last rows;
-- the next pass writes them again.
SELECT
    set_config('statement_timeout', %(statement_ms)s, true),
    set_config('lock_timeout', %(lock_ms)s, true),
    set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true),
    CASE
        WHEN current_setting('transaction_timeout', true) IS NOT NULL
            THEN set_config('transaction_timeout', '0', true)
    END,
    set_config('standard_conforming_strings', 'on', true),
    set_config('DateStyle', 'ISO, YMD', true),
    set_config('IntervalStyle', 'postgres', true),
    set_config('TimeZone', 'UTC', true),
    set_config('extra_float_digits', '1', true),
    set_config(
        'synchronous_commit',
        CASE current_setting('synchronous_commit') WHEN 'off' THEN 'off' ELSE 'local' END, true
    );

-- name: try_lock
-- A statement of its own, before any statement that reads: the snapshot of the next statement is
-- then newer than the commit of the pass that held the lock before.
SELECT pg_try_advisory_xact_lock(%(space)s::integer, %(lock)s::integer) AS locked;

-- name: lock_holder
-- The process that holds the lock of a pass, for how long, and what it waits for. The time is NULL
-- if this role may not see it. An advisory lock of two integers has objsubid 2.
SELECT
    l.pid,
    a.application_name AS application,
    a.wait_event,
    date_part('epoch', clock_timestamp() - a.xact_start) AS held_s
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE
    l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
    AND l.classid = %(space)s::integer::oid AND l.objid = %(lock)s::integer::oid
    AND l.database = (
        SELECT oid FROM pg_database
        WHERE datname = current_database()
    );

-- name: survey
-- Everything that decides whether the pass can do its work, and the clock of its rows.
SELECT
    clock_timestamp() AS now,
    current_setting('transaction_read_only')::boolean AS read_only,
    CASE
        WHEN current_setting('transaction_read_only')::boolean THEN NULL
        ELSE pg_current_xact_id()::text
    END AS xid,
    current_user::text AS role,
    coalesce(
        has_schema_privilege(current_schema(), 'CREATE')
        OR has_schema_privilege(session_user, current_schema(), 'CREATE'),
        false
    ) AS may_create,
    current_setting('server_encoding') AS encoding,
    current_setting('search_path') AS search_path,
    ARRAY(
        SELECT t FROM unnest(%(tables)s::text[]) AS t
        WHERE to_regclass(t) IS NOT NULL)
        AS present,
    ARRAY(
        SELECT c.oid::regclass::text FROM pg_class AS c
        WHERE
            c.relname = ANY(%(tables)s::text[]) AND to_regclass(c.relname::text) IS NULL
            AND c.relkind = ANY('{r,p,v,f,m}')
    ) AS elsewhere,
    ARRAY(
        SELECT t FROM unnest(%(tables)s::text[]) AS t
        WHERE row_security_active(to_regclass(t)))
        AS hidden;

-- name: xact_status
-- After a COMMIT whose answer was lost: committed, aborted, in progress, or NULL if it is too old.
-- A number that this server has not assigned yet was lost in a crash or a failover, with all its
-- rows.
SELECT CASE
    WHEN %(xid)s::text::xid8 >= pg_current_xact_id() THEN 'aborted'
    ELSE pg_xact_status(%(xid)s::text::xid8)
END AS status;

-- name: remembered
-- A service without a row is new.
SELECT
    h.service,
    h.status,
    h.details -> 'streak' AS streak,
    h.details ->> 'since' AS since,
    h.checked_at,
    coalesce(h.details ->> 'installation', 'ops-worker') AS installation
FROM jsonb_array_elements_text(%(services)s::jsonb) AS s (name)
JOIN service_health AS h ON h.service = s.name;

-- name: alerted
-- An acknowledged alert counts as open: it closes when its service is healthy again.
SELECT substr(fingerprint, length('system-health:') + 1) AS service
FROM fleet_alert
WHERE
    tenant_id = '__system__'
    AND status IN ('OPEN', 'ACKNOWLEDGED')
    AND starts_with(fingerprint, 'system-health:');

-- name: upsert_health
INSERT INTO service_health AS h (service, status, latency_ms, details, checked_at)
SELECT
    r.service,
    r.status,
    r.latency_ms,
    r.details,
    r.checked_at
FROM
    jsonb_to_recordset(%(rows)s::jsonb)
        AS r (service text, status text, latency_ms integer, details jsonb, checked_at timestamptz)
-- In one order: two installations may meet here, and must not wait for each other.
ORDER BY r.service
ON CONFLICT (service) DO UPDATE
    SET
        status = excluded.status,
        latency_ms = excluded.latency_ms,
        details = excluded.details,
        checked_at = excluded.checked_at;

-- name: ensure_system_tenant
-- The platform has a foreign key from fleet_alert. An existing row stays as it is.
INSERT INTO tenants (tenant_id, name, status, metadata)
VALUES ('__system__', 'System Alerts', 'ACTIVE', '{"kind": "system"}')
ON CONFLICT (tenant_id) DO NOTHING;

-- name: open_alerts
-- ON CONFLICT guards against writers that do not take the lock. Only opened alerts are returned.
INSERT INTO fleet_alert (
    tenant_id,
    site_id,
    device_id,
    alert_type,
    fingerprint,
    status,
    severity,
    confidence,
    summary,
    details
)
SELECT
    '__system__',
    '__system__',
    '__system__',
    'SYSTEM_HEALTH',
    'system-health:' || a.service,
    'OPEN',
    5,
    1.0,
    a.summary,
    jsonb_strip_nulls(
        jsonb_build_object(
            'service', a.service,
            'kind', 'system_health',
            'evidence', a.evidence,
            'causes', a.causes
        )
    )
FROM
    jsonb_to_recordset(%(alerts)s::jsonb)
        AS a (service text, summary text, evidence jsonb, causes jsonb)
ON CONFLICT DO NOTHING
RETURNING details ->> 'service' AS service;

-- name: close_alerts
-- Other programs may have written details that are no object; || would make an array of those.
UPDATE fleet_alert AS f
SET
    status = 'CLOSED',
    closed_at = now(),
    details = CASE jsonb_typeof(f.details) WHEN 'object' THEN f.details ELSE '{}' END
    || jsonb_build_object('resolved_at', now()::text)
FROM jsonb_array_elements_text(%(services)s::jsonb) AS s (name)
WHERE
    f.tenant_id = '__system__'
    AND f.fingerprint = 'system-health:' || s.name
    AND f.status IN ('OPEN', 'ACKNOWLEDGED')
RETURNING s.name AS service;

-- name: alerts_to_post
-- System alerts that are open, and those closed since a time among the last so many. The limit is
-- for a table of many years: there is no index on closed_at, so the statement walks the index on
-- tenant_id and created_at back from the newest alert. An Alertmanager ends an older alert by
-- itself.
SELECT
    id,
    substr(fingerprint, length('system-health:') + 1) AS service,
    status,
    summary,
    created_at,
    closed_at,
    acknowledged_by,
    details -> 'evidence' AS evidence
FROM fleet_alert
WHERE
    tenant_id = '__system__'
    AND status IN ('OPEN', 'ACKNOWLEDGED')
    AND starts_with(fingerprint, 'system-health:')
UNION ALL
SELECT
    n.id,
    substr(n.fingerprint, length('system-health:') + 1) AS service,
    n.status,
    n.summary,
    n.created_at,
    n.closed_at,
    n.acknowledged_by,
    n.details -> 'evidence' AS evidence
FROM (
    SELECT * FROM fleet_alert
    WHERE tenant_id = '__system__'
    ORDER BY created_at DESC LIMIT %(rows)s
) AS n
WHERE
    n.status NOT IN ('OPEN', 'ACKNOWLEDGED')
    AND n.closed_at >= %(closed_since)s
    AND starts_with(n.fingerprint, 'system-health:');

-- name: own_alert
-- The causes of the worker's own alert, if it is open.
SELECT details -> 'causes' AS causes
FROM fleet_alert
WHERE
    tenant_id = '__system__'
    AND fingerprint = 'system-health:' || %(service)s::text
    AND status IN ('OPEN', 'ACKNOWLEDGED');

-- name: set_causes
UPDATE fleet_alert
SET
    details = CASE jsonb_typeof(details) WHEN 'object' THEN details ELSE '{}' END
    || jsonb_build_object('causes', %(causes)s::jsonb)
WHERE
    tenant_id = '__system__'
    AND fingerprint = 'system-health:' || %(service)s::text
    AND status IN ('OPEN', 'ACKNOWLEDGED');

-- name: doubt_rows
-- Consecutive blind passes, per installation, pass and shard. Rows with infinite times are left
-- out. A person may have written a number below 0, or dropped NOT NULL: greatest and least ignore
-- NULL.
SELECT
    pass AS name,
    shard,
    greatest(blind_passes, 0) AS blind_passes,
    since,
    last_at,
    least(coalesce(period_s, 60), 2678400) AS period_s,
    coalesce(suspects, '') AS suspects,
    installation
FROM ops_worker_doubt
WHERE isfinite(last_at) AND coalesce(isfinite(since), true);

-- name: record_doubt
INSERT INTO ops_worker_doubt (
    installation, pass, shard, blind_passes, since, last_at, period_s, suspects
)
VALUES (
    %(installation)s,
    %(name)s,
    %(shard)s,
    %(blind_passes)s,
    %(since)s,
    %(last_at)s,
    %(period_s)s,
    %(suspects)s
)
ON CONFLICT (installation, pass, shard) DO UPDATE
    SET
        blind_passes = excluded.blind_passes,
        since = excluded.since,
        last_at = excluded.last_at,
        period_s = excluded.period_s,
        suspects = excluded.suspects;

-- name: figure_limits
-- Inside a savepoint: both settings end with it. SET LOCAL TimeZone TO DEFAULT follows: in the
-- statement of a figure, "today" is that of the role.
SELECT
    set_config('transaction_read_only', 'on', true),
    set_config('statement_timeout', %(statement_ms)s, true);

-- name: best_effort_limits
-- Short limits for optional work. Inside a savepoint: ROLLBACK TO restores the old ones, RELEASE
-- does not.
SELECT
    set_config('lock_timeout', '500', true),
    set_config('statement_timeout', '2000', true);

-- name: insert_samples
-- One document per pass: its time, and its rows, which all have this time.
INSERT INTO system_metrics (time, metric_name, service, tags, value)
SELECT
    p.time,
    s.metric,
    s.service,
    s.tags,
    s.value
FROM jsonb_to_recordset(%(passes)s::jsonb) AS p (time timestamptz, samples jsonb)
CROSS JOIN LATERAL jsonb_to_recordset(p.samples)
    AS s (metric text, service text, tags jsonb, value double precision);

-- name: already_taken
-- Figures with their own interval whose slot, which began at `since`, already has a sample.
SELECT f.name
FROM
    jsonb_to_recordset(%(figures)s::jsonb)
        AS f (name text, metric text, since timestamptz, until timestamptz)
WHERE
    EXISTS (
        SELECT FROM system_metrics AS m
        WHERE m.metric_name = f.metric AND m.time >= f.since AND m.time <= f.until
    );

-- name: passes_now
-- When each of these passes was last recorded before a time, per shard if there are any; NULL if it
-- was not found. They are of one installation: rows of the default one have no tag for it. A pass
-- of which one is enough for all counts whoever ran it, once this installation has run it. The
-- period is the longest of the last five rows, so a pass that a person runs changes nothing. The
-- statement walks an index back from the newest row: at most 400 days, so many rows of this
-- installation, and so many of all. Without the last limit it would walk all rows of the others to
-- learn that this one never ran a pass. Each CASE is for the planner, which estimates that it holds
-- for every second row, and one with IS NOT NULL for almost every row. Without it, the planner
-- expects almost no match, and reads and sorts all rows.
SELECT
    p.pass AS name,
    s.shard,
    m.time,
    m.period_s
FROM
    unnest(%(passes)s::text[], %(metrics)s::text[], %(of_all)s::boolean[])
        AS p (pass, metric, is_of_all)
CROSS JOIN
    LATERAL (
        SELECT substring(r.tags ->> 'shard' FROM '^[0-9]{1,4}/([0-9]{1,4})$')::integer AS shards
        FROM (
            SELECT
                a.time,
                a.tags
            FROM (
                SELECT
                    time,
                    tags
                FROM system_metrics
                WHERE
                    metric_name = p.metric
                    AND service = 'ops_worker'
                    AND time <= %(at)s
                    AND time > %(at)s::timestamptz - interval '400 days'
                ORDER BY time DESC LIMIT %(all_rows)s
            ) AS a
            WHERE
                CASE
                    WHEN coalesce(a.tags ->> 'installation', 'ops-worker') = %(installation)s THEN 1
                END IS NOT NULL
            ORDER BY a.time DESC LIMIT %(rows)s
        ) AS r
        WHERE CASE WHEN r.tags ->> 'pass' = p.pass THEN true END
        ORDER BY r.time DESC LIMIT 1
    ) AS newest
CROSS JOIN
    LATERAL (
        SELECT i || '/' || newest.shards AS shard
        FROM generate_series(0, coalesce(newest.shards, 1) - 1) AS i
    ) AS s
CROSS JOIN
    LATERAL (
        SELECT
            max(time) AS time,
            max(period_s) AS period_s
        FROM (
            SELECT
                r.time,
                nullif(
                    substring(r.tags ->> 'period_s' FROM %(period_pattern)s::text)::float8,
                    0
                ) AS period_s
            FROM (
                SELECT
                    a.time,
                    a.tags
                FROM (
                    SELECT
                        time,
                        tags
                    FROM system_metrics
                    WHERE
                        metric_name = p.metric
                        AND service = 'ops_worker'
                        AND time <= %(at)s
                        AND time > %(at)s::timestamptz - interval '400 days'
                    ORDER BY time DESC LIMIT %(all_rows)s
                ) AS a
                WHERE
                    CASE
                        WHEN
                            p.is_of_all
                            OR coalesce(a.tags ->> 'installation', 'ops-worker') = %(installation)s
                            THEN 1
                    END IS NOT NULL
                ORDER BY a.time DESC LIMIT %(rows)s
            ) AS r
            WHERE
                CASE
                    WHEN
                        r.tags ->> 'pass' = p.pass
                        AND r.tags ->> 'shard' IS NOT DISTINCT FROM s.shard
                        THEN true
                END
            ORDER BY r.time DESC LIMIT 5
        ) AS last
    ) AS m
ORDER BY p.pass, m.time;

-- name: alerts_can_open
-- Whether row level security leaves fleet_alert visible; NULL if there is no such table.
SELECT NOT row_security_active(to_regclass('fleet_alert')) AS can;

-- name: maintenance
-- An end of infinity is moved to a time within ten years, because the time left is computed from
-- it.
SELECT
    m.until,
    m.started_by,
    m.reason,
    extract(EPOCH FROM m.until - now())::float8 AS left_s
FROM
    (SELECT
        least(until, now() + interval '10 years') AS until,
        started_by,
        reason
    FROM ops_worker_maintenance
    WHERE until > now()) AS m;

-- name: maintenance_windows
-- The windows that may have lasted between two times. Whether one that repeats did is for
-- core/maintenance.py to decide. A length that is no number is 0; one that repeats is cut to 31
-- days. Infinite times are moved to a time with which Python can compute. A window that names no
-- service is left out: only NULL is all services. Where NOT NULL was dropped, NULL is the default
-- of the column.
SELECT
    w.id,
    CASE
        WHEN
            w.services IS NOT NULL
            THEN ARRAY(
                SELECT s.name FROM unnest(w.services) AS s (name)
                WHERE s.name <> ''
            )
    END AS services,
    c.begins,
    c.duration_s,
    coalesce(w.recurrence, '') AS recurrence,
    coalesce(w.zone, 'UTC') AS zone,
    coalesce(w.reason, '') AS reason,
    coalesce(w.started_by, '') AS started_by,
    CASE
        WHEN
            w.ended_at IS NOT NULL
            THEN least(
                greatest(w.ended_at, timestamptz '1970-01-01 00:00:00Z'),
                %(until)s::timestamptz + interval '10 years'
            )
    END AS ended_at,
    w.ended_by
FROM ops_worker_maintenance_window AS w
CROSS JOIN
    LATERAL (
        SELECT
            greatest(w.begins, timestamptz '1970-01-01 00:00:00Z') AS begins,
            CASE
                WHEN
                    w.duration_s BETWEEN 0 AND 315360000
                    THEN least(
                        w.duration_s, CASE WHEN w.recurrence <> '' THEN 2678400 ELSE 315360000 END
                    )
                ELSE 0
            END::float8 AS duration_s
    ) AS c
WHERE
    w.begins <= %(until)s
    AND (w.ended_at IS NULL OR w.ended_at > %(since)s)
    AND (w.recurrence <> '' OR c.begins + make_interval(secs => c.duration_s) > %(since)s)
    AND (w.services IS NULL OR array_to_string(w.services, '') <> '')
ORDER BY w.id;

-- name: newest_run
-- The run that was written last. An index on last_at would make every pass write to it.
SELECT
    id,
    period_s,
    config,
    first_at,
    last_at,
    passes,
    digest,
    shard
FROM ops_worker_run
WHERE installation = %(installation)s AND pass = %(pass)s AND shard = %(shard)s
ORDER BY id DESC LIMIT 1;

-- name: open_spans
SELECT
    s.id,
    s.service,
    s.state,
    s.reason_class,
    s.reason,
    s.first_at,
    s.first_no,
    s.run,
    s.last_at,
    s.last_no,
    s.last_run
FROM ops_worker_span AS s
JOIN ops_worker_run AS r ON r.id = s.run
WHERE
    s.last_at IS NULL AND s.pass = %(pass)s
    AND r.installation = %(installation)s AND r.shard = %(shard)s;

-- name: extend_run
UPDATE ops_worker_run
SET last_at = %(last_at)s, passes = %(passes)s, digest = %(digest)s
WHERE id = %(id)s;

-- name: begin_run
INSERT INTO ops_worker_run (
    pass, shard, installation, period_s, config, first_at, last_at, passes, digest
)
VALUES (
    %(pass)s, %(shard)s, %(installation)s, %(period_s)s, %(config)s, %(first_at)s, %(last_at)s,
    %(passes)s, %(digest)s
)
RETURNING id;

-- name: record_config
INSERT INTO ops_worker_config (config, document)
VALUES (%(config)s, %(document)s::jsonb)
ON CONFLICT (config) DO NOTHING;

-- name: end_spans
UPDATE ops_worker_span AS s
SET last_at = r.last_at, last_no = r.last_no, last_run = r.last_run
FROM
    jsonb_to_recordset(%(spans)s::jsonb)
        AS r (id bigint, last_at timestamptz, last_no bigint, last_run bigint)
WHERE s.id = r.id;

-- name: begin_spans
INSERT INTO ops_worker_span (
    pass, service, state, reason_class, reason, first_at, first_no, run, last_at, last_no, last_run
)
SELECT
    %(pass)s,
    r.service,
    r.state,
    r.reason_class,
    r.reason,
    r.first_at,
    r.first_no,
    r.run,
    r.last_at,
    r.last_no,
    r.last_run
FROM
    jsonb_to_recordset(%(spans)s::jsonb)
        AS r (
            service text,
            state text,
            reason_class text,
            reason text,
            first_at timestamptz,
            first_no bigint,
            run bigint,
            last_at timestamptz,
            last_no bigint,
            last_run bigint
        );
