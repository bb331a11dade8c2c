"""Drills: a part of the worker fails (resolver, network, CPU, time or files), or the services fail.

If a part of the worker fails, no service changes its state, and one alert about the worker opens.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.bench.tools import catalogue, fast_server
from tests.network import MACHINES, NAMES, RESOLVER, Network, reason_to_skip
from tests.stubs import Stub

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.conftest import Database, Worker
    from tests.forks import ForkServer

pytestmark = pytest.mark.acceptance

VARIABLES = {
    "ingest": "INGEST_HEALTH_URL",
    "evaluator": "EVALUATOR_HEALTH_URL",
    "dispatcher": "DISPATCHER_HEALTH_URL",
    "delivery_worker": "DELIVERY_HEALTH_URL",
}
DOUBT = {"DOUBT_PASSES": "2"}
FULL = bool(os.environ.get("OPS_TEST_FULL"))
STOPPED_S = 20.0 if FULL else 6.0
"""Seconds for which a process is stopped, longer than any probe deadline."""
LIMITED_S = 60 if FULL else 20
"""Seconds of a loop whose CPU is limited."""
DEADLINE_S = 5 if FULL else 2
"""Probe deadline in seconds, for services that do not answer."""
HANDSHAKE_S = 60.0
"""Seconds in which a pass on a slow machine starts and connects."""


@pytest.fixture
def network(database: Database, forks: ForkServer | None) -> Iterator[Network]:
    """Yield a network namespace for the worker, if this machine can create one."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    with Network(database.url, forks=forks is not None) as running:
        yield running


@pytest.fixture
def hosts() -> Iterator[dict[str, Stub]]:
    """Yield the four services of this machine, each on its own address."""
    if sys.platform != "linux":
        pytest.skip("only Linux has every address of 127.0.0.0/8")
    running = {name: Stub(name, host=f"127.0.0.{number}") for number, name in enumerate(NAMES, 2)}
    yield running
    for stub in running.values():
        stub.close()


class Drill:
    """The passes of a drill and the rows they leave."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._before: Any = None

    def keep(self) -> None:
        """Remember the rows of the services. Assert that all services are healthy."""
        states = self.database.health()
        assert {name: row["status"] for name, row in states.items()} == dict.fromkeys(
            NAMES, "healthy"
        )
        self._before = states

    def check(self, because: str) -> None:
        """Assert that no service changed, and that one alert is open, about the worker."""
        assert self.database.health() == self._before
        (alert,) = [row for row in self.database.alerts() if row["status"] != "CLOSED"]
        assert alert["fingerprint"] == "system-health:ops_worker"
        assert alert["details"]["causes"] == ["blind"]
        assert because in alert["summary"]
        healthy = self.database.rows(
            "SELECT DISTINCT value FROM system_metrics WHERE metric_name = 'healthy'"
        )
        assert [row["value"] for row in healthy] == [1.0]
        states = self.database.rows("SELECT DISTINCT state FROM ops_worker_span")
        assert [row["state"] for row in states] == ["healthy"]

    def open_alerts(self) -> list[str]:
        """Return the services of the open alerts."""
        return sorted(
            row["details"]["service"] for row in self.database.alerts() if row["status"] != "CLOSED"
        )


@pytest.fixture
def drill(database: Database) -> Drill:
    """Return a drill on the test's database."""
    return Drill(database)


def addressed(network: Network, folder: Path, *names: str) -> dict[str, str]:
    """Return the settings of the services. ``names`` have URLs by name, the others by address."""
    path = folder / "services.toml"
    path.write_text(
        "".join(
            f'[services.{name}]\nurl = "{network.url(name, by_name=name in names)}"\n'
            f"deadline = {DEADLINE_S}\n"
            for name in VARIABLES
        )
    )
    return {"OPS_WORKER_CATALOGUE": str(path)}


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON document of a successful pass."""
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


@pytest.mark.parametrize(
    ("by_name", "addresses", "because"),
    [
        (NAMES, (RESOLVER,), f"no name could be resolved: 4 of 4 (name server {RESOLVER})"),
        ((), (*MACHINES.values(), RESOLVER), "no packet came back from 4 hosts"),
        (NAMES, (*MACHINES.values(), RESOLVER), "no name could be resolved: 4 of 4"),
    ],
    ids=["resolver dead", "all packets dropped", "both"],
)
def test_the_network_fails(
    network: Network,
    worker: Worker,
    drill: Drill,
    by_name: tuple[str, ...],
    addresses: tuple[str, ...],
    because: str,
) -> None:
    """Two blind passes of each kind change nothing. The third one judges all services down."""
    env = worker.env | addressed(network, worker.folder, *by_name) | DOUBT
    for name in ("health", "metrics"):
        outcome = document(network.run(name, "--output", "json", env=env))
        assert (outcome["blind"], len(outcome["services"])) == (False, 4), outcome
    drill.keep()
    network.vanish(*addresses)
    for name in ("health", "metrics", "metrics"):
        assert document(network.run(name, "--output", "json", env=env))["blind"]
        drill.check(because)
    done = network.run("health", "--fail-on-unhealthy", env=env)
    assert done.returncode == 4
    assert done.stdout.startswith("health: blind, no service was judged: no ")
    drill.check(because)
    # If nothing answers at all, all alerts open after DOUBT_PASSES.
    outcome = document(network.run("health", "--output", "json", env=env))
    assert sorted(outcome["alerts"]["opened"]) == sorted(NAMES)
    network.come_back(*addresses)
    outcome = document(network.run("health", "--output", "json", env=env))
    assert sorted(outcome["alerts"]["closed"]) == sorted(NAMES)
    # The metrics pass was the last blind one.
    outcome = document(network.run("metrics", "--output", "json", env=env))
    assert outcome["alerts"]["closed"] == ["ops_worker"]
    assert drill.open_alerts() == []


def test_some_names_fail(network: Network, worker: Worker) -> None:
    """If only services with addresses answer, the others are down, and the resolver is named."""
    env = worker.env | addressed(network, worker.folder, "ingest", "evaluator") | DOUBT
    assert not document(network.run("health", "--output", "json", env=env))["blind"]
    network.vanish(RESOLVER)
    outcome = document(network.run("health", "--output", "json", env=env))
    assert sorted(outcome["alerts"]["opened"]) == ["evaluator", "ingest"]
    assert outcome["warnings"] == [
        "names could not be resolved, although other services gave a sign of life: "
        f"ingest, evaluator (name server {RESOLVER}): check the resolver and these names"
    ]


@pytest.mark.parametrize("doubt_passes", ["0", "2"])
def test_a_machine_is_gone(
    network: Network, worker: Worker, drill: Drill, doubt_passes: str
) -> None:
    """The alert of one lost machine opens at once, because other services answer."""
    env = worker.env | addressed(network, worker.folder) | {"DOUBT_PASSES": doubt_passes}
    assert not document(network.run("health", "--output", "json", env=env))["blind"]
    network.vanish(MACHINES["ingest"])
    outcome = document(network.run("health", "--output", "json", env=env))
    assert outcome["alerts"]["opened"] == ["ingest"]
    assert drill.open_alerts() == ["ingest"]


@pytest.mark.parametrize("mode", ["503", "down", "reset"])
@pytest.mark.parametrize("doubt_passes", ["0", "2"])
def test_all_services_fail(
    worker: Worker, hosts: dict[str, Stub], mode: str, doubt_passes: str
) -> None:
    """If all services answer 503, refuse or reset, all alerts open in the first pass."""
    env = {VARIABLES[name]: stub.url for name, stub in hosts.items()}
    env["DOUBT_PASSES"] = doubt_passes
    assert worker("health", **env).returncode == 0
    for stub in hosts.values():
        stub.mode = mode
    outcome = document(worker("health", "--output", "json", **env))
    assert sorted(outcome["alerts"]["opened"]) == sorted(NAMES)


class Hold:
    """A service whose clients wait until ``go`` is set."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting = 0
        self._lock = threading.Lock()
        self.all_wait = threading.Event()
        self.go = threading.Event()

    def __call__(self, stub: Stub, connection: socket.socket) -> None:
        """Answer once ``go`` is set. The client may have left by then."""
        with self._lock:
            self._waiting += 1
            if self._waiting == self._number:
                self.all_wait.set()
        self.go.wait()
        stub_answer = json.dumps(stub.answer()).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(stub_answer)}\r\n\r\n".encode()
        with contextlib.suppress(OSError):
            connection.sendall(head + stub_answer)


@pytest.mark.parametrize("answers", [False, True], ids=["no answers", "answers meanwhile"])
@pytest.mark.parametrize("name", ["health", "metrics"])
def test_the_process_is_stopped(
    worker: Worker, hosts: dict[str, Stub], drill: Drill, name: str, answers: bool
) -> None:
    """A pass that is stopped while its probes are open judges the answers that arrived."""
    path = worker.folder / "services.toml"
    path.write_text(
        "".join(
            f'[services.{service}]\nurl = "{stub.url}/health"\nmax_latency_ms = 4000\n'
            for service, stub in hosts.items()
        )
    )
    env = DOUBT | {"OPS_WORKER_CATALOGUE": str(path)}
    for healthy in ("health", "metrics"):
        assert worker(healthy, **env).returncode == 0
    drill.keep()
    hold = Hold(len(hosts))
    for stub in hosts.values():
        stub.mode = hold
    with worker.start(name, "--output", "json", **env) as process:
        assert hold.all_wait.wait(HANDSHAKE_S)
        process.send_signal(signal.SIGSTOP)
        if answers:
            hold.go.set()
        time.sleep(STOPPED_S)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    hold.go.set()
    assert process.returncode == 0, err
    outcome = json.loads(out)
    assert outcome["blind"] is not answers, (outcome, err)
    if answers:
        assert [service["status"] for service in outcome["services"]] == ["healthy"] * 4, outcome
        assert drill.open_alerts() == []
    else:
        drill.check("this process was not run for ")


def test_no_file_descriptor_is_left(
    worker: Worker, hosts: dict[str, Stub], drill: Drill, tmp_path: Path
) -> None:
    """Without a free file descriptor no service is probed, and every such pass is blind."""
    env = {VARIABLES[service]: stub.url for service, stub in hosts.items()} | DOUBT
    for healthy in ("health", "metrics"):
        assert worker(healthy, **env).returncode == 0
    drill.keep()

    def limited(limit: int) -> subprocess.CompletedProcess[str]:
        """Run a pass that may open ``limit`` files."""

        def limit_files() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        return subprocess.run(
            [sys.executable, "-m", "ops_worker", "health", "--output", "json"],
            env=worker.env | env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=limit_files,
            timeout=100,
        )

    # Find the lowest limit that leaves a socket for the database, but none for a probe.
    for limit in range(4, 16):
        done = limited(limit)
        if done.returncode == 0:
            break
    for _ in range(3):
        outcome = document(limited(limit))
        assert outcome["blind"] and len(outcome["not_probed"]) == 4
    drill.check("this process is out of file descriptors (too many open files): 4 of 4")
    assert document(worker("health", "--output", "json", **env))["alerts"]["closed"] == [
        "ops_worker"
    ]


@contextlib.contextmanager
def cpu_limit(pid: int, share: float) -> Iterator[None]:
    """Limit the CPU of a process with a cgroup, or else by stopping it in turn."""
    name = f"ops-worker-test-{os.getpid()}"
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    period_us = 100_000
    quota = str(int(share * period_us))
    for folder, file, text in (
        (v2 / name, "cpu.max", f"{quota} {period_us}"),
        (v1 / name, "cpu.cfs_quota_us", quota),
    ):
        with contextlib.suppress(OSError):
            folder.mkdir()
            try:
                if not (folder / file).exists():
                    continue
                (folder / file).write_text(text)
                (folder / "cgroup.procs").write_text(str(pid))
                yield
                with contextlib.suppress(OSError):
                    (folder.parent / "cgroup.procs").write_text(str(pid))
                return
            finally:
                with contextlib.suppress(OSError):
                    folder.rmdir()
    ends = threading.Event()

    def stop_in_turn() -> None:
        """Let the process run for its share of each period."""
        with contextlib.suppress(ProcessLookupError):
            while not ends.is_set():
                os.kill(pid, signal.SIGSTOP)
                time.sleep((1 - share) * period_us / 1e6)
                os.kill(pid, signal.SIGCONT)
                time.sleep(share * period_us / 1e6)

    thread = threading.Thread(target=stop_in_turn)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def test_five_percent_of_a_cpu(worker: Worker, database: Database, tmp_path: Path) -> None:
    """A loop limited to 5 % of a CPU calls none of hundreds of services unhealthy.

    All probes begin at once, so that even a machine of usual speed misses their deadlines.
    """
    number = 400
    with fast_server() as port:
        path = Path(catalogue(tmp_path, number, port))
        path.write_text(path.read_text().replace('counters = ["a", "b"]', "deadline = 2"))
        env = DOUBT | {"OPS_WORKER_CATALOGUE": str(path), "PROBE_CONCURRENCY": str(number)}
        passes = "SELECT count(*)::int FROM system_metrics WHERE metric_name = 'maintenance'"
        with worker.start("health", "--every", "10", "--for", str(LIMITED_S), **env) as process:
            end = time.monotonic() + HANDSHAKE_S
            while not database.value(passes):
                assert time.monotonic() < end
                time.sleep(0.2)
            with cpu_limit(process.pid, 0.05):
                process.wait(timeout=200)
            out, err = process.communicate(timeout=60)
    assert process.returncode in {0, 1}, err
    states = database.rows("SELECT status, count(*)::int FROM service_health GROUP BY status")
    assert [(row["status"], row["count"]) for row in states] == [("healthy", number)], (out, err)
    spans = database.rows("SELECT DISTINCT state FROM ops_worker_span")
    assert [row["state"] for row in spans] == ["healthy"], (out, err)
    alerts = {alert["fingerprint"] for alert in database.alerts()}
    assert alerts <= {"system-health:ops_worker"}, (out, err)
