"""The entry of the process: ``ops-worker`` and ``python -m ops_worker``."""

from __future__ import annotations

import gc


def run() -> None:
    """Run the command of ``sys.argv`` and end the process with its exit code."""
    gc.disable()  # a pass makes no garbage worth collecting, and its imports would pay for looking
    from ops_worker import cli, guard

    guard.hold_signals()
    guard.finish(cli.main(guarded=True))


if __name__ == "__main__":
    run()
