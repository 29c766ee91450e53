"""Case 26: a standby is promoted in place of a node's server. It goes on with no gap, or halts."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest

from actors.pipeline import Limits, Pipeline
from cluster.servers.postgres import PostgresServer
from replication.audit.writer import AuditWriter
from replication.engines import load_engine
from replication.errors import Fenced, LogLost
from replication.schema import NodeConfig, Table, TableMapping
from tests.fixtures.sql_node import wait_for

PATIENCE = 90.0
MAPPING = TableMapping("items", ("id",), {"a": "items", "b": "items"})
DDL = "CREATE TABLE items (id int PRIMARY KEY, name text)"
STANDBY = {"hot_standby_feedback": "on", "sync_replication_slots": "on", "primary_slot_name": "standby"}


class Pair:
    """A primary, its standby, and one address of both."""

    def __init__(self, folder: Path) -> None:
        self.primary = PostgresServer(folder / "primary", settings={"fsync": "off"})
        self.primary.start()
        self.primary.create_database("shop")
        conninfo = f"host=127.0.0.1 port={self.primary.port} user=postgres dbname=postgres"
        named = f"{conninfo} application_name=standby"
        settings = {"fsync": "off", "primary_conninfo": named, **STANDBY}
        self.standby = PostgresServer(folder / "standby", settings=settings)
        self._copy(conninfo)
        self.standby.start()

    def _copy(self, conninfo: str) -> None:
        path, user = self.standby.path, self.primary.user
        path.mkdir()
        if user is not None:
            shutil.chown(path, user)
        program = self.primary.programs / "pg_basebackup"
        made = ["--create-slot", "--slot=standby", "--write-recovery-conf", "--no-sync", "--checkpoint=fast"]
        command = [str(program), f"--pgdata={self.standby.data}", f"--dbname={conninfo}", *made]
        subprocess.run(command, check=True, user=user, cwd="/")

    @property
    def dsn(self) -> str:
        """Leads to the one that takes writes, as libpq finds it."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://postgres@{hosts}/shop?target_session_attrs=read-write"

    def primary_waits(self) -> None:
        """Send nothing to us, and acknowledge nothing to anybody, that the standby does not have."""
        with psycopg.connect(self.primary.admin_dsn, autocommit=True) as c:
            c.execute("ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
            c.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            c.execute("SELECT pg_reload_conf()")

    def until_slot_is_synchronised(self) -> None:
        """Wait until the standby would go on with our slot."""
        query = (
            "SELECT slot_name FROM pg_replication_slots WHERE slot_name = 'sync_worker_shop'"
            " AND synced AND NOT temporary AND invalidation_reason IS NULL"
        )
        with (
            psycopg.connect(self.primary.admin_dsn, autocommit=True) as primary,
            psycopg.connect(self.standby.admin_dsn, autocommit=True) as standby,
        ):

            def synchronised() -> bool:
                primary.execute("SELECT pg_log_standby_snapshot()")  # else every fifteen seconds
                return standby.execute(query).fetchone() is not None

            wait_for(synchronised, PATIENCE)

    def promote(self) -> None:
        with psycopg.connect(self.standby.admin_dsn, autocommit=True) as c:
            assert c.execute("SELECT pg_promote()").fetchone() == (True,)

    def stop(self) -> None:
        self.standby.stop()
        self.primary.stop()


def until(done: Callable[[], bool], pipeline: Pipeline) -> None:
    """Wait until `done`; between looks, block on the pipeline's own end."""

    def look() -> bool:
        if done():
            return True
        assert not pipeline.stopping.wait(0.05), pipeline.error
        return False

    wait_for(look, PATIENCE)


@pytest.fixture
def pair() -> Iterator[Pair]:
    path = Path(tempfile.mkdtemp(prefix="sync-standby-"))
    path.chmod(0o755)
    try:
        pair = Pair(path)
        try:
            yield pair
        finally:
            pair.stop()
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Group:
    """`a` is the pair, `b` a database that stays."""

    def __init__(self, pair: Pair, other: str, folder: Path) -> None:
        self.dsns = {"a": pair.dsn, "b": other}
        self.folder = folder
        nodes = [NodeConfig(n, "postgres", dsn) for n, dsn in self.dsns.items()]
        self.engines = {n.name: load_engine(n, "shop") for n in nodes}
        for node in "ab":
            self.sql(node, DDL)
        with closing(self.engines["a"].catalog()) as catalog:
            schema = catalog.read_schema(MAPPING)
        assert schema is not None
        self.tables = [Table(MAPPING, schema)]
        self.starts = 0

    def run(self) -> Pipeline:
        self.starts += 1
        writer = AuditWriter(self.folder / f"{self.starts}", "shop", lambda: time.time_ns() // 1000)
        return Pipeline("shop", self.engines, self.tables, writer, limits=Limits(heartbeat=0.2))

    def sql(self, node: str, query: str) -> list[tuple[int, str]]:
        with psycopg.connect(self.dsns[node], autocommit=True) as c:
            cursor = c.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def rows(self, node: str) -> list[tuple[int, str]]:
        return self.sql(node, "SELECT id, name FROM items ORDER BY id")

    def write(self, node: str, first: int, last: int) -> None:
        self.sql(node, f"INSERT INTO items SELECT i, '{node}' FROM generate_series({first}, {last}) i")

    def until_equal(self, count: int, pipeline: Pipeline) -> None:
        until(lambda: len(self.rows("a")) == count and self.rows("a") == self.rows("b"), pipeline)
        until(lambda: all(r.shard.idle for r in pipeline.resolvers), pipeline)
        for resolver in pipeline.resolvers:
            resolver.heartbeat()


@pytest.fixture
def group(pair: Pair, postgres_db: str, tmp_path: Path) -> Group:
    return Group(pair, postgres_db, tmp_path)


def test_a_promoted_standby_goes_on_with_no_gap(pair: Pair, group: Group) -> None:
    """The primary goes down with changes of both nodes on their way."""
    pair.primary_waits()
    pipeline = group.run()
    group.write("a", 1, 10)
    group.write("b", 11, 20)
    group.until_equal(20, pipeline)
    pair.until_slot_is_synchronised()
    written = 20
    with suppress(psycopg.Error):
        for ident in range(21, 10_000):
            if ident == 220:
                pair.primary.kill()
            group.write("a" if ident % 2 else "b", ident, ident)
            written = ident
    pair.promote()
    assert pipeline.stopping.wait(PATIENCE)
    assert isinstance(pipeline.error, Fenced), pipeline.error
    assert "timeline 2 after 1" in pipeline.error.message
    pipeline.stop()

    pipeline = group.run()
    group.write("a", 10_001, 10_010)
    group.write("b", 10_011, 10_020)
    until(lambda: len(group.rows("b")) >= 220 and group.rows("a") == group.rows("b"), pipeline)
    assert dict(group.rows("a")).keys() >= {*range(1, written + 1), *range(10_001, 10_021)}
    pipeline.stop()
    pipeline = group.run()  # a later start has nothing to ask
    group.write("a", 20_001, 20_001)
    until(lambda: 20_001 in dict(group.rows("b")), pipeline)
    pipeline.stop()


def promoted_without(pair: Pair, group: Group, writer: str) -> None:
    """Promote a standby that lacks 20 of 30 rows, which have reached both nodes."""
    pipeline = group.run()
    group.write(writer, 1, 10)
    group.until_equal(10, pipeline)
    pair.until_slot_is_synchronised()
    pair.standby.stop()
    group.write(writer, 11, 20)
    group.until_equal(20, pipeline)
    group.write(writer, 21, 30)
    group.until_equal(30, pipeline)
    pipeline.stop()
    pair.primary.kill()
    pair.standby.start()
    pair.promote()
    group.sql("a", "CREATE TABLE other AS SELECT i, repeat('x', 100) FROM generate_series(1, 50000) i")


def test_a_standby_that_lacks_what_we_have_read_halts(pair: Pair, group: Group) -> None:
    """Its log has grown past our position since, so that the position alone does not tell."""
    promoted_without(pair, group, "a")
    with pytest.raises(LogLost, match="another server has taken the place") as caught:
        group.run()
    assert caught.value.node == "a"
    assert "sync-worker reset" in caught.value.hint


def test_a_standby_that_lacks_what_we_have_written_gets_it_again_or_halts(pair: Pair, group: Group) -> None:
    """Nothing but the marker that is lost as well had told that it was written."""
    promoted_without(pair, group, "b")
    pipeline = group.run()
    wait_for(lambda: pipeline.stopping.wait(0.05) or len(group.rows("a")) == 30, PATIENCE)
    pipeline.stop()
    if pipeline.error is not None:
        assert isinstance(pipeline.error, LogLost), pipeline.error
        assert "after our position" in pipeline.error.message
        assert "sync-worker reset" in pipeline.error.hint
