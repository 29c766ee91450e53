"""A table that an operator has paused: nothing of it goes anywhere while all others flow, then all of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient

from actors.pipeline import Pipeline
from cluster.cli import main
from cluster.commands.common import engines_of
from cluster.config import load
from cluster.pausing import Pauses, read_pauses
from cluster.running import RunningGroup
from cluster.topology import create_missing_tables, open_catalogs, read_topology
from replication.audit.reader import read
from replication.audit.writer import AuditWriter
from replication.errors import Terminal
from replication.schema import Table
from tests.fixtures.commands import config_text
from tests.fixtures.parts import parts_of

TABLES = "orders: {key: [id]}\n  lines: {key: [id]}"


@dataclass
class Office:
    """Two tables on two nodes, and a pipeline between them that can be restarted."""

    config: Path
    pg: psycopg.Connection[Any]
    mongo: Any
    tables: list[Table]
    pipeline: Pipeline | None = None

    def start(self, *paused: str) -> Pipeline:
        config = load(self.config)
        writer = AuditWriter(config.audit_path, config.group, lambda: time.time_ns() // 1000)
        engines = engines_of(config)
        self.pipeline = Pipeline(config.group, engines, self.tables, writer, paused_tables=paused)
        return self.pipeline

    def stop(self) -> None:
        if self.pipeline is not None:
            self.pipeline.stop()
            self.pipeline = None

    def rows(self, table: str) -> tuple[dict[int, str], dict[int, str]]:
        left = dict(self.pg.execute(f"SELECT id, name FROM {table}").fetchall())
        return left, {d["_id"]: d["name"] for d in self.mongo[table].find()}

    def wait_for(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 180
        while not done():
            assert self.pipeline is not None
            assert self.pipeline.error is None, self.pipeline.error
            assert time.monotonic() < deadline, f"{self.rows('orders')} {self.rows('lines')}"
            time.sleep(0.02)

    def lines_flow(self, number: int) -> None:
        """A row of the other table comes to each node, and one that was written before it has been seen."""
        self.pg.execute("INSERT INTO lines VALUES (%s, 'pg')", [number])
        self.mongo.lines.insert_one({"_id": number + 1, "name": "mongo"})
        both = {number: "pg", number + 1: "mongo"}.items()
        self.wait_for(lambda: all(both <= rows.items() for rows in self.rows("lines")))


@pytest.fixture
def office(postgres_db: str, mongodb_db: str, tmp_path: Path) -> Iterator[Office]:
    path = tmp_path / "sync.yaml"
    path.write_text(config_text({"pg": postgres_db, "mongo": mongodb_db}, TABLES, shards=1))
    config = load(path)
    with psycopg.connect(postgres_db, autocommit=True) as pg, MongoClient(mongodb_db) as client:
        for table in ("orders", "lines"):
            pg.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text)")
        with open_catalogs(config) as catalogs:
            topology = read_topology(config, catalogs)
            create_missing_tables(config, catalogs, topology)
        office = Office(path, pg, client.get_default_database(), list(topology.tables))
        try:
            yield office
        finally:
            office.stop()


def test_a_paused_table_waits_and_catches_up_exactly(office: Office) -> None:
    """Also over restarts. Writes to one row on both sides of the pause are one conflict."""
    pipeline = office.start()
    office.pg.execute("INSERT INTO orders VALUES (1, 'before'), (2, 'before'), (3, 'before')")
    office.wait_for(lambda: len(office.rows("orders")[1]) == 3)
    pipeline.pause(tables=["orders"])
    office.wait_for(lambda: not any(r.shard.unacked[n] for r in pipeline.resolvers for n in ("pg", "mongo")))
    office.pg.execute("UPDATE orders SET name = 'from pg' WHERE id = 1")
    office.pg.execute("DELETE FROM orders WHERE id = 3")
    office.mongo.orders.insert_one({"_id": 4, "name": "from mongo"})
    office.lines_flow(10)
    office.stop()
    pipeline = office.start("orders")
    office.mongo.orders.update_one({"_id": 1}, {"$set": {"name": "from mongo, later"}})
    office.lines_flow(20)
    left, right = office.rows("orders")
    assert left == {1: "from pg", 2: "before"}, "nothing of it came"
    assert right == {1: "from mongo, later", 2: "before", 3: "before", 4: "from mongo"}
    [resolver] = pipeline.resolvers
    status = resolver.status()
    assert status.held_back["pg"] == {"orders": 2}
    # What is decided already need not be sent: of the row that both wrote, mongo has the one that wins.
    assert status.held_back["mongo"]["orders"] in (1, 2)
    with pytest.raises(Terminal, match="table orders is paused"):
        RunningGroup(engines_of(load(office.config)), lambda: parts_of(pipeline)).refuse_if_paused()
    pipeline.pause()
    done = {1: "from mongo, later", 2: "before", 4: "from mongo"}
    office.wait_for(lambda: office.rows("orders") == (done, done))
    office.lines_flow(30)
    office.stop()
    folder = office.config.parent / "audit"
    conflicts = [row for batch in read(folder, "conflicts") for row in batch.to_pylist()]
    assert [(c["table"], c["key_text"], c["winner"]) for c in conflicts] == [("orders", "1", "mongo")]


def test_a_pause_of_a_table_is_kept_and_on_record(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    """While the group does not run, too."""
    office.start()
    office.stop()
    engines = engines_of(load(office.config))

    def run(*words: str) -> tuple[int, str]:
        code = main([*words, "-c", str(office.config), "--log-level", "error"])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = run("pause", "--table", "orders")
    assert (code, said.startswith("table orders: paused since 20")) == (0, True)
    assert "all logs are kept" in said
    assert read_pauses(engines).tables.keys() == {"orders"}
    code, said = run("pause", "--table", "orders", "--json")
    assert json.loads(said)["paused_tables"].keys() == {"orders"}
    assert run("resume", "--table", "orders", "--table", "lines") == (
        0, "table orders: resumed\ntable lines: was not paused\n",
    )  # fmt: skip
    assert read_pauses(engines) == Pauses(2, {}, {})
    assert run("pause", "--table", "lines")[0] == 0
    assert run("resume", "--all") == (0, "table lines: resumed\n")
    assert run("resume", "--all") == (0, "nothing is paused\n")
    code, said = run("pause", "orders")
    assert (code, "name it as a table: --table orders" in said) == (2, True)
    code, said = run("pause", "--table", "order")
    assert (code, "no table called 'order'" in said, "did you mean 'orders'?" in said) == (2, True, True)
    code, said = run("pause")
    assert (code, "name what to pause" in said) == (2, True)
    office.config.write_text(office.config.read_text() + "ordering: transaction\n")
    code, said = run("pause", "--table", "orders")
    assert (code, "one table cannot be paused" in said) == (2, True)
    assert read_pauses(engines).tables == {}, "nothing was stored"
    records = [row for batch in read(office.config.parent / "audit", "operator") for row in batch.to_pylist()]
    assert [(r["kind"], json.loads(r["detail"])["table"]) for r in records] == [
        ("paused", "orders"), ("resumed", "orders"), ("paused", "lines"), ("resumed", "lines"),
    ]  # fmt: skip
