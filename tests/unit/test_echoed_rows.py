"""What a restarted shard learns from the rows of an echo."""

from __future__ import annotations

import pyarrow as pa

from replication.batch import TableRows, apply_schema, pack_versions
from replication.change import Echo, Op, TableChanges, change_schema
from replication.conflict.batching import echoed_rows
from replication.marker import Marker
from replication.position import Position
from replication.schema import TableSchema
from replication.types import Kind
from tests.fixtures.tables import column

SCHEMA = TableSchema(
    "t", (column("id", Kind.INT64, "bigint", nullable=False), column("doc", Kind.TEXT, "text")), ("id",)
)


def rows(schema: pa.Schema, *each: dict[str, object]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([dict.fromkeys(schema.names) | row for row in each], schema)


def test_a_row_that_the_log_shows_in_part_is_not_taken_for_the_whole() -> None:
    """An unchanged TOAST value is missing from the log; it is not null."""
    place = {"_hi": 1, "_lo": 0}
    sent = [
        {"_op": Op.UPDATE, "_key": k, "_origin": 0, "_hlc": 5, **place} for k in (b"part", b"whole", b"gone")
    ]
    sent[2]["_op"] = Op.DELETE
    versions = pack_versions([TableRows("t", rows(apply_schema(SCHEMA.arrow), *sent))])
    shown = rows(
        change_schema(SCHEMA.arrow),
        {"_op": Op.UPDATE, "_key": b"part", "_have": b"\x01", "id": 1, **place},
        {"_op": Op.UPDATE, "_key": b"whole", "id": 2, **place},
    )
    echo = Echo(Marker("g", 0, 1, 1, 1, versions=versions), Position(9), [TableChanges("t", shown)])
    found = {r.key: r.version for r in echoed_rows(echo, {"t": SCHEMA}, ["a", "b"])}
    assert [(k, v.node, v.op, v.whole) for k, v in found.items()] == [
        (b"part", "a", Op.UPDATE, False),
        (b"whole", "a", Op.UPDATE, True),
        (b"gone", "a", Op.DELETE, False),
    ]
    assert found[b"part"].layers == ()
