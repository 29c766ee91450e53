"""Case 25 and what belongs to it: mapped tables that change while the group runs, or while it does not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.schema_state import load_states
from cluster.topology import load_tables
from replication.engines import load_engine
from replication.errors import SchemaChanged
from tests.fixtures.evolving import App, apps, group_config, running

CREATE = "CREATE TABLE orders (id int PRIMARY KEY, name varchar(20), qty int)"


@pytest.fixture
def dsns(postgres_db: str, mysql_db: str, mongodb_db: str) -> dict[str, str]:
    return {"pg": postgres_db, "my": mysql_db, "mongo": mongodb_db}


def policies(**policy: str) -> str:
    said = "".join(f", {key}: {value}" for key, value in policy.items())
    return f"orders: {{key: [id]{said}}}"


def equal(nodes: dict[str, App], count: int, *columns: str) -> bool:
    found = [app.rows(*columns) for app in nodes.values()]
    return all(len(rows) == count for rows in found) and all(rows == found[0] for rows in found)


def shown(nodes: dict[str, App], *columns: str) -> dict[str, Any]:
    return {name: app.rows(*columns) for name, app in nodes.items()}


class Writer(threading.Thread):
    """Inserts and updates rows at one node until told to stop, from some moment on with the new column."""

    def __init__(self, app: App, first: int) -> None:
        super().__init__(daemon=True)
        self.app, self.next, self.first = app, first, first
        self.new_column = False
        self.stopping = threading.Event()
        self.expected: dict[int, Any] = {}

    def run(self) -> None:
        while not self.stopping.wait(0.005):
            ident, self.next = self.next, self.next + 1
            if self.new_column:
                self.app.insert(ident, name="w", extra=ident)
                self.expected[ident] = ident
            else:
                self.app.insert(ident, name="w")
                self.expected[ident] = 7

    def end(self) -> None:
        self.stopping.set()
        self.join(30)


SHAPES = [
    ("pg", "my", "mongo"),
    ("my", "pg", "mongo"),
    ("pg", "my"),
    ("my", "pg"),
    ("pg", "mongo"),
    ("my", "mongo"),
]
"""The first is where the column is added, the second where another application writes."""


@pytest.mark.parametrize("names", SHAPES, ids="-".join)
def test_column_added_live(dsns: dict[str, str], tmp_path: Path, names: tuple[str, ...]) -> None:
    """With writes in flight at that node and at another: every value is the one of its place in the log."""
    source, other = names[:2]
    ends = {name: dsns[name] for name in names}
    config = group_config(tmp_path, ends, policies(schema="evolve"))
    with apps(ends) as nodes, apps({source: dsns[source], other: dsns[other]}) as writing:
        nodes[source].sql(CREATE)
        with running(config) as group:
            for ident in range(20):
                nodes[source].insert(ident, name="old")
            group.until(lambda: equal(nodes, 20, "name"), lambda: shown(nodes, "name"))
            here, there = Writer(writing[source], 1000), Writer(writing[other], 5000)
            here.start()
            there.start()
            group.until(lambda: here.next > 1020 and there.next > 5020)
            # An application that writes documents goes on without the field, which then is null elsewhere.
            constraint = "" if other == "mongo" else "NOT NULL"
            nodes[source].sql(f"ALTER TABLE orders ADD COLUMN extra int {constraint} DEFAULT 7")
            here.new_column = True
            group.until(lambda: group.incarnations > 1)
            nodes[source].sql("UPDATE orders SET extra = 8 WHERE id < 5")
            written = here.next
            group.until(lambda: here.next > written + 20)
            here.end()
            there.end()
            expected = {i: 8 if i < 5 else 7 for i in range(20)} | here.expected | there.expected
            count = len(expected)
            group.until(lambda: equal(nodes, count, "name", "extra"), lambda: shown(nodes, "extra"))
            found = {ident: row[0] for ident, row in nodes[names[-1]].rows("extra").items()}
            nodes[other].insert(9999, name="after")
            last = None if other == "mongo" else 7
            group.until(lambda: nodes[names[-1]].rows("extra").get(9999) == (last,))
            group.until(lambda: nodes[source].rows("extra").get(9999) == (last,))
    if other == "mongo":
        expected |= {i: None for i in there.expected if found.get(i) is None}
    assert {i: v for i, v in found.items() if v != expected[i]} == {}
    assert group.incarnations == 2


@pytest.mark.parametrize("source", ["pg", "my"])
def test_widened_columns_are_carried(dsns: dict[str, str], tmp_path: Path, source: str) -> None:
    other = "my" if source == "pg" else "pg"
    ends = {source: dsns[source], other: dsns[other]}
    config = group_config(tmp_path, ends, policies(schema="evolve"))
    with apps(ends) as nodes:
        for app in nodes.values():
            app.sql("CREATE TABLE orders (id int PRIMARY KEY, name varchar(5) NOT NULL, qty smallint)")
        with running(config) as group:
            nodes[source].insert(1, name="short", qty=1)
            group.until(lambda: equal(nodes, 1, "name", "qty"))
            if source == "pg":
                alter = "ALTER name TYPE varchar(50), ALTER name DROP NOT NULL, ALTER qty TYPE bigint"
            else:
                alter = "MODIFY name varchar(50), MODIFY qty bigint"
            nodes[source].sql(f"ALTER TABLE orders {alter}")
            nodes[source].insert(2, name="x" * 50, qty=1 << 40)
            nodes[source].insert(3, name=None, qty=1)
            group.until(lambda: equal(nodes, 3, "name", "qty"), lambda: shown(nodes, "name", "qty"))
            nodes[other].insert(4, name="y" * 50, qty=-(1 << 40))
            group.until(lambda: equal(nodes, 4, "name", "qty"), lambda: shown(nodes, "name", "qty"))


ADDED = [
    ("pg", "a numeric(10,2) NOT NULL DEFAULT 1.50", "1.50"),
    ("pg", "a boolean NOT NULL DEFAULT true", True),
    ("pg", "a text NOT NULL DEFAULT 'it''s'", "it's"),
    ("pg", "a date NOT NULL DEFAULT '2026-01-02'", None),
    ("pg", "a timestamptz NOT NULL DEFAULT now()", None),
    ("pg", "a jsonb DEFAULT '{\"b\": [1]}'", None),
    ("my", "a decimal(10,2) NOT NULL DEFAULT 1.50", "1.50"),
    ("my", "a boolean NOT NULL DEFAULT 1", True),
    ("my", "a varchar(20) NOT NULL DEFAULT 'it''s'", "it's"),
    ("my", "a varchar(20) NOT NULL", ""),
    ("my", "a datetime(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)", None),
]


@pytest.mark.parametrize("source", ["pg", "my"])
def test_rows_that_were_there_get_the_same_values(dsns: dict[str, str], tmp_path: Path, source: str) -> None:
    """Several columns one after the other, each with another default, some dropped again at once."""
    other = "my" if source == "pg" else "pg"
    ends = {source: dsns[source], other: dsns[other], "mongo": dsns["mongo"]}
    config = group_config(tmp_path, ends, policies(schema="evolve"))
    added = [
        (line.replace("a ", f"c{i} ", 1), value) for i, (s, line, value) in enumerate(ADDED) if s == source
    ]
    with apps(ends) as nodes:
        nodes[source].sql(CREATE)
        with running(config) as group:
            for ident in range(3):
                nodes[source].insert(ident, name="old")
            group.until(lambda: equal(nodes, 3, "name"))
        for line, _ in added:
            nodes[source].sql(f"ALTER TABLE orders ADD COLUMN {line}")
        nodes[source].sql(f"ALTER TABLE orders ALTER COLUMN {added[0][0].split()[0]} DROP DEFAULT")
        with running(config) as group:
            assert group.incarnations == 1
            columns = [line.split()[0] for line, _ in added]
            table = load_tables(config)[0]
            read = []
            for name in ends:
                engine = load_engine(config.node(name), config.group)
                snapshot = engine.snapshot()
                read.append(snapshot.read_chunk(table, None, 10).select(["_key", *columns]))
                snapshot.close()
            assert [c.null_count for c in read[0].columns] == [0] * len(read[0].columns)
            for name, rows in zip(ends, read, strict=True):
                assert rows.num_rows == 3
                for column, (_, value) in zip(columns, added, strict=True):
                    left, right = read[0].column(column).to_pylist(), rows.column(column).to_pylist()
                    if str(read[0].column(column).type).startswith("timestamp") and name == "mongo":
                        left = [v.replace(microsecond=v.microsecond // 1000 * 1000) for v in left]
                    if str(right[0]).startswith("{"):
                        left, right = ([v.replace(" ", "") for v in side] for side in (left, right))
                    assert left == right, (name, column)
                    assert value is None or right == [value] * 3, (name, column)
            nodes["mongo"].docs.update_one({"_id": 1}, {"$set": {"name": "new"}})
            group.until(lambda: nodes[source].rows("name")[1] == ("new",))


def test_a_table_that_the_group_made_is_known(dsns: dict[str, str], tmp_path: Path) -> None:
    ends = {"pg": dsns["pg"], "my": dsns["my"]}
    config = group_config(tmp_path, ends, policies(schema="evolve"))
    with apps(ends) as nodes:
        nodes["pg"].sql(CREATE)
        with running(config) as group:
            nodes["my"].sql("ALTER TABLE orders ADD COLUMN extra int NOT NULL DEFAULT 7")
            group.until(lambda: group.incarnations > 1)
            nodes["my"].insert(1, name="a", extra=8)
            group.until(lambda: equal(nodes, 1, "name", "extra"))


def test_a_default_that_differs_by_row_halts(dsns: dict[str, str], tmp_path: Path) -> None:
    ends = {"pg": dsns["pg"], "my": dsns["my"]}
    config = group_config(tmp_path, ends, policies(schema="evolve"))
    with apps(ends) as nodes:
        nodes["pg"].sql(CREATE)
        with running(config) as group:
            nodes["pg"].insert(1, name="a")
            group.until(lambda: equal(nodes, 1, "name"))
            nodes["pg"].sql("ALTER TABLE orders ADD COLUMN a float8 DEFAULT random()")
            nodes["pg"].insert(2, name="b")
            error = group.until_halted()
        assert "gave each row a value of its own" in error.message
        assert "up --accept orders" in error.hint
        (why,) = load_states(config)["pg"].halted.values()
        assert why.change.startswith("column a was added (double precision)")
        with pytest.raises(SchemaChanged, match="gave each row"), running(config):
            pass
        with running(config, accept=["orders"]) as group:  # only one node has it, so it stays there
            group.until(lambda: equal(nodes, 2, "name"))
        assert len(nodes["my"].sql("SHOW COLUMNS FROM orders")) == 3


def test_ignored_columns_stay_at_home_after_a_restart(dsns: dict[str, str], tmp_path: Path) -> None:
    ends = {"pg": dsns["pg"], "my": dsns["my"]}
    config = group_config(tmp_path, ends)
    with apps(ends) as nodes:
        nodes["pg"].sql(CREATE)
        with running(config) as group:
            nodes["pg"].insert(1, name="a")
            group.until(lambda: equal(nodes, 1, "name"))
            nodes["pg"].sql("ALTER TABLE orders ADD COLUMN a int DEFAULT 1")
            nodes["pg"].insert(2, name="b", a=5)
            group.until(lambda: equal(nodes, 2, "name"))
        (note,) = group.recorded()
        assert note["kind"] == "schema_change"
        assert "column a was added" in note["detail"]
        assert [c.name for c in load_tables(config)[0].schema.columns] == ["id", "name", "qty"]
        with running(config) as group:
            nodes["my"].insert(3, name="c")
            group.until(lambda: equal(nodes, 3, "name"))
            assert group.incarnations == 1
        assert nodes["pg"].rows("a") == {1: (1,), 2: (5,), 3: (1,)}


@pytest.mark.parametrize(("source", "policy"), [("pg", "ignore"), ("my", "halt")])
def test_a_column_that_is_gone_halts_until_it_is_accepted(
    dsns: dict[str, str], tmp_path: Path, source: str, policy: str
) -> None:
    other = "my" if source == "pg" else "pg"
    ends = {source: dsns[source], other: dsns[other]}
    config = group_config(tmp_path, ends, policies(schema=policy))
    with apps(ends) as nodes:
        nodes[source].sql(CREATE)
        with running(config) as group:
            nodes[source].insert(1, name="a", qty=1)
            group.until(lambda: equal(nodes, 1, "name", "qty"))
            nodes[source].insert(2, name="b", qty=2)
            nodes[source].sql("ALTER TABLE orders DROP COLUMN qty")
            nodes[source].insert(3, name="c")
            error = group.until_halted()
        assert "column qty is gone" in error.message
        assert (error.node, error.table) == (source, "orders")
        if source == "my" and policy == "halt":
            assert "ALTER TABLE orders DROP COLUMN qty" in error.message
        with pytest.raises(SchemaChanged, match="column qty is gone"), running(config):
            pass
        with running(config, accept=["orders"]) as group:
            group.until(lambda: equal(nodes, 3, "name"), lambda: shown(nodes, "name"))
            nodes[other].insert(4, name="d", qty=4)
            group.until(lambda: equal(nodes, 4, "name"), lambda: shown(nodes, "name"))
        assert nodes[other].rows("qty")[4] == (4,)
        assert load_states(config)[source].halted == {}


@pytest.mark.parametrize(
    ("source", "policy"), [("pg", "carry"), ("my", "carry"), ("my", "ignore"), ("pg", "halt")]
)
def test_truncate(dsns: dict[str, str], tmp_path: Path, source: str, policy: str) -> None:
    other = "my" if source == "pg" else "pg"
    ends = {source: dsns[source], other: dsns[other], "mongo": dsns["mongo"]}
    config = group_config(tmp_path, ends, policies(truncate=policy))
    with apps(ends) as nodes:
        nodes[source].sql(CREATE)
        with running(config) as group:
            for ident in range(50):
                nodes[source].insert(ident, name="old")
            group.until(lambda: equal(nodes, 50, "name"))
            nodes[source].insert(100, name="just before")
            nodes[source].sql("TRUNCATE TABLE orders")
            nodes[source].insert(101, name="just after")
            if policy == "carry":
                group.until(lambda: equal(nodes, 1, "name"), lambda: shown(nodes, "name"))
            elif policy == "ignore":
                group.until(lambda: len(nodes[other].rows()) == 52, lambda: shown(nodes, "name"))
            else:
                assert "trunc" in group.until_halted().message.lower()
        if policy == "halt":
            with running(config) as group:
                group.until_halted()
            with running(config, accept=["orders"]) as group:
                group.until(lambda: len(nodes[other].rows()) == 52, lambda: shown(nodes, "name"))
            with running(config) as group:
                nodes[other].insert(102, name="later")
                group.until(lambda: 102 in nodes[source].rows())
        notes = [n for n in group.recorded() if '"truncate"' in n["detail"]]
        assert len(notes) == (1 if policy != "halt" else len(notes))
        if policy != "halt":
            assert '"table":"orders"' in notes[0]["detail"]


def test_a_truncate_spares_what_its_node_had_not_seen(dsns: dict[str, str], tmp_path: Path) -> None:
    """Written elsewhere later, and not seen by the statement: a true conflict, which the later one wins."""
    ends = {"pg": dsns["pg"], "my": dsns["my"]}
    config = group_config(tmp_path, ends, policies(truncate="carry"))
    with apps(ends) as nodes:
        nodes["pg"].sql(CREATE)
        with running(config) as group:
            nodes["pg"].insert(1, name="a")
            group.until(lambda: equal(nodes, 1, "name"))
        nodes["pg"].sql("TRUNCATE orders")
        nodes["my"].insert(2, name="b")
        with running(config) as group:
            group.until(lambda: equal(nodes, 1, "name"), lambda: shown(nodes, "name"))
            assert nodes["pg"].rows("name") == {2: ("b",)}


def test_a_swap_of_gh_ost(dsns: dict[str, str], tmp_path: Path) -> None:
    """What it does: a copy with the new shape, its rows, and then the swap."""
    ends = {"my": dsns["my"], "pg": dsns["pg"]}
    config = group_config(tmp_path, ends, policies(schema="evolve"))
    with apps(ends) as nodes:
        nodes["my"].sql(CREATE)
        with running(config) as group:
            nodes["my"].insert(1, name="a")
            group.until(lambda: equal(nodes, 1, "name"))
            nodes["my"].sql("CREATE TABLE _orders_gho LIKE orders")
            nodes["my"].sql("ALTER TABLE _orders_gho ADD COLUMN extra int NOT NULL DEFAULT 7")
            nodes["my"].sql("INSERT INTO _orders_gho (id, name, qty) SELECT id, name, qty FROM orders")
            nodes["my"].sql("RENAME /* gh-ost */ TABLE orders TO _orders_del, _orders_gho TO orders")
            nodes["my"].insert(2, name="b", extra=9)
            group.until(lambda: group.incarnations > 1)
            group.until(lambda: equal(nodes, 2, "name", "extra"), lambda: shown(nodes, "name"))
        assert nodes["pg"].rows("extra") == {1: (7,), 2: (9,)}
        with running(config) as group:
            nodes["my"].sql("CREATE TABLE staged LIKE orders")
            nodes["my"].sql("RENAME TABLE orders TO backup, staged TO orders")
            assert "RENAME TABLE orders TO backup" in group.until_halted().message
