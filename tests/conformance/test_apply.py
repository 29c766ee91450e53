"""A batch is written whole or not at all, once, and touches nothing that is not mapped."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import pytest

from replication.applying import Findings, findings_name
from replication.batch import ApplyBatch, HeldRow, Outcome
from replication.errors import Occupied
from replication.key import encode_key
from replication.types import Kind
from tests.conformance.samples import AT, NOTHING, PLANES, item
from tests.conformance.tools import Peer, Write, batches
from tests.fixtures.engines import NODE, EngineHarness
from tests.fixtures.tables import POISON


def mapped(harness: EngineHarness, table: str = "items") -> dict:
    """The rows as an application reads them, mapped columns only."""
    names = [c.name for c in harness.tables[table].schema.columns]
    return {key: {n: row.get(n) for n in names} for key, row in harness.rows(table).items()}


def test_rows_are_inserted_updated_and_deleted(harness: EngineHarness, peer: Peer) -> None:
    for ident in (1, 2):
        harness.insert("items", item(ident))
    applied = peer.apply(
        Write("items", (1,), item(1, qty=50, note=None)), Write("items", (2,)), Write("items", (3,), item(3))
    )
    assert applied.outcome is Outcome.COMMITTED
    assert not applied.held
    assert not applied.missing
    assert mapped(harness) == {(1,): item(1, qty=50, note=None), (3,): item(3)}


def test_deleting_a_missing_row_is_no_error(harness: EngineHarness, peer: Peer) -> None:
    applied = peer.apply(Write("items", (1,)), Write("words", ("x",)), Write("pairs", (1, "x")))
    assert (applied.outcome, list(applied.held), list(applied.missing)) == (Outcome.COMMITTED, [], [])


def test_the_same_batch_again_is_already_there(harness: EngineHarness, peer: Peer) -> None:
    batch = peer.batch(Write("items", (1,), item(1)))
    assert peer.applier.apply(batch).outcome is Outcome.COMMITTED
    harness.update("items", (1,), {"qty": 99})
    assert peer.applier.apply(batch).outcome is Outcome.ALREADY
    with closing(peer.engine.applier(harness.mapped, [])) as another:
        assert another.apply(batch).outcome is Outcome.ALREADY
    assert mapped(harness)[1,]["qty"] == 99


def test_nulls_and_every_plane_of_text(harness: EngineHarness, peer: Peer) -> None:
    peer.apply(
        Write("items", (1,), item(1, **NOTHING)),
        *(Write("words", (word,), {"meaning": word}) for word in PLANES),
        *(Write("pairs", (-(2**31), word), {"value": None}) for word in PLANES),
    )
    assert mapped(harness) == {(1,): item(1, **NOTHING)}
    assert {key: row["meaning"] for key, row in harness.rows("words").items()} == {(w,): w for w in PLANES}
    assert harness.rows("pairs").keys() == {(-(2**31), word) for word in PLANES}
    peer.apply(*(Write("words", (w,)) for w in PLANES), *(Write("pairs", (-(2**31), w)) for w in PLANES))
    assert harness.rows("words") == harness.rows("pairs") == {}


def test_unmapped_and_excluded_columns_survive(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1) | {"secret": "top", "extra": "local"})
    peer.apply(Write("items", (1,), item(1, qty=5, note="new")))
    peer.apply(Write("items", (1,), {"qty": 6}))
    assert harness.rows("items")[1,] == item(1, qty=6, note="new") | {"secret": "top", "extra": "local"}


def test_a_partial_row_writes_only_what_it_has(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    harness.insert("items", item(2))
    peer.apply(
        Write("items", (1,), {"note": None, "qty": 42}),
        Write("items", (2,), {"name": "renamed"}),
        Write("items", (3,), item(3)),
    )
    assert mapped(harness) == {
        (1,): item(1, note=None, qty=42),
        (2,): item(2, name="renamed"),
        (3,): item(3),
    }


def test_a_partial_row_that_is_not_there_is_reported(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("pairs", {"num": 1, "code": "a", "value": "old"})
    applied = peer.apply(
        Write("items", (1,), {"qty": 42}),
        Write("items", (2,), item(2)),
        Write("items", (3,), {"note": "x"}),
    )
    assert applied.outcome is Outcome.COMMITTED
    assert sorted(applied.missing) == [("items", encode_key((i,), [Kind.INT64])) for i in (1, 3)]
    assert not applied.held
    assert mapped(harness) == {(2,): item(2)}


def test_a_refused_row_is_held_and_the_others_commit(harness: EngineHarness, peer: Peer) -> None:
    writes = [Write("items", (i,), item(i, qty=POISON if i in (7, 40) else 1)) for i in range(60)]
    applied = peer.apply(*writes, Write("words", ("a",), {"meaning": "b"}))
    assert applied.outcome is Outcome.COMMITTED
    assert {(h.table, h.key) for h in applied.held} == {
        ("items", encode_key((i,), [Kind.INT64])) for i in (7, 40)
    }
    assert all(isinstance(h, HeldRow) and h.reason for h in applied.held)
    assert {k[0] for k in mapped(harness)} == set(range(60)) - {7, 40}
    assert ("a",) in harness.rows("words")
    assert peer.apply(Write("items", (7,), item(7))).outcome is Outcome.COMMITTED
    assert mapped(harness)[7,] == item(7)


def test_the_same_batch_again_is_already_there_with_its_findings(harness: EngineHarness, peer: Peer) -> None:
    partial = Write("items", (3,), {"note": "x"})
    batch = peer.batch(Write("items", (1,), item(1, qty=POISON)), Write("items", (2,), item(2)), partial)
    first = peer.applier.apply(batch)
    with closing(peer.engine.applier(harness.mapped, [])) as another:
        again = another.apply(batch)
    assert (first.outcome, again.outcome) == (Outcome.COMMITTED, Outcome.ALREADY)
    assert len(first.held) == len(first.missing) == 1
    assert (again.held, again.missing) == (first.held, first.missing)
    with closing(harness.engine.control()) as control:
        kept = control.get_state(findings_name(batch.marker.shard))
    assert kept is not None
    assert Findings.load(kept, batch.marker).held == first.held


def test_a_refused_update_leaves_the_row_as_it_was(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    applied = peer.apply(Write("items", (1,), {"qty": POISON}), Write("items", (2,), item(2)))
    assert [h.key for h in applied.held] == [encode_key((1,), [Kind.INT64])]
    assert mapped(harness) == {(1,): item(1), (2,): item(2)}


@pytest.mark.needs("columns")
def test_null_where_none_is_allowed_is_held(harness: EngineHarness, peer: Peer) -> None:
    applied = peer.apply(Write("items", (1,), item(1, name=None)), Write("items", (2,), item(2)))
    assert [h.key for h in applied.held] == [encode_key((1,), [Kind.INT64])]
    assert mapped(harness) == {(2,): item(2)}


@pytest.mark.needs("microseconds")
def test_a_value_that_comes_back_narrower_leaves_the_wider_one(harness: EngineHarness, peer: Peer) -> None:
    fine = AT + timedelta(microseconds=321)
    for ident in (1, 2):
        harness.insert("items", item(ident, at=fine))
    batch = ApplyBatch(
        NODE,
        peer.batch().marker,
        batches(
            harness,
            [
                Write("items", (1,), item(1, at=AT, qty=5)),
                Write("items", (2,), item(2, at=AT - timedelta(milliseconds=1))),
            ],
        ),
    )
    with closing(peer.engine.applier(harness.mapped, ["mongodb"])) as applier:
        applier.apply(batch)
    assert mapped(harness) == {
        (1,): item(1, at=fine, qty=5),
        (2,): item(2, at=AT - timedelta(milliseconds=1)),
    }


@pytest.mark.parametrize("count", [3, 600])
def test_a_copied_row_replaces_none(harness: EngineHarness, peer: Peer, count: int) -> None:
    mine = item(count // 2, qty=7)
    harness.insert("items", mine)
    copied = [Write("items", (i,), item(i), copied=True) for i in range(count)]
    word = Write("words", ("a",), {"meaning": "b"})
    with pytest.raises(Occupied):
        peer.applier.apply(peer.batch(*copied, word))
    assert mapped(harness) == {(count // 2,): mine}
    assert not harness.rows("words")
    del copied[count // 2]
    assert peer.apply(*copied, word).held == []
    assert mapped(harness) == {(i,): item(i) for i in range(count)} | {(count // 2,): mine}
    assert ("a",) in harness.rows("words")


def test_refused_rows_of_a_copy_are_held(harness: EngineHarness, peer: Peer) -> None:
    rows = [item(i, qty=POISON if i in (7, 500) else 1) for i in range(600)]
    applied = peer.apply(*(Write("items", (i,), row, copied=True) for i, row in enumerate(rows)))
    assert {h.key for h in applied.held} == {encode_key((i,), [Kind.INT64]) for i in (7, 500)}
    assert {k[0] for k in mapped(harness)} == set(range(600)) - {7, 500}


def test_many_rows_in_one_batch(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(5, qty=1))
    peer.apply(*(Write("items", (i,), item(i)) for i in range(3000)))
    assert mapped(harness) == {(i,): item(i) for i in range(3000)}
    peer.apply(*(Write("items", (i,)) for i in range(0, 3000, 2)))
    assert mapped(harness).keys() == {(i,) for i in range(1, 3000, 2)}
