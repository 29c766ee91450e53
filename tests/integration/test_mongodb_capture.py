"""MongoDB's log as we read it, against a real server."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from pymongo.errors import PyMongoError

from cluster.servers.mongodb import MongoServer
from replication.change import Changes, Echo, LogEvent, Op, SchemaChange, Unreadable
from replication.engine import Source
from replication.engines.mongodb.delta import after_image
from replication.errors import LogLost, NodeUnavailable, SchemaChanged, Terminal
from replication.position import START, Position, split_order
from tests.fixtures.mongodb_node import ORDERS, PATIENCE, Node, change_rows, of_type


@pytest.fixture
def node(mongodb_db: str) -> Iterator[Node]:
    with closing(Node(mongodb_db)) as made:
        yield made


def test_update_lookup_trap(node: Node) -> None:
    """The document changed again and vanished before its events are read: each version comes as it was."""
    orders = node.db.orders
    orders.insert_one({"_id": 1, "qty": 1, "address": {"city": "Ulm"}, "tags": [1, 2, 3]})
    orders.update_one({"_id": 1}, {"$set": {"qty": 2, "tags.1": 9}})
    orders.update_one({"_id": 1}, {"$push": {"tags": 4}, "$unset": {"address.city": 1}})
    orders.update_one(
        {"_id": 1}, [{"$set": {"tags": {"$slice": ["$tags", 2]}, "qty": {"$add": ["$qty", 1]}}}]
    )
    orders.delete_one({"_id": 1})
    seen = [(r["_op"], r["qty"], r["city"], r["tags"]) for r in change_rows(node.read())]
    assert seen == [
        (Op.INSERT, 1, "Ulm", "[1,2,3]"),
        (Op.UPDATE, 2, "Ulm", "[1,9,3]"),
        (Op.UPDATE, 2, None, "[1,9,3,4]"),
        (Op.UPDATE, 3, None, "[1,9]"),
        (Op.DELETE, None, None, None),
    ]


def test_after_images_are_what_the_server_stored(node: Node) -> None:
    """Random updates of every operator: the computed document is the stored one, each time."""
    rng = random.Random(7)
    orders = node.db.orders
    orders.insert_one({"_id": 1, "n": 0, "d": {"x": 1, "0": {"y": [1, 2]}}, "l": [{"k": 1}, 2, [3, 4]]})
    stored = []
    for step in range(200):
        try:
            orders.update_one({"_id": 1}, _random_update(rng, step))
        except PyMongoError:
            continue  # this operator does not fit what is there now
        stored.append(orders.find_one({"_id": 1}))
    with node.client.watch(
        full_document_before_change="required",
        show_expanded_events=True,
        resume_after={"_data": node.start.token},
        max_await_time_ms=100,
    ) as stream:
        computed = []
        while (event := stream.try_next()) is not None:
            if event["ns"].get("coll") == "orders" and event["operationType"] == "update":
                computed.append(after_image(event["fullDocumentBeforeChange"], event["updateDescription"]))
    changed = [d for d, before in zip(stored[1:], stored, strict=False) if d != before]
    assert computed[-len(changed) :] == changed
    assert len(changed) > 60


def _random_update(rng: random.Random, step: int) -> dict[str, Any]:
    path = rng.choice(
        ["n", "d", "d.x", "d.0", "d.0.y", "d.0.y.1", "d.new.deep", "l", "l.0.k", "l.2", "l.2.0", "l.5"]
    )
    value = rng.choice([step, [step, step], {"k": step}, None])
    return rng.choice(
        [
            {"$set": {path: value}},
            {"$unset": {path: 1}},
            {"$push": {path: value}},
            {"$push": {path: {"$each": [step], "$slice": 2}}},
            {"$pop": {path: -1}},
            {"$inc": {path: 1}},
            {"$set": {"l": [{"k": 1}, 2, [3, 4]], "d": {"x": 1, "0": {"y": [1, 2]}}}},
        ]
    )


def test_missing_versus_null(node: Node) -> None:
    node.db.orders.insert_many(
        [{"_id": 1}, {"_id": 2, "qty": None, "address": None}, {"_id": 3, "address": "here"}]
    )
    rows = change_rows(node.read())
    assert [(r["qty"], r["city"]) for r in rows] == [(None, None)] * 3
    assert [r["_have"] for r in rows] == [None] * 3


def test_reading_resumes_in_a_transaction(node: Node) -> None:
    orders = node.db.orders
    with node.client.start_session() as session, session.start_transaction():
        orders.insert_many([{"_id": n, "qty": n} for n in range(4)], session=session)
        node.db.other.insert_one({"_id": 1}, session=session)
    orders.insert_one({"_id": 99})
    whole = change_rows(node.read())
    assert len({row["_hi"] for row in whole[:4]}) == 1
    assert [row["_lo"] for row in whole[:4]] == list(range(1, 5))
    with node.source() as source:
        parts = of_type(node.drain(source, max_rows=2), Changes)
    for at, part in enumerate(parts):
        rest = [row for later in parts[at + 1 :] for row in change_rows([later])]
        assert change_rows(node.read(part.end)) == rest
        assert change_rows(node.read(Position(part.end.order))) == rest


def test_reading_starts_at_the_beginning_of_the_log(tmp_path: Path) -> None:
    with MongoServer(tmp_path) as server, closing(Node(server.dsn("shop"))) as node:
        node.db.orders.insert_one({"_id": 1})
        assert [r["id"] for r in change_rows(node.read(START))] == [1]


@pytest.mark.parametrize("max_rows", [1, 2, 1000])
@pytest.mark.parametrize("echoes", [False, True])
def test_echoes_among_application_transactions(node: Node, max_rows: int, echoes: bool) -> None:
    node.db.orders.insert_one({"_id": 1, "qty": 1})
    node.apply(*({"id": n, "qty": n, "city": None, "tags": None, "price": None} for n in range(1, 6)))
    with node.client.start_session() as session, session.start_transaction():
        node.db.orders.update_one({"_id": 2}, {"$set": {"qty": 20}}, session=session)
        node.db.orders.delete_one({"_id": 3}, session=session)
    node.apply({"id": 4, "_delete": True})
    node.apply()
    with node.source(echoes=echoes) as source:
        events = node.drain(source, max_rows)
    assert [e.marker.seq for e in of_type(events, Echo)] == [1, 2, 3]
    assert [(r["id"], r["_op"]) for r in change_rows(events)] == [(1, 1), (2, 2), (3, 3)]
    decoded = [[r["id"] for t in e.rows for r in t.rows.to_pylist()] for e in of_type(events, Echo)]
    assert decoded == ([[2, 3, 4, 5], [4], []] if echoes else [[], [], []])
    ends = [e.end.order for e in events]
    assert ends == sorted(ends)
    for position in [e.end for e in events]:
        rest = node.read(position)
        assert change_rows(rest) == [
            r for r in change_rows(events) if (r["_hi"] << 32) + r["_lo"] > position.order
        ]


def test_own_tables_stay_home(node: Node) -> None:
    node.control.put_state("copy", "{}")
    node.snapshot.write_watermark("low")
    node.control.raise_epoch(3, 9, node.batch().marker)
    assert not [e for e in node.read() if isinstance(e, (Changes, Echo, SchemaChange))]


def test_another_groups_writes_are_an_applications(node: Node, mongodb_db: str) -> None:
    with closing(Node(mongodb_db, group="other")) as other:
        other.apply({"id": 1, "qty": 1, "city": "Ulm", "tags": "[]", "price": "1"})
        assert [r["id"] for r in change_rows(node.read())] == [1]
        assert of_type(node.read(), Echo) == []
        assert [e.marker.group for e in of_type(other.read(), Echo)] == ["other"]


def test_oplog_rolled_over(tmp_path: Path) -> None:
    """Resuming where the oplog no longer reaches halts, by token and by time alike."""
    with _small_oplog(tmp_path) as server, closing(Node(server.dsn("shop"))) as node:
        node.db.orders.insert_one({"_id": -1})
        _roll_over(node)
        for start in (node.start, Position(node.start.order)):
            with node.source(start) as source, pytest.raises(LogLost) as caught:
                source.poll(1000, 0.1)
            assert caught.value.node == node.engine.node.name
            assert "sync-worker reset" in caught.value.hint


def test_oplog_rolled_over_while_reading_paused(tmp_path: Path) -> None:
    """This server would skip what it no longer has; the source finds that out before it gives out any."""
    with (
        _small_oplog(tmp_path) as server,
        closing(Node(server.dsn("shop"))) as node,
        node.source() as source,
    ):
        node.db.orders.insert_one({"_id": -1})
        assert [r["id"] for r in change_rows(node.drain(source))] == [-1]
        _roll_over(node)
        with pytest.raises(LogLost):
            source.poll(1000, 0.1)


def _small_oplog(path: Path) -> MongoServer:
    return MongoServer(path, options=["--oplog-max-entries", "200"])


def _roll_over(node: Node) -> None:
    for begin in range(0, 4000, 1000):
        node.db.orders.insert_many([{"_id": begin + i} for i in range(1000)])


def test_documents_that_cannot_be_read_are_held(node: Node) -> None:
    orders = node.db.orders
    orders.insert_many(
        [
            {"_id": 1, "qty": 1},
            {"_id": 2, "qty": "many"},
            {"_id": "three"},
            {"_id": 4, "price": Decimal128("4.50")},
        ]
    )
    orders.update_one({"_id": 2}, {"$set": {"qty": 2}})
    events = node.read()
    assert [(r["id"], r["qty"], r["price"]) for r in change_rows(events)] == [
        (1, 1, None),
        (4, None, "4.50"),
        (2, 2, None),
    ]
    held = of_type(events, Unreadable)
    assert [h.key[-1:] for h in held] == [b"\x02", b""]
    assert "qty: 'many' is no int32" in held[0].reason


def test_without_pre_images(node: Node) -> None:
    node.db.orders.insert_one({"_id": 1, "qty": 1, "tags": [1], "address": {"city": "Ulm"}})
    node.db.command({"collMod": "orders", "changeStreamPreAndPostImages": {"enabled": False}})
    node.db.orders.update_one({"_id": 1}, {"$set": {"qty": 2, "address.zip": 5}})
    events = node.read()
    assert [(e.table, e.what) for e in of_type(events, SchemaChange)] == [("orders", "alter")]
    partial = change_rows(events)[-1]
    assert (partial["_have"], partial["qty"], partial["tags"]) == (bytes([0b11]), 2, None)
    node.db.orders.update_one({"_id": 1}, {"$push": {"tags": 2}})
    with node.source(events[-1].end) as source, pytest.raises(Terminal, match="before-image"):
        node.drain(source)
    assert node.control.prepare([ORDERS]) == node.start
    (options,) = [c["options"] for c in node.db.list_collections(filter={"name": "orders"})]
    assert options["changeStreamPreAndPostImages"] == {"enabled": True}


def test_ddl_of_mapped_collections(node: Node) -> None:
    node.db.orders.insert_one({"_id": 1})
    node.db.orders.create_index("qty")
    node.db.orders.rename("gone")
    node.db.create_collection("orders")
    node.db.orders.drop()
    node.db.other.drop()
    changes = of_type(node.read(), SchemaChange)
    assert [(c.table, c.what) for c in changes] == [("orders", "rename"), ("orders", "drop")]


def test_a_dropped_database_stops_the_node(node: Node) -> None:
    with node.source() as source:
        node.db.orders.insert_one({"_id": 1})
        node.client.drop_database(node.db.name)
        events: list[LogEvent] = []
        with pytest.raises(SchemaChanged):
            _poll_for_ever(source, events)
    assert [r["id"] for r in change_rows(events)] == [1]
    assert of_type(events, SchemaChange)[-1].what == "drop"


def _poll_for_ever(source: Source, events: list[LogEvent]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        events += source.poll(1000, 1.0)


def test_a_large_document_and_its_before_image(node: Node) -> None:
    """Before and after are nearly 10 MB each, so the event needs to be split."""
    node.db.orders.insert_one({"_id": 1, "address": {"city": "a" * 9_500_000}})
    node.db.orders.update_one({"_id": 1}, {"$set": {"address.city": "b" * 9_500_000}})
    node.db.orders.insert_one({"_id": 2})
    rows = change_rows(node.read())
    assert [(r["id"], (r["city"] or "")[:1], len(r["city"] or "")) for r in rows] == [
        (1, "a", 9_500_000),
        (1, "b", 9_500_000),
        (2, "", 0),
    ]


def test_a_killed_server_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    with (
        MongoServer(tmp_path, options=["--sync-on-commit"]) as server,
        closing(Node(server.dsn("shop"))) as node,
        node.source() as source,
    ):
        node.db.orders.insert_one({"_id": 1})
        (first,) = of_type(node.drain(source), Changes)
        node.db.orders.insert_one({"_id": 2})
        server.kill()
        with pytest.raises(NodeUnavailable):
            source.poll(1000, 1.0)
        server.start()
        node.db.orders.insert_one({"_id": 3})
        rest = change_rows(node.read(first.end))
    assert [r["id"] for r in rest] == [2, 3]
    assert rest[0]["_hi"] > split_order(first.end.order)[0]


def test_commit_times_have_milliseconds(node: Node) -> None:
    node.db.orders.insert_one({"_id": 1})
    (row,) = change_rows(node.read())
    reply = node.db.command("hello")
    assert 0 <= reply["localTime"].timestamp() * 1e6 - row["_ts"] < PATIENCE * 1e6
    assert int(DatetimeMS(row["_ts"] // 1000)) * 1000 == row["_ts"]


def test_two_databases_on_one_server_do_not_mix(node: Node) -> None:
    foreign = node.client[f"{node.db.name}_b"]
    try:
        foreign.orders.insert_one({"_id": 1})
        node.db.orders.insert_one({"_id": 2})
        assert [r["id"] for r in change_rows(node.read())] == [2]
    finally:
        node.client.drop_database(foreign.name)
