"""Rows of one table that one statement writes.

Rows of an initial copy are streamed by COPY, where they are many and nothing has to be computed for them: it
writes as an INSERT does, and takes half of the time. The next rows are printed while the server writes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pyarrow as pa
from pyarrow import csv

from replication.declared import second_digits
from replication.engines.postgres.columns import Bound
from replication.engines.postgres.config import Connection
from replication.engines.postgres.statements import Statements, literal
from replication.engines.postgres.values import to_text
from replication.narrowing import floored

ROWS_AT_ONCE = 2_500
"""So many rows go into one statement: while the server writes them, the next ones are printed here."""
_STREAM_ROWS = 500
"""With fewer rows the round trips of a COPY cost more than it saves."""
_CSV = csv.WriteOptions(include_header=False, quoting_style="needed")


@dataclass(frozen=True, slots=True)
class Work:
    """What one statement writes.

    Attributes:
        bound: the table on this node.
        statement: with one parameter per column.
        indexes: which columns the parameters stand for.
        rows: an apply batch.
        partial: the rows update what exists, and the statement returns which did.
    """

    bound: Bound
    statement: str
    indexes: tuple[int, ...]
    rows: pa.RecordBatch
    partial: bool = False

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def table(self) -> str:
        """The canonical table name."""
        return self.bound.table.name

    @property
    def keys(self) -> list[bytes]:
        """The canonical keys."""
        keys: list[bytes] = self.rows.column("_key").to_pylist()
        return keys

    def slice(self, start: int, count: int) -> Work:
        """Some of the rows."""
        return replace(self, rows=self.rows.slice(start, count))

    def pieces(self) -> list[Work]:
        """Itself in parts that are no larger than one statement should be."""
        return [self.slice(i, ROWS_AT_ONCE) for i in range(0, len(self), ROWS_AT_ONCE)]

    def run(self, cursor: psycopg.Cursor[Any]) -> None:
        """Execute; the result may be pending while in a pipeline."""
        parameters = [
            literal(self.texts(i), self.bound.table.schema.columns[i].type.kind) for i in self.indexes
        ]
        cursor.execute(self.statement, parameters, prepare=True)

    def texts(self, index: int) -> pa.Array:
        """A column as the server reads it."""
        column, local = self.bound.table.schema.columns[index], self.bound.columns[index]
        values = self.rows.column(column.name)
        if index not in self.bound.key:
            values = floored(values, column.type, second_digits(local.native, "postgres"))
        return to_text(values, column.type, local.type)

    def missing(self, cursor: psycopg.Cursor[Any]) -> list[tuple[str, bytes]]:
        """Which partial rows the node does not hold, after `run`."""
        if not self.partial:
            return []
        found = {n for (n,) in cursor.fetchall()}
        return [(self.table, k) for n, k in enumerate(self.keys, 1) if n not in found]


@dataclass(frozen=True, slots=True)
class Insert(Work):
    """Rows of an initial copy: a row that is there already fails the statement.

    Attributes:
        copy: the statement to stream the rows by; empty where that cannot be.
        there: the statement that finds rows of these keys, with one parameter per key column.
    """

    copy: str = ""
    there: str = ""

    @classmethod
    def of(cls, statements: Statements, rows: pa.RecordBatch) -> Insert:
        """Insert these rows."""
        text, indexes = statements.insert
        return cls(statements.bound, text, indexes, rows, False, statements.copy, statements.there)

    @property
    def streams(self) -> bool:
        """Whether it is streamed."""
        return self.copy != "" and len(self) >= _STREAM_ROWS

    def pieces(self) -> list[Work]:
        """See `Work.pieces`; what is streamed is one."""
        return [self] if self.streams else super(Insert, self).pieces()

    def run(self, cursor: psycopg.Cursor[Any]) -> None:
        """See `Work.run`; what is streamed must not be in a pipeline."""
        if not self.streams:
            super(Insert, self).run(cursor)
            return
        with cursor.copy(self.copy.encode()) as copy:
            for text in self._csv():
                copy.write(text)

    def is_there(self, c: Connection) -> bool:
        """Whether the node holds a row of such a key, which another unique value does not say."""
        kinds = self.bound.table.schema.columns
        parameters = [literal(self.texts(i), kinds[i].type.kind) for i in self.bound.key]
        return c.execute(self.there.encode(), parameters).fetchone() is not None

    def _csv(self) -> Iterator[memoryview]:
        names = [str(i) for i in self.indexes]
        for part in super(Insert, self).pieces():
            texts = [part.texts(i).cast(pa.utf8()) for i in self.indexes]
            sink = io.BytesIO()
            csv.write_csv(pa.RecordBatch.from_arrays(texts, names), sink, _CSV)
            yield sink.getbuffer()
