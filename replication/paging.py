"""Reading a whole table in chunks whose memory is bounded, however wide its rows are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import pyarrow as pa

from replication.engine import Snapshot
from replication.schema import Table

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
        if chunk.num_rows:
            fitting = int(self._max_bytes * chunk.num_rows / max(chunk.nbytes, 1))
            self.rows = max(1, min(fitting, self.rows * 8, self._max_rows))


@runtime_checkable
class Streaming(Protocol):
    """A `Snapshot` that reads a whole table faster than chunk by chunk."""

    def read_all(self, table: Table, size: ChunkSize) -> Iterator[pa.RecordBatch]:
        """All rows in key order, as `read_chunks` gives them, without its one consistent view of a chunk.

        A row that is not written meanwhile is given exactly once.
        """


def last_key(chunk: pa.RecordBatch) -> bytes:
    """The canonical key of a chunk's last row."""
    key: bytes = chunk.column("_key")[chunk.num_rows - 1].as_py()
    return key


def read_chunks(snapshot: Snapshot, table: Table, size: ChunkSize | None = None) -> Iterator[pa.RecordBatch]:
    """All rows of a table in key order, as `Snapshot.read_chunk` gives them; no empty chunk."""
    size = size or ChunkSize()
    after: bytes | None = None
    while True:
        limit = size.rows
        chunk = snapshot.read_chunk(table, after, limit)
        if chunk.num_rows:
            yield chunk
        if chunk.num_rows < limit:
            return
        after = last_key(chunk)
        size.learn(chunk)


def read_all(snapshot: Snapshot, table: Table, size: ChunkSize) -> Iterator[pa.RecordBatch]:
    """All rows of a table in key order, the fastest way that the engine has."""
    if isinstance(snapshot, Streaming):
        return snapshot.read_all(table, size)
    return read_chunks(snapshot, table, size)
