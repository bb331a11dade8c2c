-- Migration 3: the rollup. What the samples of each hour and day were, written by the rollup pass.

-- object: ops_worker_hour
-- One row per series and hour, made of the samples themselves. A series without a service has the
-- service '', one without tags the tags {}. The key begins with the series, so that one series over
-- a long time is one range of the index.
CREATE TABLE IF NOT EXISTS ops_worker_hour (
    service text NOT NULL,
    metric_name text NOT NULL,
    tags jsonb NOT NULL DEFAULT '{}',
    begun timestamptz NOT NULL,
    samples bigint NOT NULL,
    mean double precision NOT NULL,
    least double precision NOT NULL,
    most double precision NOT NULL,
    latest double precision NOT NULL,           -- the value of the newest sample
    p50 double precision,                       -- percentiles, of latencies only
    p95 double precision,
    p99 double precision,
    increase double precision,                  -- of counters only: a fall is a reset to 0
    seconds double precision,                   -- in which it increased by so much
    PRIMARY KEY (service, metric_name, tags, begun)
);
CREATE INDEX IF NOT EXISTS ops_worker_hour_begun
ON ops_worker_hour (begun);

-- object: ops_worker_day
-- The same per day in UTC. It is made of the samples, not of the hours.
CREATE TABLE IF NOT EXISTS ops_worker_day (
    service text NOT NULL,
    metric_name text NOT NULL,
    tags jsonb NOT NULL DEFAULT '{}',
    begun timestamptz NOT NULL,
    samples bigint NOT NULL,
    mean double precision NOT NULL,
    least double precision NOT NULL,
    most double precision NOT NULL,
    latest double precision NOT NULL,
    p50 double precision,
    p95 double precision,
    p99 double precision,
    increase double precision,
    seconds double precision,
    PRIMARY KEY (service, metric_name, tags, begun)
);
CREATE INDEX IF NOT EXISTS ops_worker_day_begun
ON ops_worker_day (begun);
