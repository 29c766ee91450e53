"""Case 22, database_restarts: databases stopped and started under load, connections cut and stalled.

Writers reach the databases directly; the group goes through proxies. STALL says for how many seconds a
connection stands still (1 by default).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.chaos.bed import Bed, seed
from tests.chaos.conftest import SHAPES, Servers
from tests.fixtures.ends import through
from tests.fixtures.proxy import FaultProxy

STALL = float(os.environ.get("STALL", "1"))


@pytest.fixture
def proxies(servers: Servers) -> Iterator[dict[str, FaultProxy]]:
    with ExitStack() as stack:
        yield {
            node: stack.enter_context(FaultProxy("127.0.0.1", server.port))
            for node, server in servers.by_node.items()
        }


@pytest.fixture
def bed(servers: Servers, proxies: dict[str, FaultProxy]) -> Iterator[Bed]:
    dsns = {n: through(dsn, proxies[n].port) for n, dsn in servers.dsns().items()}
    with closing(Bed(servers.folder, dsns, servers.dsns(), seed())) as bed:
        bed.start()
        bed.moves()
        yield bed


@pytest.mark.parametrize("nodes", SHAPES[-1:], ids="-".join, indirect=True)
def test_database_restarts(bed: Bed, servers: Servers, proxies: dict[str, FaultProxy]) -> None:
    for server in servers.by_node.values():
        server.restart()
        bed.moves()
    for proxy in proxies.values():
        proxy.cut()
        bed.moves()
        proxy.refuse()
        proxy.cut()
        bed.passes(STALL)
        proxy.accept()
        bed.moves()
        proxy.pause()
        bed.passes(STALL)
        proxy.resume()
        bed.moves()
    assert bed.up.starts == 1
    bed.finish()
