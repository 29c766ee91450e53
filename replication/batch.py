"""Batches to apply: one marker, and per table one Arrow record batch of rows to write.

System columns of an apply batch, before the table's data columns in schema order:

    _op      int8     UPDATE writes the row (insert or update), DELETE removes it (one with `_have` only the
                      very row that it names); READ comes from an initial copy, and inserts the row where
                      there is none
    _key     binary   canonical key; each key once per batch
    _have    binary   bit per data column to write (little-endian); null means all
    _origin  int16    index of the node where the version was written, in the sorted node names
    _hi, _lo uint64, uint32   the version's order in that node's log
    _hlc     int64    hybrid time, microseconds since 1970 and up
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import replication.arrow  # noqa: F401  first of all that is Arrow
from replication.marker import Marker

APPLY_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("_op", pa.int8()),
    ("_key", pa.binary()),
    ("_have", pa.binary()),
    ("_origin", pa.int16()),
    ("_hi", pa.uint64()),
    ("_lo", pa.uint32()),
    ("_hlc", pa.int64()),
)
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")
_COMPRESS_ROWS = 256  # below, making a compressor costs more than it saves
VERSION_COLUMNS = ("_op", "_key", "_origin", "_hi", "_lo", "_hlc")


def apply_schema(data: pa.Schema) -> pa.Schema:
    """The schema of an apply batch whose table has the data columns `data`."""
    return pa.schema([pa.field(n, t) for n, t in APPLY_COLUMNS] + list(data))


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows to write to one table; see the module's docstring for the columns."""

    table: str
    rows: pa.RecordBatch

    def __reduce__(self) -> tuple[Any, ...]:
        return _table_rows, (self.table, rows_to_buffer(self.rows))


def _table_rows(table: str, buffer: pa.Buffer) -> TableRows:
    return TableRows(table, rows_from_buffer(buffer))


@dataclass(frozen=True, slots=True)
class ApplyBatch:
    """One transaction for one node: the marker, then the rows of every table.

    `traces` are the W3C Trace Contexts of what it goes back to, if somebody follows its way.
    """

    node: str
    marker: Marker
    tables: Sequence[TableRows]
    traces: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows it writes or deletes."""
        return sum(t.rows.num_rows for t in self.tables)

    @property
    def size(self) -> int:
        """How many bytes these rows take in memory."""
        return sum(t.rows.nbytes for t in self.tables)


class Outcome(StrEnum):
    """What became of an apply batch."""

    COMMITTED = "committed"
    FENCED = "fenced"
    """The node refused it: a newer incarnation of the shard is at work, or it is older than the last one."""
    EARLY = "early"
    """The node refused it, because a batch before it is missing: send it again after that one."""
    ALREADY = "already"
    """The node held it: an earlier try had committed although its answer was lost."""


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A row that a node keeps refusing, set aside so that every other key flows on."""

    table: str
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    """The answer of an applier.

    Attributes:
        outcome: see `Outcome`.
        held: rows that were left out of the transaction because the node refuses them.
        missing: (table, key) of partial rows that the node does not hold, so nothing could be updated;
            they must be sent again in full.
        kept: (table, key) of rows of an initial copy that were left out, because the node holds a row there,
            and whether it differs from the copied one.
        conflicts: how many tries met another transaction before one went through.
        outside: (table, key) of rows that the node's filter excludes: it has lost them, or never had them.
    """

    outcome: Outcome
    held: Sequence[HeldRow] = ()
    missing: Sequence[tuple[str, bytes]] = field(default=())
    kept: Mapping[tuple[str, bytes], bool] = field(default_factory=dict)
    conflicts: int = 0
    outside: Sequence[tuple[str, bytes]] = field(default=())


def refusal(stored: tuple[int, int] | None, marker: Marker) -> Outcome:
    """Why a node refuses a batch.

    Args:
        stored: the node's `epoch` and `seq`; None when it has no marker for this shard.
        marker: the batch's marker, whose `after` is not `seq`.
    """
    if stored == (marker.epoch, marker.seq):
        return Outcome.ALREADY
    if stored is not None and stored[0] == marker.epoch and stored[1] < marker.after:
        return Outcome.EARLY
    return Outcome.FENCED


def rows_to_buffer(rows: pa.RecordBatch) -> pa.Buffer:
    """A record batch as an Arrow IPC stream: only the rows it shows, however large the buffers it shares."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return sink.getvalue()


def rows_from_buffer(buffer: pa.Buffer) -> pa.RecordBatch:
    """Undo `rows_to_buffer`, without a copy."""
    with pa.ipc.open_stream(buffer) as reader:
        return reader.read_next_batch()


def pack_versions(tables: Sequence[TableRows]) -> bytes:
    """Pack key, origin, order and hybrid time of every row, and the table as column `_table`.

    One Arrow IPC stream, compressed with zstd when that pays.
    """
    parts = []
    for t in tables:
        arrays = [t.rows.column(name) for name in VERSION_COLUMNS]
        name = pa.repeat(pa.scalar(t.table), t.rows.num_rows)
        parts.append(pa.RecordBatch.from_arrays([name, *arrays], ["_table", *VERSION_COLUMNS]))
    if not parts:
        return b""
    table = pa.Table.from_batches(parts).combine_chunks()
    sink = pa.BufferOutputStream()
    options = _COMPRESSED if table.num_rows >= _COMPRESS_ROWS else None
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def unpack_versions(packed: bytes) -> pa.Table:
    """Undo `pack_versions`: columns `_table` and `VERSION_COLUMNS`. Empty bytes give an empty table."""
    if not packed:
        types = dict(APPLY_COLUMNS)
        fields = [("_table", pa.utf8())] + [(n, types[n]) for n in VERSION_COLUMNS]
        return pa.schema(fields).empty_table()
    with pa.ipc.open_stream(packed) as reader:
        return reader.read_all()


def by_table(versions: pa.Table) -> dict[str, pa.RecordBatch]:
    """The rows of `unpack_versions` by table."""
    found = {}
    for name in versions.column("_table").unique().to_pylist():
        rows = versions.filter(pc.equal(versions.column("_table"), name)).combine_chunks()
        found[name] = rows.to_batches()[0]
    return found
