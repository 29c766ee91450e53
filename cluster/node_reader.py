"""One node as `verify` reads it: a thread of its own, a chunk ahead of who compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from replication.engine import Engine, Snapshot
from replication.paging import ChunkSize, read_all, read_chunks, readable
from replication.schema import Table
from replication.summing import RangeSum, Summing

# Larger chunks than the initial copy's: nothing waits for one, and a server may search a whole table for it.
CHUNK_ROWS = 100_000
CHUNK_BYTES = 32 << 20


class NodeReader:
    """One node's snapshot, used by a thread of its own that reads the next chunk ahead.

    Args:
        engine: the node's engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.node = engine.node.name
        self.engine = engine.node.engine
        self.unreadable: dict[bytes, str] = {}
        """See `replication.verify.Rows`."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"verify-{self.node}")
        self._snapshot: Future[Snapshot] = self._thread.submit(engine.snapshot)

    def chunks(self, table: Table, after: bytes | None = None) -> Iterator[pa.RecordBatch]:
        """Rows in key order; the first chunk is being read when this returns."""
        size = ChunkSize(max_rows=CHUNK_ROWS, max_bytes=CHUNK_BYTES)
        chunks = read_all(self._snapshot.result(), table, size, self.unreadable.update, after)
        return self._read_ahead(chunks, self._thread.submit(next, chunks, None))

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """The rows with these keys."""
        read = partial(self._snapshot.result().read_keys, table, keys)
        rows, _ = self._thread.submit(readable, read, self.unreadable.update).result()
        return rows

    def sums(self, table: Table) -> bool:
        """See `SummingRows`."""
        snapshot = self._snapshot.result()
        return isinstance(snapshot, Summing) and self._thread.submit(snapshot.sums, table).result()

    def boundary(self, table: Table, after: bytes | None, rows: int) -> bytes | None:
        """See `SummingRows`."""
        return self._thread.submit(self._summing().boundary, table, after, rows).result()

    def sum_range(self, table: Table, after: bytes | None, upto: bytes | None) -> Future[RangeSum]:
        """See `SummingRows`."""
        return self._thread.submit(self._summing().sum_range, table, after, upto)

    def range_chunks(self, table: Table, after: bytes | None, upto: bytes | None) -> Iterator[pa.RecordBatch]:
        """See `SummingRows`."""
        size = ChunkSize(max_bytes=CHUNK_BYTES)
        chunks = read_chunks(self._snapshot.result(), table, size, self.unreadable.update, after, upto)
        return self._read_ahead(chunks, self._thread.submit(next, chunks, None))

    def _summing(self) -> Summing:
        snapshot = self._snapshot.result()
        assert isinstance(snapshot, Summing)
        return snapshot

    def write_watermark(self, ident: str) -> None:
        """See `Snapshot.write_watermark`."""
        self._thread.submit(self._snapshot.result().write_watermark, ident).result()

    def estimate(self, table: Table) -> int:
        """About how many rows the table holds; 0 when unknown."""
        return self._thread.submit(self._snapshot.result().estimate_rows, table).result()

    def close(self) -> None:
        """Disconnect."""
        with self._thread as thread:
            if self._snapshot.exception() is None:
                thread.submit(self._snapshot.result().close)

    def _read_ahead(
        self, chunks: Iterator[pa.RecordBatch], ahead: Future[pa.RecordBatch | None]
    ) -> Iterator[pa.RecordBatch]:
        while (chunk := ahead.result()) is not None:
            ahead = self._thread.submit(next, chunks, None)
            yield chunk
