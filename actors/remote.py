"""Actors as the rest of the flow sees them: the small interfaces, whatever carries the calls.

`Handle` is what is needed of a remote object: call a method, get a future. Ray's handles are wrapped to this
shape in `cluster.launch`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from actors.audit import Record
from actors.capture import Ack
from actors.promptness import Heed
from replication.backfill import Chunk, ChunkIdent
from replication.batch import Applied, ApplyBatch
from replication.change import LogEvent


class Handle(Protocol):
    """A remote object. Calls from one caller arrive in the order in which they were made."""

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call `method`; the future fails with the error that the method raised, or with `ActorLost`."""


class RemoteSink:
    """A resolver in another process; see `capture.Sink`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def feed(self, node: str, events: Sequence[LogEvent], epoch: int | None) -> Ack:
        """See `capture.Sink`."""
        ack: Ack = self._handle.call("feed", node, list(events), epoch).result()
        return ack

    def on_their_way(self, table: str) -> list[bytes]:
        """See `capture.Sink`."""
        keys: list[bytes] = self._handle.call("on_their_way", table).result()
        return keys


class RemoteTarget:
    """An applier in another process; see `resolver.Target`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def submit(self, batch: ApplyBatch) -> Future[Applied]:
        """See `resolver.Target`."""
        return self._handle.call("apply", batch)


class RemoteLog:
    """The audit log in another process."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def write(self, records: Sequence[Record]) -> None:
        """See `audit.AuditLog.write`."""
        self._handle.call("write", list(records)).result()


class RemoteCapture:
    """A capture in another process; see `backfill.Capture`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def begin(self, run: str, table: str) -> None:
        """See `backfill.Capture`."""
        self._handle.call("begin", run, table).result()

    def offer(self, ident: ChunkIdent, chunk: Chunk) -> None:
        """See `backfill.Capture`."""
        self._handle.call("offer", ident, chunk).result()

    def emitted(self, ident: ChunkIdent) -> int | None:
        """See `backfill.Capture`."""
        order: int | None = self._handle.call("emitted", ident).result()
        return order

    def end(self, table: str) -> None:
        """See `backfill.Capture`."""
        self._handle.call("end", table).result()

    def released(self) -> int:
        """See `CaptureHost.released`."""
        order: int = self._handle.call("released").result()
        return order

    def heed(self, table: str) -> Heed:
        """See `Capture.heed`."""
        heed: Heed = self._handle.call("heed", table).result()
        return heed

    def resize(self, table: str, workers: int) -> bool:
        """See `Capture.resize`."""
        resized: bool = self._handle.call("resize", table, workers).result()
        return resized
