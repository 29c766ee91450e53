"""Writing to an SQL database: one transaction per batch, whatever some of its rows are like."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest

from replication.batch import Applied, Outcome
from replication.change import Op
from replication.errors import Contention, NodeUnavailable, Occupied, SchemaChanged, SyncError
from replication.marker import Marker
from tests.fixtures.sql_engines import MakeNode
from tests.fixtures.sql_node import GROUP, SqlNode, bits, mapping, wait_for

TABLES = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE items (
    id bigint PRIMARY KEY, name varchar(10), qty int CHECK (qty <> 666), email varchar(50) UNIQUE,
    parent int, hidden varchar(20) DEFAULT 'kept', FOREIGN KEY (parent) REFERENCES parent (id)
);
CREATE TABLE keys_only (a int, b varchar(20), PRIMARY KEY (a, b));
"""
DDL = {
    "postgres": TABLES
    + """
CREATE TABLE "odd %s ""`names" ("the %% key" int PRIMARY KEY, "Select" text);
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION shout();
""",
    "mysql": "ALTER DATABASE COLLATE utf8mb4_0900_bin;"
    + TABLES
    + """
CREATE TABLE `odd %s "``names` (`the %% key` int PRIMARY KEY, `Select` text);
CREATE TRIGGER shout BEFORE INSERT ON items FOR EACH ROW
    SET NEW.name = IF(@sync_worker_applying IS NULL, UPPER(NEW.name), NEW.name);
""",
}
ODD = 'odd %s "`names'


@pytest.fixture
def node(sql_node: MakeNode) -> Iterator[SqlNode]:
    mapped = [
        mapping("items", exclude=frozenset({"hidden"})),
        mapping("keys_only", "a", "b"),
        mapping(ODD, "the %% key"),
    ]
    with sql_node(DDL, mapped) as made:
        yield made


def held_of(applied: Applied) -> dict[int, str]:
    """Reasons by integer key."""
    return {int.from_bytes(h.key[1:], "big"): h.reason for h in applied.held}


def test_rows_are_written_updated_and_deleted(node: SqlNode) -> None:
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


def test_triggers_and_foreign_keys_are_at_rest(node: SqlNode) -> None:
    assert node.apply("items", [{"id": 1, "name": "low", "parent": 99}]).held == []
    node.sql("INSERT INTO items (id, name) VALUES (2, 'low')")
    assert node.sql("SELECT id, name, parent FROM items ORDER BY id") == [(1, "low", 99), (2, "LOW", None)]


def test_tables_of_keys_alone(node: SqlNode) -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]
    node.apply("keys_only", rows)
    node.apply("keys_only", [*rows, {"a": 2, "b": "z"}])
    assert node.sql("SELECT * FROM keys_only ORDER BY 1, 2") == [(1, "x"), (1, "y"), (2, "z")]
    partial = [{"a": a, "b": "z", "_have": b"\x03"} for a in (2, 3)]
    applied = node.apply("keys_only", partial)
    assert [table for table, _ in applied.missing] == ["keys_only"]
    node.apply("keys_only", [{"a": 1, "b": "y", "_op": Op.DELETE}, {"a": 2, "b": "x", "_op": Op.DELETE}])
    assert node.sql("SELECT * FROM keys_only ORDER BY 1, 2") == [(1, "x"), (2, "z")]


def test_odd_names(node: SqlNode) -> None:
    node.apply(ODD, [{"the %% key": 1, "Select": "a"}, {"the %% key": 2, "Select": "b"}])
    partial = {"the %% key": 2, "Select": "c", "_have": b"\x03"}
    node.apply(ODD, [{"the %% key": 1, "_op": Op.DELETE}, partial])
    assert node.sql(f"SELECT * FROM {node.quoted(ODD)}") == [(2, "c")]
    assert node.snapshot.read_chunk(node.tables[ODD], None, 9).column("Select").to_pylist() == ["c"]
    node.sql(f"INSERT INTO {node.quoted(ODD)} VALUES (3, 'd')")
    assert [row["Select"] for row in node.rows()] == ["d"]


def test_texts_keep_every_character(node: SqlNode) -> None:
    texts = ['a"b', "a\\b", "a,b", "\\'", "{}", "$1", "NULL", "null", "", " ", "x ", "\t\n\r", "%s %%", "😀"]
    texts += ["'", "\x1a", *["\0"] * (node.kind == "mysql")]
    node.apply("items", [{"id": i, "email": t} for i, t in enumerate(texts)])
    assert [t for (t,) in node.sql("SELECT email FROM items ORDER BY id")] == texts


REFUSED = {
    "postgres": [(777, "email", "nul \0")],
    "mysql": [(11, "name", "blanks     ")],
}
REASONS = {
    "postgres": {
        10: "name: 'longer than ten' is longer than 10 characters$",
        501: r"items_email_key.*\(email\)=\(twice\)",
        666: "23514",
        777: "nul|0x00",
    },
    "mysql": {
        10: "name: 'longer than ten' is longer than 10 characters$",
        11: "name: 'blanks     ' is longer than 10 characters$",
        501: "another row has one of its unique values",
        666: "3819",
    },
}


def test_refused_rows_are_held_and_the_others_commit(node: SqlNode) -> None:
    """Case 28: check, length, unique and U+0000 or blanks, among a thousand good rows."""
    rows: list[dict[str, object]] = [{"id": i, "qty": i} for i in range(1000)]
    rows[10]["name"] = "longer than ten"
    rows[500]["email"] = rows[501]["email"] = "twice"
    for ident, column, value in REFUSED[node.kind]:
        rows[ident][column] = value
    applied = node.apply("items", rows)
    held, reasons = held_of(applied), REASONS[node.kind]
    assert held.keys() == reasons.keys()
    for ident, reason in reasons.items():
        assert re.search(reason, held[ident], re.DOTALL)
    assert node.sql("SELECT COUNT(*) FROM items") == [(1000 - len(held),)]
    assert node.sql("SELECT qty FROM items WHERE id = 500") == [(500,)]
    assert all(h.table == "items" for h in applied.held)
    assert node.apply("items", [{"id": 666, "qty": 667}]).held == []


def test_deletes_go_before_inserts(node: SqlNode) -> None:
    node.apply("items", [{"id": 1, "email": "a"}])
    applied = node.apply("items", [{"id": 2, "email": "a"}, {"id": 1, "_op": Op.DELETE}])
    assert applied.held == []
    assert node.sql("SELECT id FROM items") == [(2,)]


def test_unique_values_that_move_along_find_their_order(node: SqlNode) -> None:
    node.apply("items", [{"id": i, "email": str(i)} for i in range(5)])
    applied = node.apply("items", [{"id": i, "email": str(i + 1)} for i in range(5)])
    assert applied.held == []
    assert [e for (e,) in node.sql("SELECT email FROM items ORDER BY id")] == list("12345")


def test_partial_rows_update_what_they_have(node: SqlNode) -> None:
    node.apply("items", [{"id": 1, "name": "a", "qty": 1}, {"id": 2, "name": "b", "qty": 2}])
    name, qty = bits(0, 1, width=5), bits(0, 2, width=5)
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


def test_the_same_batch_again_is_already_there_with_its_findings(node: SqlNode) -> None:
    rows = [
        {"id": 1, "qty": 666},
        {"id": 2, "name": "x", "_have": bits(0, 1, width=5)},
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
def test_fenced_zombie(node: SqlNode, field: str) -> None:
    """Case 23: neither an older epoch nor a gap in the sequence can commit, rows that fail included."""
    node.apply("items", [{"id": 1}])
    stale = {"epoch": node.epoch - 1} if field == "epoch" else {"seq": 9, "after": 8}
    partial = {"id": 1, "name": "x", "_have": bits(0, 1, width=5)}
    for rows in ([{"id": 2}], [{"id": 2, "qty": 666}], [], [partial]):
        outcome = node.applier.apply(node.batch("items", rows, **stale)).outcome
        assert outcome == (Outcome.FENCED if field == "epoch" else Outcome.EARLY)
    assert node.sql("SELECT id, name FROM items") == [(1, None)]
    assert node.apply("items", [{"id": 3}]).outcome == Outcome.COMMITTED


def test_raising_the_epoch_fences_and_keeps_progress(node: SqlNode) -> None:
    node.apply("items", [{"id": 1}])
    (marker,) = node.control.raise_epoch(1, 1, Marker(GROUP, 0, 1, 0, 0))
    assert (marker.epoch, marker.seq) == (node.epoch + 1, 1)
    assert node.applier.apply(node.batch("items", [{"id": 2}])).outcome == Outcome.FENCED
    node.epoch = marker.epoch
    assert node.apply("items", [{"id": 2}]).outcome == Outcome.COMMITTED
    three = node.control.raise_epoch(3, 10, Marker(GROUP, 0, 3, 0, 0))
    assert [(m.shard, m.shards, m.seq) for m in three] == [(0, 1, 2), (1, 3, 0), (2, 3, 0)]
    assert {m.epoch for m in three} == {10}


def test_raised_markers_are_readable_however_large(node: SqlNode) -> None:
    """They hold any byte. A raise must not leave a large state, kept out of line, out of the next echo."""
    cut = {f"node-{i}": i << 64 for i in range(2000)}
    batch = node.batch("items", [{"id": 1}], cut=cut, versions=bytes(range(256)) * 40)
    node.applier.apply(batch)
    (stored,) = node.control.raise_epoch(1, 1, Marker(GROUP, 0, 1, 0, 0))
    assert stored.cut == cut
    assert stored.versions == batch.marker.versions
    assert len(node.read()) == 1


def test_no_batch_is_lost_when_connections_are(node: SqlNode) -> None:
    node.apply("items", [{"id": 1}])
    node.disconnect_others()
    batch = node.batch("items", [{"id": 2}])
    with pytest.raises(NodeUnavailable):
        node.applier.apply(batch)
    assert node.applier.apply(batch).outcome == Outcome.COMMITTED


WINS = {
    "postgres": "SET deadlock_timeout = '100s'",  # the server ends the transaction that looks first
    "mysql": f"INSERT INTO items (id) VALUES {', '.join(f'({i})' for i in range(3, 400))}",  # or changed less
}
BLOCKED = {
    "postgres": "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
    "mysql": "SELECT COUNT(*) FROM performance_schema.data_lock_waits",
}


def test_deadlock_is_contention(node: SqlNode) -> None:
    node.apply("items", [{"id": 1}, {"id": 2}])
    with node.connect() as app, app.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(WINS[node.kind])
        cursor.execute("UPDATE items SET qty = 1 WHERE id = 2")
        caught: list[SyncError] = []

        def apply() -> None:
            try:
                node.apply("items", [{"id": 1, "qty": 2}, {"id": 2, "qty": 2}])
            except SyncError as error:
                caught.append(error)

        thread = threading.Thread(target=apply)
        thread.start()
        wait_for(lambda: node.sql(BLOCKED[node.kind]) == [(1,)])
        cursor.execute("UPDATE items SET qty = 1 WHERE id = 1")
        thread.join()
        cursor.execute("ROLLBACK")
    assert [type(e) for e in caught] == [Contention]
    assert node.apply("items", [{"id": 1, "qty": 3}]).outcome == Outcome.COMMITTED


@pytest.mark.parametrize("count", [3, 600])
def test_a_row_that_is_inserted_while_it_is_copied_stays(node: SqlNode, count: int) -> None:
    """However late an application inserts it: here it commits while our transaction waits for it."""
    copied = [{"id": i, "qty": 1, "_op": Op.READ} for i in range(1, count + 1)]
    with node.connect() as app, app.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO items (id, qty) VALUES (2, 22)")
        caught: list[SyncError] = []

        def apply() -> None:
            try:
                node.apply("items", copied)
            except SyncError as error:
                caught.append(error)

        thread = threading.Thread(target=apply)
        thread.start()
        wait_for(lambda: node.sql(BLOCKED[node.kind]) == [(1,)])
        cursor.execute("COMMIT")
        thread.join()
    assert [type(e) for e in caught] == [Occupied]
    assert node.sql("SELECT id, qty FROM items") == [(2, 22)]
    del copied[1]
    assert node.apply("items", copied).outcome == Outcome.COMMITTED
    assert node.sql("SELECT COUNT(*), SUM(qty) FROM items") == [(count, count - 1 + 22)]


def test_a_unique_value_that_is_there_is_no_copied_row(node: SqlNode) -> None:
    node.apply("items", [{"id": 1, "email": "a"}])
    applied = node.apply("items", [{"id": i, "email": "ab"[i - 2], "_op": Op.READ} for i in (2, 3)])
    assert set(held_of(applied)) == {2}
    assert node.sql("SELECT id, email FROM items ORDER BY id") == [(1, "a"), (3, "b")]


def test_vanished_column_stops_the_applier(node: SqlNode) -> None:
    node.sql("ALTER TABLE items DROP COLUMN email")
    with pytest.raises(SchemaChanged, match="items has no column email"):
        node.apply("items", [{"id": 1}])
