"""One connection to a memory database: found by name on first use, again after it was cut."""

from __future__ import annotations

from replication.engines.memory.config import database_name
from replication.engines.memory.database import MemoryDatabase, find_database
from replication.engines.memory.errors import unavailable
from replication.schema import NodeConfig


class Session:
    """What every part of the engine has in common."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node.name
        self.group = group
        self._dsn = node.dsn
        self._database: MemoryDatabase | None = None
        self._incarnation = 0
        self._closed = False

    def database(self) -> MemoryDatabase:
        """The database, while the connection stands. Ask again under its lock before writing.

        Raises:
            NodeUnavailable: there is none, it is stopped, or this connection was cut or closed.
        """
        if self._database is None:
            self._database = find_database(database_name(self._dsn, self.node))
            if self._database is None:
                raise unavailable(self.node, "no such memory database is open")
            self._incarnation = self._database.incarnation
        if self._closed:
            raise unavailable(self.node, "the connection is closed")
        database = self._database
        if not database.running or self.is_cut(database):
            self._database = None
            raise unavailable(self.node, "the connection was cut" if database.running else "it is stopped")
        return database

    def is_cut(self, database: MemoryDatabase) -> bool:
        """Whether the database has cut this connection."""
        return database.incarnation != self._incarnation

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        self._closed = True
