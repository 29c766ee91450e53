"""Changes as they travel from a log to the resolver: one Arrow record batch per table.

Every batch holds the system columns below, then the table's data columns in schema order. A delete
fills the key columns only. The rows of one batch are in log order.

    _op       int8     one of `Op`
    _hi, _lo  uint64, uint32   the change's order in its log, see `position.order_of`
    _ts       int64    commit time by the node's own clock, microseconds since 1970
    _key      binary   the canonical key, see `key.encode_keys`
    _have     binary   bit per data column that holds a value (little-endian); null means all
    _changed  binary   bit per data column that differs from the before-image; null means unknown
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa

from replication.batch import rows_from_buffer, rows_to_buffer
from replication.marker import Marker
from replication.position import Position, order_of, split_order


class Op(IntEnum):
    """What happened to the row."""

    INSERT = 1
    UPDATE = 2
    DELETE = 3
    READ = 4
    """Not a change: a row as the initial copy read it. It never wins over a change."""


SYSTEM_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("_op", pa.int8()),
    ("_hi", pa.uint64()),
    ("_lo", pa.uint32()),
    ("_ts", pa.int64()),
    ("_key", pa.binary()),
    ("_have", pa.binary()),
    ("_changed", pa.binary()),
)


def change_schema(data: pa.Schema) -> pa.Schema:
    """The schema of a change batch whose table has the data columns `data`."""
    return pa.schema([pa.field(n, t) for n, t in SYSTEM_COLUMNS] + list(data))


@dataclass(frozen=True, slots=True)
class TableChanges:
    """Rows of one table, in log order; see the module's docstring for the columns."""

    table: str
    rows: pa.RecordBatch

    def __reduce__(self) -> tuple[Any, ...]:
        return _table_changes, (self.table, rows_to_buffer(self.rows))


def _table_changes(table: str, buffer: pa.Buffer) -> TableChanges:
    return TableChanges(table, rows_from_buffer(buffer))


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes that applications made, of whole transactions or of a part of one too large to hold.

    `end` is the position of the last change; resuming there re-reads nothing of this event. `trace` is the
    W3C Trace Context of whoever read it, if somebody follows its way; nothing here looks at it.
    """

    tables: Sequence[TableChanges]
    end: Position
    trace: str = ""

    @property
    def rows(self) -> int:
        """How many changes."""
        return sum(t.rows.num_rows for t in self.tables)

    @property
    def size(self) -> int:
        """How many bytes these rows take in memory."""
        return sum(t.rows.nbytes for t in self.tables)

    def after(self, order: int) -> Changes:
        """Only the changes after `order`: the same event if those are all."""
        tables = [t if _begins_after(t.rows, order) else _rest(t, order) for t in self.tables]
        return replace(self, tables=[t for t in tables if t.rows.num_rows])


def _begins_after(rows: pa.RecordBatch, order: int) -> bool:
    return order_of(rows.column("_hi")[0].as_py(), rows.column("_lo")[0].as_py()) > order


def _rest(changes: TableChanges, order: int) -> TableChanges:
    hi, lo = (changes.rows.column(name).to_numpy() for name in ("_hi", "_lo"))
    last_hi, last_lo = split_order(order)
    new = (hi > np.uint64(last_hi)) | ((hi == np.uint64(last_hi)) & (lo > np.uint32(last_lo)))
    return TableChanges(changes.table, changes.rows.filter(pa.array(new)))


@dataclass(frozen=True, slots=True)
class Echo:
    """One of our own apply transactions, seen in the node's log.

    `rows` is filled only while the source decodes echoes (replay, initial copy); the values are what
    the node made of them. `end` is the last position of the transaction where the engine knows it,
    else the marker's.
    """

    marker: Marker
    end: Position
    rows: Sequence[TableChanges] = ()


@dataclass(frozen=True, slots=True)
class Watermark:
    """A watermark of the initial copy, seen in the log; `ident` is what was written."""

    ident: str
    end: Position


@dataclass(frozen=True, slots=True)
class Progress:
    """Nothing for us up to `end`: an idle log, or other people's tables."""

    end: Position


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """The log says that a mapped table is no longer what it was: DDL, truncate, drop, rename.

    Attributes:
        table: canonical table name.
        what: `truncate`, `partition` (rows went with a part of the table), `alter`, `drop` or `rename`.
        detail: the statement, or a sentence for the operator.
        fits: every mapped column can still be read and written.
        ts: commit time by the node's own clock, microseconds since 1970; 0 where it is not known.
        resized: a column that travels keeps more or less of a value than before.
    """

    table: str
    what: str
    detail: str
    end: Position = field(default=Position(0))
    fits: bool = False
    ts: int = 0
    resized: bool = False


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A change whose row cannot be read as the table's canonical types; the key must be held.

    A node without declared columns (MongoDB) can hold any value anywhere, say text where the other nodes
    have an integer. The log goes on behind it.

    Attributes:
        table: canonical table name.
        key: the canonical key; empty if the key itself is what cannot be read.
        reason: which column, which value, and why.
        end: the change's own position.
        ts: commit time by the node's own clock, microseconds since 1970.
    """

    table: str
    key: bytes
    reason: str
    end: Position
    ts: int = 0


LogEvent = Changes | Echo | Watermark | Progress | SchemaChange | Unreadable
