"""MongoDB 6 and later, as a replica set."""

from __future__ import annotations

from collections.abc import Sequence

from replication.engines.mongodb.applier import MongoApplier
from replication.engines.mongodb.control import MongoControl
from replication.engines.mongodb.lease import MongoLease
from replication.engines.mongodb.schema import MongoCatalog
from replication.engines.mongodb.snapshot import MongoSnapshot
from replication.engines.mongodb.source import MongoSource
from replication.position import Position
from replication.schema import NodeConfig, Table

__all__ = ["MongoEngine"]


class MongoEngine:
    """See `engine.Engine`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node
        self.group = group

    def catalog(self) -> MongoCatalog:
        """See `engine.Engine`."""
        return MongoCatalog(self.node, self.group)

    def control(self) -> MongoControl:
        """See `engine.Engine`."""
        return MongoControl(self.node, self.group)

    def lease(self, holder: str) -> MongoLease:
        """See `engine.Engine`."""
        return MongoLease(self.node, self.group, holder)

    def source(self, tables: Sequence[Table], start: Position) -> MongoSource:
        """See `engine.Engine`."""
        return MongoSource(self.node, self.group, tables, start)

    def applier(self, tables: Sequence[Table], sources: Sequence[str]) -> MongoApplier:
        """See `engine.Engine`."""
        return MongoApplier(self.node, self.group, tables, sources)

    def snapshot(self) -> MongoSnapshot:
        """See `engine.Engine`."""
        return MongoSnapshot(self.node, self.group)
