"""Preflight: each finding's remedy mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from replication.engine import Finding
from replication.engines.mysql import MysqlEngine
from replication.schema import Column, NodeConfig, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.mysql import local_server
from tests.fixtures.mysql_node import GROUP, NODE, MysqlNode, mapping, mysql_database
from tests.fixtures.sql_database import Database

BIN = "CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"


@pytest.fixture
def database(mysql_db: str) -> Iterator[Database]:
    with closing(mysql_database(mysql_db)) as made:
        yield made


def test_a_prepared_node_has_nothing_to_complain_of(mysql_db: str) -> None:
    ddl = f"CREATE TABLE t (id varchar(20) {BIN} PRIMARY KEY, v text)"
    with MysqlNode(mysql_db, ddl, [mapping("t")]) as node:
        assert node.catalog.preflight(node.mapped) == []


REMEDIED = [
    ("CREATE TABLE t (id int NOT NULL, v text)", "unique", "error"),
    ("CREATE TABLE t (id int UNIQUE, v text)", "may be null", "error"),
    ("CREATE TABLE t (id varchar(20) NOT NULL, v text, UNIQUE (id(5)))", "unique", "error"),
    ("CREATE TABLE t (id int PRIMARY KEY) ENGINE = MyISAM", "kept by MyISAM", "error"),
    ("CREATE TABLE t (id int PRIMARY KEY, v float(7,2))", "rounds what is written", "error"),
    ("CREATE TABLE t (id varchar(20) PRIMARY KEY)", "in collation utf8mb4_0900_ai_ci", "warning"),
    (
        "CREATE TABLE t (id char(9) CHARACTER SET latin1 PRIMARY KEY)",
        "collation latin1_swedish_ci",
        "warning",
    ),
]


@pytest.mark.parametrize(("ddl", "message", "level"), REMEDIED)
def test_remedies_work(database: Database, ddl: str, message: str, level: str) -> None:
    database.sql(ddl)
    (finding, *_) = [f for f in database.findings(mapping("t")) if message in f.message]
    assert (finding.level, finding.subject) == (level, "t")
    database.sql(finding.remedy)
    assert not [f for f in database.findings(mapping("t")) if message in f.message]


def test_what_cannot_be_mended_by_a_statement(database: Database) -> None:
    database.sql("CREATE TABLE t (id double PRIMARY KEY, n int, needed int NOT NULL)")
    table = database.table(mapping("t", exclude=frozenset({"needed"})))
    wrong = replace(table.schema.columns[1], type=CanonicalType(Kind.BYTES))
    absent = Column("absent", CanonicalType(Kind.TEXT))
    schema = replace(table.schema, columns=(table.schema.columns[0], wrong, absent))
    found = {f.message: f.level for f in database.catalog.preflight([Table(table.mapping, schema)])}
    assert found == {
        "t.id is float64, which cannot be a key": "error",
        "t.n is int, which is not bytes": "error",
        "table t has no column absent": "error",
        "t.needed is not mapped, not null and without default: inserts will fail": "warning",
    }
    for name, message in (("nowhere", "does not exist"), ("sync_worker_marker", "not an application's")):
        lost = replace(table.mapping, names={NODE: name})
        assert [message in f.message for f in database.catalog.preflight([Table(lost, schema)])] == [True]
    database.sql("CREATE VIEW seen AS SELECT * FROM t")
    view = replace(table.mapping, names={NODE: "seen"})
    assert any("is a view" in f.message for f in database.catalog.preflight([Table(view, table.schema)]))


def test_a_uuid_in_a_key_is_found_in_capitals_too(database: Database) -> None:
    database.sql("CREATE TABLE t (id char(36) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY)")
    columns = (Column("id", CanonicalType(Kind.UUID), nullable=False),)
    table = Table(mapping("t"), TableSchema("t", columns, ("id",)))
    (finding,) = database.catalog.preflight([table])
    assert (finding.level, "in capitals" in finding.message) == ("warning", True)
    database.sql(finding.remedy)
    assert database.catalog.preflight([table]) == []


def test_triggers_are_told_unless_they_look(database: Database) -> None:
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v int)")
    database.sql("CREATE TRIGGER rise BEFORE INSERT ON t FOR EACH ROW SET NEW.v = 1")
    (finding,) = database.findings(mapping("t"))
    assert (finding.level, "trigger rise" in finding.message) == ("warning", True)
    assert "IF @sync_worker_applying IS NULL THEN" in finding.remedy
    database.sql("DROP TRIGGER rise")
    guarded = "IF @sync_worker_applying IS NULL THEN SET NEW.v = 1; END IF"
    database.sql(f"CREATE TRIGGER rise BEFORE INSERT ON t FOR EACH ROW {guarded}")
    assert database.findings(mapping("t")) == []


def test_privileges(database: Database) -> None:
    """Every privilege that is asked for, and no more, is enough to take part."""
    database.sql("DROP USER IF EXISTS sync_weak")
    database.sql("CREATE USER sync_weak")
    name = database.sql("SELECT DATABASE()")[0][0]
    try:
        database.sql("CREATE TABLE t (id int PRIMARY KEY)")
        table = database.table(mapping("t"))
        dsn = re.sub(r"//[^@]*@", "//sync_weak@", database.engine.node.dsn)
        database.sql(f"GRANT SHOW VIEW ON `{name}`.* TO sync_weak")  # else it may not even enter
        engine = MysqlEngine(NodeConfig(NODE, "mysql", dsn), GROUP)

        def findings(*tables: Table) -> list[Finding]:
            with closing(engine.catalog()) as catalog:  # a session learns of new grants when it begins
                return catalog.preflight(tables)

        found = findings()
        assert sorted(f.message.split("lacks ")[1] for f in found) == [
            *(f"{p} for our own tables" for p in ("CREATE", "DELETE", "INSERT")),
            "REPLICATION CLIENT",
            "REPLICATION SLAVE",
            *(f"{p} for our own tables" for p in ("SELECT", "UPDATE")),
        ]
        for finding in found:
            database.sql(finding.remedy)
        assert findings(table) == []
        with closing(database.engine.control()) as control:
            control.prepare([])
        database.sql(f"REVOKE DELETE ON `{name}`.* FROM sync_weak")
        database.sql(f"GRANT DELETE ON `{name}`.sync_worker_marker TO sync_weak")
        (finding,) = findings(table)
        assert finding.message == "DELETE on table t is not granted"
        database.sql(finding.remedy)
        assert findings(table) == []
        with MysqlNode(dsn, "", []) as weak, closing(weak.engine.applier([table], [])) as applier:
            weak.tables["t"] = table
            weak.control.prepare([table])
            assert applier.apply(weak.batch("t", [{"id": 1}])).outcome == "committed"
            assert len(weak.read()) == 1
    finally:
        database.sql("DROP USER sync_weak")


def test_privileges_that_come_with_a_role(database: Database) -> None:
    name = database.sql("SELECT DATABASE()")[0][0]
    database.sql("DROP USER IF EXISTS sync_member")
    database.sql("DROP ROLE IF EXISTS sync_team")
    try:
        database.sql("CREATE ROLE sync_team")
        database.sql("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO sync_team")
        database.sql(f"GRANT ALL ON `{name}`.* TO sync_team")
        database.sql("CREATE USER sync_member DEFAULT ROLE sync_team")
        dsn = re.sub(r"//[^@]*@", "//sync_member@", database.engine.node.dsn)
        with closing(MysqlEngine(NodeConfig(NODE, "mysql", dsn), GROUP).catalog()) as catalog:
            assert catalog.preflight([]) == []
    finally:
        database.sql("DROP USER IF EXISTS sync_member")
        database.sql("DROP ROLE sync_team")


SETTINGS = {
    "binlog_format": "STATEMENT",
    "binlog_row_image": "MINIMAL",
    "binlog_row_metadata": "MINIMAL",
    "binlog_row_value_options": "PARTIAL_JSON",
    "binlog_order_commits": "OFF",
    "read_only": "ON",
    "max_allowed_packet": "1048576",
    "binlog_expire_logs_seconds": "600",
    "sync_binlog": "0",
    "innodb_flush_log_at_trx_commit": "2",
}
WARNINGS = {"binlog_expire_logs_seconds", "sync_binlog", "innodb_flush_log_at_trx_commit"}


def test_server_settings() -> None:
    """Case 5 among them; each remedy mends its setting."""
    with local_server() as server, closing(mysql_database(server.create_database("set"))) as database:
        assert database.findings() == []
        for name, value in SETTINGS.items():
            database.sql(f"SET GLOBAL {name} = {value}")
        found = {f.subject: f for f in database.findings()}
        assert found.keys() == SETTINGS.keys()
        assert {f.subject for f in found.values() if f.level == "warning"} == WARNINGS
        for finding in found.values():
            database.sql(finding.remedy.split(", or ")[0])
        assert database.findings() == []


def test_server_options() -> None:
    options = [
        "--gtid-mode=OFF",
        "--enforce-gtid-consistency=OFF",
        "--server-id=0",
        "--binlog-ignore-db=left_out",
    ]
    with (
        local_server(options) as server,
        closing(mysql_database(server.create_database("left_out"))) as database,
    ):
        subjects = {f.subject for f in database.findings()}
    assert subjects == {"gtid_mode", "enforce_gtid_consistency", "server_id", "binlog_do_db"}


def test_no_binary_log() -> None:
    options = ["--skip-log-bin", "--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]
    with (
        local_server(options) as server,
        closing(mysql_database(server.create_database("silent"))) as database,
    ):
        assert "log_bin" in {f.subject for f in database.findings()}


@pytest.mark.parametrize("native", [False, True])
def test_mysql_fk_cascade(mysql_db: str, native: bool) -> None:
    """Case 6: what a cascade removes is in the log, or preflight refuses it."""
    ddl = (
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int, "
        "FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE)"
    )
    with ExitStack() as stack:
        dsn = mysql_db
        if native:
            server = stack.enter_context(local_server(["--innodb-native-foreign-keys=ON"]))
            dsn = server.create_database("c")
        node = stack.enter_context(MysqlNode(dsn, ddl, [mapping("parent"), mapping("child")]))
        node.sql("INSERT INTO parent VALUES (1)")
        node.sql("INSERT INTO child VALUES (1, 1), (2, 1)")
        node.sql("DELETE FROM parent")
        deleted = sorted((r["_table"], r["id"]) for r in node.rows() if r["_op"] == 3)
        told = any("without a trace" in f.message for f in node.catalog.preflight(node.mapped))
        assert told or deleted == [("child", 1), ("child", 2), ("parent", 1)]
        assert not told or deleted == [("parent", 1)]
