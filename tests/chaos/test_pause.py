"""An operator pauses a node of a running group; the pause outlasts `up`, and is on record."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from typing import Any

import pytest

from tests.chaos.bed import Bed, seed
from tests.chaos.conftest import THREE, Servers

OTHERS = ("pg", "mongo")


def tell(bed: Bed, *words: str, code: int = 0) -> Any:
    """Run a command; what it prints as JSON."""
    command = [sys.executable, "-m", "cluster.cli", *words, "-c", str(bed.up.config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def paused(bed: Bed) -> set[str]:
    return {n["node"] for n in bed.up.status()["nodes"] if n["paused"]}


@pytest.mark.parametrize("nodes", [THREE], ids="-".join, indirect=True)
def test_a_pause_outlasts_restarts_and_is_on_record(servers: Servers) -> None:
    with closing(Bed(servers.folder, servers.dsns(), servers.dsns(), seed())) as bed:
        bed.start()
        bed.moves()
        answer = tell(bed, "pause", "my")
        assert (set(answer["paused"]), answer["on_their_way"]) == ({"my"}, 0)
        held = bed.ends["my"].rows().keys() - {k for w in bed.writers for k in (*w.own, *w.shared)}
        bed.moves(OTHERS)
        assert paused(bed) == {"my"}
        assert bed.up.stop() == 0
        bed.up.start()
        bed.wait(bed.up.ready, "ready")
        bed.moves(OTHERS)
        assert '"node_paused"' in bed.up.log.read_text()
        refused = tell(bed, "backfill", "orders", code=2)
        assert "my is paused since" in refused
        now = bed.ends["my"].rows().keys() - {k for w in bed.writers for k in (*w.own, *w.shared)}
        assert now == held, "nothing came to it"
        assert tell(bed, "resume", "--all")["resumed"] == ["my"]
        bed.moves()
        assert not paused(bed)
        bed.finish()
        assert tell(bed, "pause", "pg")["paused"].keys() == {"pg"}, "also while the group does not run"
        assert tell(bed, "resume", "pg")["resumed"] == ["pg"]
        records = bed.recorded("operator")
        done = [(r["kind"], json.loads(r["detail"])["node"]) for r in records if "node" in r["detail"]]
        assert done == [("paused", "my"), ("resumed", "my"), ("paused", "pg"), ("resumed", "pg")]
