"""Messages as columns by message number: whose transaction, which index, which order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from replication.change import TableChanges
from replication.engines.postgres.decode import (
    BEGIN,
    COMMIT,
    DELETE,
    EPOCH_MICROS,
    INSERT,
    TRUNCATE,
    UPDATE,
    Bools,
    Buffer,
    Ints,
)
from replication.engines.postgres.position import format_lsn
from replication.engines.postgres.rows import Decoded, Orders
from replication.marker import Marker
from replication.position import Position, order_of


@dataclass(slots=True)
class Open:
    """A transaction that the last messages left unfinished.

    Attributes:
        commit: where its commit record starts.
        ts: its commit time, microseconds since 1970.
        index: of its last row message so far.
        markers: ours that it has written, if it is an echo.
        rows: of an echo that is decoded, so far.
        decode: whether it is.
    """

    commit: int = 0
    ts: int = 0
    index: int = 0
    markers: list[Marker] | None = None
    rows: list[TableChanges] = field(default_factory=list)
    decode: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Messages between two changes of layout.

    Attributes:
        start: number of the first one in the buffer.
        kind, tx, oid, is_row, orders: by message; `tx` counts from the transaction left open before, as 0.
        ends: by transaction, where its commit record ends; 0 if that is not among the messages.
        last: by transaction, its last row message; -1 if there is none.
    """

    start: int
    kind: npt.NDArray[np.uint8]
    tx: Ints
    oid: Ints
    is_row: Bools
    orders: Orders
    ends: npt.NDArray[np.uint64]
    last: Ints

    @classmethod
    def number(cls, buffer: Buffer, start: int, stop: int, opened: Open) -> Self:
        """Give the messages from `start` to `stop` their transaction, index and order.

        Args:
            buffer: the bytes.
            start: number of the first message.
            stop: number after the last one.
            opened: the transaction that was left unfinished before them.
        """
        at = buffer.payloads[start:stop]
        kind = buffer.bytes[at]
        begin, commit = np.flatnonzero(kind == BEGIN), np.flatnonzero(kind == COMMIT)
        tx = np.cumsum(kind == BEGIN)
        commits = np.concatenate([[np.uint64(opened.commit)], buffer.u64(at[begin] + 1)])
        times = np.concatenate([[opened.ts], buffer.i64(at[begin] + 9) + EPOCH_MICROS])
        is_row = (kind == INSERT) | (kind == UPDATE) | (kind == DELETE) | (kind == TRUNCATE)
        count = np.cumsum(is_row)
        base = np.concatenate([[-opened.index], count[begin]])
        index = count - base[tx]
        ends = np.zeros(len(begin) + 1, np.uint64)
        ends[tx[commit]] = buffer.u64(at[commit] + 10)
        last = np.full(len(begin) + 1, -1)
        rows = np.flatnonzero(is_row)
        np.maximum.at(last, tx[rows], rows)
        orders = Orders(commits[tx], index, times[tx])
        return cls(start, kind, tx, buffer.u32(at + 1), is_row, orders, ends, last)

    def after(self, order: int) -> Bools:
        """Which messages have a row after an order."""
        hi, lo = np.uint64(order >> 32), order & 0xFFFFFFFF
        inside = (self.orders.hi == hi) & (self.orders.index * 2 + 1 > lo)
        return np.asarray((self.orders.hi > hi) | inside)

    def bounds(self, tx: int) -> tuple[int, int]:
        """The first message of a transaction, and the one after its last."""
        return int(np.searchsorted(self.tx, tx)), int(np.searchsorted(self.tx, tx, "right"))

    def position(self, i: int) -> Position:
        """The position of one row message."""
        tx, hi = int(self.tx[i]), int(self.orders.hi[i])
        end = int(self.ends[tx])
        token = end if end and self.last[tx] == i else hi
        return Position(order_of(hi, int(self.orders.index[i]) * 2 + 1), format_lsn(token))


def shifted(column: npt.NDArray[Any], by: int) -> npt.NDArray[Any]:
    """The column numbered as the buffer's messages are."""
    return column if not by else np.concatenate([np.zeros(by, column.dtype), column])


def slices(decoded: list[Decoded], first: int, stop: int) -> tuple[list[TableChanges], int]:
    """The rows of the messages from `first` to `stop`, and the last of these messages that has one."""
    tables, last = [], -1
    for part in decoded:
        low, high = np.searchsorted(part.message, [first, stop]).tolist()
        if high > low:
            tables.append(TableChanges(part.table, part.rows.slice(low, high - low)))
            last = max(last, int(part.message[high - 1]))
    return tables, last
