"""Places in a node's log.

A position means: *resume after the last change that is durable everywhere*. Its order compares
within one node's log; its token is the engine's own, and is enough to resume reading right after
that order.
"""

from __future__ import annotations

from dataclasses import dataclass

LO_BITS = 32


def order_of(hi: int, lo: int) -> int:
    """Join a transaction's place in the log (`hi`, 64 bits) and the index inside it (`lo`, 32 bits)."""
    return (hi << LO_BITS) | lo


def split_order(order: int) -> tuple[int, int]:
    """Undo `order_of`."""
    return order >> LO_BITS, order & ((1 << LO_BITS) - 1)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in one node's log.

    Attributes:
        order: comparable within the log; see `order_of`.
        token: what the engine needs to resume after `order`; opaque outside it.
    """

    order: int
    token: str = ""


START = Position(0)
