"""The log: committed transactions, numbered from 1, oldest first, trimmed at the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from replication.marker import Marker
from replication.position import order_of


@dataclass(frozen=True, slots=True)
class Block:
    """What one transaction did to one table, in order.

    Attributes:
        table: the table's name in the database.
        op: one of `change.Op` per row.
        index: each row's index in the transaction.
        keys: canonical keys.
        rows: the rows as they were left, in the table's own columns; a delete has its key only.
        changed: for each row and column whether an update changed it, or None where that is unknown.
    """

    table: str
    op: npt.NDArray[np.int8]
    index: npt.NDArray[np.uint32]
    keys: pa.Array
    rows: pa.RecordBatch
    changed: npt.NDArray[np.bool_] | None = None

    def between(self, first: int, last: int) -> Block:
        """The changes with an index from `first` to `last`, nothing copied."""
        a, b = np.searchsorted(self.index, [first, last + 1])
        return Block(
            self.table,
            self.op[a:b],
            self.index[a:b],
            self.keys.slice(a, b - a),
            self.rows.slice(a, b - a),
            None if self.changed is None else self.changed[a:b],
        )


@dataclass(frozen=True, slots=True)
class StoredMarker:
    """A marker's row, stored in the same form as by every engine."""

    group: str
    shard: int
    shards: int
    epoch: int
    seq: int
    state: str
    versions: bytes

    @classmethod
    def of(cls, m: Marker) -> StoredMarker:
        """The row that `m` is stored as."""
        return cls(m.group, m.shard, m.shards, m.epoch, m.seq, m.state(), m.versions)

    def load(self) -> Marker:
        """The marker that was stored."""
        return Marker.load(
            self.group, self.shard, self.shards, self.epoch, self.seq, self.state, self.versions
        )


@dataclass(frozen=True, slots=True)
class Ddl:
    """A statement that changed a table itself; `what` as in `change.SchemaChange`."""

    table: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed transaction.

    Attributes:
        number: its place in the log.
        time: commit time, microseconds since 1970.
        last: the greatest index used in it.
        blocks: what it did, per table.
        marker: the marker that it wrote first, if it is an apply transaction; index 0.
        watermark: group and ident, if it wrote a watermark.
        ddl: if it changed a table.
    """

    number: int
    time: int
    last: int
    blocks: Sequence[Block] = ()
    marker: StoredMarker | None = None
    watermark: tuple[str, str] | None = None
    ddl: Ddl | None = None

    @property
    def end(self) -> int:
        """The order of its last change."""
        return order_of(self.number, self.last)


class TransactionLog:
    """Whoever uses it holds the database's lock. `limit` is how many transactions it keeps."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.trimmed = 0
        """The order of the last change that was discarded; 0 if none was."""
        self._entries: list[Entry] = []
        self._before = 0

    @property
    def end(self) -> int:
        """The order of the last change in the log."""
        return self._entries[-1].end if self._entries else self.trimmed

    @property
    def next_number(self) -> int:
        """The number of the next transaction."""
        return self._before + len(self._entries) + 1

    def append(self, entry: Entry) -> None:
        """Add a committed transaction, numbered `next_number`."""
        self._entries.append(entry)
        if self.limit is not None and len(self._entries) > self.limit:
            self._discard(len(self._entries) - self.limit)

    def trim(self, order: int) -> None:
        """Discard the transactions that lie wholly at or before `order`."""
        count = 0
        while count < len(self._entries) and self._entries[count].end <= order:
            count += 1
        self._discard(count)

    def after(self, order: int, rows: int) -> Sequence[Entry]:
        """The transactions with something after `order`: all with about `rows` rows together, or one."""
        found: list[Entry] = []
        at = max(0, (order >> 32) - self._before - 1)
        while at < len(self._entries) and rows > 0:
            entry = self._entries[at]
            if entry.end > order:
                found.append(entry)
                rows -= 1 + sum(b.rows.num_rows for b in entry.blocks)
            at += 1
        return found

    def _discard(self, count: int) -> None:
        if count:
            self.trimmed = self._entries[count - 1].end
            self._before += count
            del self._entries[:count]
