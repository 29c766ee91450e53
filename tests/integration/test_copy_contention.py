"""The initial copy while applications keep writing the very rows that are copied, as fast as they can."""

from __future__ import annotations

from pathlib import Path

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
