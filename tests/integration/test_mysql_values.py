"""Every type of MySQL's: what the log shows, what a snapshot reads, what the library's reader makes of it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import WriteRowsEvent

from replication.change import Changes, Unreadable
from replication.engines.mysql.charsets import read_charsets
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.engines.mysql.position import Token, position_now
from replication.narrowing import comparable
from replication.position import Position
from tests.fixtures.mysql import local_server
from tests.fixtures.mysql_node import MysqlNode, mapping, rows_of

TYPES = {
    "t": "tinyint",
    "tu": "tinyint unsigned",
    "s": "smallint",
    "su": "smallint unsigned zerofill",
    "m": "mediumint",
    "mu": "mediumint unsigned",
    "i": "int",
    "iu": "int unsigned",
    "b": "bigint",
    "bu": "bigint unsigned",
    "flag": "tinyint(1)",
    "y": "year",
    "bit1": "bit(1)",
    "bit5": "bit(5)",
    "bit64": "bit(64)",
    "d10": "decimal(10,0)",
    "d12": "decimal(12,2)",
    "d30": "decimal(30,30)",
    "d65": "decimal(65,30)",
    "d19": "decimal(19,18) unsigned",
    "f": "float",
    "g": "double",
    "c": "char(20)",
    "cw": "char(255)",
    "v": "varchar(20)",
    "vw": "varchar(300)",
    "tx": "text",
    "lt": "longtext",
    "fixed": "binary(6)",
    "vb": "varbinary(300)",
    "tb": "tinyblob",
    "mb": "mediumblob",
    "e": "enum('a','it''s','','ü')",
    "big": "enum({})",
    "st": "set('x','y y','ü')",
    "st64": "set({})",
    "da": "date",
    "t0": "time",
    "t3": "time(3)",
    "t6": "time(6)",
    "dt": "datetime",
    "dt1": "datetime(1)",
    "dt6": "datetime(6)",
    "ts": "timestamp NULL",
    "ts2": "timestamp(2) NULL",
    "ts6": "timestamp(6) NULL",
    "j": "json",
    "ge": "geometry",
    "pt": "point SRID 4326",
    "ve": "vector(3)",
}
TYPES["big"] = TYPES["big"].format(",".join(f"'m{i}'" for i in range(300)))
TYPES["st64"] = TYPES["st64"].format(",".join(f"'m{i}'" for i in range(64)))
VALUES: dict[str, Sequence[str]] = {
    "t": ("-128", "127", "0", "-1"),
    "tu": ("255", "0", "128"),
    "s": ("-32768", "32767", "-1"),
    "su": ("65535", "0", "7"),
    "m": ("-8388608", "8388607", "-1"),
    "mu": ("16777215", "0"),
    "i": ("-2147483648", "2147483647", "-1"),
    "iu": ("4294967295", "0"),
    "b": ("-9223372036854775808", "9223372036854775807", "-1"),
    "bu": ("18446744073709551615", "0", "9223372036854775808"),
    "flag": ("0", "1"),
    "y": ("1901", "2155", "0"),
    "bit1": ("b'0'", "b'1'"),
    "bit5": ("b'0'", "b'10110'", "b'11111'"),
    "bit64": ("b'1'", f"b'{'10' * 32}'"),
    "d10": ("-9999999999", "0", "1", "999999999", "1000000000"),
    "d12": ("-9999999999.99", "0", "-0.01", "0.10", "12345.67", "9999999999.99"),
    "d30": ("0", "-0." + "9" * 30, "0." + "0" * 29 + "1"),
    "d65": ("-" + "9" * 35 + "." + "9" * 30, "0", "0." + "0" * 29 + "1", "1" + "0" * 34),
    "d19": ("9.999999999999999999", "0.000000000000000001"),
    "f": ("0", "-0.0", "1.5", "3.402823e38", "1.17549e-38", "0.1", "16777216"),
    "g": ("0", "-0.0", "0.1", "1.7976931348623157e308", "2.2250738585072014e-308", "1e22"),
    "c": ("''", "'a b '", "'ü€𝄞'"),
    "cw": ("''", "REPEAT('€', 255)"),
    "v": ("''", "' padded '", "CONCAT('nul', CHAR(0), 'x')", "'ü€𝄞'"),
    "vw": ("''", "REPEAT('ü', 300)"),
    "tx": ("''", "REPEAT('x', 65535)", "'line\\nline'"),
    "lt": ("''", "REPEAT('€', 70000)"),
    "fixed": ("''", "'ab'", "X'00ff00'", "X'616200000000'"),
    "vb": ("''", "X'00'", "X'ff00ff0a'"),
    "tb": ("''", "X'00ff'"),
    "mb": ("REPEAT(X'00', 70000)",),
    "e": ("'a'", "'it''s'", "''", "'ü'"),
    "big": ("'m0'", "'m299'", "'m255'"),
    "st": ("''", "'x'", "'x,y y,ü'"),
    "st64": ("''", "'m63'", "'m0,m31,m32,m63'"),
    "da": ("'0001-01-01'", "'9999-12-31'", "'1970-01-01'", "'2000-02-29'", "'1900-03-01'"),
    "t0": ("'00:00:00'", "'23:59:59'", "'24:00:00'"),
    "t3": ("'00:00:00.001'", "'23:59:59.999'"),
    "t6": ("'00:00:00.000001'", "'23:59:59.999999'", "'12:34:56'"),
    "dt": ("'0001-01-01 00:00:00'", "'9999-12-31 23:59:59'", "'1969-12-31 23:59:59'"),
    "dt1": ("'2024-02-29 12:34:56.7'",),
    "dt6": ("'1000-01-01 00:00:00.000001'", "'9999-12-31 23:59:59.999999'"),
    "ts": ("'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'"),
    "ts2": ("'2024-10-27 01:30:00.25'",),
    "ts6": ("'2038-01-19 03:14:07.499999'", "'2001-09-09 01:46:40'"),
    "j": (
        "'null'",
        "'{}'",
        "'[]'",
        "'true'",
        "'\"ü\\\\u0000\\\\n𝄞\"'",
        "'[1, -1, 32768, -2147483648, 4294967296, 18446744073709551615, 0.1, 1e22, -0.0, 1.0]'",
        '\'{"b": {"a": [null, false]}, "": 1, "ü": "€"}\'',
        "JSON_ARRAY(CAST(1.50 AS DECIMAL(65,30)), CAST(-7 AS DECIMAL(3,0)), CAST(0 AS DECIMAL(2,2)))",
        "JSON_ARRAY(DATE'2024-02-29', TIME'-23:59:59.5', TIMESTAMP'2024-02-29 01:02:03.000004')",
        "JSON_OBJECT('blob', X'00ff', 'bit', b'101', 'year', CAST('2024' AS YEAR))",
        "JSON_OBJECT('long', REPEAT('x', 70000), 'n', 70000, 'list', JSON_ARRAY(70000, -70000))",
        "CONCAT('[', REPEAT('[', 98), REPEAT(']', 98), ']')",
        "CONCAT('[', REPEAT('1,', 30000), '2]')",
    ),
    "ge": ("ST_GeomFromText('POINT(1 -2.5)')", "ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 2))', 4326)"),
    "pt": ("ST_GeomFromText('POINT(10 20)', 4326)",),
    "ve": ("STRING_TO_VECTOR('[1,2.5,-3]')",),
}


@pytest.fixture(scope="module")
def wide() -> Iterator[MysqlNode]:
    columns = ", ".join(f"`{name}` {type}" for name, type in TYPES.items())
    with local_server() as server:
        plain = columns.replace(", `ve` vector(3)", "")  # the library cannot read of vectors
        ddl = ";".join(
            f"CREATE TABLE {n} (id int PRIMARY KEY, {c})" for n, c in (("wide", columns), ("plain", plain))
        )
        with MysqlNode(server.create_database("wide"), ddl, [mapping("wide"), mapping("plain")]) as node:
            node.sql("SET SESSION sql_mode = ''")
            yield node


def put(node: MysqlNode, rows: Sequence[dict[str, str]], table: str = "wide") -> Position:
    """Write rows of SQL literals; returns where the log was before."""
    node.sql(f"DELETE FROM {table}")
    start = position_now(node.app)
    for i, row in enumerate(rows):
        names = "".join(f", `{name}`" for name in row)
        node.sql(f"INSERT INTO {table} (id{names}) VALUES ({i}{''.join(f', {v}' for v in row.values())})")
    return start


def logged(node: MysqlNode, after: Position) -> pa.Table:
    events = [e for e in node.read(after) if isinstance(e, Changes)]
    return pa.Table.from_batches([t.rows for e in events for t in e.tables])


def check_same(node: MysqlNode, after: Position) -> None:
    found = logged(node, after)
    table = node.tables["wide"]
    read = node.snapshot.read_chunk(table, None, 100_000)
    assert found.num_rows == read.num_rows
    for column in table.schema.columns:
        here, there = (
            comparable(pa.chunked_array([t.column(column.name)]).combine_chunks(), column.type)
            if isinstance(t, pa.RecordBatch)
            else comparable(t.column(column.name).combine_chunks(), column.type)
            for t in (found, read)
        )
        assert here.to_pylist() == there.to_pylist(), column.name
        assert found.schema.field(column.name).type == column.type.arrow


def test_log_and_snapshot_agree_on_every_type(wide: MysqlNode) -> None:
    most = max(map(len, VALUES.values()))
    rows = [{name: values[i] for name, values in VALUES.items() if i < len(values)} for i in range(most)]
    start = put(wide, rows)
    check_same(wide, start)
    found = logged(wide, start)
    for name, values in VALUES.items():
        assert found.column(name).null_count == most - len(values), name


def test_what_values_are(wide: MysqlNode) -> None:
    """Against what a client reads, so that log and snapshot are not wrong in the same way."""
    start = put(wide, [{name: values[-1] for name, values in VALUES.items()}])
    (row,) = logged(wide, start).to_pylist()
    exact = {
        "t": -1, "bu": "9223372036854775808", "flag": True, "bit1": True, "bit5": "11111", "y": 0,
        "d12": "9999999999.99", "d65": "1" + "0" * 34 + "." + "0" * 30, "f": 16777216.0, "g": 1e22,
        "c": "ü€𝄞", "fixed": b"ab\0\0\0\0", "vb": b"\xff\0\xff\n", "big": "m255", "st": "x,y y,ü",
        "st64": "m0,m31,m32,m63", "da": datetime.date(1900, 3, 1),
        "t6": datetime.time(12, 34, 56), "dt6": datetime.datetime.fromisoformat("9999-12-31T23:59:59.999999"),
        "ts6": datetime.datetime(2001, 9, 9, 1, 46, 40, tzinfo=datetime.UTC),
        "ge": "0107000020E6100000010000000101000000" + "0000000000000040" + "000000000000F03F",
    }  # fmt: skip
    assert {name: row[name] for name in exact} == exact


SQL_NULL = st.just("NULL")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def quoted(text: str) -> str:
    return "CONVERT(X'" + text.encode().hex() + "' USING utf8mb4)" if text else "''"


FUZZED: dict[str, st.SearchStrategy[str]] = {
    "t": st.integers(-128, 127).map(str),
    "m": st.integers(-(2**23), 2**23 - 1).map(str),
    "mu": st.integers(0, 2**24 - 1).map(str),
    "b": st.integers(-(2**63), 2**63 - 1).map(str),
    "bu": st.integers(0, 2**64 - 1).map(str),
    "bit5": st.integers(0, 31).map(lambda n: f"b'{n:b}'"),
    "bit64": st.integers(0, 2**64 - 1).map(lambda n: f"b'{n:b}'"),
    "d10": st.integers(-(10**10) + 1, 10**10 - 1).map(str),
    "d12": st.decimals(-(10**10) + 1, 10**10 - 1, places=2).map(str),
    "d65": st.tuples(st.sampled_from(["", "-"]), st.integers(0, 10**65 - 1)).map(
        lambda v: f"{v[0]}{v[1] // 10**30}.{v[1] % 10**30:030}"
    ),
    "g": st.floats(allow_nan=False, allow_infinity=False).map(repr),
    "v": TEXTS.map(quoted),
    "lt": TEXTS.map(quoted),
    "vb": st.binary(max_size=300).map(lambda b: f"X'{b.hex()}'"),
    "fixed": st.binary(max_size=6).map(lambda b: f"X'{b.hex()}'"),
    "da": st.dates().map(lambda d: f"'{d}'"),
    "t3": st.times().map(lambda t: f"'{t.replace(microsecond=t.microsecond // 1000 * 1000)}'"),
    "dt1": st.datetimes().filter(lambda d: d.year < 9999).map(lambda d: f"'{d}'"),
    "dt6": st.datetimes().map(lambda d: f"'{d}'"),
    "ts6": st.integers(1, 2**31 - 1).map(lambda n: f"FROM_UNIXTIME({n}.{n % 1000000:06})"),
    "st": st.sets(st.sampled_from(["x", "y y", "ü"])).map(lambda s: f"'{','.join(s)}'"),
    "j": st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXTS | st.floats(-1e300, 1e300),
        lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
        max_leaves=12,
    ).map(lambda v: quoted(json.dumps(v))),
}  # fmt: skip


@settings(max_examples=25)
@given(st.lists(st.fixed_dictionaries({n: SQL_NULL | s for n, s in FUZZED.items()}), min_size=1, max_size=20))
def test_log_and_snapshot_agree_on_any_value(wide: MysqlNode, rows: list[dict[str, str]]) -> None:
    check_same(wide, put(wide, rows))


def library_rows(node: MysqlNode, after: Position) -> list[dict[str, Any]]:
    config = parse(node.engine.node)
    token = Token.unpack(after.token)
    reader = BinLogStreamReader(
        {},
        99,
        resume_stream=True,
        log_file=token.file,
        log_pos=token.offset,
        only_events=[WriteRowsEvent],
        only_tables=["plain"],
        pymysql_wrapper=lambda **given: connect(
            config, **{k: v for k, v in given.items() if k == "cursorclass"}
        ),
        enable_logging=False,
    )
    with closing(reader):
        return [row["values"] for event in reader for row in event.rows]


def test_the_librarys_reader_agrees(wide: MysqlNode) -> None:
    """On all that it reads as the server does; it drops members that are not UTF-8, and zero bytes."""
    most = max(map(len, VALUES.values()))
    rows = [{name: values[i] for name, values in VALUES.items() if i < len(values)} for i in range(most)]
    for row in rows:
        row.pop("ve", None)
    start = put(wide, rows, "plain")
    ours = logged(wide, start).to_pylist()
    theirs = library_rows(wide, start)
    assert len(ours) == len(theirs) == most
    same = [
        "id", "t", "tu", "s", "su", "m", "mu", "i", "iu", "b", "f", "g", "y", "c", "cw", "v", "vw", "tx",
        "lt", "vb", "tb", "mb", "e", "big", "da", "dt", "dt1", "dt6",
    ]  # fmt: skip
    for name in same:
        expected: list[Any] = [row[name] for row in theirs]
        if name == "y":
            expected = [0 if v == 1900 else v for v in expected]
        if name in ("vb", "tb", "mb"):
            expected = [v.encode() if isinstance(v, str) else v for v in expected]
        assert [row[name] for row in ours] == expected, name
    for name in ("bu", "d10", "d12", "d30", "d65", "d19"):
        assert [None if row[name] is None else Decimal(row[name]) for row in ours] == [
            None if row[name] is None else Decimal(row[name]) for row in theirs
        ], name
    for name in ("ts", "ts2", "ts6"):
        naive = [None if row[name] is None else row[name].replace(tzinfo=None) for row in ours]
        assert naive == [row[name] for row in theirs], name


def test_character_sets(mysql_db: str) -> None:
    """Every byte of the sets of one byte, samples of the others: as the server itself converts them."""
    with MysqlNode(mysql_db, "", []) as node:
        sets = {c.name: c for c in read_charsets(node.app).values()}
    known = [c for c in sets.values() if c.known]
    assert {c.name for c in sets.values() if not c.known} == {"binary", "big5", "eucjpms"}
    columns = ", ".join(
        f"c{i} varchar(300) CHARACTER SET {c.name}, e{i} enum('é?', 'n') CHARACTER SET {c.name}"
        for i, c in enumerate(known)
    )
    ddl = f"CREATE TABLE texts (id int PRIMARY KEY, {columns})"
    with MysqlNode(mysql_db, ddl, [mapping("texts")]) as node:
        node.sql("SET SESSION sql_mode = ''")  # what a set does not have becomes a question mark
        for i, charset in enumerate(known):
            node.sql("INSERT INTO texts (id) VALUES (%s)", i)
            node.sql(f"UPDATE texts SET c{i} = %s, e{i} = 1 WHERE id = %s", "aé€ß☃Ж中ש한あ𝄞＼～\0 z", i)
            if charset.table:
                defined = bytes(b for b in range(256) if charset.table[b] != "\ufffe").hex()
                node.sql(f"INSERT INTO texts (id, c{i}) VALUES ({i + 100}, _{charset.name} X'{defined}')")
        events = node.read()
        found = {row["id"]: row for row in rows_of(events)}
        read = node.snapshot.read_chunk(node.tables["texts"], None, 1000).to_pylist()
    assert all(isinstance(e, Changes) for e in events), events
    for row in read:
        i = row["id"] % 100
        for name in (f"c{i}", f"e{i}"):
            assert found[row["id"]][name] == row[name], known[i]


def test_bytes_without_a_character_are_unreadable(mysql_db: str) -> None:
    ddl = "CREATE TABLE texts (id int PRIMARY KEY, v varchar(10) CHARACTER SET cp1251)"
    with MysqlNode(mysql_db, ddl, [mapping("texts")]) as node:
        node.sql("INSERT INTO texts VALUES (1, _cp1251 X'98')")
        (event,) = node.read()
    assert isinstance(event, Unreadable)
    assert event.reason.startswith("texts.v: b'\\x98' cannot be read")


def test_log_and_snapshot_agree_where_clocks_change() -> None:
    """Case 8: the server is in a zone with daylight saving, and so are its applications."""
    ddl = "CREATE TABLE moments (id int PRIMARY KEY, ts timestamp(3) NULL, dt datetime NULL)"
    with (
        local_server(env={"TZ": "Europe/Berlin"}) as server,
        MysqlNode(server.create_database("dst"), ddl, [mapping("moments")]) as node,
    ):
        assert node.sql("SELECT @@system_time_zone")[0][0] in ("CET", "CEST")
        # Each local time between two and three comes twice in October, and not at all in March.
        unix = [1729988999, 1729989000, 1729992599, 1729992600, 1711846799, 1711846800, 1.001, 2147483647]
        for i, second in enumerate(unix):
            node.sql("INSERT INTO moments VALUES (%s, FROM_UNIXTIME(%s), '2024-03-31 02:30:00')", i, second)
        node.sql("SET SESSION time_zone = 'SYSTEM'")
        node.sql("INSERT INTO moments VALUES (8, '2024-07-01 12:00:00', '2024-03-31 02:30:00')")
        found = node.rows()
        read = node.snapshot.read_chunk(node.tables["moments"], None, 100).to_pylist()
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    expected = [epoch + datetime.timedelta(milliseconds=round(s * 1000)) for s in unix]
    expected.append(datetime.datetime(2024, 7, 1, 10, tzinfo=datetime.UTC))
    assert [row["ts"] for row in found] == expected
    assert [row["ts"] for row in read] == expected
    assert {row["dt"].isoformat() for row in [*found, *read]} == {"2024-03-31T02:30:00"}
