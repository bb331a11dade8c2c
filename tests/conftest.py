"""The shared fixtures: a server for the session, a database for each test, services, the worker.

The services are stand-ins (``tests.stubs``). The worker is a process.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg.rows import dict_row

from ops_worker.adapters.postgres import Store
from ops_worker.core.passes import DOUBT_TABLE, LEDGER_TABLES
from ops_worker.variables import variables
from tests.forks import Fork, ForkServer
from tests.looks import Looks
from tests.postgres import Postgres, compress_chunks, load_platform, memory_folder
from tests.stubs import Stubs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

ZONE = "Asia/Kathmandu"
"""The time zone of the tests. Its offset of 5:45 h reveals a local time that is taken for UTC."""
os.environ["TZ"] = ZONE
time.tzset()
AS_IN_THE_IMAGE = str(Path(__file__).with_name("image"))
"""A folder for PYTHONPATH that hides the packages that the image does not have."""
TIMESCALE = os.environ.get("OPS_TEST_TIMESCALE", "") not in {"", "0"}
"""Whether system_metrics is a hypertable in every database, with its older chunks compressed."""
PRISTINE = "template0"
"""A template database to which neither an administrator nor a server's image adds anything."""
COVERING = (
    "core",
    "history",
    "passes/test_backlog.py",
    "passes/test_functions.py",
    "passes/test_pass_plan.py",
    "passes/test_rollup_plan.py",
)
"""The tests that have to execute every branch of the core and of the passes, below ``tests``.

Of them only ``test_backlog.py`` needs a server.
"""
TIERS = {"unit", "integration", "acceptance", "cluster"}
"""The tiers of tests. Each test has exactly one (CONTRIBUTING.md)."""
WAITING = (
    "acceptance/test_alertmanager.py",
    "acceptance/test_blind.py",
    "acceptance/test_database_faults.py",
    "acceptance/test_heartbeat.py",
    "acceptance/test_loop.py",
    "acceptance/test_termination.py",
    "acceptance/test_watch.py",
    "adapters/http/test_probes.py",
    "adapters/http/test_stalls.py",
    "passes/test_contract.py",
)
"""The files whose tests wait longer than they compute, below ``tests``."""
VARIABLES = tuple(name for variable in variables() for name in variable.names)
"""The worker's variables, read once: reading them takes longer than most tests."""
_numbers = itertools.count()

# Argparse looks for translations, which do not exist. This takes half of the time of a parser.
os.environ["LANGUAGE"] = "C"

# The duration of an example depends on the machine and its load, so it has no limit.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


class Session:
    """A connection that stays open between statements, because each new one costs the server 4 ms.

    It is opened for the first statement. If the server ended it meanwhile, it is opened again.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[dict[str, Any]] | None = None

    def execute(self, query: str, parameters: Sequence[object]) -> list[dict[str, Any]]:
        """Return the rows of a query; none for a statement that has none."""
        if self._connection is not None:
            try:
                return _rows(self._connection, query, parameters)
            except psycopg.OperationalError:
                if not self._connection.broken:
                    raise
                self.close()
        self._connection = psycopg.connect(
            self._url, autocommit=True, row_factory=dict_row, prepare_threshold=None
        )
        return _rows(self._connection, query, parameters)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _rows(
    connection: psycopg.Connection[dict[str, Any]], query: str, parameters: Sequence[object]
) -> list[dict[str, Any]]:
    cursor = connection.execute(query, parameters or None)
    return cursor.fetchall() if cursor.description else []


class Database(NamedTuple):
    """A database with the platform's tables and seed, as its superuser.

    Without a session, every statement has a connection of its own.
    """

    url: str
    is_hypertable: bool = False
    session: Session | None = None

    @property
    def earliest(self) -> str:
        """The earliest time of a sample. A hypertable cannot have an infinite time."""
        return "1970-01-01" if self.is_hypertable else "-infinity"

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a query; none for a statement that has none."""
        session = self.session or Session(self.url)
        try:
            rows = session.execute(query, parameters)
        finally:
            if self.session is None:
                session.close()
        if "INSERT INTO system_metrics" in query:
            self.compress()
        return rows

    def move_samples(self, time: str, where: str) -> None:
        """Move samples to another time. Time and condition are SQL expressions.

        In a hypertable, UPDATE cannot move a row to another chunk.
        """
        self.rows(
            f"WITH moved AS (DELETE FROM system_metrics WHERE {where} RETURNING *)"
            " INSERT INTO system_metrics (time, metric_name, service, tags, value)"
            f" SELECT {time}, metric_name, service, tags, value FROM moved"
        )

    def compress(self) -> None:
        """Compress the chunks of a hypertable that the platform's policy would compress."""
        if self.is_hypertable:
            compress_chunks(self.url)

    def value(self, query: str, *parameters: object) -> Any:
        """Return the first column of the first row."""
        return next(iter(self.rows(query, *parameters)[0].values()))

    def health(self) -> dict[str, dict[str, Any]]:
        """Return the rows of service_health by service."""
        return {row["service"]: row for row in self.rows("SELECT * FROM service_health")}

    def alerts(self) -> list[dict[str, Any]]:
        """Return the system alerts, oldest first."""
        return self.rows("SELECT * FROM fleet_alert WHERE tenant_id = '__system__' ORDER BY id")

    def samples(self) -> dict[tuple[str, str], float]:
        """Return the value of each series, by service and metric.

        Self-metrics and latencies are left out. Fails if a series has two samples.
        """
        rows = self.rows(
            "SELECT * FROM system_metrics"
            " WHERE service <> 'ops_worker' AND metric_name <> 'probe_latency_ms'"
        )
        values = {(row["service"], row["metric_name"]): row["value"] for row in rows}
        assert len(values) == len(rows), "a series has two samples"
        return values

    def create_ledger(self) -> None:
        """Create the tables of the ledger and of blind passes, so that no pass creates them."""
        with contextlib.closing(Store({"conninfo": self.url})) as store:
            store.create((*LEDGER_TABLES, DOUBT_TABLE))

    def as_user(self, user: str, password: str = "x") -> str:
        """Return the URL with another login."""
        parts = urlsplit(self.url)
        return urlunsplit(
            parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}")
        )


class Process(subprocess.Popen[str]):
    """A process that is killed if its test fails, so that the test does not wait for it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)


Running = Process | Fork
"""A process of the worker."""


class Worker:
    """Runs ``ops-worker`` as a process, in a folder and with exactly these variables.

    With a server of forks, the process begins after the imports.
    """

    def __init__(
        self, folder: Path, env: Mapping[str, str], forks: ForkServer | None = None
    ) -> None:
        self.folder = folder
        self.env = dict(env)
        self.forks = forks

    def start(self, *arguments: str, **env: str) -> Running:
        """Start a command and do not wait."""
        if self.forks and self.forks.can_fork(self.env | env):
            return self.forks.fork([*arguments], self.env | env, self.folder)
        command = [sys.executable, "-m", "ops_worker", *arguments]
        return Process(
            command,
            cwd=self.folder,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; return its output and exit code."""
        with self.start(*arguments, **env) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.wait(), out, err)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of a plain table if system_metrics is a hypertable, and order the tests.

    Raises UsageError if a test does not have exactly one tier. Otherwise `make unit` and
    `make lowest` could leave it out, or a test without a server could start a server.
    """
    for item in items:
        if len(TIERS & {mark.name for mark in item.iter_markers()}) != 1:
            raise pytest.UsageError(f"{item.nodeid}: mark it as one of {', '.join(sorted(TIERS))}")
    if TIMESCALE:
        reason = "it needs system_metrics as a plain table, and OPS_TEST_TIMESCALE is set"
        for item in items:
            if item.get_closest_marker("plain_table"):
                item.add_marker(pytest.mark.skip(reason=reason))
    _pause_coverage(items)
    _distribute(items)


def _pause_coverage(items: list[pytest.Item]) -> None:
    """Measure the coverage of the tests in ``COVERING`` only: measuring doubles the CPU time."""
    tests = Path(__file__).parent
    covering = [tests / name for name in COVERING]
    for item in items:
        if not any(item.path.is_relative_to(path) for path in covering):
            item.add_marker("no_cover")


def _distribute(items: list[pytest.Item]) -> None:
    """Order the tests for the processes of pytest-xdist: half of them begin with tests that wait.

    The distribution ``worksteal`` gives each process an equal part of the list, in order. A process
    without work takes tests from the end of another part. While tests wait, the CPU is free for the
    processes that begin with slow tests. If slow tests were at the end, other processes would have
    nothing to do meanwhile.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if processes < 2:
        return
    tests = Path(__file__).parent
    waiting_files = {tests / name for name in WAITING}
    waiting = [item for item in items if item.path in waiting_files]
    others = [item for item in items if item.path not in waiting_files]
    slow = [item for item in others if item.get_closest_marker("acceptance")]
    fast = [item for item in others if not item.get_closest_marker("acceptance")]
    lanes = processes // 2
    parts = [waiting[number::lanes] for number in range(lanes)]
    parts += [slow[number :: processes - lanes] for number in range(processes - lanes)]
    ordered: list[pytest.Item] = []
    for number, part in enumerate(parts):
        size = (len(items) - len(ordered)) // (processes - number)
        missing = max(0, size - len(part))
        ordered += [*part, *fast[:missing]]
        del fast[:missing]
    items[:] = [*ordered, *fast]


def pytest_collection_finish() -> None:
    """Exclude items and modules from later garbage collections: they exist until the end."""
    gc.collect()
    gc.freeze()


def scrub(env: pytest.MonkeyPatch, folder: Path) -> None:
    """Remove the worker's variables from the environment, and work in this folder."""
    for name in VARIABLES:
        env.delenv(name, raising=False)
    env.chdir(folder)


@pytest.fixture(autouse=True)
def _scrubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Hide the worker's variables and the .env file of the person who runs the tests."""
    scrub(monkeypatch, tmp_path)
    yield
    # A command that ran in this process has configured its log.
    for name in ("ops_worker", "psycopg"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def _templates_compiled_once() -> Iterator[None]:
    """Compile the templates of `report` once for all tests: this takes 120 ms of CPU time."""
    html = sys.modules.get("ops_worker.adapters.html")
    with pytest.MonkeyPatch.context() as patch:
        if html is not None:
            patch.setattr(html, "_environment", functools.cache(html._environment))
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A PostgreSQL that a test may stop, freeze and copy."""
    with Postgres(folder=memory_folder()) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def dsn(request: pytest.FixtureRequest) -> str:
    """The URL of the server on which databases are created.

    It is OPS_TEST_DSN, which has to name a superuser, or the embedded server.
    """
    url = os.environ.get("OPS_TEST_DSN")
    return url or str(request.getfixturevalue("server").url())


@pytest.fixture(scope="session")
def template(dsn: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database with the platform's tables. It is copied for each test."""
    if TIMESCALE:
        yield str(request.getfixturevalue("hypertable_template"))
        return
    yield from template_of(dsn, "platform", load_platform)


@pytest.fixture(scope="session")
def hypertable_template(dsn: str) -> Iterator[str]:
    """Like ``template``, with system_metrics as a hypertable of TimescaleDB."""
    with psycopg.connect(dsn) as connection:
        available = "SELECT FROM pg_available_extensions WHERE name = 'timescaledb'"
        if not connection.execute(available).fetchall():
            pytest.skip("this server has no TimescaleDB: set OPS_TEST_DSN to one that has")
    yield from template_of(dsn, "hypertable", functools.partial(load_platform, timescale=True))


@pytest.fixture
def empty(dsn: str) -> Iterator[Database]:
    """An empty database."""
    yield from copy_of(dsn, PRISTINE)


@pytest.fixture
def database(dsn: str, template: str) -> Iterator[Database]:
    """A database for one test, with the platform's tables and a small fleet."""
    yield from copy_of(dsn, template, is_hypertable=TIMESCALE)


@pytest.fixture
def hypertable(dsn: str, hypertable_template: str) -> Iterator[Database]:
    """Like ``database``, with system_metrics as a hypertable of TimescaleDB."""
    yield from copy_of(dsn, hypertable_template, is_hypertable=True)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database) -> Iterator[Looks]:
    """Runs passes in the past on ``database``. The settings name this database."""
    with contextlib.closing(Looks(monkeypatch, tmp_path, database)) as looks:
        yield looks


@pytest.fixture
def another(dsn: str, template: str) -> Iterator[Database]:
    """A second database like ``database``."""
    yield from copy_of(dsn, template, is_hypertable=TIMESCALE)


@pytest.fixture
def stubs() -> Iterator[Stubs]:
    """The platform's services. All are healthy."""
    with Stubs() as services:
        yield services


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer | None]:
    """The server of forks; None if each process of the worker is an interpreter of its own."""
    if os.environ.get("OPS_TEST_FULL") or sys.platform != "linux":
        yield None
        return
    with ForkServer(_bare()) as fork_server:
        yield fork_server


@pytest.fixture
def worker(tmp_path: Path, database: Database, stubs: Stubs, forks: ForkServer | None) -> Worker:
    """The worker, with the test's database and services in its variables."""
    return Worker(tmp_path, _bare() | stubs.env | {"DATABASE_URL": database.url}, forks)


def _bare() -> dict[str, str]:
    """Return the environment of a process of the worker, without the worker's variables."""
    names = {"PATH", "HOME", "LANG", "COVERAGE_PROCESS_START"}
    bare = {name: value for name, value in os.environ.items() if name in names}
    return bare | {"PYTHONPATH": AS_IN_THE_IMAGE}


def template_of(dsn: str, name: str, fill: Callable[[str], None]) -> Iterator[str]:
    """Create a template database and yield its name. ``fill`` gets its URL, and fills it."""
    name = f"ops_template_{name}_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {PRISTINE}")
        fill(_on(dsn, name))
        # A database with connections cannot be copied. TimescaleDB has processes that connect.
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def copy_of(dsn: str, template: str, *, is_hypertable: bool = False) -> Iterator[Database]:
    """Copy a database, yield the copy, and drop it."""
    name = f"ops_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        strategy = _copy_strategy(connection.info.server_version)
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")
        with contextlib.closing(Session(_on(dsn, name))) as session:
            yield Database(_on(dsn, name), is_hypertable, session)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _copy_strategy(server_version: int) -> str:
    """Return the option of CREATE DATABASE to copy files, without writing them to the WAL.

    PostgreSQL 14 has no such option: it always copies files.
    """
    return "STRATEGY FILE_COPY" if server_version >= 150000 else ""


def _on(dsn: str, name: str) -> str:
    """Return the URL of a database of the server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
