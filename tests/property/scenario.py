"""What a schedule is made from, and what it shows of a row."""

from __future__ import annotations

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
