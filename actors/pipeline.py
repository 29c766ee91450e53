"""A group in one process: every part of the flow in a thread, wired in data-flow order.

What runs on Ray runs here too; tests and benchmarks use this form.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from actors.applier import Applying
from actors.audit import AuditLog, AuditQueue
from actors.capture import Sink
from actors.host import CaptureHost, CopyHost, hand_over_quickly
from actors.limits import Limits
from actors.resolver import Resolver
from actors.shards import NOTHING_ASIDE, Aside, make_shard
from actors.tracing import Tracing
from replication.applying import findings_name
from replication.audit.writer import AuditWriter
from replication.copying import copies
from replication.engine import Control, Engine, Reached
from replication.errors import LogLost, ShardsDiffer
from replication.marker import Marker
from replication.position import START
from replication.schema import Table

__all__ = ["Limits", "Pipeline", "prepare"]


class Pipeline:
    """One incarnation of a group.

    Args:
        group: the group's name.
        engines: node name to engine.
        tables: the mapped tables with their schemas; they exist on every node.
        writer: the open audit log; closed with the pipeline.
        shards: how many shards.
        limits: see `Limits`.
        paused: nodes that are paused from the beginning.
        paused_tables: tables that are.
        tracing: what follows changes on their way; closed with the pipeline.
    """

    resolver_kind: type[Resolver] = Resolver

    def __init__(
        self,
        group: str,
        engines: Mapping[str, Engine],
        tables: Sequence[Table],
        writer: AuditWriter,
        shards: int = 1,
        limits: Limits | None = None,
        aside: Aside = NOTHING_ASIDE,
        paused: Sequence[str] = (),
        paused_tables: Sequence[str] = (),
        tracing: Tracing | None = None,
    ) -> None:
        hand_over_quickly()
        self.limits = limits or Limits()
        self.engines = engines
        self.error: BaseException | None = None
        self.stopping = threading.Event()
        names, schemas = sorted(engines), {t.name: t.schema for t in tables}
        self.audit_log = AuditLog(writer)
        self.audit = AuditQueue(self.audit_log.write, schemas, names)
        markers = prepare(group, engines, tables, shards)
        self.appliers: list[Applying] = []
        self.resolvers: list[Resolver] = []
        self._tracing = tracing
        sinks: list[Sink] = []
        for number in range(shards):
            own_appliers = {
                n: Applying(engines[n], engines, tables, self.limits.retry_max, tracing=tracing)
                for n in names
            }
            self.appliers += own_appliers.values()
            followed = tracing.shard(number) if tracing else None
            targets = followed.targets(own_appliers) if followed else own_appliers
            own = {n: m[number] for n, m in markers.items()}
            shard = make_shard(group, number, shards, engines, tables, own, aside)
            findings = {n: m.findings for n, m in own.items()}
            self.resolvers.append(
                self.resolver_kind(shard, schemas, targets, self.audit, self.limits, self.fail, findings)
            )
            sinks.append(followed.sink(self.resolvers[-1]) if followed else self.resolvers[-1])
        self.pause(*paused, tables=paused_tables)
        self.captures = {
            n: CaptureHost(*(engines[n], tables, sinks, self.limits, self.fail, without(engines, n)), tracing)
            for n in names
        }
        self.copies = [
            CopyHost(
                engines[n],
                own_tables,
                self.captures[n],
                self.fail,
                self.limits,
                others=without(engines, n),
            )
            for n, own_tables in copied_from(tables, names).items()
        ]
        self.heartbeat = threading.Thread(target=self._heartbeats, name="heartbeat")
        self.heartbeat.start()

    def fail(self, error: BaseException) -> None:
        """End this incarnation; a new one resumes from the markers."""
        if self.error is None:
            self.error = error
        self.stopping.set()

    def pause(self, *nodes: str, tables: Sequence[str] = ()) -> None:
        """Pause these nodes and tables and no others; see `Resolver.pause`."""
        for resolver in self.resolvers:
            resolver.pause(dict.fromkeys(nodes, ""), dict.fromkeys(tables, ""))

    def stop(self) -> None:
        """Stop reading, finish what is on its way to the databases, close everything."""
        self.stopping.set()
        for copying in self.copies:
            copying.stop()
        for capture in self.captures.values():
            capture.stop()
        self.heartbeat.join()
        for resolver in self.resolvers:
            resolver.stop()
        for applier in self.appliers:
            applier.close()
        self.audit.close()
        self.audit_log.close()
        if self._tracing is not None:
            self._tracing.close()

    def _heartbeats(self) -> None:
        """Release what is finished although nothing more comes; often while a copy waits for it."""
        while not self.stopping.wait(self.limits.heartbeat if all(c.finished for c in self.copies) else 0.2):
            for resolver in self.resolvers:
                resolver.heartbeat()


def without(engines: Mapping[str, Engine], node: str) -> dict[str, Engine]:
    """The engines of the other nodes."""
    return {n: e for n, e in engines.items() if n != node}


def copied_from(tables: Sequence[Table], nodes: Sequence[str]) -> dict[str, list[Table]]:
    """For each node that is the source of an initial copy, the tables."""
    by_name = {t.name: t for t in tables}
    sources: dict[str, list[Table]] = {}
    for table, node in copies([t.mapping for t in tables], nodes):
        sources.setdefault(node, []).append(by_name[table])
    return sources


def prepare(
    group: str, engines: Mapping[str, Engine], tables: Sequence[Table], shards: int
) -> dict[str, list[Marker]]:
    """Make every node ready, fence older incarnations, and read what they had committed.

    Returns:
        node name to its markers, by shard, all of one epoch.

    Raises:
        ShardsDiffer: the markers were written under another number of shards.
        LogLost: a node no longer holds what its log had shown.
    """
    controls: dict[str, Control] = {n: e.control() for n, e in engines.items()}
    try:
        resume = {n: c.prepare(tables) for n, c in controls.items()}
        markers = raise_all(controls, shards, Marker(group, 0, shards, 0, 0, resume=resume))
        markers = _accept_servers(controls, markers)
        _refuse_set_back(markers)
        return {n: [_with_findings(controls[n], m) for m in found] for n, found in markers.items()}
    finally:
        for control in controls.values():
            control.close()


def _with_findings(control: Control, marker: Marker) -> Marker:
    return replace(marker, findings=control.get_state(findings_name(marker.shard)) or "")


def raise_all(controls: Mapping[str, Control], shards: int, initial: Marker) -> dict[str, list[Marker]]:
    """Fence older incarnations on every node.

    Args:
        controls: node name to control.
        shards: how many shards there will be.
        initial: what missing markers are created from.

    Returns:
        node name to its markers, by shard, all of one epoch.

    Raises:
        ShardsDiffer: the markers were written under another number of shards.
    """
    stored = [m for c in controls.values() for m in c.raise_epoch(0, 0, initial)]
    if other := {m.shards for m in stored} - {shards}:  # asked before any is created
        before = other.pop()
        message = f"shards: this group runs with {before} shards, not {shards}"
        hint = f"'sync-worker up' changes the number; for anything else set `shards` to {before}"
        raise ShardsDiffer(message, hint=hint)
    epoch = 0
    while True:  # the nodes may have been raised unevenly before: raise until all agree
        markers = {n: c.raise_epoch(shards, epoch, initial) for n, c in controls.items()}
        found = [m for per_node in markers.values() for m in per_node]
        highest = max(m.epoch for m in found)
        if all(m.epoch == highest for m in found):
            return markers
        epoch = highest + 1


def _accept_servers(
    controls: Mapping[str, Control], markers: Mapping[str, Sequence[Marker]]
) -> dict[str, list[Marker]]:
    """The markers, with the places to resume from as the servers have them that answer now."""
    shards = [dict(zip(markers, of_shard, strict=True)) for of_shard in zip(*markers.values(), strict=True)]
    for node, control in controls.items():
        reached = [reached_in(of_shard.values(), node) for of_shard in shards]
        for of_shard, before, now in zip(shards, reached, control.accept_server(reached), strict=True):
            if now != before.resume:
                for n, m in of_shard.items():
                    of_shard[n] = replace(m, resume={**m.resume, node: now})
    return {n: [of_shard[n] for of_shard in shards] for n in markers}


def reached_in(of_shard: Collection[Marker], node: str) -> Reached:
    """How far the log of `node` was read, by the markers of one shard."""
    newest = max(of_shard, key=lambda m: m.seq)
    order = max(m.cut.get(node, 0) for m in of_shard)
    return Reached(order, newest.resume.get(node, START))


def _refuse_set_back(markers: Mapping[str, Sequence[Marker]]) -> None:
    """Refuse a node that was restored from a backup: what it lacks would never be sent again.

    Its log may have grown past our position since, so that the position alone does not tell.
    """
    for of_shard in zip(*markers.values(), strict=True):
        shown = max(of_shard, key=lambda m: m.seq).echoed
        for node, marker in zip(markers, of_shard, strict=True):
            if marker.seq < shown.get(node, 0):
                message = (
                    f"{node} was set back: it holds batch {marker.seq}, and its log had shown {shown[node]}"
                )
                hint = f"was it restored from a backup? 'sync-worker reset {node} --from ANOTHER' copies anew"
                raise LogLost(message, node=node, hint=hint)
