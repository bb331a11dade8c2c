"""The entry of the process: ``ops-worker`` and ``python -m ops_worker``."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any


def run() -> None:
    """Run the command of ``sys.argv`` and end the process with its exit code."""
    gc.disable()  # a pass makes no garbage worth collecting, and its imports would pay for looking
    from ops_worker import cli, process

    _streams()
    process.hold_signals()
    process.finish(cli.main(guarded=True))


def _streams() -> None:
    """Make both streams take whatever is written: one that is closed swallows it, one that knows ASCII only shows a ? for the rest."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - until the process ends
        else:
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    run()
