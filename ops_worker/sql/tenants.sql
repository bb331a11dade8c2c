-- tenants, as little of it as the worker needs: only for those who have no platform (init-db --standalone).
CREATE TABLE tenants (
    tenant_id  text PRIMARY KEY,
    name       text NOT NULL,
    status     text NOT NULL DEFAULT 'ACTIVE',
    metadata   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
