"""Reading whole collections, and preflight, against a real server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bson import Int64
from bson.binary import Binary
from bson.decimal128 import Decimal128
from pymongo import MongoClient

from cluster.servers.mongodb import MongoServer
from replication.engine import Finding
from replication.engines.mongodb import MongoEngine
from replication.errors import RowRefused, Terminal
from replication.key import encode_key
from replication.paging import ChunkSize, read_all
from replication.schema import NodeConfig, Table, TableMapping
from replication.types import Kind
from tests.fixtures.mongodb import with_database
from tests.fixtures.mongodb_node import GROUP, NODE, ORDERS, Node, table

DAY = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def node(mongodb_db: str) -> Iterator[Node]:
    with closing(Node(mongodb_db)) as made:
        yield made


def chunks(node: Node, of: Table, limit: int) -> Iterator[dict[str, Any]]:
    after = None
    while True:
        batch = node.snapshot.read_chunk(of, after, limit)
        yield from _plain(batch)
        if batch.num_rows < limit:
            return
        after = batch.column("_key")[-1].as_py()


def _plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows without the key's own columns, which hold dates that Python has not."""
    return batch.select([name for name in batch.schema.names if name not in ("a", "b")]).to_pylist()


@pytest.mark.parametrize(
    ("kinds", "ids"),
    [
        ((Kind.INT64,), [5, Int64(-(2**60)), 7.0, Decimal128("6"), 0]),
        ((Kind.TEXT,), ["b", "", "ä", "a\0b", "a", "𝄞", "Z"]),
        ((Kind.BYTES,), [b"\xff", b"", b"ab", b"a", b"b", b"\x00\x00\x00"]),
        ((Kind.UUID,), [Binary(uuid.UUID(int=n << 97 | 5).bytes, 4) for n in (3, 1, 2, 2**30)]),
        ((Kind.NUMERIC,), [Decimal128("1.10"), 2, -7.5, Decimal128("-1E+20"), Decimal128("0.001")]),
        (
            (Kind.TIMESTAMPTZ,),
            [
                "infinity",
                DAY,
                DAY.replace(year=1),
                "-infinity",
                DAY.replace(year=9999),
                "15000-01-01T00:00:00.000Z",
                "-0043-03-15T00:00:00.000Z",
            ],
        ),
        ((Kind.DATE,), [DAY, "-infinity", DAY.replace(day=2), "15000-01-01"]),
        ((Kind.BOOLEAN,), [True, False]),
        (
            (Kind.INT32, Kind.TEXT),
            [{"a": 2, "b": "x"}, {"a": 1, "b": "y"}, {"a": 1.0, "b": ""}, {"a": 1, "b": "yy"}],
        ),
        ((Kind.BYTES, Kind.INT32), [{"a": b"bb", "b": 1}, {"a": b"c", "b": 2}, {"a": b"bb", "b": 0}]),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 100])
def test_chunks_are_in_the_order_of_canonical_keys(
    mongodb_db: str, kinds: Sequence[Kind], ids: list[Any], limit: int
) -> None:
    names = ["a", "b"][: len(kinds)]
    of = table("things", dict(zip(names, kinds, strict=True)) | {"n": Kind.INT32}, names)
    with closing(Node(mongodb_db, [of])) as node:
        node.db.things.insert_many([{"_id": value, "n": n} for n, value in enumerate(ids)])
        rows = list(chunks(node, of, limit))
        keys = [row["_key"] for row in rows]
        assert keys == sorted(set(keys))
        assert sorted(row["n"] for row in rows) == list(range(len(ids)))
        found = _plain(node.snapshot.read_keys(of, [keys[-1], keys[0], keys[0]]))
        assert found == [rows[0], rows[-1]]


@pytest.mark.parametrize("first", [1, 2, 100])
@pytest.mark.parametrize("kind", [Kind.INT64, Kind.TIMESTAMPTZ, Kind.BYTES])
def test_reading_all_gives_what_chunks_give(node: Node, kind: Kind, first: int) -> None:
    ids = {
        Kind.INT64: [5, -7, 0, 2**40, 6],
        Kind.TIMESTAMPTZ: ["infinity", DAY, DAY.replace(year=1)],
        Kind.BYTES: [Binary(b) for b in (b"\xff", b"", b"ab")],
    }[kind]
    of = table("streamed", {"a": kind}, ("a",))
    node.db["streamed"].insert_many([{"_id": id} for id in ids])
    found = [row for b in read_all(node.snapshot, of, ChunkSize(first)) for row in _plain(b)]
    assert len(found) == len(ids)
    assert found == list(chunks(node, of, 2))


def test_a_copy_is_read_at_the_primary(node: Node, mongodb_db: str) -> None:
    """A DSN that prefers secondaries, of which this server has none, finds the rows nevertheless."""
    node.db["orders"].insert_one({"_id": 1})
    sep = "&" if "?" in mongodb_db else "?"
    there = f"{mongodb_db}{sep}readPreference=secondary&directConnection=false&serverSelectionTimeoutMS=3000"
    with closing(MongoEngine(NodeConfig(NODE, "mongodb", there), GROUP).snapshot()) as snapshot:
        assert snapshot.read_chunk(ORDERS, None, 10).num_rows == 1


def test_reading_all_refuses_foreign_keys(node: Node) -> None:
    of = table("streamed", {"a": Kind.INT64}, ("a",))
    node.db["streamed"].insert_many([{"_id": 1}, {"_id": {"a": 1}}])
    with pytest.raises(RowRefused):
        list(read_all(node.snapshot, of, ChunkSize()))


def test_rows_are_read_as_they_are_captured(node: Node) -> None:
    node.db.orders.insert_many(
        [
            {
                "_id": 2,
                "qty": 1.0,
                "address": {"city": "Ulm"},
                "tags": [1, {"x": None}],
                "price": Decimal128("1.10"),
            },
            {"_id": 1, "address": "here", "other": 1},
        ]
    )
    batch = node.snapshot.read_chunk(ORDERS, None, 10)
    assert batch.to_pylist() == [
        {
            "_key": encode_key([1], [Kind.INT64]),
            "id": 1,
            "qty": None,
            "city": None,
            "tags": None,
            "price": None,
        },
        {
            "_key": encode_key([2], [Kind.INT64]),
            "id": 2,
            "qty": 1,
            "city": "Ulm",
            "tags": '[1,{"x":null}]',
            "price": "1.10",
        },
    ]
    assert node.snapshot.estimate_rows(ORDERS) == 2
    assert node.snapshot.read_keys(ORDERS, []).num_rows == 0
    assert node.snapshot.read_chunk(ORDERS, batch.column("_key")[1].as_py(), 10).num_rows == 0


@pytest.mark.parametrize("stray", ["text", {"a": 1}, True, DAY, None, 1.5, float("nan"), Decimal128("1E+40")])
@pytest.mark.parametrize("limit", [2, 100])
def test_documents_with_foreign_keys_are_not_skipped(node: Node, stray: Any, limit: int) -> None:
    node.db.orders.insert_many([{"_id": stray}, *({"_id": n} for n in range(5))])
    with pytest.raises(RowRefused) as caught:
        list(chunks(node, ORDERS, limit))
    assert "_id" in str(caught.value)
    assert caught.value.node == NODE


def test_an_unreadable_value_stops_the_copy(node: Node) -> None:
    node.db.orders.insert_one({"_id": 1, "qty": "many"})
    with pytest.raises(RowRefused, match="qty: 'many' is no int32"):
        node.snapshot.read_chunk(ORDERS, None, 10)


def test_the_schema_of_a_collection_is_its_key(node: Node) -> None:
    assert node.catalog.read_schema(TableMapping("x", ("id",), {NODE: "nowhere"})) is None
    mapping = TableMapping("things", ("a", "b"), {NODE: "things"})
    node.db.things.insert_one({"_id": {"a": Decimal128("1"), "b": b"x"}})
    schema = node.catalog.read_schema(mapping)
    assert schema is not None
    assert [(c.name, c.type.kind) for c in schema.columns] == [("a", Kind.NUMERIC), ("b", Kind.BYTES)]


def found(node: Node, *tables: Table) -> dict[str, Finding]:
    return {f.subject: f for f in node.catalog.preflight(tables)}


def test_preflight_has_nothing_to_say_of_a_prepared_node(node: Node) -> None:
    assert found(node, ORDERS) == {}


def test_preflight_names_what_stands_in_the_way(node: Node) -> None:
    ids = {"id": Kind.INT64}
    node.db.create_collection("plain")
    node.db.create_collection("ring", capped=True, size=10_000)
    node.db.create_collection("view", viewOn="orders", pipeline=[{"$match": {"_id": 1}}])
    node.db.orders.insert_one({"_id": "stray"})
    plain, ring, view = (table(name, ids) for name in ("plain", "ring", "view"))
    own = table("sync_worker.marker", ids)
    floats = table("floats", {"id": Kind.FLOAT64})
    blobs, times = table("blobs", {"id": Kind.BYTES}), table("times", {"id": Kind.TIMESTAMP})
    findings = found(node, ORDERS, plain, ring, view, own, floats, blobs, times)
    levels = {subject: f.level for subject, f in findings.items()}
    assert levels == {
        "orders": "warning",
        "plain": "warning",
        "ring": "error",
        "view": "error",
        "sync_worker.marker": "error",
        "floats": "error",
        "blobs": "warning",
        "times": "warning",
    }
    assert "stray" in findings["orders"].message
    assert findings["plain"].remedy.startswith("db.runCommand({collMod:")
    assert all(f.remedy for f in findings.values())


def test_a_user_without_privileges(tmp_path: Path) -> None:
    """What fails names what to do, and the password never appears."""
    with MongoServer(tmp_path) as server:
        with MongoClient(server.dsn()) as client:
            client.shop.create_collection("orders")
            client.admin.command("createUser", "root", pwd="hunter2", roles=["root"])
            client.shop.command("createUser", "reader", pwd="hunter2", roles=["read"])
        server.stop()
        with MongoServer(tmp_path, options=["--auth"]) as guarded:
            dsn = with_database(guarded.dsn(), "shop").replace("//", "//reader:hunter2@")
            engine = MongoEngine(NodeConfig(NODE, "mongodb", dsn), GROUP)
            with closing(engine.catalog()) as catalog, closing(engine.control()) as control:
                findings = catalog.preflight([ORDERS])
                with pytest.raises(Terminal) as caught:
                    control.prepare([ORDERS])
    assert "grant the privilege" in caught.value.hint
    assert "hunter2" not in f"{findings}{caught.value!r}{engine.node!r}"


def test_dropping_a_group_leaves_the_others(node: Node, mongodb_db: str) -> None:
    with closing(Node(mongodb_db, group="other")) as other:
        other.control.put_state("copy", "1")
        node.control.put_state("copy", "2")
        node.control.drop()
        node.control.drop()
        assert node.control.get_state("copy") is None
        assert other.control.get_state("copy") == "1"
        other.control.drop()
    assert [n for n in node.db.list_collection_names() if n.startswith("sync_worker")] == []


def test_a_start_that_failed_keeps_its_place(node: Node) -> None:
    node.db.orders.insert_one({"_id": 1})
    assert node.control.prepare([ORDERS]) == node.start
    node.control.drop()
    assert node.control.prepare([ORDERS]).order > node.start.order
