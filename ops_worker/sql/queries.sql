-- The statements of the passes. A transaction runs: begin, set_role, set_limits, try_lock, survey; then what the pass
-- reads; then what it writes; then COMMIT. Lists travel as one jsonb parameter, unpacked by jsonb_to_recordset.

-- name: begin
-- READ COMMITTED and READ WRITE by name, whatever the role's defaults: a statement after the lock
-- must see what was committed before it. A standby refuses READ WRITE: feature_not_supported.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE

-- name: begin_read_only
BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY

-- name: set_role
-- SET LOCAL ROLE as a function, so that the name can be a parameter.
SELECT set_config('role', %(role)s, true)

-- name: set_limits
-- The one place that makes a session what the program expects, whatever the role, the database or
-- the server sets: limits, formats of times and numbers, and strings in which a backslash is one.
-- SET LOCAL, all of it: behind a connection pooler a session is not ours to configure.
-- client_encoding is a parameter of the connection, which poolers keep. transaction_timeout is there
-- since PostgreSQL 17.
-- A COMMIT does not wait for a standby: with synchronous replication and no standby left it would wait for ever, with the
-- pass's lock held, and nobody would be told. A failover may lose the last rows; the next pass writes them again.
SELECT set_config('statement_timeout', %(statement_ms)s, true),
       set_config('lock_timeout', %(lock_ms)s, true),
       set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true),
       CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL
            THEN set_config('transaction_timeout', '0', true) END,
       set_config('standard_conforming_strings', 'on', true),
       set_config('DateStyle', 'ISO, YMD', true),
       set_config('IntervalStyle', 'postgres', true),
       set_config('TimeZone', 'UTC', true),
       set_config('extra_float_digits', '1', true),
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'off' ELSE 'local' END, true)

-- name: try_lock
-- A statement of its own, before any that reads: the snapshot of the next one is then younger than the commit of
-- the pass that held the lock before.
SELECT pg_try_advisory_xact_lock(%(space)s::integer, %(lock)s::integer) AS locked

-- name: database_exists
SELECT FROM pg_database WHERE datname = %(database)s

-- name: lock_holder
-- Who holds the lock of a pass, for how long, and what its process waits for. The time is NULL where
-- this role may not see it. An advisory lock of two integers has objsubid 2.
SELECT l.pid, a.application_name AS application, a.wait_event,
       date_part('epoch', clock_timestamp() - a.xact_start) AS held_s
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
  AND l.classid = %(space)s::integer::oid AND l.objid = %(lock)s::integer::oid
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())

-- name: wait_for_lock
SELECT pg_advisory_xact_lock(%(space)s::integer, %(lock)s::integer)

-- name: survey
-- Everything that decides whether the pass can do its work at all, and the clock that it writes by.
SELECT clock_timestamp() AS now,
       current_setting('transaction_read_only')::boolean AS read_only,
       CASE WHEN current_setting('transaction_read_only')::boolean THEN NULL
            ELSE pg_current_xact_id()::text END AS xid,
       current_user::text AS role,
       current_setting('server_encoding') AS encoding,
       current_setting('search_path') AS search_path,
       ARRAY(SELECT t FROM unnest(%(tables)s::text[]) AS t WHERE to_regclass(t) IS NOT NULL) AS present,
       ARRAY(SELECT c.oid::regclass::text FROM pg_class AS c
             WHERE c.relname = ANY(%(tables)s::text[]) AND to_regclass(c.relname::text) IS NULL
               AND c.relkind = ANY('{r,p,v,f,m}')) AS elsewhere,
       ARRAY(SELECT t FROM unnest(%(tables)s::text[]) AS t WHERE row_security_active(to_regclass(t))) AS hidden

-- name: commit
COMMIT

-- name: rollback
ROLLBACK

-- name: xact_status
-- After a COMMIT whose answer was lost: committed, aborted, in progress, or NULL when it is too old to tell. A number
-- that this server has not given out yet was lost in a crash or a failover, with everything that it did.
SELECT CASE WHEN %(xid)s::text::xid8 >= pg_current_xact_id() THEN 'aborted'
            ELSE pg_xact_status(%(xid)s::text::xid8) END AS status

-- name: remembered
SELECT h.service, h.status, h.details -> 'streak' AS streak, h.details ->> 'since' AS since, h.checked_at
FROM jsonb_array_elements_text(%(services)s::jsonb) AS s (name)
JOIN service_health AS h ON h.service = s.name

-- name: alerted
SELECT substr(fingerprint, length('system-health:') + 1) AS service
FROM fleet_alert
WHERE tenant_id = '__system__' AND status IN ('OPEN', 'ACKNOWLEDGED') AND starts_with(fingerprint, 'system-health:')

-- name: upsert_health
INSERT INTO service_health AS h (service, status, latency_ms, details, checked_at)
SELECT r.service, r.status, r.latency_ms, r.details, r.checked_at
FROM jsonb_to_recordset(%(rows)s::jsonb)
     AS r (service text, status text, latency_ms integer, details jsonb, checked_at timestamptz)
ON CONFLICT (service) DO UPDATE
    SET status = excluded.status, latency_ms = excluded.latency_ms, details = excluded.details, checked_at = excluded.checked_at

-- name: ensure_system_tenant
INSERT INTO tenants (tenant_id, name, status, metadata)
VALUES ('__system__', 'System Alerts', 'ACTIVE', '{"kind": "system"}')
ON CONFLICT (tenant_id) DO NOTHING

-- name: open_alerts
-- ON CONFLICT guards against writers that do not take the lock; what is returned is what was opened.
INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, severity, confidence, summary, details)
SELECT '__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:' || a.service, 'OPEN', 5, 1.0, a.summary,
       jsonb_strip_nulls(jsonb_build_object('service', a.service, 'kind', 'system_health', 'evidence', a.evidence))
FROM jsonb_to_recordset(%(alerts)s::jsonb) AS a (service text, summary text, evidence jsonb)
ON CONFLICT DO NOTHING
RETURNING details ->> 'service' AS service

-- name: close_alerts
UPDATE fleet_alert AS f
SET status = 'CLOSED',
    closed_at = now(),
    details = CASE jsonb_typeof(f.details) WHEN 'object' THEN f.details ELSE '{}' END
              || jsonb_build_object('resolved_at', now()::text)
FROM jsonb_array_elements_text(%(services)s::jsonb) AS s (name)
WHERE f.tenant_id = '__system__' AND f.fingerprint = 'system-health:' || s.name AND f.status IN ('OPEN', 'ACKNOWLEDGED')
RETURNING s.name AS service

-- name: figure_limits
-- Inside a savepoint: both settings end with it. After it comes SET LOCAL TimeZone TO DEFAULT: the
-- time zone in which a figure's statement knows "today" is that of the role.
SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', %(statement_ms)s, true)

-- name: best_effort_limits
-- For what is worth no pass, and no wait. Inside a savepoint: a ROLLBACK TO it takes them back, a RELEASE does not.
SELECT set_config('lock_timeout', '500', true), set_config('statement_timeout', '2000', true)

-- name: insert_samples
-- One document for each pass: its time, and the rows that all have this time.
INSERT INTO system_metrics (time, metric_name, service, tags, value)
SELECT p.time, s.metric, s.service, s.tags, s.value
FROM jsonb_to_recordset(%(passes)s::jsonb) AS p (time timestamptz, samples jsonb)
CROSS JOIN LATERAL jsonb_to_recordset(p.samples)
     AS s (metric text, service text, tags jsonb, value double precision)

-- name: already_taken
-- The figures with an interval of their own of which the slot that began `since` has a sample already.
SELECT f.name
FROM jsonb_to_recordset(%(figures)s::jsonb) AS f (name text, metric text, since timestamptz, until timestamptz)
WHERE EXISTS (SELECT FROM system_metrics AS m WHERE m.metric_name = f.metric AND m.time >= f.since AND m.time <= f.until)

-- name: may_create
-- Where pg_temp comes first, what is made is temporary and goes with the connection.
SELECT has_schema_privilege(current_schema(), 'CREATE') AS allowed, current_setting('search_path') AS search_path,
       starts_with(ltrim(current_setting('search_path'), ' "'), 'pg_temp') AS temporary

-- name: grants_to_role
-- The one statement that cannot take its names as parameters; none where the table is somebody else's.
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON %%s TO %%I', oid::regclass, %(role)s::text) AS statement
FROM pg_class WHERE oid = to_regclass(%(table)s::text) AND pg_has_role(relowner, 'USAGE')

-- name: index_session
-- For the session: CREATE INDEX CONCURRENTLY cannot run inside a transaction, and takes as long as it takes.
SELECT set_config('statement_timeout', '0', false) AS statement_timeout,
       set_config('lock_timeout', '0', false) AS lock_timeout,
       set_config('default_transaction_read_only', 'off', false) AS default_transaction_read_only,
       CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL THEN set_config('transaction_timeout', '0', false) END
           AS transaction_timeout

-- name: table_and_index
-- How many rows a table has by the statistics (NULL: no table; -1: nobody has looked), and whether an index is there and finished (NULL: it is not there).
SELECT (SELECT c.reltuples FROM pg_class AS c WHERE c.oid = to_regclass(%(table)s::text)) AS rows,
       (SELECT i.indisvalid FROM pg_index AS i WHERE i.indexrelid = to_regclass(nullif(%(index)s::text, ''))) AS valid

-- name: partial_indexes
SELECT c.relname::text AS name FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE c.relname = ANY(%(names)s::text[]) AND i.indpred IS NOT NULL ORDER BY 1

-- name: services_now
SELECT service, status, latency_ms, details ->> 'status' AS state, details ->> 'since' AS since, checked_at,
       coalesce(details ->> 'error', details ->> 'reason', 'http ' || (details ->> 'http_status')) AS reason
FROM service_health ORDER BY service

-- name: alerts_now
SELECT id, substr(fingerprint, length('system-health:') + 1) AS service, status, summary, created_at, acknowledged_by, acknowledged_at
FROM fleet_alert
WHERE tenant_id = '__system__' AND status IN ('OPEN', 'ACKNOWLEDGED') AND starts_with(fingerprint, 'system-health:')
ORDER BY created_at, id

-- name: passes_now
-- When each of these passes was last recorded before a time: each shard for itself, if there are any now, and NULL for one that is not
-- found. How long it is to the next one is the longest that its last five said: one that a person ran beside them changes nothing. It
-- walks an index from the newest row back, no more than so many rows or 400 days. Each CASE is for the planner, which takes it to be
-- true of every second row; without it, it expects next to none to be found, and reads and sorts all rows that there are instead.
SELECT p.pass AS name, s.shard, m.time, m.period_s
FROM unnest(%(passes)s::text[], %(metrics)s::text[]) AS p (pass, metric)
CROSS JOIN LATERAL (
    SELECT substring(r.tags ->> 'shard' FROM '^[0-9]{1,4}/([0-9]{1,4})$')::integer AS shards
    FROM (SELECT time, tags FROM system_metrics
          WHERE metric_name = p.metric AND service = 'ops_worker' AND time <= %(at)s AND time > %(at)s::timestamptz - interval '400 days'
          ORDER BY time DESC LIMIT %(rows)s) AS r
    WHERE CASE WHEN r.tags ->> 'pass' = p.pass THEN true END
    ORDER BY r.time DESC LIMIT 1) AS newest
CROSS JOIN LATERAL (SELECT i || '/' || newest.shards AS shard FROM generate_series(0, coalesce(newest.shards, 1) - 1) AS i) AS s
CROSS JOIN LATERAL (
    SELECT max(time) AS time, max(period_s) AS period_s FROM (
        SELECT r.time, nullif(substring(r.tags ->> 'period_s' FROM '^[0-9]{1,6}(?:[.][0-9]{1,6})?$')::float8, 0) AS period_s
        FROM (SELECT time, tags FROM system_metrics
              WHERE metric_name = p.metric AND service = 'ops_worker' AND time <= %(at)s AND time > %(at)s::timestamptz - interval '400 days'
              ORDER BY time DESC LIMIT %(rows)s) AS r
        WHERE CASE WHEN r.tags ->> 'pass' = p.pass AND r.tags ->> 'shard' IS NOT DISTINCT FROM s.shard THEN true END
        ORDER BY r.time DESC LIMIT 5) AS last) AS m
ORDER BY p.pass, m.time

-- name: alerts_can_open
-- Whether there is a table for them (NULL: there is none), and no row level security that hides it.
SELECT NOT row_security_active(to_regclass('fleet_alert')) AS can

-- name: look_back
-- Sorts of a week's rows stay in memory: it is one connection of one person. Nothing is compiled: each statement runs once.
SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true)

-- name: history
-- Each series in buckets of equal length. No order among the rows is asked for, so that several processes can share it. The squares of
-- the values have to be doubles: one value near the largest double would keep all the others from being shown. NaN is above them all.
SELECT service, metric_name AS metric, tags,
       least(width_bucket(date_part('epoch', time),
                          date_part('epoch', %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8)),
                          date_part('epoch', %(now)s::timestamptz), %(buckets)s::integer), %(buckets)s::integer) AS bucket,
       avg(value) AS mean, max(value) AS peak, min(time) AS first, max(time) AS last
FROM system_metrics
WHERE time > %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8) AND time <= %(now)s AND value BETWEEN -1e150 AND 1e150
GROUP BY 1, 2, 3, 4

-- name: ends
-- The newest value of each series.
SELECT n.place, l.value AS latest
FROM jsonb_to_recordset(%(series)s::jsonb) AS n (place integer, service text, metric text, tags jsonb, last timestamptz)
CROSS JOIN LATERAL (
    SELECT m.value FROM system_metrics AS m
    WHERE m.metric_name = n.metric AND (m.service = n.service OR n.service IS NULL AND m.service IS NULL)
      AND m.tags IS NOT DISTINCT FROM n.tags AND m.time = n.last AND m.value BETWEEN -1e150 AND 1e150 LIMIT 1) AS l

-- name: growth
-- How much each counter has grown in each bucket, and in how many seconds: one that falls began anew at 0. Left out is a row that lies
-- outside of its neighbours, of which the later is no lower than the earlier and comes within a period and a half: it stands between them
-- because it was written while a clock was wrong. Where nothing was squeezed in, it is two periods, and the counter was reset twice.
SELECT n.place, s.bucket, sum(CASE WHEN s.step < 0 THEN s.value ELSE s.step END) AS increase, sum(s.seconds)::float8 AS seconds
FROM jsonb_to_recordset(%(series)s::jsonb) AS n (place integer, service text, metric text, tags jsonb)
CROSS JOIN LATERAL (
    SELECT r.value, r.value - lag(r.value) OVER past AS step, date_part('epoch', r.time - lag(r.time) OVER past) AS seconds,
           least(width_bucket(date_part('epoch', r.time),
                              date_part('epoch', %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8)),
                              date_part('epoch', %(now)s::timestamptz), %(buckets)s::integer), %(buckets)s::integer) AS bucket
    FROM (
        SELECT m.time, m.value, lag(m.value) OVER around AS before, lead(m.value) OVER around AS after,
               lead(m.time) OVER around - lag(m.time) OVER around AS apart
        FROM system_metrics AS m
        WHERE m.metric_name = n.metric AND (m.service = n.service OR n.service IS NULL AND m.service IS NULL)
          AND m.tags IS NOT DISTINCT FROM n.tags
          AND m.time > %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8) AND m.time <= %(now)s AND m.value BETWEEN -1e150 AND 1e150
        WINDOW around AS (ORDER BY m.time)) AS r
    WHERE (r.before <= r.after AND r.value NOT BETWEEN r.before AND r.after AND r.apart < make_interval(secs => 1.5 * %(period_s)s::float8)) IS NOT TRUE
    WINDOW past AS (ORDER BY r.time)) AS s
WHERE s.step IS NOT NULL
GROUP BY 1, 2

-- name: ran
-- How often each pass was recorded, and how often not: a pass says how long it is to the next one, and more of those are missing in a gap;
-- where two of them say otherwise, of the longer. OFFSET 0: what a row says of it is looked at once.
SELECT r.pass, r.shard, min(r.time) AS first, max(r.time) AS last, count(*) AS recorded, sum(r.missed)::bigint AS missed
FROM (
    SELECT p.*, greatest(0, round(date_part('epoch', p.time - lag(p.time) OVER past) / greatest(lag(p.period_s) OVER past, p.period_s)) - 1) AS missed
    FROM (
        SELECT m.tags ->> 'pass' AS pass, m.tags ->> 'shard' AS shard, m.time, coalesce(nullif(substring(m.tags ->> 'period_s' FROM '^[0-9]{1,6}(?:[.][0-9]{1,6})?$')::float8, 0), 60) AS period_s
        FROM system_metrics AS m
        WHERE m.metric_name = 'pass_success' AND m.service = 'ops_worker' AND m.tags ->> 'pass' IS NOT NULL AND m.time <= %(now)s
          AND m.time > %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8) OFFSET 0) AS p
    WINDOW past AS (PARTITION BY p.pass, p.shard ORDER BY p.time)) AS r
GROUP BY 1, 2 ORDER BY 1, 2

-- name: runs
-- From when to when each series was 1, and was not. A sample speaks until the next one, if that is there within three periods, or the least
-- patience; otherwise for one period, and nobody knows what was after that. Its period is what the pass told that wrote it, at the same time.
WITH cadence AS MATERIALIZED (
    SELECT m.tags ->> 'pass' AS pass, m.time, max(nullif(substring(m.tags ->> 'period_s' FROM '^[0-9]{1,6}(?:[.][0-9]{1,6})?$')::float8, 0)) AS period_s
    FROM system_metrics AS m
    WHERE m.metric_name = 'pass_success' AND m.service = 'ops_worker' AND m.time <= %(now)s
      AND m.time > %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8 + %(patience_s)s::float8)
    GROUP BY 1, 2
)
SELECT r.place, r.up, greatest(r.begun, %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8)) AS begun,
       least(r.ended, %(now)s) AS ended
FROM (
    SELECT n.place, t.up, t.begun, t.turns,
           coalesce(lead(CASE WHEN t.turns THEN t.before_ended ELSE t.spoken END) OVER (PARTITION BY n.place ORDER BY t.number), t.spoken) AS ended
    FROM jsonb_to_recordset(%(series)s::jsonb) AS n (place integer, service text, metric text, tags jsonb, pass text)
    CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT v.up, v.begun, v.spoken, row_number() OVER past AS number, lead(v.begun) OVER past IS NULL AS ends,
                   lag(v.up) OVER past IS DISTINCT FROM v.up OR lag(v.awaited) OVER past < v.begun AS turns,
                   CASE WHEN v.begun <= lag(v.awaited) OVER past THEN v.begun ELSE lag(v.spoken) OVER past END AS before_ended
            FROM (
                SELECT m.value = 1 AS up, m.time AS begun, m.time + make_interval(secs => coalesce(c.period_s, 60)) AS spoken,
                       m.time + make_interval(secs => greatest(3 * coalesce(c.period_s, 60), %(least_s)s::float8)) AS awaited
                FROM system_metrics AS m LEFT JOIN cadence AS c ON c.pass = n.pass AND c.time = m.time
                WHERE m.metric_name = n.metric AND (m.service = n.service OR n.service IS NULL AND m.service IS NULL)
                  AND m.tags IS NOT DISTINCT FROM n.tags AND m.time <= %(now)s
                  AND m.time > %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8 + %(patience_s)s::float8)) AS v
            WINDOW past AS (ORDER BY v.begun)) AS s
        WHERE s.turns OR s.ends) AS t) AS r
WHERE r.turns AND r.ended > %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8)
ORDER BY 1, r.begun

-- name: incidents
-- The system alerts that were open at some time of the last so many seconds; those that are open
-- now, whatever their time.
SELECT id, substr(fingerprint, length('system-health:') + 1) AS service, status, summary, created_at, closed_at, acknowledged_by, acknowledged_at
FROM fleet_alert
WHERE tenant_id = '__system__' AND starts_with(fingerprint, 'system-health:')
  AND (status <> 'CLOSED'
       OR created_at <= %(now)s AND closed_at > %(now)s::timestamptz - make_interval(secs => %(since_s)s::float8))
ORDER BY created_at, id

-- name: service_row
SELECT status, latency_ms, details, checked_at FROM service_health WHERE service = %(service)s

-- name: observations
-- What the passes last saw of a service.
SELECT time, metric_name AS metric, value FROM system_metrics
WHERE service = %(series)s AND metric_name IN ('healthy', 'probe_latency_ms') AND time <= %(at)s
ORDER BY time DESC LIMIT 10

-- name: alerts_of
-- The last alerts of a service that had opened by then; now also those that are open, whatever
-- their time.
SELECT id, status, summary, created_at, closed_at, acknowledged_by, acknowledged_at, details -> 'evidence' AS evidence
FROM fleet_alert
WHERE tenant_id = '__system__' AND fingerprint = 'system-health:' || %(service)s
  AND (created_at <= %(at)s OR %(now)s::boolean AND status <> 'CLOSED')
ORDER BY %(now)s::boolean AND status <> 'CLOSED' DESC, created_at DESC, id DESC LIMIT 5

-- name: maintained
-- What the last health pass of that time told of a maintenance.
SELECT value FROM system_metrics
WHERE metric_name = 'maintenance' AND service = 'ops_worker' AND time <= %(at)s
  AND time > %(at)s::timestamptz - make_interval(secs => %(patience_s)s::float8)
ORDER BY time DESC LIMIT 1

-- name: inspect_server
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer AS version_number,
       current_database()::text AS database, current_user::text AS role, session_user::text AS login,
       pg_is_in_recovery() AS standby, pg_backend_pid() AS pid, clock_timestamp() AS now,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb

-- name: inspect_tables
SELECT t.name, r.oid IS NOT NULL AS present, coalesce(row_security_active(r.oid), false) AS hidden,
       ARRAY(SELECT p FROM jsonb_array_elements_text(t.privileges) AS p WHERE NOT has_table_privilege(r.oid, p)) AS lacking,
       ARRAY(SELECT c FROM jsonb_array_elements_text(t.columns) AS c
             WHERE NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = r.oid AND a.attname = c AND NOT a.attisdropped)) AS missing
FROM jsonb_to_recordset(%(tables)s::jsonb) AS t (name text, privileges jsonb, columns jsonb),
     LATERAL (SELECT to_regclass(t.name)::oid AS oid) AS r

-- name: list_alerts
SELECT * FROM (
    SELECT id, substr(fingerprint, length('system-health:') + 1) AS service, status, summary, created_at, closed_at,
           acknowledged_by, acknowledged_at
    FROM fleet_alert
    WHERE tenant_id = '__system__' AND starts_with(fingerprint, 'system-health:')
      AND (status IN ('OPEN', 'ACKNOWLEDGED') OR %(closed)s::boolean)
    ORDER BY status = 'CLOSED', created_at DESC, id DESC
    LIMIT (SELECT 100 + count(*) FROM fleet_alert
           WHERE tenant_id = '__system__' AND starts_with(fingerprint, 'system-health:') AND status IN ('OPEN', 'ACKNOWLEDGED'))) AS newest
ORDER BY created_at, id

-- name: acknowledge_alert
UPDATE fleet_alert SET status = 'ACKNOWLEDGED', acknowledged_by = %(by)s, acknowledged_at = now()
WHERE id = %(id)s AND status = 'OPEN' AND tenant_id = '__system__' AND starts_with(fingerprint, 'system-health:')
RETURNING id, substr(fingerprint, length('system-health:') + 1) AS service

-- name: close_alert
UPDATE fleet_alert
SET status = 'CLOSED', closed_at = now(),
    details = CASE jsonb_typeof(details) WHEN 'object' THEN details ELSE '{}' END || jsonb_build_object('resolved_at', now()::text)
WHERE id = %(id)s AND status IN ('OPEN', 'ACKNOWLEDGED') AND tenant_id = '__system__' AND starts_with(fingerprint, 'system-health:')
RETURNING id, substr(fingerprint, length('system-health:') + 1) AS service

-- name: unwatched
-- What is left of services that are not watched.
SELECT coalesce(h.service, a.service) AS service, h.checked_at, a.id AS alert
FROM service_health AS h
FULL JOIN (SELECT id, substr(fingerprint, length('system-health:') + 1) AS service FROM fleet_alert
           WHERE tenant_id = '__system__' AND status IN ('OPEN', 'ACKNOWLEDGED') AND starts_with(fingerprint, 'system-health:')) AS a
       ON a.service = h.service
WHERE coalesce(h.service, a.service) NOT IN (SELECT jsonb_array_elements_text(%(watched)s::jsonb))
ORDER BY 1

-- name: forget_services
DELETE FROM service_health WHERE service IN (SELECT jsonb_array_elements_text(%(services)s::jsonb))

-- name: start_maintenance
-- No row: another one is running, and stays. A repeat, the same in all that was given, begins it
-- anew.
INSERT INTO ops_worker_maintenance AS m (until, started_by, reason)
VALUES (now() + make_interval(secs => %(seconds)s::float8), %(by)s, %(reason)s)
ON CONFLICT (single) DO UPDATE SET until = excluded.until, started_at = now(), started_by = excluded.started_by, reason = excluded.reason
WHERE %(replace)s::boolean OR m.until <= now()
   OR (m.started_by = excluded.started_by AND m.reason = excluded.reason
       AND CASE WHEN m.started_at <= now()  -- near the end of all times the sum is out of range
                THEN m.until = m.started_at + make_interval(secs => %(seconds)s::float8) END)
RETURNING until

-- name: end_maintenance
DELETE FROM ops_worker_maintenance

-- name: log_maintenance
-- Enter the maintenance that is there, unless it is entered.
INSERT INTO ops_worker_maintenance_log (started_at, until, started_by, reason)
SELECT started_at, until, started_by, reason FROM ops_worker_maintenance
ON CONFLICT (started_at) DO NOTHING

-- name: log_maintenance_end
UPDATE ops_worker_maintenance_log SET ended_at = now(), ended_by = %(by)s
WHERE ended_at IS NULL AND until > now()

-- name: maintenances_logged
-- Those that lasted at some time from one moment to another; infinite times are brought into the
-- calendar.
SELECT greatest(started_at, %(until)s::timestamptz - interval '10 years') AS begun,
       least(coalesce(ended_at, until), %(until)s::timestamptz + interval '10 years') AS ended,
       started_by, ended_by, reason
FROM ops_worker_maintenance_log
WHERE started_at <= %(until)s AND coalesce(ended_at, until) > %(since)s
ORDER BY started_at

-- name: maintenances_kept
-- The same of the one that is there, for where nobody has entered it.
SELECT greatest(started_at, %(until)s::timestamptz - interval '10 years') AS begun,
       least(until, %(until)s::timestamptz + interval '10 years') AS ended,
       started_by, NULL AS ended_by, reason
FROM ops_worker_maintenance
WHERE started_at <= %(until)s AND until > %(since)s

-- name: maintenance
SELECT m.until, m.started_by, m.reason, extract(epoch FROM m.until - now())::float8 AS left_s
FROM (SELECT least(until, now() + interval '10 years') AS until, started_by, reason FROM ops_worker_maintenance WHERE until > now()) AS m
