"""What a shard is made of, what it learns from an echo, and what it sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from replication.conflict.policy import Policies
from replication.conflict.rows import ChangeRows, Run
from replication.conflict.version import Version
from replication.marker import Marker


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """What a shard is.

    Attributes:
        nodes: node name to priority.
        policies: canonical table name to its policies.
        pipeline: batches on their way to one node at a time. What comes while one is applied shares the next
            one's cost; a batch that only waited for another to be applied would be smaller, and no earlier.
        run_rows: the most rows of a run; it goes in one batch, so this bounds how small a batch may be.
        strays: for a node and a table with a filter there, which rows of a change batch it may exclude.
    """

    group: str
    shard: int
    shards: int
    nodes: Mapping[str, int]
    policies: Mapping[str, Policies]
    pipeline: int = 1
    run_rows: int = 2_000
    strays: Mapping[tuple[str, str], Callable[[ChangeRows], frozenset[int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EchoedRow:
    """One row of an echo, decoded while replaying: the version that the batch decided on."""

    table: str
    key: bytes
    version: Version


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A batch before it has become Arrow: whole runs, and single versions."""

    node: str
    marker: Marker
    runs: Sequence[Run] = ()
    excluded: Sequence[frozenset[int]] = ()
    versions: Sequence[tuple[str, bytes, Version]] = field(default=())
