"""Reading whole rows in key order, whatever the key and the table's collation."""

from __future__ import annotations

import json

import pytest

from replication.errors import RowRefused
from replication.key import encode_key, encode_keys
from replication.paging import ChunkSize, read_chunks
from replication.types import Kind
from tests.fixtures.mysql_node import MysqlNode, mapping
from tests.fixtures.sql_node import pages

TEXTS = [
    "",
    "a",
    "B",
    "ä",
    "Z",
    "z",
    "😀",
    "ﬀ",
    "a b",
    "a\tb",
    "a\\b",
    'a"b',
    "a,b",
    "a\nb",
    "\\N",
    "NULL",
    "'",
]


LATIN = [t for t in TEXTS if t.isascii()] + ["ä", "ÿ", "€"]


EXACT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"


@pytest.mark.parametrize(
    ("type_", "texts"),
    [
        (f"varchar(20) {EXACT}", [*TEXTS, "a ", "a  ", " "]),
        (f"char(9) {EXACT}", TEXTS),
        ("varbinary(40)", TEXTS),
        ("varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", TEXTS),
        ("varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_as_cs", TEXTS),
        ("varchar(20) CHARACTER SET latin1 COLLATE latin1_bin", LATIN),
        (
            "varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci",
            ["Zebra", "apple", "Ärger", "b", "C"],
        ),
        (f"enum('sad','happy','Zen') {EXACT}", ["sad", "happy", "Zen"]),
    ],
)
def test_text_keys_come_in_code_point_order(mysql_db: str, type_: str, texts: list[str]) -> None:
    with MysqlNode(mysql_db, f"CREATE TABLE t (k {type_} PRIMARY KEY, v text)", [mapping("t", "k")]) as node:
        table = node.tables["t"]
        for text in texts:
            node.sql("INSERT INTO t VALUES (%s, %s)", text, text or None)
        rows = pages(node, "t", 3)
        shown = [r["k"].decode() if isinstance(r["k"], bytes) else r["k"] for r in rows]
        assert shown == sorted(texts, key=str.encode)
        assert [r["v"] or "" for r in rows] == shown
        wanted = [t.encode() for t in texts[::2]]
        found = node.snapshot.read_keys(table, [*wanted, b"absent"])
        assert found.column("_key").to_pylist() == sorted(wanted)


def test_a_collation_finds_no_more_than_the_key(mysql_db: str) -> None:
    with MysqlNode(mysql_db, "CREATE TABLE t (k varchar(20) PRIMARY KEY)", [mapping("t", "k")]) as node:
        node.sql("INSERT INTO t VALUES ('a')")
        assert node.snapshot.read_keys(node.tables["t"], [b"A"]).num_rows == 0


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("tinyint(1)", ["1", "0"]),
        ("smallint", ["-3", "0", "5"]),
        ("int unsigned", ["4294967295", "0", "2147483648"]),
        ("bigint", ["-9223372036854775808", "9223372036854775807", "-1", "0"]),
        ("bigint unsigned", ["18446744073709551615", "0", "9223372036854775808"]),
        ("decimal(20,8)", ["-1.5", "0", "1e10", "1.50000001", "1.5", "-100"]),
        ("date", ["'0001-01-01'", "'9999-12-31'", "'2024-01-01'", "'1969-12-31'"]),
        ("datetime(6)", ["'0001-01-01'", "'9999-12-31 23:59:59.999999'", "'1969-12-31 23:59:59.999999'"]),
        ("timestamp(6)", ["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07.499999'", "'2024-01-01'"]),
        ("varbinary(9)", ["''", "x'00'", "x'ff'", "x'5c'", "x'0000'", "x'27'"]),
        ("binary(2)", ["x'0000'", "x'ffff'", "x'5c27'"]),
        ("year", ["1901", "2155", "0"]),
    ],
)
def test_keys_of_every_kind_come_in_canonical_order(mysql_db: str, type_: str, values: list[str]) -> None:
    with MysqlNode(mysql_db, f"CREATE TABLE t (k {type_} PRIMARY KEY)", [mapping("t", "k")]) as node:
        node.sql(f"INSERT INTO t VALUES {', '.join(f'({v})' for v in values)}")
        chunks = list(read_chunks(node.snapshot, node.tables["t"], ChunkSize(1, 1)))
        keys = [k for c in chunks for k in c.column("_key").to_pylist()]
        assert keys == sorted(set(keys))
        assert len(keys) == len(values)
        again = node.snapshot.read_keys(node.tables["t"], [*reversed(keys), keys[0]])
        assert again.column("_key").to_pylist() == keys


def test_keys_of_several_columns(mysql_db: str) -> None:
    ddl = f"CREATE TABLE t (a varchar(20) {EXACT}, b int, c date, v text, PRIMARY KEY (b, a, c))"
    with MysqlNode(mysql_db, ddl, [mapping("t", "a", "b", "c")]) as node:
        for text in TEXTS:
            node.sql(
                "INSERT INTO t VALUES (%s, -1, '2024-01-01', NULL), (%s, 1, '2024-01-02', '')", text, text
            )
        rows = pages(node, "t", 5)
        assert [(r["a"], r["b"]) for r in rows] == sorted((t, b) for t in TEXTS for b in (-1, 1))
        table = node.tables["t"]
        chunk = node.snapshot.read_chunk(table, None, 100)
        wanted = chunk.column("_key").take([3, 0, 9]).to_pylist()
        other = encode_key(["none", 1, 0], [Kind.TEXT, Kind.INT32, Kind.INT64])
        found = node.snapshot.read_keys(table, [*wanted, other])
        assert found.column("_key").to_pylist() == sorted(wanted)
        kinds = [table.schema.column(c).type.kind for c in ("a", "b", "c")]
        assert encode_keys([found.column(c) for c in "abc"], kinds) == found.column("_key")


@pytest.mark.parametrize(
    "size", [0, 250, 251, 252, 65_535, 65_536, 2_000_000, 16_777_200, 17_000_000, 40_000_000]
)
def test_values_of_every_length(mysql_db: str, size: int) -> None:
    """Around every step of the protocol's lengths, and over the end of a packet."""
    ddl = "CREATE TABLE t (k int PRIMARY KEY, v longtext, w int)"
    with MysqlNode(mysql_db, ddl, [mapping("t", "k")]) as node:
        node.sql("INSERT INTO t SELECT 1, REPEAT('x', %s), 7", size)
        node.sql("INSERT INTO t VALUES (2, NULL, NULL), (3, 'end', 9)")
        rows = node.snapshot.read_chunk(node.tables["t"], None, 9).to_pylist()
        assert [r["w"] for r in rows] == [7, None, 9]
        assert [r["v"] for r in rows[1:]] == [None, "end"]
        assert rows[0]["v"] == "x" * size


def test_estimate(mysql_db: str) -> None:
    with MysqlNode(mysql_db, "CREATE TABLE t (k int PRIMARY KEY)", [mapping("t", "k")]) as node:
        table = node.tables["t"]
        assert node.snapshot.estimate_rows(table) == 0
        node.sql(f"INSERT INTO t VALUES {', '.join(f'({i})' for i in range(20_000))}")
        node.sql("ANALYZE TABLE t")
        assert 15_000 < node.snapshot.estimate_rows(table) < 25_000
        node.sql("DELETE FROM t WHERE k >= 100")
        node.sql("ANALYZE TABLE t")
        assert node.snapshot.estimate_rows(table) == 100


@pytest.mark.parametrize(
    ("type_", "value", "why"),
    [
        ("date", "'0000-00-00'", "'0000-00-00' is no date"),
        ("datetime", "'2024-00-10 00:00:00'", "is no date"),
        ("timestamp", "'0000-00-00 00:00:00'", "is no date"),
        ("tinyint(1)", "2", "2 is neither 0 nor 1"),
        ("time", "'-01:00:00'", "is no time of a day"),
        ("time", "'838:59:59'", "is no time of a day"),
    ],
)
def test_a_row_without_a_canonical_form_stops_the_reader(
    mysql_db: str, type_: str, value: str, why: str
) -> None:
    """Case 9: zero dates above all; nothing is made null or clamped in silence."""
    with MysqlNode(mysql_db, f"CREATE TABLE t (k int PRIMARY KEY, v {type_})", [mapping("t", "k")]) as node:
        node.sql("SET sql_mode = ''")
        node.sql(f"INSERT INTO t VALUES (1, NULL), (2, {value})")
        with pytest.raises(RowRefused, match=why) as caught:
            node.snapshot.read_chunk(node.tables["t"], None, 10)
        assert caught.value.message.startswith("the row 2 of `t` cannot be read: v: ")
        assert node.snapshot.read_chunk(node.tables["t"], None, 1).num_rows == 1


def test_json_is_read_as_written(mysql_db: str) -> None:
    values = [
        '{"a": [1, 2.5, null, true, "ü😀"], "b": {}}',
        "null",
        '"text"',
        "18446744073709551615",
        "0.1",
        "-0.0",
    ]
    with MysqlNode(mysql_db, "CREATE TABLE t (k int PRIMARY KEY, v json)", [mapping("t", "k")]) as node:
        for i, value in enumerate(values):
            node.sql("INSERT INTO t VALUES (%s, %s)", i, value)
        found = node.snapshot.read_chunk(node.tables["t"], None, 10).column("v").to_pylist()
        assert [json.loads(v) for v in found] == [json.loads(v) for v in values]
