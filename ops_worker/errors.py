"""What can end a command early: each class carries its exit code, and its docstring is the message when none is given.

Exit codes speak of the worker, not of the world it watches: a pass that recorded ten services as down ends with 0.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE = 0
"""The pass was done and recorded, or another pass held the lock and this one was skipped."""
UNHEALTHY = 4
"""Done and recorded, and a service is unhealthy; only with --fail-on-unhealthy."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What keeps output from being written and is no bug: a full disk, a quota, a broken device. A retry may help."""


class OpsWorkerError(Exception):
    """The pass was not done."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        """Take the message, or the docstring of the class where it says enough."""
        super().__init__(message or (type(self).__doc__ or "").splitlines()[0])


def shown(error: Exception) -> str:
    """Return what may be shown of an error.

    Another library's text may quote a secret: only the kind of such an error is shown.
    """
    if isinstance(error, OpsWorkerError):
        return str(error)
    return f"a bug in ops-worker: {type(error).__name__}; the log has the traceback"


class DatabaseError(OpsWorkerError):
    """The database did not do its part; a retry may help."""


class CommitUnknownError(DatabaseError):
    """The connection was lost while committing and the database cannot say whether it did; nothing was written again."""

    def __init__(self, xid: str) -> None:
        """Take the identity of the transaction, by which a later one can ask again."""
        super().__init__()
        self.xid = xid


class NotWritableError(DatabaseError):
    """The server accepts no writes, for example a standby; a new connection may lead to the primary."""


class StillRecordingError(OpsWorkerError):
    """An earlier pass of this loop is still being recorded."""


class StatementTimeoutError(DatabaseError):
    """A statement took longer than its limit; one with fewer rows may succeed."""


class SettingsError(OpsWorkerError):
    """The settings or the command line are wrong: no retry helps. Holds every fault found, not only the first."""

    exit_code = 2

    def __init__(self, faults: Sequence[str]) -> None:
        """Take one sentence for each fault."""
        self.faults = tuple(faults)
        super().__init__("; ".join(faults))


class SchemaError(OpsWorkerError):
    """A table or a permission is missing: no retry helps until a person has run or set what the message says."""

    exit_code = 3
