"""The reader of one node's log: the server's binlog, as a replica gets it.

Connects at the first poll, from the position it was made for. Events are taken as they come and kept until
their transaction is complete, unless it is too large for that; then its changes are passed on in parts. Under
back-pressure nobody polls: events wait at the server, which keeps a reader that does not read for ten
minutes. After that, as after any lost connection, `poll` says `NodeUnavailable` and a new source resumes from
its position."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pymysql

from replication.change import LogEvent, Progress
from replication.engines.mysql.config import parse, table_name
from replication.engines.mysql.decode import ENDS, PAYLOAD, Event, Malformed, unpacked
from replication.engines.mysql.errors import classify
from replication.engines.mysql.schema import MysqlCatalog
from replication.engines.mysql.stream import HEARTBEAT_SECONDS, BinlogStream
from replication.engines.mysql.tables import Mapped
from replication.engines.mysql.transactions import Assembler
from replication.errors import ConfigError, NodeUnavailable, SyncError, Terminal
from replication.position import Position
from replication.schema import NodeConfig, Table, TableSchema

MAX_BYTES = 32 << 20
"""A transaction of more bytes than this is passed on in parts, and one poll takes no more."""
PROGRESS_SECONDS = 0.1
SILENCE_SECONDS = 30.0
"""So long without a heartbeat while we wait, and the connection counts as dead."""


class MysqlSource:
    """Implements `replication.engine.Source`.

    Args:
        node: whose log to read. Its option `server_id` is our number among the server's replicas.
        group: whose markers mark an echo.
        tables: the mapped tables.
        start: resume after this position.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        node: NodeConfig,
        group: str,
        tables: Sequence[Table],
        start: Position,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self.group = group
        self.decode_echoes = False
        self._tables = tables
        self._start = start
        self._clock = clock
        self._stream: BinlogStream | None = None
        self._assembler: Assembler | None = None
        self._events: Iterator[Event] = iter(())
        self._held: Event | None = None
        self._reported = start.order
        self._progress_at = self._silent = 0.0

    def poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        """See `Source.poll`."""
        try:
            events = self._poll(max_rows, wait)
        except pymysql.MySQLError as error:
            self.close()
            raise classify(error, self.node.name, self._reported) from error
        except Malformed as error:
            self.close()
            message = f"the log cannot be read: {error}"
            raise Terminal(message, node=self.node.name, position=self._reported) from error
        except SyncError as error:
            self.close()
            error.node = self.node.name
            if error.position is None:
                error.position = self._reported
            raise
        if events:
            self._reported = max(self._reported, events[-1].end.order)
        return events

    def confirm(self, position: Position) -> None:
        """Nothing to do: the server keeps its log as long as it was told to, whoever reads it."""

    def close(self) -> None:
        """See `Source.close`."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        stream, assembler = self._opened()
        assembler.decode_echoes = self.decode_echoes
        deadline = self._clock() + wait
        limit = max_rows
        while True:
            if assembler.waiting >= limit and assembler.echoing:
                limit = assembler.waiting + max_rows  # it comes whole
            full = self._take(stream, assembler, limit)
            events = assembler.drain(partial=False) or (assembler.drain(partial=True) if full else [])
            if not events and (progress := self._progress(assembler)):
                events = [progress]
            left = deadline - self._clock()
            if events or left <= 0:
                return events
            if not full:
                self._wait(stream, left)

    def _opened(self) -> tuple[BinlogStream, Assembler]:
        if self._assembler is not None:
            if self._stream is None:
                raise self._assembler.failure or NodeUnavailable("the reader was closed")
            return self._stream, self._assembler
        config = parse(self.node)
        stream = BinlogStream(config, self.group, _server_id(self.node))
        start = stream.open(self._start)
        tables = {table_name(self.node, t.mapping): t for t in self._tables}
        mapped = Mapped(
            self.node.name, self.group, config.database, tables, stream.charsets, start.lower_case, self._look
        )
        self._stream, self._assembler = stream, Assembler(mapped, start, self._start.order)
        return self._stream, self._assembler

    def _look(self, table: Table) -> TableSchema | None:
        """What the node has of a table now, over a connection of its own."""
        with closing(MysqlCatalog(self.node, self.group)) as catalog:
            return catalog.read_schema(table.mapping)

    def _take(self, stream: BinlogStream, assembler: Assembler, max_rows: int) -> bool:
        """Take what has come; whether there is more than fits.

        Whether a transaction that just fits ends here shows the next event, so that is looked at as well.
        """
        taken = 0
        while assembler.failure is None:
            event = self._held or next(self._events, None)
            if event is None:
                events = stream.read()
                if events is None:
                    return False
                self._silent = 0.0
                self._events = _flat(events)
            elif (assembler.waiting >= max_rows or taken >= MAX_BYTES) and event.type not in ENDS:
                self._held = event
                return True
            else:
                self._held = None
                assembler.feed(event)
                taken += event.size
        return True

    def _progress(self, assembler: Assembler) -> Progress | None:
        now = self._clock()
        if now - self._progress_at < PROGRESS_SECONDS:
            return None
        progress = assembler.progress(self._reported)
        if progress is not None:
            self._progress_at = now
        return progress

    def _wait(self, stream: BinlogStream, seconds: float) -> None:
        began = self._clock()
        if stream.wait(min(seconds, HEARTBEAT_SECONDS)):
            return
        self._silent += self._clock() - began
        if self._silent > SILENCE_SECONDS:
            message = f"no heartbeat from the server for {SILENCE_SECONDS:.0f} seconds"
            raise NodeUnavailable(message)


def _flat(events: Sequence[Event]) -> Iterator[Event]:
    """The events with those inside compressed transactions."""
    for event in events:
        if event.type == PAYLOAD:
            yield from unpacked(event)
        else:
            yield event


def _server_id(node: NodeConfig) -> int | None:
    given = node.options.get("server_id")
    if given is None:
        return None
    if not given.isdecimal() or not 0 < int(given) < 1 << 32:
        message = f"server_id {given!r} is no number from 1 to 4294967295"
        raise ConfigError(message, node=node.name, hint="it must differ from every server's and replica's")
    return int(given)
