"""Servers that are set up otherwise: without GTIDs or checksums, compressed transactions, TLS, restarts."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from replication.change import Changes, Echo, Op
from replication.engines.mysql import MysqlEngine, stream
from replication.engines.mysql.position import Token
from replication.engines.mysql.source import MysqlSource
from replication.engines.mysql.stream import BinlogStream
from replication.errors import ConfigError, LogLost, NodeUnavailable
from replication.position import Position
from replication.schema import NodeConfig
from tests.fixtures.harness import proxy_for, through
from tests.fixtures.mysql import local_server
from tests.fixtures.mysql_node import GROUP, NODE, MysqlNode, mapping, order, rows_of, wait_for

DDL = """
CREATE TABLE items (id bigint PRIMARY KEY, name varchar(200));
CREATE TABLE stranger (id int PRIMARY KEY)
"""
SERIES = "WITH RECURSIVE s AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM s WHERE i < {}) SELECT {} FROM s"


@pytest.fixture
def node(mysql_db: str) -> Iterator[MysqlNode]:
    with MysqlNode(mysql_db, DDL, [mapping("items")]) as made:
        made.sql("SET SESSION cte_max_recursion_depth = 100000")
        yield made


def test_a_server_without_gtids_and_checksums() -> None:
    """Resumes by file and offset, over files that are rotated and a server that starts again."""
    options = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF", "--binlog-checksum=NONE"]
    with local_server(options) as server:
        dsn = server.create_database("plain")
        with MysqlNode(dsn, DDL, [mapping("items")]) as node:
            for i in range(4):
                node.sql("INSERT INTO items VALUES (%s, 'a'), (%s, 'b')", i, -i - 1)
                node.apply("items", [{"id": 100 + i, "name": "applied"}])
                node.sql("FLUSH BINARY LOGS")
            with closing(node.source()) as source:
                events = node.drain(source, 1)
            tables, start = node.mapped, node.start
        whole = rows_of(events)
        assert [row["id"] for row in whole] == [0, -1, 1, -2, 2, -3, 3, -4]
        assert sum(isinstance(e, Echo) for e in events) == 4
        assert Token.unpack(events[-1].end.token).gtids is None
        server.restart()
        engine = MysqlEngine(NodeConfig(NODE, "mysql", dsn), GROUP)
        for event in events[::2]:
            found: list[dict[str, Any]] = []
            with closing(engine.source(tables, event.end)) as source:
                rest = [row for row in whole if order(row) > event.end.order]
                wait_for(lambda f=found, s=source, r=rest: f.extend(rows_of(s.poll(100, 1.0))) or f == r)
        assert start.order < whole[0]["_hi"] << 32


def test_checksums_that_are_switched_on_and_off(node: MysqlNode) -> None:
    with closing(node.source()) as source:
        ids = []
        for i, mode in enumerate(("NONE", "CRC32", "NONE", "CRC32")):
            node.sql(f"SET GLOBAL binlog_checksum = {mode}")
            node.sql("INSERT INTO items VALUES (%s, %s)", i, mode)
            ids += [row["name"] for row in rows_of(node.drain(source))]
    assert ids == ["NONE", "CRC32", "NONE", "CRC32"]


def test_compressed_transactions(node: MysqlNode) -> None:
    """Read event by event: what they unpack to may be larger than what fits in memory."""
    node.sql("SET SESSION binlog_transaction_compression = ON")
    with node.transaction():
        node.sql(f"INSERT INTO items {SERIES.format(2000, 'i, REPEAT(i, 20)')}")
        node.sql("INSERT INTO stranger VALUES (1)")
        node.sql("UPDATE items SET id = id + 10000 WHERE id % 2 = 0")
    node.sql("INSERT INTO items VALUES (-1, 'small')")
    whole = node.rows()
    assert len(whole) == 4001
    assert whole[-1]["name"] == "small"
    parts = [e for e in node.read(max_rows=100) if isinstance(e, Changes)]
    assert len(parts) > 10
    assert rows_of(parts) == whole
    for event in parts[::5]:
        assert node.rows(event.end) == [row for row in whole if order(row) > event.end.order]


def test_a_log_that_comes_slowly_comes_in_bounded_parts(
    node: MysqlNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more has come yet after every event: that does not make the parts of a transaction larger."""
    read, calls = BinlogStream.read, count()
    monkeypatch.setattr(stream, "_READ_SIZE", 8192)
    monkeypatch.setattr(BinlogStream, "read", lambda s: read(s) if next(calls) % 2 else None)
    node.sql(f"INSERT INTO items {SERIES.format(4000, 'i, REPEAT(i, 20)')}")
    parts = [e for e in node.read(max_rows=100) if isinstance(e, Changes)]
    assert sum(e.rows for e in parts) == 4000
    assert max(e.rows for e in parts) <= 400  # an event of the log has 8 KiB of rows


def test_a_compressed_log_is_the_same_log(node: MysqlNode) -> None:
    """Our own transactions too: the marker is inside."""
    node.sql("SET GLOBAL binlog_transaction_compression = ON")
    try:
        node.apply("items", [{"id": i, "name": "x" * 100} for i in range(50)])
        node.snapshot.write_watermark("here")
    finally:
        node.sql("SET GLOBAL binlog_transaction_compression = OFF")
    node.sql("DELETE FROM items WHERE id = 7")
    echo, watermark, changes = node.read(echoes=True)
    assert isinstance(echo, Echo)
    assert sum(t.rows.num_rows for t in echo.rows) == 50
    assert watermark.ident == "here"  # type: ignore[union-attr]
    assert [(row["_op"], row["id"]) for row in rows_of([changes])] == [(Op.DELETE, 7)]
    assert rows_of(node.read(echo.end)) == rows_of([changes])


def test_tagged_gtids() -> None:
    """They have an event of their own, and the library cannot ask by them: file and offset do.

    On a server of its own: a tag stays in the set of what was executed, and other tests read by GTID.
    """
    with (
        local_server() as server,
        MysqlNode(server.create_database("tagged"), DDL, [mapping("items")]) as own,
    ):
        tagged_gtids(own)


def tagged_gtids(node: MysqlNode) -> None:
    ((version,),) = node.sql("SELECT VERSION()")
    if tuple(map(int, version.split("-")[0].split("."))) < (8, 3):
        pytest.skip("tags came with MySQL 8.3")
    before = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
    ((began,),) = node.sql(before)
    node.sql("SET gtid_next = 'AUTOMATIC:some_tag'")
    node.sql("INSERT INTO items VALUES (1, 'a')")
    node.sql("SET gtid_next = 'AUTOMATIC'")
    node.sql("INSERT INTO items VALUES (2, 'b')")
    node.sql("SET gtid_next = 'AUTOMATIC:some_tag'")
    node.sql("INSERT INTO items VALUES (3, 'c')")
    node.sql("SET gtid_next = 'AUTOMATIC'")
    ((ended,),) = node.sql(before)
    with closing(node.source()) as source:
        events = node.drain(source, 1)
    rows = rows_of(events)
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert all(began <= row["_ts"] <= ended for row in rows)
    assert "some_tag:1-2" in str(Token.unpack(events[-1].end.token).gtids)
    for event in events:
        assert node.rows(event.end) == [row for row in rows if order(row) > event.end.order]


def test_gtids_of_several_sources(node: MysqlNode) -> None:
    """As on a server that replicates from others and fills gaps."""
    source = "11111111-2222-3333-4444-555555555555"
    for i in (5, 7, 6, 1, 2, 9):
        node.sql(f"SET gtid_next = '{source}:{i}'")
        node.sql("INSERT INTO items VALUES (%s, 'a')", i)
    node.sql("SET gtid_next = 'AUTOMATIC'")
    events = [e for e in node.read(max_rows=1) if isinstance(e, Changes)]
    rows = rows_of(events)
    assert [row["id"] for row in rows] == [5, 7, 6, 1, 2, 9]
    assert f"{source}:1-2:5-7:9" in str(Token.unpack(events[-1].end.token).gtids)
    for event in events:
        assert node.rows(event.end) == [row for row in rows if order(row) > event.end.order]


def test_gtids_that_a_position_lacks_do_not_bring_old_changes_back(node: MysqlNode) -> None:
    """The server counts a transaction as executed a moment after it is in the log."""
    node.sql("INSERT INTO items VALUES (1, 'a')")
    node.sql("INSERT INTO items VALUES (2, 'b')")
    first, second = (e for e in node.read(max_rows=1) if isinstance(e, Changes))
    fewer = Token.unpack(first.end.token).gtids
    token = replace(Token.unpack(second.end.token), gtids=fewer, rough=True)
    node.sql("INSERT INTO items VALUES (3, 'c')")
    assert [row["id"] for row in node.rows(Position(second.end.order, token.pack()))] == [3]
    assert Token.unpack(node.start.token).rough
    exact = replace(token, rough=False)
    with pytest.raises(LogLost, match="begun anew"):
        node.rows(Position(second.end.order, exact.pack()))


def test_over_tls_and_not(node: MysqlNode) -> None:
    for mode in ("REQUIRED", "DISABLED"):
        engine = MysqlEngine(NodeConfig(NODE, "mysql", f"{node.dsn}?ssl-mode={mode}"), GROUP)
        node.sql(f"REPLACE INTO items {SERIES.format(3000, 'i, REPEAT(i, 20)')}")
        with closing(engine.source(node.mapped, node.start)) as source:
            found = rows_of(node.drain(source))
            sock = source._stream._connection._sock  # type: ignore[union-attr]
            assert isinstance(sock, ssl.SSLSocket) is (mode == "REQUIRED")
        assert len(found) >= 3000


def test_server_id_can_be_given(node: MysqlNode) -> None:
    given = replace(node.engine.node, options={"server_id": "4711"})
    with closing(MysqlEngine(given, GROUP).source(node.mapped, node.start)) as source:
        node.drain(source)
        replicas = node.sql("SHOW PROCESSLIST")
        assert any("Binlog Dump" in row[4] for row in replicas)
    for wrong in ("0", "x", str(1 << 32)):
        bad = MysqlEngine(replace(given, options={"server_id": wrong}), GROUP)
        with closing(bad.source(node.mapped, node.start)) as source, pytest.raises(ConfigError, match=wrong):
            source.poll(1, 0.0)


def test_a_server_that_is_silent_is_away(node: MysqlNode) -> None:
    """Neither rows nor heartbeats: behind a broken switch a connection never ends by itself."""
    seconds = count(0.0, 5.0)
    with proxy_for(node.dsn) as proxy:
        far = replace(node.engine.node, dsn=through(node.dsn, proxy))
        source = MysqlSource(far, GROUP, node.mapped, node.start, clock=lambda: next(seconds))
        with closing(source):
            node.sql("INSERT INTO items VALUES (1, 'a')")
            assert len(rows_of(node.drain(source))) == 1
            proxy.pause()
            with pytest.raises(NodeUnavailable, match="no heartbeat"):
                wait_for(lambda: bool(source.poll(10, 1000.0)) and False, patience=60.0)


def test_a_server_that_stops_is_away() -> None:
    with local_server() as server, MysqlNode(server.create_database("a"), DDL, [mapping("items")]) as own:
        with closing(own.source()) as source:
            own.sql("INSERT INTO items VALUES (1, 'a')")
            assert len(rows_of(own.drain(source))) == 1
            server.stop()
            with pytest.raises(NodeUnavailable):
                wait_for(lambda: bool(source.poll(10, 1.0)) and False)
        with closing(own.source()) as source, pytest.raises(NodeUnavailable):
            source.poll(10, 1.0)
