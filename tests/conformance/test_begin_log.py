"""A node whose log was lost begins a new one, and the markers follow it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replication.batch import Outcome
from replication.position import Position
from replication.resharding import first_markers
from tests.conformance.samples import item
from tests.conformance.tools import INITIAL, OTHER, Peer, Write
from tests.fixtures.engines import NODE, EngineHarness


def test_a_new_log_begins_after_what_was_written(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    begin = peer.control.begin_log(harness.mapped)
    assert begin.order > peer.start.order
    harness.insert("items", item(2))
    assert [change.key for change in peer.changes(begin)] == [(2,)]
    assert peer.control.prepare(harness.mapped).order >= begin.order


def test_replaced_markers_are_what_is_stored_and_no_echo(harness: EngineHarness, peer: Peer) -> None:
    peer.apply(Write("items", (1,), item(1)), versions=b"\0\xff'")
    (held,) = peer.control.raise_epoch(1, 1, INITIAL)
    begin = peer.control.begin_log(harness.mapped)
    moved = replace(
        held,
        cut={**held.cut, NODE: begin.order},
        resume={NODE: begin, OTHER: Position(1 << 80, "far")},
        absorbed={NODE: {OTHER: 4}},
        echoed={NODE: held.seq},
    )
    peer.control.replace_markers([moved])
    assert peer.changes(begin) == []
    (stored,) = peer.control.raise_epoch(1, 1, INITIAL)
    assert stored == replace(moved, epoch=stored.epoch)
    peer.epoch = stored.epoch
    peer.apply(Write("items", (2,), item(2)))


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_markers_of_another_number_replace_all_that_there_are(
    harness: EngineHarness, peer: Peer, before: int, after: int
) -> None:
    peer.control.drop()
    begin = peer.control.prepare(harness.mapped)
    old = peer.control.raise_epoch(before, 1, replace(INITIAL, shards=before))
    epoch = old[0].epoch + 1
    places = {NODE: begin, OTHER: Position(1 << 80, "far")}
    new = [replace(m, epoch=epoch) for m in first_markers(old[0].group, places, after, 7)]
    peer.control.replace_markers(new)
    assert peer.changes(begin) == []
    stored = peer.control.raise_epoch(0, 0, INITIAL)
    assert stored == [replace(m, epoch=stored[0].epoch) for m in new]
    for marker in (replace(old[-1], after=0, seq=1), replace(new[0], epoch=old[0].epoch, after=7, seq=8)):
        batch = peer.batch(Write("items", (1,), item(1)))
        assert peer.applier.apply(replace(batch, marker=marker)).outcome is Outcome.FENCED
    marker = replace(new[-1], epoch=stored[0].epoch, after=7, seq=8)
    batch = replace(peer.batch(Write("items", (2,), item(2))), marker=marker)
    assert peer.applier.apply(batch).outcome is Outcome.COMMITTED
    assert harness.rows("items").keys() == {(2,)}
