"""The parts that read: captures, copies, and the readers of a copy; see `processes`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from actors.backfill import CopyStatus
from actors.guard import GuardStatus
from actors.host import CaptureHost, CopyHost
from actors.measured import Measured
from actors.pipeline import copied_from, without
from actors.promptness import Heed
from actors.reading import Assignment, LocalReader, Read, Reader
from actors.remote import Handle, RemoteCapture, RemoteSink
from cluster.part import Part
from cluster.plan import GroupPlan
from replication.backfill import Chunk, ChunkIdent


class CaptureProcess(Part):
    """One node's reader."""

    def __init__(self, plan: GroupPlan, node: str, resolvers: Sequence[Handle]) -> None:
        super().__init__(plan, f"capture {node}")
        sinks, engines = [RemoteSink(h) for h in resolvers], plan.engines()
        others = without(engines, node)
        self._host = CaptureHost(
            *(engines[node], plan.tables, sinks, plan.limits, self.fail, others), self.tracing
        )

    def measured(self) -> Measured:
        """What became of its spans."""
        return self.with_traces(Measured())

    def guard(self) -> GuardStatus:
        """See `CaptureHost.guard`."""
        return self._host.guard()

    def streaming(self) -> bool:
        """Whether the log is connected."""
        self.health()
        return self._host.streaming

    def begin(self, run: str, table: str) -> None:
        """See `backfill.Capture`."""
        self._host.begin(run, table)

    def offer(self, ident: ChunkIdent, chunk: Chunk) -> None:
        """See `backfill.Capture`."""
        self._host.offer(ident, chunk)

    def emitted(self, ident: ChunkIdent) -> int | None:
        """See `backfill.Capture`."""
        return self._host.emitted(ident)

    def end(self, table: str) -> None:
        """See `backfill.Capture`."""
        self._host.end(table)

    def released(self) -> int:
        """See `CaptureHost.released`."""
        return self._host.released()

    def heed(self, table: str) -> Heed:
        """See `Capture.heed`."""
        return self._host.heed(table)

    def resize(self, table: str, workers: int) -> bool:
        """See `Capture.resize`."""
        return self._host.resize(table, workers)

    def passed(self, ident: str) -> int | None:
        """See `CaptureHost.passed`."""
        return self._host.passed(ident)

    def close(self) -> None:
        """Stop reading."""
        self._host.stop()
        self.end_traces()


Hire = Callable[[GroupPlan, str, Handle, int], Reader]


class CopyProcess(Part):
    """The initial copy from one node, and the first of its readers.

    Args:
        plan: the group.
        node: the node that is read.
        capture: its capture.
        hire: makes the process of a further reader, by number.
    """

    def __init__(self, plan: GroupPlan, node: str, capture: Handle, hire: Hire) -> None:
        super().__init__(plan)
        engines, limits = plan.engines(), plan.limits
        tables = copied_from(plan.tables, sorted(engines)).get(node, [])
        self._host = CopyHost(
            engines[node],
            tables,
            RemoteCapture(capture),
            self.fail,
            limits,
            partial(hire, plan, node, capture),
            without(engines, node),
        )

    def guard(self) -> GuardStatus:
        """See `CopyHost.guard`."""
        return self._host.guard()

    def status(self) -> list[CopyStatus]:
        """How far each table is."""
        return self._host.status()

    def finished(self) -> bool:
        """Whether everything is durable."""
        self.health()
        return self._host.finished

    def close(self) -> None:
        """Stop; the next start goes on."""
        self._host.stop()


class ReaderProcess(Part):
    """A further reader of an initial copy."""

    def __init__(self, plan: GroupPlan, node: str, capture: Handle) -> None:
        super().__init__(plan)
        self._reader = LocalReader(plan.engines()[node].snapshot(), RemoteCapture(capture))

    def read(self, assignment: Assignment) -> Read:
        """See `actors.reading.Reader`."""
        return self._reader.read(assignment)
