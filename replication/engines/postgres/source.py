"""The reader of one node's log: pgoutput over COPY_BOTH.

Connects at the first poll, from the position it was made for. Messages are taken as they come and kept until
their transaction is complete, unless it is too large for that; then they are passed on in parts. Under
back-pressure nobody polls: messages wait at the server, and `confirm` keeps the connection alive.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress

import psycopg
from psycopg import pq

from replication.change import LogEvent, Progress
from replication.engines.postgres.columns import publishes_generated, read_columns
from replication.engines.postgres.config import STATE, Connection, Session, object_name, split_name
from replication.engines.postgres.control import state_name
from replication.engines.postgres.decode import COMMIT, EPOCH_MICROS, HEADER
from replication.engines.postgres.errors import SNAPSHOT_HINT, classify
from replication.engines.postgres.lineage import NAME, Server, identify
from replication.engines.postgres.position import between, format_lsn, parse_lsn, start_lsn
from replication.engines.postgres.schema import PostgresCatalog
from replication.engines.postgres.transactions import Assembler, Mapped
from replication.engines.postgres.types import LocalType
from replication.errors import Fenced, LogLost, NodeUnavailable
from replication.position import Position
from replication.schema import NodeConfig, Table, TableSchema

MAX_BYTES = 32 << 20
"""A transaction of more bytes than this is passed on in parts, and one poll takes no more."""
SKIPPED_ROWS = 2_000
"""So many rows of an echo are passed over at once; nobody waits for them before its commit has come."""
FEW_MESSAGES = 500
"""More than these at once, and the stream is in full flow: what follows is waited for a moment."""
GATHER_SECONDS = 0.004
STATUS_SECONDS = 1.0
PROGRESS_SECONDS = 0.1
SILENCE_SECONDS = 10.0
"""So long without a message, and the server is asked for one."""
ANSWER_SECONDS = 30.0
"""So long without an answer, and the connection counts as dead."""
TAKEOVER_MILLISECONDS = 5_000
_KEEPALIVE = struct.Struct(">cQqB")
_STATUS = struct.Struct(">cQQQqB")
_SLOT = """
SELECT coalesce(wal_status, 'lost'), active_pid,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text,
       coalesce(confirmed_flush_lsn, '0/0')::text
FROM pg_replication_slots WHERE slot_name = %s"""

Message = bytes | memoryview


class PostgresSource:
    """Implements `replication.engine.Source`.

    Args:
        node: whose log to read.
        group: whose slot and publication to use.
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
        self._session = Session(node, replication="database")
        self._pg: pq.abc.PGconn | None = None
        self._assembler: Assembler | None = None
        self._pending: list[Message] = []
        self._pending_bytes = 0
        self._received = 0
        self._flushed = 0
        self._told = 0
        self._reported = start.order
        self._status_at = self._heard_at = self._progress_at = -1e9
        self._asked_at: float | None = None

    def poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        """See `Source.poll`."""
        try:
            return self._poll(max_rows, wait)
        except psycopg.Error as error:
            self.close()
            raise classify(error, self.node.name, self._reported) from error
        except NodeUnavailable:
            self.close()
            raise

    def confirm(self, position: Position) -> None:
        """See `Source.confirm`."""
        self._flushed = max(self._flushed, start_lsn(position))
        if self._pg is None:
            return
        changed = self._flushed > self._told and self._clock() - self._status_at > 0.05
        try:
            if changed or self._clock() - self._status_at > STATUS_SECONDS:
                self._send_status()
        except psycopg.Error as error:
            self.close()
            raise classify(error, self.node.name, self._reported) from error

    def close(self) -> None:
        """See `Source.close`."""
        pg, self._pg = self._pg, None
        if pg is not None and pg.status == pq.ConnStatus.OK and self._flushed > self._told:
            with suppress(psycopg.Error):  # it is told again by whoever resumes
                self._write_status(pg, ask=False)
        self._session.close()
        self._pending, self._pending_bytes = [], 0

    def _poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        if self._pg is None:
            self._pg = self._connect()
        assert self._assembler is not None
        self._assembler.decode_echoes = self.decode_echoes
        deadline = self._clock() + wait
        while True:
            searched = len(self._pending)
            self._receive(self._pg, max_rows)
            events = self._assembler.feed(self._whole(max_rows, searched))
            if progress := self._progress(events):
                events.append(progress)
            self._keep_alive()
            left = deadline - self._clock()
            if events or left <= 0:
                if events:
                    self._reported = max(self._reported, events[-1].end.order)
                return events
            select.select([self._pg.socket], [], [], min(left, STATUS_SECONDS))

    def _connect(self) -> pq.abc.PGconn:
        name = object_name(self.group)
        # A replication connection speaks the simple protocol only, so questions go over another one.
        questions = Session(self.node)
        try:
            with questions.use() as connection:
                self._check(connection, name)
                known = self._known(connection)
                mapped = self._read_mapped(connection)
        finally:
            questions.close()
        self._assembler = Assembler(mapped, self._start.order)
        start = format_lsn(start_lsn(self._start))
        options = f"proto_version '1', publication_names '{name}'"
        with self._session.use() as connection:
            if known is not None and (server := identify(connection)) != known:
                message = f"another server answers: timeline {server.timeline} after {known.timeline}"
                raise Fenced(message, node=self.node.name, position=self._start.order)
            pg = connection.pgconn
            pg.send_query(f'START_REPLICATION SLOT "{name}" LOGICAL {start} ({options})'.encode())
            result = _first_result(pg)
            if result.status != pq.ExecStatus.COPY_BOTH:
                raise psycopg.errors.error_from_result(result)
        now = self._clock()
        self._heard_at, self._status_at, self._asked_at = now, now, None
        self._received = max(self._received, start_lsn(self._start))
        return pg

    def _known(self, connection: Connection) -> Server | None:
        """The server that the group began with; None where that is not known."""
        row = connection.execute(
            f"SELECT value FROM {STATE} WHERE name = %s", [state_name(self.group, NAME)]
        ).fetchone()
        return None if row is None else Server.load(row[0])

    def _check(self, connection: Connection, name: str) -> None:
        """Refuse a slot that cannot give everything after the position, and take it over if need be.

        Raises:
            LogLost: the slot is missing or lost, or the log itself ends before our position.
        """
        row = connection.execute(_SLOT, [name]).fetchone()
        start = start_lsn(self._start)
        problem = ""
        if row is None:
            problem = f"replication slot {name} is missing"
        elif row[0] == "lost":
            problem = f"replication slot {name} is lost: the server removed log that it still needed"
        elif start > parse_lsn(row[2]):
            problem = f"the log ends at {row[2]}, before our position {format_lsn(start)}"
        elif start and parse_lsn(row[3]) > start:  # of a node that is new to the group there is no position
            problem = (
                f"replication slot {name} was moved or made anew: it begins at {row[3]}, "
                f"after our position {format_lsn(start)}"
            )
        if problem:
            raise LogLost(problem, node=self.node.name, position=self._start.order, hint=SNAPSHOT_HINT)
        if row is not None and row[1] is not None:
            # A reader that was cut off may hold the slot until its timeout; the newest one is right.
            connection.execute("SELECT pg_terminate_backend(%s, %s)", [row[1], TAKEOVER_MILLISECONDS])

    def _read_mapped(self, connection: Connection) -> Mapped:
        tables, types, unpublished = {}, dict[int, LocalType](), {}
        stored = publishes_generated(connection)
        for table in self._tables:
            name = table.mapping.names[self.node.name]
            columns = read_columns(connection, name)
            tables[".".join(split_name(name))] = table
            types.update({c.type_oid: c.type for c in columns})
            unpublished[table.name] = frozenset(
                c.name for c in columns if c.generated and not (stored and c.generated == "s")
            )
        return Mapped(self.node.name, self.group, tables, types, unpublished, self._look)

    def _look(self, table: Table) -> TableSchema | None:
        """What the node has of a table now, over a connection of its own."""
        with closing(PostgresCatalog(self.node, self.group)) as catalog:
            return catalog.read_schema(table.mapping)

    def _receive(self, pg: pq.abc.PGconn, max_rows: int) -> None:
        """Take what has come, until about `max_rows` messages or `MAX_BYTES` wait with what came before."""
        pending, get, size, before = self._pending, pg.get_copy_data, self._pending_bytes, len(self._pending)
        stop = max(max_rows, before + 1)
        heard = False
        while len(pending) < stop and size < MAX_BYTES:
            length, data = get(1)
            if length > HEADER:
                pending.append(bytes(data))  # kept, libpq's own buffers would slow its next ones
                size += length
            elif length > 0:
                self._keepalive(data)
                heard = True
            elif length == 0:
                ready = bool(select.select([pg.socket], [], [], 0)[0])
                if not ready and len(pending) - before > FEW_MESSAGES:
                    ready = self._gather(pg)
                if not ready:
                    break
                pg.consume_input()
            else:
                self._ended(pg)
        if heard or len(pending) > before:
            self._heard_at, self._asked_at = self._clock(), None
        if pending:
            self._received = max(self._received, int.from_bytes(pending[-1][1:9], "big"))
        self._pending_bytes = size

    def _gather(self, pg: pq.abc.PGconn) -> bool:
        """Let more come of a stream in full flow: to be woken for every few messages slows both ends."""
        time.sleep(GATHER_SECONDS)
        return bool(select.select([pg.socket], [], [], 0)[0])

    def _whole(self, max_rows: int, searched: int) -> list[Message]:
        """Take the messages up to the last commit, or all of a transaction too large to wait for.

        No commit is among the first `searched` ones: a poll looks at what is new, not at all that waits.
        """
        pending = self._pending
        assert self._assembler is not None
        cut = len(pending)
        while cut > searched and pending[cut - 1][HEADER] != COMMIT:
            cut -= 1
        if cut == searched:
            enough = min(max_rows, SKIPPED_ROWS) if self._assembler.skipping else max_rows
            if len(pending) < enough and self._pending_bytes < MAX_BYTES:
                return []
            cut = len(pending)
        taken, self._pending = pending[:cut], pending[cut:]
        self._pending_bytes = sum(map(len, self._pending))
        return taken

    def _keepalive(self, data: Message) -> None:
        _, end, _, reply = _KEEPALIVE.unpack(data)
        self._received = max(self._received, end)
        if reply:
            self._status_at = -1e9

    def _progress(self, events: Sequence[LogEvent]) -> Progress | None:
        """Where an idle log has got to; never while a transaction is on its way."""
        assert self._assembler is not None
        if events or self._pending or self._assembler.inside:
            return None
        now = self._clock()
        position = between(max(self._received, self._assembler.end_lsn))
        if position.order <= self._reported or now - self._progress_at < PROGRESS_SECONDS:
            return None
        self._progress_at = now
        return Progress(position)

    def _keep_alive(self) -> None:
        now = self._clock()
        if self._asked_at is not None and now - self._asked_at > ANSWER_SECONDS:
            message = f"no answer from the server for {ANSWER_SECONDS:.0f} seconds"
            raise NodeUnavailable(message, node=self.node.name, position=self._reported)
        silent = now - self._heard_at > SILENCE_SECONDS and self._asked_at is None
        if silent:
            self._asked_at = now
        if silent or now - self._status_at > STATUS_SECONDS:
            self._send_status(ask=silent)

    def _send_status(self, ask: bool = False) -> None:
        assert self._pg is not None
        self._write_status(self._pg, ask)
        self._status_at = self._clock()
        self._told = self._flushed

    def _write_status(self, pg: pq.abc.PGconn, ask: bool) -> None:
        """Report what was received, and what is durable once it is news.

        Flushed is 0, "unknown", at all other times: a server that shuts down waits for its readers to flush
        everything it has sent, but is content with received where it does not know more.
        """
        received = max(self._received, self._flushed)
        flushed = self._flushed if self._flushed > self._told else 0
        micros = time.time_ns() // 1000 - EPOCH_MICROS
        pg.put_copy_data(_STATUS.pack(b"r", received, flushed, flushed, micros, ask))
        while pg.flush():
            select.select([pg.socket], [pg.socket], [], STATUS_SECONDS)
            pg.consume_input()

    def _ended(self, pg: pq.abc.PGconn) -> None:
        result = pg.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        message = "the server ended the stream"
        raise NodeUnavailable(message, node=self.node.name, position=self._reported)


def _first_result(pg: pq.abc.PGconn) -> pq.abc.PGresult:
    """Wait for the first result of a query that was sent."""
    while pg.flush():
        select.select([], [pg.socket], [])
    while pg.is_busy():
        select.select([pg.socket], [], [])
        pg.consume_input()
    result = pg.get_result()
    assert result is not None
    return result
