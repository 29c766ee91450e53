"""A node is away: `up` waits for it, and lost processes are replaced while the other nodes go on."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.chaos.bed import Bed, seed
from tests.chaos.conftest import THREE, Servers
from tests.fixtures.commands import ask


def told(bed: Bed) -> str:
    """What `sync-worker status` says."""
    return ask(bed.up.config, "status")[1]


def waits(bed: Bed) -> bool:
    return bed.up.log.read_text().count('"waits_for_node"') >= 2


def test_up_waits_for_a_node_and_begins_when_it_is_there(servers: Servers) -> None:
    """The first time, and after it was killed while a node is away; it ends on SIGTERM as ever."""
    with closing(Bed(servers.folder, servers.dsns(), servers.dsns(), seed())) as bed:
        servers.by_node["mongo"].stop()
        bed.up.start()
        bed.wait(lambda: waits(bed), "waits")
        assert "waits for mongo since" in told(bed)
        servers.by_node["mongo"].start()
        bed.wait(bed.up.ready, "ready")
        bed.moves()
        assert "waits for" not in told(bed)
        servers.by_node["pg"].stop()
        assert bed.up.kill("up")
        bed.up.start()
        bed.wait(lambda: waits(bed), "waits")
        assert "waits for pg since" in told(bed)
        assert bed.up.stop() == 0
        assert "does not run here" in told(bed)


@pytest.mark.parametrize("nodes", [THREE], ids="-".join, indirect=True)
def test_lost_processes_are_replaced_while_a_node_is_away(servers: Servers) -> None:
    others = [n for n in THREE if n != "mongo"]
    with closing(Bed(servers.folder, servers.dsns(), servers.dsns(), seed())) as bed:
        bed.start()
        bed.moves()
        servers.by_node["mongo"].stop()
        for part in ("capture mongo", "applier mongo/0", "capture pg", "applier my/0"):
            bed.wait(lambda part=part: bed.up.kill(part), f"a process of {part}")
            bed.moves(others)
        bed.wait(lambda: bed.up.kill("resolver 0"), "a process of resolver 0")
        bed.wait(lambda: waits(bed), "waits")
        assert "a lost resolver cannot begin again without it" in told(bed)
        servers.by_node["mongo"].start()
        bed.moves()
        assert bed.up.log.read_text().count('"group_ready"') == 1
        bed.finish()
