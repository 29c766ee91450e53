"""Policy `manual`: what two ends wrote at once is on hold, whoever is killed, until a person decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count, islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient

from cluster.cli import main
from replication.key import encode_key
from replication.sharding import shard_of
from replication.types import Kind
from tests.chaos.bed import Up
from tests.fixtures.commands import ask

CONFIG = """\
group: manual
nodes:
  pg: {{engine: postgres, dsn: "{pg}", priority: 30}}
  mongo: {{engine: mongodb, dsn: "{mongo}", priority: 10}}
tables:
  orders: {{key: [id], conflict: [manual]}}
create_tables: true
shards: {shards}
audit: {{path: audit, key: "5c0ffee5c0ffee5c0ffee5c0ffee5c0ffee5c0ffee5c0ffee5c0ffee5c0ffee0"}}
"""
HELD = range(1, 6)
SHARDS = 2


class Desk:
    """The two databases, the group and the command line."""

    def __init__(self, stack: ExitStack, folder: Path, pg: str, mongo: str) -> None:
        self.sql = stack.enter_context(psycopg.connect(pg, autocommit=True))
        self.docs: Any = stack.enter_context(MongoClient(mongo)).get_default_database()["orders"]
        self.sql.execute("CREATE TABLE orders (id int PRIMARY KEY, name text, qty int)")
        self.up = Up(folder, CONFIG.format(pg=pg, mongo=mongo, shards=SHARDS))
        self.probes = count(100)
        stack.callback(self.end)

    def end(self) -> None:
        if self.up.process is not None and self.up.process.poll() is None:
            self.up.stop()

    def start(self) -> None:
        self.up.start()
        self.wait(self.up.ready)

    def wait(self, done: Any) -> None:
        """Wait for the databases or the log; each look blocks on a change of the collection at most."""
        with self.docs.watch(max_await_time_ms=200) as stream:
            for _ in range(900):
                if done():
                    return
                stream.try_next()
        raise AssertionError(self.up.log.read_text()[-4000:])

    def flows(self) -> None:
        """Rows of each shard written now at either end reach the other: what was before has come."""
        forth = {owner(k): k for k in islice(self.probes, 16)}
        back = {owner(-k): -k for k in islice(self.probes, 16)}
        assert len(forth) == len(back) == SHARDS
        for key in forth.values():
            self.sql.execute("INSERT INTO orders VALUES (%s, 'probe', 0)", [key])
        for key in back.values():
            self.docs.insert_one({"_id": key, "name": "probe", "qty": 0})
        self.wait(lambda: all(map(self.at_mongo, forth.values())) and all(map(self.at_pg, back.values())))

    def at_pg(self, key: int) -> tuple[Any, ...] | None:
        return self.sql.execute("SELECT name, qty FROM orders WHERE id = %s", [key]).fetchone()

    def at_mongo(self, key: int) -> tuple[Any, ...] | None:
        found = self.docs.find_one({"_id": key})
        return found and (found.get("name"), found.get("qty"))

    def both(self, key: int) -> list[tuple[Any, ...] | None]:
        return [self.at_pg(key), self.at_mongo(key)]

    def run(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
        """Run a command; one that acts on the group as a process of its own, for it joins the group's Ray."""
        if words[:2] == ("conflicts", "resolve") or "--repair" in words:
            code, shown = ask(self.up.config, *words, "--json")
        else:
            code = main([*words, "-c", str(self.up.config), "--log-level", "error", "--json"])
            shown = capsys.readouterr().out
        return code, json.loads(shown or "null")

    def undecided(self, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
        return {c["key_text"]: c["id"] for c in self.run(capsys, "conflicts", "list", "--open")[1]}


def owner(key: int) -> int:
    """The shard of a row; only within one does what was written first arrive first."""
    return shard_of(encode_key([key], [Kind.INT32]), SHARDS)


@pytest.fixture
def desk(tmp_path: Path, postgres_db: str, mongodb_db: str) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(stack, tmp_path, postgres_db, mongodb_db)


def test_rows_stay_on_hold_until_somebody_decides(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.start()
    desk.sql.execute("INSERT INTO orders SELECT i, 'n', 0 FROM generate_series(1, 9) i")
    desk.flows()
    assert desk.up.stop() == 0
    desk.sql.execute("UPDATE orders SET name = 'left' WHERE id < 6")
    desk.docs.update_many({"_id": {"$in": [1, 2, 3, 5]}}, {"$set": {"qty": 2}})
    desk.docs.delete_one({"_id": 4})
    desk.start()
    desk.flows()
    held = [[("left", 0), ("n", 2)]] * 3 + [[("left", 0), None], [("left", 0), ("n", 2)]]
    assert [desk.both(k) for k in HELD] == held
    assert set(desk.undecided(capsys)) == {str(k) for k in HELD}
    desk.docs.update_one({"_id": 1}, {"$set": {"name": "later"}})
    assert desk.up.kill("resolver 0")
    assert desk.up.kill("resolver 1")
    desk.flows()
    held[0] = [("left", 0), ("later", 2)]
    assert [desk.both(k) for k in HELD] == held
    assert sum(s["undecided"] for s in desk.up.status()["shards"]) == 5
    ids = desk.undecided(capsys)

    code, shown = desk.run(capsys, "conflicts", "show", ids["1"], "--now")
    assert (code, shown["state"], shown["now"]["mongo"]["name"]) == (0, "open", "later")
    assert desk.run(capsys, "conflicts", "resolve", ids["1"], ids["4"], "--take", "mongo")[0] == 0
    assert (desk.both(1), desk.both(4)) == ([("later", 2)] * 2, [None] * 2)
    words = ["resolve", ids["2"], "--take", "pg", "--set", "qty=7", "--set-null", "name"]
    code, _ = desk.run(capsys, "conflicts", *words)
    assert (code, desk.both(2)) == (0, [(None, 7)] * 2)
    desk.sql.execute("DELETE FROM orders WHERE id = 3")
    assert desk.run(capsys, "conflicts", "resolve", ids["3"], "--take", "pg")[0] == 0
    assert desk.both(3) == [None, None]

    code, result = desk.run(capsys, "verify", "--repair", "--yes", "--quiet-time", "0.1")
    assert (code, [d["key"] for d in result["tables"][0]["differences"]]) == (1, [{"id": 5}])
    assert desk.run(capsys, "conflicts", "resolve", "--all", "--take", "mongo")[0] == 0
    assert desk.undecided(capsys) == {}
    desk.sql.execute("UPDATE orders SET name = 'goes on' WHERE id IN (1, 2, 5)")
    desk.flows()
    assert [desk.both(k) for k in (1, 2, 5)] == [[("goes on", q)] * 2 for q in (2, 7, 2)]
    assert desk.run(capsys, "verify")[0] == 0
