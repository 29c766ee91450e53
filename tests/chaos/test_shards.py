"""Another number of shards at a restart of `up`, which is killed meanwhile; applications go on writing."""

from __future__ import annotations

import random

from tests.chaos.bed import Bed, seed
from tests.chaos.conftest import Servers
from tests.fixtures.commands import ask


def test_up_is_killed_while_it_changes_the_number_of_shards(servers: Servers) -> None:
    start = seed()
    bed = Bed(servers.folder, servers.dsns(), servers.dsns(), start)
    try:
        bed.start()
        bed.moves()
        bed.scale(bed.shards + 1, random.Random(start))
        bed.finish()
        code, shown = ask(bed.up.config, "verify")
        assert code == 0, shown
    finally:
        bed.close()
