"""The copy of one table: what is left of it is handed to readers, range by range.

    capture.begin ─▶ ( range ─▶ a reader: low ─▶ read ─▶ offer ─▶ high )* ─▶ every chunk durable ─▶ finished

With several readers the next range is cut off by asking the node for its last key; a range in which more rows
are found than were asked for, since applications write meanwhile, is cut again. A few chunks are on their way
at a time; beyond that it waits, so a slow group slows the copy down and nothing piles up. Which ranges are
durable is stored on the node that is read, so a copy that was killed goes on where it was.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from actors.measured import Recent
from actors.promptness import Heed
from actors.reading import Assignment, Capture, Inline, Read, Readers
from replication.backfill import LOST, ChunkIdent
from replication.copying import CopyProgress, Span, state_name
from replication.engine import Snapshot, StateStore
from replication.pacing import USUAL_BOUNDS, Pace
from replication.paging import ChunkSize, last_key, readable
from replication.schema import Table

AHEAD = 2
"""So many chunks more than there are readers are being read, or were offered and not emitted."""
UNCONFIRMED = 256
"""Chunks that were emitted and are not durable."""
POLL_SECONDS = 0.05
LOOK_SECONDS = 1.0
"""Between two looks at how the nodes bear it."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """What an operator sees of one table's copy.

    Attributes:
        table: canonical table name.
        rows: rows that were read and emitted, over all starts of this copy.
        estimate: about how many rows there are; 0 when unknown.
        rows_per_second: of the last minute.
        finished: everything is durable.
        workers: so many readers read for it.
        held_to: rows per second that it is held to, so that changes are not late; None if it is not held.
        because: why it is held.
        slowed: how often it was slowed down.
    """

    table: str
    rows: int
    estimate: int
    rows_per_second: float
    finished: bool
    workers: int = 1
    held_to: float | None = None
    because: str = ""
    slowed: int = 0

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at this pace; None where that is not known."""
        left, pace = self.estimate - self.rows, self.rows_per_second
        pace = min(pace, self.held_to or pace)
        return left / pace if not self.finished and left >= 0 and self.estimate and pace else None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything that a copy asks of the process it runs in.

    Attributes:
        capture: the node's capture.
        released: the order up to which the node's log is durable everywhere.
        wait: blocks for so many seconds, or until the copy is stopped.
        clock: seconds, monotonic.
        report: takes every change of the status.
        heed: what to heed; asked once a second.
    """

    capture: Capture
    released: Callable[[], int]
    wait: Callable[[float], object]
    clock: Callable[[], float]
    report: Callable[[CopyStatus], object] = lambda status: None
    heed: Callable[[], Heed] = Heed


@dataclass(slots=True)
class _Sent:
    """A chunk on its way."""

    ident: ChunkIdent
    rows: int
    span: Span
    order: int | None = None


class Backfill:
    """Copies one table from one node.

    Args:
        table: the table.
        run: text without a slash, unique to this object, e.g. a UUID.
        snapshot: finds out where ranges end; without `readers` it reads them, too.
        store: keeps the progress, on the same node.
        around: see `Surroundings`.
        size: how large chunks are.
        readers: read the ranges.
        pace: how fast it may read.
    """

    def __init__(
        self,
        table: Table,
        run: str,
        snapshot: Snapshot,
        store: StateStore,
        around: Surroundings,
        size: ChunkSize | None = None,
        readers: Readers | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._table = table
        self._run = run
        self._snapshot = snapshot
        self._store = store
        self._around = around
        self._size = size or ChunkSize()
        self._readers = readers or Inline(snapshot, around.capture)
        self._pace = pace or Pace(USUAL_BOUNDS)
        self._lately = Recent()
        self._seen_rows = 0
        self._next_look = float("-inf")
        self._reading: dict[Future[Read], Assignment] = {}
        self._sent: list[_Sent] = []
        self._todo: deque[Span] = deque()
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
        self._seen_rows = self.progress.done_rows
        self._lately.add(0, self._around.clock())
        self._rewind()
        try:
            while not self._stopped and not self.progress.finished:
                self._heed()
                if not self._assign():
                    (self._readers.wait if self._reading else self._around.wait)(POLL_SECONDS)
                self._take_read()
                self._collect()
                self._report(estimate)
        finally:
            self._around.capture.end(self._table.name)
        return self.progress

    def stop(self) -> None:
        """End soon; what is on its way and not durable is read again by the next start."""
        self._stopped = True

    def _rewind(self) -> None:
        """Go on with what is not durable. What readers have at work comes to nothing."""
        self._around.capture.begin(self._run, self._table.name)
        self._sent.clear()
        self._reading.clear()
        self._todo = deque(self.progress.left())

    def _heed(self) -> None:
        """Be slower or faster, and as many as somebody has asked for."""
        now = self._around.clock()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        heed = self._around.heed()
        if heed.workers not in (None, self._readers.workers):
            self._readers.resize(heed.workers or 1)
        held = self._pace.rate is not None
        self._pace.look(heed.load, self._lately.rate(now), now)
        if held is not (self._pace.rate is not None):
            detail = {"table": self._table.name, "because": self._pace.because}
            log.warning("copy_at_full_speed" if held else "copy_slowed_down", extra=detail)

    def _assign(self) -> bool:
        """Give readers work; whether there was any."""
        given = False
        while self._may_read():
            given = True
            self._number += 1
            ident = ChunkIdent(self._run, self._table.name, self._number)
            rows = self._pace.rows(self._size.rows)
            assignment = Assignment(ident, self._table, self._next_span(rows), rows)
            self._pace.take(rows, self._around.clock())
            self._reading[self._readers.submit(assignment)] = assignment
        return given

    def _may_read(self) -> bool:
        flying = len(self._reading) + sum(chunk.order is None for chunk in self._sent)
        room = flying < self._readers.workers + AHEAD and len(self._sent) < UNCONFIRMED
        ready = self._pace.ready(self._around.clock())
        return bool(self._todo) and room and ready and self._readers.free > 0

    def _next_span(self, rows: int) -> Span:
        """What the next reader is to read: with others beside it, no more than one chunk of so many rows."""
        span = self._todo.popleft()
        if self._readers.workers > 1:
            end = self._end_of_chunk(span, rows)
            if end is not None and span.goes_on(end):
                self._todo.appendleft(Span(end, span.until))
                return Span(span.after, end)
        return span

    def _end_of_chunk(self, span: Span, rows: int) -> bytes | None:
        """The key of the chunk's last row; None where there is less to read, or the row is none."""
        skip = rows - 1
        read = partial(self._snapshot.read_chunk, self._table, span.after, 1, until=span.until, skip=skip)
        row, _ = readable(read, lambda unreadable: None)
        return last_key(row) if row.num_rows else None

    def _take_read(self) -> None:
        """Learn what readers have read.

        Raises:
            SyncError: what a reader met.
        """
        for reading in [r for r in self._reading if r.done()]:
            assignment = self._reading.pop(reading)
            read = reading.result()
            span = assignment.span
            if read.rest is not None and span.goes_on(read.rest):
                self._todo.appendleft(Span(read.rest, span.until))
                span = Span(span.after, read.rest)
            self._size.learn_size(read.rows, read.size)
            if read.offered:
                self._sent.append(_Sent(assignment.ident, read.rows, span))
            else:
                self._keep(self.progress.with_done(span, 0, 0))

    def _collect(self) -> None:
        """Learn what was emitted and what is durable."""
        # Asked before the chunks are: a rewind between the two shows as LOST, never as durable.
        released = self._around.released()
        for chunk in self._sent:
            if chunk.order is None or released >= chunk.order:
                chunk.order = self._around.capture.emitted(chunk.ident)
                if chunk.order == LOST:
                    self._rewind()
                    return
        progress = self.progress
        for chunk in [c for c in self._sent if self._is_durable(c, released)]:
            self._sent.remove(chunk)
            progress = progress.with_done(chunk.span, chunk.rows, chunk.order or 0)
        self._keep(progress)

    def _keep(self, progress: CopyProgress) -> None:
        if progress != self.progress:
            self._store.put_state(state_name(self._table.name), progress.dump())
            self.progress = progress

    def _is_durable(self, chunk: _Sent, released: int) -> bool:
        return chunk.order is not None and released >= chunk.order

    def _report(self, estimate: int) -> None:
        rows = self.progress.done_rows + sum(c.rows for c in self._sent if c.order is not None)
        now, pace = self._around.clock(), self._pace
        self._lately.add(max(0, rows - self._seen_rows), now)
        self._seen_rows = rows
        status = CopyStatus(
            self._table.name,
            rows,
            estimate,
            self._lately.rate(now),
            self.progress.finished,
            self._readers.workers,
            pace.rate,
            pace.because,
            pace.slowed,
        )
        self._around.report(status)
