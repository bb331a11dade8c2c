"""This process's own limits: how many probes fit into them, and which errors mean that one was hit.

Such an error says nothing about a service, so the service counts as not probed.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import ssl

FILES_PER_PROBE = 3
"""File descriptors of one probe at most, as a rule: two sockets in a race, or what the resolver
opens for a name.
"""
FILES_RESERVE = 10
"""File descriptors left for the database, its name, a log file, and the selector and its bell."""

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


class OwnLimitError(Exception):
    """A limit of this process, which its message names, kept a service from being probed."""


def own_limit(result: object) -> str:
    """Return which limit of this process or machine ended a probe, in words; empty if none did."""
    if isinstance(result, OwnLimitError):
        return str(result)
    if isinstance(result, MemoryError):
        return _MEMORY
    if isinstance(result, OSError) and not isinstance(result, ssl.SSLError):
        return _EXHAUSTED.get(result.errno or 0, "")
    return ""


def fitting(concurrency: int) -> int:
    """Return for how many of so many probes at once there are file descriptors; at least one.

    The limit is that of open files (``ulimit -n``).
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return concurrency
    try:
        numbers = os.listdir("/dev/fd")  # noqa: PTH208 - names only, and none is opened
    except OSError as error:
        # Without /dev/fd nobody can count them: a process begins with its three streams.
        taken = limit if own_limit(error) else 3
    else:
        taken = sum(int(number) < limit for number in numbers)
    return max(1, min(concurrency, (limit - taken - FILES_RESERVE) // FILES_PER_PROBE))


def no_descriptor() -> OSError | None:
    """Return the error of opening a file descriptor now; None while one is free.

    The system's resolver does not tell this: without a descriptor it says that a name does not
    exist.
    """
    try:
        socket.socket().close()
    except OSError as error:
        return error
    return None
