"""A node that was restored from a backup is not taken for the one that it was."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from actors.pipeline import Pipeline
from cluster.servers.postgres import PostgresServer
from replication.audit.writer import AuditWriter
from replication.engine import Engine
from replication.engines import load_engine
from replication.errors import LogLost
from replication.schema import NodeConfig, Table, TableMapping
from tests.fixtures.postgres import SETTINGS

MAPPING = TableMapping("items", ("id",), {"a": "items", "b": "items"})
DDL = "CREATE TABLE items (id int PRIMARY KEY, name text)"


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    path = Path(tempfile.mkdtemp(prefix="sync-postgres-"))
    path.chmod(0o755)
    try:
        with PostgresServer(path / "server", settings=SETTINGS) as server:
            yield server
    finally:
        shutil.rmtree(path, ignore_errors=True)


def copy(folder: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", str(folder), str(to)], check=True)  # owners included


def run(engines: dict[str, Engine], tables: list[Table], folder: Path) -> Pipeline:
    writer = AuditWriter(folder, "shop", lambda: time.time_ns() // 1000)
    return Pipeline("shop", engines, tables, writer)


def told(here: psycopg.Connection, there: psycopg.Connection) -> bool:
    """Whether the marker here says that the log there has shown its last batch."""
    (state,) = here.execute("SELECT state FROM sync_worker.marker WHERE shard = 0").fetchone() or ("{}",)
    (seq,) = there.execute("SELECT seq FROM sync_worker.marker WHERE shard = 0").fetchone() or (0,)
    return bool(json.loads(state)["echoed"].get("b") == seq)


def travel(here: str, there: str, first: int, last: int, pipeline: Pipeline) -> None:
    """Write rows here and wait until they are there."""
    with psycopg.connect(here, autocommit=True) as c, psycopg.connect(there, autocommit=True) as other:
        c.execute("INSERT INTO items SELECT i, 'n' FROM generate_series(%s::int, %s::int) i", [first, last])
        deadline = time.monotonic() + 60
        while other.execute("SELECT count(*) FROM items").fetchone() != (last,):
            assert not pipeline.stopping.wait(0.02), pipeline.error
            assert time.monotonic() < deadline
        deadline = time.monotonic() + 60
        while not told(c, other):  # once the log has shown it, and the audit log has it
            for resolver in pipeline.resolvers:
                resolver.heartbeat()
            assert not pipeline.stopping.wait(0.05), pipeline.error
            assert time.monotonic() < deadline


def test_a_node_restored_from_a_backup_halts(
    server: PostgresServer, postgres_db: str, tmp_path: Path
) -> None:
    """Case 26: its log has grown past our position since, so only the marker can tell."""
    restored = server.create_database("restored")
    for dsn in (restored, postgres_db):
        with psycopg.connect(dsn, autocommit=True) as c:
            c.execute(DDL)
    nodes = [NodeConfig("a", "postgres", postgres_db, 20), NodeConfig("b", "postgres", restored, 10)]
    engines = {n.name: load_engine(n, "shop") for n in nodes}
    with closing(engines["a"].catalog()) as catalog:
        schema = catalog.read_schema(MAPPING)
    assert schema is not None
    tables = [Table(MAPPING, schema)]
    pipeline = run(engines, tables, tmp_path / "first")
    travel(postgres_db, restored, 1, 10, pipeline)
    pipeline.stop()
    server.stop()
    copy(server.path, tmp_path / "backup")
    server.start()
    pipeline = run(engines, tables, tmp_path / "second")
    travel(postgres_db, restored, 11, 500, pipeline)
    travel(postgres_db, restored, 501, 502, pipeline)
    pipeline.stop()
    server.stop()
    shutil.rmtree(server.path)
    copy(tmp_path / "backup", server.path)
    server.start()
    with psycopg.connect(restored, autocommit=True) as c:
        c.execute("CREATE TABLE other AS SELECT i, repeat('x', 100) FROM generate_series(1, 50000) i")
    with pytest.raises(LogLost, match=r"b was set back: .* holds batch") as caught:
        run(engines, tables, tmp_path / "third")
    assert caught.value.node == "b"
