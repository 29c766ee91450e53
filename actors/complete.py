"""Rows that came in part, made whole where the target lacks them.

An update may lack a value (an unchanged TOAST value, a document without its before-image). It can only be
applied to a row that is there. Where it is not, because a concurrent delete lost or a row was refused before,
the row is read from the node where the version was written. If it is gone there too, its delete is on its
way, and the row is left out.

Should the target lose the row between this look and the commit, that delete is a write which the batch has
not seen: the resolver settles it and sends the key again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from replication.batch import ApplyBatch, TableRows
from replication.engine import Engine, Snapshot
from replication.schema import Table


class Completer:
    """Makes partial rows whole for one target.

    Args:
        engine: the target's engine.
        engines: every node's engine.
        tables: the mapped tables.
    """

    def __init__(self, engine: Engine, engines: Mapping[str, Engine], tables: Sequence[Table]) -> None:
        self._target = engine.node.name
        self._engines = engines
        self._names = sorted(engines)
        self._tables = {t.name: t for t in tables}
        self._snapshots: dict[str, Snapshot] = {}

    def complete(self, batch: ApplyBatch) -> ApplyBatch:
        """The batch, with every partial row that the target lacks replaced by the whole one."""
        if all(t.rows.column("_have").null_count == t.rows.num_rows for t in batch.tables):
            return batch
        return replace(batch, tables=[self._complete(t) for t in batch.tables])

    def close(self) -> None:
        """Disconnect."""
        for snapshot in self._snapshots.values():
            snapshot.close()
        self._snapshots.clear()

    def _complete(self, part: TableRows) -> TableRows:
        rows = part.rows
        partial = rows.filter(pc.is_valid(rows.column("_have")))
        if not partial.num_rows:
            return part
        empty = pa.array([not any(mask) for mask in partial.column("_have").to_pylist()])
        present = self._read(self._target, part.table, partial.filter(pc.invert(empty)))
        found = pc.is_in(partial.column("_key"), value_set=present.column("_key"))
        lacking = partial.filter(pc.or_(empty, pc.invert(found)))
        if not lacking.num_rows:
            return part
        parts = [rows.filter(pc.invert(pc.is_in(rows.column("_key"), value_set=lacking.column("_key"))))]
        for index, node in enumerate(self._names):
            wanted = lacking.filter(pc.equal(lacking.column("_origin"), index))
            if wanted.num_rows:
                parts.append(_whole(wanted, self._read(node, part.table, wanted)))
        table = pa.Table.from_batches(parts).combine_chunks()
        return TableRows(part.table, table.to_batches()[0] if table.num_rows else rows.slice(0, 0))

    def _read(self, node: str, table: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        if node not in self._snapshots:
            self._snapshots[node] = self._engines[node].snapshot()
        return self._snapshots[node].read_keys(self._tables[table], rows.column("_key").to_pylist())


def _whole(wanted: pa.RecordBatch, read: pa.RecordBatch) -> pa.RecordBatch:
    """The rows of `wanted` that were `read`: their versions, with all columns."""
    place = pc.index_in(read.column("_key"), value_set=wanted.column("_key"))
    versions = wanted.take(place)
    whole = [_column(f, versions, read) for f in wanted.schema]
    return pa.RecordBatch.from_arrays(whole, schema=wanted.schema)


def _column(field: pa.Field, versions: pa.RecordBatch, read: pa.RecordBatch) -> pa.Array:
    if field.name == "_have":
        return pa.nulls(read.num_rows, field.type)
    return (versions if field.name.startswith("_") else read).column(field.name)
