"""Writes batches to a memory database, whole columns at a time."""

from __future__ import annotations

from collections.abc import Sequence

from replication.applying import Findings, findings_name
from replication.batch import Applied, ApplyBatch, HeldRow, Outcome, refusal
from replication.engines.memory.database import MemoryDatabase
from replication.engines.memory.errors import unavailable
from replication.engines.memory.log import StoredMarker
from replication.engines.memory.merge import TableMerge
from replication.engines.memory.schema import bind
from replication.engines.memory.session import Session
from replication.engines.memory.transaction import Draft
from replication.errors import SchemaChanged
from replication.marker import Marker
from replication.schema import NodeConfig, Table


class MemoryApplier:
    """See `engine.Applier`."""

    def __init__(self, node: NodeConfig, group: str, tables: Sequence[Table], sources: Sequence[str]) -> None:
        self._session = Session(node, group)
        self._bindings = {t.name: bind(t, node.name) for t in tables}
        self._sources = frozenset(sources)

    def apply(self, batch: ApplyBatch) -> Applied:
        """See `engine.Applier.apply`."""
        database = self._session.database()
        with database.lock:
            database.faults.hold_apply()
            self._session.database()
            if database.faults.fails_before_commit():
                raise unavailable(self._session.node, "the apply was told to fail before its commit")
            applied = self._apply(database, batch)
            if database.faults.fails_after_commit():
                raise unavailable(self._session.node, "the apply was told to fail after its commit")
            return applied

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        self._session.close()

    def _apply(self, database: MemoryDatabase, batch: ApplyBatch) -> Applied:
        marker = batch.marker
        stored = database.markers.get((marker.group, marker.shard))
        kept = findings_name(marker.shard)
        if (refused := _refuse(stored, marker)) is not None:
            known = database.state.get(kept) if refused is Outcome.ALREADY else None
            found = Findings.load(known, marker) if known else Findings()
            return Applied(refused, found.held, found.missing)
        found = Findings()
        draft = Draft(database.tables, first=1)
        try:
            for table in batch.tables:
                merge = self._merge(database, table.table)
                refusals, absent = merge.write(draft, table.rows, database.faults.refuse)
                found.held += (HeldRow(table.table, key, reason) for key, reason in refusals)
                found.missing += ((table.table, key) for key in absent)
        except BaseException:
            draft.abort()
            raise
        written = StoredMarker.of(marker)
        database.markers[marker.group, marker.shard] = written
        if found:
            database.state[kept] = found.dump(marker)
        database.commit(draft, marker=written)
        return Applied(Outcome.COMMITTED, found.held, found.missing)

    def _merge(self, database: MemoryDatabase, table: str) -> TableMerge:
        binding = self._bindings[table]
        store = database.tables.get(binding.local)
        if store is None or not set(binding.columns) <= set(store.arrow.names):
            message = f"{binding.local} no longer has every column that is mapped"
            raise SchemaChanged(message, node=self._session.node)
        return TableMerge(store, binding, self._sources)


def _refuse(stored: StoredMarker | None, marker: Marker) -> Outcome | None:
    found = None if stored is None else (stored.epoch, stored.seq)
    return None if found == (marker.epoch, marker.after) else refusal(found, marker)
