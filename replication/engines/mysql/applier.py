"""The writer of one node: the marker and a batch's rows in one transaction.

Connects at the first batch. The usual way of a small batch is one round trip: begin, marker, rows and
commit go out together, and what follows the marker fails if its condition does not hold. Whatever goes
wrong there is undone; the same batch is then tried step by step, which finds the rows that the node
refuses. A statement that fails is undone by the server alone, so no savepoints are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT, SERVER_STATUS

from replication.applying import Findings, beyond, findings_name, split, without_unwritable, write_what_passes
from replication.batch import Applied, ApplyBatch, HeldRow, Outcome, TableRows, refusal
from replication.engines.mysql.columns import Bound, bind
from replication.engines.mysql.config import MARKER, STATE, parse
from replication.engines.mysql.connection import Session
from replication.engines.mysql.errors import DUPLICATE_KEY, code_of, reason, refuses_row
from replication.engines.mysql.limits import checks
from replication.engines.mysql.marker import put_state, set_marker, state_name
from replication.engines.mysql.statements import Statements, Work
from replication.errors import Occupied
from replication.marker import Marker
from replication.schema import NodeConfig, Table

REPLICA = {"SESSION foreign_key_checks": "0", "@sync_worker_applying": "1"}
"""For appliers: no foreign keys. Triggers fire; by the variable they can tell us from an application."""
_OUR_TURN = b"DO EXP(IF(ROW_COUNT() = 1, 0, 10000))"
"""Fails, by a double that is out of range, unless the statement before it found one row."""
_PACKET = 1 << 20
_ROOM = 1 << 16
"""So much of a packet is left to the names in a statement."""
_NULL_REFUSED = 1048


class _NotOurTurn(Exception):
    """The marker's condition does not hold."""


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
            work = [w for rows in batch.tables for w in self._work(c, rows, found)]
            # Deletes first: they may free what an insert of the same batch needs.
            work.sort(key=lambda w: not w.head.startswith(b"DELETE"))
            unwritable = Findings(list(found.held))
            try:
                if not self._at_once(c, batch.marker, work, found):
                    found = unwritable
                    self._step_by_step(c, batch.marker, work, found)
            except _NotOurTurn:
                return self._whose_turn(c, batch.marker)
            finally:
                if c.open and _in_transaction(c):
                    c.rollback()
        return Applied(Outcome.COMMITTED, found.held, found.missing)

    def close(self) -> None:
        """See `Applier.close`."""
        self._session.close()

    def _at_once(self, c: Connection, marker: Marker, work: Sequence[Work], found: Findings) -> bool:
        """The whole transaction, in as few round trips as its size allows; False if a row is refused."""
        whole = [w for w in work if not w.partial]
        opening = [b"START TRANSACTION", set_marker(marker), _OUR_TURN]
        statements = chain(opening, chain.from_iterable(w.statements() for w in whole))
        try:
            if len(whole) == len(work):
                _run(c, chain(statements, self._keep(marker, found), [b"COMMIT"]))
                return True
            _run(c, statements)
            for w in work:
                if w.partial:
                    found.missing += _missing(w, _run(c, w.statements()))
            _run(c, [*self._keep(marker, found), b"COMMIT"])
        except pymysql.MySQLError as error:
            if not c.open or not refuses_row(error):
                raise
            return False
        return True

    def _step_by_step(self, c: Connection, marker: Marker, work: Sequence[Work], found: Findings) -> None:
        """The same transaction part by part, so that bad rows can be left out."""
        if _in_transaction(c):
            c.rollback()
        _run(c, [b"START TRANSACTION", set_marker(marker), _OUR_TURN])
        found.held += write_what_passes(work, lambda w: self._try(c, w, found))
        _run(c, [*self._keep(marker, found), b"COMMIT"])

    def _try(self, c: Connection, work: Work, found: Findings) -> str | None:
        """Write all of it, the reason where the node refuses; partial rows that passed pass again."""
        try:
            counts = _run(c, work.statements())
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
        (found,) = _run(c, [self._statements[work.table].find(work.copied)])
        return found > 0

    def _keep(self, marker: Marker, found: Findings) -> list[bytes]:
        return [put_state(self._state(marker), found.dump(marker))] if found else []

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

    def _work(self, c: Connection, given: TableRows, found: Findings) -> list[Work]:
        """What has to be done with a table's rows; those that would be changed in silence are held."""
        statements = self._statements.get(given.table)
        if statements is None:
            self._packet = int(_one(c, "SELECT @@SESSION.max_allowed_packet")[0])
            bound = bind(c, self._tables[given.table], self.node.name)
            statements = self._statements[given.table] = Statements(bound, self._sources)
        bound, parts = statements.bound, split(statements.bound.table, given.rows)
        work: list[Work] = []
        # Where a key cannot be written, there is no such row to delete.
        if (rows := _writable(bound, bound.key, parts.deleted, Findings())).num_rows:
            work.append(statements.delete(rows))
        for have, partial in parts.partial:
            if (rows := _writable(bound, (*bound.key, *have), partial, found)).num_rows:
                work.append(statements.update(have, rows))
        if (rows := _writable(bound, statements.writable, parts.whole, found)).num_rows:
            work.append(statements.upsert(rows))
        if (rows := _writable(bound, statements.writable, parts.copied, found)).num_rows:
            work.append(statements.insert(rows))
        return [piece for w in work for piece in self._fitting(w, found).pieces()]

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


def _run(c: Connection, statements: Iterable[bytes]) -> list[int]:
    """Execute statements, as many at once as fill a packet; the number of rows that each found.

    Raises:
        _NotOurTurn: by the statement `_OUR_TURN`.
        pymysql.MySQLError: what was sent behind the statement that failed is not executed.
    """
    counts: list[int] = []
    packet: list[bytes] = []
    size = 0
    for statement in statements:
        if packet and size + len(statement) > _PACKET:
            _send(c, packet, counts)
            packet, size = [], 0
        packet.append(statement)
        size += len(statement)
    if packet:
        _send(c, packet, counts)
    return counts


def _send(c: Connection, packet: Sequence[bytes], counts: list[int]) -> None:
    done = len(counts)
    driver: Any = c
    try:
        counts.append(driver.query(b";".join(packet)))
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
