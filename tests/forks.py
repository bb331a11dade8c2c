"""Start processes of ``ops-worker`` as forks of a server that has already imported its modules.

The imports are most of the CPU time of a pass, and the tests start hundreds of passes. Like any
process, a fork has its own process id, environment, folder, streams, signals and exit code. Only
the steps before ``run`` are shared. A test of these steps starts an interpreter. With
``OPS_TEST_FULL=1``, every process is an interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import TextIO

AT_START = ("PYTHON", "LANG", "LC_", "OPENSSL", "MALLOC", "LD_")
"""The beginnings of the names of variables that are read before ``run``."""
IMPORTED = (
    "dotenv.main",
    "ops_worker.__main__",
    "ops_worker.adapters.http",
    "ops_worker.adapters.http.heartbeat",
    "ops_worker.adapters.http_server",
    "ops_worker.adapters.postgres.history",
    "ops_worker.adapters.postgres.migrate",
    "ops_worker.catalogue",
    "ops_worker.cli",
    "ops_worker.commands.init_db",
    "ops_worker.commands.run_loop",
    "ops_worker.commands.run_pass",
    "ops_worker.commands.status",
    "ops_worker.log",
    "ops_worker.passes.health",
    "ops_worker.passes.metrics",
    "ops_worker.passes.rollup",
    "ops_worker.process",
    "ops_worker.settings",
)
"""The modules that the server imports. They import all others."""


class Fork:
    """A process of the worker that a server forked, with the methods of ``subprocess.Popen``."""

    def __init__(
        self, control: socket.socket, arguments: list[str], env: Mapping[str, str], folder: Path
    ) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._reading = threading.Lock()
        self._report, report_of_fork = socket.socketpair()
        out, out_of_fork = os.pipe()
        err, err_of_fork = os.pipe()
        empty_input = os.open(os.devnull, os.O_RDONLY)
        sent = [empty_input, out_of_fork, err_of_fork, report_of_fork.detach()]
        try:
            socket.send_fds(control, [b"f"], sent)
        finally:
            for descriptor in sent:
                os.close(descriptor)
        self.stdout = os.fdopen(out, encoding="utf-8")
        self.stderr = os.fdopen(err, encoding="utf-8")
        self._lines = self._report.makefile("r", encoding="utf-8")
        request = {"arguments": arguments, "env": dict(env), "folder": str(folder)}
        self._report.sendall(json.dumps(request).encode() + b"\n")
        self.pid = self._number()

    def _number(self) -> int:
        """Read the next number that the server reports: the process id, then the exit code."""
        line = self._lines.readline()
        if not line:
            raise RuntimeError("the server of the forks has ended")
        return int(line)

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process, and return its exit code.

        Raises TimeoutExpired after ``timeout`` seconds.
        """
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            with self._reading:  # a test may kill in one thread and wait in another
                if self.returncode is None:
                    self.returncode = self._number()
                    self._lines.close()
                    self._report.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return the whole standard output and standard error, and wait for the process.

        Kills the process and raises TimeoutExpired if they do not end within ``timeout`` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with ThreadPoolExecutor(2) as readers:
            out = readers.submit(_rest, self.stdout)
            err = readers.submit(_rest, self.stderr)
            try:
                texts = out.result(_left(end)), err.result(_left(end))
            except TimeoutError:
                self.kill()  # otherwise the readers would not end
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
        self._close()
        self.wait(_left(end))
        return texts

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def _close(self) -> None:
        """Close the streams of the process."""
        for stream in (self.stdout, self.stderr):
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the process. After an exception, kill it first."""
        if kind is not None:
            self.kill()
        self._close()
        self.wait()


def _rest(stream: TextIO) -> str:
    """Return the text of a stream up to its end."""
    return "" if stream.closed else stream.read()


def _left(end: float | None) -> float | None:
    """Return the seconds until a moment of the monotonic clock; None without a moment."""
    return None if end is None else max(0.0, end - time.monotonic())


class ForkServer:
    """A process that has imported the worker and forks itself. Use it as a context manager."""

    def __init__(self, env: Mapping[str, str], within: Sequence[str] = ()) -> None:
        """Start the server. ``within`` is a command that runs it, for example in a namespace."""
        self._at_start = _at_start(env)
        self._control, control_of_server = socket.socketpair()
        with control_of_server:
            descriptor = control_of_server.fileno()
            command = [*within, sys.executable, "-P", __file__, str(descriptor)]
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def can_fork(self, env: Mapping[str, str]) -> bool:
        """Return whether a fork can have this environment.

        It can if the variables that are read before ``run`` are those of the server.
        """
        return _at_start(env) == self._at_start

    def fork(self, arguments: list[str], env: Mapping[str, str], folder: Path) -> Fork:
        """Start ``ops-worker`` with these arguments, in this environment and folder."""
        return Fork(self._control, arguments, env, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.wait()


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are read before ``run``."""
    return {name: value for name, value in env.items() if name.startswith(AT_START)}


def serve(control: socket.socket) -> None:
    """Fork a guardian for each request, until the tests close their end of the socket."""
    for name in IMPORTED:
        import_module(name)
    while True:
        message, descriptors, *_ = socket.recv_fds(control, 1, 4)
        if not message:
            return
        if not os.fork():
            control.close()
            _guard(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _guard(descriptors: list[int]) -> None:
    """Fork the worker; report its process id, and its exit code after its end."""
    *streams, report = descriptors
    with socket.socket(fileno=report) as client:
        with client.makefile("r", encoding="utf-8") as lines:
            request = json.loads(lines.readline())
        pid = os.fork()
        if not pid:
            client.close()
            _become_worker(request, streams)
        for descriptor in streams:
            os.close(descriptor)
        with contextlib.suppress(BrokenPipeError):  # the test has already ended
            client.sendall(f"{pid}\n".encode())
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            client.sendall(f"{code}\n".encode())
    os._exit(0)


def _become_worker(request: dict[str, Any], streams: list[int]) -> None:
    """Run the worker as ``python -m ops_worker`` does after its imports."""
    main: Any = sys.modules["ops_worker.__main__"]
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = _writer(sys.stdout, buffering=-1)
    sys.stderr = _writer(sys.stderr, buffering=1)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.path.insert(0, request["folder"])
    sys.argv = [main.__file__, *request["arguments"]]
    try:
        main.run()
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _writer(stream: TextIO, buffering: int) -> TextIO:
    """Return a new text stream on the descriptor of a stream.

    The old object has the properties of the server's stream, for example its buffering.
    """
    return os.fdopen(
        stream.fileno(),
        "w",
        buffering,
        encoding=stream.encoding,
        errors=stream.errors,
        closefd=False,
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve(socket.socket(fileno=int(sys.argv[1])))
