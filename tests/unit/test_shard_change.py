"""What was not finished goes on under another number of shards: copies, rows on hold, and keys on hold."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.draining import DrainingPipeline
from actors.pipeline import Limits, Pipeline
from actors.shards import Aside
from cluster.config import load
from cluster.plan import GroupPlan
from cluster.reset import reset
from cluster.reshard import TRIES, with_shards
from cluster.waiting import GaveUp, Waiting
from replication.audit import reader
from replication.audit.holds import open_holds
from replication.audit.writer import AuditWriter
from replication.conflict.shard import Shard
from replication.copying import CopyProgress, state_name
from replication.engines.memory import MemoryEngine, drop_database, open_database
from replication.errors import LogLost
from replication.key import encode_key
from replication.marker import Marker
from replication.schema import NodeConfig, Table, TableMapping, TableSchema
from replication.types import Kind
from tests.fixtures.postgres_node import wait_for
from tests.fixtures.tables import column
from tests.fixtures.until import until

COLUMNS = (column("id", Kind.INT64, "bigint", nullable=False), column("qty", Kind.INT64, "bigint"))
SCHEMA = TableSchema("t", COLUMNS, ("id",))
TABLE = Table(TableMapping("t", ("id",), {"a": "t", "b": "t"}), SCHEMA)
REFUSED = 13
CONFIG = """\
group: g
nodes:
  a: {engine: memory, dsn: "memory://change-a", priority: 2}
  b: {engine: memory, dsn: "memory://change-b", priority: 1}
tables:
  t: {key: [id]}
shards: 3
audit: {path: audit}
"""
NODES = tuple(NodeConfig(n, "memory", f"memory://change-{n}") for n in "ab")


class Group:
    """Two databases, and a group that is begun anew with as many shards as it has."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shards, self.table = folder, 2, TABLE
        self.limits = Limits(retry_max=0.1)
        self.engines = {n.name: MemoryEngine(n, "g") for n in NODES}
        self.a, self.b = (open_database(f"change-{n}") for n in "ab")
        for database in (self.a, self.b):
            database.create_table(SCHEMA)

    @contextmanager
    def running(self) -> Iterator[Pipeline]:
        aside = Aside.of(self.folder, None)
        writer = AuditWriter(self.folder, "g", lambda: time.time_ns() // 1000, shards=self.shards)
        pipeline = Pipeline("g", self.engines, [self.table], writer, self.shards, self.limits, aside)
        try:
            yield pipeline
        finally:
            pipeline.stop()

    def change(self, shards: int, stopping: threading.Event | None = None) -> int:
        plan = GroupPlan("g", NODES, (self.table,), shards, self.folder, self.limits)
        with closing(Waiting(self.folder, "g", stopping or threading.Event(), 0.2)) as waiting:
            self.shards = waiting.until("start", lambda: with_shards(plan, waiting)).shards
        return self.shards


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path / "audit")
    try:
        yield made
    finally:
        for n in "ab":
            drop_database(f"change-{n}")


def insert(database: Any, *rows: tuple[int, int]) -> None:
    with database.transaction() as tx:
        for ident, qty in rows:
            tx.insert("t", {"id": ident, "qty": qty})


def waiting(pipeline: Pipeline) -> int:
    """How many rows are on their way to `b`."""
    return sum(r.status().backlog["b"] for r in pipeline.resolvers)


def test_a_row_on_hold_stays_there_until_it_is_written_again(group: Group) -> None:
    group.b.faults.refuse = lambda table, row: "unlucky" if row["qty"] == REFUSED else None
    with group.running():
        insert(group.a, (1, 1), (2, REFUSED), (3, 3))
        wait_for(lambda: len(group.b.rows("t")) == 2)
        wait_for(lambda: [h["reason"] for h in open_holds(group.folder)] == ["unlucky"])
    assert group.change(5) == 5
    with group.running():
        with group.a.transaction() as tx:
            tx.update("t", (2,), {"qty": 2})
        wait_for(lambda: len(group.b.rows("t")) == 3)
    assert open_holds(group.folder) == []


def test_a_key_on_hold_awaits_its_decision(group: Group) -> None:
    group.table = replace(TABLE, mapping=replace(TABLE.mapping, conflict=("manual",)))
    with group.running():
        pass  # what is written from now on is in the logs
    insert(group.a, (1, 10))
    insert(group.b, (1, 20))
    with group.running() as running:
        wait_for(lambda: sum(r.status().undecided for r in running.resolvers) == 1)
    for shards in (3, 1):
        assert group.change(shards) == shards
        with group.running() as running:
            assert sum(r.status().undecided for r in running.resolvers) == 1
            insert(group.a, (1 + shards, 0))
            wait_for(lambda: len(group.b.rows("t")) == len(group.a.rows("t")))
    assert [row["qty"] for d in (group.a, group.b) for row in d.rows("t") if row["id"] == 1] == [10, 20]
    assert sum(b.num_rows for b in reader.read(group.folder, "conflicts")) == 1


def test_a_copy_goes_on(group: Group) -> None:
    group.table = replace(TABLE, mapping=replace(TABLE.mapping, initial="a"))
    insert(group.a, *((i, i) for i in range(1, 500)))
    group.b.faults.pause()
    with group.running() as running:
        wait_for(lambda: waiting(running) > 0)
        for copy in running.copies:
            copy.stop()
        group.b.faults.resume()
    stored = group.engines["a"].control().get_state(state_name("t"))
    assert not CopyProgress.load(stored).finished
    assert group.change(3) == 3
    with group.running() as running:
        wait_for(lambda: len(group.b.rows("t")) == 499 and all(c.finished for c in running.copies))
    assert group.b.rows("t") == group.a.rows("t")


def test_a_node_that_is_away_is_waited_for_by_its_name(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    with group.running():
        insert(group.a, (1, 1))
        wait_for(lambda: len(group.b.rows("t")) == 1)
    insert(group.a, (2, 2))  # so that there is something to send
    group.b.faults.fail_applies(1_000_000)
    stopping = threading.Event()

    def change() -> None:
        with pytest.raises(GaveUp):
            group.change(3, stopping)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        until(lambda: [r for r in caplog.records if r.message == "waits_for_node" and r.node == "b"])
    finally:
        stopping.set()
        thread.join()
    group.b.faults.fail_applies(0)
    assert group.change(3) == 3
    with group.running():
        wait_for(lambda: len(group.b.rows("t")) == 2)


def test_rows_that_are_always_written_at_two_nodes_keep_the_number(
    group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    begin, keys = DrainingPipeline.begin_drain, itertools.count(1)

    def begin_in_the_worst_moment(pipeline: DrainingPipeline, most: int | None) -> bool:
        """A row is on its way to `b`, and before it is there an application writes it there, too."""
        key = next(keys)
        group.b.faults.pause()
        insert(group.a, (key, 1))
        canonical = encode_key((key,), [Kind.INT64])
        wait_for(lambda: any(r.shard.moves("t", canonical) for r in pipeline.resolvers))
        wait_for(lambda: begin(pipeline))
        insert(group.b, (key, 2))
        group.b.faults.resume()
        return True

    with group.running():
        pass
    with monkeypatch.context() as patch:
        patch.setattr(DrainingPipeline, "begin_drain", begin_in_the_worst_moment)
        assert group.change(3) == 2
    (kept,) = [r for r in caplog.records if r.message == "shards_kept"]
    assert kept.because == "a row of t was written while it was on its way"
    with group.running():
        wait_for(lambda: group.a.rows("t") == group.b.rows("t"))
    conflicts = [r for b in reader.read(group.folder, "conflicts") for r in b.to_pylist()]
    assert len({c["key"] for c in conflicts}) == len(conflicts) == next(keys) - 1 == TRIES
    assert group.change(3) == 3


def test_the_shards_stop_when_nothing_is_on_its_way_if_such_a_moment_comes(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row that is on its way could spoil the change."""
    on_the_way, begin = DrainingPipeline.on_the_way.fget, DrainingPipeline.begin_drain
    assert on_the_way is not None
    seen: list[int] = []
    begun: list[int] = []

    def look(pipeline: DrainingPipeline) -> int:
        if not seen:
            group.b.faults.pause()
            try:
                insert(group.a, *((i, 1) for i in range(1, 301)))
                wait_for(lambda: on_the_way(pipeline) == 300)
                seen.append(on_the_way(pipeline))
            finally:
                group.b.faults.resume()
            return seen[0]
        return on_the_way(pipeline)

    def begin_and_look(pipeline: DrainingPipeline, most: int | None) -> bool:
        begins = begin(pipeline, most)
        begun.extend([on_the_way(pipeline)] * begins)
        return begins

    with group.running():
        pass
    monkeypatch.setattr(DrainingPipeline, "on_the_way", property(look))
    monkeypatch.setattr(DrainingPipeline, "begin_drain", begin_and_look)
    assert group.change(3) == 3
    assert seen == [300]
    assert begun == [0]


def test_what_is_on_the_way_is_counted_while_nobody_changes_it(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_way, backlog = DrainingPipeline.on_the_way.fget, Shard.backlog
    assert on_the_way is not None
    held: list[bool] = []

    def look(pipeline: DrainingPipeline) -> int:
        def counted(shard: Shard, node: str) -> int:
            held.extend(r._lock._is_owned() for r in pipeline.draining if r.shard is shard)
            return backlog(shard, node)

        with monkeypatch.context() as patch:
            patch.setattr(Shard, "backlog", counted)
            return on_the_way(pipeline)

    with group.running():
        pass
    monkeypatch.setattr(DrainingPipeline, "on_the_way", property(look))
    assert group.change(3) == 3
    assert held
    assert all(held)


def test_a_node_that_a_backup_set_back_to_another_number_is_reset(group: Group, tmp_path: Path) -> None:
    with group.running():
        insert(group.a, (1, 1))
        wait_for(lambda: len(group.b.rows("t")) == 1)
    control = group.engines["b"].control()
    backup = control.raise_epoch(0, 0, Marker("g", 0, 2, 0, 0))
    assert group.change(3) == 3
    with group.running():
        insert(group.b, (2, 2))
        wait_for(lambda: len(group.a.rows("t")) == 2)
    control.replace_markers(backup)
    with group.b.transaction() as tx:
        tx.delete("t", (2,))
    with pytest.raises(LogLost, match="b was set back: it has markers of 2 shards, and others go on with 3"):
        group.change(3)
    file = tmp_path / "sync.yaml"
    file.write_text(CONFIG)
    reset(load(file), [TABLE], "b", "a")
    group.table = replace(TABLE, mapping=replace(TABLE.mapping, initial="a"))
    with group.running():
        insert(group.b, (3, 3))
        wait_for(lambda: [len(d.rows("t")) for d in (group.a, group.b)] == [3, 3])
