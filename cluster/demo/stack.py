"""The processes of the demo: the database servers, and `sync-worker up` between them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.demo.data import FLIGHTS, KEYS, PROBES
from cluster.demo.ends import End, open_end
from cluster.servers.mongodb import MongoServer
from cluster.servers.mysql import MysqlServer
from cluster.servers.mysql_programs import NoMysql
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
{nodes}
tables:
{tables}
create_tables: true
limits: {{batch_rows: 5000, max_unacked_rows: 15000}}
audit: {{path: audit}}
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A database of the demo.

    Attributes:
        name: in the configuration.
        engine: likewise.
        title: for people.
        dsn: its address.
    """

    name: str
    engine: str
    title: str
    dsn: str

    def connect(self) -> End:
        """A connection."""
        return open_end(self.engine, self.dsn)


class Stack:
    """The running servers, and the group once it was started.

    Args:
        folder: everything is in here.
        nodes: databases of servers that run; the first one is copied from.
        without: why MySQL is not among them, or empty.
    """

    def __init__(self, folder: Path, nodes: Sequence[Node], without: str) -> None:
        self.folder = folder
        self.nodes = nodes
        self.without = without
        self.config = folder / "sync.yaml"
        self.audit = folder / "audit"
        self.log = folder / "up.log"
        command = [sys.executable, "-m", "cluster.cli", "up", "--no-dashboard", "-c", str(self.config)]
        self._up = ServerProcess("sync-worker up", command, self.log, self._ready)

    def write_config(self) -> None:
        """Write `sync.yaml`."""
        lines = [f"  {name}: {{key: [{', '.join(key)}], {_rules(name)}}}" for name, key in KEYS.items()]
        lines.append(f"  {PROBES}: {{key: [id], {_rules(PROBES)}}}")
        nodes = [
            f'  {n.name}: {{engine: {n.engine}, dsn: "{n.dsn}", priority: {30 - 10 * i}}}'
            for i, n in enumerate(self.nodes)
        ]
        text = _CONFIG.format(nodes="\n".join(nodes), tables="\n".join(lines))
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
def start_servers(*, mysql: bool = True) -> Iterator[Stack]:
    """Start the servers in a temporary folder; afterwards everything is stopped and removed.

    Args:
        mysql: with MySQL, if this machine has it or can get it.
    """
    folder = Path(tempfile.mkdtemp(prefix="sync-worker-demo-"))
    try:
        folder.chmod(0o755)  # as root, PostgreSQL runs as another user
        with ExitStack() as servers:
            postgres = servers.enter_context(PostgresServer(folder / "postgres"))
            nodes = [Node("pg", "postgres", "PostgreSQL", postgres.create_database(DATABASE))]
            found, without = _mysql(folder) if mysql else (None, "as you wished")
            if found is not None:
                servers.enter_context(found)
                nodes.append(Node("my", "mysql", "MySQL", found.create_database(DATABASE)))
            mongodb = servers.enter_context(MongoServer(folder / "mongodb", options=CACHE))
            nodes.append(Node("mongo", "mongodb", "a MongoDB-protocol server", mongodb.dsn(DATABASE)))
            stack = Stack(folder, nodes, without)
            try:
                yield stack
            finally:
                stack.stop_up()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mysql(folder: Path) -> tuple[MysqlServer | None, str]:
    """A server that is not started yet, or why there is none."""
    try:
        return MysqlServer(folder / "mysql"), ""
    except NoMysql as error:
        return None, str(error)


def _rules(table: str) -> str:
    if table == PROBES:
        return "initial: none"
    if table == FLIGHTS:
        return "initial: {from: pg}, conflict: [merge_fields, last_write_wins]"
    return "initial: {from: pg}"
