"""How promptly the nodes take what a shard sends them, for a copy that must not be in their way.

A copy asks the capture of the node it reads, which learns it from the shards with every answer. Used under
the resolver's lock.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from replication.pacing import CALM, Load

LATELY_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Heed:
    """What a copy is to heed.

    Attributes:
        load: how the nodes bear what they are sent.
        workers: how many readers are to read for it from now on; None if nobody has said.
    """

    load: Load = CALM
    workers: int | None = None


class Longest:
    """The longest of some times that were measured lately."""

    def __init__(self) -> None:
        self._found: deque[tuple[float, float]] = deque()  # a later one is shorter

    def add(self, seconds: float, now: float) -> None:
        """Note a time."""
        while self._found and self._found[-1][1] <= seconds:
            self._found.pop()
        self._found.append((now, seconds))

    def get(self, now: float) -> float:
        """The longest; 0 if there is none."""
        while self._found and self._found[0][0] < now - LATELY_SECONDS:
            self._found.popleft()
        return self._found[0][1] if self._found else 0.0


class Promptness:
    """One shard's view of its nodes.

    Args:
        names: the node names.
        clock: monotonic seconds.
    """

    def __init__(self, names: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._names = names
        self._clock = clock
        self._asked: dict[str, dict[int, float]] = {n: {} for n in names}
        self._lags: dict[str, Longest] = defaultdict(Longest)
        self._took: dict[str, Longest] = defaultdict(Longest)

    def asked(self, node: str, number: int) -> None:
        """A transaction was sent to a node; the same one again counts from the first time."""
        self._asked[node].setdefault(number, self._clock())

    def answered(self, node: str, number: int, lag: float) -> None:
        """A node has answered it; the oldest change of an application in it was so many seconds old."""
        now = self._clock()
        if (asked := self._asked[node].pop(number, None)) is not None:
            self._took[node].add(now - asked, now)
        self._lags[node].add(lag, now)

    def load(self) -> Load:
        """How the nodes do."""
        now = self._clock()
        lag, lag_node = max((self._lags[n].get(now), n) for n in self._names)
        apply, apply_node = max((self._time(n, now), n) for n in self._names)
        return Load(lag, lag_node, apply, apply_node)

    def _time(self, node: str, now: float) -> float:
        """The longest time for a transaction of lately, or of the one that has waited longest."""
        waiting = self._asked[node]
        return max(self._took[node].get(now), now - min(waiting.values()) if waiting else 0.0)
