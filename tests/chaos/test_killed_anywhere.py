"""Case 21, killed_anywhere: `kill -9` of any of our processes; nothing lost, nothing twice, equal.

KILLS says how often (8 by default, 6 on three nodes), SEED in which order, NODES of which group.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.chaos.bed import Bed, seed
from tests.chaos.conftest import SHAPES, Servers


@pytest.mark.parametrize("nodes", SHAPES, ids="-".join, indirect=True)
def test_killed_anywhere(servers: Servers) -> None:
    start = seed()
    order = random.Random(start)
    bed = Bed(servers.folder, servers.dsns(), servers.dsns(), start)
    kinds: list[str] = []
    all_parts = [*bed.parts, "up"]
    try:
        bed.start()
        for _ in range(int(os.environ.get("KILLS", "8" if len(bed.ends) == 2 else "6"))):
            kinds = kinds or order.sample(all_parts, len(all_parts))
            waited = bed.moves()
            part = kinds.pop()
            print(f"after {waited:.1f} s it moves; kill {part}")
            bed.wait(lambda part=part: bed.up.kill(part), f"a process of {part}")
            if part == "up":
                bed.up.start()
        bed.finish()
    finally:
        bed.close()
