"""From change-stream events to log events, without a connection.

Lifecycle: `feed` every event in the order of the stream, `idle` when a reply was empty, `drain` what has
become of them. A failure that must stop the node is kept until everything before it has been drained.

Our own apply transactions. Every event of a transaction carries the same session and transaction
number, and the first is the marker, which says how many events follow. The echo is given out when the last of
them has been seen, so no position ever lies between a marker and its rows: reading from there, the
rows would look like an application's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from replication.change import (
    Changes,
    Echo,
    LogEvent,
    Progress,
    SchemaChange,
    TableChanges,
    Unreadable,
    Watermark,
)
from replication.engines.mongodb.config import MARKER, WATERMARK
from replication.engines.mongodb.decode import Row, read_row, to_batch
from replication.engines.mongodb.layout import Layout
from replication.engines.mongodb.marker import echoed_marker
from replication.engines.mongodb.position import Counter, pack_token, token_time
from replication.errors import SchemaChanged, SyncError
from replication.marker import Marker
from replication.position import LO_BITS, Position

_ROW_EVENTS = frozenset({"insert", "update", "replace", "delete"})
_DDL = {"drop": "drop", "rename": "rename", "modify": "alter"}
Event = Mapping[str, Any]
Tagged = tuple[Layout, Row, Position]


@dataclass
class _Echo:
    """One of our transactions while its events arrive.

    Attributes:
        left: how many events of it are still to come.
        passed: order and token of the last one that was passed over.
    """

    transaction: tuple[bytes, int] | None
    hi: int
    marker: Marker
    left: int
    passed: tuple[int, Mapping[str, Any]] | None = None
    rows: list[Tagged] = field(default_factory=list)


class StreamDecoder:
    """The state of reading one change stream.

    Args:
        group: whose markers mark an echo.
        layouts: the mapped tables.
        start: the position to resume after.
        inclusive: whether the stream was opened at the start of the position's cluster time, so that
            events up to the position come again.
    """

    def __init__(
        self, group: str, layouts: Sequence[Layout], start: Position, *, inclusive: bool = False
    ) -> None:
        self.decode_echoes = False
        self.end = start
        self._group = group
        self._tables = {layout.collection: layout for layout in layouts}
        self._counter = Counter(Position(start.order >> LO_BITS << LO_BITS) if inclusive else start)
        self._skip_to = start.order
        self._out: list[LogEvent] = []
        self._rows: list[Tagged] = []
        self._echo: _Echo | None = None
        self._fragments: dict[str, Any] = {}
        self._quiet_token: str | None = None
        self._failure: SyncError | None = None
        self._progress = start.order
        """The order that the last event given out ended at."""

    @property
    def pending(self) -> int:
        """How many changes wait to be drained."""
        return len(self._rows) + sum(e.rows for e in self._out if isinstance(e, Changes))

    @property
    def failed(self) -> bool:
        """Whether the node must stop; `drain` says why once it is empty."""
        return self._failure is not None

    def feed(self, event: Event) -> None:
        """The next event, or the next fragment of one too large for a reply."""
        whole = self._join(event)
        if whole is None or self._failure is not None:
            return
        order = self._counter.next(whole["clusterTime"])
        if order <= self._skip_to or self._passes(whole, order):
            return
        position = Position(order, pack_token(whole["_id"]))
        self._quiet_token = None
        try:
            self._take(whole, position)
        except SyncError as error:
            self._failure = error

    def _passes(self, event: Event, order: int) -> bool:
        """Whether an event is one of an echo's rows that nobody asks for; the last one ends the echo."""
        echo = self._echo
        if echo is None or self.decode_echoes or echo.left <= 1 or _transaction(event) != echo.transaction:
            return False
        echo.left -= 1
        echo.passed = order, event["_id"]
        self._quiet_token = None
        return True

    def idle(self, token: Mapping[str, Any]) -> None:
        """A reply was empty, and the stream stands at `token`."""
        text = pack_token(token)
        hi = token_time(token)
        if self._echo is not None:
            # Its marker announced events that this stream does not show: a table is no longer mapped.
            if text == self._quiet_token or (hi is not None and hi > self._echo.hi):
                self._finish_echo()
        elif hi is not None and self._counter.advance(hi):
            self.end = Position(self._counter.order, text)
        self._quiet_token = text

    def drain(self) -> list[LogEvent]:
        """Everything that is complete.

        Raises:
            SyncError: what stopped the decoder, once nothing is left before it.
        """
        self._flush()
        out, self._out = self._out, []
        if not out:
            if self._failure is not None:
                raise self._failure
            if self._echo is None and self.end.order > self._progress:
                out = [Progress(self.end)]
        if out:
            self._progress = out[-1].end.order
        return out

    def _join(self, event: Event) -> Event | None:
        part = event.get("splitEvent")
        if part is None or part["of"] == 1:
            return event
        if part["fragment"] == 1:
            self._fragments = {}
        self._fragments.update(event)
        return self._fragments if part["fragment"] == part["of"] else None

    def _take(self, event: Event, position: Position) -> None:
        transaction = _transaction(event)
        name = event.get("ns", {}).get("coll", "")
        if self._echo is not None:
            if transaction is not None and transaction == self._echo.transaction:
                self._take_echo(event, position, name)
                return
            self._finish_echo()
        self.end = position
        if event["operationType"] not in _ROW_EVENTS:
            self._take_ddl(event, position, name)
        elif name == MARKER:
            echoed = echoed_marker(event.get("fullDocument"), self._group)
            if echoed is not None:
                self._flush()
                self._echo = _Echo(transaction, position.order >> LO_BITS, *echoed)
                if not self._echo.left:
                    self._finish_echo()
        elif name == WATERMARK:
            document = event.get("fullDocument") or {}
            if document.get("_id") == self._group:
                self._emit(Watermark(document["ident"], position))
        elif layout := self._tables.get(name):
            self._rows.append((layout, read_row(event, position.order, layout), position))

    def _take_echo(self, event: Event, position: Position, name: str) -> None:
        assert self._echo is not None
        self.end = position
        layout = self._tables.get(name)
        if self.decode_echoes and layout is not None and event["operationType"] in _ROW_EVENTS:
            self._echo.rows.append((layout, read_row(event, position.order, layout), position))
        self._echo.left -= 1
        if not self._echo.left:
            self._finish_echo()

    def _finish_echo(self) -> None:
        assert self._echo is not None
        echo, self._echo = self._echo, None
        if echo.passed is not None and echo.passed[0] > self.end.order:
            order, token = echo.passed
            self.end = Position(order, pack_token(token))
        tables = [TableChanges(layout.name, batch) for layout, batch in _readable(echo.rows)]
        self._emit(Echo(echo.marker, self.end, tables))

    def _take_ddl(self, event: Event, position: Position, name: str) -> None:
        what = event["operationType"]
        if what in ("dropDatabase", "invalidate"):
            for layout in self._tables.values():
                self._emit(SchemaChange(layout.name, "drop", "the database was dropped", position))
            message = "the database was dropped, and its change stream with it"
            self._failure = SchemaChanged(
                message, position=position.order, hint="restore it and copy its rows"
            )
            return
        target = event.get("to", {}).get("coll", "")
        for collection in {name, target} & self._tables.keys():
            detail = _detail(event, name, target)
            if what in _DDL and detail:
                self._emit(SchemaChange(self._tables[collection].name, _DDL[what], detail, position))

    def _emit(self, event: LogEvent) -> None:
        self._flush()
        self._out.append(event)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._out.extend(_log_events(rows))


def _log_events(rows: list[Tagged]) -> list[LogEvent]:
    """Changes in as few batches as there may be, unreadable ones between them in their place."""
    if not rows:
        return []
    tables, unreadable = _batches(rows)
    if not unreadable:
        return [Changes(tables, rows[-1][2])]
    out: list[LogEvent] = []
    begin = 0
    for at in [*sorted(unreadable), len(rows)]:
        if rows[begin:at]:
            out.append(Changes(_batches(rows[begin:at])[0], rows[at - 1][2]))
        if at < len(rows):
            layout, row, position = rows[at]
            out.append(Unreadable(layout.name, *unreadable[at], position, row.ts))
        begin = at + 1
    return out


def _batches(rows: Sequence[Tagged]) -> tuple[list[TableChanges], dict[int, tuple[bytes, str]]]:
    places: dict[str, list[int]] = {}
    for i, (layout, _, _) in enumerate(rows):
        places.setdefault(layout.name, []).append(i)
    tables = []
    unreadable: dict[int, tuple[bytes, str]] = {}
    for name, at in places.items():
        layout = rows[at[0]][0]
        batch, bad = to_batch([rows[i][1] for i in at], layout)
        tables.append(TableChanges(name, batch))
        unreadable |= {at[i]: problem for i, problem in bad.items()}
    return tables, unreadable


def _readable(rows: Sequence[Tagged]) -> list[tuple[Layout, pa.RecordBatch]]:
    """What of an echo can be read; what we wrote ourselves always can."""
    if not rows:
        return []
    layouts = {layout.name: layout for layout, _, _ in rows}
    _, unreadable = _batches(rows)
    kept = [row for i, row in enumerate(rows) if i not in unreadable]
    return [(layouts[t.table], t.rows) for t in _batches(kept)[0]]


def _transaction(event: Event) -> tuple[bytes, int] | None:
    session = event.get("lsid")
    number = event.get("txnNumber")
    return None if session is None or number is None else (bytes(session["id"]), int(number))


def _detail(event: Event, name: str, target: str) -> str:
    match event["operationType"]:
        case "drop":
            return f"the collection {name} was dropped"
        case "rename":
            return f"the collection {name} was renamed to {target}"
    images = event.get("operationDescription", {}).get("changeStreamPreAndPostImages")
    return "pre-images were switched off" if images is not None and not images.get("enabled") else ""
