"""Writing to PostgreSQL: one transaction per batch, whatever some of its rows are like."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from replication.batch import Outcome
from replication.change import Op
from replication.errors import Contention, NodeUnavailable, PreflightFailed, SchemaChanged, SyncError
from replication.marker import Marker
from tests.fixtures.postgres_node import GROUP, NODE, PostgresNode, bits, mapping, wait_for

DDL = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE items (
    id bigint PRIMARY KEY, name varchar(10), qty int CHECK (qty <> 666), email text UNIQUE,
    parent int REFERENCES parent, hidden text DEFAULT 'kept');
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION shout();
CREATE TABLE keys_only (a int, b text, PRIMARY KEY (a, b));
CREATE TABLE "odd %s ""names" ("the %% key" int PRIMARY KEY, "Select" text);
"""
ODD = 'odd %s "names'


@pytest.fixture
def node(postgres_db: str) -> Iterator[PostgresNode]:
    mapped = [
        mapping("items", exclude=frozenset({"hidden"})),
        mapping("keys_only", "a", "b"),
        mapping(ODD, "the %% key"),
    ]
    with PostgresNode(postgres_db, DDL, mapped) as made:
        yield made


def test_rows_are_written_updated_and_deleted(node: PostgresNode) -> None:
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


def test_triggers_and_foreign_keys_are_at_rest(node: PostgresNode) -> None:
    assert node.apply("items", [{"id": 1, "name": "low", "parent": 99}]).held == []
    assert node.sql("SELECT name, parent FROM items") == [("low", 99)]


def test_tables_of_keys_alone(node: PostgresNode) -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]
    node.apply("keys_only", rows)
    node.apply("keys_only", [*rows, {"a": 2, "b": "z"}])
    assert node.sql("SELECT * FROM keys_only ORDER BY 1, 2") == [(1, "x"), (1, "y"), (2, "z")]
    partial = [{"a": a, "b": "z", "_have": b"\x03"} for a in (2, 3)]
    applied = node.apply("keys_only", partial)
    assert [table for table, _ in applied.missing] == ["keys_only"]


def test_odd_names(node: PostgresNode) -> None:
    node.apply(ODD, [{"the %% key": 1, "Select": "a"}, {"the %% key": 2, "Select": "b"}])
    partial = {"the %% key": 2, "Select": "c", "_have": b"\x03"}
    node.apply(ODD, [{"the %% key": 1, "_op": Op.DELETE}, partial])
    assert node.sql('SELECT * FROM "odd %s ""names"') == [(2, "c")]
    assert node.snapshot.read_chunk(node.tables[ODD], None, 9).column("Select").to_pylist() == ["c"]
    node.sql('INSERT INTO "odd %s ""names" VALUES (3, \'d\')')
    assert [row["Select"] for row in node.rows()] == ["d"]


def test_texts_keep_every_character(node: PostgresNode) -> None:
    texts = ['a"b', "a\\b", "a,b", "{}", "NULL", "null", "", " ", "\t\n\r", "%s %%", "😀", "'", "$1"]
    node.apply("items", [{"id": i, "email": t} for i, t in enumerate(texts)])
    assert [t for (t,) in node.sql("SELECT email FROM items ORDER BY id")] == texts


def test_refused_rows_are_held_and_the_others_commit(node: PostgresNode) -> None:
    """Case 28: check, length, unique and U+0000, among a thousand good rows."""
    rows: list[dict[str, object]] = [{"id": i, "qty": i} for i in range(1000)]
    rows[10]["name"] = "longer than ten"
    rows[500]["email"] = rows[501]["email"] = "twice"
    rows[777]["email"] = "nul \0"
    applied = node.apply("items", rows)
    held = {int.from_bytes(h.key[1:], "big"): h.reason for h in applied.held}
    assert set(held) == {10, 501, 666, 777}
    assert held[10] == "name: 'longer than ten' is longer than 10 characters"
    assert "items_email_key" in held[501]
    assert "(email)=(twice)" in held[501]
    assert held[666].startswith("23514")
    assert node.sql("SELECT count(*) FROM items") == [(996,)]
    assert all(h.table == "items" for h in applied.held)
    assert node.apply("items", [{"id": 666, "qty": 667}]).held == []


def test_deletes_go_before_inserts(node: PostgresNode) -> None:
    node.apply("items", [{"id": 1, "email": "a"}])
    applied = node.apply("items", [{"id": 2, "email": "a"}, {"id": 1, "_op": Op.DELETE}])
    assert applied.held == []
    assert node.sql("SELECT id FROM items") == [(2,)]


def test_unique_values_that_move_along_find_their_order(node: PostgresNode) -> None:
    node.apply("items", [{"id": i, "email": str(i)} for i in range(5)])
    applied = node.apply("items", [{"id": i, "email": str(i + 1)} for i in range(5)])
    assert applied.held == []
    assert [e for (e,) in node.sql("SELECT email FROM items ORDER BY id")] == list("12345")


def test_partial_rows_update_what_they_have(node: PostgresNode) -> None:
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


def test_the_same_batch_again_is_already_there_with_its_findings(node: PostgresNode) -> None:
    rows = [{"id": 1, "qty": 666}, {"id": 2, "name": "x", "_have": bits(0, 1, width=5)}, {"id": 3}]
    batch = node.batch("items", rows)
    first = node.applier.apply(batch)
    again = node.applier.apply(batch)
    assert (first.outcome, again.outcome) == (Outcome.COMMITTED, Outcome.ALREADY)
    assert again.held == first.held != []
    assert again.missing == first.missing != []
    plain = node.batch("items", [{"id": 4}], seq=2, after=1)
    assert [node.applier.apply(plain).outcome for _ in range(2)] == [Outcome.COMMITTED, Outcome.ALREADY]
    assert node.applier.apply(plain).held == []


@pytest.mark.parametrize("field", ["epoch", "after"])
def test_fenced_zombie(node: PostgresNode, field: str) -> None:
    """Case 23: neither an older epoch nor a gap in the sequence can commit, rows that fail included."""
    node.apply("items", [{"id": 1}])
    stale = {"epoch": node.epoch - 1} if field == "epoch" else {"seq": 9, "after": 8}
    for rows in ([{"id": 2}], [{"id": 2, "qty": 666}], []):
        outcome = node.applier.apply(node.batch("items", rows, **stale)).outcome
        assert outcome == (Outcome.FENCED if field == "epoch" else Outcome.EARLY)
    assert node.sql("SELECT id FROM items") == [(1,)]
    assert node.apply("items", [{"id": 3}]).outcome == Outcome.COMMITTED


def test_raising_the_epoch_fences_and_keeps_progress(node: PostgresNode) -> None:
    node.apply("items", [{"id": 1}])
    (marker,) = node.control.raise_epoch(1, 1, Marker(GROUP, 0, 1, 0, 0))
    assert (marker.epoch, marker.seq) == (node.epoch + 1, 1)
    assert node.applier.apply(node.batch("items", [{"id": 2}])).outcome == Outcome.FENCED
    node.epoch = marker.epoch
    assert node.apply("items", [{"id": 2}]).outcome == Outcome.COMMITTED
    three = node.control.raise_epoch(3, 10, Marker(GROUP, 0, 3, 0, 0))
    assert [(m.shard, m.shards, m.seq) for m in three] == [(0, 1, 2), (1, 3, 0), (2, 3, 0)]
    assert {m.epoch for m in three} == {10}


def test_raised_markers_are_readable_however_large(node: PostgresNode) -> None:
    """A large state stays out of line; a raise must not leave it out of the next echo's place in the log."""
    cut = {f"node-{i}": i << 64 for i in range(2000)}
    batch = node.batch("items", [{"id": 1}], cut=cut, versions=bytes(range(256)) * 40)
    node.applier.apply(batch)
    (stored,) = node.control.raise_epoch(1, 1, Marker(GROUP, 0, 1, 0, 0))
    assert stored.cut == cut
    assert stored.versions == batch.marker.versions
    assert len(node.read()) == 1


def test_identity_and_generated_columns(postgres_db: str) -> None:
    ddl = """CREATE TABLE t (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int GENERATED BY DEFAULT AS IDENTITY, v text)"""
    with PostgresNode(postgres_db, ddl, [mapping("t")]) as node:
        node.apply("t", [{"id": 7, "n": 70, "v": "a"}])
        assert node.apply("t", [{"id": 7, "n": 71, "v": "b"}]).held == []
        assert node.sql("SELECT * FROM t") == [(7, 71, "b")]


def test_many_statements_make_one_transaction(node: PostgresNode) -> None:
    node.apply("items", [{"id": i} for i in range(12_000)])
    assert node.sql("SELECT count(*), count(DISTINCT xmin::text) FROM items") == [(12_000, 1)]


def test_no_batch_is_lost_when_connections_are(node: PostgresNode) -> None:
    node.apply("items", [{"id": 1}])
    node.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    batch = node.batch("items", [{"id": 2}])
    with pytest.raises(NodeUnavailable):
        node.applier.apply(batch)
    assert node.applier.apply(batch).outcome == Outcome.COMMITTED


def test_deadlock_is_contention(node: PostgresNode) -> None:
    node.apply("items", [{"id": 1}, {"id": 2}])
    with psycopg.connect(node.dsn) as app:
        app.execute("SET deadlock_timeout = '100s'")
        app.execute("UPDATE items SET qty = 1 WHERE id = 2")
        caught: list[SyncError] = []

        def apply() -> None:
            try:
                node.apply("items", [{"id": 1, "qty": 2}, {"id": 2, "qty": 2}])
            except SyncError as error:
                caught.append(error)

        thread = threading.Thread(target=apply)
        thread.start()
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_for(lambda: node.sql("SELECT pg_sleep(0.02)") != [] and node.sql(blocked) == [(1,)])
        app.execute("UPDATE items SET qty = 1 WHERE id = 1")
        thread.join()
    assert [type(e) for e in caught] == [Contention]
    assert node.apply("items", [{"id": 1, "qty": 3}]).outcome == Outcome.COMMITTED


def test_vanished_column_stops_the_applier(node: PostgresNode) -> None:
    node.sql("ALTER TABLE items DROP COLUMN email")
    with pytest.raises(SchemaChanged, match="items has no column email"):
        node.apply("items", [{"id": 1}])


def test_missing_privilege_is_told(node: PostgresNode) -> None:
    node.sql("DROP ROLE IF EXISTS weak_writer")
    node.sql("CREATE ROLE weak_writer LOGIN SUPERUSER")
    try:
        weak = type(node.engine)(
            type(node.engine.node)(NODE, "postgres", node.dsn.replace("postgres@", "weak_writer@")), GROUP
        )
        with closing(weak.applier(node.mapped, [])) as applier:
            assert applier.apply(node.batch("items", [])).outcome == Outcome.COMMITTED
            node.seq += 1
        node.sql("ALTER ROLE weak_writer NOSUPERUSER")
        with (
            closing(weak.applier(node.mapped, [])) as applier,
            pytest.raises(PreflightFailed, match="session_replication_role"),
        ):
            applier.apply(node.batch("items", []))
    finally:
        node.sql("DROP ROLE weak_writer")
