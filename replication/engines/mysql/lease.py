"""The right to run the group: a named lock, which ends with its session."""

from __future__ import annotations

import hashlib
from contextlib import suppress

from pymysql.connections import Connection

from replication.engines.mysql.config import OWN, parse
from replication.engines.mysql.connection import Session
from replication.errors import SyncError
from replication.schema import NodeConfig

_ALIVE = {"wait_timeout": "15"}
"""The server ends a session whose client has gone silent."""
_HOLDER = """
SELECT attr_value FROM performance_schema.session_account_connect_attrs
WHERE attr_name = 'program_name' AND processlist_id = IS_USED_LOCK(%s)"""
_PREFIX = "sync_worker "


class MysqlLease:
    """Implements `replication.engine.Lease`."""

    def __init__(self, node: NodeConfig, group: str, holder: str) -> None:
        config = parse(node)
        self._session = Session(config, _ALIVE, program_name=f"{_PREFIX}{holder}", read_timeout=10)
        # Named locks are the whole server's, and their names have at most 64 characters.
        of = f"{config.database}/{group}".encode()
        self._name = OWN + hashlib.sha256(of).hexdigest()[:32]
        self._held_by: Connection | None = None

    def hold(self) -> str | None:
        """See `Lease.hold`."""
        with self._session.use() as c, c.cursor() as cursor:
            if self._held_by is c:
                cursor.execute("SELECT 1")
                return None
            cursor.execute("SELECT GET_LOCK(%s, 0)", [self._name])
            if cursor.fetchone() == (1,):
                self._held_by = c
                return None
            cursor.execute(_HOLDER, [self._name])
            row = cursor.fetchone()
            return str(row[0] if row else "").removeprefix(_PREFIX) or "another process"

    def close(self) -> None:
        """See `Lease.close`. A server takes its time to end a session, so the lock is given back first."""
        held, self._held_by = self._held_by, None
        if held is not None and held.open:
            with suppress(SyncError), self._session.use() as c, c.cursor() as cursor:
                if c is held:
                    cursor.execute("SELECT RELEASE_LOCK(%s)", [self._name])
        self._session.close()
