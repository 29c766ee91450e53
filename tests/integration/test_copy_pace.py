"""A copy that heeds what else goes on: changes that must not be late, and how many readers it is to have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from actors.limits import Limits
from replication.change import Op
from replication.errors import NodeUnavailable
from replication.pacing import CHUNK_SECONDS, LEAST_ROWS, USUAL_BOUNDS, Bounds
from replication.paging import ChunkSize
from tests.fixtures.gate import Gate
from tests.fixtures.shop import Shop

FIRST, ROWS = 1_000, 2_000
LIVE = 99_999_999
PATIENCE = 120.0


@pytest.fixture
def shop(postgres_db: str, mongodb_db: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop({"pg": postgres_db, "mongo": mongodb_db}, tmp_path / "audit")
    shop.ends["pg"].fill(1, ROWS)
    shop.copy_from("pg")
    yield shop
    shop.close()


@pytest.mark.parametrize("late", [True, False], ids=["late", "prompt"])
def test_a_live_change_waits_behind_few_copied_rows_while_changes_are_late(
    shop: Shop, gate: Gate, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    monkeypatch.setattr("actors.promptness.LATELY_SECONDS", 1e9)  # what was late once is so to the end
    bounds = Bounds(lag=0.0, apply=1e9) if late else Bounds(lag=1e9, apply=1e9)
    shop.limits = Limits(retry_max=1.0, copy_bounds=bounds)
    shop.start()
    (copy,) = shop.pipeline.copies
    shop.wait_for(lambda: gate.waiting == 1, PATIENCE)  # the first chunk is asked for, as large as it goes
    shop.ends["pg"].insert(LIVE, "live", 0)
    shop.wait_row("mongo", LIVE, bool, PATIENCE)
    if late:
        shop.wait_for(lambda: [s.held_to for s in copy.status()] == [LEAST_ROWS], PATIENCE)
        assert copy.status()[0].because.startswith("changes reach mongo after ")
    gate.opened.set()
    shop.wait_for(lambda: copy.finished, PATIENCE)
    shop.wait_equal(PATIENCE, present=LIVE)
    (status,) = copy.status()
    assert (status.held_to is not None) is late
    shop.pipeline.stop()
    chunks = Counter(c["_hi"] for c in shop.recorded("changes/orders") if c["_op"] == Op.READ)
    first, *others = [count for _, count in sorted(chunks.items())]
    assert first == FIRST
    assert sum(others) in (ROWS - FIRST, ROWS - FIRST + 1)  # the live row may have been copied, too
    held = LEAST_ROWS * CHUNK_SECONDS
    assert (max(others) <= held) is late


def test_the_number_of_readers_is_changed_while_a_copy_runs(
    shop: Shop, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.backfill.ChunkSize", lambda: ChunkSize(100, max_rows=100))
    shop.limits = Limits(retry_max=1.0, copy_workers=2, copy_bounds=USUAL_BOUNDS)
    shop.start()
    (copy,) = shop.pipeline.copies
    capture = shop.pipeline.captures["pg"]

    def resized() -> bool:
        with suppress(NodeUnavailable):
            return capture.resize("orders", 5)
        return False

    assert copy.workers == 2
    shop.wait_for(lambda: gate.waiting == 2, PATIENCE)
    shop.wait_for(resized, PATIENCE)
    shop.wait_for(lambda: gate.waiting == 5, PATIENCE)
    shop.wait_for(lambda: [s.workers for s in copy.status()] == [5], PATIENCE)
    gate.opened.set()
    shop.wait_for(lambda: copy.finished, PATIENCE)
    assert capture.resize("orders", 2) is False
    shop.ends["pg"].insert(LIVE, "last", 0)
    assert len(shop.wait_equal(PATIENCE, present=LIVE)) == ROWS + 1
