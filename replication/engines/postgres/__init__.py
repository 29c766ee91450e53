"""The PostgreSQL engine: pgoutput in, one upsert per table and batch out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replication.position import Position
from replication.schema import NodeConfig, Table

if TYPE_CHECKING:
    from replication.engines.postgres.applier import PostgresApplier
    from replication.engines.postgres.control import PostgresControl
    from replication.engines.postgres.lease import PostgresLease
    from replication.engines.postgres.schema import PostgresCatalog
    from replication.engines.postgres.snapshot import PostgresSnapshot
    from replication.engines.postgres.source import PostgresSource


@dataclass(frozen=True, slots=True)
class PostgresEngine:
    """Implements `replication.engine.Engine`."""

    node: NodeConfig
    group: str

    def catalog(self) -> PostgresCatalog:
        """See `Engine.catalog`."""
        from replication.engines.postgres.schema import PostgresCatalog

        return PostgresCatalog(self.node, self.group)

    def control(self) -> PostgresControl:
        """See `Engine.control`."""
        from replication.engines.postgres.control import PostgresControl

        return PostgresControl(self.node, self.group)

    def lease(self, holder: str) -> PostgresLease:
        """See `Engine.lease`."""
        from replication.engines.postgres.lease import PostgresLease

        return PostgresLease(self.node, self.group, holder)

    def source(self, tables: Sequence[Table], start: Position) -> PostgresSource:
        """See `Engine.source`."""
        from replication.engines.postgres.source import PostgresSource

        return PostgresSource(self.node, self.group, tables, start)

    def applier(self, tables: Sequence[Table], sources: Sequence[str]) -> PostgresApplier:
        """See `Engine.applier`."""
        from replication.engines.postgres.applier import PostgresApplier

        return PostgresApplier(self.node, self.group, tables, sources)

    def snapshot(self) -> PostgresSnapshot:
        """See `Engine.snapshot`."""
        from replication.engines.postgres.snapshot import PostgresSnapshot

        return PostgresSnapshot(self.node, self.group)


__all__ = ["PostgresEngine"]
