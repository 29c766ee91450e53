"""The reader of one table's initial copy: a loop around `replication.backfill`.

    capture.begin ─▶ ( low ─▶ read ─▶ offer ─▶ high )* ─▶ every chunk durable ─▶ finished

A few chunks are on their way at a time; beyond that it waits, so a slow group slows the copy down and nothing
piles up. What is durable is stored on the node that is read, so a copy that was killed goes on where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from replication.backfill import LOST, Chunk, ChunkIdent, CopyProgress, state_name
from replication.engine import Snapshot, StateStore
from replication.paging import ChunkSize, last_key, readable
from replication.schema import Table

IN_FLIGHT = 2
"""Chunks that were offered and have not been emitted."""
UNCONFIRMED = 256
"""Chunks that were emitted and are not durable."""
POLL_SECONDS = 0.05


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
class CopyStatus:
    """What an operator sees of one table's copy.

    Attributes:
        table: canonical table name.
        rows: rows that were read and emitted, over all starts of this copy.
        estimate: about how many rows there are; 0 when unknown.
        rows_per_second: since this start.
        finished: everything is durable.
    """

    table: str
    rows: int
    estimate: int
    rows_per_second: float
    finished: bool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything that a copy asks of the process it runs in.

    Attributes:
        capture: the node's capture.
        released: the order up to which the node's log is durable everywhere.
        wait: blocks for so many seconds, or until the copy is stopped.
        clock: seconds, monotonic.
        report: takes every change of the status.
    """

    capture: Capture
    released: Callable[[], int]
    wait: Callable[[float], object]
    clock: Callable[[], float]
    report: Callable[[CopyStatus], object] = lambda status: None


@dataclass(slots=True)
class _Sent:
    """A chunk on its way."""

    ident: ChunkIdent
    rows: int
    last_key: bytes
    order: int | None = None


class Backfill:
    """Copies one table from one node.

    Args:
        table: the table.
        run: text without a slash, unique to this object, e.g. a UUID.
        snapshot: reads the node.
        store: keeps the progress, on the same node.
        around: see `Surroundings`.
        size: how large chunks are.
    """

    def __init__(
        self,
        table: Table,
        run: str,
        snapshot: Snapshot,
        store: StateStore,
        around: Surroundings,
        size: ChunkSize | None = None,
    ) -> None:
        self._table = table
        self._run = run
        self._snapshot = snapshot
        self._store = store
        self._around = around
        self._size = size or ChunkSize()
        self._sent: deque[_Sent] = deque()
        self._after: bytes | None = None
        self._all_read = False
        self._number = 0
        self._stopped = False
        self.progress = CopyProgress()

    def run(self, afresh: bool = False) -> CopyProgress:
        """Copy until all rows are durable, or until `stop`. Call it again after an error: it goes on.

        Args:
            afresh: start over, although the table was copied before.

        Raises:
            SyncError: whatever the node raises.
        """
        stored = None if afresh else self._store.get_state(state_name(self._table.name))
        self.progress = CopyProgress.load(stored)
        if self.progress.finished:
            return self.progress
        estimate = self._snapshot.estimate_rows(self._table)
        started, before = self._around.clock(), self.progress.done_rows
        self._rewind()
        try:
            while not self._stopped and not self.progress.finished:
                if self._may_read():
                    self._send_chunk()
                else:
                    self._around.wait(POLL_SECONDS)
                self._collect()
                self._report(estimate, started, before)
        finally:
            self._around.capture.end(self._table.name)
        return self.progress

    def stop(self) -> None:
        """End soon; what is on its way and not durable is read again by the next start."""
        self._stopped = True

    def _rewind(self) -> None:
        """Go on after the last durable chunk."""
        self._around.capture.begin(self._run, self._table.name)
        self._sent.clear()
        self._after = self.progress.last_key
        self._all_read = False

    def _may_read(self) -> bool:
        flying = sum(chunk.order is None for chunk in self._sent)
        return not self._all_read and flying < IN_FLIGHT and len(self._sent) < UNCONFIRMED

    def _send_chunk(self) -> None:
        self._number += 1
        ident = ChunkIdent(self._run, self._table.name, self._number)
        limit = self._size.rows
        self._snapshot.write_watermark(ident.low)
        aside: list[tuple[bytes, str]] = []
        read = partial(self._snapshot.read_chunk, self._table, self._after, limit)
        rows, found = readable(read, aside.extend)
        self._all_read = found < limit
        if not rows.num_rows and not aside:
            return
        self._around.capture.offer(ident, Chunk(rows, aside))
        self._snapshot.write_watermark(ident.high)
        last = last_key(rows) if rows.num_rows else b""
        last = max([last, *(key for key, _ in aside)]) or self._after or b""
        self._after = last
        self._size.learn(rows)
        self._sent.append(_Sent(ident, rows.num_rows, last))

    def _collect(self) -> None:
        """Learn what was emitted and what is durable."""
        # Asked before the chunks are: a rewind between the two shows as LOST, never as durable.
        released = self._around.released()
        for chunk in self._sent:
            if chunk.order is None or (chunk is self._sent[0] and released >= chunk.order):
                chunk.order = self._around.capture.emitted(chunk.ident)
                if chunk.order == LOST:
                    self._rewind()
                    return
        progress = self.progress
        while self._sent and self._is_durable(self._sent[0], released):
            chunk = self._sent.popleft()
            progress = replace(
                progress,
                done_rows=progress.done_rows + chunk.rows,
                last_key=chunk.last_key,
                high=chunk.order or 0,
            )
        if self._all_read and not self._sent:
            progress = replace(progress, finished=True)
        if progress != self.progress:
            self._store.put_state(state_name(self._table.name), progress.dump())
            self.progress = progress

    def _is_durable(self, chunk: _Sent, released: int) -> bool:
        return chunk.order is not None and released >= chunk.order

    def _report(self, estimate: int, started: float, before: int) -> None:
        rows = self.progress.done_rows + sum(c.rows for c in self._sent if c.order is not None)
        seconds = self._around.clock() - started
        speed = (rows - before) / seconds if seconds > 0 else 0.0
        self._around.report(CopyStatus(self._table.name, rows, estimate, speed, self.progress.finished))
