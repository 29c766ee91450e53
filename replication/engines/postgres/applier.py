"""The writer of one node: the marker and a batch's rows in one transaction.

Connects at the first batch. The usual way is one round trip: begin, marker, rows and commit go out together,
and the marker's statement fails the transaction if the condition does not hold. Whatever goes wrong there is
undone by the server; the same batch is then tried step by step, which finds the rows that the node refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
import pyarrow as pa

from replication.applying import Findings, beyond, findings_name, split, without_unwritable, write_what_passes
from replication.batch import Applied, ApplyBatch, Outcome, TableRows, refusal
from replication.engines.postgres.columns import Bound, bind
from replication.engines.postgres.config import MARKER, REPLICA, STATE, Connection, Session
from replication.engines.postgres.control import put_state_sql, state_name
from replication.engines.postgres.errors import reason, refuses_row
from replication.engines.postgres.limits import checks
from replication.engines.postgres.statements import Statements
from replication.engines.postgres.work import Insert, Work
from replication.errors import Occupied
from replication.marker import Marker
from replication.schema import NodeConfig, Table

_SET = f"""UPDATE {MARKER} SET shards = %s, seq = %s, state = %s, versions = %b
WHERE grp = %s AND shard = %s AND epoch = %s AND seq = %s RETURNING 1"""
_SET_OR_FAIL = f"WITH written AS ({_SET}) SELECT 1 / count(*) FROM written"


class _NotOurTurn(Exception):
    """The marker's condition does not hold."""


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
        """Everything in as few round trips as can be; False if it did not go through."""
        failure: psycopg.Error | None = None
        try:
            if any(isinstance(w, Insert) and w.streams for w in work):
                self._stream(c, marker, work, found)
                return True
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

    def _stream(self, c: Connection, marker: Marker, work: Sequence[Work], found: Findings) -> None:
        """The same with rows that are streamed, which needs a round trip for each part."""
        with c.pipeline():
            c.execute("BEGIN", prepare=True)
            c.execute(_SET_OR_FAIL, _set_parameters(marker), prepare=True)
        for w in work:
            with c.cursor() as cursor:
                w.run(cursor)
                found.missing += w.missing(cursor)
        with c.pipeline():
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
            if isinstance(work, Insert) and len(work) == 1 and work.is_there(c):
                message = f"{work.table} has a row that was to be copied"
                raise Occupied(message, node=self.node.name) from error
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
            work += Work(bound, *statements.delete, rows).pieces()
        for have, partial in parts.partial:
            if (rows := _writable(bound, (*bound.key, *have), partial, found)).num_rows:
                work += Work(bound, *statements.update(have), rows, partial=True).pieces()
        if (rows := _writable(bound, statements.writable, parts.whole, found)).num_rows:
            work += Work(bound, *statements.upsert, rows).pieces()
        if (rows := _writable(bound, statements.writable, parts.copied, found)).num_rows:
            work += Insert.of(statements, rows).pieces()
        return work


def _writable(bound: Bound, columns: Iterable[int], rows: pa.RecordBatch, found: Findings) -> pa.RecordBatch:
    def why(i: int, values: pa.Array) -> dict[int, str]:
        type, local = bound.table.schema.columns[i].type, bound.columns[i]
        return beyond(values, checks(values, type, local, key=i in bound.key))

    return without_unwritable(bound.table, rows, columns, why, found)


def _set_parameters(m: Marker) -> list[Any]:
    return [m.shards, m.seq, m.state(), m.versions, m.group, m.shard, m.epoch, m.after]
