"""`db init`, `migrate` and `drop`: what the group keeps on real databases is made, known and removed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient

from actors.pipeline import prepare
from cluster.cli import main
from cluster.commands.common import engines_of
from cluster.config import load
from cluster.topology import load_tables
from replication.audit.reader import entries
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.errors import LogLost, PreflightFailed
from replication.formats import FORMAT
from replication.schema import NodeConfig

ROLE = "sync_db"
CONFIG = """\
group: shop
nodes:
  pg: {{engine: postgres, dsn: "{pg}", priority: 30}}
  my: {{engine: mysql, dsn: "{my}", priority: 20}}
  mongo: {{engine: mongodb, dsn: "{mongo}", priority: 10}}
tables:
  orders: {{key: [id]}}
create_tables: true
shards: 1
audit: {{path: audit}}
"""


class Shop:
    """Three databases, and on two of them an account that may do just what the group asks for."""

    def __init__(self, stack: ExitStack, folder: Path, pg: str, my: str, mongo: str) -> None:
        self.pg: Any = stack.enter_context(psycopg.connect(pg, autocommit=True))
        self.my = stack.enter_context(closing(connect(parse(NodeConfig("my", "mysql", my)))))
        self.docs: Any = stack.enter_context(MongoClient(mongo)).get_default_database()
        stack.callback(self.remove_accounts)
        self.remove_accounts()
        self.base = self.pg.info.dbname
        self.pg.execute(f"CREATE ROLE {ROLE} LOGIN REPLICATION")
        self.pg.execute(f"GRANT SET ON PARAMETER session_replication_role TO {ROLE}")
        self.pg.execute(f'GRANT CREATE ON DATABASE "{self.base}" TO {ROLE}')
        self.pg.execute("CREATE TABLE orders (id int PRIMARY KEY, name text)")
        self.pg.execute("INSERT INTO orders VALUES (1, 'kept')")
        self.pg.execute(f"ALTER TABLE orders OWNER TO {ROLE}")
        self.mine(f"CREATE USER {ROLE}")
        self.mine(f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {ROLE}")
        self.schema = parse(NodeConfig("my", "mysql", my)).database
        self.mine(f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON `{self.schema}`.* TO {ROLE}")
        self.file = folder / "sync.yaml"
        weak = [re.sub(r"//[^@]*@", f"//{ROLE}@", dsn) for dsn in (pg, my)]
        self.file.write_text(CONFIG.format(pg=weak[0], my=weak[1], mongo=mongo))
        self.config = load(self.file)

    def mine(self, statement: str) -> list[Any]:
        with self.my.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def remove_accounts(self) -> None:
        self.mine(f"DROP USER IF EXISTS {ROLE}")
        if self.pg.execute("SELECT FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone() is not None:
            self.pg.execute(f"DROP OWNED BY {ROLE} CASCADE")
            self.pg.execute(f"DROP ROLE {ROLE}")

    def forbid_creating(self) -> None:
        self.pg.execute(f'REVOKE CREATE ON DATABASE "{self.base}" FROM {ROLE}')
        self.mine(f"REVOKE CREATE ON `{self.schema}`.* FROM {ROLE}")

    def db(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, tuple[int, str]]]:
        """Run a command; its code, and by node the format and what was done."""
        code = main(["db", *words, "-c", str(self.file), "--json"])
        shown = capsys.readouterr().out
        rows = json.loads(shown)["nodes"] if shown else []
        return code, {row["node"]: (row["format"], row["done"]) for row in rows}

    def left(self) -> list[Any]:
        """What there is of ours."""
        slots = self.pg.execute("SELECT slot_name FROM pg_replication_slots WHERE database = %s", [self.base])
        schema = "SELECT nspname FROM pg_namespace WHERE nspname = 'sync_worker'"
        tables = [row[0] for row in self.mine("SHOW TABLES")]
        return [
            *slots.fetchall(),
            *self.pg.execute("SELECT pubname FROM pg_publication").fetchall(),
            *self.pg.execute(schema).fetchall(),
            *(
                name
                for name in (*tables, *self.docs.list_collection_names())
                if name.startswith("sync_worker")
            ),
        ]


@pytest.fixture
def shop(postgres_db: str, mysql_db: str, mongodb_db: str, tmp_path: Path) -> Iterator[Shop]:
    with ExitStack() as stack:
        yield Shop(stack, tmp_path, postgres_db, mysql_db, mongodb_db)


def test_what_was_made_before_needs_no_privilege_to_create(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = "nothing yet: 'db init', or the first 'up', makes it"
    assert shop.db(capsys, "migrate") == (0, dict.fromkeys(("pg", "my", "mongo"), (0, nothing)))
    assert shop.db(capsys, "init") == (
        0,
        {
            "pg": (FORMAT, "made our own tables"),
            "my": (FORMAT, "made table orders, our own tables"),
            "mongo": (FORMAT, "made table orders, our own tables"),
        },
    )
    shop.forbid_creating()
    assert main(["check", "-c", str(shop.file)]) == 0, capsys.readouterr().out
    capsys.readouterr()
    there = dict.fromkeys(("pg", "my", "mongo"), (FORMAT, "all was there"))
    assert shop.db(capsys, "init") == (0, there)
    markers = prepare("shop", engines_of(shop.config), load_tables(shop.config), 1)
    assert {len(of_node) for of_node in markers.values()} == {1}, "the group could begin"
    assert shop.db(capsys, "migrate")[1]["pg"] == (FORMAT, "nothing to migrate")


def test_no_release_reads_what_a_newer_one_made(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert shop.db(capsys, "init")[0] == 0
    update = f"'{FORMAT + 1}' WHERE name = '/format'"
    shop.pg.execute(f"UPDATE sync_worker.state SET value = {update}")
    shop.mine(f"UPDATE sync_worker_state SET value = {update}")
    shop.docs["sync_worker.state"].update_one({"_id": "/format"}, {"$set": {"value": str(FORMAT + 1)}})
    tables = load_tables(shop.config)
    for node, engine in engines_of(shop.config).items():
        with closing(engine.control()) as control, pytest.raises(PreflightFailed) as refused:
            control.prepare(tables)
        assert (refused.value.node, "newer release" in refused.value.message) == (node, True)
    assert shop.db(capsys, "migrate")[0] == 2


def test_what_is_ours_is_removed_and_no_row_of_an_application(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shop.db(capsys, "init")[0] == 0
    engines, tables = engines_of(shop.config), load_tables(shop.config)
    prepare("shop", engines, tables, 1)
    with closing(engines["pg"].lease("somebody")) as lease:
        assert lease.hold() is None
        assert main(["db", "drop", "--yes", "-c", str(shop.file)]) == 2
        assert "stop 'sync-worker up' first" in capsys.readouterr().err
    assert shop.db(capsys, "drop", "--node", "nobody")[0] == 2
    assert shop.db(capsys, "drop") == (1, {}), "nobody at a terminal agreed"
    removed = (0, "removed what is of the group")
    assert shop.db(capsys, "drop", "--node", "pg", "--yes") == (0, {"pg": removed})
    shop.pg.execute("INSERT INTO orders VALUES (2, 'written meanwhile')")
    resume = prepare("shop", engines, tables, 1)["my"][0].resume["pg"]
    with closing(engines["pg"].source(tables, resume)) as source, pytest.raises(LogLost):
        source.poll(100, 1.0)
    stay = "; our tables stay, for another group or since the account may drop none"
    everywhere = {"pg": removed, "my": (FORMAT, removed[1] + stay), "mongo": removed}
    shop.config.audit_path.mkdir()
    assert shop.db(capsys, "drop", "--yes") == (0, everywhere)
    assert shop.left() == [f"sync_worker_{name}" for name in ("marker", "state", "watermark")]
    assert shop.mine("SELECT * FROM sync_worker_marker") == []
    shop.mine(f"GRANT DROP ON `{shop.schema}`.* TO {ROLE}")
    assert shop.db(capsys, "drop", "--yes")[0] == 0
    assert shop.left() == []
    assert shop.pg.execute("SELECT id FROM orders ORDER BY id").fetchall() == [(1,), (2,)]
    assert "orders" in shop.docs.list_collection_names()
    record, _ = entries(shop.config.audit_path, "operator")
    assert (record["kind"], json.loads(record["detail"])) == ("dropped", {"nodes": ["pg", "my", "mongo"]})
