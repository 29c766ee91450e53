"""Do the nodes hold the same rows? A streaming comparison in key order, in bounded memory.

Chunks of all nodes are cut to the key range that every node has read, and that range is compared in whole
columns. Writers may be at work, and what they wrote is on its way: a row that differs is read again after
a quiet time, a bounded number of times, and reported only if it still differs then.

Two values are the same if they are equal once each is narrowed to the other node's engine, see
`replication.narrowing`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replication.errors import Terminal
from replication.filter import row_filter
from replication.narrowing import MICROSECONDS, comparable, narrow
from replication.paging import last_key
from replication.schema import Table
from replication.types import CanonicalType

Mask = npt.NDArray[np.bool_]
RECHECK_ROWS = 10_000
"""So many rows that differ are read again at once."""


class Rows(Protocol):
    """The rows of one node, as `verify` needs them. Read by one thread."""

    @property
    def node(self) -> str:
        """The node's name."""

    @property
    def engine(self) -> str:
        """The name of its engine, which decides the narrowings."""

    def chunks(self, table: Table) -> Iterator[pa.RecordBatch]:
        """All rows in ascending order of `_key`, with the columns of `Snapshot.read_chunk`."""

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """As `Snapshot.read_keys`."""


class DifferenceKind(StrEnum):
    """How a row differs, seen from the first node."""

    MISSING = "missing"
    """The first node holds the row, another one does not."""
    EXTRA = "extra"
    """The first node does not hold the row, another one does; or a node's filter excludes what it holds."""
    DIFFERENT = "different"
    """All nodes hold the row, and values differ."""
    UNREADABLE = "unreadable"
    """A node holds what is no row of the table."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not the same everywhere.

    Attributes:
        table: canonical table name.
        key: canonical key.
        kind: see `DifferenceKind`.
        columns: columns that differ between nodes that hold the row.
        values: per node the values of `columns`, or None where the row is missing. A node that lacks the row
            because its filter excludes it is left out.
        unreadable: by node why what it holds is no row of the table.
        excluded: nodes that hold the row although their filter excludes it.
    """

    table: str
    key: bytes
    kind: DifferenceKind
    columns: tuple[str, ...]
    values: Mapping[str, tuple[Any, ...] | None]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()

    @property
    def holders(self) -> list[str]:
        """The nodes that hold the row rightly and can be read."""
        return [n for n, values in self.values.items() if values is not None and n not in self.excluded]

    @property
    def absent(self) -> list[str]:
        """The nodes that hold no such row."""
        return [n for n, values in self.values.items() if values is None and n not in self.unreadable]


class Verifier:
    """Compares tables between two or more nodes.

    Args:
        nodes: the nodes; the first one is the one that others miss rows of.
        wait: blocks for a quiet time before differing rows are read again; told which try follows, from 0.
        tries: how many times differing rows are read again before they are reported.
        progress: told how many further rows were compared.
    """

    def __init__(
        self,
        nodes: Sequence[Rows],
        wait: Callable[[int], object],
        *,
        tries: int = 3,
        progress: Callable[[int], object] = lambda rows: None,
    ) -> None:
        self._nodes = nodes
        self._wait = wait
        self._tries = tries
        self._progress = progress

    def compare(self, table: Table) -> Iterator[Difference]:
        """Every row that differs, in key order.

        Raises:
            Terminal: a node gave its keys out of order, so nothing can be said.
            Transient: whatever reading a node raises.
        """
        suspects: list[Difference] = []
        streams = [_Stream(n.node, n.chunks(table)) for n in self._nodes]
        for parts in _ranges(streams):
            suspects += compare_rows(table, self._nodes, parts)
            self._progress(max(p.num_rows for p in parts))
            while len(suspects) >= RECHECK_ROWS:
                yield from self._recheck(table, suspects[:RECHECK_ROWS])
                del suspects[:RECHECK_ROWS]
        yield from self._recheck(table, suspects)

    def _recheck(self, table: Table, suspects: list[Difference]) -> list[Difference]:
        for attempt in range(self._tries):
            if not suspects:
                break
            self._wait(attempt)
            keys = [d.key for d in suspects]
            suspects = compare_rows(table, self._nodes, [n.read_keys(table, keys) for n in self._nodes])
        return suspects


def compare_rows(table: Table, nodes: Sequence[Rows], parts: Sequence[pa.RecordBatch]) -> list[Difference]:
    """Compare the rows of one key range.

    Args:
        table: the table.
        nodes: their names and engines are used.
        parts: per node its rows, `_key` and the data columns; each key once.

    Returns:
        the differences, by key.
    """
    held = _Held(table, nodes, parts)
    found: dict[bytes, set[str]] = {key: set() for key in held.excluded}
    for (a, part_a), (b, part_b) in combinations(zip(nodes, parts, strict=True), 2):
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
    return _describe(table, nodes, held, found) if found else []


class _Held:
    """What nodes hold of a key range, and what their filters let them hold.

    Attributes:
        parts: per node its rows.
        excluded: by key the nodes that hold a row which their filter excludes.
    """

    def __init__(self, table: Table, nodes: Sequence[Rows], parts: Sequence[pa.RecordBatch]) -> None:
        self.parts = parts
        engines = [n.engine for n in nodes]
        filters = {n.node: row_filter(table, n.node, engines) for n in nodes if table.mapping.where}
        self._filters = {node: rows for node, rows in filters.items() if rows is not None}
        self.excluded: dict[bytes, frozenset[str]] = {}
        for node, part in zip(nodes, parts, strict=True):
            if (rows := self._filters.get(node.node)) is not None:
                for key in part.filter(pa.array(~rows.matches(part))).column("_key").to_pylist():
                    self.excluded[key] = self.excluded.get(key, frozenset()) | {node.node}

    def due(self, part: pa.RecordBatch, node: Rows) -> pa.Array:
        """The keys of the rows of `part` that `node` has to hold."""
        rows = self._filters.get(node.node)
        return (part if rows is None else part.filter(pa.array(rows.matches(part)))).column("_key")

    def excused(self, node: Rows, keys: pa.Array) -> frozenset[bytes]:
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
    table: Table, nodes: Sequence[Rows], held: _Held, found: Mapping[bytes, set[str]]
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


class _Stream:
    """One node's rows: a chunk at a time, cut at any key."""

    def __init__(self, node: str, chunks: Iterator[pa.RecordBatch]) -> None:
        self._node = node
        self._chunks = chunks
        self._empty: pa.RecordBatch | None = None
        self._previous: bytes | None = None
        self.part: pa.RecordBatch | None = None

    def fill(self) -> bool:
        """Have rows at hand; False at the end."""
        while self.part is None or not self.part.num_rows:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._check_order(chunk)
            self.part = chunk
        return True

    def take(self, bound: bytes) -> pa.RecordBatch | None:
        """The rows up to the key `bound`; None if this node has not had a chunk at all."""
        if self.part is None:
            return None
        keys = self.part.column("_key")
        at = bisect_right(range(len(keys)), bound, key=lambda i: keys[i].as_py())
        taken, self.part = self.part.slice(0, at), self.part.slice(at)
        return taken

    def _check_order(self, chunk: pa.RecordBatch) -> None:
        if not chunk.num_rows:
            return
        keys = chunk.column("_key")
        ascending = pc.all(pc.less(keys[:-1], keys[1:])).as_py() is not False
        if not ascending or (self._previous is not None and keys[0].as_py() <= self._previous):
            message = "the rows came out of key order"
            raise Terminal(message, node=self._node, hint="is the key's collation binary on this node?")
        self._previous = last_key(chunk)


def _ranges(streams: Sequence[_Stream]) -> Iterator[list[pa.RecordBatch]]:
    """Per node the rows of one key range after the other, until all rows have been given."""
    while True:
        bounds = [last_key(s.part) for s in streams if s.fill() and s.part is not None]
        if not bounds:
            return
        parts = [s.take(min(bounds)) for s in streams]
        nothing = next(p for p in parts if p is not None).slice(0, 0)
        yield [nothing if p is None else p for p in parts]
