"""How a shard begins: from the markers of every node, and from what the audit log says was set aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replication.audit.holds import refused_rows
from replication.audit.stored import DataKeys
from replication.audit.undecided import undecided
from replication.conflict.exchange import ShardConfig
from replication.conflict.policy import load_policies
from replication.conflict.shard import Shard
from replication.engine import Engine
from replication.filter import row_filters
from replication.marker import Marker
from replication.schema import Table
from replication.sharding import shards_of


@dataclass(frozen=True, slots=True)
class Aside:
    """What was set aside before an incarnation begins, by table and key.

    Attributes:
        undecided: what awaits a person's decision.
        refused: rows that nodes have refused at some time, and those nodes.
    """

    undecided: Sequence[tuple[str, bytes]] = ()
    refused: Mapping[tuple[str, bytes], Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, keys: DataKeys | None) -> Aside:
        """What the audit log says was set aside."""
        waits = [(c["table"], c["key"]) for c in undecided(path, keys).values()]
        return cls(waits, refused_rows(path, keys))


NOTHING_ASIDE = Aside()


def make_shard(
    group: str,
    number: int,
    shards: int,
    engines: Mapping[str, Engine],
    tables: Sequence[Table],
    markers: Mapping[str, Marker],
    aside: Aside = NOTHING_ASIDE,
) -> Shard:
    """A shard's state machine, from the markers of every node and what was set aside."""
    filters = row_filters(tables, {n: e.node.engine for n, e in engines.items()})
    config = ShardConfig(
        group,
        number,
        shards,
        {n: e.node.priority for n, e in engines.items()},
        {t.name: load_policies(t.mapping.conflict) for t in tables},
        strays={place: rows.strays for place, rows in filters.items()},
    )
    held = of_shard(aside.undecided, number, shards)
    refused = {place: aside.refused[place] for place in of_shard(aside.refused, number, shards)}
    return Shard(config, max(m.epoch for m in markers.values()), markers, held, refused)


def of_shard(places: Iterable[tuple[str, bytes]], number: int, shards: int) -> list[tuple[str, bytes]]:
    """Those of some keys that one shard owns."""
    found = list(places)
    owners = shards_of([key for _, key in found], len(found), shards)
    return [place for place, owner in zip(found, owners, strict=True) if owner == number]
