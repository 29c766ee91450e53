"""Positions: a transaction's number in the log, and a change's index inside it. Token: `number.index`."""

from __future__ import annotations

from replication.errors import LogLost
from replication.position import Position, order_of


def position_of(order: int) -> Position:
    """The position right after `order`."""
    hi, lo = order >> 32, order & 0xFFFFFFFF
    return Position(order, f"{hi}.{lo}")


def order_of_token(position: Position, node: str) -> int:
    """The order that a position's token resumes after; an empty token means the start of the log.

    Raises:
        LogLost: the token is not one of ours.
    """
    if not position.token:
        return 0
    hi, _, lo = position.token.partition(".")
    if not (hi.isdecimal() and lo.isdecimal()):
        message = f"{position.token!r} is not a position in a memory log"
        raise LogLost(message, node=node, hint="take a new snapshot of this node")
    return order_of(int(hi), int(lo))
