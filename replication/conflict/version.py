"""What a node holds for a key: a write, its hybrid time, and everything it had seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from replication.change import Op
from replication.marker import Vector

ALL = -1  # a column mask with every bit set


class FieldDot(NamedTuple):
    """The write that set a column, and what it had seen."""

    node: str
    order: int
    time: int
    absorbed: Vector


@dataclass(frozen=True, slots=True)
class Layer:
    """Some columns of one row: those in `mask` of row `index` of `rows`.

    `rows` is whatever the change batch was; the core never looks inside.
    """

    rows: Any
    index: int
    mask: int = ALL


@dataclass(slots=True, eq=False)
class Version:
    """One write of a key, or the merger of several.

    Attributes:
        node: where it was written; with `order` the *dot* that identifies it.
        order: its order in that node's log.
        time: hybrid time, microseconds.
        op: what it does to the row.
        absorbed: for each other node, the order up to which the writer had seen its log.
        layers: the row's columns, newest layer first; a column is read from the first layer that has it.
        changed: mask of the columns that the write changed, `ALL` when unknown.
        rank: the highest priority among it and the winners that it saw, for `source_priority`.
        learnt: known from an echo only; writes after it, done with everywhere, may not be read again.
        fields: who set each column since the key came on its way; kept for `merge_fields` only.
        stray: the filter of the node where it was written may exclude it; once all others have it, it is sent
            to that node, too.
    """

    node: str
    order: int
    time: int
    op: Op
    absorbed: Vector
    layers: tuple[Layer, ...] = ()
    changed: int = ALL
    rank: int = 0
    learnt: bool = False
    fields: dict[int, FieldDot] = field(default_factory=dict)
    stray: bool = False

    def saw(self, node: str) -> int:
        """The order in `node`'s log up to which this version accounts for every write."""
        seen = self.absorbed.get(node, 0)
        return max(seen, self.order) if node == self.node else seen

    @property
    def whole(self) -> bool:
        """Whether the newest layer alone is the whole row."""
        return bool(self.layers) and self.layers[0].mask == ALL

    @property
    def have(self) -> int:
        """Mask of the columns that the layers hold."""
        mask = 0
        for layer in self.layers:
            mask |= layer.mask
        return mask


def stack(top: tuple[Layer, ...], below: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Put layers on top of others, leaving out what can no longer be seen."""
    layers: list[Layer] = []
    covered = 0
    for layer in (*top, *below):
        if layer.mask & ~covered:
            layers.append(layer)
            covered |= layer.mask
    return tuple(layers)


def restrict(layers: tuple[Layer, ...], mask: int) -> tuple[Layer, ...]:
    """Only the columns in `mask` of each layer."""
    return tuple(Layer(la.rows, la.index, la.mask & mask) for la in layers if la.mask & mask)
