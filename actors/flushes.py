"""How much the audit log took, and how long it was until that was durable."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from actors.measured import Histogram, Key, Measured, Recent


class Flushes:
    """Counts of the audit log.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: Counter[Key] = Counter()
        self._times = Histogram()
        self._recent = Recent()

    def add(self, records: Mapping[str, int], seconds: float, now: float) -> None:
        """Records are durable.

        Args:
            records: how many, by kind.
            seconds: since they came.
            now: when.
        """
        with self._lock:
            for kind, count in records.items():
                self._counters["audit_records", kind] += count
            self._times.add(seconds)
            self._recent.add(sum(records.values()), now)

    def measured(self) -> Measured:
        """All of it, as it is now."""
        with self._lock:
            gauges: dict[Key, float] = {("audit_write_tps",): self._recent.rate(self._clock())}
            return Measured(dict(self._counters), gauges, {("audit_flush_seconds",): self._times.copy()})
