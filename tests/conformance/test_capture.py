"""What an application writes comes out of the log: all of it, once, in order, and nothing else."""

from __future__ import annotations

import random
import time
from contextlib import closing
from decimal import Decimal

import pytest

from replication.change import Changes, Op, Progress, SchemaChange
from tests.conformance.samples import NOTHING, PLANES, item, random_transactions
from tests.conformance.tools import PATIENCE, Peer, Write, changes_in, events_of
from tests.fixtures.engines import EngineHarness


class Interruption(Exception):
    """What goes wrong in an application."""


def test_capture_begins_where_the_group_was_prepared(harness: EngineHarness) -> None:
    harness.insert("items", item(1))
    with Peer(harness) as peer:
        assert peer.changes() == []
        harness.insert("items", item(2))
        assert [c.key for c in peer.changes()] == [(2,)]


def test_every_kind_of_change_carries_its_row(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    harness.update("items", (1,), {"qty": 50, "note": "changed"})
    harness.delete("items", (1,))
    insert, update, delete = peer.changes()
    assert (insert.op, insert.key, insert.row) == (Op.INSERT, (1,), item(1))
    assert (update.op, update.key, update.row) == (Op.UPDATE, (1,), item(1, qty=50, note="changed"))
    assert (delete.op, delete.key, delete.row) == (Op.DELETE, (1,), {"id": 1})
    assert update.changed in (None, frozenset({"qty", "note"}))


def test_changes_come_in_commit_order_across_tables_and_inside_transactions(
    harness: EngineHarness, peer: Peer
) -> None:
    with harness.transaction() as tx:
        tx.insert("items", item(1))
        tx.insert("words", {"word": "b", "meaning": "1"})
        tx.update("items", (1,), {"qty": 2})
        tx.insert("pairs", {"num": 1, "code": "x", "value": "1"})
        tx.insert("words", {"word": "a", "meaning": "2"})
    harness.update("words", ("b",), {"meaning": "3"})
    with harness.transaction() as tx:
        tx.delete("items", (1,))
        tx.insert("items", item(1, qty=3))
    assert [(c.table, c.op, c.key) for c in peer.changes()] == [
        ("items", Op.INSERT, (1,)),
        ("words", Op.INSERT, ("b",)),
        ("items", Op.UPDATE, (1,)),
        ("pairs", Op.INSERT, (1, "x")),
        ("words", Op.INSERT, ("a",)),
        ("words", Op.UPDATE, ("b",)),
        ("items", Op.DELETE, (1,)),
        ("items", Op.INSERT, (1,)),
    ]


def test_a_key_change_is_a_delete_and_an_insert(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    harness.insert("pairs", {"num": 1, "code": "old", "value": "kept"})
    harness.update("items", (1,), {"id": 2, "qty": 5})
    harness.update("pairs", (1, "old"), {"code": "new"})
    assert [(c.op, c.key, c.row) for c in peer.changes()][2:] == [
        (Op.DELETE, (1,), {"id": 1}),
        (Op.INSERT, (2,), item(1) | {"id": 2, "qty": 5}),
        (Op.DELETE, (1, "old"), {"num": 1, "code": "old"}),
        (Op.INSERT, (1, "new"), {"num": 1, "code": "new", "value": "kept"}),
    ]


def test_keys_of_every_unicode_plane_and_extreme_numbers(harness: EngineHarness, peer: Peer) -> None:
    for word in PLANES:
        harness.insert("words", {"word": word, "meaning": word})
        harness.insert("pairs", {"num": -(2**31), "code": word, "value": None})
    for ident in (-(2**63), -1, 0, 2**63 - 1):
        harness.insert("items", item(ident, price=Decimal(1)))
    seen = peer.changes()
    assert [c.key for c in seen if c.table == "words"] == [(word,) for word in PLANES]
    assert [c.row["meaning"] for c in seen if c.table == "words"] == PLANES
    assert [c.key for c in seen if c.table == "pairs"] == [(-(2**31), word) for word in PLANES]
    assert [c.key for c in seen if c.table == "items"] == [(-(2**63),), (-1,), (0,), (2**63 - 1,)]


def test_nulls_are_nulls(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1, **NOTHING))
    harness.insert("items", item(2))
    harness.update("items", (2,), NOTHING)
    inserted, _, updated = peer.changes()
    assert inserted.row == item(1, **NOTHING)
    assert updated.row == item(2, **NOTHING)


def test_only_mapped_tables_and_columns_are_read(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("strangers", {"id": 1})
    harness.insert("items", item(1) | {"secret": "top", "extra": "local"})
    with harness.transaction() as tx:
        tx.insert("strangers", {"id": 2})
        tx.insert("items", item(2) | {"secret": "top", "extra": "local"})
    harness.delete("strangers", (1,))
    assert [(c.table, c.row) for c in peer.changes()] == [("items", item(1)), ("items", item(2))]


@pytest.mark.parametrize("seed", [1, 2])
def test_resuming_from_any_position_gives_exactly_the_rest(
    harness: EngineHarness, peer: Peer, seed: int
) -> None:
    for _ in random_transactions(harness, seed, 12):
        pass
    with closing(peer.source()) as source:
        events = peer.drain(source, max_rows=3)
    everything = changes_in(events, harness)
    assert len(events_of(events, Changes)) > 3
    for event in events:
        rest = peer.changes(event.end)
        assert rest == [c for c in everything if c.order > event.end.order]
        assert [c.order for c in rest] == [c.order for c in everything if c.order > event.end.order]


def test_a_large_transaction_comes_in_parts(harness: EngineHarness, peer: Peer) -> None:
    with harness.transaction() as tx:
        for ident in range(300):
            tx.insert("words", {"word": f"{ident:03}", "meaning": "x" * 200})
    harness.insert("words", {"word": "last"})
    events = peer.read(max_rows=100)
    parts = events_of(events, Changes)
    assert len(parts) > 1
    assert max(part.rows for part in parts) < 300
    expected = [(f"{ident:03}",) for ident in range(300)] + [("last",)]
    assert [c.key for c in changes_in(events, harness)] == expected
    assert [c.key for c in peer.changes(parts[0].end)] == expected[parts[0].rows :]


def test_other_peoples_writes_move_the_position(harness: EngineHarness, peer: Peer) -> None:
    """So that the log can be discarded although our own tables are idle."""
    with closing(peer.source()) as source:
        first = [e.end for e in peer.drain(source)]
        harness.insert("strangers", {"id": 1})
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            events = source.poll(100, 1.0)
            moved = [e.end for e in events if isinstance(e, Progress)]
            if moved and moved[-1].order > max([p.order for p in first], default=peer.start.order):
                break
        else:
            raise AssertionError("no progress")
    harness.insert("items", item(1))
    assert [c.key for c in peer.changes(moved[-1])] == [(1,)]


def test_confirming_loses_nothing(harness: EngineHarness, peer: Peer) -> None:
    for ident in range(5):
        harness.insert("items", item(ident))
    with closing(peer.source()) as source:
        events = peer.drain(source, max_rows=1)
        middle = events_of(events, Changes)[2].end
        source.confirm(middle)
        harness.insert("items", item(5))
        assert [c.key for c in changes_in(peer.drain(source), harness)] == [(5,)]
    expected = [(3,), (4,), (5,)]
    assert [c.key for c in peer.changes(middle)] == expected
    kept = peer.control.prepare(harness.mapped)
    assert kept.order <= events_of(events, Changes)[3].end.order
    assert [c.key for c in peer.changes(kept)][-3:] == expected


def test_commit_times_are_the_nodes_clock(harness: EngineHarness, peer: Peer) -> None:
    before = time.time_ns() // 1000
    harness.insert("items", item(1))
    after = time.time_ns() // 1000
    (change,) = peer.changes()
    second = 1_000_000  # MongoDB's cluster time counts whole seconds
    assert before - second <= change.ts <= after + second


def test_a_transaction_that_fails_is_not_heard(harness: EngineHarness, peer: Peer) -> None:
    def fail() -> None:
        with harness.transaction() as tx:
            tx.insert("items", item(1))
            raise Interruption

    with pytest.raises(Interruption):
        fail()
    harness.insert("items", item(2))
    assert [c.key for c in peer.changes()] == [(2,)]


@pytest.mark.needs("concurrent")
def test_order_is_that_of_commits_not_of_statements(harness: EngineHarness, peer: Peer) -> None:
    with harness.concurrent() as tx:
        tx.insert("items", item(1))
        harness.insert("items", item(2))
        with harness.concurrent() as other:
            other.insert("items", item(3))
            tx.insert("items", item(4))
        peer.snapshot.write_watermark("between")
        peer.apply(Write("items", (5,), item(5)))
        tx.insert("items", item(6))
    assert [c.key for c in peer.changes()] == [(2,), (3,), (1,), (4,), (6,)]


def test_a_large_value_beside_a_change_is_never_taken_for_null(harness: EngineHarness, peer: Peer) -> None:
    large = random.Random(5).randbytes(300_000).hex()
    harness.insert("items", item(1, note=large))
    harness.update("items", (1,), {"qty": 50})
    harness.update("items", (1,), {"note": None})
    _, unchanged, emptied = peer.changes()
    assert unchanged.row["qty"] == 50
    assert unchanged.row.get("note", large) == large
    assert emptied.row["note"] is None


@pytest.mark.needs("alter")
def test_an_added_column_does_not_disturb(harness: EngineHarness, peer: Peer) -> None:
    with closing(peer.source()) as source:
        harness.insert("items", item(1))
        before = changes_in(peer.drain(source), harness)
        harness.add_column("items", "added")
        harness.insert("items", item(2))
        harness.update("items", (1,), {"qty": 50})
        after = changes_in(peer.drain(source), harness)
    assert [c.row for c in before] == [item(1)]
    assert [c.row for c in after] == [item(2), item(1, qty=50)]
    assert peer.changes() == before + after


@pytest.mark.needs("alter")
def test_a_mapped_column_that_is_gone_is_an_event(harness: EngineHarness, peer: Peer) -> None:
    """The event comes before the first row without the column, and no row has a null in its place."""
    with closing(peer.source()) as source:
        harness.insert("items", item(1))
        harness.rename_column("items", "note", "comment")
        harness.insert("items", {k: v for k, v in item(2).items() if k != "note"})
        events = peer.drain(source)
    (change,) = events_of(events, SchemaChange)
    assert (change.table, change.what) == ("items", "alter")
    assert change.detail
    one, two = changes_in(events, harness)
    assert one.row == item(1)
    assert one.order < change.end.order <= two.order
    assert "note" not in two.row


@pytest.mark.needs("drop")
def test_a_dropped_table_is_an_event(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("words", {"word": "a"})
    harness.drop("words")
    harness.insert("items", item(1))
    events = peer.read()
    (change,) = events_of(events, SchemaChange)
    assert (change.table, change.what) == ("words", "drop")
    word, kept = changes_in(events, harness)
    assert (word.key, kept.key) == (("a",), (1,))
    assert word.order < change.end.order < kept.order


@pytest.mark.needs("truncate")
def test_truncate_is_an_event(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    harness.truncate("items")
    harness.insert("items", item(2))
    events = peer.read()
    (change,) = events_of(events, SchemaChange)
    assert (change.table, change.what) == ("items", "truncate")
    one, two = changes_in(events, harness)
    assert one.order < change.end.order < two.order
