"""A change of the number of shards with one rule of it switched off."""

from __future__ import annotations

from replication.conflict.shard import Shard
from replication.marker import Marker
from replication.position import Position
from replication.resharding import Drain
from tests.property.resharding import Resharding


class NeverSpoiled(Drain):
    """What was written while it was on its way is passed over."""

    def on_echo(self, node: str, marker: Marker) -> None:
        super().on_echo(node, marker)
        self.spoiled = ""


class NotFrozen(Drain):
    """What is sent meanwhile says that the logs need not be read again from where they had to be."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard)
        shard.progress._frozen = None


class AnsweredIsEnough(Drain):
    """It rests once all nodes have answered, whatever their logs have shown."""

    @property
    def at_rest(self) -> bool:
        shard = self._shard
        waits = any(shard.unacked[n] or shard.waiting(n) for n in shard.nodes)
        return shard.progress.all_audited and not shard.unrecorded and not waits and not self.spoiled


class Careless(Resharding):
    drain_kind = NeverSpoiled
    first = 140


class Released(Resharding):
    drain_kind = NotFrozen
    first = 1187


class Hasty(Resharding):
    drain_kind = AnsweredIsEnough


class Forward(Resharding):
    """The new shards begin where the old ones had read on to, for the sake of echoes."""

    @property
    def places(self) -> dict[str, Position]:
        return {n: Position(order) for n, order in self.read.items()}


MUTATIONS = [Careless, Released, Hasty, Forward]
