"""The shared store in memory: for one process, or in an actor for several."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, Storage
from limits.strategies import SlidingWindowCounterRateLimiter

from cluster.sharing.store import SharedHealth

MOST_ON_SHELF = 1_000
"""So many values are kept on a shelf; the oldest go first."""


class Counts:
    """Requests of the last minute, over whatever storage of the `limits` library.

    Args:
        storage: where counts are.
    """

    def __init__(self, storage: Storage) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    def hit(self, kind: str, who: str, most: int) -> float:
        """See `Rates`."""
        rate = RateLimitItemPerMinute(most)
        if self._limiter.hit(rate, kind, who):
            return 0.0
        return max(1.0, self._limiter.get_window_stats(rate, kind, who).reset_time - time.time())


class LocalStore:
    """See `SharedStore`.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = Counts(MemoryStorage())
        self._shelves: dict[str, dict[str, tuple[float, bytes]]] = {}

    def hit(self, kind: str, who: str, most: int) -> float:
        """See `Rates`."""
        return self._counts.hit(kind, who, most)

    def put(self, shelf: str, name: str, value: bytes, seconds: float) -> None:
        """See `Board`."""
        now = self._clock()
        with self._lock:
            values = self._shelves.setdefault(shelf, {})
            values.pop(name, None)  # so that it is the newest
            values[name] = now + seconds, value
            for old in [n for n, (until, _) in values.items() if until <= now]:
                del values[old]
            while len(values) > MOST_ON_SHELF:
                del values[next(iter(values))]

    def get(self, shelf: str, name: str) -> bytes | None:
        """See `Board`."""
        return self.all(shelf).get(name)

    def all(self, shelf: str) -> dict[str, bytes]:
        """See `Board`."""
        now = self._clock()
        with self._lock:
            return {n: v for n, (until, v) in self._shelves.get(shelf, {}).items() if until > now}

    def health(self) -> SharedHealth:
        """See `SharedStore`."""
        return SharedHealth("local")

    def close(self) -> None:
        """See `SharedStore`."""
