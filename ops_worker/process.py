"""What ends a one-shot process from outside its own course: a signal, or the pass's deadline.

Both are awaited by threads, not by handlers: a handler runs only when the main thread is back in Python, and that one
may be waiting in the system's resolver. Ending the process at any moment is safe, because everything that a pass
writes it writes in one transaction.
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


def hold_signals() -> None:
    """Keep the signals pending until ``enforce_deadline`` waits for them. To be called before any thread is started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def release_signals() -> None:
    """Let them end the process in the usual way: for a command that is no pass."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own would print a traceback
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def enforce_deadline(deadline_s: float, end: Callable[[str], int], *, spent_s: float = 0.0) -> None:
    """End the process on a signal or after ``deadline_s`` seconds, ``spent_s`` of which are over.

    ``end`` is told why and gives the exit code.
    """

    def wait() -> None:
        finish(end(f"stopped by {signal.Signals(signal.sigwait(SIGNALS)).name}"))

    def expire() -> None:
        finish(end(f"took more than {deadline_s:g} s in all (PASS_DEADLINE)"))

    timer = threading.Timer(deadline_s - spent_s, expire)
    timer.daemon = True
    timer.start()
    threading.Thread(target=wait, name="signals", daemon=True).start()


def finish(code: int) -> None:
    """Flush what was written and leave at once: the interpreter's teardown takes a fifth of a pass and does nothing for it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(
            OSError, ValueError
        ):  # nobody reads any more; what was done stands in the database
            stream.flush()
    os._exit(code)


def write_termination_message(path: str, line: str) -> None:
    """Write the line to the file at ``path``, in place of what an earlier pass of this process left; without a path, do nothing.

    A file that cannot be written is a warning: what the pass did stands in the database.
    """
    if not path:
        return
    try:
        Path(path).write_text(line, encoding="utf-8")
    except OSError as error:
        _log.warning(
            "no termination message",
            extra={"action": "no termination message", "path": path, "error": str(error)},
        )
