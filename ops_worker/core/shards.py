"""Which services a shard has: by name alone, so that shards need not talk, and adding one moves no more than its share."""

from __future__ import annotations

from hashlib import blake2b

_MULTIPLIER = 2862933555777941757
_MASK = (1 << 64) - 1


def shard_of(name: str, count: int) -> int:
    """Give the shard of a name, 0 to ``count - 1``: the same everywhere and always.

    Jump consistent hashing (Lamping and Veach, 2014): from N to N + 1 shards, one name in N + 1 moves, and only to the new one.
    """
    key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
    shard, jump = -1, 0
    while jump < count:
        shard = jump
        key = (key * _MULTIPLIER + 1) & _MASK
        jump = int((shard + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return shard
