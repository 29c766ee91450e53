"""The product's shard, with what every version accounts for beside it."""

from __future__ import annotations

from typing import Any

from replication.change import Op
from replication.conflict.decide import Decision
from replication.conflict.exchange import Outgoing
from replication.conflict.rows import Arrival, KeyState, Run
from replication.conflict.shard import Shard
from replication.conflict.version import Version
from tests.property.databases import FIELDS, TABLE, Cell, Row, Rows, Write


class CheckedShard(Shard):
    """The product's shard, with ground truth carried along for the checks.

    `pauses` stands for paused tables: keys that share a run with one of them are of the same table.
    """

    pauses: frozenset[bytes] = frozenset()
    covers: dict[int, tuple[Version, tuple[frozenset[int], ...]]]
    truth: dict[tuple[str, int, bytes], Write]

    def pause_keys(self, keys: frozenset[bytes]) -> None:
        self.pauses = keys
        self._sort()

    def _parks(self, item: Run | KeyState) -> bool:
        keys = {item.key} if isinstance(item, KeyState) else set(item.rows.keys)
        return not self.pauses.isdisjoint(keys)

    def covered(self, key: bytes, version: Version) -> tuple[frozenset[int], ...]:
        if id(version) in self.covers:
            return self.covers[id(version)][1]
        write = self.truth[version.node, version.order, key]
        return tuple(s | {write.ident} if write.changed >> c & 1 else s for c, s in enumerate(write.saw))

    def learn(self, version: Version, *parts: tuple[frozenset[int], ...]) -> None:
        both = tuple(frozenset().union(*sets) for sets in zip(*parts, strict=True))
        self.covers[id(version)] = (version, both)

    def _decide(self, state: KeyState, write: Version) -> Decision:
        before = self.covered(state.key, state.version), self.covered(state.key, write)
        decision = super()._decide(state, write)
        if decision.held:
            return decision
        self.learn(decision.version, *before)
        return decision

    def _write(self, node: str, rows: Rows, index: int, arrival: Arrival) -> None:
        state = self.keys[TABLE].get(rows.keys[index])
        before = state.time.get(node) if isinstance(state, KeyState) else None
        last = state.last.get(node) if isinstance(state, KeyState) else None
        super()._write(node, rows, index, arrival)
        if before is not None and state.last.get(node, last) != last:
            assert state.time[node] > before, "hybrid time went backwards"

    def form_batch(self, *args: Any, **kwargs: Any) -> Outgoing | None:
        outgoing = super().form_batch(*args, **kwargs)
        for _, key, version in outgoing.versions if outgoing else ():
            if version.op is Op.DELETE and version.layers:  # a copy of the decided version
                self.learn(version, self.covered(key, self.keys[TABLE][key].version))
        return outgoing

    def value(self, key: bytes, version: Version) -> Row:
        """What the version's row holds: each column from the first layer that has it."""
        covers = self.covered(key, version)
        if version.op is Op.DELETE:
            write = self.truth[version.node, version.order, key]
            return tuple(Cell(write.ident, c) for c in covers)
        cells = []
        for c in range(FIELDS):
            layer = next((la for la in version.layers if la.mask >> c & 1), None)
            cells.append(Cell(layer and layer.rows[layer.index][c].ident, covers[c]))
        return tuple(cells)
