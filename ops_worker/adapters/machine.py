"""What this machine says about itself: the throttling of its CPU, and the servers for names.

Nothing here raises: a file that is missing or odd says nothing.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
MAX_FILE = 1 << 16
"""Bytes of a file that are read."""
MAX_NAMESERVERS = 3
"""Name servers that the resolver of the system asks: MAXNS of resolv.conf(5)."""
_UNITS = {"throttled_usec": 1e6, "throttled_time": 1e9}
"""The keys of cpu.stat in version 2 and 1 of cgroups, and their units in one second."""


def throttled_s() -> float | None:
    """Return for how long the cgroup of this process was throttled so far, in seconds.

    Return None if it does not say.
    """
    # In a container with a cgroup namespace of its own, its own group is the root.
    for folder in (_own_group(), CGROUPS, CGROUPS / "cpu"):
        for line in _lines(folder / "cpu.stat"):
            name, _, value = line.partition(" ")
            if name in _UNITS and value.isdecimal():
                return int(value) / _UNITS[name]
    return None


def nameservers() -> tuple[str, ...]:
    """Return the addresses of the name servers that the resolver asks."""
    found = []
    for line in _lines(RESOLV_CONF):
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]):
            found.append(words[1])
    return tuple(found[:MAX_NAMESERVERS])


def _own_group() -> Path:
    """Return the folder of this process's cgroup, version 2; else the root."""
    for line in _lines(MEMBERSHIP):
        if line.startswith("0::/"):
            return CGROUPS / line[4:]
    return CGROUPS


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
