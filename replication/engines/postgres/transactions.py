"""Messages of whole transactions become log events, in log order. A pure state machine: bytes in, events out.

Only rows of mapped tables are decoded, and of one table all that came together at once. What stands between
them (echoes, watermarks, truncates, changed tables) cuts them into one `Changes` before and one after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from replication.change import Changes, Echo, LogEvent, SchemaChange, Watermark
from replication.engines.postgres.config import MARKER, NO_SHARD, WATERMARK
from replication.engines.postgres.decode import (
    DELETE,
    RELATION,
    TRUNCATE,
    Bools,
    Buffer,
    Relation,
    parse_relation,
    parse_row,
    parse_truncate,
)
from replication.engines.postgres.position import format_lsn
from replication.engines.postgres.rows import Decoded, Layout, Orders, decode_rows, lay_out
from replication.engines.postgres.runs import Open, Run, shifted, slices
from replication.engines.postgres.types import LocalType
from replication.errors import SchemaChanged
from replication.evolution import differences, resizes
from replication.marker import Marker
from replication.position import Position, order_of
from replication.schema import Table, TableSchema


@dataclass(frozen=True, slots=True)
class Mapped:
    """What the reader of a log must know of the tables.

    Attributes:
        node: this node's name.
        group: the group's name.
        tables: mapped tables by their full name on this node.
        types: how the text of each type is read, by object id.
        unpublished: by canonical table, generated columns that the log does not carry.
        look: reads what this node has of a table now.
    """

    node: str
    group: str
    tables: Mapping[str, Table]
    types: Mapping[int, LocalType]
    unpublished: Mapping[str, frozenset[str]] = field(default_factory=dict)
    look: Callable[[Table], TableSchema | None] = lambda _: None


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
        self._open: Open | None = None
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
            layout, change, resized = self._lay_out(relation)
            if known is not None or change:
                events += self._run(buffer, start, i)
                start = i
            self._learn(relation, layout)
            if layout is not None and change:
                events.append(self._change(layout, change, resized))
        events += self._run(buffer, start, count)

    def _lay_out(self, relation: Relation) -> tuple[Layout | None, str, bool]:
        """The layout of a mapped table's rows, what has changed of the table, if anything, and its sizes."""
        m = self.mapped
        table = m.tables.get(f"{relation.schema}.{relation.table}")
        if table is None:
            return None, "", False
        absent = m.unpublished.get(table.name, frozenset())
        layout = lay_out(table, m.node, relation, m.types, absent)
        if (before := table.known.get(m.node)) is None:
            return layout, layout.trouble, False
        now = m.look(table)
        if layout.trouble and now is not None:
            # The log is behind: what the node has by now was added later.
            later = {table.mapping.local(m.node, c.name) for c in now.columns}
            layout = lay_out(table, m.node, relation, m.types, absent | later)
        if layout.trouble or now is None:
            return layout, layout.trouble, False
        changes = differences(before, now)
        return layout, "; ".join(map(str, changes)), resizes(changes, table)

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

    def _change(self, layout: Layout, detail: str, resized: bool) -> SchemaChange:
        """The event for a table that is no longer what it was, placed before the next row."""
        opened = self._open or Open(max(self.end_lsn, self._resume >> 32))
        at = Position(order_of(opened.commit, opened.index * 2 + 1), format_lsn(opened.commit))
        return SchemaChange(layout.table.name, "alter", detail, at, fits=not layout.trouble, resized=resized)

    def _run(self, buffer: Buffer, start: int, stop: int) -> list[LogEvent]:
        """The events of the messages from `start` to `stop`; no relation changes among them."""
        if start == stop:
            return []
        opened = self._open or Open()
        run = Run.number(buffer, start, stop, opened)
        echoes = self._echoes(buffer, run, opened)
        fresh = run.is_row & run.after(self._resume)
        ours, skipped = np.zeros((2, len(run.ends)), np.bool_)
        cuts: list[tuple[int, int, LogEvent | None]] = []
        for tx, echo in echoes.items():
            ours[tx], skipped[tx] = True, not echo.decode
            cuts.append((*run.bounds(tx), None))
        cuts += self._notices(buffer, run, fresh & ~ours[run.tx])
        wanted = fresh & ~skipped[run.tx]
        decoded = self._decode(buffer, run, wanted)
        events = self._cut(run, decoded, sorted(cuts, key=lambda c: c[0]), echoes)
        self._close(run, echoes, opened)
        return events

    def _echoes(self, buffer: Buffer, run: Run, opened: Open) -> dict[int, Open]:
        """Transactions that are our own: their first change writes our marker."""
        found: dict[int, Open] = {}
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
                    echo = found.setdefault(tx, Open(markers=[], decode=self.decode_echoes))
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

    def _notices(self, buffer: Buffer, run: Run, fresh: Bools) -> list[tuple[int, int, LogEvent | None]]:
        """Watermarks and truncates, each with its message."""
        found: list[tuple[int, int, LogEvent | None]] = []
        special = fresh & ((run.kind == TRUNCATE) | ((run.oid == self._watermark) & (run.kind != DELETE)))
        for i in np.flatnonzero(special).tolist():
            at = int(buffer.payloads[run.start + i])
            end = run.position(i)
            if run.kind[i] == TRUNCATE:
                for oid in parse_truncate(buffer.data, at):
                    if oid in self._layouts:
                        name = self._layouts[oid].table.name
                        detail = f"{name} was truncated at {self.mapped.node}"
                        ts = int(run.orders.ts[i])
                        found.append((i, i + 1, SchemaChange(name, "truncate", detail, end, ts=ts)))
            else:
                row = parse_row(buffer.data, at, self._relations[self._watermark])
                group, ident = row["grp"], row["ident"]
                if group is not None and ident is not None and group.decode() == self.mapped.group:
                    found.append((i, i + 1, Watermark(ident.decode(), end)))
        return found

    def _decode(self, buffer: Buffer, run: Run, wanted: Bools) -> list[Decoded]:
        rows = wanted & (run.kind != TRUNCATE)
        if not rows.any():
            return []
        orders = Orders(*(shifted(a, run.start) for a in (run.orders.hi, run.orders.index, run.orders.ts)))
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

    def _cut(
        self,
        run: Run,
        decoded: list[Decoded],
        cuts: Sequence[tuple[int, int, LogEvent | None]],
        echoes: Mapping[int, Open],
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
        self, run: Run, decoded: list[Decoded], first: int, stop: int, events: list[LogEvent]
    ) -> None:
        tables, last = slices(decoded, first + run.start, stop + run.start)
        if tables:
            events.append(Changes(tables, run.position(last - run.start)))

    def _echo(
        self,
        run: Run,
        decoded: list[Decoded],
        first: int,
        stop: int,
        echoes: Mapping[int, Open],
        events: list[LogEvent],
    ) -> None:
        tx = int(run.tx[first])
        echo = echoes[tx]
        echo.rows += slices(decoded, first + run.start, stop + run.start)[0]
        if not run.ends[tx]:
            return
        hi, last = int(run.orders.hi[first]), int(run.last[tx])
        index = int(run.orders.index[first if last < 0 else last])
        end = Position(order_of(hi, index * 2 + 1), format_lsn(int(run.ends[tx])))
        if self._resume >= order_of(hi, 3):
            return  # resumed after its marker: it was delivered before
        for marker in echo.markers or ():
            events.append(Echo(marker, end, tuple(echo.rows)))

    def _close(self, run: Run, echoes: Mapping[int, Open], opened: Open) -> None:
        """Remember the transaction that goes on after this run."""
        self.end_lsn = max(self.end_lsn, int(run.ends.max()))
        tx = int(run.tx[-1])
        if run.ends[tx] or (tx == 0 and self._open is None):
            self._open = None
            return
        state = echoes.get(tx) or (opened if tx == 0 else Open())
        state.commit, state.ts = int(run.orders.hi[-1]), int(run.orders.ts[-1])
        state.index = int(run.orders.index[-1])
        self._open = state
