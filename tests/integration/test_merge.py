"""`initial: merge`: nodes that held different rows before the group began."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from actors.host import CopyHost
from replication.copying import CopyProgress, state_name
from replication.engines import load_engine
from replication.schema import Table
from tests.fixtures.shop import GROUP, Group


@pytest.mark.parametrize("winner", ["pg", "mongo"])
def test_nodes_that_differ_become_one(
    postgres_db: str,
    mongodb_db: str,
    tmp_path: Path,
    winner: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that one node has go to the other; of rows that both have, the better node's win, however late."""
    group = Group(postgres_db, mongodb_db, tmp_path / "audit")
    other = {"pg": "mongo", "mongo": "pg"}[winner]
    for node, priority in ((winner, 50), (other, 1)):
        named = replace(group.engines[node].node, priority=priority)
        group.engines[node] = load_engine(named, GROUP)
    group.tables = [replace(t, mapping=replace(t.mapping, initial="merge")) for t in group.tables]
    group.sql.execute("INSERT INTO orders SELECT i, 'pg', i, NULL FROM generate_series(1, 300) i")
    group.docs.insert_many({"_id": i, "name": "mongo", "qty": i} for i in range(201, 501))
    winner_comes_late(monkeypatch, group, winner, other)
    group.start()
    try:
        left, _ = group.wait(lambda left, right: left == right and len(left) == 500)
        assert {left[i][0] for i in range(1, 201)} == {"pg"}
        assert {left[i][0] for i in range(301, 501)} == {"mongo"}
        assert {left[i][0] for i in range(201, 301)} == {winner}
        group.sql.execute("UPDATE orders SET qty = 7000 WHERE id = 250")
        group.docs.update_one({"_id": 251}, {"$set": {"qty": 7001}})
        group.wait(lambda left, right: left == right and left[250][1] == 7000 and left[251][1] == 7001)
    finally:
        group.close()


def winner_comes_late(monkeypatch: pytest.MonkeyPatch, group: Group, winner: str, other: str) -> None:
    """Give the other node's copy the time to go first, if it would."""
    copy = CopyHost._copy

    def copy_late(self: CopyHost, table: Table) -> None:
        if self.guard().node == winner:
            deadline = time.monotonic() + 3.0
            while time.monotonic() < deadline and not finished(group, other):
                self._wait(0.05)
        copy(self, table)

    monkeypatch.setattr(CopyHost, "_copy", copy_late)


def finished(group: Group, node: str) -> bool:
    with closing(group.engines[node].control()) as control:
        return CopyProgress.load(control.get_state(state_name("orders"))).finished
