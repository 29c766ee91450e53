"""Only the newest incarnation of a shard writes, and only the batch that is next."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from replication.batch import Outcome
from replication.marker import Marker
from replication.position import Position
from tests.conformance.samples import item
from tests.conformance.tools import INITIAL, OTHER, Peer, Write
from tests.fixtures.engines import GROUP, NODE, EngineHarness


def test_epochs_only_rise(peer: Peer) -> None:
    first = peer.epoch
    (second,) = peer.control.raise_epoch(1, 1, INITIAL)
    assert second.epoch > first
    (third,) = peer.control.raise_epoch(1, 1000, INITIAL)
    assert third.epoch >= 1000
    (fourth,) = peer.control.raise_epoch(1, 5, INITIAL)
    assert fourth.epoch > third.epoch


def test_missing_markers_are_made_from_the_initial_one(harness: EngineHarness) -> None:
    initial = Marker(
        GROUP,
        0,
        3,
        0,
        0,
        cut={NODE: 5, OTHER: 1 << 80},
        resume={NODE: Position(5, "five"), OTHER: Position(1 << 80, "far")},
        absorbed={NODE: {OTHER: 4}, OTHER: {NODE: 3}},
        echoed={NODE: 0, OTHER: 0},
    )
    with Peer(harness) as peer:
        peer.control.drop()
        peer.control.prepare(harness.mapped)
        markers = peer.control.raise_epoch(3, 7, initial)
    assert len({m.epoch for m in markers}) == 1
    assert markers[0].epoch >= 7
    assert markers == [replace(initial, shard=s, epoch=markers[0].epoch) for s in range(3)]


def test_raising_the_epoch_keeps_what_was_committed(harness: EngineHarness, peer: Peer) -> None:
    peer.apply(Write("items", (1,), item(1)))
    batch = peer.batch(
        Write("items", (2,), item(2)),
        resume={NODE: Position(9, "nine"), OTHER: Position((1 << 96) - 1, "x")},
        absorbed={NODE: {OTHER: 8}},
        echoed={NODE: 1},
        versions=b"\0\xff'\\",
    )
    peer.applier.apply(batch)
    (marker,) = peer.control.raise_epoch(1, 1, INITIAL)
    assert marker == replace(batch.marker, epoch=marker.epoch)
    assert marker.epoch > peer.epoch


@pytest.mark.parametrize(
    "wrong",
    [{"epoch": 0}, {"epoch": 10_000}, {"after": 0}, {"after": 2, "seq": 3}, {"after": 2**40, "seq": 2**41}],
    ids=str,
)
def test_a_batch_that_is_not_next_is_refused(
    harness: EngineHarness, peer: Peer, wrong: dict[str, int]
) -> None:
    peer.apply(Write("items", (1,), item(1)))
    batch = peer.batch(Write("items", (1,), item(1, qty=66)), Write("items", (2,), item(2)), **wrong)
    missing = wrong.get("after", 0) > 1
    assert peer.applier.apply(batch).outcome is (Outcome.EARLY if missing else Outcome.FENCED)
    assert harness.rows("items").keys() == {(1,)}
    assert harness.rows("items")[1,]["qty"] == 1
    assert peer.apply(Write("items", (3,), item(3))).outcome is Outcome.COMMITTED


def test_an_older_incarnation_cannot_commit(harness: EngineHarness, peer: Peer) -> None:
    old = peer.batch(Write("items", (1,), item(1)))
    (marker,) = peer.control.raise_epoch(1, 1, INITIAL)
    assert peer.applier.apply(old).outcome is Outcome.FENCED
    assert harness.rows("items") == {}
    new = replace(old, marker=replace(old.marker, epoch=marker.epoch))
    with closing(peer.engine.applier(harness.mapped, [])) as applier:
        assert applier.apply(new).outcome is Outcome.COMMITTED
    assert peer.applier.apply(old).outcome is Outcome.FENCED
    assert harness.rows("items").keys() == {(1,)}


def test_a_committed_batch_of_an_older_incarnation_is_fenced_not_already(peer: Peer) -> None:
    batch = peer.batch()
    assert peer.applier.apply(batch).outcome is Outcome.COMMITTED
    peer.control.raise_epoch(1, 1, INITIAL)
    assert peer.applier.apply(batch).outcome is Outcome.FENCED


def test_a_batch_before_the_last_is_fenced_not_already(peer: Peer) -> None:
    first = peer.batch()
    assert peer.applier.apply(first).outcome is Outcome.COMMITTED
    peer.seq += 1
    assert peer.apply().outcome is Outcome.COMMITTED
    assert peer.applier.apply(first).outcome is Outcome.FENCED


def test_a_shard_without_a_marker_is_fenced(harness: EngineHarness, peer: Peer) -> None:
    batch = peer.batch(Write("items", (1,), item(1)), shard=5, shards=6)
    assert peer.applier.apply(batch).outcome is Outcome.FENCED
    assert harness.rows("items") == {}


def test_dropping_removes_what_is_ours(harness: EngineHarness, peer: Peer) -> None:
    peer.apply(Write("items", (1,), item(1)))
    peer.control.put_state("a", "{}")
    peer.control.drop()
    peer.control.prepare(harness.mapped)
    assert peer.control.get_state("a") is None
    (marker,) = peer.control.raise_epoch(1, 1, INITIAL)
    assert marker.seq == 0
    assert harness.rows("items").keys() == {(1,)}


def test_an_epoch_is_raised_without_a_marker_being_made(peer: Peer) -> None:
    """So that another number of shards is refused before a marker of it is there."""
    stored = peer.control.raise_epoch(0, 0, INITIAL)
    assert [m.shard for m in stored] == [0]
    (raised,) = peer.control.raise_epoch(0, stored[0].epoch + 5, replace(INITIAL, shards=3))
    assert (raised.shard, raised.shards, raised.epoch) == (0, 1, stored[0].epoch + 5)
