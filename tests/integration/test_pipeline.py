"""PostgreSQL and MongoDB in sync, both ways, through the whole pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from pymongo import MongoClient

from actors.pipeline import Pipeline
from replication.audit.reader import read
from replication.audit.writer import AuditWriter
from replication.engines import load_engine
from replication.schema import NodeConfig, Table, TableMapping

GROUP = "shop"
MAPPING = TableMapping("orders", ("id",), {"pg": "orders", "mongo": "orders"})


class Group:
    """Two databases, and a pipeline between them that can be restarted."""

    def __init__(self, postgres: str, mongodb: str, folder: Path) -> None:
        self.folder = folder
        self.sql = psycopg.connect(postgres, autocommit=True)
        self.sql.execute("CREATE TABLE orders (id int PRIMARY KEY, name text, qty int, doc jsonb)")
        self.client: MongoClient = MongoClient(mongodb)
        self.docs = self.client.get_default_database()["orders"]
        nodes = [NodeConfig("pg", "postgres", postgres, 30), NodeConfig("mongo", "mongodb", mongodb, 10)]
        self.engines = {n.name: load_engine(n, GROUP) for n in nodes}
        catalog = self.engines["pg"].catalog()
        schema = catalog.read_schema(MAPPING)
        catalog.close()
        assert schema is not None
        self.tables = [Table(MAPPING, schema)]
        catalog = self.engines["mongo"].catalog()
        catalog.create_table(self.tables[0], "postgres")
        catalog.close()

    def start(self) -> None:
        writer = AuditWriter(self.folder, GROUP, lambda: time.time_ns() // 1000)
        self.pipeline = Pipeline(GROUP, self.engines, self.tables, writer)

    def rows(self) -> tuple[dict, dict]:
        left = {r[0]: r[1:] for r in self.sql.execute("SELECT id, name, qty, doc FROM orders")}
        right = {d["_id"]: (d.get("name"), d.get("qty"), d.get("doc")) for d in self.docs.find()}
        return left, right

    def wait(self, done: Callable[[dict, dict], bool], seconds: float = 30) -> tuple[dict, dict]:
        """Wait until both sides satisfy `done`; between looks, block on the pipeline's own end."""
        deadline = time.monotonic() + seconds
        while True:
            left, right = self.rows()
            assert self.pipeline.error is None, self.pipeline.error
            if done(left, right):
                return left, right
            assert time.monotonic() < deadline, f"not in time: {left} {right}"
            self.pipeline.stopping.wait(0.02)

    def close(self) -> None:
        self.pipeline.stop()
        self.sql.close()
        self.client.close()


@pytest.fixture
def group(postgres_db: str, mongodb_db: str, tmp_path: Path) -> Iterator[Group]:
    group = Group(postgres_db, mongodb_db, tmp_path / "audit")
    group.start()
    yield group
    group.close()


def test_changes_reach_the_other_side_in_both_directions(group: Group) -> None:
    group.sql.execute("INSERT INTO orders VALUES (1, 'a', 1, '{\"x\": [1, 2]}'), (2, 'b', 2, NULL)")
    group.wait(lambda left, right: left == right and len(right) == 2)
    group.docs.update_one({"_id": 1}, {"$set": {"qty": 5, "note": "stays"}})
    group.docs.insert_one({"_id": 3, "name": "c"})
    group.wait(lambda left, right: left == right and left.get(1, (0, 0))[1] == 5 and 3 in left)
    group.sql.execute("UPDATE orders SET name = 'z' WHERE id = 1")
    group.sql.execute("DELETE FROM orders WHERE id = 2")
    left, right = group.wait(lambda left, right: left == right and 2 not in right and left[1] == right[1])
    assert left[1] == ("z", 5, {"x": [1, 2]})
    assert group.docs.find_one({"_id": 1})["note"] == "stays"
    assert right.keys() == {1, 3}


def test_no_conflict_without_concurrency(group: Group) -> None:
    group.sql.execute("INSERT INTO orders VALUES (1, 'n', 0, NULL)")
    for turn in range(1, 41):
        if turn % 2:
            group.wait(lambda left, right, t=turn: right.get(1, (0, -1))[1] == t - 1)
            group.docs.update_one({"_id": 1}, {"$inc": {"qty": 1}})
        else:
            group.wait(lambda left, right, t=turn: left[1][1] == t - 1)
            group.sql.execute("UPDATE orders SET qty = qty + 1 WHERE id = 1")
    group.wait(lambda left, right: left == right == {1: ("n", 40, None)})
    group.pipeline.stop()
    assert not [r for b in read(group.folder, "conflicts") for r in b.to_pylist()]
    group.start()


def test_simultaneous_writes_converge(group: Group) -> None:
    group.sql.execute("INSERT INTO orders SELECT i, 'n', 0, NULL FROM generate_series(1, 5) i")
    group.wait(lambda left, right: left == right and len(right) == 5)

    def write_documents() -> None:
        for i in range(200):
            group.docs.update_one({"_id": 1 + i % 5}, {"$set": {"qty": 1000 + i}})

    other = threading.Thread(target=write_documents)
    other.start()
    for i in range(200):
        group.sql.execute("UPDATE orders SET qty = %s WHERE id = %s", (i, 1 + i % 5))
    other.join()
    group.sql.execute("INSERT INTO orders VALUES (99, 'end', 0, NULL)")
    group.wait(lambda left, right: left == right and 99 in right)


def test_a_restart_loses_nothing(group: Group) -> None:
    for start in range(1, 5):
        group.sql.execute(
            "INSERT INTO orders SELECT i, 'n', 0, NULL FROM generate_series(%s::int, %s::int) i",
            (start * 100, start * 100 + 50),
        )
        group.docs.insert_many({"_id": start * 1000 + i, "name": "d"} for i in range(20))
        group.pipeline.stop()
        group.sql.execute("UPDATE orders SET qty = 7 WHERE id = %s", (start * 100,))
        group.start()
    group.wait(lambda left, right: left == right and len(left) == 4 * 71)


def test_backfill_under_load(postgres_db: str, mongodb_db: str, tmp_path: Path) -> None:
    """Case 20 in small: the initial copy runs while both sides are written to, and is stopped half-way."""
    group = Group(postgres_db, mongodb_db, tmp_path / "audit")
    group.sql.execute("INSERT INTO orders SELECT i, 'n', 0, NULL FROM generate_series(1, 3000) i")
    group.tables = [replace(t, mapping=replace(t.mapping, initial="pg")) for t in group.tables]
    group.start()
    try:
        for i in range(1, 200):
            group.sql.execute("UPDATE orders SET qty = %s WHERE id = %s", (i, i * 14))
            group.docs.update_one({"_id": i * 13}, {"$set": {"name": "m"}})
            if i == 100:
                group.pipeline.stop()
                group.start()
        group.docs.insert_one({"_id": 99999})
        group.wait(lambda left, right: len(right) == 3001 and left == right, seconds=30)
        assert group.pipeline.error is None
    finally:
        group.close()


BIG = "repeat(md5(random()::text), 4000)"


def toasted(group: Group) -> None:
    """A row whose document is stored out of line, so that an update of another column does not carry it."""
    group.sql.execute("ALTER TABLE orders ALTER doc SET STORAGE EXTERNAL")
    group.sql.execute(f"INSERT INTO orders VALUES (1, 'a', 1, jsonb_build_object('x', {BIG}))")


def test_unchanged_toast_survives(group: Group) -> None:
    toasted(group)
    group.wait(lambda left, right: left == right and len(right) == 1)
    group.sql.execute("UPDATE orders SET qty = 2 WHERE id = 1")
    _, right = group.wait(lambda left, right: left == right and right[1][1] == 2)
    assert len(right[1][2]["x"]) == 128_000


def test_toast_in_one_batch(group: Group) -> None:
    with group.sql.transaction():
        toasted(group)
        group.sql.execute("UPDATE orders SET qty = 2 WHERE id = 1")
    _, right = group.wait(lambda left, right: left == right and len(right) == 1)
    assert len(right[1][2]["x"]) == 128_000


def test_a_partial_update_that_beats_a_delete_brings_the_whole_row_back(group: Group) -> None:
    toasted(group)
    group.wait(lambda left, right: left == right and len(right) == 1)
    group.pipeline.stop()
    group.docs.delete_one({"_id": 1})
    group.sql.execute("UPDATE orders SET qty = 2 WHERE id = 1")
    group.start()
    _, right = group.wait(lambda left, right: left == right and len(right) == 1)
    assert right[1][1] == 2
    assert len(right[1][2]["x"]) == 128_000
