"""What an operator sees of a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What an operator sees of a shard.

    Attributes:
        shard: its number.
        replaying: it still rebuilds what its predecessor knew.
        backlog: rows on their way to each node.
        changes, applied, conflicts, held: how many since this incarnation started.
        lags: nodes that are away or catch up, and that nobody waits for.
        undecided: keys on hold until somebody resolves their conflict.
        paused: nodes that an operator has paused, and since when.
        paused_tables: tables that an operator has paused, and since when.
        held_back: for each node, by paused table, rows that wait for the table to be resumed.
        most: so many rows wait for one node, and then reading the logs waits, for all tables.
    """

    shard: int
    replaying: bool
    backlog: Mapping[str, int]
    changes: int
    applied: int
    conflicts: int
    held: int = 0
    lags: Sequence[str] = ()
    undecided: int = 0
    paused: Mapping[str, str] = field(default_factory=dict)
    paused_tables: Mapping[str, str] = field(default_factory=dict)
    held_back: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    most: int = 0
