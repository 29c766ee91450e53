"""The factory of one memory node; holds configuration only, so it pickles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replication.engine import Finding
from replication.engines.memory.applier import MemoryApplier
from replication.engines.memory.control import MemoryControl
from replication.engines.memory.lease import MemoryLease
from replication.engines.memory.preflight import findings
from replication.engines.memory.schema import add_column, create_table, read_schema, widen_column
from replication.engines.memory.session import Session
from replication.engines.memory.snapshot import MemorySnapshot
from replication.engines.memory.source import MemorySource
from replication.position import Position
from replication.schema import Column, NodeConfig, Table, TableMapping, TableSchema


@dataclass(frozen=True, slots=True)
class MemoryEngine:
    """See `engine.Engine`. The database is the one open under the name in `node.dsn`, in this process."""

    node: NodeConfig
    group: str

    def catalog(self) -> MemoryCatalog:
        """Connects on first use."""
        return MemoryCatalog(self.node, self.group)

    def control(self) -> MemoryControl:
        """Connects on first use."""
        return MemoryControl(self.node, self.group)

    def lease(self, holder: str) -> MemoryLease:
        """The right to run the group."""
        return MemoryLease(self.node, self.group, holder)

    def source(self, tables: Sequence[Table], start: Position) -> MemorySource:
        """A reader that resumes after `start`."""
        return MemorySource(self.node, self.group, tables, start)

    def applier(self, tables: Sequence[Table], sources: Sequence[str]) -> MemoryApplier:
        """A writer; see `engine.Engine.applier`."""
        return MemoryApplier(self.node, self.group, tables, sources)

    def snapshot(self) -> MemorySnapshot:
        """A reader of whole rows."""
        return MemorySnapshot(self.node, self.group)


class MemoryCatalog:
    """See `engine.Catalog`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self._session = Session(node, group)

    def read_schema(self, mapping: TableMapping) -> TableSchema | None:
        """See `engine.Catalog.read_schema`."""
        return read_schema(self._session.database(), mapping, self._session.node)

    def create_table(self, table: Table, source_engine: str) -> None:
        """See `engine.Catalog.create_table`. Canonical types are native here, whatever the source."""
        create_table(self._session.database(), table, self._session.node)

    def preflight(self, tables: Sequence[Table]) -> list[Finding]:
        """See `engine.Catalog.preflight`."""
        database, node = self._session.database(), self._session.node
        return [f for table in tables for f in findings(database, table, node)]

    def filled(self, mapping: TableMapping, column: Column) -> str | None:
        """See `engine.SchemaEditor.filled`. Rows that are there get no default."""
        return None

    def add_column(self, table: Table, column: Column, source_engine: str, fill: str | None) -> None:
        """See `engine.SchemaEditor.add_column`."""
        add_column(self._session.database(), table, column, fill, self._session.node)

    def widen_column(self, table: Table, column: Column, source_engine: str) -> None:
        """See `engine.SchemaEditor.widen_column`."""
        widen_column(self._session.database(), table, column, self._session.node)

    def rest_has(self, table: Table, field: str) -> bool:
        """See `engine.SchemaEditor.rest_has`. No column here is for the rest of a document."""
        return False

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        self._session.close()
