"""Parts that are lost before the group streams, and a group that starts again while a database is away."""

from __future__ import annotations

from tests.chaos.bed import Bed, seed
from tests.chaos.conftest import Servers


def test_a_resolver_lost_before_the_group_streams(servers: Servers) -> None:
    bed = Bed(servers.folder, servers.dsns(), servers.dsns(), seed())
    try:
        bed.up.start()
        bed.wait(lambda: bed.up.kill("resolver 0"), "a process of resolver 0")
        bed.wait(bed.up.ready, "ready")
        bed.moves()
    finally:
        bed.close()


def test_a_resolver_lost_while_a_database_is_away(servers: Servers) -> None:
    bed = Bed(servers.folder, servers.dsns(), servers.dsns(), seed())
    try:
        bed.start()
        bed.moves()
        servers.by_node["pg"].stop()
        bed.wait(lambda: bed.up.kill("resolver 0"), "a process of resolver 0")
        bed.wait(lambda: bed.up.log.read_text().count('"waits_for_node"') >= 2, "tries again")
        servers.by_node["pg"].start()
        bed.finish()
    finally:
        bed.close()
