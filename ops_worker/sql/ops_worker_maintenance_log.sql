-- ops_worker_maintenance_log: every maintenance that was started, by whom and what for; written by
-- `ops-worker maintenance`, never by a pass.
CREATE TABLE ops_worker_maintenance_log (
    started_at timestamptz PRIMARY KEY DEFAULT now(),
    until      timestamptz NOT NULL,
    ended_at   timestamptz,  -- NULL: nobody ended it before `until`
    started_by text NOT NULL,
    ended_by   text,
    reason     text NOT NULL DEFAULT ''
);
-- Whoever writes a report has to be able to read it, whoever made it; nothing in it is a secret.
GRANT SELECT ON ops_worker_maintenance_log TO PUBLIC;
