"""The errors that end a command early. Each class has its exit code.

The first line of a class's docstring is the message of an error that is raised without one.

Exit codes are about the worker, not about the services that it monitors. A pass that recorded ten
services as down ends with 0.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE = 0
"""Exit code: the pass was recorded, or was skipped because another pass held the lock."""
UNHEALTHY = 4
"""Exit code: the pass was recorded and a service is unhealthy. Only with --fail-on-unhealthy."""
SEVERITY = (DONE, UNHEALTHY, 1, 3, 2)
"""Exit codes from best to worst.

The exit codes of a recorded pass come first. The exit codes after which no retry helps come last.
"""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Numbers of errors in writing the output that are not a bug.

The disk is full, the quota is exceeded, the file is too large, or the device failed. A retry may
help.
"""

ROW_SECURITY_REMEDY = (
    "set PG_ROLE to a role that bypasses it (pulse_operator on the platform) and that the login "
    "role is a member of"
)
"""The remedy if row level security hides the rows of a table."""


class OpsWorkerError(Exception):
    """The pass was not done.

    ``remedy`` is what to do, if this is known. Most messages end with the remedy; ``problem`` is
    the message without it.
    """

    exit_code: ClassVar[int] = 1
    remedy = ""

    def __init__(self, problem: str = "", remedy: str = "", *, joint: str = ": ") -> None:
        """Set the message. Without a problem, use the first line of the docstring of the class.

        ``joint`` separates the problem from the remedy in the message.
        """
        self.problem = problem or (type(self).__doc__ or "").splitlines()[0]
        self.remedy = remedy or self.remedy
        super().__init__(joint.join(filter(None, (self.problem, remedy))))


def severity(code: int) -> tuple[int, int]:
    """Return a sort key of exit codes, from best to worst; ``SEVERITY`` has the order.

    A code that the worker does not use, for example 137 after SIGKILL, is worse than all others.
    """
    rank = SEVERITY.index(code) if code in SEVERITY else len(SEVERITY)
    return rank, code


def shown(error: Exception) -> str:
    """Return the text of an error that is safe to show.

    The message of another library may contain a secret. For such an error, return only its type.
    """
    if isinstance(error, OpsWorkerError):
        return str(error)
    return f"a bug in ops-worker: {type(error).__name__}; the log has the traceback"


class DatabaseError(OpsWorkerError):
    """The database did not complete the request; a retry may help."""


class CommitUnknownError(DatabaseError):
    """The connection was lost during COMMIT, and the database cannot tell its result.

    ``xid`` identifies the transaction. With it, a later connection can ask for the result.
    """

    def __init__(self, xid: str) -> None:
        """Keep the identifier of the transaction."""
        super().__init__(
            "The connection was lost during COMMIT, and the database cannot tell whether the "
            "transaction was committed; nothing was written again"
        )
        self.xid = xid


class NotWritableError(DatabaseError):
    """The server is read-only, for example a standby; a new connection may reach the primary."""


class StillRecordingError(OpsWorkerError):
    """An earlier pass of this loop is still being recorded."""


class StatementTimeoutError(DatabaseError):
    """A statement exceeded its time limit; one with fewer rows may succeed."""


class SettingsError(OpsWorkerError):
    """The settings or the command line are invalid: a retry does not help.

    ``faults`` holds every fault, not only the first.
    """

    exit_code = 2
    remedy = "correct it in the environment or .env"

    def __init__(self, faults: Sequence[str]) -> None:
        """Join the faults, one sentence each, to the message."""
        self.faults = tuple(faults)
        super().__init__("; ".join(faults))


class SchemaError(OpsWorkerError):
    """A table or a permission is missing: a retry does not help.

    The message says which command or statement a person must run first.
    """

    exit_code = 3
