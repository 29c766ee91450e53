"""How fast a copy may read, so that what applications write is not late because of it.

Additive increase, multiplicative decrease: as soon as a bound is broken the copy is held to half of what it
read, and again after a while if that was not enough; while all is well, it may read a little more each
second, until it is as fast as it was. A copy that is held reads smaller chunks, too, since a live change
waits behind a whole one. Nothing here asks a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LEAST_ROWS = 500.0
"""Rows per second that a copy may always read, so that it ends whatever else goes on."""
SETTLE_SECONDS = 5.0
"""After a decrease: what was read before must be gone before anything can be seen of it."""
CALM_SECONDS = 1.0
"""Between two increases."""
STEPS = 20
"""So many increases lead from nothing to the speed at which the copy was slowed down first."""
CHUNK_SECONDS = 0.5
"""A copy that is held reads no more at once than it may read in this time."""


@dataclass(frozen=True, slots=True)
class Load:
    """How the nodes bear what is sent to them; of all nodes the worst.

    Attributes:
        lag: seconds from a change's commit to a node's answer, the longest of lately.
        lag_node: that node.
        apply: seconds that a node took for a transaction, or has been taking, the longest of lately.
        apply_node: that node.
    """

    lag: float = 0.0
    lag_node: str = ""
    apply: float = 0.0
    apply_node: str = ""


CALM = Load()


def worst(loads: Iterable[Load]) -> Load:
    """The worst of several, in each respect."""
    found = CALM
    for load in loads:
        lag = load if load.lag > found.lag else found
        apply = load if load.apply > found.apply else found
        found = Load(lag.lag, lag.lag_node, apply.apply, apply.apply_node)
    return found


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a copy may make the nodes bear.

    Attributes:
        lag: see `Load.lag`.
        apply: see `Load.apply`.
    """

    lag: float = 5.0
    apply: float = 10.0

    def broken(self, load: Load) -> str:
        """Which bound is broken, for people; empty if none is."""
        if load.lag > self.lag:
            return f"changes reach {load.lag_node} after {load.lag:.1f} s"
        if load.apply > self.apply:
            return f"{load.apply_node} takes {load.apply:.1f} s for a transaction"
        return ""


USUAL_BOUNDS = Bounds()


class Pace:
    """How fast a copy may read.

    Args:
        bounds: beyond which it is slowed down.

    Attributes:
        rate: rows per second that it is held to; None while it is as fast as it can.
        because: the bound that was broken last, while it is held.
        slowed: how often it was slowed down.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._full = LEAST_ROWS
        self._lowered = self._raised = float("-inf")
        self._next = float("-inf")
        self.rate: float | None = None
        self.because = ""
        self.slowed = 0

    def look(self, load: Load, speed: float, now: float) -> None:
        """Learn how the nodes bear it; call it about once a second.

        Args:
            load: how they do.
            speed: rows per second that the copy has read lately.
            now: seconds, by any clock that only goes on.
        """
        broken = self._bounds.broken(load)
        if broken:
            self.because = broken
            if self.rate is None or now - self._lowered >= SETTLE_SECONDS:
                self._lower(speed, now)
        elif self.rate is not None and now - max(self._lowered, self._raised) >= CALM_SECONDS:
            self._raise(self.rate, now)

    def _lower(self, speed: float, now: float) -> None:
        if self.rate is None:
            self._full = self.rate = max(speed, LEAST_ROWS)
        lower = max(LEAST_ROWS, self.rate / 2)
        self.slowed += lower < self.rate
        self.rate, self._lowered = lower, now

    def _raise(self, rate: float, now: float) -> None:
        self._raised = now
        self.rate = rate + self._full / STEPS
        if self.rate >= self._full:
            self.rate, self.because = None, ""

    def ready(self, now: float) -> bool:
        """Whether another chunk may be read now."""
        return self.rate is None or now >= self._next

    def rows(self, most: int) -> int:
        """How many rows the next chunk may have, of at most so many."""
        return most if self.rate is None else max(1, min(most, int(self.rate * CHUNK_SECONDS)))

    def take(self, rows: int, now: float) -> None:
        """A chunk of so many rows is being read."""
        if self.rate is not None:
            self._next = max(now, self._next) + rows / self.rate
