"""The column of the rest while the table changes: a field becomes a column's, or is left over from one."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actors.backfill import Backfill, Surroundings
from cluster.comparison import Manner, compare
from cluster.config import GroupConfig
from cluster.topology import load_tables
from replication.audit.holds import open_holds
from replication.engines import load_engine
from tests.fixtures.evolving import App, Group, apps, group_config, running

CREATE = "CREATE TABLE orders (id int PRIMARY KEY, name varchar(20), qty int, doc {json})"


@pytest.fixture(params=["pg", "my"])
def dsns(request: pytest.FixtureRequest, postgres_db: str, mysql_db: str, mongodb_db: str) -> dict[str, str]:
    """The first one is where the table changes."""
    ends = {"pg": postgres_db, "my": mysql_db}
    return {request.param: ends.pop(request.param), **ends, "mongo": mongodb_db}


def configured(folder: Path, dsns: dict[str, str], more: str = "") -> GroupConfig:
    return group_config(folder, dsns, f"orders: {{key: [id], rest: doc, schema: evolve{more}}}")


def create(app: App) -> None:
    app.sql(CREATE.format(json="jsonb" if app.engine == "postgres" else "json"))


def rest(app: App, ident: int) -> Any:
    value = app.rows("doc").get(ident, (...,))[0]
    return json.loads(value) if isinstance(value, str) else value


def differences(config: GroupConfig) -> list[Any]:
    engines = [load_engine(node, config.group) for node in config.nodes]
    (result,) = compare(engines, load_tables(config), Manner(quiet_time=0.2))
    return result.shown


def backfill(config: GroupConfig, group: Group) -> None:
    """What `sync-worker backfill orders --from mongo` does, once everything has settled."""
    pipeline = group.pipeline
    group.until(lambda: all(r.shard.idle for r in pipeline.resolvers))
    capture, engine = pipeline.captures["mongo"], load_engine(config.node("mongo"), config.group)

    def wait(seconds: float) -> None:
        assert not pipeline.stopping.wait(max(seconds, 0.05)), pipeline.error
        for resolver in pipeline.resolvers:
            resolver.heartbeat()

    around = Surroundings(capture, capture.released, wait, time.monotonic)
    with closing(engine.snapshot()) as snapshot, closing(engine.control()) as control:
        Backfill(load_tables(config)[0], "again", snapshot, control, around).run(afresh=True)


def test_a_new_column_beside_the_rest(dsns: dict[str, str], tmp_path: Path) -> None:
    """No document has its field, so it is carried; then the field is the column's."""
    config = configured(tmp_path, dsns)
    with apps(dsns) as nodes:
        first, other, _ = dsns
        create(nodes[first])
        with running(config) as group:
            nodes["mongo"].insert(1, name="a", tag="x")
            group.until(lambda: rest(nodes[other], 1) == rest(nodes[first], 1) == {"tag": "x"})
            nodes[first].sql("ALTER TABLE orders ADD COLUMN score int NOT NULL DEFAULT 3")
            nodes[first].insert(3, name="c", score=6, doc='{"tag": "z"}')
            group.until(lambda: group.incarnations > 1)
            nodes["mongo"].insert(2, name="b", score=5, tag="y")
            nodes["mongo"].docs.update_one({"_id": 1}, {"$set": {"more": 1}})
            nodes[other].sql("UPDATE orders SET qty = 9 WHERE id = 2")
            expected = {1: (3, {"tag": "x", "more": 1}), 2: (5, {"tag": "y"}), 3: (6, {"tag": "z"})}
            for node in (first, other):
                group.until(
                    lambda node=node: (
                        {
                            i: (score, rest(nodes[node], i))
                            for i, (score,) in nodes[node].rows("score").items()
                        }
                        == expected
                    ),
                    lambda node=node: f"{node}: {nodes[node].rows('score', 'doc')}",
                )
            found = {
                i: (s, {"tag": t} | ({"more": m} if m else {}))
                for i, (s, t, m) in nodes["mongo"].rows("score", "tag", "more").items()
            }
            assert found == expected
            assert not differences(config)
        assert not open_holds(config.audit_path)


def test_a_new_column_of_a_field_of_the_rest_halts(dsns: dict[str, str], tmp_path: Path) -> None:
    """Documents have values for it, which have travelled in the rest: they are read anew from there."""
    config = configured(tmp_path, dsns)
    with apps(dsns) as nodes:
        first, other, _ = dsns
        create(nodes[first])
        with running(config) as group:
            nodes["mongo"].insert(1, name="a", score=5, tag="x")
            nodes["mongo"].insert(2, name="b", tag="y")
            group.until(lambda: rest(nodes[other], 1) == rest(nodes[first], 1) == {"score": 5, "tag": "x"})
            group.until(lambda: all(2 in nodes[node].rows("qty") for node in (first, other)))
            nodes[first].sql("ALTER TABLE orders ADD COLUMN score int NOT NULL DEFAULT 3")
            nodes[first].sql("UPDATE orders SET qty = 1 WHERE id = 2")
            error = group.until_halted()
        assert "has values of the field score in doc" in error.message
        assert "sync-worker backfill orders --from mongo" in error.message
        assert "up --accept orders" in error.hint
        nodes[other].sql("ALTER TABLE orders ADD COLUMN score int NOT NULL DEFAULT 3")
        with running(config, accept=["orders"]) as group:
            group.until(lambda: nodes["mongo"].rows("qty").get(2) == (1,), lambda: nodes["mongo"].rows("qty"))
            backfill(config, group)
            for node in (first, other):
                group.until(
                    lambda node=node: nodes[node].rows("score", "qty") == {1: (5, None), 2: (3, 1)},
                    lambda node=node: f"{node}: {nodes[node].rows('score', 'qty', 'doc')}",
                )
                group.until(
                    lambda node=node: [rest(nodes[node], i) for i in (1, 2)] == [{"tag": "x"}, {"tag": "y"}]
                )
            nodes[other].sql("UPDATE orders SET score = 7 WHERE id = 1")
            group.until(lambda: nodes["mongo"].rows("score", "tag")[1] == (7, "x"))
            assert not differences(config)
        assert not open_holds(config.audit_path)


def test_the_field_of_a_dropped_column_is_none_of_the_rest(dsns: dict[str, str], tmp_path: Path) -> None:
    """It stays in the documents, also when a SQL node writes the rest of them."""
    config = configured(tmp_path, dsns)
    with apps(dsns) as nodes:
        first, other, _ = dsns
        create(nodes[first])
        with running(config) as group:
            nodes["mongo"].insert(1, name="a", qty=5, tag="x")
            group.until(lambda: rest(nodes[other], 1) == rest(nodes[first], 1) == {"tag": "x"})
            for node in (first, other):
                nodes[node].sql("ALTER TABLE orders DROP COLUMN qty")
            nodes[first].insert(2, name="b")
            assert "column qty is gone" in group.until_halted().message
        for accept in (["orders"], []):  # and after another start
            with running(config, accept=accept) as group:
                nodes[first].sql("""UPDATE orders SET doc = '{"tag": "y"}' WHERE id = 1""")
                group.until(lambda: nodes["mongo"].rows("tag")[1] == ("y",))
                nodes["mongo"].docs.update_one({"_id": 1}, {"$set": {"tag": "z"}})
                group.until(lambda: rest(nodes[other], 1) == {"tag": "z"}, lambda: rest(nodes[other], 1))
                assert nodes["mongo"].rows("qty") == {1: (5,), 2: (None,)}
                assert not differences(config)


def test_a_widened_column_beside_the_rest(dsns: dict[str, str], tmp_path: Path) -> None:
    config = configured(tmp_path, dsns)
    with apps(dsns) as nodes:
        first, other, _ = dsns
        create(nodes[first])
        with running(config) as group:
            nodes["mongo"].insert(1, name="a", tag="x")
            group.until(lambda: rest(nodes[other], 1) == rest(nodes[first], 1) == {"tag": "x"})
            change = "ALTER COLUMN qty TYPE bigint" if first == "pg" else "MODIFY qty bigint"
            nodes[first].sql(f"ALTER TABLE orders {change}")
            nodes[first].insert(2, name="b", qty=1 << 40, doc='{"big": true}')
            group.until(lambda: nodes[other].rows("qty").get(2) == (1 << 40,))
            group.until(lambda: nodes["mongo"].rows("qty", "big").get(2) == (1 << 40, True))
            nodes["mongo"].docs.update_one({"_id": 2}, {"$set": {"qty": 1 << 41, "tag": "y"}})
            group.until(lambda: rest(nodes[first], 2) == {"big": True, "tag": "y"})
            assert nodes[first].rows("qty")[2] == (1 << 41,)
            assert not differences(config)
        assert group.incarnations == 2


def test_a_rest_that_is_dropped_halts(dsns: dict[str, str], tmp_path: Path) -> None:
    config = configured(tmp_path, dsns)
    with apps(dsns) as nodes:
        first = next(iter(dsns))
        create(nodes[first])
        with running(config) as group:
            nodes["mongo"].insert(1, name="a", tag="x")
            group.until(lambda: rest(nodes[first], 1) == {"tag": "x"})
            nodes[first].sql("ALTER TABLE orders DROP COLUMN doc")
            nodes[first].insert(2, name="b")
            assert "column doc is gone" in group.until_halted().message
        assert nodes["mongo"].rows("tag")[1] == ("x",)
