"""Rules of keys on hold switched off one at a time. The schedules must notice every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replication.conflict.rows import Arrival, KeyState
from replication.conflict.version import Version
from tests.property.checked import CheckedShard
from tests.property.databases import Rows
from tests.property.mutations import Mutation, mutation


class ReplacedStaysReplaced(CheckedShard):
    """What a batch on its way has replaced at the node that wrote it is not sent back."""

    def _give_back(self, *args: Any) -> None:
        """Leave it."""


class SentThoughHeld(CheckedShard):
    """What waited when a key went on hold is sent."""

    def _set_aside(self, state: KeyState, write: Version) -> None:
        waited = [n for n in self.nodes if state in self.outbox[n]]
        super()._set_aside(state, write)
        for node in waited:
            state.own[node] = next(v for v in (state.version, write) if v.node != node)
            self._want(node, state, wanted=True)


class HoldsDieWithTheirShard(CheckedShard):
    """A restarted shard does not know what is on hold."""

    def __init__(self, config: Any, epoch: int, markers: Any, held: Any = ()) -> None:
        super().__init__(config, epoch, markers)


class LaterWritesTravel(CheckedShard):
    """What is written to a key on hold is sent like any other."""

    def _write(self, node: str, rows: Rows, index: int, arrival: Arrival) -> None:
        state = self.keys["t"].get(rows.keys[index])
        if isinstance(state, KeyState) and state in self.resting:
            self.resting.discard(state)
            del self.keys["t"][state.key]
        super()._write(node, rows, index, arrival)


class ForgottenWhenReplayed(CheckedShard):
    """A hold is released before its conflict was read again."""

    def settle(self, table: str, key: bytes, node: str, read: Mapping[str, int]) -> bool:
        return super().settle(table, key, node, {})


class SettledAtOnce(CheckedShard):
    """That a key was settled is on record while the logs can still be read again from before."""

    def settled_up_to(self, table: str, key: bytes) -> dict[str, int] | None:
        until = super().settled_up_to(table, key)
        return until and dict.fromkeys(until, 0)


class HeldByReplayAlone(CheckedShard):
    """What only replay put on hold stays there, whatever a predecessor had decided."""

    def _was_decided(self, *args: Any) -> bool:
        return False


HOLD_MUTATIONS: list[Mutation] = [
    mutation(ReplacedStaysReplaced, "manual"),
    mutation(SentThoughHeld, "manual"),
    mutation(HoldsDieWithTheirShard, "manual"),
    mutation(LaterWritesTravel, "manual"),
    mutation(ForgottenWhenReplayed, "manual", first=1100),
    mutation(SettledAtOnce, "manual", first=3400),
    mutation(HeldByReplayAlone, "manual", first=16100),
]
