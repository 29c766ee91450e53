"""Reading PostgreSQL's log: what it has of its own. The rest is in `test_sql_capture`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from replication.change import Changes, Op, Progress, SchemaChange
from replication.engines.postgres.position import parse_lsn
from replication.position import Position
from tests.fixtures.postgres_node import (
    PostgresNode,
    bits,
    mapping,
    rows_of,
    wait_for,
)
from tests.fixtures.sql_node import changes_of_schema, summary

DDL = """
CREATE TABLE items (id bigint PRIMARY KEY, name text, doc jsonb, secret text);
CREATE TABLE pairs (a text, b int, note text, PRIMARY KEY (a, b));
ALTER TABLE pairs REPLICA IDENTITY FULL;
CREATE TABLE stranger (id int PRIMARY KEY);
"""


BIG = "SELECT jsonb_object_agg(i, md5(i::text)) FROM generate_series(1, 2000) i"


@pytest.fixture
def node(postgres_db: str) -> Iterator[PostgresNode]:
    mapped = [
        mapping("items", exclude=frozenset({"secret"})),
        mapping("pairs", "a", "b", conflict=("merge_fields",)),
    ]
    with PostgresNode(postgres_db, DDL, mapped) as made:
        yield made


def test_commit_time_is_the_transactions(node: PostgresNode) -> None:
    node.sql("INSERT INTO items VALUES (1)")
    ((micros,),) = node.sql(
        "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::int8 FROM items"
    )
    assert [row["_ts"] for row in node.rows()] == [micros]


def test_key_change_under_full_identity(node: PostgresNode) -> None:
    node.sql("INSERT INTO pairs VALUES ('x', 1, 'n'), ('y', 2, 'm')")
    node.sql("UPDATE pairs SET b = b + 10 WHERE a = 'x'")
    node.sql("UPDATE pairs SET a = a WHERE a = 'y'")
    rows = node.rows()[2:]
    assert summary(rows, "a", "b", "note") == [
        ("DELETE", "x", 1, None),
        ("INSERT", "x", 11, "n"),
        ("UPDATE", "y", 2, "m"),
    ]
    assert [row["_changed"] for row in rows] == [None, None, bits(width=3)]


def test_unchanged_toast_survives(node: PostgresNode) -> None:
    """Case 3: the large value is not in the log, and the row says so."""
    node.sql(f"INSERT INTO items VALUES (1, 'a', ({BIG}))")
    ((before,),) = node.sql("SELECT doc::text FROM items")
    node.sql("UPDATE items SET name = 'b'")
    update = node.rows()[1]
    assert (update["name"], update["doc"]) == ("b", None)
    assert update["_have"] == bits(0, 1, width=3)
    applied = node.apply("items", [{"id": 1, "name": "c", "_have": update["_have"]}])
    assert applied.missing == []
    assert node.sql("SELECT name, doc::text FROM items") == [("c", before)]


def test_full_identity_fills_unchanged_toast(node: PostgresNode) -> None:
    node.sql("ALTER TABLE items REPLICA IDENTITY FULL")
    node.sql(f"INSERT INTO items VALUES (1, 'a', ({BIG}))")
    node.sql("UPDATE items SET name = 'b'")
    insert, update = node.rows()
    assert update["doc"] == insert["doc"] is not None
    assert update["_have"] is None
    assert update["_changed"] == bits(1, width=3)


def test_large_key_out_of_line(postgres_db: str) -> None:
    """A key that is stored out of line comes with the update although it did not change."""
    ddl = "CREATE TABLE wide (k text PRIMARY KEY, v int); ALTER TABLE wide ALTER k SET STORAGE EXTERNAL"
    with PostgresNode(postgres_db, ddl, [mapping("wide", "k")]) as node:
        node.sql("INSERT INTO wide VALUES (repeat('k', 2500), 1)")
        node.sql("UPDATE wide SET v = 2")
        insert, update = node.rows()
        assert update["k"] == insert["k"] == "k" * 2500
        assert (Op(update["_op"]), update["_have"], update["_key"]) == (Op.UPDATE, None, insert["_key"])


def test_cascade_meets_missing_child(node: PostgresNode) -> None:
    """Case 7: the children's deletes are in the log; deleting what is gone already is no error."""
    node.sql("CREATE TABLE child (id int PRIMARY KEY, item bigint REFERENCES items ON DELETE CASCADE)")
    tables = [*node.mapped, node.table(mapping("child"))]
    node.control.prepare(tables)
    node.tables["child"] = tables[-1]
    node.sql("INSERT INTO items VALUES (1)")
    node.sql("INSERT INTO child VALUES (10, 1), (11, 1)")
    node.sql("DELETE FROM items")
    deleted = [(row["_table"], row["id"]) for row in node.rows() if row["_op"] == Op.DELETE]
    assert deleted == [("items", 1), ("child", 10), ("child", 11)]
    assert node.apply("child", [{"id": 10, "_op": Op.DELETE}]).held == []


def test_the_publication_holds_our_tables_and_nothing_else(node: PostgresNode) -> None:
    published = node.sql("SELECT schemaname, tablename FROM pg_publication_tables ORDER BY 1, 2")
    assert published == [
        ("public", "items"),
        ("public", "pairs"),
        ("sync_worker", "marker"),
        ("sync_worker", "watermark"),
    ]


def test_idle_slot_advances(node: PostgresNode) -> None:
    """Case 1: our tables are idle, others are busy: the slot's confirmed position still moves."""
    ((before,),) = node.sql("SELECT confirmed_flush_lsn::text FROM pg_replication_slots")
    with closing(node.source()) as source:

        def moved() -> bool:
            node.sql("INSERT INTO stranger SELECT coalesce(max(id), 0) + 1 FROM stranger")
            events = source.poll(100, 0.2)
            assert all(isinstance(e, Progress) for e in events)
            for event in events:
                source.confirm(event.end)
            ((now,),) = node.sql("SELECT confirmed_flush_lsn::text FROM pg_replication_slots")
            return parse_lsn(now) > parse_lsn(before) + 1000

        wait_for(moved)


def test_unconfirmed_changes_come_again(node: PostgresNode) -> None:
    """What was not confirmed is sent again although newer positions were received."""
    node.sql("INSERT INTO items VALUES (1)")
    with closing(node.source()) as source:
        first = rows_of(node.drain(source))
    node.sql("INSERT INTO items VALUES (2)")
    assert [r["id"] for r in first] == [1]
    assert [r["id"] for r in node.rows(Position(0))] == [1, 2]


def test_confirmed_changes_do_not_come_again(node: PostgresNode) -> None:
    node.sql("INSERT INTO items VALUES (1)")
    with closing(node.source()) as source:
        source.confirm(node.drain(source)[-1].end)
    node.sql("INSERT INTO items VALUES (2)")
    assert [r["id"] for r in node.rows(Position(0))] == [2]


def test_truncate_of_several_tables_is_an_event_for_each(node: PostgresNode) -> None:
    with node.transaction():
        node.sql("INSERT INTO items VALUES (1)")
        node.sql("TRUNCATE items, pairs")
        node.sql("INSERT INTO items VALUES (2)")
    events = node.read()
    assert [type(e) for e in events[:4]] == [Changes, SchemaChange, SchemaChange, Changes]
    assert {e.table for e in events if isinstance(e, SchemaChange)} == {"items", "pairs"}
    truncate = events[2]
    assert [row["id"] for row in node.rows(truncate.end)] == [2]


def test_wider_integer_still_fits(node: PostgresNode) -> None:
    node.sql("ALTER TABLE pairs ALTER b TYPE smallint")
    node.sql("INSERT INTO pairs VALUES ('x', 1)")
    events = node.read()
    assert changes_of_schema(events) == []
    assert rows_of(events)[0]["b"] == 1


def test_partitions_are_seen_as_their_root(postgres_db: str) -> None:
    ddl = """
    CREATE TABLE parted (id int, k int, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
    """
    with PostgresNode(postgres_db, ddl, [mapping("parted", "id", "k")]) as node:
        node.sql("INSERT INTO parted VALUES (1, 5), (2, 15)")
        node.apply("parted", [{"id": 3, "k": 15}])
        assert summary(node.rows(), "id", "k") == [("INSERT", 1, 5), ("INSERT", 2, 15)]
        assert node.sql("SELECT * FROM parted_2 ORDER BY 1") == [(2, 15), (3, 15)]


def test_generated_columns(postgres_db: str) -> None:
    """Stored ones are in the log from PostgreSQL 18 on; virtual ones never are, and are left out."""
    ddl = "CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, v text)"
    with PostgresNode(postgres_db, ddl, [mapping("made")]) as node:
        node.sql("INSERT INTO made VALUES (4, DEFAULT, 'x')")
        stored = node.app.info.server_version >= 180_000
        assert [c.name for c in node.tables["made"].schema.columns] == ["id", *["twice"] * stored, "v"]
        (row,) = node.rows()
        assert (row["id"], row.get("twice", 8), row["v"], row["_have"]) == (4, 8, "x", None)
        assert node.apply("made", [{"id": 5, "twice": 99, "v": "y"}]).held == []
        assert node.sql("SELECT * FROM made WHERE id = 5") == [(5, 10, "y")]
