-- service_health: the last thing a health pass saw of each service. No migration of the platform makes it; the worker does.
CREATE TABLE service_health (
    service    text PRIMARY KEY,
    status     text NOT NULL,                    -- healthy, unhealthy
    latency_ms integer,                          -- milliseconds; NULL where no answer came
    details    jsonb NOT NULL DEFAULT '{}',
    checked_at timestamptz NOT NULL DEFAULT now()
);
