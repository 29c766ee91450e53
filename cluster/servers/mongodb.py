"""A server that speaks MongoDB's protocol, for tests and the demo: the wheel `SecantusDB`.

It acts as a replica set of one node, with transactions and change streams, and stores its data with
WiredTiger. It is no part of the product, which talks to whatever the configuration names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from cluster.servers.process import OwnServer, ServerProcess, free_port

OPLOG_ENTRIES = 5_000_000
RETENTION_SECONDS = 7 * 24 * 3600


def executable() -> Path:
    """The console script that the wheel installed beside this interpreter."""
    return Path(sys.executable).with_name("secantusd-py")


class MongoServer(OwnServer):
    """One server on loopback, its data in `path`.

    Args:
        path: folder for its data and log; created if missing, kept afterwards.
        port: TCP port; a free one by default, the same over restarts.
        options: further command line options; they win over ours.
    """

    def __init__(self, path: Path, *, port: int | None = None, options: Sequence[str] = ()) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        command = [
            str(executable()),
            *("--host", "127.0.0.1", "--port", str(self.port), "--storage-path", str(path / "data")),
            *("--oplog-max-entries", str(OPLOG_ENTRIES)),
            *("--oplog-retention-seconds", str(RETENTION_SECONDS), "--log-level", "WARNING"),
            *options,
        ]
        self.process = ServerProcess("mongodb", command, path / "server.log", self._serves)

    @property
    def pid(self) -> int:
        """The process id; only while running."""
        return self.process.pid

    def start(self) -> None:
        """Start and wait until it answers."""
        self.process.start()

    def stop(self) -> None:
        """End it in order; safe to call twice."""
        self.process.stop()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()

    def dsn(self, dbname: str = "") -> str:
        """The address of a database."""
        return f"mongodb://127.0.0.1:{self.port}/{dbname}"

    def _serves(self) -> bool:
        client: MongoClient[dict[str, Any]] = MongoClient(self.dsn(), serverSelectionTimeoutMS=500)
        with client:
            return bool(client.admin.command("hello")["isWritablePrimary"])
