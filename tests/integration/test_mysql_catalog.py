"""Schemas read and created, and preflight: each finding's remedy mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from replication.engine import Finding
from replication.engines.mysql import MysqlEngine
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.engines.mysql.schema import MysqlCatalog
from replication.marker import Marker
from replication.schema import Column, NodeConfig, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.mysql import local_server
from tests.fixtures.mysql_node import GROUP, NODE, MysqlNode, mapping

BIN = "CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"


class Database:
    def __init__(self, dsn: str) -> None:
        self.engine = MysqlEngine(NodeConfig(NODE, "mysql", dsn), GROUP)
        self.catalog: MysqlCatalog = self.engine.catalog()
        self.app = connect(parse(self.engine.node))

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self.app.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def table(self, mapped: TableMapping) -> Table:
        schema = self.catalog.read_schema(mapped)
        assert schema is not None
        return Table(mapped, schema)

    def findings(self, *mapped: TableMapping) -> list[Finding]:
        return self.catalog.preflight([self.table(m) for m in mapped])

    def close(self) -> None:
        self.catalog.close()
        self.app.close()


@pytest.fixture
def database(mysql_db: str) -> Iterator[Database]:
    with closing(Database(mysql_db)) as made:
        yield made


def test_schema_as_declared(database: Database) -> None:
    database.sql(
        "CREATE TABLE t (id bigint unsigned PRIMARY KEY, city varchar(20) NOT NULL DEFAULT 'K''ln', "
        "n decimal(12,2) DEFAULT 1.5, at datetime(3) DEFAULT CURRENT_TIMESTAMP(3), flag boolean DEFAULT 1, "
        f"j json DEFAULT (json_array()), w int AS (1 + 1) STORED, secret text) {BIN}"
    )
    mapped = mapping("t", "key", columns={"key": {NODE: "id"}}, exclude=frozenset({"secret"}))
    schema = database.catalog.read_schema(mapped)
    assert schema == TableSchema(
        "t",
        (
            Column("key", CanonicalType(Kind.NUMERIC, "bigint unsigned"), nullable=False),
            Column("city", CanonicalType(Kind.TEXT, f"varchar(20) {BIN}"), nullable=False, default="'K''ln'"),
            Column("n", CanonicalType(Kind.NUMERIC, "decimal(12,2)"), default="1.50"),
            Column("at", CanonicalType(Kind.TIMESTAMP, "datetime(3)"), default="CURRENT_TIMESTAMP(3)"),
            Column("flag", CanonicalType(Kind.BOOLEAN, "tinyint(1)"), default="1"),
            Column("j", CanonicalType(Kind.JSON, "json"), default="(json_array())"),
            Column("w", CanonicalType(Kind.INT32, "int"), generated=True, default="(1 + 1)"),
        ),
        ("key",),
    )
    assert database.catalog.read_schema(mapping("absent")) is None


def test_a_table_made_like_another_is_the_same(database: Database) -> None:
    database.sql(
        "CREATE TABLE one (id int AUTO_INCREMENT, k varchar(9) CHARACTER SET latin1 COLLATE latin1_bin, "
        "v varchar(7) NOT NULL DEFAULT 'a\\\\b''c', m enum('a','it''s') DEFAULT 'a', s set('x','y'), "
        "t timestamp(3) NULL DEFAULT CURRENT_TIMESTAMP(3), d int GENERATED ALWAYS AS (n * 2) STORED, n int, "
        "b bit(5) DEFAULT b'101', bin varbinary(8), y year, g geometry, f float, u bigint unsigned, "
        "txt text, doc json DEFAULT (json_object('a', 'x')), e varchar(9) AS (concat(v, 'x')) STORED, "
        "PRIMARY KEY (k, id), KEY (id))"
    )
    one = database.table(mapping("one", "k", "id"))
    mapped = mapping("two", "k", "id")
    database.catalog.create_table(Table(mapped, one.schema), "mysql")
    database.catalog.create_table(Table(mapped, one.schema), "mysql")
    two = database.table(mapped)
    assert list(two.schema.columns) == list(one.schema.columns)
    assert not [f for f in database.catalog.preflight([two]) if f.level == "error"]


def test_a_table_for_postgres_rows(database: Database) -> None:
    """Native types as PostgreSQL prints them, each with the closest type here."""
    natives = {
        "integer": (Kind.INT32, "int"),
        "numeric(12,2)": (Kind.NUMERIC, "decimal(12,2)"),
        "numeric(100,2)": (Kind.NUMERIC, "decimal(65,30)"),
        "numeric(5,-2)": (Kind.NUMERIC, "decimal(65,30)"),
        "numeric": (Kind.NUMERIC, "decimal(65,30)"),
        "character varying(40)": (Kind.TEXT, "varchar(40)"),
        "character varying(9000)": (Kind.TEXT, "longtext"),
        "character(3)": (Kind.TEXT, "char(3)"),
        "text": (Kind.TEXT, "longtext"),
        "mood": (Kind.TEXT, "longtext"),
        "timestamp(3) without time zone": (Kind.TIMESTAMP, "datetime(3)"),
        "timestamp without time zone": (Kind.TIMESTAMP, "datetime(6)"),
        "timestamp(0) with time zone": (Kind.TIMESTAMPTZ, "timestamp(0)"),
        "timestamp with time zone": (Kind.TIMESTAMPTZ, "timestamp(6)"),
        "time without time zone": (Kind.TIME, "time(6)"),
        "uuid": (Kind.UUID, "char(36)"),
        "bit(8)": (Kind.OPAQUE, "bit(8)"),
        "interval": (Kind.OPAQUE, "longtext"),
        "jsonb": (Kind.JSON, "json"),
        "bytea": (Kind.BYTES, "longblob"),
        "boolean": (Kind.BOOLEAN, "tinyint(1)"),
        "real": (Kind.FLOAT32, "float"),
        "double precision": (Kind.FLOAT64, "double"),
        "date": (Kind.DATE, "date"),
    }
    columns = [Column("id", CanonicalType(Kind.INT64, "bigint"), nullable=False)]
    columns += [Column(f"c{i}", CanonicalType(kind, n)) for i, (n, (kind, _)) in enumerate(natives.items())]
    columns.append(Column("ints", CanonicalType(Kind.LIST, "integer[]", Kind.INT32)))
    table = Table(mapping("made"), TableSchema("made", tuple(columns), ("id",)))
    database.catalog.create_table(table, "postgres")
    made = database.table(mapping("made")).schema
    found = [re.sub(r" CHARACTER.*", "", c.type.native) for c in made.columns]
    wanted = [native.replace("(0)", "") for _, native in natives.values()]
    assert found == ["bigint", *wanted, "json"]
    assert not [f for f in database.catalog.preflight([table]) if f.level == "error"]


DEFAULTS = [
    (Kind.INT32, "5", "5"),
    (Kind.INT64, "nextval('t_id_seq'::regclass)", None),
    (Kind.NUMERIC, "'-1.50'::numeric", "-1.500000000000000000000000000000"),
    (Kind.TEXT, "'it''s'::text", "('it''s')"),
    (Kind.BOOLEAN, "true", "1"),
    (Kind.BOOLEAN, "false", "0"),
    (Kind.JSON, "'{}'::jsonb", "('{}')"),
    (Kind.TIMESTAMPTZ, "now()", "CURRENT_TIMESTAMP(6)"),
    (Kind.TIMESTAMP, "CURRENT_TIMESTAMP", "CURRENT_TIMESTAMP(6)"),
    (Kind.DATE, "CURRENT_DATE", "(curdate())"),
    (Kind.DATE, "'2024-01-01'::date", "'2024-01-01'"),
    (Kind.UUID, "gen_random_uuid()", None),
    (Kind.INT32, "nonsense()", None),
]


@pytest.mark.parametrize(("kind", "default", "expected"), DEFAULTS)
def test_defaults_that_mean_the_same_are_kept(
    database: Database, kind: Kind, default: str, expected: str | None
) -> None:
    columns = (
        Column("id", CanonicalType(Kind.INT32), nullable=False),
        Column("v", CanonicalType(kind), nullable=False, default=default),
    )
    table = Table(mapping("t"), TableSchema("t", columns, ("id",)))
    database.catalog.create_table(table, "postgres")
    made = database.table(mapping("t")).schema.column("v")
    shown = None if made.default is None else made.default.replace("_utf8mb4", "").replace("\\'", "''")
    assert (shown, made.nullable) == (expected, False)
    if expected:
        database.sql("INSERT INTO t (id) VALUES (1)")


@pytest.mark.parametrize(
    ("key", "declared"),
    [
        ([Kind.TEXT], ["varchar(768)"]),
        ([Kind.TEXT, Kind.TEXT], ["varchar(384)"] * 2),
        ([Kind.INT64, Kind.TEXT, Kind.BYTES], ["bigint", "varchar(380)", "varbinary(1520)"]),
        ([Kind.NUMERIC], ["decimal(65,30)"]),
        ([Kind.UUID], ["char(36)"]),
        ([Kind.TIMESTAMPTZ], ["timestamp(6)"]),
    ],
)
def test_keys_fit_an_index(database: Database, key: list[Kind], declared: list[str]) -> None:
    names = [f"k{i}" for i in range(len(key))]
    columns = tuple(Column(n, CanonicalType(k), nullable=False) for n, k in zip(names, key, strict=True))
    table = Table(mapping("t", *names), TableSchema("t", columns, tuple(names)))
    database.catalog.create_table(table, "mongodb")
    made = database.table(mapping("t", *names)).schema.columns
    assert [c.type.native.split(" ")[0] for c in made] == declared
    assert database.catalog.preflight([table]) == []


def test_wide_rows_of_short_texts_are_created(database: Database) -> None:
    columns = [Column("id", CanonicalType(Kind.INT32), nullable=False)]
    columns += [Column(f"c{i}", CanonicalType(Kind.TEXT, "character varying(1900)")) for i in range(40)]
    table = Table(mapping("t"), TableSchema("t", tuple(columns), ("id",)))
    database.catalog.create_table(table, "postgres")
    kinds = {c.type.native.split(" ")[0] for c in database.table(mapping("t")).schema.columns}
    assert kinds == {"int", "varchar(1900)", "longtext"}


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


@pytest.mark.parametrize(
    "native", ["timestamp without time zone", "timestamp(3) without time zone", "datetime(2)"]
)
def test_parts_of_a_second_that_would_be_lost(database: Database, native: str) -> None:
    database.sql("CREATE TABLE t (id int PRIMARY KEY, at datetime(1))")
    table = database.table(mapping("t"))
    column = replace(table.schema.columns[1], type=CanonicalType(Kind.TIMESTAMP, native))
    wider = Table(table.mapping, replace(table.schema, columns=(table.schema.columns[0], column)))
    (finding,) = database.catalog.preflight([wider])
    assert (finding.level, "digits of the second" in finding.message) == ("error", True)
    database.sql(finding.remedy)
    assert database.catalog.preflight([wider]) == []
    assert database.findings(mapping("t")) == []


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
}


def test_server_settings() -> None:
    """Case 5 among them; each remedy mends its setting."""
    with local_server() as server, closing(Database(server.create_database("set"))) as database:
        assert database.findings() == []
        for name, value in SETTINGS.items():
            database.sql(f"SET GLOBAL {name} = {value}")
        found = {f.subject: f for f in database.findings()}
        assert found.keys() == SETTINGS.keys()
        assert {f.subject for f in found.values() if f.level == "warning"} == {"binlog_expire_logs_seconds"}
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
    with local_server(options) as server, closing(Database(server.create_database("left_out"))) as database:
        subjects = {f.subject for f in database.findings()}
    assert subjects == {"gtid_mode", "enforce_gtid_consistency", "server_id", "binlog_do_db"}


def test_no_binary_log() -> None:
    options = ["--skip-log-bin", "--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]
    with local_server(options) as server, closing(Database(server.create_database("silent"))) as database:
        assert "log_bin" in {f.subject for f in database.findings()}


def test_mysql_fk_cascade() -> None:
    """Case 6: what a cascade removes is in the log, or preflight refuses it."""
    ddl = (
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int, "
        "FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE)"
    )
    for options in ([], ["--innodb-native-foreign-keys=ON"]):
        mapped = [mapping("parent"), mapping("child")]
        with local_server(options) as server, MysqlNode(server.create_database("c"), ddl, mapped) as node:
            node.sql("INSERT INTO parent VALUES (1)")
            node.sql("INSERT INTO child VALUES (1, 1), (2, 1)")
            node.sql("DELETE FROM parent")
            deleted = sorted((r["_table"], r["id"]) for r in node.rows() if r["_op"] == 3)
            told = any("without a trace" in f.message for f in node.catalog.preflight(node.mapped))
            assert told or deleted == [("child", 1), ("child", 2), ("parent", 1)]
            assert not told or deleted == [("parent", 1)]


def test_prepare_is_idempotent(mysql_db: str) -> None:
    with MysqlNode(mysql_db, "CREATE TABLE a (id int PRIMARY KEY)", [mapping("a")]) as node:
        node.sql("INSERT INTO a VALUES (1)")
        assert node.control.prepare(node.mapped) == node.start
        assert [row["id"] for row in node.rows()] == [1]


def test_drop_leaves_nothing(mysql_db: str) -> None:
    with MysqlNode(mysql_db, "CREATE TABLE a (id int PRIMARY KEY)", [mapping("a")]) as node:
        node.control.put_state("x", "{}")
        other = MysqlEngine(NodeConfig(NODE, "mysql", mysql_db), "other")
        with closing(other.control()) as control:
            control.prepare([])
            node.control.drop()
            assert len(node.sql("SHOW TABLES LIKE 'sync%'")) == 3
            control.drop()
        node.control.drop()
        assert node.sql("SHOW TABLES") == [("a",)]


@pytest.mark.parametrize("group", ["Shop-1", "x" * 80, "ünï", "a b", "100%"])
def test_any_group_name(mysql_db: str, group: str) -> None:
    engine = MysqlEngine(NodeConfig(NODE, "mysql", mysql_db), group)
    with closing(engine.control()) as control, closing(engine.snapshot()) as snapshot:
        start = control.prepare([])
        control.raise_epoch(1, 1, Marker(group, 0, 1, 0, 0))
        snapshot.write_watermark("w")
        with closing(engine.source([], start)) as source:
            events = [e for _ in range(3) for e in source.poll(10, 0.5)]
        assert [e.ident for e in events if hasattr(e, "ident")] == ["w"]
        control.drop()
