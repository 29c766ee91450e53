"""One database of every engine, with the mapped tables in it and the group's own tables prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.tools import Peer
from tests.fixtures.engines import EngineHarness, MemoryHarness, MongoHarness, PostgresHarness
from tests.fixtures.mongodb import mongodb_db, mongodb_server
from tests.fixtures.postgres import postgres_db, postgres_server

__all__ = ["mongodb_db", "mongodb_server", "postgres_db", "postgres_server"]

HARNESSES: dict[str, Callable[[pytest.FixtureRequest], EngineHarness]] = {
    "memory": lambda request: MemoryHarness(),
    "postgres": lambda request: PostgresHarness(request.getfixturevalue("postgres_db")),
    "mongodb": lambda request: MongoHarness(request.getfixturevalue("mongodb_db")),
}


@pytest.fixture(params=list(HARNESSES))
def harness(request: pytest.FixtureRequest) -> Iterator[EngineHarness]:
    """A database as an application made it; nothing of ours in it."""
    made = HARNESSES[request.param](request)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def peer(harness: EngineHarness) -> Iterator[Peer]:
    """The same, prepared for the group, with epoch 1 and one shard."""
    with Peer(harness) as made:
        yield made
