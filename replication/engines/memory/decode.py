"""Log entries become events. Knows no database: entries in, events out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from replication.change import (
    Changes,
    Echo,
    LogEvent,
    Op,
    Progress,
    SchemaChange,
    TableChanges,
    Watermark,
    change_schema,
)
from replication.engines.memory.log import Block, Entry
from replication.engines.memory.position import position_of
from replication.engines.memory.schema import Binding
from replication.engines.memory.store import one_batch
from replication.position import order_of


class Decoder:
    """Turns the entries of one log into events for one group.

    Args:
        group: whose markers and watermarks are ours.
        bindings: the mapped tables by their name in the database.
        cursor: the order up to which everything was decoded.
    """

    def __init__(self, group: str, bindings: Mapping[str, Binding], cursor: int) -> None:
        self.group = group
        self.bindings = bindings
        self.cursor = cursor
        self.reported = -1
        self._parts: dict[str, list[pa.RecordBatch]] = {}
        self._rows = 0
        self._end = 0

    def events(self, entries: Iterable[Entry], max_rows: int, decode_echoes: bool) -> list[LogEvent]:
        """The events of the next entries, at most `max_rows` changes; moves the cursor past them.

        Transactions of applications are joined until something else comes between; one that is too large
        is split.
        """
        events: list[LogEvent] = []
        room = max_rows
        for entry in entries:
            blocks = [b for b in entry.blocks if b.table in self.bindings]
            if event := self._own(entry, blocks, decode_echoes):
                self._flush(events)
                events.append(event)
            elif blocks:
                taken = self._take(entry, blocks, room, max_rows)
                room -= taken
                if self.cursor != entry.end or room <= 0:
                    break
            self.cursor = entry.end
        self._flush(events)
        if events:
            self.reported = max(self.reported, events[-1].end.order)
        if self.reported < self.cursor:
            self.reported = self.cursor
            events.append(Progress(position_of(self.cursor)))
        return events

    def _own(self, entry: Entry, blocks: Sequence[Block], decode_echoes: bool) -> LogEvent | None:
        end = position_of(entry.end)
        if entry.marker is not None and entry.marker.group == self.group:
            # Resumed inside one of our own transactions: what is left of it is ours too.
            if self.cursor >= order_of(entry.number, 0):
                return Progress(end)
            rows = [self._changes(entry, b) for b in blocks] if decode_echoes else ()
            return Echo(entry.marker.load(), end, rows)
        if entry.watermark is not None and entry.watermark[0] == self.group:
            return Watermark(entry.watermark[1], end)
        if entry.ddl is not None and entry.ddl.table in self.bindings:
            name = self.bindings[entry.ddl.table].table.name
            return SchemaChange(name, entry.ddl.what, entry.ddl.detail, end, ts=entry.time)
        return None

    def _take(self, entry: Entry, blocks: Sequence[Block], room: int, max_rows: int) -> int:
        """Take what fits of one transaction of an application; how many rows."""
        done = (self.cursor & 0xFFFFFFFF) + 1 if self.cursor >> 32 == entry.number else 0
        blocks = [b.between(done, entry.last) for b in blocks]
        waiting = np.sort(np.concatenate([b.index for b in blocks]))
        if len(waiting) > room and room < max_rows:
            return 0
        part = waiting[:room]
        if not len(part):
            self.cursor = entry.end
            return 0
        last = int(part[-1])
        for block in blocks:
            changes = self._changes(entry, block.between(done, last))
            self._parts.setdefault(changes.table, []).append(changes.rows)
        self._rows += len(part)
        self._end = order_of(entry.number, last)
        self.cursor = entry.end if len(part) == len(waiting) else self._end
        return len(part)

    def _changes(self, entry: Entry, block: Block) -> TableChanges:
        binding = self.bindings[block.table]
        n = len(block.op)
        schema = change_schema(binding.table.schema.arrow)
        columns = [
            pa.array(block.op, pa.int8()),
            pa.array(np.full(n, entry.number, np.uint64)),
            pa.array(block.index, pa.uint32()),
            pa.array(np.full(n, entry.time, np.int64)),
            block.keys,
            _have_bits(block, binding.columns),
            _changed_bits(block, binding.columns),
            *(
                block.rows.column(name) if name in block.rows.schema.names else pa.nulls(n, c.type.arrow)
                for name, c in zip(binding.columns, binding.table.schema.columns, strict=True)
            ),
        ]
        return TableChanges(binding.table.name, pa.RecordBatch.from_arrays(columns, schema=schema))

    def _flush(self, events: list[LogEvent]) -> None:
        if self._rows:
            tables = [
                TableChanges(name, one_batch(pa.Table.from_batches(parts)) if len(parts) > 1 else parts[0])
                for name, parts in self._parts.items()
            ]
            events.append(Changes([t for t in tables if t.rows.num_rows], position_of(self._end)))
        self._parts, self._rows = {}, 0


def _have_bits(block: Block, columns: Sequence[str]) -> pa.Array:
    """Null, for all, unless a column is no longer called what the mapping says."""
    present = [name in block.rows.schema.names for name in columns]
    if all(present):
        return pa.nulls(len(block.op), pa.binary())
    bits = np.packbits(np.array(present), bitorder="little").tobytes()
    return pa.array([bits] * len(block.op), pa.binary())


def _changed_bits(block: Block, columns: Sequence[str]) -> pa.Array:
    """Which mapped columns each update changed; null for anything else."""
    if block.changed is None:
        return pa.nulls(len(block.op), pa.binary())
    names = block.rows.schema.names
    changed = np.zeros((len(block.op), len(columns)), np.bool_)
    for i, name in enumerate(columns):
        if name in names:
            changed[:, i] = block.changed[:, names.index(name)]
    bits = np.packbits(changed, axis=1, bitorder="little")
    update = block.op == Op.UPDATE
    return pa.array([bytes(b) if u else None for b, u in zip(bits, update, strict=True)], pa.binary())
