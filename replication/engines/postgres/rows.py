"""Row messages of one table become one record batch of changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replication.buffers import bits
from replication.change import Op, change_schema
from replication.engines.postgres.decode import (
    DELETE,
    INSERT,
    OLD_KEY,
    OLD_ROW,
    Bools,
    Buffer,
    Ints,
    Relation,
    Values,
    walk,
)
from replication.engines.postgres.types import FIRST_USER_OID, LocalType, local_type
from replication.engines.postgres.values import from_text
from replication.errors import SchemaChanged
from replication.key import encode_keys
from replication.schema import Table
from replication.types import Kind

BLOCK = 8192
"""So many messages are decoded in one step: the matrices of more are memory that each poll would get anew."""
AT_ONCE = 4096
"""So many values become text in one step: of fewer the calls cost most, and more leave the cache."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the mapped columns are in a relation's tuples.

    Attributes:
        table: the mapped table.
        relation: the Relation message it was made from.
        places: for each canonical column its place in the tuple, or -1 if it is not there.
        types: for each canonical column how its text is read.
        trouble: why the table is no longer what it was, or empty.
        key: indexes of the key columns among the canonical ones.
        kinds: their kinds.
        schema: of the changes that are made.
        pick: takes the mapped columns out of walked tuples; in order it is a slice, which copies nothing.
    """

    table: Table
    relation: Relation
    places: tuple[int, ...]
    types: tuple[LocalType, ...]
    trouble: str
    key: tuple[int, ...]
    kinds: tuple[Kind, ...]
    schema: pa.Schema
    pick: slice | list[int]


def lay_out(
    table: Table, node: str, relation: Relation, types: Mapping[int, LocalType], unpublished: frozenset[str]
) -> Layout:
    """Match a relation with the mapped columns.

    Args:
        table: the mapped table.
        node: this node's name.
        relation: what the log says of it.
        types: how the text of types is read that users made; an unknown one is taken to fit.
        unpublished: local names of generated columns, whose absence is no trouble.
    """
    places, kinds, trouble = [], [], ""
    for column in table.schema.columns:
        local = table.mapping.local(node, column.name)
        place = relation.names.index(local) if local in relation.names else -1
        oid = relation.types[place] if place >= 0 else FIRST_USER_OID
        type = types.get(oid) or (local_type(oid) if oid < FIRST_USER_OID else None)
        if place < 0 and local not in unpublished:
            trouble = trouble or f"column {local} is gone"
        if type is not None and not type.fits(column.type):
            trouble = trouble or f"column {local} is now of another type than {column.type.kind}"
            place = -1
        places.append(place)
        kinds.append(type or LocalType(column.type.kind, column.type.item))
    schema = table.schema
    return Layout(
        table,
        relation,
        tuple(places),
        tuple(kinds),
        trouble,
        tuple(schema.index(name) for name in schema.key),
        tuple(schema.column(name).type.kind for name in schema.key),
        change_schema(schema.arrow),
        slice(len(places)) if places == list(range(len(places))) else places,
    )


@dataclass(frozen=True, slots=True)
class Orders:
    """For each message of a run: its transaction's commit record and time, and its index in it."""

    hi: npt.NDArray[np.uint64]
    index: Ints
    ts: Ints


@dataclass(frozen=True, slots=True)
class Decoded:
    """Changes of one table, and for each row the message it came from (ascending)."""

    table: str
    rows: pa.RecordBatch
    message: Ints


def decode_rows(buffer: Buffer, layout: Layout, messages: Ints, orders: Orders) -> Decoded:
    """Decode the Insert, Update and Delete messages of one table.

    A key change gives two rows: the delete of the old key, with order `2 * index`, and the insert of the new
    one with `2 * index + 1`; every other message gives one row with `2 * index + 1`.

    Args:
        buffer: the bytes.
        layout: of the messages' relation.
        messages: numbers of the messages in `buffer`, ascending.
        orders: by message number.
    """
    if any(layout.places[k] < 0 for k in layout.key):
        message = f"the key of {layout.table.name} cannot be read: {layout.trouble}"
        raise SchemaChanged(
            message, hint="restore the column, or change the mapping and copy the table again"
        )
    if len(messages) > BLOCK:
        parts = [
            decode_rows(buffer, layout, messages[at : at + BLOCK], orders)
            for at in range(0, len(messages), BLOCK)
        ]
        rows = pa.concat_batches([part.rows for part in parts])
        return Decoded(layout.table.name, rows, np.concatenate([part.message for part in parts]))
    tuples = _Tuples(buffer, layout, buffer.payloads[messages])
    moved = tuples.moved()
    source = np.repeat(np.arange(len(messages)), 1 + moved)
    first = np.concatenate([[True], source[1:] != source[:-1]]) if len(source) else np.zeros(0, np.bool_)
    leaving = moved[source] & first
    op = np.where(tuples.deleted, Op.DELETE, np.where(tuples.inserted | moved, Op.INSERT, Op.UPDATE))[source]
    op[leaving] = Op.DELETE
    number = messages[source]
    columns, have = tuples.columns(source, op == Op.DELETE)
    key = encode_keys([columns[k] for k in layout.key], layout.kinds)
    lo = orders.index[number] * 2 + np.where(leaving, 0, 1)
    system = [
        pa.array(op.astype(np.int8)),
        pa.array(orders.hi[number]),
        pa.array(lo.astype(np.uint32)),
        pa.array(orders.ts[number]),
        key,
        have,
        tuples.changed(source, op == Op.UPDATE),
    ]
    rows = pa.RecordBatch.from_arrays(system + columns, schema=layout.schema)
    return Decoded(layout.table.name, rows, number)


class _Tuples:
    """The old and new tuples of some messages, walked once; only the canonical columns, in their order."""

    def __init__(self, buffer: Buffer, layout: Layout, at: Ints) -> None:
        self.buffer = buffer
        self.layout = layout
        self.key = list(layout.key)
        kind = buffer.bytes[at]
        self.deleted: Bools = kind == DELETE
        self.inserted: Bools = kind == INSERT
        mark = buffer.bytes[at + 5]
        self.full: Bools = mark == OLD_ROW
        known: Bools = self.full | (mark == OLD_KEY)
        self.old_rows = np.flatnonzero(known)
        n, width, count = len(at), len(layout.relation.names), len(layout.places)
        new_at = at + 6
        self.old = Values.nothing(count, 1).stretched(n)
        if len(self.old_rows):
            walked, after = walk(buffer, new_at[self.old_rows], width)
            self.old = walked[layout.pick].spread(self.old_rows, n)
            new_at[self.old_rows] = after + 1
        # A delete has no new tuple; its old one stands in, so that all rows walk in step.
        new_at[self.deleted] = at[self.deleted] + 6
        self.new = walk(buffer, new_at, width)[0][layout.pick]
        if len(self.old_rows):
            # A whole old row has every value; an old key alone is also sent where the key is out of line.
            sent = np.tile(self.full, (count, 1))
            sent[self.key] = known
            self.new = self.old.where(self.new.unchanged & sent, self.new)

    def moved(self) -> Bools:
        """Which updates change the key."""
        moved = np.zeros(len(self.deleted), np.bool_)
        rows = self.old_rows[~self.deleted[self.old_rows]]
        if len(rows):
            old, new = self.old[self.key][:, rows], self.new[self.key][:, rows]
            moved[rows] = (self._differ(old, new) & new.valid).any(axis=0)
        return moved

    def columns(self, source: Ints, delete: Bools) -> tuple[list[pa.Array], pa.Array]:
        """The data columns, and `_have`.

        Args:
            source: for each row to make, which tuple it comes from.
            delete: rows that hold the old key only.
        """
        values = self.new if len(source) == len(self.deleted) else self.new[:, source]
        if delete.any():
            old = self.old[:, source]
            old.valid[[i for i in range(len(old.valid)) if i not in self.key]] = False
            values = old.where(delete, values)
        missing = values.unchanged | (np.array(self.layout.places) < 0)[:, None]
        have = (~missing | delete).T
        arrays, texts = [], self._texts(values)
        try:
            for column, local in zip(self.layout.table.schema.columns, self.layout.types, strict=True):
                what = f"{self.layout.table.name}.{column.name} is no {column.type.kind}"
                arrays.append(from_text(next(texts), column.type, local))
        except pa.ArrowInvalid as error:
            message = f"a value of {what}: {error}"
            raise SchemaChanged(message, hint="its type has changed; change the mapping") from error
        return arrays, bits(have, np.asarray(~have.all(axis=1)))

    def _texts(self, values: Values) -> Iterator[pa.Array]:
        """Text column by column, made for several at once while their rows are few."""
        columns, n = values.start.shape
        step = max(1, AT_ONCE // max(1, n))
        for first in range(0, columns, step):
            part = values[first : first + step]
            text = self.buffer.binary(part).cast(pa.utf8())
            for i in range(len(part.start)):
                yield text.slice(i * n, n)

    def changed(self, source: Ints, update: Bools) -> pa.Array:
        """`_changed`: known where the whole old row was sent."""
        known: Bools = np.logical_and(update, self.full[source])
        differ = np.zeros((len(source), len(self.layout.places)), np.bool_)
        rows = source[known]
        if len(rows):
            differ[known] = self._differ(self.old[:, rows], self.new[:, rows]).T
        return bits(differ, known)

    def _differ(self, old: Values, new: Values) -> Bools:
        """Whether the texts differ; nulls are equal to nulls."""
        differ = (old.valid != new.valid) | (old.valid & (old.length != new.length))
        open_ = ~differ & old.valid
        if open_.any():
            equal = pc.equal(self.buffer.binary(old[open_]), self.buffer.binary(new[open_]))
            differ[open_] = ~equal.to_numpy(zero_copy_only=False)
        return np.asarray(differ, np.bool_)
