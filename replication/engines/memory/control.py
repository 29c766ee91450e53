"""The group's own tables and its place in the log of a memory database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from replication.engine import Reached
from replication.engines.memory.database import MemoryDatabase
from replication.engines.memory.log import StoredMarker
from replication.engines.memory.position import position_of
from replication.engines.memory.session import Session
from replication.formats import FORMAT
from replication.marker import Marker
from replication.position import Position
from replication.schema import NodeConfig, Table


class MemoryControl:
    """See `engine.Control`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self._session = Session(node, group)
        self._group = group

    def stored_format(self) -> int:
        """See `engine.Control.stored_format`. It has no tables of ours that could be older than it."""
        return FORMAT

    def prepare(self, tables: Sequence[Table]) -> Position:
        """See `engine.Control.prepare`. Any table can be captured as it is."""
        database = self._session.database()
        with database.lock:
            return position_of(database.slots.setdefault(self._group, database.log.end))

    def raise_epoch(self, shards: int, at_least: int, initial: Marker) -> list[Marker]:
        """See `engine.Control.raise_epoch`. Markers of a larger, earlier shard count come as well."""
        database = self._session.database()
        with database.lock:
            stored = {s: m for (group, s), m in database.markers.items() if group == self._group}
            epoch = max([at_least, *(m.epoch + 1 for m in stored.values())])
            for shard in range(shards):
                stored.setdefault(shard, StoredMarker.of(replace(initial, group=self._group, shard=shard)))
            for shard, marker in sorted(stored.items()):
                database.markers[self._group, shard] = replace(marker, epoch=epoch)
            database.note()
            return [database.markers[self._group, shard].load() for shard in sorted(stored)]

    def accept_server(self, reached: Sequence[Reached]) -> list[Position]:
        """Nothing to do: there is only one."""
        return [r.resume for r in reached]

    def begin_log(self, tables: Sequence[Table], above: int = 0) -> Position:
        """See `engine.Control.begin_log`."""
        database = self._session.database()
        with database.lock:
            database.slots[self._group] = database.log.end
            return position_of(database.log.end)

    def replace_markers(self, markers: Sequence[Marker]) -> None:
        """See `engine.Control.replace_markers`."""
        database = self._session.database()
        with database.lock:
            self._remove_markers(database)
            for marker in markers:
                database.markers[self._group, marker.shard] = StoredMarker.of(marker)
            database.note()

    def get_state(self, name: str) -> str | None:
        """See `engine.StateStore.get_state`."""
        return self._session.database().state.get(name)

    def put_state(self, name: str, value: str) -> None:
        """See `engine.StateStore.put_state`."""
        database = self._session.database()
        with database.lock:
            database.state[name] = value
            database.note()

    def drop(self) -> None:
        """See `engine.Control.drop`."""
        database = self._session.database()
        with database.lock:
            database.slots.pop(self._group, None)
            database.state.clear()
            self._remove_markers(database)

    def _remove_markers(self, database: MemoryDatabase) -> None:
        for key in [k for k in database.markers if k[0] == self._group]:
            del database.markers[key]

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        self._session.close()
