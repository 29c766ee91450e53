"""Which shard owns a key. The same on every machine and in every release."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def shards_of(keys: Iterable[bytes], count: int, shards: int) -> npt.NDArray[np.uint32]:
    """The shard of each of `count` canonical keys.

    CRC-32 (ISO 3309, as in zlib) spreads the bytes and Murmur3's 32-bit finaliser mixes them, so that
    neither a common prefix nor a stride in the keys fills one shard. Pinned by test vectors.
    """
    h = np.fromiter(map(zlib.crc32, keys), dtype=np.uint32, count=count)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h % np.uint32(shards)


def shard_of(key: bytes, shards: int) -> int:
    """The shard that owns one canonical key."""
    return int(shards_of([key], 1, shards)[0])
