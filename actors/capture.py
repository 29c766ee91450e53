"""Capture: reads one node's log and hands every shard its part, in log order.

Place in the flow: between an engine's `Source` and the resolvers. Back-pressure: while a resolver says that
a target is too far behind, nothing is polled; the source is only kept alive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from actors.limits import LEAST_ROWS
from actors.promptness import Heed
from actors.rereading import Rereading
from replication.backfill import Chunk, ChunkIdent, ChunkWindow, divided
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
from replication.engine import Source
from replication.errors import SchemaChanged
from replication.evolution import Verdict, verdict
from replication.pacing import CALM, Load, worst
from replication.position import Position
from replication.schema import Table
from replication.sharding import shards_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ack:
    """What a resolver answers to events of one log.

    Attributes:
        replaying: it needs the rows of echoes.
        paused: a target is too far behind; hold back.
        released: re-reading from here is enough after a restart, so the log before it may go.
        epoch: the incarnation that answers.
        room: how many rows more it can take before it pauses.
        halted: an operator has paused the node, and nothing more is to be read.
        until: an operator has paused the node, and it is to be read again up to this order; a log that is
            handed to several shards, up to the highest of theirs.
        load: how the nodes bear what the shard sends them.
    """

    replaying: bool
    paused: bool
    released: Position
    epoch: int
    room: int = 1 << 30
    halted: bool = False
    until: int | None = None
    load: Load = CALM


class Sink(Protocol):
    """A resolver shard, as capture needs it."""

    def feed(self, node: str, events: Sequence[LogEvent], epoch: int | None) -> Ack:
        """Process events of `node`'s log, in order.

        Args:
            node: whose log.
            events: the next events; an empty list asks for the state only.
            epoch: the incarnation that these events follow the `released` position of; None: just asking.

        Raises:
            Superseded: another incarnation is at work.
        """

    def on_their_way(self, table: str) -> list[bytes]:
        """The keys of a table that have not reached every node."""


Carry = Callable[[SchemaChange], TableChanges]
MARKS = 64
"""So many watermarks that the log has shown are remembered."""
ECHO_SECONDS = 0.02
"""So long echoes wait for a change to be handed on with: no other node is sent anything because of one."""
ECHOES = 64
"""So many do not wait."""


class Capture:
    """One node's reader.

    Args:
        node: the node's name.
        open_source: connects a source that resumes after a position.
        sinks: the resolver of each shard.
        tables: the mapped tables, whose policies say what follows from a change of the table itself.
        carry: the deletes that a TRUNCATE stands for.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        node: str,
        open_source: Callable[[Position], Source],
        sinks: Sequence[Sink],
        tables: Sequence[Table] = (),
        carry: Carry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self.sinks = sinks
        self._tables = {t.name: t for t in tables}
        self._carry = carry
        self.window = ChunkWindow()
        self._lock = threading.Lock()  # a copy offers its chunks from a thread of its own
        self._read: deque[LogEvent] = deque()
        self._ready: deque[LogEvent] = deque()  # of what was read, what has passed the window
        self._marks: OrderedDict[str, int] = OrderedDict()
        self._readers: dict[str, int | None] = {}  # by the run of a copy that heeds them
        self._clock = clock
        self._echoes_until: float | None = None  # what was read may wait until then
        self._epoch: int | None = None
        acks = self._send([])
        self._epoch = max(a.epoch for a in acks)
        self._reading = Rereading(open_source, open_source(self.released), self.released)
        self._follow(acks)

    def step(self, max_rows: int, wait: float) -> bool:
        """Read once and hand on what the shards have room for. Returns whether there was anything.

        Args:
            max_rows: about how many changes to read at most.
            wait: seconds to wait for the first one.
        """
        waits = self._echoes_until is not None
        if not (self.paused or self._ready) and (waits or not self._read):
            most = min(max_rows, max(self._room, LEAST_ROWS))
            read = self._reading.poll(most, min(wait, ECHO_SECONDS) if waits else wait, self._until)
            self._read.extend(read)
            if self._may_wait():
                return bool(read)
        passed = False
        while (self._read or self._ready) and not self.paused:
            if not self._ready:
                self._ready.extend(self._prepared())
            self._follow(self._send(self._portion()))
            passed = True
        if not passed:
            self._follow(self._send([]))
        self.source.confirm(self.released)
        return passed

    @property
    def source(self) -> Source:
        """The source at work."""
        return self._reading.source

    def begin(self, run: str, table: str) -> None:
        """A copy of `table` starts; see `ChunkWindow.begin`."""
        with self._lock:
            self.window.begin(run, table)
            self.source.decode_echoes = True

    def offer(self, ident: ChunkIdent, chunk: Chunk) -> None:
        """Take a chunk; see `ChunkWindow.offer`."""
        with self._lock:
            self.window.offer(ident, chunk)

    def emitted(self, ident: ChunkIdent) -> int | None:
        """Whether a chunk was emitted; see `ChunkWindow.emitted`."""
        with self._lock:
            return self.window.emitted(ident)

    def end(self, table: str) -> None:
        """The copy of `table` is over; see `ChunkWindow.end`."""
        with self._lock:
            self._readers.pop(self.window.run_of(table) or "", None)
            self.window.end(table)

    def heed(self, table: str) -> Heed:
        """What the copy of `table` is to heed."""
        with self._lock:
            run = self.window.run_of(table)
            return Heed(self._load, None if run is None else self._readers.setdefault(run, None))

    def resize(self, table: str, workers: int) -> bool:
        """Tell the copy of `table` to read by so many readers; whether there is one that heeds it."""
        with self._lock:
            run = self.window.run_of(table)
            if run is None or run not in self._readers:
                return False
            self._readers[run] = workers
            return True

    def passed(self, ident: str) -> int | None:
        """The order of a watermark in the log, once it has come; None before, and after many others."""
        return self._marks.get(ident)

    def close(self) -> None:
        """Disconnect."""
        self.source.close()

    def _may_wait(self) -> bool:
        """Whether all that was read are echoes, which come one by one while another node is written to."""
        now, until = self._clock(), self._echoes_until
        few = 0 < len(self._read) < ECHOES and all(isinstance(e, Echo | Progress) for e in self._read)
        if not few or self.window.active or self.source.decode_echoes or self._until is not None:
            until = now
        elif until is None:
            until = now + ECHO_SECONDS
        self._echoes_until = until if until > now else None
        return until > now

    def _prepared(self) -> list[LogEvent]:
        """The next events for the shards; a change of a table is looked at once they have what came before.

        Raises:
            SchemaChanged: the table's policy says so.
        """
        events = [self._read.popleft()]
        place = _place_of_change(events[0])
        while self._read and _place_of_change(self._read[0]) == place:
            events.append(self._read.popleft())
        if place is not None:
            events = self._settled([e for e in events if isinstance(e, SchemaChange)])
        with self._lock:
            return [passed for event in events for passed in self._through_window(event)]

    def _portion(self) -> list[LogEvent]:
        """As much of what is ready as there is room for, one event at least."""
        first = self._ready.popleft()
        parts = divided(first, self._room) if isinstance(first, Changes) else [first]
        self._ready.extendleft(reversed(parts[1:]))
        events: list[LogEvent] = [parts[0]]
        rows = _rows(events[0])
        while self._ready and rows + _rows(self._ready[0]) <= self._room:
            events.append(self._ready.popleft())
            rows += _rows(events[-1])
        return events

    def _settled(self, changes: Sequence[SchemaChange]) -> list[LogEvent]:
        """What stands in the place of changes of tables that one statement made."""
        deletes: list[TableChanges] = []
        for event in changes:
            table = self._tables.get(event.table)
            decision = Verdict.STOP if table is None else verdict(table, self.node, event)
            if decision is Verdict.CARRY and self._carry is not None and not self.window.active:
                deletes.append(self._carry(event))
            elif decision is not Verdict.PASS:
                raise _stopped(event, self.node)
            detail = {"node": self.node, "table": event.table, "change": event.what, "detail": event.detail}
            log.warning("schema_change_passed", extra=detail | {"outcome": str(decision)})
        return [Changes(deletes, changes[0].end), *changes] if deletes else list(changes)

    def _through_window(self, event: LogEvent) -> list[LogEvent]:
        if isinstance(event, Watermark):
            self._marks[event.ident] = event.end.order
            while len(self._marks) > MARKS:
                self._marks.popitem(last=False)
            return self.window.on_watermark(event)
        if isinstance(event, Changes):
            self.window.on_changes(event)
        elif isinstance(event, Echo):
            self.window.on_echo(event)
        elif isinstance(event, Unreadable):
            self.window.on_unreadable(event)
        return [event]

    def _send(self, events: Sequence[LogEvent]) -> list[Ack]:
        parts = _split(events, len(self.sinks))
        acks = [s.feed(self.node, part, self._epoch) for s, part in zip(self.sinks, parts, strict=True)]
        self.halted = all(a.halted for a in acks)
        self.paused = self.halted or any(a.paused for a in acks)
        self._until = max((a.until for a in acks if a.until is not None), default=None)
        self.released = min(a.released for a in acks)
        self._room = min(a.room for a in acks)
        self._load = worst(a.load for a in acks)
        return acks

    def _follow(self, acks: Sequence[Ack]) -> None:
        """Read the log as the shards need it."""
        self.source.decode_echoes = self.window.active or any(a.replaying for a in acks)


def _rows(event: LogEvent) -> int:
    """How many rows it gives the shards to send."""
    return event.rows if isinstance(event, Changes) else 0


def _place_of_change(event: LogEvent) -> int | None:
    """The order of a change of a table; None for anything else."""
    return event.end.order if isinstance(event, SchemaChange) else None


def _stopped(event: SchemaChange, node: str) -> SchemaChanged:
    """The error that a change of a table ends the incarnation with."""
    hint = f"mend it, then go on with: sync-worker up --accept {event.table}"
    message = f"{event.table}: {event.detail or event.what}"
    error = SchemaChanged(message, node=node, position=event.end.order, hint=hint)
    return error.on(event.table, fits=event.fits)


def _split(events: Sequence[LogEvent], shards: int) -> list[list[LogEvent]]:
    """Each shard's part of the events; what is not its own tells it how far the log has come."""
    parts: list[list[LogEvent]] = [[] for _ in range(shards)]
    for event in events:
        if isinstance(event, Changes):
            for part, own in zip(parts, _split_changes(event, shards), strict=True):
                part.append(own)
            continue
        owner = -1
        if isinstance(event, Echo):
            ours = event.marker.shards == shards  # else of those that were there before
            owner = event.marker.shard if ours else -1
        elif isinstance(event, Unreadable):
            owner = int(shards_of([event.key], 1, shards)[0])
        elif isinstance(event, SchemaChange):
            owner = 0  # for the record; it concerns no key
        for shard, part in enumerate(parts):
            part.append(event if shard == owner else Progress(event.end))
    return parts


def _split_changes(event: Changes, shards: int) -> list[Changes | Progress]:
    if shards == 1:
        return [event]
    tables: list[list[TableChanges]] = [[] for _ in range(shards)]
    for t in event.tables:
        keys = t.rows.column("_key").to_pylist()
        owner = shards_of(keys, len(keys), shards)
        for shard in range(shards):
            rows = t.rows.filter(pa.array(owner == shard))
            if rows.num_rows:
                tables[shard].append(TableChanges(t.table, rows))
    return [replace(event, tables=own) if own else Progress(event.end) for own in tables]
