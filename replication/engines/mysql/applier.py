"""The writer of one node: the marker and a batch's rows in one transaction.

Connects at the first batch. The usual way of a small batch is one round trip: begin, marker, rows and
commit go out together, and what follows the marker fails if its condition does not hold. Whatever goes
wrong there is undone; the same batch is then tried step by step, which finds the rows that the node
refuses. A statement that fails is undone by the server alone, so no savepoints are needed.

A large batch goes out in several packets. While the server executes one, the SQL of the next rows is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT, COMMAND, SERVER_STATUS

from replication.applying import Findings, beyond, findings_name, split, without_unwritable, write_what_passes
from replication.batch import Applied, ApplyBatch, HeldRow, Outcome, TableRows, refusal
from replication.engines.mysql.columns import Bound, bind
from replication.engines.mysql.config import MARKER, STATE, parse
from replication.engines.mysql.connection import Session
from replication.engines.mysql.errors import DUPLICATE_KEY, code_of, reason, refuses_row
from replication.engines.mysql.limits import checks
from replication.engines.mysql.marker import put_state, set_marker, state_name
from replication.engines.mysql.statements import ROWS_AT_ONCE, Statements, Work
from replication.errors import Occupied
from replication.marker import Marker
from replication.schema import NodeConfig, Table

REPLICA = {"SESSION foreign_key_checks": "0", "@sync_worker_applying": "1"}
"""For appliers: no foreign keys. Triggers fire; by the variable they can tell us from an application."""
_OUR_TURN = b"DO EXP(IF(ROW_COUNT() = 1, 0, 10000))"
"""Fails, by a double that is out of range, unless the statement before it found one row."""
_PACKET = 1 << 20
FIRST_PACKET = 3 << 17
"""Room for the marker of a large batch and one statement, so that the server does not wait for its first rows
until all are made. The next packet may be twice as large."""
_ROOM = 1 << 16
"""So much of a packet is left to the names in a statement."""
_NULL_REFUSED = 1048


class _NotOurTurn(Exception):
    """The marker's condition does not hold."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Rows of one table that are written alike, and what makes SQL of some of them."""

    make: Callable[[pa.RecordBatch], Work]
    rows: pa.RecordBatch
    deletes: bool = False
    partial: bool = False


class MysqlApplier:
    """Implements `replication.engine.Applier`.

    Args:
        node: where to write.
        group: whose markers.
        tables: all mapped tables.
        sources: engines of the other nodes.
    """

    def __init__(self, node: NodeConfig, group: str, tables: Sequence[Table], sources: Sequence[str]) -> None:
        self.node = node
        self.group = group
        self._tables = {t.name: t for t in tables}
        self._sources = frozenset(sources)
        self._statements: dict[str, Statements] = {}
        self._packet = 0
        self._session = Session(parse(node), REPLICA, client_flag=CLIENT.FOUND_ROWS | CLIENT.MULTI_STATEMENTS)

    def apply(self, batch: ApplyBatch) -> Applied:
        """See `Applier.apply`."""
        with self._session.use() as c:
            found = Findings()
            plans = [p for rows in batch.tables for p in self._plans(c, rows, found)]
            # Deletes first: they may free what an insert of the same batch needs.
            plans.sort(key=lambda p: not p.deletes)
            unwritable = Findings(list(found.held))
            try:
                if not self._at_once(c, batch.marker, plans, found):
                    found = unwritable
                    self._step_by_step(c, batch.marker, plans, found)
            except _NotOurTurn:
                return self._whose_turn(c, batch.marker)
            finally:
                if c.open and _in_transaction(c):
                    c.rollback()
        return Applied(Outcome.COMMITTED, found.held, found.missing)

    def close(self) -> None:
        """See `Applier.close`."""
        self._session.close()

    def _at_once(self, c: Connection, marker: Marker, plans: Sequence[_Plan], found: Findings) -> bool:
        """The whole transaction, in as few round trips as its size allows; False if a row is refused."""
        whole = [p for p in plans if not p.partial]
        opening = [b"START TRANSACTION", set_marker(marker), _OUR_TURN]
        rows = (s for w in self._works(whole, found) for s in w.statements())
        statements: Iterable[bytes] = chain(opening, rows)
        try:
            if len(whole) < len(plans):
                run(c, statements)
                statements = ()
                for w in self._works([p for p in plans if p.partial], found):
                    found.missing += _missing(w, run(c, w.statements()))
            run(c, chain(statements, self._closing(marker, found)))
        except pymysql.MySQLError as error:
            if not c.open or not refuses_row(error):
                raise
            return False
        return True

    def _step_by_step(self, c: Connection, marker: Marker, plans: Sequence[_Plan], found: Findings) -> None:
        """The same transaction part by part, so that bad rows can be left out."""
        work = list(self._works(plans, found))
        if _in_transaction(c):
            c.rollback()
        run(c, [b"START TRANSACTION", set_marker(marker), _OUR_TURN])
        found.held += write_what_passes(work, lambda w: self._try(c, w, found))
        run(c, self._closing(marker, found))

    def _try(self, c: Connection, work: Work, found: Findings) -> str | None:
        """Write all of it, the reason where the node refuses; partial rows that passed pass again."""
        try:
            counts = run(c, work.statements())
        except pymysql.MySQLError as error:
            if not c.open or not refuses_row(error):
                raise
            if code_of(error) == DUPLICATE_KEY and self._is_there(c, work):
                message = f"{work.table} has a row that was to be copied"
                raise Occupied(message, node=self.node.name) from error
            if code_of(error) == _NULL_REFUSED and b", NULL)" in work.tail:
                return f"{reason(error)}, or another row has one of its unique values"
            return reason(error)
        found.missing += _missing(work, counts)
        return None

    def _is_there(self, c: Connection, work: Work) -> bool:
        """Whether it is one copied row, and the node holds a row of its key: not only one of equal values."""
        if work.copied is None or len(work) != 1:
            return False
        (found,) = run(c, [self._statements[work.table].find(work.copied)])
        return found > 0

    def _closing(self, marker: Marker, found: Findings) -> Iterator[bytes]:
        """Keep what was found and commit; looks at that only when all before it was made."""
        if found:
            yield put_state(self._state(marker), found.dump(marker))
        yield b"COMMIT"

    def _whose_turn(self, c: Connection, marker: Marker) -> Applied:
        """Why the marker was refused."""
        c.rollback()
        where = "grp = %s AND shard = %s"
        row = _one(c, f"SELECT epoch, seq FROM {MARKER} WHERE {where}", self.group, marker.shard)
        if (why := refusal(row and (row[0], row[1]), marker)) is not Outcome.ALREADY:
            return Applied(why)
        kept = _one(c, f"SELECT value FROM {STATE} WHERE name = %s", self._state(marker))
        found = Findings.load(kept[0], marker) if kept else Findings()
        return Applied(Outcome.ALREADY, found.held, found.missing)

    def _state(self, marker: Marker) -> str:
        return state_name(self.group, findings_name(marker.shard))

    def _plans(self, c: Connection, given: TableRows, found: Findings) -> list[_Plan]:
        """What has to be done with a table's rows; those that would be changed in silence are held."""
        statements = self._statements.get(given.table)
        if statements is None:
            self._packet = int(_one(c, "SELECT @@SESSION.max_allowed_packet")[0])
            bound = bind(c, self._tables[given.table], self.node.name)
            statements = self._statements[given.table] = Statements(bound, self._sources)
        bound, parts = statements.bound, split(statements.bound.table, given.rows)
        # Where a key cannot be written, there is no such row to delete.
        gone = _writable(bound, bound.key, parts.deleted, Findings())
        plans = [_Plan(statements.delete, gone, deletes=True)]
        for have, some in parts.partial:
            rows = _writable(bound, (*bound.key, *have), some, found)
            plans.append(_Plan(partial(statements.update, have), rows, partial=True))
        whole, copied = (_writable(bound, statements.writable, p, found) for p in (parts.whole, parts.copied))
        plans += [_Plan(statements.upsert, whole), _Plan(statements.insert, copied)]
        return [plan for plan in plans if plan.rows.num_rows]

    def _works(self, plans: Sequence[_Plan], found: Findings) -> Iterator[Work]:
        """The SQL of all rows, made when it is asked for."""
        for plan in plans:
            for at in range(0, plan.rows.num_rows, ROWS_AT_ONCE):
                yield from self._fitting(plan.make(plan.rows.slice(at, ROWS_AT_ONCE)), found).pieces()

    def _fitting(self, work: Work, found: Findings) -> Work:
        """Without rows that are larger than the server takes: it would close the connection."""
        large = pc.greater(pc.binary_length(work.rows), self._packet - _ROOM)
        if not large.true_count:
            return work
        why = f"the row is larger than max_allowed_packet ({self._packet} bytes)"
        found.held += [HeldRow(work.table, key, why) for key in work.key.filter(large).to_pylist()]
        return work.filter(pc.invert(large))


def _writable(bound: Bound, columns: Iterable[int], rows: pa.RecordBatch, found: Findings) -> pa.RecordBatch:
    def why(i: int, values: pa.Array) -> dict[int, str]:
        type, local = bound.table.schema.columns[i].type, bound.columns[i].type
        return beyond(values, checks(values, type, local, key=i in bound.key))

    return without_unwritable(bound.table, rows, columns, why, found)


def run(c: Connection, statements: Iterable[bytes]) -> list[int]:
    """Execute statements, as many at once as fill a packet; the number of rows that each found.

    Raises:
        _NotOurTurn: by the statement `_OUR_TURN`.
        pymysql.MySQLError: what was made behind the statement that failed is not executed.
    """
    counts: list[int] = []
    sent: list[bytes] = []  # what the server is at work on
    packet: list[bytes] = []
    size, most = 0, FIRST_PACKET
    try:
        for statement in statements:
            if packet and size + len(statement) > most:
                at_work, sent = sent, []
                _receive(c, at_work, counts)
                _send(c, packet)
                sent, packet, size, most = packet, [], 0, min(2 * most, _PACKET)
            packet.append(statement)
            size += len(statement)
    finally:
        # If the SQL could not be made, too: an answer that nobody reads would be taken for the next one's.
        _receive(c, sent, counts)
    if packet:
        _send(c, packet)
        _receive(c, packet, counts)
    return counts


def _send(c: Connection, packet: Sequence[bytes]) -> None:
    driver: Any = c
    driver._execute_command(COMMAND.COM_QUERY, b";".join(packet))


def _receive(c: Connection, packet: Sequence[bytes], counts: list[int]) -> None:
    """Wait for the answers to a packet that was sent."""
    if not packet:
        return
    driver: Any = c
    done = len(counts)
    try:
        counts.append(driver._read_query_result())
        while driver._result.has_next:
            counts.append(driver.next_result())
    except pymysql.MySQLError:
        at = len(counts) - done
        if c.open and at < len(packet) and packet[at] is _OUR_TURN:
            raise _NotOurTurn from None
        raise


def _missing(work: Work, counts: Sequence[int]) -> list[tuple[str, bytes]]:
    """Which partial rows the node does not hold."""
    if not work.partial:
        return []
    return [(work.table, key) for key, n in zip(work.keys, counts, strict=True) if not n]


def _in_transaction(c: Connection) -> bool:
    status: int = c.server_status  # type: ignore[attr-defined]
    return bool(status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)


def _one(c: Connection, query: str, *parameters: object) -> Any:
    with c.cursor() as cursor:
        cursor.execute(query, parameters or None)
        return cursor.fetchone()
