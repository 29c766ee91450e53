"""Do the nodes hold the same rows? A streaming comparison in key order, in bounded memory.

Chunks of all nodes are cut to the key range that every node has read, and that range is compared in whole
columns, see `replication.comparing`. Where all nodes' databases compute checksums, see `replication.summing`,
only ranges are read whose checksums differ. Writers may be at work, and what they wrote is on its way: of a
row that differs only the key is kept, and it is read again. What `Settling` says of it then decides whether
it counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from replication.comparing import Node, compare_rows, differing_keys
from replication.difference import Difference, DifferenceKind
from replication.errors import Terminal
from replication.paging import last_key
from replication.schema import Table
from replication.summing import CHUNK_ROWS, RangeSum, may_sum

RECHECK_ROWS = 10_000
"""At most so many rows that differ are read again at once."""
RECHECK_BYTES = 32 << 20
"""About so much of each node is held then, judged by the rows read so far."""


class Rows(Node, Protocol):
    """The rows of one node, as `verify` needs them. Read by one thread."""

    @property
    def unreadable(self) -> MutableMapping[bytes, str]:
        """The key and the reason of what was read and is no row of the table; whoever has seen one takes it
        out. An empty key if that is what cannot be read.
        """

    def chunks(self, table: Table, after: bytes | None = None) -> Iterator[pa.RecordBatch]:
        """All rows, or those with keys greater than `after`, in ascending order of `_key`; with the columns
        of `Snapshot.read_chunk`.
        """

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """As `Snapshot.read_keys`, without what is no row of the table."""


@runtime_checkable
class SummingRows(Rows, Protocol):
    """The rows of one node whose database may compute checksums; see `Summing`."""

    def sums(self, table: Table) -> bool:
        """See `Summing.sums`; False where there is no such thing."""

    def boundary(self, table: Table, after: bytes | None, rows: int) -> bytes | None:
        """See `Summing.boundary`."""

    def sum_range(self, table: Table, after: bytes | None, upto: bytes | None) -> Future[RangeSum]:
        """See `Summing.sum_range`; all nodes compute at the same time."""

    def range_chunks(self, table: Table, after: bytes | None, upto: bytes | None) -> Iterator[pa.RecordBatch]:
        """As `chunks`, of the rows with keys greater than `after` and up to `upto`."""


@dataclass(slots=True)
class Chunks:
    """How the key ranges of a table were compared.

    Attributes:
        summed: by checksums alone.
        read: row by row, since checksums differed.
        rows: how many rows were read then, or where there are no checksums, of the node that holds most.
    """

    summed: int = 0
    read: int = 0
    rows: int = 0

    def plus(self, other: Chunks) -> Chunks:
        """Both together."""
        return Chunks(self.summed + other.summed, self.read + other.read, self.rows + other.rows)


class Settling(Protocol):
    """Tells rows that differ from rows whose changes are on their way."""

    @property
    def tries(self) -> int:
        """How many times a row in doubt is read again."""

    def settle(self, table: Table, keys: Sequence[bytes], attempt: int) -> None:
        """Called before these rows are read on every node; `attempt` counts from 0."""

    def doubtful(self) -> Collection[bytes]:
        """Called after that: the keys whose rows may have been on their way while they were read."""


class QuietTime:
    """What can be done without a running group: wait, and take for different what still is, in the end.

    Args:
        wait: blocks for a quiet time; told which try follows.
        tries: how many times rows are read again.
    """

    def __init__(self, wait: Callable[[int], object], tries: int = 3) -> None:
        self.tries = max(tries, 1)
        self._wait = wait
        self._doubtful: Collection[bytes] = ()

    def settle(self, table: Table, keys: Sequence[bytes], attempt: int) -> None:
        """See `Settling`."""
        self._doubtful = () if attempt + 1 == self.tries else frozenset(keys)
        self._wait(attempt)

    def doubtful(self) -> Collection[bytes]:
        """See `Settling`."""
        return self._doubtful


class Verifier:
    """Compares tables between two or more nodes.

    Args:
        nodes: the nodes; the first one is the one that others miss rows of.
        settling: see `Settling`.
        progress: told how many further rows were compared.
        sums: compare by checksums first, where all nodes have them.
        chunk_rows: so many rows of the first node are one checksum.
        due: whether `reached` is to be told next how far it is.
        reached: told a key up to which all is settled, once its differences have been taken.

    Attributes:
        chunks: of the table that was compared last.
        rows: by node how many of its rows were compared.
    """

    def __init__(
        self,
        nodes: Sequence[Rows],
        settling: Settling,
        progress: Callable[[int], object] = lambda rows: None,
        *,
        sums: bool = True,
        chunk_rows: int = CHUNK_ROWS,
        due: Callable[[], bool] = lambda: False,
        reached: Callable[[bytes], object] = lambda key: None,
    ) -> None:
        self._nodes = nodes
        self._sums = sums
        self._chunk_rows = chunk_rows
        self._due = due
        self._reached = reached
        self.chunks = Chunks()
        self.rows: Counter[str] = Counter()
        self._settling = settling
        self._progress = progress

    def compare(self, table: Table, after: bytes | None = None) -> Iterator[Difference]:
        """Every row that differs, in key order.

        Args:
            table: the table.
            after: only rows with greater keys.

        Raises:
            Terminal: a node gave its keys out of order, so nothing can be said.
            Transient: whatever reading a node raises.
        """
        suspects: list[bytes] = []
        most = RECHECK_ROWS
        self.chunks = Chunks()
        self.rows = Counter({n.node: 0 for n in self._nodes})
        for bound, parts in self._parts(table, after):
            if parts:
                found = differing_keys(table, self._nodes, parts)
                suspects += sorted(found | self._take_unreadable(bound))
                most = min(most, _most_at_once(parts))
                for node, part in zip(self._nodes, parts, strict=True):
                    self.rows[node.node] += part.num_rows
                count = max(p.num_rows for p in parts)
                self.chunks.rows += count
                self._progress(count)
            due = self._due()
            while len(suspects) >= most or (due and suspects):
                yield from self._recheck(table, suspects[:most])
                del suspects[:most]
            if due:
                self._reached(bound)
        suspects += sorted(self._take_unreadable())
        for at in range(0, len(suspects), most):
            yield from self._recheck(table, suspects[at : at + most])
        yield from self._without_key(table)

    def look_again(self, table: Table, keys: Sequence[bytes]) -> Iterator[Difference]:
        """What differs of some rows by now."""
        for at in range(0, len(keys), RECHECK_ROWS):
            yield from self._recheck(table, keys[at : at + RECHECK_ROWS])

    def _parts(self, table: Table, after: bytes | None) -> Iterator[tuple[bytes, list[pa.RecordBatch]]]:
        """The rows to compare, see `_ranges`: all, or those of key ranges whose checksums differ; of a range
        whose checksums are the same no rows.
        """
        nodes = [n for n in self._nodes if isinstance(n, SummingRows)]
        able = self._sums and may_sum(table, [(n.node, n.engine) for n in self._nodes])
        if not able or len(nodes) < len(self._nodes) or not all(n.sums(table) for n in nodes):
            yield from _ranges([_Stream(n.node, n.chunks(table, after)) for n in self._nodes])
            return
        while True:
            upto = nodes[0].boundary(table, after, self._chunk_rows)
            sums = [s.result() for s in [n.sum_range(table, after, upto) for n in nodes]]
            if sums[0].digest is not None and all(s == sums[0] for s in sums):
                self.chunks.summed += 1
                self.rows.update({n.node: sums[0].rows for n in nodes})
                self._progress(sums[0].rows)
                if upto is not None:
                    yield upto, []
            else:
                self.chunks.read += 1
                yield from _ranges([_Stream(n.node, n.range_chunks(table, after, upto)) for n in nodes])
            if upto is None:
                return
            after = upto

    def _recheck(self, table: Table, keys: Sequence[bytes]) -> list[Difference]:
        """What differs of some rows, in key order."""
        certain: list[Difference] = []
        found: list[Difference] = []
        for attempt in range(self._settling.tries if keys else 0):
            self._settling.settle(table, keys, attempt)
            found = self._read_again(table, keys)
            doubtful = frozenset(self._settling.doubtful() if found else ())
            certain += [d for d in found if d.key not in doubtful]
            found = [d for d in found if d.key in doubtful]
            if not found:
                break
            keys = [d.key for d in found]
        certain += [replace(d, kind=DifferenceKind.CHANGING) for d in found]
        return sorted(certain, key=lambda d: d.key)

    def _read_again(self, table: Table, keys: Sequence[bytes]) -> list[Difference]:
        parts = [n.read_keys(table, keys) for n in self._nodes]
        found = {d.key: d for d in compare_rows(table, self._nodes, parts)}
        unreadable: dict[bytes, dict[str, str]] = {}
        for node in self._nodes:
            for key in keys:
                if key in node.unreadable:
                    unreadable.setdefault(key, {})[node.node] = node.unreadable.pop(key)
        nothing = dict.fromkeys((n.node for n in self._nodes), None)
        for key, why in unreadable.items():
            known = found.get(key) or Difference(table.name, key, DifferenceKind.UNREADABLE, (), nothing)
            found[key] = replace(known, kind=DifferenceKind.UNREADABLE, unreadable=why)
        return list(found.values())

    def _take_unreadable(self, bound: bytes | None = None) -> set[bytes]:
        """The keys up to `bound`, or all, of what was read and is no row."""
        taken: set[bytes] = set()
        for node in self._nodes:
            mine = [key for key in node.unreadable if key and (bound is None or key <= bound)]
            for key in mine:
                del node.unreadable[key]
            taken.update(mine)
        return taken

    def _without_key(self, table: Table) -> Iterator[Difference]:
        why = {n.node: n.unreadable.pop(b"") for n in self._nodes if b"" in n.unreadable}
        if why:
            yield Difference(table.name, b"", DifferenceKind.UNREADABLE, (), {}, why)


def _most_at_once(parts: Sequence[pa.RecordBatch]) -> int:
    """So many rows like these may be read again at once."""
    widest = max((p.nbytes / p.num_rows for p in parts if p.num_rows), default=1.0)
    return max(1, min(RECHECK_ROWS, int(RECHECK_BYTES / max(widest, 1.0))))


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


def _ranges(streams: Sequence[_Stream]) -> Iterator[tuple[bytes, list[pa.RecordBatch]]]:
    """The last key and per node the rows of one key range after the other, until all rows have been given."""
    while True:
        bounds = [last_key(s.part) for s in streams if s.fill() and s.part is not None]
        if not bounds:
            return
        parts = [s.take(min(bounds)) for s in streams]
        nothing = next(p for p in parts if p is not None).slice(0, 0)
        yield min(bounds), [nothing if p is None else p for p in parts]
