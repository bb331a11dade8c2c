"""The shared fixtures.

They are a server for the session, a database for each test, stand-ins for the services, and the
worker as a process.
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
"""The local time of the tests. With an odd offset, a local time that is taken for UTC is wrong."""
os.environ["TZ"] = ZONE
time.tzset()
AS_IN_THE_IMAGE = str(Path(__file__).with_name("image"))
"""A folder for PYTHONPATH that hides what only the developers' tools have."""
TIMESCALE = os.environ.get("OPS_TEST_TIMESCALE", "") not in {"", "0"}
"""Whether every database has system_metrics as a hypertable whose older chunks are compressed."""
PRISTINE = "template0"
"""A database in which an administrator, or the image of a server, has installed nothing."""
COVERING = (
    "core",
    "history",
    "passes/test_backlog.py",
    "passes/test_functions.py",
    "passes/test_pass_plan.py",
    "passes/test_rollup_plan.py",
)
"""The tests that have to execute every branch of the core and of the passes, below ``tests``.

Of these only ``test_backlog.py`` needs a server.
"""
TIERS = {"unit", "integration", "acceptance", "cluster"}
"""The tiers of tests, of which each test has one (CONTRIBUTING.md)."""
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
"""The files whose tests wait for more time than they compute, below ``tests``."""
VARIABLES = tuple(name for variable in variables() for name in variable.names)
"""The worker's variables, listed once: it takes longer than many a test."""
_numbers = itertools.count()

# There are no translations. To look for them takes half of the time of making a parser.
os.environ["LANGUAGE"] = "C"

# How long an example takes depends on the machine, and on what else runs there.
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
        """The earliest time that a sample can have. A hypertable takes no infinite time."""
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
        """Move samples to another time, an SQL expression. In a hypertable, UPDATE cannot."""
        self.rows(
            f"WITH moved AS (DELETE FROM system_metrics WHERE {where} RETURNING *)"
            " INSERT INTO system_metrics (time, metric_name, service, tags, value)"
            f" SELECT {time}, metric_name, service, tags, value FROM moved"
        )

    def compress(self) -> None:
        """Compress the chunks that the platform's policy would compress, if there are any."""
        if self.is_hypertable:
            compress_chunks(self.url)

    def value(self, query: str, *parameters: object) -> Any:
        """Return the first column of the first row."""
        return next(iter(self.rows(query, *parameters)[0].values()))

    def health(self) -> dict[str, dict[str, Any]]:
        """Return service_health by service."""
        return {row["service"]: row for row in self.rows("SELECT * FROM service_health")}

    def alerts(self) -> list[dict[str, Any]]:
        """Return the system's alerts, oldest first."""
        return self.rows("SELECT * FROM fleet_alert WHERE tenant_id = '__system__' ORDER BY id")

    def samples(self) -> dict[tuple[str, str], float]:
        """Return the value of each series, by service and metric, without the worker's own figures.

        A series with two samples fails the test.
        """
        rows = self.rows(
            "SELECT * FROM system_metrics"
            " WHERE service <> 'ops_worker' AND metric_name <> 'probe_latency_ms'"
        )
        found = {(row["service"], row["metric_name"]): row["value"] for row in rows}
        assert len(found) == len(rows), "a series stands there twice"
        return found

    def create_ledger(self) -> None:
        """Create the tables of the ledger, so that no pass does it."""
        with contextlib.closing(Store({"conninfo": self.url})) as store:
            store.create((*LEDGER_TABLES, DOUBT_TABLE))

    def as_user(self, user: str, password: str = "x") -> str:
        """Return the URL for another login."""
        parts = urlsplit(self.url)
        return urlunsplit(
            parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}")
        )


class Process(subprocess.Popen[str]):
    """A process that a test which fails does not wait for."""

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
    """Runs ``ops-worker`` as a process that has only the given ones of the worker's variables.

    With a server of forks, the process begins after the imports.
    """

    def __init__(
        self, folder: Path, env: Mapping[str, str], forks: ForkServer | None = None
    ) -> None:
        self.folder = folder
        self.env = dict(env)
        self.forks = forks

    def start(self, *arguments: str, **env: str) -> Running:
        """Start it and do not wait."""
        if self.forks and self.forks.suits(self.env | env):
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
        """Run it to its end."""
        with self.start(*arguments, **env) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.wait(), out, err)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of a plain table if there is a hypertable, and order the tests.

    Raises UsageError if a test is not of exactly one tier. Else `make unit` and `make lowest` would
    leave it out, or a test without a server would start one.
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
    """Do not measure the coverage of tests outside ``COVERING``: it doubles their CPU time."""
    tests = Path(__file__).parent
    covering = [tests / name for name in COVERING]
    for item in items:
        if not any(item.path.is_relative_to(path) for path in covering):
            item.add_marker("no_cover")


def _distribute(items: list[pytest.Item]) -> None:
    """Let half of the processes of pytest-xdist begin with what waits, the others with what works.

    The distribution ``worksteal`` gives each process an equal part of the list, in order, and a
    process without work takes from the end of another one's part. Two lanes that wait leave the CPU
    to the others. Slow tests at the end would leave it to nobody.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if processes < 2:
        return
    tests = Path(__file__).parent
    waits = [tests / name for name in WAITING]
    waiting = [item for item in items if item.path in waits]
    others = [item for item in items if item.path not in waits]
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
    """Leave the items and modules out of every later garbage collection: they stay to the end."""
    gc.collect()
    gc.freeze()


def scrub(env: pytest.MonkeyPatch, folder: Path) -> None:
    """Remove the worker's variables from the environment, and work in this folder."""
    for name in VARIABLES:
        env.delenv(name, raising=False)
    env.chdir(folder)


@pytest.fixture(autouse=True)
def _scrubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test sees the worker's variables of the person who runs it, nor a .env file."""
    scrub(monkeypatch, tmp_path)
    yield
    for name in (
        "ops_worker",
        "psycopg",
    ):  # a command that was run in this process has set up its log
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def _templates_compiled_once() -> Iterator[None]:
    """Compile the templates of the page once for all pages: it takes 120 ms of CPU time."""
    html = sys.modules.get("ops_worker.adapters.html")
    with pytest.MonkeyPatch.context() as patch:
        if html is not None:
            patch.setattr(html, "_environment", functools.cache(html._environment))
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A PostgreSQL that a test may stop, freeze and copy."""
    with Postgres(folder=memory_folder()) as running:
        yield running


@pytest.fixture(scope="session")
def dsn(request: pytest.FixtureRequest) -> str:
    """The server on which databases are created: that of OPS_TEST_DSN, or the embedded one.

    OPS_TEST_DSN has to name a superuser.
    """
    given = os.environ.get("OPS_TEST_DSN")
    return given or str(request.getfixturevalue("server").url())


@pytest.fixture(scope="session")
def template(dsn: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with the platform's tables, to be copied for each test."""
    if TIMESCALE:
        yield str(request.getfixturevalue("hypertable_template"))
        return
    yield from template_of(dsn, "platform", load_platform)


@pytest.fixture(scope="session")
def hypertable_template(dsn: str) -> Iterator[str]:
    """The same, with system_metrics as a hypertable of TimescaleDB."""
    with psycopg.connect(dsn) as connection:
        available = "SELECT FROM pg_available_extensions WHERE name = 'timescaledb'"
        if not connection.execute(available).fetchall():
            pytest.skip("this server has no TimescaleDB: set OPS_TEST_DSN to one that has")
    yield from template_of(dsn, "hypertable", functools.partial(load_platform, timescale=True))


@pytest.fixture
def empty(dsn: str) -> Iterator[Database]:
    """A database with nothing in it."""
    yield from copy_of(dsn, PRISTINE)


@pytest.fixture
def database(dsn: str, template: str) -> Iterator[Database]:
    """A database of the test's own, with the platform's tables and a small fleet."""
    yield from copy_of(dsn, template, is_hypertable=TIMESCALE)


@pytest.fixture
def hypertable(dsn: str, hypertable_template: str) -> Iterator[Database]:
    """The same, with system_metrics as a hypertable of TimescaleDB."""
    yield from copy_of(dsn, hypertable_template, is_hypertable=True)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database) -> Iterator[Looks]:
    """Passes of the past, on a database of the test's own, which the settings name."""
    with contextlib.closing(Looks(monkeypatch, tmp_path, database)) as looks:
        yield looks


@pytest.fixture
def another(dsn: str, template: str) -> Iterator[Database]:
    """A second one beside it."""
    yield from copy_of(dsn, template, is_hypertable=TIMESCALE)


@pytest.fixture
def stubs() -> Iterator[Stubs]:
    """The platform's services, all well."""
    with Stubs() as running:
        yield running


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer | None]:
    """The server of the worker's processes; none where each is an interpreter of its own."""
    if os.environ.get("OPS_TEST_FULL") or sys.platform != "linux":
        yield None
        return
    with ForkServer(_bare()) as running:
        yield running


@pytest.fixture
def worker(tmp_path: Path, database: Database, stubs: Stubs, forks: ForkServer | None) -> Worker:
    """The worker, told of the test's database and services."""
    return Worker(tmp_path, _bare() | stubs.env | {"DATABASE_URL": database.url}, forks)


def _bare() -> dict[str, str]:
    """Return the environment of a process that starts as the image does."""
    kept = {"PATH", "HOME", "LANG", "COVERAGE_PROCESS_START"}
    bare = {name: value for name, value in os.environ.items() if name in kept}
    return bare | {"PYTHONPATH": AS_IN_THE_IMAGE}


def template_of(dsn: str, name: str, fill: Callable[[str], None]) -> Iterator[str]:
    """Create a database, fill it by a function of its URL, and yield its name, to be copied."""
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
        how = _copied_as_files(connection.info.server_version)
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {how}")
        with contextlib.closing(Session(_on(dsn, name))) as session:
            yield Database(_on(dsn, name), is_hypertable, session)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _copied_as_files(server_version: int) -> str:
    """Return the option of CREATE DATABASE by which PostgreSQL copies files and writes no log.

    PostgreSQL 14 does not know the option: it always copies files.
    """
    return "STRATEGY FILE_COPY" if server_version >= 150000 else ""


def _on(dsn: str, name: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
