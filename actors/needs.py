"""What a resolver needs of others: appliers, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from replication.batch import Applied, ApplyBatch, HeldRow
from replication.change import Changes, SchemaChange, Unreadable
from replication.conflict.decide import Conflict
from replication.marker import Marker


class Target(Protocol):
    """An applier, as a resolver needs it."""

    def submit(self, batch: ApplyBatch) -> Future[Applied]:
        """Apply a batch; the future fails only with a terminal error.

        Batches go in the order they are submitted; one that overtook another after all is answered `EARLY`.
        """


class Auditor(Protocol):
    """The audit log, as a resolver needs it. Returns a future that is done when the records are durable."""

    def changes(self, node: str, shard: int, changes: Changes) -> Future[None]:
        """Record changes as they were captured."""

    def decisions(self, batch: ApplyBatch, applied: Applied) -> Future[None]:
        """Record what became of a batch."""

    def echoed(self, node: str, marker: Marker, held: Sequence[HeldRow]) -> Future[None]:
        """Record what became of a predecessor's batch, unless that is on record."""

    def conflicts(self, conflicts: Sequence[Conflict]) -> Future[None]:
        """Record conflicts."""

    def unreadable(self, node: str, event: Unreadable) -> Future[None]:
        """Record a change that cannot be read."""

    def schema_change(self, node: str, event: SchemaChange) -> Future[None]:
        """Record a change of a table itself that the group goes on from."""
