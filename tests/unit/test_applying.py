"""The applier's shell: what it does between two tries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import pytest

from actors import applier as shell
from actors.applier import Applying
from replication.batch import Applied, ApplyBatch, Outcome
from replication.engine import Applier
from replication.errors import Contention, NodeUnavailable, SyncError
from replication.marker import Marker
from replication.schema import NodeConfig, Table

BATCH = ApplyBatch("a", Marker("g", 0, 1, 1, 1), [])


class Refusing:
    """An applier that raises what it is told to, then commits."""

    def __init__(self, errors: list[SyncError]) -> None:
        self.errors = errors

    def apply(self, batch: ApplyBatch) -> Applied:
        if self.errors:
            raise self.errors.pop()
        return Applied(Outcome.COMMITTED)

    def close(self) -> None:
        pass


class Counting:
    """An engine that counts how often an applier connects."""

    def __init__(self, errors: list[SyncError]) -> None:
        self.node = NodeConfig("a", "memory", "memory://applying")
        self.errors = errors
        self.connected = 0

    def applying(self) -> Applying:
        return Applying(self, {"a": self}, [])  # type: ignore[arg-type, dict-item]

    def applier(self, tables: Sequence[Table], sources: Sequence[str]) -> Applier:
        self.connected += 1
        return Refusing(self.errors)


@pytest.mark.parametrize(("conflicts", "connected"), [(3, 1), (shell.AFRESH_TRIES, 2)])
def test_a_write_conflict_is_tried_again_on_the_same_connection(conflicts: int, connected: int) -> None:
    engine = Counting([Contention("write conflict", node="a") for _ in range(conflicts)])
    with closing(engine.applying()) as applying:
        assert applying.apply(BATCH).conflicts == conflicts
        assert applying.apply(BATCH).conflicts == 0
    assert engine.connected == connected


def test_a_node_that_is_away_does_not_keep_an_applier_from_closing() -> None:
    engine = Counting([NodeUnavailable("gone", node="a") for _ in range(1_000)])
    with closing(engine.applying()) as applying:
        answer = applying.submit(BATCH)
        applying.give_up()
        with pytest.raises(NodeUnavailable):
            answer.result(60)
        assert applying.guard().failures >= 1


def test_a_node_that_was_away_is_connected_to_anew() -> None:
    engine = Counting([NodeUnavailable("gone", node="a")])
    with closing(engine.applying()) as applying:
        assert applying.apply(BATCH).conflicts == 0
    assert engine.connected == 2
