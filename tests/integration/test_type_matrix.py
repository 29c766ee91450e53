"""Every source type against every target engine: there and back by log and snapshot, or held with a reason.

For each pair of engines one table has a column per type of the first; the second's is made from its schema.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest
from bson import Binary, Code, Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS

from replication.batch import Outcome
from replication.narrowing import comparable, narrow
from replication.pairing import Declaration, Pairing, Verdict, pair
from replication.schema import Column, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.two_nodes import Node, mapping

EDGES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "postgres": {
        "smallint": ("-32768", "32767", "0"),
        "integer": ("-2147483648", "2147483647"),
        "bigint": ("-9223372036854775808", "9223372036854775807"),
        "numeric": ("'NaN'", "'Infinity'", "1e-20", "-" + "9" * 20 + "." + "8" * 20, "7" * 60),
        "numeric(12,2)": ("-9999999999.99", "0.10", "0"),
        "numeric(40,10)": ("123456789012345678901234567890.1234567895", "-1"),
        "real": ("'NaN'", "'Infinity'", "3.4028235e38", "0.1", "'-0'"),
        "double precision": ("'NaN'", "'-Infinity'", "0.1", "1.7976931348623157e308", "5e-324", "'-0'"),
        "boolean": ("true", "false"),
        "bit(5)": ("B'10110'", "B'00000'"),
        "text": ("''", "'aß日𝄞🜁'", "U&'\\+10FFFD e\\0301'", "' padded '", "repeat('€', 7000)"),
        "varchar(20)": ("'ü€𝄞'", "' x '"),
        "char(5)": ("'ab'", "'abcde'", "''"),
        "bytea": ("''", r"'\x00ff00'"),
        "date": ("'infinity'", "'-infinity'", "'0044-03-15 BC'", "'15000-01-01'",
                 "'0001-01-01'", "'9999-12-31'"),
        "time": ("'00:00'", "'23:59:59.999999'", "'24:00'"),
        "timestamp": ("'infinity'", "'0044-03-15 12:00 BC'", "'15000-01-01'", "'1969-12-31 23:59:59.999999'"),
        "timestamp(0)": ("'2024-02-29 12:34:56'",),
        "timestamptz": ("'-infinity'", "'2024-10-27 01:30:00.123456+00'", "'1800-01-01 00:00+00'"),
        "interval": ("'1 year 2 days 00:00:03.5'", "'-1 month'"),
        "uuid": ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",),
        "json": ("'null'", "'{\"b\": 1, \"a\": [1.5, null]}'"),
        "jsonb": ("'null'", "'\"ü𝄞\"'", "'{\"n\": 9007199254740993}'", "'[12345678901234567890.5]'",
                  "'{\"$oid\": 1}'"),
        "integer[]": ("'{}'", "'{1,NULL,-3}'"),
        "text[]": ("'{a,\"b c\",NULL,\"\"}'",),
        "numeric[]": ("'{1.50,2}'",),
        "inet": ("'10.0.0.1/8'",),
        "int4range": ("'[1,5)'", "'empty'"),
    },
    "mysql": {
        "tinyint": ("-128", "127"),
        "tinyint unsigned": ("255",),
        "tinyint(1)": ("0", "1"),
        "smallint unsigned": ("65535",),
        "mediumint": ("-8388608", "8388607"),
        "int": ("-2147483648",),
        "int unsigned": ("4294967295",),
        "bigint": ("-9223372036854775808",),
        "bigint unsigned": ("18446744073709551615",),
        "year": ("1901", "0"),
        "bit(1)": ("b'0'", "b'1'"),
        "bit(5)": ("b'10110'",),
        "decimal(12,2)": ("-9999999999.99", "0"),
        "decimal(65,30)": ("9" * 35 + "." + "9" * 30, "0." + "0" * 29 + "1", "-1.5"),
        "float": ("0.1", "3.402823e38"),
        "double": ("0.1", "1.7976931348623157e308", "-0.0"),
        "char(5)": ("'ab'", "''"),
        "varchar(20)": ("' x '", "'ü€𝄞'", "CONCAT('nul', CHAR(0), 'x')"),
        "text": ("''", "'aß日𝄞'"),
        "binary(4)": ("'ab'",),
        "varbinary(20)": ("X'00ff00'", "''"),
        "longblob": ("REPEAT(X'00', 70000)",),
        "enum('a','ü')": ("'a'", "'ü'"),
        "set('x','y y')": ("''", "'x,y y'"),
        "date": ("'0001-01-01'", "'9999-12-31'"),
        "time": ("'23:59:59'", "'00:00:00'"),
        "time(6)": ("'23:59:59.999999'",),
        "datetime": ("'9999-12-31 23:59:59'", "'1000-01-01 00:00:00'"),
        "datetime(6)": ("'1969-12-31 23:59:59.999999'",),
        "timestamp(6) NULL": ("'2038-01-19 03:14:07.499999'",),
        "json": ("'null'", "'{\"b\": 18446744073709551615, \"a\": [0.1, null]}'"),
        "geometry": ("ST_GeomFromText('POINT(1 -2.5)')",),
    },
}  # fmt: skip
MONGO: Mapping[Kind, Sequence[Any]] = {
    Kind.BOOLEAN: (True, False),
    Kind.INT32: (-(2**31), 2**31 - 1),
    Kind.INT64: (Int64(-(2**63)), Int64(2**63 - 1)),
    Kind.FLOAT64: (float("nan"), float("-inf"), 0.1, 5e-324),
    Kind.NUMERIC: (Decimal128("9" * 34), Decimal128("NaN"), Decimal128("1E-30"), Decimal128("1.50")),
    Kind.TEXT: (
        "",
        "aß日𝄞",
        "nul\0x",
        Code("return {}"),
        Code("x", {"n": 1}),
        ObjectId("65a000000000000000000001"),
        7,
    ),
    Kind.BYTES: (b"", b"\0\xff"),
    Kind.DATE: (DatetimeMS(0), DatetimeMS(-62_135_596_800_000)),
    Kind.TIME: ("23:59:59.999999",),
    Kind.TIMESTAMP: (DatetimeMS(1), DatetimeMS(-1)),
    Kind.TIMESTAMPTZ: (DatetimeMS(1_700_000_000_123),),
    Kind.UUID: (Binary(uuid.UUID(int=7).bytes, 4),),
    Kind.JSON: (
        {"a": [1, {"b": None}], "o": ObjectId("65a000000000000000000001")},
        [1.5, "x"],
        "text",
        {"f": Code("return {}")},
    ),
}
HELD: Mapping[tuple[str, str], frozenset[str]] = {
    ("postgres", "mysql"): frozenset(
        {  # what no MySQL column of the kind can hold
            "numeric: 'NaN'", "numeric: 'Infinity'", "numeric: " + "7" * 40, "real: 'NaN'",
            "real: 'Infinity'",
            "double precision: 'NaN'", "double precision: '-Infinity'", "date: 'infinity'",
            "date: '-infinity'",
            "date: '0044-03-15 BC'", "date: '15000-01-01'", "timestamp: 'infinity'",
            "timestamp: '0044-03-15 12:00 BC'", "timestamp: '15000-01-01'", "timestamptz: '-infinity'",
            "timestamptz: '1800-01-01 00:00+00'", "jsonb: '[12345678901234567890.5]'",
        }
    ),
    ("mysql", "postgres"): frozenset({"varchar(20): CONCAT('nul', CHAR(0), 'x')"}),
    ("mongodb", "postgres"): frozenset({r"text: 'nul\x00x'"}),
    ("mongodb", "mysql"): frozenset({"numeric: Decimal128('NaN')", "float64: -inf", "float64: nan"}),
}  # fmt: skip
"""By pair of engines, the values that the second refuses: `type: value`, as the table above writes them."""


def write(node: Node) -> dict[int, str]:
    """One row per edge value, all other columns null; says which row has which value."""
    rows: dict[int, str] = {}
    if node.kind == "mongodb":
        for kind, edge in MONGO.items():
            for value in edge:
                rows[len(rows)] = f"{kind}: {value!r:.40}"
                node.app["t"].insert_one({"_id": len(rows) - 1, "other": 0, f"c_{kind}": value})
        return rows
    for i, (type, values) in enumerate(EDGES[node.kind].items()):
        for literal in values:
            rows[len(rows)] = f"{type}: {literal:.40}"
            node.sql(f"INSERT INTO t (id, other, c{i}) VALUES ({len(rows) - 1}, 0, {literal})")
    return rows


def documents(node: Node) -> list[dict[str, tuple[type, Any]]]:
    """What MongoDB has in the columns of edge values, types too; NaN as text. Empty for another engine."""
    if node.kind != "mongodb":
        return []
    return [
        {name: (type(value), str(value) if value != value else value) for name, value in document.items()}
        for document in node.app["t"].find({}, {"other": 0}, sort=[("_id", 1)])
    ]


def declare(node: Node) -> Table:
    """The first node's table, by its own DDL."""
    if node.kind == "mongodb":
        kinds = {"id": Kind.INT32, "other": Kind.INT32, **{f"c_{k}": k for k in MONGO}}
        columns = tuple(Column(n, CanonicalType(k), n != "id") for n, k in kinds.items())
        table = Table(mapping(), TableSchema("t", columns, ("id",)))
        node.catalog.create_table(table, "mongodb")
        return table
    lines = ", ".join(f"c{i} {type}" for i, type in enumerate(EDGES[node.kind]))
    node.sql(f"CREATE TABLE t (id int PRIMARY KEY, other int, {lines})")
    schema = node.catalog.read_schema(mapping())
    assert schema is not None
    return Table(mapping(), schema)


def pairings(table: Table, source: Node, target: Node) -> dict[str, Pairing]:
    """What the declarations say of every column."""
    there = target.catalog.read_schema(table.mapping)
    assert there is not None
    types = {} if target.kind == "mongodb" else {c.name: c.type for c in there.columns}
    return {
        c.name: pair(Declaration(c.type, source.kind), Declaration(types.get(c.name, c.type), target.kind))
        for c in table.schema.columns
    }


def same(
    table: Table,
    one: pa.Table | pa.RecordBatch,
    two: pa.Table | pa.RecordBatch,
    engines: Sequence[str] = (),
    said: Mapping[str, Pairing] | None = None,
) -> list[str]:
    """In which columns, and for which keys, two readings differ once narrowed by the engines.

    Where `said` calls a pair the same, nothing is narrowed.
    """
    differ: list[str] = []
    assert one.column("id").to_pylist() == two.column("id").to_pylist()
    for c in table.schema.columns:
        if c.name != "other":
            exact = said is not None and said[c.name].verdict is Verdict.SAME
            sides = [_normal(t.column(c.name), c.type, () if exact else engines) for t in (one, two)]
            for row, (x, y) in enumerate(zip(*sides, strict=True)):
                if x != y:
                    differ.append(f"{one.column('id')[row]} {c.type.native or c.type.kind}: {x!r} {y!r}")
    return differ


def _normal(column: Any, type: CanonicalType, engines: Sequence[str]) -> list[Any]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    for engine in engines:
        array = narrow(array, type, engine)
    array = comparable(array, type)
    if pa.types.is_temporal(array.type):
        array = array.view(pa.int32() if array.type == pa.date32() else pa.int64())
    return array.to_pylist()


@pytest.mark.parametrize("target", ["postgres", "mysql", "mongodb"])
@pytest.mark.parametrize("source", ["postgres", "mysql", "mongodb"])
def test_every_value_goes_there_and_back(
    databases: dict[tuple[str, str], str], source: str, target: str
) -> None:
    """Cases 9 and 10, dates and numbers at their extremes, and every other type."""
    with (
        Node("a", source, databases["a", source], target) as a,
        Node("b", target, databases["b", target], source) as b,
    ):
        table = declare(a)
        a.join(table)
        b.catalog.create_table(table, source)
        b.join(table)
        assert [f for f in b.catalog.preflight([table]) if f.level == "error"] == []
        named = write(a)
        logged, before, stored = a.logged(), a.read(), documents(a)
        assert same(table, logged, before) == [], "log and snapshot of the source"

        applied = b.apply(before)
        assert applied.outcome is Outcome.COMMITTED
        assert all(h.reason for h in applied.held)
        keys = before.column("_key").to_pylist()
        held = {keys.index(h.key) for h in applied.held}
        assert {named[before.column("id")[i].as_py()] for i in held} == HELD.get(
            (source, target), frozenset()
        )
        said = pairings(table, a, b)
        assert all(pairing.verdict is not Verdict.REFUSED for pairing in said.values())
        for i in held:
            [column] = [c for c in said if c not in ("id", "other") and before.column(c)[i].is_valid]
            assert said[column].held, f"{column} is said to hold every value"
        kept = before.filter(pa.array([i not in held for i in range(len(keys))]))
        assert same(table, kept, b.read(), (source, target), said) == [], "arrived"

        b.touch()
        touched, there = b.logged(), b.read()
        assert same(table, touched, there) == [], "log and snapshot of the target"
        back = a.apply(touched)
        assert back.outcome is Outcome.COMMITTED
        assert back.held == [], "what was narrowed fits where it came from"
        after = a.read()
        assert same(table, before, after) == [], "the wider value stays"
        assert documents(a) == stored, "so does its BSON type"
        others = after.column("other").to_pylist()
        assert [i for i, other in enumerate(others) if other != 7] == sorted(held)


@pytest.mark.parametrize("target", ["postgres", "mysql"])
def test_missing_versus_null(databases: dict[tuple[str, str], str], target: str) -> None:
    """Case 11: a field absent in MongoDB is null in SQL, and still absent after the way back."""
    with (
        Node("a", "mongodb", databases["a", "mongodb"], target) as a,
        Node("b", target, databases["b", target], "mongodb") as b,
    ):
        table = declare(a)
        a.join(table)
        b.catalog.create_table(table, "mongodb")
        b.join(table)
        a.app["t"].insert_many(
            [{"_id": 0, "other": 0}, {"_id": 1, "other": 0, "c_json": None, "c_text": None}]
        )
        assert b.apply(a.logged()).held == []
        assert b.read().column("c_text").null_count == b.read().column("c_json").null_count == 2
        b.touch()
        assert a.apply(b.logged()).held == []
        assert list(a.app["t"].find(sort=[("_id", 1)])) == [
            {"_id": 0, "other": 7},
            {"_id": 1, "other": 7, "c_json": None, "c_text": None},
        ]
