"""The termination message: the one file that a pass leaves, which Kubernetes shows as the reason why a container ended."""

from __future__ import annotations

import logging
from pathlib import Path

_log = logging.getLogger(__name__)


def leave(path: str, line: str) -> None:
    """Write the line to the file at ``path``, in place of what an earlier pass of this process left; without a path, do nothing.

    A file that cannot be written is a warning: what the pass did stands in the database.
    """
    if not path:
        return
    try:
        Path(path).write_text(line, encoding="utf-8")
    except OSError as error:
        _log.warning("no termination message", extra={"action": "no termination message", "path": path, "error": str(error)})
