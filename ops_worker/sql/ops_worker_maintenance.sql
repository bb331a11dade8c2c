-- ops_worker_maintenance: until when no alert opens; one row at most, written by `ops-worker maintenance`.
CREATE TABLE ops_worker_maintenance (
    single     boolean PRIMARY KEY DEFAULT true CHECK (single),
    until      timestamptz NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    started_by text NOT NULL,
    reason     text NOT NULL DEFAULT ''
);
-- Whoever runs a pass has to be able to read it, whoever made it; nothing in it is a secret.
GRANT SELECT ON ops_worker_maintenance TO PUBLIC;
