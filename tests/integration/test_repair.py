"""Case 27, second half: what `verify` finds is mended through the running group; no good row is harmed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from bson.binary import Binary
from pymongo import MongoClient

from actors.pipeline import Pipeline
from cluster.cli import main
from cluster.commands.common import engines_of
from cluster.config import load
from cluster.running import RunningGroup
from cluster.topology import create_missing_tables, open_catalogs, read_topology
from replication.audit.reader import entries
from replication.audit.writer import AuditWriter
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import NodeConfig
from tests.fixtures.parts import parts_of

ROWS = 300
BLOB = bytes([0xAB] * 20)


@dataclass
class Shop:
    """A group at work, whose databases an application reaches directly."""

    config: Path
    pipeline: Pipeline
    pg: psycopg.Connection[Any]
    docs: Any
    my: Any = None

    def run(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
        quick = ["--quiet-time", "0.1"] if words[0] == "verify" else []
        code = main([*words, *quick, "-c", str(self.config), "--log-level", "error"])
        assert self.pipeline.error is None
        return code, capsys.readouterr().out

    def mysql(self, statement: str) -> None:
        if self.my is not None:
            self.my.query(statement)

    def wait_for(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 180
        while not done():
            assert self.pipeline.error is None, self.pipeline.error
            assert time.monotonic() < deadline, "not in time"
            self.pipeline.stopping.wait(0.05)


def write_config(path: Path, dsns: dict[str, str]) -> Path:
    engines = {"pg": "postgres", "my": "mysql", "mongo": "mongodb"}
    nodes = "".join(
        f'  {n}: {{engine: {engines[n]}, dsn: "{dsn}", priority: {30 - 10 * i}}}\n'
        for i, (n, dsn) in enumerate(dsns.items())
    )
    config = path / "sync.yaml"
    config.write_text(
        f"group: shop\nnodes:\n{nodes}tables:\n  goods: {{key: [id]}}\ncreate_tables: true\nshards: 1\n"
        "audit: {path: audit}\n"
    )
    return config


@pytest.fixture(params=[2, 3])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    dsns = {"pg": request.getfixturevalue("postgres_db")}
    if request.param == 3:
        dsns["my"] = request.getfixturevalue("mysql_db")
    dsns["mongo"] = request.getfixturevalue("mongodb_db")
    path = write_config(tmp_path, dsns)
    with ExitStack() as stack:
        pg = stack.enter_context(psycopg.connect(dsns["pg"], autocommit=True))
        pg.execute("CREATE TABLE goods (id int PRIMARY KEY, name varchar(50), qty int, photo bytea)")
        docs = stack.enter_context(MongoClient(dsns["mongo"])).get_default_database()["goods"]
        my = None
        if "my" in dsns:
            my = stack.enter_context(closing(connect(parse(NodeConfig("my", "mysql", dsns["my"])))))
        config = load(path)
        with open_catalogs(config) as catalogs:
            topology = read_topology(config, catalogs)
            create_missing_tables(config, catalogs, topology)
        fill(pg, docs, my)
        writer = AuditWriter(config.audit_path, "shop", lambda: time.time_ns() // 1000)
        pipeline = Pipeline("shop", engines_of(config), topology.tables, writer)
        stack.callback(pipeline.stop)

        @contextmanager
        def running(*_: object) -> Iterator[RunningGroup]:
            yield RunningGroup(engines_of(config), lambda: parts_of(pipeline))

        monkeypatch.setattr("cluster.running.joined", running)
        yield Shop(path, pipeline, pg, docs, my)


def fill(pg: psycopg.Connection[Any], docs: Any, my: Any) -> None:
    """The same rows everywhere, and every kind of difference among them, from before the group began."""
    pg.execute(
        "INSERT INTO goods SELECT i, 'n' || i, i, %s FROM generate_series(1, %s) i",
        [BLOB, ROWS],
    )
    docs.insert_many(
        {"_id": i, "name": f"n{i}", "qty": i, "photo": Binary(BLOB), "note": "stays"}
        for i in range(1, ROWS + 1)
    )
    docs.delete_many({"_id": {"$in": [1, 2]}})
    docs.insert_one({"_id": 1000, "name": "extra", "qty": 5})
    docs.update_one({"_id": 10}, {"$set": {"qty": -1}})
    docs.update_one({"_id": 11}, {"$set": {"qty": "11"}})  # a type
    docs.update_one({"_id": 12}, {"$set": {"photo": Binary(BLOB[:-1] + b"\xaa")}})  # a bit
    docs.update_one({"_id": 13}, {"$unset": {"name": ""}})
    pg.execute("DELETE FROM goods WHERE id = 20")
    if my is not None:
        values = ",".join(f"({i},'n{i}',{i},0x{BLOB.hex()})" for i in range(1, ROWS + 1))
        for statement in (
            f"INSERT INTO goods VALUES {values}",
            "DELETE FROM goods WHERE id IN (2, 3)",
            "INSERT INTO goods VALUES (1001, 'extra', 1, NULL)",
            f"UPDATE goods SET photo = 0x{(BLOB[:-1] + b'x').hex()} WHERE id = 14",
            "UPDATE goods SET name = 'wrong' WHERE id = 10",
        ):
            my.query(statement)


def operated(shop: Shop) -> list[str]:
    return [e["kind"] for e in entries(shop.config.parent / "audit", "operator")]


def test_repair_mends_all_and_harms_no_good_row(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    planted = 8 if shop.my is None else 11
    code, out = shop.run(capsys, "verify", "--json")
    assert code == 1
    [found] = json.loads(out)["tables"]
    assert sum(found[k] for k in ("missing", "extra", "different", "unreadable")) == planted
    code, out = shop.run(capsys, "verify", "--repair")
    assert code == 1, "nobody has agreed"
    assert "nothing was written" in out
    assert shop.docs.find_one({"_id": 1}) is None
    code, out = shop.run(capsys, "verify", "--repair", "--yes")
    assert code == 0, out
    assert "goods: send " in out
    assert "all nodes hold the same rows" in out
    assert shop.pg.execute("SELECT count(*), sum(qty) FROM goods WHERE id <= 300").fetchone() == (300, 45150)
    assert shop.docs.find_one({"_id": 12}) == {
        "_id": 12, "name": "n12", "qty": 12, "photo": BLOB, "note": "stays",
    }  # fmt: skip
    assert shop.docs.find_one({"_id": 1000})["qty"] == 5, "no row was deleted"
    assert operated(shop) == ["repair_started", "repair_finished"]
    code, out = shop.run(capsys, "verify", "--repair", "--yes")
    assert code == 0
    assert "send" not in out


def test_rows_are_deleted_only_when_asked(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = shop.run(capsys, "verify", "--repair", "--delete", "--yes")
    assert code == 0, out
    lacking = "2" if shop.my is None else "3"
    assert f"goods: delete {lacking} rows that pg does not hold" in out
    assert shop.docs.find_one({"_id": {"$in": [20, 1000, 1001]}}) is None
    assert shop.pg.execute("SELECT count(*) FROM goods").fetchone() == (ROWS - 1,)


@pytest.mark.parametrize("shop", [2], indirect=True)
def test_rows_on_hold_are_sent_again_or_discarded(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Case 28, the rest: retry after the fix lands what was refused."""
    shop.pg.execute("ALTER TABLE goods ADD CHECK (qty < 1000)")
    shop.docs.insert_many([{"_id": 2000, "qty": 5000}, {"_id": 2001, "qty": "x"}, {"_id": 2002, "qty": 1}])
    row = "SELECT qty FROM goods WHERE id = %s"
    shop.wait_for(lambda: shop.pg.execute(row, [2002]).fetchone() == (1,))
    assert shop.pipeline.audit.barrier().result(120) is None
    code, out = shop.run(capsys, "dlq", "list", "--json")
    holds = {h["key_text"]: h["id"] for h in json.loads(out)}
    assert set(holds) == {"2000", "2001"}
    code, out = shop.run(capsys, "dlq", "retry", "--all")
    assert code == 1
    assert out.count("on hold again: ") == 2
    shop.pg.execute("ALTER TABLE goods DROP CONSTRAINT goods_qty_check")
    code, out = shop.run(capsys, "dlq", "retry", holds["2000"])
    assert (code, out) == (0, f"{holds['2000']}  goods 2000 for pg: sent\n")
    assert shop.pg.execute(row, [2000]).fetchone() == (5000,)
    shop.docs.update_one({"_id": 2001}, {"$set": {"qty": 7}})
    shop.wait_for(lambda: shop.pg.execute(row, [2001]).fetchone() == (7,))
    assert shop.pipeline.audit.barrier().result(120) is None
    assert shop.run(capsys, "dlq", "list") == (0, "nothing is on hold\n")


@pytest.mark.parametrize("shop", [3], indirect=True)
def test_a_table_is_copied_again(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = shop.run(capsys, "backfill", "goods", "--from", "pg", "--json")
    assert (code, json.loads(out)["rows"]) == (0, ROWS - 1)
    code, out = shop.run(capsys, "verify", "--json")
    [found] = json.loads(out)["tables"]
    assert {k: found[k] for k in ("missing", "different", "unreadable")} == {
        "missing": 0, "different": 0, "unreadable": 0,
    }  # fmt: skip
    assert found["extra"] == (2 if shop.my is None else 3), "what only others hold stays"
    assert operated(shop) == ["backfill_started", "backfill_finished"]
    code, out = shop.run(capsys, "backfill", "goods", "--from", "mongo")
    assert out.startswith("copied 301 rows of goods from mongo in ")


@pytest.mark.parametrize("shop", [2], indirect=True)
def test_what_is_on_record_is_applied_again(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """What a node refused and an operator gave up lands after the fix; what is everywhere is not written."""
    shop.pg.execute("ALTER TABLE goods ADD CHECK (qty < 1000)")
    shop.pg.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
        "CREATE TRIGGER keep BEFORE DELETE ON goods FOR EACH ROW WHEN (OLD.id = 30) EXECUTE FUNCTION no();"
        "ALTER TABLE goods ENABLE ALWAYS TRIGGER keep"
    )
    shop.docs.insert_many([{"_id": 2000, "qty": 5000}, {"_id": 2001, "qty": 1}])
    shop.docs.delete_one({"_id": 30})
    shop.docs.insert_one({"_id": 2002, "qty": 2})
    row = "SELECT qty FROM goods WHERE id = %s"
    shop.wait_for(lambda: shop.pg.execute(row, [2002]).fetchone() == (2,))
    assert shop.pipeline.audit.barrier().result(120) is None
    assert shop.run(capsys, "dlq", "discard", "--all")[0] == 0
    shop.pg.execute("ALTER TABLE goods DROP CONSTRAINT goods_qty_check; DROP TRIGGER keep ON goods")
    code, out = shop.run(capsys, "replay", "--key", "2000")
    assert (code, "nothing was written" in out) == (0, True), "nobody has agreed"
    for _ in range(2):
        code, out = shop.run(capsys, "replay", "--since", "2026-01-01", "--yes")
        assert code == 0
        assert "goods: send 3 rows of mongo to the others\n" in out
        assert "goods: 3 rows sent, 0 deleted\n" in out
        assert "goods: 0 rows sent, 1 deleted\n" in out
    assert shop.pg.execute(row, [2000]).fetchone() == (5000,)
    assert shop.pg.execute(row, [30]).fetchone() is None
    assert shop.pipeline.audit.barrier().result(120) is None
    kept = [d["_key"] for d in entries(shop.config.parent / "audit", "decisions") if d["outcome"] == "kept"]
    assert len(kept) == 2 + 3, "rows that are there already are left alone"
    assert operated(shop)[-4:] == ["replay_started", "replay_finished"] * 2
