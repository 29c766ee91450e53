"""Case 29, slow_node_does_not_stop_others: one of three nodes is down, and catches up.

AWAY says how many rows are written meanwhile at another node (4,000 by default), four times what may usually
be on its way; with it, every node has its turn.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.chaos.bed import Bed, seed
from tests.chaos.conftest import THREE, Servers
from tests.fixtures.ends import SqlEnd

AWAY = int(os.environ.get("AWAY", "4000"))
TURNS = THREE if "AWAY" in os.environ else ("mongo",)
FIRST = 200_000


@pytest.fixture
def bed(servers: Servers) -> Iterator[Bed]:
    limits = f"batch_rows: {AWAY // 8}, max_unacked_rows: {AWAY // 4}"
    with closing(Bed(servers.folder, servers.dsns(), servers.dsns(), seed(), limits)) as bed:
        bed.start()
        bed.moves()
        yield bed


def not_closed(bed: Bed) -> set[str]:
    """The nodes whose circuit breaker is open, or half-open."""
    nodes = bed.up.status()["nodes"]
    assert {n["node"] for n in nodes} == set(THREE)
    return {n["node"] for n in nodes if n["breaker"] != "closed"}


@pytest.mark.parametrize("nodes", [THREE], ids="-".join, indirect=True)
@pytest.mark.parametrize("away", TURNS)
def test_slow_node_does_not_stop_others(bed: Bed, servers: Servers, away: str) -> None:
    others = [n for n in THREE if n != away]
    end = bed.ends[next(n for n in others if n != "mongo")]
    assert isinstance(end, SqlEnd)
    servers.by_node[away].stop()
    for start in range(FIRST, FIRST + AWAY, AWAY // 8):
        end.fill(start, start + AWAY // 8 - 1)
        bed.moves(others)
    assert bed.up.status()["shards"][0]["lags"] == [away]
    bed.wait(lambda: not_closed(bed) == {away}, "open")
    servers.by_node[away].start()
    bed.moves()
    bed.wait(lambda: not bed.up.status()["shards"][0]["lags"], "caught up")
    bed.wait(lambda: not not_closed(bed), "closed")
    assert bed.up.starts == 1
    lines = bed.up.log.read_text().splitlines()
    said = [line for line in lines if '"node_breaker"' in line and f'"node": "{away}"' in line]
    assert '"before": "closed"' in said[0]
    assert '"breaker": "closed"' in said[-1]
    bed.finish()
