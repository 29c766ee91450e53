"""One database of every engine, with the mapped tables in it and the group's own tables prepared.

A test runs on every engine, or with `@pytest.mark.needs(ability)` on those that have the ability.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.tools import Peer
from tests.fixtures.engines import EngineHarness, MemoryHarness, MongoHarness, MysqlHarness, PostgresHarness
from tests.fixtures.mongodb import mongodb_db, mongodb_server
from tests.fixtures.mysql import mysql_db, mysql_server
from tests.fixtures.postgres import postgres_db, postgres_server

__all__ = ["mongodb_db", "mongodb_server", "mysql_db", "mysql_server", "postgres_db", "postgres_server"]

HARNESSES = (MemoryHarness, PostgresHarness, MysqlHarness, MongoHarness)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(ability): runs on engines that have it, see EngineHarness")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "harness" in metafunc.fixturenames:
        needed = {ability for mark in metafunc.definition.iter_markers("needs") for ability in mark.args}
        names = [h.name for h in HARNESSES if needed <= h.abilities]
        assert names, f"no engine has {needed}"
        metafunc.parametrize("harness", names, indirect=True)


@pytest.fixture
def harness(request: pytest.FixtureRequest) -> Iterator[EngineHarness]:
    """A database as an application made it; nothing of ours in it."""
    made: EngineHarness
    match request.param:
        case "memory":
            made = MemoryHarness()
        case "postgres":
            made = PostgresHarness(request.getfixturevalue("postgres_db"))
        case "mysql":
            made = MysqlHarness(request.getfixturevalue("mysql_db"))
        case "mongodb":
            made = MongoHarness(request.getfixturevalue("mongodb_db"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def peer(harness: EngineHarness) -> Iterator[Peer]:
    """The same, prepared for the group, with epoch 1 and one shard."""
    with Peer(harness) as made:
        yield made
