"""Reading an SQL database's log: keys that change, transactions of any size, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest

from replication.change import Changes, Echo, LogEvent, SchemaChange, Watermark
from replication.errors import SchemaChanged
from replication.marker import Marker
from replication.position import Position
from tests.fixtures.sql_engines import MakeNode
from tests.fixtures.sql_node import (
    GROUP,
    SqlNode,
    bits,
    changes_of_schema,
    mapping,
    order,
    rows_of,
    summary,
    wait_for,
)

DDL = {
    "postgres": """
CREATE TABLE items (id bigint PRIMARY KEY, name text, doc jsonb, secret text);
CREATE TABLE pairs (a text, b int, note text, PRIMARY KEY (a, b));
ALTER TABLE pairs REPLICA IDENTITY FULL;
CREATE TABLE stranger (id serial PRIMARY KEY, filler text);
""",
    "mysql": """
CREATE TABLE items (id bigint PRIMARY KEY, name varchar(200), doc json, secret text);
CREATE TABLE pairs (a varchar(20) COLLATE utf8mb4_0900_bin, b int, note text, PRIMARY KEY (a, b));
CREATE TABLE stranger (id int AUTO_INCREMENT PRIMARY KEY, filler text)
""",
}


@pytest.fixture
def node(sql_node: MakeNode) -> Iterator[SqlNode]:
    mapped = [
        mapping("items", exclude=frozenset({"secret"})),
        mapping("pairs", "a", "b", conflict=("merge_fields",)),
    ]
    with sql_node(DDL, mapped) as made:
        yield made


def test_insert_update_delete(node: SqlNode) -> None:
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


def test_updates_tell_which_columns_changed(node: SqlNode) -> None:
    """MySQL logs no update that changes nothing."""
    node.sql("INSERT INTO pairs VALUES ('x', 1, NULL)")
    for note in ("'n'", "'n'", "NULL", "'longer than twelve bytes'", "'longer than twelve bytez'"):
        node.sql(f"UPDATE pairs SET note = {note}")
    node.sql("DELETE FROM pairs")
    rows = node.rows()
    yes, no = bits(2, width=3), [bits(width=3)] * (node.kind == "postgres")
    assert [row["_changed"] for row in rows] == [None, yes, *no, yes, yes, yes, None]
    assert {row["_have"] for row in rows} == {None}
    assert summary(rows[-1:], "a", "b", "note") == [("DELETE", "x", 1, None)]


def test_key_change_is_a_delete_and_an_insert(node: SqlNode) -> None:
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


def values(rows: Iterable[tuple[int, str]]) -> str:
    return ", ".join(f"({i}, '{text}')" for i, text in rows)


BOUND = {"postgres": 220, "mysql": 400}  # an event of the binlog has 8 KiB of rows


def test_huge_transaction_is_split_and_resumed_anywhere(node: SqlNode) -> None:
    """Case 24 in small: every part is bounded, and resuming inside it neither skips nor repeats."""
    with node.transaction():
        node.sql(f"INSERT INTO items (id, name) VALUES {values((i, 30 * str(i)) for i in range(1, 2001))}")
        node.sql("UPDATE items SET id = id + 10000 WHERE id % 2 = 0")
        node.sql("INSERT INTO pairs VALUES ('p', 1, 'q')")
    node.sql("INSERT INTO items (id) VALUES (-5)")
    whole = node.rows()
    assert len(whole) == 4002
    events = [e for e in node.read(max_rows=100) if isinstance(e, Changes)]
    assert len(events) > 20
    assert max(e.rows for e in events) <= BOUND[node.kind]
    assert rows_of(events) == whole
    for event in events[::5]:
        rest = node.rows(event.end, max_rows=1500)
        assert rest == [row for row in whole if order(row) > event.end.order]


ROTATE = {"postgres": "SELECT pg_switch_wal()", "mysql": "FLUSH BINARY LOGS"}


def test_resuming_after_any_event_gives_exactly_the_rest(node: SqlNode) -> None:
    for i in range(30):
        if i % 5 == 0:
            node.apply("items", [{"id": 1000 + i, "name": "applied"}])
        elif i % 7 == 0:
            node.sql("INSERT INTO stranger (filler) VALUES ('x')")
        elif i % 11 == 0:
            node.sql(ROTATE[node.kind])
        else:
            node.sql("INSERT INTO items (id) VALUES (%s), (%s)", i, -i)
    with closing(node.source()) as source:
        events = node.drain(source, 3)
    whole = rows_of(events)
    assert len(whole) == 2 * sum(1 for i in range(30) if i % 5 and i % 7 and i % 11)
    for event in events:
        assert node.rows(event.end) == [row for row in whole if order(row) > event.end.order]


def test_resuming_at_an_order_between_events(node: SqlNode) -> None:
    """A shard may resume at a change in the middle of an event, with the token of an earlier one."""
    node.sql(f"INSERT INTO items (id, name) VALUES {values((i, 'n') for i in range(1, 11))}")
    node.sql("UPDATE items SET id = id + 20 WHERE id > 5")
    whole = node.rows()
    assert len(whole) == 20
    for row, rest in [(whole[i], whole[i + 1 :]) for i in range(len(whole))]:
        assert node.rows(Position(order(row), node.start.token)) == rest
        assert node.rows(Position(order(row))) == rest


def test_echo_is_skipped_or_decoded(node: SqlNode) -> None:
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


def test_resuming_inside_an_echo_makes_no_change_of_its_rows(node: SqlNode) -> None:
    node.apply("items", [{"id": i, "name": f"n{i}"} for i in range(2, 6)])
    node.sql("INSERT INTO items (id, name) VALUES (9, 'app')")
    (echo,) = (e for e in node.read(echoes=True) if isinstance(e, Echo))
    inside = echo.rows[0].rows.to_pylist()[1]
    events = node.read(Position(order(inside), node.start.token), echoes=True)
    assert [row["id"] for row in rows_of(events)] == [9]
    assert not any(isinstance(e, Echo) for e in events)


@pytest.mark.parametrize("echoes", [False, True])
def test_huge_echo_comes_whole(node: SqlNode, echoes: bool) -> None:
    node.apply("items", [{"id": i, "name": "n" * 50} for i in range(3000)])
    (echo,) = (e for e in node.read(max_rows=100, echoes=echoes) if isinstance(e, Echo))
    assert sum(t.rows.num_rows for t in echo.rows) == (3000 if echoes else 0)


def test_a_huge_echo_comes_whole_although_nobody_waits(node: SqlNode) -> None:
    node.apply("items", [{"id": i, "name": "n" * 50} for i in range(3000)])
    with closing(node.source()) as source:
        source.decode_echoes = True
        found: list[LogEvent] = []
        wait_for(lambda: bool(found.extend(source.poll(10, 0.0)) or any(isinstance(e, Echo) for e in found)))
    assert not any(isinstance(e, Changes) for e in found)


def test_own_tables_stay_home(node: SqlNode) -> None:
    """Case 19: neither state nor another group's markers travel."""
    node.control.put_state("progress", '{"a": 1}')
    node.sql("INSERT INTO stranger (filler) VALUES ('x')")
    node.control.raise_epoch(3, 1, Marker(GROUP, 0, 3, 0, 0))
    assert node.read() == []


MARKERS = {"postgres": "sync_worker.marker", "mysql": "sync_worker_marker"}


def test_another_groups_writes_are_an_applications(node: SqlNode) -> None:
    other = type(node.engine)(node.engine.node, "other")
    with closing(other.control()) as control, closing(other.applier(node.mapped, [])) as applier:
        control.prepare(node.mapped)
        (marker,) = control.raise_epoch(1, 1, Marker("other", 0, 1, 0, 0))
        batch = node.batch("items", [{"id": 1, "name": "theirs"}], epoch=marker.epoch, seq=1, after=0)
        batch = type(batch)(node.node, Marker("other", 0, 1, marker.epoch, 1), batch.tables)
        assert applier.apply(batch).outcome == "committed"
        assert [row["name"] for row in node.rows()] == ["theirs"]
        control.drop()
    assert node.sql(f"SELECT COUNT(*) FROM {MARKERS[node.kind]} WHERE grp = 'other'") == [(0,)]
    ours = f"SELECT COUNT(*) FROM {MARKERS[node.kind]} WHERE grp = '{GROUP}' AND shard >= 0"
    assert node.sql(ours) == [(1,)]


def test_watermarks_are_in_their_place(node: SqlNode) -> None:
    node.sql("INSERT INTO items (id) VALUES (1)")
    node.snapshot.write_watermark("low")
    node.sql("INSERT INTO items (id) VALUES (2)")
    node.snapshot.write_watermark("high")
    found = [e.ident if isinstance(e, Watermark) else rows_of([e])[0]["id"] for e in node.read()[:4]]
    assert found == [1, "low", 2, "high"]


def test_what_is_rolled_back_is_not_there(node: SqlNode) -> None:
    with node.transaction():
        node.sql("INSERT INTO items (id) VALUES (1)")
        node.sql("SAVEPOINT a")
        node.sql("INSERT INTO items (id) VALUES (2)")
        node.sql("ROLLBACK TO SAVEPOINT a")
        node.sql("SAVEPOINT b")
        node.sql("INSERT INTO items (id) VALUES (3)")
        node.sql("RELEASE SAVEPOINT b")
    assert [row["id"] for row in node.rows()] == [1, 3]


def test_truncate_is_an_event_in_its_place(node: SqlNode) -> None:
    node.sql("INSERT INTO items (id) VALUES (1)")
    node.sql("TRUNCATE items")
    node.sql("INSERT INTO items (id) VALUES (2)")
    events = node.read()
    assert [type(e) for e in events[:3]] == [Changes, SchemaChange, Changes]
    assert [row["id"] for row in node.rows(events[1].end)] == [2]


ADDED = {
    "postgres": ["added int DEFAULT 7", "again text"],
    "mysql": ["added int DEFAULT 7 FIRST", "unseen varchar(10) INVISIBLE DEFAULT 'x' AFTER id"],
}


def test_unmapped_columns_come_and_go(node: SqlNode) -> None:
    first, second = ADDED[node.kind]
    node.sql("INSERT INTO items (id, name) VALUES (1, 'a')")
    node.sql(f"ALTER TABLE items ADD COLUMN {first}")
    node.sql("INSERT INTO items (id, name) VALUES (2, 'b')")
    node.sql("ALTER TABLE items DROP COLUMN secret")
    node.sql("INSERT INTO items (id, name) VALUES (3, 'c')")
    node.sql(f"ALTER TABLE items ADD COLUMN {second}")
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
    ("sql_node", "change", "detail"),
    [
        ("postgres", "DROP COLUMN name", "column name is gone"),
        ("postgres", "RENAME COLUMN name TO title", "column name is gone"),
        ("postgres", "ALTER doc TYPE bytea USING NULL", "column doc is now of another type than json"),
        ("postgres", "ALTER id TYPE numeric", "column id is now of another type than int64"),
        ("mysql", "DROP COLUMN name", "column name is gone"),
        ("mysql", "RENAME COLUMN name TO title", "column name is gone"),
        ("mysql", "MODIFY doc blob", "column doc is now of another type than json"),
        ("mysql", "MODIFY id varchar(30)", "column id is now of another type than int64"),
        (
            "mysql",
            "MODIFY name varchar(200) CHARACTER SET big5",
            "column name is in character set big5, which cannot be read from a log",
        ),
    ],
    indirect=["sql_node"],
)
def test_mapped_columns_that_change_are_an_event(node: SqlNode, change: str, detail: str) -> None:
    with closing(node.source()) as source:
        node.sql("INSERT INTO items (id, name) VALUES (1, 'a')")
        node.drain(source)
        node.sql("INSERT INTO items (id, name) VALUES (2, 'b')")
        node.sql(f"ALTER TABLE items {change}")
        node.sql("INSERT INTO pairs VALUES ('x', 1, NULL)")
        node.sql("INSERT INTO items (id) VALUES (3)")
        found: list[LogEvent] = []
        wait_for(lambda: bool(found.extend(source.poll(2, 1.0)) or changes_of_schema(found)))
    assert changes_of_schema(found) == [("items", "alter", detail)]
    before = found[: next(i for i, e in enumerate(found) if isinstance(e, SchemaChange))]
    assert [(r["_table"], r.get("id")) for r in rows_of(before)] == [("items", 2), ("pairs", None)]


def test_unreadable_key_stops_after_its_event(node: SqlNode) -> None:
    node.sql("ALTER TABLE items DROP COLUMN id CASCADE, ADD COLUMN other int PRIMARY KEY DEFAULT 1")
    node.sql("INSERT INTO items (name) VALUES ('a')")
    with closing(node.source()) as source:
        found: list[LogEvent] = []
        wait_for(lambda: bool(found.extend(source.poll(100, 1.0)) or changes_of_schema(found)))
        for _ in range(2):
            with pytest.raises(SchemaChanged, match="the key of items cannot be read: column id is gone"):
                source.poll(100, 1.0)
