"""What changed between two shapes of a table, and what a policy makes of it."""

from __future__ import annotations

import pytest

from replication.change import SchemaChange
from replication.evolution import Changed, Verdict, carried, differences, holds, ignored, verdict
from replication.position import Position
from replication.schema import Column, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

UTF8 = " CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"


def column(name: str, kind: Kind = Kind.INT32, native: str = "", *, nullable: bool = True) -> Column:
    return Column(name, CanonicalType(kind, native), nullable)


def schema(*columns: Column) -> TableSchema:
    return TableSchema("orders", (column("id", nullable=False), *columns), ("id",))


def table(on_alter: str = "ignore", on_truncate: str = "halt", accepted: int | None = None) -> Table:
    mapping = TableMapping("orders", ("id",), {"pg": "orders"}, on_alter=on_alter, on_truncate=on_truncate)
    return Table(mapping, schema(), accepted={} if accepted is None else {"pg": accepted})


def test_nothing_changed() -> None:
    assert differences(schema(column("a")), schema(column("a"))) == []


def test_added_and_gone_columns() -> None:
    found = differences(schema(column("a")), schema(column("b", native="integer", nullable=False)))
    assert [(c.what, c.column.name) for c in found] == [(Changed.ADDED, "b"), (Changed.GONE, "a")]
    assert [str(c) for c in found] == ["column b was added (integer not null)", "column a is gone"]


WIDER = [
    (Kind.INT16, "smallint", Kind.INT32, "integer"),
    (Kind.INT32, "int", Kind.INT64, "bigint"),
    (Kind.INT16, "tinyint", Kind.INT16, "smallint"),
    (Kind.INT32, "mediumint", Kind.INT32, "int"),
    (Kind.INT32, "int", Kind.INT64, "int unsigned"),
    (Kind.INT64, "bigint", Kind.NUMERIC, "decimal(19,0)"),
    (Kind.INT64, "bigint", Kind.NUMERIC, "numeric"),
    (Kind.NUMERIC, "bigint unsigned", Kind.NUMERIC, "decimal(20,0)"),
    (Kind.FLOAT32, "real", Kind.FLOAT64, "double precision"),
    (Kind.NUMERIC, "numeric(10,2)", Kind.NUMERIC, "numeric(12,2)"),
    (Kind.NUMERIC, "decimal(10,2)", Kind.NUMERIC, "decimal(12,4)"),
    (Kind.NUMERIC, "numeric(10,2)", Kind.NUMERIC, "numeric"),
    (Kind.TEXT, "character varying(20)", Kind.TEXT, "character varying(50)"),
    (Kind.TEXT, "character varying(20)", Kind.TEXT, "text"),
    (Kind.TEXT, "character varying(20)", Kind.TEXT, "character varying"),
    (Kind.TEXT, "varchar(20)" + UTF8, Kind.TEXT, "text" + UTF8),
    (Kind.TEXT, "text" + UTF8, Kind.TEXT, "mediumtext" + UTF8),
    (Kind.TEXT, "longtext" + UTF8, Kind.TEXT, "longtext" + UTF8 + "x"),
    (Kind.TEXT, "enum('a','b')" + UTF8, Kind.TEXT, "enum('a','b','c')" + UTF8),
    (Kind.TEXT, "enum('a','bb')" + UTF8, Kind.TEXT, "varchar(2)" + UTF8),
    (Kind.BYTES, "varbinary(20)", Kind.BYTES, "blob"),
    (Kind.BYTES, "blob", Kind.BYTES, "longblob"),
    (Kind.TIMESTAMP, "datetime", Kind.TIMESTAMP, "datetime(6)"),
    (Kind.TIMESTAMPTZ, "timestamp(3) with time zone", Kind.TIMESTAMPTZ, "timestamp with time zone"),
    (Kind.OPAQUE, "bit(5)", Kind.OPAQUE, "bit(8)"),
]


@pytest.mark.parametrize(("kind", "native", "wider_kind", "wider"), WIDER)
def test_a_wider_type_holds_all_of_a_narrower_one(
    kind: Kind, native: str, wider_kind: Kind, wider: str
) -> None:
    narrow, wide = CanonicalType(kind, native), CanonicalType(wider_kind, wider)
    assert holds(wide, narrow)
    same = native.startswith("longtext") or native == "bigint unsigned"
    assert holds(narrow, wide) == same
    if not same:
        (change,) = differences(schema(Column("a", narrow)), schema(Column("a", wide)))
        assert change.what is Changed.WIDENED
        (change,) = differences(schema(Column("a", wide)), schema(Column("a", narrow)))
        assert change.what is Changed.NARROWED
        assert "column a was narrowed from" in str(change)


@pytest.mark.parametrize(
    ("kind", "native", "other_kind", "other"),
    [
        (Kind.INT32, "integer", Kind.TEXT, "text"),
        (Kind.NUMERIC, "numeric(10,2)", Kind.NUMERIC, "numeric(10,4)"),
        (Kind.INT64, "int unsigned", Kind.INT32, "integer"),
        (Kind.BOOLEAN, "tinyint(1)", Kind.INT32, "int"),
        (Kind.TIMESTAMP, "datetime(6)", Kind.TIMESTAMPTZ, "timestamp(6)"),
        (Kind.OPAQUE, "inet", Kind.OPAQUE, "cidr"),
        (Kind.TEXT, "enum('a','b')", Kind.TEXT, "enum('a','c')"),
    ],
)
def test_another_type_is_no_widening(kind: Kind, native: str, other_kind: Kind, other: str) -> None:
    found = differences(schema(column("a", kind, native)), schema(column("a", other_kind, other)))
    assert [c.what for c in found] != [Changed.WIDENED]
    assert len(found) == 1


def test_null_that_is_allowed_is_a_widening_and_the_other_way_round() -> None:
    strict, loose = schema(column("a", nullable=False)), schema(column("a"))
    assert [c.what for c in differences(strict, loose)] == [Changed.WIDENED]
    assert [c.what for c in differences(loose, strict)] == [Changed.NARROWED]


def test_policies_for_columns() -> None:
    added, gone = differences(schema(column("a")), schema(column("b")))
    assert carried("evolve", added)
    assert not carried("evolve", gone)
    assert not carried("ignore", added)
    assert ignored("ignore", added, ["id", "a"])
    assert not ignored("ignore", gone, ["id", "a"])
    assert ignored("halt", gone, ["id"])
    assert not ignored("halt", added, ["id", "a"])
    assert not ignored("evolve", added, ["id", "a"])


@pytest.mark.parametrize(
    ("on_alter", "on_truncate", "what", "fits", "expected"),
    [
        ("ignore", "halt", "alter", True, Verdict.PASS),
        ("ignore", "halt", "alter", False, Verdict.STOP),
        ("evolve", "halt", "alter", True, Verdict.STOP),
        ("halt", "halt", "alter", True, Verdict.STOP),
        ("ignore", "ignore", "drop", False, Verdict.STOP),
        ("ignore", "ignore", "rename", False, Verdict.STOP),
        ("ignore", "halt", "truncate", False, Verdict.STOP),
        ("ignore", "ignore", "truncate", False, Verdict.PASS),
        ("ignore", "carry", "truncate", False, Verdict.CARRY),
        ("ignore", "carry", "partition", False, Verdict.STOP),
        ("ignore", "ignore", "partition", False, Verdict.PASS),
    ],
)
def test_policies_for_events(
    on_alter: str, on_truncate: str, what: str, fits: bool, expected: Verdict
) -> None:
    event = SchemaChange("orders", what, "", Position(50), fits)
    assert verdict(table(on_alter, on_truncate), "pg", event) is expected
    assert verdict(table(on_alter, on_truncate, accepted=50), "pg", event) is Verdict.PASS
    assert verdict(table(on_alter, on_truncate, accepted=49), "pg", event) is expected
    assert verdict(table(on_alter, on_truncate, accepted=50), "my", event) is expected
