"""What a schedule is made from, and what it shows of a row."""

from __future__ import annotations

import random
from dataclasses import dataclass

from replication.conflict.exchange import EchoedRow
from tests.property.checked import CheckedShard
from tests.property.databases import Database


@dataclass(frozen=True)
class Shown(EchoedRow):
    """What an echo shows of a row, and for the mutations whether the node's filter excludes it."""

    outside: bool = False


@dataclass(frozen=True)
class Scenario:
    seed: int
    nodes: int
    policies: tuple[str, ...] = ("last_write_wins",)
    shard: type[CheckedShard] = CheckedShard
    database: type[Database] = Database
    pipeline: int = 2
    filtered: bool = False
    pauses: bool = False


JUMPS = 0.01
"""How often a node's clock is set, of 1."""


class Clocks:
    """The nodes' clocks, which differ, and which somebody sets now and then, forth or back."""

    def __init__(self, seed: int, skew: dict[str, int]) -> None:
        self._skew = skew
        self._luck = random.Random(f"clocks {seed}")

    def at(self, node: str, step: int) -> int:
        """What a node's clock says."""
        if self._luck.random() < JUMPS:
            self._skew[node] += self._luck.randint(-50, 50)
        return step + self._skew[node]
