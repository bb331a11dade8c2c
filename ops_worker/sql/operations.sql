-- Statements of the commands for people: init-db, check, alerts, maintenance.

-- name: database_exists
SELECT FROM pg_database
WHERE datname = %(database)s;

-- name: wait_for_lock
-- Unlike a pass, a change of the schema waits: the second of two finds everything done.
SELECT pg_advisory_xact_lock(%(space)s::integer, %(lock)s::integer);

-- name: may_create
-- If pg_temp comes first, a new table is temporary and disappears with the connection. Objects of
-- the role cannot be changed by a login that does not inherit its rights. A GRANT is missing if
-- neither the login nor PG_ROLE may create.
SELECT
    has_schema_privilege(current_schema(), 'CREATE') AS allowed,
    CASE
        WHEN
            NOT has_schema_privilege(current_schema(), 'CREATE')
            AND NOT EXISTS (
                SELECT FROM pg_roles AS r
                WHERE
                    r.rolname = %(role)s::text
                    AND has_schema_privilege(r.oid, current_schema(), 'CREATE')
            )
            THEN
                format(
                    'GRANT CREATE ON SCHEMA %%I TO %%I',
                    current_schema(), coalesce(nullif(%(role)s::text, ''), current_user::text)
                )
    END AS missing_grant,
    current_setting('search_path') AS search_path,
    starts_with(ltrim(current_setting('search_path'), ' "'), 'pg_temp') AS temporary,
    (
        SELECT
            coalesce(bool_or(pg_has_role(r.oid, c.relowner, 'USAGE')), false)
            AND NOT coalesce(bool_or(pg_has_role(c.relowner, 'USAGE')), false)
        FROM pg_class AS c
        LEFT JOIN pg_roles AS r ON r.rolname = %(role)s::text
        WHERE c.oid IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS t (name))
    ) AS role_owns;

-- name: grants_to_role
-- A GRANT cannot take names as parameters. No row if the table belongs to another role.
SELECT
    format('GRANT SELECT, INSERT, UPDATE, DELETE ON %%s TO %%I', oid::regclass, %(role)s::text)
        AS statement
FROM pg_class
WHERE oid = to_regclass(%(table)s::text) AND pg_has_role(relowner, 'USAGE');

-- name: index_session
-- For the session: CREATE INDEX CONCURRENTLY cannot run inside a transaction, and may take long.
SELECT
    set_config('statement_timeout', '0', false) AS statement_timeout,
    set_config('lock_timeout', '0', false) AS lock_timeout,
    set_config('default_transaction_read_only', 'off', false) AS default_transaction_read_only,
    CASE
        WHEN
            current_setting('transaction_timeout', true) IS NOT NULL
            THEN set_config('transaction_timeout', '0', false)
    END
        AS transaction_timeout;

-- name: table_and_index
-- The rows of a table by the statistics (NULL: no table; -1: never analysed), and whether an index
-- is finished (NULL: no index).
SELECT
    (
        SELECT c.reltuples FROM pg_class AS c
        WHERE c.oid = to_regclass(%(table)s::text)
    ) AS rows,
    (
        SELECT i.indisvalid FROM pg_index AS i
        WHERE i.indexrelid = to_regclass(nullif(%(index)s::text, ''))
    ) AS valid;

-- name: partial_indexes
SELECT c.relname::text AS name FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE c.relname = ANY(%(names)s::text[]) AND i.indpred IS NOT NULL
ORDER BY 1;

-- name: inspect_server
SELECT
    current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS version_number,
    current_database()::text AS database,
    current_user::text AS role,
    session_user::text AS login,
    pg_is_in_recovery() AS standby,
    pg_backend_pid() AS pid,
    clock_timestamp() AS now,
    (
        SELECT extversion FROM pg_extension
        WHERE extname = 'timescaledb'
    ) AS timescaledb;

-- name: table_sizes
-- How large these tables are, by the statistics of the server: no row is read. Partitions and the
-- chunks of a hypertable are descendants of their table; compressed chunks are not: see
-- `hypertable_size`, which needs the functions of `is_measurable`.
-- `is_indexed`: an index finds the oldest row at once, and this role may read it.
SELECT
    t.name,
    sum(c.reltuples) FILTER (WHERE c.reltuples >= 0)::float8 AS rows,
    coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes,
    count(*) > 1 OR (
        t.name = 'system_metrics'
        AND EXISTS (
            SELECT FROM pg_extension AS e
            WHERE e.extname = 'timescaledb'
        )
    ) AS is_divided,
    t.name = 'system_metrics'
    AND to_regprocedure('approximate_row_count(regclass)') IS NOT NULL
    AND to_regprocedure('hypertable_size(regclass)') IS NOT NULL AS is_measurable,
    has_table_privilege(to_regclass(t.name), 'SELECT') AND EXISTS (
        SELECT FROM pg_index AS i INNER JOIN pg_attribute AS a
            ON i.indrelid = a.attrelid AND a.attnum = (i.indkey::smallint[])[0]
        WHERE
            i.indrelid = to_regclass(t.name) AND i.indisvalid AND i.indpred IS NULL
            AND a.attname = t.time
            AND a.atttypid = ANY(ARRAY['timestamptz', 'bigint']::regtype[])
    ) AS is_indexed
FROM jsonb_to_recordset(%(tables)s::jsonb) AS t (name text, time text)
CROSS JOIN
    LATERAL (
        WITH RECURSIVE tree AS (
            SELECT to_regclass(t.name)::oid AS relation
            UNION ALL
            SELECT h.inhrelid
            FROM pg_inherits AS h INNER JOIN tree ON h.inhparent = tree.relation
        )

        SELECT relation FROM tree
    ) AS r
INNER JOIN pg_class AS c ON r.relation = c.oid AND c.relkind = ANY('{r,p}')
GROUP BY t.name, t.time
ORDER BY t.name;

-- name: hypertable_size
-- How large system_metrics is with its compressed chunks, by the functions of TimescaleDB and the
-- statistics of the server. `rows` is NULL if no chunk was ever analyzed, `bytes` if it is a plain
-- table.
SELECT
    nullif(approximate_row_count('system_metrics'), 0)::float8 AS rows,
    hypertable_size('system_metrics') AS bytes;

-- name: oldest_of_system_metrics
SELECT min(time) AS oldest FROM system_metrics;

-- name: oldest_of_ops_worker_run
-- Runs are numbered in the order in which they begin.
SELECT first_at AS oldest FROM ops_worker_run
ORDER BY id LIMIT 1;

-- name: oldest_of_ops_worker_hour
SELECT min(begun) AS oldest FROM ops_worker_hour;

-- name: oldest_of_ops_worker_day
SELECT min(begun) AS oldest FROM ops_worker_day;

-- name: inspect_tables
-- The shape of these tables: columns with types, unique keys that ON CONFLICT can use, views that
-- read them, the owner, and what this role lacks. The sequence of a serial column needs a
-- privilege, that of an identity column does not. `elsewhere` is the schema of a table that exists
-- and that this role does not see.
SELECT
    t.name,
    c.oid IS NOT NULL AS present,
    coalesce(row_security_active(c.oid), false) AS hidden,
    ARRAY(
        SELECT p FROM jsonb_array_elements_text(t.privileges) AS p
        WHERE NOT has_table_privilege(c.oid, p)
    ) AS lacking,
    ARRAY(
        SELECT n FROM jsonb_array_elements_text(t.columns) AS n
        WHERE NOT EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attname = n AND NOT a.attisdropped
        )
    ) AS missing,
    coalesce((
        SELECT jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod))
        FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ), '{}') AS columns,
    coalesce((
        SELECT
            jsonb_agg((
                SELECT jsonb_agg(a.attname) FROM pg_attribute AS a
                WHERE
                    a.attrelid = c.oid
                    AND a.attnum = ANY((i.indkey::smallint[])[0:i.indnkeyatts - 1])
            ))
        FROM pg_index AS i
        WHERE
            i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL
    ), '[]') AS keys,
    ARRAY(
        SELECT q.oid::regclass::text
        FROM pg_depend AS d INNER JOIN pg_class AS q ON d.objid = q.oid
        WHERE
            d.refobjid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'a'
            AND CASE q.relkind WHEN 'S' THEN NOT has_sequence_privilege(q.oid, 'USAGE') END
    ) AS sequences,
    ARRAY(
        SELECT DISTINCT w.ev_class::regclass::text
        FROM pg_depend AS d INNER JOIN pg_rewrite AS w ON d.objid = w.oid
        WHERE d.refobjid = c.oid AND d.classid = 'pg_rewrite'::regclass AND w.ev_class <> c.oid
    ) AS readers,
    pg_get_userbyid(c.relowner)::text AS owner,
    coalesce(pg_has_role(c.relowner, 'USAGE'), false) AS owned,
    (
        SELECT
            jsonb_build_object(
                'schema', quote_ident(s.nspname), 'usage', has_schema_privilege(s.oid, 'USAGE')
            )
        FROM pg_class AS e INNER JOIN pg_namespace AS s ON e.relnamespace = s.oid
        WHERE c.oid IS NULL AND e.relname = t.name AND e.relkind = ANY('{r,p,v,f,m}')
        ORDER BY s.nspname
        LIMIT 1
    ) AS elsewhere,
    current_setting('search_path') AS search_path,
    session_user::text AS login,
    current_user::text AS role
FROM jsonb_to_recordset(%(tables)s::jsonb) AS t (name text, privileges jsonb, columns jsonb)
LEFT JOIN pg_class AS c ON c.oid = to_regclass(t.name);

-- name: versions
-- In a table of another shape the cast fails, which the caller reports.
SELECT version::integer FROM ops_worker_schema
ORDER BY version;

-- name: record_version
INSERT INTO ops_worker_schema (version, name) VALUES (%(version)s, %(name)s);

-- name: view_definition
SELECT pg_get_viewdef(to_regclass(%(view)s)) AS definition;

-- name: view_grants
-- Statements that repeat the grants of the view, for when it is dropped and created again.
SELECT
    format(
        'GRANT %%s ON service_health_current TO %%s',
        a.privilege_type,
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
    ) AS statement
FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
WHERE c.oid = to_regclass('service_health_current') AND a.grantee <> c.relowner;

-- name: list_alerts
-- All open alerts, and with `closed` at most a hundred closed ones; the oldest first.
SELECT * FROM (
    SELECT
        id,
        substr(fingerprint, length('system-health:') + 1) AS service,
        status,
        summary,
        created_at,
        closed_at,
        acknowledged_by,
        acknowledged_at
    FROM fleet_alert
    WHERE
        tenant_id = '__system__' AND starts_with(fingerprint, 'system-health:')
        AND (status IN ('OPEN', 'ACKNOWLEDGED') OR %(closed)s::boolean)
    ORDER BY status = 'CLOSED', created_at DESC, id DESC
    LIMIT (
        SELECT 100 + count(*) FROM fleet_alert
        WHERE
            tenant_id = '__system__'
            AND starts_with(fingerprint, 'system-health:')
            AND status IN ('OPEN', 'ACKNOWLEDGED')
    )
) AS newest
ORDER BY created_at, id;

-- name: acknowledge_alert
-- The prefix of the fingerprint keeps alerts of the platform out of reach.
UPDATE fleet_alert SET status = 'ACKNOWLEDGED', acknowledged_by = %(by)s, acknowledged_at = now()
WHERE
    id = %(id)s
    AND status = 'OPEN'
    AND tenant_id = '__system__'
    AND starts_with(fingerprint, 'system-health:')
RETURNING id, substr(fingerprint, length('system-health:') + 1) AS service;

-- name: close_alert
UPDATE fleet_alert
SET
    status = 'CLOSED', closed_at = now(),
    details
    = CASE jsonb_typeof(details) WHEN 'object' THEN details ELSE '{}' END
    || jsonb_build_object('resolved_at', now()::text)
WHERE
    id = %(id)s
    AND status IN ('OPEN', 'ACKNOWLEDGED')
    AND tenant_id = '__system__'
    AND starts_with(fingerprint, 'system-health:')
RETURNING id, substr(fingerprint, length('system-health:') + 1) AS service;

-- name: unwatched
-- State rows and open alerts of services that are no longer monitored.
SELECT
    coalesce(h.service, a.service) AS service,
    h.checked_at,
    a.id AS alert,
    CASE
        WHEN h.service IS NULL THEN ''
        ELSE coalesce(h.details ->> 'installation', 'ops-worker')
    END AS installation
FROM service_health AS h
FULL JOIN (
    SELECT
        id,
        substr(fingerprint, length('system-health:') + 1) AS service
    FROM fleet_alert
    WHERE
        tenant_id = '__system__'
        AND status IN ('OPEN', 'ACKNOWLEDGED')
        AND starts_with(fingerprint, 'system-health:')
) AS a
    ON a.service = h.service
WHERE coalesce(h.service, a.service) NOT IN (SELECT jsonb_array_elements_text(%(watched)s::jsonb))
ORDER BY 1;

-- name: any_recorded
SELECT count(*) > 0 AS is_any
FROM service_health
WHERE service IN (SELECT jsonb_array_elements_text(%(services)s::jsonb));

-- name: forget_services
DELETE FROM service_health
WHERE service IN (SELECT jsonb_array_elements_text(%(services)s::jsonb));

-- name: end_spans_of
-- The spans of services that are no longer monitored end with the last pass of their shard.
WITH ended AS (
    UPDATE ops_worker_span AS s
    SET last_at = greatest(n.last_at, s.first_at), last_no = n.passes, last_run = n.id
    FROM ops_worker_run AS r
    CROSS JOIN
        LATERAL (
            SELECT
                id,
                last_at,
                passes
            FROM ops_worker_run AS newest
            WHERE
                newest.installation = r.installation
                AND newest.pass = r.pass
                AND newest.shard = r.shard
            ORDER BY newest.id DESC LIMIT 1
        ) AS n
    WHERE
        s.run = r.id AND s.last_at IS NULL
        AND s.service IN (SELECT jsonb_array_elements_text(%(services)s::jsonb))
    RETURNING n.id
)

-- The next pass reads the spans again.
UPDATE ops_worker_run SET digest = ''
WHERE id IN (SELECT id FROM ended);

-- name: record_action
INSERT INTO ops_worker_action (action, by, reason, services, until, alert)
VALUES (
    %(action)s, %(by)s, %(reason)s, %(services)s::jsonb, %(until)s, %(alert)s
);

-- name: start_maintenance
-- No row: another maintenance is running, and stays. A repeat with the same person, reason and
-- duration starts it again.
INSERT INTO ops_worker_maintenance AS m (until, started_by, reason)
VALUES (now() + make_interval(secs => %(seconds)s::float8), %(by)s, %(reason)s)
ON CONFLICT (single) DO UPDATE
    SET
        until = excluded.until,
        started_at = now(),
        started_by = excluded.started_by,
        reason = excluded.reason
    WHERE %(replace)s::boolean OR m.until <= now()
    OR (
        m.started_by = excluded.started_by AND m.reason = excluded.reason
        AND CASE
            WHEN m.started_at <= now()  -- near infinity the sum is out of range
                THEN m.until = m.started_at + make_interval(secs => %(seconds)s::float8)
        END
    )
RETURNING until;

-- name: end_maintenance
-- The table has at most one row.
DELETE FROM ops_worker_maintenance;

-- name: log_maintenance
-- Copy the current maintenance to the log, unless it is there already.
INSERT INTO ops_worker_maintenance_log (started_at, until, started_by, reason)
SELECT
    started_at,
    until,
    started_by,
    reason
FROM ops_worker_maintenance
ON CONFLICT (started_at) DO NOTHING;

-- name: log_maintenance_end
-- A maintenance that has reached its end was not ended by a person.
UPDATE ops_worker_maintenance_log SET ended_at = now(), ended_by = %(by)s
WHERE ended_at IS NULL AND until > now();

-- name: end_same_windows
-- The window that the same command created earlier, if it is still running or planned.
UPDATE ops_worker_maintenance_window SET ended_at = %(now)s, ended_by = %(by)s
WHERE
    ended_at IS NULL
    AND started_by = %(by)s
    AND reason = %(reason)s
    AND services IS NOT DISTINCT FROM %(services)s::text[]
    AND duration_s = %(seconds)s::float8
    AND recurrence = %(recurrence)s
    AND zone = %(zone)s
    AND CASE
        WHEN %(is_planned)s::boolean THEN begins = %(begins)s
        ELSE
            begins <= %(now)s
            AND (
                recurrence <> ''
                OR begins > %(now)s::timestamptz - make_interval(secs => %(seconds)s::float8)
            )
    END
RETURNING id;

-- name: start_window
INSERT INTO ops_worker_maintenance_window (
    services, begins, duration_s, recurrence, zone, reason, started_by, created_at
)
VALUES (
    %(services)s::text[], %(begins)s, %(seconds)s, %(recurrence)s, %(zone)s, %(reason)s, %(by)s,
    %(now)s
)
RETURNING id;

-- name: end_window
-- No row: there is no such window, or it is over.
UPDATE ops_worker_maintenance_window SET ended_at = %(now)s, ended_by = %(by)s
WHERE
    id = %(id)s
    AND ended_at IS NULL
    AND (
        recurrence <> ''
        OR begins > %(now)s::timestamptz
        - make_interval(secs => least(greatest(duration_s, 0), 315360000))
    )
RETURNING services;
