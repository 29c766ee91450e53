"""The right to run the group: an advisory lock, which ends with its session."""

from __future__ import annotations

import zlib
from contextlib import suppress

from replication.engines.postgres.config import Connection, Session
from replication.errors import SyncError
from replication.schema import NodeConfig

_CLASS = 0x53594E43  # "SYNC": keeps our locks apart from an application's
_ALIVE = {
    "idle_session_timeout": "15000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
"""The server ends a session whose client has gone silent."""
_HOLDER = """
SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
_PREFIX = "sync_worker "


class PostgresLease:
    """Implements `replication.engine.Lease`."""

    def __init__(self, node: NodeConfig, group: str, holder: str) -> None:
        name = f"{_PREFIX}{holder}"
        self._session = Session(node, _ALIVE, application_name=name, tcp_user_timeout="10000")
        self._lock = (_CLASS, zlib.crc32(group.encode()) >> 1)
        self._held_by: Connection | None = None

    def hold(self) -> str | None:
        """See `Lease.hold`."""
        with self._session.use() as c:
            if self._held_by is c:
                c.execute("SELECT 1")
                return None
            row = c.execute("SELECT pg_try_advisory_lock(%s, %s)", self._lock).fetchone()
            if row and row[0]:
                self._held_by = c
                return None
            row = c.execute(_HOLDER, self._lock).fetchone()
            return ((row and row[0]) or "").removeprefix(_PREFIX) or "another process"

    def close(self) -> None:
        """See `Lease.close`. A server takes its time to end a session, so the lock is given back first."""
        held, self._held_by = self._held_by, None
        if held is not None and not held.closed:
            with suppress(SyncError), self._session.use() as c:
                if c is held:
                    c.execute("SELECT pg_advisory_unlock(%s, %s)", self._lock)
        self._session.close()
