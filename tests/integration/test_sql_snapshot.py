"""Reading whole rows of an SQL database, and marking a place in its log."""

from __future__ import annotations

from contextlib import closing

from replication.change import Watermark
from tests.fixtures.sql_engines import MakeNode
from tests.fixtures.sql_node import mapping, pages, wait_for


def test_empty_and_exact_ends(sql_node: MakeNode) -> None:
    with sql_node("CREATE TABLE t (k int PRIMARY KEY, v text)", [mapping("t", "k")]) as node:
        table = node.tables["t"]
        assert node.snapshot.read_chunk(table, None, 10).num_rows == 0
        assert node.snapshot.read_keys(table, []).num_rows == 0
        node.sql(f"INSERT INTO t (k) VALUES {', '.join(f'({i})' for i in range(10))}")
        chunk = node.snapshot.read_chunk(table, None, 10)
        assert chunk.column("v").null_count == 10
        assert node.snapshot.read_chunk(table, chunk.column("_key")[9].as_py(), 10).num_rows == 0


def test_names_may_differ(sql_node: MakeNode) -> None:
    names = {"key": "k", "city": "Städte %"}
    columns = {name: dict.fromkeys(("pg", "my"), local) for name, local in names.items()}
    ddl = {
        "postgres": 'CREATE TABLE t (k int PRIMARY KEY, "Städte %" text)',
        "mysql": "CREATE TABLE t (k int PRIMARY KEY, `Städte %` text)",
    }
    with sql_node(ddl, [mapping("t", "key", columns=columns)]) as node:
        node.sql("INSERT INTO t VALUES (1, 'Köln')")
        assert pages(node, "t", 5) == [{"key": 1, "city": "Köln"}]
        (row,) = node.rows()
        assert (row["key"], row["city"]) == (1, "Köln")


def test_watermark_appears_in_the_log(sql_node: MakeNode) -> None:
    ddl = "CREATE TABLE t (k int PRIMARY KEY)"
    with sql_node(ddl, [mapping("t", "k")]) as node, closing(node.source()) as source:
        node.snapshot.write_watermark("here")
        node.snapshot.write_watermark("here")
        seen: list[str] = []

        def arrived() -> bool:
            seen.extend(e.ident for e in source.poll(10, 1.0) if isinstance(e, Watermark))
            return len(seen) == 2

        wait_for(arrived)
        assert seen == ["here", "here"]
