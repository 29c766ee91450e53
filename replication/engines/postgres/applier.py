"""The writer of one node: the marker and a batch's rows in one transaction.

Connects at the first batch. The usual way is one round trip: begin, marker, rows and commit go out together,
and the marker's statement fails the transaction if the condition does not hold. Whatever goes wrong there is
undone by the server; the same batch is then tried step by step, which finds the rows that the node refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pyarrow as pa

from replication.applying import Findings, beyond, findings_name, split, without_unwritable, write_what_passes
from replication.batch import Applied, ApplyBatch, Outcome, TableRows, refusal
from replication.declared import second_digits
from replication.engines.postgres.columns import Bound, bind
from replication.engines.postgres.config import MARKER, REPLICA, STATE, Connection, Session
from replication.engines.postgres.control import put_state_sql, state_name
from replication.engines.postgres.errors import reason, refuses_row
from replication.engines.postgres.limits import checks
from replication.engines.postgres.statements import Statements, literal
from replication.engines.postgres.values import to_text
from replication.marker import Marker
from replication.narrowing import floored
from replication.schema import NodeConfig, Table

_SET = f"""UPDATE {MARKER} SET shards = %s, seq = %s, state = %s, versions = %b
WHERE grp = %s AND shard = %s AND epoch = %s AND seq = %s RETURNING 1"""
_SET_OR_FAIL = f"WITH written AS ({_SET}) SELECT 1 / count(*) FROM written"
_ROWS_AT_ONCE = 2_500
"""So many rows go into one statement: while the server writes them, the next ones are printed here."""


class _NotOurTurn(Exception):
    """The marker's condition does not hold."""


@dataclass(frozen=True, slots=True)
class Work:
    """Rows of one table that one statement writes.

    Attributes:
        bound: the table on this node.
        statement: with one parameter per column.
        indexes: which columns the parameters stand for.
        rows: an apply batch.
        partial: the rows update what exists, and the statement returns which did.
    """

    bound: Bound
    statement: str
    indexes: tuple[int, ...]
    rows: pa.RecordBatch
    partial: bool = False

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def table(self) -> str:
        """The canonical table name."""
        return self.bound.table.name

    @property
    def keys(self) -> list[bytes]:
        """The canonical keys."""
        keys: list[bytes] = self.rows.column("_key").to_pylist()
        return keys

    def slice(self, start: int, count: int) -> Work:
        """Some of the rows."""
        return replace(self, rows=self.rows.slice(start, count))

    def run(self, cursor: psycopg.Cursor[Any]) -> None:
        """Execute; the result may be pending while in a pipeline."""
        parameters = []
        for i in self.indexes:
            column, local = self.bound.table.schema.columns[i], self.bound.columns[i]
            values = self.rows.column(column.name)
            if i not in self.bound.key:
                values = floored(values, column.type, second_digits(local.native, "postgres"))
            texts = to_text(values, column.type, local.type)
            parameters.append(literal(texts, column.type.kind))
        cursor.execute(self.statement, parameters, prepare=True)

    def missing(self, cursor: psycopg.Cursor[Any]) -> list[tuple[str, bytes]]:
        """Which partial rows the node does not hold, after `run`."""
        if not self.partial:
            return []
        found = {n for (n,) in cursor.fetchall()}
        return [(self.table, k) for n, k in enumerate(self.keys, 1) if n not in found]


class PostgresApplier:
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
        self._tables: Mapping[str, Table] = {t.name: t for t in tables}
        self._sources = frozenset(sources)
        self._statements: dict[str, Statements] = {}
        self._session = Session(node, REPLICA)

    def apply(self, batch: ApplyBatch) -> Applied:
        """See `Applier.apply`."""
        with self._session.use() as c:
            unwritable = Findings()
            work = [w for rows in batch.tables for w in self._work(c, rows, unwritable)]
            # Deletes first: they may free what an insert of the same batch needs.
            work.sort(key=lambda w: not w.statement.startswith("DELETE"))
            found = Findings(list(unwritable.held))
            try:
                if not self._at_once(c, batch.marker, work, found):
                    found = unwritable
                    self._step_by_step(c, batch.marker, work, found)
            except _NotOurTurn:
                return self._whose_turn(c, batch.marker)
        return Applied(Outcome.COMMITTED, found.held, found.missing)

    def close(self) -> None:
        """See `Applier.close`."""
        self._session.close()

    def _at_once(self, c: Connection, marker: Marker, work: Sequence[Work], found: Findings) -> bool:
        """Everything in one round trip, or two if there are partial rows; False if it did not go through."""
        failure: psycopg.Error | None = None
        try:
            with c.pipeline() as pipeline:
                try:
                    self._send(c, pipeline, marker, work, found)
                except psycopg.Error as error:
                    # Kept here: what leaves the block of a broken pipeline is logged as ignored.
                    failure = error
        except psycopg.Error as error:
            failure = failure or error
        if failure is None:
            return True
        if not c.closed:
            c.execute("ROLLBACK")
        if c.closed or not refuses_row(failure):
            raise failure
        return False

    def _send(
        self,
        c: Connection,
        pipeline: psycopg.Pipeline,
        marker: Marker,
        work: Sequence[Work],
        found: Findings,
    ) -> None:
        c.execute("BEGIN", prepare=True)
        c.execute(_SET_OR_FAIL, _set_parameters(marker), prepare=True)
        cursors = [c.cursor() for _ in work]
        for w, cursor in zip(work, cursors, strict=True):
            w.run(cursor)
        if any(w.partial for w in work):
            pipeline.sync()
            for w, cursor in zip(work, cursors, strict=True):
                found.missing += w.missing(cursor)
        self._keep(c, marker, found)
        c.execute("COMMIT", prepare=True)

    def _step_by_step(self, c: Connection, marker: Marker, work: Sequence[Work], found: Findings) -> None:
        """The same transaction with a savepoint around every part, so that bad rows can be left out."""
        with c.transaction():
            if c.execute(_SET, _set_parameters(marker)).fetchone() is None:
                raise _NotOurTurn
            c.execute("SET CONSTRAINTS ALL IMMEDIATE")
            found.held += write_what_passes(work, lambda w: self._try(c, w, found))
            self._keep(c, marker, found)

    def _try(self, c: Connection, work: Work, found: Findings) -> str | None:
        """Write all of it or nothing; the reason where the node refuses."""
        try:
            with c.transaction(), c.cursor() as cursor:
                work.run(cursor)
                missing = work.missing(cursor)
        except psycopg.Error as error:
            if c.closed or not refuses_row(error):
                raise
            return reason(error)
        found.missing += missing
        return None

    def _keep(self, c: Connection, marker: Marker, found: Findings) -> None:
        if found:
            c.execute(put_state_sql(), [self._state(marker), found.dump(marker)])

    def _whose_turn(self, c: Connection, marker: Marker) -> Applied:
        """Why the marker was refused."""
        row = c.execute(
            f"SELECT epoch, seq FROM {MARKER} WHERE grp = %s AND shard = %s", [self.group, marker.shard]
        ).fetchone()
        if (why := refusal(row and (row[0], row[1]), marker)) is not Outcome.ALREADY:
            return Applied(why)
        kept = c.execute(f"SELECT value FROM {STATE} WHERE name = %s", [self._state(marker)]).fetchone()
        found = Findings.load(kept[0], marker) if kept else Findings()
        return Applied(Outcome.ALREADY, found.held, found.missing)

    def _state(self, marker: Marker) -> str:
        return state_name(self.group, findings_name(marker.shard))

    def _work(self, c: Connection, given: TableRows, found: Findings) -> list[Work]:
        """What has to be done with a table's rows; those that would be changed in silence are held."""
        statements = self._statements.get(given.table)
        if statements is None:
            bound = bind(c, self._tables[given.table], self.node.name)
            statements = self._statements[given.table] = Statements(bound, self._sources)
        bound, parts = statements.bound, split(statements.bound.table, given.rows)
        work: list[Work] = []
        # Where a key cannot be written, there is no such row to delete.
        if (rows := _writable(bound, bound.key, parts.deleted, Findings())).num_rows:
            work += _pieces(bound, statements.delete, rows, False)
        for have, partial in parts.partial:
            if (rows := _writable(bound, (*bound.key, *have), partial, found)).num_rows:
                work += _pieces(bound, statements.update(have), rows, True)
        if (rows := _writable(bound, statements.writable, parts.whole, found)).num_rows:
            work += _pieces(bound, statements.upsert, rows, False)
        return work


def _pieces(
    bound: Bound, statement: tuple[str, tuple[int, ...]], rows: pa.RecordBatch, partial: bool
) -> list[Work]:
    text, indexes = statement
    work = Work(bound, text, indexes, rows, partial)
    return [work.slice(i, _ROWS_AT_ONCE) for i in range(0, len(work), _ROWS_AT_ONCE)]


def _writable(bound: Bound, columns: Iterable[int], rows: pa.RecordBatch, found: Findings) -> pa.RecordBatch:
    def why(i: int, values: pa.Array) -> dict[int, str]:
        type, local = bound.table.schema.columns[i].type, bound.columns[i]
        return beyond(values, checks(values, type, local, key=i in bound.key))

    return without_unwritable(bound.table, rows, columns, why, found)


def _set_parameters(m: Marker) -> list[Any]:
    return [m.shards, m.seq, m.state(), m.versions, m.group, m.shard, m.epoch, m.after]
