"""The statements that write rows: their values are literals, built for whole columns.

    whole rows     one INSERT … ON DUPLICATE KEY UPDATE for many rows
    copied rows    one INSERT for many rows, which fails if one is there
    partial rows   one UPDATE for each, whose count of found rows tells which are missing
    deleted rows   one DELETE for many keys

A row that is there already may be another one than the key says, where something else than the key is unique
too: such a statement sets the key to null, which the server refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.engines.mysql.columns import Bound
from replication.engines.mysql.literals import literals, rows_of_literals
from replication.engines.mysql.types import local_type
from replication.narrowing import CLOCKS, MICROSECONDS, coarser
from replication.types import CanonicalType, Kind

NEW = "sync_worker_new"
ROWS_AT_ONCE = 2_000
"""So many rows of one statement at most."""
_BYTES_AT_ONCE = 1 << 20
_BINARY = pa.binary()
_BYTES = CanonicalType(Kind.BYTES)
_LONGBLOB = local_type("longblob", "longblob")
_DECIMAL128_DIGITS = 34
_DECIMAL128_SURE = 10_000
"""Below it there are at most 4 digits before the point, and never more than 30 behind it."""


@dataclass(frozen=True, slots=True)
class Work:
    """Rows of one table that one statement writes; of partial rows one statement each.

    Attributes:
        table: the canonical table name.
        key: the canonical keys, binary.
        head: the statement up to its rows.
        rows: the SQL of each row; with a comma at the end, but for partial rows.
        tail: the rest of the statement.
        partial: the rows update what exists.
        copied: of an initial copy the rows themselves, to look for one that is there.
    """

    table: str
    key: pa.Array
    head: bytes
    rows: pa.Array
    tail: bytes
    partial: bool = False
    copied: pa.RecordBatch | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[bytes]:
        """The canonical keys."""
        keys: list[bytes] = self.key.to_pylist()
        return keys

    @property
    def size(self) -> int:
        """Bytes of its statements, about."""
        offsets = self._offsets
        return int(offsets[-1] - offsets[0]) + len(self.head) + len(self.tail)

    def slice(self, start: int, count: int) -> Work:
        """Some of the rows."""
        copied = None if self.copied is None else self.copied.slice(start, count)
        key, rows = self.key.slice(start, count), self.rows.slice(start, count)
        return replace(self, key=key, rows=rows, copied=copied)

    def filter(self, keep: pa.Array) -> Work:
        """The rows where `keep` is true."""
        copied = None if self.copied is None else self.copied.filter(keep)
        return replace(self, key=self.key.filter(keep), rows=self.rows.filter(keep), copied=copied)

    def statements(self) -> list[bytes]:
        """What to execute, in order."""
        if self.partial:
            return [self.head + row + self.tail for row in self.rows.to_pylist()]
        offsets = self._offsets
        data = memoryview(self.rows.buffers()[2])[int(offsets[0]) : int(offsets[-1]) - 1]
        return [b"".join((self.head, data, self.tail))]

    def pieces(self) -> Iterator[Work]:
        """Itself in parts that are no larger than one statement should be."""
        offsets = self._offsets
        start = 0
        while start < len(self):
            end = int(np.searchsorted(offsets, offsets[start] + _BYTES_AT_ONCE, "right")) - 1
            end = min(max(end, start + 1), start + ROWS_AT_ONCE, len(self))
            yield self.slice(start, end - start)
            start = end

    @property
    def _offsets(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        at = self.rows.offset
        return np.frombuffer(self.rows.buffers()[1], np.int32)[at : at + len(self.rows) + 1]


@dataclass(frozen=True, slots=True)
class Statements:
    """Writes to one table.

    Attributes:
        bound: the table on this node.
        sources: engines of the other nodes, which decide the narrowings to expect.
    """

    bound: Bound
    sources: frozenset[str]

    @property
    def writable(self) -> tuple[int, ...]:
        """Indexes of the columns that can be written: all but generated ones."""
        return tuple(i for i, c in enumerate(self.bound.columns) if not c.generated)

    def upsert(self, rows: pa.RecordBatch) -> Work:
        """Insert whole rows, or update those that exist."""
        b = self.bound
        plain = [i for i in self.writable if i not in b.key]
        change = [f"{b.name(i)} = {self._kept(i, f'{NEW}.{b.name(i)}')}" for i in plain]
        same = f"{b.sql}.{b.name(b.key[0])}"
        if b.inexact or not b.only_key:
            equal = " AND ".join(self._same(i) for i in b.key)
            change.append(f"{b.name(b.key[0])} = IF({equal}, {same}, NULL)")
        elif not change:
            change.append(f"{b.name(b.key[0])} = {same}")
        return self._insert(rows, f" AS {NEW} ON DUPLICATE KEY UPDATE {', '.join(change)}")

    def insert(self, rows: pa.RecordBatch) -> Work:
        """Insert whole rows; it fails if one is there already."""
        return replace(self._insert(rows, ""), copied=rows)

    def find(self, rows: pa.RecordBatch) -> bytes:
        """Find rows by key, whatever else is in them."""
        columns, keys = self._keys(rows)
        head = f"SELECT 1 FROM {self.bound.sql} WHERE ({', '.join(columns)}) IN ("
        (statement,) = self._work(rows, head, keys, ")").statements()
        return statement

    def update(self, have: Sequence[int], rows: pa.RecordBatch) -> Work:
        """Update the columns `have` of rows that exist."""
        b = self.bound
        change = [i for i in have if i in self.writable and i not in b.key]
        parts: list[pa.Array | pa.Scalar] = []
        for i in change:
            kept = self._kept(i, "\0").split("\0")
            value = self._literals(rows, i)
            parts.append(_text(f"{', ' if parts else ''}{b.name(i)} = "))
            for n, text in enumerate(kept):
                parts += [_text(text), value] if n < len(kept) - 1 else [_text(text)]
        if not change:
            parts.append(_text(f"{b.name(b.key[0])} = {b.name(b.key[0])}"))
        for n, i in enumerate(b.key):
            parts += [_text(f"{' AND ' if n else ' WHERE '}{b.name(i)} = "), self._key_literals(rows, i)]
        for i in b.inexact:
            parts += [_text(f" AND {b.bytewise(i)} = "), self._exact_literals(rows, i)]
        values = pc.binary_join_element_wise(*parts, _text(""))
        return replace(self._work(rows, f"UPDATE {b.sql} SET ", values, ""), partial=True)

    def delete(self, rows: pa.RecordBatch) -> Work:
        """Delete by key."""
        columns, keys = self._keys(rows)
        head = f"DELETE FROM {self.bound.sql} WHERE ({', '.join(columns)}) IN ("
        return self._work(rows, head, keys, ")")

    def _keys(self, rows: pa.RecordBatch) -> tuple[list[str], pa.Array]:
        """The columns that tell rows apart exactly, and their values of each row."""
        b = self.bound
        columns = b.names(b.key) + [b.bytewise(i) for i in b.inexact]
        values = [self._key_literals(rows, i) for i in b.key]
        values += [self._exact_literals(rows, i) for i in b.inexact]
        return columns, _listed(rows_of_literals(values))

    def _insert(self, rows: pa.RecordBatch, tail: str) -> Work:
        columns = self.writable
        head = f"INSERT INTO {self.bound.sql} ({', '.join(self.bound.names(columns))}) VALUES "
        values = rows_of_literals([self._literals(rows, i) for i in columns])
        return self._work(rows, head, _listed(values), tail)

    def _work(self, rows: pa.RecordBatch, head: str, values: pa.Array, tail: str) -> Work:
        return Work(self.bound.table.name, rows.column("_key"), head.encode(), values, tail.encode())

    def _literals(self, rows: pa.RecordBatch, index: int) -> pa.Array:
        column = self.bound.table.schema.columns[index]
        return literals(rows.column(column.name), column.type, self.bound.columns[index].type)

    def _key_literals(self, rows: pa.RecordBatch, index: int) -> pa.Array:
        return key_literals(self.bound, index, rows.column(self.bound.table.schema.columns[index].name))

    def _exact_literals(self, rows: pa.RecordBatch, index: int) -> pa.Array:
        return exact_literals(rows.column(self.bound.table.schema.columns[index].name))

    def _same(self, index: int) -> str:
        """Whether a key column is the same in the stored row and the new one."""
        name = self.bound.name(index)
        bytewise = self.bound.bytewise(index)
        old, new = (bytewise.replace(name, f"{table}.{name}") for table in (self.bound.sql, NEW))
        return f"{old} = {new}"

    def _kept(self, index: int, new: str) -> str:
        """The new value, or the stored one where the new one is only its narrowed form."""
        old, local = f"{self.bound.sql}.{self.bound.name(index)}", self.bound.columns[index].type
        column = self.bound.table.schema.columns[index]
        kind = column.type.kind
        if kind in CLOCKS:
            given = f"CAST({new} AS {'TIME' if kind is Kind.TIME else 'DATETIME'}(6))"
            digits = [d for d in coarser(column, self.bound.node, self.sources) if d < local.scale]
            coarse = ", ".join(_floor(old, d) for d in digits)
            return f"IF({given} IN ({coarse}), {old}, {new})" if coarse else new
        if "mongodb" not in self.sources:
            return new
        if kind is Kind.NUMERIC and local.name == "decimal" and local.size > _DECIMAL128_DIGITS:
            return (
                f"IF({_decimal128(old)} = CAST({new} AS DECIMAL({local.size},{local.scale})), {old}, {new})"
            )
        if kind is Kind.JSON and local.kind is Kind.JSON:
            empty = f" OR {old} = JSON_OBJECT()" if column.type.rest else ""
            return f"IF({new} IS NULL AND (JSON_TYPE({old}) = 'NULL'{empty}), {old}, {new})"
        return new


def key_literals(bound: Bound, index: int, column: pa.Array) -> pa.Array:
    """Literals of a key column that compare with it exactly."""
    if bound.kind(index) is Kind.NUMERIC:
        return column.cast(_BINARY)  # quoted it would compare as a double
    return literals(column, bound.table.schema.columns[index].type, bound.columns[index].type)


def exact_literals(column: pa.Array) -> pa.Array:
    """Literals of a text that compare with `Bound.bytewise`."""
    return literals(column.cast(_BINARY), _BYTES, _LONGBLOB)


def _floor(old: str, digits: int) -> str:
    """A time down to so many digits of the second; the rule of `replication.narrowing`."""
    return f"{old} - INTERVAL (MICROSECOND({old}) % {10 ** (MICROSECONDS - digits)}) MICROSECOND"


def _decimal128(old: str) -> str:
    """A decimal as decimal128 holds it: cut to 34 digits; the rule of `replication.narrowing`."""
    places = f"({_DECIMAL128_DIGITS} - CHAR_LENGTH(TRUNCATE(ABS({old}), 0)))"
    return f"IF(ABS({old}) < {_DECIMAL128_SURE}, {old}, TRUNCATE({old}, {places}))"


def _listed(values: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(values, _text(","), _text(""))


def _text(text: str) -> pa.Scalar:
    return pa.scalar(text.encode(), _BINARY)
