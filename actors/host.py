"""Hosts: what keeps a capture and a copy going in a thread of their own, in this process or in an actor.

A passing error means connect again; anything else is reported once through `fail` and ends the incarnation.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Protocol

from actors.backfill import Backfill, CopyStatus, Surroundings
from actors.capture import Capture, Sink
from actors.guard import Guard, GuardStatus
from actors.limits import Limits
from actors.promptness import Heed
from actors.reading import MOST_WORKERS, LocalReader, Reader, ReaderPool
from actors.reading import Capture as CopySource
from actors.tracing import Tracing
from actors.truncate import Truncation
from replication.backfill import Chunk, ChunkIdent
from replication.copying import CopyProgress, state_name
from replication.engine import Engine, Source
from replication.errors import NodeUnavailable, Transient
from replication.pacing import Pace
from replication.position import Position
from replication.schema import Table

log = logging.getLogger(__name__)
RECONNECT_SECONDS = 0.5
"""After an error that is not the node's: a part of the group is made again, or begins anew."""
GATHER_SECONDS = 0.003
"""Pause after a poll that brought something: what comes meanwhile shares the next one's cost. Slept through,
since waiting for an event with a timeout costs a thread more than it would read in that time."""
PAUSED_SECONDS = 0.02
"""Between two questions whether a target that is behind has caught up; it has a batch at work meanwhile."""
HALTED_SECONDS = 0.3
"""The same for a node that an operator has paused."""
AWAIT_SECONDS = 0.2
"""Between two questions whether a node's copy has finished."""
ONE_READER = frozenset({"mongodb"})
"""Engines that one reader reads for a copy, however many were asked for; see ADR 13."""
SWITCH_SECONDS = 0.0001
Fail = Callable[[BaseException], None]


def hand_over_quickly() -> None:
    """Let the threads of this process take turns fifty times as often as Python would.

    A part's threads hand small work to each other: with Python's 5 ms, one that has just been given something
    waits longer for the interpreter than the work takes.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


class CaptureHost:
    """Reads one node's log for as long as the incarnation lasts, reconnecting where that helps.

    Args:
        engine: the node's engine.
        tables: the mapped tables.
        sinks: the resolver of each shard.
        limits: see `Limits`.
        fail: told of the error that ends the incarnation.
        others: engines of the other nodes, asked for what a TRUNCATE removes.
        tracing: what follows changes on their way, where that is configured.
    """

    def __init__(
        self,
        engine: Engine,
        tables: Sequence[Table],
        sinks: Sequence[Sink],
        limits: Limits,
        fail: Fail,
        others: Mapping[str, Engine],
        tracing: Tracing | None = None,
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._tracing = tracing
        self._sinks = sinks
        self._limits = limits
        self._fail = fail
        self._carry = Truncation(others, tables, sinks)
        self._guard = Guard(engine.node.name, f"capture {engine.node.name}", limits.retry_max)
        self._stopping = threading.Event()
        self._capture: Capture | None = None
        self._thread = threading.Thread(target=self._run, name=f"capture-{engine.node.name}", daemon=True)
        self._thread.start()

    @property
    def streaming(self) -> bool:
        """Whether the log is connected."""
        return self._capture is not None

    def stop(self) -> None:
        """Stop reading and disconnect."""
        self._stopping.set()
        self._thread.join()

    def begin(self, run: str, table: str) -> None:
        """See `backfill.Capture`."""
        self._current().begin(run, table)

    def offer(self, ident: ChunkIdent, chunk: Chunk) -> None:
        """See `backfill.Capture`."""
        self._current().offer(ident, chunk)

    def emitted(self, ident: ChunkIdent) -> int | None:
        """See `backfill.Capture`; a capture that was connected again knows of no chunk: all are lost."""
        return self._current().emitted(ident)

    def end(self, table: str) -> None:
        """See `backfill.Capture`."""
        if self._capture is not None:
            self._capture.end(table)

    def passed(self, ident: str) -> int | None:
        """See `Capture.passed`."""
        return self._current().passed(ident)

    def released(self) -> int:
        """The order up to which the node's log is durable everywhere."""
        return self._current().released.order

    def heed(self, table: str) -> Heed:
        """See `Capture.heed`."""
        return self._current().heed(table)

    def resize(self, table: str, workers: int) -> bool:
        """See `Capture.resize`."""
        return self._current().resize(table, workers)

    def guard(self) -> GuardStatus:
        """How the way to the node is."""
        return self._guard.status()

    def _current(self) -> Capture:
        if self._capture is None:
            message = "the log is not connected"
            raise NodeUnavailable(message, node=self._engine.node.name)
        return self._capture

    def _run(self) -> None:
        while not self._stopping.wait(self._guard.pause()):
            try:
                self._stream()
            except Transient as error:
                log.warning("capture_reconnects", extra={"node": self._engine.node.name, "error": str(error)})
                if _of_node(error, self._engine):
                    self._guard.failed(error)
                else:
                    self._stopping.wait(RECONNECT_SECONDS)
            except Exception as error:  # noqa: BLE001  whatever ended a capture ends the incarnation
                self._fail(error)
                return

    def _open(self, start: Position) -> Source:
        source = self._engine.source(self._tables, start)
        return self._tracing.source(self._engine.node.name, source) if self._tracing else source

    def _stream(self) -> None:
        node = self._engine.node.name
        capture = Capture(
            node,
            self._open,
            self._sinks,
            self._tables,
            self._carry,
        )
        self._capture = capture
        try:
            while not self._stopping.is_set():
                if capture.step(self._limits.poll_rows, self._limits.wait):
                    time.sleep(GATHER_SECONDS)
                if not capture.paused:
                    self._guard.succeeded()
                else:
                    self._stopping.wait(HALTED_SECONDS if capture.halted else PAUSED_SECONDS)
        finally:
            self._capture = None
            capture.close()


def _of_node(error: Transient, engine: Engine) -> bool:
    """Whether the node itself does not answer."""
    return isinstance(error, NodeUnavailable) and error.node == engine.node.name


def _rank(engine: Engine) -> tuple[int, str]:
    return -engine.node.priority, engine.node.name


class _Stopped(Exception):
    """The host stops."""


class Captured(CopySource, Protocol):
    """The capture of a node that is copied from: what readers need of it, and what the copy does."""

    def released(self) -> int:
        """See `Surroundings.released`."""

    def heed(self, table: str) -> Heed:
        """See `Capture.heed`."""


def most_readers(engine: Engine) -> int:
    """How many may read a node for a copy at once."""
    return 1 if engine.node.engine in ONE_READER else MOST_WORKERS


class CopyHost:
    """Copies the tables that a node is the source of, one after the other.

    Args:
        engine: the node's engine.
        tables: the tables to copy.
        capture: the node's capture.
        fail: told of the error that ends the incarnation.
        limits: see `Limits`.
        hire: makes the readers after the first, by number; by default all are of this process.
        others: the engines of the other nodes.
    """

    def __init__(
        self,
        engine: Engine,
        tables: Sequence[Table],
        capture: Captured,
        fail: Fail,
        limits: Limits,
        hire: Callable[[int], Reader] | None = None,
        others: Mapping[str, Engine] | None = None,
    ) -> None:
        self._engine = engine
        self._ahead = [e for e in (others or {}).values() if _rank(e) < _rank(engine)]
        self._tables = tables
        self._capture = capture
        self._hire = hire
        self._pool = ReaderPool(self._reader, limits.copy_workers, most_readers(engine))
        self._pace = Pace(limits.copy_bounds)
        self._copying: Backfill | None = None
        self._fail = fail
        self._guard = Guard(engine.node.name, f"copy {engine.node.name}", limits.retry_max)
        self._stopping = threading.Event()
        self._status: dict[str, CopyStatus] = {}
        self.finished = not tables
        self._thread = threading.Thread(target=self._run, name=f"copy-{engine.node.name}", daemon=True)
        self._thread.start()

    def status(self) -> list[CopyStatus]:
        """How far each table's copy is."""
        return list(self._status.values())

    def stop(self) -> None:
        """Stop; the next start goes on with what is not durable."""
        self._stopping.set()
        if (copying := self._copying) is not None:
            copying.stop()
        self._thread.join()
        self._pool.close()

    @property
    def workers(self) -> int:
        """How many readers read at once."""
        return self._pool.workers

    def _reader(self, number: int) -> Reader:
        if number and self._hire is not None:
            return self._hire(number)
        return LocalReader(self._engine.snapshot(), self._capture)

    def _run(self) -> None:
        waiting = list(self._tables)
        while waiting and not self._stopping.wait(self._guard.pause()):
            try:
                self._copy(waiting[0])
                waiting.pop(0)
            except Transient as error:
                log.warning("copy_reconnects", extra={"node": self._engine.node.name, "error": str(error)})
                if _of_node(error, self._engine):
                    self._guard.failed(error)
                else:
                    self._stopping.wait(RECONNECT_SECONDS)
            except _Stopped:
                return
            except Exception as error:  # noqa: BLE001  whatever ended a copy ends the incarnation
                self._fail(error)
                return
        self.finished = not waiting
        self._pool.close()

    def _await_better(self, table: Table) -> None:
        """Where all nodes are copied from, wait for those whose rows are to win.

        Their rows must not be replaced before they are read.
        """
        for engine in self._ahead if table.mapping.initial == "merge" else ():
            with closing(engine.control()) as store:
                while not CopyProgress.load(store.get_state(state_name(table.name))).finished:
                    self._wait(AWAIT_SECONDS)

    def _copy(self, table: Table) -> None:
        self._await_better(table)
        around = Surroundings(
            self._capture,
            self._capture.released,
            self._wait,
            time.monotonic,
            self._report,
            partial(self._capture.heed, table.name),
        )
        with closing(self._engine.snapshot()) as snapshot, closing(self._engine.control()) as store:
            copying = Backfill(
                table, uuid.uuid4().hex, snapshot, store, around, readers=self._pool, pace=self._pace
            )
            self._copying = copying
            if self._stopping.is_set():
                raise _Stopped
            if not copying.run().finished:
                raise _Stopped

    def guard(self) -> GuardStatus:
        """How the way to the node is."""
        return self._guard.status()

    def _report(self, status: CopyStatus) -> None:
        self._guard.succeeded()
        self._status[status.table] = status

    def _wait(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _Stopped
