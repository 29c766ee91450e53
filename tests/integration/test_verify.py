"""Case 27, verifier_finds_everything, between PostgreSQL and MongoDB, by the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from bson.binary import Binary
from bson.decimal128 import Decimal128
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database

from cluster.cli import main
from cluster.config import GroupConfig, load
from cluster.node_reader import NodeReader
from cluster.topology import load_tables
from cluster.verify_progress import ProgressFile, Reached
from replication.engines import load_engine
from replication.verify import QuietTime, Verifier

ROWS = 5_000
CONFIG = """\
group: shop
nodes:
  pg: {{engine: postgres, dsn: "{pg}", priority: 30}}
  mongo: {{engine: mongodb, dsn: "{mongo}", priority: 10}}
tables:
  orders: {{key: [id], names: {{pg: public.orders}}}}
  lines: {{key: [order_id, code]}}
"""
START = datetime(2024, 3, 1, 12, tzinfo=UTC)


@dataclass
class Shop:
    """The same rows in both databases."""

    path: Path
    config: GroupConfig
    pg: psycopg.Connection
    mongo: Database[dict[str, Any]]

    @property
    def orders(self) -> Collection[dict[str, Any]]:
        return self.mongo["orders"]

    def verify(self, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
        code = main(["verify", "-c", str(self.path), "--quiet-time", "0", "--log-level", "error", *options])
        return code, capsys.readouterr().out


@pytest.fixture
def shop(postgres_db: str, mongodb_db: str, tmp_path: Path) -> Iterator[Shop]:
    path = tmp_path / "sync.yaml"
    path.write_text(CONFIG.format(pg=postgres_db, mongo=mongodb_db))
    with psycopg.connect(postgres_db, autocommit=True) as pg, MongoClient(mongodb_db) as client:
        shop = Shop(path, load(path), pg, client.get_default_database())
        fill(shop)
        yield shop


def fill(shop: Shop) -> None:
    shop.pg.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, name text, amount numeric(30,2), price float8, "
        "paid boolean, at timestamptz, photo bytea, doc jsonb)"
    )
    shop.pg.execute("CREATE TABLE lines (order_id int, code text, qty int, PRIMARY KEY (order_id, code))")
    with shop.pg.cursor().copy("COPY orders FROM STDIN") as copy:
        for id in range(ROWS):
            copy.write_row(pg_order(id))
    shop.orders.insert_many([mongo_order(id) for id in range(ROWS)])
    codes = ["", "a", "ä", "z", "\U0001f600"]
    with shop.pg.cursor().copy("COPY lines FROM STDIN") as copy:
        for id in range(-3, 3):
            for code in codes:
                copy.write_row((id, code, id * 2))
    shop.mongo["lines"].insert_many(
        [{"_id": {"order_id": id, "code": code}, "qty": id * 2} for id in range(-3, 3) for code in codes]
    )


def pg_order(id: int) -> tuple[Any, ...]:
    doc = json.dumps({"b": [1, id], "a": {"x": "é", "n": id / 2}})
    at = START + timedelta(seconds=id, microseconds=123_456)
    return (id, f"order {id}", f"{id}.50", id * 0.1, id % 2 == 0, at, bytes([id % 256] * 9), doc)


def mongo_order(id: int) -> dict[str, Any]:
    return {
        "unmapped": 1,
        "_id": id,
        "name": f"order {id}",
        "amount": Decimal128(f"{id}.5"),
        "price": id * 0.1,
        "paid": id % 2 == 0,
        "at": START + timedelta(seconds=id, milliseconds=123),
        "photo": Binary(bytes([id % 256] * 9)),
        "doc": {"a": {"n": id / 2, "x": "é"}, "b": [1, id]},
    }


def test_equal_databases(shop, capsys):
    code, out = shop.verify(capsys)
    assert code == 0, out
    assert "all nodes hold the same rows" in out
    code, out = shop.verify(capsys, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["equal"] is True
    assert [(t["table"], t["rows"]) for t in found["tables"]] == [
        ("orders", {"pg": ROWS, "mongo": ROWS}),
        ("lines", {"pg": 30, "mongo": 30}),
    ]


PLANTS = {
    "one bit of a blob": (17, "photo", Binary(bytes([17] * 8 + [16]))),
    "null for a text": (18, "name", None),
    "a type inside a document": (999, "doc", {"a": {"n": 499.5, "x": "é"}, "b": ["1", 999]}),
    "a cent": (1_000, "amount", Decimal128("1000.51")),
    "the next float": (1_001, "price", 100.10000000000001 + 2e-14),
    "a boolean": (0, "paid", False),
    "a millisecond": (ROWS - 1, "at", START + timedelta(seconds=ROWS - 1, milliseconds=124)),
    "white space": (2_500, "name", "order 2500 "),
}


def test_verifier_finds_everything(shop, capsys):
    for id, column, value in PLANTS.values():
        assert shop.orders.update_one({"_id": id}, {"$set": {column: value}}).modified_count == 1
    shop.orders.update_one({"_id": 19}, {"$unset": {"doc": ""}})
    shop.orders.delete_many({"_id": {"$in": [1, 1_002, ROWS - 2]}})
    shop.orders.insert_many([mongo_order(-1), mongo_order(ROWS)])
    shop.pg.execute("DELETE FROM orders WHERE id = 3000")
    shop.pg.execute("DELETE FROM lines WHERE order_id = -3 AND code = ''")
    code, out = shop.verify(capsys, "--json", "--tries", "1")
    assert code == 1
    orders, lines = json.loads(out)["tables"]
    found = {d["key"]["id"]: (d["kind"], d["nodes"]) for d in orders["differences"]}
    different = {id: column for id, column, _ in PLANTS.values()} | {19: "doc"}
    assert {id for id, (kind, _) in found.items() if kind == "missing"} == {1, 1_002, ROWS - 2}
    assert {id for id, (kind, _) in found.items() if kind == "extra"} == {-1, 3_000, ROWS}
    assert {id: list(nodes["pg"]) for id, (kind, nodes) in found.items() if kind == "different"} == {
        id: [column] for id, column in different.items()
    }
    assert found[1_000][1] == {"pg": {"amount": "1000.50"}, "mongo": {"amount": "1000.51"}}
    assert (orders["missing"], orders["extra"], orders["different"]) == (3, 3, len(different))
    assert [d["key"] for d in lines["differences"]] == [{"order_id": -3, "code": ""}]


def test_differences_are_readable(shop, capsys):
    shop.orders.update_one({"_id": 7}, {"$set": {"name": "x" * 200 + "y"}})
    shop.pg.execute("UPDATE orders SET name = repeat('x', 201) WHERE id = 7")
    shop.orders.delete_one({"_id": 8})
    shop.orders.delete_one({"_id": 9})
    code, out = shop.verify(capsys, "--table", "orders", "--limit", "2")
    assert code == 1
    lines = out.splitlines()
    assert lines[0].startswith("orders id=7: name: pg …xxxx")
    assert "xy'" in lines[0]
    assert lines[1] == "orders id=8: missing in mongo"
    assert "orders: 1 more differences" in lines[2]
    assert "3 rows differ" in lines[-1]


def test_rows_on_their_way_are_read_again(shop):
    shop.pg.execute("UPDATE orders SET name = 'new' WHERE id = 5")
    shop.pg.execute("INSERT INTO orders (id) VALUES (7777)")
    shop.orders.delete_one({"_id": 4})

    def arrive(attempt: int) -> None:
        shop.orders.update_one({"_id": 5}, {"$set": {"name": "new"}})
        shop.orders.insert_one({"_id": 7777})

    readers = [NodeReader(load_engine(node, "shop")) for node in shop.config.by_priority()]
    try:
        table = load_tables(shop.config)[0]
        found = list(Verifier(readers, QuietTime(arrive, 1)).compare(table))
    finally:
        for reader in readers:
            reader.close()
    assert [d.values for d in found] == [{"pg": (), "mongo": None}]


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (CONFIG, ["--table", "nothing"], "no table called 'nothing'"),
        (CONFIG.replace("public.orders", "public.absent"), [], "absent"),
        (CONFIG.replace("{pg}", "postgresql://nobody@127.0.0.1:1/none"), [], "pg"),
    ],
)
def test_what_cannot_be_found_out_exits_with_2(shop, capsys, config, options, message):
    pg, mongo = shop.config.node("pg").dsn, shop.config.node("mongo").dsn
    shop.path.write_text(config.format(pg=pg, mongo=mongo))
    assert main(["verify", "-c", str(shop.path), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_document_that_is_no_row_is_named(shop, capsys):
    shop.orders.update_one({"_id": 4_321}, {"$set": {"paid": "yes"}})
    shop.orders.insert_one({"_id": "no key"})
    code, out = shop.verify(capsys)
    assert code == 1
    assert out.splitlines()[:2] == [
        "orders id=4321: cannot be read in mongo: paid: 'yes' is no boolean",
        "orders id=?: cannot be read in mongo: id: 'no key' is no int64",
    ]
    code, out = shop.verify(capsys, "--json")
    assert json.loads(out)["tables"][0]["unreadable"] == 2


@pytest.fixture
def interrupted(shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    """A verify of some differences, ended by Ctrl-C after the first rows."""
    shop.orders.update_many({"_id": {"$in": [5, 6, 4_500]}}, {"$set": {"name": "wrong"}})
    shop.mongo["lines"].delete_one({"_id": {"order_id": 2, "code": "z"}})

    def interrupt(self: ProgressFile, table: str, reached: Reached) -> None:
        save(self, table, reached)
        assert reached.after is not None
        raise KeyboardInterrupt

    save = ProgressFile.save
    with monkeypatch.context() as patch:
        patch.setattr("cluster.verify_progress.SAVE_SECONDS", 0.0)
        patch.setattr(ProgressFile, "save", interrupt)
        assert shop.verify(capsys)[0] == 130
    return shop


def found_by(shop: Shop, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    code, out = shop.verify(capsys, "--json", *options)
    assert code == 1
    return {t["table"]: t for t in json.loads(out)["tables"]}


def test_an_interrupted_verify_goes_on(interrupted, capsys):
    interrupted.orders.update_one({"_id": 6}, {"$set": {"name": "order 6"}})  # found before, and mended
    interrupted.orders.delete_one({"_id": 10})  # passed before
    found = found_by(interrupted, capsys, "--resume")
    assert [d["key"]["id"] for d in found["orders"]["differences"]] == [5, 4_500]
    assert (found["orders"]["different"], found["orders"]["missing"]) == (2, 0)
    assert found["orders"]["rows"] == {"pg": ROWS, "mongo": ROWS}, "what was passed is not read again"
    assert found["lines"]["missing"] == 1
    assert not interrupted.path.with_name("sync.yaml.verify").exists()
    found = found_by(interrupted, capsys, "--resume")  # there is nothing to go on from
    assert (found["orders"]["different"], found["orders"]["missing"]) == (2, 1)


def test_a_verify_does_not_go_on_with_other_tables(interrupted, capsys):
    state = interrupted.path.with_name("sync.yaml.verify")
    before = state.read_text()
    interrupted.pg.execute("ALTER TABLE orders ADD COLUMN later int")
    assert main(["verify", "--resume", "-c", str(interrupted.path)]) == 2
    assert "is of other nodes, tables or columns than are compared now" in capsys.readouterr().err
    assert state.read_text() == before
    state.write_text("no JSON")
    assert main(["verify", "--resume", "-c", str(interrupted.path)]) == 2
    assert "start over without --resume" in capsys.readouterr().err
    assert found_by(interrupted, capsys)["orders"]["different"] == 3
