"""A resolver whose nodes are paused, and where it is kept which are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from actors.limits import AWAY_SECONDS, Lag
from cluster.pausing import Pauses, read_pauses, store_pauses
from replication.batch import Applied, Outcome
from replication.engine import Engine
from replication.engines.memory import MemoryEngine, drop_database, open_database
from replication.errors import NodeUnavailable, Superseded
from replication.position import order_of
from replication.schema import NodeConfig
from tests.unit.test_resolver import EPOCH, Bed, insert

SINCE = "2026-01-01T00:00:00+00:00"


def sent(bed: Bed) -> list[tuple[str, list[int]]]:
    return [
        (batch.node, [k for t in batch.tables for k in t.rows["id"].to_pylist()])
        for batch, _ in bed.target.asked
    ]


def test_nothing_is_sent_to_a_paused_node_until_it_is_resumed() -> None:
    bed = Bed()
    bed.resolver.pause({"b": SINCE})
    bed.write(2)
    bed.write(3)
    assert sent(bed) == []
    status = bed.resolver.status()
    assert (status.paused, status.backlog["b"]) == ({"b": SINCE}, 2)
    bed.resolver.pause({})
    assert sent(bed) == [("b", [2, 3])]
    assert bed.resolver.status().lags == ("b",)


def test_a_pause_says_how_many_batches_are_not_answered() -> None:
    bed = Bed()
    bed.write(2)
    assert bed.resolver.pause({"b": SINCE}) == 1
    bed.target.asked[0][1].set_result(Applied(Outcome.COMMITTED))
    assert bed.resolver.pause({"b": SINCE}) == 0


def test_the_log_of_a_paused_node_is_not_taken_on() -> None:
    bed = Bed()
    bed.resolver.pause({"a": SINCE})
    with pytest.raises(Superseded, match="paused"):
        bed.write(2)
    assert bed.resolver.status().changes == 0
    ack = bed.resolver.feed("a", [], EPOCH)
    assert ack.halted
    ack = bed.resolver.feed("b", [insert(2)], EPOCH)
    assert (ack.paused, ack.halted, ack.until) == (False, False, None)
    assert sent(bed) == []
    bed.resolver.pause({})
    bed.write(3)
    assert {k for node, keys in sent(bed) if node == "b" for k in keys} == {3}


def test_the_log_of_a_paused_node_is_replayed_as_far_as_it_had_been_read() -> None:
    bed = Bed(read=order_of(3, 0))
    bed.resolver.pause({"a": SINCE})
    ack = bed.resolver.feed("a", [insert(2)], EPOCH)
    assert (ack.halted, ack.until) == (False, order_of(3, 0))
    ack = bed.resolver.feed("a", [insert(3)], EPOCH)
    assert (ack.replaying, ack.halted, ack.until) == (True, True, None), "though the other log is not there"
    assert not bed.resolver.feed("b", [insert(4)], EPOCH).replaying


def test_nobody_waits_for_a_paused_node_until_very_much_does() -> None:
    bed = Bed()
    bed.resolver.pause({"b": SINCE})
    most = bed.resolver.limits.max_away
    ack = bed.resolver.feed("a", [insert(*range(2, 5_002))], EPOCH)
    assert (ack.paused, ack.room) == (False, most - 5_000)


def test_heartbeats_go_to_a_node_that_is_not_paused() -> None:
    bed = Bed()
    bed.resolver.pause({"a": SINCE})
    bed.resolver.heartbeat()
    assert sent(bed) == [("b", [])]
    bed.resolver.pause({"a": SINCE, "b": SINCE})
    bed.resolver.heartbeat()
    assert len(bed.target.asked) == 1


def test_of_a_paused_table_nothing_is_sent_until_it_is_resumed() -> None:
    bed = Bed()
    assert bed.resolver.pause({}, {"t": SINCE}) == 0
    bed.write(2)
    bed.write(3)
    assert sent(bed) == []
    status = bed.resolver.status()
    assert (status.paused_tables, status.held_back["b"], status.backlog["b"]) == ({"t": SINCE}, {"t": 2}, 2)
    assert status.changes == 2, "what is written is on record"
    bed.resolver.pause({})
    assert sent(bed) == [("b", [2, 3])]
    assert bed.resolver.status().lags == ("b",)
    assert bed.resolver.status().held_back == {}


def test_everyone_waits_once_very_much_of_a_paused_table_does() -> None:
    bed = Bed()
    bed.resolver.pause({}, {"t": SINCE})
    most = bed.resolver.limits.max_away
    ack = bed.resolver.feed("a", [insert(*range(2, 5_002))], EPOCH)
    assert not ack.paused
    assert ack.room <= most - 5_000
    bed.resolver.limits = replace(bed.resolver.limits, max_away=5_000)
    assert bed.resolver.feed("a", [], EPOCH).paused


def test_a_node_that_was_paused_lags_until_it_has_caught_up() -> None:
    now = [100.0]
    lag = Lag("b", lambda: now[0])
    lag.catch_up()
    now[0] += AWAY_SECONDS + 1
    assert lag.look(50, 10)
    assert not lag.look(10, 10)


@pytest.fixture
def engines() -> Iterator[dict[str, Engine]]:
    """Two nodes that are there."""
    for n in "ab":
        open_database(f"pausing-{n}")
    yield {n: engine(n) for n in "ab"}
    for n in "ab":
        drop_database(f"pausing-{n}")


def engine(name: str) -> Engine:
    return MemoryEngine(NodeConfig(name, "memory", f"memory://pausing-{name}"), "g")


def test_the_newest_version_counts_whichever_node_has_it(engines: dict[str, Engine]) -> None:
    assert read_pauses(engines) == Pauses()
    first = Pauses().changed(["a"], [], SINCE)
    store_pauses(engines, first)
    second = first.changed(["b"], ["a"], SINCE)
    store_pauses({"b": engines["b"]}, second)
    assert read_pauses(engines) == second == Pauses(2, {"b": SINCE})
    assert second.changed(["b"], ["a"], "later") is second


@pytest.mark.parametrize("order", ["ac", "ca"])
def test_a_node_that_is_away_is_not_asked_unless_all_are(engines: dict[str, Engine], order: str) -> None:
    known = {n: engines.get(n) or engine(n) for n in order}
    store_pauses(known, Pauses(1, {"c": SINCE}))
    assert read_pauses(known).since == {"c": SINCE}
    with pytest.raises(NodeUnavailable):
        read_pauses({"c": engine("c"), "d": engine("d")})
    with pytest.raises(NodeUnavailable):
        store_pauses({"c": engine("c"), "d": engine("d")}, Pauses(2))
