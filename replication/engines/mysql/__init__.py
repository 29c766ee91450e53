"""MySQL 8.0.19 and later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from replication.position import Position
from replication.schema import NodeConfig, Table

if TYPE_CHECKING:
    from replication.engines.mysql.applier import MysqlApplier
    from replication.engines.mysql.control import MysqlControl
    from replication.engines.mysql.lease import MysqlLease
    from replication.engines.mysql.schema import MysqlCatalog
    from replication.engines.mysql.snapshot import MysqlSnapshot
    from replication.engines.mysql.source import MysqlSource

__all__ = ["MysqlEngine"]


class MysqlEngine:
    """Implements `replication.engine.Engine`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node
        self.group = group

    def catalog(self) -> MysqlCatalog:
        """See `Engine.catalog`."""
        from replication.engines.mysql.schema import MysqlCatalog

        return MysqlCatalog(self.node, self.group)

    def control(self) -> MysqlControl:
        """See `Engine.control`."""
        from replication.engines.mysql.control import MysqlControl

        return MysqlControl(self.node, self.group)

    def lease(self, holder: str) -> MysqlLease:
        """See `engine.Engine`."""
        from replication.engines.mysql.lease import MysqlLease

        return MysqlLease(self.node, self.group, holder)

    def source(self, tables: Sequence[Table], start: Position) -> MysqlSource:
        """See `Engine.source`."""
        from replication.engines.mysql.source import MysqlSource

        return MysqlSource(self.node, self.group, tables, start)

    def applier(self, tables: Sequence[Table], sources: Sequence[str]) -> MysqlApplier:
        """See `Engine.applier`."""
        from replication.engines.mysql.applier import MysqlApplier

        return MysqlApplier(self.node, self.group, tables, sources)

    def snapshot(self) -> MysqlSnapshot:
        """See `Engine.snapshot`."""
        from replication.engines.mysql.snapshot import MysqlSnapshot

        return MysqlSnapshot(self.node, self.group)
