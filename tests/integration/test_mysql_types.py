"""Every type that MySQL has: a canonical value is kept as it is, or the row is held with its reason."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from typing import Any

import pyarrow as pa
import pytest

from replication.change import Echo
from replication.engines.mysql.values import DAY
from replication.key import encode_key
from replication.narrowing import comparable
from replication.schema import Column, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.mysql import local_server
from tests.fixtures.mysql_node import MysqlNode, mapping

POINT = "0101000020E6100000000000000000F03F0000000000000040"
LINE = "010200000002000000000000000000000000000000000000000000000000000840000000000000F0BF"
KEPT: list[tuple[str, list[Any]]] = [
    ("tinyint(1)", [True, False]),
    ("bit(1)", [True, False]),
    ("tinyint", [-128, 127]),
    ("tinyint unsigned", [0, 255]),
    ("smallint", [-(2**15), 2**15 - 1]),
    ("smallint unsigned", [2**16 - 1]),
    ("mediumint", [-(2**23), 2**23 - 1]),
    ("int", [-(2**31), 2**31 - 1]),
    ("int unsigned", [2**32 - 1]),
    ("bigint", [-(2**63), 2**63 - 1]),
    ("bigint unsigned", ["18446744073709551615", "0"]),
    ("year", [1901, 2155, 0]),
    ("bit(8)", ["00000000", "10100101"]),
    ("bit(64)", ["1" * 64, "0" * 63 + "1"]),
    ("decimal(12,2)", ["-1234567890.12", "0.50", "7"]),
    ("decimal(65,30)", ["9" * 35 + "." + "9" * 30, "-0.000000000000000000000000000001"]),
    ("decimal(65,0)", ["-" + "9" * 65]),
    ("decimal(30,30)", ["0.123456789012345678901234567890"]),
    ("float", [0.10000000149011612, 3.4028234663852886e38, 1.401298464324817e-45, -0.0, 16777217.0]),
    ("double", [0.1, 1.7976931348623157e308, 5e-324, -0.0, 9007199254740993.0, 1e23, 123456.7]),
    ("char(5)", ["", "ab", " x", "𝄞𝄞𝄞𝄞𝄞"]),
    ("varchar(5)", ["", "ab ", "\0\x1a'\"\\", "𝄞𝄞𝄞𝄞𝄞"]),
    ("varchar(9) CHARACTER SET latin1", ["ÄÖÜß€"]),
    ("tinytext", ["x" * 255]),
    ("text", ["x" * 65_535, "trailing  "]),
    ("longtext", ["line\nbreak\ttab\r", "%s %(x)s"]),
    ("binary(4)", [b"\0\0\0\0", b"a'\\\xff", b"ab\0\0"]),
    ("varbinary(9)", [b"", b"\0", b"'\\\0\xff"]),
    ("longblob", [bytes(range(256)) * 3]),
    ("date", [date(1, 1, 1), date(1000, 2, 28), date(9999, 12, 31)]),
    ("time(6)", [time(0), time(23, 59, 59, 999_999)]),
    ("time", [time(1, 2, 3)]),
    ("datetime(6)", [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)]),  # noqa: DTZ001
    ("datetime(3)", [datetime(2024, 2, 29, 1, 2, 3, 4000)]),  # noqa: DTZ001
    ("datetime", [datetime(1969, 12, 31, 23, 59, 59)]),  # noqa: DTZ001
    ("timestamp(6) NULL", [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), datetime(2038, 1, 19, tzinfo=UTC)]),
    (
        "json",
        ['{"a": [1, 2.5, null, true, "ü"], "b": {}}', "null", '"x"', "18446744073709551615", "0.1", "1e300"],
    ),
    ("enum('a','it''s','B')", ["a", "it's", "B"]),
    ("set('x','y','z')", ["", "x", "x,z", "x,y,z"]),
    ("geometry", [POINT, LINE]),
]
HELD: list[tuple[str, Kind, Any, str]] = [
    ("tinyint", Kind.INT16, 128, "1264"),
    ("tinyint unsigned", Kind.INT16, -1, "1264"),
    ("int unsigned", Kind.INT64, 2**32, "1264"),
    ("bigint unsigned", Kind.NUMERIC, "18446744073709551616", "1264"),
    ("bigint unsigned", Kind.NUMERIC, "1.5", "more than 0 digits"),
    ("decimal(12,2)", Kind.NUMERIC, "1.234", "more than 2 digits"),
    ("decimal(12,2)", Kind.NUMERIC, "12345678901", "1264"),
    ("decimal(65,30)", Kind.NUMERIC, "NaN", "1366"),
    ("decimal(65,30)", Kind.NUMERIC, "Infinity", "1366"),
    ("decimal(65,30)", Kind.NUMERIC, "1" * 66, "1264"),
    ("double", Kind.FLOAT64, float("nan"), "1366"),
    ("double", Kind.FLOAT64, float("inf"), "1366"),
    ("float", Kind.FLOAT32, float("-inf"), "1366"),
    ("char(5)", Kind.TEXT, "ab ", "ends with a blank"),
    ("char(5)", Kind.TEXT, "abcdef", "longer than 5 characters"),
    ("varchar(5)", Kind.TEXT, "abcde ", "longer than 5 characters"),
    ("varchar(5) CHARACTER SET latin1", Kind.TEXT, "日本", "1366"),
    ("varchar(5) CHARACTER SET utf8mb3", Kind.TEXT, "😀", "1366"),
    ("tinytext", Kind.TEXT, "x" * 254 + "  ", "longer than 255 bytes"),
    ("binary(4)", Kind.BYTES, b"abc", "shorter than binary(4)"),
    ("binary(4)", Kind.BYTES, b"abcde", "1406"),
    ("varbinary(2)", Kind.BYTES, b"abc", "1406"),
    ("bit(8)", Kind.OPAQUE, "101", "is not 8 bits"),
    ("bit(8)", Kind.OPAQUE, "111111111", "is not 8 bits"),
    ("year", Kind.INT16, 70, "no year from 1901 to 2155"),
    ("year", Kind.INT16, 1900, "no year from 1901 to 2155"),
    ("timestamp(6) NULL", Kind.TIMESTAMPTZ, datetime(1970, 1, 1, tzinfo=UTC), "1292"),
    ("timestamp(6) NULL", Kind.TIMESTAMPTZ, datetime(2039, 1, 1, tzinfo=UTC), "1292"),
    ("json", Kind.JSON, "{", "3140"),
    ("json", Kind.JSON, '"\\ud800"', "3140"),
    ("json", Kind.JSON, "[0.12345678901234567890]", "integer of 64 bits cannot hold"),
    ("json", Kind.JSON, '{"a": 18446744073709551616}', "integer of 64 bits cannot hold"),
    ("json", Kind.JSON, "[1e400]", "integer of 64 bits cannot hold"),
    ("json", Kind.JSON, "[" * 101 + "]" * 101, "3157"),
    ("enum('a','1b')", Kind.TEXT, "1", "no member of the enum"),
    ("enum('a','b')", Kind.TEXT, "A", "no member of the enum"),
    ("enum('a','b')", Kind.TEXT, "", "no member of the enum"),
    ("set('x','y')", Kind.TEXT, "y,x", "members of the set in their order"),
    ("set('x','y')", Kind.TEXT, "x,q", "members of the set in their order"),
    ("geometry", Kind.OPAQUE, "POINT(1 2)", "is no EWKB"),
    ("geometry", Kind.OPAQUE, "010100000000", "1416"),
    ("char(36)", Kind.UUID, "x" * 37, "longer than 36"),
]


def test_values_are_kept_as_they_are(mysql_db: str) -> None:
    """Written by us, read from the table, and seen in the log."""
    columns = ", ".join(f"c{i} {type_}" for i, (type_, _) in enumerate(KEPT))
    ddl = f"CREATE TABLE t (id int PRIMARY KEY, {columns}) COLLATE utf8mb4_0900_bin"
    with MysqlNode(mysql_db, ddl, [mapping("t")]) as node:
        most = max(len(values) for _, values in KEPT)
        rows = [
            {"id": n}
            | {f"c{i}": (values[n] if n < len(values) else None) for i, (_, values) in enumerate(KEPT)}
            for n in range(most)
        ]
        applied = node.apply("t", rows)
        assert applied.held == []
        (echo,) = [e for e in node.read(echoes=True) if isinstance(e, Echo)]
        chunk = node.snapshot.read_chunk(node.tables["t"], None, 100)
        for column in node.tables["t"].schema.columns:
            want = comparable(pa.array([row[column.name] for row in rows], column.type.arrow), column.type)
            native = column.type.native
            assert comparable(chunk.column(column.name), column.type).equals(want), native
            assert comparable(echo.rows[0].rows.column(column.name), column.type).equals(want), native
        assert node.apply("t", rows).held == []
        partial = [{**row, "_have": b"\xff" * 6} for row in rows]
        assert node.apply("t", partial).held == []
        assert node.snapshot.read_chunk(node.tables["t"], None, 100).equals(chunk)


@pytest.mark.parametrize(("declared", "kind", "value", "why"), HELD, ids=lambda v: f"{v!r:.40}")
def test_what_does_not_fit_is_held(mysql_db: str, declared: str, kind: Kind, value: Any, why: str) -> None:
    """Never clamped, cut, rounded or filled; by whole rows and by partial ones."""
    ddl = f"CREATE TABLE t (id int PRIMARY KEY, v {declared})"
    with MysqlNode(mysql_db, ddl, [mapping("t")]) as node:
        table = node.tables["t"]
        columns = (table.schema.columns[0], Column("v", CanonicalType(kind)))
        node.tables["t"] = Table(table.mapping, TableSchema("t", columns, ("id",)))
        for have in (None, b"\x03"):
            applied = node.apply("t", [{"id": 1, "v": None}, {"id": 2, "v": value, "_have": have}])
            assert [h.key for h in applied.held] == [encode_key([2], [Kind.INT32])] or (
                have and applied.missing  # the server finds no such row, so it looks at no value
            )
            if not have:
                assert why in applied.held[0].reason
        node.sql("INSERT INTO t VALUES (2, NULL)")
        applied = node.apply("t", [{"id": 2, "v": value, "_have": b"\x03"}])
        assert [why in h.reason for h in applied.held] == [True]
        assert node.sql("SELECT v FROM t WHERE id = 2") == [(None,)]


EXTREMES = {
    "date": (Kind.DATE, [-(2**31), 2**31 - 1, -719_163, 2_932_897, -735_000]),
    "datetime(6)": (Kind.TIMESTAMP, [-(2**63), 2**63 - 1, -719_163 * DAY, 2_932_897 * DAY, 4_755_000 * DAY]),
    "timestamp(6) NULL": (Kind.TIMESTAMPTZ, [-(2**63), 2**63 - 1, 4_755_000 * DAY]),
}


@pytest.mark.parametrize("declared", list(EXTREMES))
def test_extreme_dates(mysql_db: str, declared: str) -> None:
    """Case 9: infinity, before Christ and the year 15000 are reported, never clamped."""
    kind, values = EXTREMES[declared]
    with MysqlNode(mysql_db, f"CREATE TABLE t (id int PRIMARY KEY, v {declared})", [mapping("t")]) as node:
        type_ = CanonicalType(kind)
        keys = [encode_key([i], [Kind.INT32]) for i in range(len(values))]
        integer = pa.int32() if kind is Kind.DATE else pa.int64()
        columns = {
            "_key": pa.array(keys, pa.binary()),
            "id": pa.array(range(len(values)), pa.int32()),
            "v": pa.array(values, integer).view(type_.arrow),
        }
        applied = node.apply_columns("t", columns)
        assert [h.key for h in applied.held] == keys
        assert all("is not in the years 1 to 9999" in h.reason for h in applied.held)
        assert node.sql("SELECT COUNT(*) FROM t") == [(0,)]


def test_columns_of_another_type_that_fit(mysql_db: str) -> None:
    """The canonical type comes from another node; here the column is what MySQL has for it."""
    pairs = {
        "uuid_text": ("char(36)", Kind.UUID, "12345678-9abc-def0-1234-56789abcdef0"),
        "uuid_bytes": ("binary(16)", Kind.UUID, "12345678-9abc-def0-1234-56789abcdef0"),
        "flag": ("bit(1)", Kind.BOOLEAN, True),
        "small_flag": ("tinyint", Kind.BOOLEAN, False),
        "narrow": ("bigint", Kind.INT16, -5),
        "big": ("decimal(20,0)", Kind.INT64, 2**63 - 1),
        "number": ("int", Kind.NUMERIC, "12"),
        "single": ("double", Kind.FLOAT32, 0.10000000149011612),
        "instant": ("datetime(6)", Kind.TIMESTAMPTZ, datetime(2300, 1, 1, tzinfo=UTC)),
        "local": ("timestamp(6) NULL", Kind.TIMESTAMP, datetime(2030, 1, 1)),  # noqa: DTZ001
        "doc": ("longtext", Kind.JSON, '{"a": 0.123456789012345678901}'),
        "list": ("json", Kind.LIST, "[1, 2]"),
        "word": ("varbinary(20)", Kind.TEXT, "ü😀 "),
        "opaque": ("text", Kind.OPAQUE, "1 day"),
    }
    declared = ", ".join(f"{name} {type_}" for name, (type_, _, _) in pairs.items())
    with MysqlNode(mysql_db, f"CREATE TABLE t (id int PRIMARY KEY, {declared})", [mapping("t")]) as node:
        columns = [Column("id", CanonicalType(Kind.INT32), nullable=False)]
        columns += [Column(name, CanonicalType(kind)) for name, (_, kind, _) in pairs.items()]
        node.tables["t"] = Table(mapping("t"), TableSchema("t", tuple(columns), ("id",)))
        row = {"id": 1} | {name: value for name, (_, _, value) in pairs.items()}
        assert node.apply("t", [row, {"id": 2}]).held == []
        (echo,) = [e for e in node.read(echoes=True) if isinstance(e, Echo)]
        for found in (node.snapshot.read_chunk(node.tables["t"], None, 9), echo.rows[0].rows):
            for column in columns:
                want = comparable(pa.array([row[column.name], None], column.type.arrow), column.type)
                got = comparable(found.column(column.name), column.type)
                assert got[0] == want[0], column.name
                assert column.name == "id" or not got[1].is_valid


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns"])
def test_timestamps_on_non_utc_server(zone: str) -> None:
    """Case 8: what we write and read is the instant, also in the hour that comes twice."""
    ddl = "CREATE TABLE t (id int PRIMARY KEY, at timestamp(6) NULL, local datetime(6))"
    instants = [datetime(2026, 10, 25, h, 30, tzinfo=UTC) for h in range(4)]
    instants += [datetime(2026, 3, 29, h, 30, tzinfo=UTC) for h in range(3)]
    with (
        local_server(env={"TZ": zone}) as server,
        MysqlNode(server.create_database("z"), ddl, [mapping("t")]) as node,
    ):
        rows = [{"id": i, "at": at, "local": at.replace(tzinfo=None)} for i, at in enumerate(instants)]
        assert node.apply("t", rows).held == []
        with server.connect("z") as app, app.cursor() as cursor:
            cursor.execute("SET SESSION time_zone = 'SYSTEM'")
            cursor.execute("SELECT UNIX_TIMESTAMP(at) FROM t ORDER BY id")
            assert [float(v) for (v,) in cursor.fetchall()] == [at.timestamp() for at in instants]
            cursor.execute("INSERT INTO t VALUES (99, FROM_UNIXTIME(1792895400), '2026-10-25 02:30:00')")
        chunk = node.snapshot.read_chunk(node.tables["t"], None, 100)
        assert chunk.column("at").to_pylist()[:-1] == instants
        events = node.rows()
        wanted = (datetime.fromtimestamp(1_792_895_400, UTC), datetime(2026, 10, 25, 2, 30))  # noqa: DTZ001
        assert [(r["at"], r["local"]) for r in events] == [wanted]
        assert (chunk.column("at")[-1].as_py(), chunk.column("local")[-1].as_py()) == wanted


def test_json_of_any_spelling_is_the_same(mysql_db: str) -> None:
    values = ['{"b":1,"a":2}', '{ "a" : 1.0 }', '["\\u00fc","\\u0000"]', "[1e2, -0.5]", "123456789012345678"]
    with MysqlNode(mysql_db, "CREATE TABLE t (id int PRIMARY KEY, v json)", [mapping("t")]) as node:
        assert node.apply("t", [{"id": i, "v": v} for i, v in enumerate(values)]).held == []
        found = node.snapshot.read_chunk(node.tables["t"], None, 9).column("v").to_pylist()
        assert [json.loads(v) for v in found] == [json.loads(v) for v in values]
