-- system_metrics: narrow time series, as the platform's migrations make it. No key: what is inserted twice is there twice.
CREATE TABLE system_metrics (
    time        timestamptz NOT NULL,
    metric_name text NOT NULL,
    service     text,
    tags        jsonb DEFAULT '{}',
    value       double precision NOT NULL
);
CREATE INDEX system_metrics_time_idx              ON system_metrics (time DESC);
CREATE INDEX idx_system_metrics_name_time         ON system_metrics (metric_name, time DESC);
CREATE INDEX idx_system_metrics_service_time      ON system_metrics (service, time DESC) WHERE service IS NOT NULL;
CREATE INDEX idx_system_metrics_name_service_time ON system_metrics (metric_name, service, time DESC);

-- With TimescaleDB: chunks of 1 hour, compressed after 1 hour, dropped after 7 days. Its Apache edition can do the first only.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        RETURN;
    END IF;
    PERFORM create_hypertable('system_metrics', 'time', chunk_time_interval => interval '1 hour');
    BEGIN
        ALTER TABLE system_metrics SET (timescaledb.compress, timescaledb.compress_segmentby = 'metric_name, service',
                                        timescaledb.compress_orderby = 'time DESC');
        PERFORM add_compression_policy('system_metrics', interval '1 hour');
        PERFORM add_retention_policy('system_metrics', interval '7 days');
    EXCEPTION WHEN feature_not_supported THEN
        RAISE WARNING 'this edition of TimescaleDB neither compresses nor drops old chunks';
    END;
END $$;
