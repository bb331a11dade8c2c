"""The shard of each service, computed from its name.

Shards need no coordination. A new shard takes over only its own share of the services.
"""

from __future__ import annotations

from hashlib import blake2b

UNDIVIDED = "0/1"
"""The shard of a pass that has all services."""
MAX_SHARDS = 1000
"""The most shards of an installation."""

# The constants of the linear congruential generator in the paper.
_MULTIPLIER = 2862933555777941757
_MASK = (1 << 64) - 1


def shard_of(name: str, count: int) -> int:
    """Return the shard of a name, from 0 to ``count - 1``. It is the same on every machine.

    This is jump consistent hashing (Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash
    Algorithm", 2014). From N to N + 1 shards, one name in N + 1 moves, and only to the new shard.
    """
    key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
    shard, jump = -1, 0
    while jump < count:
        shard = jump
        key = (key * _MULTIPLIER + 1) & _MASK
        jump = int((shard + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return shard
