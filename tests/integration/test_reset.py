"""Case 2, lost_slot_halts: a lost log halts the group, and a reset with a copy brings all rows back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient

from actors.pipeline import Pipeline
from cluster.cli import main
from cluster.commands.common import engines_of
from cluster.config import load
from cluster.reset import requested_copies, with_copies
from cluster.topology import create_missing_tables, open_catalogs, read_topology
from replication.audit.reader import entries
from replication.audit.writer import AuditWriter
from replication.errors import LogLost

SLOT = "sync_worker_shop"
CONFIG = """\
group: shop
nodes:
  pg: {{engine: postgres, dsn: "{pg}", priority: 30}}
  mongo: {{engine: mongodb, dsn: "{mongo}", priority: 10}}
tables:
  orders: {{key: [id]}}
create_tables: true
shards: 1
audit: {{path: audit}}
"""


class Shop:
    """A group that can be stopped and started, and its two ends."""

    def __init__(self, config: Path, sql: psycopg.Connection[Any], docs: Any) -> None:
        self.file = config
        self.config = load(config)
        self.sql, self.docs = sql, docs
        with open_catalogs(self.config) as catalogs:
            topology = read_topology(self.config, catalogs)
            create_missing_tables(self.config, catalogs, topology)
        self.tables = topology.tables
        self.pipeline: Pipeline | None = None

    def start(self) -> Pipeline:
        writer = AuditWriter(self.config.audit_path, "shop", lambda: time.time_ns() // 1000)
        tables = with_copies(self.tables, requested_copies(self.config))
        try:
            self.pipeline = Pipeline("shop", engines_of(self.config), tables, writer)
        except BaseException:
            writer.close()
            raise
        return self.pipeline

    def stop(self) -> None:
        if self.pipeline is not None:
            self.pipeline.stop()
            self.pipeline = None

    def rows(self) -> tuple[dict[int, Any], dict[int, Any]]:
        left = {r[0]: r[1] for r in self.sql.execute("SELECT id, name FROM orders")}
        return left, {d["_id"]: d.get("name") for d in self.docs.find()}

    def wait(self, done: Callable[[dict[int, Any], dict[int, Any]], bool]) -> None:
        assert self.pipeline is not None
        deadline = time.monotonic() + 180
        while not done(*self.rows()):
            assert self.pipeline.error is None, self.pipeline.error
            assert time.monotonic() < deadline, self.rows()
            self.pipeline.stopping.wait(0.05)


@pytest.fixture
def shop(postgres_db: str, mongodb_db: str, tmp_path: Path) -> Iterator[Shop]:
    config = tmp_path / "sync.yaml"
    config.write_text(CONFIG.format(pg=postgres_db, mongo=mongodb_db))
    with ExitStack() as stack:
        sql = stack.enter_context(psycopg.connect(postgres_db, autocommit=True))
        sql.execute("CREATE TABLE orders (id int PRIMARY KEY, name text)")
        docs = stack.enter_context(MongoClient(mongodb_db)).get_default_database()["orders"]
        made = Shop(config, sql, docs)
        stack.callback(made.stop)
        made.start()
        sql.execute("INSERT INTO orders SELECT i, 'old' FROM generate_series(1, 50) i")
        docs.insert_one({"_id": 100, "name": "old"})
        made.wait(lambda left, right: left == right and len(left) == 51)
        made.stop()
        yield made


def drop_slot(shop: Shop) -> None:
    shop.sql.execute("SELECT pg_drop_replication_slot(%s)", [SLOT])


def make_slot(shop: Shop) -> None:
    drop_slot(shop)
    shop.sql.execute("INSERT INTO orders VALUES (60, 'in the gap')")
    shop.sql.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])


@pytest.mark.parametrize("lose", [drop_slot, make_slot], ids=["dropped", "made anew by hand"])
def test_lost_slot_halts(
    shop: Shop, lose: Callable[[Shop], None], capsys: pytest.CaptureFixture[str]
) -> None:
    lose(shop)
    shop.sql.execute("INSERT INTO orders VALUES (70, 'in the gap')")
    shop.sql.execute("UPDATE orders SET name = 'in the gap' WHERE id = 7")
    shop.docs.update_one({"_id": 8}, {"$set": {"name": "meanwhile"}})

    def error() -> BaseException:
        pipeline = shop.start()
        assert pipeline.stopping.wait(180)
        assert pipeline.error is not None
        return pipeline.error

    try:
        found = error()
    except LogLost as lost:
        found = lost
    shop.stop()
    assert isinstance(found, LogLost), found
    assert "sync-worker reset" in found.hint
    assert shop.rows()[1][7] == "old", "nothing is skipped in silence"

    assert main(["reset", "pg", "-c", str(shop.file)]) == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert main(["reset", "pg", "-c", str(shop.file), "--yes", "--json"]) == 0
    gap = json.loads(capsys.readouterr().out)
    assert int(gap["after"], 16) < int(gap["until"], 16)
    shop.start()
    shop.sql.execute("INSERT INTO orders VALUES (80, 'after')")
    shop.wait(lambda left, right: left == right and right.get(80) == "after" and right[7] == "in the gap")
    assert shop.rows()[0][8] == "meanwhile", "the other log kept its place"
    shop.stop()
    [record] = [e for e in entries(shop.config.audit_path, "operator") if e["kind"] == "log_gap"]
    assert json.loads(record["detail"])["node"] == "pg"


def test_a_reset_copies_from_the_node_that_is_named(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a restore of an old backup: what the node holds is replaced."""
    assert main(["reset", "nobody", "-c", str(shop.file), "--yes"]) == 2
    shop.docs.update_one({"_id": 7}, {"$set": {"name": "in the gap"}})
    shop.docs.delete_one({"_id": 8})
    assert main(["reset", "mongo", "--from", "pg", "-c", str(shop.file), "--yes"]) == 0
    assert "copies 1 tables from pg" in capsys.readouterr().out
    shop.start()
    shop.docs.insert_one({"_id": 200, "name": "after"})
    shop.wait(lambda left, right: left == right and left.get(200) == "after" and right.get(7) == "old")
    assert shop.rows()[1][8] == "old"
