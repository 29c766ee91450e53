"""A node that an operator has paused: nothing goes to it or comes from it, and then everything does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from actors.pipeline import Pipeline
from replication.audit.writer import AuditWriter
from tests.fixtures.shop import GROUP, Shop

NODES = ("pg", "my", "mongo")
AFTER = 1_000
"""The keys of rows that come to all but the paused node."""


@pytest.fixture
def shop(postgres_db: str, mysql_db: str, mongodb_db: str, tmp_path: Path) -> Iterator[Shop]:
    dsns = {"pg": postgres_db, "my": mysql_db, "mongo": mongodb_db}
    with closing(Shop(dsns, tmp_path / "audit")) as shop:
        yield shop


def start(shop: Shop, *paused: str) -> None:
    writer = AuditWriter(shop.folder, GROUP, lambda: time.time_ns() // 1000)
    shop.pipeline = Pipeline(GROUP, shop.engines, shop.tables, writer, limits=shop.limits, paused=paused)


def flows_past(shop: Shop, paused: str, number: int) -> None:
    """A row of each other node comes to the other one; one of the paused node, written before, does not."""
    others = [n for n in NODES if n != paused]
    shop.ends[paused].put(number, "stays", number)
    for round_ in range(3):
        for place, node in enumerate(others):
            key = AFTER * (place + 1) + 10 * number + round_
            shop.ends[node].put(key, "goes on", key)
            for other in others:
                shop.wait_row(other, key, lambda row: row is not None)
    for node in others:
        assert not {1, 2} & shop.ends[node].rows().keys(), "what is written at a paused node stays there"
    assert not [k for k in shop.ends[paused].rows() if k >= AFTER], "nothing comes to a paused node"


@pytest.mark.parametrize("paused", NODES)
def test_a_paused_node_is_let_be_and_catches_up(shop: Shop, paused: str) -> None:
    """Also over a restart. Writes to one row on both sides are one conflict."""
    shop.start()
    other = next(n for n in NODES if n != paused)
    shop.ends[other].put(500, "before", 0)
    shop.wait_equal(present=500)
    shop.pipeline.pause(paused)
    shop.wait_for(lambda: not any(r.shard.unacked[paused] for r in shop.pipeline.resolvers))
    flows_past(shop, paused, 1)
    shop.pipeline.stop()
    start(shop, paused)
    flows_past(shop, paused, 2)
    shop.ends[other].put(500, "from elsewhere", 1)
    shop.ends[paused].put(500, "from the paused node", 2)
    shop.pipeline.pause()
    rows = shop.wait_equal(present=2)
    assert {1, 2, 500, AFTER + 10, 2 * AFTER + 22} <= rows.keys()
    shop.wait_for(lambda: not any(r.status().lags for r in shop.pipeline.resolvers))
    shop.pipeline.stop()
    assert len(shop.recorded("conflicts")) == 1
