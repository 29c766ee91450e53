"""What the conformance tests share: a prepared node, the changes of a log one by one, batches to apply."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Self, TypeVar

import pyarrow as pa

from replication.batch import Applied, ApplyBatch, TableRows, apply_schema
from replication.change import Changes, Echo, LogEvent, Op, TableChanges, Unreadable, Watermark
from replication.engine import Applier, Source
from replication.errors import Transient
from replication.key import encode_key
from replication.marker import Marker
from replication.position import Position, order_of
from replication.schema import Table
from replication.types import Kind
from tests.fixtures.engines import GROUP, NODE, EngineHarness, Key, Row

T = TypeVar("T")
PATIENCE = 20.0
OTHER = "elsewhere"
BARRIER = "barrier-"
INITIAL = Marker(GROUP, 0, 1, 0, 0)


@dataclass(frozen=True)
class Seen:
    """One change, out of its batch. `row` has only the columns that it carries."""

    table: str
    op: Op
    key: Key
    row: Row = field(hash=False)
    order: int = field(compare=False)
    changed: frozenset[str] | None = field(compare=False, default=None)
    ts: int = field(compare=False, default=0)


@dataclass(frozen=True)
class Write:
    """One row to apply; without `row` a delete. `row` without some columns is a partial update."""

    table: str
    key: Key
    row: Row | None = None
    copied: bool = False

    @property
    def op(self) -> Op:
        return Op.DELETE if self.row is None else Op.READ if self.copied else Op.UPDATE


class Peer:
    """A node that takes part: our tables prepared, epoch 1, and an applier of its only shard."""

    def __init__(self, harness: EngineHarness) -> None:
        self.harness = harness
        self.engine = harness.engine
        self.stack = ExitStack()
        self.control = self.stack.enter_context(closing(self.engine.control()))
        self.snapshot = self.stack.enter_context(closing(self.engine.snapshot()))
        self.start = self.control.prepare(harness.mapped)
        self.markers = self.control.raise_epoch(1, 1, INITIAL)
        self.epoch = self.markers[0].epoch
        self.seq = self.markers[0].seq
        self._applier: Applier | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @property
    def applier(self) -> Applier:
        if self._applier is None:
            self._applier = self.stack.enter_context(closing(self.engine.applier(self.harness.mapped, [])))
        return self._applier

    def read(
        self, after: Position | None = None, *, max_rows: int = 1000, echoes: bool = False
    ) -> list[LogEvent]:
        """Everything in the log after a position, up to now."""
        with closing(self.source(after)) as source:
            source.decode_echoes = echoes
            return self.drain(source, max_rows=max_rows)

    def source(self, after: Position | None = None) -> Source:
        return self.engine.source(self.harness.mapped, after or self.start)

    def drain(self, source: Source, *, max_rows: int = 1000) -> list[LogEvent]:
        """Everything up to now: a watermark, written now, ends it; such watermarks are left out."""
        ident = BARRIER + uuid.uuid4().hex
        self.snapshot.write_watermark(ident)
        events: list[LogEvent] = []
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for event in source.poll(max_rows, 1.0):
                if isinstance(event, Watermark) and event.ident == ident:
                    return events
                if not (isinstance(event, Watermark) and event.ident.startswith(BARRIER)):
                    events.append(event)
        raise AssertionError(f"the watermark did not appear; only {events}")

    def changes(self, after: Position | None = None, *, max_rows: int = 1000) -> list[Seen]:
        """The changes of applications in the log after a position, up to now."""
        return changes_in(self.read(after, max_rows=max_rows), self.harness)

    def batch(self, *writes: Write, **marker: Any) -> ApplyBatch:
        """The next batch of the shard; `marker` overrides fields of its marker."""
        made = Marker(
            GROUP, 0, 1, self.epoch, self.seq + 1, self.seq, cut={NODE: 7, OTHER: order_of(1 << 63, 9)}
        )
        return ApplyBatch(NODE, replace(made, **marker), batches(self.harness, writes))

    def apply(self, *writes: Write, **marker: Any) -> Applied:
        """Apply the next batch of the shard."""
        batch = self.batch(*writes, **marker)
        applied = self.applier.apply(batch)
        self.seq = batch.marker.seq
        return applied


def eventually(attempt: Callable[[], T]) -> T:
    """Try until it works or patience ends; a node may need a moment after it was cut off."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except Transient:
            if time.monotonic() > deadline:
                raise


def batches(harness: EngineHarness, writes: Iterable[Write]) -> list[TableRows]:
    """Rows to apply as one Arrow batch per table."""
    found: dict[str, list[Write]] = {}
    for write in writes:
        found.setdefault(write.table, []).append(write)
    return [TableRows(name, apply_rows(harness.tables[name], rows)) for name, rows in found.items()]


def apply_rows(table: Table, writes: Sequence[Write]) -> pa.RecordBatch:
    schema = table.schema
    names = [c.name for c in schema.columns]
    kinds = key_kinds(table)
    n = len(writes)
    system = [
        pa.array([w.op for w in writes], pa.int8()),
        pa.array([encode_key(w.key, kinds) for w in writes], pa.binary()),
        pa.array([_have(names, schema.key, w.row) for w in writes], pa.binary()),
        pa.array([0] * n, pa.int16()),
        pa.array(range(n), pa.uint64()),
        pa.array([0] * n, pa.uint32()),
        pa.array(range(n), pa.int64()),
    ]
    rows = [dict(zip(schema.key, w.key, strict=True)) | dict(w.row or {}) for w in writes]
    data = [pa.array([_arrow(row.get(c.name)) for row in rows], c.type.arrow) for c in schema.columns]
    return pa.RecordBatch.from_arrays(system + data, schema=apply_schema(schema.arrow))


def changes_in(events: Iterable[LogEvent], harness: EngineHarness) -> list[Seen]:
    """The changes of applications, in log order; checks the orders on the way."""
    seen: list[Seen] = []
    for event in events:
        assert not isinstance(event, Unreadable), event
        if isinstance(event, Changes):
            rows = rows_of(event.tables, harness)
            assert rows, "an event without changes"
            assert rows[-1].order <= event.end.order
            seen += rows
        elif isinstance(event, Echo):
            assert not seen or seen[-1].order < event.end.order
    orders = [s.order for s in seen]
    assert orders == sorted(set(orders)), "orders must increase strictly"
    return seen


def rows_of(tables: Sequence[TableChanges], harness: EngineHarness) -> list[Seen]:
    """The rows of one event, in log order."""
    rows: list[Seen] = []
    for changes in tables:
        found = [_seen(harness.tables[changes.table], r) for r in to_python(harness, changes)]
        orders = [r.order for r in found]
        assert orders == sorted(orders), "the rows of one batch are in log order"
        rows += found
    return sorted(rows, key=lambda r: r.order)


def to_python(harness: EngineHarness, changes: TableChanges) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = changes.rows.to_pylist()
    return [decimals(harness.tables[changes.table], row) for row in rows]


def decimals(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """Numbers as numbers, so that 1.5 is 1.50."""
    for c in table.schema.columns:
        if c.type.kind is Kind.NUMERIC and row[c.name] is not None:
            row[c.name] = Decimal(row[c.name])
    return row


def key_kinds(table: Table) -> list[Kind]:
    return [table.schema.column(name).type.kind for name in table.schema.key]


def events_of(events: Iterable[LogEvent], kind: type[T]) -> list[T]:
    return [e for e in events if isinstance(e, kind)]


def _seen(table: Table, row: Mapping[str, Any]) -> Seen:
    names = [c.name for c in table.schema.columns]
    key = tuple(row[name] for name in table.schema.key)
    assert row["_key"] == encode_key(key, key_kinds(table))
    op = Op(row["_op"])
    have = set(table.schema.key) if op is Op.DELETE else _names(row["_have"], names)
    values = {n: row[n] for n in names if n in have}
    changed = None if row["_changed"] is None else frozenset(_names(row["_changed"], names))
    return Seen(table.name, op, key, values, order_of(row["_hi"], row["_lo"]), changed, row["_ts"])


def _names(bits: bytes | None, names: Sequence[str]) -> set[str]:
    if bits is None:
        return set(names)
    return {n for i, n in enumerate(names) if bits[i // 8] >> i % 8 & 1}


def _have(names: Sequence[str], key: Sequence[str], row: Row | None) -> bytes | None:
    if row is None or set(names) <= row.keys() | set(key):
        return None
    bits = sum(1 << i for i, n in enumerate(names) if n in row or n in key)
    return bits.to_bytes((len(names) + 7) // 8, "little")


def _arrow(value: Any) -> Any:
    return format(value, "f") if isinstance(value, Decimal) else value
