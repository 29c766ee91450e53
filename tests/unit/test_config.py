"""The configuration: what is read, and what is said of every mistake."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cluster import config
from cluster.config import GroupConfig, InvalidConfig, Limits, auto_shards, load
from cluster.config_api import ApiConfig
from replication.errors import ConfigError
from replication.schema import NodeConfig, TableMapping

DESIGN = """\
group: shop
nodes:
  pg:    {engine: postgres, dsn: "postgresql://sync@127.0.0.1:5432/shop", priority: 30}
  mongo: {engine: mongodb,  dsn: "mongodb://127.0.0.1:27017/shop",        priority: 10}
tables:
  orders:
    key: [id]
    names: {pg: public.orders, mongo: orders}
    columns: {address_city: {mongo: address.city}}
    exclude: [internal_note]
    conflict: [merge_fields, last_write_wins]
    initial: {from: pg}
create_tables: true
ordering: key
shards: 3
audit: {path: data/audit}
api: {host: 127.0.0.2, port: 4001}
limits: {batch_rows: 500, heartbeat_seconds: 2.5}
"""
MINIMAL = """\
group: shop
nodes:
  pg: {engine: postgres, dsn: "postgresql://127.0.0.1/shop"}
  mongo: {engine: mongodb, dsn: "mongodb://127.0.0.1/shop"}
tables:
  orders: {key: [id]}
"""


def read(text: str, folder: Path = Path("/srv"), **environ: str) -> GroupConfig:
    return config.parse(text, "sync.yaml", folder, environ)


def complaints(text: str, **environ: str) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        read(text, **environ)
    return [f"{p} | {p.hint}" for p in caught.value.problems]


def with_line(line: str, after: str = "  orders: {key: [id]}\n") -> str:
    return MINIMAL.replace(after, after + line + "\n")


def test_the_whole_file_is_read() -> None:
    assert read(DESIGN) == GroupConfig(
        group="shop",
        nodes=(
            NodeConfig("pg", "postgres", "postgresql://sync@127.0.0.1:5432/shop", 30),
            NodeConfig("mongo", "mongodb", "mongodb://127.0.0.1:27017/shop", 10),
        ),
        tables=(
            TableMapping(
                "orders",
                ("id",),
                {"pg": "public.orders", "mongo": "orders"},
                {"address_city": {"mongo": "address.city"}},
                frozenset({"internal_note"}),
                ("merge_fields", "last_write_wins"),
                "pg",
            ),
        ),
        create_tables=True,
        ordering="key",
        shards=3,
        audit_path=Path("/srv/data/audit"),
        api=ApiConfig("127.0.0.2", 4001),
        limits=Limits(batch_rows=500, heartbeat_seconds=2.5),
    )


def test_defaults() -> None:
    found = read(MINIMAL)
    assert found.tables == (TableMapping("orders", ("id",), {"pg": "orders", "mongo": "orders"}),)
    assert (found.create_tables, found.ordering, found.shards) == (False, "key", auto_shards("key"))
    assert (found.api, found.limits) == (None, Limits())
    assert found.audit_path == Path("/srv/data/audit")
    assert [n.priority for n in found.nodes] == [0, 0]
    assert [n.name for n in found.by_priority()] == ["mongo", "pg"], "ties go by name"


def test_the_configuration_travels() -> None:
    found = read(DESIGN)
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("cpus", "ordering", "shards"), [(1, "key", 1), (2, "key", 1), (8, "key", 4), (8, "transaction", 1)]
)
def test_auto_shards(monkeypatch: pytest.MonkeyPatch, cpus: int, ordering: str, shards: int) -> None:
    monkeypatch.setattr(config.os, "cpu_count", lambda: cpus)
    assert auto_shards(ordering) == shards


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mongodb://u:p%40ss@127.0.0.1/shop\n")
    text = MINIMAL.replace("postgresql://127", "postgresql://${USER_NAME}:${PASSWORD}@127")
    text = text.replace('"mongodb://127.0.0.1/shop"', "{file: secret}")
    found = read(text, tmp_path, USER_NAME="me", PASSWORD="a: #b")
    assert found.node("pg").dsn == "postgresql://me:a: #b@127.0.0.1/shop", "a value is never read as YAML"
    assert found.node("mongo").dsn == "mongodb://u:p%40ss@127.0.0.1/shop"
    assert "p%40ss" not in repr(found)


def test_a_secret_is_in_no_complaint() -> None:
    text = MINIMAL.replace("postgresql://127.0.0.1/shop", "${DSN}")
    text = text.replace("[id]", '[id], conflict: ["${DSN}"], initial: {from: "${DSN}"}')
    text += '  items: {key: [id], initial: "${DSN}"}\nshards: ${DSN}\nordering: ${DSN}\ngroup: ${DSN}\n'
    text = text.replace("group: shop\n", "").replace("engine: mongodb", 'engine: "${DSN}"')
    found = complaints(text, DSN="mysql://me:hunter2@db/shop")
    assert len(found) == 8
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("${NOPE}", "nodes.pg.dsn: the environment variable NOPE is not set | set it: export NOPE=..."),
        ("postgresql://${a b}/x", "nodes.pg.dsn: '${' does not begin a variable | write ${NAME}"),
        ("postgresql://${A/x", "nodes.pg.dsn: '${' does not begin a variable | write ${NAME}"),
        ("mongodb://h/shop", "nodes.pg.dsn: not an address of postgres | it begins with postgresql://"),
        (
            "postgresql://u@h:5432",
            "nodes.pg.dsn: the address names no database | write postgresql://host:port/DATABASE",
        ),
    ],
)
def test_addresses(dsn: str, expected: str) -> None:
    assert complaints(MINIMAL.replace("postgresql://127.0.0.1/shop", dsn)) == [f"sync.yaml:3: {expected}"]


def test_secret_files_that_cannot_be_read(tmp_path: Path) -> None:
    text = MINIMAL.replace('"mongodb://127.0.0.1/shop"', f"{{file: {tmp_path}/none}}")
    assert complaints(text) == [
        f"sync.yaml:4: nodes.mongo.dsn.file: cannot read {tmp_path}/none: No such file or directory | "
    ]
    (tmp_path / "none").write_text("\n")
    assert f"{tmp_path}/none is empty" in complaints(text)[0]


NODES = 'nodes:\n  pg: {engine: postgres, dsn: "postgresql://127.0.0.1/shop"}\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "sync.yaml:1: the file is empty | see docs/configuration.md"),
        ("a: [", "sync.yaml:1: not valid YAML: expected the node content, but found '<stream end>' | "),
        ("a: \x07", "sync.yaml:1: not valid YAML: it holds control characters | "),
        (
            "- a",
            "sync.yaml:1: expected a mapping with group, nodes and tables, found a list"
            " | see docs/configuration.md",
        ),
        ("---\n" + MINIMAL + "---\n" + MINIMAL, "sync.yaml:8: not valid YAML: but found another document | "),
        (
            MINIMAL + "security: 1\n",
            "sync.yaml:7: security: not supported in this release | remove the section",
        ),
        (MINIMAL + "shard: 1\n", "sync.yaml:7: shard: unknown key | did you mean 'shards'?"),
        (MINIMAL + "group: b\n", "sync.yaml:7: group: given twice, first in line 1 | remove one of them"),
        (MINIMAL + "? [a]\n: b\n", "sync.yaml:7: expected a plain key, found a list | "),
        (
            MINIMAL + "create_tables: yes\n",
            "create_tables: 'yes' is not known here | use one of: true, false",
        ),
        (MINIMAL + "ordering: keys\n", "ordering: 'keys' is not known here | did you mean 'key'?"),
        (MINIMAL + "shards: many\n", "shards: expected a whole number, found 'many' | from 1 to 256"),
        (MINIMAL + "shards: 0\n", "shards: 0 is out of range | from 1 to 256"),
        (MINIMAL + "shards: [1]\n", "shards: expected text, found a list | "),
        (
            MINIMAL + "ordering: transaction\nshards: 2\n",
            "sync.yaml:8: shards: ordering: transaction needs one shard | write shards: 1, or leave it out",
        ),
        (MINIMAL + "api: {port: 0}\n", "api.port: 0 is out of range | from 1 to 65535"),
        (
            MINIMAL + "api: {host: 0.0.0.0}\n",
            "api.host: '0.0.0.0' is reached from elsewhere, and no api.auth | write host: 127.0.0.1",
        ),
        (MINIMAL + "api: {auth: {jwks: k.json, issuer: i}}\n", "api.auth: 'audience' is missing | "),
        (
            MINIMAL + "api: {auth: {jwks: 'http://a.test/keys', issuer: i, audience: a}}\n",
            "api.auth.jwks: keys that come in clear can be replaced on the way | use https://",
        ),
        (MINIMAL + "api: {tls: {certificate: some.crt}}\n", "api.tls: 'key' is missing | "),
        (MINIMAL + "api: {cors: ['*']}\n", "api.cors[0]: '*' is no origin | write scheme and host"),
        (
            MINIMAL + "api: {rate: {subjects: 1}}\n",
            "api.rate.subjects: unknown key | did you mean",
        ),
        (
            MINIMAL + "limits: {heartbeat: 3}\n",
            "limits.heartbeat: unknown key | did you mean 'heartbeat_seconds'?",
        ),
        (MINIMAL + "limits: {heartbeat_seconds: 11}\n", "limits.heartbeat_seconds: 11 is out of range"),
        (MINIMAL + "limits: {retry_max_seconds: nan}\n", "limits.retry_max_seconds: nan is out of range"),
        (
            MINIMAL + "limits: {batch_rows: 9, max_unacked_rows: 8}\n",
            "batch_rows (9) is more than max_unacked_rows",
        ),
        (MINIMAL + "audit:\n", "audit: expected a mapping, found nothing | "),
        (MINIMAL.replace("group: shop", "group: Shop"), "group: 'Shop' is not a valid name | use lower-case"),
        (MINIMAL.replace("shop\n", f"{'a' * 33}\n", 1), "is longer than 32 characters"),
        (MINIMAL.replace("group: shop\n", ""), "sync.yaml:1: 'group' is missing | "),
        (MINIMAL.replace("  pg:", "  9pg:"), "nodes.9pg: '9pg' is not a valid name | use lower-case letters"),
        (MINIMAL.replace("  pg:", "  merge:"), "nodes.merge: 'merge' is a word of the configuration"),
        (
            MINIMAL.replace("engine: postgres", "engine: postgre"),
            "no engine called 'postgre' | did you mean 'postgres'?",
        ),
        (
            MINIMAL.replace("engine: postgres", "engine: mysql"),
            "not an address of mysql | it begins with mysql://",
        ),
        (
            MINIMAL.replace(', dsn: "postgresql://127.0.0.1/shop"', ""),
            "sync.yaml:3: nodes.pg: 'dsn' is missing | ",
        ),
        (
            with_line("  pg2: {engine: postgres, dsn: [a]}", NODES),
            "expected an address, or {file: PATH}, found a list",
        ),
        (MINIMAL.replace(NODES, "nodes:\n"), "nodes: a group has 2 to 3 nodes, found 1 | "),
        (
            MINIMAL.replace(NODES, 'nodes:\n  b: {engine: mongodb, dsn: "mongodb://b/shop"}\n'),
            "nodes: no node declares columns: MongoDB's collections have none",
        ),
        (
            MINIMAL.replace('shop"}', 'shop", priority: 7}'),
            "sync.yaml:4: nodes.mongo.priority: 7 is also the priority of 'pg' | give each node its own",
        ),
        (MINIMAL.replace("  orders: {key: [id]}", "  {}"), "tables: no table is mapped | name at least one"),
        (MINIMAL.replace("{key: [id]}", "{}"), "tables.orders: 'key' is missing | "),
        (MINIMAL.replace("[id]", "[]"), "tables.orders.key: the list is empty | name at least 1"),
        (
            MINIMAL.replace("[id]", "id"),
            "tables.orders.key: expected a list, found a single value | write [a]",
        ),
        (
            MINIMAL.replace("[id]", "[id, id]"),
            "tables.orders.key[1]: 'id' is listed twice | remove one of them",
        ),
        (MINIMAL.replace("  orders:", "  or/ders:"), "'or/ders' is not a valid table name"),
        (
            MINIMAL.replace("[id]", "[id], names: {pgg: x}"),
            "names.pgg: no node called 'pgg' | did you mean 'pg'?",
        ),
        (
            MINIMAL.replace("[id]", "[id], names: {pg: sync_worker.x}"),
            "'sync_worker.x' on pg is one of our own tables",
        ),
        (
            with_line("  other: {key: [id], names: {pg: orders}}"),
            "tables.other: 'orders' on pg is mapped by 'orders'",
        ),
        (
            MINIMAL.replace("[id]", "[id], columns: {id: {mongo: oid}}"),
            "columns.id.mongo: in MongoDB the key is always _id",
        ),
        (
            MINIMAL.replace("[id]", "[id], columns: {a: {mongo: _id}}"),
            "columns.a.mongo: in MongoDB the key is always _id",
        ),
        (
            MINIMAL.replace("[id]", "[id], columns: {a: {x: b}}"),
            "columns.a.x: no node called 'x' | use one of: pg, mongo",
        ),
        (
            MINIMAL.replace("[id]", "[id], columns: {a: {pg: x}, b: {pg: x}}"),
            "columns.b.pg: 'x' on pg is the place of 'a'",
        ),
        (MINIMAL.replace("[id]", "[id], exclude: [id]"), "exclude[0]: 'id' is a key column"),
        (
            MINIMAL.replace("[id]", "[id], columns: {a: {pg: b}}, exclude: [a]"),
            "exclude[0]: 'a' is mapped under 'columns'",
        ),
        (
            MINIMAL.replace("[id]", "[id], conflict: [merge_field]"),
            "conflict[0]: no policy called 'merge_field' | did you",
        ),
        (
            MINIMAL.replace("[id]", "[id], conflict: [merge_fields, manual]"),
            "conflict[1]: a row cannot go on hold in part | leave out 'merge_fields', or 'manual'",
        ),
        (
            MINIMAL.replace("[id]", "[id], conflict: [manual, last_write_wins]"),
            "conflict[0]: what follows 'manual' is never asked | put it last",
        ),
        (MINIMAL.replace("[id]", "[id], conflict: []"), "tables.orders.conflict: the list is empty"),
        (
            MINIMAL.replace("[id]", "[id], initial: {from: pgg}"),
            "initial.from: no node called 'pgg' | did you mean 'pg'?",
        ),
        (
            MINIMAL.replace("[id]", "[id], initial: pg"),
            "initial: a node is named with 'from' | write initial: {from: pg}",
        ),
        (
            MINIMAL.replace("[id]", "[id], initial: all"),
            "initial: 'all' is not known here | write {from: NODE}, merge",
        ),
    ],
)
def test_each_mistake_is_named_with_its_line_and_its_fix(text: str, expected: str) -> None:
    [found] = complaints(text)
    assert expected in found


def test_all_mistakes_are_reported_together_in_the_order_of_the_file() -> None:
    text = (
        DESIGN.replace("shop\n", "Shop\n", 1)
        .replace("from: pg", "from: pgg")
        .replace("shards: 3", "shards: x")
    )
    found = complaints(text)
    assert [line.split(" ")[:2] for line in found] == [
        ["sync.yaml:1:", "group:"],
        ["sync.yaml:12:", "tables.orders.initial.from:"],
        ["sync.yaml:15:", "shards:"],
    ]


def test_unreadable_nodes_do_not_make_the_tables_wrong() -> None:
    assert complaints(
        MINIMAL.replace(NODES, "").replace("  mongo:", "# ").replace("[id]", "[id], initial: {from: a}")
    ) == ["sync.yaml:1: 'nodes' is missing | "]


def test_policies_of_your_own_and_other_values() -> None:
    text = MINIMAL.replace("[id]", "[id], conflict: [my.rules:newest, last_write_wins], initial: merge")
    [table] = read(text).tables
    assert (table.conflict, table.initial) == (("my.rules:newest", "last_write_wins"), "merge")


def test_what_follows_when_a_table_changes() -> None:
    found = read(with_line("  items: {key: [id], schema: evolve, truncate: carry}"))
    assert [(t.on_alter, t.on_truncate) for t in found.tables] == [("ignore", "halt"), ("evolve", "carry")]
    (wrong,) = complaints(with_line("  items: {key: [id], schema: evolv}"))
    assert "tables.items.schema" in wrong
    assert "evolve" in wrong


def test_the_error_survives_a_journey_and_reads_well() -> None:
    with pytest.raises(InvalidConfig) as caught:
        read(MINIMAL + "shard: 1\n")
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.problems == caught.value.problems
    assert error.message == "sync.yaml:7: shard: unknown key\n    hint: did you mean 'shards'?"


def test_files_are_found_relative_to_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "sync.yaml"
    file.write_text(MINIMAL)
    assert load(file).audit_path == tmp_path / "data/audit"
    with pytest.raises(ConfigError, match="No such file") as caught:
        load(tmp_path / "other.yaml")
    assert "-c FILE" in caught.value.hint
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not a UTF-8 text file"):
        load(file)


def test_a_problem_found_later_names_its_line() -> None:
    found = read(DESIGN)
    assert str(found.problem("tables.orders.key", "gone")) == "sync.yaml:7: tables.orders.key: gone"
    assert str(found.problem("tables.orders.columns.x.y", "gone")).startswith("sync.yaml:9: ")
    assert str(found.problem("nowhere", "gone")).startswith("sync.yaml:1: ")


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    example = document.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/mongo.dsn").write_text("mongodb://127.0.0.1:27017/shop\n")
    found = read(example, tmp_path, PG_PASSWORD="pw")
    assert found.node("pg").dsn == "postgresql://sync:pw@127.0.0.1:5432/shop"
    for name, default in ((n, getattr(Limits(), n)) for n in Limits.__dataclass_fields__):
        [line] = [x for x in document.splitlines() if x.startswith(f"| `{name}`")]
        assert f"| {default:g} |" in line.replace("16777216", f"{16777216:g}")
