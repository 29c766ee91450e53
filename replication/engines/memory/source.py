"""Follows the log of a memory database. Polling waits on the database's condition, so it never spins."""

from __future__ import annotations

from collections.abc import Sequence

from replication.change import LogEvent
from replication.engines.memory.database import MemoryDatabase
from replication.engines.memory.decode import Decoder
from replication.engines.memory.errors import log_lost
from replication.engines.memory.log import Entry
from replication.engines.memory.position import order_of_token
from replication.engines.memory.schema import bind
from replication.engines.memory.session import Session
from replication.errors import NodeUnavailable
from replication.position import Position
from replication.schema import NodeConfig, Table


class MemorySource:
    """See `engine.Source`."""

    def __init__(self, node: NodeConfig, group: str, tables: Sequence[Table], start: Position) -> None:
        self.decode_echoes = False
        self._session = Session(node, group)
        bindings = {b.local: b for b in (bind(t, node.name) for t in tables)}
        self._decoder = Decoder(group, bindings, order_of_token(start, node.name))

    def poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        """See `engine.Source.poll`."""
        try:
            database = self._session.database()
            with database.lock:
                database.lock.wait_for(lambda: self._ready(database), wait)
                self._session.database()
                entries = self._next_entries(database, max_rows)
        except NodeUnavailable:
            self._session.close()
            raise
        return self._decoder.events(entries, max_rows, self.decode_echoes)

    def confirm(self, position: Position) -> None:
        """See `engine.Source.confirm`."""
        database = self._session.database()
        with database.lock:
            known = database.slots.get(self._session.group, 0)
            database.slots[self._session.group] = max(known, position.order)

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        self._session.close()

    def _ready(self, database: MemoryDatabase) -> bool:
        cut = not database.running or self._session.is_cut(database)
        return cut or (not database.faults.paused and database.log.end > self._decoder.cursor)

    def _next_entries(self, database: MemoryDatabase, max_rows: int) -> Sequence[Entry]:
        log, cursor = database.log, self._decoder.cursor
        if not log.trimmed <= cursor <= log.end:
            raise log_lost(self._session.node, cursor, log.trimmed, log.end)
        return () if database.faults.paused else log.after(cursor, max_rows)
