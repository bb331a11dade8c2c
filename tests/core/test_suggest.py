"""Misspelled names get a suggestion. Other names get none."""

from __future__ import annotations

import pytest

from ops_worker.core.suggest import closest, did_you_mean, intended_variable
from ops_worker.variables import variables

pytestmark = pytest.mark.unit

KNOWN = frozenset(name for variable in variables() for name in variable.names)
COMMANDS = [
    "health",
    "metrics",
    "status",
    "explain",
    "maintenance",
    "init-db",
    "catalogue",
    "--help",
]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("helth", "health"),
        ("HEALTH", "health"),
        ("init_db", "init-db"),
        ("initdb", "init-db"),
        ("stauts", "status"),
        ("catalog", "catalogue"),
        ("help", "--help"),
        ("maintainance", "maintenance"),
        ("xyz", ""),
        ("", ""),
        ("h" * 100_000, ""),
    ],
)
def test_closest(word: str, name: str) -> None:
    """The nearest name is suggested. If no name is near, there is no suggestion."""
    assert closest(word, COMMANDS) == name
    assert did_you_mean(word, COMMANDS) == (f"; did you mean {name}?" if name else "")


NEARLY = [
    ("PG_PASSWORD", "PG_PASS"), ("PG_PASSWD", "PG_PASS"), ("PG_PWD", "PG_PASS"),
    ("PGPASS", "PG_PASS"), ("PG_PAS", "PG_PASS"), ("PG_DATABASE", "PG_DB"), ("PG_DBNAME", "PG_DB"),
    ("PGDB", "PG_DB"), ("PG_BD", "PG_DB"), ("PG_USERNAME", "PG_USER"), ("PG_USRE", "PG_USER"),
    ("PG_HOSTNAME", "PG_HOST"), ("PG_PROT", "PG_PORT"), ("PGROLE", "PG_ROLE"),
    ("INGEST_ULR", "INGEST_URL"), ("INGEST_URI", "INGEST_URL"),
    ("INGEST_HEALTHURL", "INGEST_HEALTH_URL"), ("DISPATCH_URL", "DISPATCHER_URL"),
    ("DATABSE_URL", "DATABASE_URL"), ("DATABASE_URI", "DATABASE_URL"),
    ("database_url", "DATABASE_URL"), ("LOGLEVEL", "LOG_LEVEL"), ("LOG-LEVEL", "LOG_LEVEL"),
    ("Log_Level", "LOG_LEVEL"), ("OPS_WORKER_DATABASE_URL", "DATABASE_URL"),
    ("OPS_WORKER_LOGLEVEL", "LOG_LEVEL"), ("OPSWORKER_PG_PASSWORD", "PG_PASS"),
    ("OPS_WORKER_CATALOG", "OPS_WORKER_CATALOGUE"),
    ("SYSTEM_ALERTS_ENABLED", "SYSTEM_ALERT_ENABLED"), ("KUBERNETES_EVENT", "KUBERNETES_EVENTS"),
    ("PASS_DEADLINE_SECONDS", "PASS_DEADLINE"),
    ("HEALTH_CHECK_INTERVAL_S", "HEALTH_CHECK_INTERVAL"), ("HEARTBEAT_URI", "HEARTBEAT_URL"),
    ("SIDCAR_PORT", "SIDECAR_PORT"), ("ALERT_AFTER_FAILURE", "ALERT_AFTER_FAILURES"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), NEARLY)
def test_nearly_a_variable(name: str, expected: str) -> None:
    """The intended variable is found despite a misspelling, a synonym, a wrong prefix or a unit."""
    assert intended_variable(name, "x", KNOWN) == expected


FOREIGN = [
    "PATH",
    "HOME",
    "HOSTNAME",
    "HOSTTYPE",
    "HOST_NAME",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "TERM",
    "TERM_PROGRAM",
    "USER",
    "USERNAME",
    "LOGNAME",
    "LOG_FORMAT",
    "MAIL",
    "SHELL",
    "EDITOR",
    "_",
    "TMPDIR",
    "TZ",
    "DISPLAY",
    "COLUMNS",
    "LINES",
    "COLORTERM",
    "NO_COLOR",
    "FORCE_COLOR",
    "SSH_CONNECTION",
    "SSH_AUTH_SOCK",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "HTTP_PROXY",
    "https_proxy",
    "no_proxy",
    "GPG_KEY",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "PYTHON_VERSION",
    "PYTHONDONTWRITEBYTECODE",
    "VIRTUAL_ENV",
    "PIP_NO_CACHE_DIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "KUBECONFIG",
    "KUBERNETES_PORT",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "KUBERNETES_SERVICE_PORT_HTTPS",
    "KUBERNETES_PORT_443_TCP",
    "KUBERNETES_PORT_443_TCP_ADDR",
    "KUBERNETES_PORT_443_TCP_PORT",
    "KUBERNETES_PORT_443_TCP_PROTO",
    "PG_SERVICE_HOST",
    "PG_SERVICE_PORT",
    "PG_SERVICE_PORT_POSTGRES",
    "PG_PORT_5432_TCP",
    "PG_PORT_5432_TCP_ADDR",
    "PG_PORT_5432_TCP_PORT",
    "PG_PORT_5432_TCP_PROTO",
    "INGEST_PORT",
    "INGEST_SERVICE_HOST",
    "INGEST_PORT_8080_TCP",
    "IOT_INGEST_SERVICE_HOST",
    "IOT_INGEST_PORT",
    "IOT_INGEST_PORT_8080_TCP_ADDR",
    "EVALUATOR_PORT",
    "DISPATCHER_PORT",
    "DELIVERY_PORT",
    "SIDECAR_SERVICE_HOST",
    "SIDECAR_SERVICE_PORT",
    "OPS_WORKER_SERVICE_HOST",
    "OPS_WORKER_SERVICE_PORT",
    "OPS_WORKER_PORT",
    "OPS_WORKER_PORT_8080_TCP",
    "OPS_WORKER_PORT_8080_TCP_ADDR",
    "OPS_WORKER_SERVICE_PORT_HTTP",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGREQUIREAUTH",
    "PGCHANNELBINDING",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGOPTIONS",
    "PGAPPNAME",
    "PGSSLMODE",
    "PGREQUIRESSL",
    "PGSSLNEGOTIATION",
    "PGSSLCOMPRESSION",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLCERTMODE",
    "PGSSLROOTCERT",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLSNI",
    "PGREQUIREPEER",
    "PGGSSENCMODE",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLMAXPROTOCOLVERSION",
    "PGKRBSRVNAME",
    "PGGSSLIB",
    "PGGSSDELEGATION",
    "PGCONNECT_TIMEOUT",
    "PGCLIENTENCODING",
    "PGTARGETSESSIONATTRS",
    "PGLOADBALANCEHOSTS",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
    "PGSYSCONFDIR",
    "PGLOCALEDIR",
    "PGDATA",
    "PG_MAJOR",
    "PG_VERSION",
    "PG_SHA256",
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
    "POSTGRES_DB",
    "POSTGRES_HOST",
    "DB_HOST",
    "DB_NAME",
    "DB_PASSWORD",
    "DB_URL",
    "NOTIFY_DATABASE_URL",
    "DATABASE_URL_RO",
    "TEST_DATABASE_URL",
    "DATABASE_URL2",
    "PG_HOST_2",
    "PG_HOST3",
    "DATABASE_HOST",
    "MQTT_HOST",
    "MQTT_PORT",
    "REDIS_URL",
    "CI",
    "CI_JOB_NAME",
    "CI_JOB_ID",
    "JOB_BASE_NAME",
    "JOB_ID",
    "GITHUB_JOB",
    "POD_NAME",
    "POD_IP",
    "NODE_NAME",
    "NAMESPACE",
    "APP_NAME",
    "CRONJOB_NAME",
    "BATCH_SIZE",
    "WORKER_COUNT",
    "POLL_SECONDS",
    "INGEST_WORKER_COUNT",
    "INGEST_BATCH_SIZE",
    "DELIVERY_INTERVAL_SECONDS",
    "UI_BASE_URL",
    "KEYCLOAK_URL",
    "OPS_TEST_DSN",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_not_ours(name: str) -> None:
    """A variable of libpq, Kubernetes, Python, a shell, a CI or the platform is no misspelling."""
    assert intended_variable(name, "x", KNOWN) == ""


def test_known_and_links() -> None:
    """A known variable is no misspelling, and neither is the address of a Service in NAME_PORT.

    Kubernetes sets NAME_PORT for every Service.
    """
    assert [name for name in KNOWN if intended_variable(name, "x", KNOWN)] == []
    assert intended_variable("SIDCAR_PORT", "tcp://10.0.0.1:8080", KNOWN) == ""
    assert intended_variable("", "x", KNOWN) == intended_variable("___", "x", KNOWN) == ""
