"""Schemas read and created, and what is ours prepared and dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from replication.engines.mysql import MysqlEngine
from replication.schema import Column, NodeConfig, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.mysql_node import NODE, MysqlNode, mapping, mysql_database
from tests.fixtures.sql_database import Database

BIN = "CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"


@pytest.fixture
def database(mysql_db: str) -> Iterator[Database]:
    with closing(mysql_database(mysql_db)) as made:
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
