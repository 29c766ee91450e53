"""How often an applier tried to apply a batch, how long that took, and how often it failed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from actors.measured import Histogram, Key, Measured, Recent

FAILED = frozenset({"away", "refused"})
"""What counts as an error; after a write conflict with an application, the next try mostly goes through."""


class Tries:
    """Counts of one applier.

    Args:
        shard: whose batches it applies.
        clock: monotonic seconds.
    """

    def __init__(self, shard: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._shard = str(shard)
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: Counter[Key] = Counter()
        self._times = Histogram()
        self._all, self._failed = Recent(), Recent()

    def add(self, node: str, outcome: str, seconds: float) -> None:
        """A try has ended.

        Args:
            node: at which node.
            outcome: `done`, `refused` (some of its rows), `contention`, `occupied` or `away`.
            seconds: how long it took.
        """
        now = self._clock()
        with self._lock:
            self._counters["sync_apply_tries", node, outcome, self._shard] += 1
            self._times.add(seconds)
            self._all.add(1, now)
            self._failed.add(outcome in FAILED, now)

    def measured(self, node: str) -> Measured:
        """All of it, as it is now."""
        now = self._clock()
        with self._lock:
            gauges: dict[Key, float] = {
                ("_recent_tries", node): self._all.total(now),
                ("_recent_failures", node): self._failed.total(now),
            }
            times: dict[Key, Histogram] = {("sync_apply_seconds", node, self._shard): self._times.copy()}
            return Measured(dict(self._counters), gauges, times)
