"""Another number of shards on three nodes, while applications write to all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cluster.plan import GroupPlan
from cluster.reshard import with_shards
from cluster.waiting import Waiting
from replication.engines.mysql.control import MysqlControl
from replication.key import encode_key
from replication.marker import Marker
from replication.types import Kind
from tests.fixtures.ends import open_end
from tests.fixtures.ledger import check_applied_once, check_fates
from tests.fixtures.shop import GROUP, Shop
from tests.fixtures.until import until
from tests.fixtures.writer import Writer

SHARED = range(1, 40)


class Killed(BaseException):
    """The process ended here."""


@pytest.fixture
def dsns(postgres_db: str, mysql_db: str, mongodb_db: str) -> dict[str, str]:
    return {"pg": postgres_db, "my": mysql_db, "mongo": mongodb_db}


@pytest.fixture
def shop(dsns: dict[str, str], tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(dsns, tmp_path / "audit")
    shop.shards = 2
    try:
        yield shop
    finally:
        shop.close()


@pytest.fixture
def writers(shop: Shop, dsns: dict[str, str]) -> Iterator[list[Writer]]:
    """A writer at each end of a group that has begun."""
    shop.start()
    made = [
        Writer(open_end(n, dsn), i, len(dsns), i, range(1000 * i + 100, 1000 * i + 160), SHARED)
        for i, (n, dsn) in enumerate(dsns.items())
    ]
    yield made
    for writer in made:
        writer.abandon()


def change(shop: Shop, shards: int) -> int:
    """Change the number of shards of a group that does not run; how many it has then."""
    nodes = tuple(e.node for e in shop.engines.values())
    plan = GroupPlan(GROUP, nodes, tuple(shop.tables), shards, shop.folder, shop.limits)
    with closing(Waiting(shop.folder, GROUP, threading.Event(), 1.0)) as waiting:
        shop.shards = waiting.until("start", lambda: with_shards(plan, waiting)).shards
    return shop.shards


def stored(shop: Shop) -> dict[str, list[int]]:
    """By node the number of shards that each of its markers names."""
    found = {}
    with ExitStack() as stack:
        for node, engine in shop.engines.items():
            control = stack.enter_context(closing(engine.control()))
            found[node] = [m.shards for m in control.raise_epoch(0, 0, Marker(GROUP, 0, 1, 0, 0))]
    return found


def moves(shop: Shop, number: int) -> None:
    """A new row at each end comes to every other."""
    for i, (node, end) in enumerate(shop.ends.items()):
        key = 10_000 * (i + 1) + number
        end.insert(key, "probe", -key)
        for other in shop.ends:
            if other != node:
                shop.wait_row(other, key, lambda row: row is not None)


def test_another_number_of_shards_loses_nothing_and_applies_nothing_twice(
    shop: Shop, writers: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them, killed between two nodes and finished by the next start, and then one."""
    moves(shop, 1)
    shop.pipeline.stop()
    with monkeypatch.context() as patch:

        def end_here(*_: object) -> None:
            raise Killed

        patch.setattr(MysqlControl, "replace_markers", end_here)
        with pytest.raises(Killed):
            until(lambda: change(shop, 3) == 3, "never at rest")
    assert stored(shop) == {"pg": [2, 2], "my": [2, 2], "mongo": [3, 3, 3]}
    assert change(shop, 3) == 3
    assert stored(shop) == {n: [3, 3, 3] for n in shop.ends}
    shop.start()
    moves(shop, 2)
    shop.pipeline.stop()
    until(lambda: change(shop, 1) == 1, "never at rest")
    assert stored(shop) == {n: [1] for n in shop.ends}
    shop.start()
    moves(shop, 3)
    for writer in writers:
        writer.stop()
    moves(shop, 4)
    rows = shop.wait_equal()
    shop.pipeline.stop()
    own = {k for w in writers for k in w.own}
    for writer in writers:
        assert writer.made
        writer.check_own(rows)
        writer.ledger.check_captured(shop.recorded_of({*writer.own, *writer.shared})("changes/orders"))
    check_fates(rows, shop.recorded, {*SHARED, *own})
    check_applied_once(shop.recorded("decisions"), {encode_key((k,), [Kind.INT32]) for k in own})
