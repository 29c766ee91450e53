"""A place in a PostgreSQL log: which LSN a token holds, and how it compares.

The order of a change is (LSN of its transaction's commit record, index in the transaction). The token is
the LSN to start streaming from, in the server's own notation. The server decides by the *start* of a
commit record: from LSN x it sends the transactions whose commit record starts at or after x. Hence

- after a whole transaction, the token is the *end* of its commit record: it is not sent again;
- inside a transaction, the token is the *start* of its commit record: it is sent again from its first
  change, and the reader drops changes up to the position's order.

The same LSN is what the slot may be told as flushed: it then keeps exactly what a resume needs.
"""

from __future__ import annotations

from replication.position import Position, order_of, split_order


def format_lsn(lsn: int) -> str:
    """The server's notation, e.g. `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """Undo `format_lsn`."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def between(lsn: int) -> Position:
    """The position between transactions: everything that committed before `lsn` is behind it."""
    return Position(order_of(lsn, 0), format_lsn(lsn))


def start_lsn(position: Position) -> int:
    """Where to start streaming to resume after `position`; 0 lets the slot decide."""
    if position.token:
        return parse_lsn(position.token)
    return split_order(position.order)[0]
