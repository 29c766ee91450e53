"""Readers: what reads the ranges of an initial copy, one chunk at a time each, with a connection of its own.

    Backfill ─▶ ReaderPool ─▶ reader: low ─▶ read ─▶ offer to the capture ─▶ high

A reader is an object of this process, or a process of its own. The pool is as large as it was last told to
be: it makes readers as they are needed, and lets one go when it has finished its chunk. A reader that met an
error is let go, too, and the copy goes on from what is durable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from replication.backfill import Chunk, ChunkIdent
from replication.copying import Span
from replication.engine import Snapshot
from replication.paging import last_key, readable
from replication.schema import Table

MOST_WORKERS = 64


class Capture(Protocol):
    """The capture actor of the node, as far as the copy needs it; see `ChunkWindow`."""

    def begin(self, run: str, table: str) -> None:
        """See `ChunkWindow.begin`."""

    def offer(self, ident: ChunkIdent, chunk: Chunk) -> None:
        """See `ChunkWindow.offer`; returns once the capture has the rows."""

    def emitted(self, ident: ChunkIdent) -> int | None:
        """See `ChunkWindow.emitted`."""

    def end(self, table: str) -> None:
        """See `ChunkWindow.end`."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a reader is to read.

    Attributes:
        ident: names the chunk.
        table: of this table.
        span: these keys.
        limit: at most so many rows of them.
    """

    ident: ChunkIdent
    table: Table
    span: Span
    limit: int


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader has read.

    Attributes:
        rows: how many rows.
        size: their bytes in memory.
        rest: the last key that it has read, if there may be more behind it; None at the end of the span.
        offered: whether the capture has the chunk; False where there was nothing.
    """

    rows: int
    size: int
    rest: bytes | None
    offered: bool


def steps(assignment: Assignment, snapshot: Snapshot, capture: Capture) -> Iterator[Read | None]:
    """Read a chunk; the last step gives the result. Each is one call, so that a test can go between them."""
    ident, span, limit = assignment.ident, assignment.span, assignment.limit
    snapshot.write_watermark(ident.low)
    yield None
    aside: list[tuple[bytes, str]] = []
    read = partial(snapshot.read_chunk, assignment.table, span.after, limit, until=span.until)
    rows, found = readable(read, aside.extend)
    yield None
    if not rows.num_rows and not aside:
        yield Read(0, 0, None, offered=False)
        return
    capture.offer(ident, Chunk(rows, aside))
    yield None
    snapshot.write_watermark(ident.high)
    last = max([last_key(rows) if rows.num_rows else b"", *(key for key, _ in aside)])
    rest = (last or span.after or b"") if found >= limit else None
    yield Read(rows.num_rows, rows.nbytes, rest, offered=True)


class Reader(Protocol):
    """Reads one chunk at a time."""

    def read(self, assignment: Assignment) -> Read:
        """Read a chunk and offer it to the capture.

        Raises:
            SyncError: whatever the node raises.
        """

    def close(self) -> None:
        """Disconnect."""


class LocalReader:
    """A reader in this process.

    Args:
        snapshot: reads the node; closed with this.
        capture: the node's capture.
    """

    def __init__(self, snapshot: Snapshot, capture: Capture) -> None:
        self._snapshot = snapshot
        self._capture = capture

    def read(self, assignment: Assignment) -> Read:
        """See `Reader`."""
        *_, read = steps(assignment, self._snapshot, self._capture)
        assert read is not None
        return read

    def close(self) -> None:
        """See `Reader`."""
        self._snapshot.close()


class Readers(Protocol):
    """Who reads for a copy."""

    @property
    def workers(self) -> int:
        """How many may read at once."""

    @property
    def free(self) -> int:
        """How many more may read right now."""

    def submit(self, assignment: Assignment) -> Future[Read]:
        """Let one of them read; only while one is free."""

    def wait(self, seconds: float) -> None:
        """Wait until one of them has finished, or so long."""

    def resize(self, workers: int) -> None:
        """Be so many from now on, or as many as may read the node; who reads right now finishes its chunk."""


class Inline:
    """One reader, in the caller's own thread."""

    workers = free = 1

    def __init__(self, snapshot: Snapshot, capture: Capture) -> None:
        self._reader = LocalReader(snapshot, capture)

    def submit(self, assignment: Assignment) -> Future[Read]:
        """See `Readers`; it has read when this returns."""
        done: Future[Read] = Future()
        done.set_result(self._reader.read(assignment))
        return done

    def wait(self, seconds: float) -> None:
        """See `Readers`: nobody reads."""

    def resize(self, workers: int) -> None:
        """See `Readers`: it remains one."""


class ReaderPool:
    """Readers of one node, each at work in a thread that waits for it.

    Args:
        make: makes the reader of a number; those of the lowest numbers are made first.
        workers: how many may read at once.
        most: and never more than so many.
    """

    def __init__(self, make: Callable[[int], Reader], workers: int = 1, most: int = MOST_WORKERS) -> None:
        self._make = make
        self._most = most
        self.workers = min(workers, most)
        self._lock = threading.Lock()
        self._idle: dict[int, Reader] = {}
        self._busy: dict[int, Future[Read]] = {}
        self._threads = ThreadPoolExecutor(MOST_WORKERS, "reader")

    @property
    def free(self) -> int:
        """See `Readers`."""
        with self._lock:
            return max(0, self.workers - len(self._busy))

    def resize(self, workers: int) -> None:
        """See `Readers`."""
        with self._lock:
            self.workers = min(workers, self._most)
            surplus = [self._idle.pop(number) for number in sorted(self._idle) if number >= self.workers]
        for reader in surplus:
            reader.close()

    def submit(self, assignment: Assignment) -> Future[Read]:
        """See `Readers`."""
        with self._lock:
            number = min(set(range(MOST_WORKERS)) - self._busy.keys())
            reading = self._threads.submit(self._read, number, self._idle.pop(number, None), assignment)
            self._busy[number] = reading
        return reading

    def wait(self, seconds: float) -> None:
        """See `Readers`."""
        with self._lock:
            busy = list(self._busy.values())
        wait(busy, seconds, FIRST_COMPLETED)

    def close(self) -> None:
        """Let everybody finish and go."""
        self._threads.shutdown()
        self.resize(0)

    def _read(self, number: int, reader: Reader | None, assignment: Assignment) -> Read:
        kept: Reader | None = None
        try:
            reader = reader or self._make(number)
            read = reader.read(assignment)
            kept = reader
        finally:
            with self._lock:
                del self._busy[number]
                if kept is not None and number < self.workers:
                    self._idle[number] = kept
                    reader = None
            if reader is not None:
                reader.close()
        return read
