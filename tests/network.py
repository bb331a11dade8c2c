"""A small network of two Linux namespaces: one for the worker, the other for its services.

A test can remove the machine of a service, the resolver or the whole network. Then packets are
dropped without an answer. The database remains reachable through a socket in the file system. Only
root can create the network.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlsplit

from tests.forks import ForkServer
from tests.stubs import Stub

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

NAMES = ("ingest", "evaluator", "dispatcher", "delivery_worker")
"""The services. Each has its own machine."""
MACHINES = {name: f"10.77.0.{number}" for number, name in enumerate(NAMES, 1)}
"""The address of each service's machine."""
RESOLVER = "10.77.0.53"
WORKER = "10.77.0.200"
DOMAIN = "lab.test"
START_S = 60.0
"""The most seconds until a namespace exists."""
RUN_S = 100.0
"""The most seconds until the worker ends."""
CLONE_NEWNET = 0x40000000
"""The type of a network namespace for setns(2), from linux/sched.h."""
_ETHERNET = "02:00:00:00:77:01"
"""The Ethernet address of the services' namespace."""


def reason_to_skip() -> str:
    """Return why this machine cannot have the network; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root on Linux, to make network namespaces"
    for program in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(program) is None:
            return f"it needs the program {program}"
    attempt = subprocess.run(
        ["unshare", "--net", "--mount", "ip", "link", "add", "v0", "type", "veth"],
        capture_output=True,
        text=True,
        check=False,
    )
    if attempt.returncode:
        return f"no namespace can be made here: {attempt.stderr.strip()}"
    return ""


class Namespace:
    """A network namespace and a mount namespace. A sleeping process keeps them alive."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(["unshare", "--net", "--mount", "sleep", "infinity"])
        own = Path("/proc/self/ns/net").readlink()
        end = time.monotonic() + START_S
        while Path(f"/proc/{self.pid}/ns/net").readlink() == own:
            assert time.monotonic() < end, "no namespace"
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The id of the process that keeps the namespaces alive."""
        return self._keeper.pid

    def command(self, *words: str) -> list[str]:
        """Return the command that runs a command inside the namespaces."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--wdns=/", *words]

    def run(self, line: str) -> None:
        """Run a command inside the namespaces. Its words are separated by blanks."""
        subprocess.run(self.command(*line.split()), check=True, capture_output=True)

    def inside(self, work: Callable[[], T]) -> T:
        """Run a function in a thread inside, and return its result.

        The sockets that it creates belong to the network namespace.
        """
        results: list[Any] = []

        def enter_and_work() -> None:
            """Enter the network namespace with this thread only, and run the function."""
            with Path(f"/proc/{self.pid}/ns/net").open("rb") as namespace:
                library = ctypes.CDLL(None, use_errno=True)
                assert library.setns(namespace.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()
            results.append(work())

        thread = threading.Thread(target=enter_and_work)
        thread.start()
        thread.join()
        result: T = results[0]
        return result

    def close(self) -> None:
        """End the process that keeps the namespaces alive."""
        self._keeper.kill()
        self._keeper.wait()


class Network:
    """The worker's namespaces, and those of four services and a resolver."""

    def __init__(self, database_url: str, *, forks: bool = False) -> None:
        """Build the network. ``database_url`` is the URL of a database on this machine.

        With ``forks``, the worker's processes are forks of a server inside (``tests/forks.py``).
        """
        self._forks = forks
        self._server: ForkServer | None = None
        self._closing = contextlib.ExitStack()
        try:
            self._build(database_url)
        except BaseException:
            self._closing.close()
            raise

    def _build(self, database_url: str) -> None:
        """Create the namespaces, their devices and addresses, the services and the resolver."""
        self.folder = Path(tempfile.mkdtemp(prefix="lab"))
        self._closing.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.worker = Namespace()
        self._closing.callback(self.worker.close)
        self.services = Namespace()
        self._closing.callback(self.services.close)
        self.services.run(
            f"ip link add v0 address {_ETHERNET} type veth peer name v1 netns {self.worker.pid}"
        )
        for namespace, device in ((self.services, "v0"), (self.worker, "v1")):
            namespace.run("ip link set lo up")
            namespace.run(f"ip link set {device} up")
        self.worker.run(f"ip address add {WORKER}/24 dev v1")
        self.services.run(f"ip route add {WORKER}/32 dev v0")
        for address in (*MACHINES.values(), RESOLVER):
            self.services.run(f"ip address add {address}/32 dev v0")
            # To a permanent neighbour, packets are sent even if no machine has the address.
            self.worker.run(f"ip neighbour add {address} lladdr {_ETHERNET} dev v1 nud permanent")
        (self.folder / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
        self.worker.run(f"mount --bind {self.folder / 'resolv.conf'} /etc/resolv.conf")
        self.stubs = {
            name: self.services.inside(partial(Stub, name, host=MACHINES[name])) for name in NAMES
        }
        for stub in self.stubs.values():
            self._closing.callback(stub.close)
        resolver = self.services.inside(partial(_bound, RESOLVER))
        self._closing.callback(_closed, resolver)
        threading.Thread(target=_resolve, args=(resolver,), daemon=True).start()
        self.database_url = self._through_a_file(database_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def url(self, name: str, *, by_name: bool) -> str:
        """Return the base URL of a service, with its name or its address as the host."""
        host = f"{name.replace('_', '-')}.{DOMAIN}" if by_name else MACHINES[name]
        return f"http://{host}:{self.stubs[name].port}"

    def vanish(self, *addresses: str) -> None:
        """Remove these addresses. Packets to them are then dropped without an answer."""
        for address in addresses:
            self.services.run(f"ip address del {address}/32 dev v0")

    def come_back(self, *addresses: str) -> None:
        """Add these addresses again."""
        for address in addresses:
            self.services.run(f"ip address add {address}/32 dev v0")
        # Removing the last address removed the route, too.
        self.services.run(f"ip route replace {WORKER}/32 dev v0")

    def run(self, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run the worker inside, and return its output and exit code."""
        env = {**env, "DATABASE_URL": self.database_url}
        if self._forks:
            return self._fork(arguments, env)
        command = self.worker.command(sys.executable, "-m", "ops_worker", *arguments)
        return subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_S,
        )

    def _fork(
        self, arguments: Sequence[str], env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run the worker as a fork. The first call starts the server of the forks."""
        if self._server is None:
            server = ForkServer(env, self.worker.command())
            self._server = self._closing.enter_context(server)
        assert self._server.can_fork(env)
        with self._server.fork([*arguments], env, Path("/")) as process:
            out, err = process.communicate(timeout=RUN_S)
        return subprocess.CompletedProcess(arguments, process.wait(), out, err)

    def _through_a_file(self, url: str) -> str:
        """Forward a socket in the file system to a database, and return the URL of the socket."""
        parts = urlsplit(url)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / ".s.PGSQL.5432"))
        listener.listen()
        self._closing.callback(_closed, listener)
        address = (parts.hostname or "", parts.port or 5432)
        threading.Thread(target=_forward, args=(listener, address), daemon=True).start()
        login = parts.netloc.rpartition("@")[0]
        return f"postgresql://{login}@{quote(str(self.folder), safe='')}:5432{parts.path}"


def _bound(address: str) -> socket.socket:
    """Return a UDP socket on the port of DNS."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    return sock


def _resolve(sock: socket.socket) -> None:
    """Answer DNS queries for the addresses of the services (RFC 1035, section 4)."""
    addresses = {f"{name.replace('_', '-')}.{DOMAIN}": host for name, host in MACHINES.items()}
    with contextlib.suppress(OSError):
        while True:
            query, sender = sock.recvfrom(512)
            if not query:  # the socket is being closed
                return
            # After the header of 12 bytes: the name, its type and its class, of 2 bytes each.
            end = query.index(b"\0", 12) + 5
            labels = []
            position = 12
            while length := query[position]:
                labels.append(query[position + 1 : position + 1 + length].decode())
                position += 1 + length
            address = addresses.get(".".join(labels).lower())
            is_for_ipv4 = query[end - 4 : end - 2] == b"\0\1"
            answer = b""
            if address and is_for_ipv4:
                # A pointer to the name of the query, type A, class IN, time to live 0, 4 bytes.
                data = socket.inet_aton(address)
                answer = b"\xc0\x0c\0\1\0\1" + (0).to_bytes(4, "big") + b"\0\4" + data
            flags = b"\x85\x80" if address else b"\x85\x83"  # no error, or no such name
            counts = b"\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0\0\0\0"
            sock.sendto(query[:2] + flags + counts + query[12:end] + answer, sender)


def _forward(listener: socket.socket, address: tuple[str, int]) -> None:
    """Connect each client of a listener to an address, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_relay, args=(client, address), daemon=True).start()


def _relay(client: socket.socket, address: tuple[str, int]) -> None:
    """Send the data of each side to the other side, until both have ended."""
    with client, socket.create_connection(address) as server:
        answers = threading.Thread(target=_pump, args=(server, client), daemon=True)
        answers.start()
        _pump(client, server)
        answers.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Send the data of one socket to another, and then its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _closed(sock: socket.socket) -> None:
    """Close a socket on which another thread waits."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
