"""The processes of the demo: two database servers, and `sync-worker up` between them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.demo.data import FLIGHTS, KEYS, PROBES
from cluster.servers.mongodb import MongoServer
from cluster.servers.postgres import PostgresServer
from cluster.servers.process import ServerFailed, ServerProcess

DATABASE = "flights"
READY_SECONDS = 120.0
STOP_SECONDS = 30.0
CACHE = ("--cache-size", "3G")
"""Enough for transactions of tens of thousands of rows; a full one makes this server stand still."""
_CONFIG = """\
group: demo
nodes:
  pg:    {{engine: postgres, dsn: "{pg}", priority: 20}}
  mongo: {{engine: mongodb,  dsn: "{mongo}", priority: 10}}
tables:
{tables}
create_tables: true
limits: {{batch_rows: 5000, max_unacked_rows: 15000}}
audit: {{path: audit}}
"""


class Stack:
    """The running servers, and the group once it was started.

    Args:
        folder: everything is in here.
        postgres: a server that runs.
        mongodb: likewise.
    """

    def __init__(self, folder: Path, postgres: PostgresServer, mongodb: MongoServer) -> None:
        self.folder = folder
        self.postgres = postgres.create_database(DATABASE)
        self.mongodb = mongodb.dsn(DATABASE)
        self.config = folder / "sync.yaml"
        self.audit = folder / "audit"
        self.log = folder / "up.log"
        command = [sys.executable, "-m", "cluster.cli", "up", "-c", str(self.config)]
        self._up = ServerProcess("sync-worker up", command, self.log, self._ready)

    def write_config(self) -> None:
        """Write `sync.yaml`."""
        lines = [f"  {name}: {{key: [{', '.join(key)}], {_rules(name)}}}" for name, key in KEYS.items()]
        lines.append(f"  {PROBES}: {{key: [id], {_rules(PROBES)}}}")
        text = _CONFIG.format(pg=self.postgres, mongo=self.mongodb, tables="\n".join(lines))
        self.config.write_text(text)

    def start_up(self) -> None:
        """Start `sync-worker up` and wait until it logs `group_ready`.

        Raises:
            ServerFailed: it ended, or took too long; the message has the end of its log.
        """
        self._up.start(READY_SECONDS)

    def check_up(self) -> None:
        """Is `sync-worker up` still there?

        Raises:
            ServerFailed: it is not.
        """
        child = self._up.child
        if child is not None and child.poll() is not None:
            tail = self.log.read_text(errors="replace").splitlines()[-10:]
            message = "\n".join([f"sync-worker up ended with code {child.returncode}; its log ends:", *tail])
            raise ServerFailed(message)

    def stop_up(self) -> None:
        """SIGTERM, and wait until it has drained. Safe to call twice."""
        self._up.stop(timeout=STOP_SECONDS)

    def _ready(self) -> bool:
        return b'"group_ready"' in self.log.read_bytes()


@contextmanager
def start_servers() -> Iterator[Stack]:
    """Start both servers in a temporary folder; afterwards everything is stopped and removed."""
    folder = Path(tempfile.mkdtemp(prefix="sync-worker-demo-"))
    try:
        folder.chmod(0o755)  # as root, PostgreSQL runs as another user
        with (
            PostgresServer(folder / "postgres") as postgres,
            MongoServer(folder / "mongodb", options=CACHE) as mongodb,
        ):
            stack = Stack(folder, postgres, mongodb)
            try:
                yield stack
            finally:
                stack.stop_up()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rules(table: str) -> str:
    if table == PROBES:
        return "initial: none"
    if table == FLIGHTS:
        return "initial: {from: pg}, conflict: [merge_fields, last_write_wins]"
    return "initial: {from: pg}"
