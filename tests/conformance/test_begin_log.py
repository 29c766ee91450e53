"""A node whose log was lost begins a new one, and the markers follow it."""

from __future__ import annotations

from dataclasses import replace

from replication.position import Position
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
