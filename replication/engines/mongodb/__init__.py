"""MongoDB 6 and later, as a replica set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from replication.position import Position
from replication.schema import NodeConfig, Table

if TYPE_CHECKING:
    from replication.engines.mongodb.applier import MongoApplier
    from replication.engines.mongodb.control import MongoControl
    from replication.engines.mongodb.lease import MongoLease
    from replication.engines.mongodb.schema import MongoCatalog
    from replication.engines.mongodb.snapshot import MongoSnapshot
    from replication.engines.mongodb.source import MongoSource

__all__ = ["MongoEngine"]


class MongoEngine:
    """See `engine.Engine`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node
        self.group = group

    def catalog(self) -> MongoCatalog:
        """See `engine.Engine`."""
        from replication.engines.mongodb.schema import MongoCatalog

        return MongoCatalog(self.node, self.group)

    def control(self) -> MongoControl:
        """See `engine.Engine`."""
        from replication.engines.mongodb.control import MongoControl

        return MongoControl(self.node, self.group)

    def lease(self, holder: str) -> MongoLease:
        """See `engine.Engine`."""
        from replication.engines.mongodb.lease import MongoLease

        return MongoLease(self.node, self.group, holder)

    def source(self, tables: Sequence[Table], start: Position) -> MongoSource:
        """See `engine.Engine`."""
        from replication.engines.mongodb.source import MongoSource

        return MongoSource(self.node, self.group, tables, start)

    def applier(self, tables: Sequence[Table], sources: Sequence[str]) -> MongoApplier:
        """See `engine.Engine`."""
        from replication.engines.mongodb.applier import MongoApplier

        return MongoApplier(self.node, self.group, tables, sources)

    def snapshot(self) -> MongoSnapshot:
        """See `engine.Engine`."""
        from replication.engines.mongodb.snapshot import MongoSnapshot

        return MongoSnapshot(self.node, self.group)
