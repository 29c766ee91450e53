"""Connecting to MySQL: TLS, passwords, pinned settings, and servers that do not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pymysql
import pytest

from cluster.servers.mysql import MysqlServer
from replication.change import Changes
from replication.engines.mysql import MysqlEngine
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import SETTINGS, SQL_MODE, Session, connect
from replication.errors import NodeUnavailable
from replication.schema import NodeConfig
from tests.fixtures.mysql import local_server
from tests.fixtures.mysql_node import MysqlNode, mapping

PASSWORD = "pä:s/s@w%'\\ö😀"


@pytest.fixture(scope="module")
def server() -> Iterator[MysqlServer]:
    with local_server(["--require-secure-transport=OFF"]) as made:
        made.create_database("shop")
        with made.connect() as c:
            for user, plugin, tls in (
                ("sha2", "caching_sha2_password", ""),
                ("tls", "caching_sha2_password", " REQUIRE SSL"),
            ):
                literal = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
                c.query(f"CREATE USER {user} IDENTIFIED WITH {plugin} BY '{literal}'{tls}")
                c.query(f"GRANT ALL ON *.* TO {user}")
        yield made


def node_of(server: MysqlServer, user: str, query: str, host: str = "127.0.0.1") -> NodeConfig:
    address = f"{host}:{server.port}"
    return NodeConfig("my", "mysql", f"mysql://{user}:{quote(PASSWORD, safe='')}@{address}/shop?{query}")


def cipher(node: NodeConfig) -> str:
    with closing(connect(parse(node))) as c, c.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        row = cursor.fetchone()
        assert row is not None
        return str(row[1])


def test_tls_is_used_as_far_as_asked(server: MysqlServer) -> None:
    ca = f"ssl-ca={server.data / 'ca.pem'}"
    assert cipher(node_of(server, "sha2", "ssl-mode=DISABLED")) == ""
    for query in ("", "ssl-mode=PREFERRED", "ssl-mode=REQUIRED", ca, f"{ca}&ssl-mode=VERIFY_CA"):
        assert cipher(node_of(server, "tls", query)).startswith("TLS_"), query
    key = f"&ssl-cert={server.data / 'client-cert.pem'}&ssl-key={server.data / 'client-key.pem'}"
    assert cipher(node_of(server, "tls", ca + key)).startswith("TLS_")


@pytest.mark.parametrize("mode", ["VERIFY_CA", "VERIFY_IDENTITY"])
def test_a_server_that_cannot_prove_itself_is_refused(server: MysqlServer, mode: str) -> None:
    ca = "" if mode == "VERIFY_CA" else f"&ssl-ca={server.data / 'ca.pem'}"
    session = Session(parse(node_of(server, "tls", f"ssl-mode={mode}{ca}")))
    with pytest.raises(NodeUnavailable, match="certificate verify failed"), session.use():
        pass


def test_caching_sha2_password_without_tls(server: MysqlServer) -> None:
    """The first login sends the password by the server's key, the second by what the server remembers."""
    with server.connect() as c:
        c.query("FLUSH PRIVILEGES")  # forgets
    for _ in range(2):
        assert cipher(node_of(server, "sha2", "ssl-mode=DISABLED")) == ""


def test_the_whole_engine_over_tls(server: MysqlServer) -> None:
    node = node_of(server, "tls", f"ssl-ca={server.data / 'ca.pem'}")
    ddl = "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, v text)"
    with MysqlNode(node.dsn, ddl, [mapping("t")]) as made:
        made.sql("INSERT INTO t VALUES (1, 'x')")
        (event,) = made.read()
        assert isinstance(event, Changes)
        assert made.apply("t", [{"id": 2, "v": "y"}]).held == []
        assert made.snapshot.read_chunk(made.tables["t"], None, 9).num_rows == 2


UNUSUAL = {
    "sql_mode": "'ANSI,NO_BACKSLASH_ESCAPES'",
    "time_zone": "'+05:45'",
    "autocommit": "0",
    "transaction_isolation": "'SERIALIZABLE'",
    "character_set_server": "latin1",
    "sql_require_primary_key": "ON",
}


@pytest.fixture
def unusual(server: MysqlServer) -> Iterator[MysqlServer]:
    """A server whose sessions begin with other settings than most."""
    with server.connect() as c:
        for name, value in UNUSUAL.items():
            c.query(f"SET GLOBAL {name} = {value}")
        try:
            yield server
        finally:
            for name in UNUSUAL:
                c.query(f"SET GLOBAL {name} = DEFAULT")


def test_settings_are_pinned(unusual: MysqlServer) -> None:
    """Whatever the server's own are."""
    node = NodeConfig("my", "mysql", unusual.create_database("pinned"))
    with closing(connect(parse(node))) as c, c.cursor() as cursor:
        cursor.execute(
            "SELECT @@sql_mode, @@time_zone, @@autocommit, @@transaction_isolation, @@character_set_client"
        )
        mode, *rest = cursor.fetchone() or ()
        assert set(mode.split(",")) == set(SQL_MODE.split(","))
        assert rest == ["+00:00", 1, "READ-COMMITTED", "utf8mb4"]
        assert "time_zone" in SETTINGS
        cursor.execute("SELECT @@global.time_zone, @@global.autocommit, @@global.sql_require_primary_key")
        assert cursor.fetchone() == ("+05:45", 0, 1)
    ddl = "CREATE TABLE t (id int PRIMARY KEY, v varchar(9))"
    with MysqlNode(node.dsn, ddl, [mapping("t")]) as made:
        assert made.apply("t", [{"id": 0, "v": "a'\\b"}]).held == []
        assert made.snapshot.read_chunk(made.tables["t"], None, 9).column("v").to_pylist() == ["a'\\b"]


def test_a_server_that_does_not_answer_is_away() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        dsn = f"mysql://root@127.0.0.1:{silent.getsockname()[1]}/shop?connect-timeout=1"
        engine = MysqlEngine(NodeConfig("my", "mysql", dsn), "shop")
        with closing(engine.control()) as control, pytest.raises(NodeUnavailable):
            control.get_state("x")


def test_a_session_connects_again(mysql_db: str) -> None:
    session = Session(parse(NodeConfig("my", "mysql", mysql_db)), {"@mark": "7"})
    with closing(session):
        with session.use() as c:
            ident = c.thread_id()
        with closing(connect(session.config)) as other:
            other.query(f"KILL {ident}")
        with pytest.raises(NodeUnavailable), session.use() as c:
            c.query("SELECT 1")
        with session.use() as c, c.cursor() as cursor:
            cursor.execute("SELECT @mark")
            assert cursor.fetchone() == (7,)


def test_no_server_asks_for_our_files(mysql_db: str, tmp_path: Path) -> None:
    """LOAD DATA LOCAL would let a server read any file of ours."""
    (tmp_path / "secret").write_text("1")
    with closing(connect(parse(NodeConfig("my", "mysql", mysql_db)))) as c:
        c.query("CREATE TABLE t (id int)")
        with pytest.raises(pymysql.MySQLError):
            c.query(f"LOAD DATA LOCAL INFILE '{tmp_path / 'secret'}' INTO TABLE t")
