"""Row filters: what they say of canonical values, and what becomes of rows that they exclude."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from replication.batch import APPLY_COLUMNS, apply_schema
from replication.change import Op
from replication.filter import BadFilter, described, row_filter, sort_out
from replication.schema import Column, Condition, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

COLUMNS = {
    "id": Kind.INT64,
    "region": Kind.TEXT,
    "amount": Kind.NUMERIC,
    "price": Kind.FLOAT64,
    "vip": Kind.BOOLEAN,
    "day": Kind.DATE,
    "at": Kind.TIMESTAMPTZ,
    "local": Kind.TIMESTAMP,
    "code": Kind.UUID,
    "doc": Kind.JSON,
}
SCHEMA = TableSchema("t", tuple(Column(n, CanonicalType(k)) for n, k in COLUMNS.items()), ("id",))
UTC = dt.UTC
U = "12345678-1234-1234-1234-123456789abc"


def table(*alternatives: tuple[Condition, ...]) -> Table:
    return Table(TableMapping("t", ("id",), {"my": "t"}, where={"my": alternatives}), SCHEMA)


def ask(column: str, test: str, *values: str) -> tuple[Condition, ...]:
    return (Condition(column, test, values),)


def matches(where: Table, column: str, *values: object, engines: tuple[str, ...] = ("mysql",)) -> list[bool]:
    arrays = [
        pa.array(values if n == column else [None] * len(values), CanonicalType(k).arrow)
        for n, k in COLUMNS.items()
    ]
    found = row_filter(where, "my", engines)
    assert found is not None
    return found.matches(pa.RecordBatch.from_arrays(arrays, list(COLUMNS))).tolist()


@pytest.mark.parametrize(
    ("column", "test", "asked", "values", "expected"),
    [
        ("region", "eq", ["eu"], ["eu", "EU", "eu ", None], [True, False, False, False]),
        ("region", "in", ["eu", "uk"], ["uk", "us", None], [True, False, False]),
        ("region", "ne", ["eu"], ["eu", "us", None], [False, True, False]),
        ("region", "not_in", ["eu", "uk"], ["uk", "us", None], [False, True, False]),
        ("region", "gte", ["b"], ["B", "a", "b", "é", "\U0001f600"], [False, False, True, True, True]),
        ("region", "null", ["true"], ["eu", None], [False, True]),
        ("doc", "null", ["false"], ["{}", None], [True, False]),
        ("id", "lt", ["10"], [9, 10, -1, None], [True, False, True, False]),
        ("id", "lte", ["10"], [10, 11], [True, False]),
        ("id", "in", ["1", "2"], [2, 3], [True, False]),
        ("amount", "gte", ["10"], ["9.99", "10.0", "100", "NaN", "Infinity", None],
         [False, True, True, False, True, False]),
        ("amount", "eq", ["10"], ["10.00", "10.01", "NaN"], [True, False, False]),
        ("amount", "not_in", ["10", "1.5"], ["10.00", "1.50", "NaN", None], [False, False, True, False]),
        ("amount", "lt", ["0"], ["-Infinity", "-0", "-0.001"], [True, False, True]),
        ("price", "eq", ["0"], [0.0, -0.0, float("nan")], [True, True, False]),
        ("price", "gt", ["0.5"], [0.5, 0.6, float("inf"), float("nan")], [False, True, True, False]),
        ("price", "ne", ["1"], [1.0, float("nan"), None], [False, True, False]),
        ("vip", "eq", ["true"], [True, False, None], [True, False, False]),
        ("day", "gt", ["2026-01-31"], [dt.date(2026, 1, 31), dt.date(2026, 2, 1)], [False, True]),
        ("at", "gte", ["2026-01-31T09:00:00+01:00"],
         [dt.datetime(2026, 1, 31, 8, tzinfo=UTC), dt.datetime(2026, 1, 31, 7, tzinfo=UTC)], [True, False]),
        ("code", "eq", [U.upper()], [U, U.replace("1", "2")], [True, False]),
    ],
)  # fmt: skip
def test_a_condition_asks_about_canonical_values(column, test, asked, values, expected) -> None:
    assert matches(table(ask(column, test, *asked)), column, *values) == expected


def test_conditions_must_all_hold_in_one_of_the_alternatives() -> None:
    first = (*ask("id", "gte", "1"), *ask("id", "lt", "3"))
    assert matches(table(first, ask("id", "eq", "9")), "id", 0, 1, 2, 3, 9) == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert described((first, ask("region", "null", "true"))) == "id >= 1 and id < 3 or region is null"


def test_the_answer_is_the_same_wherever_the_value_was_read() -> None:
    """A node that keeps milliseconds shows less than the node where the value was written."""
    where = table(ask("local", "gte", "2026-01-01T00:00:00.000500"))
    narrow = dt.datetime.fromisoformat("2026-01-01T00:00:00")
    wide = narrow.replace(microsecond=900)
    assert matches(where, "local", wide, narrow) == [True, False]
    assert matches(where, "local", wide, narrow, engines=("mysql", "mongodb")) == [False, False]


@pytest.mark.parametrize(
    ("condition", "message", "hint"),
    [
        (ask("regio", "eq", "eu"), "no column 'regio' is mapped", "ask about one of: id, region"),
        (ask("doc", "eq", "{}"), "the column 'doc' is json, which no filter compares", "{null: true}"),
        (ask("vip", "lt", "true"), "'lt' asks for an order, and the column 'vip' is boolean", "eq, ne"),
        (ask("id", "eq", "ten"), "'ten' is no value of the column 'id', which is int64", "a whole number"),
        (ask("id", "eq", str(1 << 70)), "is no value of the column 'id'", "a whole number"),
        (ask("amount", "gt", "NaN"), "'NaN' is no value of the column 'amount'", "write a number"),
        (ask("at", "gt", "2026-01-01"), "'2026-01-01' is no value of the column 'at'", "an instant such as"),
        (ask("day", "gt", "soon"), "'soon' is no value of the column 'day'", "a date such as"),
    ],
)
def test_a_filter_that_does_not_fit_says_so(condition, message: str, hint: str) -> None:
    with pytest.raises(BadFilter) as caught:
        row_filter(table(condition), "my", ["mysql"])
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_rows_outside_become_deletes_and_the_marker_keeps_what_was_decided() -> None:
    ops = [Op.UPDATE, Op.UPDATE, Op.DELETE, Op.READ, Op.READ]
    system = {"_op": ops, "_key": [b"a", b"b", b"c", b"d", b"e"]}
    columns = [pa.array(system.get(n, [None] * 5), t) for n, t in APPLY_COLUMNS]
    data = pa.schema([("region", pa.utf8())])
    rows = pa.RecordBatch.from_arrays(
        [*columns, pa.array(["eu", "us", None, "eu", "us"])], schema=apply_schema(data)
    )
    keeps = pa.array([True, False, False, True, False]).to_numpy(zero_copy_only=False)
    decided, applied, outside = sort_out(rows, keeps)
    assert list(zip(decided["_key"].to_pylist(), decided["_op"].to_pylist(), strict=True)) == [
        (b"a", Op.UPDATE), (b"b", Op.UPDATE), (b"c", Op.DELETE), (b"d", Op.READ),
    ]  # fmt: skip
    assert applied["_op"].to_pylist() == [Op.UPDATE, Op.DELETE, Op.DELETE, Op.READ]
    assert outside == [b"b", b"e"]
