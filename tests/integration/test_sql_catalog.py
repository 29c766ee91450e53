"""What an SQL database keeps for a group, whatever the group is called."""

from __future__ import annotations

from contextlib import closing

import pytest

from replication.change import Watermark
from replication.marker import Marker
from tests.fixtures.sql_engines import MakeNode
from tests.fixtures.sql_node import mapping, wait_for


def test_prepare_is_idempotent(sql_node: MakeNode) -> None:
    with sql_node("CREATE TABLE a (id int PRIMARY KEY)", [mapping("a")]) as node:
        node.sql("INSERT INTO a VALUES (1)")
        assert node.control.prepare(node.mapped) == node.start
        assert [row["id"] for row in node.rows()] == [1]


def test_state(sql_node: MakeNode) -> None:
    with sql_node("", []) as node:
        assert node.control.get_state("a") is None
        node.control.put_state("a", '{"x": "ä"}')
        node.control.put_state("a", '{"x": 2}')
        assert node.control.get_state("a") == '{"x": 2}'
        with closing(type(node.engine)(node.engine.node, "other").control()) as control:
            assert control.get_state("a") is None


@pytest.mark.parametrize("group", ["Shop-1", "x" * 80, "ünï", "a b", "100%"])
def test_any_group_name(sql_node: MakeNode, group: str) -> None:
    with sql_node("", []) as node:
        engine = type(node.engine)(node.engine.node, group)
        with closing(engine.control()) as control, closing(engine.snapshot()) as snapshot:
            start = control.prepare([])
            control.raise_epoch(1, 1, Marker(group, 0, 1, 0, 0))
            snapshot.write_watermark("w")
            seen: list[str] = []
            with closing(engine.source([], start)) as source:
                wait_for(
                    lambda: bool(
                        seen.extend(e.ident for e in source.poll(10, 1.0) if isinstance(e, Watermark)) or seen
                    )
                )
            assert seen == ["w"]
            control.drop()


@pytest.mark.parametrize("rows", [0, 2])
def test_what_an_added_column_holds_is_its_default_though_no_row_is_there_yet(
    sql_node: MakeNode, rows: int
) -> None:
    """Rows may be on their way from another node, which are to get the same."""
    with sql_node("CREATE TABLE a (id int PRIMARY KEY)", [mapping("a")]) as node:
        for ident in range(rows):
            node.sql(f"INSERT INTO a VALUES ({ident})")
        node.sql("ALTER TABLE a ADD COLUMN n int NOT NULL DEFAULT 7")
        node.sql("ALTER TABLE a ADD COLUMN m int")
        schema = node.catalog.read_schema(mapping("a"))
        assert schema is not None
        assert node.catalog.filled(mapping("a"), schema.column("n")) == "7"
        assert node.catalog.filled(mapping("a"), schema.column("m")) is None
