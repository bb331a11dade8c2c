"""Compute the shard of a service from its name.

So shards need no coordination. A new shard takes over only its own share of the services.
"""

from __future__ import annotations

from hashlib import blake2b

UNDIVIDED = "0/1"
"""The shard of a pass that probes all services."""
MAX_SHARDS = 1000
"""The maximum number of shards of an installation."""

# Constants of the linear congruential generator in the paper (see shard_of).
_MULTIPLIER = 2862933555777941757
_MASK = (1 << 64) - 1


def shard_of(name: str, count: int) -> int:
    """Return the shard of a service, from 0 to ``count - 1``. It is the same on every machine.

    ``name`` is the name of the service, and ``count`` the number of shards, at least 1. The
    algorithm is jump consistent hashing (Lamping and Veach, "A Fast, Minimal Memory, Consistent
    Hash Algorithm", 2014). When N shards become N + 1, one of N + 1 services moves, always to the
    new shard.
    """
    key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
    shard, jump = -1, 0
    while jump < count:
        shard = jump
        key = (key * _MULTIPLIER + 1) & _MASK
        jump = int((shard + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return shard
