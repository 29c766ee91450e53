"""What depends on the target's own rows, settled just before a batch is applied.

**Rows that came in part are made whole where the target lacks them.** An update may lack a value (an
unchanged TOAST value, a document without its before-image). It can only be applied to a row that is there.
Where it is not, because a concurrent delete lost or a row was refused before, the row is read from the node
where the version was written. If it is gone there too, by a delete that lost or one that is on its way, what
it lacks is taken from another node; where none holds the row, it is left out.

**Rows of an initial copy do not replace a row that the target holds.** An application may have written it a
moment ago, and what it writes next would build on the copy. The target only inserts them. Where that meets a
row, this looks which ones are there and leaves them out, of this batch and the next ones, until a look finds
none. The resolver is told which rows were kept, and which of them differ. Once the target's log has shown
everything that was written before, it knows whether somebody did; if not, it sends a row that differs again
as a decided version, which replaces what was there before the group began.

**The delete of a row that came back takes only that row.** A batch of ours may have put it there just after
an application had deleted it. Such a delete has all columns. Where the target holds another row by now, the
application has inserted it anew, and that is kept.

**Rows that the target's filter excludes become deletes.** Its marker tells them from an application's, since
it says what was decided. A value that an update left out counts as the target has it.

Should the target gain or lose a row between this look and the commit, that is a write which the batch has
not seen: the resolver settles it and sends the key again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replication.batch import ApplyBatch, TableRows, pack_versions
from replication.change import Op
from replication.comparing import compare_columns
from replication.engine import Engine, Snapshot
from replication.filter import RowFilter, row_filter, sort_out
from replication.paging import readable
from replication.schema import Table, TableSchema

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ready:
    """A batch as the target can take it; `kept` and `outside` are as in `Applied`.

    `looked` says that every copied row was looked for.
    """

    batch: ApplyBatch
    kept: Mapping[tuple[str, bytes], bool]
    outside: Sequence[tuple[str, bytes]]
    looked: bool = True


class Completer:
    """Makes batches fit for one target.

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
        self._bare = {t.name: key_alone(t) for t in tables}
        kinds = [e.node.engine for e in engines.values()]
        self._filters = {t.name: row_filter(t, self._target, kinds) for t in tables}
        self._snapshots: dict[str, Snapshot] = {}
        self._keys: Snapshot | None = None
        self._occupied: set[str] = set()

    def look(self, batch: ApplyBatch) -> None:
        """From now on look for copied rows of these tables, until none is found: some are there."""
        self._occupied.update(part.table for part in batch.tables)

    def complete(self, batch: ApplyBatch) -> Ready:
        """The batch as the target can take it."""
        tables, kept, outside = list(batch.tables), dict[tuple[str, bytes], bool](), []
        looked = True
        for i, part in enumerate(tables):
            if part.rows.column("_have").null_count < part.rows.num_rows:
                tables[i], newer = self._unless_newer(part)
                kept |= dict.fromkeys(((part.table, key) for key in newer), True)
                tables[i] = self._complete(tables[i])
            copied = tables[i].rows.filter(pc.equal(tables[i].rows.column("_op"), int(Op.READ)))
            if not copied.num_rows:
                continue
            # A row that the filter excludes is not inserted, so nothing else would tell what is there.
            if part.table not in self._occupied and self._filters[part.table] is None:
                looked = False
                continue
            held = self._present(part.table, copied).column("_key")
            if not len(held):
                self._occupied.discard(part.table)
            else:
                same = self._same(part.table, copied, held)
                kept |= {(part.table, key): key not in same for key in held.to_pylist()}
                rows = tables[i].rows
                rows = rows.filter(pc.invert(pc.is_in(rows.column("_key"), value_set=held)))
                tables[i] = TableRows(part.table, rows)
        decided = list(tables)
        for i, part in enumerate(tables):
            if (rows_held := self._filters[part.table]) is not None:
                keeps = self._keeps(part, rows_held)
                shown, applied, keys = sort_out(part.rows, keeps)
                decided[i], tables[i] = TableRows(part.table, shown), TableRows(part.table, applied)
                outside += [(part.table, key) for key in keys]
        if kept or outside:
            batch = replace(batch, marker=replace(batch.marker, versions=pack_versions(decided)))
        return Ready(replace(batch, tables=tables), kept, outside, looked)

    def close(self) -> None:
        """Disconnect."""
        for snapshot in (*self._snapshots.values(), *([self._keys] if self._keys else [])):
            snapshot.close()
        self._snapshots.clear()
        self._keys = None

    def _unless_newer(self, part: TableRows) -> tuple[TableRows, list[bytes]]:
        """Without the deletes of one row where the target holds another by now; their keys."""
        rows = part.rows
        takes = pc.and_(pc.equal(rows.column("_op"), int(Op.DELETE)), pc.is_valid(rows.column("_have")))
        if not takes.true_count:
            return part, []
        put, found = self._beside(part.table, rows.filter(takes))
        differs = np.ones(found.num_rows, np.bool_)
        for node in self._names if found.num_rows else ():  # `_origin` is that of the delete
            differs &= self._differ(part.table, put, found, node)
        newer: list[bytes] = found.column("_key").filter(pa.array(differs)).to_pylist()
        gone = pc.invert(pc.is_in(rows.column("_key"), value_set=pa.array(newer, pa.binary())))
        place = rows.schema.get_field_index("_have")
        have = pc.if_else(takes, pa.scalar(None, pa.binary()), rows.column("_have"))
        rows = rows.set_column(place, rows.schema.field(place), have).filter(gone)
        return TableRows(part.table, rows), newer

    def _same(self, name: str, copied: pa.RecordBatch, held: pa.Array) -> set[bytes]:
        """The keys of copied rows whose values the target holds already."""
        copied, found = self._beside(name, copied.filter(pc.is_in(copied.column("_key"), value_set=held)))
        differs = np.zeros(copied.num_rows, np.bool_)
        for index, node in enumerate(self._names):
            mine = np.flatnonzero(copied.column("_origin").to_numpy() == index)
            if len(mine):
                pair = copied.take(pa.array(mine)), found.take(pa.array(mine))
                differs[mine] = self._differ(name, *pair, node)
        keys: list[bytes] = found.column("_key").filter(pa.array(~differs)).to_pylist()
        return set(keys)

    def _beside(self, name: str, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """Of these rows those that the target holds, and as it holds them, in the same order."""
        found = self._read(self._target, name, rows)
        return rows.take(pc.index_in(found.column("_key"), value_set=rows.column("_key"))), found

    def _differ(self, name: str, rows: pa.RecordBatch, found: pa.RecordBatch, node: str) -> Mask:
        """Which rows of `node` are not what the target holds."""
        ends = [(n, self._engines[n].node.engine) for n in (node, self._target)]
        differs = np.zeros(rows.num_rows, np.bool_)
        for _, mask in compare_columns(self._tables[name], rows, found, *ends):
            differs |= mask
        return differs

    def _keeps(self, part: TableRows, rows_held: RowFilter) -> Mask:
        """Which rows the target's filter lets it hold."""
        keeps, unknown = rows_held.matches(part.rows), rows_held.unknown(part.rows)
        if unknown.any():
            partial = part.rows.filter(pa.array(unknown))
            held = self._read(self._target, part.table, partial)
            found = pc.index_in(partial.column("_key"), value_set=held.column("_key"))
            # A row that has gone meanwhile is to be deleted there, or its loss is on its way.
            filled = _overlaid(partial, held.take(found), self._tables[part.table].schema)
            keeps[unknown] = rows_held.matches(filled)
        return keeps

    def _complete(self, part: TableRows) -> TableRows:
        rows = part.rows
        partial = rows.filter(pc.is_valid(rows.column("_have")))
        if not partial.num_rows:
            return part
        empty = pa.array([not any(mask) for mask in partial.column("_have").to_pylist()])
        present = self._present(part.table, partial.filter(pc.invert(empty)))
        found = pc.is_in(partial.column("_key"), value_set=present.column("_key"))
        lacking = partial.filter(pc.or_(empty, pc.invert(found)))
        if not lacking.num_rows:
            return part
        parts = [rows.filter(pc.invert(pc.is_in(rows.column("_key"), value_set=lacking.column("_key"))))]
        for index, node in enumerate(self._names):
            wanted = lacking.filter(pc.equal(lacking.column("_origin"), index))
            parts += self._filled(part.table, wanted, node)
        table = pa.Table.from_batches(parts).combine_chunks()
        return TableRows(part.table, table.to_batches()[0] if table.num_rows else rows.slice(0, 0))

    def _filled(self, table: str, wanted: pa.RecordBatch, origin: str) -> list[pa.RecordBatch]:
        """Partial rows made whole, from where they were written, or what they lack from any other node."""
        parts = []
        for node in (origin, *(n for n in self._names if n not in (origin, self._target))):
            if not wanted.num_rows:
                break
            read = self._read(node, table, wanted)
            if not read.num_rows:
                continue
            if node != origin:
                mine = wanted.take(pc.index_in(read.column("_key"), value_set=wanted.column("_key")))
                data = _overlaid(mine, read, self._tables[table].schema)
                read = pa.RecordBatch.from_arrays(
                    [read.column("_key"), *data.columns], names=["_key", *data.schema.names]
                )
            parts.append(_whole(wanted, read))
            wanted = wanted.filter(pc.invert(pc.is_in(wanted.column("_key"), value_set=read.column("_key"))))
        return parts

    def _read(self, node: str, table: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        if node not in self._snapshots:
            self._snapshots[node] = self._engines[node].snapshot()
        read = functools.partial(
            self._snapshots[node].read_keys, self._tables[table], rows.column("_key").to_pylist()
        )
        # A row that cannot be read where it was written is set aside there.
        return readable(read, aside=lambda unreadable: None)[0]

    def _present(self, table: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Which rows the target holds, whatever else is in them."""
        if self._keys is None:
            self._keys = self._engines[self._target].snapshot()
        return self._keys.read_keys(self._bare[table], rows.column("_key").to_pylist())


def key_alone(table: Table) -> Table:
    """The table with nothing but its key."""
    schema = table.schema
    return Table(table.mapping, TableSchema(schema.name, tuple(map(schema.column, schema.key)), schema.key))


def _whole(wanted: pa.RecordBatch, read: pa.RecordBatch) -> pa.RecordBatch:
    """The rows of `wanted` that were `read`: their versions, with all columns."""
    place = pc.index_in(read.column("_key"), value_set=wanted.column("_key"))
    versions = wanted.take(place)
    whole = [_column(f, versions, read) for f in wanted.schema]
    return pa.RecordBatch.from_arrays(whole, schema=wanted.schema)


def _overlaid(partial: pa.RecordBatch, held: pa.RecordBatch, schema: TableSchema) -> pa.RecordBatch:
    """Rows that came in part with what is missing from `held`, row by row; no system columns."""
    have = [int.from_bytes(bits, "little") for bits in partial.column("_have").to_pylist()]
    columns = []
    for i, name in enumerate(schema.arrow.names):
        shown = pa.array([mask >> i & 1 == 1 for mask in have])
        columns.append(pc.if_else(shown, partial.column(name), held.column(name)))
    return pa.RecordBatch.from_arrays(columns, schema=schema.arrow)


def _column(field: pa.Field, versions: pa.RecordBatch, read: pa.RecordBatch) -> pa.Array:
    if field.name == "_have":
        return pa.nulls(read.num_rows, field.type)
    return (versions if field.name.startswith("_") else read).column(field.name)
