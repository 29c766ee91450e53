"""Writing to MySQL: one transaction per batch, whatever some of its rows are like."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from replication.batch import Outcome
from replication.change import Op
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.errors import Contention, NodeUnavailable, SchemaChanged, SyncError
from replication.marker import Marker
from replication.narrowing import narrow
from replication.schema import Column, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.mysql_node import GROUP, MysqlNode, bits, mapping, wait_for

DDL = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE items (
    id bigint PRIMARY KEY, name varchar(10), qty int CHECK (qty <> 666), email varchar(50) UNIQUE,
    parent int, hidden varchar(20) DEFAULT 'kept', FOREIGN KEY (parent) REFERENCES parent (id)
) COLLATE utf8mb4_0900_bin;
CREATE TABLE keys_only (a int, b varchar(20), PRIMARY KEY (a, b)) COLLATE utf8mb4_0900_bin;
CREATE TABLE `odd %s ``names` (`the %% key` int PRIMARY KEY, `Select` text);
"""
ODD = "odd %s `names"
WIDTH = 5


@pytest.fixture
def node(mysql_db: str) -> Iterator[MysqlNode]:
    mapped = [
        mapping("items", exclude=frozenset({"hidden"})),
        mapping("keys_only", "a", "b"),
        mapping(ODD, "the %% key"),
    ]
    with MysqlNode(mysql_db, DDL, mapped) as made:
        yield made


def held_of(applied: Any) -> dict[int, str]:
    """Reasons by integer key."""
    return {int.from_bytes(h.key, "big") - (1 << 63): h.reason for h in applied.held}


def test_rows_are_written_updated_and_deleted(node: MysqlNode) -> None:
    node.sql("INSERT INTO items (id, name, hidden) VALUES (1, 'x', 'mine'), (2, 'y', 'mine')")
    applied = node.apply(
        "items",
        [
            {"id": 1, "name": "a", "qty": 5},
            {"id": 2, "_op": Op.DELETE},
            {"id": 3},
            {"id": 4, "_op": Op.DELETE},
        ],
    )
    assert (applied.outcome, applied.held, applied.missing) == (Outcome.COMMITTED, [], [])
    assert node.sql("SELECT id, name, qty, hidden FROM items ORDER BY id") == [
        (1, "a", 5, "mine"),
        (3, None, None, "kept"),
    ]


def test_foreign_keys_are_at_rest(node: MysqlNode) -> None:
    assert node.apply("items", [{"id": 1, "name": "low", "parent": 99}]).held == []
    assert node.sql("SELECT name, parent FROM items") == [("low", 99)]


def test_a_guarded_trigger_is_at_rest(node: MysqlNode) -> None:
    node.sql(
        "CREATE TRIGGER shout BEFORE INSERT ON items FOR EACH ROW "
        "SET NEW.name = IF(@sync_worker_applying IS NULL, UPPER(NEW.name), NEW.name)"
    )
    node.apply("items", [{"id": 1, "name": "low"}])
    node.sql("INSERT INTO items (id, name) VALUES (2, 'low')")
    assert node.sql("SELECT name FROM items ORDER BY id") == [("low",), ("LOW",)]


def test_a_row_that_a_trigger_refuses_is_held(node: MysqlNode) -> None:
    node.sql(
        "CREATE TRIGGER picky BEFORE INSERT ON items FOR EACH ROW BEGIN IF NEW.qty = 13 THEN "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not that many'; END IF; END"
    )
    applied = node.apply("items", [{"id": i, "qty": i} for i in range(20)])
    assert held_of(applied) == {13: "1644: not that many"}
    assert node.sql("SELECT COUNT(*) FROM items") == [(19,)]


def test_tables_of_keys_alone(node: MysqlNode) -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]
    node.apply("keys_only", rows)
    node.apply("keys_only", [*rows, {"a": 2, "b": "z"}])
    assert node.sql("SELECT * FROM keys_only ORDER BY 1, 2") == [(1, "x"), (1, "y"), (2, "z")]
    partial = [{"a": a, "b": "z", "_have": b"\x03"} for a in (2, 3)]
    applied = node.apply("keys_only", partial)
    assert [table for table, _ in applied.missing] == ["keys_only"]
    node.apply("keys_only", [{"a": 1, "b": "y", "_op": Op.DELETE}, {"a": 2, "b": "x", "_op": Op.DELETE}])
    assert node.sql("SELECT * FROM keys_only ORDER BY 1, 2") == [(1, "x"), (2, "z")]


def test_odd_names(node: MysqlNode) -> None:
    node.apply(ODD, [{"the %% key": 1, "Select": "a"}, {"the %% key": 2, "Select": "b"}])
    partial = {"the %% key": 2, "Select": "c", "_have": b"\x03"}
    node.apply(ODD, [{"the %% key": 1, "_op": Op.DELETE}, partial])
    assert node.sql("SELECT * FROM `odd %s ``names`") == [(2, "c")]
    assert node.snapshot.read_chunk(node.tables[ODD], None, 9).column("Select").to_pylist() == ["c"]


def test_texts_keep_every_character(node: MysqlNode) -> None:
    texts = [
        'a"b',
        "a\\b",
        "a,b",
        "\\'",
        "NULL",
        "null",
        "",
        " ",
        "\t\n\r",
        "%s %%",
        "😀",
        "'",
        "\0",
        "\x1a",
        "x ",
    ]
    node.apply("items", [{"id": i, "email": t} for i, t in enumerate(texts)])
    assert [t for (t,) in node.sql("SELECT email FROM items ORDER BY id")] == texts


def test_refused_rows_are_held_and_the_others_commit(node: MysqlNode) -> None:
    """Case 28: check, length and unique, among a thousand good rows."""
    rows: list[dict[str, object]] = [{"id": i, "qty": i} for i in range(1000)]
    rows[10]["name"] = "longer than ten"
    rows[11]["name"] = "blanks     "
    rows[500]["email"] = rows[501]["email"] = "twice"
    applied = node.apply("items", rows)
    held = held_of(applied)
    assert set(held) == {10, 11, 501, 666}
    assert held[10] == "name: 'longer than ten' is longer than 10 characters"
    assert held[11] == "name: 'blanks     ' is longer than 10 characters"
    assert "another row has one of its unique values" in held[501]
    assert held[666].startswith("3819")
    assert node.sql("SELECT COUNT(*) FROM items") == [(996,)]
    assert node.sql("SELECT qty FROM items WHERE id = 500") == [(500,)]
    assert all(h.table == "items" for h in applied.held)
    assert node.apply("items", [{"id": 666, "qty": 667}]).held == []


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


def test_deletes_go_before_inserts(node: MysqlNode) -> None:
    node.apply("items", [{"id": 1, "email": "a"}])
    applied = node.apply("items", [{"id": 2, "email": "a"}, {"id": 1, "_op": Op.DELETE}])
    assert applied.held == []
    assert node.sql("SELECT id FROM items") == [(2,)]


def test_unique_values_that_move_along_find_their_order(node: MysqlNode) -> None:
    node.apply("items", [{"id": i, "email": str(i)} for i in range(5)])
    applied = node.apply("items", [{"id": i, "email": str(i + 1)} for i in range(5)])
    assert applied.held == []
    assert [e for (e,) in node.sql("SELECT email FROM items ORDER BY id")] == list("12345")


def test_partial_rows_update_what_they_have(node: MysqlNode) -> None:
    node.apply("items", [{"id": 1, "name": "a", "qty": 1}, {"id": 2, "name": "b", "qty": 2}])
    name, qty = bits(0, 1, width=WIDTH), bits(0, 2, width=WIDTH)
    applied = node.apply(
        "items",
        [
            {"id": 1, "name": "n", "_have": name},
            {"id": 2, "qty": None, "_have": qty},
            {"id": 8, "name": "?", "_have": name},
            {"id": 9, "qty": 9, "_have": qty},
            {"id": 3, "name": "whole"},
        ],
    )
    assert [(t, k[-1]) for t, k in applied.missing] == [("items", 8), ("items", 9)]
    assert node.sql("SELECT id, name, qty FROM items ORDER BY id") == [
        (1, "n", 1),
        (2, "b", None),
        (3, "whole", None),
    ]


def test_the_same_batch_again_is_already_there_with_its_findings(node: MysqlNode) -> None:
    rows = [
        {"id": 1, "qty": 666},
        {"id": 2, "name": "x", "_have": bits(0, 1, width=WIDTH)},
        {"id": 3},
        {"id": 4, "name": "longer than ten"},
    ]
    batch = node.batch("items", rows)
    first = node.applier.apply(batch)
    again = node.applier.apply(batch)
    assert (first.outcome, again.outcome) == (Outcome.COMMITTED, Outcome.ALREADY)
    assert again.held == first.held
    assert len(first.held) == 2
    assert again.missing == first.missing != []
    plain = node.batch("items", [{"id": 4}], seq=2, after=1)
    assert [node.applier.apply(plain).outcome for _ in range(2)] == [Outcome.COMMITTED, Outcome.ALREADY]
    assert node.applier.apply(plain).held == []


@pytest.mark.parametrize("field", ["epoch", "after"])
def test_fenced_zombie(node: MysqlNode, field: str) -> None:
    """Case 23: neither an older epoch nor a gap in the sequence can commit, rows that fail included."""
    node.apply("items", [{"id": 1}])
    stale = {"epoch": node.epoch - 1} if field == "epoch" else {"seq": 9, "after": 8}
    partial = {"id": 1, "name": "x", "_have": bits(0, 1, width=WIDTH)}
    for rows in ([{"id": 2}], [{"id": 2, "qty": 666}], [], [partial]):
        outcome = node.applier.apply(node.batch("items", rows, **stale)).outcome
        assert outcome == (Outcome.FENCED if field == "epoch" else Outcome.EARLY)
    assert node.sql("SELECT id, name FROM items") == [(1, None)]
    assert node.apply("items", [{"id": 3}]).outcome == Outcome.COMMITTED


def test_raising_the_epoch_fences_and_keeps_progress(node: MysqlNode) -> None:
    node.apply("items", [{"id": 1}])
    (marker,) = node.control.raise_epoch(1, 1, Marker(GROUP, 0, 1, 0, 0))
    assert (marker.epoch, marker.seq) == (node.epoch + 1, 1)
    assert node.applier.apply(node.batch("items", [{"id": 2}])).outcome == Outcome.FENCED
    node.epoch = marker.epoch
    assert node.apply("items", [{"id": 2}]).outcome == Outcome.COMMITTED
    three = node.control.raise_epoch(3, 10, Marker(GROUP, 0, 3, 0, 0))
    assert [(m.shard, m.shards, m.seq) for m in three] == [(0, 1, 2), (1, 3, 0), (2, 3, 0)]
    assert {m.epoch for m in three} == {10}


def test_markers_may_be_large_and_hold_any_byte(node: MysqlNode) -> None:
    cut = {f"node-{i}": i << 64 for i in range(2000)}
    batch = node.batch("items", [{"id": 1}], cut=cut, versions=bytes(range(256)) * 40)
    node.applier.apply(batch)
    (stored,) = node.control.raise_epoch(1, 1, Marker(GROUP, 0, 1, 0, 0))
    assert stored.cut == cut
    assert stored.versions == batch.marker.versions


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


def test_no_batch_is_lost_when_connections_are(node: MysqlNode) -> None:
    node.apply("items", [{"id": 1}])
    listed = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
    for (ident,) in node.sql(listed):
        node.sql(f"KILL {ident}")
    batch = node.batch("items", [{"id": 2}])
    with pytest.raises(NodeUnavailable):
        node.applier.apply(batch)
    assert node.applier.apply(batch).outcome == Outcome.COMMITTED


def test_deadlock_is_contention(node: MysqlNode) -> None:
    node.apply("items", [{"id": 1}, {"id": 2}])
    with closing(connect(parse(node.engine.node))) as app:
        app.begin()
        for ident in range(3, 400):  # the server ends the transaction that has changed less
            app.query(f"INSERT INTO items (id) VALUES ({ident})")
        app.query("UPDATE items SET qty = 1 WHERE id = 2")
        caught: list[SyncError] = []

        def apply() -> None:
            try:
                node.apply("items", [{"id": 1, "qty": 2}, {"id": 2, "qty": 2}])
            except SyncError as error:
                caught.append(error)

        thread = threading.Thread(target=apply)
        thread.start()
        blocked = "SELECT SLEEP(0.02), COUNT(*) FROM performance_schema.data_lock_waits"
        wait_for(lambda: node.sql(blocked)[0][1] == 1)
        app.query("UPDATE items SET qty = 1 WHERE id = 1")
        thread.join()
        app.rollback()
    assert [type(e) for e in caught] == [Contention]
    assert node.apply("items", [{"id": 1, "qty": 3}]).outcome == Outcome.COMMITTED


def test_vanished_column_stops_the_applier(node: MysqlNode) -> None:
    node.sql("ALTER TABLE items DROP COLUMN email")
    with pytest.raises(SchemaChanged, match="items has no column email"):
        node.apply("items", [{"id": 1}])


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
        node.apply("t", [{"k": "A", "_op": Op.DELETE}, {"k": "c", "_op": Op.DELETE}])
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
