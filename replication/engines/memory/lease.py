"""The right to run the group, kept by a memory database: it ends with the connection."""

from __future__ import annotations

from contextlib import suppress

from replication.engines.memory.session import Session
from replication.errors import NodeUnavailable
from replication.schema import NodeConfig


class MemoryLease:
    """See `engine.Lease`."""

    def __init__(self, node: NodeConfig, group: str, holder: str) -> None:
        self._session = Session(node, group)
        self._group = group
        self._holder = holder

    def hold(self) -> str | None:
        """See `engine.Lease.hold`."""
        database = self._session.database()
        with database.lock:
            session, holder = database.leases.get(self._group, (self._session, self._holder))
            if session is not self._session and not session.is_cut(database):
                return holder
            database.leases[self._group] = self._session, self._holder
            return None

    def close(self) -> None:
        """See `engine.Lease.close`."""
        with suppress(NodeUnavailable):
            database = self._session.database()
            with database.lock:
                if database.leases.get(self._group, (None, ""))[0] is self._session:
                    del database.leases[self._group]
        self._session.close()
