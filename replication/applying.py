"""What appliers share: how a table's rows are split, halved and reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.batch import HeldRow
from replication.change import Op
from replication.key import key_columns
from replication.marker import Marker
from replication.schema import Table


@dataclass(frozen=True, slots=True)
class Parts:
    """The rows of one table in an apply batch, by what has to be done with them.

    Attributes:
        deleted: rows to delete, their key columns filled.
        partial: which columns to write, by index, and the rows that have only these; key columns filled.
        whole: rows to insert or update.
        copied: rows of an initial copy, to insert.
    """

    deleted: pa.RecordBatch
    partial: Sequence[tuple[tuple[int, ...], pa.RecordBatch]]
    whole: pa.RecordBatch
    copied: pa.RecordBatch


class Work(Protocol):
    """Rows of one table that one statement writes."""

    @property
    def table(self) -> str:
        """The canonical table name."""

    @property
    def keys(self) -> list[bytes]:
        """The canonical keys."""

    def slice(self, start: int, count: int) -> Self:
        """Some of the rows."""

    def __len__(self) -> int: ...


W = TypeVar("W", bound=Work)


@dataclass(slots=True)
class Findings:
    """What is reported besides the outcome; stored with the batch, in case the answer gets lost.

    They are kept in the node's state (`findings_name`) until a later batch of the shard has some, too.
    """

    held: list[HeldRow] = field(default_factory=list)
    missing: list[tuple[str, bytes]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.held or self.missing)

    def dump(self, marker: Marker) -> str:
        """As JSON text, with the batch that it belongs to."""
        held = [(h.table, h.key.hex(), h.reason) for h in self.held]
        missing = [(table, key.hex()) for table, key in self.missing]
        return json.dumps({"epoch": marker.epoch, "seq": marker.seq, "held": held, "missing": missing})

    @classmethod
    def load(cls, text: str, marker: Marker) -> Findings:
        """Undo `dump`; empty if the text belongs to another batch."""
        stored = json.loads(text)
        if (stored["epoch"], stored["seq"]) != (marker.epoch, marker.seq):
            return cls()
        held = [HeldRow(table, bytes.fromhex(key), why) for table, key, why in stored["held"]]
        return cls(held, [(table, bytes.fromhex(key)) for table, key in stored["missing"]])


def findings_name(shard: int) -> str:
    """Under which name a node keeps the findings of a shard; see `StateStore.get_state`."""
    return f"applied/{shard}"


def split(table: Table, rows: pa.RecordBatch) -> Parts:
    """Split the rows of an apply batch."""
    rows, copied = _apart(rows, Op.READ)
    whole, gone = _apart(rows, Op.DELETE)
    have = whole.column("_have")
    partial = []
    if have.null_count < len(have):
        for pattern in have.unique().drop_null().to_pylist():
            some = whole.filter(pc.fill_null(pc.equal(have, pattern), False))
            partial.append((_set_bits(pattern, len(table.schema.columns)), _keyed(table, some)))
        whole = whole.filter(pc.is_null(have))
    return Parts(_keyed(table, gone), partial, whole, copied)


def _apart(rows: pa.RecordBatch, op: Op) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """The rows of all other operations, and those of one."""
    of_op = pc.equal(rows.column("_op"), int(op))
    if of_op.true_count in (0, rows.num_rows):
        none = rows.slice(0, 0)
        return (none, rows) if of_op.true_count else (rows, none)
    return rows.filter(pc.invert(of_op)), rows.filter(of_op)


def beyond(column: pa.Array, checks: Iterable[tuple[pa.Array, str]]) -> dict[int, str]:
    """By row, the first reason why a value cannot be written as it is; nulls never are in the way.

    Args:
        column: the values.
        checks: where they are bad (null where they are null), and why.
    """
    found: dict[int, str] = {}
    for bad, why in checks:
        flags = pc.fill_null(bad, False)
        if flags.true_count:
            for i in pc.indices_nonzero(flags).to_pylist():
                found.setdefault(i, f"{_shown(column[i])} {why}")
    return found


def without_unwritable(
    table: Table,
    rows: pa.RecordBatch,
    columns: Iterable[int],
    why: Callable[[int, pa.Array], dict[int, str]],
    found: Findings,
) -> pa.RecordBatch:
    """The rows without those that a column would change in silence, which are held.

    Args:
        table: the table.
        rows: an apply batch.
        columns: indexes of the columns to write.
        why: by row the reason, for the values of a column; see `beyond`.
        found: told which rows are held.
    """
    if not rows.num_rows:
        return rows
    bad: dict[int, str] = {}
    for i in columns:
        name = table.schema.columns[i].name
        for row, reason in why(i, rows.column(name)).items():
            bad.setdefault(row, f"{name}: {reason}")
    if not bad:
        return rows
    keys = rows.column("_key")
    found.held += [HeldRow(table.name, keys[i].as_py(), reason) for i, reason in sorted(bad.items())]
    return rows.take(pa.array([i for i in range(rows.num_rows) if i not in bad], pa.int64()))


def write_what_passes(work: Sequence[W], attempt: Callable[[W], str | None]) -> list[HeldRow]:
    """Write everything but the rows that are refused, which are found by trying halves.

    Args:
        work: in the order to write.
        attempt: writes all or nothing of some work; the reason where it is refused, else None.

    Returns:
        the rows that were refused.
    """
    refused = [r for w in work for r in _halves(w, attempt)]
    before = sum(map(len, work))
    while refused and len(refused) < before:
        # A row that was written since may have been in their way, as a unique value that moved on.
        before = len(refused)
        refused = [r for row, _ in refused for r in _halves(row, attempt)]
    return [HeldRow(row.table, row.keys[0], why) for row, why in refused]


def _halves(work: W, attempt: Callable[[W], str | None]) -> list[tuple[W, str]]:
    why = attempt(work)
    if why is None:
        return []
    if len(work) == 1:
        return [(work, why)]
    half = len(work) // 2
    return _halves(work.slice(0, half), attempt) + _halves(work.slice(half, len(work) - half), attempt)


def _shown(value: pa.Scalar) -> str:
    try:
        return f"{value.as_py()!r:.60}"
    except (ValueError, OverflowError):  # beyond what Python's dates hold
        return "the value"


def _keyed(table: Table, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows whose key columns are filled: from the canonical key, where they are not."""
    names = table.schema.key
    if not any(rows.column(name).null_count for name in names):
        return rows
    kinds = [table.schema.column(name).type.kind for name in names]
    for name, column in zip(names, key_columns(rows.column("_key").to_pylist(), kinds), strict=True):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), column)
    return rows


def _set_bits(pattern: bytes, width: int) -> tuple[int, ...]:
    flags = np.unpackbits(np.frombuffer(pattern, np.uint8), count=width, bitorder="little")
    return tuple(int(i) for i in np.flatnonzero(flags))
