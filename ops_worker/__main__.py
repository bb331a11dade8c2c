"""The entry point of the process: ``ops-worker`` and ``python -m ops_worker``."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any


def run() -> None:
    """Run the command of ``sys.argv`` and end the process with its exit code."""
    # A pass creates too little garbage to collect. Collections during imports would cost time.
    gc.disable()
    from ops_worker import cli, process

    _repair_streams()
    process.hold_signals()
    process.finish(cli.main(guarded=True))


def _repair_streams() -> None:
    """Make standard output and standard error accept any text.

    A stream that was closed then discards the text. A stream that is limited to ASCII replaces
    other characters by ``?``.
    """
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            # The file stays open until the process ends.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        else:
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    run()
