"""Reads whole rows of a memory database in key order."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from replication.engines.memory.schema import bind
from replication.engines.memory.session import Session
from replication.engines.memory.transaction import Draft
from replication.errors import SchemaChanged
from replication.schema import NodeConfig, Table


class MemorySnapshot:
    """See `engine.Snapshot`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self._session = Session(node, group)

    def read_chunk(
        self, table: Table, after: bytes | None, limit: int, *, until: bytes | None = None, skip: int = 0
    ) -> pa.RecordBatch:
        """See `engine.Snapshot.read_chunk`."""
        database = self._session.database()
        with database.lock:
            keys = database.tables[self._local(table)].keys_after(after, limit + skip)[skip:]
            return self.read_keys(table, [k for k in keys if until is None or k <= until])

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """See `engine.Snapshot.read_keys`."""
        database = self._session.database()
        with database.lock:
            store = database.tables[self._local(table)]
            present = sorted({k for k in keys if k in store.rows})
            whole = store.gather(store.find(present))
        binding = bind(table, self._session.node)
        columns = [whole.column(name) for name in binding.columns]
        schema = pa.schema([pa.field("_key", pa.binary()), *table.schema.arrow])
        return pa.RecordBatch.from_arrays([pa.array(present, pa.binary()), *columns], schema=schema)

    def write_watermark(self, ident: str) -> None:
        """See `engine.Snapshot.write_watermark`."""
        database = self._session.database()
        with database.lock:
            database.commit(Draft(database.tables), watermark=(self._session.group, ident))

    def estimate_rows(self, table: Table) -> int:
        """See `engine.Snapshot.estimate_rows`."""
        store = self._session.database().tables.get(table.mapping.names[self._session.node])
        return 0 if store is None else len(store.rows)

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        self._session.close()

    def _local(self, table: Table) -> str:
        local = table.mapping.names[self._session.node]
        if local not in self._session.database().tables:
            message = f"{local} does not exist"
            raise SchemaChanged(message, node=self._session.node)
        return local
