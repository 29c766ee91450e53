"""Records of changes as Kafka's consumers read them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from replication.audit.feed import Added
from replication.audit.records import change_records
from replication.change import Op, change_schema
from replication.envelope import LOG, POSITION, SEQUENCE, UNAVAILABLE, Message, messages, spelled
from replication.key import encode_keys
from replication.schema import Column, TableSchema
from replication.types import CanonicalType, Kind

ORDERS = TableSchema(
    "orders",
    (
        Column("id", CanonicalType(Kind.INT64)),
        Column("note", CanonicalType(Kind.TEXT)),
        Column("tags", CanonicalType(Kind.LIST, item=Kind.TEXT)),
    ),
    ("id",),
)


def batch(table: TableSchema = ORDERS, **columns: list[Any]) -> pa.RecordBatch:
    """Changes with these columns."""
    count = len(columns["_op"])
    given = {"_hi": [5] * count, "_lo": list(range(count)), "_ts": [1_700_000_000_123_456] * count} | columns
    schema = change_schema(table.arrow)
    return pa.RecordBatch.from_arrays(
        [pa.array(given.get(f.name, [None] * count), f.type) for f in schema], schema=schema
    )


def published(
    table: TableSchema, place: int = 7, trace: str | None = None, **columns: list[Any]
) -> list[Message]:
    """The messages of changes with these columns."""
    keys = encode_keys(
        [pa.array(columns[k], table.column(k).type.arrow) for k in table.key],
        [table.column(k).type.kind for k in table.key],
    )
    rows = batch(table, **({"_key": keys.to_pylist()} | columns))
    recorded = change_records("pg", 0, rows, 1_700_000_000_999_000, trace)
    return list(messages("shop", "log1", table, Added("changes/orders", place, recorded)))


def test_each_operation_has_its_envelope() -> None:
    ops = [Op.INSERT, Op.UPDATE, Op.READ]
    found = published(ORDERS, _op=ops, id=[1, 1, 2], note=["a", None, "c"], tags=['["x"]', None, "[]"])
    values = [json.loads(m.value or b"null") for m in found]
    assert [v["op"] for v in values] == ["c", "u", "r"]
    assert [v["source"]["snapshot"] for v in values] == ["false", "false", "true"]
    assert values[0] == {
        "before": None,
        "after": {"id": 1, "note": "a", "tags": ["x"]},
        "source": {
            "connector": "sync-worker",
            "name": "shop",
            "ts_ms": 1_700_000_000_123,
            "ts_us": 1_700_000_000_123_456,
            "snapshot": "false",
            "db": "shop",
            "table": "orders",
            "node": "pg",
            "position": "5:0",
        },
        "op": "c",
        "ts_ms": 1_700_000_000_999,
        "transaction": None,
    }
    assert [m.key for m in found] == [b'{"id":1}', b'{"id":1}', b'{"id":2}']
    assert {m.topic for m in found} == {"shop.orders"}
    assert found[1].headers == {SEQUENCE: b"16", POSITION: b"pg:5:1", LOG: b"log1"}


def test_names_are_what_they_are_whatever_characters_they_have() -> None:
    name = '50%d "of" %b%%'
    table = TableSchema(name, ORDERS.columns, ORDERS.key)
    rows = batch(_op=[Op.INSERT], id=[1], _key=encode_keys([pa.array([1])], [Kind.INT64]).to_pylist())
    [found] = messages(name, name, table, Added("", 0, change_records(name, 0, rows, 1)))
    source = json.loads(found.value or b"")["source"]
    assert {source[of] for of in ("name", "db", "table", "node")} == {name}
    assert (found.headers[POSITION], found.headers[LOG]) == (f"{name}:5:0".encode(), name.encode())


def test_the_trace_of_a_change_is_no_column_and_goes_on_with_its_messages() -> None:
    context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    change = {"_op": [Op.DELETE], "id": [1], "note": [None], "tags": [None]}
    for trace in (None, "", context):
        found = published(ORDERS, 7, trace, **change)
        assert [m.headers.get("traceparent") for m in found] == [context.encode() if trace else None] * 2
        assert json.loads(found[0].value or b"")["before"] == {"id": 1, "note": None, "tags": None}


def test_a_delete_is_an_event_and_a_tombstone_and_a_changed_key_is_a_delete_and_an_insert() -> None:
    found = published(ORDERS, _op=[Op.DELETE, Op.INSERT], id=[1, 2], note=[None, "a"])
    assert [m.key for m in found] == [b'{"id":1}', b'{"id":1}', b'{"id":2}']
    assert [m.value is None for m in found] == [False, True, False]
    event = json.loads(found[0].value or b"")
    assert (event["op"], event["after"]) == ("d", None)
    assert event["before"] == {"id": 1, "note": None, "tags": None}
    assert [int(m.headers[SEQUENCE]) for m in found] == [14, 15, 16], "it grows with every message"


def test_what_was_erased_from_the_log_has_no_message_and_the_others_keep_their_numbers() -> None:
    keys = [b"\x80" + bytes(6) + b"\x01", None, b"\x80" + bytes(6) + b"\x03"]
    rows = change_records("pg", 0, batch(_op=[1, 1, 1], id=[1, None, 3], note=["a", None, "c"], _key=keys), 1)
    rows = rows.append_column("_erased", pa.array([False, True, False]))
    found = list(messages("shop", "log1", ORDERS, Added("changes/orders", 7, rows)))
    assert [m.key for m in found] == [b'{"id":1}', b'{"id":3}']
    assert [int(m.headers[SEQUENCE]) for m in found] == [14, 18]
    assert json.loads(found[0].value or b"")["after"] == {"id": 1, "note": "a", "tags": None}


def test_a_value_that_the_log_leaves_out_is_not_taken_for_null() -> None:
    found = published(
        ORDERS, _op=[Op.UPDATE, Op.UPDATE], id=[1, 2], note=[None, None], _have=[b"\x01", b"\x03"]
    )
    after = [json.loads(m.value or b"")["after"] for m in found]
    assert after == [
        {"id": 1, "note": UNAVAILABLE, "tags": UNAVAILABLE},
        {"id": 2, "note": None, "tags": UNAVAILABLE},
    ]


@pytest.mark.parametrize(
    ("kind", "plain", "expected"),
    [
        (Kind.BOOLEAN, [True, None], [True, None]),
        (Kind.INT16, [-32768], [-32768]),
        (Kind.INT64, [2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
        (
            Kind.FLOAT64,
            [0.1, float("nan"), float("inf"), -float("inf")],
            [0.1, "NaN", "Infinity", "-Infinity"],
        ),
        (Kind.FLOAT32, [1.5, None], [1.5, None]),
        (Kind.NUMERIC, ["12345678901234567890.12", "NaN"], ["12345678901234567890.12", "NaN"]),
        (Kind.TEXT, ["ä\U0001f600\0"], ["ä\U0001f600\0"]),
        (Kind.BYTES, [b"\x00\xff", b"", None], ["AP8=", "", None]),
        (
            Kind.DATE,
            [0, -800_000, 5_000_000, 2**31 - 1, -(2**31)],
            ["1970-01-01", "-221-09-04", "15659-07-15", "infinity", "-infinity"],
        ),
        (
            Kind.TIME,
            [0, 86_399_999_999, 86_400_000_000],
            ["00:00:00.000000", "23:59:59.999999", "24:00:00.000000"],
        ),
        (
            Kind.TIMESTAMP,
            [1, 2**63 - 1, -(2**63), None],
            ["1970-01-01T00:00:00.000001", "infinity", "-infinity", None],
        ),
        (Kind.TIMESTAMPTZ, [1_700_000_000_123_456, None], ["2023-11-14T22:13:20.123456Z", None]),
        (Kind.UUID, ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"], ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]),
        (Kind.JSON, ['{"a": 1.0}'], ['{"a": 1.0}']),
        (Kind.OPAQUE, ["1 day"], ["1 day"]),
    ],
)
def test_every_type_keeps_its_value(kind: Kind, plain: list[Any], expected: list[Any]) -> None:
    arrow = CanonicalType(kind).arrow
    if kind is Kind.DATE:
        column = pa.array(plain, pa.int32()).cast(arrow)
    elif pa.types.is_temporal(arrow):
        column = pa.array(plain, pa.int64()).cast(arrow)
    else:
        column = pa.array(plain, arrow)
    assert spelled(column, kind) == expected


def test_a_key_of_several_columns_keeps_their_order_and_a_decimal_has_one_spelling() -> None:
    table = TableSchema(
        "prices",
        (
            Column("amount", CanonicalType(Kind.NUMERIC)),
            Column("day", CanonicalType(Kind.DATE)),
            Column("blob", CanonicalType(Kind.BYTES)),
        ),
        ("day", "amount", "blob"),
    )
    days = pa.array([19_000, 19_000], pa.int32()).cast(pa.date32()).to_pylist()
    found = published(table, _op=[Op.INSERT] * 2, amount=["1.0", "1.00"], day=days, blob=[b"a\0", b"a\0"])
    assert [m.key for m in found] == [b'{"day":"2022-01-08","amount":"1","blob":"YQA="}'] * 2
    assert [json.loads(m.value or b"")["after"]["amount"] for m in found] == ["1.0", "1.00"]
