"""Events of the binlog become log events, in log order. A state machine: events in, changes out, no
connection.

Lifecycle: `feed` events in the order of the log, `drain` what has become of them. Rows of mapped tables are
    kept as bytes until they are drained; then all of one table that came together are decoded at once. A
    failure that must stop the node is kept until everything before it has been drained.

A transaction begins with its GTID event, which is there without GTIDs as well, and is an echo if its first
rows are our marker: the rest of it is skipped undecoded, unless echoes are wanted."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

from pymysqlreplication.constants import BINLOG

from replication.change import LogEvent, Op, Progress, SchemaChange, Watermark
from replication.engines.mysql.config import NO_SHARD
from replication.engines.mysql.ddl import Does, Statement, read_statement
from replication.engines.mysql.decode import (
    HEARTBEAT_V2,
    IGNORABLE,
    OLD_ROWS,
    ROWS,
    TAGGED_GTID,
    XA_PREPARE,
    Event,
    Malformed,
    Query,
    read_gtid,
    read_load_query,
    read_query,
    read_rotate,
)
from replication.engines.mysql.definitions import Definition, definitions
from replication.engines.mysql.errors import SNAPSHOT_HINT
from replication.engines.mysql.layout import Layout
from replication.engines.mysql.pending import Pending
from replication.engines.mysql.position import Place, Start, file_number
from replication.engines.mysql.rows import Chunk, Transaction
from replication.engines.mysql.tables import COPY_AGAIN, Known, Mapped, Role, Tables, images, own_rows
from replication.errors import LogLost, SchemaChanged, SyncError, Terminal
from replication.marker import Marker
from replication.position import Position, order_of, split_order

_OPS = {
    BINLOG.WRITE_ROWS_EVENT_V2: Op.INSERT,
    BINLOG.UPDATE_ROWS_EVENT_V2: Op.UPDATE,
    BINLOG.DELETE_ROWS_EVENT_V2: Op.DELETE,
}
_LIMIT = 1 << 32
_SILENT = frozenset(
    {
        BINLOG.STOP_EVENT,
        BINLOG.INTVAR_EVENT,
        BINLOG.RAND_EVENT,
        BINLOG.USER_VAR_EVENT,
        BINLOG.FORMAT_DESCRIPTION_EVENT,
        BINLOG.BEGIN_LOAD_QUERY_EVENT,
        BINLOG.APPEND_BLOCK_EVENT,
        BINLOG.DELETE_FILE_EVENT,
        BINLOG.ROWS_QUERY_LOG_EVENT,
        BINLOG.PREVIOUS_GTIDS_LOG_EVENT,
        36,  # the context of a transaction in group replication
        37,  # a change of that group
    }
)
_UNREADABLE = (ValueError, LookupError, struct.error)
"""What damaged bytes end in: `Malformed`, text that is none, lengths beyond the end."""
_DAMAGED = "look at it with mysqlbinlog; a node whose log is damaged comes back with an initial copy"


class Assembler:
    """Turns events into log events, across calls.

    Args:
        mapped: the tables.
        start: where reading begins.
        resume: changes up to this order were delivered before, and are dropped.
    """

    def __init__(self, mapped: Mapped, start: Start, resume: int) -> None:
        self.decode_echoes = False
        self.failure: SyncError | None = None
        self._mapped = mapped
        self._resume = resume
        self._pending = Pending(start.token, resume)
        self._tables = Tables(mapped)
        self._troubled: set[int] = set()
        self._open: Transaction | None = None
        self._hi = -1
        self._exact = 0 if start.token.rough else start.token.place.hi
        self._file, self._offset, self._shift = start.token.file, start.token.offset, start.token.shift
        self._handlers: dict[int, Callable[[Event], None]] = {
            BINLOG.ROTATE_EVENT: self._rotate,
            BINLOG.HEARTBEAT_LOG_EVENT: self._heartbeat,
            HEARTBEAT_V2: self._heartbeat,
            BINLOG.GTID_LOG_EVENT: self._begin,
            BINLOG.ANONYMOUS_GTID_LOG_EVENT: self._begin,
            TAGGED_GTID: self._begin,
            BINLOG.QUERY_EVENT: lambda e: self._query(e, read_query(e)),
            BINLOG.EXECUTE_LOAD_QUERY_EVENT: lambda e: self._query(e, read_load_query(e)),
            BINLOG.TABLE_MAP_EVENT: lambda e: self._tables.learn(e),
            BINLOG.XID_EVENT: self._end,
            XA_PREPARE: self._end,
            BINLOG.INCIDENT_EVENT: self._incident,
            **dict.fromkeys(ROWS, self._rows),
            **dict.fromkeys((*OLD_ROWS, BINLOG.PARTIAL_UPDATE_ROWS_EVENT), self._unreadable_rows),
        }

    @property
    def waiting(self) -> int:
        """How many changes wait to be drained."""
        return self._pending.waiting

    @property
    def size(self) -> int:
        """How many bytes they have."""
        return self._pending.size

    def feed(self, event: Event) -> None:
        """The next event of the log; after a failure nothing more is taken."""
        if self.failure is not None:
            return
        handler = self._handlers.get(event.type)
        try:
            if handler is not None:
                handler(event)
            elif event.type not in _SILENT and not event.flags & IGNORABLE:
                message = f"the log has events of type {event.type}, which are not known"
                raise Terminal(message, hint="a newer release of Sync Worker may read it")
        except SyncError as error:
            self._fail(error)
        except _UNREADABLE as error:
            self._fail(Terminal(f"the log cannot be read: {error}", hint=_DAMAGED))

    @property
    def echoing(self) -> bool:
        """Whether the transaction that is being read is one of ours."""
        return self._open is not None and self._open.markers is not None

    def drain(self, *, partial: bool) -> list[LogEvent]:
        """Everything of complete transactions.

        Args:
            partial: also what there is of the last one, unless that is an echo.

        Raises:
            SyncError: what stopped the reading, once nothing is left before it.
        """
        stop = self._pending.count
        opened = self._open
        if opened is not None and (opened.markers is not None or not (partial or self.failure is not None)):
            stop = opened.first
        try:
            events = self._pending.drain(stop)
        except _UNREADABLE as error:
            self._fail(Terminal(f"the log cannot be read: {error}", hint=_DAMAGED))
            events = []
        if not events and self.failure is not None:
            raise self.failure
        return events

    def progress(self, reported: int) -> Progress | None:
        """Where the log has got to, if that is beyond an order; never inside a transaction."""
        if self._open is not None or self._pending.waiting:
            return None
        order = order_of(self._hi_at(self._offset), 0)
        if order <= reported:
            return None
        return Progress(Position(order, self._pending.token_at(self._file, self._offset)))

    def _fail(self, error: SyncError) -> None:
        error.node = self._mapped.node
        if error.position is None and self._open is not None:
            error.position = order_of(self._open.hi, 0)
        self.failure = error

    def _rotate(self, event: Event) -> None:
        file, offset = read_rotate(event)
        if file_number(file) < file_number(self._file):
            message = f"the log goes on in {file}, but we have read up to {self._file}: it was begun anew"
            raise LogLost(message, hint=SNAPSHOT_HINT)
        if file != self._file:
            self._file, self._offset = file, offset
        self._tables.forget()

    def _heartbeat(self, event: Event) -> None:
        """Where the server has got to, past transactions that we have already."""
        if self._open is None:
            self._offset = max(self._offset, event.end)

    def _incident(self, event: Event) -> None:
        message = "the server says that changes are missing from its log"
        raise LogLost(message, hint=SNAPSHOT_HINT)

    def _begin(self, event: Event) -> None:
        if self._open is not None:
            message = "a transaction begins inside another one"
            raise Malformed(message)
        gtid = read_gtid(event)
        offset = event.end - event.size
        hi = self._hi_at(offset)
        if hi <= self._hi:
            message = "the log goes backwards"
            raise Malformed(message)
        if hi < self._exact:
            message = "the log has changes before our position that we have not read: it was begun anew"
            raise LogLost(message, hint=SNAPSHOT_HINT)
        self._hi = hi
        first = self._pending.count
        source = (gtid.source, gtid.number) if gtid.source else None
        skipped = hi < split_order(self._resume)[0]
        self._open = Transaction(hi, gtid.ts, self._file, offset, source, first, first - 1, skipped=skipped)

    def _end(self, event: Event) -> None:
        tx = self._inside()
        tx.end = self._offset = event.end
        self._pending.end(tx, self._place(event))
        self._open = None

    def _hi_at(self, offset: int) -> int:
        """The upper part of the order of a place in the file that is being read."""
        return Place(file_number(self._file) + self._shift, offset).hi

    def _inside(self) -> Transaction:
        if self._open is None:
            message = "an event stands outside of any transaction"
            raise Malformed(message)
        return self._open

    def _place(self, event: Event) -> int:
        """The lower part of an event's order."""
        place = event.inside or event.end - event.size - self._inside().offset
        if not 0 <= place < _LIMIT:
            message = "a transaction has more than 4 GiB of log"
            raise Terminal(message, hint="split it up, and copy its tables again")
        return place

    def _query(self, event: Event, query: Query) -> None:
        tx = self._inside()
        statement = read_statement(query.text, query.database)
        match statement.does:
            case Does.BEGIN:
                tx.begun = True
                return
            case Does.COMMIT:
                self._end(event)
                return
            case Does.XA:
                tx.begun = True
                tx.distributed = True
                return
            case Does.ROLLBACK:
                self._undone(event, query)
                return
            case Does.WRITE if not tx.skipped:
                self._refuse_write(query)
            case _ if not tx.skipped:
                self._defined(event, statement, query)
        if not tx.begun:
            self._end(event)

    def _undone(self, event: Event, query: Query) -> None:
        tx = self._inside()
        if tx.last >= tx.first:
            tx.last = tx.first - 1
            message = (
                f"a transaction with changes of ours ends with {query.text!r}, which undoes a part of it"
            )
            self._pending.discard(tx)
            raise Terminal(message, hint="keep tables of engines without transactions apart")
        if " TO " not in query.text.upper():
            self._end(event)

    def _refuse_write(self, query: Query) -> None:
        databases = query.databases if query.databases is not None else {query.database}
        if any(map(self._mapped.is_ours, databases)):
            message = f"a change is in the log as a statement, not as rows: {query.text[:200]!r}"
            raise Terminal(message, hint=f"set binlog_format = ROW everywhere; {COPY_AGAIN}")

    def _defined(self, event: Event, statement: Statement, query: Query) -> None:
        """DDL: what it does to mapped tables."""
        for found in definitions(statement, query.text, self._mapped):
            self._announce(event, found)

    def _announce(self, event: Event, found: Definition) -> None:
        tx = self._inside()
        make = partial(
            SchemaChange,
            found.table,
            found.what,
            found.detail,
            fits=found.fits,
            ts=tx.ts,
            resized=found.resized,
        )
        self._pending.cut(tx, self._place(event), make)

    def _rows(self, event: Event) -> None:
        tx = self._inside()
        first, tx.rows = not tx.rows, True
        known = self._tables.of(event)
        if known.role is Role.FOREIGN or tx.skipped:
            return
        if known.role is Role.MARKER:
            if first or tx.markers is not None:
                self._markers(event, known, tx)
        elif known.role is Role.WATERMARK:
            self._watermarks(event, known, tx)
        elif tx.markers is None or self.decode_echoes:
            self._changes(event, known, tx)

    def _markers(self, event: Event, known: Known, tx: Transaction) -> None:
        if event.type == BINLOG.DELETE_ROWS_EVENT_V2:
            return
        for place, row in own_rows(event, known):
            shard, shards, epoch, seq = (
                int.from_bytes(row[n], "little", signed=True) for n in ("shard", "shards", "epoch", "seq")
            )
            if row["grp"].decode() != self._mapped.group or shard == NO_SHARD:
                if tx.markers is None:
                    return
                continue
            try:
                state = row["state"].decode()
                marker = Marker.load(self._mapped.group, shard, shards, epoch, seq, state, row["versions"])
            except (TypeError, AttributeError) as error:
                message = f"a marker of ours holds no vectors: {error}"
                raise Malformed(message) from error
            self._pending.mark(tx, self._place(event) + place, marker)

    def _watermarks(self, event: Event, known: Known, tx: Transaction) -> None:
        if event.type == BINLOG.DELETE_ROWS_EVENT_V2:
            return
        for place, row in own_rows(event, known):
            if row["grp"].decode() == self._mapped.group:
                self._pending.cut(tx, self._place(event) + place, partial(Watermark, row["ident"].decode()))

    def _changes(self, event: Event, known: Known, tx: Transaction) -> None:
        layout = known.layout
        assert layout is not None
        if tx.distributed:
            message = f"an XA transaction changed {layout.table.name}"
            raise Terminal(message, hint=f"XA is not supported on mapped tables; {COPY_AGAIN}")
        place, starts = self._place(event), images(event, known)
        self._troubles(layout, event)
        each = 2 if event.type == BINLOG.UPDATE_ROWS_EVENT_V2 else 1
        hi, lo = split_order(self._resume)
        done = 0
        if hi == tx.hi and lo > place:
            done = min((lo - place - 1) // 2 + 1, len(starts) // each)
        if done * each < len(starts):
            chunk = Chunk(
                layout,
                _OPS[event.type],
                event.data,
                starts[done * each :],
                tx,
                self._pending.count,
                place + 2 * done,
            )
            self._pending.add(chunk)

    def _troubles(self, layout: Layout, event: Event) -> None:
        """Say once that a table no longer fits, before the first such row."""
        if layout.trouble and id(layout) not in self._troubled:
            self._troubled.add(id(layout))
            self._announce(event, Definition(layout.table.name, "alter", layout.trouble))
        if not layout.readable:
            message = f"the key of {layout.table.name} cannot be read: {layout.trouble}"
            raise SchemaChanged(
                message, hint="restore the column, or change the mapping and copy the table again"
            )

    def _unreadable_rows(self, event: Event) -> None:
        tx = self._inside()
        tx.rows = True
        known = self._tables.of(event)
        if known.role is Role.FOREIGN or tx.skipped or (tx.markers is not None and not self.decode_echoes):
            return
        assert known.found is not None
        if event.type == BINLOG.PARTIAL_UPDATE_ROWS_EVENT:
            message = f"the log has only parts of JSON values of {known.found.table}"
            hint = f"SET PERSIST binlog_row_value_options = ''; {COPY_AGAIN}"
        else:
            message = f"the log has rows of {known.found.table} in an old format"
            hint = f"switch log_bin_use_v1_row_events off; {COPY_AGAIN}"
        raise Terminal(message, hint=hint)
