-- Migration 4: doubt. How often in a row a pass was blind, so that it does not doubt for ever.

-- object: ops_worker_doubt
-- One row per installation, pass and shard, written by passes that were blind or see again.
CREATE TABLE IF NOT EXISTS ops_worker_doubt (
    installation text NOT NULL DEFAULT 'ops-worker',
    pass text NOT NULL,
    shard text NOT NULL DEFAULT '0/1',
    blind_passes integer NOT NULL DEFAULT 0,    -- in a row
    since timestamptz,                          -- NULL: the pass sees, or believes what it sees
    last_at timestamptz NOT NULL,               -- of the pass that wrote the row
    period_s double precision NOT NULL,         -- seconds from one pass to the next
    suspects text NOT NULL DEFAULT '',
    PRIMARY KEY (installation, pass, shard)
);
-- Every role that runs a pass or reads the status must be able to read it. It holds no secret.
GRANT SELECT ON ops_worker_doubt TO PUBLIC;
