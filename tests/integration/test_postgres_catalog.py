"""Schemas read and created, and preflight: each finding's remedy mends it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.servers.postgres import PostgresServer
from replication.engines.postgres import PostgresEngine
from replication.errors import PreflightFailed
from replication.schema import Column, NodeConfig, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.postgres_node import GROUP, NODE, PostgresNode, mapping, postgres_database
from tests.fixtures.sql_database import Database


@pytest.fixture
def database(postgres_db: str) -> Iterator[Database]:
    with closing(postgres_database(postgres_db)) as made:
        yield made


def test_schema_as_declared(database: Database) -> None:
    database.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, city varchar(20) NOT NULL DEFAULT 'Köln', "
        "n numeric(12,2), secret text)"
    )
    mapped = mapping("t", "key", columns={"key": {NODE: "id"}}, exclude=frozenset({"secret"}))
    schema = database.catalog.read_schema(mapped)
    assert schema == TableSchema(
        "t",
        (
            Column("key", CanonicalType(Kind.INT64, "bigint"), nullable=False),
            Column(
                "city",
                CanonicalType(Kind.TEXT, "character varying(20)"),
                nullable=False,
                default="'Köln'::character varying",
            ),
            Column("n", CanonicalType(Kind.NUMERIC, "numeric(12,2)")),
        ),
        ("key",),
    )
    assert database.catalog.read_schema(mapping("absent")) is None


def test_a_table_made_like_another_is_the_same(database: Database) -> None:
    database.sql("CREATE TYPE mood AS ENUM ('a', 'b')")
    database.sql(
        "CREATE TABLE one (id serial, k text, v varchar(7) NOT NULL DEFAULT 'x', m mood, a int[][], "
        "t timestamp(3) DEFAULT now(), d int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (k, id))"
    )
    one = database.table(mapping("one", "k", "id"))
    mapped = replace(mapping("two", "k", "id"), names={NODE: "other.two"})
    database.catalog.create_table(Table(mapped, one.schema), "postgres")
    database.catalog.create_table(Table(mapped, one.schema), "postgres")
    two = database.table(mapped)
    serial = one.schema.column("id")
    assert serial.default is not None
    expected = [replace(c, default=None) if c.name == "id" else c for c in one.schema.columns]
    assert list(two.schema.columns) == expected
    assert not [f for f in database.catalog.preflight([two]) if f.level == "error"]


@pytest.mark.parametrize("source", ["mongodb", "memory", "mysql"])
def test_a_table_for_another_engines_rows(database: Database, source: str) -> None:
    kinds = [k for k in Kind if k is not Kind.LIST]
    columns = [Column("id", CanonicalType(Kind.TEXT, "string"), nullable=False)]
    columns += [Column(f"c_{k}", CanonicalType(k, "whatever"), default="nonsense()") for k in kinds]
    columns += [
        Column("ints", CanonicalType(Kind.LIST, "array", Kind.INT64)),
        Column("any", CanonicalType(Kind.LIST, "array")),
        Column("n", CanonicalType(Kind.INT32), nullable=False, default="5"),
        Column("s", CanonicalType(Kind.TEXT), default="'it''s'"),
    ]
    table = Table(mapping("made"), TableSchema("made", tuple(columns), ("id",)))
    database.catalog.create_table(table, source)
    made = database.table(mapping("made")).schema
    assert {c.name: c.type.kind for c in made.columns if c.name.startswith("c_")} == {
        f"c_{k}": Kind.TEXT if k is Kind.OPAQUE else k for k in kinds
    }
    assert made.column("ints").type == CanonicalType(Kind.LIST, "bigint[]", Kind.INT64)
    assert made.column("any").type.kind is Kind.JSON
    assert (made.column("n").default, made.column("s").default) == ("5", "'it''s'::text")
    assert not [f for f in database.catalog.preflight([table]) if f.level == "error"]


def test_a_prepared_node_has_nothing_to_complain_of(postgres_db: str) -> None:
    ddl = "CREATE TABLE t (id int PRIMARY KEY, v varchar(500), n numeric)"
    with PostgresNode(postgres_db, ddl, [mapping("t")]) as node:
        assert node.catalog.preflight(node.mapped) == []


def test_a_table_that_is_created_logs_whole_rows_where_that_matters(database: Database) -> None:
    for conflict, type, identity in (
        ("last_write_wins", "text", "f"),
        ("last_write_wins", "varchar(20)", "d"),
        ("merge_fields", "varchar(20)", "f"),
    ):
        database.sql(f"CREATE TABLE source (id int PRIMARY KEY, v {type})")
        schema = database.table(mapping("source")).schema
        made = mapping("made", conflict=(conflict, "last_write_wins"))
        database.catalog.create_table(Table(made, replace(schema, name="made")), "postgres")
        assert database.sql("SELECT relreplident FROM pg_class WHERE relname = 'made'") == [(identity,)]
        assert database.findings(made) == []
        database.sql("DROP TABLE source, made")


REMEDIED = [
    ("CREATE TABLE t (id int NOT NULL, v text)", {}, "unique"),
    ("CREATE TABLE t (id int UNIQUE NOT NULL, v text)", {}, "would not name the key"),
    ("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text)", {}, "unique"),
    ("CREATE TABLE t (id int UNIQUE, v text); ALTER TABLE t REPLICA IDENTITY FULL", {}, "may be null"),
    ("CREATE TABLE t (id int PRIMARY KEY, v text)", {"conflict": ("merge_fields",)}, "merge_fields"),
    ("CREATE TABLE t (id int PRIMARY KEY, n int, v text)", {}, "large v of public.t as it was"),
    ("CREATE UNLOGGED TABLE t (id int PRIMARY KEY, v text)", {}, "not in the log"),
]


@pytest.mark.parametrize(("ddl", "options", "message"), REMEDIED)
def test_remedies_work(database: Database, ddl: str, options: dict[str, Any], message: str) -> None:
    database.sql(ddl)
    mapped = mapping("t", **options)
    (finding, *_) = [f for f in database.findings(mapped) if message in f.message]
    level = "warning" if "as it was" in message else "error"
    assert (finding.level, finding.subject) == (level, "t")
    if "DEFERRABLE" in ddl:
        database.sql("ALTER TABLE t DROP CONSTRAINT t_pkey")
    database.sql(finding.remedy)
    assert not [f for f in database.findings(mapped) if message in f.message]


def test_what_cannot_be_mended_by_a_statement(database: Database) -> None:
    database.sql("CREATE TABLE t (id float8 PRIMARY KEY, n int, needed int NOT NULL)")
    table = database.table(mapping("t", exclude=frozenset({"needed"})))
    wrong = replace(table.schema.columns[1], type=CanonicalType(Kind.BYTES))
    absent = Column("absent", CanonicalType(Kind.TEXT))
    schema = replace(table.schema, columns=(table.schema.columns[0], wrong, absent))
    found = {f.message: f.level for f in database.catalog.preflight([Table(table.mapping, schema)])}
    assert found == {
        "public.t.id is float64, which cannot be a key": "error",
        "public.t.n is integer, which is not bytes": "error",
        "table public.t has no column absent": "error",
        "public.t.needed is not mapped, not null and without default: inserts will fail": "warning",
    }
    lost = replace(table.mapping, names={NODE: "nowhere"})
    assert [
        "nowhere does not exist" in f.message for f in database.catalog.preflight([Table(lost, schema)])
    ] == [True]


def test_generated_columns_that_do_not_travel(database: Database) -> None:
    if database.app.info.server_version < 180_000:
        pytest.skip("virtual columns are new in PostgreSQL 18; use an image of it")
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v int GENERATED ALWAYS AS (id + 1) VIRTUAL)")
    assert [c.name for c in database.table(mapping("t")).schema.columns] == ["id"]
    (finding,) = database.findings(mapping("t"))
    assert (finding.level, "t.v is not in the log" in finding.message) == ("warning", True)
    assert database.findings(mapping("t", exclude=frozenset({"v"}))) == []


def test_privileges(database: Database) -> None:
    database.sql("DROP ROLE IF EXISTS sync_weak")
    database.sql("CREATE ROLE sync_weak LOGIN")
    name = database.app.info.dbname
    try:
        database.sql("CREATE TABLE t (id int PRIMARY KEY)")
        dsn = database.engine.node.dsn.replace("postgres@", "sync_weak@")
        with closing(PostgresEngine(NodeConfig(NODE, "postgres", dsn), GROUP).catalog()) as catalog:
            table = database.table(mapping("t"))
            found = catalog.preflight([table])
            assert sorted(f.message.split(" ")[0] for f in found) == [
                "DELETE", "INSERT", "SELECT", "UPDATE", "only", "role", "role", "role",
            ]  # fmt: skip
            for finding in found:
                database.sql(finding.remedy)
            assert catalog.preflight([table]) == []
        weak = PostgresNode(dsn, "", [])
        with weak, closing(weak.engine.applier([table], [])) as applier:
            weak.tables["t"] = table
            weak.control.prepare([table])
            assert applier.apply(weak.batch("t", [{"id": 1}])).outcome == "committed"
            assert len(weak.read()) == 1
            weak.control.drop()
    finally:
        database.sql("DROP OWNED BY sync_weak CASCADE")
        database.sql(f'REVOKE ALL ON DATABASE "{name}" FROM sync_weak')
        database.sql("DROP ROLE sync_weak")


def test_server_settings() -> None:
    path = Path(tempfile.mkdtemp(prefix="sync-postgres-"))
    settings = {"wal_level": "replica", "max_replication_slots": "0", "max_wal_senders": "0"}
    try:
        with PostgresServer(path, settings=settings) as server:
            with closing(postgres_database(server.dsn())) as database:
                subjects = {f.subject: f for f in database.findings()}
            assert subjects.keys() == {"wal_level", "max_replication_slots", "max_wal_senders"}
            assert all(f.level == "error" and "ALTER SYSTEM SET" in f.remedy for f in subjects.values())
    finally:
        shutil.rmtree(path)


def test_a_table_without_identity_is_never_published(database: Database) -> None:
    """Publishing it would make its applications' updates fail."""
    database.sql("CREATE TABLE t (id int NOT NULL, v text)")
    with (
        closing(database.engine.control()) as control,
        pytest.raises(PreflightFailed, match="replica identity"),
    ):
        control.prepare([database.table(mapping("t"))])
    database.sql("INSERT INTO t VALUES (1, 'a')")
    database.sql("UPDATE t SET v = 'b'")


def test_prepare_is_idempotent_and_follows_the_mapping(postgres_db: str) -> None:
    ddl = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)"
    published = "SELECT tablename FROM pg_publication_tables WHERE schemaname = 'public' ORDER BY 1"
    with PostgresNode(postgres_db, ddl, [mapping("a")]) as node:
        assert node.control.prepare(node.mapped) == node.start
        node.tables["b"] = node.table(mapping("b"))
        node.control.prepare(node.mapped)
        assert node.sql(published) == [("a",), ("b",)]
        node.sql("INSERT INTO b VALUES (1)")
        assert [row["_table"] for row in node.rows()] == ["b"]
        node.control.prepare([node.tables["b"]])
        assert node.sql(published) == [("b",)]


def test_drop_leaves_nothing(postgres_db: str) -> None:
    ddl = "CREATE TABLE a (id int PRIMARY KEY)"
    with PostgresNode(postgres_db, ddl, [mapping("a")]) as node:
        node.control.put_state("x", "{}")
        with closing(node.source()) as source:
            node.drain(source)
            node.control.drop()
        node.control.drop()
        assert node.sql("SELECT nspname FROM pg_namespace WHERE nspname = 'sync_worker'") == []
        assert node.sql("SELECT pubname FROM pg_publication") == []
        assert (
            node.sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == []
        )
