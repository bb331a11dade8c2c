"""Facts about this machine: the CPU throttling of this process, and the name servers.

No function raises: a missing or malformed file counts as empty.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
MAX_FILE = 1 << 16
"""Maximum number of bytes that are read from a file."""
MAX_NAMESERVERS = 3
"""Number of name servers that the system's resolver asks: MAXNS of resolv.conf(5)."""
_UNITS = {"throttled_usec": 1e6, "throttled_time": 1e9}
"""The keys of cpu.stat in versions 2 and 1 of cgroups, and how many of their units are 1 s."""


def throttled_s() -> float | None:
    """Return how long the cgroup of this process was throttled so far, in seconds.

    Return None if the cgroup does not report it.
    """
    for folder in _own_groups():
        for line in _lines(folder / "cpu.stat"):
            name, _, value = line.partition(" ")
            if name in _UNITS and value.isdecimal():
                return int(value) / _UNITS[name]
    return None


def nameservers() -> tuple[str, ...]:
    """Return the addresses of the name servers that the system's resolver asks."""
    addresses = []
    for line in _lines(RESOLV_CONF):
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]):
            addresses.append(words[1])
    return tuple(addresses[:MAX_NAMESERVERS])


def _own_groups() -> list[Path]:
    """Return the possible folders of the cgroup of this process, the most likely folder first.

    In a container with its own cgroup namespace, the cgroup of the container is the root.
    """
    folders = []
    for line in _lines(MEMBERSHIP):
        # The number of the hierarchy, its controllers (none in version 2), and the path.
        _, _, after_number = line.partition(":")
        controllers, _, path = after_number.partition(":/")
        if not controllers:
            folders.append(CGROUPS / path)
        elif "cpu" in controllers.split(","):
            folders.append(CGROUPS / "cpu" / path)
    return [*folders, CGROUPS, CGROUPS / "cpu"]


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE).decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True
