"""The initial copy: reading tables that are being written to, without a lock, while the stream goes on.

A reader writes a low watermark on the node, reads a chunk of rows by key, hands it to the node's capture,
and writes a high watermark. Both watermarks come through the node's log. The capture notes every key that
changes between them; at the high watermark it emits the chunk's rows without those keys, as READ rows whose
place in the log is the high watermark's. So a row is emitted as it was read if nothing changed it in
between, else not at all, and the log tells the newer story. (Andreakis and Papapanagiotou, "DBLog", 2020.)

    reader     low ─▶ read ─▶ offer to the capture ─▶ high
    the log    low ─── changes by applications, echoes ─── high ─▶ capture emits READ rows

Several readers may be at work on ranges of one table that do not overlap: each chunk has watermarks and a
window of its own, and a key is in one range only, so what holds for one chunk holds for all.

A chunk is durable once the group's released position has passed its rows. READ rows are not in the log: when
a capture rewinds, `ChunkWindow.reset` forgets what it emitted, and the reader reads those chunks again.
Reading a chunk twice is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.batch import unpack_versions
from replication.change import (
    SYSTEM_COLUMNS,
    Changes,
    Echo,
    LogEvent,
    Op,
    Progress,
    TableChanges,
    Unreadable,
    Watermark,
)
from replication.position import LO_BITS, Position, order_of, split_order

LOST = -1
"""The capture does not know this chunk: it restarted or rewound, and the chunk must be read again."""
MAX_CHANGED_KEYS = 1_000_000
"""A window in which more keys changed is given up, and its chunk read again."""
KEPT = 1_024
"""So many emitted chunks of one copy are remembered."""
PIECE_ROWS = 2_000
"""So many rows of a chunk are one event, so that whoever takes them can stop between two."""
LEAST_ROWS = 500
"""Of an event that is divided."""
_LAST_LO = (1 << LO_BITS) - 1


@dataclass(frozen=True, slots=True)
class ChunkIdent:
    """Names one chunk of one copy; `run` is unique to each start of a copy, and has no slash."""

    run: str
    table: str
    number: int

    def __str__(self) -> str:
        return f"{self.run}/{self.table}/{self.number}"

    @property
    def low(self) -> str:
        """The text of its low watermark."""
        return f"{self}/low"

    @property
    def high(self) -> str:
        """The text of its high watermark."""
        return f"{self}/high"

    @classmethod
    def parse(cls, ident: str) -> tuple[ChunkIdent, str] | None:
        """The chunk that a watermark belongs to, and `low` or `high`; None if it is nothing of ours."""
        parts = ident.split("/", 1)
        rest = parts[-1].rsplit("/", 2)
        if len(parts) != 2 or len(rest) != 3 or not rest[1].isdecimal() or rest[2] not in ("low", "high"):
            return None
        return cls(parts[0], rest[0], int(rest[1])), rest[2]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What was read between two watermarks.

    Attributes:
        rows: `_key` and the data columns, from a `Snapshot`.
        unreadable: canonical key and reason of rows that are no rows of the table.
        gone: rows that were asked for and are not there, as `_key` and the key columns, the others null; they
            go everywhere as deletes.
        given: an operator has replaced values of the rows, so that the node itself must get them, too.
    """

    rows: pa.RecordBatch
    unreadable: Sequence[tuple[bytes, str]] = ()
    gone: pa.RecordBatch | None = None
    given: bool = False


@dataclass(slots=True)
class _Open:
    """A chunk between its watermarks: the keys that changed since the low one, in pieces."""

    changed: list[pa.Array] = field(default_factory=list)
    count: int = 0


class ChunkWindow:
    """The capture's part: what changed while a chunk was being read.

    Kept by the capture actor of the node that is copied from. It sees every event of the log, in order. The
    windows of chunks overlap freely. It holds the chunks that were offered and not emitted yet, a few per
    table, and up to `MAX_CHANGED_KEYS` keys per window; windows of one table share the keys' memory. The
    window of a chunk that is never offered stays open until it has so many, or the copy ends.

    Args:
        piece_rows: the most rows of one event.
    """

    def __init__(self, piece_rows: int = PIECE_ROWS) -> None:
        self._piece_rows = piece_rows
        self._runs: dict[str, str] = {}  # table: run
        self._open: dict[ChunkIdent, _Open] = {}
        self._offered: dict[ChunkIdent, Chunk] = {}
        self._emitted: dict[ChunkIdent, int] = {}
        self._void: set[ChunkIdent] = set()

    @property
    def active(self) -> bool:
        """Whether any table is being copied."""
        return bool(self._runs)

    def begin(self, run: str, table: str) -> None:
        """A copy of `table` starts; call it before the first low watermark is written. Ends an older run."""
        self.end(table)
        self._runs[table] = run

    def end(self, table: str) -> None:
        """The copy of `table` is over: forget all about it."""
        self._runs.pop(table, None)
        for known in (self._open, self._offered, self._emitted):
            for ident in [i for i in known if i.table == table]:
                del known[ident]
        self._void = {i for i in self._void if i.table != table}

    def run_of(self, table: str) -> str | None:
        """The copy of `table` that is at work; None if none is."""
        return self._runs.get(table)

    def reset(self) -> None:
        """The log is read again from an older position: every chunk must be read again."""
        for table in list(self._runs):
            self.end(table)

    def offer(self, ident: ChunkIdent, chunk: Chunk) -> None:
        """Take a chunk as read between its watermarks.

        Args:
            ident: its name; the copy must have begun, else the chunk is dropped and is `LOST`.
            chunk: what was read. The high watermark must not have been written yet.
        """
        if self._runs.get(ident.table) == ident.run:
            self._offered[ident] = chunk

    def emitted(self, ident: ChunkIdent) -> int | None:
        """The order of the chunk's last row once it was emitted, None before, `LOST` if it never will be."""
        if ident in self._emitted:
            return self._emitted[ident]
        known = self._runs.get(ident.table) == ident.run and ident in self._offered
        return None if known and ident not in self._void else LOST

    def on_changes(self, event: Changes) -> None:
        """Applications changed rows."""
        self._note(event.tables)

    def on_echo(self, event: Echo) -> None:
        """We changed rows. Where the source did not decode them the marker names their keys."""
        if not self._open:
            return
        if event.rows:
            self._note(event.rows)
            return
        versions = unpack_versions(event.marker.versions)
        for table in {ident.table for ident in self._open}:
            self._add(table, versions.filter(pc.equal(versions["_table"], table))["_key"].combine_chunks())

    def on_unreadable(self, event: Unreadable) -> None:
        """A row was changed to what cannot be read: what was read of it before is not newer."""
        self._add(event.table, pa.array([event.key], pa.binary()))

    def on_truncate(self, table: str) -> None:
        """All rows vanished: what was read of a chunk before is worthless, so it must be read again."""
        for ident in [i for i in self._open if i.table == table]:
            self._give_up(ident)

    def on_watermark(self, event: Watermark) -> list[LogEvent]:
        """A watermark came through the log.

        Returns:
            the events to pass on in its place: at the high watermark what the chunk has, else mere progress.
        """
        hi, _ = split_order(event.end.order)
        # A watermark has a transaction of its own: nothing else in it can come after its rows.
        end = Position(order_of(hi, _LAST_LO), event.end.token)
        parsed = ChunkIdent.parse(event.ident)
        if parsed is None or self._runs.get(parsed[0].table) != parsed[0].run:
            return [Progress(end)]
        ident, edge = parsed
        if edge == "low":
            self._open[ident] = _Open()
            return [Progress(end)]
        window = self._open.pop(ident, None)
        chunk = self._offered.pop(ident, None)
        if window is None or chunk is None:
            return [Progress(end)]
        events, order = _emit(ident.table, chunk, window.changed, event.end, self._piece_rows)
        self._remember(ident, order)
        return [*events, Progress(end)]

    def _note(self, tables: Iterable[TableChanges]) -> None:
        for changes in tables:
            self._add(changes.table, changes.rows.column("_key"))

    def _add(self, table: str, keys: pa.Array) -> None:
        for ident, window in list(self._open.items()):
            if ident.table == table:
                window.changed.append(keys)
                window.count += len(keys)
                if window.count > MAX_CHANGED_KEYS:
                    self._give_up(ident)

    def _give_up(self, ident: ChunkIdent) -> None:
        del self._open[ident]
        self._void.add(ident)

    def _remember(self, ident: ChunkIdent, order: int) -> None:
        self._emitted[ident] = order
        old = ChunkIdent(ident.run, ident.table, ident.number - KEPT)
        self._emitted.pop(old, None)


def divided(event: Changes, rows: int) -> list[Changes]:
    """An event of copied rows in two, if somebody has room for fewer: about so many, and the others.

    Any other event stays one: its rows may be of one transaction.
    """
    rows = max(rows, LEAST_ROWS)
    if event.rows <= rows or len(event.tables) > 1:
        return [event]
    (only,) = event.tables
    if only.rows.column("_op")[0].as_py() != Op.READ:
        return [event]
    first, others = only.rows.slice(0, rows), only.rows.slice(rows)
    last = event.end.order - others.num_rows  # the rows of a chunk have consecutive orders
    return [
        replace(event, tables=(TableChanges(only.table, first),), end=Position(last, event.end.token)),
        replace(event, tables=(TableChanges(only.table, others),)),
    ]


def _emit(
    table: str, chunk: Chunk, changed: Sequence[pa.Array], mark: Position, piece_rows: int
) -> tuple[list[LogEvent], int]:
    """What a chunk has of keys that did not change meanwhile, right after the watermark; its last order."""
    newer = set(pa.chunked_array(changed, pa.binary()).to_pylist()) if changed and chunk.unreadable else set()
    events: list[LogEvent] = []
    order = mark.order
    for key, reason in chunk.unreadable:
        if key not in newer:
            order += 1
            events.append(Unreadable(table, key, reason, Position(order, mark.token)))
    for op, rows in ((Op.DELETE, chunk.gone), (Op.READ, chunk.rows)):
        if rows is None:
            continue
        rows = _without(rows, changed)
        for at in range(0, rows.num_rows, piece_rows):
            batch = _as_changes(rows.slice(at, piece_rows), op, order, given=chunk.given)
            order += batch.num_rows
            events.append(Changes((TableChanges(table, batch),), Position(order, mark.token)))
    return events, order


def _without(rows: pa.RecordBatch, changed: Sequence[pa.Array]) -> pa.RecordBatch:
    if not changed:
        return rows
    keys = pa.chunked_array(changed, pa.binary())
    return rows.filter(pc.invert(pc.is_in(rows.column("_key"), value_set=keys)))


def _as_changes(rows: pa.RecordBatch, op: Op, after: int, *, given: bool) -> pa.RecordBatch:
    """A change batch of rows right after the order `after`; with an empty mask of changes if `given`."""
    count = rows.num_rows
    hi, lo = split_order(after)
    system = {
        "_op": pa.array(np.full(count, op, np.int8)),
        "_hi": pa.array(np.full(count, hi, np.uint64)),
        "_lo": pa.array(np.arange(lo + 1, lo + 1 + count, dtype=np.uint32)),
        "_ts": pa.array(np.zeros(count, np.int64)),
        "_key": rows.column("_key"),
        "_have": pa.nulls(count, pa.binary()),
        "_changed": pa.array([b""] * count, pa.binary()) if given else pa.nulls(count, pa.binary()),
    }
    data = [name for name in rows.schema.names if name not in system]
    names = [name for name, _ in SYSTEM_COLUMNS]
    return pa.RecordBatch.from_arrays(
        [*(system[n] for n in names), *(rows.column(n) for n in data)], [*names, *data]
    )
