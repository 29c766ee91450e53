"""A shard keeps the rows that are on their way, and lets go of them at once when they have arrived."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from actors.shards import make_shard
from replication.conflict.exchange import Outgoing
from replication.conflict.rows import ChangeRows, Run
from replication.conflict.shard import Shard
from replication.engines.memory import MemoryEngine
from replication.marker import Marker
from replication.position import Position, order_of
from replication.schema import NodeConfig, Table, TableMapping
from tests.unit.test_resolver import EPOCH, SCHEMA, insert

NODES = "abc"
ROWS = 10


@pytest.fixture(autouse=True)
def nobody_looks_for_cycles() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def shard() -> Shard:
    engines = {n: MemoryEngine(NodeConfig(n, "memory", f"memory://{n}"), "g") for n in NODES}
    resume = dict.fromkeys(NODES, Position(order_of(1, 0), ""))
    markers = {n: Marker("g", 0, 1, EPOCH, 0, resume=resume) for n in NODES}
    table = Table(TableMapping("t", ("id",), dict.fromkeys(NODES, "t")), SCHEMA)
    return make_shard("g", 0, 1, engines, [table], markers)


def write(shard: Shard, at: int) -> weakref.ref[Any]:
    """Some rows written at `a`; who looks finds out whether they are still kept."""
    changes = insert(*range(at, at + ROWS))
    before = set(shard.keys["t"])
    shard.on_changes("a", [ChangeRows("t", changes.tables[0].rows)], changes.end)
    runs = {id(r): r for key, r in shard.keys["t"].items() if key not in before}
    (run,) = runs.values()
    assert isinstance(run, Run)
    return weakref.ref(run.rows)


def send(shard: Shard, node: str, rows: int | None = None) -> Outgoing:
    outgoing = shard.form_batch(node, rows=rows)
    assert outgoing is not None
    shard.on_ack(node, outgoing.marker.seq)
    return outgoing


def show(shard: Shard, sent: Outgoing, at: int) -> None:
    shard.on_echo(sent.node, sent.marker, Position(order_of(at, 0), ""))


def test_rows_that_every_node_has_shown_are_let_go_of(shard: Shard) -> None:
    kept = write(shard, 10)
    show(shard, send(shard, "b"), 2)
    assert kept(), "c has not got them"
    show(shard, send(shard, "c"), 2)
    assert not shard.keys["t"]
    assert not kept()


def test_rows_of_a_batch_are_let_go_of_though_others_of_it_go_on(shard: Shard) -> None:
    first, second = write(shard, 10), write(shard, 20)
    show(shard, send(shard, "b"), 2)
    show(shard, send(shard, "c", rows=ROWS), 2)
    assert len(shard.keys["t"]) == ROWS
    assert (first(), second()) == (None, second())
    assert second(), "c has not got them"
    show(shard, send(shard, "c"), 3)
    assert not second()
