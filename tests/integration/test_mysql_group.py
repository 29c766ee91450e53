"""PostgreSQL, MySQL and MongoDB in one group, by the command line."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from bson.decimal128 import Decimal128
from pymongo import MongoClient
from pymysql.connections import Connection

from cluster.cli import main
from replication.engines import load_engine
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import NodeConfig, Table, TableMapping
from replication.types import Kind
from tests.fixtures.commands import config_text, read_until, sync_worker
from tests.fixtures.until import until

PLACED = "SELECT placed FROM orders WHERE id = 1002"
PRICE = "SELECT price FROM orders WHERE id = 1002"


@dataclass
class Ends:
    """An application's connections to the three databases."""

    pg: psycopg.Connection[Any]
    my: Connection
    mongo: Any

    def counts(self) -> tuple[int, int, int]:
        row = self.pg.execute("SELECT count(*) FROM orders").fetchone()
        assert row is not None
        return row[0], self.mysql("SELECT COUNT(*) FROM orders")[0][0], self.mongo.count_documents({})

    def mysql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.my.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return list(cursor.fetchall())

    def names(self, ident: int) -> tuple[Any, Any, Any]:
        row = self.pg.execute("SELECT name FROM orders WHERE id = %s", [ident]).fetchone()
        rows = self.mysql("SELECT name FROM orders WHERE id = %s", ident)
        document = self.mongo.find_one({"_id": ident})
        return row and row[0], rows and rows[0][0], document and document.get("name")


@pytest.fixture
def ends(postgres_db: str, mysql_db: str, mongodb_db: str) -> Iterator[Ends]:
    with (
        psycopg.connect(postgres_db, autocommit=True) as pg,
        closing(connect(parse(NodeConfig("my", "mysql", mysql_db)))) as my,
        MongoClient(mongodb_db) as client,
    ):
        yield Ends(pg, my, client.get_default_database()["orders"])


def run_up(config: Path, work: Callable[[], None]) -> None:
    """Run the group, do some work once it is ready, and end it in order."""
    with subprocess.Popen(sync_worker(config, "up"), stderr=subprocess.PIPE, text=True) as process:
        try:
            read_until(process.stderr, '"group_ready"')
            work()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert process.stderr is not None
        assert process.stderr.read() is not None


def eventually(ends: Ends, condition: Callable[[], bool]) -> None:
    until(condition, ends.counts, pause=0.1)


@pytest.mark.parametrize("first", ["pg", "my"])
def test_three_databases_stay_the_same(
    postgres_db: str,
    mysql_db: str,
    mongodb_db: str,
    ends: Ends,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    first: str,
) -> None:
    config = tmp_path / "sync.yaml"
    dsns = {"pg": postgres_db, "my": mysql_db, "mongo": mongodb_db}
    table = f"orders: {{key: [id], initial: {{from: {first}}}}}"
    config.write_text(config_text(dsns, table, shards=1))
    if first == "pg":
        ends.pg.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, name varchar(40) NOT NULL DEFAULT 'new', price "
            "numeric(12,2), at timestamptz DEFAULT now(), doc jsonb, flag boolean NOT NULL DEFAULT "
            "true, placed timestamp(0))"
        )
        ends.pg.execute(
            "INSERT INTO orders SELECT i, 'n' || i, i / 4.0, '2026-01-02 03:04:05.123456Z', '{\"a\": [1]}'"
            " FROM generate_series(1, 500) i"
        )
    else:
        ends.mysql(
            "CREATE TABLE orders (id int PRIMARY KEY, name varchar(40) NOT NULL DEFAULT 'new', price "
            "decimal(12,2), at timestamp(6) NULL DEFAULT CURRENT_TIMESTAMP(6), doc json, flag boolean "
            "NOT NULL DEFAULT 1, placed datetime)"
        )
        values = ", ".join(
            f"({i}, 'n{i}', {i / 4}, '2026-01-02 03:04:05.123456', '{{\"a\": [1]}}', 1, NULL)"
            for i in range(1, 501)
        )
        ends.mysql(f"INSERT INTO orders VALUES {values}")

    def work() -> None:
        eventually(ends, lambda: ends.counts() == (500, 500, 500))
        ends.pg.execute("INSERT INTO orders (id, name) VALUES (1001, 'from pg')")
        ends.mysql("INSERT INTO orders (id, name) VALUES (1002, 'from my')")
        ends.mongo.insert_one({"_id": 1003, "name": "from mongo", "flag": False})
        eventually(ends, lambda: ends.counts() == (503, 503, 503))
        ends.mysql("UPDATE orders SET name = 'by my' WHERE id <= 100")
        ends.pg.execute("DELETE FROM orders WHERE id BETWEEN 101 AND 200")
        ends.mongo.update_many({"_id": {"$gt": 1000}}, {"$set": {"name": "by mongo"}})
        eventually(ends, lambda: ends.counts() == (403, 403, 403))
        eventually(ends, lambda: {ends.names(i) for i in (1, 100)} == {("by my",) * 3})
        eventually(ends, lambda: {ends.names(i) for i in (1001, 1002, 1003)} == {("by mongo",) * 3})
        if first == "my":  # its datetime keeps seconds; PostgreSQL's timestamp, made for it, microseconds
            ends.pg.execute("UPDATE orders SET placed = '2026-01-02 03:04:05.987654' WHERE id = 1002")
            eventually(ends, lambda: str(ends.mysql(PLACED)[0][0]) == "2026-01-02 03:04:05")
            ends.mysql("UPDATE orders SET price = 9 WHERE id = 1002")
            eventually(
                ends, lambda: (ends.mongo.find_one({"_id": 1002}) or {})["price"] == Decimal128("9.00")
            )
            ends.mysql("UPDATE orders SET price = 10 WHERE id = 1002")
            eventually(ends, lambda: ends.pg.execute(PRICE).fetchone() == (10,))
            row = ends.pg.execute(PLACED).fetchone()
            assert row is not None
            assert str(row[0]) == "2026-01-02 03:04:05.987654"
        ends.my.begin()
        for i in range(2000, 2300):
            ends.mysql("INSERT INTO orders (id) VALUES (%s)", i)
        ends.my.commit()
        ends.mysql("UPDATE orders SET id = id + 1000 WHERE id >= 2200")
        eventually(ends, lambda: ends.counts() == (703, 703, 703) and ends.names(3299) == ("new",) * 3)

    run_up(config, work)
    for command in ("verify", "check"):
        code = main([command, "-c", str(config), "--json", "--log-level", "error"])
        told = capsys.readouterr().out
        assert code == 0, told
        assert json.loads(told)


DECLARED = {
    "postgres": (
        "CREATE TABLE t (id bigint, word text, n numeric(12,2) NOT NULL DEFAULT 1.5, flag boolean "
        "NOT NULL DEFAULT true, at timestamptz DEFAULT now(), day date DEFAULT CURRENT_DATE, doc "
        "jsonb DEFAULT '{}', ident uuid, raw bytea, small smallint DEFAULT 7, txt varchar(30) NOT "
        "NULL DEFAULT 'it''s', span interval, ints int[], PRIMARY KEY (id, word))"
    ),
    "mysql": (
        "CREATE TABLE t (id bigint, word varchar(50) COLLATE utf8mb4_0900_bin, n decimal(12,2) NOT "
        "NULL DEFAULT 1.5, flag boolean NOT NULL DEFAULT 1, at timestamp(6) NULL DEFAULT "
        "CURRENT_TIMESTAMP(6), day date DEFAULT (CURRENT_DATE), doc json DEFAULT (json_object()), "
        "raw blob, small smallint DEFAULT 7, big bigint unsigned, mood enum('a','b') DEFAULT 'b', "
        "bits bit(5), txt varchar(30) NOT NULL DEFAULT 'it''s', y year, PRIMARY KEY (id, word))"
    ),
}
DEFAULTED = {"n", "flag", "at", "day", "small", "txt"}


@pytest.mark.parametrize(("source", "target"), [("postgres", "mysql"), ("mysql", "postgres")])
def test_tables_are_created_in_either_direction(
    postgres_db: str, mysql_db: str, ends: Ends, source: str, target: str
) -> None:
    """With native types, key, not-null and defaults; what is created takes part without complaint."""
    dsn = {"postgres": postgres_db, "mysql": mysql_db}
    mapping = TableMapping("t", ("id", "word"), {"postgres": "t", "mysql": "t"})
    if source == "postgres":
        ends.pg.execute(DECLARED[source].encode())
    else:
        ends.mysql(DECLARED[source])
    engines = {name: load_engine(NodeConfig(name, name, dsn[name]), "shop") for name in dsn}
    with closing(engines[source].catalog()) as here, closing(engines[target].catalog()) as there:
        schema = here.read_schema(mapping)
        assert schema is not None
        table = Table(mapping, schema)
        there.create_table(table, source)
        there.create_table(table, source)
        assert [f for f in there.preflight([table]) if f.level == "error"] == []
        made = there.read_schema(mapping)
    assert made is not None
    assert [(c.name, c.nullable) for c in made.columns] == [(c.name, c.nullable) for c in schema.columns]
    alike = {Kind.UUID: Kind.TEXT, Kind.LIST: Kind.JSON, Kind.OPAQUE: Kind.TEXT}
    for column, other in zip(schema.columns, made.columns, strict=True):
        assert other.type.kind in (column.type.kind, alike.get(column.type.kind)), column.name
    assert {c.name for c in made.columns if c.default is not None} >= DEFAULTED
    insert = "INSERT INTO t (id, word) VALUES (1, 'x')"
    read = "SELECT n, flag, small, txt, at IS NOT NULL, day IS NOT NULL FROM t"
    if target == "postgres":
        ends.pg.execute(insert)
        assert ends.pg.execute(read).fetchone() == (1.5, True, 7, "it's", True, True)
    else:
        ends.mysql(insert)
        assert ends.mysql(read) == [(1.5, 1, 7, "it's", 1, 1)]
