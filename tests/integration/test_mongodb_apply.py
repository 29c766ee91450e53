"""What we write to MongoDB, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bson import Int64
from bson.decimal128 import Decimal128
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from replication.batch import Outcome
from replication.change import Changes, Echo
from replication.engines.mongodb.config import MARKER
from replication.engines.mongodb.sessions import open_session
from replication.engines.mongodb.snapshot import ABSENT_PER_FIND, find_ids
from replication.errors import Contention
from replication.key import encode_key
from replication.types import Kind
from tests.fixtures.mongodb_node import GROUP, Node, of_type, table

ORDER: dict[str, Any] = {"id": 1, "qty": 5, "city": "Ulm", "tags": '{"a":[1,2.5]}', "price": "1.50"}
EVENTS = table("events", {"day": Kind.TIMESTAMP, "code": Kind.TEXT, "size": Kind.FLOAT64}, ("day", "code"))


@pytest.fixture
def node(mongodb_db: str) -> Iterator[Node]:
    with closing(Node(mongodb_db)) as made:
        yield made


def key(ident: int) -> bytes:
    return encode_key([ident], [Kind.INT64])


def echoed(node: Node) -> list[int]:
    """How many rows each of our transactions changed, by its events."""
    return [sum(t.rows.num_rows for t in e.rows) for e in of_type(node.read(echoes=True), Echo)]


def test_rows_become_documents(node: Node) -> None:
    assert (
        node.apply(ORDER, {"id": 2**40, "qty": None, "city": None, "tags": None, "price": "NaN"}).held == []
    )
    assert list(node.db.orders.find(sort=[("_id", 1)])) == [
        {
            "_id": 1,
            "qty": 5,
            "tags": {"a": [1, 2.5]},
            "price": Decimal128("1.50"),
            "address": {"city": "Ulm"},
        },
        {"_id": 2**40, "qty": None, "tags": None, "price": Decimal128("NaN"), "address": {"city": None}},
    ]


def test_unmapped_fields_are_never_lost(node: Node) -> None:
    node.db.orders.insert_one({"_id": 1, "qty": 1, "note": "mine", "address": {"city": "Bonn", "zip": 7}})
    node.apply(ORDER)
    document = node.db.orders.find_one()
    assert document["note"] == "mine"
    assert document["address"] == {"city": "Ulm", "zip": 7}
    assert document["qty"] == 5


def test_values_that_mean_the_same_are_left_alone(node: Node) -> None:
    """Type, scale and field order stay as the application wrote them, and no event comes of it."""
    stored = {"_id": 1, "qty": Int64(5), "address": {"city": "Ulm"}, "tags": {"b": 1, "a": 2.0}, "price": 1.5}
    node.db.orders.insert_one(stored)
    node.apply(ORDER | {"tags": '{"a":2,"b":1}'})
    assert node.db.orders.find_one() == stored
    assert type(node.db.orders.find_one()["price"]) is float
    assert echoed(node) == [0]


def test_missing_versus_null(node: Node) -> None:
    node.db.orders.insert_many([{"_id": 1}, {"_id": 2, "qty": 1, "tags": None}, {"_id": 3, "address": None}])
    nothing = {"qty": None, "city": None, "tags": None, "price": None}
    node.apply(*({"id": n} | nothing for n in (1, 2, 3, 4)))
    assert list(node.db.orders.find(sort=[("_id", 1)])) == [
        {"_id": 1},
        {"_id": 2, "qty": None, "tags": None},
        {"_id": 3, "address": None},
        {"_id": 4, "qty": None, "address": {"city": None}, "tags": None, "price": None},
    ]
    assert echoed(node) == [2]


def test_parents_of_nested_paths(node: Node) -> None:
    node.db.orders.insert_many(
        [{"_id": 1}, {"_id": 2, "address": None}, {"_id": 3, "address": "Ulm"}, {"_id": 4}]
    )
    applied = node.apply(*(ORDER | {"id": n} for n in (1, 2, 3, 4)))
    assert [(h.key, h.table) for h in applied.held] == [(key(3), "orders")]
    assert "address holds 'Ulm'" in applied.held[0].reason
    found = {d["_id"]: d["address"] for d in node.db.orders.find()}
    assert found == {1: {"city": "Ulm"}, 2: {"city": "Ulm"}, 3: "Ulm", 4: {"city": "Ulm"}}


def test_partial_rows_change_what_they_have(node: Node) -> None:
    node.apply(ORDER)
    applied = node.apply({"id": 1, "qty": 9}, {"id": 2, "qty": 9})
    assert applied.missing == [("orders", key(2))]
    assert [(d["_id"], d["qty"], d["tags"]) for d in node.db.orders.find()] == [(1, 9, {"a": [1, 2.5]})]


def test_keys_of_several_columns(mongodb_db: str) -> None:
    with closing(Node(mongodb_db, [EVENTS])) as node:
        day = datetime(2024, 5, 1, tzinfo=UTC).replace(tzinfo=None)
        rows = [{"day": day, "code": code, "size": 0.1} for code in ("a", "b", "")]
        node.apply(*rows)
        node.apply({"day": day, "code": "a", "_delete": True}, rows[1] | {"size": 2.0})
        assert list(node.db.events.find(sort=[("_id", 1)])) == [
            {"_id": {"day": day, "code": ""}, "size": 0.1},
            {"_id": {"day": day, "code": "b"}, "size": 2.0},
        ]
        late = day.replace(microsecond=1)
        (held,) = node.apply({"day": late, "code": "x", "size": 1.0}).held
        assert "without loss" in held.reason


def test_fenced_zombie(node: Node) -> None:
    late = node.batch(ORDER)
    node.control.raise_epoch(1, 1, late.marker)
    assert node.applier.apply(late).outcome is Outcome.FENCED
    assert node.db.orders.find_one() is None


@pytest.mark.parametrize("successor", ["applier", "epoch"])
def test_a_transaction_that_lost_its_process_is_ended_by_the_successor(node: Node, successor: str) -> None:
    """The server would keep it, and our marker locked, for a minute."""
    batch = node.batch(ORDER)
    address = node.engine.node.dsn
    with MongoClient(address) as client:
        db = client.get_default_database()
        session = open_session(db, GROUP, batch.marker.shard)
        session.start_transaction()
        markers = db[MARKER]
        markers.update_one({}, {"$set": {"by": "the dead"}}, session=session)
        if successor == "epoch":
            (marker,) = node.control.raise_epoch(1, 1, batch.marker)
            assert marker.epoch > 1
        else:
            assert node.applier.apply(batch).outcome is Outcome.COMMITTED
        assert "by" not in node.db[MARKER].find_one()
        with pytest.raises(PyMongoError):
            session.commit_transaction()
        session.end_session()


def test_a_batch_commits_once(node: Node) -> None:
    first = node.batch(ORDER)
    assert node.applier.apply(first).outcome is Outcome.COMMITTED
    assert node.applier.apply(first).outcome is Outcome.ALREADY
    gap = node.batch(ORDER | {"qty": 6}, seq=5, after=4)
    assert node.applier.apply(gap).outcome is Outcome.EARLY
    assert node.db.orders.find_one()["qty"] == 5


def test_a_write_conflict_is_contention_and_the_batch_can_be_tried_again(node: Node) -> None:
    node.apply(ORDER)
    batch = node.batch(ORDER | {"qty": 6}, {"id": 2, "_delete": True})
    with node.client.start_session() as session:
        session.start_transaction()
        node.db.orders.update_one({"_id": 1}, {"$set": {"qty": 7}}, session=session)
        with pytest.raises(Contention):
            node.applier.apply(batch)
        session.commit_transaction()
    assert node.db.orders.find_one()["qty"] == 7
    assert node.applier.apply(batch).outcome is Outcome.COMMITTED
    assert node.db.orders.find_one()["qty"] == 6
    assert [e.marker.seq for e in of_type(node.read(), Echo)] == [1, 2]


def test_a_copied_row_never_replaces_a_document_that_came_since_the_look(node: Node) -> None:
    """An application may have written it a moment ago; who looks again finds and keeps it."""
    node.db.orders.insert_one({"_id": 1, "qty": 8})
    batch = node.batch(ORDER | {"_read": True}, ORDER | {"id": 2, "_read": True})
    with pytest.raises(Contention):
        node.applier.apply(batch)
    assert node.db.orders.find_one({"_id": 1}) == {"_id": 1, "qty": 8}
    assert node.db.orders.count_documents({}) == 1
    node.db.orders.delete_one({"_id": 1})
    assert node.applier.apply(batch).outcome is Outcome.COMMITTED
    assert node.db.orders.find_one({"_id": 1})["qty"] == 5


@pytest.mark.parametrize("there", [0, 1, 3])
def test_documents_are_found_however_few_of_them_there_are(node: Node, there: int) -> None:
    count = 3 * ABSENT_PER_FIND
    ids = list(range(count))
    present = [ids[(n + 1) * count // (there + 1) - 1] for n in range(there)]
    if present:
        node.db.orders.insert_many([{"_id": i} for i in present])
    assert [d["_id"] for d in find_ids(node.db.orders, ids, {"_id": 1})] == present


@pytest.mark.parametrize("bad", [1, 9])
def test_poison_row_does_not_block(node: Node, bad: int) -> None:
    """Rows that break a unique index or a validation rule are held; the others commit with the marker."""
    node.db.command({"collMod": "orders", "validator": {"qty": {"$ne": 13}}})
    node.db.orders.create_index("price", unique=True)
    node.db.orders.insert_one({"_id": 100, "price": Decimal128("7"), "qty": 1})
    good = [ORDER | {"id": n, "price": f"{n}.5"} for n in range(20)]
    poison = [ORDER | {"id": 50 + n, "qty": 13, "price": f"{n}.25"} for n in range(bad)]
    taken = ORDER | {"id": 99, "price": "7"}
    applied = node.apply(*good[:10], *poison, taken, *good[10:])
    assert applied.outcome is Outcome.COMMITTED
    assert sorted(h.key for h in applied.held) == [key(50 + n) for n in range(bad)] + [key(99)]
    reasons = {h.key: h.reason for h in applied.held}
    assert "11000" in reasons[key(99)]
    assert "121" in reasons[key(50)]
    assert node.db.orders.count_documents({}) == 21
    assert echoed(node) == [20]


def test_updates_and_deletes_are_refused_one_by_one_too(node: Node) -> None:
    node.apply(*(ORDER | {"id": n, "price": str(n)} for n in range(5)))
    node.db.orders.create_index("price", unique=True)
    applied = node.apply(
        ORDER | {"id": 1, "price": "2"}, {"id": 3, "_delete": True}, ORDER | {"id": 4, "price": "3"}
    )
    assert [h.key for h in applied.held] == [key(1)]
    assert {d["_id"]: str(d["price"]) for d in node.db.orders.find()} == {0: "0", 1: "1", 2: "2", 4: "3"}


def test_what_bson_cannot_hold_is_held(node: Node) -> None:
    applied = node.apply(
        ORDER | {"id": 1, "price": "1" + "0" * 6300},
        ORDER | {"id": 2, "tags": '{"a\\u0000b":1}'},
        ORDER | {"id": 3, "city": "x" * (17 * 1024 * 1024)},
        ORDER | {"id": 4},
    )
    assert sorted(h.key for h in applied.held) == [key(1), key(2), key(3)]
    assert [d["_id"] for d in node.db.orders.find()] == [4]


def test_numbers_are_narrowed_and_a_wider_one_is_not_degraded(node: Node) -> None:
    long = "0.1234567890123456789012345678901234567890"
    node.apply(ORDER | {"price": long})
    assert str(node.db.orders.find_one()["price"]) == "0.1234567890123456789012345678901234"
    node.apply(ORDER | {"price": long})
    assert echoed(node) == [1, 0]


def test_an_unreadable_stored_value_is_replaced(node: Node) -> None:
    node.db.orders.insert_one({"_id": 1, "qty": "many", "price": "cheap", "address": {"city": 5}})
    node.apply(ORDER | {"city": "5"})
    document = node.db.orders.find_one()
    assert (document["qty"], document["price"]) == (5, Decimal128("1.50"))
    assert document["address"]["city"] == 5


def test_an_application_sees_all_of_a_batch_or_nothing(node: Node) -> None:
    node.apply(*(ORDER | {"id": n} for n in range(50)))
    with node.client.start_session(snapshot=True) as before:
        assert node.db.orders.count_documents({}, session=before) == 50
    node.apply(*({"id": n, "_delete": True} for n in range(49)), ORDER | {"id": 49, "qty": 1})
    assert [(d["_id"], d["qty"]) for d in node.db.orders.find()] == [(49, 1)]
    assert of_type(node.read(), Changes) == []


def test_extreme_dates(mongodb_db: str) -> None:
    """Beyond the years that drivers know, dates are text; they come back as they were."""
    when = table("moments", {"id": Kind.INT64, "at": Kind.TIMESTAMPTZ, "day": Kind.DATE})
    years = [-290_000, -44, 0, 1, 9999, 10_000, 15_000, 290_000]
    moments = [int(np.datetime64(f"{y}-03-15T01:02:03.004", "us").astype(np.int64)) for y in years]
    values = [-(2**63), *moments, 2**63 - 1]
    days = [-(2**31), *(m // 86_400_000_000 for m in moments), 2**31 - 1]
    with closing(Node(mongodb_db, [when])) as node:
        node.apply(
            *({"id": n, "at": at, "day": day} for n, (at, day) in enumerate(zip(values, days, strict=True)))
        )
        found = {d["_id"]: (d["at"], d["day"]) for d in node.db.moments.find()}
        assert found[0] == ("-infinity", "-infinity")
        assert found[2] == ("-0044-03-15T01:02:03.004Z", "-0044-03-15")
        assert found[4] == (datetime(1, 3, 15, 1, 2, 3, 4000), datetime(1, 3, 15))  # noqa: DTZ001
        assert found[7][1] == "15000-03-15"
        (echo,) = of_type(node.read(echoes=True), Echo)
        chunk = node.snapshot.read_chunk(when, None, 100)
        for rows in (echo.rows[0].rows, chunk):
            assert rows.column("at").view(pa.int64()).to_pylist() == values
            assert rows.column("day").cast(pa.int32()).to_pylist() == days
