"""How a table's rows are held: a dictionary from key to a place in an immutable record batch.

A bulk write stores its batch once and points into it, so it costs one dictionary update and copies no
value. A batch lives for as long as one row points into it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice, repeat
from typing import Any

import pyarrow as pa

from replication.key import encode_key, encode_keys
from replication.schema import TableSchema

Ref = tuple[pa.RecordBatch, int]


class TableStore:
    """One table. Whoever uses it holds the database's lock."""

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema
        self.arrow = schema.arrow
        self.kinds = [schema.column(name).type.kind for name in schema.key]
        self.rows: dict[bytes, Ref] = {}
        self._sorted: list[bytes] = []
        self._fresh: list[bytes] = []

    def key(self, values: Any) -> bytes:
        """The canonical key of one value, or of a tuple in key order."""
        return encode_key(values if isinstance(values, tuple) else (values,), self.kinds)

    def keys(self, batch: pa.RecordBatch) -> list[bytes]:
        """The canonical key of every row."""
        encoded = encode_keys([batch.column(name) for name in self.schema.key], self.kinds)
        keys: list[bytes] = encoded.to_pylist()
        return keys

    def find(self, keys: Sequence[bytes]) -> list[Ref | None]:
        """Where each key's row is, or None."""
        return list(map(self.rows.get, keys))

    def put(self, keys: Sequence[bytes], batch: pa.RecordBatch, held: Sequence[Ref | None]) -> None:
        """Let `keys` point to the rows of `batch`; `held` is what `find` said of them."""
        self._fresh.extend([k for k, ref in zip(keys, held, strict=True) if ref is None])
        self.rows.update(zip(keys, zip(repeat(batch), range(batch.num_rows)), strict=False))

    def restore(self, keys: Sequence[bytes], held: Sequence[Ref | None]) -> None:
        """Undo a `put` or a removal."""
        for key, ref in zip(keys, held, strict=True):
            if ref is None:
                self.rows.pop(key, None)
            else:
                self._fresh.append(key)
                self.rows[key] = ref

    def remove(self, keys: Sequence[bytes]) -> None:
        """Forget these keys, all of which are present."""
        for key in keys:
            del self.rows[key]

    def clear(self) -> None:
        """Forget every row."""
        self.rows.clear()
        self._sorted, self._fresh = [], []

    def keys_after(self, after: bytes | None, limit: int | None = None) -> list[bytes]:
        """Up to `limit` keys greater than `after`, ascending."""
        if self._fresh:
            # Two runs, of which one is sorted: timsort merges them.
            merged = dict.fromkeys(sorted(self._sorted + sorted(self._fresh)))
            self._sorted = [k for k in merged if k in self.rows]
            self._fresh = []
        start = 0 if after is None else bisect_right(self._sorted, after)
        present = (k for k in islice(self._sorted, start, None) if k in self.rows)
        return list(islice(present, limit))

    def gather(self, refs: Sequence[Ref | None]) -> pa.RecordBatch:
        """These rows as one batch; a row of nulls for each None."""
        return gather(refs, self.arrow)

    def add_column(self, schema: TableSchema, fill: pa.Scalar | None = None) -> None:
        """Take a schema with further columns, null or `fill` in the rows that exist."""
        held = self.gather(list(self.rows.values()))
        columns = [
            held.column(f.name)
            if f.name in held.schema.names
            else pa.repeat(pa.scalar(None, f.type) if fill is None else fill.cast(f.type), held.num_rows)
            for f in schema.arrow
        ]
        self._rebuild(schema, columns)

    def cast_columns(self, schema: TableSchema) -> None:
        """Take a schema with other types for the same columns, that hold their values."""
        held = self.gather(list(self.rows.values())).columns
        columns = [column.cast(f.type) for column, f in zip(held, schema.arrow, strict=True)]
        self._rebuild(schema, columns)

    def rename_columns(self, schema: TableSchema) -> None:
        """Take a schema with other names for the same columns."""
        self._rebuild(schema, self.gather(list(self.rows.values())).columns)

    def _rebuild(self, schema: TableSchema, columns: Sequence[pa.Array]) -> None:
        keys = list(self.rows)
        self.schema, self.arrow = schema, schema.arrow
        batch = pa.RecordBatch.from_arrays(columns, schema=self.arrow)
        self.rows = dict(zip(keys, zip(repeat(batch), range(len(keys))), strict=False))


def gather(refs: Sequence[Ref | None], schema: pa.Schema) -> pa.RecordBatch:
    """Collect rows from the batches they are in, in the order of `refs`."""
    if len(refs) == 1 and (only := refs[0]) is not None:
        return only[0].slice(only[1], 1)
    starts: dict[int, int] = {}
    batches: list[pa.RecordBatch] = []
    index: list[int | None] = []
    total = 0
    for ref in refs:
        if ref is None:
            index.append(None)
            continue
        batch, at = ref
        start = starts.get(id(batch))
        if start is None:
            starts[id(batch)] = start = total
            batches.append(batch)
            total += batch.num_rows
        index.append(start + at)
    if not batches:
        return pa.RecordBatch.from_arrays([pa.nulls(len(refs), f.type) for f in schema], schema=schema)
    taken = pa.Table.from_batches(batches, schema).take(pa.array(index, pa.int64()))
    return one_batch(taken)


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """The rows of a table as one batch, also when there are none."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else table.schema.empty_table().to_batches()[0]
