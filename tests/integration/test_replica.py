"""Case 26 for MySQL: a replica is promoted in place of a node's server. It goes on with no gap, or halts."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from actors.pipeline import Limits, Pipeline
from cluster.cli import main
from cluster.commands.common import engines_of
from cluster.config import load
from cluster.reset import requested_copies, with_copies
from cluster.servers.mysql import MysqlServer
from cluster.topology import load_tables
from replication.audit.reader import entries
from replication.audit.writer import AuditWriter
from replication.engines.mysql.config import MARKER
from replication.engines.postgres.config import MARKER as OTHER_MARKER
from replication.errors import LogLost
from tests.fixtures.mysql import made_server
from tests.fixtures.sql_node import wait_for

PATIENCE = 90.0
CONFIG = """\
group: shop
nodes:
  my: {{engine: mysql, dsn: "{my}", priority: 20}}
  {name}: {{engine: postgres, dsn: "{pg}", priority: 10}}
tables:
  items: {{key: [id], conflict: [source_priority]}}
shards: 1
audit: {{path: audit}}
"""
SOURCE = """CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'root',
  SOURCE_AUTO_POSITION = 1, SOURCE_CONNECT_RETRY = 1"""


class Pair:
    """A server and its replica, each with a binlog of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.primary = self._made(folder / "primary", stack)
        self.replica = self._made(folder / "replica", stack, "--server-id=2", "--log-replica-updates=ON")
        self.run(self.primary, *["FLUSH BINARY LOGS"] * 3)  # files that the other one does not have
        self.run(self.replica, SOURCE.format(self.primary.port), "START REPLICA")
        self.run(self.primary, "CREATE DATABASE shop CHARACTER SET utf8mb4")
        self.until_replicated()

    def _made(self, path: Path, stack: ExitStack, *options: str) -> MysqlServer:
        server = made_server(path, options)
        stack.callback(server.stop)
        server.start()
        return server

    def run(self, server: MysqlServer, *statements: str) -> list[tuple[Any, ...]]:
        """Statements; what the last one gives."""
        with closing(server.connect()) as c, c.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def until_replicated(self) -> None:
        """Wait until the replica has all that its primary has now."""
        [(executed,)] = self.run(self.primary, "SELECT @@GLOBAL.gtid_executed")
        query = f"SELECT GTID_SUBSET('{executed}', @@GLOBAL.gtid_executed)"
        wait_for(lambda: self.run(self.replica, query) == [(1,)], PATIENCE)

    def promote(self) -> None:
        """The primary is lost, and its replica takes writes in its place."""
        self.primary.kill()
        self.run(self.replica, "STOP REPLICA", "RESET REPLICA ALL")


class Group:
    """`my` is the pair, `name` a database that stays; the first of both has the markers of a quiet group."""

    def __init__(self, pair: Pair, other: str, folder: Path, name: str) -> None:
        self.pair, self.other, self.name = pair, other, name
        self.file = folder / "sync.yaml"
        self.server = pair.primary
        self.point_at(pair.primary)
        self.my("CREATE TABLE items (id int PRIMARY KEY, name varchar(20))")
        self.pg("CREATE TABLE items (id int PRIMARY KEY, name varchar(20))")
        self.pipeline: Pipeline | None = None

    def point_at(self, server: MysqlServer) -> None:
        """What an operator does: another dsn."""
        self.server = server
        self.file.write_text(CONFIG.format(my=server.dsn("shop"), pg=self.other, name=self.name))

    def start(self, heartbeat: float = 0.2) -> None:
        """Begin an incarnation."""
        config = load(self.file)
        writer = AuditWriter(config.audit_path, "shop", lambda: time.time_ns() // 1000)
        tables = with_copies(load_tables(config), requested_copies(config))
        try:
            limits = Limits(heartbeat=heartbeat)
            self.pipeline = Pipeline("shop", engines_of(config), tables, writer, 1, limits)
        except BaseException:
            writer.close()
            raise

    def stop(self) -> None:
        """End it."""
        if self.pipeline is not None:
            self.pipeline.stop()
            self.pipeline = None

    def my(self, query: str) -> list[tuple[Any, ...]]:
        return self.pair.run(self.server, "USE shop", query)

    def pg(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.other, autocommit=True) as c:
            cursor = c.execute(query.encode())
            return list(cursor.fetchall()) if cursor.description else []

    def rows(self) -> tuple[dict[int, str], dict[int, str]]:
        query = "SELECT id, name FROM items"
        return dict(self.my(query)), dict(self.pg(query))

    def until(self, expected: dict[int, str]) -> None:
        """Wait until both ends hold these."""
        pipeline = self.pipeline
        assert pipeline is not None
        deadline = time.monotonic() + PATIENCE
        while self.rows() != (expected, expected):
            assert not pipeline.stopping.wait(0.05), pipeline.error
            assert time.monotonic() < deadline, self.rows()

    def settle(self) -> None:
        """Stop once the newest marker says that nothing is on its way, as soon after the last write."""
        for _ in range(100):
            pipeline = self.pipeline
            assert pipeline is not None
            wait_for(lambda p=pipeline: all(r.shard.idle for r in p.resolvers), PATIENCE)
            pipeline.stopping.wait(0.3)  # a few heartbeats
            self.stop()
            query = "SELECT seq, state FROM {} WHERE shard >= 0"
            _, text = max((*self.my(query.format(MARKER)), *self.pg(query.format(OTHER_MARKER))))
            state = text if isinstance(text, dict) else json.loads(text)
            if int(state["cut"].get("my", "0"), 16) <= int(state["resume"]["my"][0], 16):
                return
            self.start()
        raise AssertionError(state)

    def recorded(self, stream: str) -> list[dict[str, Any]]:
        return list(entries(load(self.file).audit_path, stream))


@pytest.fixture
def pair() -> Iterator[Pair]:
    path = Path(tempfile.mkdtemp(prefix="sync-replica-"))
    try:
        with ExitStack() as stack:
            yield Pair(path, stack)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def group(request: pytest.FixtureRequest, pair: Pair, postgres_db: str, tmp_path: Path) -> Iterator[Group]:
    made = Group(pair, postgres_db, tmp_path, getattr(request, "param", "db"))
    yield made
    made.stop()


def conflicts_of_both(group: Group, key: int) -> None:
    """Neither write has seen the other: one conflict, which `my` wins by its priority."""
    before = len(group.recorded("conflicts"))
    group.pg(f"UPDATE items SET name = 'theirs' WHERE id = {key}")
    group.my(f"UPDATE items SET name = 'ours' WHERE id = {key}")
    group.start()
    expected = group.rows()[0] | {key: "ours"}
    group.until(expected)
    group.settle()
    assert len(group.recorded("conflicts")) == before + 1


@pytest.mark.parametrize("group", ["db", "pg"], indirect=True)
def test_a_promoted_replica_goes_on_with_no_gap(pair: Pair, group: Group) -> None:
    """Its files have lower numbers, and it has changes that we have not read; so has the other node."""
    group.start()
    group.my("INSERT INTO items VALUES (1, 'my'), (2, 'my'), (3, 'my')")
    group.pg("INSERT INTO items VALUES (11, 'pg'), (12, 'pg')")
    expected = {1: "my", 2: "my", 3: "my", 11: "pg", 12: "pg"}
    group.until(expected)
    group.settle()
    group.my("INSERT INTO items VALUES (4, 'unread')")
    group.my("DELETE FROM items WHERE id = 2")
    pair.until_replicated()
    pair.promote()
    group.pg("UPDATE items SET name = 'meanwhile' WHERE id = 11")
    group.point_at(pair.replica)
    group.my("UPDATE items SET name = 'promoted' WHERE id = 1")
    group.start()
    expected = {1: "promoted", 3: "my", 4: "unread", 11: "meanwhile", 12: "pg"}
    group.until(expected)
    group.my("INSERT INTO items VALUES (5, 'later')")
    group.pg("UPDATE items SET name = 'seen' WHERE id = 1")
    group.until({**expected, 1: "seen", 5: "later"})
    group.stop()
    assert not group.recorded("conflicts")
    conflicts_of_both(group, 3)  # a later start has nothing to ask, and orders compare


def test_a_replica_that_lacks_what_we_have_read_halts(pair: Pair, group: Group) -> None:
    """It is named, nothing is changed, and a reset brings the node back with what it holds."""
    group.start()
    group.my("INSERT INTO items VALUES (1, 'my')")
    group.until({1: "my"})
    group.settle()
    pair.until_replicated()
    pair.run(pair.replica, "STOP REPLICA")
    group.start()
    group.my("INSERT INTO items VALUES (2, 'lost')")
    group.until({1: "my", 2: "lost"})
    group.settle()
    [(uuid,)] = pair.run(pair.primary, "SELECT @@GLOBAL.server_uuid")
    pair.promote()
    group.point_at(pair.replica)
    with pytest.raises(LogLost, match=f"it lacks transactions that we have read: {uuid}:") as caught:
        group.start()
    assert caught.value.node == "my"
    assert "sync-worker reset" in caught.value.hint
    assert group.rows() == ({1: "my"}, {1: "my", 2: "lost"})


def test_a_replica_halts_while_changes_are_on_their_way(
    pair: Pair, group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    """What became of them its log does not tell. After a reset what it shows has been seen by nobody."""
    group.start(heartbeat=1000.0)
    group.my("INSERT INTO items VALUES (1, 'my'), (2, 'my'), (3, 'my')")
    group.until({1: "my", 2: "my", 3: "my"})
    group.stop()
    group.pg("INSERT INTO items VALUES (11, 'in flight')")
    pair.until_replicated()
    pair.promote()
    group.point_at(pair.replica)
    with pytest.raises(LogLost, match="were on their way") as caught:
        group.start()
    assert "point the dsn at that server if it is still there" in caught.value.hint
    group.my("INSERT INTO items VALUES (4, 'promoted')")
    assert main(["reset", "my", "-c", str(group.file), "--yes", "--json"]) == 0
    gap = json.loads(capsys.readouterr().out)
    assert int(gap["after"], 16) < int(gap["until"], 16), "orders never go back"
    group.start()
    expected = {1: "my", 2: "my", 3: "my", 4: "promoted", 11: "in flight"}
    group.until(expected)
    group.my("INSERT INTO items VALUES (5, 'later')")
    group.until({**expected, 5: "later"})
    group.settle()
    conflicts_of_both(group, 3)
