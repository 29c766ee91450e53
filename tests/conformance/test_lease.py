"""One process at a time may run a group; another one takes over when it has gone."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime

from tests.conformance.tools import PATIENCE, Peer, eventually
from tests.fixtures.engines import EngineHarness, MongoHarness


def test_a_second_holder_is_told_of_the_first(peer: Peer) -> None:
    with closing(peer.engine.lease("here:1")) as first, closing(peer.engine.lease("there:2")) as second:
        assert first.hold() is None
        assert first.hold() is None
        assert second.hold() == "here:1"
        first.close()
        assert second.hold() is None
    with closing(peer.engine.lease("elsewhere:3")) as third:
        assert third.hold() is None


def test_groups_do_not_stand_in_each_others_way(peer: Peer) -> None:
    other = type(peer.engine)(peer.engine.node, "another")
    with closing(peer.engine.lease("here:1")) as first, closing(other.lease("there:2")) as second:
        assert first.hold() is None
        assert second.hold() is None


def test_what_a_lost_holder_had_is_taken(harness: EngineHarness, peer: Peer) -> None:
    with closing(harness.remote.lease("here:1")) as first, closing(peer.engine.lease("there:2")) as second:
        assert first.hold() is None
        if isinstance(harness, MongoHarness):  # it lapses by the server's clock, not with a connection
            states = harness.collection("items").database["sync_worker.state"]
            old = {"$set": {"at": datetime(2020, 1, 1, tzinfo=UTC)}}
            assert states.update_one({"name": "lease"}, old).modified_count == 1
        else:
            harness.cut()
        deadline = time.monotonic() + PATIENCE
        while second.hold() is not None:
            assert time.monotonic() < deadline
        assert eventually(first.hold) in ("there:2", "another process")
