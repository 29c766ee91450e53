"""A group in one process: every part of the flow in a thread, wired in data-flow order.

What runs on Ray runs here too; tests and small tools use this form.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from actors.applier import Applying
from actors.audit import AuditLog, AuditQueue
from actors.backfill import Backfill, CopyStatus, Surroundings
from actors.capture import Capture
from actors.resolver import Resolver
from replication.audit.writer import AuditWriter
from replication.backfill import copies
from replication.conflict.policy import load_policies
from replication.conflict.shard import Shard, ShardConfig
from replication.engine import Control, Engine
from replication.errors import NodeUnavailable, Transient
from replication.marker import Marker
from replication.schema import Table


class _Stopped(Exception):
    """The pipeline stops."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds: changes per poll, rows on their way to one node; seconds on an idle log, between heartbeats."""

    poll_rows: int = 20_000
    max_backlog: int = 100_000
    wait: float = 0.2
    heartbeat: float = 10.0


class Pipeline:
    """One incarnation of a group.

    Args:
        group: the group's name.
        engines: node name to engine.
        tables: the mapped tables with their schemas; they exist on every node.
        writer: the open audit log; closed with the pipeline.
        shards: how many shards.
        limits: see `Limits`.
    """

    def __init__(
        self,
        group: str,
        engines: Mapping[str, Engine],
        tables: Sequence[Table],
        writer: AuditWriter,
        shards: int = 1,
        limits: Limits | None = None,
    ) -> None:
        self.group, self.engines, self.tables, self.shards = group, engines, tables, shards
        self.limits = limits or Limits()
        self.names = sorted(engines)
        self.schemas = {t.name: t.schema for t in tables}
        self.audit_log = AuditLog(writer)
        self.audit = AuditQueue(self.audit_log.write, self.schemas, self.names)
        self.error: BaseException | None = None
        self.stopping = threading.Event()
        markers = prepare(group, engines, tables, shards)
        self.appliers: list[Applying] = []
        self.resolvers = [self._resolver(s, {n: m[s] for n, m in markers.items()}) for s in range(shards)]
        self.captures: dict[str, Capture] = {}
        self.copying: dict[tuple[str, str], CopyStatus] = {}
        copying = copies([t.mapping for t in tables], self.names)
        self.unfinished = set(copying)
        self.threads = [
            threading.Thread(target=self._capture, args=(n,), name=f"capture-{n}") for n in self.names
        ]
        self.threads += [
            threading.Thread(target=self._copy, args=(table, node), name=f"copy-{table}-{node}")
            for table, node in copying
        ]
        self.threads.append(threading.Thread(target=self._heartbeats, name="heartbeat"))
        for thread in self.threads:
            thread.start()

    def fail(self, error: BaseException) -> None:
        """End this incarnation; a new one resumes from the markers."""
        if self.error is None:
            self.error = error
        self.stopping.set()

    def stop(self) -> None:
        """Stop reading, finish what is on its way to the databases, close everything."""
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        for applier in self.appliers:
            applier.close()
        self.audit.close()
        self.audit_log.close(drained=False)

    def _resolver(self, shard: int, markers: Mapping[str, Marker]) -> Resolver:
        config = ShardConfig(
            self.group,
            shard,
            self.shards,
            {n: e.node.priority for n, e in self.engines.items()},
            {t.name: load_policies(t.mapping.conflict) for t in self.tables},
        )
        state = Shard(config, max(m.epoch for m in markers.values()), markers)
        targets = {n: self._applying(n) for n in self.names}
        return Resolver(state, self.schemas, targets, self.audit, self.limits.max_backlog, self.fail)

    def _applying(self, node: str) -> Applying:
        engine = self.engines[node]
        sources = [e.node.engine for n, e in self.engines.items() if n != node]
        applying = Applying(lambda: engine.applier(self.tables, sources))
        self.appliers.append(applying)
        return applying

    def _capture(self, node: str) -> None:
        engine = self.engines[node]
        while not self.stopping.is_set():
            capture: Capture | None = None
            try:
                capture = Capture(node, lambda at: engine.source(self.tables, at), self.resolvers)
                self.captures[node] = capture
                while not self.stopping.is_set():
                    capture.step(self.limits.poll_rows, self.limits.wait)
                    if capture.paused:
                        self.stopping.wait(0.005)
            except Transient:
                self.stopping.wait(0.2)
            except Exception as error:  # noqa: BLE001  whatever ended a capture ends the incarnation
                self.fail(error)
            finally:
                self.captures.pop(node, None)
                if capture is not None:
                    capture.close()

    def _heartbeats(self) -> None:
        """Release what is finished although nothing more comes; often while a copy waits for it."""
        while not self.stopping.wait(0.2 if self.unfinished else self.limits.heartbeat):
            for resolver in self.resolvers:
                resolver.heartbeat()

    def _copy(self, table: str, node: str) -> None:
        """Copy one table from one node, again after every passing error."""
        engine = self.engines[node]
        mapped = next(t for t in self.tables if t.name == table)
        while not self.stopping.is_set():
            capture = self.captures.get(node)
            if capture is None:
                self.stopping.wait(0.05)
                continue
            around = self._surroundings(capture, table, node)
            try:
                with closing(engine.snapshot()) as snapshot, closing(engine.control()) as store:
                    Backfill(mapped, uuid.uuid4().hex, snapshot, store, around).run()
                self.unfinished.discard((table, node))
                return
            except Transient:
                self.stopping.wait(0.2)
            except _Stopped:
                return
            except Exception as error:  # noqa: BLE001  whatever ended a copy ends the incarnation
                self.fail(error)

    def _surroundings(self, capture: Capture, table: str, node: str) -> Surroundings:
        def report(status: CopyStatus) -> None:
            self.copying[table, node] = status

        def released() -> int:
            if self.captures.get(node) is not capture:  # it was replaced: what it was offered is lost
                message = "the log was reconnected during the copy"
                raise NodeUnavailable(message, node=node)
            return capture.released.order

        return Surroundings(capture, released, self._wait_copying, time.monotonic, report)

    def _wait_copying(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            raise _Stopped


def prepare(
    group: str, engines: Mapping[str, Engine], tables: Sequence[Table], shards: int
) -> dict[str, list[Marker]]:
    """Make every node ready, fence older incarnations, and read what they had committed.

    Returns:
        node name to its markers, by shard, all of one epoch.
    """
    controls: dict[str, Control] = {n: e.control() for n, e in engines.items()}
    try:
        resume = {n: c.prepare(tables) for n, c in controls.items()}
        initial = Marker(group, 0, shards, 0, 0, resume=resume)
        epoch = 0
        while True:  # the nodes may have been raised unevenly before: raise until all agree
            markers = {n: c.raise_epoch(shards, epoch, initial) for n, c in controls.items()}
            highest = max(m.epoch for per_node in markers.values() for m in per_node)
            if all(m.epoch == highest for per_node in markers.values() for m in per_node):
                return markers
            epoch = highest + 1
    finally:
        for control in controls.values():
            control.close()
