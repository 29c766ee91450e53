from collections.abc import Iterator

import pytest

from actors.pipeline import prepare
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
    assert refused.value.hint == "set `shards` to the number that it was started with"
    again = prepare("g", engines, [TABLE], 2)
    for node, markers in again.items():
        assert all(new.epoch > old.epoch for new, old in zip(markers, begun[node], strict=True))
