"""A group that `up` runs, as commands in other processes act on it: copy rows again, and put it on record.

Rows go the way of the initial copy, through the running captures and resolvers; nothing is ever written to a
database directly.
"""

from __future__ import annotations

import argparse
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from actors.audit import NoteRecords
from actors.backfill import POLL_SECONDS, Backfill, CopyStatus, Surroundings
from actors.promptness import Heed
from actors.recopy import Recopied, Recopy
from actors.remote import Handle, RemoteCapture, RemoteLog
from actors.shard_status import ShardStatus
from cluster.audit_log import open_writer
from cluster.commands.common import engines_of, present_ray_token, reach
from cluster.config import GroupConfig
from cluster.copying import IN_THIS_PROCESS, Apart, Copying, copying_of
from cluster.locks import acting_alone
from cluster.pausing import Pauses
from cluster.processes import settled
from replication.audit.store import AuditInUse, read_manifest
from replication.audit.writer import AuditWriter
from replication.copying import CopyProgress, state_name
from replication.engine import Engine
from replication.errors import Terminal, Transient
from replication.pacing import Pace
from replication.schema import Table
from replication.sharding import shards_of

PATIENCE_SECONDS = 60.0
"""So long a part that is being made again is waited for."""
BEAT_SECONDS = 0.1
ANSWER_SECONDS = 30.0
SETTLE_SECONDS = 10.0
PRUNE_SECONDS = 600
log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunningGroup:
    """The running group.

    Attributes:
        engines: node name to engine.
        parts: looks the group's parts up, by name.
        by: who acts, where that is known; put on record with all that is done.
        meanwhile: called again and again while rows are on their way; what it raises ends that.
        copying: how a copy is made.
    """

    engines: Mapping[str, Engine]
    parts: Callable[[], Mapping[str, Handle]]
    by: str = ""
    meanwhile: Callable[[], object] = lambda: None
    copying: Copying = IN_THIS_PROCESS

    def copy_keys(
        self,
        table: Table,
        node: str,
        keys: Sequence[bytes],
        *,
        deletes: bool = False,
        before: Callable[[], object] = lambda: None,
        given: Mapping[str, pa.Scalar] | None = None,
    ) -> Recopied:
        """Send rows of `node` to the others; returns once they are durable everywhere. See `Recopy`."""
        self.refuse_if_paused()
        self._refuse_while_copying(table, node)

        def attempt() -> Recopied:
            with closing(self.engines[node].snapshot()) as snapshot:
                recopy = Recopy(table, uuid.uuid4().hex, snapshot, self._around(node), before, given)
                return recopy.copy(keys, deletes=deletes)

        return patiently(attempt)

    def prune(self, before: int) -> dict[str, int]:
        """Remove old records from the audit log; see `AuditWriter.prune`."""
        removed: dict[str, int] = self.parts()["audit"].call("prune", before).result(PRUNE_SECONDS)
        return removed

    def erase(self, table: str, name: str, records: Mapping[str, int]) -> None:
        """Destroy a subject's key; see `AuditWriter.erase`."""
        self.parts()["audit"].call("erase", table, name, dict(records)).result(ANSWER_SECONDS)

    def owner(self, key: bytes) -> Handle:
        """The resolver of a key."""
        resolvers = self._resolvers()
        return resolvers[int(shards_of([key], 1, len(resolvers))[0])]

    def wait_released(self, until: Mapping[str, int]) -> None:
        """Wait until each node's log is released up to there, so that nothing of before is read again."""
        for node, order in until.items():
            around = self._around(node)
            while patiently(around.released) < order:
                around.wait(POLL_SECONDS)

    def copy_table(
        self, table: Table, node: str, report: Callable[[CopyStatus], object], workers: int = 1
    ) -> int:
        """Copy the whole table from `node` again, on from where an earlier try was ended; gives the rows."""
        self.refuse_if_paused()
        self._refuse_while_copying(table, node)
        pool = self.copying.readers(self.engines[node], self.parts()[f"capture {node}"], workers)
        pace = Pace(self.copying.bounds)
        with closing(pool), closing(self.engines[node].control()) as control:
            store = Apart(control)
            afresh = CopyProgress.load(store.get_state(state_name(table.name))).finished

            def attempt() -> CopyProgress:
                nonlocal afresh
                with closing(self.engines[node].snapshot()) as snapshot:
                    around = self._around(node, report, table)
                    run = uuid.uuid4().hex
                    copy = Backfill(table, run, snapshot, store, around, readers=pool, pace=pace)
                    begun, afresh = afresh, False
                    return copy.run(afresh=begun)

            return patiently(attempt).done_rows

    def resize_copy(self, table: Table, node: str, workers: int) -> bool:
        """Let so many readers read for the copy of a table from `node`; whether one is at work."""
        return RemoteCapture(self.parts()[f"capture {node}"]).resize(table.name, workers)

    def copies_first(self, table: Table, node: str) -> bool:
        """Whether the initial copy of a table from `node` is at work."""
        copy = self.parts().get(f"copy {node}")
        statuses: list[CopyStatus] = copy.call("status").result(ANSWER_SECONDS) if copy else []
        return any(s.table == table.name and not s.finished for s in statuses)

    def pause(self, pauses: Pauses) -> int:
        """Tell the resolvers what is paused; wait until the nodes have answered what was sent to them.

        A resolver that has not begun reads it when it begins, and is not waited for.

        Returns:
            how many transactions they have not answered.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                calls = [r.call("pause", dict(pauses.since), dict(pauses.tables)) for r in self._resolvers()]
                left: int = sum(c.result(ANSWER_SECONDS) for c in calls)
            except (Transient, TimeoutError):
                left = 0
                if time.monotonic() > deadline:
                    return left
            else:
                if not left or time.monotonic() > deadline:
                    return left
            time.sleep(BEAT_SECONDS)

    def lagging(self) -> str:
        """A node that rows cannot reach soon, since it is away or catches up; empty if there is none."""
        return next((node for status in self._statuses() for node in status.lags), "")

    def _statuses(self) -> list[ShardStatus]:
        return [r.call("status").result(ANSWER_SECONDS) for r in self._resolvers()]

    def refuse_if_paused(self) -> None:
        """Rows that are copied are durable once every node has them.

        Raises:
            Terminal: a node or a table is paused.
        """
        for status in self._statuses():
            for node, since in status.paused.items():
                message = f"{node} is paused since {since}, and rows are sent to all nodes or to none"
                raise Terminal(message, hint=f"go on with: sync-worker resume {node}")
            for table, since in status.paused_tables.items():
                message = f"table {table} is paused since {since}, which keeps all logs"
                hint = f"go on with: sync-worker resume --table {table}"
                raise Terminal(message, hint=hint)

    def note(self, kind: str, detail: Any) -> None:
        """Put what an operator did on record; durable when it returns."""
        if self.by:
            detail = {"by": self.by} | (dict(detail) if isinstance(detail, Mapping) else {"rows": detail})
        RemoteLog(self.parts()["audit"]).write([NoteRecords(kind, detail)])

    def settle(self) -> None:
        """Return once every decision made so far is on record."""
        settled([r.call("recorded") for r in self._resolvers()], ANSWER_SECONDS)

    def _resolvers(self) -> list[Handle]:
        found = {n: part for n, part in self.parts().items() if n.startswith("resolver ")}
        return [found[n] for n in sorted(found, key=lambda name: int(name.split()[1]))]

    def _around(
        self,
        node: str,
        report: Callable[[CopyStatus], object] = lambda status: None,
        table: Table | None = None,
    ) -> Surroundings:
        capture = RemoteCapture(self.parts()[f"capture {node}"])
        resolvers = self._resolvers()

        def wait(seconds: float) -> None:
            self.meanwhile()
            time.sleep(max(seconds, BEAT_SECONDS))
            settled([r.call("heartbeat") for r in resolvers], ANSWER_SECONDS)

        heed = partial(capture.heed, table.name) if table else Heed
        return Surroundings(capture, capture.released, wait, time.monotonic, report, heed)

    def _refuse_while_copying(self, table: Table, node: str) -> None:
        """A copy of the same table from the same node would be begun anew, and this one after it."""
        if self.copies_first(table, node):
            message = f"the initial copy of {table.name} from {node} is at work"
            raise Terminal(message, hint="wait until 'sync-worker status' shows it as finished")


@dataclass(frozen=True, slots=True)
class Way:
    """How a group is acted on.

    Attributes:
        config: the group.
        open: the running group, while it is open; one command at a time acts on it.
        enter: the same, while another command may act on it.
        runs: it runs for certain, so that the audit log's folder is not asked whether it does.
    """

    config: GroupConfig
    open: Callable[[], AbstractContextManager[RunningGroup]]
    enter: Callable[[], AbstractContextManager[RunningGroup]]
    runs: bool = False


def way_of(args: argparse.Namespace, config: GroupConfig) -> Way:
    """The way of a command."""
    enter = partial(joined, args, config)
    return Way(config, partial(_alone, config, enter), enter, runs=bool(args.address))


def way_inside(config: GroupConfig, parts: Callable[[], Mapping[str, Handle]], by: str) -> Way:
    """The way of a process that is in the group's Ray already."""
    enter = partial(present, config, parts, by)
    return Way(config, partial(_alone, config, enter), enter, runs=True)


@contextmanager
def _alone(
    config: GroupConfig, enter: Callable[[], AbstractContextManager[RunningGroup]]
) -> Iterator[RunningGroup]:
    """The running group; one command at a time acts on it.

    Raises:
        Terminal: it does not run, or another command is at work.
    """
    with acting_alone(config.audit_path), enter() as group:
        yield group


@contextmanager
def present(
    config: GroupConfig, parts: Callable[[], Mapping[str, Handle]], by: str
) -> Iterator[RunningGroup]:
    """The running group, for a process that is in its Ray already.

    Raises:
        Terminal: it does not run.
    """
    if "audit" not in parts():
        message = f"group {config.group} does not run"
        raise Terminal(message, hint="start it with: sync-worker up")
    yield RunningGroup(engines_of(config), parts, by, copying=copying_of(config))


@contextmanager
def joined(args: argparse.Namespace, config: GroupConfig) -> Iterator[RunningGroup]:
    """The group that runs under this configuration.

    Raises:
        Terminal: it does not run.
    """
    address = reach(args, config)
    present_ray_token(address)
    from cluster.launch import disconnect, join, parts

    try:
        if "audit" not in join(address, config.group):
            message = f"group {config.group} does not run here"
            raise Terminal(message, hint=f"start it with: sync-worker up -c {args.config}")
        yield RunningGroup(engines_of(config), parts, copying=copying_of(config))
    finally:
        disconnect()


@contextmanager
def observed(
    args: argparse.Namespace, config: GroupConfig
) -> Iterator[Callable[[], Mapping[str, Handle]] | None]:
    """What looks the parts of the group up that runs under this configuration; None where none does.

    Other commands may be at work on it.
    """
    address = reach(args, config)
    if not address or address == "auto":  # some Ray of this machine is not known to be the group's
        yield None
        return
    present_ray_token(address)
    from cluster.launch import disconnect, join, parts

    try:
        found = join(address, config.group)
        yield None if _paused(found) else parts
    finally:
        disconnect()


def _paused(found: Mapping[str, Handle]) -> bool:
    """Whether the group can say nothing of changes on their way: it does not run, or something is paused."""
    resolvers = [part for name, part in found.items() if name.startswith("resolver ")]
    for status in [r.call("status").result(ANSWER_SECONDS) for r in resolvers]:
        for name in (*status.paused, *status.paused_tables):
            log.warning("verify_counts_what_waits", extra={"paused": name})
            return True
    return "audit" not in found


def note_anyway(way: Way, records: Sequence[tuple[str, Any]]) -> None:
    """Put what an operator did on record, whether the group runs or not."""
    if not way.runs:
        with suppress(AuditInUse):
            note_at_rest(way.config, records)
            return
    with way.open() as group:
        for kind, detail in records:
            group.note(kind, detail)


def note_at_rest(config: GroupConfig, records: Sequence[tuple[str, Any]]) -> None:
    """Put what an operator did on record while the group does not run.

    Raises:
        AuditInUse: it runs.
    """
    with writer_at_rest(config) as writer:
        for kind, detail in records:
            writer.add_operator(kind, detail)


@contextmanager
def writer_at_rest(config: GroupConfig) -> Iterator[AuditWriter]:
    """The audit log's writer while the group does not run; what the last run left is as it was.

    Raises:
        AuditInUse: it runs.
    """
    manifest = read_manifest(config.audit_path)
    shards = manifest.shards if manifest else config.shards
    writer = open_writer(config.audit_path, config.group, config.audit, shards=shards)
    try:
        yield writer
    finally:
        writer.close()


def patiently(attempt: Callable[[], T]) -> T:
    """Try again while a part of the group or a node is away."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return attempt()
        except (Transient, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
