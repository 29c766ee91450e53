"""Audit: the shell around the audit log's writer, in two halves.

`AuditQueue` sits beside a resolver: records wait there while the last ones are being written, so that a slow
disk makes batches larger and not the queue of flushes longer. `AuditLog` owns the files. Whoever added a
record is told when it is durable.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from actors.flushes import Flushes
from actors.lately import LatelyHeld
from actors.measured import Measured
from replication.audit.holds import HoldRecord
from replication.audit.records import ConflictRecord, decision_records, echoed_decisions
from replication.audit.writer import AuditWriter
from replication.batch import VERSION_COLUMNS, Applied, ApplyBatch, HeldRow, by_table, unpack_versions
from replication.change import Changes, Op, SchemaChange, TableChanges, Unreadable
from replication.conflict.batching import layer_values
from replication.conflict.decide import Conflict
from replication.conflict.version import Version
from replication.key import decode_key
from replication.marker import Marker
from replication.position import split_order
from replication.schema import TableSchema


@dataclass(frozen=True, slots=True)
class ChangeRecords:
    """Changes of one node, as they were captured."""

    node: str
    shard: int
    tables: Sequence[TableChanges]
    trace: str = ""


@dataclass(frozen=True, slots=True)
class DecisionRecords:
    """What became of a batch; columns of `records.DECISION_SCHEMA`, and the rows that its node refused."""

    rows: pa.RecordBatch
    holds: Sequence[HoldRecord] = ()


@dataclass(frozen=True, slots=True)
class ConflictRecords:
    """Conflicts, as they are written down."""

    conflicts: Sequence[ConflictRecord]


@dataclass(frozen=True, slots=True)
class HoldRecords:
    """Rows that were set aside."""

    holds: Sequence[HoldRecord]


@dataclass(frozen=True, slots=True)
class NoteRecords:
    """What the program itself or an operator did; `detail` becomes JSON."""

    kind: str
    detail: Any


PAUSE_SECONDS = 0.03
"""Between two writes: each flushes several files, and most of what is recorded holds up no batch."""

Record = ChangeRecords | DecisionRecords | ConflictRecords | HoldRecords | NoteRecords
_Waiting = tuple[Record | Callable[[], Record], Future[None]]


class AuditLog:
    """The files: one writer, used by one thread at a time. Closes the writer with `close`."""

    def __init__(self, writer: AuditWriter) -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._flushes = Flushes()
        self.lately = LatelyHeld()

    def measured(self) -> Measured:
        """What it has counted."""
        return self._flushes.measured()

    def write(self, records: Sequence[Record]) -> None:
        """Add records and make them durable."""
        with self._lock:
            began, before = time.monotonic(), self._writer.added.copy()
            for record in records:
                if isinstance(record, ChangeRecords):
                    for t in record.tables:
                        self._writer.add_changes(record.node, record.shard, t.table, t.rows, record.trace)
                elif isinstance(record, DecisionRecords):
                    if self._writer.add_decisions(record.rows):
                        self._hold(record.holds)
                elif isinstance(record, ConflictRecords):
                    self._writer.add_conflicts(record.conflicts)
                elif isinstance(record, NoteRecords):
                    self._writer.add_operator(record.kind, record.detail)
                    self.lately.noted(record.kind)
                else:
                    self._hold(record.holds)
            self._writer.flush()
            self.lately.flushed()
            now = time.monotonic()
            self._flushes.add(self._writer.added - before, now - began, now)

    def _hold(self, holds: Sequence[HoldRecord]) -> None:
        self._writer.add_holds(holds)
        self.lately.add(holds)

    def prune(self, before: int, published: Mapping[str, int] | None = None) -> dict[str, int]:
        """Remove old records; see `AuditWriter.prune`."""
        with self._lock:
            return self._writer.prune(before, published)

    def erase(self, table: str, name: str, records: Mapping[str, int]) -> None:
        """Destroy a subject's key; see `AuditWriter.erase`."""
        with self._lock:
            self._writer.erase(table, name, records)

    def close(self) -> None:
        """Close the log; see `AuditWriter.close`."""
        with self._lock:
            self._writer.close()


class AuditQueue:
    """A resolver's way to the log, with a thread of its own. After an error it takes nothing more.

    Args:
        write: makes records durable before it returns; `AuditLog.write`, here or in another process.
        schemas: canonical table name to schema.
        nodes: the sorted node names.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Record]], None],
        schemas: Mapping[str, TableSchema],
        nodes: Sequence[str],
    ) -> None:
        self._send = write
        self._schemas = schemas
        self._nodes = nodes
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def changes(self, node: str, shard: int, changes: Changes) -> Future[None]:
        """Record changes as they were captured; see `resolver.Auditor`."""
        return self._put(ChangeRecords(node, shard, changes.tables, changes.trace))

    def decisions(self, batch: ApplyBatch, applied: Applied) -> Future[None]:
        """Record what became of a batch."""

        def records() -> Record:
            versions = {t.table: t.rows for t in batch.tables} if applied.held else {}
            holds = self._holds(batch.node, applied.held, versions)
            return DecisionRecords(decision_records(batch, applied, self._nodes), holds)

        return self._put(records, hurry=bool(applied.held))

    def echoed(self, node: str, marker: Marker, held: Sequence[HeldRow]) -> Future[None]:
        """Record what became of a batch that the node's log shows."""

        def records() -> Record:
            versions = by_table(unpack_versions(marker.versions)) if held else {}
            holds = self._holds(node, held, versions)
            return DecisionRecords(echoed_decisions(node, marker, held, self._nodes), holds)

        return self._put(records)

    def conflicts(self, conflicts: Sequence[Conflict]) -> Future[None]:
        """Record conflicts."""
        return self._put(ConflictRecords([_record(c, self._schemas[c.table]) for c in conflicts]), hurry=True)

    def unreadable(self, node: str, event: Unreadable) -> Future[None]:
        """Record a change that cannot be read."""
        text = self._key_text(event.table, event.key)
        order = split_order(event.end.order)
        return self._put(
            HoldRecords([HoldRecord(node, event.table, event.key, text, node, *order, event.reason)])
        )

    def schema_change(self, node: str, event: SchemaChange) -> Future[None]:
        """Record a change of a table itself that the group goes on from."""
        hi, lo = split_order(event.end.order)
        detail = {"node": node, "table": event.table, "change": event.what, "detail": event.detail}
        return self._put(NoteRecords("schema_change", detail | {"hi": str(hi), "lo": str(lo)}))

    def barrier(self) -> Future[None]:
        """Done when all that was recorded before is durable."""
        return self._put(HoldRecords([]))

    def close(self) -> None:
        """Write what waits and end."""
        self.abandon()
        self._thread.join()

    def abandon(self) -> None:
        """Write what waits and end, without waiting for that."""
        self._queue.put(None)
        self._hurry.set()

    def _holds(
        self, node: str, held: Sequence[HeldRow], versions: Mapping[str, pa.RecordBatch]
    ) -> list[HoldRecord]:
        rows = {
            (table, r["_key"]): r
            for table, batch in versions.items()
            for r in batch.select(VERSION_COLUMNS).to_pylist()
        }
        records = []
        for row in held:
            v = rows[row.table, row.key]
            text, origin = self._key_text(row.table, row.key), self._nodes[v["_origin"]]
            records.append(HoldRecord(node, row.table, row.key, text, origin, v["_hi"], v["_lo"], row.reason))
        return records

    def _key_text(self, table: str, key: bytes) -> str:
        return key_text(key, self._schemas[table]) if key else "?"

    def _put(self, record: Record | Callable[[], Record], *, hurry: bool = False) -> Future[None]:
        """Queue a record, or what makes it: nobody who waits for a batch has to wait for that.

        Args:
            record: the record.
            hurry: a batch waits for it, so it is written as soon as what is being written has been.
        """
        done: Future[None] = Future()
        self._queue.put((record, done))
        if hurry:
            self._hurry.set()
        return done

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            batch = [item]
            while not self._queue.empty():
                if (more := self._queue.get()) is None:
                    self._queue.put(None)
                    break
                batch.append(more)
            self._write(batch)
            self._hurry.wait(PAUSE_SECONDS)
            self._hurry.clear()  # whatever is in a hurry is in the queue by now

    def _write(self, batch: Sequence[_Waiting]) -> None:
        try:
            if self._failed is not None:
                raise self._failed  # records must not follow ones that are missing
            self._send([record() if callable(record) else record for record, _ in batch])
        except Exception as error:  # noqa: BLE001  handed to everyone who waits for these records
            self._failed = error
            for _, done in batch:
                done.set_exception(error)
        else:
            for _, done in batch:
                done.set_result(None)


def _record(conflict: Conflict, schema: TableSchema) -> ConflictRecord:
    left, right = conflict.left, conflict.right
    return ConflictRecord(
        conflict.ident,
        conflict.table,
        conflict.key,
        key_text(conflict.key, schema),
        conflict.kind,
        left.node,
        *split_order(left.order),
        left.time,
        right.node,
        *split_order(right.order),
        right.time,
        conflict.winner,
        conflict.policy,
        _image(left, schema),
        _image(right, schema),
    )


def key_text(key: bytes, schema: TableSchema) -> str:
    """A key for people."""
    kinds = [schema.column(k).type.kind for k in schema.key]
    return ", ".join(str(v) for v in decode_key(key, kinds))


def _image(version: Version, schema: TableSchema) -> str | None:
    if version.op is Op.DELETE:
        return None
    return orjson.dumps(layer_values(version, schema), default=str).decode()
