"""Clocks of the databases that jump, under load: an hour ahead, back, a day ahead, a day behind, right again.

Each server runs with libfaketime, which shows it another time than the machine's.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster.servers.debian import NotFetched, Packages, fetched
from cluster.servers.mysql import MysqlServer
from cluster.servers.postgres import PostgresServer
from tests.chaos.bed import Bed, seed
from tests.chaos.conftest import Servers
from tests.fixtures.ends import SqlEnd
from tests.fixtures.servers import lacking

PACKAGES = Packages("faketime", "libfaketime", "", lambda package: "faketime" in package)
HOUR, DAY = 3600, 86_400
NOW = {"pg": "SELECT extract(epoch FROM clock_timestamp())", "my": "SELECT unix_timestamp(sysdate())"}
Jump = Callable[[str, int], None]


def library(folder: Path) -> Path:
    """A copy of libfaketime that a server's own user may read."""
    try:
        root = fetched(PACKAGES)
    except NotFetched as error:
        lacking(error, f"no libfaketime: {error}")
    found = next(root.glob("usr/lib/*/faketime/libfaketimeMT.so.1"))
    return Path(shutil.copy(found, folder))


@pytest.fixture
def jump(servers: Servers) -> Jump:
    """Sets a server's clock so many seconds ahead."""
    folder = servers.folder.parent
    preload = library(folder)
    for node, server in servers.by_node.items():
        assert isinstance(server, PostgresServer | MysqlServer)
        (folder / f"{node}.time").write_text("+0")
        server.stop()
        server.process.env |= {
            "LD_PRELOAD": str(preload),
            "FAKETIME_TIMESTAMP_FILE": str(folder / f"{node}.time"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        server.start()

    def set_ahead(node: str, seconds: int) -> None:
        made = folder / "next.time"
        made.write_text(f"{seconds:+}")
        made.replace(folder / f"{node}.time")  # at once, since it is read all the time

    return set_ahead


@pytest.fixture
def bed(servers: Servers, jump: Jump) -> Iterator[Bed]:
    with closing(Bed(servers.folder, servers.dsns(), servers.dsns(), seed())) as bed:
        bed.clock = 3 * DAY * 1_000_000
        bed.start()
        bed.moves()
        yield bed


@pytest.mark.parametrize("nodes", [("pg", "my")], ids="-".join, indirect=True)
def test_clocks_that_jump_lose_nothing_and_stop_nothing(bed: Bed, jump: Jump) -> None:
    for seconds in (HOUR, 0, DAY, -DAY, 0):
        for node, end in bed.ends.items():
            jump(node, seconds)
            assert isinstance(end, SqlEnd)
            _, (shown,) = end.execute(NOW[node])
            assert abs(float(shown[0]) - time.time() - seconds) < 60, "the server's clock has jumped"
            bed.moves()
    assert bed.up.starts == 1
    bed.finish()
