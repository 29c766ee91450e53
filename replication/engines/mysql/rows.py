"""Row images of one table become one record batch of changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replication.buffers import bits
from replication.change import Op
from replication.engines.mysql.fields import read_field
from replication.engines.mysql.images import Bools, Buffer, Ints, Values, locate
from replication.engines.mysql.layout import Layout
from replication.engines.mysql.values import Errors, adapt
from replication.key import encode_keys
from replication.marker import Marker

BLOCK = 8192
"""So many rows are decoded in one step: what more of them need does not stay in the processor's cache."""


@dataclass(slots=True)
class Transaction:
    """A transaction of the log.

    Attributes:
        hi: upper part of its changes' orders.
        ts: commit time, microseconds since 1970.
        file: name of the file that it is in.
        offset: where it begins there.
        gtid: source and number, if it has them.
        first: number of the first thing in it that has one.
        last: number of the last one so far, or less than `first`.
        end: where it ends in the file, once that was read; else 0.
        markers: ours that it has written, if it is an echo.
        marked: lower part of the order of the first of them.
        begun: it is more than a single statement.
        rows: row events have been seen in it.
        skipped: all of it was delivered before.
        distributed: it is a part of an XA transaction.
    """

    hi: int
    ts: int
    file: str
    offset: int
    gtid: tuple[str, int] | None
    first: int
    last: int
    end: int = 0
    markers: list[Marker] | None = None
    marked: int = 0
    begun: bool = False
    rows: bool = False
    skipped: bool = False
    distributed: bool = False


@dataclass(slots=True)
class Chunk:
    """The rows of one event.

    Attributes:
        layout: of their table.
        op: what happened to them.
        data: the event.
        starts: where the row images begin in it; of updates two for each row, before and after.
        transaction: that they are part of.
        first: number of the first row, counted over everything that is read.
        lo: lower part of the order of the first row, less one; each next one has two more.
    """

    layout: Layout
    op: Op
    data: bytes
    starts: list[int]
    transaction: Transaction
    first: int
    lo: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.starts) // 2 if self.op is Op.UPDATE else len(self.starts)


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that has no canonical form: its number, order, key if that can be read, and why."""

    number: int
    lo: int
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """Changes of one table, in log order.

    Attributes:
        table: canonical name.
        rows: the changes.
        number: for each row twice its number, plus one unless it is the delete half of a key change.
        refused: what could not be decoded, and is not in `rows`.
    """

    table: str
    rows: pa.RecordBatch
    number: Ints
    refused: list[Refused]


def decode_rows(chunks: Sequence[Chunk]) -> Decoded:
    """Decode the rows of one table.

    A key change gives two rows: the delete of the old key and the insert of the new one, whose order is one
    more.

    Args:
        chunks: of one layout, in log order.

    Raises:
        Malformed: the row images hold no values of their columns.
    """
    parts = [_Block(block).decode() for block in _blocks(chunks)]
    if len(parts) == 1:
        return parts[0]
    return Decoded(
        parts[0].table,
        pa.concat_batches([p.rows for p in parts]),
        np.concatenate([p.number for p in parts]),
        [r for p in parts for r in p.refused],
    )


def _blocks(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    first = rows = 0
    for i, chunk in enumerate(chunks):
        if rows and rows + chunk.rows > BLOCK:
            yield chunks[first:i]
            first, rows = i, 0
        rows += chunk.rows
    yield chunks[first:]


class _Block:
    """Rows that are decoded in one step. Its arrays are by row, but for `values`, which are by row image."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = chunks
        self.layout = chunks[0].layout
        self.buffer = Buffer([c.data for c in chunks])
        sizes = np.array([len(c.data) for c in chunks])
        images = np.array([len(c.starts) for c in chunks])
        rows = np.array([c.rows for c in chunks])
        starts = np.fromiter(chain.from_iterable(c.starts for c in chunks), np.int64, int(images.sum()))
        at = starts + np.repeat(np.cumsum(sizes) - sizes, images)
        found = locate(self.buffer, at, self.layout.plan)
        self.values = [found[place] if place >= 0 else None for place in self.layout.places]
        self.chunk: Ints = np.repeat(np.arange(len(chunks)), rows)
        self.place: Ints = np.arange(len(self.chunk)) - np.repeat(np.cumsum(rows) - rows, rows)
        op = np.array([c.op for c in chunks], np.int8)[self.chunk]
        self.op: npt.NDArray[np.int8] = op
        each = np.where(op == Op.UPDATE, 2, 1)
        self.before: Ints = np.cumsum(each) - each
        """The first image of each row: of an insert its only one."""
        self.after: Ints = self.before + each - 1

    def decode(self) -> Decoded:
        """All rows, one after the other."""
        moved = self._moved()
        source = np.repeat(np.arange(len(moved)), 1 + moved) if moved.any() else np.arange(len(moved))
        leaving = np.zeros(len(source), np.bool_)
        if len(source) > len(moved):
            leaving[:-1] = source[1:] == source[:-1]
        op = np.where(moved, np.int8(Op.INSERT), self.op)[source]
        op[leaving] = Op.DELETE
        columns, errors = self._columns(source, op == Op.DELETE, leaving)
        chunk = self.chunk[source]
        lo = np.array([c.lo for c in self.chunks])[chunk] + 2 * self.place[source] + ~leaving
        transactions = [c.transaction for c in self.chunks]
        number = 2 * (np.array([c.first for c in self.chunks])[chunk] + self.place[source]) + ~leaving
        system = [
            pa.array(op),
            pa.array(np.array([t.hi for t in transactions], np.uint64)[chunk]),
            pa.array(lo.astype(np.uint32)),
            pa.array(np.array([t.ts for t in transactions], np.int64)[chunk]),
            *self._bits(source, op),
        ]
        return self._assemble(system, columns, number, errors)

    def _assemble(
        self, system: list[pa.Array], columns: list[pa.Array], number: Ints, errors: Errors
    ) -> Decoded:
        """Leave out what has no canonical form; only then every key can be encoded."""
        layout = self.layout
        refused = []
        if errors:
            kept = np.ones(len(number), np.bool_)
            kept[list(errors)] = False
            for row, reason in sorted(errors.items()):
                key = [columns[k].slice(row, 1) for k in layout.key]
                known = b"" if any(k.null_count for k in key) else encode_keys(key, layout.kinds)[0].as_py()
                refused.append(Refused(int(number[row]) // 2, system[2][row].as_py(), known, reason))
            mask = pa.array(kept)
            system, columns = [a.filter(mask) for a in system], [a.filter(mask) for a in columns]
            number = number[kept]
        key = encode_keys([columns[k] for k in layout.key], layout.kinds)
        arrays = [*system[:4], key, *system[4:], *columns]
        rows = pa.RecordBatch.from_arrays(arrays, schema=layout.schema)
        return Decoded(layout.table.name, rows, number, refused)

    def _moved(self) -> Bools:
        """Which updates change the key."""
        moved = np.zeros(len(self.op), np.bool_)
        updates = np.flatnonzero(self.op == Op.UPDATE)
        if len(updates):
            for k in self.layout.key:
                moved[updates] |= self._differ(k, updates)
        return moved

    def _differ(self, column: int, rows: Ints) -> Bools:
        """Whether the bytes of a column differ before and after; nulls are equal to nulls."""
        values = self.values[column]
        if values is None:
            return np.zeros(len(rows), np.bool_)
        old, new = values.take(self.before[rows]), values.take(self.after[rows])
        lengths = new.lengths
        differ = self.buffer.short(old.start, old.lengths) != self.buffer.short(new.start, lengths)
        if not isinstance(values.length, int):
            differ |= old.lengths != lengths
        if values.valid is not None:
            differ = (old.present != new.present) | (differ & old.present)
        if isinstance(values.length, int) and values.length <= 8:
            return np.asarray(differ)
        rest = np.flatnonzero(~differ & (lengths > 8) & new.present)
        if len(rest):
            parts = [self.buffer.binary(v.start[rest], v.lengths[rest], None) for v in (old, new)]
            differ[rest] = pc.not_equal(*parts).to_numpy(zero_copy_only=False)
        return np.asarray(differ)

    def _columns(self, source: Ints, delete: Bools, leaving: Bools) -> tuple[list[pa.Array], Errors]:
        """The data columns, and by row why it has no canonical form.

        Args:
            source: for each row to make, which row it comes from.
            delete: rows of which only the key is wanted.
            leaving: rows that the old image is wanted of.
        """
        image = np.where(leaving, self.before[source], self.after[source])
        plain = len(image) == self.after[-1] + 1 and not leaving.any()
        arrays: list[pa.Array] = []
        errors: Errors = {}
        schema = self.layout.table.schema
        fields = zip(schema.columns, self.layout.fields, self.values, strict=True)
        for i, (column, field, values) in enumerate(fields):
            if field is None or values is None:
                arrays.append(pa.nulls(len(source), column.type.arrow))
                continue
            chosen = values if plain else values.take(image)
            if i not in self.layout.key and delete.any():
                chosen = Values(chosen.start, chosen.length, chosen.present & ~delete)
            array, bad = read_field(self.buffer, chosen, field)
            array, more = adapt(array, column.type, field.type)
            for row, reason in (more | bad).items():
                errors.setdefault(row, f"{schema.name}.{column.name}: {reason}")
            arrays.append(array)
        return arrays, errors

    def _bits(self, source: Ints, op: npt.NDArray[np.int8]) -> tuple[pa.Array, pa.Array]:
        """`_have` and `_changed`."""
        missing = np.array([v is None for v in self.values])
        n, width = len(source), len(missing)
        some: Bools = np.broadcast_to(missing.any(), n) & (op != Op.DELETE)
        have = bits(np.broadcast_to(~missing, (n, width)), some)
        update = op == Op.UPDATE
        differ = np.zeros((n, width), np.bool_)
        rows = source[update]
        if len(rows):
            for column in range(width):
                differ[update, column] = self._differ(column, rows)
        return have, bits(differ, update)
