"""What the rows of an apply batch make of a table: new values where there are some, held ones elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replication.change import Op
from replication.engines.memory.faults import Refusal
from replication.engines.memory.schema import Binding
from replication.engines.memory.store import Ref, TableStore
from replication.engines.memory.transaction import Draft
from replication.engines.memory.types import LOSSLESS, left_alone
from replication.errors import Occupied

Mask = npt.NDArray[np.bool_]


class TableMerge:
    """Writes batches to one table. Made anew for each, with the database's lock held.

    Args:
        store: the table.
        binding: how its mapped columns are called.
        sources: engines whose narrowed values are to be recognised.
    """

    def __init__(self, store: TableStore, binding: Binding, sources: frozenset[str]) -> None:
        self.store = store
        self.narrow = sources - LOSSLESS
        written = [
            (local, c.name)
            for local, c in zip(binding.columns, binding.table.schema.columns, strict=True)
            if not c.generated
        ]
        self.canonical = dict(written)
        self.bit = {c.name: i for i, c in enumerate(binding.table.schema.columns)}

    def write(
        self, draft: Draft, rows: pa.RecordBatch, refuse: Refusal | None
    ) -> tuple[list[tuple[bytes, str]], list[bytes]]:
        """Write and delete rows.

        Returns:
            the refused keys with their reasons, and the keys of partial rows that are not held.
        """
        ops = rows.column("_op").to_numpy()
        deleted = ops == Op.DELETE
        if deleted.any():
            keys = rows.column("_key").filter(pa.array(deleted)).to_pylist()
            rows = rows.filter(pa.array(~deleted))
        else:
            keys = []
        refused, missing = self._upsert(draft, rows, refuse) if rows.num_rows else ([], [])
        draft.remove(self.store, keys)
        return refused, missing

    def _upsert(
        self, draft: Draft, rows: pa.RecordBatch, refuse: Refusal | None
    ) -> tuple[list[tuple[bytes, str]], list[bytes]]:
        keys: list[bytes] = rows.column("_key").to_pylist()
        held = self.store.find(keys)
        self._refuse_occupied(rows, held)
        partial = rows.column("_have").is_valid().to_numpy(zero_copy_only=False)
        present = np.fromiter((r is not None for r in held), np.bool_, len(held))
        lost = partial & ~present
        missing = [keys[i] for i in np.flatnonzero(lost)]
        if missing:
            rows, keys, held = _choose(~lost, rows, keys, held)
        merged = self._merged(rows, held)
        reasons = self._reasons(merged, refuse)
        if reasons:
            good = np.array([i not in reasons for i in range(len(keys))], np.bool_)
            refused = [(keys[i], reason) for i, reason in reasons.items()]
            merged, keys, held = _choose(good, merged, keys, held)
        else:
            refused = []
        draft.put(self.store, keys, merged, held)
        return refused, missing

    def _refuse_occupied(self, rows: pa.RecordBatch, held: Sequence[Ref | None]) -> None:
        ops = rows.column("_op").to_numpy()
        if any(there is not None for op, there in zip(ops, held, strict=True) if op == Op.READ):
            message = f"{self.store.schema.name} has a row that was to be copied"
            raise Occupied(message)

    def _merged(self, rows: pa.RecordBatch, held: Sequence[Ref | None]) -> pa.RecordBatch:
        """The rows as they will stand, in the table's own columns."""
        have = _have(rows.column("_have"), len(self.bit))
        mapped = len(self.canonical) == len(self.store.schema.columns)
        if mapped and not self.narrow and have is None:
            columns = [rows.column(self.canonical[name]) for name in self.store.arrow.names]
            return pa.RecordBatch.from_arrays(columns, schema=self.store.arrow)
        before = self.store.gather(held)
        columns = []
        for column in self.store.schema.columns:
            old = before.column(column.name)
            if (name := self.canonical.get(column.name)) is None:
                columns.append(old)
                continue
            new = rows.column(name)
            keep = left_alone(old, new, column.type, self.narrow)
            if have is not None:
                lacking = pa.array(~have[:, self.bit[name]])
                keep = lacking if keep is None else pc.or_(keep, lacking)
            columns.append(new if keep is None else pc.if_else(keep, old, new))
        return pa.RecordBatch.from_arrays(columns, schema=self.store.arrow)

    def _reasons(self, rows: pa.RecordBatch, refuse: Refusal | None) -> dict[int, str]:
        """Which rows the table refuses, and why."""
        reasons: dict[int, str] = {}
        for i, column in enumerate(self.store.schema.columns):
            if not column.nullable and rows.column(i).null_count:
                empty = rows.column(i).is_null().to_numpy(zero_copy_only=False)
                reasons.update((int(at), f"{column.name} is not nullable") for at in np.flatnonzero(empty))
        if refuse is not None:
            for at, row in enumerate(rows.to_pylist()):
                if reason := refuse(self.store.schema.name, row):
                    reasons.setdefault(at, reason)
        return reasons


def _have(bits: pa.Array, columns: int) -> Mask | None:
    """The bits as a matrix of rows and columns; None if every row has every value."""
    if bits.null_count == len(bits):
        return None
    width = (columns + 7) // 8
    full = b"\xff" * width
    joined = b"".join(full if b is None else b for b in bits.to_pylist())
    packed = np.frombuffer(joined, np.uint8).reshape(len(bits), width)
    return np.unpackbits(packed, axis=1, count=columns, bitorder="little").astype(np.bool_)


def _choose(
    chosen: Mask, rows: pa.RecordBatch, keys: list[bytes], held: list[Ref | None]
) -> tuple[pa.RecordBatch, list[bytes], list[Ref | None]]:
    index = np.flatnonzero(chosen)
    return rows.filter(pa.array(chosen)), [keys[i] for i in index], [held[i] for i in index]
