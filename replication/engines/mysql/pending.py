"""What was read and not passed on yet: rows as bytes, what stands between them, and the positions of all of
it."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from replication.change import Changes, Echo, LogEvent, TableChanges, Unreadable
from replication.engines.mysql.position import Gtids, Token
from replication.engines.mysql.rows import Chunk, Decoded, Refused, Transaction, decode_rows
from replication.marker import Marker
from replication.position import Position, order_of, split_order


@dataclass(frozen=True, slots=True)
class Cut:
    """Something that stands between rows.

    Attributes:
        first: twice the number of the first thing in it.
        stop: twice the number after the last one.
        lo: lower part of its order.
        transaction: that it is part of.
        make: its events, from the changes in it and its position.
    """

    first: int
    stop: int
    lo: int
    transaction: Transaction
    make: Callable[[Sequence[TableChanges], Position], list[LogEvent]]


class Pending:
    """See the module's docstring.

    Args:
        start: where reading began.
        resume: changes up to this order were delivered before, and are dropped.
    """

    def __init__(self, start: Token, resume: int) -> None:
        self.count = 0
        """How many things have got a number."""
        self.size = 0
        """Bytes of rows that wait."""
        self._resume = resume
        self._drained = 0
        self._chunks: list[Chunk] = []
        self._cuts: list[Cut] = []
        self._server, self._shift = start.server, start.shift
        self._gtids = Gtids(start.gtids) if start.gtids is not None else None
        self._ended: deque[Transaction] = deque()

    @property
    def waiting(self) -> int:
        """How many things wait."""
        return self.count - self._drained

    def add(self, chunk: Chunk) -> None:
        """Rows, which get the next numbers."""
        self._chunks.append(chunk)
        self.size += len(chunk.data)
        self._number(chunk.transaction, chunk.rows)

    def cut(self, transaction: Transaction, lo: int, make: Callable[[Position], LogEvent]) -> None:
        """An event between rows, which gets the next number."""
        if order_of(transaction.hi, lo) > self._resume:
            first = 2 * self.count
            self._cuts.append(Cut(first, first + 2, lo, transaction, lambda _, end: [make(end)]))
        self._number(transaction, 1)

    def mark(self, transaction: Transaction, lo: int, marker: Marker) -> None:
        """A marker of ours, which gets the next number; the echo comes with the end of the transaction."""
        if transaction.markers is None:
            transaction.markers, transaction.marked = [], lo
        transaction.markers.append(marker)
        self._number(transaction, 1)

    def end(self, transaction: Transaction, lo: int) -> None:
        """The transaction is complete."""
        if (markers := transaction.markers) is not None:
            # Resumed after its marker: it was delivered before, and its rows are no application's either.
            fresh = markers if order_of(transaction.hi, transaction.marked) > self._resume else []

            def echoes(tables: Sequence[TableChanges], end: Position) -> list[LogEvent]:
                return [Echo(marker, end, tuple(tables)) for marker in fresh]

            stop = 2 * (transaction.last + 1)
            self._cuts.append(Cut(2 * transaction.first, stop, lo, transaction, echoes))
        if self._gtids is not None and transaction.gtid is not None:
            self._ended.append(transaction)

    def discard(self, transaction: Transaction) -> None:
        """Forget what waits of the last transaction."""
        self._chunks = [c for c in self._chunks if c.transaction is not transaction]
        self._cuts = [c for c in self._cuts if c.transaction is not transaction]

    def drain(self, stop: int) -> list[LogEvent]:
        """The events of everything with a number below `stop`.

        Raises:
            Malformed: the row images hold no values of their columns.
        """
        chunks = [c for c in self._chunks if c.first < stop]
        cuts = [c for c in self._cuts if c.first < 2 * stop]
        self._chunks, self._cuts = self._chunks[len(chunks) :], self._cuts[len(cuts) :]
        self.size -= sum(len(c.data) for c in chunks)
        places = [c.first for c in chunks]
        decoded = self._decode(chunks)
        cuts += self._unreadable(decoded, chunks, places)
        events: list[LogEvent] = []
        at = 2 * self._drained
        for cut in sorted(cuts, key=lambda c: c.first):
            self._changes(decoded, chunks, places, at, cut.first, events)
            tx = cut.transaction
            whole = bool(tx.end) and cut.stop == 2 * (tx.last + 1)
            position = Position(order_of(tx.hi, cut.lo), self.token(tx, whole=whole))
            events += cut.make(_slices(decoded, cut.first, cut.stop)[0], position)
            at = cut.stop
        self._changes(decoded, chunks, places, at, 2 * stop, events)
        self._drained = max(stop, self._drained)
        return events

    def token(self, transaction: Transaction, *, whole: bool) -> str:
        """The token of a place in a transaction, or behind it; only in the order of the log."""
        end = transaction.hi + whole
        while self._ended and self._ended[0].hi < end:
            self._pass()
        return self._token(transaction.file, transaction.end if whole else transaction.offset)

    def token_at(self, file: str, offset: int) -> str:
        """The token of a place behind everything that was read."""
        while self._ended:
            self._pass()
        return self._token(file, offset)

    def _number(self, transaction: Transaction, count: int) -> None:
        self.count += count
        transaction.last = self.count - 1

    def _pass(self) -> None:
        gtid = self._ended.popleft().gtid
        if self._gtids is not None and gtid is not None:
            self._gtids.add(*gtid)

    def _token(self, file: str, offset: int) -> str:
        gtids = None if self._gtids is None else str(self._gtids)
        return Token(file, offset, self._server, gtids, shift=self._shift).pack()

    def _decode(self, chunks: Sequence[Chunk]) -> list[Decoded]:
        groups: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            groups.setdefault(id(chunk.layout), []).append(chunk)
        return [self._without_delivered(decode_rows(group)) for group in groups.values()]

    def _without_delivered(self, part: Decoded) -> Decoded:
        """Resumed between the two rows of a key change: its first row was delivered before."""
        hi, lo = split_order(self._resume)
        if not part.rows.num_rows or part.rows.column("_hi")[0].as_py() > hi:
            return part
        in_it = part.rows.column("_hi").to_numpy() == hi
        fresh = ~(in_it & (part.rows.column("_lo").to_numpy() <= lo))
        return Decoded(part.table, part.rows.filter(pa.array(fresh)), part.number[fresh], part.refused)

    def _unreadable(
        self, decoded: Sequence[Decoded], chunks: Sequence[Chunk], places: Sequence[int]
    ) -> list[Cut]:
        """Rows without a canonical form; in an echo, which we wrote ourselves, they are left out."""
        cuts = []
        for part in decoded:
            for row in part.refused:
                tx = chunks[bisect_right(places, row.number) - 1].transaction
                if tx.markers is not None:
                    continue

                def make(
                    _: Sequence[TableChanges],
                    end: Position,
                    row: Refused = row,
                    table: str = part.table,
                    ts: int = tx.ts,
                ) -> list[LogEvent]:
                    return [Unreadable(table, row.key, row.reason, end, ts)]

                cuts.append(Cut(2 * row.number + 1, 2 * row.number + 2, row.lo, tx, make))
        return cuts

    def _changes(
        self,
        decoded: Sequence[Decoded],
        chunks: Sequence[Chunk],
        places: Sequence[int],
        first: int,
        stop: int,
        events: list[LogEvent],
    ) -> None:
        tables, last = _slices(decoded, first, stop)
        if not tables:
            return
        number, whole_row = divmod(last, 2)
        chunk = chunks[bisect_right(places, number) - 1]
        tx = chunk.transaction
        lo = chunk.lo + 2 * (number - chunk.first) + whole_row
        whole = bool(tx.end) and number == tx.last and whole_row == 1
        events.append(Changes(tables, Position(order_of(tx.hi, lo), self.token(tx, whole=whole))))


def _slices(decoded: Sequence[Decoded], first: int, stop: int) -> tuple[list[TableChanges], int]:
    """The rows from one place up to another, and the last place that has one."""
    tables, last = [], -1
    for part in decoded:
        low, high = np.searchsorted(part.number, [first, stop]).tolist()
        if high > low:
            tables.append(TableChanges(part.table, part.rows.slice(low, high - low)))
            last = max(last, int(part.number[high - 1]))
    return tables, last
