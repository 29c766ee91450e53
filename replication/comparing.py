"""Comparing the rows of one key range, as several nodes hold them, in whole columns.

Two values are the same if they are equal once each is narrowed to the other node's engine, see
`replication.narrowing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replication.difference import Difference, DifferenceKind
from replication.filter import row_filter
from replication.narrowing import MICROSECONDS, comparable, narrow
from replication.schema import Table
from replication.types import CanonicalType

Mask = npt.NDArray[np.bool_]


class Node(Protocol):
    """A node whose rows are compared."""

    @property
    def node(self) -> str:
        """The node's name."""

    @property
    def engine(self) -> str:
        """The name of its engine, which decides the narrowings."""


def compare_rows(table: Table, nodes: Sequence[Node], parts: Sequence[pa.RecordBatch]) -> list[Difference]:
    """Compare the rows of one key range.

    Args:
        table: the table.
        nodes: their names and engines are used.
        parts: per node its rows, `_key` and the data columns; each key once.

    Returns:
        the differences, by key.
    """
    held = _Held(table, nodes, parts)
    found = _find(table, nodes, held)
    return _describe(table, nodes, held, found) if found else []


def differing_keys(table: Table, nodes: Sequence[Node], parts: Sequence[pa.RecordBatch]) -> set[bytes]:
    """The keys alone of what `compare_rows` finds."""
    return set(_find(table, nodes, _Held(table, nodes, parts)))


def _find(table: Table, nodes: Sequence[Node], held: _Held) -> dict[bytes, set[str]]:
    """By key of each row that differs its columns that do."""
    found: dict[bytes, set[str]] = {key: set() for key in held.excluded}
    for (a, part_a), (b, part_b) in combinations(zip(nodes, held.parts, strict=True), 2):
        keys_a, keys_b = part_a.column("_key"), part_b.column("_key")
        if not keys_a.equals(keys_b):
            at = pc.index_in(keys_a, value_set=keys_b)
            for rows, others, lacking in ((part_a, keys_b, b), (part_b, keys_a, a)):
                found |= {k: found.get(k, set()) for k in _absent(held.due(rows, lacking), others)}
            part_a, part_b = part_a.filter(at.is_valid()), part_b.take(at.drop_null())
        keys = part_a.column("_key")
        for name, mask in compare_columns(table, part_a, part_b, (a.node, a.engine), (b.node, b.engine)):
            for i in np.flatnonzero(mask):
                found.setdefault(keys[int(i)].as_py(), set()).add(name)
    return found


class _Held:
    """What nodes hold of a key range, and what their filters let them hold.

    Attributes:
        parts: per node its rows.
        excluded: by key the nodes that hold a row which their filter excludes.
    """

    def __init__(self, table: Table, nodes: Sequence[Node], parts: Sequence[pa.RecordBatch]) -> None:
        self.parts = parts
        engines = [n.engine for n in nodes]
        filters = {n.node: row_filter(table, n.node, engines) for n in nodes if table.mapping.where}
        self._filters = {node: rows for node, rows in filters.items() if rows is not None}
        self.excluded: dict[bytes, frozenset[str]] = {}
        for node, part in zip(nodes, parts, strict=True):
            if (rows := self._filters.get(node.node)) is not None:
                for key in part.filter(pa.array(~rows.matches(part))).column("_key").to_pylist():
                    self.excluded[key] = self.excluded.get(key, frozenset()) | {node.node}

    def due(self, part: pa.RecordBatch, node: Node) -> pa.Array:
        """The keys of the rows of `part` that `node` has to hold."""
        rows = self._filters.get(node.node)
        return (part if rows is None else part.filter(pa.array(rows.matches(part)))).column("_key")

    def excused(self, node: Node, keys: pa.Array) -> frozenset[bytes]:
        """The keys that a node need not hold."""
        if node.node not in self._filters:
            return frozenset()
        due: set[bytes] = set()
        for part in self.parts:
            there = part.filter(pc.is_in(part.column("_key"), value_set=keys))
            due.update(self.due(there, node).to_pylist())
        return frozenset(keys.to_pylist()) - due


def compare_columns(
    table: Table, rows: pa.RecordBatch, others: pa.RecordBatch, a: tuple[str, str], b: tuple[str, str]
) -> Iterator[tuple[str, Mask]]:
    """Where rows of two nodes differ, column by column.

    Args:
        table: the table.
        rows: the data columns as the one node holds them.
        others: the same rows, in the same order, as the other one does.
        a: the one node's name and its engine's.
        b: the other's.

    Yields:
        a column's name, and in which rows it differs.
    """
    for column in table.schema.columns:
        forms = [(engine, column.digits.get(node, MICROSECONDS)) for node, engine in (a, b)]
        yield (
            column.name,
            differing(rows.column(column.name), others.column(column.name), column.type, *forms),
        )


def differing(
    a: pa.Array, b: pa.Array, type: CanonicalType, form_a: tuple[str, int], form_b: tuple[str, int]
) -> Mask:
    """Where two columns differ, row by row.

    Args:
        a: canonical values as one node holds them.
        b: as many values as another one holds them.
        type: the column's canonical type.
        form_a: the first node's engine, and the digits of the second that it keeps.
        form_b: the other's.
    """
    mask = np.zeros(len(a), dtype=np.bool_)
    if a.equals(b):
        return mask
    suspect = np.flatnonzero(_unequal(a, b))
    if len(suspect) < len(a):
        a, b = a.take(pa.array(suspect)), b.take(pa.array(suspect))
    a = comparable(narrow(a, type, *form_b), type)
    b = comparable(narrow(b, type, *form_a), type)
    mask[suspect] = _unequal(a, b)
    return mask


def _unequal(a: pa.Array, b: pa.Array) -> Mask:
    values = pc.fill_null(pc.not_equal(a, b), False)
    if a.null_count or b.null_count:
        values = pc.or_(values, pc.xor(a.is_null(), b.is_null()))
    mask: Mask = values.to_numpy(zero_copy_only=False)
    return mask


def _absent(keys: pa.Array, others: pa.Array) -> list[bytes]:
    absent: list[bytes] = keys.filter(pc.invert(pc.is_in(keys, value_set=others))).to_pylist()
    return absent


def _describe(
    table: Table, nodes: Sequence[Node], held: _Held, found: Mapping[bytes, set[str]]
) -> list[Difference]:
    keys = sorted(found)
    wanted = pa.array(keys, pa.binary())
    rows = [pc.index_in(wanted, value_set=part.column("_key")).to_pylist() for part in held.parts]
    excused = [held.excused(node, wanted) for node in nodes]
    order = [c.name for c in table.schema.columns]
    differences = []
    for i, key in enumerate(keys):
        columns = tuple(name for name in order if name in found[key])
        values: dict[str, tuple[Any, ...] | None] = {}
        for node, part, at, free in zip(nodes, held.parts, rows, excused, strict=True):
            row = at[i]
            if row is not None:
                values[node.node] = tuple(_value(part.column(c)[row]) for c in columns)
            elif key not in free:
                values[node.node] = None
        excluded = held.excluded.get(key, frozenset())
        kind = DifferenceKind.EXTRA if excluded else _kind(list(values.values()))
        differences.append(Difference(table.name, key, kind, columns, values, excluded=excluded))
    return differences


def _kind(values: Sequence[tuple[Any, ...] | None]) -> DifferenceKind:
    if values[0] is None:
        return DifferenceKind.EXTRA
    return DifferenceKind.MISSING if None in values else DifferenceKind.DIFFERENT


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):  # a date that Python has no object for
        limits = np.iinfo(np.int64 if scalar.type.bit_width == 64 else np.int32)
        return {limits.max: "infinity", limits.min: "-infinity"}.get(scalar.value, f"@{scalar.value}")
