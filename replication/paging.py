"""Reading a whole table in chunks whose memory is bounded, however wide its rows are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import pyarrow as pa

from replication.engine import Snapshot
from replication.errors import RowsUnreadable
from replication.schema import Table

Aside = Callable[[Sequence[tuple[bytes, str]]], object]
"""Takes the key and the reason of rows that cannot be read, so that the others go on."""
MAX_ROWS = 20_000
MAX_BYTES = 8 << 20


class ChunkSize:
    """How many rows to ask for: at most `MAX_ROWS`, and about `MAX_BYTES` judged by the last chunk.

    Grows at most eightfold from one chunk to the next, so a run of narrow rows before wide ones costs a
    bounded amount of memory.
    """

    def __init__(self, first: int = 1_000, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self.rows = min(first, max_rows)
        self._max_rows = max_rows
        self._max_bytes = max_bytes

    def learn(self, chunk: pa.RecordBatch) -> None:
        """Adapt `rows` to the size of a chunk that was read."""
        self.learn_size(chunk.num_rows, chunk.nbytes)

    def learn_size(self, rows: int, size: int) -> None:
        """Adapt `rows` to a chunk of so many rows and bytes."""
        if rows:
            fitting = int(self._max_bytes * rows / max(size, 1))
            self.rows = max(1, min(fitting, self.rows * 8, self._max_rows))


@runtime_checkable
class Streaming(Protocol):
    """A `Snapshot` that reads a whole table faster than chunk by chunk."""

    def read_all(self, table: Table, size: ChunkSize, aside: Aside | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in key order, as `read_chunks` gives them, without its one consistent view of a chunk.

        A row that is not written meanwhile is given exactly once.
        """


def last_key(chunk: pa.RecordBatch) -> bytes:
    """The canonical key of a chunk's last row."""
    key: bytes = chunk.column("_key")[chunk.num_rows - 1].as_py()
    return key


def readable(read: Callable[[], pa.RecordBatch], aside: Aside | None) -> tuple[pa.RecordBatch, int]:
    """The rows of one read that can be read, and how many it found; the others go to `aside`.

    Raises:
        RowsUnreadable: there are such, and `aside` is None.
    """
    try:
        rows = read()
    except RowsUnreadable as error:
        if aside is None:
            raise
        aside(error.unreadable)
        return error.rows, error.found
    return rows, rows.num_rows


def read_chunks(
    snapshot: Snapshot,
    table: Table,
    size: ChunkSize | None = None,
    aside: Aside | None = None,
    after: bytes | None = None,
    upto: bytes | None = None,
) -> Iterator[pa.RecordBatch]:
    """Rows of a table in key order, as `Snapshot.read_chunk` gives them; no empty chunk.

    Args:
        snapshot: reads the node.
        table: the table.
        size: how large chunks are.
        aside: takes rows that cannot be read; without it they end the reading.
        after: only rows with greater keys.
        upto: only rows with keys up to this one.
    """
    size = size or ChunkSize()
    passed: list[bytes] = []

    def keep(unreadable: Sequence[tuple[bytes, str]]) -> None:
        passed.extend(key for key, _ in unreadable if key)
        if aside is not None:
            aside([(key, why) for key, why in unreadable if upto is None or key <= upto])

    while True:
        limit = size.rows
        read = partial(snapshot.read_chunk, table, after, limit)
        chunk, found = readable(read, keep if aside else None)
        if chunk.num_rows:
            passed.append(last_key(chunk))
            within = chunk if upto is None or passed[-1] <= upto else _up_to(chunk, upto)
            if within.num_rows:
                yield within
        after = max(passed, default=after)
        if found < limit or (upto is not None and after is not None and after >= upto):
            return
        passed.clear()
        size.learn(chunk)


def _up_to(chunk: pa.RecordBatch, key: bytes) -> pa.RecordBatch:
    keys = chunk.column("_key")
    return chunk.slice(0, bisect_right(range(len(keys)), key, key=lambda i: keys[i].as_py()))


def read_all(
    snapshot: Snapshot,
    table: Table,
    size: ChunkSize,
    aside: Aside | None = None,
    after: bytes | None = None,
) -> Iterator[pa.RecordBatch]:
    """Rows of a table in key order, the fastest way that the engine has; see `read_chunks`."""
    if after is None and isinstance(snapshot, Streaming):
        return snapshot.read_all(table, size, aside)
    return read_chunks(snapshot, table, size, aside, after)
