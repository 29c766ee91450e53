"""Case 21, killed_anywhere: `kill -9` of any of our processes; nothing lost, nothing twice, equal.

KILLS says how often (8 by default, each kind once), SEED in which order.
"""

from __future__ import annotations

import os
import random

from tests.chaos.bed import PARTS, Bed, seed
from tests.chaos.conftest import Servers


def test_killed_anywhere(servers: Servers) -> None:
    start = seed()
    order = random.Random(start)
    bed = Bed(servers.folder, servers.dsns(), servers.dsns(), start)
    kinds: list[str] = []
    try:
        bed.start()
        for _ in range(int(os.environ.get("KILLS", "8"))):
            kinds = kinds or order.sample([*PARTS, "up"], len(PARTS) + 1)
            waited = bed.moves()
            part = kinds.pop()
            print(f"after {waited:.1f} s it moves; kill {part}")
            bed.wait(lambda part=part: bed.up.kill(part), f"a process of {part}")
            if part == "up":
                bed.up.start()
        bed.finish()
    finally:
        bed.close()
