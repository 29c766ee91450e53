"""A bank under `ordering: transaction`: money moves all the time, and no node ever shows a wrong sum.

Each node's application moves money among accounts of its own, a few in one transaction. So at every moment,
on every node, the accounts of each owner add up to what they began with, whoever is killed. KILLS says how
often that happens (3 by default), SEED in which order, NODES of which group.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pymysql
import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import NodeConfig
from tests.chaos.bed import Up, seed
from tests.chaos.conftest import SHAPES, Servers
from tests.fixtures.ends import ENGINES

ACCOUNTS, BALANCE, LARGE = 20, 1000, 4_000
MOVE = "UPDATE accounts SET balance = balance + %s, moved = moved + 1 WHERE id = %s"
Sums = dict[int, int]


class SqlBank:
    """The accounts in a database that speaks SQL."""

    lost = (psycopg.Error, pymysql.err.Error, OSError)

    def __init__(self, node: str, dsn: str) -> None:
        if node == "pg":
            self.sql: Any = psycopg.connect(dsn)
        else:
            self.sql = connect(parse(NodeConfig(node, "mysql", dsn)))
            self.sql.autocommit(False)
        self.close = self.sql.close

    def execute(self, statement: str, *values: object) -> Any:
        cursor = self.sql.cursor()
        cursor.execute(statement, values or None)
        return cursor

    def open_accounts(self, owner: int, first: int) -> None:
        for key in range(first, first + ACCOUNTS):
            self.execute("INSERT INTO accounts VALUES (%s, %s, %s, 0)", key, owner, BALANCE)
        self.sql.commit()

    def move(self, amounts: dict[int, int]) -> None:
        try:
            for key, amount in sorted(amounts.items()):
                self.execute(MOVE, amount, key)
            self.sql.commit()
        except self.lost:
            self.sql.rollback()  # our own transaction was in the way
            raise

    def sums(self) -> Sums:
        return self.total("balance")

    def moved(self) -> Sums:
        return self.total("moved")

    def total(self, column: str) -> Sums:
        rows = self.execute(f"SELECT owner, sum({column}) FROM accounts GROUP BY owner").fetchall()
        self.sql.rollback()
        return {owner: int(total) for owner, total in rows}

    def rows(self) -> list[tuple[int, ...]]:
        rows = self.execute("SELECT id, owner, balance, moved FROM accounts ORDER BY id").fetchall()
        self.sql.rollback()
        return list(rows)


class MongoBank:
    """The accounts in a collection."""

    lost = (PyMongoError,)

    def __init__(self, node: str, dsn: str) -> None:
        self.client: MongoClient[dict[str, Any]] = MongoClient(dsn)
        self.accounts = self.client.get_default_database()["accounts"]
        self.close = self.client.close

    def open_accounts(self, owner: int, first: int) -> None:
        self.accounts.insert_many(
            {"_id": key, "owner": owner, "balance": BALANCE, "moved": 0}
            for key in range(first, first + ACCOUNTS)
        )

    def move(self, amounts: dict[int, int]) -> None:
        with self.client.start_session() as session, session.start_transaction():
            for key, amount in sorted(amounts.items()):
                change = {"$inc": {"balance": amount, "moved": 1}}
                self.accounts.update_one({"_id": key}, change, session=session)

    def sums(self) -> Sums:
        return self.total("balance")

    def moved(self) -> Sums:
        return self.total("moved")

    def total(self, field: str) -> Sums:
        found: Sums = {}
        with self.client.start_session() as session, session.start_transaction():
            for row in self.accounts.find({}, session=session):
                found[row["owner"]] = found.get(row["owner"], 0) + row[field]
        return found

    def rows(self) -> list[tuple[int, ...]]:
        found = self.accounts.find({}).sort("_id")
        return [(r["_id"], r["owner"], r["balance"], r["moved"]) for r in found]


Bank = SqlBank | MongoBank


def open_bank(node: str, dsn: str) -> Bank:
    return MongoBank(node, dsn) if node == "mongo" else SqlBank(node, dsn)


class Clerks:
    """For each node one thread that moves money, and one that looks at the sums all the time."""

    def __init__(self, dsns: dict[str, str], start: int, expected: Sums) -> None:
        self.stopping = threading.Event()
        self.errors: list[BaseException] = []
        self.moves = dict.fromkeys(dsns, 0)
        self.looks = dict.fromkeys(dsns, 0)
        self.expected = expected
        self.threads = [
            threading.Thread(target=self.run, args=(work, node, dsn, number, start + number))
            for number, (node, dsn) in enumerate(dsns.items())
            for work in (self.move, self.look)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, work: Any, node: str, dsn: str, owner: int, start: int) -> None:
        rng = random.Random(start)
        try:
            with closing(open_bank(node, dsn)) as bank:
                while not self.stopping.wait(0.01):
                    work(node, bank, owner, rng)
        except BaseException as error:  # noqa: BLE001  the test raises it
            self.errors.append(error)

    def move(self, node: str, bank: Bank, owner: int, rng: random.Random) -> None:
        keys = rng.sample(range(owner * 100, owner * 100 + ACCOUNTS), rng.choice([2, 3, 8]))
        amounts = {key: rng.randint(-50, 50) for key in keys[1:]}
        try:
            bank.move({keys[0]: -sum(amounts.values()), **amounts})
        except bank.lost:
            return  # it met ours
        self.moves[node] += 1

    def look(self, node: str, bank: Bank, owner: int, rng: random.Random) -> None:
        try:
            sums = bank.sums()
        except bank.lost:
            return
        assert sums == self.expected, f"{node} shows {sums}"
        self.looks[node] += 1

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def banks(servers: Servers) -> Iterator[dict[str, Bank]]:
    with ExitStack() as stack:
        found = {n: stack.enter_context(closing(open_bank(n, dsn))) for n, dsn in servers.dsns().items()}
        first = next(iter(found.values()))
        assert isinstance(first, SqlBank), "the first node declares the table"
        first.execute("CREATE TABLE accounts (id int PRIMARY KEY, owner int, balance int, moved int)")
        first.sql.commit()
        yield found


@pytest.mark.parametrize("nodes", SHAPES[-1:], ids="-".join, indirect=True)
def test_no_node_ever_shows_a_wrong_sum(servers: Servers, banks: dict[str, Bank]) -> None:
    dsns, start = servers.dsns(), seed()
    nodes = "".join(f'  {n}: {{engine: {ENGINES[n]}, dsn: "{d}"}}\n' for n, d in dsns.items())
    up = Up(
        servers.folder,
        f"group: bank\nnodes:\n{nodes}tables:\n  accounts: {{key: [id]}}\ncreate_tables: true\n"
        "ordering: transaction\naudit: {path: audit}\nlimits: {batch_rows: 2000}\n",
    )
    with ExitStack() as stack:
        stack.callback(lambda: up.process and up.process.poll() is None and up.stop())
        up.start()
        wait_for(up.ready)
        for owner, bank in enumerate(banks.values()):
            bank.open_accounts(owner, owner * 100)
        everything = dict.fromkeys(range(len(banks)), ACCOUNTS * BALANCE)
        wait_for(lambda: all(bank.sums() == everything for bank in banks.values()))
        for owner, bank in enumerate(banks.values(), len(banks)):
            if isinstance(bank, SqlBank):
                whole_or_nothing(bank, owner, banks)
                everything[owner] = LARGE
        clerks = Clerks(dsns, start, everything)
        stack.callback(clerks.stop)
        order = random.Random(start)
        parts = [p for n in dsns for p in (f"capture {n}", f"applier {n}/0")] + ["resolver 0", "audit"]
        for part in order.sample(parts, min(len(parts), int(os.environ.get("KILLS", "2")))):
            wait_for(lambda part=part: up.kill(part))
            flows(banks)
        wait_for(lambda: clerks.errors or min(*clerks.moves.values(), *clerks.looks.values()) > 60)
        clerks.stop()
        assert not clerks.errors, clerks.errors
        wait_for(lambda: len({tuple(bank.rows()) for bank in banks.values()}) == 1)
        assert up.stop() == 0


def whole_or_nothing(bank: SqlBank, owner: int, banks: dict[str, Bank]) -> None:
    """A transaction of many rows comes to every other node as one."""
    rows = ", ".join(f"({owner * LARGE + i}, {owner}, 1, 0)" for i in range(LARGE))
    bank.execute(f"INSERT INTO accounts VALUES {rows}")
    bank.sql.commit()
    seen: set[int] = set()

    def arrived() -> bool:
        seen.update(counts := [other.sums().get(owner, 0) for other in banks.values()])
        return set(counts) == {LARGE}

    wait_for(arrived)
    assert seen <= {0, LARGE}, seen


def flows(banks: dict[str, Bank]) -> None:
    """Wait until all that each node's application has done by now has come to the others."""
    done = {owner: bank.moved().get(owner, 0) for owner, bank in enumerate(banks.values())}
    for bank in banks.values():
        wait_for(lambda bank=bank: all(bank.moved()[o] >= count for o, count in done.items()))


def wait_for(done: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(0.05)
