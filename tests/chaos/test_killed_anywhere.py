"""Cases 21 and 23, killed_anywhere and fenced_zombie: nothing lost, nothing twice, equal.

`kill -9` of any of our processes and of Ray's daemons at any moment, or a stop and a late awakening.

KILLS says how often (6 by default, 5 on three nodes), SEED in which order, NODES of which group, SHARDS how
many resolvers it has, STALL how long a process stands still at most. With KILLS, what each fault took is
printed, and among the faults are columns that an application adds on one node, whereupon a process is killed,
and other numbers of shards. FAULTS names the kinds of faults, of `kill`, `freeze`, `alter` and `scale`.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from statistics import median

import pytest

from load.processes import DAEMONS
from tests.chaos.bed import COPIED, SHARDS, Bed, seed
from tests.chaos.conftest import SHAPES, Servers
from tests.fixtures.ends import SqlEnd

STALL = float(os.environ.get("STALL", "2"))
KILLS = os.environ.get("KILLS")
KINDS = os.environ.get("FAULTS", "kill,freeze,alter,scale" if KILLS else "kill,freeze").split(",")


@pytest.mark.parametrize("nodes", SHAPES, ids="-".join, indirect=True)
def test_killed_anywhere(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    start = seed()
    order = random.Random(start)
    policy = "evolve" if "alter" in KINDS else "ignore"
    bed = Bed(servers.folder, servers.dsns(), servers.dsns(), start, schema=policy)
    faults = [("kill", part) for part in (*bed.parts, *DAEMONS, "up")]
    faults += [("freeze", part) for part in (*bed.parts, "up")]
    faults += [("alter", node) for node, end in bed.ends.items() if isinstance(end, SqlEnd)]
    faults += [("scale", "shards")]
    faults = [(verb, place) for verb, place in faults if verb in KINDS]
    left: list[tuple[str, str]] = []
    took: dict[str, list[float]] = defaultdict(list)
    columns = 0
    try:
        bed.start()
        bed.moves()
        for _ in range(int(KILLS or (6 if len(bed.ends) == 2 else 5))):
            left = left or order.sample(faults, len(faults))
            verb, part = left.pop()
            print(f"{verb} {part}")
            if verb == "kill":
                kill(bed, part)
            elif verb == "scale":
                bed.scale(SHARDS + (bed.shards == SHARDS), order)
            elif verb == "alter":
                columns += 1
                alter(bed, part, columns, order.choice(bed.parts))
            else:
                freeze(bed, part, order.uniform(0.2, STALL))
            took[f"{verb} {part}"].append(bed.moves())
        bed.finish()
        assert sum(w.moved for w in bed.writers), "no row got another key"
        check_columns(bed, columns)
    finally:
        bed.close()
    if KILLS:
        with capsys.disabled():
            print(summary(took))


def kill(bed: Bed, part: str) -> None:
    bed.wait(lambda: bed.up.kill(part), f"a process of {part}")
    if part == "up":
        bed.up.start()


def alter(bed: Bed, node: str, number: int, part: str) -> None:
    """Add a column on one node, and kill a process while it is carried to the others."""
    end = bed.ends[node]
    assert isinstance(end, SqlEnd)
    column = f"extra_{number} int DEFAULT {number}"
    bed.wait(lambda: end.execute(f"ALTER TABLE orders ADD COLUMN {column}"), "a column is added")
    print(f"kill {part}")
    kill(bed, part)


def check_columns(bed: Bed, count: int) -> None:
    """Every node that declares columns has those that were added, and rows of before have their values."""
    names = ", ".join(f"extra_{n}" for n in range(1, count + 1))
    for end in bed.ends.values():
        if count and isinstance(end, SqlEnd):
            statement = f"SELECT {names} FROM orders WHERE id = %s"
            assert list(end.execute(statement, COPIED[0])[1]) == [tuple(range(1, count + 1))], end.node


def freeze(bed: Bed, part: str, seconds: float) -> None:
    """Stop a process, and let it go on when others may have taken its place."""
    thaws = []
    bed.wait(lambda: thaws.append(bed.up.freeze(part)) or thaws[-1], f"a process of {part}")
    try:
        bed.passes(seconds)
    finally:
        thaws[-1]()


def summary(took: dict[str, list[float]]) -> str:
    """A table of the faults: how often, and the seconds until new rows came to every node again."""
    lines = [f"\n{'fault':<24} {'times':>5} {'median s':>9} {'longest s':>9}"]
    lines += [f"{f:<24} {len(s):>5} {median(s):>9.1f} {max(s):>9.1f}" for f, s in sorted(took.items())]
    return "\n".join([*lines, f"{'all':<24} {sum(map(len, took.values())):>5}"])
