"""Reading PostgreSQL's log: keys that change, partial rows, transactions of any size, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from replication.change import Changes, Echo, LogEvent, Op, Progress, SchemaChange, Watermark
from replication.engines.postgres import PostgresEngine
from replication.engines.postgres.position import parse_lsn
from replication.errors import SchemaChanged
from replication.marker import Marker
from replication.position import Position
from replication.schema import NodeConfig
from tests.fixtures.postgres_node import (
    GROUP,
    NODE,
    PostgresNode,
    bits,
    mapping,
    order,
    rows_of,
    wait_for,
)

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


def summary(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    return [(Op(row["_op"]).name, *(row[c] for c in columns)) for row in rows]


def test_insert_update_delete(node: PostgresNode) -> None:
    node.sql("INSERT INTO items VALUES (1, 'a', '{\"x\": 1}', 'hidden'), (2, NULL, NULL, NULL)")
    node.sql("UPDATE items SET name = 'b' WHERE id = 1")
    node.sql("DELETE FROM items WHERE id = 2")
    rows = node.rows()
    assert summary(rows, "id", "name", "doc") == [
        ("INSERT", 1, "a", '{"x": 1}'),
        ("INSERT", 2, None, None),
        ("UPDATE", 1, "b", '{"x": 1}'),
        ("DELETE", 2, None, None),
    ]
    assert not any("secret" in row for row in rows)
    assert rows[0]["_hi"] == rows[1]["_hi"] < rows[2]["_hi"]


def test_commit_time_is_the_transactions(node: PostgresNode) -> None:
    node.sql("INSERT INTO items VALUES (1)")
    ((micros,),) = node.sql(
        "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::int8 FROM items"
    )
    assert [row["_ts"] for row in node.rows()] == [micros]


def test_key_change_is_a_delete_and_an_insert(node: PostgresNode) -> None:
    node.sql("INSERT INTO items VALUES (1, 'a')")
    node.sql("UPDATE items SET id = 9 WHERE id = 1")
    rows = node.rows()[1:]
    assert summary(rows, "id", "name") == [("DELETE", 1, None), ("INSERT", 9, "a")]
    assert order(rows[1]) == order(rows[0]) + 1


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


def test_full_identity_tells_which_columns_changed(node: PostgresNode) -> None:
    node.sql("INSERT INTO pairs VALUES ('x', 1, NULL)")
    for note in ("'n'", "'n'", "NULL", "'longer than twelve bytes'", "'longer than twelve bytez'"):
        node.sql(f"UPDATE pairs SET note = {note}")
    node.sql("DELETE FROM pairs")
    rows = node.rows()
    yes, no = bits(2, width=3), bits(width=3)
    assert [row["_changed"] for row in rows] == [None, yes, no, yes, yes, yes, None]
    assert summary(rows[-1:], "a", "b", "note") == [("DELETE", "x", 1, None)]


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


def positions(node: PostgresNode, max_rows: int) -> tuple[list[Position], list[dict[str, Any]]]:
    with closing(node.source()) as source:
        events = node.drain(source, max_rows)
    return [e.end for e in events], rows_of(events)


def test_huge_transaction_is_split_and_resumed_anywhere(node: PostgresNode) -> None:
    """Case 24 in small: every part is bounded, and resuming inside it neither skips nor repeats."""
    with node.app.transaction():
        node.sql("INSERT INTO items SELECT i, 'n' || i FROM generate_series(1, 2000) i")
        node.sql("UPDATE items SET id = id + 10000 WHERE id % 2 = 0")
        node.sql("INSERT INTO pairs VALUES ('p', 1, 'q')")
    node.sql("INSERT INTO items VALUES (-5)")
    whole = node.rows()
    assert len(whole) == 4002
    events = [e for e in node.read(max_rows=100) if isinstance(e, Changes)]
    assert len(events) > 20
    assert max(e.rows for e in events) <= 220
    assert rows_of(events) == whole
    for event in events[::7]:
        rest = node.rows(event.end, max_rows=1500)
        assert rest == [row for row in whole if order(row) > event.end.order]


def test_resuming_after_any_event_gives_exactly_the_rest(node: PostgresNode) -> None:
    for i in range(30):
        if i % 5 == 0:
            node.apply("items", [{"id": 1000 + i, "name": "applied"}])
        elif i % 7 == 0:
            node.sql("INSERT INTO stranger VALUES (%s)", i)
        else:
            node.sql("INSERT INTO items VALUES (%s, 'x'), (%s, 'y')", i, -i)
    ends, whole = positions(node, 3)
    assert len(whole) == 2 * sum(1 for i in range(30) if i % 5 and i % 7)
    for end in ends:
        assert node.rows(end) == [row for row in whole if order(row) > end.order]


def test_resuming_at_an_order_between_events(node: PostgresNode) -> None:
    """A shard may resume at a change in the middle of an event, with the token of an earlier one."""
    node.sql("INSERT INTO items SELECT generate_series(1, 10)")
    whole = node.rows()
    middle = Position(order(whole[4]), node.start.token)
    assert node.rows(middle) == whole[5:]
    assert node.rows(Position(order(whole[4]))) == whole[5:]


def test_echo_is_skipped_or_decoded(node: PostgresNode) -> None:
    node.sql("INSERT INTO items VALUES (1, 'app')")
    node.apply("items", [{"id": i, "name": f"n{i}"} for i in range(2, 6)])
    node.sql("INSERT INTO items VALUES (9, 'app')")
    plain = node.read()
    assert [type(e) for e in plain[:3]] == [Changes, Echo, Changes]
    assert [row["id"] for row in rows_of(plain)] == [1, 9]
    (echo,) = (e for e in node.read(echoes=True) if isinstance(e, Echo))
    (changes,) = echo.rows
    assert changes.rows.column("id").to_pylist() == [2, 3, 4, 5]
    assert echo.marker.seq == 1
    assert node.rows(echo.end)[0]["id"] == 9


@pytest.mark.parametrize("echoes", [False, True])
def test_huge_echo_comes_whole(node: PostgresNode, echoes: bool) -> None:
    node.apply("items", [{"id": i, "name": "n"} for i in range(3000)])
    (echo,) = (e for e in node.read(max_rows=100, echoes=echoes) if isinstance(e, Echo))
    assert sum(t.rows.num_rows for t in echo.rows) == (3000 if echoes else 0)


def test_own_tables_stay_home(node: PostgresNode) -> None:
    """Case 19: neither state nor another group's markers travel, and the publication holds nothing else."""
    published = node.sql("SELECT schemaname, tablename FROM pg_publication_tables ORDER BY 1, 2")
    assert published == [
        ("public", "items"),
        ("public", "pairs"),
        ("sync_worker", "marker"),
        ("sync_worker", "watermark"),
    ]
    node.control.put_state("progress", '{"a": 1}')
    node.sql("INSERT INTO stranger VALUES (1)")
    node.control.raise_epoch(3, 1, Marker(GROUP, 0, 3, 0, 0))
    assert node.read() == []


def test_another_groups_writes_are_an_applications(node: PostgresNode) -> None:
    other = PostgresEngine(NodeConfig(NODE, "postgres", node.dsn), "other")
    with closing(other.control()) as control, closing(other.applier(node.mapped, [])) as applier:
        control.prepare(node.mapped)
        (marker,) = control.raise_epoch(1, 1, Marker("other", 0, 1, 0, 0))
        batch = node.batch("items", [{"id": 1, "name": "theirs"}], epoch=marker.epoch, seq=1, after=0)
        batch = type(batch)(NODE, Marker("other", 0, 1, marker.epoch, 1), batch.tables)
        assert applier.apply(batch).outcome == "committed"
        assert [row["name"] for row in node.rows()] == ["theirs"]
        control.drop()
    assert node.sql("SELECT count(*) FROM sync_worker.marker WHERE grp = 'other'") == [(0,)]
    assert node.sql("SELECT count(*) FROM sync_worker.marker WHERE grp = 'shop' AND shard >= 0") == [(1,)]


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


def changes_of_schema(events: list[LogEvent]) -> list[tuple[str, str]]:
    return [(e.what, e.detail) for e in events if isinstance(e, SchemaChange)]


def test_truncate_is_an_event_in_its_place(node: PostgresNode) -> None:
    with node.app.transaction():
        node.sql("INSERT INTO items VALUES (1)")
        node.sql("TRUNCATE items, pairs")
        node.sql("INSERT INTO items VALUES (2)")
    events = node.read()
    assert [type(e) for e in events[:4]] == [Changes, SchemaChange, SchemaChange, Changes]
    assert {e.table for e in events if isinstance(e, SchemaChange)} == {"items", "pairs"}
    truncate = events[2]
    assert [row["id"] for row in node.rows(truncate.end)] == [2]


def test_unmapped_columns_come_and_go(node: PostgresNode) -> None:
    node.sql("INSERT INTO items VALUES (1, 'a')")
    node.sql("ALTER TABLE items ADD COLUMN added int DEFAULT 7")
    node.sql("INSERT INTO items (id, name) VALUES (2, 'b')")
    node.sql("ALTER TABLE items DROP COLUMN secret")
    node.sql("INSERT INTO items (id, name) VALUES (3, 'c')")
    events = node.read()
    assert changes_of_schema(events) == []
    assert summary(rows_of(events), "id", "name") == [
        ("INSERT", 1, "a"),
        ("INSERT", 2, "b"),
        ("INSERT", 3, "c"),
    ]


@pytest.mark.parametrize(
    ("statement", "detail"),
    [
        ("ALTER TABLE items DROP COLUMN name", "column name is gone"),
        ("ALTER TABLE items RENAME COLUMN name TO title", "column name is gone"),
        ("ALTER TABLE items ALTER doc TYPE bytea USING NULL", "column doc is now of another type than json"),
        ("ALTER TABLE items ALTER id TYPE numeric", "column id is now of another type than int64"),
    ],
)
def test_mapped_columns_that_change_are_an_event(node: PostgresNode, statement: str, detail: str) -> None:
    with closing(node.source()) as source:
        node.sql("INSERT INTO items (id, name) VALUES (1, 'a')")
        node.drain(source)
        node.sql("INSERT INTO items (id, name) VALUES (2, 'b')")
        node.sql(statement)
        node.sql("INSERT INTO pairs VALUES ('x', 1)")
        node.sql("INSERT INTO items (id) VALUES (3)")
        found: list[LogEvent] = []
        wait_for(lambda: bool(found.extend(source.poll(2, 1.0)) or changes_of_schema(found)))
    assert changes_of_schema(found) == [("alter", detail)]
    before = found[: next(i for i, e in enumerate(found) if isinstance(e, SchemaChange))]
    assert [(r["_table"], r.get("id")) for r in rows_of(before)] == [("items", 2), ("pairs", None)]


def test_unreadable_key_stops_after_its_event(node: PostgresNode) -> None:
    node.sql("ALTER TABLE items DROP COLUMN id CASCADE, ADD COLUMN other int PRIMARY KEY DEFAULT 1")
    node.sql("INSERT INTO items (name) VALUES ('a')")
    with closing(node.source()) as source:
        found: list[LogEvent] = []
        wait_for(lambda: bool(found.extend(source.poll(100, 1.0)) or changes_of_schema(found)))
        with pytest.raises(SchemaChanged, match="the key of items cannot be read: column id is gone"):
            source.poll(100, 1.0)


def test_wider_integer_still_fits(node: PostgresNode) -> None:
    node.sql("ALTER TABLE pairs ALTER b TYPE smallint")
    node.sql("INSERT INTO pairs VALUES ('x', 1)")
    events = node.read()
    assert changes_of_schema(events) == []
    assert rows_of(events)[0]["b"] == 1


def test_watermarks_are_in_their_place(node: PostgresNode) -> None:
    node.sql("INSERT INTO items VALUES (1)")
    node.snapshot.write_watermark("low")
    node.sql("INSERT INTO items VALUES (2)")
    node.snapshot.write_watermark("high")
    found = [e.ident if isinstance(e, Watermark) else rows_of([e])[0]["id"] for e in node.read()[:4]]
    assert found == [1, "low", 2, "high"]


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
