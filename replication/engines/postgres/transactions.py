"""Messages of whole transactions become log events, in log order. A pure state machine: bytes in, events out.

Only rows of mapped tables are decoded, and of one table all that came together at once. What stands between
them (echoes, watermarks, truncates, changed tables) cuts them into one `Changes` before and one after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from replication.change import Changes, Echo, LogEvent, SchemaChange, TableChanges, Watermark
from replication.engines.postgres.config import MARKER, NO_SHARD, WATERMARK
from replication.engines.postgres.decode import (
    BEGIN,
    COMMIT,
    DELETE,
    EPOCH_MICROS,
    INSERT,
    RELATION,
    TRUNCATE,
    UPDATE,
    Bools,
    Buffer,
    Ints,
    Relation,
    parse_relation,
    parse_row,
    parse_truncate,
)
from replication.engines.postgres.position import format_lsn
from replication.engines.postgres.rows import Decoded, Layout, Orders, decode_rows, lay_out
from replication.engines.postgres.types import LocalType
from replication.errors import SchemaChanged
from replication.marker import Marker
from replication.position import Position, order_of
from replication.schema import Table


@dataclass(frozen=True, slots=True)
class Mapped:
    """What the reader of a log must know of the tables.

    Attributes:
        node: this node's name.
        group: the group's name.
        tables: mapped tables by their full name on this node.
        types: how the text of each type is read, by object id.
        unpublished: by canonical table, generated columns that the log does not carry.
    """

    node: str
    group: str
    tables: Mapping[str, Table]
    types: Mapping[int, LocalType]
    unpublished: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Open:
    """The transaction that the last messages left unfinished."""

    commit: int = 0
    ts: int = 0
    index: int = 0
    markers: list[Marker] | None = None
    rows: list[TableChanges] = field(default_factory=list)
    decode: bool = False


@dataclass(frozen=True, slots=True)
class _Run:
    """Messages between two changes of layout.

    Attributes:
        start: number of the first one in the buffer.
        kind, tx, oid, is_row, orders: by message; `tx` counts from the transaction left open before, as 0.
        ends: by transaction, where its commit record ends; 0 if that is not among the messages.
        last: by transaction, its last row message; -1 if there is none.
    """

    start: int
    kind: npt.NDArray[np.uint8]
    tx: Ints
    oid: Ints
    is_row: Bools
    orders: Orders
    ends: npt.NDArray[np.uint64]
    last: Ints


class Assembler:
    """Turns messages into events, across calls.

    Args:
        mapped: the tables.
        resume: changes up to this order were delivered before, and are dropped.
    """

    def __init__(self, mapped: Mapped, resume: int) -> None:
        self.mapped = mapped
        self.decode_echoes = False
        self.end_lsn = 0
        """The end of the last transaction that is complete."""
        self._resume = resume
        self._relations: dict[int, Relation] = {}
        self._layouts: dict[int, Layout] = {}
        self._marker = self._watermark = -1
        self._open: _Open | None = None
        self._failed: SchemaChanged | None = None

    @property
    def inside(self) -> bool:
        """Whether a transaction has been delivered in part."""
        return self._open is not None

    @property
    def skipping(self) -> bool:
        """Whether it is an echo whose rows are dropped, so that it may be fed in any small part."""
        return self._open is not None and self._open.markers is not None

    def feed(self, messages: Sequence[bytes | memoryview]) -> list[LogEvent]:
        """The events of some messages, in log order.

        Args:
            messages: WAL messages with their header. Rows of a transaction whose commit is not among them are
                delivered now and the rest with later calls, so pass whole transactions where they fit.

        Raises:
            SchemaChanged: a row cannot be read any more. What was before it is returned first.
        """
        events: list[LogEvent] = []
        if self._failed is None and messages:
            try:
                self._feed(Buffer(messages), len(messages), events)
            except SchemaChanged as error:
                error.node = self.mapped.node
                self._failed = error
        if self._failed is not None and not events:
            raise self._failed
        return events

    def _feed(self, buffer: Buffer, count: int, events: list[LogEvent]) -> None:
        start = 0
        for i in np.flatnonzero(buffer.bytes[buffer.payloads] == RELATION).tolist():
            relation = parse_relation(buffer.data, int(buffer.payloads[i]))
            known = self._relations.get(relation.oid)
            if known == relation:
                continue
            layout = self._lay_out(relation)
            if known is not None or (layout is not None and layout.trouble):
                events += self._run(buffer, start, i)
                start = i
            self._learn(relation, layout)
            if layout is not None and layout.trouble:
                events.append(self._trouble(layout))
        events += self._run(buffer, start, count)

    def _lay_out(self, relation: Relation) -> Layout | None:
        m = self.mapped
        table = m.tables.get(f"{relation.schema}.{relation.table}")
        if table is None:
            return None
        return lay_out(table, m.node, relation, m.types, m.unpublished.get(table.name, frozenset()))

    def _learn(self, relation: Relation, layout: Layout | None) -> None:
        self._relations[relation.oid] = relation
        name = f"{relation.schema}.{relation.table}"
        if name == MARKER:
            self._marker = relation.oid
        elif name == WATERMARK:
            self._watermark = relation.oid
        if layout is None:
            self._layouts.pop(relation.oid, None)
        else:
            self._layouts[relation.oid] = layout

    def _trouble(self, layout: Layout) -> SchemaChange:
        """The event for a table that no longer fits, placed before the next row."""
        opened = self._open or _Open(self.end_lsn)
        at = Position(order_of(opened.commit, opened.index * 2 + 1), format_lsn(opened.commit))
        return SchemaChange(layout.table.name, "alter", layout.trouble, at)

    def _run(self, buffer: Buffer, start: int, stop: int) -> list[LogEvent]:
        """The events of the messages from `start` to `stop`; no relation changes among them."""
        if start == stop:
            return []
        opened, run = self._number(buffer, start, stop)
        echoes = self._echoes(buffer, run, opened)
        fresh = run.is_row & ((run.orders.hi > np.uint64(self._resume >> 32)) | self._after_resume(run))
        ours = np.isin(run.tx, list(echoes)) if echoes else np.zeros(stop - start, np.bool_)
        wanted = fresh & ~ours
        cuts: list[tuple[int, int, LogEvent | None]] = []
        for tx, echo in echoes.items():
            if echo.decode:
                wanted |= fresh & (run.tx == tx)
            cuts.append(self._bounds(run, tx))
        cuts += self._notices(buffer, run, fresh & ~ours)
        decoded = self._decode(buffer, run, wanted)
        events = self._cut(run, decoded, sorted(cuts, key=lambda c: c[0]), echoes)
        self._close(run, echoes, opened)
        return events

    def _number(self, buffer: Buffer, start: int, stop: int) -> tuple[_Open, _Run]:
        """Give every message its transaction, index and order."""
        at = buffer.payloads[start:stop]
        kind = buffer.bytes[at]
        begin, commit = np.flatnonzero(kind == BEGIN), np.flatnonzero(kind == COMMIT)
        opened = self._open or _Open()
        tx = np.cumsum(kind == BEGIN)
        commits = np.concatenate([[np.uint64(opened.commit)], buffer.u64(at[begin] + 1)])
        times = np.concatenate([[opened.ts], buffer.i64(at[begin] + 9) + EPOCH_MICROS])
        is_row = (kind == INSERT) | (kind == UPDATE) | (kind == DELETE) | (kind == TRUNCATE)
        count = np.cumsum(is_row)
        base = np.concatenate([[-opened.index], count[begin]])
        index = count - base[tx]
        ends = np.zeros(len(begin) + 1, np.uint64)
        ends[tx[commit]] = buffer.u64(at[commit] + 10)
        last = np.full(len(begin) + 1, -1)
        rows = np.flatnonzero(is_row)
        np.maximum.at(last, tx[rows], rows)
        orders = Orders(commits[tx], index, times[tx])
        run = _Run(start, kind, tx, buffer.u32(at + 1), is_row, orders, ends, last)
        return opened, run

    def _after_resume(self, run: _Run) -> Bools:
        hi, lo = self._resume >> 32, self._resume & 0xFFFFFFFF
        after: Bools = (run.orders.hi == np.uint64(hi)) & (run.orders.index * 2 + 1 > lo)
        return after

    def _echoes(self, buffer: Buffer, run: _Run, opened: _Open) -> dict[int, _Open]:
        """Transactions that are our own: their first change writes our marker."""
        found: dict[int, _Open] = {}
        if opened.markers is not None:
            found[0] = opened
        if self._marker < 0:
            return found
        of_marker = run.is_row & (run.oid == self._marker) & (run.kind != DELETE) & (run.kind != TRUNCATE)
        for i in np.flatnonzero(of_marker).tolist():
            tx = int(run.tx[i])
            if tx in found or run.orders.index[i] == 1:
                marker = self._read_marker(buffer, run.start + i)
                if marker is not None:
                    echo = found.setdefault(tx, _Open(markers=[], decode=self.decode_echoes))
                    assert echo.markers is not None
                    echo.markers.append(marker)
        return found

    def _read_marker(self, buffer: Buffer, message: int) -> Marker | None:
        row = parse_row(buffer.data, int(buffer.payloads[message]), self._relations[self._marker])
        group, state, packed = row["grp"], row["state"], row["versions"]
        if group is None or group.decode() != self.mapped.group or state is None:
            return None
        if int(row["shard"] or NO_SHARD) == NO_SHARD:
            return None
        versions = bytes.fromhex(packed[2:].decode()) if packed else b""
        numbers = [int(row[name] or 0) for name in ("shard", "shards", "epoch", "seq")]
        shard, shards, epoch, seq = numbers
        return Marker.load(self.mapped.group, shard, shards, epoch, seq, state.decode(), versions)

    def _notices(self, buffer: Buffer, run: _Run, fresh: Bools) -> list[tuple[int, int, LogEvent | None]]:
        """Watermarks and truncates, each with its message."""
        found: list[tuple[int, int, LogEvent | None]] = []
        special = fresh & ((run.kind == TRUNCATE) | ((run.oid == self._watermark) & (run.kind != DELETE)))
        for i in np.flatnonzero(special).tolist():
            at = int(buffer.payloads[run.start + i])
            end = self._position(run, i)
            if run.kind[i] == TRUNCATE:
                for oid in parse_truncate(buffer.data, at):
                    if oid in self._layouts:
                        name = self._layouts[oid].table.name
                        detail = f"{name} was truncated at {self.mapped.node}"
                        found.append((i, i + 1, SchemaChange(name, "truncate", detail, end)))
            else:
                row = parse_row(buffer.data, at, self._relations[self._watermark])
                group, ident = row["grp"], row["ident"]
                if group is not None and ident is not None and group.decode() == self.mapped.group:
                    found.append((i, i + 1, Watermark(ident.decode(), end)))
        return found

    def _decode(self, buffer: Buffer, run: _Run, wanted: Bools) -> list[Decoded]:
        orders = Orders(*(_shifted(a, run.start) for a in (run.orders.hi, run.orders.index, run.orders.ts)))
        rows = wanted & (run.kind != TRUNCATE)
        oids = run.oid[rows]
        found = []
        for oid in np.unique(oids).tolist():
            if layout := self._layouts.get(oid):
                messages = np.flatnonzero(rows & (run.oid == oid)) + run.start
                found.append(self._without_delivered(decode_rows(buffer, layout, messages, orders)))
        return found

    def _without_delivered(self, part: Decoded) -> Decoded:
        """Resumed between the two rows of a key change: its first row was delivered before."""
        hi, lo = self._resume >> 32, self._resume & 0xFFFFFFFF
        if lo % 2 or not part.rows.num_rows or part.rows.column("_hi")[0].as_py() > hi:
            return part
        in_it = part.rows.column("_hi").to_numpy() == hi
        fresh = ~(in_it & (part.rows.column("_lo").to_numpy() <= lo))
        return Decoded(part.table, part.rows.filter(pa.array(fresh)), part.message[fresh])

    def _bounds(self, run: _Run, tx: int) -> tuple[int, int, None]:
        """The first and last message of a transaction in this run."""
        return int(np.searchsorted(run.tx, tx)), int(np.searchsorted(run.tx, tx, "right")), None

    def _cut(
        self,
        run: _Run,
        decoded: list[Decoded],
        cuts: Sequence[tuple[int, int, LogEvent | None]],
        echoes: Mapping[int, _Open],
    ) -> list[LogEvent]:
        """Put everything into log order; a cut without an event of its own is an echo."""
        events: list[LogEvent] = []
        at = 0
        for first, stop, event in cuts:
            if first > at:
                self._between(run, decoded, at, first, events)
            if event is not None:
                events.append(event)
            else:
                self._echo(run, decoded, first, stop, echoes, events)
            at = stop
        self._between(run, decoded, at, len(run.kind), events)
        return events

    def _between(
        self, run: _Run, decoded: list[Decoded], first: int, stop: int, events: list[LogEvent]
    ) -> None:
        tables, last = _slices(decoded, first + run.start, stop + run.start)
        if tables:
            events.append(Changes(tables, self._position(run, last - run.start)))

    def _echo(
        self,
        run: _Run,
        decoded: list[Decoded],
        first: int,
        stop: int,
        echoes: Mapping[int, _Open],
        events: list[LogEvent],
    ) -> None:
        tx = int(run.tx[first])
        echo = echoes[tx]
        echo.rows += _slices(decoded, first + run.start, stop + run.start)[0]
        if not run.ends[tx]:
            return
        hi, last = int(run.orders.hi[first]), int(run.last[tx])
        index = int(run.orders.index[first if last < 0 else last])
        end = Position(order_of(hi, index * 2 + 1), format_lsn(int(run.ends[tx])))
        if self._resume >= order_of(hi, 3):
            return  # resumed after its marker: it was delivered before
        for marker in echo.markers or ():
            events.append(Echo(marker, end, tuple(echo.rows)))

    def _position(self, run: _Run, i: int) -> Position:
        """The position of one row message."""
        tx, hi = int(run.tx[i]), int(run.orders.hi[i])
        end = int(run.ends[tx])
        token = end if end and run.last[tx] == i else hi
        return Position(order_of(hi, int(run.orders.index[i]) * 2 + 1), format_lsn(token))

    def _close(self, run: _Run, echoes: Mapping[int, _Open], opened: _Open) -> None:
        """Remember the transaction that goes on after this run."""
        self.end_lsn = max(self.end_lsn, int(run.ends.max()))
        tx = int(run.tx[-1])
        if run.ends[tx] or (tx == 0 and self._open is None):
            self._open = None
            return
        state = echoes.get(tx) or (opened if tx == 0 else _Open())
        state.commit, state.ts = int(run.orders.hi[-1]), int(run.orders.ts[-1])
        state.index = int(run.orders.index[-1])
        self._open = state


def _shifted(column: npt.NDArray[Any], by: int) -> npt.NDArray[Any]:
    """The column numbered as the buffer's messages are."""
    return column if not by else np.concatenate([np.zeros(by, column.dtype), column])


def _slices(decoded: list[Decoded], first: int, stop: int) -> tuple[list[TableChanges], int]:
    """The rows of the messages from `first` to `stop`, and the last of these messages that has one."""
    tables, last = [], -1
    for part in decoded:
        low, high = np.searchsorted(part.message, [first, stop]).tolist()
        if high > low:
            tables.append(TableChanges(part.table, part.rows.slice(low, high - low)))
            last = max(last, int(part.message[high - 1]))
    return tables, last
