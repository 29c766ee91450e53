"""Sends chosen rows of one node to the others again, while the group runs: for repair and for rows on hold.

It goes the way of the initial copy: a piece of the keys is read between two watermarks and comes out of the
node's capture in its place in the log, so that what applications write meanwhile wins. Rows that are gone go
as deletes where that is asked for, rows that cannot be read are set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from actors.backfill import POLL_SECONDS, Surroundings
from replication.backfill import LOST, Chunk, ChunkIdent
from replication.engine import Snapshot
from replication.errors import Terminal
from replication.key import key_columns
from replication.paging import readable
from replication.schema import Table

PIECE = 1_000
"""So many keys are read at once."""


@dataclass(slots=True)
class Recopied:
    """What became of the keys.

    Attributes:
        sent: rows that were read and sent.
        deleted: keys that are not there and went as deletes.
        missing: keys that are not there, and nothing was sent of.
        unreadable: canonical key and reason of rows that are no rows of the table.
    """

    sent: int = 0
    deleted: int = 0
    missing: int = 0
    unreadable: list[tuple[bytes, str]] | None = None


class Recopy:
    """Sends rows of one table from one node.

    Args:
        table: the table.
        run: text without a slash, unique to this object, e.g. a UUID.
        snapshot: reads the node.
        around: see `Surroundings`.
        before: called before each piece is read.
        given: values that replace those of the rows, by column; the node itself gets them, too.
    """

    def __init__(
        self,
        table: Table,
        run: str,
        snapshot: Snapshot,
        around: Surroundings,
        before: Callable[[], object] = lambda: None,
        given: Mapping[str, pa.Scalar] | None = None,
    ) -> None:
        self._table = table
        self._run = run
        self._snapshot = snapshot
        self._around = around
        self._before = before
        self._given = given or {}
        self._number = 0

    def copy(self, keys: Sequence[bytes], *, deletes: bool) -> Recopied:
        """Send the rows of these canonical keys; returns once they are durable everywhere.

        Args:
            keys: which rows.
            deletes: where the node holds no such row, delete it everywhere.
        """
        done = Recopied(unreadable=[])
        self._around.capture.begin(self._run, self._table.name)
        try:
            for at in range(0, len(keys), PIECE):
                self._send(keys[at : at + PIECE], done, deletes=deletes)
        finally:
            self._around.capture.end(self._table.name)
        return done

    def _send(self, keys: Sequence[bytes], done: Recopied, *, deletes: bool) -> None:
        while True:
            chunk, missing = self._offer(keys, deletes=deletes)
            if self._is_durable(ChunkIdent(self._run, self._table.name, self._number)):
                break
            self._around.capture.begin(self._run, self._table.name)  # the log was read again from before it
        assert done.unreadable is not None
        done.sent += chunk.rows.num_rows
        done.deleted += chunk.gone.num_rows if chunk.gone else 0
        done.missing += 0 if chunk.gone else missing
        done.unreadable += chunk.unreadable

    def _offer(self, keys: Sequence[bytes], *, deletes: bool) -> tuple[Chunk, int]:
        self._before()
        self._number += 1
        ident = ChunkIdent(self._run, self._table.name, self._number)
        self._snapshot.write_watermark(ident.low)
        aside: list[tuple[bytes, str]] = []
        rows, _ = readable(partial(self._snapshot.read_keys, self._table, keys), aside.extend)
        there = {*rows.column("_key").to_pylist(), *(key for key, _ in aside)}
        absent = [key for key in dict.fromkeys(keys) if key not in there]
        if absent and self._given:
            message = f"{self._table.name}: no such row at the node, so there is nothing to give values to"
            raise Terminal(message, hint="take the row of a node that holds it")
        gone = keys_alone(self._table, absent) if deletes and absent else None
        chunk = Chunk(with_values(rows, self._given), aside, gone, given=bool(self._given))
        self._around.capture.offer(ident, chunk)
        self._snapshot.write_watermark(ident.high)
        return chunk, len(absent)

    def _is_durable(self, ident: ChunkIdent) -> bool:
        """Wait until a piece is durable everywhere; False when it was lost and must be read again."""
        while True:
            released = self._around.released()
            order = self._around.capture.emitted(ident)
            if order == LOST:
                return False
            if order is not None and released >= order:
                return True
            self._around.wait(POLL_SECONDS)


def with_values(rows: pa.RecordBatch, given: Mapping[str, pa.Scalar]) -> pa.RecordBatch:
    """The rows with other values in some columns."""
    for name, value in given.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pa.repeat(value, rows.num_rows))
    return rows


def keys_alone(table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
    """Rows of which nothing but the key is known: `_key` and the data columns, all others null."""
    schema = table.schema
    kinds = [schema.column(name).type.kind for name in schema.key]
    known = dict(zip(schema.key, key_columns(keys, kinds), strict=True))
    columns = [
        known[f.name].cast(f.type) if f.name in known else pa.nulls(len(keys), f.type) for f in schema.arrow
    ]
    fields = [pa.field("_key", pa.binary()), *schema.arrow]
    return pa.RecordBatch.from_arrays([pa.array(keys, pa.binary()), *columns], schema=pa.schema(fields))
