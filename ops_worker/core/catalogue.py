"""The platform's services and figures: one row each, and nothing else to touch when one is added."""

from __future__ import annotations

from ops_worker.core.model import Counter, Figure, Service

SERVICES = (
    Service(
        name="ingest",
        series="ingest",
        variables=("INGEST_HEALTH_URL", "INGEST_URL"),
        url="http://iot-ingest:8080",
        counters=(
            Counter("messages_received"),
            Counter("messages_written"),
            Counter("messages_rejected"),
            Counter("queue_depth", fallback="nats_telemetry_pending"),
        ),
    ),
    Service(
        name="evaluator",
        series="evaluator",
        variables=("EVALUATOR_HEALTH_URL", "EVALUATOR_URL"),
        url="http://iot-evaluator:8080",
        counters=(Counter("rules_evaluated"), Counter("alerts_created")),
    ),
    Service(
        name="dispatcher",
        series="dispatcher",
        variables=("DISPATCHER_HEALTH_URL", "DISPATCHER_URL"),
        url="http://iot-dispatcher:8080",
        counters=(Counter("alerts_processed"), Counter("routes_matched")),
    ),
    Service(
        name="delivery_worker",
        series="delivery",  # the dashboard's name for it in system_metrics
        variables=("DELIVERY_HEALTH_URL", "DELIVERY_URL"),
        url="http://iot-delivery-worker:8080",
        counters=(Counter("jobs_succeeded"), Counter("jobs_failed"), Counter("jobs_pending")),
    ),
)

POSTGRES = "postgres"
"""The series of the database itself; it gets a ``healthy`` row as the services do."""

FIGURES = (
    Figure(POSTGRES, "connections", "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"),
    Figure(POSTGRES, "db_size_bytes", "SELECT pg_database_size(current_database())"),
    # One count a status, not one scan with FILTER or GROUP BY: index-only scans make it the cheapest exact form.
    Figure("platform", "devices_online", "SELECT count(*) FROM device_state WHERE status = 'ONLINE'", ("device_state",)),
    Figure("platform", "devices_stale", "SELECT count(*) FROM device_state WHERE status = 'STALE'", ("device_state",)),
    Figure("platform", "alerts_open", "SELECT count(*) FROM fleet_alert WHERE status = 'OPEN'", ("fleet_alert",)),
    Figure(
        "platform",
        "deliveries_pending",
        "SELECT count(*) FROM delivery_jobs WHERE status = 'PENDING'",
        ("delivery_jobs",),  # gone from newer platforms
    ),
)
