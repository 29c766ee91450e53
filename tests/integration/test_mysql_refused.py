"""What the reader of MySQL's log must not go on behind: it stops with a reason, and skips nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from cluster.servers.mysql import MysqlServer
from replication.change import LogEvent, Unreadable
from replication.engines.mysql.position import Token
from replication.errors import LogLost, SyncError, Terminal
from replication.key import encode_key
from replication.position import START, Position
from replication.types import Kind
from tests.fixtures.mysql import local_server
from tests.fixtures.mysql_node import MysqlNode, mapping, rows_of, wait_for

DDL = """
CREATE TABLE items (id bigint PRIMARY KEY, name varchar(200), doc json);
CREATE TABLE stranger (id int PRIMARY KEY, doc json)
"""


@pytest.fixture
def node(mysql_db: str) -> Iterator[MysqlNode]:
    with MysqlNode(mysql_db, DDL, [mapping("items")]) as made:
        yield made


def read_until_it_stops(node: MysqlNode, after: Position | None = None) -> tuple[list[LogEvent], SyncError]:
    found: list[LogEvent] = []
    with closing(node.source(after)) as source:

        def never() -> bool:
            found.extend(source.poll(100, 1.0))
            return False

        with pytest.raises(Terminal) as caught:
            wait_for(never)
    return found, caught.value


def log_statements(node: MysqlNode) -> None:
    node.sql("SET SESSION transaction_isolation = 'REPEATABLE-READ'")
    node.sql("SET SESSION binlog_format = 'STATEMENT'")


def test_partial_json_refused(node: MysqlNode) -> None:
    """Case 5: switched on after preflight. Other people's tables may have it."""
    node.sql('INSERT INTO items VALUES (1, \'a\', \'{"long": "some text here", "n": 1}\')')
    node.sql("SET SESSION binlog_row_value_options = 'PARTIAL_JSON'")
    node.sql('INSERT INTO stranger VALUES (1, \'{"long": "some text here", "n": 1}\')')
    node.sql("UPDATE stranger SET doc = JSON_SET(doc, '$.n', 2)")
    node.sql("UPDATE items SET doc = JSON_SET(doc, '$.n', 2)")
    node.sql("INSERT INTO items (id) VALUES (2)")
    events, error = read_until_it_stops(node)
    assert [row["id"] for row in rows_of(events)] == [1]
    assert "only parts of JSON values of items" in str(error)
    assert "binlog_row_value_options" in error.hint
    assert error.position is not None


def test_rows_that_lack_columns_are_refused(node: MysqlNode) -> None:
    node.sql("INSERT INTO items (id, name) VALUES (1, 'a')")
    node.sql("SET SESSION binlog_row_image = 'MINIMAL'")
    node.sql("INSERT INTO stranger (id) VALUES (1)")
    node.sql("UPDATE items SET name = 'b'")
    events, error = read_until_it_stops(node)
    assert [row["name"] for row in rows_of(events)] == ["a"]
    assert "lacks columns of items" in str(error)
    assert "binlog_row_image = FULL" in error.hint


def test_changes_logged_as_statements_are_refused(node: MysqlNode) -> None:
    node.sql("INSERT INTO items (id) VALUES (1)")
    log_statements(node)
    node.sql("UPDATE items SET name = 'b'")
    events, error = read_until_it_stops(node)
    assert [row["id"] for row in rows_of(events)] == [1]
    assert "as a statement, not as rows: \"UPDATE items SET name = 'b'\"" in str(error)
    assert "binlog_format = ROW" in error.hint


def test_statements_elsewhere_are_none_of_ours(node: MysqlNode) -> None:
    database = f"{node.dsn.rpartition('/')[2]}_else"
    node.sql(f"CREATE DATABASE {database}")
    try:
        node.sql(f"CREATE TABLE {database}.items (id bigint PRIMARY KEY)")
        log_statements(node)
        node.sql(f"INSERT INTO {database}.items VALUES (1)")
        node.sql(f"TRUNCATE {database}.items")
        node.sql("SET SESSION binlog_format = 'ROW'")
        node.sql(f"INSERT INTO {database}.items VALUES (1)")
        node.sql("INSERT INTO items (id) VALUES (2)")
        assert [row["id"] for row in node.rows()] == [2]
        assert len(node.read()) == 1
    finally:
        node.sql(f"DROP DATABASE {database}")


def test_a_statement_through_a_view_elsewhere_is_refused(node: MysqlNode) -> None:
    """Only the server's own list of databases shows what it writes to."""
    database = node.dsn.rpartition("/")[2]
    node.sql(f"CREATE DATABASE {database}_else")
    try:
        node.sql(f"CREATE VIEW {database}_else.harmless AS SELECT * FROM items")
        log_statements(node)
        node.sql(f"USE {database}_else")
        node.sql("INSERT INTO harmless (id) VALUES (5)")
        _, error = read_until_it_stops(node)
        assert "INSERT INTO harmless" in str(error)
    finally:
        node.sql(f"DROP DATABASE {database}_else")


@pytest.mark.parametrize("end", ["XA COMMIT 'x' ONE PHASE", "XA PREPARE 'x'"])
def test_xa_transactions_are_refused(node: MysqlNode, end: str) -> None:
    """Whether their rows are to be is decided in another transaction, maybe days later."""
    node.sql("INSERT INTO items (id) VALUES (1)")
    for statement in ("XA START 'x'", "INSERT INTO items (id) VALUES (2)", "XA END 'x'", end):
        node.sql(statement)
    if "PREPARE" in end:
        node.sql("XA ROLLBACK 'x'")
    events, error = read_until_it_stops(node)
    assert [row["id"] for row in rows_of(events)] == [1]
    assert "an XA transaction changed items" in str(error)


def test_xa_transactions_of_others_pass(node: MysqlNode) -> None:
    for end in ("COMMIT", "ROLLBACK"):
        for statement in (
            "XA START 'x'",
            "INSERT INTO stranger (id) VALUES (2)",
            "XA END 'x'",
            "XA PREPARE 'x'",
        ):
            node.sql(statement)
        node.sql(f"XA {end} 'x'")
        node.sql("DELETE FROM stranger")
    node.sql("INSERT INTO items (id) VALUES (1)")
    assert [row["id"] for row in node.rows()] == [1]


def test_zero_dates_are_unreadable(mysql_db: str) -> None:
    """Case 9: never a null in silence; the rows beside them pass."""
    ddl = """CREATE TABLE days (id int PRIMARY KEY, d date, dt datetime(3), ts timestamp NULL, t time(1),
     f tinyint(1))"""
    with MysqlNode(mysql_db, ddl, [mapping("days")]) as node:
        node.sql("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
        values = [
            "'0000-00-00', NULL, NULL, NULL, NULL",
            "'2024-02-29', '0000-00-00', NULL, NULL, NULL",
            "'2024-00-05', NULL, NULL, NULL, NULL",
            "NULL, NULL, 0, NULL, NULL",
            "NULL, '2023-02-31 10:00', NULL, NULL, NULL",
            "NULL, NULL, NULL, '-00:00:00.1', NULL",
            "NULL, NULL, NULL, '838:59:59', NULL",
            "NULL, NULL, NULL, '24:00:00', 1",
            "NULL, NULL, NULL, NULL, 2",
        ]
        for i, row in enumerate(values):
            node.sql(f"INSERT INTO days VALUES ({i}, {row})")
        with node.transaction():
            node.sql("UPDATE days SET f = 0 WHERE id = 7")
            node.sql("UPDATE days SET id = 100 WHERE id = 0")
            node.sql("DELETE FROM days WHERE id IN (1, 2)")
        events = node.read()
        bad = [e for e in events if isinstance(e, Unreadable)]
        keys = [encode_key([i], [Kind.INT32]) for i in (0, 1, 2, 3, 4, 5, 6, 8, 100)]
        assert [e.key for e in bad] == keys
        assert [e.reason.partition(": ")[0] for e in bad] == [
            "days.d", "days.dt", "days.d", "days.ts", "days.dt", "days.t", "days.t", "days.f", "days.d",
        ]  # fmt: skip
        rows = rows_of(events)
        assert [(row["_op"], row["id"]) for row in rows] == [(1, 7), (2, 7), (3, 0), (3, 1), (3, 2)]
        orders = [e.end.order for e in events]
        assert orders == sorted(set(orders))
        for event in bad:
            rest = node.rows(event.end)
            assert rest == [row for row in rows if (row["_hi"] << 32 | row["_lo"]) > event.end.order]


def moved(position: Position, **fields: object) -> Position:
    token = replace(Token.unpack(position.token), **fields)  # type: ignore[arg-type]
    return Position(position.order, token.pack())


def test_the_log_of_another_server_is_lost(node: MysqlNode) -> None:
    """Case 26: on a promoted standby no place of the old log compares with one of the new."""
    other = moved(node.start, server="00000000-0000-0000-0000-000000000001")
    _, error = read_until_it_stops(node, other)
    assert isinstance(error, LogLost)
    assert "of 00000000-0000-0000-0000-000000000001" in str(error)
    assert error.position == node.start.order
    assert error.node == node.engine.node.name


def test_a_position_behind_the_end_is_lost(node: MysqlNode) -> None:
    for fields in ({"offset": (1 << 32) - 1, "gtids": None}, {"file": "binlog.999999"}):
        _, error = read_until_it_stops(node, moved(node.start, **fields))
        assert isinstance(error, LogLost), error


def test_transactions_that_the_server_never_had_are_lost(node: MysqlNode) -> None:
    gtids = Token.unpack(node.start.token).gtids
    _, error = read_until_it_stops(
        node, moved(node.start, gtids=f"{gtids},{'1' * 8}-{'-'.join(['1' * 4] * 3)}-{'1' * 12}:5")
    )
    assert isinstance(error, LogLost)
    assert "begun anew" in str(error)


@pytest.fixture(scope="module")
def own_server() -> Iterator[MysqlServer]:
    """For what changes a server as a whole."""
    with local_server() as made:
        yield made


def test_purged_logs_are_lost(own_server: MysqlServer) -> None:
    """Case 14: by GTIDs and by file and offset; what was read may go."""
    with MysqlNode(own_server.create_database("purged"), DDL, [mapping("items")]) as node:
        node.sql("INSERT INTO items (id) VALUES (1)")
        (first, *_) = node.read()
        node.sql("FLUSH BINARY LOGS")
        file = node.sql("SHOW BINARY LOG STATUS")[0][0]
        node.sql("PURGE BINARY LOGS TO %s", file)
        # Nothing but our own tables came after the first change, so nothing of it is missing.
        for start in (node.start, moved(node.start, gtids=None), Position(node.start.order)):
            _, error = read_until_it_stops(node, start)
            assert isinstance(error, LogLost), error
            assert error.hint
        with closing(node.source(first.end)) as source, pytest.raises(LogLost):
            source.poll(10, 5.0)
        with closing(node.source(START)) as source:
            node.sql("INSERT INTO items (id) VALUES (2)")
            assert [row["id"] for row in rows_of(node.drain(source))] == [2]


def test_a_log_that_was_reset_is_lost(own_server: MysqlServer) -> None:
    with MysqlNode(own_server.create_database("reset"), DDL, [mapping("items")]) as node:
        for i in range(5):
            node.sql("INSERT INTO items (id) VALUES (%s)", i)
            node.sql("FLUSH BINARY LOGS")
        *_, last = node.read()
        node.sql("RESET BINARY LOGS AND GTIDS")
        for start in (last.end, moved(last.end, gtids=None)):
            _, error = read_until_it_stops(node, start)
            assert isinstance(error, LogLost), error


def test_logs_without_names_of_columns_are_refused(own_server: MysqlServer) -> None:
    metadata = "SET GLOBAL binlog_row_metadata = '{}'"
    with MysqlNode(own_server.create_database("nameless"), DDL, [mapping("items")]) as node:
        node.sql(metadata.format("MINIMAL"))
        try:
            for statement, table in (
                ("INSERT INTO items (id) VALUES (1)", "items"),
                ("UPDATE sync_worker_marker SET epoch = 0", "sync_worker_marker"),
            ):
                (ended, *_) = node.sql("SHOW BINARY LOG STATUS")
                node.sql("INSERT INTO stranger (id) VALUES (1)")
                node.sql("DELETE FROM stranger")
                node.sql(statement)
                _, error = read_until_it_stops(
                    node, moved(Position(0, node.start.token), offset=ended[1], gtids=None)
                )
                assert f"does not name the columns of {table}" in str(error)
                assert "binlog_row_metadata = FULL" in error.hint
        finally:
            node.sql(metadata.format("FULL"))


def test_a_server_without_a_log_is_refused() -> None:
    options = ["--skip-log-bin", "--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]
    with local_server(options) as server, pytest.raises(Terminal, match="no binary log"):
        MysqlNode(server.create_database("p"), DDL, [])
