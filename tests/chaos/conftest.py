"""Servers of a test's own, which it may stop."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.servers.mongodb import MongoServer
from cluster.servers.mysql import MysqlServer
from cluster.servers.postgres import PostgresServer
from tests.fixtures.mysql import made_server
from tests.fixtures.postgres import SETTINGS

Server = PostgresServer | MysqlServer | MongoServer
TWO, THREE = ("pg", "mongo"), ("pg", "my", "mongo")
SHAPES = [tuple(os.environ["NODES"].split(","))] if "NODES" in os.environ else [TWO, THREE]
"""The nodes of a group. NODES names others: the first of them must be `pg` or `my`."""


@dataclass(frozen=True, slots=True)
class Servers:
    """All run; `folder` is empty and private."""

    by_node: dict[str, Server]
    folder: Path

    def dsns(self) -> dict[str, str]:
        """The address of an empty database on each."""
        return {n: server.dsn("chaos") for n, server in self.by_node.items()}


def _server(node: str, path: Path) -> Server:
    if node == "my":
        return made_server(path)
    if node == "pg":
        return PostgresServer(path, settings=SETTINGS)
    return MongoServer(path, options=["--sync-on-commit"])


@pytest.fixture
def nodes(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Which nodes the group has."""
    return getattr(request, "param", SHAPES[0])


@pytest.fixture
def servers(nodes: tuple[str, ...]) -> Iterator[Servers]:
    root = Path(tempfile.mkdtemp(prefix="sync-chaos-"))
    root.chmod(0o755)
    group = root / "group"
    group.mkdir()
    try:
        with ExitStack() as stack:
            made = {n: stack.enter_context(_server(n, root / n)) for n in nodes}
            for server in made.values():
                if not isinstance(server, MongoServer):
                    server.create_database("chaos")
            yield Servers(made, group)
    finally:
        shutil.rmtree(root, ignore_errors=True)
