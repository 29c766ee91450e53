"""What a part has counted and measured, as it gives it to whoever collects it. Nothing here asks a clock.

A name and the values of its labels are one key: `("sync_changes", "pg", "orders")`. What each name means, and
what its labels are called, is for `api.metrics` to say.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of every histogram; one more holds what is above."""
RECENT_SECONDS = 60.0
Key = tuple[str, ...]


@dataclass(slots=True)
class Histogram:
    """How often a time was up to each of `SECONDS`, and all of them together."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Note a time."""
        self.buckets[bisect_left(SECONDS, seconds)] += times
        self.total += seconds * times

    def copy(self) -> Histogram:
        """As it is now."""
        return Histogram(list(self.buckets), self.total)


@dataclass(frozen=True, slots=True)
class Measured:
    """All that a part has to say.

    Attributes:
        counters: what only grows, since the part started.
        gauges: what is so now.
        histograms: how long something took.
    """

    counters: Mapping[Key, float] = field(default_factory=dict)
    gauges: Mapping[Key, float] = field(default_factory=dict)
    histograms: Mapping[Key, Histogram] = field(default_factory=dict)


class Recent:
    """How much there was lately, second by second.

    Args:
        seconds: how long something counts as lately.
    """

    def __init__(self, seconds: float = RECENT_SECONDS) -> None:
        self._seconds = seconds
        self._began: float | None = None
        self._counts: deque[tuple[int, float]] = deque()

    def add(self, count: float, now: float) -> None:
        """Note something at a moment, in seconds by any clock that only goes on."""
        self._began = now if self._began is None else self._began
        if self._counts and self._counts[-1][0] == int(now):
            count += self._counts.pop()[1]
        self._counts.append((int(now), count))
        self._forget(now)

    def total(self, now: float) -> float:
        """How much there was in the last seconds."""
        self._forget(now)
        return sum(count for _, count in self._counts)

    def rate(self, now: float) -> float:
        """The same per second, of the time since the first of all if that is less."""
        if self._began is None:
            return 0.0
        return self.total(now) / min(self._seconds, max(1.0, now - self._began))

    def _forget(self, now: float) -> None:
        while self._counts and self._counts[0][0] < now - self._seconds:
            self._counts.popleft()
