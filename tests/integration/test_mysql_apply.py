"""Writing to MySQL: what it has of its own in keys, types and triggers. The rest is in `test_sql_apply`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from replication.change import Op
from replication.engines.mysql.applier import FIRST_PACKET, run
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.errors import SchemaChanged
from replication.narrowing import narrow
from replication.schema import Column, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.mysql_node import MysqlNode, mapping

DDL = """
CREATE TABLE items (id bigint PRIMARY KEY, name varchar(10), qty int, email varchar(50) UNIQUE)
    COLLATE utf8mb4_0900_bin;
CREATE TABLE keys_only (a int, b varchar(20), PRIMARY KEY (a, b)) COLLATE utf8mb4_0900_bin;
CREATE TABLE `odd %s ``names` (`the %% key` int PRIMARY KEY, `Select` text);
"""
ODD = "odd %s `names"


@pytest.fixture
def node(mysql_db: str) -> Iterator[MysqlNode]:
    mapped = [
        mapping("items"),
        mapping("keys_only", "a", "b"),
        mapping(ODD, "the %% key"),
    ]
    with MysqlNode(mysql_db, DDL, mapped) as made:
        yield made


def held_of(applied: Any) -> dict[int, str]:
    """Reasons by integer key."""
    return {int.from_bytes(h.key, "big") - (1 << 63): h.reason for h in applied.held}


def test_a_row_that_a_trigger_refuses_is_held(node: MysqlNode) -> None:
    node.sql(
        "CREATE TRIGGER picky BEFORE INSERT ON items FOR EACH ROW BEGIN IF NEW.qty = 13 THEN "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not that many'; END IF; END"
    )
    applied = node.apply("items", [{"id": i, "qty": i} for i in range(20)])
    assert held_of(applied) == {13: "1644: not that many"}
    assert node.sql("SELECT COUNT(*) FROM items") == [(19,)]


def test_a_unique_value_never_redirects_a_write(node: MysqlNode) -> None:
    """INSERT … ON DUPLICATE KEY UPDATE alone would change row 1, which only shares an email with row 2."""
    node.apply("items", [{"id": 1, "email": "a", "qty": 1}])
    applied = node.apply("items", [{"id": 2, "email": "a", "qty": 2}])
    assert set(held_of(applied)) == {2}
    assert node.sql("SELECT id, qty FROM items") == [(1, 1)]


def test_a_row_larger_than_a_packet_is_held(node: MysqlNode) -> None:
    limit = node.sql("SELECT @@max_allowed_packet")[0][0]
    node.sql("ALTER TABLE `odd %s ``names` MODIFY `Select` longtext")
    applied = node.apply(
        ODD, [{"the %% key": 1, "Select": "x" * limit}, {"the %% key": 2, "Select": "y" * 9}]
    )
    assert list(held_of(applied)) == [1]
    assert f"max_allowed_packet ({limit} bytes)" in held_of(applied)[1]
    assert node.sql("SELECT `the %% key` FROM `odd %s ``names`") == [(2,)]


def test_auto_increment_and_generated_columns(mysql_db: str) -> None:
    ddl = "CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, v varchar(9), n int, w int AS (n * 2) STORED)"
    with MysqlNode(mysql_db, ddl, [mapping("t")]) as node:
        assert node.apply("t", [{"id": 0, "v": "zero", "n": 1}, {"id": 7, "v": "a"}]).held == []
        assert node.apply("t", [{"id": 7, "v": "b", "n": 7}]).held == []
        assert node.sql("SELECT * FROM t") == [(0, "zero", 1, 2), (7, "b", 7, 14)]


def test_many_statements_make_one_transaction(node: MysqlNode) -> None:
    before = node.sql("SELECT @@gtid_executed")[0][0]
    node.apply("items", [{"id": i, "name": "x" * 10} for i in range(12_000)])
    assert node.sql("SELECT COUNT(*) FROM items") == [(12_000,)]
    new = node.sql("SELECT GTID_SUBTRACT(@@gtid_executed, %s)", before)[0][0]
    assert "-" not in new.rpartition(":")[2]


def test_a_row_that_is_refused_far_behind_others_is_held_alone(node: MysqlNode) -> None:
    """Its packet is made while the server executes those before it, and the next one is not sent."""
    rows = [{"id": i, "name": f"n{i}" if i != 8_999 else "x" * 11, "qty": i} for i in range(12_000)]
    rows += [{"id": i, "name": "n" * 9, "email": "e" * 40 + str(i)} for i in range(12_000, 18_000)]
    applied = node.apply("items", rows)
    assert set(held_of(applied)) == {8_999}
    assert node.sql("SELECT COUNT(*), COUNT(email) FROM items") == [(17_999, 6_000)]


def test_sql_that_cannot_be_made_leaves_no_answer_behind(mysql_db: str) -> None:
    def statements() -> Iterator[bytes]:
        yield b"START TRANSACTION"
        for number in (1, 2):
            yield b"INSERT INTO t VALUES (%d) /*%s*/" % (number, b"x" * FIRST_PACKET)
        message = "no such value"
        raise ValueError(message)

    with MysqlNode(mysql_db, "CREATE TABLE t (id int PRIMARY KEY)", [mapping("t")]) as node:
        with closing(connect(parse(node.engine.node))) as c:
            with pytest.raises(ValueError, match="no such value"):
                run(c, statements())
            with c.cursor() as cursor:
                cursor.execute("SELECT 'mine'")
                assert cursor.fetchall() == (("mine",),)
            c.rollback()
        assert node.sql("SELECT COUNT(*) FROM t") == [(0,)]


def test_keys_that_a_collation_takes_for_equal(mysql_db: str) -> None:
    """They are different rows elsewhere: one lands, the other is held, and neither harms the other."""
    ddl = "CREATE TABLE t (k varchar(20) CHARACTER SET latin1 COLLATE latin1_swedish_ci PRIMARY KEY, v int)"
    with MysqlNode(mysql_db, ddl, [mapping("t", "k")]) as node:
        node.apply("t", [{"k": "a", "v": 1}, {"k": "b", "v": 1}])
        applied = node.apply("t", [{"k": "A", "v": 2}, {"k": "b ", "v": 2}, {"k": "c", "v": 2}])
        assert {h.key for h in applied.held} == {b"A", b"b "}
        have = b"\x03"
        applied = node.apply("t", [{"k": "A", "v": 3, "_have": have}, {"k": "b", "v": 3, "_have": have}])
        assert applied.missing == [("t", b"A")]
        applied = node.apply("t", [{"k": k, "v": 4, "_op": Op.READ} for k in ("A", "d")])
        assert {h.key for h in applied.held} == {b"A"}, "that is not the row which is there"
        node.apply("t", [{"k": k, "_op": Op.DELETE} for k in ("A", "c", "d")])
        assert node.sql("SELECT k, v FROM t ORDER BY k") == [("a", 1), ("b", 3)]


@pytest.mark.parametrize(
    ("declared", "kind", "values"),
    [
        ("bigint unsigned", Kind.INT64, [0, 1, 2**63 - 1]),
        ("decimal(20,0)", Kind.INT64, [-(2**63), 0, 2**63 - 1]),
        ("int", Kind.NUMERIC, ["-5", "0", "7"]),
        ("decimal(20,5)", Kind.NUMERIC, ["-1.5", "0.00001", "123456789012345.12345"]),
        ("datetime(6)", Kind.TIMESTAMPTZ, [datetime(1900 + i, 1, 1, tzinfo=UTC) for i in range(3)]),
    ],
)
def test_keys_of_a_kin_type_are_found(mysql_db: str, declared: str, kind: Kind, values: list[Any]) -> None:
    with MysqlNode(
        mysql_db, f"CREATE TABLE t (k {declared} PRIMARY KEY, v int)", [mapping("t", "k")]
    ) as node:
        columns = (Column("k", CanonicalType(kind), nullable=False), Column("v", CanonicalType(Kind.INT32)))
        table = node.tables["t"] = Table(mapping("t", "k"), TableSchema("t", columns, ("k",)))
        assert node.apply("t", [{"k": k, "v": 1} for k in values]).held == []
        keys = node.snapshot.read_chunk(table, None, 9).column("_key").to_pylist()
        assert len(keys) == 3
        assert node.snapshot.read_chunk(table, keys[0], 9).column("_key").to_pylist() == keys[1:]
        assert node.snapshot.read_keys(table, keys).num_rows == 3
        update = {"k": values[1], "v": 2, "_have": b"\x03"}
        applied = node.apply("t", [update, {"k": values[0], "_op": Op.DELETE}, {"k": values[2], "v": 3}])
        assert (applied.held, applied.missing) == ([], [])
        assert sorted(v for (v,) in node.sql("SELECT v FROM t")) == [2, 3]


@pytest.mark.parametrize("declared", ["char(36) CHARACTER SET ascii COLLATE ascii_general_ci", "binary(16)"])
def test_a_uuid_is_found_however_it_is_written(mysql_db: str, declared: str) -> None:
    texts = [f"12345678-9abc-def0-1234-56789abcdef{i}" for i in range(3)]
    with MysqlNode(
        mysql_db, f"CREATE TABLE t (k {declared} PRIMARY KEY, v int)", [mapping("t", "k")]
    ) as node:
        columns = (
            Column("k", CanonicalType(Kind.UUID), nullable=False),
            Column("v", CanonicalType(Kind.INT32)),
        )
        table = node.tables["t"] = Table(mapping("t", "k"), TableSchema("t", columns, ("k",)))
        for text in texts:
            stored = text.upper() if "char" in declared else bytes.fromhex(text.replace("-", ""))
            node.sql("INSERT INTO t VALUES (%s, 1)", stored)
        changes = [{"k": texts[0], "_op": Op.DELETE}, {"k": texts[1], "v": 2}]
        applied = node.apply("t", [*changes, {"k": texts[2], "v": 3, "_have": b"\x03"}])
        assert (applied.held, applied.missing) == ([], [])
        assert sorted(v for (v,) in node.sql("SELECT v FROM t")) == [2, 3]
        found = node.snapshot.read_keys(table, [t.encode() for t in texts])
        assert found.column("k").to_pylist() == texts[1:]
        assert node.snapshot.read_chunk(table, texts[1].encode(), 9).column("k").to_pylist() == texts[2:]
        assert node.catalog.preflight([table]) == []


def narrowing_node(mysql_db: str, declared: str) -> MysqlNode:
    return MysqlNode(
        mysql_db, f"CREATE TABLE t (id int PRIMARY KEY, v {declared})", [mapping("t")], ["mongodb"]
    )


@pytest.mark.parametrize("have", [None, b"\x03"])
@pytest.mark.parametrize("declared", ["timestamp(6) NULL", "datetime(6)"])
def test_a_narrower_node_leaves_microseconds_alone(mysql_db: str, declared: str, have: bytes | None) -> None:
    held = datetime(2026, 1, 2, 3, 4, 5, 678_321, tzinfo=UTC)
    cut, other = held.replace(microsecond=678_000), held.replace(microsecond=677_000)
    zone = UTC if "timestamp" in declared else None
    with narrowing_node(mysql_db, declared) as node:
        node.sql(f"INSERT INTO t VALUES (1, '{held:%F %T.%f}'), (2, '{held:%F %T.%f}'), (3, NULL)")
        rows = [(1, cut), (2, other), (3, cut)]
        node.apply("t", [{"id": i, "v": v.replace(tzinfo=zone), "_have": have} for i, v in rows])
        assert [v for (v,) in node.sql("SELECT v FROM t ORDER BY id")] == [
            v.replace(tzinfo=None) for v in (held, other, cut)
        ]
        later = (cut + timedelta(milliseconds=1)).replace(tzinfo=zone)
        node.apply("t", [{"id": 1, "v": later, "_have": have}])
        assert node.sql("SELECT v FROM t WHERE id = 1") == [(later.replace(tzinfo=None),)]


@pytest.mark.parametrize("have", [None, b"\x03"])
def test_a_narrower_node_leaves_long_numbers_alone(mysql_db: str, have: bytes | None) -> None:
    texts = [
        "12345678901234567890123456789012345.123456789012345678901234567890",
        "-99999999999999999999999999999999999.5",
        "10000.000000000000000000000000000050",
        "10000.00000000000000000000000000015",
        "10000.00000000000000000000000000025",
        "1234567890123456789012345678901234.5",
        "1234567890123456789012345678901235.5",
        "0.000000000000000000000000000001",
        "99999.99999999999999999999999999995",
    ]
    with narrowing_node(mysql_db, "decimal(65,30)") as node:
        for ident, text in enumerate(texts):
            node.sql("INSERT INTO t VALUES (%s, %s)", ident, text)
        stored = node.sql("SELECT v FROM t ORDER BY id")
        type = node.tables["t"].schema.column("v").type
        cut = narrow(pa.array(texts, pa.utf8()), type, "mongodb").to_pylist()
        assert cut != texts
        node.apply("t", [{"id": i, "v": v, "_have": have} for i, v in enumerate(cut)])
        assert node.sql("SELECT v FROM t ORDER BY id") == stored
        node.apply("t", [{"id": 0, "v": "7", "_have": have}])
        assert node.sql("SELECT v FROM t WHERE id = 0") == [(7,)]


@pytest.mark.parametrize("have", [None, b"\x03"])
def test_a_narrower_node_leaves_a_json_null_alone(mysql_db: str, have: bytes | None) -> None:
    with narrowing_node(mysql_db, "json") as node:
        node.sql("INSERT INTO t VALUES (1, 'null'), (2, '[1]'), (3, NULL)")
        node.apply("t", [{"id": i, "v": None, "_have": have} for i in (1, 2, 3)])
        assert node.sql("SELECT v FROM t ORDER BY id") == [("null",), (None,), (None,)]


def test_a_table_of_another_shape_is_no_row_of_ours(node: MysqlNode) -> None:
    """What the mapping calls text, and the table keeps as a number, would compare as a number."""
    table = node.tables["keys_only"]
    node.sql("ALTER TABLE keys_only MODIFY b int")
    with closing(node.engine.applier([Table(table.mapping, table.schema)], [])) as applier:
        batch = node.batch("keys_only", [{"a": 1, "b": "x", "_op": Op.DELETE}])
        with pytest.raises(SchemaChanged, match=r"keys_only\.b is int, which is not text"):
            applier.apply(batch)
