"""Servers of a test's own, which it may stop."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.servers.mongodb import MongoServer
from cluster.servers.postgres import PostgresServer
from tests.fixtures.postgres import SETTINGS


@dataclass(frozen=True, slots=True)
class Servers:
    """Both run; `folder` is empty and private."""

    postgres: PostgresServer
    mongodb: MongoServer
    folder: Path

    def dsns(self) -> dict[str, str]:
        """The address of an empty database on each."""
        return {"pg": self.postgres.dsn("chaos"), "mongo": self.mongodb.dsn("chaos")}


@pytest.fixture
def servers() -> Iterator[Servers]:
    root = Path(tempfile.mkdtemp(prefix="sync-chaos-"))
    root.chmod(0o755)
    group = root / "group"
    group.mkdir()
    try:
        with (
            PostgresServer(root / "postgres", settings=SETTINGS) as postgres,
            MongoServer(root / "mongodb", options=["--sync-on-commit"]) as mongodb,
        ):
            postgres.create_database("chaos")
            yield Servers(postgres, mongodb, group)
    finally:
        shutil.rmtree(root, ignore_errors=True)
