"""Transactions: what one has done so far, and how an application does it row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from replication.change import Op
from replication.engines.memory.log import Block
from replication.engines.memory.store import Ref, TableStore, one_batch
from replication.errors import RowRefused


class Draft:
    """A transaction that is not committed: the tables hold it already, and it can be undone.

    Whoever uses it holds the database's lock from beginning to end, so nobody sees it half done.

    Args:
        tables: the database's tables.
        first: index of its first change.
    """

    def __init__(self, tables: Mapping[str, TableStore], first: int = 0) -> None:
        self.tables = tables
        self._next = first
        self._pieces: dict[str, list[Block]] = {}
        self._undo: list[tuple[TableStore, Sequence[bytes], Sequence[Ref | None]]] = []

    @property
    def last(self) -> int:
        """The greatest index used; 0 if none was."""
        return max(0, self._next - 1)

    def put(
        self,
        store: TableStore,
        keys: Sequence[bytes],
        rows: pa.RecordBatch,
        held: Sequence[Ref | None],
        changed: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Insert or replace whole rows; each key once. `held` is what `store.find(keys)` says."""
        op = np.fromiter((Op.INSERT if r is None else Op.UPDATE for r in held), np.int8, len(keys))
        self._undo.append((store, keys, held))
        store.put(keys, rows, held)
        self._add(store, op, keys, rows, changed)

    def remove(self, store: TableStore, keys: Iterable[bytes]) -> int:
        """Delete the rows that exist among `keys`; how many there were."""
        present = [k for k in keys if k in store.rows]
        held = store.find(present)
        whole = store.gather(held)
        bare = pa.RecordBatch.from_arrays(
            [
                whole.column(f.name) if f.name in store.schema.key else pa.nulls(len(present), f.type)
                for f in store.arrow
            ],
            schema=store.arrow,
        )
        self._undo.append((store, present, held))
        store.remove(present)
        self._add(store, np.full(len(present), Op.DELETE, np.int8), present, bare, None)
        return len(present)

    def blocks(self) -> Sequence[Block]:
        """What it did, one block per table."""
        return [_join(pieces) for pieces in self._pieces.values()]

    def abort(self) -> None:
        """Undo everything."""
        for store, keys, held in reversed(self._undo):
            store.restore(keys, held)

    def _add(
        self,
        store: TableStore,
        op: npt.NDArray[np.int8],
        keys: Sequence[bytes],
        rows: pa.RecordBatch,
        changed: npt.NDArray[np.bool_] | None,
    ) -> None:
        if not len(op):
            return
        index = np.arange(self._next, self._next + len(op), dtype=np.uint32)
        self._next += len(op)
        block = Block(store.schema.name, op, index, pa.array(keys, pa.binary()), rows, changed)
        self._pieces.setdefault(store.schema.name, []).append(block)


class Transaction:
    """What an application can do in a transaction. Keys are one value, or a tuple in key order.

    Values are what Arrow makes of the canonical type in Python: int, str, bytes, datetime …; numeric, uuid
    and json are text.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def insert(self, table: str, row: Mapping[str, Any]) -> None:
        """Insert a row; columns it does not name are null.

        Raises:
            RowRefused: the key exists, or a column that is not nullable has no value.
        """
        store = self._draft.tables[table]
        rows = _one_row(store, row)
        keys = store.keys(rows)
        held = store.find(keys)
        if held[0] is not None:
            message = f"{table} has a row with this key already"
            raise RowRefused(message)
        self._draft.put(store, keys, rows, held)

    def update(self, table: str, key: Any, values: Mapping[str, Any]) -> int:
        """Change some columns of the row with this key, maybe the key itself; how many rows there were.

        Raises:
            RowRefused: the new key exists, or a column that is not nullable loses its value.
        """
        store = self._draft.tables[table]
        old = store.key(key)
        held = store.find([old])
        if held[0] is None:
            return 0
        before = store.gather(held)
        after = _one_row(store, {name: before.column(name)[0] for name in before.schema.names} | dict(values))
        keys = store.keys(after)
        if keys != [old]:
            if keys[0] in store.rows:
                message = f"{table} has a row with the new key already"
                raise RowRefused(message)
            self._draft.remove(store, [old])
            self._draft.put(store, keys, after, [None])
            return 1
        changed = [not before.column(i).equals(after.column(i)) for i in range(before.num_columns)]
        self._draft.put(store, keys, after, held, np.array([changed]))
        return 1

    def delete(self, table: str, key: Any) -> int:
        """Delete the row with this key; how many there were."""
        store = self._draft.tables[table]
        return self._draft.remove(store, [store.key(key)])

    def write(self, table: str, rows: pa.RecordBatch) -> None:
        """Insert or replace many rows at once: every column of the table, each key once."""
        store = self._draft.tables[table]
        keys = store.keys(rows)
        self._draft.put(store, keys, rows, store.find(keys))


def _one_row(store: TableStore, row: Mapping[str, Any]) -> pa.RecordBatch:
    unknown = row.keys() - set(store.arrow.names)
    if unknown:
        message = f"{store.schema.name} has no column {min(unknown)}"
        raise RowRefused(message)
    for column in store.schema.columns:
        if not column.nullable and row.get(column.name) is None:
            message = f"{store.schema.name}.{column.name} is not nullable"
            raise RowRefused(message)
    columns = [pa.array([row.get(f.name)], f.type) for f in store.arrow]
    return pa.RecordBatch.from_arrays(columns, schema=store.arrow)


def _join(pieces: Sequence[Block]) -> Block:
    if len(pieces) == 1:
        return pieces[0]
    width = pieces[0].rows.num_columns
    changed = [
        # An update whose changes are unknown counts as having changed everything.
        np.ones((len(p.op), width), np.bool_) if p.changed is None else p.changed
        for p in pieces
    ]
    return Block(
        pieces[0].table,
        np.concatenate([p.op for p in pieces]),
        np.concatenate([p.index for p in pieces]),
        pa.concat_arrays([p.keys for p in pieces]),
        one_batch(pa.Table.from_batches([p.rows for p in pieces])),
        np.concatenate(changed) if any(p.changed is not None for p in pieces) else None,
    )
