"""Every type: what the log shows, what a snapshot reads, and what an applier writes are the same value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import psycopg
import pyarrow as pa
import pytest

from replication.change import Op
from replication.key import encode_key
from replication.narrowing import narrow
from replication.schema import Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.postgres_node import PostgresNode, mapping

COLUMNS = {
    "c_bool": ("boolean", ["true", "false"]),
    "c_int2": ("smallint", ["-32768", "32767"]),
    "c_int4": ("integer", ["-2147483648", "2147483647"]),
    "c_int8": ("bigint", ["-9223372036854775808", "9223372036854775807"]),
    "c_oid": ("oid", ["0", "4294967295"]),
    "c_float4": ("real", ["3.4028235e+38", "1e-45", "0.1", "'NaN'", "'-Infinity'"]),
    "c_float8": (
        "double precision",
        ["1.7976931348623157e+308", "5e-324", "0.1", "'NaN'", "'Infinity'", "'-0'", "1e22"],
    ),
    "c_numeric": (
        "numeric",
        [
            *("1.50", "-0.000", "'NaN'", "'Infinity'", "'-Infinity'", "12345678901234567890.123456789"),
            *("9" * 65, f"0.{'0' * 60}1"),
        ],
    ),
    "c_numeric_12_2": ("numeric(12,2)", ["-9999999999.99", "0.10"]),
    "c_text": (
        "text",
        ["''", "'a'", "E'tab\\t nl\\n cr\\r bs\\\\ q\" '", "'NULL'", "'\\N'", "'{,}'", "U&'\\+01F600'"],
    ),
    "c_text_12": ("text", ["'exactly12byt'", "'thirteen byte'", "repeat('x', 100000)"]),
    "c_varchar": ("varchar(5)", ["'abcde'", "'a    '"]),
    "c_char": ("char(8)", ["'pad'", "'12345678'", "''"]),
    "c_name": ("name", ["'n'"]),
    "c_bytea": ("bytea", ["''", "'\\x00ff5c27220a'", "'\\x5c78'", "repeat('a', 5000)::bytea"]),
    "c_date": (
        "date",
        [
            "'2024-02-29'",
            "'infinity'",
            "'-infinity'",
            "'4714-11-24 BC'",
            "'5874897-12-31'",
            "'0001-12-31 BC'",
        ],
    ),
    "c_time": ("time", ["'00:00'", "'23:59:59.999999'", "'24:00'"]),
    "c_timestamp": (
        "timestamp",
        ["'2024-02-29 12:34:56.123456'", "'infinity'", "'-infinity'", "'4714-11-24 BC'", "'15000-01-01'"],
    ),
    "c_timestamptz": (
        "timestamptz",
        [
            "'2024-03-31 02:30:00+01'",
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 12:00 BC'",
            "'1969-12-31 23:59:59.5'",
        ],
    ),
    "c_uuid": ("uuid", ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"]),
    "c_json": ("json", ['\'{"b": 1.0,  "a":"\\u0000"}\'', "'null'"]),
    "c_jsonb": ("jsonb", ['\'{"b": 1.0, "a": [1, null]}\'', "'\"text\"'"]),
    "c_int_array": ("int[]", ["'{1,NULL,3}'", "'{}'", "'{{1,2},{3,4}}'"]),
    "c_text_array": ("text[]", ['\'{a,"b c",NULL,"NULL","\\"\\\\"}\'', "'{\"\"}'"]),
    "c_numeric_array": ("numeric[]", ["'{1.50,NaN}'"]),
    "c_float_array": ("float8[]", ["'{0.1,NaN,Infinity,1e+22}'"]),
    "c_bool_array": ("bool[]", ["'{t,f,NULL}'"]),
    "c_stamp_array": ("timestamptz[]", ["'{2024-01-01 00:00:00+00}'"]),
    "c_enum": ("mood", ["'happy'", "'sad, \"very\"'"]),
    "c_enum_array": ("mood[]", ['\'{happy,"sad, \\"very\\""}\'']),
    "c_domain": ("positive", ["7"]),
    "c_interval": ("interval", ["'1 year 2 days 03:04:05.6'", "'-1 month'"]),
    "c_inet": ("inet", ["'10.0.0.0/8'"]),
    "c_point": ("point", ["'(1.5,2)'"]),
    "c_box": ("box", ["'(2,2),(1,1)'"]),
    "c_range": ("int4range", ["'[1,5)'", "'empty'"]),
    "c_bit": ("bit(4)", ["'1010'"]),
    "c_varbit": ("varbit", ["''", "'101'"]),
    "c_money": ("money", ["'12.34'"]),
    "c_timetz": ("timetz", ["'12:00:00+02'"]),
    "c_tsvector": ("tsvector", ["'a:1 b:2'"]),
    "c_xml_like": ("pair", ["'(1,\"a b\")'"]),
}
DDL = """
CREATE TYPE mood AS ENUM ('happy', 'sad, "very"');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
""" + "".join(
    f"CREATE TABLE {table} (id int PRIMARY KEY, {', '.join(f'{n} {t}' for n, (t, _) in COLUMNS.items())});"
    for table in ("source", "target")
)


def same(one: pa.Array, other: pa.Array) -> bool:
    bits = {pa.float32(): pa.int32(), pa.float64(): pa.int64(), pa.time64("us"): pa.int64()}
    if one.type in bits:
        one, other = one.view(bits[one.type]), other.view(bits[other.type])
    return bool(one.equals(other))


def fill(node: PostgresNode) -> int:
    """Rows that together hold every value, and one of nulls; how many."""
    count = max(len(values) for _, values in COLUMNS.values())
    for i in range(count):
        values = ", ".join(v[i % len(v)] for _, v in COLUMNS.values())
        node.sql(f"INSERT INTO source VALUES ({i}, {values})")
    node.sql("INSERT INTO source (id) VALUES (-1)")
    return count + 1


@pytest.fixture
def node(postgres_db: str) -> Iterator[PostgresNode]:
    with PostgresNode(postgres_db, DDL, [mapping("source"), mapping("target")], ["mongodb"]) as made:
        yield made


def test_log_snapshot_and_applier_agree(node: PostgresNode) -> None:
    count = fill(node)
    names = ["id", *COLUMNS]
    from_log = node.columns("source").sort_by("id")
    chunk = node.snapshot.read_chunk(node.tables["source"], None, 1000)
    for name in names:
        schema = chunk.schema.field(name).type
        assert from_log.column(name).type == schema
        # As views, since Arrow calls 24:00 invalid and NaN unequal to itself.
        assert same(from_log.column(name).combine_chunks(), chunk.column(name)), name
    applied = node.apply_columns("target", {n: chunk.column(n) for n in ["_key", *names]})
    assert (applied.held, applied.missing) == ([], [])
    texts = ", ".join(f"{n}::text" for n in names)
    assert len(node.sql("SELECT 1 FROM target")) == count
    source, target = (node.sql(f"SELECT {texts} FROM {t} ORDER BY id") for t in ("source", "target"))
    assert source == target


def test_kinds(node: PostgresNode) -> None:
    kinds = {c.name: (c.type.kind, c.type.item) for c in node.tables["source"].schema.columns}
    assert kinds["c_domain"] == (Kind.INT32, None)
    assert kinds["c_enum"] == (Kind.TEXT, None)
    assert kinds["c_enum_array"] == (Kind.LIST, Kind.TEXT)
    assert kinds["c_float_array"] == (Kind.LIST, Kind.FLOAT64)
    assert kinds["c_interval"] == (Kind.OPAQUE, None)
    (enum,) = (c.type.native for c in node.tables["source"].schema.columns if c.name == "c_enum")
    assert enum == "mood"


def test_extreme_dates(node: PostgresNode) -> None:
    """Case 9: infinities are the ends of the Arrow type, whatever the calendar says in between."""
    node.sql("INSERT INTO source (id, c_date, c_timestamptz) VALUES (1, 'infinity', '-infinity')")
    (changes,) = node.read()[0].tables  # type: ignore[union-attr]
    assert changes.rows.column("c_date").view("int32").to_pylist() == [2**31 - 1]
    assert changes.rows.column("c_timestamptz").view("int64").to_pylist() == [-(2**63)]


def test_timestamps_on_non_utc_server(postgres_db: str) -> None:
    """Case 8: a zone with daylight saving, in the hour that exists twice."""
    with psycopg.connect(postgres_db, autocommit=True) as c:
        name = c.info.dbname
        for setting in (
            "TimeZone = 'Europe/Berlin'",
            "DateStyle = 'German'",
            "IntervalStyle = 'iso_8601'",
            "extra_float_digits = -15",
            "bytea_output = 'escape'",
        ):
            c.execute(f'ALTER DATABASE "{name}" SET {setting}'.encode())
    ddl = "CREATE TABLE t (id int PRIMARY KEY, z timestamptz, l timestamp, f float8, b bytea, i interval)"
    with PostgresNode(postgres_db, ddl, [mapping("t")]) as node:
        node.sql("SET TimeZone = 'UTC'")
        node.sql(
            "INSERT INTO t VALUES (1, '2024-10-27 00:30:00Z', '2024-10-27 02:30', 0.1, '\\x5c01', '1 day'),"
            " (2, '2024-10-27 01:30:00Z', '2024-10-27 02:30', 0.1, '\\x5c01', '1 day')"
        )
        (one, two) = node.rows()
        assert one["z"] == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
        assert two["z"] == datetime(2024, 10, 27, 1, 30, tzinfo=UTC)
        assert one["l"] == two["l"] == datetime(2024, 10, 27, 2, 30)  # noqa: DTZ001
        assert (one["f"], one["b"], one["i"]) == (0.1, b"\\\x01", "1 day")
        chunk = node.snapshot.read_chunk(node.tables["t"], None, 10).to_pylist()
        assert [{**r, "_key": None} for r in chunk] == [
            {k: v if k != "_key" else None for k, v in r.items() if k == "_key" or k[0] != "_"}
            for r in (one, two)
        ]
        node.apply("t", [{**two, "id": 3}])
        assert node.sql("SELECT z = '2024-10-27 01:30:00Z' FROM t WHERE id = 3") == [(True,)]


NARROWED = {
    Kind.TIMESTAMP: [
        "2024-01-01 00:00:00.123456",
        "1969-12-31 23:59:59.999999",
        "1815-06-18 11:30:00.000001",
        "infinity",
        "0044-03-15 00:00:00.5005 BC",
    ],
    Kind.NUMERIC: [
        "1234567890123456789012345678901234.5",
        "1234567890123456789012345678901233.5",
        "-1234567890123456789012345678901234.50000000001",
        "9999999999999999999999999999999999.9",
        "0.00012345678901234567890123456789012345650",
        "123456789012345678901234567890123450000000000000000.1",
        "1.10",
        "NaN",
    ],
}


@pytest.mark.parametrize("kind", NARROWED)
def test_narrower_nodes_do_not_degrade_wider_ones(postgres_db: str, kind: Kind) -> None:
    """What MongoDB makes of a stored value leaves it alone, by the rule of `replication.narrowing`."""
    native = "timestamptz" if kind is Kind.TIMESTAMP else "numeric"
    ddl = f"CREATE TABLE t (id int PRIMARY KEY, v {native}, n int)"
    with PostgresNode(postgres_db, ddl, [mapping("t")], ["mongodb"]) as node:
        for i, value in enumerate(NARROWED[kind]):
            node.sql("INSERT INTO t VALUES (%s, %s, 0)", i, value)
        before = node.sql("SELECT id, v::text FROM t ORDER BY id")
        chunk = node.snapshot.read_chunk(node.tables["t"], None, 100)
        type_ = CanonicalType(Kind.TIMESTAMPTZ if kind is Kind.TIMESTAMP else kind)
        narrowed = narrow(chunk.column("v"), type_, "mongodb")
        assert narrowed != chunk.column("v")
        ones = pa.array([1] * len(before), pa.int32())
        columns = {"_key": chunk.column("_key"), "id": chunk.column("id"), "v": narrowed, "n": ones}
        node.apply_columns("t", columns)
        assert node.sql("SELECT id, v::text FROM t ORDER BY id") == before
        assert node.sql("SELECT sum(n) FROM t") == [(len(before),)]
        partial = {"v": chunk.column("v").slice(1, 1), "_have": pa.array([b"\x03"], pa.binary())}
        node.apply_columns("t", {n: chunk.column(n).slice(0, 1) for n in ("_key", "id")} | partial)
        assert node.sql("SELECT v::text FROM t WHERE id = 0") == [(before[1][1],)]


def test_json_that_means_the_same_is_left_alone(postgres_db: str) -> None:
    ddl = "CREATE TABLE t (id int PRIMARY KEY, j json, b jsonb)"
    with PostgresNode(postgres_db, ddl, [mapping("t")]) as node:
        kept = '{"b":  1.0, "a": 2}'
        node.sql("INSERT INTO t VALUES (1, %s, '1.0'), (2, '\"\\u0000\"', '1')", kept)
        node.apply("t", [{"id": 1, "j": '{"a":2,"b":1}', "b": "1"}, {"id": 2, "j": '"\\u0000!"', "b": "2"}])
        assert node.sql("SELECT j::text, b::text FROM t ORDER BY id") == [
            (kept, "1.0"),
            ('"\\u0000!"', "2"),
        ]
        node.apply("t", [{"id": 1, "j": '{"a":3}', "b": "3", "_have": b"\x07"}])
        assert node.sql("SELECT j::text, b::text FROM t WHERE id = 1") == [('{"a":3}', "3")]


def test_values_beyond_the_other_engines_calendar_survive_a_delete(postgres_db: str) -> None:
    """Keys are any date that the server knows; a delete may come without key columns."""
    ddl = "CREATE TABLE t (d date, s text, PRIMARY KEY (d, s))"
    with PostgresNode(postgres_db, ddl, [mapping("t", "d", "s")]) as node:
        node.sql("INSERT INTO t VALUES ('infinity', 'a'), ('0044-03-15 BC', E'b\\\\\"'), ('15000-01-01', '')")
        keys = node.columns("t").column("_key").combine_chunks()
        node.apply_columns("t", {"_key": keys, "_op": pa.array([Op.DELETE] * 3, pa.int8())})
        assert node.sql("SELECT * FROM t") == []


def test_what_a_column_would_change_in_silence_is_held(postgres_db: str) -> None:
    """The server rounds and cuts these without a word; one row each, and a good one."""
    ddl = """CREATE TABLE t (id int PRIMARY KEY, n numeric(6,2), tens numeric(4,-1), r real, v varchar(3),
        c char(3), name name, at timestamp(2))"""
    with PostgresNode(postgres_db, ddl, [mapping("t")]) as node:
        table = node.tables["t"]
        columns = tuple(
            replace(c, type=CanonicalType(Kind.FLOAT64)) if c.name == "r" else c for c in table.schema.columns
        )
        node.tables["t"] = Table(table.mapping, TableSchema("t", columns, ("id",)))
        good = {"n": "1.50", "tens": "120", "r": 0.5, "v": "ab ", "c": "abc", "name": "x" * 63}
        bad = {"n": "1.234", "tens": "125", "r": 0.1, "v": "abc ", "c": "ab ", "name": "x" * 64}
        rows = [{"id": i, **good, name: value} for i, (name, value) in enumerate(bad.items())]
        rows.append({"id": 9, **good, "r": float("nan"), "at": datetime(2024, 1, 1, 23, 59, 59, 999_999)})  # noqa: DTZ001
        for have in (None, b"\xff"):
            applied = node.apply("t", [{"_have": have, **row} for row in rows])
            reasons = [h.reason for h in applied.held]
            assert [reason.partition(":")[0] for reason in reasons] == list(bad)
            assert "more digits than numeric(6,2) keeps" in reasons[0]
        assert node.sql("SELECT id, n, v, at::text FROM t") == [
            (9, Decimal("1.50"), "ab ", "2024-01-01 23:59:59.99")
        ]


EXACT = {
    "d": ("price", "1.50", "1.234"),
    "code": ("code", "ab ", "abcdef"),
    "list": ("numeric(6,2)[]", '["1.50",null]', '["1.5","1.234"]'),
    "prices": ("price[]", '["1.50"]', '["1.234"]'),
    "pair": ("prices", '["1.50"]', '["1.234"]'),
    "texts": ("varchar(3)[]", '["ab ","abc"]', '["abc "]'),
    "clocks": ("time(1)[]", '["12:00:00.5"]', '["12:00:00.55"]'),
    "span": ("interval(1)", "1 day 00:00:03.5", "1 day 00:00:03.55"),
    "months": ("interval year to month", "1 year 2 mons", "1 year 2 mons 3 days"),
    "zoned": ("timetz(0)", "12:00:00+00", "12:00:00.5+00"),
    "cost": ("cost", "(1.50,x)", "(1.234,x)"),
    "host": ("inet", "10.0.0.1", "10.0.0.1/32"),
}
"""By column its type, a value that it keeps, and one that it would change in silence."""
_EXACT_DDL = (
    """
CREATE DOMAIN price AS numeric(6,2);
CREATE DOMAIN code AS varchar(3);
CREATE DOMAIN prices AS numeric(6,2)[];
CREATE TYPE cost AS (amount numeric(6,2), unit text);
CREATE TABLE t (id int PRIMARY KEY, """
    + ", ".join(f"{n} {t}" for n, (t, *_) in EXACT.items())
    + ")"
)


@pytest.mark.parametrize("sources", [["mysql"], ["mongodb"]])
def test_what_domains_arrays_and_types_of_the_server_would_change_is_held(
    postgres_db: str, sources: list[str]
) -> None:
    with PostgresNode(postgres_db, _EXACT_DDL, [mapping("t")], sources) as node:
        types = {c.name: c.type for c in node.tables["t"].schema.columns}
        assert (types["d"].kind, types["d"].native) == (Kind.NUMERIC, "numeric(6,2)")
        assert (types["code"].kind, types["code"].native) == (Kind.TEXT, "character varying(3)")
        for name in ("prices", "pair"):
            assert types[name] == CanonicalType(Kind.LIST, "numeric(6,2)[]", Kind.NUMERIC)
        good = {name: kept for name, (_, kept, _) in EXACT.items()}
        rows = [{"id": i, **good, name: bad} for i, (name, (_, _, bad)) in enumerate(EXACT.items())]
        rows.append({"id": 99, **good})
        held = [encode_key([i], [Kind.INT32]) for i in range(len(EXACT))]
        for have in (None, b"\xff\xff"):
            applied = node.apply("t", [{"_have": have, **row} for row in rows])
            assert [h.key for h in applied.held] == held
            reasons = dict(zip(EXACT, [h.reason for h in applied.held], strict=True))
            assert "more digits than numeric(6,2) keeps" in reasons["d"]
            assert "would become 1 day 00:00:03.6 as interval(1)" in reasons["span"]
            assert node.apply("t", [{**row, **good} for row in rows]).held == []  # for the partial rows
        read = node.snapshot.read_chunk(node.tables["t"], None, 100)
        assert [{n: r[n] for n in good} for r in read.to_pylist()] == [good] * len(rows)
