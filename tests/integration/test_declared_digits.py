"""Columns that keep fewer digits of the second than others are narrowed by a rule; the wider value stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pytest
from bson.datetime_ms import DatetimeMS

from replication.batch import Outcome
from replication.comparing import compare_rows
from replication.declared import second_digits
from replication.narrowing import floored
from replication.schema import Column, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.two_nodes import Node, mapping

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "postgres": {"at": "timestamp", "instant": "timestamptz", "clock": "time"},
    "mysql": {"at": "datetime", "instant": "timestamp", "clock": "time"},
}
VALUES = {
    "at": ("9999-12-31 23:59:59.999999", "1969-12-31 23:59:59.987654", "2024-02-29 12:34:56.555555"),
    "instant": ("2038-01-19 03:14:07.499999", "1970-01-01 00:01:01.999999", "2024-10-27 01:30:00.123456"),
    "clock": ("23:59:59.999999", "00:00:00.000001", "12:00:00.55"),
}
KINDS = {"at": Kind.TIMESTAMP, "instant": Kind.TIMESTAMPTZ, "clock": Kind.TIME}


def create(node: Node, digits: int) -> TableSchema:
    """The table with columns of so many digits, as the node's engine declares them."""
    if node.kind == "mongodb":
        columns = tuple(Column(name, CanonicalType(kind)) for name, kind in KINDS.items())
        ids = (Column("id", CanonicalType(Kind.INT32), False), Column("other", CanonicalType(Kind.INT32)))
        schema = TableSchema("t", (*ids, *columns), ("id",))
        node.catalog.create_table(Table(mapping(), schema), "postgres")
        return schema
    lines = [f"{name} {type}({digits})" for name, type in COLUMNS[node.kind].items()]
    nulls = [f"{line} NULL" for line in lines]
    node.sql(f"CREATE TABLE t (id int PRIMARY KEY, other int, {', '.join(nulls)})")
    schema = node.catalog.read_schema(mapping())
    assert schema is not None
    return schema


def write(node: Node) -> None:
    """One row per value, all other columns null."""
    pairs = [(name, text) for name, texts in VALUES.items() for text in texts]
    for ident, (name, text) in enumerate(pairs):
        if node.kind == "mongodb":
            value: object = text
            if name != "clock":
                value = DatetimeMS(pa.scalar(text).cast(pa.timestamp("us")).value // 1000)
            node.app["t"].insert_one({"_id": ident, "other": 0, name: value})
        else:
            zone = "+00" if node.kind == "postgres" and name == "instant" else ""
            node.sql(f"INSERT INTO t (id, other, {name}) VALUES ({ident}, 0, '{text}{zone}')")


def differ(table: Table, a: Node, b: Node) -> list[str]:
    """What `verify` finds."""
    return [str(d) for d in compare_rows(table, [Side(a), Side(b)], [a.read(), b.read()])]


class Side:
    """As much of a node as a comparison asks for."""

    def __init__(self, node: Node) -> None:
        self.node, self.engine = node.name, node.kind


@pytest.mark.parametrize(
    ("wide", "narrow", "digits"),
    [
        ("postgres", "mysql", 0),
        ("postgres", "mysql", 2),
        ("mysql", "postgres", 0),
        ("mysql", "postgres", 4),
        ("mysql", "mysql", 0),
        ("postgres", "postgres", 3),
        ("mongodb", "mysql", 0),
        ("mongodb", "postgres", 1),
    ],
)
def test_fewer_digits_are_a_declared_narrowing(
    databases: dict[tuple[str, str], str], wide: str, narrow: str, digits: int
) -> None:
    with (
        Node("a", wide, databases["a", wide], narrow) as a,
        Node("b", narrow, databases["b", narrow], wide) as b,
    ):
        schema = create(a, 6)
        kept = {
            c.name: {"b": second_digits(c.type.native, narrow)}
            for c in create(b, digits).columns
            if c.name in KINDS
        }
        assert all(d == {"b": digits} for d in kept.values())
        columns = tuple(replace(c, digits=kept.get(c.name, {})) for c in schema.columns)
        table = Table(mapping(), replace(schema, columns=columns))
        a.join(table)
        b.join(table)
        write(a)
        before = a.read()
        applied = b.apply(before)
        assert (applied.outcome, list(applied.held)) == (Outcome.COMMITTED, [])
        for c in table.schema.columns[2:]:
            rough = floored(before.column(c.name), c.type, digits)
            assert as_integers(b.read(), c.name) == rough.view(pa.int64()).to_pylist(), c.name
        assert differ(table, a, b) == []

        b.touch()
        touched = b.logged()
        for have in (None, bytes([0b11110])):
            assert a.apply(touched, have).held == []
            for name in KINDS:
                assert as_integers(a.read(), name) == as_integers(before, name), "the wider value stays"
        assert a.read().column("other").to_pylist() == [7] * before.num_rows

        moved = shifted(touched, -5_000_000)
        assert a.apply(moved).held == []
        for name in ("at", "instant"):
            assert as_integers(a.read(), name) == as_integers(moved, name), "another value does not"


def as_integers(rows: pa.RecordBatch | pa.Table, name: str) -> list[int | None]:
    column = rows.column(name)
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values: list[int | None] = array.view(pa.int64()).to_pylist()
    return values


def shifted(rows: pa.Table, micros: int) -> pa.Table:
    """The rows with their moments moved."""
    for name in ("at", "instant"):
        values = [None if v is None else v + micros for v in as_integers(rows, name)]
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        rows = rows.set_column(place, field, pa.array(values, pa.int64()).view(field.type))
    return rows
