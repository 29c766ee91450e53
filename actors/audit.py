"""Audit: the shell around the audit log's writer.

Records wait in a queue; one thread takes all that wait, adds them and flushes once, so that a slow disk
makes batches larger and not the queue of flushes longer. Whoever added is told when the records are durable.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import orjson

from replication.audit.records import ConflictRecord, decision_records
from replication.audit.writer import AuditWriter
from replication.batch import Applied, ApplyBatch
from replication.change import Op, TableChanges
from replication.conflict.batching import layer_values
from replication.conflict.decide import Conflict
from replication.conflict.version import Version
from replication.key import decode_key
from replication.position import split_order
from replication.schema import TableSchema

Record = Callable[[AuditWriter], object]


class Audit:
    """The audit log of a group, in a thread of its own.

    Args:
        writer: the open log; closed by `close`.
        schemas: canonical table name to schema.
        nodes: the sorted node names.
    """

    def __init__(self, writer: AuditWriter, schemas: Mapping[str, TableSchema], nodes: Sequence[str]) -> None:
        self._writer = writer
        self._schemas = schemas
        self._nodes = nodes
        self._queue: queue.SimpleQueue[tuple[Record, Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="audit")
        self._thread.start()

    def changes(self, node: str, shard: int, tables: Sequence[TableChanges]) -> Future[None]:
        """Record changes as they were captured; see `resolver.Auditor`."""
        return self._put(lambda w: [w.add_changes(node, shard, t.table, t.rows) for t in tables])

    def decisions(self, batch: ApplyBatch, applied: Applied) -> Future[None]:
        """Record what became of a batch."""
        return self._put(lambda w: w.add_decisions(decision_records(batch, applied, self._nodes)))

    def conflicts(self, conflicts: Sequence[Conflict]) -> Future[None]:
        """Record conflicts."""
        records = [_record(c, self._schemas[c.table]) for c in conflicts]
        return self._put(lambda w: w.add_conflicts(records))

    def operator(self, kind: str, detail: Mapping[str, object]) -> Future[None]:
        """Record what an operator or the program itself did."""
        return self._put(lambda w: w.add_operator(kind, dict(detail)))

    def close(self, *, drained: bool) -> None:
        """Write what waits and close the log."""
        self._queue.put(None)
        self._thread.join()
        self._writer.close(drained=drained)

    def _put(self, record: Record) -> Future[None]:
        done: Future[None] = Future()
        self._queue.put((record, done))
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

    def _write(self, batch: Sequence[tuple[Record, Future[None]]]) -> None:
        try:
            for record, _ in batch:
                record(self._writer)
            self._writer.flush()
        except Exception as error:  # noqa: BLE001  handed to everyone who waits for these records
            for _, done in batch:
                done.set_exception(error)
        else:
            for _, done in batch:
                done.set_result(None)


def _record(conflict: Conflict, schema: TableSchema) -> ConflictRecord:
    kinds = [schema.column(k).type.kind for k in schema.key]
    key_text = ", ".join(str(v) for v in decode_key(conflict.key, kinds))
    left, right = conflict.left, conflict.right
    return ConflictRecord(
        conflict.ident,
        conflict.table,
        conflict.key,
        key_text,
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


def _image(version: Version, schema: TableSchema) -> str | None:
    if version.op is Op.DELETE:
        return None
    return orjson.dumps(layer_values(version, schema), default=str).decode()
