import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from actors.pipeline import Limits, prepare
from cluster.pausing import Pauses, store_pauses
from cluster.plan import GroupPlan
from cluster.reshard import with_shards
from cluster.waiting import GaveUp, Waiting
from replication.engines.memory import MemoryEngine, drop_database, open_database
from replication.errors import ConfigError
from replication.schema import Column, NodeConfig, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

SCHEMA = TableSchema("orders", (Column("id", CanonicalType(Kind.INT64), nullable=False),), ("id",))
TABLE = Table(TableMapping("orders", ("id",), dict.fromkeys("ab", "orders")), SCHEMA)


@pytest.fixture
def engines() -> Iterator[dict[str, MemoryEngine]]:
    names = {n: f"shards-{n}" for n in "ab"}
    for name in names.values():
        open_database(name).create_table(SCHEMA)
    yield {n: MemoryEngine(NodeConfig(n, "memory", f"memory://{name}"), "g") for n, name in names.items()}
    for name in names.values():
        drop_database(name)


@pytest.mark.parametrize("other", [1, 3])
def test_a_group_refuses_another_number_of_shards_and_goes_on_with_its_own(
    engines: dict[str, MemoryEngine], other: int
) -> None:
    begun = prepare("g", engines, [TABLE], 2)
    assert {n: [m.shards for m in markers] for n, markers in begun.items()} == {"a": [2, 2], "b": [2, 2]}
    with pytest.raises(ConfigError, match=f"this group runs with 2 shards, not {other}") as refused:
        prepare("g", engines, [TABLE], other)
    hint = "'sync-worker up' changes the number; for anything else set `shards` to 2"
    assert refused.value.hint == hint
    again = prepare("g", engines, [TABLE], 2)
    for node, markers in again.items():
        assert all(new.epoch > old.epoch for new, old in zip(markers, begun[node], strict=True))


def test_nothing_changes_while_something_is_paused_and_it_is_said_what_to_do(
    engines: dict[str, MemoryEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    prepare("g", engines, [TABLE], 2)
    store_pauses(engines, Pauses(1, {"b": "2026-11-25T12:00:00+00:00"}))
    assert changed(engines, tmp_path, 3) == 2
    store_pauses(engines, Pauses(2, {}, {"orders": "2026-11-25T12:00:00+00:00"}))
    assert changed(engines, tmp_path, 3) == 2
    kept = [r for r in caplog.records if r.message == "shards_kept"]
    assert [(r.because, r.remedy) for r in kept] == [
        ("b is paused", "sync-worker resume b, then start again"),
        ("the table orders is paused", "sync-worker resume --table orders, then start again"),
    ]
    store_pauses(engines, Pauses(3))
    assert changed(engines, tmp_path, 3) == 3
    begun = prepare("g", engines, [TABLE], 3)
    assert {n: [m.shards for m in markers] for n, markers in begun.items()} == dict.fromkeys("ab", [3] * 3)


def changed(engines: dict[str, MemoryEngine], folder: Path, shards: int) -> int:
    """Change the number of shards; how many there are then."""
    nodes = tuple(e.node for e in engines.values())
    plan = GroupPlan("g", nodes, (TABLE,), shards, folder / "audit", Limits())
    with closing(Waiting(folder, "g", threading.Event(), 1.0)) as waiting:
        return with_shards(plan, waiting).shards


def test_a_stop_ends_a_change_and_leaves_the_number(engines: dict[str, MemoryEngine], tmp_path: Path) -> None:
    prepare("g", engines, [TABLE], 2)
    stopping = threading.Event()
    stopping.set()
    plan = GroupPlan("g", tuple(e.node for e in engines.values()), (TABLE,), 3, tmp_path / "audit", Limits())
    with closing(Waiting(tmp_path, "g", stopping, 1.0)) as waiting, pytest.raises(GaveUp):
        with_shards(plan, waiting)
    assert prepare("g", engines, [TABLE], 2).keys() == engines.keys()
