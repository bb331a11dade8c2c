"""The end of a process: signals, the deadline of the pass, the exit, the termination message.

Threads wait for signals and for the deadline; there are no signal handlers. Python runs a handler
only when the main thread executes Python code, and the main thread may be blocked in the system's
resolver. It is safe to end the process at any moment, because a pass writes everything in one
transaction.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a pass."""


def hold_signals() -> None:
    """Block the signals, so that they stay pending until ``await_signal``.

    Call this before any thread starts, because threads inherit the signal mask.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def release_signals() -> None:
    """Let the signals end the process in the usual way, for a command that runs no pass."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would print a traceback
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def await_signal() -> str:
    """Wait for a signal that ``hold_signals`` blocked; return its name, such as ``SIGTERM``."""
    return signal.Signals(signal.sigwait(SIGNALS)).name


def enforce_deadline(
    deadline_s: float, fail: Callable[[str], int], *, spent_s: float = 0.0
) -> None:
    """End the process on a signal, or ``deadline_s`` seconds after its start.

    ``spent_s`` seconds have passed since the start. ``fail`` receives the reason and returns the
    exit code.
    """

    def end_on_signal() -> None:
        """Wait for a signal, then end the process."""
        finish(fail(f"stopped by {await_signal()}"))

    def end_on_deadline() -> None:
        """End the process because of its deadline."""
        finish(fail(f"took more than {deadline_s:g} s in all (PASS_DEADLINE)"))

    timer = threading.Timer(deadline_s - spent_s, end_on_deadline)
    # Daemon threads, so that neither keeps a process alive that has done its work.
    timer.daemon = True
    timer.start()
    threading.Thread(target=end_on_signal, name="signals", daemon=True).start()


def finish(code: int) -> None:
    """Flush the streams and end the process at once, with this exit code.

    This skips the teardown of the interpreter, which takes a fifth of the time of a pass.
    """
    for stream in (sys.stdout, sys.stderr):
        # A closed pipe or a full disk loses only the output. The database has the results.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def write_termination_message(path: str, line: str) -> None:
    """Replace the content of the file at ``path`` by the line; do nothing without a path.

    A file that cannot be written causes a warning only, because the database has the results.
    """
    if not path:
        return
    try:
        # Write in place: Kubernetes mounts this file, so no other file can be renamed to it.
        Path(path).write_text(line, encoding="utf-8")
    except OSError as error:
        _log.warning(
            "no termination message",
            extra={"action": "no termination message", "path": path, "error": str(error)},
        )
