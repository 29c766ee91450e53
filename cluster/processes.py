"""The classes that become actors. Each builds its part from a `GroupPlan`, in its own process.

They are plain: `cluster.launch` makes actors of them, and nothing here knows Ray. Each answers `health`,
which raises the error that ended the part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from actors.applier import Applying
from actors.archiving import ArchiveStatus, Archiving
from actors.audit import AuditLog, AuditQueue, Record
from actors.capture import Ack
from actors.guard import GuardStatus
from actors.lately import Lately
from actors.measured import Measured
from actors.remote import Handle, RemoteLog, RemoteTarget
from actors.resolver import Resolver
from actors.shard_status import ShardStatus
from actors.shards import Aside, make_shard
from actors.watching import Watched
from cluster.archive import Archive
from cluster.audit_log import open_keys, open_writer, published_places
from cluster.part import Part
from cluster.pausing import Pauses
from cluster.plan import GroupPlan
from replication.audit.holds import open_holds
from replication.batch import Applied, ApplyBatch
from replication.change import LogEvent
from replication.errors import NodeUnavailable, Transient
from replication.marker import Marker
from replication.retries import RetryStatus


class AuditProcess(Part):
    """The audit log."""

    def __init__(self, plan: GroupPlan) -> None:
        super().__init__(plan)
        self._path, self._audit, self._kafka = plan.audit_path, plan.audit, plan.kafka
        self._retries: RetryStatus | None = None
        traced = plan.tracing is not None
        self._log = AuditLog(
            open_writer(plan.audit_path, plan.group, plan.audit, shards=plan.shards, traced=traced)
        )
        self._archiving: Archiving | None = None
        if plan.audit.archive:
            copy = Archive(plan.audit_path, plan.audit.archive)
            self._archiving = Archiving(copy.push, plan.audit.archive_seconds)

    def straight(self) -> Mapping[str, Callable[..., Any]]:
        """See `Part.straight`."""
        return {"write": self._log.write}

    def write(self, records: Sequence[Record]) -> None:
        """See `AuditLog.write`."""
        self._log.write(records)

    def measured(self) -> Measured:
        """See `AuditLog.measured`."""
        found = self._log.measured()
        more = self._archiving.gauges() if self._archiving else {}
        return replace(found, gauges={**found.gauges, **more})

    def archived(self) -> ArchiveStatus | None:
        """See `Archiving.status`; None without an archive."""
        return self._archiving.status() if self._archiving else None

    def erase(self, table: str, name: str, records: Mapping[str, int]) -> None:
        """See `AuditLog.erase`."""
        self._log.erase(table, name, records)

    def prune(self, before: int) -> dict[str, int]:
        """See `AuditLog.prune`; where there is an archive, it has first what is removed here."""
        if self._archiving:
            self._archiving.push()
        return self._log.prune(before, published_places(self._path, self._kafka))

    def aside(self) -> Aside:
        """What the log says was set aside."""
        return Aside.of(self._path, open_keys(self._path, self._audit))

    def held_since(self, run: str, after: int) -> Lately:
        """See `LatelyHeld.since`."""
        return self._log.lately.since(run, after)

    def open_holds(self) -> list[dict[str, Any]]:
        """See `holds.open_holds`."""
        return open_holds(self._path, open_keys(self._path, self._audit))

    def tell_retries(self, status: RetryStatus) -> None:
        """Keep what whoever sends rows again says of itself."""
        self._retries = status

    def retries(self) -> RetryStatus | None:
        """What was told last."""
        return self._retries

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        if self._archiving:
            self._archiving.close()


class ApplierProcess(Part):
    """One node's writer for one shard."""

    def __init__(self, plan: GroupPlan, node: str, shard: int) -> None:
        part = f"applier {node}/{shard}"
        super().__init__(plan, part)
        engines, longest = plan.engines(), plan.limits.retry_max
        self._applying = Applying(engines[node], engines, plan.tables, longest, part, shard, self.tracing)

    def guard(self) -> GuardStatus:
        """See `Applying.guard`."""
        return self._applying.guard()

    def measured(self) -> Measured:
        """See `Applying.measured`."""
        return self.with_traces(self._applying.measured())

    def give_up(self) -> None:
        """See `Applying.give_up`."""
        self._applying.give_up()

    def straight(self) -> Mapping[str, Callable[..., Any]]:
        """See `Part.straight`."""
        return {"apply": self._applying.submit}

    def apply(self, batch: ApplyBatch) -> Applied:
        """See `Applying.apply`."""
        return self._applying.submit(batch).result()

    def close(self) -> None:
        """Disconnect."""
        self._applying.close()
        self.end_traces()


class ResolverProcess(Part):
    """One shard. It holds what cannot be repeated, so a process that was made again waits for `begin`."""

    def __init__(self, plan: GroupPlan, number: int, appliers: Mapping[str, Handle], audit: Handle) -> None:
        super().__init__(plan, f"resolver {number}")
        self._plan = plan
        self._number = number
        self._schemas = {t.name: t.schema for t in plan.tables}
        self._engines = plan.engines()
        self._open_queue = partial(AuditQueue, RemoteLog(audit).write, self._schemas, sorted(self._engines))
        self._queue = self._open_queue()
        self._targets = {n: RemoteTarget(h) for n, h in appliers.items()}
        self._resolver: Resolver | None = None
        self._followed = self.tracing.shard(number) if self.tracing else None

    def straight(self) -> Mapping[str, Callable[..., Any]]:
        """See `Part.straight`."""
        return {"feed": self.feed, "on_their_way": self.on_their_way}

    def begin(self, markers: Mapping[str, Marker], pauses: Pauses, aside: Aside) -> None:
        """Start an incarnation from every node's marker. What an earlier one still hears is of no account.

        Args:
            markers: by node.
            pauses: see `Resolver.pause`.
            aside: what the audit log says was set aside.
        """
        plan = self._plan
        shard = make_shard(plan.group, self._number, plan.shards, self._engines, plan.tables, markers, aside)

        def fail(error: BaseException) -> None:
            if self._resolver is begun:
                self.fail(error)

        findings = {n: m.findings for n, m in markers.items()}
        self._queue.abandon()  # once something could not be written, it takes nothing more
        self._queue = self._open_queue()
        targets = self._followed.targets(self._targets) if self._followed else self._targets
        begun = Resolver(shard, self._schemas, targets, self._queue, plan.limits, fail, findings)
        begun.pause(pauses.since, pauses.tables)
        self.error = None
        self._resolver = begun

    def suspend(self) -> None:
        """End the incarnation at work; the next one is about to begin."""
        self._resolver = None

    def epoch(self) -> int:
        """The incarnation at work; 0 before `begin`, and once a passing error has ended it."""
        ended = isinstance(self.error, Transient)
        return self._resolver.shard.epoch if self._resolver and not ended else 0

    def feed(self, node: str, events: Sequence[LogEvent], epoch: int | None) -> Ack:
        """See `Resolver.feed`."""
        self.health()
        begun = self._begun()
        sink = self._followed.sink(begun) if self._followed else begun
        return sink.feed(node, events, epoch)

    def on_their_way(self, table: str) -> list[bytes]:
        """See `Resolver.on_their_way`."""
        return self._begun().on_their_way(table)

    def watch(self, ident: str, table: str, keys: Sequence[bytes]) -> None:
        """See `Resolver.watch`."""
        self._begun().watch(ident, table, keys)

    def watched(self, ident: str) -> Watched | None:
        """See `Resolver.watched`."""
        return self._begun().watched(ident)

    def unwatch(self, ident: str) -> None:
        """See `Resolver.unwatch`."""
        self._begun().unwatch(ident)

    def settle(self, table: str, key: bytes, node: str, read: Mapping[str, int]) -> int | None:
        """See `Resolver.settle`."""
        return self._begun().settle(table, key, node, read)

    def settled_up_to(self, table: str, key: bytes, epoch: int) -> dict[str, int] | None:
        """See `Resolver.settled_up_to`."""
        return self._begun().settled_up_to(table, key, epoch)

    def pause(self, nodes: Mapping[str, str], tables: Mapping[str, str]) -> int:
        """See `Resolver.pause`."""
        return self._begun().pause(nodes, tables)

    def heartbeat(self) -> None:
        """See `Resolver.heartbeat`."""
        self._begun().heartbeat()

    def status(self) -> ShardStatus:
        """See `Resolver.status`."""
        return self._resolver.status() if self._resolver else ShardStatus(self._number, True, {}, 0, 0, 0)

    def measured(self) -> Measured:
        """See `Resolver.measured`."""
        return self.with_traces(self._resolver.measured() if self._resolver else Measured())

    def recorded(self) -> None:
        """Return once every record made so far is durable."""
        self._queue.barrier().result()

    def close(self) -> None:
        """Write the records that wait."""
        self._queue.close()
        self.end_traces()

    def _begun(self) -> Resolver:
        if self._resolver is None:
            message = f"resolver {self._number} waits for the markers"
            raise NodeUnavailable(message)
        return self._resolver


def settled(calls: Sequence[Future[object]], seconds: float) -> list[BaseException]:
    """Wait for calls, at most `seconds` for each; what they raised."""
    errors: list[BaseException] = []
    for call in calls:
        try:
            call.result(seconds)
        except Exception as error:  # noqa: BLE001  the caller looks at each of them
            errors.append(error)
    return errors
