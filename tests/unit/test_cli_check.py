"""`sync-worker check`: how tables are mapped, what is missing, and what the configuration gets wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from pymongo import MongoClient

from cluster import cli, topology
from cluster.config import InvalidConfig, load
from replication.engines.memory import MemoryDatabase, drop_database, open_database
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import Column, NodeConfig, TableSchema
from replication.types import CanonicalType, Kind

ID = Column("id", CanonicalType(Kind.INT64, "bigint"), nullable=False)
CITY = Column("city", CanonicalType(Kind.TEXT, "text"))


@pytest.fixture
def databases() -> Iterator[dict[str, MemoryDatabase]]:
    names = ("check_a", "check_b")
    yield {name[-1]: open_database(name) for name in names}
    for name in names:
        drop_database(name)


def configured(tmp_path: Path, tables: str, rest: str = "") -> Path:
    file = tmp_path / "sync.yaml"
    file.write_text(
        f"""\
group: shop
nodes:
  a: {{engine: memory, dsn: "memory://check_a", priority: 1}}
  b: {{engine: memory, dsn: "memory://check_b", priority: 2}}
tables:
{tables}
{rest}
"""
    )
    return file


def test_the_schema_comes_from_the_highest_node_that_has_it(
    tmp_path: Path, databases: dict[str, MemoryDatabase]
) -> None:
    databases["a"].create_table(TableSchema("orders", (ID,), ("id",)))
    databases["b"].create_table(TableSchema("orders", (ID, CITY), ("id",)))
    databases["a"].create_table(TableSchema("local", (ID, CITY), ("id",)))
    config = load(configured(tmp_path, "  orders: {key: [id]}\n  items: {key: [id], names: {a: local}}"))
    with topology.open_catalogs(config) as catalogs:
        found = topology.read_topology(config, catalogs)
        assert found.declared_by == {"orders": "b", "items": "a"}
        assert found.missing == {"a": frozenset(), "b": frozenset({"items"})}
        assert found.table("orders").schema.columns == (ID, CITY)
        topology.create_missing_tables(config, catalogs, found)
        assert topology.read_topology(config, catalogs).missing == {"a": frozenset(), "b": frozenset()}
    assert [t.name for t in topology.load_tables(config)] == ["orders", "items"]


def test_mistakes_that_the_databases_reveal_name_their_lines(
    tmp_path: Path, databases: dict[str, MemoryDatabase]
) -> None:
    reserved = Column("_key", CanonicalType(Kind.TEXT))
    ratio = Column("ratio", CanonicalType(Kind.FLOAT64))
    databases["b"].create_table(TableSchema("orders", (ID, CITY, reserved), ("id",)))
    databases["b"].create_table(TableSchema("rates", (ratio,), ("ratio",)))
    databases["b"].create_table(TableSchema("orders2", (ID,), ("id",)))
    tables = """\
  orders:
    key: [idd]
    columns: {citty: {a: town}}
    initial: {from: a}
  rates: {key: [ratio]}
  gone: {key: [id], names: {a: far}}
  more: {key: [id], names: {b: orders2}, where: {a: {town: x, id: {gt: ten}}}}"""
    with pytest.raises(InvalidConfig) as caught:
        topology.load_tables(load(configured(tmp_path, tables)))
    found = {str(p).split("sync.yaml:")[1]: p.hint for p in caught.value.problems}
    kinds = "a key is one of: boolean, bytes, date, int16, int32, int64, numeric, text, timestamp, "
    assert found == {
        "7: tables.orders.key: b has no column 'idd' in orders": "did you mean 'id'?",
        "8: tables.orders.columns.citty: b has no column 'citty' in orders": "did you mean 'city'?",
        "9: tables.orders.initial: a has no table orders": "name a node that has it",
        "6: tables.orders: the column name '_key' is used by Sync Worker itself": (
            "give it another name here: columns: {key: {b: _key}}"
        ),
        "10: tables.rates.key: the column 'ratio' is float64, which cannot be a key": kinds
        + "timestamptz, uuid",
        "11: tables.gone: no such table: gone on b, far on a": (
            "create it there, or say under 'names' what it is called"
        ),
        "12: tables.more.where.a.town: no column 'town' is mapped": "ask about one of: id",
        "12: tables.more.where.a.id.gt: 'ten' is no value of the column 'id', which is int64": (
            "write a whole number"
        ),
    }


def test_check_prints_the_mapping_and_says_when_all_is_well(
    tmp_path: Path, databases: dict[str, MemoryDatabase], capsys: pytest.CaptureFixture[str]
) -> None:
    databases["b"].create_table(TableSchema("orders", (ID, CITY), ("id",)))
    tables = (
        "  orders: {key: [id], columns: {city: {a: town}}, exclude: [note], initial: {from: b}, "
        "where: {a: [{city: [Rome, Oslo]}, {id: {lt: 5}}]}}"
    )
    file = configured(tmp_path, tables, "create_tables: true")
    assert cli.main(["check", "-c", str(file)]) == 0
    text = capsys.readouterr().out
    for expected in (
        "orders: key id; conflict last_write_wins; initial b",
        "a: orders (will be created)",
        "int64, not null",
        "town",
        "never leaves its node: note",
        "a holds only rows with city in (Rome, Oslo) or id < 5",
        "the group 'shop' is ready to start",
    ):
        assert expected in text
    assert "orders" not in databases["a"].tables, "check changes nothing"
    assert cli.main(["check", "-c", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ready"], found["nodes"]) == (True, {"a": [], "b": []})
    [table] = found["tables"]
    assert table["nodes"]["a"] == {"name": "orders", "exists": False}
    assert table["columns"][1]["names"] == {"a": "town", "b": "city"}
    assert table["where"] == {"a": "city in (Rome, Oslo) or id < 5"}


def test_check_exits_1_if_something_must_be_mended(
    tmp_path: Path, databases: dict[str, MemoryDatabase], capsys: pytest.CaptureFixture[str]
) -> None:
    databases["b"].create_table(TableSchema("orders", (ID, CITY), ("id",)))
    file = configured(tmp_path, "  orders: {key: [id]}")
    assert cli.main(["check", "-c", str(file)]) == 1
    text = capsys.readouterr().out
    assert "  error: orders: orders does not exist\n    remedy: create it, or set create_tables: true" in text
    assert "1 error to mend first" in text


def real_config(tmp_path: Path, postgres: str, mongodb: str) -> str:
    file = tmp_path / "real.yaml"
    file.write_text(
        f"""\
group: shop
nodes:
  pg: {{engine: postgres, dsn: "{postgres}", priority: 2}}
  mongo: {{engine: mongodb, dsn: "{mongodb}", priority: 1}}
tables:
  orders:
    key: [region, id]
    columns: {{city: {{mongo: address.city}}}}
    exclude: [note]
create_tables: true
"""
    )
    return str(file)


def test_check_asks_real_servers(
    tmp_path: Path, postgres_db: str, mongodb_db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(postgres_db, autocommit=True) as c:
        c.execute(
            "CREATE TABLE orders (region text NOT NULL, id bigint NOT NULL, city text, note text, "
            "price numeric(12,2), PRIMARY KEY (region, id))"
        )
    file = real_config(tmp_path, postgres_db, mongodb_db)
    assert cli.main(["check", "-c", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [table] = found["tables"]
    assert table["declared_by"] == "pg"
    assert {c["column"]: (c["type"], c["names"]["mongo"]) for c in table["columns"]} == {
        "region": ("text", "_id.region"),
        "id": ("int64", "_id.id"),
        "city": ("text", "address.city"),
        "price": ("numeric", "price"),
    }
    with psycopg.connect(postgres_db, autocommit=True) as c:
        c.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    with MongoClient(mongodb_db) as client:
        client.get_default_database().create_collection("orders")
    assert cli.main(["check", "-c", file]) == 1
    text = capsys.readouterr().out
    assert "error: orders: nothing makes (region, id) unique in table orders" in text
    assert "remedy: ALTER TABLE" in text
    assert "orders keeps no before-images" in text, "the collection is there now"


@pytest.mark.parametrize("down", ["pg", "mongo"])
def test_a_node_that_is_away_exits_2_and_shows_no_password(
    tmp_path: Path, postgres_db: str, mongodb_db: str, down: str, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = {"pg": postgres_db, "mongo": mongodb_db}
    addresses[down] = {
        "pg": "postgresql://me:hunter2@127.0.0.1:1/shop",
        "mongo": "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=200",
    }[down]
    file = real_config(tmp_path, addresses["pg"], addresses["mongo"])
    assert cli.main(["check", "-c", file, "--log-level", "debug"]) == 2
    text = capsys.readouterr().err
    assert f"error: {down}: " in text
    assert "hunter2" not in text


def three_nodes(tmp_path: Path, postgres: str, mysql: str, mongodb: str, key: str = "id") -> str:
    file = tmp_path / "three.yaml"
    file.write_text(
        f"""\
group: shop
nodes:
  pg: {{engine: postgres, dsn: "{postgres}", priority: 3}}
  my: {{engine: mysql, dsn: "{mysql}", priority: 2}}
  mongo: {{engine: mongodb, dsn: "{mongodb}", priority: 1}}
tables:
  orders: {{key: [{key}], columns: {{at: {{my: placed}}}}}}
create_tables: true
"""
    )
    return str(file)


def statements(dsn: str, *texts: str) -> None:
    with closing(connect(parse(NodeConfig("my", "mysql", dsn)))) as c, c.cursor() as cursor:
        for text in texts:
            cursor.execute(text)


def test_check_compares_what_the_nodes_declare(
    tmp_path: Path, postgres_db: str, mysql_db: str, mongodb_db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(postgres_db, autocommit=True) as c:
        c.execute("CREATE TABLE orders (id int PRIMARY KEY, at timestamp NOT NULL, name text, price numeric)")
    file = three_nodes(tmp_path, postgres_db, mysql_db, mongodb_db)
    ddl = "CREATE TABLE orders (id int PRIMARY KEY, placed datetime NOT NULL, name int, price double)"
    statements(mysql_db, ddl)
    assert cli.main(["check", "-c", file]) == 1
    text = capsys.readouterr().out
    assert "orders.name is int, which is not text" in text
    assert "remedy: ALTER TABLE `orders` MODIFY `name` longtext, or exclude it" in text
    assert "orders.price is double, which is not numeric" in text
    assert "remedy: ALTER TABLE `orders` MODIFY `price` decimal(65,30), or exclude it" in text
    statements(mysql_db, "ALTER TABLE orders MODIFY name varchar(20), MODIFY price decimal(12,2)")
    assert cli.main(["check", "-c", file]) == 0
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    stamp = "timestamp, not null", "at timestamp without time zone", "placed datetime", "at date"
    assert ["at", *stamp] in cells
    rules = ["", "", "", "narrowed: down to the second", "narrowed: down to the millisecond"]
    assert rules in cells
    assert cli.main(["check", "-c", file, "--json"]) == 0
    [table] = json.loads(capsys.readouterr().out)["tables"]
    effect = {c["column"]: c["nodes"]["my"] for c in table["columns"]}
    assert effect["at"]["rule"] == "down to the second"
    assert effect["name"]["verdict"] == "same"
    assert effect["name"]["held"] == ["texts longer than 20 characters"]
    assert effect["price"]["type"] == "decimal(12,2)"


def test_a_key_is_never_narrowed(
    tmp_path: Path, postgres_db: str, mysql_db: str, mongodb_db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(postgres_db, autocommit=True) as c:
        c.execute("CREATE TABLE orders (at timestamp PRIMARY KEY)")
    statements(mysql_db, "CREATE TABLE orders (placed datetime(2) PRIMARY KEY)")
    file = three_nodes(tmp_path, postgres_db, mysql_db, mongodb_db, key="at")
    assert cli.main(["check", "-c", file]) == 1
    text = capsys.readouterr().out
    assert "the key column orders.placed is datetime(2), and pg keeps 6 digits of the second" in text
    statements(mysql_db, "ALTER TABLE orders MODIFY placed datetime(6)")
    assert cli.main(["check", "-c", file]) == 0
