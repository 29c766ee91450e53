"""The initial copy while applications write the very rows that are copied."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import NodeConfig
from tests.fixtures.ends import open_end
from tests.fixtures.shop import Shop
from tests.fixtures.writer import Writer

COPIED = 8_000
HAMMERED = range(1, COPIED, COPIED // 40)
PATIENCE = 300.0


def test_a_copy_finishes_while_its_rows_are_hammered(
    postgres_db: str, mongodb_db: str, tmp_path: Path
) -> None:
    """Each transaction that meets a writer's is tried again, so none may grow beyond what goes through."""
    dsns = {"pg": postgres_db, "mongo": mongodb_db}
    shop = Shop(dsns, tmp_path / "audit")
    writers: list[Writer] = []
    try:
        shop.ends["pg"].fill(1, COPIED)
        shop.copy_from("pg")
        writers = [
            Writer(open_end(n, dsn), i, len(dsns), i, HAMMERED, HAMMERED, 0.002)
            for i, (n, dsn) in enumerate(dsns.items())
        ]
        shop.start()
        (copy,) = shop.pipeline.copies
        shop.wait_for(lambda: copy.finished, PATIENCE)
        assert all(w.error is None and not w.stopping.is_set() for w in writers)
        for writer in writers:
            writer.stop()
        shop.ends["pg"].insert(99_999_999, "last", 0)
        rows = shop.wait_equal(PATIENCE, present=99_999_999)
        assert rows.keys() - set(HAMMERED) >= set(range(1, COPIED + 1)) - set(HAMMERED)
    finally:
        for writer in writers:
            writer.abandon()
        shop.close()


def test_a_row_that_is_inserted_while_its_copy_is_on_its_way_is_never_replaced(
    postgres_db: str, mysql_db: str, tmp_path: Path
) -> None:
    """Not for a moment: the application commits when our transaction with the copied row waits for it."""
    shop = Shop({"pg": postgres_db, "my": mysql_db}, tmp_path / "audit")
    try:
        shop.ends["pg"].fill(1, 2_000)
        shop.copy_from("pg")
        with closing(connect(parse(NodeConfig("my", "mysql", mysql_db)))) as app:
            app.query("BEGIN")
            app.query("INSERT INTO orders (id, name, qty) VALUES (7, 'mine', 77)")
            shop.start()
            waits = "SELECT COUNT(*) FROM performance_schema.data_lock_waits"
            shop.wait_for(lambda: shop.ends["my"].execute(waits)[1][0][0] == 1)
            app.query("COMMIT")
        rows = shop.wait_equal(present=2_000)
        assert (len(rows), rows[7]) == (2_000, ("mine", 77))
        shop.pipeline.stop()
        told = shop.recorded_of([7])("decisions")
        assert [d["outcome"] for d in told if d["_node"] == "my"] == ["kept"]
    finally:
        shop.close()
