"""A TRUNCATE that is carried to the other nodes: a delete of every row that was there.

The log of a TRUNCATE names no row, and the rows are gone. What the other nodes hold is what they were sent
and what is on its way back; together with the keys that are on their way to them, that is every row that the
statement removed. A row that an application wrote elsewhere, and that the truncated node had not seen,
is a true conflict with the delete, and the policies settle it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

import pyarrow as pa

from actors.capture import Sink
from actors.complete import key_alone
from replication.change import Op, SchemaChange, TableChanges, change_schema
from replication.engine import Engine
from replication.key import key_columns
from replication.paging import ChunkSize, read_all
from replication.position import split_order
from replication.schema import Table

_CHUNK = ChunkSize(max_rows=100_000, max_bytes=32 << 20)


class Truncation:
    """Makes deletes of a TRUNCATE. It holds the keys of one table in memory.

    Args:
        others: engines of the other nodes.
        tables: the mapped tables.
        sinks: the resolver of each shard.
    """

    def __init__(self, others: Mapping[str, Engine], tables: Sequence[Table], sinks: Sequence[Sink]) -> None:
        self._others = others
        self._tables = {t.name: t for t in tables}
        self._sinks = sinks

    def __call__(self, event: SchemaChange) -> TableChanges:
        """The deletes, all at the place of the statement in its log."""
        table = self._tables[event.table]
        # First what is on its way: a key that arrives meanwhile is found where it arrives.
        keys = {key for sink in self._sinks for key in sink.on_their_way(event.table)}
        bare = key_alone(table)
        for engine in self._others.values():
            with closing(engine.snapshot()) as snapshot:
                for chunk in read_all(snapshot, bare, _CHUNK):
                    keys.update(chunk.column("_key").to_pylist())
        return TableChanges(event.table, deletes(table, sorted(keys), event))


def deletes(table: Table, keys: Sequence[bytes], event: SchemaChange) -> pa.RecordBatch:
    """A change batch that deletes some keys at the place of an event."""
    schema, count = table.schema, len(keys)
    hi, lo = split_order(event.end.order)
    kinds = [schema.column(name).type.kind for name in schema.key]
    key_values = dict(zip(schema.key, key_columns(keys, kinds), strict=True))
    columns = [
        pa.array([int(Op.DELETE)] * count, pa.int8()),
        pa.array([hi] * count, pa.uint64()),
        pa.array([lo] * count, pa.uint32()),
        pa.array([event.ts] * count, pa.int64()),
        pa.array(keys, pa.binary()),
        pa.nulls(count, pa.binary()),
        pa.nulls(count, pa.binary()),
    ]
    for column in schema.columns:
        values = key_values.get(column.name)
        columns.append(pa.nulls(count, column.type.arrow) if values is None else values)
    return pa.RecordBatch.from_arrays(columns, schema=change_schema(schema.arrow))
