"""The worker as a process.

Exit codes and messages, signals, deadlines, kills, parallel processes, and a connection pooler.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from ops_worker.adapters.postgres.migrate import OBJECTS
from ops_worker.core.schema import OWN, VIEW
from ops_worker.sql import migrations
from tests.looks import passes_in_ledger
from tests.pooler import pooler
from tests.postgres import PASSWORD, Postgres
from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database, Running, Worker
    from tests.stubs import Stubs

pytestmark = pytest.mark.acceptance

APPLIED = [f"migration {migration.name}: applied" for migration in migrations()]
OWN_OBJECTS = [name for name in OBJECTS if name in {*OWN, VIEW}]


def one_line(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """Assert that a command ended with this code, no output, and one error line with the parts."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr and "p%40ss" not in done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.fixture
def someone(database: Database) -> Iterator[str]:
    """Yield the URL of a member of pulse_operator, as on a managed PostgreSQL."""
    database.rows("DROP ROLE IF EXISTS ops_someone")
    database.rows("CREATE ROLE ops_someone LOGIN PASSWORD 'x' IN ROLE pulse_operator")
    yield database.as_user("ops_someone")
    database.rows("DROP OWNED BY ops_someone")
    database.rows("DROP ROLE ops_someone")


@pytest.mark.parametrize("command", ["health", "metrics"])
class TestDatabase:
    """Each failure of the database has an exit code and one line with a remedy."""

    def test_away(self, worker: Worker, command: str) -> None:
        """Nothing listens: code 1, a retry may help."""
        one_line(
            worker(command, DATABASE_URL="postgresql://iot:x@127.0.0.1:9/iotcloud"),
            1,
            "127.0.0.1:9/iotcloud as iot",
            "refused",
        )

    def test_unknown_host(self, worker: Worker, command: str) -> None:
        """An unknown host: code 1, the settings are named."""
        env = {"DATABASE_URL": "", "PG_HOST": "no-such-host.invalid", "PG_PASS": "secret"}
        one_line(worker(command, **env), 1, "no-such-host.invalid:5432/iotcloud as iot", "PG_HOST")

    def test_no_such_database(self, worker: Worker, database: Database, command: str) -> None:
        """A missing database on a running server: code 2, because no retry creates it."""
        url = urlsplit(database.url)._replace(path="/nowhere").geturl()
        one_line(worker(command, DATABASE_URL=url), 2, "no database nowhere", "PG_DB")

    def test_wrong_password(self, worker: Worker, database: Database, command: str) -> None:
        """A wrong password: code 1, because a rotation may be under way."""
        url = database.as_user("postgres", "wrong")
        one_line(worker(command, DATABASE_URL=url), 1, "password authentication failed", "PG_PASS")

    def test_standby(
        self, worker: Worker, database: Database, server: Postgres, command: str
    ) -> None:
        """A read-only standby: code 1, because a failover may be under way."""
        with server.standby() as standby:
            name = urlsplit(database.url).path[1:]
            one_line(worker(command, DATABASE_URL=standby.url(name)), 1, "read-only", "primary")

    def test_missing_table(self, worker: Worker, database: Database, command: str) -> None:
        """A missing table: code 3, the remedy is named."""
        table = {"health": "fleet_alert", "metrics": "system_metrics"}[command]
        database.rows(f"DROP TABLE {table} CASCADE")
        one_line(worker(command), 3, f"no table {table}", "init-db")

    def test_changed_table(
        self, worker: Worker, database: Database, command: str, stubs: Stubs
    ) -> None:
        """A table without a required column: code 3."""
        stubs["ingest"].mode = "down"
        table, column = {
            "health": ("fleet_alert", "summary"),
            "metrics": ("system_metrics", "value"),
        }[command]
        database.rows(f"ALTER TABLE {table} DROP COLUMN {column} CASCADE")
        one_line(worker(command), 3, f'"{column}"', "ops-worker check")

    def test_row_level_security(
        self, worker: Worker, database: Database, someone: str, command: str
    ) -> None:
        """Hidden rows: code 3, no row, PG_ROLE is named. With PG_ROLE the pass is recorded."""
        one_line(
            worker(command, DATABASE_URL=someone), 3, "row level security", "ops_someone", "PG_ROLE"
        )
        assert database.samples() == {}
        assert database.value("SELECT to_regclass('service_health')::text") is None
        worker("init-db")
        assert worker(command, DATABASE_URL=someone, PG_ROLE="pulse_operator").returncode == 0

    def test_role(self, worker: Worker, someone: str, command: str) -> None:
        """A missing role, or a role without the login as a member: code 3, PG_ROLE is named."""
        one_line(
            worker(command, DATABASE_URL=someone, PG_ROLE="nobody_here"),
            3,
            "nobody_here",
            "PG_ROLE",
        )
        one_line(
            worker(command, DATABASE_URL=someone, PG_ROLE="postgres"),
            3,
            "permission denied",
            "PG_ROLE",
        )

    def test_no_privilege(
        self, worker: Worker, database: Database, someone: str, command: str
    ) -> None:
        """No right to write: code 3."""
        worker("init-db")
        database.rows("REVOKE INSERT ON service_health, system_metrics FROM pulse_operator")
        one_line(
            worker(command, DATABASE_URL=someone, PG_ROLE="pulse_operator"),
            3,
            "permission denied",
            "grant",
        )

    def test_debug(self, worker: Worker, command: str) -> None:
        """With LOG_LEVEL=DEBUG, the log has the traceback of the same failure."""
        done = worker(command, DATABASE_URL="postgresql://iot:x@127.0.0.1:9/d", LOG_LEVEL="debug")
        assert done.returncode == 1
        assert "Traceback" in done.stderr


def test_schema_without_create(worker: Worker, database: Database, someone: str) -> None:
    """Without CREATE, the first pass says who has to create the table. Then the role suffices."""
    env = {"DATABASE_URL": someone, "PG_ROLE": "pulse_operator"}
    one_line(worker("health", **env), 3, "permission denied for schema public", "init-db")
    lines = worker("init-db").stdout.splitlines()
    lines.remove("system_metrics: already there")
    assert sorted(lines) == sorted([*APPLIED, *(f"{name}: created" for name in OWN_OBJECTS)])
    assert worker("health", **env).returncode == 0
    assert len(database.health()) == 4


def test_init_db_role(worker: Worker, database: Database) -> None:
    """init-db grants PG_ROLE the use of all tables, old ones too. A missing role is code 3."""
    one_line(worker("init-db", PG_ROLE="nobody_here"), 3, "nobody_here", "PG_ROLE")
    worker("init-db")
    database.rows("REVOKE ALL ON service_health FROM pulse_operator")
    assert worker("health", PG_ROLE="pulse_operator").returncode == 3
    lines = worker("init-db", PG_ROLE="pulse_operator").stdout.splitlines()
    existing = [f"{name}: already there" for name in ("system_metrics", *OWN_OBJECTS)]
    assert sorted(lines) == sorted(
        [*(line.replace("applied", "already applied") for line in APPLIED), *existing]
    )
    assert worker("health", PG_ROLE="pulse_operator").returncode == 0


def test_two_search_paths(worker: Worker, database: Database) -> None:
    """A table that PG_ROLE does not find in its search_path is an error, and not made again."""
    database.rows("CREATE SCHEMA postgres")
    one_line(worker("health", PG_ROLE="pulse_operator"), 3, "search_path")


def test_encoding(worker: Worker, dsn: str) -> None:
    """A database whose encoding cannot hold every answer is refused before any answer."""
    name = f"ops_latin_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 "
            "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        url = re.sub(r"/\w+$", f"/{name}", dsn)
        worker("init-db", "--standalone", DATABASE_URL=url)
        one_line(worker("health", DATABASE_URL=url), 3, "LATIN1", "UTF8")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_first_pass_grants(worker: Worker, database: Database) -> None:
    """If PG_ROLE may not create tables but the login may, the first pass grants PG_ROLE use."""
    database.rows(
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM pulse_operator"
    )
    for _ in range(2):
        assert worker("health", PG_ROLE="pulse_operator").returncode == 0
    assert database.health()["ingest"]["details"]["streak"] == 2


def test_standalone(worker: Worker, empty: Database) -> None:
    """Without a platform, init-db --standalone suffices. A second run changes nothing."""
    tables = ["tenants", "fleet_alert", "system_metrics", *OWN_OBJECTS]
    first, second = (
        worker("init-db", "--standalone", DATABASE_URL=empty.url).stdout.splitlines()
        for _ in range(2)
    )
    for lines in (first, second):
        assert lines.pop().startswith("system_metrics: nothing removes old samples")
    assert sorted(first) == sorted([*APPLIED, *(f"{table}: created" for table in tables)])
    assert second == [
        *(line.replace("applied", "already applied") for line in APPLIED),
        *(f"{table}: already there" for table in tables),
    ]
    assert (
        worker(
            "health", DATABASE_URL=empty.url, INGEST_URL="", INGEST_HEALTH_URL="http://127.0.0.1:9"
        ).returncode
        == 0
    )
    assert worker("metrics", DATABASE_URL=empty.url).returncode == 0
    assert [alert["status"] for alert in empty.alerts()] == ["OPEN"]
    assert ("platform", "alerts_open") in empty.samples()


def test_settings(worker: Worker, stubs: Stubs) -> None:
    """All faults of the settings are reported, one a line, without a secret and without contact."""
    env = {
        "DATABASE_URL": "mysql://u:secret@h/d",
        "PG_PORT": "0",
        "HEALTH_CHECK_INTERVAL": "soon",
        "DISPATCHER_HEALTH_URL": "//u:pw@h",  # a fault of one service, not of the settings
    }
    done = worker("health", **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "ops-worker health: DATABASE_URL has an invalid value (not shown); expected a connection "
        "URI, postgresql://user:password@host:port/database, "
        "with any of @/?#% in the password percent-encoded",
        "ops-worker health: PG_PORT is '0'; expected a port number, 1 to 65535",
        "ops-worker health: HEALTH_CHECK_INTERVAL is 'soon'; "
        "expected a number of seconds, 5 to 86400",
    ]
    assert not stubs["ingest"].requests
    one_line(worker("health", "--env-file", "no.env"), 2, "no.env")
    one_line(worker("health", DATABASE_URL="postgresql://u:p%40ss%zz@h/d"), 2, "DATABASE_URL")
    assert worker("health", "--no-such-option").returncode == 2
    assert worker("unheard-of").returncode == 2
    assert worker().returncode == 2


def test_env_file(worker: Worker) -> None:
    """The worker reads .env, or the file that --env-file names. The environment wins over both."""
    url = worker.env.pop("DATABASE_URL")
    one_line(worker("metrics"), 2, "PG_PASS is not set; it is required if DATABASE_URL is empty")
    (worker.folder / ".env").write_text(
        f"DATABASE_URL={url}\nUNKNOWN=1\nINGEST_URL=http://127.0.0.1:9\n"
    )
    assert worker("metrics").returncode == 0
    (worker.folder / "other.env").write_text(f"DATABASE_URL={url}\nSYSTEM_ALERT_ENABLED=off\n")
    assert "off: SYSTEM_ALERT_ENABLED" in worker("health", "--env-file", "other.env").stdout
    assert (
        "4 healthy"
        in worker("health", "--env-file", "other.env", SYSTEM_ALERT_ENABLED="Yes").stdout
    )
    (worker.folder / ".env").write_bytes(b"\xff\xfe\xff")
    one_line(worker("health"), 2, ".env")


def test_json_failure(worker: Worker) -> None:
    """With --output json, a failure is a JSON document as well."""
    done = worker("health", "--output", "json", DATABASE_URL="postgresql://iot:x@127.0.0.1:9/d")
    document = json.loads(done.stdout)
    assert (done.returncode, document["result"], document["exit_code"]) == (1, "failed", 1)
    assert "refused" in document["error"]


def test_nobody_reads(worker: Worker, database: Database) -> None:
    """A closed standard output does not change what a pass does."""
    with worker.start("health") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
    assert len(database.health()) == 4
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "ops_worker", "metrics"]
        assert (
            subprocess.run(
                command, env=worker.env, cwd=worker.folder, stdout=full, check=False
            ).returncode
            == 0
        )
    assert len(database.samples()) == 22


def ended_in_time(process: Running, command: str, number: signal.Signals) -> None:
    """Assert that a signal ends a waiting process with code 1 and a line that names the signal."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, ""), err
    assert err.splitlines()[-1] == f"ops-worker {command}: stopped by {number.name}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_probing(
    worker: Worker, database: Database, stubs: Stubs, number: signal.Signals
) -> None:
    """A signal ends a pass that waits for a service at once. Nothing is written."""
    stubs["ingest"].mode = "hang"
    process = worker.start("health")
    while not stubs["ingest"].requests:
        time.sleep(0.01)
    ended_in_time(process, "health", number)
    assert database.value("SELECT to_regclass('service_health')::text") is None


def test_signal_while_connecting(worker: Worker) -> None:
    """A signal ends a pass that waits for a silent database."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = worker.start(
            "health", DATABASE_URL=f"postgresql://iot:x@127.0.0.1:{listener.getsockname()[1]}/d"
        )
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            ended_in_time(process, "health", signal.SIGTERM)


def test_signal_while_writing(worker: Worker, database: Database) -> None:
    """A signal ends a pass that waits for a lock of another session. It writes nothing."""
    with psycopg.connect(database.url) as session:
        session.execute("LOCK TABLE system_metrics")
        process = worker.start("metrics")
        while not database.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            time.sleep(0.01)
        ended_in_time(process, "metrics", signal.SIGTERM)
    assert database.samples() == {}


def test_deadline(worker: Worker, database: Database, server: Postgres) -> None:
    """A pass ends at its deadline if the database accepts the connection and stops answering."""
    frozen = False

    def watch(piece: int, _: bytes) -> str:
        nonlocal frozen
        if piece == 6:
            server.signal(signal.SIGSTOP)
            frozen = True
        return ""

    with Proxy(urlsplit(database.url).port or 5432, watch) as proxy:
        try:
            done = worker(
                "metrics",
                DATABASE_URL=re.sub(r":\d+/", f":{proxy.port}/", database.url),
                PASS_DEADLINE="6",
            )
        finally:
            server.signal(signal.SIGCONT)
    assert frozen
    one_line(done, 1, "took more than 6 s", "PASS_DEADLINE")


@pytest.mark.parametrize("command", ["health", "metrics"])
def test_kill_at_every_piece(
    worker: Worker, database: Database, another: Database, stubs: Stubs, command: str
) -> None:
    """A pass that is killed at any statement leaves all of its rows or none."""
    stubs["ingest"].mode = "down"
    # Each lane tries every second piece, from the last piece of the login on.
    with ThreadPoolExecutor(2) as lanes:
        killed = list(
            lanes.map(
                lambda lane: _killed(worker, command, lane[0], range(lane[1], 100, 2)),
                [(database, 4), (another, 5)],
            )
        )
    assert min(killed) >= 3


def _killed(worker: Worker, command: str, database: Database, cuts: range) -> int:
    """Kill a pass at each of these pieces until one survives. Return the number killed."""
    worker("init-db", DATABASE_URL=database.url)
    in_ledger = 0
    for killed, cut in enumerate(cuts):
        database.rows("TRUNCATE service_health, system_metrics")
        database.rows("DELETE FROM fleet_alert WHERE tenant_id = '__system__'")
        running: list[Running] = []

        def watch(piece: int, _: bytes, cut: int = cut, running: list[Running] = running) -> str:
            if piece == cut:
                running[0].kill()
                return "deaf"
            return ""

        with Proxy(urlsplit(database.url).port or 5432, watch) as proxy:
            running.append(
                worker.start(
                    command, DATABASE_URL=re.sub(r":\d+/", f":{proxy.port}/", database.url)
                )
            )
            running[0].communicate(timeout=60)
        free = (
            "SELECT count(*) = 0 FROM pg_stat_activity "
            "WHERE application_name LIKE 'ops-worker%' AND datname = current_database()"
        )
        while not database.value(free):
            time.sleep(0.01)
        numbers = (len(database.health()), len(database.alerts()), len(database.samples()))
        assert numbers in {(0, 0, 0), (4, 1, 0) if command == "health" else (0, 0, 18)}
        in_ledger += numbers != (0, 0, 0)
        assert passes_in_ledger(database) == in_ledger, "the ledger has what the other tables have"
        if running[0].returncode == 0:
            return killed
    raise AssertionError("no pass lived")


def test_eight_processes(worker: Worker, database: Database, stubs: Stubs) -> None:
    """Eight first passes at once all succeed: each is done or skipped, and one alert opens."""
    stubs["ingest"].mode = "down"
    running = [worker.start("health") for _ in range(8)]
    done = [process.communicate(timeout=30) for process in running]
    assert [process.returncode for process in running] == [0] * 8, done
    assert len(database.alerts()) == 1
    assert sum("1 alert opened" in out for out, _ in done) == 1
    assert passes_in_ledger(database) >= 1
    assert len(database.rows("SELECT * FROM ops_worker_span")) == 4


def test_imports(worker: Worker) -> None:
    """A pass imports neither the Kubernetes client nor a module that only other commands need."""
    command = [sys.executable, "-X", "importtime", "-m", "ops_worker", "health"]
    done = subprocess.run(
        command, env=worker.env, cwd=worker.folder, capture_output=True, text=True, check=True
    )
    imported = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert {"httpx", "psycopg", "pydantic_settings", "ops_worker.passes.context"} <= imported
    assert not imported & {
        "kubernetes",
        "yaml",
        "urllib3",
        "requests",
        "rich",
        "pygments",
        "re2",
        "tests",
    }


def test_commands_imported(worker: Worker) -> None:
    """A pass imports only the modules of its own command and its own pass."""
    script = (
        "import sys; from ops_worker import cli; cli.main(['health'])\n"
        "own = ('ops_worker.commands.', 'ops_worker.passes.')\n"
        "print(*sorted(name for name in sys.modules if name.startswith(own)))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env=worker.env, cwd=worker.folder, capture_output=True, text=True, check=True
    )
    names = ("commands.run_pass", "passes.context", "passes.health", "passes.ledger")
    assert done.stdout.splitlines()[-1].split() == [f"ops_worker.{name}" for name in names]


def test_help(worker: Worker) -> None:
    """--help and --version need no settings, and import neither pydantic nor a client."""
    for arguments in (
        ["--help"],
        ["health", "--help"],
        ["metrics", "--help"],
        ["init-db", "--help"],
        ["--version"],
    ):
        command = [sys.executable, "-X", "importtime", "-m", "ops_worker", *arguments]
        done = subprocess.run(
            command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
        )
        assert "ops-worker" in done.stdout
        for module in ("pydantic", "psycopg", "httpx", "asyncio", "ssl"):
            assert not re.search(rf"\| +{module}$", done.stderr, re.MULTILINE), module
    helped = worker("health", "--help").stdout
    assert "INGEST_HEALTH_URL, INGEST_URL (default http://iot-ingest:8080)" in helped
    assert "METRICS_COLLECTION_INTERVAL" not in helped
    assert "INGEST" not in worker("init-db", "--help").stdout


@pytest.fixture
def pooled(database: Database, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a PgBouncer in transaction mode with a single server connection."""
    with pooler(database.url, tmp_path) as url:
        yield url


def test_transaction_pooling(worker: Worker, database: Database, stubs: Stubs, pooled: str) -> None:
    """Passes work behind a pooler in transaction mode and leave no session state behind."""
    env = {"DATABASE_URL": pooled, "PG_ROLE": "pulse_operator"}
    stubs["ingest"].mode = "down"
    running = [worker.start(command, **env) for command in ("health", "metrics") * 6]
    outputs = [process.communicate(timeout=30) for process in running]
    assert [process.returncode for process in running] == [0] * 12, outputs
    stubs["ingest"].mode = "ok"
    assert "1 alert closed: ingest" in worker("health", **env).stdout
    assert worker("metrics", **env).returncode == 0
    for url, finding in (
        (pooled, "there is one between, which is fine in transaction mode"),
        (database.url, "none"),
    ):
        assert re.search(
            rf"^ok +pooler +{finding}$",
            worker("check", **env | {"DATABASE_URL": url}).stdout,
            re.MULTILINE,
        )
    assert [
        worker(*command, **env).returncode
        for command in (("init-db",), ("status",), ("explain", "ingest"), ("report", "-o", "-"))
    ] == [0] * 4
    with psycopg.connect(pooled, prepare_threshold=None) as connection:
        assert connection.execute(
            "SELECT current_user::text, current_setting('statement_timeout')"
        ).fetchone() == ("postgres", "0")
    assert len(database.alerts()) == 1
