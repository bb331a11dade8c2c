"""The limits of this process: how many probes they allow, and which errors they cause.

An error by a limit says nothing about a service, so the service counts as not probed.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import ssl

FILES_PER_PROBE = 3
"""Maximum number of file descriptors that one probe usually needs.

They are for two sockets while two addresses are tried, or for the files that the resolver opens.
"""
FILES_RESERVE = 10
"""Number of file descriptors for the rest of the process.

They are for the database and the lookup of its name, a log file, the selector, and the two sockets
that wake the selector.
"""
_STANDARD_STREAMS = 3

_MEMORY = "this process is out of memory"
_PORTS = "this machine is out of local ports (cannot assign requested address)"
_EXHAUSTED = {
    errno.EMFILE: "this process is out of file descriptors (too many open files)",
    errno.ENFILE: "this machine is out of file descriptors (too many open files in system)",
    errno.ENOMEM: _MEMORY,
    errno.ENOBUFS: "this machine is out of memory for sockets (no buffer space available)",
    errno.EADDRNOTAVAIL: _PORTS,
    errno.ENOSPC: "this user is out of epoll watches (fs.epoll.max_user_watches)",
    socket.EAI_MEMORY: _MEMORY,
}
"""The reason that is shown for each error number that means a limit."""


class OwnLimitError(Exception):
    """A limit of this process kept a service from being probed. The message names the limit."""


def own_limit(result: object) -> str:
    """Return the limit of this process or machine that ended a probe; empty if none did."""
    if isinstance(result, OwnLimitError):
        return str(result)
    if isinstance(result, MemoryError):
        return _MEMORY
    # The number of a TLS error comes from OpenSSL, not from the system.
    if isinstance(result, OSError) and not isinstance(result, ssl.SSLError):
        return _EXHAUSTED.get(result.errno or 0, "")
    return ""


def fitting(concurrency: int) -> int:
    """Return how many probes at the same time the file descriptors allow.

    The result is at most ``concurrency`` and at least 1. It follows from the limit of open files
    (``ulimit -n``).
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return concurrency
    try:
        descriptors = os.listdir("/dev/fd")  # noqa: PTH208 - only names are needed
    except OSError as error:
        # If no descriptor is free, all are in use. If there is no /dev/fd, they cannot be counted.
        in_use = limit if own_limit(error) else _STANDARD_STREAMS
    else:
        in_use = sum(int(descriptor) < limit for descriptor in descriptors)
    free = limit - in_use - FILES_RESERVE
    return max(1, min(concurrency, free // FILES_PER_PROBE))


def no_descriptor() -> OSError | None:
    """Return the error of opening a file now; None if a file descriptor is free.

    The system's resolver hides this error: if it gets no descriptor, it reports an unknown name.
    """
    try:
        socket.socket().close()
    except OSError as error:
        return error
    return None
