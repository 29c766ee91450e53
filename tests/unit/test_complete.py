"""Rows that came in part are made whole where the target lacks them; copied ones replace none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest

from actors.complete import Completer
from replication.batch import ApplyBatch, TableRows, apply_schema, unpack_versions
from replication.change import Op
from replication.engines.memory import MemoryEngine, drop_database, open_database
from replication.key import encode_key
from replication.marker import Marker
from replication.schema import NodeConfig, Table, TableMapping, TableSchema
from replication.types import Kind
from tests.fixtures.tables import column

COLUMNS = (
    column("id", Kind.INT64, "bigint", nullable=False),
    column("qty", Kind.INT64, "bigint"),
    column("note", Kind.TEXT, "text"),
)
SCHEMA = TableSchema("t", COLUMNS, ("id",))
NODES = "abc"
TABLE = Table(TableMapping("t", ("id",), dict.fromkeys(NODES, "t")), SCHEMA)


@pytest.fixture
def databases() -> Iterator[Mapping[str, Any]]:
    made = {n: open_database(f"complete-{n}") for n in NODES}
    for database in made.values():
        database.create_table(SCHEMA)
    yield made
    for n in NODES:
        drop_database(f"complete-{n}")


def key(ident: int) -> bytes:
    return encode_key((ident,), [Kind.INT64])


def written(target: str, *rows: dict[str, Any]) -> ApplyBatch:
    """Rows that were written at `a`."""
    system = {"_have": None, "_origin": 0, "_hi": 9, "_lo": 0, "_hlc": 1}
    whole = [{**system, "_key": key(row["id"]), **row} for row in rows]
    schema = apply_schema(SCHEMA.arrow)
    return ApplyBatch(
        target, Marker("g", 0, 1, 1, 1), [TableRows("t", pa.RecordBatch.from_pylist(whole, schema=schema))]
    )


def updated(ident: int, qty: int, target: str) -> ApplyBatch:
    """An update that left `note` out."""
    return written(target, {"_op": Op.UPDATE, "_have": bytes([0b011]), "id": ident, "qty": qty})


@pytest.mark.parametrize(
    ("holders", "target", "expected"),
    [
        ("bc", "b", {"_have": bytes([0b011]), "qty": 5, "note": None}),  # it takes what came
        ("ac", "b", {"_have": None, "qty": 1, "note": "at a"}),  # as it is where it was written
        ("c", "b", {"_have": None, "qty": 5, "note": "at c"}),
        ("b", "a", {"_have": None, "qty": 5, "note": "at b"}),
        ("", "b", None),
    ],
)
def test_what_the_target_lacks_is_taken_from_who_has_it(
    databases: Mapping[str, Any], holders: str, target: str, expected: dict[str, Any] | None
) -> None:
    for node in holders:
        with databases[node].transaction() as tx:
            tx.insert("t", {"id": 7, "qty": 1, "note": f"at {node}"})
    engines = {n: MemoryEngine(NodeConfig(n, "memory", f"memory://complete-{n}"), "g") for n in NODES}
    with closing(Completer(engines[target], engines, [TABLE])) as completer:
        rows = completer.complete(updated(7, 5, target)).batch.tables[0].rows.to_pylist()
    assert [{k: r[k] for k in ("_have", "qty", "note")} for r in rows] == ([expected] if expected else [])
    assert all(r["_hi"] == 9 for r in rows)


def test_a_copied_row_is_told_from_what_is_there_already(databases: Mapping[str, Any]) -> None:
    rows = [{"_op": Op.READ, "id": i, "qty": 1, "note": "n"} for i in range(4)]
    rows.append({"_op": Op.INSERT, "id": 4, "qty": 1, "note": "n"})
    with databases["b"].transaction() as tx:
        for ident, qty, note in ((0, 1, "n"), (1, 2, "n"), (2, 1, None), (4, 1, "n")):
            tx.insert("t", {"id": ident, "qty": qty, "note": note})
    engines = {n: MemoryEngine(NodeConfig(n, "memory", f"memory://complete-{n}"), "g") for n in NODES}
    batch, rest = written("b", *rows), written("b", rows[3])
    with closing(Completer(engines["b"], engines, [TABLE])) as completer:
        unseen = completer.complete(batch)
        completer.look(batch)
        ready = completer.complete(batch)
        looked = [completer.complete(rest).looked for _ in range(2)]
    assert (unseen.batch, unseen.kept, unseen.looked) == (batch, {}, False)
    assert ready.kept == {("t", key(0)): False, ("t", key(1)): True, ("t", key(2)): True}
    assert ready.batch.tables[0].rows.column("id").to_pylist() == [3, 4]
    assert looked == [True, False], "until nothing is found"


def test_the_delete_of_one_row_spares_another(databases: Mapping[str, Any]) -> None:
    one = [{"_op": Op.DELETE, "_have": b"\x07", "id": i, "qty": 1, "note": "n"} for i in range(3)]
    any_row = {"_op": Op.DELETE, "id": 3, "qty": None, "note": None}
    with databases["b"].transaction() as tx:
        for ident, qty in ((0, 1), (1, 2), (3, 2)):
            tx.insert("t", {"id": ident, "qty": qty, "note": "n"})
    engines = {n: MemoryEngine(NodeConfig(n, "memory", f"memory://complete-{n}"), "g") for n in NODES}
    with closing(Completer(engines["b"], engines, [TABLE])) as completer:
        ready = completer.complete(written("b", *one, any_row))
    assert ready.kept == {("t", key(1)): True}
    rows = ready.batch.tables[0].rows
    assert rows.column("id").to_pylist() == [0, 2, 3]
    assert rows.column("_have").null_count == 3
    left = unpack_versions(ready.batch.marker.versions).column("_key").to_pylist()
    assert left == [key(i) for i in (0, 2, 3)]
