"""What a batch becomes at a node with a filter, where an update left out what the filter asks about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pyarrow as pa
import pytest

from actors.complete import Completer, Ready
from replication.batch import (
    APPLY_COLUMNS,
    ApplyBatch,
    TableRows,
    apply_schema,
    pack_versions,
    unpack_versions,
)
from replication.change import Echo, Op, TableChanges, change_schema
from replication.conflict.batching import echoed_rows
from replication.engines import load_engine
from replication.engines.memory import MemoryDatabase, drop_database, open_database
from replication.key import encode_key
from replication.marker import Marker
from replication.position import Position
from replication.schema import Column, Condition, NodeConfig, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

SCHEMA = TableSchema(
    "t",
    (
        Column("id", CanonicalType(Kind.INT64), nullable=False),
        Column("region", CanonicalType(Kind.TEXT)),
        Column("qty", CanonicalType(Kind.INT64)),
    ),
    ("id",),
)
TABLE = Table(
    TableMapping("t", ("id",), {"a": "t", "b": "t"}, where={"b": ((Condition("region", "eq", ("eu",)),),)}),
    SCHEMA,
)
ALL, WITHOUT_REGION = None, bytes([0b101])


@pytest.fixture
def databases() -> Iterator[dict[str, MemoryDatabase]]:
    names = {"a": "complete_a", "b": "complete_b"}
    found = {node: open_database(name) for node, name in names.items()}
    for database in found.values():
        database.create_table(SCHEMA)
    yield found
    for name in names.values():
        drop_database(name)


def key(id: int) -> bytes:
    return encode_key((id,), [Kind.INT64])


def complete(*rows: tuple[Op, int, str | None, int | None, bytes | None]) -> Ready:
    """Rows of operation, id, region, qty and what they have, written at `a`, as `b` can take them."""
    ops, ids, regions, quantities, have = zip(*rows, strict=True)
    system = {"_op": ops, "_key": [key(id) for id in ids], "_have": have}
    columns = [pa.array(system.get(n, [0] * len(rows)), t) for n, t in APPLY_COLUMNS]
    values = [pa.array(ids, pa.int64()), pa.array(regions, pa.utf8()), pa.array(quantities, pa.int64())]
    part = TableRows("t", pa.RecordBatch.from_arrays([*columns, *values], schema=apply_schema(SCHEMA.arrow)))
    marker = Marker("g", 0, 1, 1, 1, versions=pack_versions([part]))
    engines = {n: load_engine(NodeConfig(n, "memory", f"memory://complete_{n}"), "g") for n in "ab"}
    with closing(Completer(engines["b"], engines, [TABLE])) as completer:
        return completer.complete(ApplyBatch("b", marker, [part]))


def applied(ready: Ready) -> dict[int, tuple[Op, bool]]:
    """By id the operation, and whether the row is whole."""
    rows = ready.batch.tables[0].rows.to_pylist()
    return {row["id"]: (Op(row["_op"]), row["_have"] is None) for row in rows}


def test_a_value_that_was_left_out_is_as_the_node_has_it(databases: dict[str, MemoryDatabase]) -> None:
    for node, regions in {"a": ("eu", "us", "eu", "us"), "b": ("eu", "us", None, None)}.items():
        with databases[node].transaction() as tx:
            for id, region in enumerate(regions, 1):
                if region is not None:
                    tx.insert("t", {"id": id, "region": region, "qty": 1})
    ready = complete(*((Op.UPDATE, id, None, 2, WITHOUT_REGION) for id in (1, 2, 3, 4)))
    assert applied(ready) == {
        1: (Op.UPDATE, False),  # there, and stays: only what the update has is written
        2: (Op.DELETE, False),
        3: (Op.UPDATE, True),  # not there: the whole row from where it was written
        4: (Op.DELETE, True),
    }
    assert {k for _, k in ready.outside} == {key(2), key(4)}


def test_copied_rows_outside_are_kept_or_dropped(databases: dict[str, MemoryDatabase]) -> None:
    with databases["b"].transaction() as tx:
        tx.insert("t", {"id": 2, "region": "eu", "qty": 1})
    ready = complete((Op.READ, 1, "us", 1, ALL), (Op.READ, 2, "us", 1, ALL), (Op.READ, 3, "eu", 1, ALL))
    assert applied(ready) == {3: (Op.READ, True)}
    assert (ready.kept, ready.outside) == ({("t", key(2)): True}, [("t", key(1))])
    assert unpack_versions(ready.batch.marker.versions)["_key"].to_pylist() == [key(3)]


def test_the_echo_of_an_excluded_row_is_no_delete(databases: dict[str, MemoryDatabase]) -> None:
    ready = complete(
        (Op.UPDATE, 1, "us", 2, ALL), (Op.DELETE, 2, None, None, ALL), (Op.UPDATE, 3, "eu", 2, ALL)
    )
    assert {id: op for id, (op, _) in applied(ready).items()} == {1: Op.DELETE, 2: Op.DELETE, 3: Op.UPDATE}
    schema = change_schema(SCHEMA.arrow)
    shown = pa.RecordBatch.from_pylist(
        [
            {"_op": Op.DELETE, "_hi": 1, "_lo": 0, "_ts": 1, "_key": key(1), "id": 1},
            {
                "_op": Op.INSERT,
                "_hi": 1,
                "_lo": 1,
                "_ts": 1,
                "_key": key(3),
                "id": 3,
                "region": "eu",
                "qty": 2,
            },
        ],
        schema,
    )
    echo = Echo(ready.batch.marker, Position(1), [TableChanges("t", shown)])
    found = {row.key: row.version for row in echoed_rows(echo, {"t": SCHEMA}, ["a", "b"])}
    assert {k: (v.op, len(v.layers)) for k, v in found.items()} == {
        key(1): (Op.UPDATE, 0),
        key(2): (Op.DELETE, 0),
        key(3): (Op.UPDATE, 1),
    }
