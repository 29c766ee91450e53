"""Reading MySQL's log: keys that change, transactions of any size, whose they are, and where to go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from replication.change import Changes, Echo, LogEvent, Op, Progress, SchemaChange, Watermark
from replication.engines.mysql import MysqlEngine
from replication.errors import NodeUnavailable, SchemaChanged
from replication.marker import Marker
from replication.position import Position
from replication.schema import NodeConfig
from tests.fixtures.mysql_node import GROUP, NODE, MysqlNode, bits, mapping, order, rows_of, wait_for

DDL = """
CREATE TABLE items (id bigint PRIMARY KEY, name varchar(200), doc json, secret text);
CREATE TABLE pairs (a varchar(20) COLLATE utf8mb4_0900_bin, b int, note text, PRIMARY KEY (a, b));
CREATE TABLE stranger (id int AUTO_INCREMENT PRIMARY KEY, filler text)
"""
SERIES = "WITH RECURSIVE s AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM s WHERE i < {}) SELECT {} FROM s"


@pytest.fixture
def node(mysql_db: str) -> Iterator[MysqlNode]:
    mapped = [mapping("items", exclude=frozenset({"secret"})), mapping("pairs", "a", "b")]
    with MysqlNode(mysql_db, DDL, mapped) as made:
        made.sql("SET SESSION cte_max_recursion_depth = 100000")
        yield made


def summary(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    return [(Op(row["_op"]).name, *(row[c] for c in columns)) for row in rows]


def test_insert_update_delete(node: MysqlNode) -> None:
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


def test_commit_time_is_the_servers_clock(node: MysqlNode) -> None:
    now = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
    ((before,),) = node.sql(now)
    node.sql("INSERT INTO items (id) VALUES (1)")
    ((after,),) = node.sql(now)
    (row,) = node.rows()
    assert before <= row["_ts"] <= after


def test_updates_tell_which_columns_changed(node: MysqlNode) -> None:
    node.sql("INSERT INTO pairs VALUES ('x', 1, NULL)")
    for note in ("'n'", "NULL", "'longer than twelve bytes'", "'longer than twelve bytez'"):
        node.sql(f"UPDATE pairs SET note = {note}")
    node.sql("DELETE FROM pairs")
    rows = node.rows()
    yes = bits(2, width=3)
    assert [row["_changed"] for row in rows] == [None, yes, yes, yes, yes, None]
    assert [row["_have"] for row in rows] == [None] * 6
    assert summary(rows[-1:], "a", "b", "note") == [("DELETE", "x", 1, None)]


def test_unmapped_columns_that_change_are_no_change_of_ours(node: MysqlNode) -> None:
    node.sql("INSERT INTO items (id) VALUES (1)")
    node.sql("UPDATE items SET secret = 'other'")
    assert node.rows()[1]["_changed"] == bits(width=3)


def test_key_change_is_a_delete_and_an_insert(node: MysqlNode) -> None:
    node.sql("INSERT INTO items (id, name) VALUES (1, 'a')")
    node.sql("UPDATE items SET id = 9 WHERE id = 1")
    node.sql("INSERT INTO pairs VALUES ('x', 1, 'n'), ('y', 2, 'm')")
    node.sql("UPDATE pairs SET a = UPPER(a), note = 'o' WHERE b = 1 OR a = 'y'")
    rows = node.rows()
    assert summary(rows[1:3], "id", "name") == [("DELETE", 1, None), ("INSERT", 9, "a")]
    assert order(rows[2]) == order(rows[1]) + 1
    assert summary(rows[5:], "a", "b", "note") == [
        ("DELETE", "x", 1, None),
        ("INSERT", "X", 1, "o"),
        ("DELETE", "y", 2, None),
        ("INSERT", "Y", 2, "o"),
    ]


def test_huge_transaction_is_split_and_resumed_anywhere(node: MysqlNode) -> None:
    """Case 24 in small: every part is bounded, and resuming inside it neither skips nor repeats."""
    with node.transaction():
        node.sql(f"INSERT INTO items (id, name) {SERIES.format(2000, 'i, REPEAT(i, 30)')}")
        node.sql("UPDATE items SET id = id + 10000 WHERE id % 2 = 0")
        node.sql("INSERT INTO pairs VALUES ('p', 1, 'q')")
    node.sql("INSERT INTO items (id) VALUES (-5)")
    whole = node.rows()
    assert len(whole) == 4002
    events = [e for e in node.read(max_rows=100) if isinstance(e, Changes)]
    assert len(events) > 20
    assert max(e.rows for e in events) <= 400  # an event of the log has 8 KiB of rows
    assert rows_of(events) == whole
    for event in events[::5]:
        rest = node.rows(event.end, max_rows=1500)
        assert rest == [row for row in whole if order(row) > event.end.order]


def test_resuming_after_any_event_gives_exactly_the_rest(node: MysqlNode) -> None:
    for i in range(30):
        if i % 5 == 0:
            node.apply("items", [{"id": 1000 + i, "name": "applied"}])
        elif i % 7 == 0:
            node.sql("INSERT INTO stranger VALUES (%s, '')", i)
        elif i % 11 == 0:
            node.sql("FLUSH BINARY LOGS")
        else:
            node.sql("INSERT INTO items (id) VALUES (%s), (%s)", i, -i)
    with closing(node.source()) as source:
        events = node.drain(source, 3)
    whole = rows_of(events)
    assert len(whole) == 2 * sum(1 for i in range(30) if i % 5 and i % 7 and i % 11)
    for event in events:
        assert node.rows(event.end) == [row for row in whole if order(row) > event.end.order]


def test_resuming_at_an_order_between_events(node: MysqlNode) -> None:
    """A shard may resume at a change in the middle of an event, with the token of an earlier one."""
    node.sql(f"INSERT INTO items (id) {SERIES.format(10, 'i')}")
    node.sql("UPDATE items SET id = id + 20 WHERE id > 5 ORDER BY id DESC")
    whole = node.rows()
    assert len(whole) == 20
    for row, rest in [(whole[i], whole[i + 1 :]) for i in range(len(whole))]:
        assert node.rows(Position(order(row), node.start.token)) == rest
        assert node.rows(Position(order(row))) == rest


def test_echo_is_skipped_or_decoded(node: MysqlNode) -> None:
    node.sql("INSERT INTO items (id, name) VALUES (1, 'app')")
    node.apply("items", [{"id": i, "name": f"n{i}"} for i in range(2, 6)])
    node.sql("INSERT INTO items (id, name) VALUES (9, 'app')")
    plain = node.read()
    assert [type(e) for e in plain[:3]] == [Changes, Echo, Changes]
    assert [row["id"] for row in rows_of(plain)] == [1, 9]
    (echo,) = (e for e in node.read(echoes=True) if isinstance(e, Echo))
    (changes,) = echo.rows
    assert changes.rows.column("id").to_pylist() == [2, 3, 4, 5]
    assert echo.marker.seq == 1
    assert node.rows(echo.end)[0]["id"] == 9


def test_resuming_inside_an_echo_makes_no_change_of_its_rows(node: MysqlNode) -> None:
    node.apply("items", [{"id": i, "name": f"n{i}"} for i in range(2, 6)])
    node.sql("INSERT INTO items (id, name) VALUES (9, 'app')")
    (echo,) = (e for e in node.read(echoes=True) if isinstance(e, Echo))
    inside = echo.rows[0].rows.to_pylist()[1]
    events = node.read(Position(order(inside), node.start.token), echoes=True)
    assert [row["id"] for row in rows_of(events)] == [9]
    assert not any(isinstance(e, Echo) for e in events)


@pytest.mark.parametrize("echoes", [False, True])
def test_huge_echo_comes_whole(node: MysqlNode, echoes: bool) -> None:
    node.apply("items", [{"id": i, "name": "n" * 50} for i in range(3000)])
    (echo,) = (e for e in node.read(max_rows=100, echoes=echoes) if isinstance(e, Echo))
    assert sum(t.rows.num_rows for t in echo.rows) == (3000 if echoes else 0)


def test_a_huge_echo_comes_whole_although_nobody_waits(node: MysqlNode) -> None:
    node.apply("items", [{"id": i, "name": "n" * 50} for i in range(3000)])
    with closing(node.source()) as source:
        source.decode_echoes = True
        found: list[LogEvent] = []
        wait_for(lambda: bool(found.extend(source.poll(10, 0.0)) or any(isinstance(e, Echo) for e in found)))
    assert not any(isinstance(e, Changes) for e in found)


def test_own_tables_stay_home(node: MysqlNode) -> None:
    """Case 19: neither state nor another group's markers travel."""
    node.control.put_state("progress", '{"a": 1}')
    node.sql("INSERT INTO stranger (filler) VALUES ('x')")
    node.control.raise_epoch(3, 1, Marker(GROUP, 0, 3, 0, 0))
    assert node.read() == []


def test_another_groups_writes_are_an_applications(node: MysqlNode) -> None:
    other = MysqlEngine(NodeConfig(NODE, "mysql", node.dsn), "other")
    with closing(other.control()) as control, closing(other.applier(node.mapped, [])) as applier:
        control.prepare(node.mapped)
        (marker,) = control.raise_epoch(1, 1, Marker("other", 0, 1, 0, 0))
        batch = node.batch("items", [{"id": 1, "name": "theirs"}], epoch=marker.epoch, seq=1, after=0)
        batch = type(batch)(NODE, Marker("other", 0, 1, marker.epoch, 1), batch.tables)
        assert applier.apply(batch).outcome == "committed"
        assert [row["name"] for row in node.rows()] == ["theirs"]


def test_position_follows_other_peoples_writes(node: MysqlNode) -> None:
    """Case 1: our tables are idle, others are busy and files are rotated: the position still moves."""
    with closing(node.source()) as source:
        reached: list[Position] = []

        def moved() -> bool:
            node.sql("INSERT INTO stranger (filler) VALUES (REPEAT('x', 1000))")
            node.sql("FLUSH BINARY LOGS")
            events = source.poll(100, 0.2)
            assert all(isinstance(e, Progress) for e in events)
            reached.extend(e.end for e in events)
            return len(reached) > 3

        wait_for(moved)
    assert reached == sorted(set(reached))
    node.sql("INSERT INTO items (id) VALUES (1)")
    assert [row["id"] for row in node.rows(reached[-1])] == [1]


def test_watermarks_are_in_their_place(node: MysqlNode) -> None:
    node.sql("INSERT INTO items (id) VALUES (1)")
    node.snapshot.write_watermark("low")
    node.sql("INSERT INTO items (id) VALUES (2)")
    node.snapshot.write_watermark("high")
    found = [e.ident if isinstance(e, Watermark) else rows_of([e])[0]["id"] for e in node.read()[:4]]
    assert found == [1, "low", 2, "high"]


def test_what_is_rolled_back_is_not_there(node: MysqlNode) -> None:
    with node.transaction():
        node.sql("INSERT INTO items (id) VALUES (1)")
        node.sql("SAVEPOINT a")
        node.sql("INSERT INTO items (id) VALUES (2)")
        node.sql("ROLLBACK TO SAVEPOINT a")
        node.sql("SAVEPOINT b")
        node.sql("INSERT INTO items (id) VALUES (3)")
        node.sql("RELEASE SAVEPOINT b")
    assert [row["id"] for row in node.rows()] == [1, 3]


def changes_of_schema(events: list[LogEvent]) -> list[tuple[str, str, str]]:
    return [(e.table, e.what, e.detail) for e in events if isinstance(e, SchemaChange)]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("TRUNCATE items", [("items", "truncate")]),
        ("/* a */ truncate table `items` -- b", [("items", "truncate")]),
        ("DROP TABLE stranger, pairs", [("pairs", "drop")]),
        ("RENAME TABLE pairs TO others, items TO things", [("pairs", "rename"), ("items", "rename")]),
        ("ALTER TABLE pairs ADD x int, RENAME TO others", [("pairs", "rename")]),
        ("ALTER TABLE pairs RENAME COLUMN note TO remark", []),
        ("ALTER TABLE items COMMENT = 'rename items'", []),
        ("CREATE TEMPORARY TABLE items (id int)", []),
        ("CREATE INDEX i ON items (name)", []),
        ("ANALYZE TABLE items", []),
        ("CREATE VIEW drop_table AS SELECT * FROM items", []),
    ],
)
def test_definitions_are_events(node: MysqlNode, statement: str, expected: list[tuple[str, str]]) -> None:
    node.sql("INSERT INTO items (id) VALUES (1)")
    node.sql(statement)
    node.sql("INSERT INTO stranger VALUES (1, '')") if "stranger" not in statement else None
    events = node.read()
    assert [(table, what) for table, what, _ in changes_of_schema(events)] == expected
    assert [row["id"] for row in rows_of(events)] == [1]
    for event in events:
        if isinstance(event, SchemaChange):
            assert event.end.order > events[0].end.order
            assert statement in event.detail or "generated by server" in event.detail


def test_partitions_that_are_emptied_are_an_event(node: MysqlNode) -> None:
    node.sql("ALTER TABLE items PARTITION BY HASH (id) PARTITIONS 4")
    node.sql(f"INSERT INTO items (id) {SERIES.format(8, 'i')}")
    node.sql("ALTER TABLE items TRUNCATE PARTITION p1")
    node.sql("UPDATE items SET id = id + 101 WHERE id = 2")
    events = node.read()
    assert [(table, what) for table, what, _ in changes_of_schema(events)] == [("items", "truncate")]
    assert summary(rows_of(events)[8:], "id") == [("DELETE", 2), ("INSERT", 103)]


def test_truncate_is_an_event_in_its_place(node: MysqlNode) -> None:
    node.sql("INSERT INTO items (id) VALUES (1)")
    node.sql("TRUNCATE items")
    node.sql("INSERT INTO items (id) VALUES (2)")
    events = node.read()
    assert [type(e) for e in events[:3]] == [Changes, SchemaChange, Changes]
    assert [row["id"] for row in node.rows(events[1].end)] == [2]


def test_unmapped_columns_come_and_go(node: MysqlNode) -> None:
    node.sql("INSERT INTO items (id, name) VALUES (1, 'a')")
    node.sql("ALTER TABLE items ADD COLUMN added int DEFAULT 7 FIRST")
    node.sql("INSERT INTO items (id, name) VALUES (2, 'b')")
    node.sql("ALTER TABLE items DROP COLUMN secret")
    node.sql("INSERT INTO items (id, name) VALUES (3, 'c')")
    node.sql("ALTER TABLE items ADD COLUMN unseen varchar(10) INVISIBLE DEFAULT 'x' AFTER id")
    node.sql("INSERT INTO items (id, name) VALUES (4, 'd')")
    events = node.read()
    assert changes_of_schema(events) == []
    assert summary(rows_of(events), "id", "name") == [
        ("INSERT", 1, "a"),
        ("INSERT", 2, "b"),
        ("INSERT", 3, "c"),
        ("INSERT", 4, "d"),
    ]


@pytest.mark.parametrize(
    ("statement", "detail"),
    [
        ("ALTER TABLE items DROP COLUMN name", "column name is gone"),
        ("ALTER TABLE items RENAME COLUMN name TO title", "column name is gone"),
        ("ALTER TABLE items MODIFY doc blob", "column doc is now of another type than json"),
        ("ALTER TABLE items MODIFY id varchar(30)", "column id is now of another type than int64"),
        (
            "ALTER TABLE items MODIFY name varchar(200) CHARACTER SET big5",
            "column name is in character set big5, which cannot be read from a log",
        ),
    ],
)
def test_mapped_columns_that_change_are_an_event(node: MysqlNode, statement: str, detail: str) -> None:
    with closing(node.source()) as source:
        node.sql("INSERT INTO items (id, name) VALUES (1, 'a')")
        node.drain(source)
        node.sql("INSERT INTO items (id, name) VALUES (2, 'b')")
        node.sql(statement)
        node.sql("INSERT INTO pairs VALUES ('x', 1, NULL)")
        node.sql("INSERT INTO items (id) VALUES (3)")
        found: list[LogEvent] = []
        wait_for(lambda: bool(found.extend(source.poll(2, 1.0)) or changes_of_schema(found)))
    assert changes_of_schema(found) == [("items", "alter", detail)]
    before = found[: next(i for i, e in enumerate(found) if isinstance(e, SchemaChange))]
    assert [(r["_table"], r.get("id")) for r in rows_of(before)] == [("items", 2), ("pairs", None)]


def test_unreadable_key_stops_after_its_event(node: MysqlNode) -> None:
    node.sql("ALTER TABLE items DROP COLUMN id, ADD COLUMN other int PRIMARY KEY DEFAULT 1")
    node.sql("INSERT INTO items (name) VALUES ('a')")
    with closing(node.source()) as source:
        found: list[LogEvent] = []
        wait_for(lambda: bool(found.extend(source.poll(100, 1.0)) or changes_of_schema(found)))
        for _ in range(2):
            with pytest.raises(SchemaChanged, match="the key of items cannot be read: column id is gone"):
                source.poll(100, 1.0)


def test_wider_and_narrower_integers_still_fit(node: MysqlNode) -> None:
    node.sql("ALTER TABLE pairs MODIFY b smallint")
    node.sql("INSERT INTO pairs VALUES ('x', 1, NULL)")
    node.sql("ALTER TABLE pairs MODIFY b bigint")
    node.sql("INSERT INTO pairs VALUES ('x', 2, NULL)")
    events = node.read()
    assert changes_of_schema(events) == []
    assert [row["b"] for row in rows_of(events)] == [1, 2]


def test_rows_in_flight_are_read_as_they_were_written(node: MysqlNode) -> None:
    """Case 25: columns move while nobody reads; each row is read by the columns it had."""
    node.sql("INSERT INTO items (id, name, secret) VALUES (1, 'a', 's')")
    node.sql("ALTER TABLE items MODIFY name varchar(300) AFTER secret")
    node.sql("INSERT INTO items (id, name, secret) VALUES (2, 'b', 's')")
    node.sql("ALTER TABLE items ADD x int FIRST, ADD y text, DROP secret")
    node.sql("INSERT INTO items (id, name, x, y) VALUES (3, 'c', 5, 'y')")
    assert summary(node.rows(), "id", "name") == [("INSERT", 1, "a"), ("INSERT", 2, "b"), ("INSERT", 3, "c")]


def test_generated_columns(mysql_db: str) -> None:
    ddl = """CREATE TABLE made (id int PRIMARY KEY, twice int AS (id * 2) STORED,
     thrice int AS (id * 3) VIRTUAL, v text, KEY ((id + 5)))"""
    with MysqlNode(mysql_db, ddl, [mapping("made")]) as node:
        node.sql("INSERT INTO made (id, v) VALUES (4, 'x')")
        node.sql("UPDATE made SET id = 5")
        node.sql("UPDATE made SET v = 'y'")
        rows = node.rows()
    assert summary(rows, "id", "twice", "thrice", "v") == [
        ("INSERT", 4, 8, 12, "x"),
        ("DELETE", 4, None, None, None),
        ("INSERT", 5, 10, 15, "x"),
        ("UPDATE", 5, 10, 15, "y"),
    ]
    assert rows[-1]["_changed"] == bits(3, width=4)


def test_rows_however_they_were_written(node: MysqlNode) -> None:
    node.sql("CREATE TABLE moved (id int) ENGINE = MyISAM")
    node.sql("CREATE TEMPORARY TABLE short AS SELECT 1 AS id, 's' AS name")
    node.sql("CREATE TABLE made AS SELECT 1 AS id")
    node.sql("REPLACE INTO items (id, name) VALUES (1, 'a')")
    node.sql("REPLACE INTO items (id, name) VALUES (1, 'b')")
    node.sql("INSERT INTO items (id) VALUES (1), (2) AS n ON DUPLICATE KEY UPDATE name = 'c'")
    node.sql("INSERT IGNORE INTO items (id) SELECT id FROM short")
    with node.transaction():
        node.sql("INSERT INTO moved VALUES (1)")
        node.sql("INSERT INTO items (id, name) VALUES (3, 'd')")
        node.sql("INSERT INTO short VALUES (5, 't')")
    node.sql("UPDATE items, pairs SET items.name = 'never' WHERE pairs.b = items.id")
    node.sql("DELETE items FROM items JOIN short ON items.id = short.id")
    node.sql("INSERT INTO items (id, name) TABLE short")
    node.sql("SET SESSION binlog_rows_query_log_events = ON")
    node.sql("UPDATE items SET name = 'last' WHERE id = 5")
    assert summary(node.rows(), "id", "name") == [
        ("INSERT", 1, "a"),
        ("UPDATE", 1, "b"),
        ("UPDATE", 1, "c"),
        ("INSERT", 2, None),
        ("INSERT", 3, "d"),
        ("DELETE", 1, None),
        ("INSERT", 1, "s"),
        ("INSERT", 5, "t"),
        ("UPDATE", 5, "last"),
    ]
    assert changes_of_schema(node.read()) == []


def test_rows_larger_than_a_packet(node: MysqlNode) -> None:
    """A packet of the protocol ends at 16 MiB less one byte."""
    node.sql("ALTER TABLE items MODIFY secret longblob, ADD big longblob")
    node.tables["items"] = node.table(mapping("items", exclude=frozenset({"secret"})))
    sizes = [(1 << 24) - 200, (1 << 24) + 5, 3 << 24]
    for i, size in enumerate(sizes):
        node.sql("INSERT INTO items (id, big) VALUES (%s, REPEAT('x', %s))", i, size)
    assert [len(row["big"]) for row in node.rows()] == sizes


def test_the_newest_reader_is_right(node: MysqlNode) -> None:
    """A connection that hangs may hold its place at the server; whoever comes after it takes over."""
    with closing(node.source()) as first, closing(node.source()) as second:
        node.sql("INSERT INTO items (id) VALUES (1)")
        assert len(rows_of(node.drain(first))) == 1
        assert len(rows_of(node.drain(second))) == 1
        with pytest.raises(NodeUnavailable):
            wait_for(lambda: bool(first.poll(10, 1.0)) and False)


def test_a_reader_that_is_killed_says_so(node: MysqlNode) -> None:
    with closing(node.source()) as source:
        node.drain(source)
        dumps = "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'"
        for (ident,) in node.sql(dumps):
            node.sql(f"KILL {ident}")
        with pytest.raises(NodeUnavailable) as caught:
            wait_for(lambda: bool(source.poll(10, 1.0)) and False)
        assert caught.value.node == NODE
        with pytest.raises(NodeUnavailable):
            source.poll(10, 0.0)


def test_waiting_ends_in_time(node: MysqlNode) -> None:
    with closing(node.source()) as source:
        node.drain(source)
        began = time.monotonic()
        source.poll(10, 0.3)
        assert time.monotonic() - began < 5
