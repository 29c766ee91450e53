"""What happens when the log, the slot, the connection or the server goes away."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster.servers.postgres import PostgresServer
from replication.change import Changes
from replication.engines.postgres import PostgresEngine
from replication.engines.postgres.position import between, parse_lsn
from replication.errors import ConfigError, LogLost, NodeUnavailable, SyncError
from replication.position import Position
from replication.schema import NodeConfig
from tests.fixtures.postgres_node import GROUP, NODE, PostgresNode, mapping, rows_of, wait_for

DDL = "CREATE TABLE items (id bigint PRIMARY KEY, name text)"
SLOT = "sync_worker_shop"


@pytest.fixture
def node(postgres_db: str) -> Iterator[PostgresNode]:
    with PostgresNode(postgres_db, DDL, [mapping("items")]) as made:
        yield made


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may stop, with little room for log that a slot holds back."""
    path = Path(tempfile.mkdtemp(prefix="sync-postgres-"))
    settings = {
        "fsync": "off",
        "max_slot_wal_keep_size": "1MB",
        "max_wal_size": "32MB",
        "min_wal_size": "32MB",
    }
    try:
        with PostgresServer(path, settings=settings) as server:
            yield server
    finally:
        shutil.rmtree(path)


def cut_reader(node: PostgresNode) -> None:
    node.sql("SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active")


def test_reconnect_loses_and_repeats_nothing(node: PostgresNode) -> None:
    node.sql("INSERT INTO items VALUES (1)")
    with closing(node.source()) as source:
        (first,) = (e for e in node.drain(source) if isinstance(e, Changes))
        node.sql("INSERT INTO items VALUES (2)")
        cut_reader(node)
        with pytest.raises(NodeUnavailable):
            node.drain(source)
    assert [r["id"] for r in node.rows(first.end)] == [2]


def test_the_newest_reader_takes_over(node: PostgresNode) -> None:
    """A reader that was left behind holds the slot; the next one does not wait for its timeout."""
    with closing(node.source()) as old, closing(node.source()) as new:
        node.drain(old)
        node.sql("INSERT INTO items VALUES (1)")
        assert [r["id"] for r in rows_of(node.drain(new))] == [1]
        with pytest.raises(NodeUnavailable):
            old.poll(10, 5.0)


def test_lost_slot_halts_at_start(node: PostgresNode) -> None:
    """Case 2: a slot that vanished is not made anew, and reading does not resume at now."""
    node.sql("SELECT pg_drop_replication_slot(%s)", SLOT)
    with closing(node.source()) as source, pytest.raises(LogLost, match=f"slot {SLOT} is missing") as caught:
        source.poll(10, 1.0)
    assert "sync-worker reset" in caught.value.hint
    assert caught.value.node == NODE
    assert caught.value.position == node.start.order
    with pytest.raises(LogLost, match="is missing"):
        node.control.prepare(node.mapped)
    (finding,) = [f for f in node.catalog.preflight(node.mapped) if f.level == "error"]
    assert (finding.level, finding.subject) == ("error", "slot")


def test_lost_slot_halts_midstream(node: PostgresNode) -> None:
    with closing(node.source()) as source:
        node.drain(source)
        cut_reader(node)
        node.sql("SELECT pg_drop_replication_slot(%s)", SLOT)
        with pytest.raises(NodeUnavailable):
            source.poll(10, 5.0)
        with pytest.raises(LogLost):
            source.poll(10, 5.0)


def test_a_resnapshot_repairs_a_lost_slot(node: PostgresNode) -> None:
    node.sql("SELECT pg_drop_replication_slot(%s)", SLOT)
    node.control.drop()
    start = node.control.prepare(node.mapped)
    assert start.order > node.start.order
    node.sql("INSERT INTO items VALUES (1)")
    assert [r["id"] for r in node.rows(start)] == [1]


def overflow(node: PostgresNode) -> None:
    """Let the server remove log that the slot still needs."""
    wait_for(
        lambda: bool(
            node.sql("SELECT pg_switch_wal()")
            and node.sql("INSERT INTO items SELECT coalesce(max(id), 0) + 1 FROM items") == []
            and node.sql("CHECKPOINT") == []
            and node.sql("SELECT 1 FROM pg_replication_slots WHERE wal_status = 'lost'")
        )
    )


def test_removed_log_halts_at_start(own_server: PostgresServer) -> None:
    with PostgresNode(own_server.create_database("lost"), DDL, [mapping("items")]) as node:
        overflow(node)
        with closing(node.source()) as source, pytest.raises(LogLost, match="is lost"):
            source.poll(10, 1.0)
        with pytest.raises(LogLost, match="is lost"):
            node.control.prepare(node.mapped)
        findings = {f.subject: f for f in node.catalog.preflight(node.mapped)}
        assert "sync-worker reset NODE" in findings["slot"].remedy


def test_removed_log_halts_midstream(own_server: PostgresServer) -> None:
    """The server ends a reader whose slot it gives up; nothing is skipped after it."""
    database = own_server.create_database("lost")
    seen: list[SyncError] = []
    with PostgresNode(database, DDL, [mapping("items")]) as node, closing(node.source()) as source:
        node.drain(source)
        overflow(node)

        def lost() -> bool:
            try:
                source.poll(10, 1.0)
            except SyncError as error:
                seen.append(error)
            return bool(seen) and isinstance(seen[-1], LogLost)

        wait_for(lost)
    assert all(isinstance(e, NodeUnavailable | LogLost) for e in seen)


def test_a_log_that_ends_before_our_position_is_lost(node: PostgresNode) -> None:
    """A server restored from a backup, or a standby that was promoted before it had everything."""
    ((now,),) = node.sql("SELECT pg_current_wal_insert_lsn()::text")
    beyond = between(parse_lsn(now) + (1 << 30))
    with closing(node.source(beyond)) as source, pytest.raises(LogLost, match="before our position"):
        source.poll(10, 1.0)


def test_a_server_shuts_down_while_it_is_read(own_server: PostgresServer) -> None:
    """Unconfirmed changes do not hold up a shutdown, and come again after it."""
    with PostgresNode(own_server.create_database("down"), DDL, [mapping("items")]) as node:
        with closing(node.source()) as source:
            source.confirm(node.start)
            node.sql("INSERT INTO items VALUES (1)")
            node.drain(source)
            node.stack.close()
            started = time.monotonic()
            stopper = threading.Thread(target=own_server.stop)
            stopper.start()
            with pytest.raises(NodeUnavailable):
                wait_for(lambda: source.poll(10, 1.0) is None)
            stopper.join()
            assert time.monotonic() - started < 10
        own_server.start()
        with closing(node.source()) as source:
            found: list[int] = []
            wait_for(lambda: bool(found.extend(r["id"] for r in rows_of(source.poll(10, 1.0))) or found))
        assert found == [1]


def test_a_killed_server_comes_back(own_server: PostgresServer) -> None:
    with PostgresNode(own_server.create_database("killed"), DDL, [mapping("items")]) as node:
        node.apply("items", [{"id": 1}])
        with closing(node.source()) as source:
            node.drain(source)
            own_server.kill()
            with pytest.raises(NodeUnavailable):
                source.poll(10, 5.0)
            with pytest.raises(NodeUnavailable):
                node.applier.apply(node.batch("items", [{"id": 2}]))
            own_server.start()
            assert node.apply("items", [{"id": 2}]).outcome == "committed"


def test_nobody_there(node: PostgresNode) -> None:
    engine = PostgresEngine(NodeConfig(NODE, "postgres", "postgresql://u:hunter2@127.0.0.1:1/x"), GROUP)
    with closing(engine.source(node.mapped, node.start)) as source, pytest.raises(NodeUnavailable) as caught:
        source.poll(10, 1.0)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://u:hunter2@h:notaport/x", "host=h password=hunter2 nonsense", "hunter2://x", "hunter2"],
)
def test_secrets_never_in_errors(dsn: str) -> None:
    """Case 30: neither a DSN that cannot be read nor one that leads nowhere is repeated."""
    engine = PostgresEngine(NodeConfig(NODE, "postgres", dsn), GROUP)
    assert "hunter2" not in repr(engine)
    with closing(engine.control()) as control, pytest.raises(SyncError) as caught:
        control.get_state("x")
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        assert "hunter2" not in repr(pickle.loads(pickle.dumps(caught.value)))
        error = error.__cause__
    assert isinstance(caught.value, ConfigError | NodeUnavailable)


HEARD_LATER = """
SELECT reply_time > %s + interval '3 seconds' FROM pg_stat_replication
JOIN pg_replication_slots ON active_pid = pid WHERE database = current_database()
"""


def test_confirm_keeps_an_idle_reader_alive(own_server: PostgresServer) -> None:
    """Under back-pressure nobody polls for longer than the server's timeout, but confirms go on."""
    with PostgresNode(own_server.create_database("idle"), DDL, [mapping("items")]) as node:
        node.sql("ALTER SYSTEM SET wal_sender_timeout = '2s'")
        node.sql("SELECT pg_reload_conf()")
        with closing(node.source()) as source:
            node.drain(source)
            ((began,),) = node.sql("SELECT clock_timestamp()")

            def outlived() -> bool:
                source.confirm(Position(0))
                (heard,) = node.sql(HEARD_LATER, began)
                return heard == (True,)

            wait_for(outlived)
            node.sql("INSERT INTO items VALUES (1)")
            assert [r["id"] for r in rows_of(node.drain(source))] == [1]
